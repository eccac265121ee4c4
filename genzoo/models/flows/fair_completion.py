"""Rows of a fair flow with their holes drawn: group, label and columns, given what is observed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from genzoo.likelihood.noise import RowNoise
from genzoo.models.flows.fair_likelihood import given_group, label_scores, weigh
from genzoo.models.flows.fair_states import FairStates
from genzoo.tables.batch import TableBatch

if TYPE_CHECKING:
    from genzoo.models.flows.fair_flow import FairFlow


def complete(model: FairFlow, batch: TableBatch, generator: torch.Generator) -> TableBatch:
    """Holes of the columns and of the outcome, drawn given what is observed and the group."""
    batch = complete_groups(model, batch, generator)
    group, label = model.codec.groups_of(batch), model.codec.labels_of(batch)
    if model.num_cell_labels > 1 and bool((label < 0).any()):
        unknown = (label < 0).nonzero().flatten()
        scores = scores_of_labels(model, batch, group, unknown)
        drawn = torch.multinomial(scores.softmax(1).cpu(), 1, generator=generator)[:, 0].to(label.device)
        label = label.index_copy(0, unknown, drawn)
    part = complete_columns(model, model.choose(batch), model.cell_of(group, label), label, group, generator)
    batch = model.choose.put(part, batch)
    if model.codec.outcome is None:
        return batch
    if model.num_cell_labels == 1 and bool((label < 0).any()):
        unknown = (label < 0).nonzero().flatten()
        log_label = label_log_prob(model, batch.select(unknown), group[unknown], generator)
        drawn = torch.multinomial(log_label.exp().cpu(), 1, generator=generator)[:, 0].to(label.device)
        label = label.index_copy(0, unknown, drawn)
    return model.codec.with_labels(batch, label)


def complete_groups(model: FairFlow, batch: TableBatch, generator: torch.Generator) -> TableBatch:
    """Rows with a group: where it is missing, one is drawn given the observed cells (joint models)."""
    group = model.codec.groups_of(batch, known=not model.joint)
    unknown = (group < 0).nonzero().flatten()
    if not len(unknown):
        return batch
    encoded = model.codec.encode(batch.select(unknown))
    noise = RowNoise(model.seed, encoded.rows)
    possible = model.codec.possible_groups(encoded.batch)
    scores = torch.stack(
        [
            given_group(model, replace(encoded, group=torch.full_like(encoded.group, g)), noise, model.draws)[0]
            for g in range(model.codec.num_groups)
        ],
        1,
    )
    scores = (scores + model.codec.log_group()).masked_fill(~possible, -torch.inf)
    drawn = torch.multinomial(scores.softmax(1).cpu(), 1, generator=generator)[:, 0].to(group.device)
    return model.codec.with_groups(batch, group.index_copy(0, unknown, drawn))


def scores_of_labels(model: FairFlow, batch: TableBatch, group: Tensor, rows: Tensor) -> Tensor:
    fair = model.fair
    if isinstance(fair, FairStates):
        codes = model.choose(batch).codes
        return label_scores(model, group, rows, lambda cell, r: fair.log_prob(codes[r], cell))
    encoded = model.codec.encode(batch)
    noise = RowNoise(model.seed, batch.rows)

    def score(cell: Tensor, chosen: Tensor) -> Tensor:
        values = torch.zeros(len(chosen), dtype=torch.float64, device=group.device)
        for c in torch.unique(cell).tolist():
            here = (cell == c).nonzero().flatten()
            values[here] = weigh(model, fair.density(c), encoded, chosen[here], noise, model.draws)[0]
        return values

    return label_scores(model, group, rows, score)


def complete_columns(
    model: FairFlow, part: TableBatch, cell: Tensor, label: Tensor, group: Tensor, generator: torch.Generator
) -> TableBatch:
    """Columns of the representation without holes. A known label weighs in where the classifier is its density."""
    weighs = model.num_cell_labels == 1 and model.codec.outcome is not None
    holes = part.numeric.isnan().any(1) | (part.codes < 0).any(1)
    numeric, codes = part.numeric.clone(), part.codes.clone()
    for c in torch.unique(cell[holes]).tolist():
        for chosen, candidates in ((~(weighs & (label >= 0)), 1), (weighs & (label >= 0), 16)):
            here = (holes & (cell == c) & chosen).nonzero().flatten()
            if not len(here):
                continue
            rows = part.select(here)
            drawn = [fill(model, rows, int(c), generator) for _ in range(candidates)]
            best = drawn[0]
            if candidates > 1:
                best = choose_by_label(model, drawn, group[here], label[here], generator)
            numeric[here], codes[here] = best.numeric, best.codes
    return part.with_values(numeric, codes)


def fill(model: FairFlow, rows: TableBatch, cell: int, generator: torch.Generator) -> TableBatch:
    if isinstance(model.fair, FairStates):
        cells = torch.full((len(rows),), cell, device=rows.codes.device)
        return rows.with_values(codes=model.fair.complete(rows.codes, cells, generator))
    density = model.fair.density(cell).density.model
    return density.model_impute(rows, density.codec.encode(rows), 1, generator)[0]


def choose_by_label(
    model: FairFlow, drawn: list[TableBatch], group: Tensor, label: Tensor, generator: torch.Generator
) -> TableBatch:
    """Sampling-importance-resampling: completions weighed by the probability of the observed label."""
    weights = []
    for rows in drawn:
        log_label = log_label_of_columns(model, rows, group, generator)
        weights.append(log_label.gather(1, label[:, None])[:, 0])
    chosen = torch.multinomial(torch.stack(weights, 1).softmax(1).cpu(), 1, generator=generator)[:, 0].tolist()
    numeric = torch.stack([rows.numeric for rows in drawn])
    codes = torch.stack([rows.codes for rows in drawn])
    each = torch.arange(len(group))
    return drawn[0].with_values(numeric[chosen, each], codes[chosen, each])


def label_log_prob(model: FairFlow, batch: TableBatch, group: Tensor, generator: torch.Generator) -> Tensor:
    """``(batch, num_labels)`` log P(label | complete columns, group) of the classifier on codes."""
    return log_label_of_columns(model, model.choose(batch), group, generator)


def log_label_of_columns(model: FairFlow, part: TableBatch, group: Tensor, generator: torch.Generator) -> Tensor:
    fair = model.fair
    if isinstance(fair, FairStates):
        return fair.log_label_of(fair.states.index(part.codes), group)
    density = fair.density(0)
    y = torch.empty(len(part), fair.num_features, dtype=torch.float64, device=group.device)
    noise = torch.randn(len(part), density.noise_width, generator=generator).to(group.device)
    for g in torch.unique(group).tolist():
        here = (group == g).nonzero().flatten()
        own = fair.density(int(g) * model.num_cell_labels)
        y[here] = own.point(own.codec.encode(part.select(here)), noise[here])[0].double()
    return fair.log_label(fair.encode(y, group))
