"""Holds a fitted mixture in buffers of fixed shape and scores, draws and fills typed cells with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genzoo.codecs.base import CategorySlot, Cells, NumberSlot
from genzoo.codecs.vector import VectorCodec
from genzoo.likelihood.estimators import importance_weighted
from genzoo.likelihood.noise import RowNoise
from genzoo.models.baselines.filling import fill_holes
from genzoo.models.baselines.mixture_density import (
    Layout,
    Mixture,
    draw_given,
    draw_rows,
    exact_log_probs,
    log_probs,
    without_densities,
)
from genzoo.models.baselines.mixture_fit import layout_of
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

ROWS_AT_ONCE = 8192
"""Rows, counted once a draw, that are completed in one pass."""


class MixtureState(nn.Module):
    """A mixture of at most ``max_components`` components over the slots of a vector codec.

    Args:
        numbers: Number slots of the codec.
        categories: Category slots of the codec.
        max_components: Size of the buffers; unused components have weight zero.
        shared_cells: Some atom stands on a cell of its grid, which the continuum may reach too.
    """

    log_weight: Tensor
    mean: Tensor
    covariance: Tensor
    category: Tensor
    widths: Tensor

    def __init__(
        self,
        numbers: Sequence[NumberSlot],
        categories: Sequence[CategorySlot],
        max_components: int,
        shared_cells: bool = False,
    ) -> None:
        super().__init__()
        self.numbers, self.categories = tuple(numbers), tuple(categories)
        self.shared_cells = shared_cells
        k, d, f64 = max_components, len(numbers), torch.float64
        weight = torch.full((k,), -torch.inf, dtype=f64)
        weight[0] = 0.0
        self.register_buffer("log_weight", weight)
        self.register_buffer("mean", torch.zeros(k, d, dtype=f64))
        self.register_buffer("covariance", torch.eye(d, dtype=f64).repeat(k, 1, 1))
        flat = [torch.full((slot.num_categories,), -slot.num_categories, dtype=f64) for slot in categories]
        logs = torch.cat([torch.log_softmax(part, 0) for part in flat]) if flat else torch.zeros(0, dtype=f64)
        self.register_buffer("category", logs.repeat(k, 1))
        self.register_buffer("widths", torch.arange(d, dtype=f64))
        self._num_used = k

    @property
    def layout(self) -> Layout:
        return layout_of(self.numbers, self.categories, self.widths)

    @property
    def mixture(self) -> Mixture:
        return Mixture(self.log_weight, self.mean, self.covariance, self.category).used()

    @property
    def simulated(self) -> bool:
        """A row may have several cells, whose joint probability is simulated; or an atom's cell is not told apart."""
        return self.shared_cells or sum(slot.quantized for slot in self.numbers) > 1

    def store(self, mixture: Mixture, widths: Tensor) -> None:
        """Keeps a fitted mixture; ``widths`` ``(d,)`` of cells in standard deviations order the simulation."""
        k = mixture.num_components
        self.log_weight.fill_(-torch.inf)
        self.log_weight[:k] = mixture.log_weight
        self.mean[:k], self.covariance[:k], self.category[:k] = mixture.mean, mixture.covariance, mixture.category
        self.widths.copy_(widths)

    @property
    def num_free(self) -> int:
        """Free numbers of the fitted mixture."""
        k, d = self.mixture.num_components, len(self.numbers)
        return k - 1 + k * (d + d * (d + 1) // 2 + sum(slot.num_categories - 1 for slot in self.categories))

    def score(self, cells: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        """Log-likelihood of encoded rows, with its discrete part."""
        d = len(self.numbers)
        draws = draws if self.simulated else 1
        uniform = noise.uniform(draws, d, stream="cells", device=cells.number.device)
        mixture, layout = self.mixture, self.layout
        values, se = importance_weighted(log_probs(mixture, layout, cells, uniform))
        if all(layout.quantized):
            discrete = values
        else:
            part = log_probs(mixture, layout, without_densities(cells, layout), uniform)
            discrete = importance_weighted(part)[0]
        return ModelLogProb(values, se if self.simulated else None, discrete)

    def traced_log_prob(self, cells: Cells) -> Tensor:
        """Log-likelihood of rows with at most one cell, ``(batch,)``, the same operations for every row."""
        if not torch.compiler.is_compiling():
            self._num_used = int(torch.isfinite(self.log_weight).sum())
        # A graph cannot choose by values of a buffer: it takes the number that the last ordinary call saw.
        every = self.log_weight, self.mean, self.covariance, self.category
        used = Mixture(*(part[: self._num_used] for part in every))
        return exact_log_probs(used, layout_of(self.numbers, self.categories), cells)

    def sample(self, codec: VectorCodec, num: int, generator: torch.Generator) -> TableBatch:
        """Decoded raw rows."""
        number, category = draw_rows(self.mixture, self.layout, num, generator)
        return codec.decode(number, category, torch.arange(num, device=number.device))

    def impute(
        self, codec: VectorCodec, batch: TableBatch, cells: Cells, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        """Completions of raw rows, holes drawn given what is observed."""
        out: list[TableBatch] = []
        size = max(1, len(cells))
        while len(out) < draws:
            # several draws at a time: rows of one pattern of holes share the roots of their covariances
            count = min(draws - len(out), max(1, ROWS_AT_ONCE // size))
            number, category = draw_given(self.mixture, self.layout, cells.repeat(count), generator)
            for draw in range(count):
                drawn = codec.decode(number[draw::count], category[draw::count], batch.rows)
                out.append(fill_holes(codec.schema, batch, drawn))
        return out
