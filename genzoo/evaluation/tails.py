"""Tails of samples beside tails of data: survival curves, expected shortfall, quantiles, light or heavy.

Everything is read of the distance to the data's median, column by column, so that numbers are free of a column's unit
or in its own. Samples are a proxy: they never rank a model.

References:
    Laszkiewicz, Lederer, Fischer (2022), arXiv:2206.10311 (area between survival curves, tVaR, confusion of classes).
    Differs from the authors' code: the conditional mean beyond a quantile is the tVaR itself (theirs divides it by one
    minus the level once more, which makes it twenty times too large at 0.95).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import GenZooError
from genzoo.evaluation.tail_index import TailIndex, tail_index

if TYPE_CHECKING:
    from genzoo.evaluation.sections import Section, Subject

Floats = NDArray[np.float64]
LEVEL = 0.95
MOST_ROWS = 5_000
MOST_COLUMNS = 24


def distances(values: Floats, middle: float) -> Floats:
    """Ascending distances to ``middle``; values that are not finite are left out."""
    finite = values[np.isfinite(values)]
    return np.sort(np.abs(finite - middle))


def area_between_survival(data: Floats, model: Floats, num: int = 10_000) -> float:
    r"""Area between the survival curves of two samples of distances on logarithmic axes; 0 for equal tails.

    .. math:: A = \sum_{i=1}^{n} |\log Q(1 - i/n) - \log Q'(1 - i/n)| \log\frac{i+1}{i}

    Free of units. Sampling alone gives a few tenths: hold it against the area between two samples of the data.

    Args:
        data: ``(n,)`` positive distances.
        model: ``(m,)`` positive distances.
        num: Levels ``n``; at most the smaller of both sizes is used.

    Raises:
        ValueError: a sample without positive values.
    """
    data, model = data[data > 0], model[model > 0]
    if not len(data) or not len(model):
        raise ValueError("the area between survival curves needs positive distances in both samples")
    count = min(num, len(data), len(model))
    i = np.arange(1, count + 1)
    gap = np.log(np.quantile(data, 1 - i / count)) - np.log(np.quantile(model, 1 - i / count))
    return float(np.sum(np.abs(gap) * np.log1p(1 / i)))


def tail_value_at_risk(values: Floats, level: float = LEVEL) -> float:
    """Mean of the largest ``1 - level`` share of a sample (expected shortfall), with the last value in part.

    ``q a / (a - 1)`` for a Pareto tail of index ``a`` with quantile ``q``, ``q + scale`` for an exponential one.
    """
    if not 0 <= level < 1:
        raise ValueError(f"level must be at least 0 and below 1, got {level}")
    ordered = np.sort(values)[::-1]
    share = (1 - level) * len(ordered)
    if not len(ordered):
        return math.nan
    # 1 - level is not exact: a share within rounding of a whole number is that number
    share = float(round(share)) if abs(share - round(share)) < 1e-9 * len(ordered) else share
    whole = min(int(share), len(ordered))
    total = float(ordered[:whole].sum())
    if whole < len(ordered):
        total += (share - whole) * float(ordered[whole])
    return total / share


def survival_curve(ordered: Floats, num: int = 60) -> list[tuple[float, float]]:
    """Points ``(log10 distance, log10 share of values at least as far)`` of ascending distances, evenly spread."""
    ordered = ordered[ordered > 0]
    if not len(ordered):
        return []
    counts = np.unique(np.geomspace(1, len(ordered), num).round().astype(int))[::-1]
    return [(float(np.log10(ordered[-c])), float(np.log10(c / len(ordered)))) for c in counts]


def tail_quantiles(data: Floats, model: Floats, num: int = 40) -> list[tuple[float, float]]:
    """Tail QQ plot: ``(log10 quantile of data, log10 of model)`` from the median to the largest common level."""
    count = min(len(data), len(model))
    if count < 4:
        return []
    beyond = np.geomspace(0.5, 1 / count, num)
    pairs = zip(np.quantile(data, 1 - beyond), np.quantile(model, 1 - beyond), strict=True)
    return [(float(np.log10(x)), float(np.log10(y))) for x, y in pairs if x > 0 and y > 0]


@dataclass(frozen=True)
class TailComparison:
    """Tails of one column in data and samples.

    Args:
        column: Name.
        data: Tail of the data.
        model: Tail of the samples.
        area: Area between log-log survival curves.
        area_of_data: The same between two halves of the data: what sampling alone gives at half the size.
        tvar_data: Mean distance beyond the 95 % quantile, in the column's unit.
        tvar_model: The same of the samples; without a mean (tail index at most 1) it grows with the sample.
        middle: Median of the data, from which distances are taken.
        spread: Interquartile range of the data.
    """

    column: str
    data: TailIndex
    model: TailIndex
    area: float
    area_of_data: float
    tvar_data: float
    tvar_model: float
    middle: float
    spread: float

    @property
    def tvar_difference(self) -> float:
        """Absolute difference of both tVaRs in units of the data's interquartile range."""
        return abs(self.tvar_model - self.tvar_data) / self.spread


