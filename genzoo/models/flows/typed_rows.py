"""The typed autoregressive density as a model of a codec's rows: loss, likelihood, samples and completions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.base import Cells
from genzoo.codecs.vector import VectorCodec
from genzoo.models.flows.ancestral import Drawn, draw, empty_cells
from genzoo.models.flows.autoregressive import AutoregressiveDensity
from genzoo.models.flows.completion import complete
from genzoo.models.flows.hiding import has_holes, hide_columns
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

HIDE_WHERE_HOLES = 0.1
MAX_PARTICLES_AT_ONCE = 65_536


class TypedRows(nn.Module):
    """An :class:`AutoregressiveDensity` between encoded rows and tables.

    Args:
        codec: The model's codec (not registered here).
        element: Family of the monotone maps.
        hide: Share of training rows in which cells are hidden at random; ``None``: 0.1 if training rows have holes,
            else 0.
        options: Further arguments of :class:`AutoregressiveDensity`.
    """

    hide: Tensor

    def __init__(self, codec: VectorCodec, element: Elementwise, hide: float | None, **options: object) -> None:
        super().__init__()
        if hide is not None and not 0 <= hide <= 1:
            raise ValueError(f"hide must lie between 0 and 1, got {hide}")
        self.density = AutoregressiveDensity(
            codec.numbers,
            codec.categories,
            codec.num_context,
            element=element,
            **options,  # type: ignore[arg-type]
        )
        self.numbers, self.categories = codec.numbers, codec.categories
        self.num_scored = codec.num_scored
        self.hide_wanted = hide
        self.register_buffer("hide", torch.tensor(0.0 if hide is None else hide))
        slots = [slot.scored for slot in codec.numbers] + [slot.scored for slot in codec.categories]
        self.register_buffer("_scored", torch.tensor(slots, dtype=torch.int64), persistent=False)
        self._scored: Tensor

    def initialise(self, codec: VectorCodec, cells: Cells) -> None:
        """Starting values from training rows: where atoms lie, frequencies of categories, whether to hide cells."""
        if codec.numbers and self.density.atom_lower.shape[1]:
            atoms = codec.atom_cells()
            self.density.set_atoms(atoms.lower, atoms.centre, atoms.upper)
        self.density.set_possible(codec.possible())
        self.density.set_frequencies(cells.category)
        if self.hide_wanted is None:
            self.hide.fill_(HIDE_WHERE_HOLES if has_holes(cells) else 0.0)

    def losses(self, cells: Cells) -> Tensor:
        """Negative log-likelihood of each row, ``(batch,)`` nats."""
        rate = float(self.hide)
        if rate:
            cells = hide_columns(cells, self.numbers, self.categories, rate)
        return -self.density.log_prob(cells).total()

    def log_prob(self, cells: Cells) -> ModelLogProb:
        """Exact log-likelihood in model space, with what each scored column adds to it.

        A column's share is the log of its conditional given earlier columns; in a continuous block with alternating
        orders, its terms of the change of variables (base density and slopes), which only as a sum are a likelihood.
        """
        slots = self.density.log_prob(cells)
        each = torch.cat([slots.number, slots.category], 1)
        by_column = each.new_zeros(each.shape[0], self.num_scored).index_add(1, self._scored, each)
        return ModelLogProb(slots.total(), discrete=slots.discrete(), by_column=by_column)

    def sample(
        self, codec: VectorCodec, num_rows: int, context: Tensor | None, generator: torch.Generator
    ) -> TableBatch:
        """Decoded rows."""
        weight = self.density.weight
        if context is None:
            context = torch.zeros(num_rows, codec.num_context, device=weight.device)
        drawn = draw(
            self.density, empty_cells(self.density, num_rows, context.to(weight.device)), codec.snap, generator
        )
        return codec.decode(drawn.number, drawn.category, torch.arange(num_rows, device=weight.device))

    def impute(
        self,
        codec: VectorCodec,
        batch: TableBatch,
        cells: Cells,
        draws: int,
        generator: torch.Generator,
        particles: int,
    ) -> list[TableBatch]:
        """Rows with every hole of a scored column filled; observed cells bit by bit as they were."""
        holes = cells.number_hole.any(1) | (cells.category < 0).any(1)
        rows = holes.nonzero().flatten()
        filled = [(batch.numeric.clone(), batch.codes.clone()) for _ in range(draws)]
        size = max(1, MAX_PARTICLES_AT_ONCE // max(particles, 4 * draws))
        for index in rows.split(size):
            part = batch.select(index)
            for (numeric, codes), drawn in zip(
                filled,
                complete(self.density, cells.select(index), codec.snap, draws, generator, particles),
                strict=True,
            ):
                decoded = _decode(codec, drawn, part)
                numeric[index] = torch.where(part.numeric.isnan(), decoded.numeric, part.numeric)
                codes[index] = torch.where(part.codes < 0, decoded.codes, part.codes)
        return [batch.with_values(numeric=numeric, codes=codes) for numeric, codes in filled]


def _decode(codec: VectorCodec, drawn: Drawn, part: TableBatch) -> TableBatch:
    return codec.decode(drawn.number, drawn.category, part.rows, part)
