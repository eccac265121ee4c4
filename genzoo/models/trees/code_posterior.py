r"""Estimates of noised codes by Bayes' rule: what a denoiser should say of a category or a coarse grid at low noise.

.. math:: E[x \mid x_t] = \sum_c p(c \mid x_t)\, \text{code}_c, \qquad
   p(c \mid x_t) \propto \pi_c \exp(-|x_t - a\, \text{code}_c|^2 / 2 s^2)

A linear estimate leaves a residual as wide as the noise; trees would have to learn a staircase at every level.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo.codecs.matrix import MatrixCodec
from genzoo.trees.levels import Level

MOST_VALUES = 64
"""A grid with more distinct training values is treated as smooth."""
FAR = 5.0
"""A noised value further than this many noise widths from every known one is taken as it is."""
CHUNK = 4096
LEAST_VARIANCE = 1e-5
"""Added to posterior variances: a kernel that is sure of itself makes weights without a variance."""


@dataclass(frozen=True)
class Codes:
    """Known points of some columns.

    Args:
        columns: ``(w,)`` columns of the matrix.
        points: ``(K, w)``.
        log_prob: ``(K,)`` log-frequencies.
        open: There are points beyond the known ones (a grid).
    """

    columns: Tensor
    points: Tensor
    log_prob: Tensor
    open: bool

    @property
    def one_hot(self) -> bool:
        """Each point has a column of its own."""
        return self.points.shape[0] == self.points.shape[1] > 1

    def log_posterior(self, x_t: Tensor, level: Level) -> Tensor:
        """``(n, K)`` log-probability of each point given noised codes ``(n, w)``."""
        distance = torch.cdist(x_t, level.signal * self.points, compute_mode="donot_use_mm_for_euclid_dist").square()
        return (self.log_prob - 0.5 * distance / level.noise**2).log_softmax(1)

    def estimate(self, x_t: Tensor, level: Level) -> tuple[Tensor, Tensor]:
        """Posterior mean and variance of each column of noised codes, ``(n, w)``."""
        out, variance = torch.empty_like(x_t), torch.empty_like(x_t)
        a, s = level.signal, level.noise
        for start in range(0, len(x_t), CHUNK):
            part = x_t[start : start + CHUNK]
            distance = (part[:, None, :] - a * self.points).square().sum(2)
            probability = (self.log_prob - 0.5 * distance / s**2).softmax(1)
            mean = probability @ self.points
            spread = (probability @ self.points.square() - mean.square()).clamp_min(0.0)
            if self.open and a > 0:
                far = distance.amin(1, keepdim=True) > (FAR * s) ** 2
                mean = torch.where(far, part / a, mean)
                spread = torch.where(far, (s / a) ** 2, spread)
            out[start : start + CHUNK], variance[start : start + CHUNK] = mean, spread + LEAST_VARIANCE
        return out, variance


def known_values(values: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values of a column ``(MOST_VALUES,)`` and their log-frequencies, padded by NaN; all NaN if too many."""
    points = torch.full((MOST_VALUES,), torch.nan, dtype=torch.float64)
    logs = points.clone()
    distinct, counts = torch.unique(values, return_counts=True)
    if 0 < len(distinct) <= MOST_VALUES:
        points[: len(distinct)] = distinct
        logs[: len(distinct)] = (counts.double() / counts.sum()).log()
    return points, logs


def all_codes(
    codec: MatrixCodec, category_log_prob: list[Tensor], grid_points: Tensor, grid_logs: Tensor
) -> list[Codes]:
    """Codes of every category slot and every coarse grid.

    Args:
        codec: The model's codec.
        category_log_prob: Per category slot.
        grid_points: ``(num_numbers, MOST_VALUES)`` of :func:`known_values`.
        grid_logs: Likewise.
    """
    out = []
    for block in codec.blocks:
        columns = torch.arange(block.start, block.start + block.width)
        if block.kind == "category" and block.width:
            out.append(Codes(columns, codec.codes(block.slot).cpu(), category_log_prob[block.slot], False))
        elif block.kind == "number":
            known = ~grid_points[block.slot].isnan()
            if bool(known.any()):
                points, logs = grid_points[block.slot][known], grid_logs[block.slot][known]
                out.append(Codes(columns, points[:, None].cpu(), logs.cpu(), True))
    return out


def block_axes(covariance: Tensor, smooth: Tensor) -> Tensor:
    """``(P, P)`` orthonormal: principal axes of the smooth columns, the others each by itself."""
    axes = torch.eye(len(covariance), dtype=covariance.dtype)
    index = smooth.nonzero().flatten()
    if len(index):
        axes[index[:, None], index] = torch.linalg.eigh(covariance[index][:, index])[1]
    return axes
