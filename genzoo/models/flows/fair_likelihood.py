"""Likelihood of rows under a fair flow, given their group: by states exactly, by points by change of variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo.likelihood.estimators import importance_weighted
from genzoo.likelihood.noise import RowNoise
from genzoo.models.flows.dense_points import DensePoints
from genzoo.models.flows.fair_states import FairStates
from genzoo.models.flows.group_rows import GroupedRows

if TYPE_CHECKING:
    from genzoo.models.flows.fair_flow import FairFlow

Score = Callable[[Tensor, Tensor], Tensor]
"""From cells and row indices, ``(rows,)`` each, to ``(rows,)`` log-likelihoods."""


def given_group(model: FairFlow, encoded: GroupedRows, noise: RowNoise, draws: int) -> tuple[Tensor, Tensor | None]:
    if isinstance(model.fair, FairStates):
        return of_states(model, encoded), None
    return of_points(model, encoded, noise, draws)


def of_states(model: FairFlow, encoded: GroupedRows) -> Tensor:
    fair = model.fair
    assert isinstance(fair, FairStates)
    codes, group, label = model.choose(encoded.batch).codes, encoded.group, encoded.label
    if model.num_cell_labels > 1:
        return by_label(model, group, label, lambda cell, rows: fair.log_prob(codes[rows], cell))
    values = fair.log_prob(codes, group)
    if fair.classifier is None:
        return values
    # p(label | state) of complete rows; over the states a row with holes may be in, by their probability
    complete = (codes >= 0).all(1)
    for rows in (complete & (label >= 0)).nonzero().flatten().split(65_536):
        each = fair.log_label_of(fair.states.index(codes[rows]), group[rows])
        values[rows] += each.gather(1, label[rows, None])[:, 0]
    for row in (~complete & (label >= 0)).nonzero().flatten().tolist():
        values[row] = fair.log_prob_with_label(codes[row], int(group[row]), int(label[row]))
    return values


def of_points(model: FairFlow, encoded: GroupedRows, noise: RowNoise, draws: int) -> tuple[Tensor, Tensor | None]:
    fair = model.points
    se = torch.zeros(len(encoded), dtype=torch.float64, device=encoded.group.device)

    def score(cell: Tensor, rows: Tensor) -> Tensor:
        values = se.new_zeros(len(rows))
        for c in torch.unique(cell).tolist():
            here = (cell == c).nonzero().flatten()
            part, chosen = fair.density(c), rows[here]
            values[here], se[chosen] = weigh(model, part, encoded, chosen, noise, draws)
        return values

    everything = torch.arange(len(encoded), device=encoded.group.device)
    if model.num_cell_labels > 1:
        values = by_label(model, encoded.group, encoded.label, score)
    else:
        values = score(encoded.group, everything)
    return values, se if bool(se.any()) or model.likelihood_kind != "exact" else None


def weigh(
    model: FairFlow, part: DensePoints, encoded: GroupedRows, chosen: Tensor, noise: RowNoise, draws: int
) -> tuple[Tensor, Tensor]:
    """Importance-weighted log p(columns, label | group) of the chosen rows, and its standard error."""
    fair = model.points
    cells = part.cells(encoded.batch.select(chosen))
    label = encoded.label[chosen]
    reads_label = fair.classifier is not None and model.num_cell_labels == 1 and bool((label >= 0).any())
    if part.rows is None and reads_label and not bool((label >= 0).all()):
        # a row's number is its own: rows without a label never go the way of their neighbours with one
        values = torch.zeros_like(label, dtype=torch.float64)
        errors = torch.zeros_like(values)
        for here in ((label >= 0).nonzero().flatten(), (label < 0).nonzero().flatten()):
            values[here], errors[here] = weigh(model, part, encoded, chosen[here], noise, draws)
        return values, errors
    if part.rows is None and not reads_label:  # the model's own likelihood, which sums over holes
        value = part.density.model.model_log_prob(cells, RowNoise(noise.seed, cells.rows), draws).values.double()
        value = torch.where(cells.outside, -torch.inf, value + cells.log_volume.sum(1))
        return value, torch.zeros_like(value)
    exact = part.rows is None or (part.rows.always_exact and bool(cells.present.all()))
    draws = 1 if exact else draws
    rows = RowNoise(noise.seed, encoded.rows[chosen])
    normal = rows.normal(draws, part.noise_width, stream="surjection", device=cells.number.device).flatten(0, 1)
    y, log_q = part.point(cells.repeat(draws), normal)
    weight = part.log_prob(y).double() - log_q
    if reads_label:
        z = fair.encode(y, encoded.group[chosen].repeat_interleave(draws))
        each = fair.log_label(z).gather(1, label.clamp(min=0).repeat_interleave(draws)[:, None])[:, 0]
        weight = weight + torch.where((label >= 0).repeat_interleave(draws), each, 0.0)
    value, se = importance_weighted(weight.reshape(len(chosen), draws))
    value = value + cells.log_volume.sum(1)
    value = torch.where(cells.outside, -torch.inf, value)
    return value, torch.zeros_like(value) if exact or se is None else se


def by_label(model: FairFlow, group: Tensor, label: Tensor, score: Score) -> Tensor:
    """log P(label | group) p(columns | group, label); summed over the labels where the label is not known."""
    log_label = model.codec.log_label()
    values = torch.empty(len(group), dtype=torch.float64, device=group.device)
    known = (label >= 0).nonzero().flatten()
    if len(known):
        cell = model.cell_of(group[known], label[known])
        values[known] = score(cell, known) + log_label[group[known], label[known]]
    unknown = (label < 0).nonzero().flatten()
    if len(unknown):
        values[unknown] = torch.logsumexp(label_scores(model, group, unknown, score), 1)
    return values


def label_scores(model: FairFlow, group: Tensor, rows: Tensor, score: Score) -> Tensor:
    """``(rows, num_labels)`` log P(label | group) p(columns | group, label)."""
    log_label = model.codec.log_label()
    found = []
    for label in range(model.num_cell_labels):
        cell = group[rows] * model.num_cell_labels + label
        found.append(score(cell, rows) + log_label[group[rows], label])
    return torch.stack(found, 1)
