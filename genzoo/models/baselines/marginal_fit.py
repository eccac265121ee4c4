"""Fits a smooth one-dimensional density, and spikes on a grid, by stacking candidates on held-out rows.

Candidates are kernel estimates whose bandwidth is a local quantile range (narrow where rows are dense, wide in tails),
at several ranges; a tail (Student's t with four degrees of freedom, or a logistic on a scale that bends); and, for a
quantized column, smoothed counts of its grid points. Their weights maximise the held-out likelihood, a concave problem
solved by EM.

References: Wolpert (1992), Stacked generalization; Smyth and Wolpert (1999), Linearly combining density estimators via
stacking; Silverman (1986), Density estimation, section 5.2 (nearest-neighbour bandwidths).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo.models.baselines.smooth_marginals import PiecewiseLinear, SmoothMarginals, tail_log_density, tail_mass

RANGES = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.5)
"""Shares of the rows whose quantile range sets a kernel's width."""
NUM_SMOOTH = len(RANGES) + 1
KERNEL_SCALE = 0.4
NARROWEST = 1e-3
"""Least kernel width of a density, as a share of the column's spread: ties must not become spikes."""
MAX_GROUPS = 320
MAX_CV_ROWS = 20_000
FOLDS = 5
TIE_THRESHOLDS = (1, 4, 16, 64)
TAIL_POWER = 4.0
"""The mass beyond a distance falls at least as this power of it, also on a scale that grows like its logarithm, so that
draws have a mean and a variance in the unit of the column (``asinh`` asked for on a bounded column excepted)."""
STUDENT_QUARTILE = 0.7406971
"""Upper quartile of Student's t with four degrees of freedom."""


@dataclass(frozen=True)
class Values:
    """Distinct values of one column: position and, for a quantized column, the edges of its cell; all ``(m,)``."""

    x: Tensor
    lower: Tensor
    upper: Tensor
    quantized: bool


@dataclass(frozen=True)
class Tail:
    """The component that is spread widest, and how slowly the others may fall."""

    centre: Tensor
    scale: Tensor
    bent: Tensor
    least_rate: float

    def standardised(self, x: Tensor) -> Tensor:
        """Distance from the centre in scales."""
        return (x - self.centre) / self.scale


def fit_marginal(
    marginals: SmoothMarginals,
    column: int,
    x: Tensor,
    lower: Tensor,
    upper: Tensor,
    quantized: bool,
    seed: int = 0,
    weight: Tensor | None = None,
    bend: float = 0.0,
) -> None:
    """Fits one column of ``marginals`` on observed training values.

    Args:
        marginals: The module whose buffers are filled.
        column: Which column.
        x: ``(n,)`` float64 values in model space (centres of cells).
        lower: ``(n,)`` lower edges (quantized columns).
        upper: ``(n,)`` upper edges.
        quantized: Probabilities of cells are wanted instead of a density.
        seed: Seed of the folds.
        weight: ``(n,)`` how many rows each value counts for; ``None``: one.
        bend: How far ``x`` moves far out when the distance in the column's own unit grows by a factor e; 0 if ``x``
            moves with the distance itself (:meth:`~genzoo.codecs.scalers.ColumnScaler.bends`).
    """
    if len(x) == 0:
        return
    distinct, index = torch.unique(x, return_inverse=True)
    first = torch.empty_like(distinct, dtype=torch.int64).scatter_(0, index, torch.arange(len(x)))
    values = Values(distinct, lower[first], upper[first], quantized)
    centre, spread = _location(x, weight)
    counts = torch.bincount(index, weight, minlength=len(distinct)).double()
    rate = TAIL_POWER / bend if bend else 0.0
    tail = Tail(centre, x.new_tensor(1 / rate) if rate else spread, torch.tensor(rate > 0), rate)
    knots = _knots(values, counts, spread, marginals.num_knots)
    weights = _stack(values, index, knots, spread, tail, marginals.num_spikes, seed, weight)
    smooth, pmfs = _candidates(values, counts, knots, spread, tail.least_rate, marginals.num_spikes)
    num_smooth = len(smooth.knots)
    a = weights[:num_smooth]
    pmf = weights[num_smooth + 1 :] @ pmfs
    keep = torch.argsort(pmf, descending=True, stable=True)[: marginals.num_spikes]
    keep = keep[pmf[keep] > 0]
    keep = keep[torch.argsort(values.x[keep])]
    spiked = float(pmf[keep].sum())
    heavy = float(weights[num_smooth])
    with torch.no_grad():
        marginals.centre[column] = torch.stack([tail.centre, tail.scale])
        marginals.bent[column] = tail.bent
        marginals.knots[column] = knots
        share = a / a.sum() if float(a.sum()) > 0 else torch.full_like(a, 1 / len(a))
        marginals.density[column] = share @ smooth.density
        marginals.tails[column] = share @ smooth.tails
        marginals.shares[column] = torch.tensor([1 - heavy - spiked, heavy], dtype=torch.float64)
        marginals.spikes[column] = float("inf")
        marginals.spike_weight[column] = 0.0
        marginals.spikes[column, : len(keep)] = values.x[keep]
        marginals.spike_weight[column, : len(keep)] = pmf[keep]


