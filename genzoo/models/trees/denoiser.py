r"""The denoiser of one level: a linear part that is exact for Gaussian rows, and what trees add to it.

.. math:: \hat x(x_t) = m_t(x_t) + S_t f(x_t), \qquad
   m_t = \mu + a C (a^2 C + t^2 I)^{-1} (x_t - a \mu)

for the observed columns of a row; :math:`S_t` are the standard deviations of the linear residual. Trees see the noised
row (holes as NaN), context, and the linear estimate of the whole row along the principal axes of :math:`C`: oblique
structure is what splits along axes miss. Where categories or a coarse grid are better estimated by Bayes' rule
(:mod:`genzoo.models.trees.code_posterior`), that estimate stands in for :math:`m_t`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.models.trees.code_posterior import Codes
from genzoo.trees.boosting import margin
from genzoo.trees.store import BoosterStore

LEAST_SCALE = 1e-6
H_RANGE = (0.05, 20.0)
"""Range of the heteroscedastic factor."""


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
    """

    def __init__(
        self,
        mean: Tensor,
        covariance: Tensor,
        axes: Tensor,
        smooth: Tensor,
        observed: Tensor,
        alone: bool = True,
    ) -> None:
        self.observed, self.alone, self.covariance = observed, alone, covariance
        self.smooth = smooth
        self.index = observed.nonzero().flatten()
        self.complete = bool(observed.all())
        self.mean, self.all_mean, self.axes = mean[self.index], mean, axes
        self.cross = covariance[:, self.index]
        self.value, self.vector = torch.linalg.eigh(covariance[self.index][:, self.index])
        self.value = self.value.clamp_min(1e-12)
        self._variances: dict[int, tuple[Tensor, Tensor]] = {}

    def linear(self, x_t: Tensor, t: float) -> tuple[Tensor, Tensor]:
        """``m_t`` ``(n, observed)``, and the estimate of the whole row along the principal axes, ``(n, P)``."""
        a = 1 - t
        solved = ((x_t - a * self.mean) @ self.vector) / (a * a * self.value + t * t)
        whole = self.all_mean + a * (solved @ self.vector.T) @ self.cross.T
        return self.mean + a * (solved * self.value) @ self.vector.T, whole @ self.axes

    def scale(self, t: float) -> Tensor:
        """``S_t`` ``(observed,)``."""
        return (self.vector.square() @ _residual(self.value, t)).clamp_min(LEAST_SCALE**2).sqrt()

    def residual_axes(self, level: int, t: float, tau: Tensor) -> tuple[Tensor, Tensor]:
        """Axes ``(observed, observed)`` and variances of the residual covariance of a level on the observed columns.

        ``tau`` ``(P,)`` are the variances along the axes in complete rows.
        """
        if level not in self._variances:
            if self.complete:
                self._variances[level] = (self.axes, tau)
            else:
                smooth = self.smooth[self.index].nonzero().flatten()
                vector = torch.eye(len(self.index), dtype=tau.dtype)
                value = tau[self.index].clone()
                if len(smooth):
                    block = self.smooth_residual(t, tau, smooth)
                    value[smooth], vector[smooth[:, None], smooth] = torch.linalg.eigh(block)
                self._variances[level] = (vector, value.clamp_min(1e-12))
        return self._variances[level]

    def smooth_residual(self, t: float, tau: Tensor, places: Tensor) -> Tensor:
        """Residual covariance of smooth columns, by their places among the observed.

        That of complete rows, and what the Gaussian fit says the missing columns would have told.
        """
        part = self.axes[self.index[places]]
        block = (part * tau) @ part.T
        if self.alone and not self.complete:
            value, vector = torch.linalg.eigh(self.covariance)
            whole = vector[self.index[places]]
            told = (whole * _residual(value, t)) @ whole.T
            own = self.vector[places]
            block = block + (own * _residual(self.value, t)) @ own.T - told
        return block


