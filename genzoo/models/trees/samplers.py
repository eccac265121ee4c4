r"""Samplers of a denoiser beside the ancestral one: the probability flow, and the reverse stochastic equation.

With :math:`\hat e = (x_t - a \hat x) / s`, rows follow

.. math:: \frac{dx}{dt} = a' \hat x + s' \hat e

from noise to the lowest level and end at :math:`\hat x`: on the straight path the flow of flow matching, on the
variance-preserving path the probability flow of diffusion. These rows are not draws of the model whose likelihood is
reported: trees are piecewise constant, so the map has no density.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torchdiffeq import odeint

from genzoo.models.trees.denoiser import View
from genzoo.models.trees.reverse_path import ReversePath
from genzoo.trees.levels import Level, NoisePath, VariancePreserving

Solver = Literal["euler", "heun", "rk4"]
SOLVERS = {"euler": "euler", "heun": "heun2", "rk4": "rk4"}


def require_steps(solver_steps: int) -> None:
    """Raises a ``ValueError`` for a number of steps below 0."""
    if solver_steps < 0:
        raise ValueError(f"solver_steps must be 0 (one from level to level) or more, got {solver_steps}")


def time_grid(times: Sequence[float], num_steps: int) -> list[float]:
    """Descending times of a solver: those of the levels, or ``num_steps`` steps evenly between them.

    Args:
        times: Of the levels, descending.
        num_steps: 0 takes the levels themselves.
    """
    if not num_steps or len(times) < 2:
        return list(times)
    places = np.linspace(0, len(times) - 1, num_steps + 1)
    return [float(t) for t in np.interp(places, np.arange(len(times)), np.asarray(times))]


def follow_flow(
    reverse: ReversePath,
    path: NoisePath,
    context: Tensor,
    generator: torch.Generator,
    solver: Solver = "euler",
    num_steps: int = 0,
    group: int = 0,
) -> tuple[Tensor, Tensor]:
    """Rows ``(n, P)`` and categories ``(n, slots)`` by a fixed-step solver.

    Args:
        reverse: The fitted model.
        path: Its path of noise.
        context: ``(n, num_context)``.
        generator: Source of the noise that rows start from, and of their categories.
        solver: ``euler``, ``heun`` (second order) or ``rk4`` (fourth).
        num_steps: Steps; 0 makes one from each level to the next.
        group: The class.
    """
    denoiser, levels = reverse.denoiser, reverse.levels
    view = denoiser.complete_view(group)
    x = view.prior(levels[0], torch.randn(len(context), denoiser.width, generator=generator, dtype=torch.float64))
    times = np.array([level.time for level in levels])

    def velocity(time: Tensor, x_t: Tensor) -> Tensor:
        at = float(time)
        nearest = levels[int(np.argmin(np.abs(times - at)))]
        level = nearest if nearest.time == at else path.level(nearest.index, at)
        x_hat, _ = denoiser.estimate(level, x_t, view, context)
        slope_signal, slope_noise = path.rates(at)
        return slope_signal * x_hat + slope_noise * (x_t - level.signal * x_hat) / level.noise

    grid = torch.tensor(time_grid(list(times), num_steps), dtype=torch.float64)
    if len(grid) > 1:
        x = odeint(velocity, x, grid, method=SOLVERS[solver])[-1]
    return finish(reverse, x, view, context, generator)


def reverse_diffusion(
    reverse: ReversePath, path: VariancePreserving, context: Tensor, generator: torch.Generator, group: int = 0
) -> tuple[Tensor, Tensor]:
    """Rows and categories by Euler-Maruyama steps of the reverse stochastic equation from level to level.

    Args:
        reverse: The fitted model.
        path: Its path of noise.
        context: ``(n, num_context)``.
        generator: Source of randomness.
        group: The class.
    """
    denoiser, levels = reverse.denoiser, reverse.levels
    view = denoiser.complete_view(group)
    shape = (len(context), denoiser.width)
    # the authors start from N(0, I); the noised Gaussian fit is where the forward process really ends
    x = view.prior(levels[0], torch.randn(shape, generator=generator, dtype=torch.float64))
    for level, lower in pairwise(levels):
        x_hat, _ = denoiser.estimate(level, x, view, context)
        score = (level.signal * x_hat - x) / level.noise**2
        step, beta = level.time - lower.time, path.beta(level.time)
        z = torch.randn(shape, generator=generator, dtype=torch.float64)
        x = x + step * beta * (0.5 * x + score) + math.sqrt(beta * step) * z
    return finish(reverse, x, view, context, generator)


def finish(
    reverse: ReversePath, x_t: Tensor, view: View, context: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """From the lowest level to the data without noise: the denoiser's estimate, and a category drawn given its code."""
    last: Level = reverse.levels[-1]
    x_hat, _ = reverse.denoiser.estimate(last, x_t, view, context)
    _, category = reverse.draw(x_t, view, context, generator)
    return x_hat, category
