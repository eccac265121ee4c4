"""Training of one level of noise: the trees of its denoiser, the residual variances, and what the decoder needs."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from itertools import chain

import numpy as np
import torch
from torch import Tensor

from genzoo.codecs.matrix import Rows
from genzoo.likelihood.noise import seed_of
from genzoo.models.trees.category_steps import tilted
from genzoo.models.trees.decoder import Decoder
from genzoo.models.trees.denoiser import H_RANGE, Denoiser, residual_variance
from genzoo.models.trees.level_plan import LevelPlan
from genzoo.models.trees.noised_rows import (
    AUTO_ROWS,
    Noised,
    base_of_sample,
    learning_blocks,
    noised_copies,
    rebased,
    rows_to_noise,
    scaled_residual,
)
from genzoo.models.trees.training_rows import TrainingRows
from genzoo.trees.boosting import Array, Examples, Growth, grow_on, quantised
from genzoo.trees.example_table import Block, ExampleTable
from genzoo.trees.levels import Level
from genzoo.trees.store import CUT_SHORT, BoosterStore, array_bytes

LEAST_CALIBRATION = 4000
"""Noised rows that residual variances are measured on, at least."""
H_GROWTH = Growth(rounds=80, depth=3, eta=0.1, min_child_weight=10.0, patience=10)
LEAST_TAU = 1e-9
TREE_TIME = 0.7
"""Share of a level's time that its trees may take; residual variances are measured in the rest."""
SHARED_LEVELS = 5
"""Trees that serve all levels see as many noised rows as this many levels have."""
LEAST_SHARE, MOST_SHARE = 0.01, 0.99
"""Range of the denoiser's share in cells and in probabilities of categories."""