def _residual(value: Tensor, t: float) -> Tensor:
    """Variance that is left along an axis of Gaussian rows after seeing them noised."""
    return t * t * value / ((1 - t) ** 2 * value + t * t)


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
        levels: ``(L,)`` ascending.
        store: Parts by level: ``f<column>`` and ``h`` boosters; arrays ``tau``, and ``base``: per column, the root of
            the mean posterior variance of the estimate by Bayes' rule, or 0 where the linear one is the better.
        mean: ``(P,)``.
        covariance: ``(P, P)``.
        axes: ``(P, P)`` axes of the residual covariance.
        smooth: ``(P,)`` columns that share axes.
        codes: Columns that can be estimated by Bayes' rule instead of linearly.
        threads: Threads that read trees.
    """

    def __init__(
        self,
        levels: NDArray[np.float64],
        store: BoosterStore,
        mean: Tensor,
        covariance: Tensor,
        axes: Tensor,
        smooth: Tensor,
        codes: list[Codes],
        threads: int,
    ) -> None:
        self.levels, self.store, self.threads = levels, store, threads
        self.mean, self.covariance, self.axes = mean, covariance, axes
        self.smooth, self.codes = smooth, codes
        self._views: dict[bytes, View] = {}

    def with_store(self, store: BoosterStore) -> Denoiser:
        """The same model with other trees, read by one thread."""
        return Denoiser(self.levels, store, self.mean, self.covariance, self.axes, self.smooth, self.codes, threads=1)

    def view(self, observed: Tensor, alone: bool = True) -> View:
        """The Gaussian fit for one pattern of holes, or for a part of a complete row."""
        key = observed.numpy().tobytes() + bytes([alone])
        if key not in self._views:
            self._views[key] = View(self.mean, self.covariance, self.axes, self.smooth, observed, alone)
        return self._views[key]

    def tau(self, level: int) -> Tensor:
        """``(P,)`` residual variances of a level along the principal axes."""
        return torch.from_numpy(self.store.array(level_name(level), "tau").copy())

    def estimate(self, level: int, x_t: Tensor, view: View, context: Tensor) -> tuple[Tensor, Tensor]:
        """``x_hat`` and the factors ``h`` of the residual variances of a row, ``(n, observed)``; ``h`` by axis."""
        job, t = level_name(level), float(self.levels[level])
        linear, whole = view.linear(x_t, t)
        scale = view.scale(t)
        own: list[tuple[Tensor, Tensor]] = []
        base = torch.from_numpy(self.store.array(job, "base").copy()) if self.store.has(job, "base") else None
        if base is not None and bool((base > 0).any()):
            place_of = {column: place for place, column in enumerate(view.index.tolist())}
            for codes in self.codes:
                if int(codes.columns[0]) in place_of and bool(base[codes.columns[0]] > 0):
                    places = torch.tensor([place_of[column] for column in codes.columns.tolist()])
                    linear[:, places], variance = codes.estimate(x_t[:, places], t)
                    scale[places] = base[codes.columns]
                    own.append((places, variance / base[codes.columns].square()))
        features: NDArray[np.float32] | None = None

        def read(part: str) -> Tensor:
            nonlocal features
            if features is None:
                features = tree_features(x_t, whole, view, context)
            return torch.from_numpy(margin(self.store.booster(job, part), features, self.threads))

        for place, column in enumerate(view.index.tolist()):
            if self.store.has(job, f"f{column}"):
                linear[:, place] += scale[place] * read(f"f{column}")
        h = torch.ones(len(x_t), 1, dtype=torch.float64)
        if self.store.has(job, "h"):
            h = read("h").exp().clamp(*H_RANGE)[:, None]
        h = h.repeat(1, len(view.index))
        for places, factor in own:  # these know the variance of each row
            h[:, places] = factor
        return linear, h


def tree_features(x_t: Tensor, whole: Tensor, view: View, context: Tensor) -> NDArray[np.float32]:
    """``(n, P + P + num_context)`` float32: the noised row with NaN for holes, the linear estimate, context."""
    row = x_t.new_full((len(x_t), len(view.observed)), torch.nan)
    row[:, view.index] = x_t
    return torch.cat([row, whole, context.to(row)], 1).float().numpy()


def level_name(level: int) -> str:
    """Name of the job of a level."""
    return f"level {level}"


def as_float64(values: Any) -> Tensor:
    """A float64 tensor on the CPU."""
    return torch.as_tensor(values, dtype=torch.float64).cpu()
