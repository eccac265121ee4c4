r"""Reverse steps of a category: the noised code of each known category, weighted by its probability.

A Gaussian step from one code towards another passes through values that are no category. Given the noised row, the
category itself is what is unknown, so the step is

.. math:: p(x_u \mid x_t) = \sum_c \pi_c(x_t)\, N(x_u;\, c_t x_t + c_x\, \text{code}_c,\, b^2 I),

with :math:`\pi` from the denoiser: its estimate :math:`\hat x` of a code is a mean over codes, hence their
probabilities. They tilt Bayes' rule on the noised code alone so that its mean becomes :math:`\hat x`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.models.trees.code_posterior import Codes
from genzoo.trees.levels import Kernel, Level

LEAST = 1e-4
"""Least probability that a mean of codes is read as."""


def tilted(codes: Codes, plain: Tensor, x_hat: Tensor) -> Tensor:
    """``(n, K)`` log-probabilities of the codes whose mean is ``x_hat``, in each coordinate.

    Exact for two categories and for one-hot codes; for codes of several bits each bit is moved by its own odds, and
    what the bits share stays that of ``plain``.

    Args:
        codes: The points of the categories.
        plain: ``(n, K)`` log-probabilities by Bayes' rule.
        x_hat: ``(n, w)`` the denoiser's estimate.
    """
    low, high = codes.points.amin(0), codes.points.amax(0)
    upper = ((codes.points - low) / (high - low)).double()  # (K, w) 0 or 1

    def share(mean: Tensor) -> Tensor:
        return ((mean - low) / (high - low)).clamp(LEAST, 1 - LEAST)

    now, before = share(x_hat), share(plain.exp() @ codes.points)
    tilt = (now.log() - before.log()) @ upper.T
    if not codes.one_hot:
        tilt = tilt + (torch.log1p(-now) - torch.log1p(-before)) @ (1 - upper).T
    return (plain + tilt).log_softmax(1)


def category_log_probs(codes: Codes, x_t: Tensor, x_hat: Tensor, level: Level, share: Tensor) -> Tensor:
    """``(n, K)`` log-probability of each category given the noised row.

    Args:
        codes: The points of the categories.
        x_t: ``(n, w)`` the noised code.
        x_hat: ``(n, w)`` the denoiser's estimate of it.
        level: Level of noise.
        share: Scalar weight of the denoiser beside Bayes' rule on the noised code alone.
    """
    plain = codes.log_posterior(x_t, level)
    return torch.logaddexp(tilted(codes, plain, x_hat) + share.log(), plain + torch.log1p(-share))


def log_step_ratio(codes: Codes, log_prob: Tensor, kernel: Kernel, deviation: Tensor) -> Tensor:
    """``(n,)`` log-density of a step over that of ``N(0, b^2 I)`` at 0.

    Args:
        codes: The points of the categories.
        log_prob: ``(n, K)`` of :func:`category_log_probs`.
        kernel: The step.
        deviation: ``(n, w)`` ``x_u - c_t x_t``.
    """
    distance = (deviation[:, None, :] - kernel.c_x * codes.points).square().sum(2)
    return torch.logsumexp(log_prob - 0.5 * distance / kernel.b**2, 1)


def draw_step(codes: Codes, log_prob: Tensor, kernel: Kernel, x_t: Tensor, generator: torch.Generator) -> Tensor:
    """``(n, w)`` draws of the next noised code."""
    chosen = codes.points[torch.multinomial(log_prob.exp(), 1, generator=generator)[:, 0]]
    z = torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
    return kernel.c_t * x_t + kernel.c_x * chosen + kernel.b * z
