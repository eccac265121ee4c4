"""Masked autoregressive layer: each feature is moved by a monotone map that the features before it choose.

References:
    Papamakarios, Pavlakou, Murray (2017), Masked Autoregressive Flow, arXiv:1705.07057; Durkan et al. (2019), Neural
    Spline Flows, arXiv:1906.04032.
    Differs from the papers: the network reads a logarithmic and a saturating view of each feature, so that an outlier
    moves its followers by at most a logarithm, and log scales are bounded: the map stays bounded in slope everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.bijections.base import Bijection
from genzoo.bijections.elementwise import Elementwise
from genzoo.networks.made import MADE


class MaskedAutoregressive(Bijection):
    """``z_j = f(x_j; network(x_<j, context))``: one network pass from data to latent, D passes back.

    Args:
        num_features: D.
        element: Family of the monotone maps.
        num_context: Context features.
        hidden: Units of each hidden layer of the network; at least D.
        num_layers: Hidden layers.
        dropout: Probability of dropping a hidden unit in training.
    """

    def __init__(
        self,
        num_features: int,
        element: Elementwise,
        num_context: int = 0,
        hidden: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features, self.element = num_features, element
        place = torch.arange(num_features)
        inputs = torch.cat([place + 1, place + 1, torch.zeros(num_context, dtype=torch.int64)])
        outputs = place.repeat(element.num_parameters)
        self.network = MADE(inputs, outputs, hidden, num_layers, dropout, rich_start=num_context > 0)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x, total = torch.zeros_like(z), z.new_zeros(len(z))
        for place in range(self.num_features):
            parameters = self._chosen(x, context)[:, place]
            value, log_det = self.element.apply(z[:, place], parameters, to_latent=False)
            x = x.index_copy(1, torch.tensor([place], device=z.device), value[:, None])
            total = total + log_det
        return x, total

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        z, log_det = self.element.apply(x.t(), self._chosen(x, context), to_latent=True)
        return z.t(), log_det.sum(0)

    def _chosen(self, x: Tensor, context: Tensor | None) -> Tensor:
        """``(num_parameters, num_features, batch)``."""
        dtype = self.network.first.weight.dtype
        views = [x.abs().log1p().copysign(x).to(dtype), (2 * x).tanh().to(dtype)]
        out: Tensor = self.network(torch.cat(views if context is None else [*views, context.to(dtype)], 1))
        return out.unflatten(0, (self.element.num_parameters, self.num_features))
