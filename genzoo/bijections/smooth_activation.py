"""Monotone maps of single features with every derivative in closed form, for scores that are written out."""

from __future__ import annotations

from abc import abstractmethod
from math import log

import torch
from torch import Tensor
from torch.nn import functional as F

from genzoo.bijections.energy_layer import EnergyLayer

NEWTON_STEPS = 100


class ElementwiseLayer(EnergyLayer):
    """``u_i = a(x_i)``, from ``a'`` and the first two derivatives of ``log a'``."""

    @abstractmethod
    def value(self, x: Tensor) -> Tensor:
        """``a(x)``."""

    @abstractmethod
    def log_slope(self, x: Tensor) -> Tensor:
        """``log a'(x)``."""

    @abstractmethod
    def slope(self, x: Tensor) -> Tensor:
        """``a'(x)``."""

    @abstractmethod
    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``a'``, ``(log a')'`` and ``(log a')''``."""

    def push(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.value(x), self.log_slope(x).sum(1)

    def carry(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.value(x)

    def pull(self, x: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        slope, first, _ = self.slopes(x)
        return slope * grad + first

    def tangent(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        return self.slope(x) * v

    def curvature(self, x: Tensor, v: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        return self.pull_bent(x, v, grad, context)[1]

    def pull_bent(self, x: Tensor, v: Tensor, grad: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        slope, first, second = self.slopes(x)
        scaled = slope * grad
        # a'' = a' (log a')'
        return scaled + first, ((scaled * first + second) * v.square()).sum(-1)


class SmoothLeakyReLU(ElementwiseLayer):
    r"""``a(x) = alpha x + (1 - alpha) softplus(x)``, twice differentiable and strictly increasing.

    Args:
        alpha: Slope on the far left, within (0, 1); on the far right it is 1.
        residual: Add ``x``: slopes within (1 + alpha, 2).

    References:
        Chao et al. (2023), arXiv:2305.15267. Differs from the authors' code: the inverse stops when it stands still.
    """

    def __init__(self, alpha: float = 0.3, residual: bool = False) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must be within (0, 1), got {alpha}")
        self.alpha, self.base = alpha, alpha + residual

    def value(self, x: Tensor) -> Tensor:
        return self.base * x + (1 - self.alpha) * F.softplus(x)

    def log_slope(self, x: Tensor) -> Tensor:
        return self.slope(x).log()

    def slope(self, x: Tensor) -> Tensor:
        return self.base + (1 - self.alpha) * torch.sigmoid(x)

    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sigmoid = torch.sigmoid(x)
        slope = self.base + (1 - self.alpha) * sigmoid
        first = (1 - self.alpha) * sigmoid * (1 - sigmoid) / slope
        return slope, first, first * (1 - 2 * sigmoid - first)

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Newton's method: the map is convex, so after one step every iterate lies above the root and falls to it."""
        x = z / (self.base + 0.5 * (1 - self.alpha))
        for _ in range(NEWTON_STEPS):
            step = (self.value(x) - z) / (self.base + (1 - self.alpha) * torch.sigmoid(x))
            x = x - step
            if bool((step.abs() <= 4 * torch.finfo(z.dtype).eps * (1 + x.abs())).all()):
                break
        return x, -self.log_slope(x).sum(1)


class ShareLogit(ElementwiseLayer):
    r"""``a(x) = logit((x / range + shift)(1 - 2 shift)) / smoothness``: the preprocessing of pixels as a layer.

    Args:
        span: Width of the range of ``x``, which begins at 0 (256 for bytes with noise).
        smoothness: Divides the logit.
        shift: Keeps the argument of the logit off 0 and 1.
    """

    def __init__(self, span: float = 1.0, smoothness: float = 1.0, shift: float = 1e-6) -> None:
        super().__init__()
        self.span, self.smoothness, self.shift = span, smoothness, shift

    def value(self, x: Tensor) -> Tensor:
        w = self._share(x)
        return (w.log() - torch.log1p(-w)) / self.smoothness

    def log_slope(self, x: Tensor) -> Tensor:
        w = self._share(x)
        return log((1 - 2 * self.shift) / self.span / self.smoothness) - w.log() - torch.log1p(-w)

    def slope(self, x: Tensor) -> Tensor:
        w = self._share(x)
        return (1 - 2 * self.shift) / self.span / self.smoothness / (w * (1 - w))

    def slopes(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w = self._share(x)
        scale = (1 - 2 * self.shift) / self.span
        first = scale * (2 * w - 1) / (w * (1 - w))
        second = scale**2 * (1 / w.square() + 1 / (1 - w).square())
        return self.slope(x), first, second

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.span * (torch.sigmoid(self.smoothness * z) / (1 - 2 * self.shift) - self.shift)
        return x, -self.log_slope(x).sum(1)

    def _share(self, x: Tensor) -> Tensor:
        return (x / self.span + self.shift) * (1 - 2 * self.shift)
