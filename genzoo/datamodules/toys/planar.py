"""Densities in the plane with a known log-density: closed form, or a quadrature accurate to 1e-6 nats.

Each is a frozen dataclass with ``sample(num_rows, rng) -> (num_rows, 2)``, ``log_prob(x) -> (rows,)`` in nats, and
``extent``, half the side of a square about the origin that holds all but a negligible share of the mass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import i0e, logsumexp

Array = NDArray[np.float64]

LOG_2PI = float(np.log(2 * np.pi))
CHUNK = 1 << 18
"""Numbers held at once by a quadrature: 2 MiB, which stays in the cache."""


class PlanarDensity(Protocol):
    """What every density of this file offers."""

    @property
    def extent(self) -> float: ...
    def sample(self, num_rows: int, rng: np.random.Generator) -> Array: ...
    def log_prob(self, x: Array) -> Array: ...


def log_mixture(x: Array, centres: Array, log_weights: Array, sd: float) -> Array:
    """``log sum_k w_k N(x; c_k, sd^2 I)``, in chunks of rows. ``centres`` is ``(K, 2)``."""
    step = max(1, CHUNK // len(centres))
    constant = log_weights - 0.5 * (centres**2).sum(1) / sd**2
    out = np.empty(len(x))
    for start in range(0, len(x), step):
        part = x[start : start + step]
        # |x - c|^2 expanded: one matrix product instead of (rows, K, 2) differences
        exponent = part @ (centres.T / sd**2) + constant
        highest = exponent.max(axis=1)
        total = np.exp(exponent - highest[:, None]).sum(axis=1)
        out[start : start + step] = highest + np.log(total) - 0.5 * (part**2).sum(1) / sd**2
    return out - LOG_2PI - 2 * np.log(sd)


def legendre(low: float, high: float, num_nodes: int) -> tuple[Array, Array]:
    """Gauss-Legendre nodes on [low, high] and the logarithms of their weights, which sum to one (uniform law)."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return low + (high - low) * (nodes + 1) / 2, np.log(weights / 2)


@dataclass(frozen=True)
class TwoMoons:
    """Two half circles of radius 1 that interlock, blurred by a round Gaussian.

    The angle is uniform on [0, pi] along either arc, ``(cos t, sin t)`` or ``(1 - cos t, 1/2 - sin t)``, moved by
    ``(-1/2, -1/4)`` so that the mean is zero. The density is the average over the angle, by Gauss-Legendre
    with ``num_nodes`` nodes an arc: the error is below 1e-9 nats within four times ``extent``.

    Args:
        noise: Standard deviation of the blur.
        num_nodes: Nodes of the quadrature, per arc.
    """

    noise: float = 0.1
    num_nodes: int = 200
    extent: float = 2.5

    def arcs(self, angle: Array) -> tuple[Array, Array]:
        """The points of the upper and of the lower arc at ``angle``."""
        upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], axis=-1)
        return upper, -upper

    def sample(self, num_rows: int, rng: np.random.Generator) -> Array:
        upper, lower = self.arcs(np.pi * rng.random(num_rows))
        points = np.where(rng.random((num_rows, 1)) < 0.5, upper, lower)
        return points + self.noise * rng.normal(size=(num_rows, 2))

    def log_prob(self, x: Array) -> Array:
        angle, log_weight = legendre(0.0, np.pi, self.num_nodes)
        return log_mixture(x, np.concatenate(self.arcs(angle)), np.tile(log_weight - np.log(2), 2), self.noise)


