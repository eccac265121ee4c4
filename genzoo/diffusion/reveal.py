r"""Samplers of the absorbing process: masked cells are revealed, once each; visible cells never change.

``any_order`` reveals one cell a call in a random order, and its law is the exact likelihood of ``any_order.py``.
``first_hitting`` draws the time at which each cell is revealed and follows it: the same law. ``tweedie`` and ``euler``
walk a grid of times and reveal several cells at once, an error of order one over the number of steps.

Whether a cell is revealed does not depend on the network, so it is drawn first, and the network is called only for rows
that reveal something: this is the cache of the paper, and the number of calls has a closed form (:func:`expected_nfe`).

Source: Ou et al. (2024), arXiv:2406.03736, section on sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from genzoo.diffusion.categorical import Conditional, draw, in_pieces

Sampler = Literal["any_order", "first_hitting", "tweedie", "euler"]


@dataclass(frozen=True)
class Drawn:
    """Filled rows and what they cost.

    Args:
        tokens: ``(batch, L)``.
        calls: ``(batch,)`` network evaluations of each row.
        times: ``(batch, L)`` time at which each cell was revealed (1 for given cells); NaN for ``any_order``.
    """

    tokens: Tensor
    calls: Tensor
    times: Tensor


def reveal(
    conditional: Conditional,
    start: Tensor,
    generator: torch.Generator,
    sampler: Sampler = "any_order",
    num_steps: int = 64,
    cached: bool = True,
) -> Drawn:
    """Fills the masked cells of ``start``.

    Args:
        conditional: The model.
        start: ``(batch, L)`` symbols; -1 is filled, others are given and stay.
        generator: Random numbers, on the host.
        sampler: See the module.
        num_steps: Grid steps of ``tweedie`` and ``euler``.
        cached: Call the network only for rows that reveal a cell; the draws are the same without.
    """
    if sampler in ("any_order", "first_hitting"):
        return _one_by_one(conditional, start, generator, sampler == "first_hitting")
    if sampler not in ("tweedie", "euler"):
        raise ValueError(f"unknown sampler '{sampler}'; use any_order, first_hitting, tweedie or euler")
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    return _on_grid(conditional, start, generator, sampler, num_steps, cached)


def _uniform(shape: tuple[int, ...], generator: torch.Generator, device: torch.device) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64).clamp(2.0**-54, 1 - 2.0**-53).to(device)


def _one_by_one(conditional: Conditional, start: Tensor, generator: torch.Generator, timed: bool) -> Drawn:
    batch, length = start.shape
    device = start.device
    tokens, masked = start.clone(), start < 0
    # At alpha = 1 - t a cell is revealed at a uniform time, so sorting the times is a uniform order.
    times = _uniform((batch, length), generator, device)
    order = times.masked_fill(~masked, -torch.inf).argsort(1, descending=True)
    left = masked.sum(1)
    for step in range(int(left.max()) if batch else 0):
        level = _uniform((batch,), generator, device)
        rows = torch.nonzero(left > step)[:, 0]
        place = order[rows, step]

        def at_place(state: Tensor, index: Tensor, rows: Tensor = rows, place: Tensor = place) -> Tensor:
            found = conditional(state, rows[index])
            return found[torch.arange(len(state), device=state.device), place[index]]

        log_probs = in_pieces(at_place, tokens[rows], torch.arange(len(rows), device=device))
        tokens[rows, place] = draw(log_probs, level[rows])
    nothing = torch.full_like(times, torch.nan)
    return Drawn(tokens, left, torch.where(masked, times, 1.0) if timed else nothing)


def reveal_probability(num_steps: int, step: int, sampler: Sampler) -> float:
    """Probability that a cell still masked before grid step ``step`` (0 is the first) is revealed in it.

    The grid is ``t = 1, 1 - 1/n, ..., 0`` and ``alpha = 1 - t``; ``tweedie`` uses
    ``(alpha_s - alpha_t) / (1 - alpha_t)`` and ``euler`` ``dt alpha'/(1 - alpha)``: equal for this schedule.
    """
    t, s = 1 - step / num_steps, 1 - (step + 1) / num_steps
    if step == num_steps - 1:
        return 1.0
    return min(1.0, (t - s) / t if sampler == "euler" else 1 - s / t)


def _on_grid(
    conditional: Conditional, start: Tensor, generator: torch.Generator, sampler: Sampler, num_steps: int, cached: bool
) -> Drawn:
    batch, length = start.shape
    device = start.device
    tokens = start.clone()
    calls = torch.zeros(batch, dtype=torch.int64, device=device)
    times = torch.ones(batch, length, dtype=torch.float64, device=device)
    for step in range(num_steps):
        chosen = _uniform((batch, length), generator, device) < reveal_probability(num_steps, step, sampler)
        level = _uniform((batch, length), generator, device)
        chosen &= tokens < 0
        rows = torch.nonzero(chosen.any(1))[:, 0] if cached else torch.arange(batch, device=device)
        if not len(rows):
            continue

        def drawn(state: Tensor, index: Tensor, rows: Tensor = rows, level: Tensor = level) -> Tensor:
            return draw(conditional(state, rows[index]), level[rows[index]])

        values = in_pieces(drawn, tokens[rows], torch.arange(len(rows), device=device))
        tokens[rows] = torch.where(chosen[rows], values, tokens[rows])
        calls[rows] += 1
        times = times.masked_fill(chosen, 1 - step / num_steps)
    return Drawn(tokens, calls, times)


def expected_nfe(length: int, num_steps: int) -> float:
    """Exact expected number of network calls a row of the cached grid sampler: ``n (1 - (1 - 1/n)^length)``.

    A cell is revealed in each of the ``n`` steps with equal probability (``alpha = 1 - t``), and a step costs a call if
    any cell is. Never above ``length``.
    """
    return num_steps * (1 - (1 - 1 / num_steps) ** length)
