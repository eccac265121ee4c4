"""Mean and covariance of rows with holes, for all rows or by class: what trees start from."""

from __future__ import annotations

import torch
from torch import Tensor

RIDGE = 1e-6
"""Added to the covariance of the scaled training rows, so that one-hot codes and copied columns are no singularity."""


def gaussian_fit(values: Tensor, shrink: bool = False) -> tuple[Tensor, Tensor]:
    """Mean ``(P,)`` and covariance ``(P, P)`` of rows with holes (NaN), the covariance made positive definite.

    Args:
        values: ``(n, P)``.
        shrink: Correlations are multiplied by one factor, the least squares estimate of Schaefer and Strimmer (2005).
    """
    present = (~values.isnan()).double()
    mean = torch.nan_to_num(values, nan=0.0).sum(0) / present.sum(0).clamp_min(1.0)
    return mean, covariance_of(values - mean, shrink)


def covariance_of(centred: Tensor, shrink: bool = False) -> Tensor:
    """``(P, P)`` covariance of rows whose mean is taken off, NaN for holes."""
    present = (~centred.isnan()).double()
    filled = torch.nan_to_num(centred, nan=0.0)
    pairs = (present.T @ present).clamp_min(1.0)
    covariance = (filled.T @ filled) / pairs
    if bool(centred.isnan().any()):  # moments of pairs need not fit together
        value, vector = torch.linalg.eigh(covariance)
        covariance = (vector * value.clamp_min(0.0)) @ vector.T
    if shrink and len(centred) > 1:
        scale = covariance.diagonal().clamp_min(1e-12).sqrt()
        z = filled / scale
        correlation = (z.T @ z) / pairs
        # sampling variance of each correlation: mean of squares of the products less the square of their mean
        error = ((z.square().T @ z.square()) / pairs - correlation.square()) / (pairs - 1).clamp_min(1.0)
        apart = ~torch.eye(len(scale), dtype=torch.bool)
        total = correlation.square()[apart].sum()
        keep = 1 - (error[apart].sum() / total.clamp_min(1e-12)).clamp(0.0, 1.0)
        covariance = torch.where(apart, keep * covariance, covariance)
    return covariance + RIDGE * torch.eye(len(covariance), dtype=centred.dtype)


def fit_groups(
    values: Tensor, group: Tensor, num_groups: int, separate: bool, shrink: bool, prior_rows: float | None = None
) -> tuple[Tensor, Tensor]:
    """Mean ``(C, P)`` and covariance ``(C, P, P)`` of each class.

    Classes that share their trees share a covariance about their own means. Classes with trees of their own have their
    own, drawn towards the shared one by as many rows as there are columns. A class without rows has the mean of all.

    Args:
        values: ``(n, P)``.
        group: ``(n,)`` int64 class; rows with -1 count for none.
        num_groups: ``C``.
        separate: Each class has trees of its own.
        shrink: See :func:`gaussian_fit`.
        prior_rows: Rows that the shared covariance counts for; as many as columns by default.
    """
    if num_groups == 1:
        mean, covariance = gaussian_fit(values, shrink)
        return mean[None], covariance[None]
    overall, _ = gaussian_fit(values)
    means = overall.repeat(num_groups, 1)
    centred = values.clone()
    for one in range(num_groups):
        members = values[group == one]
        seen = (~members.isnan()).sum(0)
        own = torch.nan_to_num(members, nan=0.0).sum(0) / seen.clamp_min(1)
        means[one] = torch.where(seen > 0, own, overall)
        centred[group == one] = members - means[one]
    centred = centred[group >= 0]
    shared = covariance_of(centred, shrink)
    covariances = shared.repeat(num_groups, 1, 1)
    if separate:
        for one in range(num_groups):
            part = values[group == one] - means[one]
            count, weight = len(part), values.shape[1] if prior_rows is None else prior_rows
            if count:
                covariances[one] = (count * covariance_of(part, shrink) + weight * shared) / (count + weight)
    return means, covariances
