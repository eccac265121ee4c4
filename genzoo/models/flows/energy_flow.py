"""A flow with its score written out layer by layer: energy and normalising constant apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log, pi
from typing import Literal, cast

import torch
from torch import Tensor, nn

from genzoo.bijections.energy_layer import EnergyLayer, LinearLayer
from genzoo.likelihood import score_matching

Objective = Literal["ml", "sml", "ssm", "dsm", "fdssm"]
OBJECTIVES: tuple[str, ...] = ("ml", "sml", "ssm", "dsm", "fdssm")
EXACT_TRACE = 16
"""Up to this many features the sliced loss takes every direction, and is exact."""


@dataclass(frozen=True)
class Stack:
    """Energy, score and curvature of layers from data to latent, over a standard normal.

    Args:
        layers: From data to latent.
    """

    layers: Sequence[EnergyLayer]

    def energy(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``-log p(x)`` without the constant of the linear layers, ``(batch,)``."""
        total = x.new_zeros(len(x))
        for layer in self.layers:
            x, log_det = layer.push(x, context)
            total = total if log_det is None else total - log_det
        return total + 0.5 * x.square().sum(1) + 0.5 * x.shape[1] * log(2 * pi)

    def energies_along(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Energies at ``x``, ``x + v`` and ``x - v``, ``(batch,)`` each; leading linear layers see two of them."""
        layers = list(self.layers)
        while layers and layers[0].linear:
            x, along = layers.pop(0).push_along(x, v[None], context)
            v = along[0]
        points = torch.cat([x, x + v, x - v])
        energy = Stack(layers).energy(points, None if context is None else context.repeat(3, 1))
        centre, ahead, behind = energy.chunk(3)
        return centre, ahead, behind

    def paired(self) -> Stack:
        """The same layers for one score and one backward pass, which is cheaper."""
        return Stack([layer.paired() for layer in self.layers])

    def undo(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent points to data; solves with the matrices, computes no determinant."""
        for layer in reversed(self.layers):
            z = layer.undo(z, context) if isinstance(layer, LinearLayer) else layer(z, context)[0]
        return z

    def score(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``grad log p(x)``, ``(batch, D)``: one pass to the latent and one back, differentiable in the weights."""
        points = []
        for layer in self.layers:
            points.append(x)
            x = layer.carry(x, context)
        return self._back(points, -x, context)

    def energy_and_score(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """:meth:`energy` and :meth:`score` in the passes of the latter."""
        points = []
        energy = x.new_full((len(x),), 0.5 * x.shape[1] * log(2 * pi))
        for layer in self.layers:
            points.append(x)
            x, log_det = layer.push(x, context)
            energy = energy if log_det is None else energy - log_det
        return energy + 0.5 * x.square().sum(1), self._back(points, -x, context)

    def _back(self, points: list[Tensor], grad: Tensor, context: Tensor | None) -> Tensor:
        for layer, point in zip(reversed(self.layers), reversed(points), strict=True):
            grad = layer.pull(point, grad, context)
        return grad

    def score_and_curvature(self, x: Tensor, probes: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        r"""Score and ``v^T (d score / dx) v``.

        The second derivative of ``log p`` along ``v`` is ``-|v_L|^2`` at the latent, where ``v_L`` is ``v`` carried
        through all layers, plus what each layer bends by itself: nothing for a linear one.

        Args:
            x: ``(batch, D)``.
            probes: ``(slices, batch, D)``.
            context: ``(batch, num_context)`` or ``None``.
        """
        points, directions = [], []
        for layer in self.layers:
            points.append(x)
            directions.append(probes)
            x, probes = layer.push_along(x, probes, context)
        grad, curvature = -x, -probes.square().sum(2)
        for layer, point, v in zip(reversed(self.layers), reversed(points), reversed(directions), strict=True):
            grad, bend = layer.pull_bent(point, v, grad, context)
            curvature = curvature if bend is None else curvature + bend
        return grad, curvature


class EnergyFlow(nn.Module):
    r"""``p(x) = exp(-E(x)) / Z``: the energy from the base and the bending layers, ``log Z = -sum log|det W|``.

    Args:
        num_features: D.
        layers: From data to latent.
    """

    def __init__(self, num_features: int, layers: Iterable[EnergyLayer]) -> None:
        super().__init__()
        self.num_features = num_features
        self.layers = nn.ModuleList(layers)

    @property
    def stack(self) -> Stack:
        """The layers as functions of data."""
        return Stack([cast(EnergyLayer, layer) for layer in self.layers])

    @property
    def linear(self) -> list[LinearLayer]:
        """Layers with a matrix of their own, from data to latent."""
        return [one for one in self.layers if isinstance(one, LinearLayer) and next(one.parameters(), None) is not None]

    def log_constant(self) -> Tensor:
        """``-log Z``, a scalar; with gradient in training, else in float64 from kept determinants."""
        exact = not (torch.is_grad_enabled() and self.training)
        total = torch.zeros((), dtype=torch.float64, device=next(self.parameters()).device)
        for layer in self.stack.layers:
            if layer.linear:
                total = total + (layer.exact_log_constant() if exact else layer.log_constant())
        return total

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch, D)`` to ``(batch,)``, nats; float64 in evaluation."""
        if not self.training:
            x = x.double()
        return self.log_constant().to(x) - self.stack.energy(x, context)

    @torch.no_grad()
    def sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> Tensor:
        """``(num_samples, D)`` float64 draws."""
        device = next(self.parameters()).device
        z = torch.randn(num_samples, self.num_features, generator=generator, dtype=torch.float64).to(device)
        return self.to_data(z, context)

    @torch.no_grad()
    def to_data(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent points to data."""
        return self.stack.undo(z, context)


@dataclass(frozen=True)
class Matching:
    """A training objective and its settings.

    Args:
        objective: ``ml``, ``sml``, ``ssm``, ``dsm`` or ``fdssm``.
        slices: Random directions a row of the sliced loss; ``None``: all up to 16 features, else one.
        noise: Standard deviation of the noise of denoising score matching, in units of its space.
        epsilon: Length of the steps of finite differences.
        energy_weight: Weight of the mean energy a feature, added to a score-matching loss: keeps energies low.
    """

    objective: Objective = "ssm"
    slices: int | None = None
    noise: float = 0.1
    epsilon: float = 0.1
    energy_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got '{self.objective}'")
        if self.slices is not None and self.slices < 1:
            raise ValueError(f"slices must be at least 1, got {self.slices}")
        if self.noise <= 0 or self.epsilon <= 0:
            raise ValueError(f"noise and epsilon must be above 0, got {self.noise} and {self.epsilon}")

    def loss(self, flow: EnergyFlow, x: Tensor, context: Tensor | None = None, stack: Stack | None = None) -> Tensor:
        """The loss of a batch ``(batch, D)``; a scalar. Only ``ml`` computes a determinant, and only ``sml`` solves.

        Args:
            flow: The flow.
            x: Data, in the space where scores are matched.
            context: ``(batch, num_context)`` or ``None``.
            stack: The layers of the flow with others in front, when scores are matched before these.
        """
        whole = flow.stack if stack is None else stack
        width = x.shape[1]
        if self.objective == "ml":
            return (whole.energy(x, context).mean() - flow.log_constant().to(x)) / width
        if self.objective == "sml":
            with torch.no_grad():
                drawn = whole.undo(torch.randn_like(x), context)
            return score_matching.contrastive(whole.energy(x, context), whole.energy(drawn, context)) / width
        energies = whole
        if not torch.is_autocast_enabled(x.device.type):
            whole = whole.paired()
        if self.objective == "fdssm":
            centre, ahead, behind = whole.energies_along(x, score_matching.sphere_steps(x, self.epsilon), context)
            loss = score_matching.finite_difference(centre, ahead, behind, self.epsilon).to(x.dtype)
            return loss if not self.energy_weight else loss + self.energy_weight * centre.mean() / width
        if self.objective == "dsm":
            noise = torch.randn_like(x)
            loss = score_matching.denoising(whole.score(x + self.noise * noise, context), noise, self.noise)
        else:
            if self.slices is None and width <= EXACT_TRACE:
                probes = score_matching.unit_probes(x)
            else:
                probes = score_matching.sign_probes(x, self.slices or 1)
            loss = score_matching.sliced(*whole.score_and_curvature(x, probes, context))
        if self.energy_weight:
            loss = loss + self.energy_weight * energies.energy(x, context).mean() / width
        return loss
