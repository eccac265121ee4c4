"""A spline flow on R^D whose tails are chosen: by the base density, by a last layer, and kept apart where asked."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Literal

import torch
from torch import Tensor, nn

from genzoo.bijections.base import Bijection, Composition
from genzoo.bijections.elementwise import Elementwise
from genzoo.bijections.linear import BlockPermutation, LULinear
from genzoo.bijections.masked_autoregressive import MaskedAutoregressive
from genzoo.bijections.tail_transform import LIGHT, TailTransform
from genzoo.likelihood.normal_cells import log_normal_density

Base = Literal["gaussian", "taf", "gtaf", "mtaf", "mtaf_fix"]
TailLayer = Literal["none", "ttf", "ttf_fix"]
BASES = ("gaussian", "taf", "gtaf", "mtaf", "mtaf_fix")
TAIL_LAYERS = ("none", "ttf", "ttf_fix")
START_SHARED, START_EACH = 50.0, 10.0
"""Degrees of freedom that TAF and gTAF start from."""
MIN_FREEDOM = 0.1


def log_student_density(z: Tensor, freedom: Tensor) -> Tensor:
    """log of the Student t density, elementwise; stays finite for any ``z`` and ``freedom > 0``."""
    half = (freedom + 1) / 2
    norm = torch.lgamma(half) - torch.lgamma(freedom / 2) - 0.5 * torch.log(freedom * pi)
    # log(1 + z^2 / nu) without squaring a number that float64 may not hold
    return norm - half * 2 * torch.hypot(torch.ones_like(z), z / freedom.sqrt()).log()


class TailBase(nn.Module):
    """Independent standard normal and Student t coordinates.

    Args:
        num_features: D.
        base: ``gaussian``; ``taf`` and ``gtaf``: all Student t, with one or with D degrees of freedom, trained;
            ``mtaf``: Student t where heavy, degrees of freedom trained; ``mtaf_fix``: likewise, not trained.
    """

    raw_freedom: Tensor
    heavy: Tensor

    def __init__(self, num_features: int, base: Base) -> None:
        super().__init__()
        self.num_features, self.base = num_features, base
        self.register_buffer("heavy", torch.full((num_features,), base in ("taf", "gtaf")))
        if base == "gaussian":
            return
        start = START_SHARED if base == "taf" else START_EACH
        raw = torch.full((1 if base == "taf" else num_features,), start - MIN_FREEDOM).log()
        if base == "mtaf_fix":
            self.register_buffer("raw_freedom", raw)
        else:
            self.raw_freedom = nn.Parameter(raw)

    @torch.no_grad()
    def start(self, heavy: Tensor, freedom: Tensor) -> None:
        """Takes classes and degrees of freedom, ``(num_features,)`` each, of mTAF; others keep their own."""
        if self.base in ("mtaf", "mtaf_fix"):
            self.heavy.copy_(heavy)
            raw = (freedom - MIN_FREEDOM).clamp(min=0.05).log()
            self.raw_freedom.copy_(torch.where(heavy, raw, self.raw_freedom.double()))

    def freedom(self) -> Tensor:
        """Degrees of freedom of each coordinate, ``(num_features,)`` float64; ``inf`` for a normal one."""
        if self.base == "gaussian":
            return torch.full_like(self.heavy, torch.inf, dtype=torch.float64)
        return torch.where(self.heavy, self._freedom(), torch.inf)

    def _freedom(self) -> Tensor:
        # By its logarithm: from 50 down to 2 in a few hundred steps, and never below the floor.
        return (MIN_FREEDOM + self.raw_freedom.double().clamp(-4.0, 9.0).exp()).expand(self.num_features)

    def log_prob(self, z: Tensor) -> Tensor:
        """``(batch, num_features)`` to ``(batch,)``."""
        normal = log_normal_density(torch.where(self.heavy, 0.0, z))
        if self.base == "gaussian":
            return normal.sum(1)
        student = log_student_density(z.double(), self._freedom()).to(z)
        return torch.where(self.heavy, student, normal).sum(1)

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """``(num_samples, num_features)`` float64 draws on the host."""
        shape = (num_samples, self.num_features)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        if self.base == "gaussian":
            return normal
        # Bailey's polar form of Student t: exact for every freedom, and no division by a vanishing chi-square.
        first = 1 - torch.rand(shape, generator=generator, dtype=torch.float64)
        angle = 2 * pi * torch.rand(shape, generator=generator, dtype=torch.float64)
        freedom = self._freedom().detach().cpu()
        student = (freedom * torch.expm1(-2 / freedom * first.log())).sqrt() * angle.cos()
        return torch.where(self.heavy.cpu(), student, normal)


class TailDensity(nn.Module):
    """Base density, then masked autoregressive splines with permutations and LU maps between them, then a tail layer.

    With base ``mtaf`` or ``mtaf_fix``, permutations sort light features to the front and LU maps are block triangular:
    the latent of a light feature is a function of light features alone. The other bases mix all features.

    Args:
        num_features: D.
        num_context: Context features.
        num_numbers: The first features are numbers; others (categories) are light and have no tail layer.
        base: See :class:`TailBase`.
        tail: Last layer: ``none``, ``ttf`` with trained tail weights, ``ttf_fix`` with given ones.
        element: Family of the monotone maps.
        num_transforms: Autoregressive layers.
        hidden: Units of each hidden layer; D if that is more.
        num_layers: Hidden layers of each network.
        dropout: Probability of dropping a hidden unit in training.
        seed: Seed of the permutations.
    """

    def __init__(
        self,
        num_features: int,
        num_context: int = 0,
        *,
        num_numbers: int,
        element: Elementwise,
        base: Base = "mtaf",
        tail: TailLayer = "none",
        num_transforms: int = 2,
        hidden: int = 64,
        num_layers: int = 2,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if base not in BASES:
            raise ValueError(f"base must be one of {', '.join(BASES)}, got '{base}'")
        if tail not in TAIL_LAYERS:
            raise ValueError(f"tail must be one of {', '.join(TAIL_LAYERS)}, got '{tail}'")
        self.num_features, self.num_numbers, self.separates = num_features, num_numbers, base in ("mtaf", "mtaf_fix")
        self.base = TailBase(num_features, base)
        hidden = max(hidden, num_features)
        # From data to latent; the composition runs the other way.
        parts: list[Bijection] = []
        if tail != "none" and num_numbers:
            parts.append(TailTransform(num_features, num_numbers, learn_weight=tail == "ttf"))
        for k in range(num_transforms):
            if num_features > 1:
                parts += [BlockPermutation(num_features, seed + k), LULinear(num_features)]
            parts.append(MaskedAutoregressive(num_features, element, num_context, hidden, num_layers, dropout))
        if num_features > 1:
            parts += [LULinear(num_features), BlockPermutation(num_features)]
        self.bijection = Composition(reversed(parts))
        self._separate(torch.zeros(num_features, dtype=torch.bool))

    @property
    def tail_layer(self) -> TailTransform | None:
        """The last layer, if there is one."""
        last = self.bijection.parts[-1]
        return last if isinstance(last, TailTransform) else None

    @torch.no_grad()
    def start(self, heavy: Tensor, index: Tensor, weights: Tensor, location: Tensor, scale: Tensor) -> None:
        """Takes what training rows say of the numbers' tails.

        Args:
            heavy: ``(num_numbers,)`` bool.
            index: ``(num_numbers,)`` tail index of heavy numbers.
            weights: ``(2, num_numbers)`` 1 / index of both sides, 0 where light.
            location: ``(num_numbers,)`` median.
            scale: ``(num_numbers,)`` median distance to the median.
        """
        every = torch.zeros(self.num_features, dtype=torch.bool, device=heavy.device)
        every[: self.num_numbers] = heavy
        freedom = index.new_full((self.num_features,), START_EACH)
        freedom[: self.num_numbers] = torch.where(heavy, index, START_EACH)
        self.base.start(every, freedom)
        if self.separates:
            self._separate(every)
        layer = self.tail_layer
        if layer is not None:
            weights = weights.clamp(min=LIGHT) if not isinstance(layer.raw_weight, nn.Parameter) else weights
            # |z| has median t = log 2 in the layer's own scale, so the middle half of the latent is standard
            half = torch.expm1(weights.clamp(min=LIGHT) * 0.6931471805599453) / weights.clamp(min=LIGHT)
            layer.start(weights, location, scale / half.mean(0))

    def _separate(self, heavy: Tensor) -> None:
        """Orders and masks by class, from data to latent; the last permutation brings columns back to their places."""
        place = torch.arange(self.num_features, device=heavy.device)
        flags = heavy
        permutations = [part for part in reversed(self.bijection.parts) if isinstance(part, BlockPermutation)]
        for permutation in permutations[:-1]:
            flags = permutation.separate(flags)
            place = place[permutation.order]
        if permutations:
            permutations[-1].set_order(place.argsort())
        for part in self.bijection.parts:
            if isinstance(part, LULinear):
                part.separate(flags)

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch, num_features)`` to ``(batch,)``, nats."""
        z, log_det = self.bijection.inverse(x, context)
        return self.base.log_prob(z) + log_det

    def sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> Tensor:
        """``(num_samples, num_features)`` float64 draws; ``context`` has ``num_samples`` rows or is ``None``."""
        z = self.base.sample(num_samples, generator).to(self.base.heavy.device)
        x: Tensor = self.bijection(z, context)[0]
        return x


def builder(num_numbers: int, **options: object) -> Callable[[int, int], nn.Module]:
    """Makes a :class:`TailDensity` from the number of features and of context features."""
    return lambda width, context: TailDensity(width, context, num_numbers=num_numbers, **options)  # type: ignore[arg-type]
