r"""The denoiser of one level: a linear part that is exact for Gaussian rows, and what trees add to it.

.. math:: \hat x(x_t) = m_t(x_t) + S_t f(x_t), \qquad
   m_t = \mu + a C (a^2 C + s^2 I)^{-1} (x_t - a \mu)

for the observed columns of a row; :math:`S_t` are the standard deviations of the linear residual. Trees see the noised
row (holes as NaN), context, and the linear estimate of the whole row along the principal axes of :math:`C`: oblique
structure is what splits along axes miss. Where categories or a coarse grid are better estimated by Bayes' rule
(:mod:`genzoo.models.trees.code_posterior`), that estimate stands in for :math:`m_t`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.models.trees.category_steps import category_log_probs
from genzoo.models.trees.code_posterior import Codes
from genzoo.trees.boosting import margin
from genzoo.trees.levels import Level
from genzoo.trees.store import BoosterStore

LEAST_SCALE = 1e-6
H_RANGE = (0.05, 20.0)
"""Range of the heteroscedastic factor."""


@dataclass(frozen=True)
class GaussianFit:
    """Moments of the training rows (of a class).

    Args:
        mean: ``(P,)`` float64.
        covariance: ``(P, P)`` positive definite.
        axes: ``(P, P)`` orthonormal axes of the residual covariance, in columns.
    """

    mean: Tensor
    covariance: Tensor
    axes: Tensor


class View:
    """The Gaussian fit as rows with some columns observed see it.

    Args:
        mean: ``(P,)`` float64.
        covariance: ``(P, P)`` positive definite.
        axes: ``(P, P)`` orthonormal axes of the residual covariance, in columns.
        smooth: ``(P,)`` bool: columns that share axes; every other column is an axis of its own.
        observed: ``(P,)`` bool.
        alone: The other columns are unknown, so that the observed ones are told less of than in a complete row; else
            this is a part of a complete row.
        group: The class whose fit this is.
        code: ``(C,)`` what trees are told of the class; empty if each class has trees of its own, or there is none.
        turn: ``(P, R)`` random directions in which trees see the linear estimate as well.
    """

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        axes: Tensor,
        smooth: Tensor,
        observed: Tensor,
        alone: bool = True,
        group: int = 0,
        code: Tensor | None = None,
        turn: Tensor | None = None,
    ) -> None:
        self.observed, self.alone, self.covariance = observed, alone, covariance
        self.turn = mean.new_zeros(len(mean), 0) if turn is None else turn
        self.group, self.code = group, mean.new_zeros(0) if code is None else code
        self.smooth = smooth
        self.index = observed.nonzero().flatten()
        self.complete = bool(observed.all())
        self.mean, self.all_mean, self.axes = mean[self.index], mean, axes
        self.cross = covariance[:, self.index]
        self.value, self.vector = torch.linalg.eigh(covariance[self.index][:, self.index])
        self.value = self.value.clamp_min(1e-12)
        self._variances: dict[int, tuple[Tensor, Tensor]] = {}

    def linear(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """``m_t`` ``(n, observed)``, and the estimate of the whole row along the principal axes, ``(n, P)``."""
        a = level.signal
        solved = ((x_t - a * self.mean) @ self.vector) / (a * a * self.value + level.noise**2)
        whole = self.all_mean + a * (solved @ self.vector.T) @ self.cross.T
        return self.mean + a * (solved * self.value) @ self.vector.T, whole @ self.axes

    def scale(self, level: Level) -> Tensor:
        """``S_t`` ``(observed,)``."""
        return (self.vector.square() @ residual_variance(self.value, level)).clamp_min(LEAST_SCALE**2).sqrt()

    def prior(self, level: Level, z: Tensor) -> Tensor:
        """Noised Gaussian rows from standard normal ``z`` ``(n, observed)``; ``z`` itself where no signal is left."""
        if level.signal == 0:
            return z * level.noise
        spread = (level.signal**2 * self.value + level.noise**2).sqrt()
        return level.signal * self.mean + (z * spread) @ self.vector.T

    def prior_log_ratio(self, level: Level, x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
        """The forward process at the level of most noise, and what the prior makes of it.

        Returns:
            x_t: ``(n, observed)`` ``a x + s z``.
            log_ratio: ``(n,)`` log-density of the noised Gaussian fit minus that of the forward process.
        """
        x_t = level.signal * x + level.noise * z
        if level.signal == 0:
            return x_t, torch.zeros(len(x), dtype=torch.float64)
        growth = (level.signal / level.noise) ** 2 * self.value + 1
        along = ((x_t - level.signal * self.mean) @ self.vector).square() / (level.noise**2 * growth)
        return x_t, 0.5 * (z.square().sum(1) - (along + growth.log()).sum(1))

    def residual_axes(self, level: Level, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Axes ``(observed, observed)`` and variances of the residual covariance of a level on the observed columns.

        ``tau`` ``(P,)`` are the variances along the axes in complete rows.
        """
        if level.index not in self._variances:
            if self.complete:
                self._variances[level.index] = (self.axes, tau)
            else:
                smooth = self.smooth[self.index].nonzero().flatten()
                vector = torch.eye(len(self.index), dtype=tau.dtype)
                value = tau[self.index].clone()
                if len(smooth):
                    block = self.smooth_residual(level, tau, smooth)
                    value[smooth], vector[smooth[:, None], smooth] = torch.linalg.eigh(block)
                self._variances[level.index] = (vector, value.clamp_min(1e-12))
        return self._variances[level.index]

    def smooth_residual(self, level: Level, tau: Tensor, places: Tensor) -> Tensor:
        """Residual covariance of smooth columns, by their places among the observed.

        That of complete rows, and what the Gaussian fit says the missing columns would have told.
        """
        part = self.axes[self.index[places]]
        block = (part * tau) @ part.T
        if self.alone and not self.complete:
            value, vector = torch.linalg.eigh(self.covariance)
            whole = vector[self.index[places]]
            told = (whole * residual_variance(value, level)) @ whole.T
            own = self.vector[places]
            block = block + (own * residual_variance(self.value, level)) @ own.T - told
        return block


