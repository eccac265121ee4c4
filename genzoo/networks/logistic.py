"""A sparse logistic regression of each cell on the other cells, beside a network that reads the whole row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genzoo.networks.symbols import Vocabulary

PACE = 4.0
"""Weights in units of those that are trained: Adam moves each by a learning rate a step, and these have further to go
than those of a network (between two cells that exclude each other: 5 and more)."""


class LogisticTerm(nn.Module):
    r"""Scores of every symbol of every scored column, linear in what is seen.

    .. math:: s_{ik}(z) = \sum_{j \ne i} W_{(j, z_j), (i, k)}

    where :math:`z_j` is the symbol of cell ``j``, or one of its special symbols (masked, hole). A cell says nothing of
    itself: the blocks ``(i, .), (i, .)`` are held at zero. Weights are zero at the start. On few rows of many cells
    most pairs of cells are independent given the rest, and a penalty on the absolute weights (:meth:`size`, a Laplace
    prior) finds the others, where a network alone learns the noise of all of them.

    Args:
        vocabularies: Of the scored columns.
        num_special: Special symbols of scored columns.
        context: Of the context columns, each with one special symbol.

    Shapes: indicators ``(batch, seen)`` of the symbols, those of the scored columns before those of the context,
    column by column, special symbols last in each; the scores are ``(batch, total)``, column by column, without the
    special symbols.

    References: Goessling and Kang (2015), Mixtures of Sparse Autoregressive Networks, arXiv:1511.04776 (regressions
    with a penalty of the absolute weights, for one order of the cells).
    """

    others: Tensor

    def __init__(
        self, vocabularies: Sequence[Vocabulary], num_special: int, context: Sequence[Vocabulary] = ()
    ) -> None:
        super().__init__()
        sizes = torch.tensor([v.size for v in vocabularies])
        column = torch.arange(len(sizes))
        seen = torch.cat([column.repeat_interleave(sizes + num_special), -torch.ones(sum(v.size + 1 for v in context))])
        others = seen[:, None] != column.repeat_interleave(sizes)
        self.register_buffer("others", others.to(torch.get_default_dtype()), persistent=False)
        self.weight = nn.Parameter(torch.zeros(others.shape))

    def forward(self, indicators: Tensor) -> Tensor:
        return indicators @ self.weights()

    def weights(self) -> Tensor:
        """``W``, ``(seen, total)``."""
        return PACE * self.weight * self.others

    def size(self) -> Tensor:
        """Sum of the absolute weights."""
        return self.weights().abs().sum()
