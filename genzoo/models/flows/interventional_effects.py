"""Means, quantiles and effects of potential outcomes with intervals, read off a fitted interventional flow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm

from genzoo.models.flows.interventional_measure import NUM_POINTS

if TYPE_CHECKING:
    from genzoo.models.flows.interventional_flow import InterventionalFlow

Array = NDArray[np.float64]
LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error and interval, in the outcome's unit.

    Args:
        value: The estimate.
        se: Standard error by influence functions; that of a quantile holds also what the density leaves out of the
            one-step correction (``shrink``). It knows nothing of confounders that were not measured, nor of the bias
            of capped weights.
        low: Lower end of the interval.
        high: Upper end.
    """

    value: float
    se: float
    low: float
    high: float


@dataclass(frozen=True)
class ArmEffects:
    """One treatment.

    Args:
        name: The treatment.
        rows: Training rows that received it.
        effective_rows: Kish's effective number of them under the weights.
        beyond_support: Share of all training rows less likely to receive it than any row that did.
        clipped: Share of all training rows whose propensity for it is below the model's ``clip``.
        shrinkage: How much of the one-step correction the density follows, 0 to 1.
        negative_mass: Mass below zero of what the density was fitted to, on coarse cells.
        mean: ``E Y[a]`` by the one-step (A-IPTW) estimator.
        density_mean: Mean of the fitted density.
        quantiles: Per level the quantile of the fitted density.
        contrast: ``E Y[a]`` minus that of the reference; ``None`` for the reference.
        quantile_contrasts: Likewise, of quantiles.
    """

    name: str
    rows: int
    effective_rows: float
    beyond_support: float
    clipped: float
    shrinkage: float
    negative_mass: float
    mean: Estimate
    density_mean: float
    quantiles: dict[float, Estimate]
    contrast: Estimate | None
    quantile_contrasts: dict[float, Estimate]


@dataclass(frozen=True)
class Effects:
    """All treatments against a reference.

    Args:
        reference: Name of the reference treatment.
        confidence: Of all intervals.
        arms: Per treatment its estimates.
    """

    reference: str
    confidence: float
    arms: tuple[ArmEffects, ...]


def effects(
    model: InterventionalFlow,
    reference: str | int = 0,
    levels: Sequence[float] = LEVELS,
    confidence: float = 0.95,
) -> Effects:
    """Means, quantiles and effects of every treatment.

    Args:
        model: A trained model.
        reference: The treatment that others are compared with.
        levels: Levels of the quantiles, between 0 and 1.
        confidence: Of the intervals.

    Raises:
        ValueError: a level is not between 0 and 1.
        DataError: no such treatment.
    """
    if not all(0 < level < 1 for level in levels) or not 0 < confidence < 1:
        raise ValueError(f"levels and confidence lie between 0 and 1; got {list(levels)} and {confidence}")
    model.require_trained()
    base = model.arm_index(reference)
    width = float(norm.ppf(0.5 + confidence / 2))
    covariance = model.measure.covariance.cpu().numpy()
    means = model.measure.functionals[:, 0].cpu().numpy()
    directions = [_mean_direction(model, a) for a in range(len(model.arms))]
    quantiles = [_quantiles(model, a, levels) for a in range(len(model.arms))]

    def estimate(value: float, direction: Array, left_out: float = 0.0) -> Estimate:
        se = float(np.sqrt(max(direction @ covariance @ direction, 0.0) + left_out**2))
        return Estimate(float(value), se, float(value - width * se), float(value + width * se))

    found = []
    negative = model.negative_mass()
    for a, name in enumerate(model.arms):
        values, ways, rest = quantiles[a]
        others, other_ways, other_rest = quantiles[base]
        found.append(
            ArmEffects(
                name=name,
                rows=int(model.measure.rows[a]),
                effective_rows=float(model.measure.effective[a]),
                beyond_support=float(model.measure.beyond[a]),
                clipped=float(model.measure.clipped[a]),
                shrinkage=float(model.correction_factor[a]),
                negative_mass=float(negative[a]),
                mean=estimate(means[a], directions[a]),
                density_mean=density_mean(model, a),
                quantiles={level: estimate(*found) for level, *found in zip(levels, values, ways, rest, strict=True)},
                contrast=None if a == base else estimate(means[a] - means[base], directions[a] - directions[base]),
                quantile_contrasts={}
                if a == base
                else {
                    level: estimate(v - u, w - z, r - s)
                    for level, v, w, r, u, z, s in zip(
                        levels, values, ways, rest, others, other_ways, other_rest, strict=True
                    )
                },
            )
        )
    return Effects(reference=model.arms[base], confidence=confidence, arms=tuple(found))


