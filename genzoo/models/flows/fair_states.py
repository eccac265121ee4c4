"""Fair representations of finite tables: a bijection of the states of each group, matched by probability."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor, nn

from genzoo.errors import CapabilityError
from genzoo.models.flows.state_matching import fit_logistic, pushed, sort_match
from genzoo.networks.mlp import ResidualMLP
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Schema


class States(nn.Module):
    """The states of a table of categories, numbered in the order of ``itertools.product``.

    Args:
        schema: Schema of the columns that make a state, all categorical.
        most: Most states that are listed.

    Raises:
        CapabilityError: a column is a number, or there are more states.
    """

    def __init__(self, schema: Schema, most: int) -> None:
        super().__init__()
        odd = next((c for c in schema.scored if not c.is_categorical), None)
        if odd is not None:
            raise CapabilityError(
                f"matching of states needs categories, and column '{odd.name}' is {odd.kind}; cut it into classes, "
                "or use --model.representation points"
            )
        self.sizes = [c.num_categories for c in schema.categorical for _ in range(c.width)]
        self.num_states = self.count(schema)
        if self.num_states > most:
            raise CapabilityError(
                f"the columns have {self.num_states:,} states together, more than --model.max_states {most:,}; "
                "leave columns out, raise it, or use --model.representation points"
            )
        strides = [prod(self.sizes[i + 1 :]) for i in range(len(self.sizes))]
        self.register_buffer("strides", torch.tensor(strides, dtype=torch.int64), persistent=False)
        self.register_buffer("radix", torch.tensor(self.sizes, dtype=torch.int64), persistent=False)

    strides: Tensor
    radix: Tensor

    @staticmethod
    def count(schema: Schema) -> int:
        """Number of states of the categorical columns."""
        return prod(c.num_categories for c in schema.categorical for _ in range(c.width))

    def index(self, codes: Tensor) -> Tensor:
        """``(batch, columns)`` codes without holes to ``(batch,)`` state numbers."""
        return (codes * self.strides).sum(1)

    def codes(self, index: Tensor) -> Tensor:
        """Inverse of :meth:`index`."""
        return index[:, None] // self.strides % self.radix

    def one_hot(self, index: Tensor) -> Tensor:
        """``(batch, sum of categories)`` float32 features of states."""
        codes = self.codes(index)
        return torch.cat([nn.functional.one_hot(codes[:, i], size).float() for i, size in enumerate(self.sizes)], dim=1)

    def batch(self, index: Tensor) -> TableBatch:
        """Rows of the columns that make a state."""
        empty = torch.empty(len(index), 0, dtype=torch.float64, device=index.device)
        return TableBatch(empty, self.codes(index), torch.arange(len(index), device=index.device))


class Maps(nn.Module):
    """``alike`` and ``useful``, ``(num_groups, states)`` int64 codes, and the ``(states,)`` predicted label."""

    alike: Tensor
    useful: Tensor
    predicted: Tensor

    def __init__(self, num_groups: int, num_states: int) -> None:
        super().__init__()
        same = torch.arange(num_states)
        self.register_buffer("alike", same.repeat(num_groups, 1))
        self.register_buffer("useful", same.repeat(num_groups, 1))
        self.register_buffer("predicted", torch.zeros_like(same))


class FairStates(nn.Module):
    """Probabilities of all states in every group, the maps to codes, and a classifier of codes.

    A code is itself a state. The first group is the reference and keeps its states. Others have two bijections each:
    ``alike`` matches states by rank of probability, ``useful`` does so only among states with the same predicted label.
    A row is encoded by ``alike`` with probability ``gamma``, else by ``useful``.

    Args:
        states: The states.
        num_groups: Number of groups.
        cell_labels: Labels with probabilities of their own (equalized odds); 1 for none.
        num_classes: Labels the classifier tells apart; 0 for none.
        gamma: Share of rows encoded by ``alike``.
        classifier_hidden: Units of the classifier's hidden layers.
    """

    table: Tensor

    def __init__(
        self,
        states: States,
        num_groups: int,
        cell_labels: int,
        num_classes: int,
        gamma: float,
        classifier_hidden: int,
    ) -> None:
        super().__init__()
        self.states, self.num_groups, self.cell_labels, self.gamma = states, num_groups, cell_labels, gamma
        count = states.num_states
        self.maps = Maps(num_groups, count)
        self.register_buffer("table", torch.full((num_groups * cell_labels, count), 1.0 / count, dtype=torch.float64))
        self.classifier = ResidualMLP(sum(states.sizes), num_classes, classifier_hidden) if num_classes else None

    # ---- probabilities ----------------------------------------------------------------------------------------------

    def set_table(self, table: Tensor) -> None:
        """Probabilities of the states in each cell; rows are renormalised."""
        self.table.copy_(table / table.sum(1, keepdim=True))

    def log_prob(self, codes: Tensor, cell: Tensor) -> Tensor:
        """``(batch,)`` log-probability of rows in their cells; holes (-1) are summed over, exactly."""
        out = torch.empty(len(codes), dtype=torch.float64, device=codes.device)
        kinds, inverse = torch.unique(codes < 0, dim=0, return_inverse=True)
        for number, holes in enumerate(kinds.tolist()):
            here = (inverse == number).nonzero().flatten()
            gone = [1 + i for i, hole in enumerate(holes) if hole]
            kept = [i for i, hole in enumerate(holes) if not hole]
            marginal = self.table.reshape(-1, *self.states.sizes)
            if gone:
                marginal = marginal.sum(dim=gone)
            place = [cell[here], *(codes[here, i] for i in kept)]
            out[here] = marginal[tuple(place)].log()
        return out

    def log_prob_with_label(self, codes: Tensor, cell: int, label: int) -> Tensor:
        """Log P(observed columns, label | cell) of one row with holes: a sum over the states it may be in."""
        grid = torch.arange(self.states.num_states, device=codes.device).reshape(self.states.sizes)
        states = grid[tuple(slice(None) if code < 0 else code for code in codes.tolist())].flatten()
        group = torch.full_like(states, cell)
        each = [self.log_label_of(s, group[: len(s)])[:, label] for s in states.split(65_536)]
        return torch.logsumexp(self.table[cell, states].log() + torch.cat(each), 0)

    def complete(self, codes: Tensor, cell: Tensor, generator: torch.Generator) -> Tensor:
        """Rows with their holes drawn given what is observed."""
        filled = codes.clone()
        table = self.table.reshape(-1, *self.states.sizes).cpu()
        for row in (codes < 0).any(1).nonzero().flatten().tolist():
            known = codes[row].tolist()
            part = table[(int(cell[row]), *(slice(None) if code < 0 else code for code in known))]
            flat = part.flatten()
            pick = int(torch.multinomial(flat / flat.sum(), 1, generator=generator)) if flat.sum() > 0 else 0
            for column, size in reversed([(i, self.states.sizes[i]) for i, code in enumerate(known) if code < 0]):
                filled[row, column] = pick % size
                pick //= size
        return filled

    # ---- codes ------------------------------------------------------------------------------------------------------

    def match(self, group_table: Tensor, predicted: Tensor | None) -> None:
        """Sets both maps of every group.

        Args:
            group_table: ``(num_groups, states)`` probabilities.
            predicted: ``(states,)`` label of each state, kept by ``useful``; ``None`` makes both maps the same.
        """
        if predicted is not None:
            self.maps.predicted.copy_(predicted)
        for group in range(1, self.num_groups):
            alike = sort_match(group_table[0], group_table[group])
            self.maps.alike[group].copy_(alike)
            useful = alike if predicted is None else sort_match(group_table[0], group_table[group], predicted)
            self.maps.useful[group].copy_(useful)

    def predict_states(self, index: Tensor, group: Tensor, label: Tensor, num_classes: int) -> Tensor:
        """``(states,)`` label of every state by a logistic regression in which all groups weigh the same."""
        sizes = torch.bincount(group, minlength=self.num_groups).double()
        weight = (len(group) / (self.num_groups * sizes.clamp(min=1)))[group]
        beta = fit_logistic(self.states.one_hot(index).double(), label, weight, num_classes)
        offsets = torch.tensor([sum(self.states.sizes[:i]) for i in range(len(self.states.sizes))])
        every = torch.arange(self.states.num_states, device=index.device)
        scores = beta[-1] + beta[self.states.codes(every) + offsets.to(index.device)].sum(1)
        return scores.argmax(1)

    def encode(self, index: Tensor, group: Tensor, uniform: Tensor) -> Tensor:
        """``(batch,)`` codes of states: ``alike`` where ``uniform`` < gamma, else ``useful``."""
        alike, useful = self.maps.alike[group, index], self.maps.useful[group, index]
        return torch.where(uniform < self.gamma, alike, useful)

    def decode(self, code: Tensor, group: Tensor, uniform: Tensor) -> Tensor:
        """States that the codes came from, given the map (by ``uniform``) that was used."""
        back = []
        for maps in (self.maps.alike, self.maps.useful):
            inverse = torch.empty_like(maps)
            inverse.scatter_(1, maps, torch.arange(maps.shape[1], device=maps.device).expand_as(maps))
            back.append(inverse[group, code])
        alike, useful = back
        return torch.where(uniform < self.gamma, alike, useful)

    def code_table(self, label: int | None = None, shares: Tensor | None = None) -> Tensor:
        """``(num_groups, states)`` exact probabilities of the codes in each group.

        Args:
            label: Given this label; ``None`` is over all labels.
            shares: ``(num_groups, cell_labels)`` P(label | group), to sum over labels.
        """
        table = self.group_table(label, shares)
        rows = []
        for group, probability in enumerate(table):
            alike = pushed(probability, self.maps.alike[group])
            useful = pushed(probability, self.maps.useful[group])
            rows.append(self.gamma * alike + (1 - self.gamma) * useful)
        return torch.stack(rows)

    def group_table(self, label: int | None = None, shares: Tensor | None = None) -> Tensor:
        """``(num_groups, states)`` probabilities of states in each group (given a label)."""
        table = self.table.reshape(self.num_groups, self.cell_labels, -1)
        if label is not None:
            return table[:, label if self.cell_labels > 1 else 0]
        if self.cell_labels == 1:
            return table[:, 0]
        assert shares is not None
        return (shares[:, :, None] * table).sum(1)

    def log_label(self, code: Tensor) -> Tensor:
        """``(batch, num_classes)`` log-probability of each label given the code."""
        assert self.classifier is not None
        return torch.log_softmax(self.classifier(self.states.one_hot(code)).double(), 1)

    def log_label_of(self, index: Tensor, group: Tensor) -> Tensor:
        """The same given the state, exactly: a mixture over both maps."""
        alike = self.log_label(self.maps.alike[group, index])
        if self.gamma >= 1:
            return alike
        useful = self.log_label(self.maps.useful[group, index])
        if self.gamma <= 0:
            return useful
        gamma = torch.tensor(self.gamma, dtype=torch.float64)
        return torch.logaddexp(gamma.log() + alike, torch.log1p(-gamma) + useful)

    def classification(self, code: Tensor, group: Tensor, label: Tensor) -> Tensor:
        """Cross-entropy of the labels given the codes, averaged within each group, then over groups, nats."""
        known = label >= 0
        code, group, label = code[known], group[known], label[known]
        if not len(code):
            return sum((p.sum() * 0.0 for p in self.parameters()), torch.zeros(()))
        each = nn.functional.nll_loss(self.log_label(code), label, reduction="none")
        return torch.stack([each[group == g].mean() for g in group.unique().tolist()]).mean()


def counted(index: Tensor, cell: Tensor, num_cells: int, num_states: int, smoothing: float) -> Tensor:
    """``(num_cells, num_states)`` frequencies of states in each cell, ``smoothing`` added to every count."""
    flat = torch.bincount(cell * num_states + index, minlength=num_cells * num_states).double()
    return flat.reshape(num_cells, num_states) + smoothing