def compare_tails(
    data: Mapping[str, Floats],
    samples: Mapping[str, Floats],
    *,
    heavy: Mapping[str, bool] | None = None,
    num_resamples: int = 50,
    seed: int = 0,
) -> list[TailComparison]:
    """Holds the tails of samples against those of data, column by column.

    Args:
        data: Values by column; NaN is a hole.
        samples: Likewise.
        heavy: Known classes of the data's columns; others are estimated.
        num_resamples: See :func:`genzoo.evaluation.tail_index.tail_index`.
        seed: Of the resampling.

    Returns:
        One entry a column; a column without spread is left out.
    """
    found = []
    for name, values in data.items():
        values, drawn = values[np.isfinite(values)], samples[name][np.isfinite(samples[name])]
        if len(values) < 20 or len(drawn) < 20:
            continue
        middle = float(np.median(values))
        near, far = np.quantile(values, [0.25, 0.75])
        ordered, ordered_model = distances(values, middle), distances(drawn, middle)
        if not far > near or not ordered_model[-1] > 0:
            continue
        half = np.random.default_rng(seed).permutation(len(values)) % 2 == 0
        of_data = tail_index(values, num_resamples=num_resamples, seed=seed)
        if heavy is not None and name in heavy:
            of_data = _with_class(of_data, heavy[name])
        found.append(
            TailComparison(
                name,
                of_data,
                tail_index(drawn, num_resamples=num_resamples, seed=seed),
                area_between_survival(ordered, ordered_model),
                area_between_survival(distances(values[half], middle), distances(values[~half], middle)),
                tail_value_at_risk(ordered),
                tail_value_at_risk(ordered_model),
                middle,
                float(far - near),
            )
        )
    return found


def _with_class(estimate: TailIndex, heavy: bool) -> TailIndex:
    """The estimate with its class as it is known."""
    from dataclasses import replace

    if heavy == estimate.heavy:
        return estimate
    hill = estimate.hill if estimate.hill > 0 else math.nan
    return replace(estimate, index=1 / hill if heavy else math.inf)


@dataclass(frozen=True)
class TailConfusion:
    """How many columns are light or heavy in data (first word) and in samples (second)."""

    light_light: int
    light_heavy: int
    heavy_light: int
    heavy_heavy: int

    @property
    def agree(self) -> int:
        """Columns whose class is right."""
        return self.light_light + self.heavy_heavy

    @property
    def total(self) -> int:
        """All columns."""
        return self.agree + self.light_heavy + self.heavy_light


def tail_confusion(heavy_data: Sequence[bool], heavy_model: Sequence[bool]) -> TailConfusion:
    """Counts classes of columns in data and in samples."""
    pairs = list(zip(heavy_data, heavy_model, strict=True))
    return TailConfusion(*(pairs.count(pair) for pair in ((False, False), (False, True), (True, False), (True, True))))


# ---- the section of a report --------------------------------------------------------------------------------------


def tails_section(subject: Subject) -> Section | None:
    """Section ``tails``: made where a numeric column is heavy, or the model chooses tails.

    Raises:
        GenZooError: no samples to look at.
    """
    columns = [c for c in subject.test.schema.scored if c.is_numeric and c.width == 1][:MOST_COLUMNS]
    if not columns:
        return None
    data = {c.name: _held_out(subject, c) for c in columns}
    chosen = getattr(subject.model, "tail_classes", None)
    if chosen is None and not any(tail_index(v, num_resamples=20, seed=subject.seed).heavy for v in data.values()):
        return None
    if subject.samples is None:
        raise GenZooError("tails are compared on samples, and this model draws none")
    from genzoo.evaluation.marginals import column_values

    samples = {c.name: _off_atoms(column_values(subject.samples, c)[:MOST_ROWS], c) for c in columns}
    # The data's classes come from the held-out rows, not from what a model took them for: models are compared on the
    # same heavy columns, and no model is its own judge.
    return _section(subject.model, compare_tails(data, samples, seed=subject.seed), data, samples)


