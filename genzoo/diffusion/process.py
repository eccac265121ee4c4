r"""Noise that replaces symbols: marginals, steps and reverse kernels, for any mixing distribution.

At noise level ``t`` a symbol is kept with probability ``alpha_t`` and else drawn from ``pi_t``; with the noise vector
``B_t = (1 - alpha_t) pi_t``,

.. math:: q_t(z \mid x) = \alpha_t [z = x] + B_t(z), \qquad
    q(z_t \mid z_s) = a [z_t = z_s] + b(z_t), \quad a = \alpha_t / \alpha_s, \; b = B_t - a B_s.

The reverse kernel needs a distribution of the clean symbol. There are two readings of a network's output, and they must
not be mixed: ``plug_in`` puts it in place of the one-hot symbol, and its optimum is the leave-one-out distribution
``p(x_i | z without z_i)``; ``marginalised`` averages the posterior over it, and its optimum is ``p(x_i | z)``.
:func:`to_posterior` and :func:`to_leave_one_out` convert exactly. All positions are independent given ``z``.

Symbols are ``0..V-1`` in all columns; a process with a mask has it as the last symbol. All in float64.
References: Austin et al. (2021), arXiv:2107.03006; Hoogeboom et al. (2021), arXiv:2102.05379; von Ruette et al. (2025),
arXiv:2503.04482.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-300


@dataclass(frozen=True)
class Level:
    """A noise level for each row.

    Args:
        alpha: ``(n, 1, 1)`` probability that a symbol is kept.
        vector: ``(n, L, V)`` unnormalised noise ``B``; rows of it sum to ``1 - alpha``.
    """

    alpha: Tensor
    vector: Tensor


class Hybrid:
    r"""Masking with a share of uniform replacement (GIDD): ``B_t = (t e_mask + c_t u) / (1 + c_t)``.

    ``c_t = 2^gamma p/(1-p) (t(1-t))^(gamma/2)``, ``alpha_t = (1-t)/(1+c_t)``; half-way the share of uniformly replaced
    symbols is exactly ``p``. At ``t = 0`` rows are clean, at ``t = 1`` all is masked.

    Args:
        uniform_share: ``p`` in [0, 1); 0 is plain masking.
        gamma: Exponent of the uniform part over time.
    """

    def __init__(self, uniform_share: float = 0.1, gamma: float = 1.0) -> None:
        if not 0 <= uniform_share < 1:
            raise ValueError(f"uniform_share must be at least 0 and below 1, got {uniform_share}")
        self.gamma = gamma
        self.strength = 2**gamma * uniform_share / (1 - uniform_share)

    def replaced(self, t: Tensor) -> Tensor:
        """``c_t``."""
        return self.strength * (t * (1 - t)).clamp(min=0) ** (self.gamma / 2)

    def level(self, t: Tensor, valid: Tensor) -> Level:
        """The level at times ``(n,)``; ``valid`` ``(L, K)`` says which symbols a column has. Mask is symbol ``K``."""
        t = t.to(torch.float64)[:, None, None]
        c = self.replaced(t)
        uniform = valid.to(torch.float64) / valid.sum(1, keepdim=True)
        vector = torch.cat([c * uniform, t.expand(-1, len(valid), 1)], -1) / (1 + c)
        return Level((1 - t) / (1 + c), vector)

    def weights(self, t: Tensor, is_mask: Tensor, is_clean: Tensor, num_symbols: Tensor) -> Tensor:
        """Rate of the jump into ``z`` over ``q_t(z | x)``, the weight of each cell in the continuous-time bound.

        Args:
            t: ``(n,)`` in (0, 1).
            is_mask: ``(n, L)`` the cell is masked.
            is_clean: ``(n, L)`` the cell shows its clean symbol.
            num_symbols: ``(L,)`` valid symbols of each column.
        """
        t = t.to(torch.float64)[:, None]
        c, left = self.replaced(t), 1 - t
        # (c + (1 - t) c') / c, with c' = (gamma / 2) (1 - 2t) / (t (1 - t)) c
        growth = 1 + self.gamma / 2 * (1 - 2 * t) / t
        masked = 1 / (t * left)
        wrong = growth / left
        share = c / num_symbols
        clean = growth * share / (left * (left + share))
        return torch.where(is_mask, masked, torch.where(is_clean, clean, wrong))


class UniformCosine:
    r"""Uniform replacement in ``num_steps`` discrete steps (multinomial diffusion), cosine schedule.

    ``alpha-bar_k = f(k/T) / f(0)``, ``f(t) = cos((t + 0.008) / 1.008 pi / 2)``; a single step keeps a symbol with
    probability at least ``sqrt(0.001)``, so that a little signal is left at the end.
    """

    def __init__(self, num_steps: int) -> None:
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        self.num_steps = num_steps
        t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
        f = torch.cos((t + 0.008) / 1.008 * math.pi / 2).clamp(min=0)
        step = (f[1:] / f[:-1]).clamp(min=math.sqrt(0.001))
        self.alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), step.cumprod(0)])

    def level(self, k: Tensor, valid: Tensor) -> Level:
        """The level after steps ``(n,)`` of the forward process."""
        alpha = self.alpha_bar.to(valid.device)[k][:, None, None]
        uniform = valid.to(torch.float64) / valid.sum(1, keepdim=True)
        return Level(alpha, (1 - alpha) * uniform)


def marginal(level: Level, clean: Tensor) -> Tensor:
    """``q_t(. | x)`` ``(n, L, V)`` for distributions ``clean`` ``(n, L, K)`` of the clean symbol, ``K <= V``."""
    clean = clean.to(torch.float64)
    return level.alpha * F.pad(clean, (0, level.vector.shape[-1] - clean.shape[-1])) + level.vector


def _back(z: Tensor, s: Level, t: Level) -> Tensor:
    """``q(z_t | z_s)`` as a function of ``z_s``: ``(n, L, V)``."""
    a = t.alpha / s.alpha
    b = (t.vector - a * s.vector).clamp(min=0)
    there = b.expand(len(z), -1, -1).gather(-1, z[..., None])
    return a * F.one_hot(z, t.vector.shape[-1]) + there


def plug_in(z: Tensor, clean: Tensor, s: Level, t: Level) -> Tensor:
    """``p(z_s | z_t)`` with a distribution in place of the clean symbol; for a one-hot one, the posterior by Bayes."""
    joint = _back(z, s, t) * marginal(s, clean)
    return joint / joint.sum(-1, keepdim=True).clamp(min=TINY)


def marginalised(z: Tensor, clean: Tensor, s: Level, t: Level) -> Tensor:
    """``sum_k clean_k q(z_s | z_t, x = k)``."""
    clean = clean.to(torch.float64)
    ratio = clean / _chance(z, t, clean.shape[-1]).clamp(min=TINY)
    padded = F.pad(ratio, (0, s.vector.shape[-1] - ratio.shape[-1]))
    return _back(z, s, t) * (s.alpha * padded + s.vector * ratio.sum(-1, keepdim=True))


def _chance(z: Tensor, t: Level, num_symbols: int) -> Tensor:
    """``q_t(z | k)`` for every clean symbol ``k``: ``(n, L, K)``."""
    same = F.one_hot(z, t.vector.shape[-1])[..., :num_symbols]
    return t.alpha * same + t.vector.expand(len(z), -1, -1).gather(-1, z[..., None])


def to_posterior(leave_one_out: Tensor, z: Tensor, t: Level) -> Tensor:
    """``p(x_i | z)`` from ``p(x_i | z without z_i)``."""
    joint = leave_one_out.to(torch.float64) * _chance(z, t, leave_one_out.shape[-1])
    return joint / joint.sum(-1, keepdim=True)


def to_leave_one_out(posterior: Tensor, z: Tensor, t: Level) -> Tensor:
    """Inverse of :func:`to_posterior`."""
    chance = _chance(z, t, posterior.shape[-1])
    ratio = torch.where(posterior > 0, posterior.to(torch.float64) / chance.clamp(min=TINY), 0.0)
    return ratio / ratio.sum(-1, keepdim=True)


def kl(p: Tensor, q: Tensor) -> Tensor:
    """``sum p log(p / q)`` over the last dimension; 0 log 0 is 0."""
    inside = p > 0
    return torch.where(inside, p * (torch.log(p.clamp(min=TINY)) - torch.log(q.clamp(min=TINY))), 0.0).sum(-1)


def hybrid_bound_terms(noise: Hybrid, t: Tensor, z: Tensor, x: Tensor, clean: Tensor, valid: Tensor) -> Tensor:
    """Integrand of the continuous-time bound over the weight, ``KL + r - log r - 1`` of each cell: ``(n, L)``.

    Args:
        noise: The process.
        t: ``(n,)`` times in (0, 1).
        z: ``(n, L)`` noisy symbols, mask ``K``.
        x: ``(n, L)`` clean symbols.
        clean: ``(n, L, K)`` the network's leave-one-out distributions.
        valid: ``(L, K)``.
    """
    level = noise.level(t, valid)
    truth = marginal(level, F.one_hot(x, clean.shape[-1]))
    model = marginal(level, clean)
    at = z[..., None]
    ratio = truth.gather(-1, at)[..., 0] / model.gather(-1, at)[..., 0].clamp(min=TINY)
    return kl(truth, model) + ratio - torch.log(ratio.clamp(min=TINY)) - 1


def step_terms(z: Tensor, x: Tensor, reverse: Tensor, s: Level, t: Level) -> Tensor:
    """``KL(q(z_s | z_t, x) || p(z_s | z_t))`` of each cell ``(n, L)``: a step's term of the discrete-time bound.

    At a clean end (``alpha_s = 1``) it is ``-log p(x | z_t)``.
    """
    size = reverse.shape[-1]
    return kl(plug_in(z, F.one_hot(x, size), s, t), reverse)


def prior_term(x: Tensor, t: Level, valid: Tensor) -> Tensor:
    """``KL(q_t(. | x) || uniform)`` of each cell ``(n, L)``: what is left of the signal at the noisy end."""
    uniform = valid.to(torch.float64) / valid.sum(1, keepdim=True)
    return kl(marginal(t, F.one_hot(x, valid.shape[1])), uniform.expand(len(x), -1, -1))
