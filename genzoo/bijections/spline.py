"""The monotone rational-quadratic spline: one kernel, both directions, several points per spline.

On each of ``K`` bins the map is a quotient of two quadratics that is monotone, once differentiable across the knots and
invertible in closed form; beyond ``[-bound, bound]`` it is the identity.

References:
    Durkan, Bekasov, Murray, Papamakarios (2019), Neural Spline Flows, arXiv:1906.04032 (equations 4-8, 29-32).
    Gregory, Delbourgo (1982), Piecewise rational quadratic interpolation to monotonic data.
    Same family of functions as the paper. Differs in the code: widths and heights share one softmax and one cumulative
    sum, and the knots on both sides of a point are read by a single gather.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import expm1, log

import torch
from torch import Tensor
from torch.nn import functional as F

MIN_SIZE = 1e-3
MIN_DERIVATIVE = 1e-3


def num_spline_parameters(num_bins: int) -> int:
    """Free numbers of one spline: widths, heights, and derivatives at the inner knots."""
    return 3 * num_bins - 1


@dataclass(frozen=True)
class Spline:
    """A batch of splines, ready to be evaluated.

    The knots run along the first dimension, not the last: softmax, sums and gathers then work on long contiguous rows
    (three times faster on a CPU for 8 bins).

    Args:
        table: ``(num_bins + 1, 3, ...)``: knots in x, knots in y, derivative at the knots.
        bound: Half the width of the interval on which the spline is not the identity.
    """

    table: Tensor
    bound: float

    @classmethod
    def from_parameters(cls, parameters: Tensor, bound: float) -> Spline:
        """Builds splines from unconstrained numbers; zeros give the identity.

        Args:
            parameters: ``(3 * num_bins - 1, ...)``: widths and heights in turn, then inner derivatives.
            bound: Half the width of the interval, in units of the input.

        Raises:
            ValueError: the first dimension is not ``3 * num_bins - 1``.
        """
        count = parameters.shape[0] + 1
        if count % 3 or count < 6:
            raise ValueError(f"a spline with K bins takes 3 * K - 1 parameters, K at least 2; got {count - 1}")
        bins = count // 3
        if MIN_SIZE * bins >= 1:
            raise ValueError(f"num_bins must be below {int(1 / MIN_SIZE)}, got {bins}")
        free_sizes, free_derivatives = parameters.split((2 * bins, bins - 1))
        sizes = free_sizes.unflatten(0, (bins, 2)).softmax(0)
        # A least size bounds the slope on both sides, so that neither direction loses its digits.
        ends = (sizes * (2 * bound * (1 - MIN_SIZE * bins)) + 2 * bound * MIN_SIZE).cumsum(0) - bound
        shift = log(expm1(1 - MIN_DERIVATIVE))  # softplus(shift) + MIN_DERIVATIVE = 1: zeros are the identity
        derivative = F.softplus(free_derivatives + shift) + MIN_DERIVATIVE
        one = derivative.new_ones(1, *derivative.shape[1:])
        derivative = torch.cat([one, derivative, one]).unsqueeze(1)
        knots = torch.cat([torch.full_like(ends[:1], -bound), ends])
        return cls(torch.cat([knots, derivative], 1), bound)

    def __call__(self, x: Tensor, inverse: bool = False) -> tuple[Tensor, Tensor]:
        """Evaluates the spline, or its inverse, with log |derivative| of the map that was applied.

        Args:
            x: The batch shape of the splines, or one more leading dimension: several points for each spline.
                Infinite points map to themselves.
            inverse: Solve for the argument instead.

        Returns:
            value and log |derivative|, both shaped like ``x``.
        """
        if x.dim() == self.table.dim() - 2:
            value, log_derivative = self(x.unsqueeze(0), inverse)
            return value.squeeze(0), log_derivative.squeeze(0)
        # Strictly inside: at the bound itself the identity holds, and a NaN stays outside.
        inside = x.abs() < self.bound
        safe = torch.where(inside, x, 0.0)
        value, log_derivative = _evaluate(safe, self._around(safe, 1 if inverse else 0), inverse)
        return torch.where(inside, value, x), torch.where(inside, log_derivative, 0.0)

    def _around(self, x: Tensor, row: int) -> Tensor:
        """``(2, 3, *x.shape)``: both knots of the bin of each point; ``row`` tells if x lies among x- or y-knots."""
        with torch.no_grad():
            inner = self.table[1:-1, row].unsqueeze(1)
            left = (x >= inner).sum(0)
            both = torch.cat([left, left + 1]).unsqueeze(1)
            both = both.expand(-1, 3, *both.shape[2:])
        return self.table.gather(0, both).unflatten(0, (2, -1)).transpose(1, 2)


def _evaluate(x: Tensor, knots: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
    """Equations 4-8 of the paper on one bin per point."""
    (x0, y0, d0), (x1, y1, d1) = (side.unbind(0) for side in knots.unbind(0))
    width, height = x1 - x0, y1 - y0
    slope = height / width
    bend = d0 + d1 - 2 * slope
    if inverse:
        # Equations 6-8; this form of the root has no cancellation. The discriminant is >= 0 up to rounding.
        above = x - y0
        b = height * d0 - above * bend
        a = height * (slope - d0) + above * bend
        c = -slope * above
        root = (b * b - 4 * a * c).clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        t = (-2 * c / (b + root)).clamp(0, 1)
        t_rest = t * (1 - t)
        denominator = slope + bend * t_rest
        value = x0 + t * width
    else:
        t = (x - x0) / width
        t_rest = t * (1 - t)
        denominator = slope + bend * t_rest
        value = y0 + height * (slope * t * t + d0 * t_rest) / denominator
    # d0 (1-t)^2 + 2 s t(1-t) + d1 t^2, written with fewer operations
    numerator = d0 + t * (d1 - d0) - bend * t_rest
    log_derivative = 2 * (slope / denominator).log() + numerator.log()
    return value, -log_derivative if inverse else log_derivative
