"""Langevin sampling with a score: many independent chains at once, corrected by Metropolis so that they are exact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ACCEPTANCE = 0.574
"""Share of proposals that chains aim to accept: the best for Langevin proposals in many dimensions."""

ValueAndScore = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Chains:
    """Where chains ended.

    Args:
        state: ``(batch, D)``.
        acceptance: ``(batch,)`` share of proposals accepted in the second half, after step sizes were fixed.
        step: ``(batch,)`` final step sizes.
    """

    state: Tensor
    acceptance: Tensor
    step: Tensor


@torch.no_grad()
def langevin(
    target: ValueAndScore,
    start: Tensor,
    num_steps: int,
    generator: torch.Generator,
    step: float = 0.5,
    scale: Tensor | None = None,
    free: Tensor | None = None,
) -> Chains:
    r"""Metropolis-adjusted Langevin chains, one a row.

    Proposals are ``x + (h S)^2 / 2 score(x) + h S n`` with ``S`` a diagonal scale and ``n`` normal, accepted with the
    Metropolis-Hastings probability, so that the target is left unchanged whatever the step. In the first half each
    chain tunes its own step towards 57 % accepted; then it stays.

    Args:
        target: Log-density up to a constant ``(batch,)`` and its gradient ``(batch, D)``.
        start: ``(batch, D)`` first states.
        num_steps: Proposals a chain.
        generator: Source of randomness, on the host.
        step: First step size ``h``, in units of ``scale``.
        scale: ``(D,)`` or ``(batch, D)`` typical size of each coordinate; ``None``: 1.
        free: ``(batch, D)`` bool: coordinates that move; the others stay and the target is read given them.

    References:
        Roberts, Tweedie (1996), Exponential convergence of Langevin distributions and their discrete approximations.
        Roberts, Rosenthal (1998), Optimal scaling of discrete approximations to Langevin diffusions.
    """
    size = torch.ones_like(start) if scale is None else scale.to(start).expand_as(start)
    if free is not None:
        size = size * free
    state = start.clone()
    value, score = target(state)
    log_step = torch.full((len(start),), step, dtype=start.dtype, device=start.device).log()
    accepted = torch.zeros_like(log_step)
    half = num_steps // 2
    for number in range(num_steps):
        h = log_step.exp()[:, None] * size
        noise = torch.randn(start.shape, generator=generator, dtype=torch.float64).to(start)
        uniform = torch.rand(len(start), generator=generator, dtype=torch.float64).to(start)
        proposal = state + 0.5 * h.square() * score + h * noise
        new_value, new_score = target(proposal)
        # (x - x' - h^2/2 s(x')) / h, coordinate by coordinate; coordinates that do not move have no term
        back = -(noise + 0.5 * h * (score + new_score))
        log_ratio = new_value - value + 0.5 * (noise.square() - back.square()).mul(size > 0).sum(1)
        chance = torch.nan_to_num(log_ratio, nan=-torch.inf).clamp(max=0).exp()
        take = uniform < chance
        state = torch.where(take[:, None], proposal, state)
        value = torch.where(take, new_value, value)
        score = torch.where(take[:, None], new_score, score)
        if number < half:
            log_step = log_step + (chance - ACCEPTANCE) * (number + 1) ** -0.6
        else:
            accepted += take
    return Chains(state, accepted / max(1, num_steps - half), log_step.exp())
