"""Noised copies of training rows, and what trees learn from them: rows, or means over rows, on top of an estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from genzoo.codecs.matrix import Rows
from genzoo.likelihood.noise import seed_of
from genzoo.models.trees.denoiser import Denoiser
from genzoo.models.trees.level_plan import LevelPlan
from genzoo.models.trees.training_rows import TrainingRows
from genzoo.trees.boosting import Array
from genzoo.trees.example_table import Block
from genzoo.trees.levels import Level

MOST_REFERENCES = 1500
"""Training rows that a posterior mean is taken over; below this number, all."""
CHUNK = 256
AUTO_ROWS = 20_000
MOST_COPIES = 20
BLOCK_ROWS = 2**15
"""Noised rows that are made at a time."""


@dataclass(frozen=True)
class Noised:
    """Noised copies of rows.

    Args:
        rows: The copied rows.
        x: ``(n, P)`` values, fillers drawn; NaN for holes.
        x_t: ``(n, P)``.
        features: ``(n, F)`` float32.
        linear: ``(n, P)`` the linear estimate.
        scale: ``(n, P)`` its residual standard deviations.
    """

    rows: Rows
    x: Tensor
    x_t: Tensor
    features: Array
    linear: Tensor
    scale: Tensor


def noised_copies(rows: Rows, copies: int, level: Level, denoiser: Denoiser, generator: torch.Generator) -> Noised:
    """Copies with noise of their own, and what the linear part makes of them."""
    index = torch.arange(len(rows)).repeat(copies)
    rows = rows.select(index)
    filler = torch.randn(rows.values.shape, generator=generator, dtype=torch.float64)
    x = torch.where(rows.filler, filler, rows.values)
    x_t = level.signal * x + level.noise * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    linear, scale = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    features = np.empty((0, 0), dtype=np.float32)
    for view, chosen in denoiser.views(x, rows.group):
        part = x_t[chosen][:, view.index]
        estimate, whole = view.linear(part, level)
        linear[chosen[:, None], view.index] = estimate
        scale[chosen[:, None], view.index] = view.scale(level).expand_as(estimate)
        told = denoiser.features(level, part, whole, view, rows.cells.context[chosen])
        if not len(features):
            features = np.empty((len(x), told.shape[1]), dtype=np.float32)
        features[chosen.numpy()] = told
    return Noised(rows, x, x_t, features, linear, scale)


def posterior_means(noised: Noised, reference: Tensor, level: Level, num_rows: int) -> Tensor:
    """``(n, P)`` mean over training rows of ``x``, weighted by how well each explains ``x_t``.

    Above :data:`MOST_REFERENCES` rows: over ``reference`` (a random part, each standing for several rows) and the row
    itself.

    Args:
        noised: Complete rows.
        reference: ``(m, P)`` training rows.
        level: Level of noise.
        num_rows: Training rows in all.
    """
    a, s = level.signal, level.noise
    out = torch.empty_like(noised.x)
    everything = len(reference) == num_rows
    each = 0.0 if everything else float(np.log((num_rows - 1) / len(reference)))
    for start in range(0, len(out), CHUNK):
        part = slice(start, start + CHUNK)
        x_t = noised.x_t[part]
        # |x_t - a x_i|^2 without the term that all i share
        log_w = (a * (x_t @ reference.T) - 0.5 * a * a * reference.square().sum(1)) / s**2 + each
        if everything:
            out[part] = log_w.softmax(1) @ reference
        else:
            x = noised.x[part]
            own = (a * (x_t * x).sum(1) - 0.5 * a * a * x.square().sum(1)) / s**2
            w = torch.cat([own[:, None], log_w], 1).softmax(1)
            out[part] = w[:, :1] * x + w[:, 1:] @ reference
    return out


def rows_to_noise(train: Rows, copies: int, generator: torch.Generator) -> tuple[Rows, int]:
    """Rows and copies of a level: all rows, or where ``copies`` is 0 a random part of a long table."""
    if copies:
        return train, copies
    if len(train) > AUTO_ROWS:
        return train.select(torch.randperm(len(train), generator=generator)[:AUTO_ROWS].sort().values), 1
    return train, max(1, min(MOST_COPIES, AUTO_ROWS // max(len(train), 1)))


def block_rows(copies: int) -> int:
    """Training rows whose copies are made at a time; more than a posterior mean is taken over."""
    return max(BLOCK_ROWS // copies, MOST_REFERENCES + 1)


def learning_blocks(
    level: Level,
    rows: TrainingRows,
    denoiser: Denoiser,
    plan: LevelPlan,
    stream: int | str,
    generator: torch.Generator,
    base: Tensor | None = None,
) -> tuple[Tensor, Iterator[Block]]:
    """Where Bayes' estimate is the base of a level (:func:`choose_base`), and what its trees learn from.

    Args:
        level: The level.
        rows: Training rows.
        denoiser: The Gaussian fits.
        plan: How; posterior means are taken where rows are complete and without context.
        stream: Name of the noise.
        generator: Noise of a table that fits in one block; of another, every block has its own.
        base: Chosen before.
    """
    if not plan.copies or (rows.stream is None and len(rows) <= block_rows(plan.copies)):
        part, copies = rows_to_noise(rows.sample, plan.copies, generator)
        noised = noised_copies(part, copies, level, denoiser, generator)
        target = noised.x
        if plan.posterior_mean and _plain(noised):
            target = _posterior_means_by_class(noised, len(part), level, plan.seed)
        base = choose_base(noised, level, denoiser) if base is None else base
        return base, iter([_block(rebased(noised, base, level, denoiser), target)])
    base = base_of_sample(level, rows.sample, denoiser, plan.seed) if base is None else base
    return base, _many_blocks(level, rows, denoiser, plan, stream, base)


def _many_blocks(
    level: Level, rows: TrainingRows, denoiser: Denoiser, plan: LevelPlan, stream: int | str, base: Tensor
) -> Iterator[Block]:
    """Blocks of the copies of a long table: a function of its rows in order, wherever they come from."""
    references = _references_by_class(rows, level, plan.seed) if plan.posterior_mean else None
    for number, part in enumerate(rows.blocks(block_rows(plan.copies))):
        generator = torch.Generator().manual_seed(seed_of(plan.seed, "noise", stream, number))
        noised = noised_copies(part, plan.copies, level, denoiser, generator)
        target = noised.x
        if references is not None and _plain(noised):
            target = target.clone()
            for group, (reference, count) in references.items():
                chosen = (noised.rows.group == group).nonzero().flatten()
                own = replace(noised, x=noised.x[chosen], x_t=noised.x_t[chosen])
                target[chosen] = posterior_means(own, reference, level, count)
        yield _block(rebased(noised, base, level, denoiser), target)


def _plain(noised: Noised) -> bool:
    """Posterior means can be taken: no holes, no context."""
    return noised.rows.cells.context.shape[1] == 0 and not bool(noised.x.isnan().any())


def _block(noised: Noised, target: Tensor) -> Block:
    return noised.features, scaled_residual(noised, target)


def scaled_residual(noised: Noised, target: Tensor) -> Array:
    """``(n, P)`` float32: what the trees of each column learn; NaN where it is not observed."""
    out: Array = ((target - noised.linear) / noised.scale).float().numpy()
    return out


def _references_by_class(rows: TrainingRows, level: Level, seed: int) -> dict[int, tuple[Tensor, int]] | None:
    """For each class, rows that stand for all of it, and how many it has; ``None`` where there are holes."""
    sample, out = rows.sample, {}
    generator = torch.Generator().manual_seed(seed_of(seed, "references", level.index))
    for group in sample.group.unique().tolist():
        members = (sample.group == group).nonzero().flatten()
        # a row is told of itself apart from these; one less than all, so that they stand for the others
        few = min(MOST_REFERENCES, max(len(members) - 1, 1))
        chosen = sample.select(members[torch.randperm(len(members), generator=generator)[:few]])
        filler = torch.randn(chosen.values.shape, generator=generator, dtype=torch.float64)
        values = torch.where(chosen.filler, filler, chosen.values)
        if bool(values.isnan().any()):
            return None
        count = round(len(members) * rows.total / len(sample))
        out[group] = values, max(count, 2)
    return out


def _posterior_means_by_class(noised: Noised, num_rows: int, level: Level, seed: int) -> Tensor:
    """Posterior means over the training rows of each row's own class."""
    out = torch.empty_like(noised.x)
    first = noised.rows.group[:num_rows]  # copies come one whole table after the other
    for group in first.unique().tolist():
        chosen = (noised.rows.group == group).nonzero().flatten()
        part = replace(noised, x=noised.x[chosen], x_t=noised.x_t[chosen])
        count = int((first == group).sum())
        out[chosen] = posterior_means(part, _references(part.x, count, seed, level.index), level, count)
    return out


