"""Operations that ONNX runtimes lack in float64, or compute with fewer digits, in terms of those that they have.

Each function takes the arguments of the torch function it stands for and gives the same number to about 1e-14. Models
do not call them: they stand in while a graph is traced (:class:`GraphOps`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

ERFCX_DEGREE = 20
"""Relative error of ``erfcx`` 1e-14; higher degrees add no digits."""
ERFCX_SCALE = 3.0
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


def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``."""
    return x.clamp(min=0.0) + log1p((-x.abs()).exp())


def log_sigmoid(x: Tensor) -> Tensor:
    """Logarithm of the logistic function."""
    return x.clamp(max=0.0) - log1p((-x.abs()).exp())


def logaddexp(a: Tensor, b: Tensor) -> Tensor:
    """``log(exp(a) + exp(b))``; equal infinities have no difference."""
    top = torch.maximum(a, b)
    apart = torch.where(top.isinf(), 0.0, (a - b).abs())
    return torch.where(top.isinf(), top, top + log1p((-apart).exp()))


def logsumexp(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """``log(sum(exp(x)))`` over one dimension; ``-inf`` where all are."""
    top = x.amax(dim, keepdim=True)
    top = torch.where(top.isinf(), 0.0, top)
    value = (x - top).exp().sum(dim, keepdim=True).log() + top
    return value if keepdim else value.squeeze(dim)


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
    """Powers of ``t = (x - c) / (x + c)`` that give ``(1 + 2 x) erfcx(x)`` for ``x`` from 0 to infinity.

    Interpolated at Chebyshev points; the coefficients fall, so that plain powers lose no digits.
    """
    import numpy as np
    from numpy.polynomial import chebyshev
    from scipy.special import erfcx as reference

    def scaled(t: Any) -> Any:
        x = ERFCX_SCALE * (1 + t) / np.maximum(1 - t, 1 / LARGE)
        return reference(x) * (1 + 2 * x)

    powers = chebyshev.cheb2poly(chebyshev.chebinterpolate(scaled, ERFCX_DEGREE))
    return tuple(float(c) for c in powers)


def _erfcx_of_positive(x: Tensor) -> Tensor:
    x = x.clamp(max=LARGE)
    t = 1 - 2 * ERFCX_SCALE / (x + ERFCX_SCALE)
    coefficients = torch.tensor(_erfcx_coefficients(), dtype=x.dtype)
    # all powers at once: few operations, because tracing costs time for each
    powers = t[..., None] ** torch.arange(len(coefficients), dtype=x.dtype)
    return (powers * coefficients).sum(-1) / (1 + 2 * x)


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
    return torch.where(x < 0, (scaled / 2).log() - t * t, log1p(-scaled * (-t * t).exp() / 2))


def searchsorted(ordered: Tensor, values: Tensor, *, right: bool = False) -> Tensor:
    """Number of entries below each value (``right``: or equal to it), by halving steps."""
    size = ordered.shape[-1]
    place = torch.zeros_like(values, dtype=torch.int64)
    step = 1 << (size.bit_length() - 1) if size else 0
    while step:
        there = place + step
        index = (there - 1).clamp(max=size - 1)
        entry = ordered.gather(-1, index)
        below = entry <= values if right else entry < values
        place = torch.where((there <= size) & below, there, place)
        step //= 2
    return place


def some(x: Tensor, dim: int) -> Tensor:
    """``any`` over one dimension; of nothing it is false, where runtimes say true."""
    return x.any(dim) if x.shape[dim] else torch.zeros_like(x.sum(dim), dtype=torch.bool)


def index_copy(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``source`` at the places ``index`` of one dimension."""
    return x.scatter(dim, _along(index, dim, source), source)


def index_add(x: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """``source`` added at the places ``index`` of one dimension."""
    return x.scatter_add(dim, _along(index, dim, source), source)


def _along(index: Tensor, dim: int, source: Tensor) -> Tensor:
    shape = [1] * source.dim()
    shape[dim] = -1
    return index.reshape(shape).expand_as(source)


_METHODS: dict[str, Callable[..., Any]] = {
    "log1p": log1p,
    "expm1": expm1,
    "logaddexp": logaddexp,
    "logsumexp": logsumexp,
    "hypot": hypot,
    "copysign": copysign,
    "asinh": asinh,
    "nextafter": nextafter,
    "erfc": erfc,
    "any": some,
    "index_copy": index_copy,
    "index_add": index_add,
}
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    torch.special.erfcx: erfcx,
    torch.special.erfc: erfc,
    torch.special.log_ndtr: log_ndtr,
    torch.searchsorted: searchsorted,
    torch.nn.functional.softplus: softplus,
    torch.nn.functional.logsigmoid: log_sigmoid,
}
REPLACED: dict[Any, Callable[..., Any]] = {
    **_FUNCTIONS,
    **{getattr(place, name): made for name, made in _METHODS.items() for place in (torch, torch.Tensor)},
}


class GraphOps(TorchFunctionMode):
    """Within it, the functions of this file stand in for torch's."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return REPLACED.get(func, func)(*args, **(kwargs or {}))
