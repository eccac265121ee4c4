"""Maps from the line onto the sets {argmax v = x}, {sign v = x} and {lower < y < upper}, with their log-densities.

Uniform numbers in (0, 1) are carried as ``a`` with ``U = sigmoid(a)``, so that neither end is ever reached.

References: Hoogeboom, Nielsen, Jaini, Forre, Welling (2021), Argmax Flows and Multinomial Diffusion, arXiv 2102.05379;
softplus and Gumbel thresholding, binary Cartesian product. Same as the paper as far as tested (Gumbel identity,
enumeration, Jacobians).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SQRT_HALF = 0.5**0.5


def gumbel_threshold(phi: Tensor, category: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """A point ``v`` with ``argmax v = category`` and ``log |dU/dv|``, its density if ``U`` is uniform.

    The largest coordinate is Gumbel at ``logsumexp(phi)``, ``v_x = phi_max - log(-log U_x) = T``; the others are
    Gumbels truncated at it, ``v_k = phi_k - log(exp(phi_k - T) - log U_k)``.

    Args:
        phi: ``(..., K)`` Gumbel locations.
        category: ``(...)`` int64 index of the largest coordinate.
        a: ``(..., K)`` logits of the uniform numbers.

    Returns:
        ``v`` ``(..., K)`` and the log-density ``(...)``.
    """
    log_exponential = functional.softplus(-a).log()  # log(-log U)
    index = category[..., None]
    top = torch.logsumexp(phi, -1, keepdim=True) - log_exponential.gather(-1, index)
    # -log of a truncated exponential variable; exp(log_rate) = exp(phi_k - T) - log U_k
    log_rate = torch.logaddexp(phi - top, log_exponential)
    # The class holds by construction, also where rounding would make a tie.
    below = torch.nextafter(top.detach(), torch.full_like(top, -torch.inf))
    v = torch.minimum(phi - log_rate, below).scatter(-1, index, top)
    # phi_k - v_k - exp(phi_k - v_k) + exp(phi_k - T) = log_rate - exp(log_exponential); the top one has no truncation.
    log_rate = log_rate.scatter(-1, index, log_exponential.gather(-1, index))
    return v, (log_rate - log_exponential.exp()).sum(-1)


def softplus_threshold(category: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """A point ``v`` with ``argmax v = category`` from any ``u``, and ``log |dv/du|``.

    ``v_x = u_x = T`` and ``v_k = T - softplus(T - u_k)``: nearly ``u_k`` far below ``T``, pressed under it elsewhere.

    Args:
        category: ``(...)`` int64 index of the largest coordinate.
        u: ``(..., K)`` real numbers.

    Returns:
        ``v`` ``(..., K)`` and the log-volume ``(...)``.
    """
    index = category[..., None]
    top = u.gather(-1, index)
    gap = top - u
    below = torch.nextafter(top.detach(), torch.full_like(top, -torch.inf))
    v = torch.minimum(top - functional.softplus(gap), below).scatter(-1, index, top)
    return v, functional.logsigmoid(gap).scatter(-1, index, torch.zeros_like(top)).sum(-1)


def logistic(noise: Tensor) -> tuple[Tensor, Tensor]:
    """Standard logistic numbers from standard normal ones, and their log-density; shapes as ``noise``."""
    # Through erfc: ten times faster than log_ndtr, as good while |noise| < 12 (more than a draw can be), and unlike
    # ndtr, which is (1 + erf) / 2, precise in the lower tail.
    value = torch.erfc(-noise * SQRT_HALF).log() - torch.erfc(noise * SQRT_HALF).log()
    return value, functional.logsigmoid(value) + functional.logsigmoid(-value)


def sign_threshold(positive: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """``v = +-softplus(a)`` with the wanted sign, and ``log |dv/da|``; shapes as ``a``."""
    size = functional.softplus(a)
    return torch.where(positive, size, -size), functional.logsigmoid(a)


def into_cell(lower: Tensor, upper: Tensor, width: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """A point of the cell ``(lower, upper)``, either end of which may be infinite, and ``log |dy/da|``.

    Between finite ends ``y = lower + width sigmoid(a)``; with one infinite end the distance to the other one is
    ``width softplus(a)``; with two ``y = a``.

    Args:
        lower: Lower edge.
        upper: Upper edge.
        width: Positive: ``upper - lower``, taken before any rounding to the working precision, or the scale of the
            distance from the one finite end. Not used with two infinite ends.
        a: Any real numbers.
    """
    no_lower, no_upper = lower.isinf(), upper.isinf()
    start = torch.where(no_lower, torch.where(no_upper, torch.zeros_like(upper), upper), lower)
    inside, log_inside = a.sigmoid(), functional.logsigmoid(a) + functional.logsigmoid(-a)
    reach, log_reach = functional.softplus(a), functional.logsigmoid(a)
    direction = torch.where(no_lower, -torch.ones_like(a), torch.ones_like(a))
    open_ended, line = no_lower ^ no_upper, no_lower & no_upper
    y = start + direction * width * torch.where(open_ended, reach, inside)
    log_slope = width.log() + torch.where(open_ended, log_reach, log_inside)
    return torch.where(line, a, y), torch.where(line, torch.zeros_like(a), log_slope)
