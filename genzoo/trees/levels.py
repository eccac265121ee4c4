r"""Levels of noise ``x_t = a_t x + s_t e``, the paths they lie on, their reverse kernels, and which of them to use.

With :math:`g_t = a_t^2 / s_t^2` and :math:`u < t`, the posterior is :math:`q(x_u | x_t, x) = N(c_t x_t + c_x x, b^2 I)`
and :math:`c_x^2 / b^2 = g_u - g_t`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Spacing = Literal["auto", "uniform", "log_snr"]
Ends = tuple[float, float]
"""Least and most noise of levels even in the log-SNR, as times of the straight path; pure noise comes on top."""
SMOOTH: Ends = (0.02, 0.985)
CELLS: Ends = (0.1, 0.985)
"""Where coarse cells and codes are all there is, less noise than this tells nothing more."""
CODES: Ends = (0.25, 0.9)
"""Codes of categories alone are told apart, and blurred, within less."""
EARLIEST = 1e-3
"""Lowest level of a uniform grid of the variance-preserving path, as its authors have it."""


@dataclass(frozen=True)
class Level:
    """One level of noise.

    Args:
        index: Its place among the trained levels (the nearest one, for a time between them).
        time: In (0, 1]; 0 is data.
        signal: What is left of the row, ``a``.
        noise: Standard deviation of the noise, ``s``.
    """

    index: int
    time: float
    signal: float
    noise: float

    @property
    def snr(self) -> float:
        """``g``, the signal-to-noise ratio."""
        return (self.signal / self.noise) ** 2


class NoisePath(ABC):
    """How a row turns into noise as time goes from 0 to 1."""

    @abstractmethod
    def mix(self, time: float) -> tuple[float, float]:
        """Signal and noise at a time."""

    @abstractmethod
    def rates(self, time: float) -> tuple[float, float]:
        """Derivatives of signal and noise."""

    @abstractmethod
    def time_of(self, ratio: float) -> float:
        """The time at which noise over signal is ``ratio``."""

    @abstractmethod
    def times(self, num_levels: int, spacing: Spacing, width: int, ends: Ends = SMOOTH) -> NDArray[np.float64]:
        """Ascending times ``(num_levels,)``, the last one 1.

        Args:
            num_levels: At least 1.
            spacing: ``uniform`` in time, even in the ``log_snr``, or ``auto``: uniform up to three columns, else
                log-SNR, which spends levels where correlated columns are told apart.
            width: Columns of the matrix.
            ends: By what the columns are.
        """

    def level(self, index: int, time: float) -> Level:
        """The level at a time."""
        signal, noise = self.mix(time)
        return Level(index, float(time), signal, noise)

    def levels(self, num_levels: int, spacing: Spacing, width: int, ends: Ends = SMOOTH) -> list[Level]:
        """The levels of :meth:`times`."""
        if num_levels < 1:
            raise ValueError(f"num_levels must be at least 1, got {num_levels}")
        return [self.level(k, time) for k, time in enumerate(self.times(num_levels, spacing, width, ends))]

    def even_log_snr(self, num_levels: int, lowest: float, highest: float) -> NDArray[np.float64]:
        """Times even in the log-SNR between two ratios of noise over signal."""
        return np.array(
            [self.time_of(math.exp(z)) for z in np.linspace(math.log(lowest), math.log(highest), num_levels)]
        )


class StraightPath(NoisePath):
    """``x_t = (1 - t) x + t e``, the path of flow matching; at 1 nothing of the row is left."""

    def mix(self, time: float) -> tuple[float, float]:
        return 1.0 - time, float(time)

    def rates(self, time: float) -> tuple[float, float]:
        return -1.0, 1.0

    def time_of(self, ratio: float) -> float:
        return ratio / (1 + ratio)

    def times(self, num_levels: int, spacing: Spacing, width: int, ends: Ends = SMOOTH) -> NDArray[np.float64]:
        if num_levels == 1:
            return np.ones(1)
        if spacing == "uniform" or (spacing == "auto" and width <= 3 and ends == SMOOTH):
            return np.arange(1, num_levels + 1) / num_levels
        return np.append(self.even_log_snr(num_levels - 1, *map(_ratio, ends)), 1.0)


@dataclass(frozen=True)
class VariancePreserving(NoisePath):
    r"""``x_t = m x + s e`` with :math:`m^2 + s^2 = 1` and :math:`\log m = -t^2 (b_1 - b_0) / 4 - t b_0 / 2`.

    Args:
        beta_min: Rate of noise at time 0, ``b0``.
        beta_max: Rate of noise at time 1, ``b1``; the larger, the less of the row is left.
    """

    beta_min: float = 0.1
    beta_max: float = 8.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max:
            raise ValueError(
                f"beta_min must be above 0 and at most beta_max, got beta_min={self.beta_min}, beta_max={self.beta_max}"
            )

    def beta(self, time: float) -> float:
        """The rate of noise at a time."""
        return self.beta_min + time * (self.beta_max - self.beta_min)

    def mix(self, time: float) -> tuple[float, float]:
        log_m = -(time**2) * (self.beta_max - self.beta_min) / 4 - time * self.beta_min / 2
        return math.exp(log_m), math.sqrt(-math.expm1(2 * log_m))

    def rates(self, time: float) -> tuple[float, float]:
        m, s = self.mix(time)
        return -0.5 * self.beta(time) * m, 0.5 * self.beta(time) * m * m / s

    def time_of(self, ratio: float) -> float:
        # log m = -log(1 + ratio^2) / 2, a quadratic equation in time
        c = 0.5 * math.log1p(ratio**2)
        slope, bend = self.beta_min / 2, (self.beta_max - self.beta_min) / 4
        return 2 * c / (slope + math.sqrt(slope**2 + 4 * bend * c))

    def times(self, num_levels: int, spacing: Spacing, width: int, ends: Ends = SMOOTH) -> NDArray[np.float64]:
        if num_levels == 1:
            return np.ones(1)
        if spacing == "uniform" or (spacing == "auto" and width <= 3 and ends == SMOOTH):
            return np.linspace(EARLIEST, 1.0, num_levels)
        signal, noise = self.mix(1.0)
        return np.append(self.even_log_snr(num_levels, _ratio(ends[0]), noise / signal)[:-1], 1.0)


def _ratio(time: float) -> float:
    """Noise over signal on the straight path."""
    return time / (1 - time)


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


def forward_kernel(u: Level, t: Level) -> tuple[float, float]:
    """``q(x_t | x_u) = N(a x_u, s^2 I)`` for ``u < t``: ``a`` and ``s``."""
    a = t.signal / u.signal
    return a, math.sqrt(max(t.noise**2 - a**2 * u.noise**2, 0.0))


def reverse_kernel(t: Level, u: Level) -> Kernel:
    """The posterior of ``x_u`` given ``x_t`` and ``x``."""
    a_tu, s_tu = forward_kernel(u, t)
    return Kernel(a_tu * u.noise**2 / t.noise**2, u.signal * s_tu**2 / t.noise**2, s_tu * u.noise / t.noise)


def shortest_path(snr: NDArray[np.float64], tau: NDArray[np.float64], num_steps: int, fixed_first: bool) -> list[int]:
    """Which levels the bound should use: the cheapest path from pure noise to the data.

    A step from ``t`` to ``u`` costs ``1/2 sum_k log(1 + (g_u - g_t) tau_tk)``, the end ``1/2 sum_k log(2 pi e tau_k)``:
    the expected divergence when the variances ``tau`` are right.

    Args:
        snr: ``(L,)`` signal-to-noise ratios ``g`` of levels that ascend in time.
        tau: ``(L, width)`` residual variances of the denoiser at each level.
        num_steps: Most levels on the path.
        fixed_first: The path must end at the lowest level (where codes and cells are told apart).

    Returns:
        Indices of levels, descending, the first of them that of most noise.
    """
    count = len(snr)
    end = 0.5 * np.log(2 * math.pi * math.e * tau).sum(1)
    # cost[k][i]: cheapest way from most noise to level i in exactly k steps
    cost = np.full((num_steps, count), np.inf)
    back = np.zeros((num_steps, count), dtype=int)
    cost[0, count - 1] = 0.0
    step = 0.5 * np.log1p(np.maximum(snr[None, :, None] - snr[:, None, None], 0) * tau[:, None, :]).sum(2)
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
