r"""Maximum-likelihood Gaussian mixtures by EM, with holes, cells, categories, a prior and a floor.

Cells are spread evenly over their width: a number in a cell of width :math:`w` has its centre as mean and variance
:math:`w^2 / 12`, so EM climbs the uniform-dequantisation bound and no component can shrink below the resolution.

Maximised: log-likelihood plus :math:`\sum_k \log \pi_k`, :math:`s \sum_{kv} \bar p_v \log \theta_{kv}` and
:math:`-\tfrac{\nu}{2} \sum_k [\log|\Sigma_k| + \mathrm{tr}(P \Sigma_k^{-1})]` under :math:`\Sigma_k \succeq f P_0`.
Each M-step is the exact maximiser, so the objective never falls.

References: Dempster, Laird, Rubin (1977); Ghahramani and Jordan (1994), Learning from incomplete data; Fraley and
Raftery (2007), Bayesian regularization for normal mixture estimation (the prior's scale).
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.likelihood.normal_cells import LOG_2PI
from genzoo.models.baselines.mixture_density import MAX_ELEMENTS, Layout, Mixture, conditional, patterns
from genzoo.models.baselines.multinomials import laplace_log_probs

Groups = list[tuple[list[bool], Tensor]]
"""Rows by their pattern of holes, see :func:`~genzoo.models.baselines.mixture_density.patterns`."""


@dataclass(frozen=True)
class Prior:
    """What keeps a fit regular.

    Args:
        covariance: ``(d, d)`` P, towards which covariances are drawn.
        rows: nu, how many rows it counts for.
        least: ``(d, d)`` P_0; covariances stay above ``floor`` times it.
        floor: f.
        category: ``(total,)`` log-probabilities towards which multinomials are drawn.
        category_rows: s.
        cell_variance: ``(d,)`` w^2 / 12 of each quantized slot, 0 for a density.
    """

    covariance: Tensor
    rows: float
    least: Tensor
    floor: float
    category: Tensor
    category_rows: float
    cell_variance: Tensor


@dataclass(frozen=True)
class Moments:
    """Expected sufficient statistics: rows ``(K,)``, first ``(K, d)`` and second ``(K, d, d)`` about the old means."""

    rows: Tensor
    first: Tensor
    second: Tensor
    category: Tensor


def responsibilities(
    mixture: Mixture, layout: Layout, cells: Cells, prior: Prior, groups: Groups | None = None
) -> tuple[Tensor, Tensor]:
    """Log-responsibilities ``(batch, K)`` and each row's log-likelihood ``(batch,)`` under the dequantised bound."""
    joint = mixture.log_weight + layout.categories.row_log_probs(mixture.category, cells.category)
    for present, rows in groups or patterns(cells.present):
        dims = [j for j, here in enumerate(present) if here]
        if not dims:
            continue
        root = torch.linalg.cholesky(mixture.covariance[:, dims][:, :, dims])
        residual = cells.number[rows][:, dims].T - mixture.mean[:, dims, None]
        z = torch.linalg.solve_triangular(root, residual, upper=False).square().sum(1)  # (K, b)
        inverse = torch.cholesky_inverse(root).diagonal(dim1=1, dim2=2)
        spread = (inverse * prior.cell_variance[dims]).sum(1)
        constant = root.diagonal(dim1=1, dim2=2).log().sum(1) + 0.5 * len(dims) * LOG_2PI + 0.5 * spread
        joint[rows] += (-0.5 * z - constant[:, None]).T
    total = torch.logsumexp(joint, dim=1)
    return joint - total[:, None], total


