r"""Unbiased log-determinants of ``I + J`` from a randomly truncated power series, and their gradients.

.. math:: \log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k, \qquad \|J\| < 1

Terms up to ``num_exact`` are always taken; each later one with the probability that a random number of further terms
reaches it, and divided by that probability. Traces are estimated by a random probe.

References:
    Chen, Behrmann, Duvenaud, Jacobsen (2019), Residual flows for invertible generative modeling, arXiv:1906.02735.
    Kahn (1955), Use of different Monte Carlo sampling techniques (Russian roulette).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LARGEST = 10_000
"""Most terms after the exact ones; a geometric number with p = 0.5 exceeds 60 once in 10^18 draws."""


@dataclass(frozen=True)
class Roulette:
    """A law of the number of terms.

    The variance is finite for a geometric law if the squared Lipschitz constant is below ``1 - parameter``; exact
    terms make what is beyond small.

    Args:
        law: ``geometric`` (at least one further term, each one more with probability ``1 - parameter``) or ``poisson``.
        parameter: Probability of stopping, in (0, 1); or the mean number of further terms.
        num_exact: Terms that are always taken.
        num_draws: Numbers of terms that are drawn and averaged over; their largest is what is paid for.
    """

    law: Literal["geometric", "poisson"] = "geometric"
    parameter: float = 0.5
    num_exact: int = 2
    num_draws: int = 1

    def __post_init__(self) -> None:
        if self.law not in ("geometric", "poisson"):
            raise ValueError(f"the law of the number of terms is 'geometric' or 'poisson', got '{self.law}'")
        if self.law == "geometric" and not 0 < self.parameter < 1:
            raise ValueError(f"a geometric law stops with a probability between 0 and 1, got {self.parameter}")
        if self.law == "poisson" and self.parameter <= 0:
            raise ValueError(f"the mean of a Poisson law is above 0, got {self.parameter}")
        if self.num_exact < 0 or self.num_draws < 1:
            raise ValueError(
                f"num_exact is at least 0 and num_draws at least 1, got {self.num_exact} and {self.num_draws}"
            )

    def reach(self, count: int, like: Tensor | None = None) -> Tensor:
        """``P(N >= j)`` for ``j`` of 1 to ``count``, ``(count,)`` float64."""
        j = torch.arange(count, dtype=torch.float64, device=None if like is None else like.device)  # j - 1
        if self.law == "geometric":
            return (1 - self.parameter) ** j
        # P(N >= j) of a Poisson law is the regularised lower incomplete gamma function, exact far into the tail
        return torch.special.gammainc(j + 1, torch.full_like(j, self.parameter))

    def numbers(self, uniform: Tensor) -> Tensor:
        """Numbers of further terms ``N`` from uniform numbers in (0, 1), by inversion: the largest N that they reach.

        Args:
            uniform: Any shape; ``(batch, num_draws)`` for :meth:`weights`.
        """
        uniform = uniform.double()
        lowest = float(uniform.min()) if uniform.numel() else 1.0
        count = 8
        while count < LARGEST and float(self.reach(count)[-1]) > lowest:
            count *= 2
        # N >= j exactly if u <= P(N >= j); the reaches fall, so count how many are at least u
        falling = self.reach(count, uniform)
        return torch.searchsorted(-falling, -uniform.contiguous(), right=True)

    def weights(self, numbers: Tensor) -> Tensor:
        """Weights ``c_k`` of the terms ``k`` of 1 to the largest needed, ``(batch, num_terms)`` float64.

        Args:
            numbers: ``(batch, num_draws)`` numbers of further terms, one line for each row of data, or one for all.
        """
        further = int(numbers.max()) if numbers.numel() else 0
        exact = torch.ones(len(numbers), self.num_exact, dtype=torch.float64, device=numbers.device)
        j = torch.arange(1, further + 1, device=numbers.device)
        share = (numbers[:, :, None] >= j).double().mean(1)
        return torch.cat([exact, share / self.reach(further, share)], 1)


def power_series(
    pull: Callable[[Tensor], Tensor], probe: Tensor, weights: Tensor, neumann: bool = False
) -> tuple[Tensor, Tensor | None]:
    r"""Estimates of ``log det(I + J)``, one a row, and the vectors that give their gradients.

    The gradient of :math:`w^T J \epsilon` with :math:`w = \epsilon + \sum_k (-1)^k c_k (J^T)^k \epsilon` held fixed is
    an unbiased gradient of the log-determinant: a graph of one product, however many terms there are. It holds row by
    row, so rows may be weighted in any way afterwards.

    Args:
        pull: ``u`` to ``J^T u`` of every row, ``(batch, *event)``; without gradients if ``neumann``.
        probe: ``(batch, *event)`` with independent entries of mean 0 and variance 1.
        weights: ``(batch, num_terms)`` or ``(1, num_terms)``, from :meth:`Roulette.weights`.
        neumann: Give ``w``.

    Returns:
        Estimates ``(batch,)`` float64 in nats, and ``w`` ``(batch, *event)`` or ``None``.
    """
    total = torch.zeros(len(probe), dtype=torch.float64, device=probe.device)
    vector = w = probe
    column = (-1,) + (1,) * (probe.ndim - 1)
    sign = 1
    for k, weight in enumerate(weights.unbind(1), 1):
        vector = pull(vector)
        total = total + sign / k * weight * (vector * probe).flatten(1).sum(1, dtype=torch.float64)
        sign = -sign
        if neumann:
            w = w + sign * weight.to(vector.dtype).reshape(column) * vector
    return total, (w if neumann else None)
