"""The standard normal between two edges: log-probability and draws, with all digits in narrow cells and far tails."""

from __future__ import annotations

from math import log, pi, sqrt
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG_2PI = log(2 * pi)
ROOT_2 = sqrt(2.0)
HAZARD = sqrt(2.0 / pi)
FAR = 30.0


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
        log_b, gap = torch.special.log_ndtr(b), _log_tail_ratio(a, b)
        by_difference = log_b + torch.where(gap > -log(2), (-torch.expm1(gap)).log(), (-torch.exp(gap)).log1p())
        # A narrow cell: density at the middle times width, with the second-order term; error O((width * z)^4 / 2000).
        width, middle = b - a, 0.5 * (a + b)
        narrow = width * (1 + middle.abs()) < 1e-3
        by_density = log_normal_density(middle) + width.log() + torch.log1p(width * width * (middle * middle - 1) / 24)
        value = torch.where(narrow, by_density, by_difference)
        ctx.save_for_backward(a, b, mirror, value)
        return value

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b, mirror, value = ctx.saved_tensors
        # d log P / d edge = +- density(edge) / P; an infinite edge and an impossible cell give 0. Far out both logs of
        # that ratio are huge, so it is never taken as their difference.
        width, middle = b - a, 0.5 * (a + b)
        narrow = width * (1 + middle.abs()) < 1e-3
        at_b = HAZARD / torch.special.erfcx(-b / ROOT_2) / -torch.expm1(_log_tail_ratio(a, b))
        at_b = torch.where(narrow, torch.exp(-0.5 * width * middle) / width, at_b)
        at_a = at_b * torch.exp(width * middle)
        usable = torch.isfinite(value) & (grad != 0)
        at_a, at_b = (torch.where(usable, grad * edge.nan_to_num(), 0.0) for edge in (at_a, at_b))
        return -torch.where(mirror, at_b, at_a), torch.where(mirror, at_a, at_b)


def _log_tail_ratio(a: Tensor, b: Tensor) -> Tensor:
    """``log Phi(a) - log Phi(b)`` for ``a < b <= -a``, to full precision in the far tail."""
    scaled = torch.special.erfcx(-a / ROOT_2).log() - torch.special.erfcx(-b / ROOT_2).log()
    far = (0.5 * (b - a) * (b + a)) + scaled
    return torch.where(b < -1, far, torch.special.log_ndtr(a) - torch.special.log_ndtr(b))


def log_normal_cell(lower: Tensor, upper: Tensor) -> Tensor:
    """``log(Phi(upper) - Phi(lower))`` for ``lower < upper``, elementwise; meant for float64.

    Stable in both tails and for cells as narrow as float64 tells apart; edges may be infinite; ``-inf`` for an empty
    cell.
    """
    result: Tensor = _LogNormalCell.apply(lower, upper)
    return result


def truncated_normal(lower: Tensor, upper: Tensor, uniform: Tensor) -> Tensor:
    """Quantiles of N(0, 1) restricted to ``[lower, upper]``.

    Args:
        lower: Lower edges, may be -inf.
        upper: Upper edges, may be inf.
        uniform: Levels in (0, 1), broadcastable with the edges.

    Returns:
        Numbers within the edges; beyond 30 standard deviations by the exponential tail of the density.
    """
    lower, upper, uniform = torch.broadcast_tensors(lower, upper, uniform)
    flip = lower + upper > 0
    a, b = torch.where(flip, -upper, lower), torch.where(flip, -lower, upper)
    level = torch.where(flip, 1 - uniform, uniform)
    # erfc keeps the small masses that `torch.special.ndtr` (1 + erf) rounds to zero.
    mass_a, mass_b = (0.5 * torch.special.erfc(-edge / ROOT_2) for edge in (a, b))
    near = torch.special.ndtri(torch.lerp(mass_a, mass_b, level).clamp(1e-300, 1 - 2.0**-53))
    # x^2 of a far tail is nearly exponential: P(x < t | x < b) = exp((b^2 - t^2) / 2) but for a factor b / t.
    depth = torch.exp(0.5 * (b.square() - a.square()).clamp(max=0.0))
    tail = -torch.sqrt((b.square() - 2 * torch.log(depth + level * (1 - depth))).clamp_min(0.0))
    x = torch.where(b < -FAR, tail, near)
    x = torch.minimum(torch.maximum(x, a), b)
    return torch.where(flip, -x, x)
