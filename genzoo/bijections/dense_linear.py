"""Unrestricted linear maps, dense and convolutional: cheap to apply, costly only for their determinant and inverse."""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genzoo.bijections.energy_layer import EnergyLayer, LinearLayer
from genzoo.bijections.paired_dense import GradientMemory, PairedDense

Start = Literal["negative", "identity", "orthogonal"]


class Dense(LinearLayer):
    """``u = W x + b + C context`` from data to latent, with any ``D x D`` matrix: ``O(D^2)`` a row.

    The log-determinant and the inverse take ``O(D^3)``, once for all rows.

    Args:
        num_features: D.
        start: Starting matrix: minus the identity or the identity (bias 1 or 0), or a random rotation (bias 0).
        num_context: Context features, which shift the result.
    """

    def __init__(self, num_features: int, start: Start = "negative", num_context: int = 0) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        weight = torch.empty(num_features, num_features)
        if start == "orthogonal":
            nn.init.orthogonal_(weight)
        else:
            weight = torch.eye(num_features) * (-1.0 if start == "negative" else 1.0)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.ones(num_features) if start == "negative" else torch.zeros(num_features))
        self.shift = nn.Linear(num_context, num_features, bias=False) if num_context else None
        if self.shift is not None:
            nn.init.zeros_(self.shift.weight)
        self.gradient_memory = GradientMemory()

    def push(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        return F.linear(x, self.weight.to(x.dtype)) + self.moved(x, context), None

    def push_along(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        both = F.linear(torch.cat([x, v.flatten(0, 1)]), self.weight.to(x.dtype))  # one product reads the matrix once
        return both[: len(x)] + self.moved(x, context), both[len(x) :].reshape(v.shape)

    def pull(self, x: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        return grad @ self.weight.to(grad.dtype)

    def tangent(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        return F.linear(v, self.weight.to(v.dtype))

    def undo(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return torch.linalg.solve(self.weight.to(z.dtype), (z - self.moved(z, context)).t()).t()

    def matrix(self) -> Tensor:
        return self.weight

    def paired(self) -> EnergyLayer:
        return cast(EnergyLayer, PairedDense(self))

    def moved(self, like: Tensor, context: Tensor | None) -> Tensor:
        """What is added to the product: bias, and shift by the context."""
        if self.shift is None or context is None:
            return self.bias.to(like.dtype)
        return self.bias.to(like.dtype) + F.linear(context.to(like.dtype), self.shift.weight.to(like.dtype))


class Convolution(LinearLayer):
    """A convolution that keeps channels and size: odd square kernel, stride 1, zeros beyond the edge.

    As a matrix it is ``(C H W) x (C H W)``, which is built only for the determinant, the inverse and samples.

    Args:
        shape: ``(channels, height, width)`` of one picture; rows are flat, channels first.
        kernel: Side of the kernel, odd.
        start: The kernel that changes nothing, or minus it.
    """

    def __init__(
        self, shape: tuple[int, int, int], kernel: int = 7, start: Literal["negative", "identity"] = "negative"
    ) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {kernel}")
        self.shape, self.kernel = tuple(shape), kernel
        channels = shape[0]
        weight = torch.empty(channels, channels, kernel, kernel)
        nn.init.dirac_(weight)
        self.weight = nn.Parameter(-weight if start == "negative" else weight)
        spread = float(nn.init.xavier_normal_(torch.empty_like(weight)).std()) if weight.numel() > 1 else 0.1
        self.bias = nn.Parameter(torch.randn(channels) * spread)

    def push(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        return self._convolve(x, self.bias), None

    def push_along(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        both = self._convolve(torch.cat([x, v.flatten(0, 1)]), None)
        shift = self.bias.to(x.dtype).repeat_interleave(self.shape[1] * self.shape[2])
        return both[: len(x)] + shift, both[len(x) :].reshape(v.shape)

    def pull(self, x: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        pictures = grad.reshape(len(grad), *self.shape)
        return F.conv_transpose2d(pictures, self.weight.to(grad.dtype), padding=self.kernel // 2).flatten(1)

    def tangent(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        return self._convolve(v.flatten(0, 1), None).reshape(v.shape)

    def undo(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        shift = self._convolve(torch.zeros_like(z[:1]), self.bias)
        return torch.linalg.solve(self.matrix().to(z.dtype), (z - shift).t()).t()

    def matrix(self) -> Tensor:
        width = self.shape[0] * self.shape[1] * self.shape[2]
        eye = torch.eye(width, dtype=self.weight.dtype, device=self.weight.device)
        return self._convolve(eye, None).t()

    def weights(self) -> Tensor:
        return self.weight

    def _convolve(self, x: Tensor, bias: Tensor | None) -> Tensor:
        pictures = x.reshape(len(x), *self.shape)
        bias = None if bias is None else bias.to(x.dtype)
        return F.conv2d(pictures, self.weight.to(x.dtype), bias, padding=self.kernel // 2).flatten(1)


class Reorder(LinearLayer):
    """A fixed order of the features: ``u_i = x[order_i]``; volume is kept and nothing is learned.

    Args:
        order: ``(D,)`` a permutation of ``0 ... D - 1``.
    """

    order: Tensor
    back: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order.long(), persistent=False)
        self.register_buffer("back", order.argsort(), persistent=False)

    @classmethod
    def squeeze(cls, shape: tuple[int, int, int]) -> Reorder:
        """Blocks of 2x2 neighbours become four channels: ``(C, H, W)`` to ``(4C, H/2, W/2)``, H and W even."""
        channels, height, width = shape
        place = torch.arange(channels * height * width).reshape(channels, height // 2, 2, width // 2, 2)
        return cls(place.permute(0, 2, 4, 1, 3).flatten())

    def push(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, None]:
        return x[:, self.order], None

    def pull(self, x: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        return grad[:, self.back]

    def tangent(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        return v[..., self.order]

    def undo(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        return z[:, self.back]

    def matrix(self) -> Tensor:
        return torch.eye(len(self.order), device=self.order.device)[self.order]

    def log_constant(self) -> Tensor:
        return torch.zeros((), dtype=torch.float64, device=self.order.device)

    def exact_log_constant(self) -> Tensor:
        return self.log_constant()
