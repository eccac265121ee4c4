"""Monotone maps of single numbers whose parameters a conditioner supplies: affine, or affine then spline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genzoo.bijections.spline import Spline, num_spline_parameters

LARGEST_LOG_SCALE = 5.0


@dataclass(frozen=True)
class Elementwise:
    """The family of the map ``z = S((x - shift) / scale)``, ``S`` a rational-quadratic spline or the identity.

    The affine part lets a conditional move and shrink as a whole, which pieces of a fixed interval do clumsily, and
    gives the linear tails their own scale. ``log scale`` is squashed into +-5, so that no row can overflow.

    Args:
        kind: ``affine``, or ``spline`` for affine then spline.
        num_bins: Pieces of the spline; more bends, more memory.
        bound: The spline bends within ``[-bound, bound]`` and is linear outside.
    """

    kind: Literal["affine", "spline"]
    num_bins: int = 8
    bound: float = 4.0

    def __post_init__(self) -> None:
        if self.kind not in ("affine", "spline"):
            raise ValueError(f"kind must be affine or spline, got {self.kind!r}")
        if self.kind == "spline" and (self.num_bins < 2 or self.bound <= 0):
            raise ValueError(f"a spline needs num_bins >= 2 and bound > 0, got {self.num_bins} and {self.bound}")

    @property
    def num_parameters(self) -> int:
        return 2 + (num_spline_parameters(self.num_bins) if self.kind == "spline" else 0)

    def apply(self, x: Tensor, parameters: Tensor, to_latent: bool) -> tuple[Tensor, Tensor]:
        """Maps data to latent, or back; zeros as parameters give the identity.

        Args:
            x: ``(...)`` one point per map, or ``(points, ...)``. Infinite points stay.
            parameters: ``(num_parameters, ...)``; cast to the type of ``x``.
            to_latent: Direction.

        Returns:
            value and log |derivative|, shaped like ``x``.
        """
        shift, log_scale, bends = parameters.to(x.dtype).split((1, 1, self.num_parameters - 2))
        if x.dim() == parameters.dim() - 1:
            shift, log_scale = shift.squeeze(0), log_scale.squeeze(0)
        log_scale = LARGEST_LOG_SCALE * (log_scale / LARGEST_LOG_SCALE).tanh()
        finite = torch.isfinite(x)
        value = torch.where(finite, x, 0.0)
        spline = Spline.from_parameters(bends, self.bound) if self.kind == "spline" else None
        if to_latent:
            value = (value - shift) * torch.exp(-log_scale)
            log_derivative = -log_scale.expand_as(x)
            if spline is not None:
                value, bend = spline(value)
                log_derivative = log_derivative + bend
        else:
            log_derivative = log_scale.expand_as(x)
            if spline is not None:
                value, bend = spline(value, inverse=True)
                log_derivative = log_derivative + bend
            value = value * torch.exp(log_scale) + shift
        return torch.where(finite, value, x), torch.where(finite, log_derivative, 0.0)
