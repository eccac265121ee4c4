"""One-dimensional smooth densities with exact cdfs: piecewise linear, heavy tails, and spikes on a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

FARTHEST = 1e100
"""Edges are brought within this distance: the mass beyond is below 1e-300."""


def tail_log_density(x: Tensor, bent: Tensor) -> Tensor:
    """Log-density of the tail component, standardised: no row is hopeless under it.

    Args:
        x: Any shape.
        bent: Where true, the logistic density, else Student's t with four degrees of freedom (falls as |x|^-5). On a
            scale that is already a logarithm far out, an exponential is a power of the distance.
    """
    near = x.clamp(-FARTHEST, FARTHEST)
    logistic = nn.functional.logsigmoid(near) + nn.functional.logsigmoid(-near)
    return torch.where(bent, logistic, math.log(12) - 2.5 * torch.log(4 + near.square()))


def tail_mass(lower: Tensor, upper: Tensor, bent: Tensor) -> Tensor:
    """Mass of the tail component between standardised edges, without cancellation."""
    logistic = torch.sigmoid(upper) * torch.sigmoid(-lower) * -torch.expm1(lower - upper)
    return torch.where(bent, torch.where(lower < upper, logistic, 0.0), student_mass(lower, upper))


def tail_quantile(level: Tensor, bent: Tensor) -> Tensor:
    """Inverse cdf of the tail component, standardised."""
    return torch.where(bent, torch.logit(level), student_quantile(level))


def student_mass(lower: Tensor, upper: Tensor) -> Tensor:
    """Mass of t with four degrees of freedom between edges, without cancellation.

    With ``s(x) = sqrt(4 + x^2)``, ``w = x / s`` and ``u = 1 - w^2 = 4 / s^2`` the cdf is ``1/2 + (3 w - w^3) / 4``, so
    the mass is ``(w_b - w_a) (u_a + u_b + 1 - w_a w_b) / 4``. Edges of one sign use
    ``w_b - w_a = (u_a - u_b) / (w_a + w_b)`` with ``u_a - u_b = u_a (b - a) (b + a) / s_b^2``, and
    ``1 - w_a w_b = (u_a + u_b (1 - u_a)) / (1 + w_a w_b)``.
    """
    a, b = lower.clamp(-FARTHEST, FARTHEST), upper.clamp(-FARTHEST, FARTHEST)
    root_a, root_b = torch.sqrt(4 + a.square()), torch.sqrt(4 + b.square())
    w_a, w_b = a / root_a, b / root_b
    u_a, u_b = 4 / root_a.square(), 4 / root_b.square()
    same = a * b > 0
    sums = torch.where(same, w_a + w_b, torch.ones_like(a))
    apart = torch.where(same, u_a * ((b - a) / root_b) * ((b + a) / root_b) / sums, w_b - w_a)
    products = torch.where(same, (u_a + u_b * (1 - u_a)) / (1 + w_a * w_b).clamp_min(1.0), 1 - w_a * w_b)
    return 0.25 * apart * (u_a + u_b + products)


def student_quantile(level: Tensor) -> Tensor:
    """Inverse cdf of t with four degrees of freedom.

    ``w = 2 sin(arcsin(2 level - 1) / 3)`` solves the cubic of :func:`student_mass`, and ``x = 2 w / sqrt(1 - w^2)``.
    """
    w = 2 * torch.sin(torch.asin(2 * level - 1) / 3)
    return 2 * w / ((1 - w) * (1 + w)).clamp_min(1e-300).sqrt()


class PiecewiseLinear:
    """Densities that are linear between knots with an exponential tail on either side, total mass one.

    Args:
        knots: ``(D, G)`` ascending.
        density: ``(D, G)`` values at the knots.
        tails: ``(D, 2)`` mass left of the first and right of the last knot; the rate of each exponential is the
            density at the end over the mass, so the density is continuous.
        least_rate: Tails that fall more slowly than this lose mass until they do not.
    """

    def __init__(self, knots: Tensor, density: Tensor, tails: Tensor, least_rate: float = 0.0) -> None:
        ends = torch.stack([density[:, 0], density[:, -1]], dim=1)
        if least_rate:
            tails = torch.minimum(tails, ends / least_rate)
        self.knots, self.density, self.tails = knots.contiguous(), density, tails
        pieces = 0.5 * (density[:, 1:] + density[:, :-1]) * (knots[:, 1:] - knots[:, :-1])
        start = torch.zeros_like(tails[:, :1])
        self.cumulative = torch.cat([start, pieces.cumsum(1)], dim=1)
        self.rates = ends / tails.clamp_min(1e-300)

    def normalised(self) -> PiecewiseLinear:
        """The same shape with total mass one."""
        total = self.cumulative[:, -1:] + self.tails.sum(1, keepdim=True)
        return PiecewiseLinear(self.knots, self.density / total, self.tails / total)

    def _locate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Interval and density of points within the knots; ``x`` is ``(D, batch)``."""
        piece = torch.searchsorted(self.knots, x.contiguous(), right=True).sub(1).clamp(0, self.knots.shape[1] - 2)
        left, right = self.knots.gather(1, piece), self.knots.gather(1, piece + 1)
        share = (x - left) / (right - left)
        return piece, torch.lerp(self.density.gather(1, piece), self.density.gather(1, piece + 1), share)

    def pdf(self, x: Tensor) -> Tensor:
        """Density at ``x`` ``(D, batch)``."""
        first, last = self.knots[:, :1], self.knots[:, -1:]
        inside = self._locate(torch.minimum(torch.maximum(x, first), last))[1]
        beyond = (first - x).clamp_min(0) * self.rates[:, :1] + (x - last).clamp_min(0) * self.rates[:, 1:]
        return inside * torch.exp(-beyond)

    def mass(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Mass between edges ``(D, batch)``: the two cut pieces by their own formula, whole pieces between summed."""
        first, last = self.knots[:, :1], self.knots[:, -1:]
        a = torch.minimum(torch.maximum(lower, first), last)
        b = torch.minimum(torch.maximum(upper, first), last)
        piece_a, density_a = self._locate(a)
        piece_b, density_b = self._locate(b)
        within = 0.5 * (density_a + density_b) * (b - a)
        end_a = self.knots.gather(1, piece_a + 1)
        start_b = self.knots.gather(1, piece_b)
        across = (
            0.5 * (density_a + self.density.gather(1, piece_a + 1)) * (end_a - a)
            + (self.cumulative.gather(1, piece_b) - self.cumulative.gather(1, (piece_a + 1).clamp_max(piece_b)))
            + 0.5 * (density_b + self.density.gather(1, piece_b)) * (b - start_b)
        )
        inner = torch.where(piece_a == piece_b, within, across)
        return inner + self._tail(first - upper, first - lower, 0) + self._tail(lower - last, upper - last, 1)

    def _tail(self, near: Tensor, far: Tensor, side: int) -> Tensor:
        """Mass of one exponential tail between two distances from its end (negative: from the end itself)."""
        rate = self.rates[:, side : side + 1]
        near, far = near.clamp(0, FARTHEST), far.clamp(0, FARTHEST)
        return self.tails[:, side : side + 1] * torch.exp(-rate * near) * -torch.expm1(-rate * (far - near))

    def quantile(self, level: Tensor) -> Tensor:
        """Inverse cdf at ``level`` ``(D, batch)`` in (0, 1)."""
        left, right = self.tails[:, :1], self.tails[:, 1:]
        target = (level - left).clamp_min(0)
        piece = torch.searchsorted(self.cumulative, target.contiguous(), right=True).sub(1)
        piece = piece.clamp(0, self.knots.shape[1] - 2)
        start, end = self.knots.gather(1, piece), self.knots.gather(1, piece + 1)
        f0, f1 = self.density.gather(1, piece), self.density.gather(1, piece + 1)
        rest = (target - self.cumulative.gather(1, piece)).clamp_min(0)
        slope = (f1 - f0) / (end - start)
        # Smaller root of f0 t + slope t^2 / 2 = rest, in the form without cancellation.
        step = 2 * rest / (f0 + (f0.square() + 2 * slope * rest).clamp_min(0).sqrt()).clamp_min(1e-300)
        x = torch.minimum(start + step, end)
        below = self.knots[:, :1] + torch.log(level / left.clamp_min(1e-300)) / self.rates[:, :1].clamp_min(1e-300)
        above = self.knots[:, -1:] - torch.log((1 - level) / right.clamp_min(1e-300)) / self.rates[:, 1:].clamp_min(
            1e-300
        )
        x = torch.where(level < left, below, x)
        return torch.where(1 - level < right, above, x)


class SmoothMarginals(nn.Module):
    r"""Marginals of several numbers, each ``a_1 f(x) + a_2 h((x - m) / s) / s + sum_v w_v [x = v]``.

    ``f`` is piecewise linear with exponential tails, ``h`` Student's t with four degrees of freedom or, on a scale that
    bends towards a logarithm, the logistic density, and the spikes ``w_v`` stand on frequent points of the grid of a
    quantized column (they are zero for a density). The three shares add to one, so a density integrates to one and
    cell probabilities over the infinite grid sum to one.

    Likelihood: exact. Shapes follow from the arguments alone; the values are fitted by ``marginal_fit``.

    Args:
        num_columns: Number of columns D.
        num_knots: Knots of each piecewise linear density.
        num_spikes: Most grid points of one column with a weight of their own.
        num_atoms: Most atoms of one column. Cells of atoms (``atom_lower`` to ``atom_upper``; equal edges: none) are
            excluded and the rest renormalised.
    """

    knots: Tensor
    density: Tensor
    tails: Tensor
    shares: Tensor
    centre: Tensor
    bent: Tensor
    spikes: Tensor
    spike_weight: Tensor
    atom_lower: Tensor
    atom_upper: Tensor

    def __init__(self, num_columns: int, num_knots: int = 512, num_spikes: int = 512, num_atoms: int = 0) -> None:
        super().__init__()
        d, f64 = num_columns, torch.float64
        self.num_columns, self.num_knots, self.num_spikes = num_columns, num_knots, num_spikes
        grid = torch.linspace(-1, 1, num_knots, dtype=f64)
        self.register_buffer("knots", grid.repeat(d, 1))
        self.register_buffer("density", torch.full((d, num_knots), 0.25, dtype=f64))
        self.register_buffer("tails", torch.full((d, 2), 0.25, dtype=f64))
        self.register_buffer("shares", torch.tensor([0.5, 0.5], dtype=f64).repeat(d, 1))
        self.register_buffer("centre", torch.tensor([0.0, 1.0], dtype=f64).repeat(d, 1))
        self.register_buffer("bent", torch.zeros(d, dtype=torch.bool))
        self.register_buffer("spikes", torch.full((d, num_spikes), float("inf"), dtype=f64))
        self.register_buffer("spike_weight", torch.zeros(d, num_spikes, dtype=f64))
        self.register_buffer("atom_lower", torch.zeros(d, num_atoms, dtype=f64))
        self.register_buffer("atom_upper", torch.zeros(d, num_atoms, dtype=f64))

    def _smooth(self) -> PiecewiseLinear:
        return PiecewiseLinear(self.knots, self.density, self.tails)

    def log_density(self, x: Tensor) -> Tensor:
        """Log-density of numbers ``(batch, D)``; finite everywhere."""
        z = (x - self.centre[:, 0]) / self.centre[:, 1]
        tail = tail_log_density(z, self.bent) + torch.log(self.shares[:, 1] / self.centre[:, 1])
        bulk = self.shares[:, 0] * self._smooth().pdf(x.T).T
        return torch.logaddexp(torch.where(bulk > 0, torch.log(bulk.clamp_min(1e-320)), -torch.inf), tail)

    def mass(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Probability of ``lower < x < upper`` ``(batch, D)``, atoms not excluded."""
        a, b = ((edge - self.centre[:, 0]) / self.centre[:, 1] for edge in (lower, upper))
        out = self.shares[:, 0] * self._smooth().mass(lower.T, upper.T).T
        out = out + self.shares[:, 1] * tail_mass(a, b, self.bent)
        if self.num_spikes:
            before = torch.nn.functional.pad(self.spike_weight.cumsum(1), (1, 0))
            first = torch.searchsorted(self.spikes, lower.T.contiguous())
            last = torch.searchsorted(self.spikes, upper.T.contiguous())
            # Finite spikes only: the padding stands at +inf, which `searchsorted` leaves to the right of any edge.
            out = out + (before.gather(1, last) - before.gather(1, first)).T
        return out

    def log_mass(self, lower: Tensor, upper: Tensor) -> Tensor:
        """Log-probability of the cells ``(batch, D)`` given that the number is not on an atom's cell."""
        return torch.log(self.mass(lower, upper).clamp_min(1e-300)) - torch.log1p(-self.atom_mass())

    def atom_mass(self) -> Tensor:
        """Mass ``(D,)`` on the cells of atoms, where the number itself never stands."""
        if self.atom_lower.shape[1] == 0:
            return torch.zeros_like(self.shares[:, 0])
        return self.mass(self.atom_lower.T, self.atom_upper.T).sum(0).clamp_max(1 - 1e-12)

    def sample(self, num: int, generator: torch.Generator | None = None) -> Tensor:
        """``(num, D)`` draws; a quantized column's must be brought to the centre of their cell by the codec."""
        ends = self.shares.new_full((num, self.num_columns), torch.inf)
        x = self.draw_between(-ends, ends, generator)
        for _ in range(200 if self.atom_lower.shape[1] else 0):
            on_atom = ((x[:, :, None] > self.atom_lower) & (x[:, :, None] < self.atom_upper)).any(2)
            if not bool(on_atom.any()):
                break
            x = torch.where(on_atom, self.draw_between(-ends, ends, generator), x)
        return x

    def draw_between(self, lower: Tensor, upper: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draws from the marginals within ``lower < x <= upper`` ``(batch, D)``, atoms not excluded.

        A component is chosen by its mass there and its cdf inverted; intervals must have some mass.
        """
        kind, level = (
            torch.rand(lower.shape, generator=generator, dtype=torch.float64).to(lower.device) for _ in range(2)
        )
        bulk, centre, scale = self._smooth(), self.centre[:, 0], self.centre[:, 1]
        low, high = (lower - centre) / scale, (upper - centre) / scale
        start = torch.full_like(lower, -torch.inf)
        masses = [bulk.mass(lower.T, upper.T).T, tail_mass(low, high, self.bent)]
        before = [bulk.mass(start.T, lower.T).T, tail_mass(start, low, self.bent)]
        levels = [(b + level * m).clamp(2.0**-54, 1 - 2.0**-53) for b, m in zip(before, masses, strict=True)]
        tail = centre + scale * tail_quantile(levels[1], self.bent)
        place = kind * self.mass(lower, upper) - self.shares[:, 0] * masses[0]
        x = torch.where(place < 0, bulk.quantile(levels[0].T).T, tail)
        if self.num_spikes:
            cumulative = torch.nn.functional.pad(self.spike_weight.cumsum(1), (1, 0))
            first, last = (torch.searchsorted(self.spikes, edge.T.contiguous()) for edge in (lower, upper))
            held = cumulative.gather(1, last) - cumulative.gather(1, first)
            target = cumulative.gather(1, first) + level.T * held
            index = torch.searchsorted(cumulative, target.contiguous(), right=True) - 1
            spike = self.spikes.gather(1, torch.minimum(torch.maximum(index, first), (last - 1).clamp_min(0))).T
            x = torch.where((place >= self.shares[:, 1] * masses[1]) & (held.T > 0), spike, x)
        return torch.minimum(torch.maximum(x, torch.nextafter(lower, upper)), upper)
