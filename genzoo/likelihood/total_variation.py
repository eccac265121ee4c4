r"""Statistical distance (total variation) between two densities that can be sampled and evaluated.

.. math:: D(p, q) = \sup_A |p(A) - q(A)| = \tfrac12 \int |p - q| = E_p[m^*] - E_q[m^*],\qquad m^*(z) = 1[p(z) > q(z)]

No test tells draws of p from draws of q with a balanced accuracy above (1 + D) / 2, and :math:`m^*` reaches it.

References:
    Hoeffding (1963), Probability inequalities for sums of bounded random variables; Clopper and Pearson (1934).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Interval = Literal["hoeffding", "clopper_pearson", "exact"]


@dataclass(frozen=True)
class StatisticalDistance:
    """An estimate of a statistical distance with a one-sided upper confidence limit.

    Args:
        value: Estimate, in [0, 1].
        upper: The distance lies below with probability at least ``1 - delta``.
        delta: Probability that it does not.
        num_samples: Draws of each of the densities; 0 for a sum over all states.
        interval: How ``upper`` was found.
    """

    value: float
    upper: float
    delta: float
    num_samples: int
    interval: Interval = "hoeffding"

    @property
    def adversary(self) -> float:
        """Largest balanced accuracy of any test that guesses the group, at the estimate: (1 + D) / 2."""
        return (1 + self.value) / 2

    @property
    def adversary_bound(self) -> float:
        """The same at the upper limit."""
        return (1 + self.upper) / 2


def statistical_distance(
    first: tuple[ArrayLike, ArrayLike],
    second: tuple[ArrayLike, ArrayLike],
    delta: float = 0.05,
    interval: Literal["hoeffding", "clopper_pearson"] = "hoeffding",
) -> StatisticalDistance:
    r"""Distance of two densities from independent draws of each.

    The optimal test is a fixed function of a draw, chosen before these were made, so its two success rates are
    binomial: with n draws each, :math:`P(D > \hat D + \sqrt{\ln(1/\delta)/n}) \le \delta` (Hoeffding).

    Args:
        first: ``(log p, log q)`` at draws of p, ``(n,)`` each; equal values (a tie) count as "not p".
        second: ``(log p, log q)`` at draws of q.
        delta: Probability with which the upper limit may fail.
        interval: ``hoeffding``, or ``clopper_pearson``: tighter where the test is nearly always right, wider near 1/2.

    Raises:
        ValueError: no draws, NaN, or ``delta`` outside (0, 1).
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie between 0 and 1, got {delta}")
    wins = [_says_first(*pair) for pair in (first, second)]
    n0, n1 = len(wins[0]), len(wins[1])
    value = abs(float(wins[0].mean()) - float(wins[1].mean()))
    if interval == "hoeffding":
        upper = value + float(np.sqrt(0.5 * (1 / n0 + 1 / n1) * np.log(1 / delta)))
    elif interval == "clopper_pearson":
        from scipy.stats import beta

        (n_high, hits_high), (n_low, hits_low) = sorted(
            ((len(w), int(w.sum())) for w in wins), key=lambda pair: pair[1] / pair[0], reverse=True
        )
        high = 1.0 if hits_high == n_high else float(beta.ppf(1 - delta / 2, hits_high + 1, n_high - hits_high))
        low = 0.0 if hits_low == 0 else float(beta.ppf(delta / 2, hits_low, n_low - hits_low + 1))
        upper = high - low
    else:
        raise ValueError(f"interval must be hoeffding or clopper_pearson, got '{interval}'")
    return StatisticalDistance(value, min(upper, 1.0), delta, min(n0, n1), interval)


def exact_distance(p: ArrayLike, q: ArrayLike) -> StatisticalDistance:
    """Distance of two probability vectors over the same states: half the sum of absolute differences."""
    a, b = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    value = min(0.5 * float(np.abs(a - b).sum()), 1.0)
    return StatisticalDistance(value, value, 0.0, 0, "exact")


@dataclass(frozen=True)
class OptimalAccuracy:
    """Balanced accuracy of the best guess among k groups, with a one-sided upper confidence limit.

    Args:
        value: Estimate, from 1/k to 1.
        upper: Not exceeded by any test with probability ``1 - delta``.
        delta: Probability that it is.
    """

    value: float
    upper: float
    delta: float


def optimal_accuracy(log_densities: Sequence[ArrayLike], delta: float = 0.05) -> OptimalAccuracy:
    r"""Accuracy of the test that names the likeliest of k groups: :math:`\frac1k \int \max_a p_a`.

    Args:
        log_densities: For each group, ``(n, k)`` log-densities of its draws under every group.
        delta: Probability with which the upper limit may fail.
    """
    rates, sizes = [], []
    for group, values in enumerate(log_densities):
        array = np.asarray(values, dtype=np.float64)
        rates.append(float((array.argmax(1) == group).mean()))
        sizes.append(len(array))
    k = len(rates)
    half_width = float(np.sqrt(0.5 * sum(1 / n for n in sizes) * np.log(1 / delta))) / k
    value = float(np.mean(rates))
    return OptimalAccuracy(value, min(value + half_width, 1.0), delta)


def _says_first(log_p: ArrayLike, log_q: ArrayLike) -> NDArray[np.bool_]:
    p, q = np.asarray(log_p, dtype=np.float64), np.asarray(log_q, dtype=np.float64)
    if p.shape != q.shape or p.ndim != 1 or not len(p):
        raise ValueError(f"expected two vectors of one length with at least one draw, got shapes {p.shape}, {q.shape}")
    if np.isnan(p).any() or np.isnan(q).any():
        raise ValueError("log-densities hold NaN")
    return p > q
