r"""Levels of noise on the straight path ``x_t = (1 - t) x + t e``, their reverse kernels, and which of them to use.

With :math:`a = 1 - t`, :math:`g_t = a_t^2 / t^2` and :math:`u < t`, the posterior is
:math:`q(x_u | x_t, x) = N(c_t x_t + c_x x, b^2 I)` and :math:`c_x^2 / b^2 = g_u - g_t`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Spacing = Literal["auto", "uniform", "log_snr"]
LOWEST, HIGHEST = 0.02, 0.985
LOWEST_DISCRETE = 0.1
"""Where codes and coarse cells are all there is, less noise than this tells nothing more."""


def level_grid(num_levels: int, spacing: Spacing, width: int, discrete: bool = False) -> NDArray[np.float64]:
    """Ascending levels ``(num_levels,)``, the last one 1 (pure noise).

    ``auto``: uniform up to three columns, else even in the logarithm of the signal-to-noise ratio, which spends levels
    where correlated columns are told apart. ``discrete``: no column has a density.
    """
    if num_levels < 1:
        raise ValueError(f"num_levels must be at least 1, got {num_levels}")
    if num_levels == 1:
        return np.ones(1)
    if spacing == "uniform" or (spacing == "auto" and width <= 3 and not discrete):
        return np.arange(1, num_levels + 1) / num_levels
    ends = [math.log(t / (1 - t)) for t in (LOWEST_DISCRETE if discrete else LOWEST, HIGHEST)]
    return np.append(1 / (1 + np.exp(-np.linspace(ends[0], ends[1], num_levels - 1))), 1.0)


@dataclass(frozen=True)
class Kernel:
    """Coefficients of one reverse step from ``t`` to ``u < t``."""

    c_t: float
    c_x: float
    b: float

    @property
    def gain(self) -> float:
        """``c_x^2 / b^2``: what the step adds to the signal-to-noise ratio."""
        return self.c_x**2 / self.b**2


def reverse_kernel(t: float, u: float) -> Kernel:
    """The posterior of ``x_u`` given ``x_t`` and ``x``."""
    a_t, a_u = 1 - t, 1 - u
    a_tu = a_t / a_u
    var_tu = t**2 - a_tu**2 * u**2
    return Kernel(a_tu * u**2 / t**2, a_u * var_tu / t**2, math.sqrt(var_tu) * u / t)


def shortest_path(
    levels: NDArray[np.float64], tau: NDArray[np.float64], num_steps: int, fixed_first: bool
) -> list[int]:
    """Which levels the bound should use: the cheapest path from pure noise to the data.

    A step from ``t`` to ``u`` costs ``1/2 sum_k log(1 + (g_u - g_t) tau_tk)``, the end ``1/2 sum_k log(2 pi e tau_k)``:
    the expected divergence when the variances ``tau`` are right.

    Args:
        levels: ``(L,)`` ascending, the last one 1.
        tau: ``(L, width)`` residual variances of the denoiser at each level.
        num_steps: Most levels on the path.
        fixed_first: The path must end at the lowest level (where codes and cells are told apart).

    Returns:
        Indices of levels, descending, the first of them that of pure noise.
    """
    count = len(levels)
    gain = ((1 - levels) / levels) ** 2
    end = 0.5 * np.log(2 * math.pi * math.e * tau).sum(1)
    # cost[k][i]: cheapest way from pure noise to level i in exactly k steps
    cost = np.full((num_steps, count), np.inf)
    back = np.zeros((num_steps, count), dtype=int)
    cost[0, count - 1] = 0.0
    step = 0.5 * np.log1p(np.maximum(gain[None, :, None] - gain[:, None, None], 0) * tau[:, None, :]).sum(2)
    for k in range(1, num_steps):
        for i in range(count - 1):
            ways = cost[k - 1, i + 1 :] + step[i + 1 :, i]
            back[k, i] = i + 1 + int(np.argmin(ways))
            cost[k, i] = ways.min()
    total = cost + end[None]
    if fixed_first:
        total[:, 1:] = np.inf
    k, i = (int(v) for v in np.unravel_index(int(np.argmin(total)), total.shape))
    path = [i]
    while k:
        i = int(back[k, i])
        path.append(i)
        k -= 1
    return path[::-1]
