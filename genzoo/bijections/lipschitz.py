"""Networks whose Lipschitz constant is bounded by what their weights are divided by: the ``g`` of a residual block.

A network is a chain of linear maps and activations. Each linear map is divided by its norm over its coefficient where
it exceeds it, each activation has slopes between -0.1 and 1, so the coefficients' product bounds the network.

In training the norm is ``<u, W v>``, part of the gradient, with vectors ``u`` and ``v`` that
:meth:`LipschitzNet.refresh` improves once an optimiser step. In evaluation it is certified from above, anew whenever
the weights have changed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genzoo.bijections.induced_norms import (
    certified_convolution_norm,
    certified_norm,
    has_closed_form,
    power_iteration,
)

REFRESH_STEPS = 5
"""Steps of the power iteration after an optimiser step."""
THOROUGH_STEPS = 100
"""Most steps of the power iteration from a random start, and for convolutions where averaged weights took over."""
THOROUGH_TOLERANCE = 1e-7
RESTARTS = 10
FLOAT32_ROUNDING = 1e-6
SHARPNESS = 3.0
"""Start of LipSwish, ``beta = softplus(3) = 3.05``; with the paper's 0.5 bends are as wide as standardised data."""
LARGEST = 0.99
"""Largest Lipschitz constant of networks with mixed norms, where the coefficients do not decide."""


class _Swish(torch.autograd.Function):
    """``t sigmoid(t)``, its slope, and the sigmoid, which the way back needs again; twice differentiable, also under
    torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        sigmoid = torch.sigmoid(t)
        value = t * sigmoid
        return value, torch.addcmul(sigmoid, value, 1 - sigmoid), sigmoid

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output[1:])
        ctx.save_for_forward(*output[1:])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Tensor | None:
        slope, sigmoid = ctx.saved_tensors
        for_value, for_slope, for_sigmoid = gradients
        total = None if for_value is None else for_value * slope
        if for_slope is not None:
            bend = _bend(slope, sigmoid)
            total = for_slope * bend if total is None else torch.addcmul(total, for_slope, bend)
        if for_sigmoid is not None:  # where the gradient is differentiated once more
            rest = for_sigmoid * sigmoid * (1 - sigmoid)
            total = rest if total is None else total + rest
        return total

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        slope, sigmoid = ctx.saved_tensors
        t = tangents[0]
        return slope * t, _bend(slope, sigmoid) * t, sigmoid * (1 - sigmoid) * t


def _bend(slope: Tensor, sigmoid: Tensor) -> Tensor:
    """Derivative of the slope: for ``f(t) = t sigmoid(t)``, ``f'' = sigmoid + f' (1 - 2 sigmoid)``."""
    return torch.addcmul(sigmoid, slope, 1 - 2 * sigmoid)


def swish(t: Tensor) -> tuple[Tensor, Tensor]:
    """``t sigmoid(t)`` and its slope."""
    value, slope, _ = _Swish.apply(t)
    return value, slope


