r"""Score-matching losses: what fits an energy to data without its normalising constant.

With ``s(x) = grad log p(x)``, which the constant does not enter, all of them estimate, up to a number that the model
does not change, the Fisher divergence ``E 1/2 |s(x) - grad log p_data(x)|^2`` to the data (or, for denoising, to the
data with noise added), here divided by the number of features, so that settings carry over between widths.

The losses take the score, its curvature or energies as tensors, so that a model with a cheaper way to them (layer by
layer) and one without (:func:`score_and_curvature`) share one definition.

References:
    Hyvarinen (2005), Estimation of non-normalized statistical models by score matching.
    Vincent (2011), A connection between score matching and denoising autoencoders.
    Song, Garg, Shi, Ermon (2020), Sliced score matching, arXiv:1905.07088.
    Pang et al. (2020), Efficient learning of generative models via finite-difference score matching, arXiv:2007.03317.
    Chao et al. (2023), Training energy-based normalizing flow with score-matching objectives, arXiv:2305.15267.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad, jvp, vmap

LogDensity = Callable[[Tensor], Tensor]


def score_and_curvature(log_density: LogDensity, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    """Score and ``v^T (d score / dx) v``, forward over reverse: for densities without a written-out form.

    Args:
        log_density: ``(batch, D)`` to ``(batch,)``, row by row; a constant may be missing.
        x: ``(batch, D)``.
        probes: ``(slices, batch, D)`` directions ``v``.

    Returns:
        Scores ``(batch, D)`` and curvatures ``(slices, batch)``, differentiable in what ``log_density`` closes over.
    """
    score = grad(lambda points: log_density(points).sum())

    def along(v: Tensor) -> tuple[Tensor, Tensor]:
        result = jvp(score, (x,), (v,))
        value: tuple[Tensor, Tensor] = (result[0], (result[1] * v).sum(1))
        return value

    values, curvature = vmap(along)(probes)
    return values[0], curvature


def sliced(score: Tensor, curvature: Tensor) -> Tensor:
    r"""Sliced score matching with variance reduction: ``E[1/2 |s|^2 + v^T (ds/dx) v] / D`` for Rademacher ``v``.

    With the ``D`` unit vectors times ``sqrt(D)`` as slices it is the exact implicit loss (:func:`unit_probes`).

    Args:
        score: ``(batch, D)`` at the data.
        curvature: ``(slices, batch)``.
    """
    return (0.5 * score.square().sum(1) + curvature.mean(0)).mean() / score.shape[1]


def denoising(score: Tensor, noise: Tensor, sigma: float) -> Tensor:
    r"""``E 1/2 |s(x + sigma n) + n / sigma|^2 / D``: learns the density of data plus noise.

    Args:
        score: ``(batch, D)`` at the noisy points.
        noise: ``(batch, D)`` standard normal ``n``.
        sigma: Size of the noise, in units of the data.
    """
    return 0.5 * (score + noise / sigma).square().sum(1).mean() / score.shape[1]


def finite_difference(centre: Tensor, ahead: Tensor, behind: Tensor, epsilon: float) -> Tensor:
    r"""``E[((E+ - E-)^2 / 8 - E+ - E- + 2 E) / eps^2]`` for steps uniform on the sphere of radius ``eps``.

    Equal to the implicit loss divided by D, up to ``O(eps^2)``. Energies are differenced in float64.

    Args:
        centre: ``(batch,)`` energies of the data.
        ahead: Energies at ``x + v``.
        behind: Energies at ``x - v``.
        epsilon: Length of ``v``.
    """
    up, down = ahead.double() - centre.double(), behind.double() - centre.double()
    return ((up - down).square() / 8 - up - down).mean() / epsilon**2


def contrastive(data: Tensor, model: Tensor) -> Tensor:
    """``E_data[E] - E_model[E]``: its gradient is that of maximum likelihood; its value is not a likelihood.

    Args:
        data: ``(batch,)`` energies of data.
        model: ``(samples,)`` energies of draws from the model, which carry no gradient themselves.
    """
    return data.mean() - model.mean()


def sign_probes(x: Tensor, slices: int) -> Tensor:
    """Rademacher directions, ``(slices, batch, D)``."""
    return torch.empty(slices, *x.shape, dtype=x.dtype, device=x.device).bernoulli_(0.5).mul_(2).sub_(1)


def unit_probes(x: Tensor) -> Tensor:
    """``(D, batch, D)``: the mean of ``v^T A v`` over the slices is the trace of ``A``."""
    width = x.shape[1]
    eye = torch.eye(width, dtype=x.dtype, device=x.device) * width**0.5
    return eye[:, None, :].expand(width, *x.shape)


def sphere_steps(x: Tensor, epsilon: float) -> Tensor:
    """Steps uniform on the sphere of radius ``epsilon``, ``(batch, D)``."""
    v = torch.randn_like(x)
    return v * (epsilon / v.norm(dim=1, keepdim=True))
