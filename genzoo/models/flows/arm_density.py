"""One density of the outcome per treatment arm: a small spline flow, or the masses of cells as they are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import log

import torch
from torch import Tensor, nn
from torch.special import log_ndtr

from genzoo.bijections.elementwise import Elementwise
from genzoo.likelihood.normal_cells import log_normal_cell, log_normal_density

LEAST_MASS = 1e-9
"""Mass of a cell that the outcome model leaves empty: the density stays positive everywhere."""
TAIL_DECAY = 2.0
"""Exponential decay of the tails beyond the last edges, per unit of model space (a standard deviation)."""


class ArmDensity(nn.Module, ABC):
    """Densities of one number in model space, one for each arm. All arguments are ``(batch,)`` tensors."""

    @abstractmethod
    def log_density(self, y: Tensor, arm: Tensor) -> Tensor:
        """``log g_arm(y)``, nats of model space, float64."""

    @abstractmethod
    def log_mass(self, lower: Tensor, upper: Tensor, arm: Tensor) -> Tensor:
        """``log P(lower < Y[arm] < upper)``; edges may be infinite; float64."""

    @abstractmethod
    def quantile(self, level: Tensor, arm: Tensor) -> Tensor:
        """The value below which ``level`` of the mass lies, ``0 < level < 1``."""


class ArmFlow(ArmDensity):
    """Unconditional spline flows, trained on the masses of cells.

    Beyond the ends of the cells the masses say how much lies there and not where: the flow's own mass beyond an end
    falls exponentially, as that of :class:`ArmCells` does, and not like the tail of a normal.

    Args:
        num_arms: Treatments.
        element: Family of the monotone map to the standard normal.
    """

    ends: Tensor

    def __init__(self, num_arms: int, element: Elementwise) -> None:
        super().__init__()
        self.element = element
        self.parameters_of_arms = nn.Parameter(torch.zeros(element.num_parameters, num_arms))
        self.register_buffer("ends", torch.tensor([-torch.inf, torch.inf], dtype=torch.float64))

    def log_density(self, y: Tensor, arm: Tensor) -> Tensor:
        y = y.double()
        inner = y.clamp(self.ends[0], self.ends[1])
        z, log_slope = self._latent(inner, arm)
        beyond = (y - inner).abs()
        tail = log_ndtr(torch.where(y < inner, z, -z)) + log(TAIL_DECAY) - TAIL_DECAY * beyond
        return torch.where(beyond > 0, tail, log_normal_density(z) + log_slope)

    def log_mass(self, lower: Tensor, upper: Tensor, arm: Tensor) -> Tensor:
        low, high = self.ends
        edges = torch.stack([lower, upper]).double()
        z, _ = self._latent(edges.clamp(low, high), arm)
        inside = torch.where(z[0] < z[1], log_normal_cell(z[0], torch.maximum(*z)), -torch.inf)
        below, above = (low - edges).clamp_min(0), (edges - high).clamp_min(0)  # distances beyond the ends
        at_low, at_high = (self._latent(end.expand_as(lower), arm)[0] for end in (low, high))
        left = log_ndtr(at_low) + _log_difference(below[1], below[0])
        right = log_ndtr(-at_high) + _log_difference(above[0], above[1])
        return torch.logsumexp(torch.stack([inside, left, right]), 0)

    def quantile(self, level: Tensor, arm: Tensor) -> Tensor:
        level = level.double()
        low, high = self.ends
        value = self.element.apply(torch.special.ndtri(level), self.parameters_of_arms[:, arm], to_latent=False)[0]
        at_low, at_high = (self._latent(end.expand_as(level), arm)[0] for end in (low, high))
        left = low + (level.log() - log_ndtr(at_low)) / TAIL_DECAY
        right = high - (torch.log1p(-level) - log_ndtr(-at_high)) / TAIL_DECAY
        return torch.where(value < low, left, torch.where(value > high, right, value))

    def _latent(self, y: Tensor, arm: Tensor) -> tuple[Tensor, Tensor]:
        return self.element.apply(y, self.parameters_of_arms[:, arm], to_latent=True)

    def cross_entropy(self, masses: Tensor, edges: Tensor) -> Tensor:
        """``(num_arms,)``: ``-sum_C m_a(C) log G_a(C)`` over cells, for masses that may be negative.

        Args:
            masses: ``(num_arms, len(edges) + 1)``.
            edges: ``(num_edges,)`` ascending.
        """
        arms, cells = masses.shape
        end = edges.new_full((1,), torch.inf)
        lower, upper = torch.cat([-end, edges]), torch.cat([edges, end])
        arm = torch.arange(arms, device=edges.device).repeat_interleave(cells)
        z, _ = self._latent(torch.stack([lower.repeat(arms), upper.repeat(arms)]), arm)
        log_mass = log_normal_cell(z[0], z[1])  # that of the tails too: the last cells begin at the ends
        return -(masses * log_mass.unflatten(0, (arms, cells))).sum(1)

    @torch.no_grad()
    def start(self, masses: Tensor, edges: Tensor) -> None:
        """Sets the ends to the last edges, location and scale to those of the masses."""
        self.ends.copy_(edges[[0, -1]])
        centre = torch.cat([edges[:1], (edges[1:] + edges[:-1]) / 2, edges[-1:]])
        kept = masses.clamp_min(0)
        kept = kept / kept.sum(1, keepdim=True)
        mean = kept @ centre
        spread = ((kept * (centre - mean[:, None]).square()).sum(1)).sqrt()
        self.parameters_of_arms.zero_()
        self.parameters_of_arms[0] = mean
        self.parameters_of_arms[1] = spread.clamp_min(1e-3).log()


def _log_difference(near: Tensor, far: Tensor) -> Tensor:
    """``log(exp(-decay near) - exp(-decay far))`` for ``0 <= near <= far``, which may be infinite."""
    width = torch.where(near < far, far - near, 0.0)
    share = torch.log(-torch.expm1(-TAIL_DECAY * width))
    return torch.where(near < far, share - TAIL_DECAY * near, -torch.inf)


class ArmCells(ArmDensity):
    """The masses themselves: constant density within a cell, exponential tails beyond the last edges.

    Args:
        num_arms: Treatments.
        num_edges: Edges of the cells; there is one cell more than edges.
    """

    edges: Tensor
    mass: Tensor

    def __init__(self, num_arms: int, num_edges: int) -> None:
        super().__init__()
        self.register_buffer("edges", torch.linspace(-1, 1, num_edges, dtype=torch.float64))
        self.register_buffer("mass", torch.full((num_arms, num_edges + 1), 1 / (num_edges + 1), dtype=torch.float64))

    def start(self, masses: Tensor, edges: Tensor) -> None:
        """Takes masses (none negative) and edges."""
        kept = masses.clamp_min(LEAST_MASS)
        self.mass.copy_(kept / kept.sum(1, keepdim=True))
        self.edges.copy_(edges)

    def log_density(self, y: Tensor, arm: Tensor) -> Tensor:
        y = y.double()
        cell = torch.searchsorted(self.edges, y)
        log_mass = self.mass[arm, cell].log()
        inner = cell.clamp(1, len(self.edges) - 1)
        within = log_mass - (self.edges[inner] - self.edges[inner - 1]).log()
        beyond = torch.maximum(self.edges[0] - y, y - self.edges[-1]).clamp_min(0)
        tail = log_mass + torch.full_like(y, TAIL_DECAY).log() - TAIL_DECAY * beyond
        return torch.where((cell == 0) | (cell == len(self.edges)), tail, within)

    def log_mass(self, lower: Tensor, upper: Tensor, arm: Tensor) -> Tensor:
        lower, upper = lower.double(), upper.double()
        left = self._tail(upper, arm, 0) - self._tail(lower, arm, 0)
        right = self._tail(-lower, arm, -1) - self._tail(-upper, arm, -1)
        return (left + right + self._inside(upper, arm) - self._inside(lower, arm)).log()

    def quantile(self, level: Tensor, arm: Tensor) -> Tensor:
        level = level.double()
        below = self.mass.cumsum(1)[:, :-1]  # at every edge
        cell = torch.searchsorted(below[arm], level[:, None])[:, 0]
        inner = cell.clamp(1, len(self.edges) - 1)
        left, right = self.edges[inner - 1], self.edges[inner]
        value = left + (right - left) * (level - below[arm, inner - 1]) / self.mass[arm, inner]
        low = self.edges[0] + (level / self.mass[arm, 0]).log() / TAIL_DECAY
        high = self.edges[-1] - ((1 - level) / self.mass[arm, -1]).log() / TAIL_DECAY
        return torch.where(cell == 0, low, torch.where(cell == len(self.edges), high, value))

    def _tail(self, y: Tensor, arm: Tensor, end: int) -> Tensor:
        """Mass of the lower tail below ``y`` (of the upper one, mirrored, with ``end=-1``)."""
        edge = self.edges[0] if end == 0 else -self.edges[-1]
        return self.mass[arm, end] * torch.exp(TAIL_DECAY * (y - edge).clamp_max(0))

    def _inside(self, y: Tensor, arm: Tensor) -> Tensor:
        """Mass between the first edge and ``y``."""
        y = y.clamp(float(self.edges[0]), float(self.edges[-1]))
        inner = torch.searchsorted(self.edges, y).clamp(1, len(self.edges) - 1)
        share = (y - self.edges[inner - 1]) / (self.edges[inner] - self.edges[inner - 1])
        return self.mass.cumsum(1)[arm, inner - 1] - self.mass[arm, 0] + share * self.mass[arm, inner]
