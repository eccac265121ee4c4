"""A dense normalizing flow on R^D: masked autoregressive layers over a standard normal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.bijections.affine import Affine
from genzoo.bijections.base import Bijection, Composition
from genzoo.bijections.elementwise import Elementwise
from genzoo.bijections.masked_autoregressive import MaskedAutoregressive
from genzoo.bijections.permutation import Permutation
from genzoo.likelihood.normal_cells import log_normal_density


class MaskedFlow(nn.Module):
    """Density on R^D by change of variables; one pass to score, D passes a layer to draw.

    Args:
        num_features: D.
        num_context: Context features.
        element: Family of the monotone maps.
        num_transforms: Layers, every second one in reverse order.
        hidden: Units of each hidden layer; at least D.
        num_layers: Hidden layers of each network.
        dropout: Probability of dropping a hidden unit in training.
    """

    def __init__(
        self,
        num_features: int,
        num_context: int = 0,
        *,
        element: Elementwise,
        num_transforms: int = 1,
        hidden: int = 256,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        parts: list[Bijection] = [Affine(num_features)]
        for k in range(num_transforms):
            if k:
                parts.append(Permutation.reverse(num_features))
            parts.append(MaskedAutoregressive(num_features, element, num_context, hidden, num_layers, dropout))
        self.bijection = Composition(parts)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch, num_features)`` to ``(batch,)``, nats."""
        z, log_det = self.bijection.inverse(x, context)
        return log_normal_density(z).sum(1) + log_det

    def sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> Tensor:
        """``(num_samples, num_features)`` float64 draws; ``context`` has ``num_samples`` rows or is ``None``."""
        z = torch.randn(num_samples, self.num_features, generator=generator, dtype=torch.float64)
        if context is not None:
            z = z.to(context.device)
        x: Tensor = self.bijection(z, context)[0]
        return x