def residual_variance(value: Tensor, level: Level) -> Tensor:
    """Variance that is left along an axis of Gaussian rows after seeing them noised."""
    return level.noise**2 * value / (level.signal**2 * value + level.noise**2)


def patterns(values: Tensor) -> list[tuple[Tensor, Tensor]]:
    """``(observed (P,), rows)`` of every pattern of holes of ``(n, P)`` values, in a fixed order."""
    present = ~values.isnan()
    if bool(present.all()):
        return [(present[0] if len(present) else present.new_ones(values.shape[1]), torch.arange(len(values)))]
    unique, index = torch.unique(present, dim=0, return_inverse=True)
    return [(unique[k], (index == k).nonzero().flatten()) for k in range(len(unique))]


class Denoiser:
    """All levels of a fitted model.

    Args:
        levels: In the order of their times.
        store: Parts by level: ``f<column>`` and ``h`` boosters; arrays ``tau``, and ``base``: per column, the root of
            the mean posterior variance of the estimate by Bayes' rule, or 0 where the linear one is the better.
        fits: The Gaussian fit of each class; one for a table without a label.
        smooth: ``(P,)`` columns that share axes.
        codes: Columns that can be estimated by Bayes' rule instead of linearly.
        separate: Each class has trees of its own; else trees are told the class.
        threads: Threads that read trees.
        rotations: Random rotations of the linear estimate that trees see.
        shared: One set of trees for all levels, which is told the level.
    """

    def __init__(
        self,
        levels: Sequence[Level],
        store: BoosterStore,
        fits: Sequence[GaussianFit],
        smooth: Tensor,
        codes: list[Codes],
        separate: bool,
        threads: int,
        rotations: int = 0,
        shared: bool = False,
    ) -> None:
        self.levels, self.store, self.fits, self.threads = levels, store, fits, threads
        self.smooth, self.codes, self.separate = smooth, codes, separate
        self.rotations, self.shared = rotations, shared
        self.turn = random_rotations(len(smooth), rotations)
        self._views: dict[tuple[bytes, bool, int], View] = {}
        self.categories = [one for one in codes if not one.open]
        self.is_category = torch.zeros(len(smooth), dtype=torch.bool)
        for one in self.categories:
            self.is_category[one.columns] = True

    @property
    def width(self) -> int:
        """Columns of the matrix."""
        return len(self.smooth)

    def with_store(self, store: BoosterStore) -> Denoiser:
        """The same model with other trees, read by one thread."""
        return Denoiser(
            self.levels, store, self.fits, self.smooth, self.codes, self.separate, 1, self.rotations, self.shared
        )

    def view(self, observed: Tensor, alone: bool = True, group: int = 0) -> View:
        """The Gaussian fit of a class for one pattern of holes, or for a part of a complete row."""
        key = (observed.numpy().tobytes(), alone, group)
        if key not in self._views:
            fit = self.fits[group]
            code = None
            if len(self.fits) > 1 and not self.separate:
                code = torch.zeros(len(self.fits), dtype=torch.float64)
                code[group] = 1.0
            self._views[key] = View(
                fit.mean, fit.covariance, fit.axes, self.smooth, observed, alone, group, code, self.turn
            )
        return self._views[key]

    def complete_view(self, group: int = 0) -> View:
        """The pattern without holes."""
        return self.view(torch.ones(self.width, dtype=torch.bool), group=group)

    def views(self, values: Tensor, group: Tensor) -> list[tuple[View, Tensor]]:
        """Every class and pattern of holes of rows ``(n, P)``, with the places of its rows, in a fixed order."""
        out = []
        for one in group.unique().tolist():
            members = (group == one).nonzero().flatten()
            out += [(self.view(observed, group=one), members[chosen]) for observed, chosen in patterns(values[members])]
        return out

    def job(self, level: Level, group: int) -> str:
        """Name of the job that trains a level (of a class)."""
        return level_name(level.index, group if self.separate else None)

    def trees(self, level: Level, group: int) -> str:
        """Name of the job whose trees a level (of a class) reads."""
        return shared_name(group if self.separate else None) if self.shared else self.job(level, group)

    def features(self, level: Level, x_t: Tensor, whole: Tensor, view: View, context: Tensor) -> NDArray[np.float32]:
        """What trees see of noised rows: see :func:`tree_features`; and the level, if they serve all."""
        told = tree_features(x_t, whole, view, context)
        if not self.shared:
            return told
        # the logarithm of the noise over the signal, with an end for pure noise
        place = np.log(level.noise) - np.log(max(level.signal, 1e-3))
        return np.concatenate([told, np.full((len(told), 1), place, dtype=np.float32)], 1)

    def tau(self, level: Level, group: int = 0) -> Tensor:
        """``(P,)`` residual variances of a level along the principal axes."""
        return torch.from_numpy(self.store.array(self.job(level, group), "tau").copy())

    def weight(self, level: Level, group: int = 0) -> Tensor:
        """``(P,)`` share of the denoiser in the cells of each column, and in the probabilities of each category."""
        return torch.from_numpy(self.store.array(self.job(level, group), "weight").copy())

    def category_steps(
        self, level: Level, x_t: Tensor, x_hat: Tensor, view: View
    ) -> list[tuple[Codes, Tensor, Tensor]]:
        """Each observed category: its codes, their places among the observed columns, ``(n, K)`` log-probabilities.

        Args:
            level: Level of noise.
            x_t: ``(n, observed)`` the noised row.
            x_hat: ``(n, observed)`` the estimate of :meth:`estimate`.
            view: The pattern of holes.
        """
        out = []
        weight = self.weight(level, view.group) if self.categories else None
        for codes in self.categories:
            if weight is not None and bool(view.observed[codes.columns[0]]):
                places = torch.searchsorted(view.index, codes.columns)
                share = weight[codes.columns[0]]
                log_prob = category_log_probs(codes, x_t[:, places], x_hat[:, places], level, share)
                out.append((codes, places, log_prob))
        return out

    def base(self, level: Level, group: int = 0) -> Tensor:
        """``(P,)`` see ``store``; zeros for a level without."""
        job = self.job(level, group)
        if not self.store.has(job, "base"):
            return torch.zeros(self.width, dtype=torch.float64)
        return torch.from_numpy(self.store.array(job, "base").copy())

    def estimate(self, level: Level, x_t: Tensor, view: View, context: Tensor) -> tuple[Tensor, Tensor]:
        """``x_hat`` and the factors ``h`` of the residual variances of a row, ``(n, observed)``; ``h`` by axis.

        At a time between trained levels the linear part is that of the time, and trees are those of the nearest level.
        """
        return self.estimates(level, [(view, x_t, context)])[0]

    def estimates(self, level: Level, parts: Sequence[tuple[View, Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """:meth:`estimate` of rows of several patterns of holes (view, ``x_t``, context), whose trees are the same.

        Each booster is read once for all rows: reading has a price of its own, whatever the number of rows.
        """
        if not parts:
            return []
        first = parts[0][0]
        job, trees = self.job(level, first.group), self.trees(level, first.group)
        begun = [self._linear_part(level, x_t, view) for view, x_t, _ in parts]
        sizes = [len(x_t) for _, x_t, _ in parts]
        added = torch.zeros(sum(sizes), self.width, dtype=torch.float64)
        sizes_of_residual = torch.ones(sum(sizes), dtype=torch.float64)
        columns = {"f": slice(None)} | {f"f{column}": slice(column, column + 1) for column in range(self.width)}
        columns = {name: where for name, where in columns.items() if self.store.has(trees, name)}
        if columns or self.store.has(job, "h"):
            features = np.concatenate(
                [
                    self.features(level, x_t, one.whole, view, context)
                    for (view, x_t, context), one in zip(parts, begun, strict=True)
                ]
            )

            def told(trees: str, name: str) -> Tensor:
                return torch.from_numpy(margin(self.store.booster(trees, name), features, self.threads))

            for name, where in columns.items():
                added[:, where] = told(trees, name).reshape(len(features), -1)
            if self.store.has(job, "h"):
                sizes_of_residual = told(job, "h").exp().clamp(*H_RANGE)
        out = []
        for (view, _, _), one, tree_part, size in zip(
            parts, begun, added.split(sizes), sizes_of_residual.split(sizes), strict=True
        ):
            h = size[:, None].repeat(1, len(view.index))
            for places, factor in one.own:  # these know the variance of each row
                h[:, places] = factor
            out.append((one.linear + one.scale * tree_part[:, view.index], h))
        return out

    def _linear_part(self, level: Level, x_t: Tensor, view: View) -> _LinearPart:
        """What is known without trees: the linear estimate, and Bayes' rule where it is the better."""
        linear, whole = view.linear(x_t, level)
        scale = view.scale(level)
        own: list[tuple[Tensor, Tensor]] = []
        base = self.base(level, view.group)
        if bool((base > 0).any()):
            place_of = {column: place for place, column in enumerate(view.index.tolist())}
            for codes in self.codes:
                if int(codes.columns[0]) in place_of and bool(base[codes.columns[0]] > 0):
                    places = torch.tensor([place_of[column] for column in codes.columns.tolist()])
                    linear[:, places], variance = codes.estimate(x_t[:, places], level)
                    scale[places] = base[codes.columns]
                    own.append((places, variance / base[codes.columns].square()))
        return _LinearPart(linear, whole, scale, own)


class _LinearPart(NamedTuple):
    """What the trees of a level add to: the estimate ``(n, observed)``, that of the whole row along its axes
    ``(n, P)``, the unit of the trees ``(observed,)``, and the factors of columns that know the variance of each row.
    """

    linear: Tensor
    whole: Tensor
    scale: Tensor
    own: list[tuple[Tensor, Tensor]]


def tree_features(x_t: Tensor, whole: Tensor, view: View, context: Tensor) -> NDArray[np.float32]:
    """``(n, F)`` float32: the noised row with NaN for holes, the linear estimate along its axes and along random
    directions, the class, context.
    """
    row = x_t.new_full((len(x_t), len(view.observed)), torch.nan)
    row[:, view.index] = x_t
    return (
        torch.cat([row, whole, whole @ view.turn, view.code.expand(len(x_t), -1), context.to(row)], 1).float().numpy()
    )


def level_name(level: int, group: int | None = None) -> str:
    """Name of the job of a level, or of a class at a level."""
    return f"level {level}" if group is None else f"level {level} class {group}"


def shared_name(group: int | None = None) -> str:
    """Name of the job of the trees that serve all levels (of a class)."""
    return "trees" if group is None else f"trees class {group}"


def random_rotations(width: int, count: int) -> Tensor:
    """``(width, count * width)`` orthonormal bases side by side, the same for every model of that width."""
    generator = torch.Generator().manual_seed(width)
    bases = [
        torch.linalg.qr(torch.randn(width, width, generator=generator, dtype=torch.float64))[0] for _ in range(count)
    ]
    return torch.cat(bases, 1) if bases else torch.zeros(width, 0, dtype=torch.float64)
