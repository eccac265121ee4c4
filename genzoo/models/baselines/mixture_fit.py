"""Fits the Gaussian and the mixture: how strong the prior, how many components, how sharp within cells."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from genzoo.codecs.base import CategorySlot, Cells, NumberSlot
from genzoo.likelihood.noise import seed_of
from genzoo.models.baselines.mixture_density import Layout, Mixture, log_probs
from genzoo.models.baselines.mixture_em import (
    Prior,
    cell_variance,
    initial_components,
    marginal_statistics,
    row_weight,
    run_em,
    select,
    sharpened,
)
from genzoo.models.baselines.multinomials import CategoryLayout

PRIOR_ROWS_PER_COLUMN = (0.0, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
MANY_ROWS_PER_COLUMN = 200
MAX_CHOICE_ROWS = 5_000
MAX_SCORE_ROWS = 2_000
MAX_SEARCH_ROWS = 40_000
MAX_START_ROWS = 8_000
SCORE_DRAWS = 8
LEAST_VARIANCE = 1e-6
"""Floor of one Gaussian's variances, as a share of each column's own."""


def layout_of(
    numbers: Sequence[NumberSlot], categories: Sequence[CategorySlot], widths: Tensor | None = None
) -> Layout:
    """Roles of the slots; ``widths`` ``(d,)`` orders the simulation of cells, narrow ones first."""
    order = range(len(numbers)) if widths is None else torch.argsort(widths, stable=True).tolist()
    return Layout(
        tuple(slot.quantized for slot in numbers),
        tuple(order),
        CategoryLayout([slot.num_categories for slot in categories]),
    )


def held_out_score(mixture: Mixture, layout: Layout, cells: Cells, seed: int) -> float:
    """Mean (weighted) log-likelihood of at most 2000 rows, nats, with the same simulation draws for every candidate."""
    cells = subsample(cells, MAX_SCORE_ROWS, seed)
    generator = torch.Generator().manual_seed(seed_of(seed, "score"))
    draws = SCORE_DRAWS if sum(layout.quantized) > 1 else 1
    uniform = torch.rand(len(cells), draws, len(layout.quantized), generator=generator, dtype=torch.float64)
    estimates = log_probs(mixture, layout, cells, uniform.clamp(2.0**-54, 1 - 2.0**-53))
    values = torch.logsumexp(estimates, 1) - torch.log(torch.tensor(float(draws)))
    weight = row_weight(cells)
    return float((weight * values).mean() / weight.mean())


def fit_gaussian(
    cells: Cells, layout: Layout, prior_rows: float | None = None, category_rows: float = 0.0, seed: int = 0
) -> Mixture:
    """One Gaussian and one product of multinomials by maximum likelihood, shrunk towards uncorrelated columns.

    The covariance is ``(n S + r V) / (n + r)`` with ``V`` the diagonal of column variances and ``r`` prior rows.

    Args:
        cells: Training rows.
        layout: Roles of the slots.
        prior_rows: r; ``None`` chooses it by cross-validation among multiples of the number of columns.
        category_rows: Not used by one component, whose multinomials are smoothed by themselves.
        seed: Seed of the folds.
    """
    start, prior = _gaussian_start(cells, layout)
    d = start.mean.shape[1]
    if d == 0 or len(cells) == 0:
        return start
    if prior_rows is None:
        # With this many rows a column, shrinkage has nothing left to gain.
        prior_rows = _choose_prior_rows(cells, layout, seed) if d > 1 and len(cells) < MANY_ROWS_PER_COLUMN * d else 0.0
    fitted, _ = run_em(start, layout, cells, replace(prior, rows=prior_rows), num_steps=200, tolerance=1e-7)
    return replace(fitted, category=start.category)


def _gaussian_start(cells: Cells, layout: Layout) -> tuple[Mixture, Prior]:
    mean, variance, category = marginal_statistics(layout, cells)
    inside = cell_variance(layout, cells)
    diagonal = torch.diag(variance + inside)
    prior = Prior(diagonal, 0.0, diagonal, LEAST_VARIANCE, category, 1.0, inside)
    return Mixture(torch.zeros(1, dtype=torch.float64), mean[None], diagonal[None], category[None]), prior


def _choose_prior_rows(cells: Cells, layout: Layout, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed_of(seed, "folds"))
    order = torch.randperm(len(cells), generator=generator)[:MAX_CHOICE_ROWS]
    d = cells.number.shape[1]
    folds = min(5 if len(order) < 500 else 3, len(order))
    candidates = [share * d for share in PRIOR_ROWS_PER_COLUMN]
    if folds < 2:
        return candidates[-1]
    dense = replace_quantized(layout)
    total = [0.0] * len(candidates)
    for fold in range(folds):
        held = torch.zeros(len(order), dtype=torch.bool)
        held[fold::folds] = True
        rest, test = select(cells, order[~held]), select(cells, order[held])
        start, prior = _gaussian_start(rest, layout)
        for i, rows in enumerate(candidates):
            start, _ = run_em(start, layout, rest, replace(prior, rows=rows), num_steps=10, tolerance=1e-4)
            total[i] += held_out_score(start, dense, test, seed) * float(row_weight(test).sum())
    return candidates[max(range(len(candidates)), key=total.__getitem__)]


def replace_quantized(layout: Layout) -> Layout:
    """The layout that reads centres of cells as densities: enough to choose a prior, and free of noise."""
    return Layout(tuple(False for _ in layout.quantized), layout.order, layout.categories)


def choose_sharpness(mixture: Mixture, layout: Layout, train: Cells, held: Cells, seed: int) -> Mixture:
    """Takes none, once or twice the variance within cells off the covariances: what scores held-out rows best."""
    inside = cell_variance(layout, train)
    if not bool((inside > 0).any()) or len(held) == 0:
        return mixture
    candidates = [sharpened(mixture, inside, share) for share in (0.0, 1.0, 2.0)]
    scores = [held_out_score(candidate, layout, held, seed) for candidate in candidates]
    return candidates[max(range(3), key=scores.__getitem__)]


def mixture_prior(gaussian: Mixture, layout: Layout, cells: Cells, num_components: int, floor: float) -> Prior:
    """Fraley and Raftery's scale: the pooled covariance over K^(2/d), for d + 2 rows."""
    d = gaussian.mean.shape[1]
    pooled = gaussian.covariance[0]
    scale = num_components ** (-2.0 / max(1, d))
    return Prior(pooled * scale, d + 2.0, pooled, floor, gaussian.category[0], 1.0, cell_variance(layout, cells))