def _location(x: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Median, and a spread that is above zero: scaled interquartile range, else standard deviation, else 1."""
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=x.dtype)
    if weight is not None:
        x, order = torch.sort(x)
        share = weight[order] / weight.sum()
        q = interpolate(levels, share.cumsum(0) - 0.5 * share, x)
        return q[1], _positive((q[2] - q[0]) / (2 * STUDENT_QUARTILE), x)
    sample = x if len(x) <= 1_000_000 else x[:: len(x) // 1_000_000 + 1]
    q = torch.quantile(sample, levels)
    return q[1], _positive((q[2] - q[0]) / (2 * STUDENT_QUARTILE), x)


def _positive(spread: Tensor, x: Tensor) -> Tensor:
    if spread <= 0:
        spread = x.std(correction=0)
    return spread if spread > 0 else torch.ones_like(spread)


def _knots(values: Values, counts: Tensor, spread: Tensor, num_knots: int) -> Tensor:
    """Strictly increasing knots: about half at quantiles (finer towards the ends), a quarter evenly over the bulk, and
    the rest in gaps that are wide on an asinh scale, so that heavy tails get their share."""
    x, share = values.x, counts.cumsum(0) / counts.sum()
    levels = torch.linspace(0, 1, num_knots * 7 // 16, dtype=x.dtype)
    ends = 2.0 ** -torch.arange(2, 20, 0.5, dtype=x.dtype)
    levels = torch.cat([levels, ends, 1 - ends])
    quantiles = x[torch.searchsorted(share, levels).clamp_max(len(x) - 1)]
    low, high = x[0], x[-1]
    if values.quantized:
        finite = torch.where(torch.isfinite(values.upper - values.lower), values.upper - values.lower, 0.0)
        low, high = low - finite[0], high + finite[-1]
    step = NARROWEST * spread
    bulk = x[torch.searchsorted(share, torch.tensor([0.01, 0.99], dtype=x.dtype)).clamp_max(len(x) - 1)]
    even = torch.linspace(0, 1, num_knots // 4, dtype=x.dtype) * (bulk[1] - bulk[0]) + bulk[0]
    margins = torch.stack([step, 0.1 * spread, 0.5 * spread, spread])
    knots = torch.unique(torch.cat([quantiles, even, low - margins, high + margins]))
    apart = torch.cat([torch.ones(1, dtype=torch.bool), knots.diff() > 1e-6 * spread])
    knots = knots[apart]
    if len(knots) > num_knots:
        knots = knots[torch.linspace(0, len(knots) - 1, num_knots, dtype=torch.float64).round().long()]
    middle = x[torch.searchsorted(share, torch.tensor([0.5], dtype=x.dtype)).clamp_max(len(x) - 1)]
    while len(knots) < num_knots:
        gaps = torch.asinh((knots - middle) / spread).diff()
        # Equal gaps (of a grid) are taken from the left, whatever rounding in the unit at hand made of them.
        rank = torch.argsort((gaps / gaps.max() * 2.0**32).round(), descending=True, stable=True)
        wide = rank[: min(num_knots - len(knots), max(1, len(gaps) // 2))]
        knots = torch.sort(torch.cat([knots, 0.5 * (knots[wide] + knots[wide + 1])])).values
    return knots


def _groups(x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centres, shares and middle levels of at most :data:`MAX_GROUPS` groups of about equal mass."""
    keep = counts > 0
    x, counts = x[keep], counts[keep]
    share = counts / counts.sum()
    level = share.cumsum(0) - 0.5 * share
    if len(x) <= MAX_GROUPS:
        return x, share, level
    group = torch.unique((level * MAX_GROUPS).long(), return_inverse=True)[1]
    size = int(group.max()) + 1
    mass = torch.zeros(size, dtype=x.dtype).index_add_(0, group, share)
    centre = torch.zeros(size, dtype=x.dtype).index_add_(0, group, share * x) / mass
    return centre, mass, mass.cumsum(0) - 0.5 * mass


def interpolate(at: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Linear interpolation, constant beyond the ends; ``x`` ascending."""
    if len(x) == 1:
        return y.expand(at.shape).clone()
    right = torch.searchsorted(x, at.contiguous()).clamp(1, len(x) - 1)
    share = ((at - x[right - 1]) / (x[right] - x[right - 1])).clamp(0, 1)
    return torch.lerp(y[right - 1], y[right], share)


def kernel_estimates(
    values: Values, counts: Tensor, knots: Tensor, spread: Tensor, least_rate: float = 0.0
) -> PiecewiseLinear:
    """One kernel estimate for each of :data:`RANGES` and one normal, on common knots; total mass one each."""
    x, mass, level = _groups(values.x, counts)
    floor = NARROWEST * spread
    if values.quantized:
        width = interpolate(
            x, values.x, torch.where(torch.isfinite(values.upper - values.lower), values.upper - values.lower, 0.0)
        )
        floor = torch.maximum(floor, 0.3 * width)
    densities, tails = [], []
    for share in RANGES:
        above, below = (level + share).clamp_max(1.0), (level - share).clamp_min(0.0)
        # A window cut at an end covers less mass; scaled up to what a whole one would cover.
        half = interpolate(above, level, x) - interpolate(below, level, x)
        h = torch.maximum(KERNEL_SCALE * 0.5 * half * (2 * share / (above - below)), floor)
        t = (knots[:, None] - x) / h
        p = torch.sigmoid(t)
        densities.append((mass / h * p * (1 - p)).sum(1))
        tails.append(torch.stack([(mass * p[0]).sum(), (mass * (1 - p[-1])).sum()]))
    mean = (mass * x).sum()
    deviation = torch.maximum((mass * (x - mean).square()).sum().sqrt(), floor.max() if floor.ndim else floor)
    t = (knots - mean) / deviation
    densities.append(torch.exp(-0.5 * t.square()) / (deviation * math.sqrt(2 * math.pi)))
    tails.append(torch.stack([torch.special.ndtr(t[0]), torch.special.ndtr(-t[-1])]))
    tiny = 1e-12 / spread  # keeps the pieces, and the rates of the tails, away from 0 / 0
    many = knots.expand(NUM_SMOOTH, -1)
    return PiecewiseLinear(many, torch.stack(densities) + tiny, torch.stack(tails) + 1e-12, least_rate).normalised()


def _without_spikes(values: Values, counts: Tensor, spread: Tensor) -> Tensor:
    """Counts in which a grid point far above what its neighbours predict is brought down to that level."""
    if len(values.x) > MAX_GROUPS:
        return counts.clamp_max(max(8.0, 20 * float(counts.mean())))
    width = torch.where(torch.isfinite(values.upper - values.lower), values.upper - values.lower, 0.0)
    h = torch.maximum(0.1 * spread, 1.5 * width)
    cell = torch.sigmoid((values.x[:, None] - values.x) / h)
    cell = width[:, None] / h * cell * (1 - cell)  # probability of cell v by a kernel at u, midpoint rule
    alone = cell.diagonal().clamp_max(0.9)
    capped = counts
    for _ in range(3):
        expected = (cell @ capped - cell.diagonal() * capped) / (1 - alone)
        capped = torch.minimum(counts, 2 * expected + 3)
    return capped


def _candidates(
    values: Values, counts: Tensor, knots: Tensor, spread: Tensor, least_rate: float, num_spikes: int
) -> tuple[PiecewiseLinear, Tensor]:
    """Smooth candidates on common knots, and pmfs ``(num_pmfs, m)`` on distinct values (none for a density)."""
    smooth = kernel_estimates(values, counts, knots, spread, least_rate)
    if not values.quantized:
        return smooth, counts.new_zeros(0, len(counts))
    calm = _without_spikes(values, counts, spread)
    few = float(calm.sum()) > 0.99 * float(counts.sum())
    again = smooth if few else kernel_estimates(values, calm, knots, spread, least_rate)
    smooth = PiecewiseLinear(
        torch.cat([smooth.knots, again.knots]),
        torch.cat([smooth.density, again.density]),
        torch.cat([smooth.tails, again.tails]),
    )
    frequent = torch.zeros_like(counts)
    top = torch.argsort(counts, descending=True, stable=True)[:num_spikes]
    frequent[top] = counts[top]
    pmfs = [frequent * (frequent >= least) for least in TIE_THRESHOLDS]
    pmfs.append(torch.where(frequent > 0, counts - calm, 0.0))
    # A candidate with no mass repeats the plain one: it then only shares its weight.
    plain = frequent / frequent.sum()
    return smooth, torch.stack([p / p.sum() if float(p.sum()) > 0 else plain for p in pmfs])


def _log_candidates(values: Values, which: Tensor, smooth: PiecewiseLinear, pmfs: Tensor, tail: Tail) -> Tensor:
    """Density or cell probability of distinct values ``which`` under each candidate: ``(num_candidates, |which|)``."""
    num = len(smooth.knots)
    x, low, high = values.x[which], values.lower[which], values.upper[which]
    if values.quantized:
        first = smooth.mass(low.expand(num, -1), high.expand(num, -1))
        widest = tail_mass(tail.standardised(low), tail.standardised(high), tail.bent)
    else:
        first = smooth.pdf(x.expand(num, -1))
        widest = torch.exp(tail_log_density(tail.standardised(x), tail.bent)) / tail.scale
    return torch.cat([first, widest[None], pmfs[:, which]])


def _stack(
    values: Values,
    index: Tensor,
    knots: Tensor,
    spread: Tensor,
    tail: Tail,
    num_spikes: int,
    seed: int,
    weight: Tensor | None = None,
) -> Tensor:
    """Weights of the candidates (smooth ones, the heavy tail, pmfs) that maximise the held-out likelihood."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(index), generator=generator)[:MAX_CV_ROWS]
    folds = min(FOLDS, len(order))
    m = len(values.x)

    def counted(rows: Tensor) -> Tensor:
        return torch.bincount(index[rows], None if weight is None else weight[rows], minlength=m).double()

    parts, counts = [], []
    for fold in range(folds):
        held = counted(order[fold::folds])
        rest = (counted(order) - held).clamp_min(0.0)
        if float(rest.sum()) == 0:
            continue
        smooth, pmfs = _candidates(values, rest, knots, spread, tail.least_rate, num_spikes)
        which = torch.nonzero(held)[:, 0]
        parts.append(_log_candidates(values, which, smooth, pmfs, tail))
        counts.append(held[which])
    if not parts:  # one row: nothing to hold out, so the widest candidate alone
        num = 2 * NUM_SMOOTH + 1 + len(TIE_THRESHOLDS) + 1 if values.quantized else NUM_SMOOTH + 1
        weights = torch.zeros(num, dtype=torch.float64)
        weights[(2 if values.quantized else 1) * NUM_SMOOTH] = 1.0
        return weights
    heavy = (2 if values.quantized else 1) * NUM_SMOOTH
    return stacking_weights(torch.cat(parts, dim=1), torch.cat(counts), heavy)


def stacking_weights(density: Tensor, counts: Tensor, heavy: int, num_steps: int = 300) -> Tensor:
    """Mixture weights by EM, with a pseudo-row spread over the candidates and half a row for the heavy tail.

    Args:
        density: ``(num_candidates, m)`` densities or probabilities of held-out values.
        counts: ``(m,)`` how often each occurs.
        heavy: Index of the candidate whose weight never vanishes.
    """
    num = len(density)
    prior = torch.full((num,), 0.5 / num, dtype=density.dtype)
    prior[heavy] += 0.5
    weights = torch.full((num,), 1 / num, dtype=density.dtype)
    for _ in range(num_steps):
        mixed = weights[:, None] * density
        share = mixed / mixed.sum(0).clamp_min(1e-300)
        updated = share @ counts + prior
        weights = updated / updated.sum()
    return weights
