"""Shift and scale that start by standardising the first rows they see."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.bijections.base import Bijection

SMALLEST_VARIANCE = 0.2


class ActNorm(Bijection):
    """``z = (x + bias) * exp(log_scale)`` from data to latent, for each feature, or each channel of an image.

    Args:
        event_shape: Shape of one row: ``(num_features,)`` or ``(channels, height, width)``.

    References:
        Kingma and Dhariwal (2018), Glow, arXiv:1807.03039; variances below 0.2 count as 0.2 as in the code of Chen
        et al. (2019), arXiv:1906.02735.
    """

    initialized: Tensor

    def __init__(self, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.num_places = int(torch.Size(event_shape[1:]).numel())
        shape = (event_shape[0],) + (1,) * (len(event_shape) - 1)
        self.bias = nn.Parameter(torch.zeros(shape))
        self.log_scale = nn.Parameter(torch.zeros(shape))
        self.register_buffer("initialized", torch.tensor(False))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Standardises rows ``(batch, *event_shape)``, once."""
        if bool(self.initialized):
            return
        others = [0, *range(2, x.ndim)]
        mean, variance = x.double().mean(others), x.double().var(others, correction=0)
        self.bias.copy_(-mean.reshape(self.bias.shape))
        self.log_scale.copy_(-0.5 * variance.clamp(min=SMALLEST_VARIANCE).log().reshape(self.bias.shape))
        self.initialized.fill_(True)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z * (-self.log_scale).exp() - self.bias, -self._log_det(z)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.carry(x), self._log_det(x)

    def carry(self, x: Tensor) -> Tensor:
        """:meth:`inverse` without the log-determinant, which is the same for all rows: :meth:`log_det`."""
        return (x + self.bias) * self.log_scale.exp()

    def log_det(self) -> Tensor:
        """``log|det dz/dx|``, a scalar."""
        total = self.log_scale.sum()
        return total if self.num_places == 1 else self.num_places * total

    def _log_det(self, like: Tensor) -> Tensor:
        return self.log_det().to(like.dtype).expand(len(like))
