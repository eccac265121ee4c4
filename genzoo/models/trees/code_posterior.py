r"""Estimates of noised codes by Bayes' rule: what a denoiser should say of a category or a coarse grid at low noise.

.. math:: E[x \mid x_t] = \sum_c p(c \mid x_t)\, \text{code}_c, \qquad
   p(c \mid x_t) \propto \pi_c \exp(-|x_t - a\, \text{code}_c|^2 / 2 s^2)

A linear estimate leaves a residual as wide as the noise; trees would have to learn a staircase at every level. A fine
grid with atoms has Gaussians beside its points: parts of the rest, each with a variance of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo.codecs.matrix import MatrixCodec
from genzoo.trees.levels import Level

MOST_VALUES = 64
"""A grid with more distinct training values is treated as smooth, apart from its atoms."""
PARTS = 16
"""Gaussians for the values of such a grid that are no atoms, each of as many rows as the others."""
FAR = 5.0
"""A noised value further than this many standard deviations from every known one is taken as it is."""
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
        spread: ``(K, w)`` variances around the points; zeros where they are all there is.
    """

    columns: Tensor
    points: Tensor
    log_prob: Tensor
    open: bool
    spread: Tensor

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
        total = a * a * self.spread + s * s  # of a noised row around a * point
        gain, own = a * self.spread / total, self.spread * s * s / total
        norm = self.log_prob - 0.5 * torch.log(total).sum(1)
        for start in range(0, len(x_t), CHUNK):
            part = x_t[start : start + CHUNK]
            deviation = part[:, None, :] - a * self.points
            distance = (deviation.square() / total).sum(2)
            probability = (norm - 0.5 * distance).softmax(1)
            each = self.points + gain * deviation
            mean = (probability[:, :, None] * each).sum(1)
            spread = (probability[:, :, None] * (own + (each - mean[:, None]).square())).sum(1)
            if self.open and a > 0:
                far = distance.amin(1, keepdim=True) > FAR**2
                mean = torch.where(far, part / a, mean)
                spread = torch.where(far, (s / a) ** 2, spread)
            out[start : start + CHUNK], variance[start : start + CHUNK] = mean, spread + LEAST_VARIANCE
        return out, variance


def known_values(values: Tensor, num_atoms: int) -> Tensor:
    """``(3, MOST_VALUES)``: what is known of a grid beforehand, its points, their log-frequencies and variances.

    All distinct values if they are few; else the most frequent ones, as many as the column has atoms, and Gaussians for
    the rest. Padded by NaN; all NaN for many values without atoms.

    Args:
        values: ``(n,)`` of the training rows.
        num_atoms: Of the column.
    """
    out = torch.full((3, MOST_VALUES), torch.nan, dtype=torch.float64)
    distinct, index, counts = torch.unique(values, return_inverse=True, return_counts=True)
    share = counts.double() / max(len(values), 1)
    if 0 < len(distinct) <= MOST_VALUES:
        out[:, : len(distinct)] = torch.stack([distinct, share.log(), torch.zeros_like(share)])
    elif 0 < num_atoms <= MOST_VALUES - PARTS and len(distinct):
        atoms = counts.argsort(descending=True, stable=True)[:num_atoms]
        rest = values[~torch.isin(index, atoms)].sort().values
        parts = [part for part in rest.tensor_split(PARTS) if len(part)]
        out[:, :num_atoms] = torch.stack([distinct[atoms], share[atoms].log(), torch.zeros(num_atoms)])
        for place, part in enumerate(parts, num_atoms):
            moments = [part.mean(), torch.tensor(len(part) / len(values)).log(), part.var(correction=0)]
            out[:, place] = torch.stack([m.double() for m in moments])
    return out


def all_codes(codec: MatrixCodec, category_log_prob: list[Tensor], grid_values: Tensor) -> list[Codes]:
    """Codes of every category slot and every coarse grid.

    Args:
        codec: The model's codec.
        category_log_prob: Per category slot.
        grid_values: ``(num_numbers, 3, MOST_VALUES)`` of :func:`known_values`.
    """
    out = []
    for block in codec.blocks:
        columns = torch.arange(block.start, block.start + block.width)
        if block.kind == "category" and block.width:
            points = codec.codes(block.slot).cpu()
            out.append(Codes(columns, points, category_log_prob[block.slot], False, torch.zeros_like(points)))
        elif block.kind == "number":
            points, logs, spread = grid_values[block.slot]
            known = ~points.isnan()
            if bool(known.any()):
                out.append(Codes(columns, points[known][:, None], logs[known], True, spread[known][:, None]))
    return out


def block_axes(covariance: Tensor, smooth: Tensor) -> Tensor:
    """``(P, P)`` orthonormal: principal axes of the smooth columns, the others each by itself."""
    axes = torch.eye(len(covariance), dtype=covariance.dtype)
    index = smooth.nonzero().flatten()
    if len(index):
        axes[index[:, None], index] = torch.linalg.eigh(covariance[index][:, index])[1]
    return axes
