"""Choice and parameters of a column's scale, from unit-free training values."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from genzoo.codecs.cell_knots import cell_knots
from genzoo.likelihood.normal_cells import log_normal_cell

AFFINE, ASINH, QUANTILE = 0, 1, 2

LEAST_SCORE = -1e4
"""Fewest nats that a value far out counts when scales are compared."""
MIN_ROWS = 40
"""Fewer values than this get the affine map: curvature would be fitted to noise."""
ASINH_GAIN = 0.02
"""Nats per value that asinh must win over the affine map, on rows it was not fitted to."""
QUANTILE_GAIN = 0.25
"""Nats per value that a quantile map must win over the best of the others. A column that is merely multimodal is left
alone (:data:`PEAKED`): knots carry sampling noise, and models bend well by themselves."""
PEAKED = 7.0
"""Central 98 % range over the shortest half: 3.4 for a normal, 5.7 for a Laplace distribution, above seven where half
of the rows crowd into a sliver that a network hardly sees (7.5: a log-normal of sigma 3 after asinh)."""
ASINH_WIDTHS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0)
ROWS_PER_KNOT = 10
ONE_VALUE_STEP = 1e-3
"""Half a step, relative to the only value seen, below which the step says nothing of the spread."""


@dataclass(frozen=True)
class ScalerFit:
    """Parameters of one column's map from the line ``w`` to ``z``; see :mod:`genzoo.codecs.scalers`."""

    family: int = AFFINE
    middle: float = 0.0
    spread: float = 1.0
    after_middle: float = 0.0
    after_spread: float = 1.0
    tail_lower: float = 1.0
    tail_upper: float = 1.0
    bent_tails: bool = True
    knot_v: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    knot_z: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))

    @staticmethod
    def location_and_unit(x: Tensor) -> tuple[float, float]:
        """Median and robust spread of raw values; both scale exactly with powers of two."""
        if not len(x):
            return 0.0, 0.0
        ordered = x.sort().values
        return float(_quantiles(ordered, (0.5,))[0]), robust_spread(ordered)


def fit_column(
    w: Tensor, choice: str, step: float, num_knots: int, bent_tails: bool = True, cells: bool = False
) -> ScalerFit:
    """Fits the named map, or for ``auto`` the best of three.

    ``auto`` compares the log-likelihood that a standard normal in ``z`` gives to a fourth of the values, fitted on the
    others: affine unless asinh wins :data:`ASINH_GAIN` nats, and a quantile map where half of the values crowd into a
    sliver of the range and it wins :data:`QUANTILE_GAIN` nats more. On a grid, and if asked for, it also compares the
    log-probabilities of cells: ``cells``, a quantile map that widens frequent cells, where that wins as much,
    however smooth the other values are.

    Args:
        w: ``(n,)`` float64 training values, unit-free.
        choice: ``auto``, ``standardise``, ``robust``, ``asinh``, ``quantile`` or ``cells`` (affine off a grid).
        step: Grid spacing in the unit of ``w``, 0 for a density.
        num_knots: Most knots of a quantile map; of ``cells`` between the frequent cells.
        bent_tails: Beyond its knots a quantile map grows like asinh (log-normal-like tails), else linearly (normal
            tails; for values that are logarithms already).
        cells: ``auto`` may take ``cells``.
    """
    if choice == "auto":
        choice = _choose(w, step, num_knots, bent_tails, cells)
    return _fit(w, choice, step, num_knots, bent_tails)


def apply(fitted: ScalerFit, w: Tensor) -> tuple[Tensor, Tensor]:
    """``z`` and ``log dz/dw`` of one column, ``(n,)`` each (the batched form is ``ColumnScaler``)."""
    v = (w - fitted.middle) / fitted.spread
    slope = torch.full_like(v, fitted.spread).log().neg()
    if fitted.family == AFFINE:
        return v, slope
    if fitted.family == ASINH:
        z = (torch.asinh(v) - fitted.after_middle) / fitted.after_spread
        return z, slope - torch.hypot(v, torch.ones_like(v)).log() - torch.full_like(v, fitted.after_spread).log()
    knots, heights = fitted.knot_v, fitted.knot_z
    right = torch.searchsorted(knots, v).clamp(1, len(knots) - 1)
    rise = (heights[right] - heights[right - 1]) / (knots[right] - knots[right - 1])
    z, slope_inside = heights[right - 1] + (v - knots[right - 1]) * rise, rise.log()
    for outside, knot, height, beta in (
        (v <= knots[0], knots[0], heights[0], fitted.tail_lower),
        (v > knots[-1], knots[-1], heights[-1], fitted.tail_upper),
    ):
        far = torch.where(outside, (v - knot) * beta, torch.zeros_like(v))
        z = torch.where(outside, height + (torch.asinh(far) if fitted.bent_tails else far), z)
        bend = torch.hypot(far, torch.ones_like(far)).log() if fitted.bent_tails else torch.zeros_like(far)
        tail = torch.full_like(v, beta).log() - bend
        slope_inside = torch.where(outside, tail, slope_inside)
    return z, slope + slope_inside


