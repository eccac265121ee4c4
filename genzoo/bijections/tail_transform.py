"""A tail layer: from Gaussian tails to generalised Pareto tails whose weight is a parameter of each side.

References:
    Hickling, Prangle (2025), Flexible Tails for Normalizing Flows, ICML, arXiv:2406.16971.
    Differs from the paper: everything in logarithms and float64, so that arguments from zero to the largest float keep
    their digits where the direct formula needs an asymptotic series; the pair of tail weights is per feature.
"""

from __future__ import annotations

from math import log, pi, sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genzoo.bijections.base import Bijection

LIGHT = 1e-4
"""Tail weight of a light side: an exponential tail in practice."""
MIN_SCALE = 1e-3
LARGEST_EXPONENT = 650.0
"""Samples whose logarithm is beyond this have left what float64 holds with a margin for scales; they stay there."""


def log_erfc_inverse(t: Tensor) -> Tensor:
    r"""The ``z >= 0`` with ``-log erfc(z / sqrt 2) = t``, ``t >= 0`` float64; its derivative is implicit.

    Starts from the normal quantile, or its asymptote far out, and takes Newton steps on the logarithm.
    """
    with torch.no_grad():
        near = -torch.special.ndtri((-t.clamp(max=600.0)).exp() / 2)
        far_t = t.clamp(min=2.0)
        square = 2 * far_t - (pi * far_t).log()  # erfc(z / sqrt 2) ~ sqrt(2 / pi) exp(-z^2 / 2) / z
        z = torch.where(t < 600.0, near, square.sqrt())
        for _ in range(3):
            z = (z - (_minus_log_erfc(z) - t) / _hazard(z)).clamp(min=0.0)
    # One more step whose derivative is that of the implicit function: dz / dt = 1 / hazard(z).
    return z - (_minus_log_erfc(z) - t) / _hazard(z)


def _minus_log_erfc(z: Tensor) -> Tensor:
    """``-log erfc(z / sqrt 2)`` for ``z >= 0``, to full precision at both ends."""
    scaled = z * z / 2 - torch.special.erfcx(z / sqrt(2)).log()
    return torch.where(z < 0.5, -torch.log1p(-torch.special.erf(z / sqrt(2))), scaled)


def _hazard(z: Tensor) -> Tensor:
    """Derivative of ``-log erfc(z / sqrt 2)``: sqrt(2 / pi) at 0, about z far out."""
    return sqrt(2 / pi) / torch.special.erfcx(z / sqrt(2))


class TailTransform(Bijection):
    r"""Elementwise map between a latent with Gaussian tails and data with generalised Pareto tails.

    .. math:: x = \mu + \sigma s \, \frac{\operatorname{erfc}(|z| / \sqrt 2)^{-\lambda_s} - 1}{\lambda_s},
        \qquad s = \operatorname{sign} z

    For a standard normal ``z`` the distance :math:`|x - \mu| / \sigma` is generalised Pareto with shape
    :math:`\lambda_s`, so the side ``s`` has tail index :math:`1 / \lambda_s`. Features from ``num_moved`` on pass.

    Args:
        num_features: Width of a row.
        num_moved: How many features, from the first, are mapped.
        learn_weight: Train the tail weights; else they stay what :meth:`start` made them. Location and scale are
            trained in either case.
    """

    raw_weight: Tensor

    def __init__(self, num_features: int, num_moved: int | None = None, learn_weight: bool = True) -> None:
        super().__init__()
        self.num_features = num_features
        self.num_moved = num_features if num_moved is None else num_moved
        if not 0 <= self.num_moved <= num_features:
            raise ValueError(f"num_moved must lie between 0 and {num_features}, got {num_moved}")
        raw = torch.full((2, self.num_moved), _softplus_inverse(0.2))
        if learn_weight:
            self.raw_weight = nn.Parameter(raw)
        else:
            self.register_buffer("raw_weight", raw)
        self.location = nn.Parameter(torch.zeros(self.num_moved))
        self.raw_scale = nn.Parameter(torch.full((self.num_moved,), _softplus_inverse(1.0)))

    @torch.no_grad()
    def start(self, weight: Tensor, location: Tensor, scale: Tensor) -> None:
        """Sets weights, location and scale.

        Args:
            weight: ``(2, num_moved)``: of the lower and the upper side, 1 / tail index, positive.
            location: ``(num_moved,)``.
            scale: ``(num_moved,)``, positive.
        """
        self.raw_weight.copy_(_raw(weight.clamp(min=LIGHT)))
        self.location.copy_(location)
        self.raw_scale.copy_(_raw((scale - MIN_SCALE).clamp(min=MIN_SCALE)))

    def weights(self) -> Tensor:
        """Tail weights of the lower and the upper side, ``(2, num_moved)`` float64."""
        return F.softplus(self.raw_weight.double())

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved, location, scale = self._of(z)
        upper = moved >= 0
        lower_weight, upper_weight = self.weights()
        weight, size = torch.where(upper, upper_weight, lower_weight), torch.where(upper, moved, -moved)
        t = _minus_log_erfc(size)
        exponent = weight * t
        held = exponent.clamp(max=LARGEST_EXPONENT)
        x = location + scale * torch.where(upper, 1.0, -1.0) * torch.expm1(held) / weight
        log_det = (scale.log() + exponent + _hazard(size).log()).sum(1)
        return self._join(x, z), log_det.to(z)

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        moved, location, scale = self._of(x)
        upper = moved >= location
        lower_weight, upper_weight = self.weights()
        weight = torch.where(upper, upper_weight, lower_weight)
        distance = torch.where(upper, moved - location, location - moved)  # its slope at the location is not zero
        t_weight = torch.log1p(weight * distance / scale)
        size = log_erfc_inverse(t_weight / weight)
        log_det = -(scale.log() + t_weight + _hazard(size).log()).sum(1)
        return self._join(torch.where(upper, size, -size), x), log_det.to(x)

    def _of(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        scale = MIN_SCALE + F.softplus(self.raw_scale.double())
        return x[:, : self.num_moved].double(), self.location.double(), scale

    def _join(self, moved: Tensor, x: Tensor) -> Tensor:
        return torch.cat([moved.to(x), x[:, self.num_moved :]], 1)


def _softplus_inverse(value: float) -> float:
    return value + log(-torch.expm1(torch.tensor(-value, dtype=torch.float64)).item())


def _raw(value: Tensor) -> Tensor:
    value = value.double()
    return value + (-torch.expm1(-value)).log()
