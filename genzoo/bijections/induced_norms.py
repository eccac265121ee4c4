"""Operator norms of matrices and convolutions: power iteration from below, certified bounds from above.

The norm of ``W`` from :math:`\\ell_p` to :math:`\\ell_q` is the largest :math:`\\|Wx\\|_q` with :math:`\\|x\\|_p = 1`.
Power iteration reaches it, or a local maximum, from below; a residual block is a contraction only if a bound from above
is less than one, which is what the ``certified`` functions give.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

ROUNDING = 1e-12
"""Relative error allowed for in float64 singular values."""


def dual(order: float) -> float:
    """The order ``p*`` with ``1/p + 1/p* = 1``."""
    if order == 1:
        return inf
    return 1.0 if order == inf else order / (order - 1)


def unit(x: Tensor, order: float) -> Tensor:
    """``x`` of length one in the ``order`` norm; zeros stay."""
    return x / torch.linalg.vector_norm(x, order).clamp_min(torch.finfo(x.dtype).tiny)


def steepest(y: Tensor, order: float) -> Tensor:
    """The vector of length one in the ``order`` norm whose product with ``y`` is largest (the dual norm of ``y``)."""
    if order == 1:
        one_hot = torch.zeros_like(y).flatten()
        place = y.abs().argmax()
        one_hot[place] = torch.where(y.flatten()[place] < 0, -1.0, 1.0).to(y)
        return one_hot.reshape(y.shape)
    if order == inf:
        return torch.where(y < 0, -torch.ones_like(y), torch.ones_like(y))
    if order == 2:
        return unit(y, 2)
    size = y.abs() / y.abs().max().clamp_min(torch.finfo(y.dtype).tiny)  # powers of small numbers vanish
    return unit(size.pow(dual(order) - 1).copysign(y), order)


@torch.no_grad()
def power_iteration(
    push: Callable[[Tensor], Tensor],
    pull: Callable[[Tensor], Tensor],
    v: Tensor,
    domain: float = 2,
    codomain: float = 2,
    num_steps: int = 1,
    tolerance: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Vectors ``u`` and ``v`` with ``<u, W v>`` at most, and after many steps near, the norm of ``W``.

    Args:
        push: ``W`` as a function.
        pull: Its transpose.
        v: Start, of the shape of an input.
        domain: Order ``p`` of the norm of inputs.
        codomain: Order ``q`` of the norm of outputs.
        num_steps: Most steps.
        tolerance: Stops once the value grows by less than this, relatively; 0 takes all steps.

    Returns:
        ``u`` with dual-``codomain`` norm 1 and ``v`` with ``domain`` norm 1.

    References:
        Boyd (1974), The power method for l^p norms.
    """
    last = -inf
    u = steepest(push(v), dual(codomain))
    for _ in range(num_steps):
        v = steepest(pull(u), domain)
        moved = push(v)
        u = steepest(moved, dual(codomain))
        if tolerance:
            value = float((u * moved).sum())
            if value - last <= tolerance * abs(value):
                break
            last = value
    return u, v


def has_closed_form(domain: float, codomain: float) -> bool:
    """:func:`certified_norm` is the norm itself for these orders."""
    return domain == 1 or codomain == inf or domain == codomain == 2


@torch.no_grad()
def certified_norm(weight: Tensor, domain: float = 2, codomain: float = 2) -> float:
    """An upper bound of the norm of a matrix ``(out, in)`` from the ``domain`` to the ``codomain`` norm.

    Equal to the norm where that has a closed form or a singular value decomposition: from order 1, to order infinity,
    and 2 to 2. Else the smallest of: Hoelder on rows, on columns, and interpolation (Riesz-Thorin) on the line through
    2 to 2 that ends at a closed form; or, where no line does, the spectral norm times the largest change of norms.
    """
    w = weight.detach().double().flatten(1)
    p, q = domain, codomain
    if p == q == 2:
        return float(torch.linalg.matrix_norm(w, 2)) * (1 + ROUNDING)
    if p == 1:  # the largest column
        return float(torch.linalg.vector_norm(w, q, 0).max())
    if q == inf:  # the largest row
        return float(torch.linalg.vector_norm(w, dual(p), 1).max())
    rows = torch.linalg.vector_norm(torch.linalg.vector_norm(w, dual(p), 1), q)
    columns = torch.linalg.vector_norm(torch.linalg.vector_norm(w, q, 0), dual(p))
    spectral = float(torch.linalg.matrix_norm(w, 2)) * (1 + ROUNDING)
    # |Wx|_q <= m^(1/q - 1/2)+ |Wx|_2 and |x|_2 <= n^(1/2 - 1/p)+ |x|_p
    change = w.shape[0] ** max(0.0, 1 / q - 0.5) * w.shape[1] ** max(0.0, 0.5 - _inverse(p))
    bounds = [float(rows), float(columns), spectral * change]
    a, b = _inverse(p) - 0.5, _inverse(q) - 0.5  # the direction from 2 to 2; order 1 and infinity are half away
    if a > 0 and abs(b) <= a:
        bounds.append(spectral ** (1 - 2 * a) * certified_norm(w, 1, _order(0.5 + 0.5 * b / a)) ** (2 * a))
    elif b < 0 and abs(a) <= -b:
        bounds.append(spectral ** (1 + 2 * b) * certified_norm(w, _order(0.5 - 0.5 * a / b), inf) ** (-2 * b))
    return min(bounds)


@torch.no_grad()
def certified_convolution_norm(weight: Tensor, height: int, width: int) -> float:
    """An upper bound of the spectral norm of a convolution with odd kernel, stride 1 and zero padding.

    The convolution is a block of the one on a torus that is larger by ``kernel - 1``, whose norm is the largest
    singular value of the kernel's Fourier transform at the frequencies of that torus: exact for the torus, from above
    for the image.

    Args:
        weight: ``(out_channels, in_channels, kernel, kernel)``.
        height: Of the image.
        width: Of the image.

    References:
        Sedghi, Gupta, Long (2019), The singular values of convolutional layers, arXiv:1805.10408 (for the torus).
    """
    w = weight.detach().double()
    size = (height + w.shape[2] - 1, width + w.shape[3] - 1)
    transform = torch.fft.rfft2(w, s=size).permute(2, 3, 0, 1)  # the other half is conjugate
    gram = transform.mH @ transform if w.shape[1] <= w.shape[0] else transform @ transform.mH
    return float(torch.linalg.eigvalsh(gram)[..., -1].max().clamp_min(0).sqrt()) * (1 + 1e-9)


def _inverse(order: float) -> float:
    return 0.0 if order == inf else 1 / order


def _order(inverse: float) -> float:
    return inf if inverse <= 0 else 1 / inverse