def robust_spread(ordered: Tensor) -> float:
    """A standard deviation that outliers and ties do not spoil, 0 for a constant: the first positive of the central
    50 %, 80 % and 98 % ranges (in units of a normal's), and the standard deviation."""
    for low, width in ((0.25, 1.3489795003921634), (0.1, 2.5631031310892007), (0.01, 4.652695748081682)):
        ends = _quantiles(ordered, (low, 1 - low))
        if ends[1] > ends[0]:
            return float(ends[1] - ends[0]) / width
    return standard_deviation(ordered)


def standard_deviation(w: Tensor) -> float:
    """Standard deviation, divided by the largest deviation first so that no square overflows."""
    deviation = w - w.mean()
    largest = float(deviation.abs().max())
    # A constant column leaves rounding errors of its mean: relative to the mean, these are no spread.
    if largest <= 1e-14 * abs(float(w.mean())):
        return 0.0
    return largest * float((deviation / largest).square().mean().sqrt())


def _quantiles(ordered: Tensor, levels: tuple[float, ...]) -> Tensor:
    """Quantiles of sorted values by linear interpolation (``torch.quantile`` is limited in size)."""
    position = torch.tensor(levels, dtype=torch.float64) * (len(ordered) - 1)
    low = position.floor().long()
    high = (low + 1).clamp(max=len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _fit(w: Tensor, choice: str, step: float, num_knots: int, bent_tails: bool) -> ScalerFit:
    if not len(w):
        return ScalerFit(spread=step or 1.0)
    ordered = w.sort().values
    robust = robust_spread(ordered)
    median = float(_quantiles(ordered, (0.5,))[0])
    floor = step / 2
    if choice == "robust":
        return ScalerFit(middle=median, spread=max(robust, floor) or 1.0)
    if choice == "asinh" and robust > 0:
        fits = [_fit_asinh(w, median, max(width * robust, floor)) for width in ASINH_WIDTHS]
        return max(fits, key=lambda fitted: _score(fitted, w))
    if choice in ("quantile", "cells"):
        fit = _fit_quantile if choice == "quantile" else partial(_fit_cells, step=step)
        fitted = fit(ordered, median, max(robust, floor), num_knots, bent_tails)
        if fitted is not None:
            return fitted
    deviation = standard_deviation(w)
    if not deviation and floor < ONE_VALUE_STEP:  # one value, on a grid as fine as storage: its size is the scale
        floor = 1.0
    return ScalerFit(middle=float(w.mean()), spread=max(deviation, floor))


def _fit_asinh(w: Tensor, middle: float, spread: float) -> ScalerFit:
    after = torch.asinh((w - middle) / spread)
    return ScalerFit(ASINH, middle, spread, float(after.mean()), standard_deviation(after) or 1.0)


def _fit_quantile(ordered: Tensor, middle: float, spread: float, num_knots: int, bent_tails: bool) -> ScalerFit | None:
    """Knots at distinct training values, heights from mid-ranks; ``None`` if there are not two of them."""
    count = min(num_knots, len(ordered) // ROWS_PER_KNOT)
    if count < 2 or spread <= 0:
        return None
    v = (ordered - middle) / spread
    position = ((torch.arange(count, dtype=torch.float64) + 0.5) / count * len(v)).long().clamp(max=len(v) - 1)
    knots = torch.unique(v[position])
    ranks = torch.searchsorted(v, knots) + torch.searchsorted(v, knots, right=True)
    heights = torch.special.ndtri(ranks.to(torch.float64) / (2 * len(v)))
    if len(knots) < 2 or not bool(torch.isfinite(heights).all()):
        return None
    first = _tail(knots[0] - v[v < knots[0]], -heights[0], bent_tails)
    last = _tail(v[v > knots[-1]] - knots[-1], heights[-1], bent_tails)
    rise = (heights[1:] - heights[:-1]) / (knots[1:] - knots[:-1])
    if not bool((torch.isfinite(rise) & (rise > 0)).all()):
        return None
    return ScalerFit(
        QUANTILE,
        middle,
        spread,
        tail_lower=first or float(rise[0]),
        tail_upper=last or float(rise[-1]),
        bent_tails=bent_tails,
        knot_v=knots,
        knot_z=heights,
    )


def _fit_cells(
    ordered: Tensor, middle: float, spread: float, num_knots: int, bent_tails: bool, step: float
) -> ScalerFit | None:
    """A quantile map with knots at the edges of frequent cells; ``None`` where no cell is frequent."""
    if step <= 0 or spread <= 0:
        return None
    index = ((ordered - ordered[0]) / step).round()
    found = cell_knots(index, num_knots, ROWS_PER_KNOT)
    if found is None:
        return None
    places, heights = found
    knots = (ordered[0] + places * step - middle) / spread
    rise = (heights[1:] - heights[:-1]) / (knots[1:] - knots[:-1])
    if not bool((torch.isfinite(rise) & (rise > 0)).all()):
        return None
    # beyond the knots, where no row may be: half of what remains within the mean distance of values
    distance = (places[-1] - places[0]) * step / spread / max(len(torch.unique(index)) - 1, 1)
    v = (ordered - middle) / spread
    ends = []
    for excess, height in ((knots[0] - v[v < knots[0]], -heights[0]), (v[v > knots[-1]] - knots[-1], heights[-1])):
        ends.append(_tail(excess if len(excess) else distance[None], height, bent_tails))
    return ScalerFit(
        QUANTILE,
        middle,
        spread,
        tail_lower=ends[0],
        tail_upper=ends[1],
        bent_tails=bent_tails,
        knot_v=knots,
        knot_z=heights,
    )


def _tail(excess: Tensor, height: Tensor, bent: bool) -> float:
    """Slope of a tail, so that its median lies where half of the remaining normal mass is; 0 if nothing is beyond."""
    if not len(excess):
        return 0.0
    half = torch.special.ndtri(torch.special.ndtr(-height) / 2).neg()
    rise = torch.sinh(half - height) if bent else half - height
    return float(rise / _quantiles(excess.sort().values, (0.5,))[0])


def _score(fitted: ScalerFit, w: Tensor) -> float:
    """Mean log-density of a standard normal in ``z``, up to a constant, in nats per value."""
    z, slope = apply(fitted, w)
    return float((slope - z.square() / 2).mean())


def _choose(w: Tensor, step: float, num_knots: int, bent_tails: bool, cells: bool) -> str:
    if len(w) < MIN_ROWS:
        return "standardise"
    # at random, so that no period of the rows (quarters, cells of a block) decides which values are held out
    held = torch.randperm(len(w), generator=torch.Generator().manual_seed(0)) % 4 == 0
    train, test = w[~held], w[held]
    # asinh of a logarithm has tails without any moment in the column's unit: a user may ask for it, `auto` does not
    choices = ("standardise", "asinh", "quantile") if bent_tails else ("standardise", "quantile")
    fits = {choice: _fit(train, choice, step, num_knots, bent_tails) for choice in choices}
    score = {choice: _score(fitted, test) for choice, fitted in fits.items()}
    best = "asinh" if score.get("asinh", -torch.inf) > score["standardise"] + ASINH_GAIN else "standardise"
    if score["quantile"] > score[best] + QUANTILE_GAIN:
        peaked = _peakedness(apply(_fit(w, best, step, num_knots, bent_tails), w)[0], step > 0) > PEAKED
        best = "quantile" if peaked else best
    if cells and step > 0:
        fitted = _fit(train, "cells", step, num_knots, bent_tails)
        gain = _cell_score(fitted, test, step) - _cell_score(fits[best], test, step)
        if gain > QUANTILE_GAIN and _fit(w, "cells", step, num_knots, bent_tails).family == QUANTILE:
            best = "cells"
    return best


def _cell_score(fitted: ScalerFit, w: Tensor, step: float) -> float:
    """Mean log-probability that a standard normal in ``z`` gives to the cells of values on a grid, nats per value."""
    lower, upper = (apply(fitted, w + side * step / 2)[0] for side in (-1, 1))
    return float(log_normal_cell(lower, upper).clamp(min=LEAST_SCORE).mean())


def _peakedness(z: Tensor, on_grid: bool) -> float:
    """Central 98 % range over the shortest interval with half of the values (on a grid: at least its closest gap)."""
    ordered, half = z.sort().values, len(z) // 2
    shortest = (ordered[half:] - ordered[: len(ordered) - half]).min()
    if on_grid:
        gap = torch.unique(ordered).diff()
        shortest = torch.maximum(shortest, gap.min() if len(gap) else shortest)
    ends = _quantiles(ordered, (0.01, 0.99))
    return float((ends[1] - ends[0]) / shortest) if shortest > 0 else float("inf")
