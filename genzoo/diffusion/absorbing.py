r"""The absorbing process: cells are masked one by one; schedules, the analytic score and its four training losses.

A cell is masked at time ``t`` with probability ``1 - alpha_t``. The reverse process needs, for a masked cell, only the
conditional of clean data given the visible cells, which does not depend on time; the ratio of probabilities (the
concrete score) is that conditional times ``alpha_t / (1 - alpha_t)``. The four losses have equal expectation: the
negative of the any-order bound. Source: Ou et al. (2024), arXiv:2406.03736. ``cross_entropy`` is a fifth with the same
optimum and another expectation, for training alone.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor

from genzoo.diffusion.categorical import symbol_log_prob

Loss = Literal["any_order", "lambda_dce", "t_dce", "t_dse", "cross_entropy"]


class Schedule(Protocol):
    """Total noise ``s(t)`` and its rate; ``alpha_t = exp(-s(t))``."""

    def total(self, t: Tensor) -> Tensor: ...

    def rate(self, t: Tensor) -> Tensor: ...


class LogLinear:
    """``alpha_t = 1 - (1 - eps) t``. With ``eps = 0`` all cells are masked at ``t = 1``, as the bound needs."""

    def __init__(self, eps: float = 0.0) -> None:
        self.eps = eps

    def total(self, t: Tensor) -> Tensor:
        return -torch.log1p(-(1 - self.eps) * t)

    def rate(self, t: Tensor) -> Tensor:
        return (1 - self.eps) / (1 - (1 - self.eps) * t)


class Geometric:
    """``s(t) = low^(1-t) high^t``: some cells are masked at ``t = 0`` and, rarely, some are not at ``t = 1``."""

    def __init__(self, low: float = 1e-4, high: float = 20.0) -> None:
        self.low, self.high = low, high

    def total(self, t: Tensor) -> Tensor:
        return self.low ** (1 - t) * self.high**t

    def rate(self, t: Tensor) -> Tensor:
        return self.total(t) * math.log(self.high / self.low)


def alpha(schedule: Schedule, t: Tensor) -> Tensor:
    """Probability that a cell is still visible at time ``t``."""
    return torch.exp(-schedule.total(t))


def score_factor(schedule: Schedule, t: Tensor) -> Tensor:
    """``alpha / (1 - alpha)``: the part of the concrete score that depends on time."""
    return 1 / torch.expm1(schedule.total(t))


def concrete_score(log_probs: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
    """Ratio of the probability of each row with one masked cell filled to that of the row, ``(batch, L, K)``."""
    return score_factor(schedule, t)[:, None, None] * log_probs.exp()


def spread_levels(batch: int, device: torch.device | str = "cpu") -> Tensor:
    """``(batch,)`` numbers in [0, 1): one shared uniform draw and even steps from it, so a batch covers the range."""
    start = torch.rand((), dtype=torch.float64, device=device)
    return (start + torch.arange(batch, dtype=torch.float64, device=device) / max(batch, 1)) % 1.0


def mask_cells(tokens: Tensor, probability: Tensor) -> Tensor:
    """``(batch, L)`` bool: observed cells masked independently with the row's probability."""
    drawn = torch.rand(tokens.shape, dtype=torch.float64, device=tokens.device)
    return (tokens >= 0) & (drawn < probability[:, None])


def masked_nll(log_probs: Tensor, tokens: Tensor, masked: Tensor) -> Tensor:
    """``sum over masked cells of -log c_i(x_i)``, ``(batch,)``."""
    return -torch.where(masked, symbol_log_prob(log_probs, tokens), 0.0).sum(1)


def denoising_score_entropy(log_probs: Tensor, tokens: Tensor, masked: Tensor, factor: Tensor) -> Tensor:
    """Score entropy of the masked cells for score ``factor * c``, over the rate, ``(batch,)``.

    ``sum_k a c_k - a log(a c_x) + a (log a - 1)``; the first sum is kept as the network gives it.
    """
    a = factor[:, None]
    own = symbol_log_prob(log_probs, tokens)
    total = torch.where(log_probs > -torch.inf, log_probs.exp(), 0.0).sum(-1)
    cell = a * total - a * (torch.log(a) + own) + a * (torch.log(a) - 1)
    return torch.where(masked, cell, 0.0).sum(1)
