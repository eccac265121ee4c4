"""What processes share that replace symbols: pinned holes, hidden cells, reverse chains, and likelihood by listing."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from genzoo.codecs.tokens import TokenCodec
from genzoo.diffusion.categorical import in_pieces
from genzoo.diffusion.chain import MAX_STATES, all_states, chain_law, run_chain
from genzoo.errors import CapabilityError

PINNED = -2
"""A hole as the network sees it: a symbol of its own that is neither noised nor scored."""

Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(tokens (n, L) with -1 mask and -2 hole, context (n, C), time (n,)) -> clean distributions (n, L, K) float64``."""
Reverse = Callable[[Tensor, Tensor, int], Tensor]
"""``(z (n, L) noisy symbols, clean (n, L, K), step) -> p(z_s | z_t) (n, L, V)``."""


def hide_cells(tokens: Tensor, rate: float) -> Tensor:
    """In a share ``rate`` of the rows each cell becomes a hole with a probability drawn for the row.

    So that patterns of holes which training rows do not show score well. Draws from torch's own generator.
    """
    if rate == 0:
        return tokens
    shape, device = tokens.shape, tokens.device
    chosen = torch.rand(shape[0], 1, device=device) < rate
    return tokens.masked_fill(chosen & (torch.rand(shape, device=device) < torch.rand(shape[0], 1, device=device)), -1)


def seen(z: Tensor, hole: Tensor, mask: int | None) -> Tensor:
    """What the network is shown: noisy symbols, ``-1`` for the mask, ``-2`` for holes."""
    shown = z if mask is None else torch.where(z == mask, -1, z)
    return torch.where(hole, PINNED, shown)


class ReverseChain:
    """The reverse process of a model on a grid of ``num_steps`` steps: draws, and exact law on small tables.

    Args:
        denoise: The network.
        reverse: Reverse kernel of a step.
        time: ``step -> `` time given to the network.
        num_steps: Steps.
        valid: ``(L, K)`` symbols of each column.
        mask: Index of the mask symbol, ``None`` for a process without.
    """

    def __init__(
        self,
        denoise: Denoiser,
        reverse: Reverse,
        time: Callable[[int], float],
        num_steps: int,
        valid: Tensor,
        mask: int | None,
    ) -> None:
        self.denoise, self.reverse, self.time = denoise, reverse, time
        self.num_steps, self.valid, self.mask = num_steps, valid, mask

    def kernel(self, z: Tensor, hole: Tensor, context: Tensor, step: int) -> Tensor:
        """``p(z_s | z_t)`` of every cell, in pieces of bounded memory."""
        when = torch.full((len(z),), self.time(step), dtype=torch.float64, device=z.device)

        def piece(part: Tensor, index: Tensor) -> Tensor:
            clean = self.denoise(seen(part, hole[index], self.mask), context[index], when[index])
            return self.reverse(part, clean, step)

        return in_pieces(piece, z, torch.arange(len(z), device=z.device))

    def noise(self, shape: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Rows of pure noise: all masked, or uniform over each column's symbols."""
        device = self.valid.device
        if self.mask is not None:
            return torch.full(shape, self.mask, dtype=torch.int64, device=device)
        weight = self.valid.double().cpu()
        drawn = [torch.multinomial(w, shape[0], replacement=True, generator=generator) for w in weight]
        return torch.stack(drawn, 1).to(device)

    def sample(self, num: int, context: Tensor, generator: torch.Generator) -> Tensor:
        """Complete rows ``(num, L)``."""
        length = len(self.valid)
        hole = torch.zeros(num, length, dtype=torch.bool, device=self.valid.device)
        start = self.noise((num, length), generator)
        return run_chain(lambda z, step: self.kernel(z, hole, context, step), start, self.num_steps, generator)

    def complete(self, tokens: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Fills holes (``-1``); observed cells are shown as they are in every step.

        With masking alone that is the model's own conditional (of the holes given the observed cells, as steps become
        fine); with replacement noise an approximation, because the network trusts a visible symbol less than it could.
        """
        given = tokens >= 0
        hole = torch.zeros_like(given)
        z = torch.where(given, tokens, self.noise((len(tokens), tokens.shape[1]), generator))
        for step in range(self.num_steps):
            probs = self.kernel(z, hole, context, step)
            z = torch.where(given, tokens, run_chain(lambda _, __, probs=probs: probs, z, 1, generator))  # type: ignore[misc]
        return z

    def exact_log_prob(self, tokens: Tensor) -> Tensor:
        """Exact log-probability ``(n,)`` of rows without context, by listing all states for each pattern of holes."""
        out = torch.zeros(len(tokens), dtype=torch.float64, device=tokens.device)
        patterns, group = torch.unique(tokens < 0, dim=0, return_inverse=True)
        for number, pattern in enumerate(patterns):
            here = group == number
            kept = torch.nonzero(~pattern)[:, 0]
            if not len(kept):
                continue
            rows = tokens[here][:, kept]
            out[here] = self._law(pattern, kept)[tuple(rows.T)]
        return out

    def _law(self, pattern: Tensor, kept: Tensor) -> Tensor:
        """Log-law of the kept cells, ``-inf`` for impossible symbols: one dimension a cell, sizes ``K``."""
        device = self.valid.device
        choices = [torch.nonzero(self.valid[i])[:, 0] for i in kept.tolist()]
        shown = [c if self.mask is None else torch.cat([c, torch.tensor([self.mask], device=device)]) for c in choices]
        states = all_states(shown)
        none = torch.zeros(len(states), 0, dtype=torch.int64, device=device)

        def kernel(z: Tensor, step: int) -> Tensor:
            wide = torch.zeros(len(z), len(pattern), dtype=torch.int64, device=device)
            wide[:, kept] = z
            return self.kernel(wide, pattern.expand(len(z), -1), none[: len(z)], step)[:, kept]

        start = torch.ones(len(states), dtype=torch.float64, device=device)
        start = (states == self.mask).all(1).double() if self.mask is not None else start / len(states)
        law = chain_law(kernel, shown, start, self.num_steps)
        full = torch.full([self.valid.shape[1] + 1] * len(kept), -torch.inf, dtype=torch.float64, device=device)
        full[tuple(states.T)] = torch.log(law)
        return full


def num_states(codec: TokenCodec, masked: bool) -> int:
    """Upper limit of the number of states of a row, from the schema alone."""
    total = 1
    for slot in codec.slots:
        total *= slot.num_symbols + masked
    return total


def lists_states(codec: TokenCodec, masked: bool, likelihood: str) -> bool:
    """Whether the likelihood is found by listing all states of a row.

    Raises:
        CapabilityError: it was asked for (``exact``) and the table does not allow it.
    """
    count = num_states(codec, masked)
    possible = count <= MAX_STATES and codec.num_context == 0
    if likelihood == "exact" and not possible:
        reason = "context columns" if codec.num_context else f"up to {count:,} states"
        raise CapabilityError(
            f"likelihood 'exact' lists the states of a row: at most {MAX_STATES} and no context columns, "
            f"the table has {reason}; use 'bound'"
        )
    return possible and likelihood != "bound"
