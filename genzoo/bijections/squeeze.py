"""Rearrangements of images that keep volume: space to channels, and images to vectors."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from genzoo.bijections.base import Bijection


class Squeeze(Bijection):
    """From data to latent, every 2 x 2 square of pixels becomes four channels.

    Args:
        shape: ``(channels, height, width)`` of the data side; height and width are even.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        if len(shape) != 3 or shape[1] % 2 or shape[2] % 2:
            raise ValueError(f"an image is folded at even height and width, got {list(shape)}; use fewer scales")

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return functional.pixel_shuffle(z, 2), z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return functional.pixel_unshuffle(x, 2), x.new_zeros(len(x))


class Flatten(Bijection):
    """From data to latent, an image becomes a vector.

    Args:
        shape: ``(channels, height, width)`` of the data side.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z.reshape(-1, *self.shape), z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x.flatten(1), x.new_zeros(len(x))
