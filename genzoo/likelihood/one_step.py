r"""The one-step (A-IPTW) estimate of an interventional distribution, as signed masses of cells.

For arm :math:`a`, with an outcome model :math:`\hat P_a(\cdot \mid x)` and a propensity :math:`\hat\pi_a(x)` that were
fitted on other rows (cross-fitting),

.. math:: m_a(C) = \frac1n \sum_i \hat P_a(C \mid x_i) + \frac{\lambda_a}{n} \sum_i
    w_i \big(1[y_i \in C] - \hat P_a(C \mid x_i)\big), \qquad w_i = \frac{1[A_i = a]}{\hat\pi_a(x_i)}.

The total mass is 1 whatever the weights; single cells may be negative. With :math:`\lambda_a = 1` and no bound on the
weights, :math:`m_a` is consistent if either of the two models is right (double robustness). Where rows are few and
weights large, the correction is mostly noise; a James-Stein factor below 1 keeps the part of it that stands out.

References:
    Robins, Rotnitzky, Zhao (1994), Estimation of regression coefficients when some regressors are not always observed.
    Bang, Robins (2005), Doubly robust estimation in missing data and causal inference models.
    Melnychuk, Frauen, Feuerriegel (2023), Normalizing flows for interventional density estimation, arXiv:2209.06203.
    James, Stein (1961), Estimation with quadratic loss. The factor is not in the flow paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

NUM_GROUPS = 16
"""Coarse groups of cells in which correction and noise are held against each other."""
LEAST_GROUP = 0.1
"""Mass of a group, in units of an even share, below which its squares are not divided by less."""


def inverse_weights(
    propensity: Tensor,
    arm: Tensor,
    clip: float = 0.05,
    low: Literal["cap", "drop"] = "cap",
    hajek: bool = False,
) -> Tensor:
    r"""Weights :math:`1[A_i = a] / \pi_a(x_i)`.

    Args:
        propensity: ``(rows, num_arms)`` probability of each treatment.
        arm: ``(rows,)`` treatment received.
        clip: Propensity below which a row counts as one without overlap; 0 leaves all weights as they are.
        low: Such rows get the weight ``1 / clip`` (``cap``) or none (``drop``, as in the authors' code).
        hajek: Divide by the mean weight of the arm (self-normalised), so that no arm's correction has more than its
            share.

    Returns:
        ``(rows, num_arms)`` float64; zero off the received arm.
    """
    if not 0 <= clip < 1:
        raise ValueError(f"clip is a propensity, from 0 to below 1; got {clip}")
    propensity = propensity.double()
    received = torch.nn.functional.one_hot(arm, propensity.shape[1]).to(propensity)
    weights = received / propensity.clamp_min(max(clip, 1e-300))
    if low == "drop":
        weights = torch.where(propensity >= clip, weights, 0.0)
    if hajek:
        mean = weights.mean(0)
        weights = weights / torch.where(mean > 0, mean, 1.0)
    return weights


def cells_of(values: Tensor, edges: Tensor) -> Tensor:
    """``(rows,)`` index of each value's cell: 0 below the first edge, ``len(edges)`` above the last."""
    return torch.searchsorted(edges, values.to(edges))


def observed_masses(values: Tensor, edges: Tensor) -> Tensor:
    """``(rows, len(edges) + 1)`` float64: one in the cell of each value."""
    return torch.nn.functional.one_hot(cells_of(values, edges), len(edges) + 1).double()


@dataclass(frozen=True)
class OneStep:
    """The estimate for every arm, from :class:`OneStepSums`.

    Args:
        plug_in: ``(num_arms, num_cells)`` mean of the outcome model over rows.
        correction: ``(num_arms, num_cells)`` weighted mean of observed minus modelled masses; each arm sums to 0.
        shrinkage: ``(num_arms,)`` James-Stein factor of the correction, within 0 and 1.
        functionals: ``(num_arms, num_functionals)`` one-step means (factor 1) of the given functionals.
        covariance: ``(num_arms * num_functionals,) * 2`` of those means, by their influence functions.
        num_rows: Rows it was made from.
    """

    plug_in: Tensor
    correction: Tensor
    shrinkage: Tensor
    functionals: Tensor
    covariance: Tensor
    num_rows: int

    def masses(self, factor: Tensor | float) -> Tensor:
        """``(num_arms, num_cells)`` signed masses with ``factor`` (a number, or one per arm) times the correction."""
        factor = torch.as_tensor(factor, dtype=torch.float64).expand(len(self.plug_in))
        return self.plug_in + factor[:, None] * self.correction


class OneStepSums:
    """Sums from which :class:`OneStep` is made, in one pass over blocks of rows.

    Args:
        num_arms: Treatments.
        group: ``(num_cells,)`` int64: coarse group of each cell, from 0; see :func:`grouping`.
        functionals: ``(num_cells, num_functionals)`` float64: value of each functional on a cell (its centre for the
            mean, an indicator for a point of the distribution function).
    """

    def __init__(self, num_arms: int, group: Tensor, functionals: Tensor) -> None:
        cells, count = functionals.shape
        self.num_rows = 0
        self.functionals = functionals.double()
        groups = int(group.max()) + 1
        self.gather = torch.nn.functional.one_hot(group, groups).double()
        self.plug_in = torch.zeros(num_arms, cells, dtype=torch.float64)
        self.correction = torch.zeros_like(self.plug_in)
        self.squares = torch.zeros(num_arms, groups, dtype=torch.float64)
        self.first = torch.zeros(num_arms * count, dtype=torch.float64)
        self.second = torch.zeros(num_arms * count, num_arms * count, dtype=torch.float64)

    def add(self, modelled: Tensor, observed: Tensor, weights: Tensor, values: Tensor | None = None) -> None:
        """Adds rows.

        Args:
            modelled: ``(rows, num_arms, num_cells)`` masses of the outcome model.
            observed: ``(rows, num_cells)`` masses of the observed outcome.
            weights: ``(rows, num_arms)`` from :func:`inverse_weights`.
            values: ``(rows, num_functionals)`` functionals of the observed outcome; by default those of its cell.
        """
        modelled = modelled.double()
        weights = weights.double()
        residual = weights[..., None] * (observed[:, None] - modelled)
        self.num_rows += len(modelled)
        self.plug_in += modelled.sum(0)
        self.correction += residual.sum(0)
        self.squares += (residual @ self.gather).square().sum(0)
        seen = observed @ self.functionals if values is None else values.double()
        expected = modelled @ self.functionals
        influence = (expected + weights[..., None] * (seen[:, None] - expected)).flatten(1)
        self.first += influence.sum(0)
        self.second += influence.T @ influence

    def result(self) -> OneStep:
        """The estimate.

        Raises:
            ValueError: no rows were added.
        """
        n = self.num_rows
        if not n:
            raise ValueError("no rows were added")
        plug_in, correction = self.plug_in / n, self.correction / n
        shift = correction @ self.gather
        noise = (self.squares / n - shift.square()) / n  # variance of each group's correction
        mass = (plug_in @ self.gather).clamp_min(LEAST_GROUP / self.gather.shape[1])
        size = (shift.square() / mass).sum(1)
        share = (noise / mass).sum(1) / size.clamp_min(1e-300)
        mean = self.first / n
        covariance = (self.second / n - mean[:, None] * mean) / n
        return OneStep(
            plug_in=plug_in,
            correction=correction,
            shrinkage=(1 - share).clamp(0, 1),
            functionals=mean.unflatten(0, (len(plug_in), -1)),
            covariance=covariance,
            num_rows=n,
        )


def grouping(values: Tensor, edges: Tensor, num_groups: int = NUM_GROUPS) -> Tensor:
    """``(len(edges) + 1,)`` int64: cells in groups that hold about equally many of the ``values``, numbered from 0."""
    counts = torch.bincount(cells_of(values, edges), minlength=len(edges) + 1).double()
    below = counts.cumsum(0) - 0.5 * counts
    group = (below / counts.sum().clamp_min(1) * num_groups).long().clamp(0, num_groups - 1)
    return torch.unique(group, return_inverse=True)[1]


def negative_mass(masses: Tensor, num_cells: int = 40) -> Tensor:
    """Total of the negative masses of coarse cells: what no density can follow; ``(num_arms,)``, at most 0.

    Cells are merged to about ``num_cells`` first: single observations stand out of any fine grid.
    """
    width = max(1, masses.shape[-1] // num_cells)
    short = -masses.shape[-1] % width
    wide = torch.nn.functional.pad(masses, (0, short)).unflatten(-1, (-1, width)).sum(-1)
    return wide.clamp_max(0).sum(-1)


def effective_rows(weights: Tensor) -> Tensor:
    """``(num_arms,)`` Kish's effective sample size ``(sum w)^2 / sum w^2`` of each arm."""
    return weights.sum(0).square() / weights.square().sum(0).clamp_min(1e-300)


def beyond_support(propensity: Tensor, arm: Tensor) -> Tensor:
    """``(num_arms,)`` share of all rows whose propensity of an arm is below that of every row that received it.

    There the arm has no neighbour: its outcome is the outcome model's extrapolation.
    """
    shares = []
    for a in range(propensity.shape[1]):
        own = propensity[arm == a, a]
        shares.append(float((propensity[:, a] < own.min()).double().mean()) if len(own) else 1.0)
    return torch.tensor(shares, dtype=torch.float64)