def _references(x: Tensor, num_rows: int, seed: int, level: int) -> Tensor:
    if num_rows <= MOST_REFERENCES:
        return x[:num_rows]
    generator = torch.Generator().manual_seed(seed_of(seed, "references", level))
    return x[torch.randperm(num_rows, generator=generator)[:MOST_REFERENCES]]


def base_of_sample(level: Level, sample: Rows, denoiser: Denoiser, seed: int) -> Tensor:
    """:func:`choose_base` from about :data:`AUTO_ROWS` noised rows of their own."""
    generator = torch.Generator().manual_seed(seed_of(seed, "base", level.index))
    part, copies = rows_to_noise(sample, 0, generator)
    return choose_base(noised_copies(part, copies, level, denoiser, generator), level, denoiser)


def choose_base(noised: Noised, level: Level, denoiser: Denoiser) -> Tensor:
    """``(P,)`` root of the mean posterior variance where Bayes' estimate beats the linear one, else 0."""
    base = torch.zeros(noised.x.shape[1], dtype=torch.float64)
    for codes in denoiser.codes:
        here = ~noised.x[:, codes.columns[0]].isnan()
        if not bool(here.any()):
            continue
        x = noised.x[here][:, codes.columns]
        mean, variance = codes.estimate(noised.x_t[here][:, codes.columns], level)
        by_bayes = (x - mean).square().mean(0)
        linear = (x - noised.linear[here][:, codes.columns]).square().mean(0)
        if float(by_bayes.sum()) < float(linear.sum()):
            base[codes.columns] = variance.mean(0).sqrt()
    return base


def rebased(noised: Noised, base: Tensor, level: Level, denoiser: Denoiser) -> Noised:
    """The copies with Bayes' estimate in place of the linear one where ``base`` says so."""
    linear, scale = noised.linear.clone(), noised.scale.clone()
    for codes in denoiser.codes:
        if float(base[codes.columns[0]]) > 0:
            here = (~noised.x[:, codes.columns[0]].isnan()).nonzero().flatten()[:, None]
            linear[here, codes.columns] = codes.estimate(noised.x_t[here, codes.columns], level)[0]
            scale[here, codes.columns] = base[codes.columns].expand(len(here), -1)
    return replace(noised, linear=linear, scale=scale)
