"""A density on R^D by residual blocks over a standard normal: dense blocks, or convolutions of images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
from torch import Tensor, nn

from genzoo.bijections.actnorm import ActNorm
from genzoo.bijections.base import Bijection
from genzoo.bijections.jacobian import rademacher
from genzoo.bijections.lipschitz import (
    LipschitzConv2d,
    LipschitzLayer,
    LipschitzLinear,
    LipschitzNet,
    UsedWeights,
    refresh,
    used_together,
)
from genzoo.bijections.residual import ResidualBlock, residual_log_det
from genzoo.bijections.squeeze import Flatten, Squeeze
from genzoo.likelihood.noise import RowNoise
from genzoo.likelihood.normal_cells import log_normal_density
from genzoo.likelihood.roulette import Roulette

MAX_EXACT = 64
"""Widest rows whose likelihood is evaluated from full Jacobians."""
MAX_EXACT_TRAINING = 4
"""Widest rows that train on full Jacobians: beyond, a step of the Neumann series is cheaper."""
EVALUATION_TERMS = 20
NUMBERS_AT_ONCE = 1 << 24
LAST_SCALE = 0.01
"""Size of the last layer of a block at the start, when blocks are near the identity."""


@dataclass(frozen=True)
class BlockSizes:
    """Sizes of the network of a residual block.

    Args:
        hidden: Units (channels) of each hidden layer.
        num_layers: Hidden layers.
        lipschitz: Largest Lipschitz constant of the network, below 1; every linear map gets an equal share of it.
        preactivate: An activation before the first linear map too.
        orders: Orders of the norms of the inputs of the linear maps (1 to infinity); the last map ends in the first
            order. ``None`` is 2 throughout. Dense blocks only.
    """

    hidden: int = 128
    num_layers: int = 2
    lipschitz: float = 0.97
    preactivate: bool = False
    orders: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if not 0 < self.lipschitz < 1:
            raise ValueError(f"lipschitz must lie between 0 and 1, got {self.lipschitz}")
        if self.num_layers < 1 or self.hidden < 1:
            raise ValueError(f"a block needs hidden layers and units, got {self.num_layers} and {self.hidden}")
        if self.orders is not None and len(self.orders) != self.num_layers + 1:
            raise ValueError(
                f"orders needs one number for each of the {self.num_layers + 1} linear maps, got {len(self.orders)}"
            )
        if self.orders is not None and not all(1 <= order <= inf for order in self.orders):
            raise ValueError(f"the order of a norm is at least 1, got {list(self.orders)}")

    @property
    def coefficient(self) -> float:
        """Largest norm of each linear map."""
        return float(self.lipschitz ** (1 / (self.num_layers + 1)))

    def dense(self, num_features: int, num_context: int) -> LipschitzNet:
        """A network of vectors."""
        widths = [num_features, *[self.hidden] * self.num_layers, num_features]
        orders = list(self.orders or [2.0] * (self.num_layers + 1))
        orders.append(orders[0])
        layers = [
            LipschitzLinear(
                widths[i],
                widths[i + 1],
                self.coefficient,
                LAST_SCALE if i == self.num_layers else 1.0,
                domain=orders[i],
                codomain=orders[i + 1],
            )
            for i in range(self.num_layers + 1)
        ]
        return LipschitzNet(layers, self.preactivate, num_context)

    def convolutional(self, shape: tuple[int, ...], num_context: int) -> LipschitzNet:
        """A network of images ``(channels, height, width)``: kernels of 3 at both ends, of 1 between."""
        channels = [shape[0], *[self.hidden] * self.num_layers, shape[0]]
        layers: list[LipschitzLayer] = [
            LipschitzConv2d(
                channels[i],
                channels[i + 1],
                3 if i in (0, self.num_layers) else 1,
                (shape[1], shape[2]),
                self.coefficient,
                LAST_SCALE if i == self.num_layers else 1.0,
            )
            for i in range(self.num_layers + 1)
        ]
        return LipschitzNet(layers, self.preactivate, num_context)


class ResidualDensity(nn.Module):
    r"""``log p(x) = log N(z; 0, I) + sum of log-determinants`` of residual blocks with :class:`ActNorm` between them.

    Up to :data:`MAX_EXACT` features the likelihood in evaluation is that of full Jacobians; for wider rows
    :meth:`estimate` gives unbiased numbers, with :data:`EVALUATION_TERMS` exact terms.

    Args:
        shape: ``(num_features,)``, or ``(channels, height, width)`` for convolutional blocks; rows are flat in either
            case.
        num_context: Context features.
        num_blocks: Residual blocks; at each scale, for images.
        sizes: Of the network of each block.
        log_det: In training: ``exact`` Jacobians, ``roulette`` estimates, or ``auto``: exact where that is cheaper.
        roulette: Law of the number of terms in training.
        num_scales: Times an image is folded to half its size (channels times four) before more blocks.
        num_last: Dense blocks after the convolutional ones.
        last_hidden: Units of their hidden layers.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        num_context: int = 0,
        *,
        num_blocks: int = 10,
        sizes: BlockSizes | None = None,
        log_det: Literal["auto", "exact", "roulette"] = "auto",
        roulette: Roulette | None = None,
        num_scales: int = 2,
        num_last: int = 4,
        last_hidden: int = 128,
    ) -> None:
        super().__init__()
        if log_det not in ("auto", "exact", "roulette"):
            raise ValueError(f"log_det must be 'auto', 'exact' or 'roulette', got '{log_det}'")
        sizes = sizes or BlockSizes()
        self.shape = tuple(shape)
        self.num_features = int(torch.Size(shape).numel())
        self.exact_training = log_det == "exact" or (log_det == "auto" and self.num_features <= MAX_EXACT_TRAINING)
        self.training_roulette = roulette or Roulette()
        self.evaluation_roulette = Roulette(
            self.training_roulette.law, self.training_roulette.parameter, EVALUATION_TERMS
        )
        self.widest = sizes.hidden
        parts: list[Bijection] = [ActNorm(self.shape)]
        here = self.shape
        if len(here) == 3:
            for scale in range(num_scales + 1):
                if scale:
                    parts.append(Squeeze(here))
                    here = (4 * here[0], here[1] // 2, here[2] // 2)
                for _ in range(num_blocks):
                    parts += [ResidualBlock(sizes.convolutional(here, num_context)), ActNorm(here)]
                    self.widest = max(self.widest, sizes.hidden * here[1] * here[2])
            if num_last:
                parts.append(Flatten(here))
                dense = BlockSizes(last_hidden, sizes.num_layers, sizes.lipschitz, sizes.preactivate)
                for _ in range(num_last):
                    parts += [
                        ResidualBlock(dense.dense(self.num_features, num_context)),
                        ActNorm((self.num_features,)),
                    ]
        else:
            for _ in range(num_blocks):
                parts += [ResidualBlock(sizes.dense(self.num_features, num_context)), ActNorm(self.shape)]
        self.parts = nn.ModuleList(parts)  # from data to latent

    @property
    def noisy(self) -> bool:
        """The likelihood in evaluation is estimated."""
        return self.num_features > MAX_EXACT

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch, num_features)`` to ``(batch,)``, nats.

        In evaluation exact up to :data:`MAX_EXACT` features. Else, and in training where that is cheaper, an unbiased
        estimate with noise of torch's generator.
        """
        if self.exact_training if self.training else not self.noisy:
            if torch.is_grad_enabled():
                return self._exact(x, context)
            size = max(1, NUMBERS_AT_ONCE // (self.num_features * self.widest))  # Jacobians of a few rows at a time
            contexts = [None] * -(-len(x) // size) if context is None else context.split(size)
            done = [self._exact(part, given) for part, given in zip(x.split(size), contexts, strict=True)]
            return torch.cat(done) if done else x.new_zeros(0)
        roulette = self.training_roulette if self.training else self.evaluation_roulette
        uniform = torch.rand(len(x), roulette.num_draws, dtype=torch.float64, device=x.device)
        if self.training:  # one number for all rows: the largest would decide the cost
            uniform = uniform[:1]
        probes = (torch.randn(x.shape, device=x.device) for _ in self.parts)
        return self._estimated(x, context, roulette.weights(roulette.numbers(uniform)), probes)

    def estimate(self, x: Tensor, context: Tensor | None, noise: RowNoise, stream: str) -> Tensor:
        """Unbiased ``(batch,)`` estimates whose noise depends on seed, row and ``stream`` alone."""
        roulette = self.evaluation_roulette
        uniform = noise.uniform(roulette.num_draws, stream=f"{stream}/terms", device=x.device)
        probes = (
            noise.normal(self.num_features, stream=f"{stream}/probe/{i}", device=x.device)
            for i in range(len(self.parts))
        )
        return self._estimated(x, context, roulette.weights(roulette.numbers(uniform)), probes)

    def _exact(self, x: Tensor, context: Tensor | None) -> Tensor:
        z, used = x.reshape(-1, *self.shape), self._used()
        jacobians, constants = [], []
        total = x.new_zeros(len(x))
        together = self.num_features <= MAX_EXACT_TRAINING  # small determinants cost calls, large ones memory
        for part in self._each():
            if isinstance(part, ResidualBlock):
                z, jacobian = part.with_jacobian(z, context, next(used))
                if together:
                    jacobians.append(jacobian)
                else:
                    total = total + residual_log_det(jacobian)
            elif isinstance(part, ActNorm):
                z = part.carry(z)
                constants.append(part.log_det())
            else:  # an order of pixels
                z, _ = part.inverse(z, context)
        if jacobians:
            total = total + residual_log_det(torch.stack(jacobians)).sum(0)
        return log_normal_density(z).flatten(1).sum(1) + total + torch.stack(constants).sum().to(total.dtype)

    def _estimated(self, x: Tensor, context: Tensor | None, weights: Tensor, probes: Iterator[Tensor]) -> Tensor:
        z, total, used = x.reshape(-1, *self.shape), x.new_zeros(len(x)), self._used()
        for part in self._each():
            if isinstance(part, ResidualBlock):
                z, log_det = part.estimate(z, rademacher(next(probes)).reshape(z.shape), weights, context, next(used))
            else:
                z, log_det = part.inverse(z, context)
            total = total + log_det
        return log_normal_density(z).flatten(1).sum(1) + total

    def sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> Tensor:
        """``(num_samples, num_features)`` float64 draws; ``context`` has ``num_samples`` rows or is ``None``."""
        z = torch.randn(num_samples, self.num_features, generator=generator, dtype=torch.float64)
        z = z.to(next(self.parameters()).device)
        return self.to_data(z, context)

    @torch.no_grad()
    def to_data(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent rows ``(batch, num_features)`` to data, by the blocks' fixed-point iterations."""
        z = z.reshape(-1, *self._latent_shape())
        for part in reversed(list(self._each())):
            z = part.solve(z, context) if isinstance(part, ResidualBlock) else part(z, context)[0]
        return z.flatten(1)

    @torch.no_grad()
    def initialise(self, x: Tensor, context: Tensor | None = None) -> None:
        """Starts every :class:`ActNorm` from rows ``(batch, num_features)``."""
        z = x.to(next(self.parameters()).dtype).reshape(-1, *self.shape)
        for part in self._each():
            if isinstance(part, ActNorm):
                part.initialise(z)
            z = z + part.net(z, context) if isinstance(part, ResidualBlock) else part.inverse(z, context)[0]

    def refresh(self, thorough: bool = False) -> None:
        """Follows changed weights with the vectors of the power iterations; once after each optimiser step."""
        refresh([block.net for block in self.blocks()], thorough)

    def certificate(self) -> float:
        """The largest certified Lipschitz constant of a block's network; below one, every block is invertible."""
        return max(block.net.certificate() for block in self.blocks())

    def blocks(self) -> list[ResidualBlock]:
        """The residual blocks, from data to latent."""
        return [part for part in self._each() if isinstance(part, ResidualBlock)]

    def _used(self) -> Iterator[UsedWeights]:
        """The weights in use of each block's network."""
        return iter(used_together([block.net for block in self.blocks()]))

    def _each(self) -> Iterator[Bijection]:
        yield from self.parts  # type: ignore[misc]

    def _latent_shape(self) -> tuple[int, ...]:
        shape = self.shape
        for part in self._each():
            if isinstance(part, Squeeze):
                shape = (4 * shape[0], shape[1] // 2, shape[2] // 2)
            elif isinstance(part, Flatten):
                shape = (self.num_features,)
        return shape
