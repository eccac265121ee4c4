"""Which layers stand in an energy-based flow: dense, convolutional, or with couplings."""

from __future__ import annotations

import torch
from torch import Tensor

from genzoo.bijections.dense_linear import Convolution, Dense, Reorder, Start
from genzoo.bijections.energy_layer import EnergyLayer
from genzoo.bijections.smooth_activation import SmoothLeakyReLU
from genzoo.networks.mlp import ResidualMLP

LARGEST_LOG_SCALE = 5.0


class CouplingLayer(EnergyLayer):
    """An affine coupling, twice differentiable, as a layer of an energy-based flow.

    ``u_b = (x_b - t) exp(-s)`` with ``t`` and ``s`` from a network of the other features and the context. All of its
    log-determinant belongs to the energy.

    Args:
        num_features: D; with one feature the context alone moves it.
        moved: Features ``b`` that are mapped.
        num_context: Context features.
        hidden: Units of each hidden layer of the network.
        num_layers: Hidden layers.
    """

    moved: Tensor
    kept: Tensor
    back: Tensor

    def __init__(self, num_features: int, moved: list[int], num_context: int, hidden: int, num_layers: int) -> None:
        super().__init__()
        kept = [i for i in range(num_features) if i not in set(moved)]
        self.register_buffer("moved", torch.tensor(moved, dtype=torch.int64), persistent=False)
        self.register_buffer("kept", torch.tensor(kept, dtype=torch.int64), persistent=False)
        self.register_buffer("back", torch.tensor([*kept, *moved], dtype=torch.int64).argsort(), persistent=False)
        self.network = ResidualMLP(2 * len(kept) + num_context, 2 * len(moved), hidden, num_layers)

    def push(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept = x[:, self.kept]
        shift, log_scale = self._affine(kept, context)
        u = (x[:, self.moved] - shift) * (-log_scale).exp()
        return torch.cat([kept, u], 1)[:, self.back], -log_scale.sum(1)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        kept = z[:, self.kept]
        shift, log_scale = self._affine(kept, context)
        x = z[:, self.moved] * log_scale.exp() + shift
        return torch.cat([kept, x], 1)[:, self.back], log_scale.sum(1)

    def _affine(self, kept: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        dtype = self.network.first.weight.dtype
        # A logarithmic and a saturating view of each feature, both smooth: an outlier must not explode its neighbours.
        views = [kept.asinh(), kept.tanh()] + ([] if context is None else [context])
        shift, log_scale = self.network(torch.cat([view.to(dtype) for view in views], 1)).to(kept.dtype).chunk(2, 1)
        return shift, LARGEST_LOG_SCALE * (log_scale / LARGEST_LOG_SCALE).tanh()


def dense_layers(
    num_features: int, num_layers: int = 2, alpha: float = 0.3, start: Start = "negative", num_context: int = 0
) -> list[EnergyLayer]:
    """``num_layers`` dense layers with smooth activations between them."""
    layers: list[EnergyLayer] = []
    for k in range(num_layers):
        if k:
            layers.append(SmoothLeakyReLU(alpha))
        layers.append(Dense(num_features, start, num_context))
    return layers


def convolutional_layers(
    shape: tuple[int, ...], num_stages: int = 3, num_layers: int = 2, kernel: int = 7, alpha: float = 0.3
) -> list[EnergyLayer]:
    """Stages of convolutions with residual activations; between stages 2x2 neighbours become channels.

    Args:
        shape: ``(height, width)`` or ``(height, width, channels)`` of the block.
        num_stages: Stages; the sides must be divisible by 2 that often, less one.
        num_layers: Convolutions a stage.
        kernel: Side of the kernel.
        alpha: Slope of the activations on the left.
    """
    if len(shape) not in (2, 3):
        raise ValueError(
            f"convolutions need pictures of shape (height, width) or (height, width, channels), got {list(shape)}"
        )
    layers: list[EnergyLayer] = []
    height, width, channels = (*shape, 1)[:3]
    if channels > 1:  # rows hold channels last, convolutions read them first
        place = torch.arange(height * width * channels).reshape(height, width, channels)
        layers.append(Reorder(place.permute(2, 0, 1).flatten()))
    for stage in range(num_stages):
        if stage:
            if height % 2 or width % 2:
                raise ValueError(
                    f"{num_stages} stages need sides divisible by {2 ** (num_stages - 1)}, got {list(shape[:2])}"
                )
            layers.append(Reorder.squeeze((channels, height, width)))
            channels, height, width = 4 * channels, height // 2, width // 2
        for layer in range(num_layers):
            layers.append(Convolution((channels, height, width), kernel))
            if (stage, layer) != (num_stages - 1, num_layers - 1):
                layers.append(SmoothLeakyReLU(alpha, residual=True))
    return layers


def coupling_layers(
    num_features: int, num_context: int, num_transforms: int = 6, hidden: int = 64, num_layers: int = 2
) -> list[EnergyLayer]:
    """Blocks of a rotation (a free matrix) and an affine coupling, then a last free matrix."""
    layers: list[EnergyLayer] = []
    half = num_features // 2
    for k in range(num_transforms):
        layers.append(Dense(num_features, "identity" if k == 0 else "orthogonal"))
        moved = list(range(half, num_features)) if k % 2 == 0 else list(range(half)) or [0]
        layers.append(CouplingLayer(num_features, moved, num_context, hidden, num_layers))
    layers.append(Dense(num_features, "identity", num_context))
    return layers
