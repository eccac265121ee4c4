"""Tails beyond the outermost bin edge: generalised Pareto, exponential as its limit, in cells on a grid.

With scale s and shape k >= 0 the survival function of the distance y >= 0 from the edge is ``(1 + k y / s)^(-1/k)``,
``exp(-y / s)`` for k = 0. On a grid the mass of a cell is the difference of two survival values: geometric for k = 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

UNKNOWN_SHAPE = 0.5
"""Shape of a tail that training rows say nothing of: heavy, so that no row is hopeless."""
MAX_SHAPE = 1.0
_MIN_GAIN = 2.0


def log_survival(y: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """Log-probability of a distance above ``y >= 0``."""
    heavy = shape > 0
    k = torch.where(heavy, shape, 1.0)
    return torch.where(heavy, -torch.log1p(k * y / scale) / k, -y / scale)


def log_density(y: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """Log-density at a distance ``y >= 0``, per unit of ``y``."""
    return log_survival(y, scale, shape) - torch.log(scale + shape * y)


def log_cell(y: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """Log-mass of the cell of width 1 that begins at ``y >= 0``, without cancellation far out."""
    k = torch.where(shape > 0, shape, 1.0)
    fall = torch.where(shape > 0, -torch.log1p(k / (scale + k * y)) / k, -1 / scale)
    return log_survival(y, scale, shape) + torch.log(-torch.expm1(fall))


def quantile(u: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """Distance that is exceeded with probability ``u`` in (0, 1)."""
    k = torch.where(shape > 0, shape, 1.0)
    return scale * torch.where(shape > 0, torch.expm1(-k * torch.log(u)) / k, -torch.log(u))


def fit_tail(excess: np.ndarray, counts: np.ndarray, default: float) -> tuple[float, float]:
    """Scale and shape of largest likelihood; exponential unless a heavier tail gains two nats.

    Args:
        excess: ``(m,)`` positive distances from the edge.
        counts: ``(m,)`` rows at each.
        default: Scale when there are no rows; it also stands for one more row.

    Scale with the unit of the distances bit by bit for powers of two: the search runs on ratios.
    """
    rows = float(counts.sum())
    if rows == 0:
        return default, UNKNOWN_SHAPE
    mean = float(excess @ counts + default) / (rows + 1)
    ratio = np.append(excess / mean, default / mean)
    weight = np.append(counts, 1.0)
    # Profile likelihood over theta = shape / scale: shape(theta) = mean log(1 + theta y).
    theta = np.exp2(np.linspace(-8, 12, 81))
    shape = (np.log1p(theta[:, None] * ratio) @ weight) / weight.sum()
    value = -weight.sum() * (np.log(shape / theta) + shape + 1)
    value[(shape > MAX_SHAPE) | (shape < 0.02)] = -np.inf
    best = int(np.argmax(value))
    if value[best] > -weight.sum() + _MIN_GAIN:
        return float(shape[best] / theta[best]) * mean, float(shape[best])
    return mean, 0.0
