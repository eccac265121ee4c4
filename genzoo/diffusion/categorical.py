"""Distributions over the symbols of ragged columns: masked softmax, draws, and a batch of calls cut into pieces."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Conditional = Callable[[Tensor, Tensor], Tensor]
"""``(tokens (n, L) with -1 for masked, index (n,) of the row each belongs to) -> log-probabilities (n, L, K)``."""

MAX_CELLS = 2**15


def masked_log_softmax(scores: Tensor, valid: Tensor) -> Tensor:
    """``log_softmax`` over the valid symbols of each column, ``-inf`` elsewhere; at least float32.

    Args:
        scores: ``(batch, L, K)``.
        valid: ``(L, K)`` bool, at least one symbol a column.
    """
    scores = scores.float() if scores.dtype in (torch.float16, torch.bfloat16) else scores
    return torch.log_softmax(scores.masked_fill(~valid, -torch.inf), -1)


def symbol_log_prob(log_probs: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of the symbol in each cell, ``(batch, L)``; 0 where there is none (``-1``)."""
    chosen = log_probs.gather(-1, tokens.clamp(min=0)[..., None])[..., 0]
    return torch.where(tokens >= 0, chosen, 0.0)


def draw(log_probs: Tensor, uniform: Tensor) -> Tensor:
    """One symbol from each distribution by its inverse cdf, in float64 (float32 would cut the tail).

    Args:
        log_probs: ``(..., K)``, ``-inf`` for impossible symbols.
        uniform: ``(...)`` float64 in (0, 1).
    """
    cumulative = log_probs.to(torch.float64).exp().cumsum(-1)
    total = cumulative[..., -1:]
    index = torch.searchsorted(cumulative, (uniform[..., None] * total).contiguous(), right=True)[..., 0]
    # Rounding at the upper end must not give an impossible symbol: the last possible one takes it.
    last = (log_probs > -torch.inf).to(torch.int64).cumsum(-1).argmax(-1)
    return torch.minimum(index, last)


def in_pieces(function: Conditional, tokens: Tensor, index: Tensor) -> Tensor:
    """Calls ``function`` on at most ``MAX_CELLS`` cells at a time; its first dimension is that of ``tokens``."""
    size = max(1, MAX_CELLS // max(tokens.shape[1], 1))
    if len(tokens) <= size:
        return function(tokens, index)
    pieces = zip(tokens.split(size), index.split(size), strict=True)
    return torch.cat([function(*piece) for piece in pieces])
