"""The contract of a bijection of real vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn


class Bijection(nn.Module, ABC):
    """An invertible map of rows, perhaps with a context.

    ``forward`` goes from latent to data, ``inverse`` from data to latent. Both take ``(batch, num_features)`` and
    return the value, ``(batch, num_features)``, and log |det Jacobian| of the map they applied, ``(batch,)``.
    """

    @abstractmethod
    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


class Composition(Bijection):
    """Bijections one after the other, in the order from latent to data.

    Args:
        parts: At least one bijection.
    """

    def __init__(self, parts: Iterable[Bijection]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        if not len(self.parts):
            raise ValueError("a composition needs at least one bijection")

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = z.new_zeros(len(z))
        for part in self.parts:
            z, log_det = part(z, context)
            total = total + log_det
        return z, total

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        total = x.new_zeros(len(x))
        for part in reversed(self.parts):
            x, log_det = cast(Bijection, part).inverse(x, context)
            total = total + log_det
        return x, total
