"""Operations that ONNX runtimes lack in float64, or compute with fewer digits, in terms of those that they have.

Each function takes the arguments of the torch operation it stands for and gives the same number to about 1e-14. Models
do not call them: they replace operations of a traced graph (:func:`decompositions`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

CHEBYSHEV_DEGREE = 24
"""Relative error of ``erfcx`` 5e-15; higher degrees only add rounding errors."""
CHEBYSHEV_SCALE = 2.0
LARGE = 1e300


def log1p(x: Tensor) -> Tensor:
    """``log(1 + x)``; what rounding does to ``1 + x`` is divided out again."""
    total = 1 + x
    seen = total - 1
    value = torch.where(seen == 0, x, total.log() * (x / torch.where(seen == 0, 1.0, seen)))
    return torch.where(total.isinf(), x, value)


def expm1(x: Tensor) -> Tensor:
    """``exp(x) - 1``, by the same division."""
    total = x.exp()
    seen, log = total - 1, total.log()
    usable = (seen != 0) & (seen != -1) & ~total.isinf()
    value = seen * (x / torch.where(usable, log, 1.0))
    return torch.where(usable, value, torch.where(seen == 0, x, seen))


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """``log(1 + exp(x))``, linear beyond the threshold as in torch."""
    scaled = x * beta
    linear = scaled > threshold
    return torch.where(linear, x, log1p(torch.where(linear, 0.0, scaled).exp()) / beta)


def log_sigmoid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the logistic function (and the buffer that torch returns with it)."""
    return x.clamp(max=0.0) - log1p((-x.abs()).exp()), x.new_zeros(0)


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """``log(exp(a) + exp(b))``; equal infinities have no difference."""
    top = torch.maximum(a, b)
    apart = torch.where(top.isinf(), 0.0, (a - b).abs())
    return torch.where(top.isinf(), top, top + log1p((-apart).exp()))


def logsumexp(x: Tensor, dim: list[int], keepdim: bool = False) -> Tensor:
    """``log(sum(exp(x)))`` over dimensions; ``-inf`` where all are."""
    top = x.amax(dim, keepdim=True)
    top = torch.where(top.isinf(), 0.0, top)
    value = (x - top).exp().sum(dim, keepdim=True).log() + top
    for one in sorted((d % x.dim() for d in dim), reverse=True) if not keepdim else ():
        value = value.squeeze(one)
    return value


def hypot(a: Tensor, b: Tensor) -> Tensor:
    """``sqrt(a^2 + b^2)`` without overflow."""
    a, b = a.abs(), b.abs()
    large, small = torch.maximum(a, b), torch.minimum(a, b)
    usable = (large > 0) & ~large.isinf()
    share = small / torch.where(usable, large, 1.0)
    return torch.where(usable, large * (1 + share * share).sqrt(), large)


def copysign(a: Tensor, b: Tensor) -> Tensor:
    """``|a|`` with the sign of ``b``."""
    return torch.where(b < 0, -a.abs(), a.abs())


def asinh(x: Tensor) -> Tensor:
    """Inverse hyperbolic sine, odd, all digits kept near 0 and far out."""
    size = x.abs()
    near = size.clamp(max=1e8)
    value = log1p(near + near * near / (1 + (1 + near * near).sqrt()))
    return copysign(torch.where(size > 1e8, size.log() + math.log(2), value), x)


def nextafter(x: Tensor, towards: Tensor) -> Tensor:
    """The neighbouring float64: 0.7 of the largest gap there is next to ``x`` rounds to one gap, for normal numbers."""
    step = x.abs() * (0.7 * 2.0**-52) + 5e-324
    return torch.where(x.isinf() | (towards == x), x, torch.where(towards > x, x + step, x - step))


