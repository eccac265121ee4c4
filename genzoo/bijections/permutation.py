"""A fixed permutation of the features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from genzoo.bijections.base import Bijection


class Permutation(Bijection):
    """``x[:, i] = z[:, order[i]]``; volume is kept.

    Args:
        order: A permutation of ``0 ... num_features - 1``.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Sequence[int]) -> None:
        super().__init__()
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"order must be a permutation of 0 to {len(order) - 1}, got {list(order)}")
        index = torch.tensor(list(order), dtype=torch.int64)
        self.register_buffer("order", index)
        self.register_buffer("back", index.argsort())

    @classmethod
    def reverse(cls, num_features: int) -> Permutation:
        """The last feature becomes the first."""
        return cls(range(num_features - 1, -1, -1))

    @classmethod
    def random(cls, num_features: int, seed: int) -> Permutation:
        """A permutation drawn from a seed."""
        generator = torch.Generator().manual_seed(seed)
        return cls(torch.randperm(num_features, generator=generator).tolist())

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z[:, self.order], z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x[:, self.back], x.new_zeros(len(x))
