"""The normal probability of a cell, with all its digits: narrow cells, far tails, infinite edges."""

from __future__ import annotations

from math import log, pi
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG_2PI = log(2 * pi)


def log_normal_density(z: Tensor) -> Tensor:
    """log of the standard normal density, elementwise."""
    return -0.5 * (z * z + LOG_2PI)


class _LogNormalCell(torch.autograd.Function):
    """Written by hand because autograd would divide by differences that the forward pass avoids."""

    @staticmethod
    def forward(ctx: Any, lower: Tensor, upper: Tensor) -> Tensor:
        # Mirror cells of the right half, where log_ndtr is flat and a difference would lose everything.
        mirror = lower + upper > 0
        a = torch.where(mirror, -upper, lower)
        b = torch.where(mirror, -lower, upper)
        log_b, log_a = torch.special.log_ndtr(b), torch.special.log_ndtr(a)
        gap = log_a - log_b
        by_difference = log_b + torch.where(gap > -log(2), (-torch.expm1(gap)).log(), (-torch.exp(gap)).log1p())
        # A narrow cell: density at the middle times width, with the second-order term; error O((width * z)^4 / 2000).
        width, middle = b - a, 0.5 * (a + b)
        narrow = width * (1 + middle.abs()) < 1e-3
        by_density = log_normal_density(middle) + width.log() + torch.log1p(width * width * (middle * middle - 1) / 24)
        value = torch.where(narrow, by_density, by_difference)
        ctx.save_for_backward(lower, upper, value)
        return value

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper, value = ctx.saved_tensors
        # d log P / d edge = +- density(edge) / P; an infinite edge and an impossible cell give 0.
        possible = torch.isfinite(value)
        value = torch.where(possible, value, 0.0)
        to_lower = -torch.exp(log_normal_density(lower) - value)
        to_upper = torch.exp(log_normal_density(upper) - value)
        return torch.where(possible, grad * to_lower, 0.0), torch.where(possible, grad * to_upper, 0.0)


def log_normal_cell(lower: Tensor, upper: Tensor) -> Tensor:
    """``log(Phi(upper) - Phi(lower))`` for ``lower < upper``, elementwise; meant for float64.

    Stable in both tails and for cells as narrow as float64 tells apart; edges may be infinite; ``-inf`` for an empty
    cell.
    """
    result: Tensor = _LogNormalCell.apply(lower, upper)
    return result