@lru_cache(maxsize=1)
def _erfcx_coefficients() -> tuple[float, ...]:
    """Chebyshev coefficients of ``(1 + 2 x) erfcx(x)`` over ``t = (x - c) / (x + c)``, ``x`` from 0 to infinity."""
    import numpy as np
    from numpy.polynomial import chebyshev
    from scipy.special import erfcx as reference

    def scaled(t: Any) -> Any:
        x = CHEBYSHEV_SCALE * (1 + t) / np.maximum(1 - t, 1 / LARGE)
        return reference(x) * (1 + 2 * x)

    return tuple(float(c) for c in chebyshev.chebinterpolate(scaled, CHEBYSHEV_DEGREE))


def _erfcx_of_positive(x: Tensor) -> Tensor:
    first, *others = _erfcx_coefficients()
    x = x.clamp(max=LARGE)
    t = 1 - 2 * CHEBYSHEV_SCALE / (x + CHEBYSHEV_SCALE)
    newer, older = torch.zeros_like(x), torch.zeros_like(x)
    for coefficient in reversed(others):  # Clenshaw's recursion
        newer, older = coefficient + 2 * t * newer - older, newer
    return (first + t * newer - older) / (1 + 2 * x)


def erfcx(x: Tensor) -> Tensor:
    """``exp(x^2) erfc(x)``."""
    value = _erfcx_of_positive(x.abs())
    return torch.where(x < 0, 2 * (x * x).exp() - value, value)


def erfc(x: Tensor) -> Tensor:
    """Complementary error function, with its tail."""
    value = (-x * x).exp() * _erfcx_of_positive(x.abs())
    return torch.where(x < 0, 2 - value, value)


def log_ndtr(x: Tensor) -> Tensor:
    """Logarithm of the standard normal cdf."""
    t = x / math.sqrt(2.0)
    scaled = _erfcx_of_positive(t.abs())
    tail = t.clamp(-math.sqrt(LARGE), math.sqrt(LARGE)).square()
    return torch.where(x < 0, (scaled / 2).log() - tail, log1p(-scaled * (-tail).exp() / 2))


def searchsorted(
    ordered: Tensor,
    values: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    """Number of entries below each value (``right``: or equal to it), by halving steps."""
    if sorter is not None:
        raise NotImplementedError("searchsorted with a sorter")
    right = right if side is None else side == "right"
    size = ordered.shape[-1]
    place = torch.zeros_like(values, dtype=torch.int64)
    step = 1 << (size.bit_length() - 1) if size else 0
    while step:
        there = place + step
        index = (there - 1).clamp(max=size - 1)
        entry = ordered[index] if ordered.dim() == 1 else ordered.gather(-1, index)
        below = entry <= values if right else entry < values
        place = torch.where((there <= size) & below, there, place)
        step //= 2
    return place.to(torch.int32) if out_int32 else place


def index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``source`` at the places ``index`` of one dimension."""
    return x.scatter(dim, _along(index, dim, source), source)


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: float = 1) -> Tensor:
    """``source`` added at the places ``index`` of one dimension."""
    return x.scatter_add(dim, _along(index, dim, source), source if alpha == 1 else alpha * source)


def _along(index: Tensor, dim: int, source: Tensor) -> Tensor:
    shape = [1] * source.dim()
    shape[dim] = -1
    return index.reshape(shape).expand_as(source)


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Which traced operation is replaced by which function."""
    aten = torch.ops.aten
    return {
        aten.log1p.default: log1p,
        aten.expm1.default: expm1,
        aten.softplus.default: softplus,
        aten.log_sigmoid_forward.default: log_sigmoid,
        aten.logaddexp.default: logaddexp,
        aten.logsumexp.default: logsumexp,
        aten.hypot.default: hypot,
        aten.copysign.Tensor: copysign,
        aten.asinh.default: asinh,
        aten.nextafter.default: nextafter,
        aten.special_erfcx.default: erfcx,
        aten.erfc.default: erfc,
        aten.special_erfc.default: erfc,
        aten.special_log_ndtr.default: log_ndtr,
        aten.searchsorted.Tensor: searchsorted,
        aten.index_copy.default: index_copy,
        aten.index_add.default: index_add,
    }
