"""A trained model's likelihood as an ONNX graph: scored by any runtime, without GenZoo and torch."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genzoo.errors import CapabilityError, GenZooError
from genzoo.likelihood.noise import seed_of
from genzoo.models.base import DensityModel
from genzoo.models.drawing import draw_batches
from genzoo.models.graph_ops import GraphOps
from genzoo.models.scoring import evaluation_precision, in_data_space, split_unseen
from genzoo.tables.batch import HOLE, UNSEEN, TableBatch
from genzoo.tables.schema import Column, Schema

FORMAT = 1
KEY = "genzoo"
OUTPUT = "log_prob"
CHECKED_ROWS = 256
HIDDEN = 0.1
"""Share of the cells of a checked row that are hidden, or made unseen."""
TOLERANCE = {torch.float64: (1e-6, 1e-9), torch.float32: (1e-4, 1e-5)}
"""Largest difference to torch by the type of the weights: in nats, and as a share of the number where that is more.

Runtimes sum products in another order than torch; networks in float32 differ by that, as they do between machines."""
SINGLE = 2.0**-23


@dataclass(frozen=True)
class OnnxExport:
    """What was written.

    Args:
        path: The file.
        inputs: Names of the graph's inputs.
        num_rows: Rows that were scored by both; 0 where onnxruntime is not installed.
        difference: Largest difference to torch, nats; ``None`` without a check.
    """

    path: Path
    inputs: tuple[str, ...]
    num_rows: int
    difference: float | None


class LogProbGraph(nn.Module):
    """Raw rows to log-likelihoods in data space: what is traced.

    Args:
        model: A fitted model that has :meth:`~genzoo.models.base.DensityModel.traced_log_prob`.

    Shapes: ``numeric`` ``(batch, num_numeric)`` float64 and ``codes`` ``(batch, num_categorical)`` int64, as in
    :class:`~genzoo.tables.batch.TableBatch`; an input without columns is left out. Gives ``(batch,)`` float64, nats,
    NaN for a row that no encoding gives (a code beyond the categories, an infinite number).
    """

    def __init__(self, model: DensityModel) -> None:
        super().__init__()
        self.model = model
        self.names = tuple(entry["name"] for entry in input_records(model.schema))
        sizes = [c.num_categories for c in model.schema.categorical for _ in range(c.width)]
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.int64), persistent=False)
        self.sizes: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        with GraphOps():
            return self._log_prob(*inputs)

    def _log_prob(self, *inputs: Tensor) -> Tensor:
        given = dict(zip(self.names, inputs, strict=True))
        some = inputs[0]
        numeric = given["numeric"] if "numeric" in given else some.new_zeros(some.shape[0], 0, dtype=torch.float64)
        codes = given["codes"] if "codes" in given else some.new_zeros(some.shape[0], 0, dtype=torch.int64)
        bad = numeric.isinf().any(1) | ((codes < UNSEEN) | (codes >= self.sizes)).any(1)
        codes = torch.where((codes >= UNSEEN) & (codes < self.sizes), codes, HOLE)
        rows = torch.zeros_like(some[:, 0], dtype=torch.int64)
        batch = TableBatch(self._at_atoms(torch.where(numeric.isinf(), torch.nan, numeric)), codes, rows)
        unseen = split_unseen(batch, self.model.view)
        encoded: Any = self.model.codec.encode(unseen.batch)
        values = in_data_space(encoded, self.model.traced_log_prob(encoded), unseen)
        return torch.where(bad, torch.nan, values)

    def _at_atoms(self, numeric: Tensor) -> Tensor:
        """A number that agrees with an atom in single precision is that atom, as when a table is read."""
        columns = [c for c in self.model.schema.numeric for _ in range(c.width)]
        most = max((len(c.atoms) for c in columns if c.kind == "mixed"), default=0)
        for index in range(most):
            atoms = [c.atoms[index] if c.kind == "mixed" and index < len(c.atoms) else torch.nan for c in columns]
            atom = torch.tensor(atoms, dtype=torch.float64)
            numeric = torch.where((numeric - atom).abs() <= SINGLE * atom.abs(), atom, numeric)
        return numeric


def export_onnx(model: DensityModel, path: str | Path, *, rows: Any = None, overwrite: bool = False) -> OnnxExport:
    """Writes the log-likelihood of a model as an ONNX graph, and checks it against torch.

    The graph has the inputs ``numeric`` (float64, NaN is a missing cell) and ``codes`` (int64 indices of categories; -1
    is missing, -2 a category that training rows did not hold), one row each of a batch of any size, and the output
    ``log_prob`` (float64, nats, in the table's own units). The order of the columns, their categories and the schema
    are JSON under the key ``genzoo`` of the file's metadata.

    Args:
        model: A trained model whose likelihood is exact: ``spline_flow``, ``maf``, ``independent``, and ``gaussian``
            and ``mixture`` on tables with at most one quantized column.
        path: File to write.
        rows: Rows to check on beside those that are drawn from the model: a frame, a path or an encoded table.
        overwrite: Replace a file that exists.

    Raises:
        CapabilityError: the model's likelihood is a bound or an estimate, or cannot be traced.
        GenZooError: onnx and onnxscript are not installed, or onnxruntime gives other numbers; no file is left then.
    """
    from genzoo.tables.frames import atomic_path

    require_graph(model)
    _require_packages()
    model.codec.require_fitted()
    was_training, device = model.training, model.device
    model.eval().cpu()
    try:
        with atomic_path(path, overwrite) as temporary, torch.no_grad(), evaluation_precision():
            graph = LogProbGraph(model).eval()
            checked = [_trial_rows(model)]
            if rows is not None:
                checked.append(model._encoded_table(rows).batch())
            batch = TableBatch.concatenate(checked)
            wanted = model.score_batch(batch, model.seed, 1).values.numpy()
            graph(*_inputs(graph, batch))  # an ordinary call tells what traced steps cannot read off buffers
            program = _program(graph, batch)
            record = _record(model, graph)
            program.model.metadata_props[KEY] = json.dumps(record)
            program.save(str(temporary))
            difference = _difference(model, graph, temporary, batch, wanted)
    finally:
        model.train(was_training).to(device)
    return OnnxExport(Path(path).expanduser(), graph.names, 0 if difference is None else len(batch), difference)


def require_graph(model: DensityModel) -> None:
    """Refuses models whose likelihood is no deterministic graph of operations.

    Raises:
        CapabilityError: with the reason and what can be done instead.
    """
    if model.likelihood_kind != "exact":
        kind = model.likelihood_kind.replace("_", " ")
        raise _no_graph(model, f"on this table it is no exact number but of kind '{kind}' ({model.likelihood_method})")
    if model.graph_obstacle is not None:
        raise _no_graph(model, model.graph_obstacle)


def _no_graph(model: DensityModel, reason: str) -> CapabilityError:
    return CapabilityError(
        f"{type(model).__name__} has no ONNX graph of its likelihood: {reason}; use genzoo export RUN -o FOLDER, whose "
        "weights genzoo.load opens with torch and without Lightning"
    )


def input_records(schema: Schema) -> list[dict[str, Any]]:
    """Inputs of the graph as plain values: name, type, and what each column holds, in order."""
    numeric = [_column_record(c, ("step", "origin", "atoms", "lower", "upper", "unit")) for c in schema.numeric]
    codes = [
        _column_record(c, ("categories", "closed"))
        | {"hole": len(c.categories) if c.missing == "value" else HOLE, "unseen": UNSEEN}
        for c in schema.categorical
    ]
    found = [
        {"name": "numeric", "dtype": "float64", "columns": numeric},
        {"name": "codes", "dtype": "int64", "columns": codes},
    ]
    return [entry for entry in found if entry["columns"]]


def _column_record(column: Column, keys: Sequence[str]) -> dict[str, Any]:
    names = ("name", "kind", "role", "storage", "width", *keys)
    return {key: list(v) if isinstance(v := getattr(column, key), tuple) else v for key in names}


def _record(model: DensityModel, graph: LogProbGraph) -> dict[str, Any]:
    from genzoo.models.checkpoint import versions

    return {
        "format": FORMAT,
        "model": type(model).__name__,
        "inputs": input_records(model.schema),
        "output": OUTPUT,
        "unit": "nats",
        "likelihood": model.likelihood_kind,
        "scored": [column.name for column in model.view.scored],
        "schema": model.schema.to_dict(),
        "versions": versions(),
    }


def _require_packages() -> None:
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise GenZooError(f'ONNX files need {" and ".join(missing)}: pip install "genzoo[onnx]"')


def _inputs(graph: LogProbGraph, batch: TableBatch) -> list[Tensor]:
    return [getattr(batch, name) for name in graph.names]


def _program(graph: LogProbGraph, batch: TableBatch) -> Any:
    """The ONNX program of the graph, rows of a batch as its one free dimension."""
    example = _inputs(graph, batch.select(slice(0, 5)))
    free = tuple({0: torch.export.Dim.DYNAMIC} for _ in example)
    try:
        with _quiet():
            traced = torch.export.export(graph, tuple(example), dynamic_shapes=(free,), strict=False)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                verbose=False,
                opset_version=20,
                output_names=[OUTPUT],
                custom_translation_table={torch.ops.aten.scalar_tensor.default: _scalar_tensor},
            )
    except Exception as error:
        reason = f"this torch ({torch.__version__}) could not trace it ({_first_line(error)})"
        raise _no_graph(graph.model, reason) from error
    assert program is not None
    for value, name in zip(program.model.graph.inputs, graph.names, strict=True):
        value.name = name
    for node in program.model.graph.all_nodes():  # where in the source code it came from
        node.metadata_props.clear()
    return program


def _scalar_tensor(value: Any, dtype: int = -1, layout: Any = None, device: Any = None, pin_memory: Any = None) -> Any:
    """Translation of a plain number: the exporter's own one rounds it to float32 on the way to float64."""
    import onnx_ir
    from onnxscript import opset20 as op

    if isinstance(value, int | float):
        kind = onnx_ir.DataType(dtype if dtype >= 0 else onnx_ir.DataType.FLOAT)
        constant: Any = onnx_ir.tensor(value, dtype=kind)
        return op.Constant(value=constant)
    return op.Cast(value, to=dtype)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's own notes are not for the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _trial_rows(model: DensityModel) -> TableBatch:
    """Rows drawn from the model, some cells of which are hidden, unseen or far out: training rows are not kept."""
    seed = seed_of(model.seed, "onnx")
    drawn = TableBatch.concatenate(draw_batches(model, CHECKED_ROWS, _any_context(model, seed), seed, CHECKED_ROWS))
    generator = torch.Generator().manual_seed(seed)
    numeric, codes = drawn.numeric.clone(), drawn.codes.clone()
    spoilt = (torch.arange(CHECKED_ROWS) >= CHECKED_ROWS // 2)[:, None]
    numeric[spoilt & (torch.rand(numeric.shape, generator=generator) < HIDDEN)] = torch.nan
    for value in (HOLE, UNSEEN):
        codes[spoilt & (torch.rand(codes.shape, generator=generator) < HIDDEN)] = value
    numeric[-CHECKED_ROWS // 16 :] *= 10.0
    return drawn.with_values(numeric, codes)


def _any_context(model: DensityModel, seed: int) -> TableBatch | None:
    """Rows whose context columns hold something, for draws."""
    if not model.view.context:
        return None
    generator = torch.Generator().manual_seed(seed)
    numeric, codes = [], []
    for column in model.schema.numeric:
        numeric.append(torch.randn(CHECKED_ROWS, column.width, generator=generator, dtype=torch.float64))
    for column in model.schema.categorical:
        shape = CHECKED_ROWS, column.width
        codes.append(torch.randint(max(column.num_categories, 1), shape, generator=generator))
    codec: Any = model.codec
    raw = torch.cat([torch.zeros(CHECKED_ROWS, 0, dtype=torch.float64), *numeric], 1)
    raw[:, codec.context_source] = codec.context_scaler.inverse(raw[:, codec.context_source], codec.context_column)
    coded = torch.cat([torch.zeros(CHECKED_ROWS, 0, dtype=torch.int64), *codes], 1)
    return TableBatch(raw, coded, torch.arange(CHECKED_ROWS))


def _difference(
    model: DensityModel, graph: LogProbGraph, path: Path, batch: TableBatch, wanted: np.ndarray
) -> float | None:
    """Largest difference of the file's numbers to torch's, nats; ``None`` where onnxruntime is not installed.

    Raises:
        GenZooError: it is beyond :data:`TOLERANCE`.
    """
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    arrays = {name: getattr(batch, name).numpy() for name in graph.names}
    found = np.concatenate(
        [
            session.run([OUTPUT], {name: array[part] for name, array in arrays.items()})[0]
            for part in (slice(0, 1), slice(1, None))  # two sizes of a batch
        ]
    )
    weights = {parameter.dtype for parameter in model.parameters()} or {torch.float64}
    nats, share = TOLERANCE[torch.float32 if torch.float32 in weights else torch.float64]
    with np.errstate(invalid="ignore"):
        apart = np.where(found == wanted, 0.0, np.abs(found - wanted))
        allowed = np.maximum(nats, share * np.abs(wanted))
    bad = ~(apart <= allowed)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise GenZooError(
            f"the ONNX graph of {type(model).__name__} gives {found[row]} where torch gives {wanted[row]}, more than "
            f"{allowed[row]:.1g} nats apart ({int(bad.sum())} of {len(bad)} rows); nothing was written. Use genzoo "
            "export RUN -o FOLDER, or report the table as a defect"
        )
    return float(apart.max())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
