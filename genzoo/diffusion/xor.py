r"""XOR noise: every bit flips with probability ``b``; levels, posteriors, reverse kernels and bounds in closed form.

A bit is noisy with ``P(z != x) = b``, ``b`` from 0 (clean) to 1/2 (pure noise). Between levels ``b_s < b_t`` a bit
flips with probability ``(b_t - b_s) / (1 - 2 b_s)``: uniform replacement of two symbols that keeps one with probability
``1 - 2 b``.

What a network knows of a bit from the *others* is the log-odds ``h`` of its being 1 (leave-one-out). The noisy bit
itself adds ``log((1 - b) / b)`` in its own direction, exactly; the sum is the log-odds given the whole noisy row.

With ``q`` the leave-one-out probability that a bit is flipped, the continuous-time bound over ``b = v^2 / 2`` is

.. math:: -\log p(x) \le \int_0^1 dv \frac{v}{1 - v^2} \, \mathbb{E}_z \sum_i \rho_i (\log r_i - 1 + 1 / r_i), \quad
    r = \rho / \hat\rho, \; \hat\rho = \frac{b + q (1 - 2b)}{(1 - b) - q (1 - 2b)},

``rho = (1 - b) / b`` for a flipped bit, else ``b / (1 - b)``. Equal to ``-log p(x)`` at the true ``q``.

References: Kinakh and Voloshynovskiy (2024), arXiv:2409.13882, for the noise; the bound is not in the paper.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genzoo.diffusion.process import TINY, Level

SCHEDULES = ("square", "quad", "linear", "sigmoid")


def flip_probability(v: Tensor) -> Tensor:
    """``b = v^2 / 2`` for times ``v`` in [0, 1]: the variance of the bound stays finite towards clean rows."""
    return v.square() / 2


def paper_levels(num_steps: int, smallest: float, schedule: str = "quad") -> Tensor:
    """``(num_steps,)`` ascending marginal flip probabilities of the paper, from ``smallest`` to 1/2.

    Args:
        num_steps: Levels.
        smallest: The paper takes one over the number of bits.
        schedule: ``quad`` (even roots), ``linear`` or ``sigmoid``.
    """
    if schedule not in SCHEDULES[1:]:
        raise ValueError(f"schedule must be one of {', '.join(SCHEDULES[1:])}, got '{schedule}'")
    even = torch.linspace(0, 1, num_steps, dtype=torch.float64)
    if schedule == "quad":
        return (smallest**0.5 + even * (0.5**0.5 - smallest**0.5)).square()
    if schedule == "sigmoid":
        wave = torch.sigmoid(12 * even - 6)
        even = (wave - wave[0]) / (wave[-1] - wave[0])
    return smallest + even * (0.5 - smallest)


def step_flip(b_s: Tensor, b_t: Tensor) -> Tensor:
    """Probability of a flip between two levels."""
    return (b_t - b_s) / (1 - 2 * b_s)


def level(b: Tensor, num_bits: int) -> Level:
    """The same noise for :mod:`genzoo.diffusion.process`, as uniform replacement of two symbols."""
    b = b.to(torch.float64)[:, None, None]
    return Level(1 - 2 * b, b.expand(-1, num_bits, 2))


def evidence(b: Tensor) -> Tensor:
    """``log((1 - b) / b)``: log-odds that a noisy bit says the truth."""
    return torch.log1p(-b) - torch.log(b)


def posterior_logit(h: Tensor, z: Tensor, b: Tensor) -> Tensor:
    """Log-odds of a clean 1 given the whole noisy row, from those given the other bits.

    Args:
        h: ``(n, D)`` leave-one-out log-odds of a 1.
        z: ``(n, D)`` noisy bits.
        b: ``(n, 1)`` flip probability.
    """
    return h + (2 * z - 1) * evidence(b)


def combined(heads: Tensor, z: Tensor) -> Tensor:
    """Leave-one-out log-odds of a 1 from two views of one posterior: of the bit's value, and of its flip.

    Args:
        heads: ``(n, 2, D)`` log-odds of a 1, and of a flip.
        z: ``(n, D)`` noisy bits.
    """
    return (heads[:, 0] + (1 - 2 * z) * heads[:, 1]) / 2


def reverse_one(p: Tensor, z: Tensor, b_s: Tensor, b_t: Tensor) -> Tensor:
    """``P(z_s = 1 | z_t)``, averaged over the posterior ``p`` of a clean 1 (marginalised kernel).

    Args:
        p: ``(n, D)`` probability of a clean 1.
        z: ``(n, D)`` noisy bits at the level ``b_t``.
        b_s: Lower level, broadcasts to ``(n, D)``.
        b_t: Upper level.
    """
    f = step_flip(b_s, b_t)
    back = torch.where(z == 1, 1 - f, f)  # q(z_t | z_s = 1)
    chance = torch.stack([torch.where(z == x, 1 - b_t, b_t) for x in (0, 1)])  # q(z_t | x)
    given = torch.stack([b_s * back, (1 - b_s) * back]) / chance.clamp(min=TINY)  # q(z_s = 1 | z_t, x)
    return p * given[1] + (1 - p) * given[0]


def bernoulli_kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(p || q)`` of two probabilities of a 1."""

    def part(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(a > 0, a * (torch.log(a.clamp(min=TINY)) - torch.log(b.clamp(min=TINY))), 0.0)

    return part(p, q) + part(1 - p, 1 - q)


def step_terms(p: Tensor, z: Tensor, x: Tensor, b_s: Tensor, b_t: Tensor) -> Tensor:
    """``KL(q(z_s | z_t, x) || p(z_s | z_t))`` of each bit; ``-log p(x | z_t)`` for a clean lower level."""
    truth = reverse_one(x.to(p.dtype), z, b_s, b_t)
    return bernoulli_kl(truth, reverse_one(p, z, b_s, b_t))


def bound_terms(h: Tensor, z: Tensor, x: Tensor, v: Tensor) -> Tensor:
    """Integrand of the continuous-time bound of each bit ``(n, D)``, its weight over ``v`` included.

    Args:
        h: ``(n, D)`` leave-one-out log-odds of a clean 1, float64.
        z: ``(n, D)`` noisy bits.
        x: ``(n, D)`` clean bits.
        v: ``(n, 1)`` times in (0, 1).
    """
    b, left = flip_probability(v), 1 - v.square()
    s = (1 - 2 * z) * h
    # log of (b + q left) / (1 - b - q left), by logaddexp: neither end of q is cut off
    log_q, log_not = F.logsigmoid(s), F.logsigmoid(-s)
    log_b, log_keep = torch.log(b), torch.log1p(-b)
    log_hat = torch.logaddexp(log_q + log_keep, log_not + log_b) - torch.logaddexp(log_q + log_b, log_not + log_keep)
    flipped = z != x
    log_rho = torch.where(flipped, 1.0, -1.0) * evidence(b)
    log_ratio = log_rho - log_hat
    # rho (log r - 1 + 1 / r), without cancellation for r near 1
    inner = torch.expm1(-log_ratio) + log_ratio
    return v / left * log_rho.exp() * inner