def train_level(
    index: int,
    denoiser: Denoiser,
    decoder: Decoder,
    rows: TrainingRows,
    held_out: Rows,
    plan: LevelPlan,
    group: int = 0,
) -> dict[str, bytes]:
    """The parts of one level: boosters ``f<column>`` (``f`` where leaves hold a vector) and ``h``, arrays ``tau``,
    ``base``, ``weight`` and ``growth``.

    Args:
        index: The level.
        denoiser: The Gaussian fits; its trees are not read.
        decoder: For the weights of cells.
        rows: Training rows (of the class, if each has trees of its own).
        held_out: Rows to stop by and to measure residuals on; may be empty.
        plan: How.
        group: The class.
    """
    started = time.monotonic()
    end = started + TREE_TIME * plan.seconds
    level = denoiser.levels[index]
    width = denoiser.width
    complete = denoiser.complete_view(group)
    store = BoosterStore()
    own = denoiser.with_store(store)
    job = own.job(level, group)
    stream = index if not denoiser.separate else f"{index}/{group}"
    parts: dict[str, bytes] = {}
    counts = np.zeros(width)
    generator = torch.Generator().manual_seed(seed_of(plan.seed, "noise", stream))
    pure = level.signal == 0 and rows.sample.cells.context.shape[1] == 0  # the mean is all there is to know
    if not plan.seconds:
        parts[CUT_SHORT] = array_bytes([width])
    if plan.grows and not pure and len(rows):
        if own.shared:
            base = base_of_sample(level, rows.sample, own, plan.seed)
            store.put(own.trees(level, group), denoiser.store.raw(own.trees(level, group)))
        else:
            base, blocks = learning_blocks(level, rows, own, plan, stream, generator)
            checks = _held_out_copies(held_out, level, own, generator) if plan.growth.patience else None
            stop = [] if checks is None else [_check(rebased(checks, base, level, own))]
            grown, counts = _grow_columns(blocks, stop, plan, stream, _on_disk(rows, plan), end)
            parts |= grown
        parts["base"] = array_bytes(base)
    parts["growth"] = array_bytes(counts)
    if not plan.grows or not plan.likelihood:
        # of the linear estimate, which needs no measurement
        left = complete.vector * residual_variance(complete.value, level)
        tau = (((left @ complete.vector.T) @ complete.axes) * complete.axes).sum(0).clamp_min(LEAST_TAU)
        return parts | {"tau": array_bytes(tau), "weight": array_bytes(np.full(width, 0.5))}
    store.put(job, parts)
    few, _ = rows_to_noise(rows.sample, 0, generator)
    fresh = noised_copies(few, max(1, -(-LEAST_CALIBRATION // max(len(few), 1))), level, own, generator)
    checks = _held_out_copies(held_out, level, own, generator)
    residual = fresh.x - _estimates(fresh, level, own)[0]
    tau = axis_variances(residual, complete.axes)
    check_residual = None
    if checks is not None:
        check_residual = checks.x - _estimates(checks, level, own)[0]
        # what trees fit too well on training rows; as the mean of logarithms, which is how it enters the bound
        ratio = (axis_variances(check_residual, complete.axes) / tau)[_measured(own)].log().mean().exp()
        tau = tau * ratio.clamp_min(1.0)
    parts["tau"] = array_bytes(tau)
    if plan.heteroscedastic and not pure and not bool(own.is_category.all()):
        sizes = grow_on(
            quantised(fresh.features, H_GROWTH.bins),
            _sizes(fresh, residual, level, own, tau),
            None if checks is None or check_residual is None else _sizes(checks, check_residual, level, own, tau),
            replace(
                H_GROWTH if checks is not None else replace(H_GROWTH, rounds=20, patience=0),
                seconds=started + plan.seconds - time.monotonic(),
            ),
            "reg:gamma",
            seed_of(plan.seed, "size", stream),
        )
        if sizes.blob:
            parts["h"] = sizes.blob
    store.put(job, parts)
    measured = checks if checks is not None else fresh
    x_hat, h = _estimates(measured, level, own)
    weight = _cell_weights(measured, x_hat, h, level, own, decoder)
    parts["weight"] = array_bytes(torch.where(own.is_category, _category_shares(measured, x_hat, level, own), weight))
    return parts


def _measured(denoiser: Denoiser) -> Tensor:
    """``(P,)`` columns whose steps are Gaussian; all of them in a table of categories alone."""
    category = denoiser.is_category
    return ~category if not bool(category.all()) else torch.ones_like(category)


def _on_disk(rows: TrainingRows, plan: LevelPlan) -> bool:
    return plan.on_disk(rows.total, rows.sample.values.shape[1], rows.stream is not None)


def train_shared(
    denoiser: Denoiser, rows: TrainingRows, held_out: Rows, plan: LevelPlan, group: int = 0
) -> dict[str, bytes]:
    """One set of trees for all levels: boosters ``f<column>`` and the array ``growth``, from copies at every level."""
    end = time.monotonic() + TREE_TIME * plan.seconds
    own = denoiser.with_store(BoosterStore())
    stream = "shared" if not denoiser.separate else f"shared/{group}"
    automatic = not plan.copies
    generator = torch.Generator().manual_seed(seed_of(plan.seed, "noise", stream))
    # as many rows as a few levels have: each level is told what its neighbours learned
    number = plan.copies or rows_to_noise(rows.sample, 0, generator)[1]
    plan = replace(plan, copies=max(1, -(-number * SHARED_LEVELS // len(denoiser.levels))))
    few = AUTO_ROWS * SHARED_LEVELS // len(denoiser.levels)
    learn, stop = [], []
    for level in denoiser.levels:
        if level.signal == 0 and rows.sample.cells.context.shape[1] == 0:
            continue
        base = base_of_sample(level, rows.sample, own, plan.seed)
        part = rows
        if automatic and len(rows) > few:
            chosen = torch.randperm(len(rows), generator=generator)[:few].sort().values
            part = TrainingRows(rows.sample.select(chosen), few)
        learn.append(learning_blocks(level, part, own, plan, f"{stream}/{level.index}", generator, base)[1])
        checks = _held_out_copies(held_out, level, own, generator) if plan.growth.patience else None
        if checks is not None:
            stop.append(_check(rebased(checks, base, level, own)))
    if not learn or not plan.grows:
        return {"growth": array_bytes(np.zeros(denoiser.width))}
    on_disk = _on_disk(
        replace(rows, total=rows.total * len(learn)), replace(plan, copies=0 if automatic else plan.copies)
    )
    parts, counts = _grow_columns(chain.from_iterable(learn), stop, plan, stream, on_disk, end)
    return parts | {"growth": array_bytes(counts)}


def _check(noised: Noised) -> Block:
    """What trees stop by: the rows themselves."""
    return noised.features, scaled_residual(noised, noised.x)


def _grow_columns(
    blocks: Iterable[Block], stop: list[Block], plan: LevelPlan, stream: int | str, on_disk: bool, end: float
) -> tuple[dict[str, bytes], Array]:
    """A booster for each column or one for all, from the copies of one level or of all; and their numbers of trees."""
    parts: dict[str, bytes] = {}
    cut_short = 0
    if plan.growth.vector:  # complete rows alone have all targets
        stop = [(f[here], t[here]) for f, t in stop if (here := ~np.isnan(t).any(1)).any()]
    with ExampleTable(blocks, plan.growth.bins, on_disk) as table:
        checks = ExampleTable(stop, plan.growth.bins, on_disk=False, like=table.matrix) if stop else None
        counts = np.zeros(table.num_targets)
        columns: list[int | None] = [None] if plan.growth.vector else list(range(table.num_targets))
        for done, column in enumerate(columns):
            # an even share of what is left: columns that stop early leave theirs to the others
            share = max(end - time.monotonic(), 0.0) / (len(columns) - done)
            grown = grow_on(
                table.matrix,
                table.examples(column),
                None if checks is None else checks.examples(column),
                replace(plan.growth, seconds=share),
                "reg:squarederror",
                seed_of(plan.seed, "trees", stream, 0 if column is None else column),
                held_out_matrix=None if checks is None else checks.matrix,
            )
            counts[slice(None) if column is None else column] = grown.rounds
            if grown.blob:
                parts["f" if column is None else f"f{column}"] = grown.blob
            cut_short += grown.cut_short
    if cut_short:
        parts[CUT_SHORT] = array_bytes([cut_short])
    return parts, counts


def axis_variances(residual: Tensor, axes: Tensor) -> Tensor:
    """``(P,)`` mean squared residual along each axis; products of columns are averaged where both are observed."""
    present = (~residual.isnan()).double()
    filled = torch.nan_to_num(residual, nan=0.0)
    moments = (filled.T @ filled) / (present.T @ present).clamp_min(1.0)
    return ((moments @ axes) * axes).sum(0).clamp_min(LEAST_TAU)


def _held_out_copies(rows: Rows, level: Level, denoiser: Denoiser, generator: torch.Generator) -> Noised | None:
    if not len(rows):
        return None
    rows = rows.select(slice(0, AUTO_ROWS))
    return noised_copies(rows, max(1, min(20, -(-LEAST_CALIBRATION // len(rows)))), level, denoiser, generator)


def _estimates(noised: Noised, level: Level, denoiser: Denoiser) -> tuple[Tensor, Tensor]:
    """``x_hat`` and the factors of the residual variances, both ``(n, P)``, NaN at holes."""
    out = torch.full_like(noised.x, torch.nan), torch.full_like(noised.x, torch.nan)
    views = denoiser.views(noised.x, noised.rows.group)
    context = noised.rows.cells.context
    parts = [(view, noised.x_t[chosen][:, view.index], context[chosen]) for view, chosen in views]
    for (view, chosen), found in zip(views, denoiser.estimates(level, parts), strict=True):
        for whole, one in zip(out, found, strict=True):
            whole[chosen[:, None], view.index] = one
    return out


def _sizes(noised: Noised, residual: Tensor, level: Level, denoiser: Denoiser, tau: Tensor) -> Examples:
    """What the heteroscedastic booster learns: the mean squared residual in units of ``tau``."""
    size = torch.ones(len(residual), dtype=torch.float64)
    for view, chosen in denoiser.views(residual, noised.rows.group):
        if len(view.index):
            base = denoiser.base(level, view.group)
            axes, value = view.residual_axes(level, tau)
            # axes that know their own variance, and categories, have no part in it
            free = ~((base[view.index] > 0) | denoiser.is_category[view.index])
            if bool(free.any()):
                size[chosen] = ((residual[chosen][:, view.index] @ axes).square() / value)[:, free].mean(1)
    return Examples(noised.features, size.clamp(0.1 * H_RANGE[0], 10 * H_RANGE[1]).numpy())


def _cell_weights(
    noised: Noised, x_hat: Tensor, h: Tensor, level: Level, denoiser: Denoiser, decoder: Decoder
) -> Tensor:
    """``(P,)`` share of the denoiser's Gaussian in the cells of each column, by a few steps of EM."""
    codec = decoder.codec
    weight = torch.full((noised.x.shape[1],), 0.5, dtype=torch.float64)
    for slot, number in enumerate(codec.typed.numbers):
        column = codec.number_column[slot]
        if not number.quantized or level.signal == 0:
            continue
        first, second = [], []
        for view, chosen in denoiser.views(noised.x, noised.rows.group):
            if not bool(view.observed[column]):
                continue
            spread = (view.axes[column].square() * denoiser.tau(level, view.group)).sum()
            cells = noised.rows.cells
            here = chosen[cells.present[chosen, slot]]
            lower, upper = cells.lower[here, slot], cells.upper[here, slot]
            one = torch.full((1,), 1.0, dtype=torch.float64)
            sd, seen = (h[here, column] * spread).sqrt(), noised.x_t[here, column]
            first.append(decoder._cell(lower, upper, x_hat[here, column], sd, seen, level, one))
            second.append(decoder.cell_from_noise(lower, upper, seen, level))
        if first and sum(map(len, first)):
            a, b, w = torch.cat(first), torch.cat(second), weight[column]
            weight[column] = _share(a, b, w)
    return weight


def _share(first: Tensor, second: Tensor, start: Tensor) -> Tensor:
    """Weight of the first of two log-densities in their best mixture, by a few steps of EM."""
    for _ in range(30):
        start = torch.sigmoid(torch.logit(start) + first - second).mean().clamp(LEAST_SHARE, MOST_SHARE)
    return start


def _category_shares(noised: Noised, x_hat: Tensor, level: Level, denoiser: Denoiser) -> Tensor:
    """``(P,)`` share of the denoiser in the probabilities of each category, beside Bayes' rule on its own code."""
    share = torch.full((denoiser.width,), 0.5, dtype=torch.float64)
    if not denoiser.categories:
        return share
    for codes in denoiser.categories:
        here = ~noised.x[:, codes.columns[0]].isnan()
        if level.signal == 0 or not bool(here.any()):
            continue
        x, x_t, own_hat = (values[here][:, codes.columns] for values in (noised.x, noised.x_t, x_hat))
        plain = codes.log_posterior(x_t, level)
        own = torch.cdist(x, codes.points).argmin(1)[:, None]
        first, second = (log.gather(1, own)[:, 0] for log in (tilted(codes, plain, own_hat), plain))
        share[codes.columns] = _share(first, second, share[codes.columns[0]])
    return share
