"""A transformer over the columns of a row: each cell a symbol, each column its own embedding, attention to all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genzoo.networks.symbols import SymbolEmbedding, SymbolHead, Vocabulary


class TableTransformer(nn.Module):
    r"""Scores of the symbols of every scored column, given some visible cells and context.

    Layers normalise first; queries, keys and values have no bias; the feed-forward part is four times as wide with
    GELU. With ``time=True`` every layer is shifted, scaled and gated by a function of the time (adaLN), which is the
    identity at the start. The output is zero at the start. One static graph: no branch depends on data.

    Args:
        vocabularies: Of the scored columns.
        context: Of the context columns, which are always visible (their special symbol ``-1`` is a hole).
        width: Features of each cell; a multiple of ``num_heads``.
        num_layers: Layers.
        num_heads: Attention heads.
        dropout: Probability of dropping a feature in training.
        num_special: Special symbols of scored columns: 1 (``-1`` masked) or 2 (``-2`` a hole that is seen).
        time: The network is given a time.

    Shapes: tokens ``(batch, L)``, context ``(batch, C)`` int64, time ``(batch,)`` in [0, 1]; the result is
    ``(batch, L, max_symbols)``, entries beyond a column's vocabulary are 0.

    References: Vaswani et al. (2017), arXiv:1706.03762; Peebles and Xie (2023), arXiv:2212.09748 (adaLN).
    """

    def __init__(
        self,
        vocabularies: Sequence[Vocabulary],
        context: Sequence[Vocabulary] = (),
        width: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
        dropout: float = 0.0,
        num_special: int = 1,
        time: bool = False,
    ) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be a multiple of num_heads, got {width} and {num_heads}")
        if num_layers < 1:
            raise ValueError(f"num_layers must be at least 1, got {num_layers}")
        self.embedding = SymbolEmbedding(vocabularies, width, num_special)
        self.context_embedding = SymbolEmbedding(context, width, 1) if context else None
        self.layers = nn.ModuleList(Layer(width, num_heads, dropout, time) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = SymbolHead(vocabularies, width)
        self.clock = Clock(width) if time else None

    def forward(self, tokens: Tensor, context: Tensor | None = None, time: Tensor | None = None) -> Tensor:
        h = self.embedding(tokens)
        if self.context_embedding is not None and context is not None:
            h = torch.cat([h, self.context_embedding(context)], 1)
        condition = self.clock(time) if self.clock is not None and time is not None else None
        for layer in self.layers:
            h = layer(h, condition)
        return self.head(self.norm(h[:, : tokens.shape[1]]))


class Clock(nn.Module):
    """A time in [0, 1] as ``(batch, width)`` features: sines and cosines, then a small network."""

    frequency: Tensor

    def __init__(self, width: int, num_frequencies: int = 32) -> None:
        super().__init__()
        frequency = torch.exp(torch.linspace(0, math.log(1000.0), num_frequencies))
        self.register_buffer("frequency", frequency, persistent=False)
        self.first = nn.Linear(2 * num_frequencies, width)
        self.last = nn.Linear(width, width)

    def forward(self, time: Tensor) -> Tensor:
        angle = time.to(self.first.weight.dtype)[:, None] * self.frequency
        return F.silu(self.last(F.silu(self.first(torch.cat([angle.sin(), angle.cos()], 1)))))


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to what it read.

    ``forward`` takes a :func:`rotation` by which queries and keys are turned in each place, or ``None``. With
    ``causal`` a cell attends to itself and to those before it. ``smooth`` is the feed-forward part's function:
    GELU, or SiLU, which costs half as much on a CPU. ``looks`` is where the biases of queries, keys and values start
    (:func:`looking_at`); ``None``: they have none.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        dropout: float,
        time: bool,
        causal: bool = False,
        smooth: str = "gelu",
        looks: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.causal = causal
        self.smooth = smooth
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=not time)
        self.feed_norm = nn.LayerNorm(width, elementwise_affine=not time)
        self.qkv = nn.Linear(width, 3 * width, bias=looks is not None)
        if looks is not None:
            with torch.no_grad():
                self.qkv.bias.copy_(looks.flatten())
        self.out = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)
        self.modulation: nn.Linear | None = None
        if time:
            self.modulation = nn.Linear(width, 6 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)
        for last in (self.out, self.down):
            nn.init.normal_(last.weight, std=0.02)

    def forward(self, h: Tensor, condition: Tensor | None = None, rotation: Tensor | None = None) -> Tensor:
        if self.modulation is None or condition is None:
            h = h + self.dropout(self._attend(self.attention_norm(h), rotation))
            return h + self.dropout(self._feed(self.feed_norm(h)))
        shift, scale, gate, shift2, scale2, gate2 = self.modulation(condition)[:, None].chunk(6, -1)
        h = h + (1 + gate) * self.dropout(self._attend(self.attention_norm(h) * (1 + scale) + shift, rotation))
        return h + (1 + gate2) * self.dropout(self._feed(self.feed_norm(h) * (1 + scale2) + shift2))

    def _attend(self, h: Tensor, rotation: Tensor | None) -> Tensor:
        batch, length, width = h.shape
        qkv = self.qkv(h).reshape(batch, length, 3, self.num_heads, -1)
        if rotation is not None:
            qkv = turned(qkv, rotation)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(mixed.transpose(1, 2).reshape(batch, length, width))

    def _feed(self, h: Tensor) -> Tensor:
        h = self.up(h)
        return self.down(F.silu(h) if self.smooth == "silu" else F.gelu(h, approximate="tanh"))


def rotation(length: int, width: int, base: float = 10_000.0) -> Tensor:
    """Rotary places of queries, keys and values, ``(length, 3, 1, width / 2, 2)``, for heads of ``width`` features.

    Cosines and sines by which pairs of features are turned; values are turned by nothing. Source: Su et al. (2021),
    RoFormer, arXiv:2104.09864.
    """
    angle = torch.arange(length, dtype=torch.float64)[:, None] * _frequencies(width, base)
    angle = torch.stack([angle, angle, torch.zeros_like(angle)], 1)[:, :, None]
    return torch.stack([angle.cos(), angle.sin()], -1).float()


def _frequencies(width: int, base: float) -> Tensor:
    if width % 2:
        raise ValueError(f"rotary places need an even number of features a head, got {width}")
    return base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)


def looking_at(offsets: Sequence[int], width: int, length: int, base: float = 10_000.0) -> Tensor:
    r"""Biases of queries, keys and values ``(3, heads, width)`` by which each head attends to one distance.

    Turned by their places, the biases of head ``h`` add to the logit of the cell ``d`` places on

    .. math:: \tfrac{3}{2} \log L \sum_i w_i \cos(f_i (d - \delta_h)), \qquad w_i = f_i / \sum_j f_j,

    with the rotary frequencies ``f``: near 0 on average far away, so that all ``L`` cells of a row together weigh about
    ``1 / sqrt(L)`` of the one at the offset. Without biases attention starts even over a row: a neighbour then weighs
    ``1 / L``, the gradient says next to nothing of distances, and the network of a masked text rests at the frequencies
    of the symbols until it has found its neighbours by chance.
    """
    frequency = _frequencies(width, base)
    size = torch.sqrt(1.5 * math.log(length) * math.sqrt(width) * frequency / frequency.sum())
    angle = torch.tensor(list(offsets), dtype=torch.float64)[:, None] * frequency
    query = torch.stack([size, torch.zeros_like(size)], -1).expand(len(offsets), -1, -1)
    key = torch.stack([size * angle.cos(), -size * angle.sin()], -1)
    return torch.stack([query, key, torch.zeros_like(key)]).flatten(-2).float()


def turned(qkv: Tensor, rotation: Tensor) -> Tensor:
    """Pairs of features of ``(batch, length, 3, heads, width)`` turned by their place: inner products see distances."""
    wide = qkv.float() if qkv.dtype in (torch.float16, torch.bfloat16) else qkv
    pairs, rotation = wide.unflatten(-1, (-1, 2)), rotation.to(wide.dtype)
    if torch.compiler.is_compiling():  # a compiler fuses this, and knows no complex numbers
        (first, second), (cosine, sine) = pairs.unbind(-1), rotation.unbind(-1)
        pairs = torch.stack([first * cosine - second * sine, second * cosine + first * sine], -1)
    else:  # one pass over memory instead of seven
        pairs = torch.view_as_real(torch.view_as_complex(pairs) * torch.view_as_complex(rotation))
    return pairs.flatten(-2).to(qkv.dtype)