@dataclass(frozen=True)
class EightGaussians:
    """Eight equal round Gaussians on a circle.

    Radius ``4 / sqrt(2)`` and standard deviation ``0.5 / sqrt(2)`` are those of the usual toy.
    """

    radius: float = 4 / np.sqrt(2)
    noise: float = 0.5 / np.sqrt(2)
    extent: float = 5.5

    def centres(self) -> Array:
        angle = np.arange(8) * np.pi / 4
        return self.radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)

    def sample(self, num_rows: int, rng: np.random.Generator) -> Array:
        return self.centres()[rng.integers(8, size=num_rows)] + self.noise * rng.normal(size=(num_rows, 2))

    def log_prob(self, x: Array) -> Array:
        return log_mixture(x, self.centres(), np.full(8, -np.log(8)), self.noise)


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on the eight dark squares, of side 2, of a 4 x 4 board on [-4, 4] x [-4, 4]; -inf elsewhere."""

    extent: float = 4.0

    def sample(self, num_rows: int, rng: np.random.Generator) -> Array:
        column = rng.integers(4, size=num_rows)
        row = 2 * rng.integers(2, size=num_rows) + column % 2
        return 2 * (np.stack([column, row], axis=-1) + rng.random((num_rows, 2))) - 4

    def log_prob(self, x: Array) -> Array:
        square = np.floor((x + 4) / 2)
        inside = ((square >= 0) & (square < 4)).all(-1) & (square.sum(-1) % 2 == 0)
        return np.where(inside, -np.log(32), -np.inf)


@dataclass(frozen=True)
class Rings:
    """Circles about the origin (four; ``circles`` has two), equally likely, blurred by a round Gaussian.

    A uniform angle on a circle of radius R gives the density
    ``exp(-(r^2 + R^2) / 2 s^2) I0(r R / s^2) / (2 pi s^2)``, with ``I0`` the modified Bessel function.
    """

    radii: tuple[float, ...] = (0.75, 1.5, 2.25, 3.0)
    noise: float = 0.08 * 3
    extent: float = 4.5

    def sample(self, num_rows: int, rng: np.random.Generator) -> Array:
        radius = np.array(self.radii)[rng.integers(len(self.radii), size=num_rows)]
        angle = 2 * np.pi * rng.random(num_rows)
        circle = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        return circle + self.noise * rng.normal(size=(num_rows, 2))

    def log_prob(self, x: Array) -> Array:
        r, radii, variance = np.hypot(x[:, 0], x[:, 1])[:, None], np.array(self.radii), self.noise**2
        # i0e(z) = exp(-z) I0(z), so the exponent becomes -(r - R)^2 / 2 s^2
        log_ring = -((r - radii) ** 2) / (2 * variance) + np.log(i0e(r * radii / variance)) - LOG_2PI - np.log(variance)
        return logsumexp(log_ring, axis=1) - np.log(len(radii))


@dataclass(frozen=True)
class Pinwheel:
    """Five blades that curl: Gaussians stretched along the radius, turned by an angle that grows with the radius.

    ``z = (1 + 0.3 a, 0.1 b)`` with normal ``a`` and ``b``; ``x = 2 R(angle_k + rate exp(|z|)) z`` for blade ``k``. The
    usual toy turns by ``rate exp(z_1)``, which has no inverse in closed form; a turn by the radius keeps areas, so
    ``p(x) = 1/4 mean_k N(R(-angle_k - rate exp(|x|/2)) x / 2)`` exactly.
    """

    num_blades: int = 5
    radial: float = 0.3
    tangential: float = 0.1
    rate: float = 0.25
    extent: float = 5.5

    def turns(self, radius: Array) -> Array:
        """``(rows, num_blades)`` angle of each blade at a radius."""
        return 2 * np.pi * np.arange(self.num_blades) / self.num_blades + self.rate * np.exp(radius)[:, None]

    def sample(self, num_rows: int, rng: np.random.Generator) -> Array:
        z = np.array([1.0, 0.0]) + np.array([self.radial, self.tangential]) * rng.normal(size=(num_rows, 2))
        turns = self.turns(np.hypot(z[:, 0], z[:, 1]))
        angle = turns[np.arange(num_rows), rng.integers(self.num_blades, size=num_rows)]
        cos, sin = np.cos(angle), np.sin(angle)
        return 2 * np.stack([cos * z[:, 0] - sin * z[:, 1], sin * z[:, 0] + cos * z[:, 1]], axis=-1)

    def log_prob(self, x: Array) -> Array:
        half = x / 2
        angle = self.turns(np.hypot(half[:, 0], half[:, 1]))
        cos, sin = np.cos(angle), np.sin(angle)
        along = (cos * half[:, :1] + sin * half[:, 1:] - 1) / self.radial
        across = (cos * half[:, 1:] - sin * half[:, :1]) / self.tangential
        log_blade = -0.5 * (along**2 + across**2) - LOG_2PI - np.log(self.radial * self.tangential)
        return logsumexp(log_blade, axis=1) - np.log(self.num_blades) - np.log(4)


@dataclass(frozen=True)
class SwissRoll:
    """A spiral, blurred by a round Gaussian.

    ``x = (t cos t, t sin t) / 5 + noise`` with ``t`` uniform on [3 pi / 2, 9 pi / 2]. The density is the average over
    ``t``, by Gauss-Legendre: the error is below 1e-6 nats within
    four times ``extent``.

    Args:
        noise: Standard deviation of the blur.
        num_nodes: Nodes of the quadrature.
    """

    noise: float = 0.2
    num_nodes: int = 512
    extent: float = 4.2

    def spiral(self, t: Array) -> Array:
        return np.stack([t * np.cos(t), t * np.sin(t)], axis=-1) / 5

    def sample(self, num_rows: int, rng: np.random.Generator) -> Array:
        t = 1.5 * np.pi * (1 + 2 * rng.random(num_rows))
        return self.spiral(t) + self.noise * rng.normal(size=(num_rows, 2))

    def log_prob(self, x: Array) -> Array:
        t, log_weight = legendre(1.5 * np.pi, 4.5 * np.pi, self.num_nodes)
        return log_mixture(x, self.spiral(t), log_weight, self.noise)


PLANAR: dict[str, PlanarDensity] = {
    "two_moons": TwoMoons(),
    "eight_gaussians": EightGaussians(),
    "checkerboard": Checkerboard(),
    "rings": Rings(),
    "circles": Rings(radii=(1.5, 3.0)),
    "pinwheel": Pinwheel(),
    "swiss_roll": SwissRoll(),
}
