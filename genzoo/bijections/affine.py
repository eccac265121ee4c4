"""A learned shift and scale of each feature."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.bijections.base import Bijection


class Affine(Bijection):
    """``x = z * exp(log_scale) + shift``, per feature; the identity at the start.

    Args:
        num_features: Width of a row.
    """

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(num_features))
        self.log_scale = nn.Parameter(torch.zeros(num_features))

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * self.log_scale.exp() + self.shift, self.log_scale.sum().to(z.dtype).expand(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return (x - self.shift) * (-self.log_scale).exp(), -self.log_scale.sum().to(x.dtype).expand(len(x))