def density_curve(model: InterventionalFlow, arm: int, num: int = 400) -> tuple[Array, Array]:
    """Outcomes across the model's grid and the fitted density there, per unit of the outcome (mass of a cell of a
    quantized outcome divided by its step).
    """
    centres = model.measure.centres.cpu().numpy()
    x = np.linspace(centres[0], centres[-1], num)
    step = model.outcome.step if model.outcome.kind == "quantized" else None
    if step:
        x = np.unique(np.round((x - model.outcome.origin) / step)) * step + model.outcome.origin
    return x, np.exp(model.potential_log_prob(x, arm)) / (step or 1.0)


def density_mean(model: InterventionalFlow, arm: int) -> float:
    """Mean of the fitted density, by the masses of the grid's cells; the cells beyond its ends count as their edge."""
    with torch.no_grad():
        edges = model.measure.edges
        end = edges.new_full((1,), torch.inf)
        lower, upper = torch.cat([-end, edges]), torch.cat([edges, end])
        mass = model.target.log_mass(lower, upper, torch.full((len(lower),), arm, device=edges.device)).exp()
        return float(mass @ model.measure.centres)


def _mean_direction(model: InterventionalFlow, arm: int) -> Array:
    direction = np.zeros(len(model.arms) * (NUM_POINTS + 1))
    direction[arm * (NUM_POINTS + 1)] = 1.0
    return direction


def _quantiles(model: InterventionalFlow, arm: int, levels: Sequence[float]) -> tuple[Array, list[Array], list[float]]:
    """Quantiles of the fitted density in the outcome's unit, and for each the direction of its error (that of the
    distribution function there, between the two nearest kept points, divided by the density) and how far the quantile
    of the whole one-step correction lies from it, which ``shrink`` leaves out.
    """
    level = torch.tensor(list(levels), dtype=torch.float64, device=model.device)
    with torch.no_grad():
        place = model.target.quantile(level, torch.full((len(levels),), arm, device=model.device))
        values = model._decoded(place).cpu().numpy()
    step = model.outcome.step if model.outcome.kind == "quantized" else None
    density = np.exp(model.potential_log_prob(values, arm)) / (step or 1.0)
    points = model.measure.edges[model.measure.points].cpu().numpy()
    corrected = model.measure.functionals[arm, 1:].cpu().numpy()
    ways, rest = [], []
    for p, z, g in zip(levels, place.cpu().numpy(), density, strict=True):
        right = int(np.clip(np.searchsorted(points, z), 1, NUM_POINTS - 1))
        gap = points[right] - points[right - 1]
        share = float(np.clip((z - points[right - 1]) / gap, 0, 1)) if gap > 0 else 0.0
        direction = np.zeros(len(model.arms) * (NUM_POINTS + 1))
        start = arm * (NUM_POINTS + 1) + 1
        direction[start + right - 1] = -(1 - share) / max(g, 1e-300)
        direction[start + right] = -share / max(g, 1e-300)
        ways.append(direction)
        rest.append(float(p - (1 - share) * corrected[right - 1] - share * corrected[right]) / max(float(g), 1e-300))
    return values, ways, rest