def lipswish(h: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    r"""LipSwish :math:`h \sigma(\beta h) / 1.1` and its slope, which lies in [-0.0908, 0.99985] for every ``beta > 0``.

    Args:
        h: Any shape.
        beta: Positive scalar; a large one makes the bend at zero sharp.

    References:
        Chen, Behrmann, Duvenaud, Jacobsen (2019), Residual flows for invertible generative modeling, arXiv:1906.02735.
    """
    value, slope = swish(beta * h)
    return value / (1.1 * beta), slope / 1.1


class LipschitzLayer(nn.Module, ABC):
    """A linear map, divided so that its norm is at most ``coefficient``.

    Args:
        weight: Start of the weights.
        num_bias: Biases.
        coefficient: Largest norm.
        domain: Order of the norm of inputs.
        codomain: Order of the norm of outputs.
        input_shape: Of the vector that the power iteration moves.
    """

    u: Tensor
    v: Tensor

    def __init__(
        self,
        weight: Tensor,
        num_bias: int,
        coefficient: float,
        domain: float,
        codomain: float,
        input_shape: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(torch.zeros(num_bias))
        self.coefficient, self.domain, self.codomain = coefficient, domain, codomain
        self._made_for: Tensor | None = None
        self._made: Tensor | None = None
        self._bound = inf
        starts = [torch.randn(input_shape) for _ in range(1 if domain == codomain == 2 else RESTARTS)]
        found = [self._iterate(start, THOROUGH_STEPS, THOROUGH_TOLERANCE) for start in starts]
        with torch.no_grad():
            best = max(found, key=lambda pair: float((pair[0] * self._whole(pair[1], self.weight)).sum()))
        self.register_buffer("u", best[0])
        self.register_buffer("v", best[1])

    @abstractmethod
    def push(self, t: Tensor, weight: Tensor) -> Tensor:
        """The linear map of ``(..., *in)`` with any number of leading dimensions."""

    @abstractmethod
    def pull(self, u: Tensor, weight: Tensor) -> Tensor:
        """Its transpose, of ``(..., *out)``."""

    @abstractmethod
    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The linear map plus a bias, of ``(batch, *in)``."""

    @abstractmethod
    def upper_bound(self) -> float:
        """A certified upper bound of the norm of the undivided weights."""

    def _whole(self, t: Tensor, weight: Tensor) -> Tensor:
        """The map whose norm is taken (a convolution's is on a torus)."""
        return self.push(t, weight)

    def _whole_back(self, u: Tensor, weight: Tensor) -> Tensor:
        return self.pull(u, weight)

    def _iterate(self, v: Tensor, num_steps: int, tolerance: float) -> tuple[Tensor, Tensor]:
        w = self.weight.detach()
        return power_iteration(
            lambda t: self._whole(t, w),
            lambda t: self._whole_back(t, w),
            v.to(w),
            self.domain,
            self.codomain,
            num_steps,
            tolerance,
        )

    @torch.no_grad()
    def refresh(self, thorough: bool = False) -> None:
        """Follows changed weights with ``u`` and ``v``: a step, or with ``thorough`` to convergence."""
        steps, tolerance = (THOROUGH_STEPS, THOROUGH_TOLERANCE) if thorough else (REFRESH_STEPS, 0.0)
        u, v = self._iterate(self.v, steps, tolerance)
        self.u.copy_(u)
        self.v.copy_(v)

    def norm(self) -> Tensor:
        """``<u, W v>``: the norm from below, with the gradient of the weights."""
        return (self.u * self._whole(self.v, self.weight)).sum()

    def effective(self) -> Tensor:
        """The weights that are used: divided by the norm of training, or by the certified one in evaluation."""
        if self.training:
            return self.weight / (self.norm() / self.coefficient).clamp(min=1.0)
        if self._made is None or not _same(self._made_for, self.weight):
            with torch.inference_mode(False), torch.no_grad():  # what is kept serves other calls
                self._certify()
        assert self._made is not None
        return self._made

    def _certify(self) -> None:
        bound = self.upper_bound()
        norm = bound
        if not has_closed_form(self.domain, self.codomain):  # far below its bound: divide as training does
            u, v = self._iterate(self.v, THOROUGH_STEPS, THOROUGH_TOLERANCE)
            norm = float((u * self._whole(v, self.weight)).sum())
        divisor = max(1.0, norm / self.coefficient)
        self._made_for = self.weight.detach().clone()
        self._made = self._made_for / divisor
        self._bound = bound / divisor

    def certified(self) -> float:
        """Upper bound of the norm of what evaluation uses."""
        was, self.training = self.training, False
        try:
            self.effective()
        finally:
            self.training = was
        return self._bound * (1 + FLOAT32_ROUNDING)


@torch.no_grad()
def refresh(nets: Sequence[LipschitzNet], thorough: bool = False) -> None:
    """Follows the changed weights of many networks; matrices of one shape are iterated together.

    With ``thorough`` matrices get their singular vectors instead.
    """
    together: dict[tuple[int, ...], list[LipschitzLinear]] = {}
    for layer in (layer for net in nets for layer in net.linear_maps()):
        if isinstance(layer, LipschitzLinear) and layer.domain == layer.codomain == 2:
            together.setdefault(tuple(layer.weight.shape), []).append(layer)
        else:
            layer.refresh(thorough)
    for layers in together.values():
        weight = torch.stack([layer.weight for layer in layers])
        if thorough:
            left, _, right = torch.linalg.svd(weight, full_matrices=False)
            u, v = left[:, :, 0], right[:, 0]
        else:
            v = torch.stack([layer.v for layer in layers])
            for _ in range(REFRESH_STEPS):
                u = functional.normalize((weight @ v[:, :, None])[:, :, 0], dim=1)
                v = functional.normalize((weight.mT @ u[:, :, None])[:, :, 0], dim=1)
            u = functional.normalize((weight @ v[:, :, None])[:, :, 0], dim=1)
        torch._foreach_copy_([layer.u for layer in layers], list(u.unbind()))
        torch._foreach_copy_([layer.v for layer in layers], list(v.unbind()))


def _same(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)


class LipschitzLinear(LipschitzLayer):
    """A matrix, ``(batch, num_inputs)`` to ``(batch, num_outputs)``.

    Args:
        num_inputs: Width of the input.
        num_outputs: Width of the output.
        coefficient: Largest norm.
        scale: Factor of the starting weights (orthogonal, of norm ``coefficient`` at scale 1).
        domain: Order of the norm of inputs: 2, or any from 1 to infinity.
        codomain: Order of the norm of outputs.
    """

    def __init__(
        self,
        num_inputs: int,
        num_outputs: int,
        coefficient: float,
        scale: float = 1.0,
        domain: float = 2,
        codomain: float = 2,
    ) -> None:
        weight = nn.init.orthogonal_(torch.empty(num_outputs, num_inputs)) * (coefficient * scale)
        super().__init__(weight, num_outputs, coefficient, domain, codomain, (num_inputs,))

    def push(self, t: Tensor, weight: Tensor) -> Tensor:
        return functional.linear(t, weight)

    def pull(self, u: Tensor, weight: Tensor) -> Tensor:
        return u @ weight

    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(x, weight, bias)

    def upper_bound(self) -> float:
        return certified_norm(self.weight, self.domain, self.codomain)


class LipschitzConv2d(LipschitzLayer):
    """A convolution of images with zero padding that keeps height and width; its norm is taken at that size.

    The norm is that of the convolution on a torus larger by ``kernel - 1``, of which the padded one is a block: what
    training divides by and what evaluation certifies are the same quantity.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Odd side of the kernel.
        size: ``(height, width)`` of the images.
        coefficient: Largest spectral norm.
        scale: Factor of the starting weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        size: tuple[int, int],
        coefficient: float,
        scale: float = 1.0,
    ) -> None:
        if kernel % 2 == 0:
            raise ValueError(f"the kernel of a convolution that keeps the size of images is odd, got {kernel}")
        self.size, self.padding = size, kernel // 2
        weight = torch.empty(out_channels, in_channels, kernel, kernel)
        nn.init.kaiming_uniform_(weight, a=5**0.5)
        bound = certified_convolution_norm(weight, *size)
        torus = (in_channels, size[0] + kernel - 1, size[1] + kernel - 1)
        super().__init__(weight * (coefficient * scale / bound), out_channels, coefficient, 2, 2, torus)

    def push(self, t: Tensor, weight: Tensor) -> Tensor:
        out = functional.conv2d(t.flatten(0, -4), weight, padding=self.padding)
        return out.reshape(*t.shape[:-3], *out.shape[1:])

    def pull(self, u: Tensor, weight: Tensor) -> Tensor:
        out = functional.conv2d(u.flatten(0, -4), weight.transpose(0, 1).flip(2, 3), padding=self.padding)
        return out.reshape(*u.shape[:-3], *out.shape[1:])

    def apply_to(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.conv2d(x, weight, bias, padding=self.padding)

    def _whole(self, t: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(self._wrap(t), weight)[0]

    def _whole_back(self, u: Tensor, weight: Tensor) -> Tensor:
        return functional.conv2d(self._wrap(u), weight.transpose(0, 1).flip(2, 3))[0]

    def _wrap(self, t: Tensor) -> Tensor:
        return functional.pad(t[None], (self.padding,) * 4, mode="circular")

    def upper_bound(self) -> float:
        if self.padding == 0:
            return certified_norm(self.weight)
        return certified_convolution_norm(self.weight, *self.size)


@dataclass(frozen=True)
class Linearised:
    """A network at a point: its value, and its Jacobian as a chain of linear maps.

    Args:
        value: ``(batch, *event)``.
        layers: The linear layers.
        weights: Their weights in use, with the activations' factors.
        slopes: Of the activation before each layer, without those factors; ``None`` where there is none.
    """

    value: Tensor
    layers: tuple[LipschitzLayer, ...]
    weights: tuple[Tensor, ...]
    slopes: tuple[Tensor | None, ...]

    def push(self, t: Tensor) -> Tensor:
        """Jacobian-vector products ``J t`` of ``(..., batch, *event)``; a batch of one stands for all rows."""
        for layer, weight, slope in zip(self.layers, self.weights, self.slopes, strict=True):
            t = layer.push(t if slope is None else t * slope, weight)
        return t

    def pull(self, u: Tensor) -> Tensor:
        """Vector-Jacobian products ``J^T u`` of ``(..., batch, *event)``."""
        for layer, weight, slope in zip(self.layers[::-1], self.weights[::-1], self.slopes[::-1], strict=True):
            u = layer.pull(u, weight)
            u = u if slope is None else u * slope
        return u

    def jacobian(self) -> Tensor:
        """``(batch, D, D)``: as many passes as a row has entries, batched."""
        event = self.value.shape[1:]
        width = event.numel()
        if len(event) == 1 and self.slopes[0] is None:  # the first matrix is its own product with the basis
            rest = Linearised(self.value, self.layers[1:], self.weights[1:], self.slopes[1:])
            return rest.push(self.weights[0].t()[:, None]).permute(1, 2, 0)
        basis = torch.eye(width, dtype=self.value.dtype, device=self.value.device).reshape(width, 1, *event)
        return self.push(basis).flatten(2).permute(1, 2, 0)

    def detach(self) -> Linearised:
        """The same without gradients."""
        return Linearised(
            self.value.detach(),
            self.layers,
            tuple(weight.detach() for weight in self.weights),
            tuple(None if slope is None else slope.detach() for slope in self.slopes),
        )

    def select(self, index: Tensor) -> Linearised:
        """The rows at ``index``."""
        slopes = tuple(None if slope is None else slope[index] for slope in self.slopes)
        return Linearised(self.value[index], self.layers, self.weights, slopes)


@dataclass(frozen=True)
class UsedWeights:
    """A network's weights as they are used: divided by their norms, with the factors of the activations around them.

    LipSwish is ``swish(beta h) / (1.1 beta)``: both factors go into the small weights around it, not into the rows.

    Args:
        weights: Of each linear map.
        biases: Of each linear map.
        before: Factor of the rows before the first activation, where one stands before the first map.
        after: Factor of the first map's output, ``None`` where it is the last.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    before: Tensor | None
    after: Tensor | None


def used_together(nets: Sequence[LipschitzNet]) -> list[UsedWeights]:
    """:meth:`LipschitzNet.used` of many networks.

    In training, networks of equal sizes are divided and scaled together: their matrices are small, and one operation on
    each would cost more than the numbers in it.
    """
    kinds = {
        tuple((type(layer), layer.weight.shape, layer.domain, layer.codomain) for layer in net.linear_maps())
        for net in nets
    }
    alike = len(kinds) == 1 and len({(net.preactivate, net.bound, net.training) for net in nets}) == 1
    if not alike or not nets[0].training or not all(isinstance(layer, LipschitzLinear) for layer in nets[0].layers):
        return [net.used() for net in nets]
    weights, biases = [], []
    for layers in zip(*(net.linear_maps() for net in nets), strict=True):
        weight = torch.stack([layer.weight for layer in layers])
        u, v = torch.stack([layer.u for layer in layers]), torch.stack([layer.v for layer in layers])
        norm = (u * (weight @ v[:, :, None])[:, :, 0]).sum(1)
        weights.append(weight / (norm / layers[0].coefficient).clamp(min=1.0)[:, None, None])
        biases.append(torch.stack([layer.bias for layer in layers]))
    sharpness = torch.stack([net.sharpness for net in nets])
    return _with_factors(weights, biases, sharpness, nets[0].preactivate)


def _with_factors(
    weights: list[Tensor], biases: list[Tensor], sharpness: Tensor, preactivate: bool
) -> list[UsedWeights]:
    """Weights ``(nets, ...)`` and biases ``(nets, num_bias)`` by position; ``sharpness`` ``(nets, activations)``."""
    beta = list(functional.softplus(sharpness).unbind(1))
    before = beta.pop(0) if preactivate else None
    last = before
    for i, weight in enumerate(weights):
        following = beta[i] if i < len(beta) else None
        factor = None if last is None else 1 / (1.1 * last)
        if following is not None:
            factor = following if factor is None else factor * following
            biases[i] = biases[i] * following[:, None]
        if factor is not None:
            weights[i] = weight * factor.reshape(-1, *(1,) * (weight.ndim - 1))
        last = following
    each = zip(*(weight.unbind() for weight in weights), strict=True)
    each_bias = zip(*(bias.unbind() for bias in biases), strict=True)
    return [
        UsedWeights(used, bias, None if before is None else before[k], beta[0][k] if beta else None)
        for k, (used, bias) in enumerate(zip(each, each_bias, strict=True))
    ]


class LipschitzNet(nn.Module):
    """A chain of linear maps with LipSwish between them; its Lipschitz constant in ``x`` is below one.

    Args:
        layers: Linear maps, whose orders of norms agree and close (the last codomain is the first domain).
        preactivate: An activation before the first map too.
        num_context: Context features, which shift the first map's output: no bound is needed there.

    Raises:
        ValueError: the orders do not close, or the coefficients' product is not below one.
    """

    def __init__(self, layers: Sequence[LipschitzLayer], preactivate: bool = False, num_context: int = 0) -> None:
        super().__init__()
        orders = [layer.domain for layer in layers] + [layers[0].domain]
        if any(layer.codomain != after for layer, after in zip(layers, orders[1:], strict=True)):
            raise ValueError(f"the orders of the norms must agree from layer to layer and close, got {orders}")
        self.bound = prod(layer.coefficient for layer in layers)
        if not 0 < self.bound < 1:
            raise ValueError(f"the product of the coefficients must lie between 0 and 1, got {self.bound}")
        self.layers = nn.ModuleList(layers)
        self.preactivate = preactivate
        self.sharpness = nn.Parameter(torch.full((len(layers) - 1 + preactivate,), SHARPNESS))
        for layer in layers[:-1]:  # bends everywhere in standardised data, not all at its centre
            nn.init.normal_(layer.bias)
        self.shift = nn.Linear(num_context, layers[0].bias.shape[0], bias=False) if num_context else None

    def linear_maps(self) -> tuple[LipschitzLayer, ...]:
        """The linear maps, from input to output."""
        return tuple(self.layers)  # type: ignore[arg-type]

    def used(self) -> UsedWeights:
        """The weights and biases in use, see :func:`used_together`."""
        layers = self.linear_maps()
        weights = [weight[None] for weight in self._weights()]
        return _with_factors(weights, [layer.bias[None] for layer in layers], self.sharpness[None], self.preactivate)[0]

    def linearise(self, x: Tensor, context: Tensor | None = None, used: UsedWeights | None = None) -> Linearised:
        """Value and slopes at ``x`` ``(batch, *event)``.

        Args:
            x: Rows.
            context: ``(batch, num_context)`` or ``None``.
            used: What :meth:`used` gives, if it is known already.
        """
        layers = self.linear_maps()
        used = used or self.used()
        first = used.before
        if first is not None:
            x = first * x
        slopes: list[Tensor | None] = []
        for i, layer in enumerate(layers):
            slope: Tensor | None = None
            if i or first is not None:
                x, slope = swish(x)
                slope = slope if i or first is None else first * slope
            slopes.append(slope)
            x = layer.apply_to(x, used.weights[i], used.biases[i])
            if i == 0 and self.shift is not None:
                assert context is not None
                shift = self.shift(context.to(x.dtype))
                shift = shift.reshape(*shift.shape, *(1,) * (x.ndim - 2))
                x = x + (shift if used.after is None else used.after * shift)
        return Linearised(x, layers, used.weights, tuple(slopes))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        return self.linearise(x, context).value

    def refresh(self, thorough: bool = False) -> None:
        """Follows changed weights with the vectors of the power iteration; call once after an optimiser step."""
        for layer in self.linear_maps():
            layer.refresh(thorough)

    def certificate(self) -> float:
        """Certified upper bound of the Lipschitz constant of what evaluation uses, in the norm of the first domain."""
        return min(prod(layer.certified() for layer in self.linear_maps()), self._largest())

    def _largest(self) -> float:
        return max(self.bound, LARGEST) * (1 + FLOAT32_ROUNDING) ** len(self.layers)

    def _weights(self) -> tuple[Tensor, ...]:
        weights = tuple(layer.effective() for layer in self.linear_maps())
        if self.training:
            return weights
        # Norms without a closed form are divided by a local maximum; where their bounds leave doubt, shrink the last.
        excess = prod(layer.certified() for layer in self.linear_maps()) / self._largest()
        return weights if excess <= 1 else (*weights[:-1], weights[-1] / excess)
