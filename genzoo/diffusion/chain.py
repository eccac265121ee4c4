"""A reverse chain with independent positions a step: drawing from it, and its exact law where states can be listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from genzoo.diffusion.categorical import draw

Kernel = Callable[[Tensor, int], Tensor]
"""``(z (n, L), step) -> p(z_s | z_t) (n, L, V)``; steps run from 0 (the noisiest) to ``num_steps - 1``."""

MAX_STATES = 2048


def run_chain(kernel: Kernel, start: Tensor, num_steps: int, generator: torch.Generator) -> Tensor:
    """Ancestral draws ``(n, L)`` from a start; every position is drawn anew in each step."""
    z = start
    for step in range(num_steps):
        level = torch.rand(z.shape, generator=generator, dtype=torch.float64).clamp(2.0**-54, 1 - 2.0**-53)
        z = draw(torch.log(kernel(z, step)), level.to(z.device))
    return z


def all_states(symbols: Sequence[Tensor]) -> Tensor:
    """``(S, L)`` every combination of the symbols of each position, the last position fastest."""
    return torch.cartesian_prod(*symbols).reshape(-1, len(symbols))


def chain_law(kernel: Kernel, symbols: Sequence[Tensor], start: Tensor, num_steps: int) -> Tensor:
    """Exact distribution ``(S,)`` over :func:`all_states` at the end of the chain.

    Args:
        kernel: The reverse kernels.
        symbols: Symbols that each position can show.
        start: ``(S,)`` distribution over the states at the beginning.
        num_steps: Steps of the chain; each costs one call on all states and ``S^2`` additions.
    """
    states = all_states(symbols)
    if len(states) > MAX_STATES:
        raise ValueError(f"{len(states)} states are too many to list; at most {MAX_STATES}")
    p = start.to(torch.float64)
    for step in range(num_steps):
        live = torch.nonzero(p > 0)[:, 0]
        probs = kernel(states[live], step)
        ways = p[live][:, None]
        for position, choice in enumerate(symbols):
            ways = (ways[:, :, None] * probs[:, position, None, choice]).flatten(1)
        p = ways.sum(0)
    return p
