"""Coupling: some features pass, and choose the monotone map of each of the others.

References:
    Dinh, Sohl-Dickstein, Bengio (2017), Real NVP, arXiv:1605.08803; Durkan et al. (2019), arXiv:1906.04032.
"""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.bijections.base import Bijection
from genzoo.bijections.elementwise import Elementwise
from genzoo.networks.mlp import ResidualMLP


class Coupling(Bijection):
    """``x_b = f(z_b; network(z_a, context))``, ``x_a = z_a``; one network pass in either direction.

    Args:
        num_features: Width of a row; with one feature the context alone chooses its map.
        element: Family of the monotone maps.
        moved: Indices of the features ``b`` that are mapped.
        num_context: Context features.
        hidden: Units of each hidden layer of the network.
        num_layers: Hidden layers.
        dropout: Probability of dropping a hidden unit in training.
    """

    moved: Tensor
    kept: Tensor

    def __init__(
        self,
        num_features: int,
        element: Elementwise,
        moved: list[int],
        num_context: int = 0,
        hidden: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not moved or not set(moved) <= set(range(num_features)):
            raise ValueError(f"moved must name features 0 to {num_features - 1}, at least one; got {moved}")
        self.element = element
        kept = [i for i in range(num_features) if i not in set(moved)]
        self.register_buffer("moved", torch.tensor(moved, dtype=torch.int64), persistent=False)
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.int64), persistent=False)
        width = len(moved) * element.num_parameters
        self.network = ResidualMLP(2 * len(kept) + num_context, width, hidden, num_layers, dropout)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(z, context, to_latent=False)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._map(x, context, to_latent=True)

    def _map(self, x: Tensor, context: Tensor | None, to_latent: bool) -> tuple[Tensor, Tensor]:
        # A logarithmic and a saturating view of each kept feature: an outlier must not explode its neighbours.
        dtype = self.network.first.weight.dtype
        kept = x[:, self.kept]
        views = [kept.abs().log1p().copysign(kept).to(dtype), (2 * kept).tanh().to(dtype)]
        out = self.network(torch.cat(views if context is None else [*views, context.to(dtype)], 1))
        parameters = out.t().unflatten(0, (self.element.num_parameters, len(self.moved)))
        value, log_det = self.element.apply(x[:, self.moved].t(), parameters, to_latent)
        return x.index_copy(1, self.moved, value.t()), log_det.sum(0)
