"""Scores of batches put together to the likelihood of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.models.scoring import ModelLogProb, rows_with_holes
from genzoo.tables.batch import TableBatch

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel
    from genzoo.tables.encode import TableData


def chunks(data: TableData, size: int) -> Iterable[TableBatch]:
    """Batches of at most ``size`` rows."""
    for start in range(0, len(data), size):
        yield data.select(slice(start, start + size)).batch()


def arrays_of(batch: TableBatch, part: ModelLogProb) -> dict[str, np.ndarray]:
    """The scores of a batch with its row numbers and weights."""
    arrays = {"rows": batch.rows.cpu().numpy(), "values": part.values.cpu().numpy()}
    if batch.weights is not None:
        arrays["weights"] = batch.weights.cpu().numpy()
    for key in ("se", "discrete", "by_column"):
        value = getattr(part, key)
        if value is not None:
            arrays[key] = value.detach().double().cpu().numpy()
    return arrays


def collect(
    model: DensityModel,
    parts: list[dict[str, np.ndarray]],
    data: TableData,
    seed: int,
    draws: int,
    seconds: float = 0.0,
) -> LogLikelihood:
    """The likelihood of a table from the scores of its batches, in the order of its rows."""

    def joined(key: str) -> np.ndarray | None:
        found = [part.get(key) for part in parts]
        if key == "se" and not all(array is None for array in found):  # the others are without noise
            found = [
                np.zeros(len(p["rows"])) if array is None else array for p, array in zip(parts, found, strict=True)
            ]
        return None if any(array is None for array in found) else np.concatenate(found)  # type: ignore[arg-type]

    rows = joined("rows")
    values = joined("values")
    assert rows is not None
    assert values is not None
    order = np.argsort(rows, kind="stable")

    def ordered(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[order]

    discrete = ordered(joined("discrete"))
    values = values[order]
    if discrete is None:
        continuous = None
    else:
        continuous = np.where(np.isfinite(values), values - np.where(np.isfinite(discrete), discrete, 0.0), 0.0)
    holes = bool(rows_with_holes(data, model.view).any())
    kind, method = model.kind_on(holes)
    return LogLikelihood(
        values=values,
        rows=rows[order],
        weights=ordered(joined("weights")),
        kind=kind,  # type: ignore[arg-type]
        bias=model.likelihood_bias if kind == "estimate" else None,  # type: ignore[arg-type]
        se=ordered(joined("se")),
        discrete=discrete,
        continuous=continuous,
        columns=tuple(c.name for c in model.view.scored),
        context=tuple(c.name for c in model.view.context),
        estimand=model.capabilities.estimand,
        measure=model.schema.measure,
        data=data.fingerprint,
        uses_mask=model.reads_pattern and holes,
        method=method,
        settings={} if kind == "exact" else {"draws": draws, "seed": seed},
        model=type(model).__name__,
        counts=dict(data.counts),
        by_column=ordered(joined("by_column")),
        meta={"seconds": seconds, "num_parameters": model.num_parameters},
    )