def _held_out(subject: Subject, column: Any) -> Floats:
    place = 0
    for other in subject.test.schema.numeric:
        if other.name == column.name:
            break
        place += other.width
    return _off_atoms(np.asarray(subject.test.numeric[:MOST_ROWS, place], dtype=np.float64), column)


def _off_atoms(values: Any, column: Any) -> Floats:
    """Values that are neither holes nor atoms, those of a grid spread inside their cells by a fixed sequence."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if column.num_atoms:
        numbers = numbers[~np.isin(numbers, column.atoms)]
    if column.kind == "quantized" and column.step:
        numbers = numbers + column.step * (np.random.default_rng(0).random(len(numbers)) - 0.5)
    return numbers


def _section(
    model: Any, found: list[TailComparison], data: Mapping[str, Floats], samples: Mapping[str, Floats]
) -> Section:
    from genzoo.evaluation.sections import Curves, Grid, Metric, Section

    confusion = tail_confusion([c.data.heavy for c in found], [c.model.heavy for c in found])
    metrics = []
    for word in ("heavy", "light"):
        part = [c for c in found if c.data.heavy == (word == "heavy")]
        if part:
            metrics += [
                Metric(
                    f"area, {word} columns",
                    float(np.mean([c.area for c in part])),
                    f"Mean over {word} columns of the area between the survival curves of held-out rows and samples on "
                    "logarithmic axes (Laszkiewicz et al., 2022). Two halves of the held-out rows have "
                    f"{np.mean([c.area_of_data for c in part]):.2f}.",
                    "down",
                ),
                Metric(
                    f"tVaR difference, {word} columns",
                    float(np.mean([c.tvar_difference for c in part])),
                    f"Mean over {word} columns of the difference between held-out rows and samples in the mean "
                    "distance to the median beyond its 95 % quantile, in interquartile ranges.",
                    "down",
                ),
            ]
    if found:
        metrics.append(
            Metric(
                "classes right",
                confusion.agree / confusion.total,
                "Share of numeric columns whose samples have a light or heavy tail as the data do (moment and kernel "
                "estimates, heavy up to an index of 10).",
                "up",
            )
        )
    reach: dict[str, tuple[float, float]] = getattr(model, "tail_indices", dict)()
    lines = [
        (
            c.column,
            _words(c.data),
            _words(c.model),
            " / ".join(_index(x) for x in reach[c.column]) if c.column in reach else "",
            f"{c.area:.2f} ({c.area_of_data:.2f})",
            f"{c.tvar_data:.4g} / {c.tvar_model:.4g}",
        )
        for c in found
    ]
    grid = Grid(
        "Tail of each numeric column",
        (
            "column",
            "tail of data",
            "tail of samples",
            "index that the model is built for, lower / upper side",
            "area (two halves of data)",
            "tVaR 95 %, data / samples",
        ),
        tuple(lines),
        "A tail index is the power with which the share of more distant values falls; in brackets its 95 % bootstrap "
        "interval. Values on atoms are left out. A tail layer's index is that of a standard normal behind it: a flow "
        "that stretches its tail s times makes it s^2 times smaller.",
    )
    worst = sorted(found, key=lambda c: -c.area * (2 if c.data.heavy else 1))[:2]
    curves = []
    for c in worst:
        ordered = distances(data[c.column], c.middle), distances(samples[c.column], c.middle)
        curves.append(
            Curves(
                f"Survival of '{c.column}'",
                "log10 distance to the median",
                "log10 share of values beyond",
                {"data": survival_curve(ordered[0]), "samples": survival_curve(ordered[1])},
                summary=f"area {c.area:.2f} between the curves",
            )
        )
        curves.append(
            Curves(
                f"Tail quantiles of '{c.column}'",
                "log10 quantile of data",
                "log10 quantile of samples",
                {"equal": [(x, x) for x, _ in tail_quantiles(*ordered)], "samples": tail_quantiles(*ordered)},
                summary=f"largest common quantile 1 in {min(map(len, ordered))}",
            )
        )
    return Section("tails", tuple(metrics), (grid,), tuple(curves))


def _words(tail: TailIndex) -> str:
    if not tail.heavy:
        return "light"
    return f"heavy, {tail.index:.2f} [{tail.low:.2f}, {tail.high:.2f}]"


def _index(value: float) -> str:
    return "light" if not value < 1000 else f"{value:.2f}"
