"""A dense normalizing flow on R^D: coupling layers over a standard normal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.bijections.affine import Affine
from genzoo.bijections.base import Bijection, Composition
from genzoo.bijections.coupling import Coupling
from genzoo.bijections.elementwise import Elementwise
from genzoo.bijections.permutation import Permutation
from genzoo.likelihood.normal_cells import log_normal_density


class CouplingFlow(nn.Module):
    """Density on R^D by change of variables.

    Args:
        num_features: D.
        num_context: Context features.
        element: Family of the monotone maps of the coupling layers.
        num_transforms: Coupling layers; two of them move every feature once.
        hidden: Units of each hidden layer.
        num_layers: Hidden layers of each network.
        dropout: Probability of dropping a hidden unit in training.
        seed: Seed of the permutations.
    """

    def __init__(
        self,
        num_features: int,
        num_context: int = 0,
        *,
        element: Elementwise,
        num_transforms: int = 6,
        hidden: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        half = (num_features + 1) // 2
        parts: list[Bijection] = [Affine(num_features)]
        for k in range(num_transforms):
            if k % 2 == 0 and num_features > 2:  # a new split for each pair of layers
                parts.append(Permutation.random(num_features, seed + k))
            first = list(range(half))
            moved = first if k % 2 == 0 else list(range(half, num_features)) or first
            parts.append(Coupling(num_features, element, moved, num_context, hidden, num_layers, dropout))
        self.bijection = Composition(parts)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch, num_features)`` to ``(batch,)``, nats."""
        z, log_det = self.bijection.inverse(x, context)
        return log_normal_density(z).sum(1) + log_det

    def sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> Tensor:
        """``(num_samples, num_features)`` float64 draws; ``context`` has ``num_samples`` rows or is ``None``."""
        z = torch.randn(num_samples, self.num_features, generator=generator, dtype=torch.float64)
        z = z.to(next(self.parameters()).device)
        x: Tensor = self.bijection(z, context)[0]
        return x
