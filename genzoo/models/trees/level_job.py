"""Training of one level of noise: the trees of its denoiser, the residual variances, and what the decoder needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from genzoo.codecs.matrix import Rows
from genzoo.likelihood.noise import seed_of
from genzoo.models.trees.decoder import Decoder
from genzoo.models.trees.denoiser import H_RANGE, Denoiser, residual_variance
from genzoo.trees.boosting import Array, Examples, Growth, grow_on, quantised
from genzoo.trees.levels import Level
from genzoo.trees.store import BoosterStore, array_bytes

MOST_REFERENCES = 1500
"""Training rows that a posterior mean is taken over; below this number, all."""
LEAST_CALIBRATION = 4000
"""Noised rows that residual variances are measured on, at least."""
CHUNK = 256
AUTO_ROWS = 20_000
MOST_COPIES = 20
H_GROWTH = Growth(rounds=80, depth=3, eta=0.1, min_child_weight=10.0, patience=10)
LEAST_TAU = 1e-9
SHARED_LEVELS = 5
"""Trees that serve all levels see as many noised rows as this many levels have."""


@dataclass(frozen=True)
class LevelPlan:
    """How a level is trained.

    Args:
        growth: The trees.
        copies: Noised copies of each training row; 0 makes about :data:`AUTO_ROWS` noised rows of any table.
        posterior_mean: Targets are means over training rows instead of the row itself (complete rows only).
        heteroscedastic: One more booster predicts the size of the residual.
        seed: Seed of the model.
        likelihood: Residual variances are measured; without them rows can be drawn by the flow alone.
    """

    growth: Growth
    copies: int
    posterior_mean: bool
    heteroscedastic: bool
    seed: int
    likelihood: bool = True


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


def train_level(
    index: int, denoiser: Denoiser, decoder: Decoder, train: Rows, held_out: Rows, plan: LevelPlan, group: int = 0
) -> dict[str, bytes]:
    """The parts of one level: boosters ``f<column>`` and ``h``, arrays ``tau``, ``base``, ``weight`` and ``growth``.

    Args:
        index: The level.
        denoiser: The Gaussian fits; its trees are not read.
        decoder: For the weights of cells.
        train: Training rows (of the class, if each has trees of its own).
        held_out: Rows to stop by and to measure residuals on; may be empty.
        plan: How.
        group: The class.
    """
    level = denoiser.levels[index]
    width = train.values.shape[1]
    complete = denoiser.complete_view(group)
    store = BoosterStore()
    own = denoiser.with_store(store)
    job = own.job(level, group)
    stream = index if not denoiser.separate else f"{index}/{group}"
    parts: dict[str, bytes] = {}
    counts = np.zeros(width)
    generator = torch.Generator().manual_seed(seed_of(plan.seed, "noise", stream))
    pure = level.signal == 0 and train.cells.context.shape[1] == 0  # the mean is all there is to know
    if plan.growth.rounds and not pure and len(train):
        noised, target = _examples_of_level(level, train, own, plan, generator)
        base = _choose_base(noised, level, own)
        parts["base"] = array_bytes(base)
        if own.shared:
            store.put(own.trees(level, group), denoiser.store.raw(own.trees(level, group)))
        else:
            noised = _rebased(noised, base, level, own)
            checks = _held_out_copies(held_out, level, own, generator) if plan.growth.patience else None
            checks = None if checks is None else _rebased(checks, base, level, own)
            grown, counts = _grow_columns([(noised, target)], [] if checks is None else [checks], plan, stream)
            parts |= grown
    parts["growth"] = array_bytes(counts)
    if plan.growth.rounds == 0 or not plan.likelihood:
        # of the linear estimate, which needs no measurement
        left = complete.vector * residual_variance(complete.value, level)
        tau = (((left @ complete.vector.T) @ complete.axes) * complete.axes).sum(0).clamp_min(LEAST_TAU)
        return parts | {"tau": array_bytes(tau), "weight": array_bytes(np.full(width, 0.5))}
    store.put(job, parts)
    rows, _ = _rows_to_noise(train, 0, generator)
    fresh = noised_copies(rows, max(1, -(-LEAST_CALIBRATION // max(len(rows), 1))), level, own, generator)
    checks = _held_out_copies(held_out, level, own, generator)
    residual = fresh.x - _estimates(fresh, level, own)
    tau = axis_variances(residual, complete.axes)
    check_residual = None
    if checks is not None:
        check_residual = checks.x - _estimates(checks, level, own)
        # what trees fit too well on training rows; as the mean of logarithms, which is how it enters the bound
        ratio = (axis_variances(check_residual, complete.axes) / tau).log().mean().exp()
        tau = tau * ratio.clamp_min(1.0)
    parts["tau"] = array_bytes(tau)
    if plan.heteroscedastic and not pure:
        sizes = grow_on(
            quantised(fresh.features, H_GROWTH.bins),
            _sizes(fresh, residual, level, own, tau),
            None if checks is None or check_residual is None else _sizes(checks, check_residual, level, own, tau),
            H_GROWTH if checks is not None else replace(H_GROWTH, rounds=20, patience=0),
            "reg:gamma",
            seed_of(plan.seed, "size", stream),
        )
        if sizes.blob:
            parts["h"] = sizes.blob
    store.put(job, parts)
    parts["weight"] = array_bytes(_cell_weights(checks if checks is not None else fresh, level, own, decoder))
    return parts


def train_shared(denoiser: Denoiser, train: Rows, held_out: Rows, plan: LevelPlan, group: int = 0) -> dict[str, bytes]:
    """One set of trees for all levels: boosters ``f<column>`` and the array ``growth``, from copies at every level."""
    own = denoiser.with_store(BoosterStore())
    stream = "shared" if not denoiser.separate else f"shared/{group}"
    generator = torch.Generator().manual_seed(seed_of(plan.seed, "noise", stream))
    # as many rows as a few levels have: each level is told what its neighbours learned
    copies = max(1, -(-_rows_to_noise(train, plan.copies, generator)[1] * SHARED_LEVELS // len(denoiser.levels)))
    learn, stop = [], []
    for level in denoiser.levels:
        if level.signal == 0 and train.cells.context.shape[1] == 0:
            continue
        noised, target = _examples_of_level(level, train, own, replace(plan, copies=copies), generator)
        base = _choose_base(noised, level, own)
        learn.append((_rebased(noised, base, level, own), target))
        checks = _held_out_copies(held_out, level, own, generator) if plan.growth.patience else None
        if checks is not None:
            stop.append(_rebased(checks, base, level, own))
    if not learn or not plan.growth.rounds:
        return {"growth": array_bytes(np.zeros(denoiser.width))}
    parts, counts = _grow_columns(learn, stop, plan, stream)
    return parts | {"growth": array_bytes(counts)}


def _examples_of_level(
    level: Level, train: Rows, denoiser: Denoiser, plan: LevelPlan, generator: torch.Generator
) -> tuple[Noised, Tensor]:
    """Noised copies of the training rows, and what their trees learn from: the rows, or means over them."""
    rows, copies = _rows_to_noise(train, plan.copies, generator)
    noised = noised_copies(rows, copies, level, denoiser, generator)
    holes = bool(noised.x.isnan().any())
    if plan.posterior_mean and not holes and noised.rows.cells.context.shape[1] == 0:
        return noised, _posterior_means_by_class(noised, len(rows), level, plan.seed)
    return noised, noised.x


def _grow_columns(
    learn: list[tuple[Noised, Tensor]], stop: list[Noised], plan: LevelPlan, stream: int | str
) -> tuple[dict[str, bytes], Array]:
    """A booster for each column, from the copies of one level or of all; and the number of trees of each."""
    width = learn[0][0].x.shape[1]
    parts, counts = {}, np.zeros(width)
    matrix = quantised(np.concatenate([noised.features for noised, _ in learn]), plan.growth.bins)
    check_matrix = None
    if stop:
        check_matrix = quantised(np.concatenate([one.features for one in stop]), plan.growth.bins, like=matrix)
    for column in range(width):
        grown = grow_on(
            matrix,
            _joined([_examples(noised, target, column) for noised, target in learn]),
            _joined([_examples(one, one.x, column) for one in stop]) if stop else None,
            plan.growth,
            "reg:squarederror",
            seed_of(plan.seed, "trees", stream, column),
            held_out_matrix=check_matrix,
        )
        counts[column] = grown.rounds
        if grown.blob:
            parts[f"f{column}"] = grown.blob
    return parts, counts


def _joined(parts: list[Examples]) -> Examples:
    """Examples of several levels, one after the other (features are in bins already, and left out)."""
    if len(parts) == 1:
        return parts[0]
    weight = None
    if any(part.weight is not None for part in parts):
        weight = np.concatenate([np.ones(len(part)) if part.weight is None else part.weight for part in parts])
    return Examples(parts[0].features[:0], np.concatenate([part.target for part in parts]), None, weight)


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


def _choose_base(noised: Noised, level: Level, denoiser: Denoiser) -> Tensor:
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


def _rebased(noised: Noised, base: Tensor, level: Level, denoiser: Denoiser) -> Noised:
    """The copies with Bayes' estimate in place of the linear one where ``base`` says so."""
    linear, scale = noised.linear.clone(), noised.scale.clone()
    for codes in denoiser.codes:
        if float(base[codes.columns[0]]) > 0:
            here = (~noised.x[:, codes.columns[0]].isnan()).nonzero().flatten()[:, None]
            linear[here, codes.columns] = codes.estimate(noised.x_t[here, codes.columns], level)[0]
            scale[here, codes.columns] = base[codes.columns].expand(len(here), -1)
    return replace(noised, linear=linear, scale=scale)