def moments(
    mixture: Mixture, layout: Layout, cells: Cells, weight: Tensor, prior: Prior, groups: Groups | None = None
) -> Moments:
    """Expected statistics for weights ``(batch, K)`` (responsibilities); holes by their conditional moments."""
    num, d = mixture.mean.shape
    first, second = mixture.mean.new_zeros(num, d), mixture.mean.new_zeros(num, d, d)
    for present, rows in groups or patterns(cells.present):
        dims = [j for j, here in enumerate(present) if here]
        absent = [j for j, here in enumerate(present) if not here]
        slope, left = conditional(mixture, dims, absent)
        # Variance not seen in the filled rows: within cells, carried to the holes by regression, and what holes keep.
        lift = mixture.mean.new_zeros(num, d, len(dims))
        lift[:, dims] = torch.eye(len(dims), dtype=lift.dtype)
        if absent:
            lift[:, absent] = slope
        extra = lift * prior.cell_variance[dims] @ lift.transpose(1, 2)
        if absent:
            extra[:, torch.tensor(absent)[:, None], torch.tensor(absent)] += left
        second += weight[rows].sum(0)[:, None, None] * extra
        for chunk in rows.split(max(1, MAX_ELEMENTS // (num * max(1, d)))):
            w = weight[chunk].T[:, :, None]
            residual = cells.number[chunk][:, dims] - mixture.mean[:, None, dims]  # (K, b, dims)
            x = residual @ lift.transpose(1, 2)  # holes filled by their conditional mean
            weighted = x * w
            first += weighted.sum(1)
            second += weighted.transpose(1, 2) @ x
    return Moments(weight.sum(0), first, second, layout.categories.counts(cells.category, weight))


def maximise(mixture: Mixture, layout: Layout, stats: Moments, prior: Prior) -> Mixture:
    """The exact M-step."""
    rows = stats.rows.clamp_min(1e-10)[:, None]
    shift = stats.first / rows
    scatter = stats.second - rows[:, :, None] * shift[:, :, None] * shift[:, None, :]
    cov = (scatter + prior.rows * prior.covariance) / (rows + prior.rows)[:, :, None]
    cov = raise_to_floor(0.5 * (cov + cov.transpose(1, 2)), prior.floor * prior.least)
    weight = (stats.rows + 1).log()
    category = torch.empty_like(mixture.category)
    for part in layout.categories.slots():
        counts = stats.category[:, part] + prior.category_rows * prior.category[part].exp()
        category[:, part] = counts.log() - counts.sum(1, keepdim=True).log()
    return Mixture(weight - torch.logsumexp(weight, 0), mixture.mean + shift, cov, category)


def raise_to_floor(covariance: Tensor, least: Tensor) -> Tensor:
    """The covariance with its eigenvalues relative to ``least`` brought up to one: the constrained maximiser."""
    if covariance.shape[-1] == 0 or float(least.diagonal().min()) <= 0:
        return covariance
    root = torch.linalg.cholesky(least)
    whitened = torch.linalg.solve_triangular(root, covariance, upper=False)
    whitened = torch.linalg.solve_triangular(root, whitened.transpose(-1, -2), upper=False)
    values, vectors = torch.linalg.eigh(0.5 * (whitened + whitened.transpose(-1, -2)))
    if float(values.min()) >= 1:
        return covariance
    back = root @ vectors
    return (back * values.clamp_min(1.0)[..., None, :]) @ back.transpose(-1, -2)


def penalty(mixture: Mixture, prior: Prior) -> Tensor:
    """What is added to the log-likelihood of all rows."""
    out = mixture.log_weight.sum() + prior.category_rows * (prior.category.exp() * mixture.category).sum()
    if mixture.mean.shape[1] and prior.rows:
        root = torch.linalg.cholesky(mixture.covariance)
        trace = torch.cholesky_solve(prior.covariance.expand_as(root), root).diagonal(dim1=1, dim2=2).sum()
        out = out - 0.5 * prior.rows * (2 * root.diagonal(dim1=1, dim2=2).log().sum() + trace)
    return out


def run_em(
    mixture: Mixture,
    layout: Layout,
    cells: Cells,
    prior: Prior,
    num_steps: int = 100,
    tolerance: float = 1e-6,
    deadline: float = math.inf,
) -> tuple[Mixture, list[float]]:
    """EM until the objective per row rises by less than ``tolerance``, or the monotonic clock is at ``deadline``; also
    returns the objective at every step.
    """
    history: list[float] = []
    groups = list(patterns(cells.present))
    weight = row_weight(cells)
    rows = float(weight.sum())
    for _ in range(num_steps):
        log_r, total = responsibilities(mixture, layout, cells, prior, groups)
        history.append(float((weight * total).sum() + penalty(mixture, prior)) / max(1.0, rows))
        if len(history) > 1 and history[-1] - history[-2] < tolerance:
            break
        if time.monotonic() >= deadline:
            break
        share = log_r.exp() * weight[:, None]
        mixture = maximise(mixture, layout, moments(mixture, layout, cells, share, prior, groups), prior)
    return mixture, history


def marginal_statistics(layout: Layout, cells: Cells) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance ``(d,)`` of observed numbers (1 where they do not vary), and smoothed category log-probs."""
    weight = row_weight(cells)[:, None]
    count = (cells.present * weight).sum(0)
    count = torch.where(count > 0, count, 1.0)
    mean = (torch.where(cells.present, cells.number, 0.0) * weight).sum(0) / count
    variance = (torch.where(cells.present, (cells.number - mean).square(), 0.0) * weight).sum(0) / count
    counts = layout.categories.counts(cells.category, weight)[0]
    logs = [laplace_log_probs(counts[part]) for part in layout.categories.slots()]
    category = torch.cat(logs) if logs else counts
    return mean, torch.where(variance > 1e-12, variance, 1.0), category


def cell_variance(layout: Layout, cells: Cells) -> Tensor:
    """``w^2 / 12`` of each quantized slot (median width of its finite cells), 0 for a density."""
    width = cells.upper - cells.lower
    out = torch.zeros(width.shape[1], dtype=torch.float64)
    for j, quantized in enumerate(layout.quantized):
        if quantized:
            finite = width[cells.present[:, j] & torch.isfinite(width[:, j]), j]
            out[j] = finite.median().square() / 12 if len(finite) else 1 / 12
    return out


def select(cells: Cells, index: Tensor) -> Cells:
    """The rows at ``index``."""
    return cells.select(index)


def concatenate(batches: list[Cells]) -> Cells:
    """All rows of several batches, on the host, where closed-form models are fitted; weights as :func:`in_rows`."""
    parts: dict[str, list[Tensor | None]] = {
        name: [getattr(batch, name) for batch in batches] for name in Cells.__dataclass_fields__
    }
    joined = {
        name: None if any(t is None for t in tensors) else torch.cat([t.cpu() for t in tensors if t is not None])
        for name, tensors in parts.items()
    }
    return in_rows(Cells(**joined))  # type: ignore[arg-type]


def in_rows(cells: Cells) -> Cells:
    """Weights in units of rows: they sum to the effective number of rows, so that priors and pseudo-counts, which are
    worth some rows, keep their strength. Equal weights are none.
    """
    weight = cells.weight
    if weight is None or not len(weight) or bool((weight == weight[0]).all()):
        return replace(cells, weight=None)
    return replace(cells, weight=weight * (weight.sum() / weight.square().sum()))


def row_weight(cells: Cells) -> Tensor:
    """``(n,)`` float64: how many rows each row counts for; one without weights."""
    return cells.log_volume.new_ones(len(cells)) if cells.weight is None else cells.weight


def sharpened(mixture: Mixture, cell_variance: Tensor, share: float) -> Mixture:
    """Covariances less ``share`` times the variance within cells, kept positive.

    The scatter of cell centres already holds ``w^2 / 12`` of rounding (Sheppard), and EM adds as much again; the latent
    numbers have neither. At most 98 % of the variance in any direction is taken away.
    """
    if share == 0 or not bool((cell_variance > 0).any()):
        return mixture
    root = torch.linalg.cholesky(mixture.covariance)
    taken = torch.linalg.solve_triangular(root, torch.diag(cell_variance).expand_as(root), upper=False)
    taken = torch.linalg.solve_triangular(root, taken.transpose(1, 2), upper=False)
    values, vectors = torch.linalg.eigh(
        torch.eye(root.shape[1], dtype=root.dtype) - share * 0.5 * (taken + taken.transpose(1, 2))
    )
    back = root @ vectors
    cov = (back * values.clamp_min(0.02)[:, None, :]) @ back.transpose(1, 2)
    return replace(mixture, covariance=0.5 * (cov + cov.transpose(1, 2)))


def initial_components(
    mixture: Mixture, layout: Layout, cells: Cells, num_components: int, prior: Prior, generator: torch.Generator
) -> Mixture:
    """Starting values: k-means++ and five Lloyd steps on standardised numbers and one-hot categories.

    Args:
        mixture: The fitted one-component model; it scales numbers and fills holes by their conditional mean.
        layout: Roles of the slots.
        cells: Training rows.
        num_components: K.
        prior: The prior, for the first M-step.
        generator: Random numbers of k-means++.
    """
    features = _features(mixture, layout, cells)
    centres = _plus_plus(features, row_weight(cells), num_components, generator)
    nearest = torch.zeros(len(features), dtype=torch.int64)
    counted = row_weight(cells)
    for _ in range(5):
        nearest = torch.cdist(features, centres).argmin(1)
        total = torch.zeros_like(centres).index_add_(0, nearest, features * counted[:, None])
        size = torch.bincount(nearest, counted, minlength=num_components)[:, None]
        centres = torch.where(size > 0, total / torch.where(size > 0, size, 1.0), centres)
    weight = torch.full((len(features), num_components), 0.1 / num_components, dtype=torch.float64)
    weight[torch.arange(len(features)), nearest] += 0.9
    weight *= counted[:, None]
    repeated = Mixture(
        torch.full((num_components,), -math.log(num_components), dtype=torch.float64),
        *(
            getattr(mixture, name).repeat(num_components, *[1] * (getattr(mixture, name).ndim - 1))
            for name in ("mean", "covariance", "category")
        ),
    )
    return maximise(repeated, layout, moments(repeated, layout, cells, weight, prior), prior)


def _features(mixture: Mixture, layout: Layout, cells: Cells) -> Tensor:
    d = mixture.mean.shape[1]
    x = torch.zeros(len(cells), d, dtype=torch.float64)
    for present, rows in patterns(cells.present):
        dims = [j for j, here in enumerate(present) if here]
        absent = [j for j, here in enumerate(present) if not here]
        residual = cells.number[rows][:, dims] - mixture.mean[0, dims]
        x[rows[:, None], torch.tensor(dims, dtype=torch.int64)] = residual
        if absent and dims:
            slope, _ = conditional(mixture, dims, absent)
            x[rows[:, None], torch.tensor(absent)] = residual @ slope[0].T
    parts = [x / mixture.covariance[0].diagonal().sqrt()] if d else []
    for j, size in enumerate(layout.categories.sizes):
        if 0 < size <= 64:
            code = cells.category[:, j]
            one_hot = torch.nn.functional.one_hot(code.clamp_min(0), size).double() / math.sqrt(2)
            parts.append(torch.where(code[:, None] >= 0, one_hot, one_hot.mean(0)))
    return torch.cat(parts, dim=1) if parts else torch.zeros(len(cells), 1, dtype=torch.float64)


def _plus_plus(features: Tensor, counted: Tensor, num: int, generator: torch.Generator) -> Tensor:
    first = int(torch.randint(len(features), (1,), generator=generator))
    chosen = [first]
    distance = (features - features[first]).square().sum(1)
    for _ in range(num - 1):
        weight = counted * (distance if float(distance.sum()) > 0 else torch.ones_like(distance))
        nxt = int(
            torch.searchsorted(weight.cumsum(0), torch.rand(1, generator=generator, dtype=torch.float64) * weight.sum())
        )
        chosen.append(min(nxt, len(features) - 1))
        distance = torch.minimum(distance, (features - features[chosen[-1]]).square().sum(1))
    return features[torch.tensor(chosen)].clone()
