"""A residual perceptron over a whole row of symbols: for wide rows of few symbols, such as binary vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genzoo.networks.logistic import LogisticTerm
from genzoo.networks.symbols import SymbolEmbedding, SymbolHead, Vocabulary
from genzoo.networks.transformer import Clock


class SymbolMLP(nn.Module):
    """Scores of the symbols of every scored column from one vector a row.

    The vectors of the symbols of a row (masked and hole among them) are summed, which is a linear layer on indicators;
    residual blocks follow, each a normalised two-layer perceptron added to what it read; a last linear layer scores the
    symbols of all columns at once. A row costs a few matrix products whatever its length, where a transformer pays for
    each cell: with hundreds of binary cells it sees many more rows in the same time. Arguments, shapes and starting
    values are those of :class:`genzoo.networks.transformer.TableTransformer`.

    Args:
        vocabularies: Of the scored columns.
        context: Of the context columns, which are always visible (their special symbol ``-1`` is a hole).
        width: Features of a row.
        num_layers: Residual blocks.
        dropout: Probability of dropping a feature in training, inside the blocks.
        num_special: Special symbols of scored columns: 1 (``-1`` masked) or 2 (``-2`` a hole that is seen).
        time: The network is given a time, which shifts, scales and gates every block.
        logistic: A :class:`genzoo.networks.logistic.LogisticTerm` is added to the scores.
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        context: Sequence[Vocabulary] = (),
        width: int = 512,
        num_layers: int = 2,
        dropout: float = 0.0,
        num_special: int = 1,
        time: bool = False,
        logistic: bool = False,
    ) -> None:
        super().__init__()
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.embedding = SymbolEmbedding(vocabularies, width, num_special, placed=False)
        self.context_embedding = SymbolEmbedding(context, width, 1, placed=False) if context else None
        self.start = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, dropout, time) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = SymbolHead(vocabularies, width)
        self.clock = Clock(width) if time else None
        self.logistic = LogisticTerm(vocabularies, num_special, context) if logistic else None

    def forward(self, tokens: Tensor, context: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        seen = indicators(self.embedding, tokens)
        h = self.start + seen @ self.embedding.table()
        if self.context_embedding is not None and context is not None:
            given = indicators(self.context_embedding, context)
            h, seen = h + given @ self.context_embedding.table(), torch.cat([seen, given], 1)
        condition = self.clock(time) if self.clock is not None and time is not None else None
        for block in self.blocks:
            h = block(h, condition)
        return self.head.of_row(self.norm(h), None if self.logistic is None else self.logistic(seen))


def indicators(embedding: SymbolEmbedding, symbols: Tensor) -> Tensor:
    """``(batch, total)``: 1 for the symbols of a row. Its product with the table of vectors is the sum of theirs."""
    vectors = embedding.vectors
    return vectors.new_zeros(len(symbols), len(vectors)).scatter(1, embedding.index(symbols), 1.0)


class Block(nn.Module):
    """A normalised two-layer perceptron, added to what it read."""

    def __init__(self, width: int, dropout: float, time: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=not time)
        self.up = nn.Linear(width, width)
        self.down = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.modulation: nn.Linear | None = None
        if time:
            self.modulation = nn.Linear(width, 3 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, condition: Tensor | None = None) -> Tensor:
        if self.modulation is None or condition is None:
            return h + self._change(self.norm(h))
        shift, scale, gate = self.modulation(condition).chunk(3, -1)
        return h + (1 + gate) * self._change(self.norm(h) * (1 + scale) + shift)

    def _change(self, h: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(self.dropout(h)), approximate="tanh")))
