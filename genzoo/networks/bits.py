"""Networks that read a noisy row of bits and give two numbers a bit: one for its clean value, one for its flip."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genzoo.networks.residual import Block
from genzoo.networks.transformer import Clock


class BitMLP(nn.Module):
    """Residual perceptron: ``(batch, num_in)`` features and a time to ``(batch, 2, num_bits)``; zero at the start.

    Args:
        num_in: Features: noisy bits as signs, flags, context.
        num_bits: Bits of a row.
        width: Features of a row.
        num_layers: Residual blocks.
        dropout: Probability of dropping a feature in training, inside the blocks.
    """

    def __init__(self, num_in: int, num_bits: int, width: int = 512, num_layers: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if num_layers < 1 or width < 1:
            raise ValueError(f"width and num_layers must be at least 1, got {width} and {num_layers}")
        self.num_bits = num_bits
        self.first = nn.Linear(num_in, width)
        self.blocks = nn.ModuleList(Block(width, dropout, time=True) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 2 * num_bits)
        self.clock = Clock(width)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        h, condition = self.first(features), self.clock(time)
        for block in self.blocks:
            h = block(h, condition)
        return self.head(self.norm(h)).reshape(len(h), 2, self.num_bits)


class ConcatMLP(nn.Module):
    """The perceptron of the binary diffusion paper: every block's output is appended to what it read.

    Blocks are linear, batch normalisation, ReLU, then scaled and shifted by a function of the time (the scale
    multiplies alone). Shapes as :class:`BitMLP`; it starts at random values.

    References: Kinakh and Voloshynovskiy (2024), arXiv:2409.13882.
    """

    def __init__(self, num_in: int, num_bits: int, width: int = 256, num_layers: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        if num_layers < 1 or width < 1:
            raise ValueError(f"width and num_layers must be at least 1, got {width} and {num_layers}")
        self.num_bits = num_bits
        self.first = nn.Linear(num_in, width)
        self.clock = Clock(width)
        self.parts = nn.ModuleList(ConcatBlock(width * (k + 1), width, dropout) for k in range(num_layers))
        self.head = nn.Linear(width * (num_layers + 1), 2 * num_bits)

    def forward(self, features: Tensor, time: Tensor) -> Tensor:
        h, condition = self.first(features), self.clock(time)
        for part in self.parts:
            h = torch.cat([h, part(h, condition)], 1)
        return self.head(h).reshape(len(h), 2, self.num_bits)


class ConcatBlock(nn.Module):
    """One block of :class:`ConcatMLP`: ``(batch, num_in)`` to ``(batch, width)``."""

    def __init__(self, num_in: int, width: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(num_in, width)
        self.norm = nn.BatchNorm1d(width)
        self.modulation = nn.Linear(width, 2 * width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.modulation(condition).chunk(2, 1)
        return self.dropout(F.relu(self.norm(self.linear(h)))) * scale + shift
