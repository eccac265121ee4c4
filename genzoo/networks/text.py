"""A transformer over the cells of one block (a chunk of text, an image): one vocabulary, rotary places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genzoo.networks.symbols import SymbolEmbedding, SymbolHead, Vocabulary
from genzoo.networks.transformer import Clock, Layer, looking_at, rotation


class TextTransformer(nn.Module):
    r"""Scores of the symbols of every cell of a block whose cells share one vocabulary, given the visible cells.

    As :class:`genzoo.networks.transformer.TableTransformer`, but the embedding and the output are shared by all cells,
    so their number of weights does not grow with the length, and places enter by rotating queries and keys: attention
    sees distances. Each head starts looking at one neighbour (:func:`genzoo.networks.transformer.looking_at`): the cell
    before, the one after, the second before, and so on along each axis; training moves them. With ``placed=True`` every
    cell also has a vector and scores of its own (an image, where a corner differs from the middle). The feed-forward
    parts use SiLU. The output is zero at the start.

    Args:
        vocabulary: Of every cell.
        length: Number of cells.
        context: Vocabularies of the context columns, which are always visible (their symbol ``-1`` is a hole).
        width: Features of each cell; a multiple of twice ``num_heads``.
        num_layers: Layers.
        num_heads: Attention heads.
        dropout: Probability of dropping a feature in training.
        num_special: Special symbols: 1 (``-1`` masked) or 2 (``-2`` a hole that is seen).
        time: The network is given a time (adaLN).
        placed: See above.
        causal: A cell sees itself and the cells before it: an ordinary language model, for reference.
        axes: Distance of neighbouring cells along each axis of the block: 1 in a text, 1 and the width in a picture.

    Shapes: tokens ``(batch, length)``, context ``(batch, C)`` int64, time ``(batch,)`` in [0, 1]; the result is
    ``(batch, length, vocabulary.size)``.

    References: Su et al. (2021), arXiv:2104.09864 (rotary places); Peebles and Xie (2023), arXiv:2212.09748 (adaLN).
    """

    rotation: Tensor

    def __init__(
        self,
        vocabulary: Vocabulary,
        length: int,
        context: Sequence[Vocabulary] = (),
        width: int = 128,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.0,
        num_special: int = 1,
        time: bool = False,
        placed: bool = False,
        causal: bool = False,
        axes: Sequence[int] = (1,),
    ) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"width must be a multiple of twice num_heads, got {width} and {num_heads}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.embedding = SymbolEmbedding([vocabulary], width, num_special, placed=False)
        self.context_embedding = SymbolEmbedding(context, width, 1) if context else None
        self.places = nn.Parameter(torch.randn(length, width) * 0.5 / math.sqrt(width)) if placed else None
        signs = (-1,) if causal else (-1, 1)
        reach = range(1, num_heads + 1)
        offsets = [sign * far * axis for far in reach for axis in axes for sign in signs][:num_heads]
        looks = looking_at(offsets, width // num_heads, length)
        self.layers = nn.ModuleList(
            Layer(width, num_heads, dropout, time, causal, smooth="silu", looks=looks) for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = SharedHead(vocabulary, width, length if placed else None)
        self.clock = Clock(width) if time else None
        self.register_buffer("rotation", rotation(length + len(context), width // num_heads), persistent=False)

    def forward(self, tokens: Tensor, context: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        length = tokens.shape[1]
        h = self.embedding(tokens)
        if self.places is not None:
            h = h + self.places
        if self.context_embedding is not None and context is not None:
            h = torch.cat([h, self.context_embedding(context)], 1)
        condition = self.clock(time) if self.clock is not None and time is not None else None
        turn = self.rotation[: h.shape[1]]
        for layer in self.layers:
            h = layer(h, condition, turn)
        return self.head(self.norm(h[:, :length]))


class SharedHead(nn.Module):
    """Scores the symbols of one vocabulary in every cell: ``(batch, length, width)`` to ``(batch, length, size)``.

    Zero at the start.

    Args:
        vocabulary: Of every cell.
        width: Features of a cell.
        length: Every one of so many cells adds scores of its own; ``None``: none does.
    """

    def __init__(self, vocabulary: Vocabulary, width: int, length: int | None) -> None:
        super().__init__()
        self.symbols = SymbolHead([vocabulary], width)
        self.cells = None if length is None else nn.Parameter(torch.zeros(length, vocabulary.size))

    def forward(self, h: Tensor) -> Tensor:
        scores = F.linear(h, self.symbols.table(), self.symbols.bias)
        return scores if self.cells is None else scores + self.cells

    @torch.no_grad()
    def start_at(self, log_probs: Tensor) -> None:
        """Starts at given marginals ``(length, size)``, averaged over the cells where these share their scores."""
        if self.cells is None:
            self.symbols.start_at(log_probs.exp().mean(0, keepdim=True).log())
        else:
            self.cells.copy_(torch.where(log_probs.isfinite(), log_probs, 0.0))
