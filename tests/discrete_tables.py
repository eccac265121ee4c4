"""Tiny models for enumeration: arbitrary conditionals as tables, all states and all orders listed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from genzoo.diffusion.categorical import Conditional


class RandomConditionals:
    """``c_i(. | visible)`` drawn once for every partly masked row: any network on a tiny table is such a table."""

    def __init__(self, sizes: Sequence[int], seed: int = 0) -> None:
        self.sizes = tuple(sizes)
        g = torch.Generator().manual_seed(seed)
        most = max(sizes)
        self.strides = torch.tensor(
            [int(torch.tensor([s + 1 for s in sizes[:i]]).prod()) if i else 1 for i in range(len(sizes))]
        )
        number = int(torch.tensor([s + 1 for s in sizes]).prod())
        scores = torch.randn(number, len(sizes), most, generator=g, dtype=torch.float64)
        for i, size in enumerate(sizes):
            scores[:, i, size:] = -torch.inf
        self.table = scores.log_softmax(-1)
        self.calls = 0

    def __call__(self, tokens: Tensor, index: Tensor) -> Tensor:
        self.calls += len(tokens)
        return self.table[((tokens + 1) * self.strides).sum(1)]


def states(sizes: Sequence[int]) -> Tensor:
    """All complete rows."""
    return torch.tensor(list(itertools.product(*map(range, sizes))))


def by_all_orders(conditional: Conditional, rows: Tensor) -> Tensor:
    """Log-probability of each row under every order of its cells: ``(batch, L!)``, one call a cell."""
    out = []
    for order in itertools.permutations(range(rows.shape[1])):
        total = torch.zeros(len(rows), dtype=torch.float64)
        state = torch.full_like(rows, -1)
        for i in order:
            c = conditional(state, torch.arange(len(rows)))
            total += c[torch.arange(len(rows)), i, rows[:, i]]
            state[:, i] = rows[:, i]
        out.append(total)
    return torch.stack(out, 1)


def true_conditionals(joint: Tensor) -> Conditional:
    """The conditionals of a joint distribution ``(K_1, ..., K_L)``."""
    sizes = joint.shape
    rows, p = states(sizes), joint.reshape(-1)

    def conditional(tokens: Tensor, index: Tensor) -> Tensor:
        out = torch.full((len(tokens), len(sizes), max(sizes)), -torch.inf, dtype=torch.float64)
        for b, token in enumerate(tokens):
            fits = ((rows == token) | (token < 0)).all(1)
            for i, size in enumerate(sizes):
                mass = torch.zeros(size, dtype=torch.float64).index_add(0, rows[fits, i], p[fits])
                out[b, i, :size] = torch.log(mass / mass.sum())
        return out

    return conditional


def chi_square_p(found: Tensor, expected: Tensor) -> float:
    """P-value of observed counts against expected ones, cells below 5 joined."""
    from scipy.stats import chi2

    big = expected >= 5
    f = torch.cat([found[big].double(), found[~big].double().sum()[None]])
    e = torch.cat([expected[big], expected[~big].sum()[None]])
    keep = e > 0
    statistic = float(((f - e)[keep] ** 2 / e[keep]).sum())
    return float(chi2.sf(statistic, int(keep.sum()) - 1))


def sample_p_value(model: Any, rows: pd.DataFrame, num_samples: int, seed: int = 3) -> float:
    """Chi-square of rows drawn from a model against its exact law; what is not in ``rows`` is one cell more."""
    law = torch.tensor(np.exp(model.log_prob(rows).values))
    drawn = model.sample(num_samples, seed=seed).groupby(list(rows)).size()
    found = torch.tensor(drawn.reindex(pd.MultiIndex.from_frame(rows), fill_value=0).to_numpy())
    law, found = (
        torch.cat([part, rest[None]]) for part, rest in ((law, 1 - law.sum()), (found, num_samples - found.sum()))
    )
    return chi_square_p(found, law * num_samples)
