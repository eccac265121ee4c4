"""ONNX of the log-likelihood: the same numbers as torch, from a graph that needs no GenZoo; refusals that say why."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from commands_runs import say

import genzoo
from contract import SMALL, TRAINER, continuous_table, mixed_table
from genzoo.errors import CapabilityError, DataError, GenZooError
from genzoo.likelihood.noise import RowNoise
from genzoo.models import graph_ops, onnx_export
from genzoo.models.onnx_export import LogProbGraph, export_onnx, require_graph
from genzoo.models.scoring import split_unseen
from genzoo.tables.batch import HOLE, UNSEEN, TableBatch

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "serve.md"
KEYS = ("independent", "gaussian", "mixture", "maf", "spline_flow")
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)


def table(key: str) -> pd.DataFrame:
    """Every kind of column, with holes, on several scales; heavy tails and a peak bend scales."""
    frame = mixed_table(300)
    rng = np.random.default_rng(1)
    frame["heavy"] = rng.standard_t(2, size=300) ** 3
    frame["peak"] = np.where(rng.random(300) < 0.7, 1e-4 * rng.random(300), rng.normal(size=300))
    frame["share"] = rng.random(300)
    return frame


def fitted(key: str, frame: pd.DataFrame | None = None, **more: Any) -> Any:
    frame = table(key) if frame is None else frame
    schema = genzoo.infer_schema(frame)
    if "share" in frame:
        schema = schema.with_column("share", lower=0.0, upper=1.0)
        more = {"scaler": "auto"} | more if key != "independent" else more
    return genzoo.fit(frame, model=key, schema=schema, trainer=TRAINER, **(SMALL[key] | more))


def rows_of(model: Any, frame: pd.DataFrame) -> TableBatch:
    """Encoded rows, some with unseen categories and values beyond bounds."""
    batch = model._encoded_table(frame).batch()
    numeric, codes = batch.numeric.clone(), batch.codes.clone()
    codes[::7, 0] = UNSEEN
    codes[::11] = HOLE
    numeric[::13] *= 30
    numeric[5] = torch.nan
    return batch.with_values(numeric, codes)


@pytest.mark.parametrize("key", KEYS)
def test_the_traced_steps_give_the_numbers_of_the_model(key: str) -> None:
    model = fitted(key).eval()
    batch = rows_of(model, table(key))
    wanted = model.score_batch(batch, 0, 1).values
    assert torch.isinf(wanted).any()
    with torch.no_grad():
        found = LogProbGraph(model)(batch.numeric, batch.codes)
    finite = torch.isfinite(wanted)
    torch.testing.assert_close(found[finite], wanted[finite], rtol=1e-10, atol=1e-9)
    assert torch.equal(found[~finite], wanted[~finite])


def test_a_row_that_no_encoding_gives_has_no_number() -> None:
    model = fitted("independent").eval()
    batch = rows_of(model, table("independent")).select(slice(0, 6))
    numeric, codes = batch.numeric.clone(), batch.codes.clone()
    codes[1, 0], codes[2, 1], codes[3, 0] = 99, -3, model.schema.categorical[0].num_categories
    numeric[4, 0] = torch.inf
    with torch.no_grad():
        found = LogProbGraph(model)(numeric, codes)
    assert found.isnan().tolist() == [False, True, True, True, True, False]


def test_a_number_near_an_atom_is_that_atom_as_when_a_table_is_read() -> None:
    frame = mixed_table(200).assign(amount=lambda f: np.where(f["amount"] == 0, 0.1, f["amount"]))
    model = fitted("independent", frame).eval()
    assert model.schema["amount"].atoms == (0.1,)
    batch = model._encoded_table(frame).batch()
    near = batch.numeric.float().double()
    assert not torch.equal(near, batch.numeric)
    with torch.no_grad():
        found = LogProbGraph(model)(near, batch.codes)
    np.testing.assert_allclose(found.numpy(), model.log_prob(frame).values, atol=1e-3)


@pytest.mark.parametrize("components", [1, 3])
def test_elimination_number_by_number_is_the_density_of_the_mixture(components: int) -> None:
    model = fitted("mixture", num_components=components).eval()
    cells = model.codec.encode(split_unseen(rows_of(model, table("mixture")), model.view).batch)
    wanted = model.model_log_prob(cells, RowNoise(0, cells.rows), 1).values
    torch.testing.assert_close(model.traced_log_prob(cells), wanted, rtol=1e-11, atol=1e-10)


POINTS = torch.cat([torch.randn(400, dtype=torch.float64) * s for s in (1e-12, 1e-3, 1.0, 5.0, 1e3, 1e10)])
EDGES = torch.tensor([0.0, -1.0, 1.0, torch.inf, -torch.inf, 1e300, -1e300], dtype=torch.float64)


@pytest.mark.parametrize(
    "name, reference, low, high",
    [
        ("log1p", torch.log1p, -1.0, torch.inf),
        ("expm1", torch.expm1, -torch.inf, torch.inf),
        ("softplus", torch.nn.functional.softplus, -torch.inf, 20.0),  # beyond, torch's own is linear
        ("log_sigmoid", torch.nn.functional.logsigmoid, -torch.inf, torch.inf),
        ("asinh", torch.asinh, -torch.inf, torch.inf),
        ("erfcx", torch.special.erfcx, -20.0, 1e299),
        ("erfc", torch.special.erfc, -torch.inf, 20.0),
        ("log_ndtr", torch.special.log_ndtr, -torch.inf, 30.0),
    ],
)
def test_stand_ins_keep_the_digits_of_float64(name: str, reference: Any, low: float, high: float) -> None:
    x = torch.cat([POINTS, EDGES])
    x = x[(x >= low) & (x <= high)]
    torch.testing.assert_close(getattr(graph_ops, name)(x), reference(x), rtol=2e-13, atol=1e-300)


def test_stand_ins_of_two_arguments_agree_with_torch() -> None:
    a = torch.cat([POINTS, EDGES])
    b = a[torch.randperm(len(a), generator=torch.Generator().manual_seed(0))]
    exact = {"rtol": 1e-13, "atol": 1e-15}
    for name in ("hypot", "copysign", "logaddexp"):
        torch.testing.assert_close(getattr(graph_ops, name)(a, b), getattr(torch, name)(a, b), **exact)
    for end in (torch.inf, -torch.inf):
        to = torch.full_like(POINTS, end)
        assert torch.equal(graph_ops.nextafter(POINTS, to), torch.nextafter(POINTS, to))
    x = torch.stack([a, b], 1)
    x[3] = -torch.inf
    torch.testing.assert_close(graph_ops.logsumexp(x, 1), torch.logsumexp(x, 1), **exact)
    knots = torch.cat([POINTS.reshape(3, -1).sort(1).values, torch.full((3, 5), torch.inf)], 1)
    values = torch.cat([knots[:, :50], POINTS.reshape(3, -1)], 1)
    for right in (False, True):
        wanted = torch.searchsorted(knots, values, right=right)
        assert torch.equal(graph_ops.searchsorted(knots, values, right=right), wanted)


def test_models_without_an_exact_graph_are_refused_with_the_reason() -> None:
    two_grids = mixed_table(120).assign(steps=lambda f: f["count"])
    for key, frame, more, reason in (
        ("mixture", two_grids, {}, "lower bound.*draws"),
        ("spline_flow", mixed_table(120), {"transform": "coupling"}, "lower bound.*draws"),
        ("spline_flow", continuous_table(120), {"transform": "coupling"}, "transform=coupling"),
        ("gidd", mixed_table(120), {}, "lower bound"),
        ("radd", mixed_table(120), {}, "other steps for other rows"),
        ("residual_flow", continuous_table(120), {}, "other steps for other rows"),
        ("forest_autoregressive", mixed_table(120), {"rounds": 3}, "trees are no operations on tensors"),
    ):
        schema = genzoo.infer_schema(frame)
        model = genzoo.fit(frame, model=key, schema=schema, max_epochs=1, **(SMALL[key] | more))
        with pytest.raises(CapabilityError, match=reason) as said:
            require_graph(model)
        assert "genzoo export RUN -o FOLDER" in str(said.value)


def test_the_command_says_where_to_and_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    genzoo.fit(mixed_table(80), model="independent").save("model.ckpt")
    said = say("export", "model.ckpt")
    assert said.code == 2
    assert "--onnx FILE" in said.err
    assert say("export", "model.ckpt", "-o", "out", "--check", "rows.csv").code == 2
    monkeypatch.setattr(onnx_export, "find_spec", lambda name: None)
    said = say("export", "model.ckpt", "--onnx", "model.onnx")
    assert said.code == 2
    assert 'pip install "genzoo[onnx]"' in said.err
    assert not Path("model.onnx").exists()


# ---- files: an export takes half a minute -------------------------------------------------------------------------


def session_of(path: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS)
def test_onnxruntime_gives_the_numbers_of_torch(key: str, tmp_path: Path) -> None:
    model, frame = fitted(key), table(key)
    written = export_onnx(model, tmp_path / "model.onnx", rows=frame)
    assert written.inputs == ("numeric", "codes")
    assert written.num_rows == 256 + len(frame)
    tolerance = 1e-4 if list(model.parameters()) else 1e-6
    assert written.difference is not None
    assert written.difference < tolerance
    session, batch = session_of(tmp_path / "model.onnx"), rows_of(model, frame)
    wanted = model.score_batch(batch, 0, 1).values.numpy()
    for rows in (slice(0, 1), slice(1, 8), slice(None)):
        given = {"numeric": batch.numeric[rows].numpy(), "codes": batch.codes[rows].numpy()}
        found = session.run(["log_prob"], given)[0]
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, wanted[rows], rtol=1e-5 if list(model.parameters()) else 1e-9, atol=tolerance)
    codes = batch.codes[:2].numpy().copy()
    codes[0, 0] = 99
    assert np.isnan(session.run(["log_prob"], {"numeric": batch.numeric[:2].numpy(), "codes": codes})[0]).tolist() == [
        True,
        False,
    ]
    with pytest.raises(DataError, match="exists"):
        export_onnx(model, tmp_path / "model.onnx")


@needs_onnx
@pytest.mark.slow
def test_the_example_of_the_page_scores_text_without_genzoo_and_torch(tmp_path: Path) -> None:
    frame = mixed_table(200)
    model = genzoo.fit(frame, model="independent", trainer=TRAINER)
    model.save(tmp_path / "model.ckpt")
    frame.to_csv(tmp_path / "rows.csv", index=False)
    said = say("export", tmp_path / "model.ckpt", "--onnx", tmp_path / "model.onnx", "--check", tmp_path / "rows.csv")
    assert said.code == 0, said.err
    assert "largest difference to torch on 456 rows" in said.out
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)[1]
    example = example[: example.index("\n\nprint(")]
    frame = frame.head(20).astype(object)
    frame.loc[3, "group"] = "never seen"
    cells = {name: [None if pd.isna(cell) else cell for cell in frame[name]] for name in frame}
    (tmp_path / "cells.json").write_text(json.dumps(cells))
    code = (
        "import sys\n"
        "for name in ('genzoo', 'torch', 'lightning', 'pandas'): sys.modules[name] = None\n"
        f"{example}\n"
        "print(json.dumps(log_prob(json.load(open('cells.json'))).tolist()))\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    np.testing.assert_allclose(json.loads(ran.stdout), model.log_prob(frame).values, rtol=1e-9, atol=1e-6)


@needs_onnx
@pytest.mark.slow
@pytest.mark.parametrize("columns", [["x", "share"], ["group", "flag"], ["x", "group"]])
def test_tables_of_one_kind_and_context_have_graphs(columns: list[str], tmp_path: Path) -> None:
    frame = table("maf")[[*columns, "heavy"] if "share" in columns else columns]
    context = ["x"] if columns == ["x", "group"] else []
    model = genzoo.fit(frame, model="maf", context=context, max_epochs=1, num_transforms=2, hidden=16, patience=0)
    written = export_onnx(model, tmp_path / "model.onnx", rows=frame)
    assert written.difference is not None
    assert written.inputs == tuple(
        name for name, here in (("numeric", model.schema.numeric), ("codes", model.schema.categorical)) if here
    )


@needs_onnx
@pytest.mark.slow
def test_a_file_that_differs_from_torch_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = genzoo.fit(continuous_table(100), model="independent")
    monkeypatch.setattr(
        type(model), "traced_log_prob", lambda self, cells: 1e-5 + sum(p.sum(1) for p in self._contributions(cells))
    )
    with pytest.raises(GenZooError, match="nats apart"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