def fit_components(
    gaussian: Mixture,
    layout: Layout,
    cells: Cells,
    num_components: int,
    floor: float,
    num_starts: int,
    seed: int,
    deadline: float = math.inf,
) -> Mixture:
    """EM for one number of components: short runs from several starts, and the best one to the end."""
    if num_components == 1:
        return gaussian
    prior = mixture_prior(gaussian, layout, cells, num_components, floor)
    best, best_value = gaussian, -float("inf")
    few = subsample(cells, MAX_START_ROWS, seed)
    for start in range(num_starts):
        generator = torch.Generator().manual_seed(seed_of(seed, "start", num_components, start))
        mixture = initial_components(gaussian, layout, few, num_components, prior, generator)
        mixture, history = run_em(mixture, layout, few, prior, num_steps=15, tolerance=1e-4, deadline=deadline)
        if history[-1] > best_value:
            best, best_value = mixture, history[-1]
    return run_em(best, layout, cells, prior, num_steps=60, tolerance=1e-4, deadline=deadline)[0]


def subsample(cells: Cells, most: int, seed: int) -> Cells:
    """At most ``most`` rows, chosen by the seed."""
    if len(cells) <= most:
        return cells
    generator = torch.Generator().manual_seed(seed_of(seed, "subsample", most))
    return select(cells, torch.randperm(len(cells), generator=generator)[:most])


def fit_mixture(
    train: Cells,
    held: Cells,
    layout: Layout,
    num_components: int | None,
    max_components: int,
    floor: float,
    num_starts: int,
    seed: int,
    deadline: float = math.inf,
) -> tuple[Mixture, Prior]:
    """A mixture fitted on ``train``, its number of components chosen on ``held``.

    Components double from one until the held-out likelihood has fallen twice in a row, or a component would have fewer
    than ten rows, or half the time to the ``deadline`` is over: all training rows have the rest. Also returns the prior
    it was fitted under.
    """
    half = (time.monotonic() + deadline) / 2
    search = subsample(train, MAX_SEARCH_ROWS, seed)
    gaussian = fit_gaussian(search, layout, seed=seed)
    if num_components is not None:
        best = fit_components(gaussian, layout, search, num_components, floor, num_starts, seed, half)
    else:
        best, best_score, worse, count = gaussian, -float("inf"), 0, 1
        while count <= max_components and (count == 1 or len(search) >= 10 * count) and worse < 2:
            if time.monotonic() >= half:
                break
            mixture = fit_components(gaussian, layout, search, count, floor, num_starts, seed, half)
            score = held_out_score(mixture, layout, held, seed) if len(held) else -float(count)
            worse = 0 if score > best_score else worse + 1
            if score > best_score:
                best, best_score = mixture, score
            count *= 2
    prior = mixture_prior(gaussian, layout, train, best.num_components, floor)
    if best.num_components > 1:
        best = run_em(best, layout, train, prior, num_steps=60, tolerance=1e-5, deadline=deadline)[0]
    return best, prior
