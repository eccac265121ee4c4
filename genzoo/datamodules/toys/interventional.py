"""A structural causal model whose interventional densities are known: one confounder, two arms, any overlap."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import logsumexp

Array = NDArray[np.float64]
LOG_2PI = float(np.log(2 * np.pi))
NUM_KNOTS = 2001
NODES = np.linspace(-8.0, 8.0, 1601)
"""Quadrature over a standard normal confounder; its density beyond is below 1e-14, and half a step below 1e-9."""


@dataclass(frozen=True)
class ShiftedArms:
    """Half of the rows in each arm; the confounder is normal, and shifted in arm 0.

    ``X | A=0 ~ N(shift, 1)``, ``X | A=1 ~ N(0, 1)``, ``Y[0] = 1.5 + 2.18 X + e``, ``Y[1] = 2 - 1.82 X + X^2 + e``,
    ``e ~ N(0, 1)``. The propensity is ``P(A=1 | x) = sigmoid(shift^2 / 2 - shift x)``: at a shift of 1.5 the arms
    overlap, at 5 hardly.

    Args:
        shift: Distance of the arms in standard deviations of the confounder.

    References:
        Melnychuk, Frauen, Feuerriegel (2023), arXiv:2209.06203, synthetic data.
    """

    shift: float = 1.5

    def mean(self, x: Array, arm: int) -> Array:
        """``E(Y[arm] | x)``."""
        return 1.5 + 2.18 * x if arm == 0 else 2 - 1.82 * x + x**2

    def sample(self, num_rows: int, rng: np.random.Generator) -> tuple[Array, NDArray[np.int64], Array]:
        """Confounder ``(n,)``, treatment ``(n,)`` and both potential outcomes ``(n, 2)``, in random order."""
        arm = rng.permutation(np.arange(num_rows) % 2).astype(np.int64)
        x = rng.normal(size=num_rows) + np.where(arm == 0, self.shift, 0.0)
        noise = rng.normal(size=(num_rows, 2))
        return x, arm, np.stack([self.mean(x, 0), self.mean(x, 1)], axis=1) + noise

    def propensity(self, x: Array) -> Array:
        """``(n, 2)``: probability of each arm."""
        one = 1 / (1 + np.exp(np.clip(self.shift * x - self.shift**2 / 2, -700, 700)))
        return np.stack([1 - one, one], axis=1)

    def log_prob(self, values: Array, arm: int) -> Array:
        """``log p(Y[arm] = value)``, nats, for ``(n,)`` values: by quadrature over the confounder; many values by a
        cubic spline through it, which costs less than 1e-7 nats.
        """
        values = np.asarray(values, dtype=np.float64)
        if len(values) <= NUM_KNOTS:
            return self._quadrature(values, arm)
        knots = np.linspace(values.min(), values.max(), NUM_KNOTS)
        found: Array = CubicSpline(knots, self._quadrature(knots, arm))(values)
        return found

    def _quadrature(self, values: Array, arm: int) -> Array:
        weight = np.exp(-0.5 * NODES**2)
        log_weight = np.log(weight / weight.sum() / 2)
        centres = np.concatenate([self.mean(NODES, arm), self.mean(NODES + self.shift, arm)])
        log_weights = np.concatenate([log_weight, log_weight])
        blocks = np.array_split(values, max(1, len(values) // 1024))
        terms = (log_weights - 0.5 * (block[:, None] - centres) ** 2 - 0.5 * LOG_2PI for block in blocks)
        return np.concatenate([logsumexp(term, axis=1) for term in terms])

    def outcome_mean(self, arm: int) -> float:
        """``E Y[arm]``."""
        half = self.shift / 2
        return 1.5 + 2.18 * half if arm == 0 else 2 - 1.82 * half + 1 + self.shift**2 / 2