def axis_variances(residual: Tensor, axes: Tensor) -> Tensor:
    """``(P,)`` mean squared residual along each axis; products of columns are averaged where both are observed."""
    present = (~residual.isnan()).double()
    filled = torch.nan_to_num(residual, nan=0.0)
    moments = (filled.T @ filled) / (present.T @ present).clamp_min(1.0)
    return ((moments @ axes) * axes).sum(0).clamp_min(LEAST_TAU)


def _rows_to_noise(train: Rows, copies: int, generator: torch.Generator) -> tuple[Rows, int]:
    """Rows and copies of a level: all rows, or where ``copies`` is 0 a random part of a long table."""
    if copies:
        return train, copies
    if len(train) > AUTO_ROWS:
        return train.select(torch.randperm(len(train), generator=generator)[:AUTO_ROWS].sort().values), 1
    return train, max(1, min(MOST_COPIES, AUTO_ROWS // max(len(train), 1)))


def _held_out_copies(rows: Rows, level: Level, denoiser: Denoiser, generator: torch.Generator) -> Noised | None:
    if not len(rows):
        return None
    rows = rows.select(slice(0, AUTO_ROWS))
    return noised_copies(rows, max(1, min(20, -(-LEAST_CALIBRATION // len(rows)))), level, denoiser, generator)


def _references(x: Tensor, num_rows: int, seed: int, level: int) -> Tensor:
    if num_rows <= MOST_REFERENCES:
        return x[:num_rows]
    generator = torch.Generator().manual_seed(seed_of(seed, "references", level))
    return x[torch.randperm(num_rows, generator=generator)[:MOST_REFERENCES]]


def _examples(noised: Noised, target: Tensor, column: int) -> Examples:
    """What the trees of a column learn: its scaled residual, where it is observed."""
    f = (target[:, column] - noised.linear[:, column]) / noised.scale[:, column]
    here = ~f.isnan()
    weight = None if bool(here.all()) else here.double().numpy()
    return Examples(noised.features, torch.nan_to_num(f, nan=0.0).numpy(), None, weight)


def _estimates(noised: Noised, level: Level, denoiser: Denoiser) -> Tensor:
    """``(n, P)`` ``x_hat``, NaN at holes."""
    out = torch.full_like(noised.x, torch.nan)
    for view, chosen in denoiser.views(noised.x, noised.rows.group):
        part = noised.x_t[chosen][:, view.index]
        out[chosen[:, None], view.index] = denoiser.estimate(level, part, view, noised.rows.cells.context[chosen])[0]
    return out


def _sizes(noised: Noised, residual: Tensor, level: Level, denoiser: Denoiser, tau: Tensor) -> Examples:
    """What the heteroscedastic booster learns: the mean squared residual in units of ``tau``."""
    size = torch.ones(len(residual), dtype=torch.float64)
    for view, chosen in denoiser.views(residual, noised.rows.group):
        if len(view.index):
            base = denoiser.base(level, view.group)
            axes, value = view.residual_axes(level, tau)
            # axes that know their own variance have no part in it
            free = ~(base[view.index] > 0)
            if bool(free.any()):
                size[chosen] = ((residual[chosen][:, view.index] @ axes).square() / value)[:, free].mean(1)
    return Examples(noised.features, size.clamp(0.1 * H_RANGE[0], 10 * H_RANGE[1]).numpy())


def _cell_weights(noised: Noised, level: Level, denoiser: Denoiser, decoder: Decoder) -> Tensor:
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
            part = noised.x_t[chosen][:, view.index]
            x_hat, h = denoiser.estimate(level, part, view, noised.rows.cells.context[chosen])
            place = int((view.index == column).nonzero())
            spread = (view.axes[column].square() * denoiser.tau(level, view.group)).sum()
            cells, present = noised.rows.cells, noised.rows.cells.present[chosen, slot]
            lower, upper = cells.lower[chosen, slot][present], cells.upper[chosen, slot][present]
            one = torch.full((1,), 1.0, dtype=torch.float64)
            sd = (h[present, place] * spread).sqrt()
            first.append(decoder._cell(lower, upper, x_hat[present, place], sd, part[present, place], level, one))
            second.append(decoder.cell_from_noise(lower, upper, part[present, place], level))
        if first and sum(map(len, first)):
            a, b, w = torch.cat(first), torch.cat(second), weight[column]
            for _ in range(30):
                w = torch.sigmoid(torch.logit(w) + a - b).mean().clamp(0.01, 0.99)
            weight[column] = w
    return weight
