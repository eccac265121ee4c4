"""The tokens codec: a row as symbols, one a cell, whose bins keep the number a density or the probability of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import inf

import numpy as np
import torch
from torch import Tensor

from genzoo.codecs import bin_spikes, bin_tails
from genzoo.codecs.base import Codec
from genzoo.codecs.bin_fit import fit_bins
from genzoo.codecs.bin_uniform import fit_uniform
from genzoo.codecs.column_plan import grid_ends, offsets, pool
from genzoo.codecs.spikes import frequent_points
from genzoo.tables.batch import HOLE, TableBatch
from genzoo.tables.schema import Column, Schema

MASKED = -1
"""What stands in place of a symbol that is not known: a hole, or a cell that is masked."""
TINY_WIDTH = 1e-300
MAX_STEPS = 64
MOST_FREQUENT = 1024
"""Most values of a column on a grid that get a probability of their own inside their bins."""


@dataclass(frozen=True)
class TokenSlot:
    """One cell of model space.

    Args:
        column: Name of the column it encodes.
        num_symbols: Size of its vocabulary: categories, or atoms and then bins.
        num_atoms: The first so many symbols are atoms (numeric columns).
        num_bins: Bins of a numeric column, ascending, after the atoms; 0 for categories.
        scored: Index into the schema's scored columns; -1 for context.
    """

    column: str
    num_symbols: int
    num_atoms: int
    num_bins: int
    scored: int


@dataclass(frozen=True)
class TokenRows:
    """Encoded rows of the tokens codec.

    Args:
        rows: ``(batch,)`` int64 row numbers.
        tokens: ``(batch, num_slots)`` int64 symbols of scored cells; -1 is a hole.
        context: ``(batch, num_context)`` int64 symbols of context cells; -1 is a hole.
        log_volume: ``(batch, num_scored_columns)`` float64: log-density, or log-probability of the cell, given its bin.
        outside: ``(batch,)`` bool.
    """

    rows: Tensor
    tokens: Tensor
    context: Tensor
    log_volume: Tensor
    outside: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, index: Tensor | slice) -> TokenRows:
        """The rows at ``index``."""
        return TokenRows(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def default_num_bins(schema: Schema) -> int:
    """``2 n^(1/3)`` bins for ``n`` training rows, between 16 and 64; 32 where their number is not known."""
    rows = schema.num_training_rows
    return int(min(max(round(2 * rows ** (1 / 3)), 16), 64)) if rows else 32


MAX_LISTED = 2**16
"""Most bins of a column whose symbols are listed one by one; more can only be spelled in bits."""


class TokenCodec(Codec):
    r"""Encodes rows as one symbol a cell, for discrete diffusions and any-order models.

    A category is its own symbol. A number falls into an atom (a symbol of its own) or a bin. Bins hold equal shares of
    the training rows; a value with a bin's rows has a bin to itself. The likelihood of a number is

    .. math:: \log p(x) = \log P(\text{symbol}) + \log p(x \mid \text{symbol}),

    the second term being ``log_volume``: within a closed bin the density is linear (or flat), beyond the outermost
    edges a generalised Pareto tail, so every number has a positive density. On a grid, edges lie half-way between
    points and the second term is the probability of the cell given the bin: 0 where a bin is one cell; frequent values
    have a probability of their own inside it (:mod:`genzoo.codecs.bin_spikes`). Cells that are atoms are cut out of the
    bins, so nothing is counted twice. Bins whose vocabulary is not used up are not ``valid``.

    Shapes depend on the schema and ``num_bins`` alone.

    Args:
        schema: Schema of the training view.
        num_bins: Bins of a continuous column (twice as many for a quantized one); ``None``: by the number of training
            rows, see :func:`default_num_bins`. More follow finer detail and need more rows. A mapping says the number
            of each numeric column.
        shape: Density within a bin: ``linear`` meets its neighbours, ``flat`` is a histogram.
        spacing: ``quantile``: bins with equal shares of the rows. ``uniform``: bins of one width between a bin
            ``below`` and a bin ``above``, which carry the tails; always flat.
        finest: With uniform spacing: use every bin between the smallest and the largest training row, instead of as
            many as the rows resolve (twice the interquartile range over ``n^(1/3)``, never finer than the values).
    """

    edges: Tensor
    slope: Tensor
    possible: Tensor
    used: Tensor
    tail_scale: Tensor
    tail_shape: Tensor
    frequent: Tensor
    frequent_share: Tensor
    _sizes: Tensor
    _number_slot: Tensor
    _number_column: Tensor
    _number_from: Tensor
    _code_slot: Tensor
    _code_from: Tensor
    _num_atoms: Tensor
    _grid: Tensor
    _missing_atom: Tensor
    _step: Tensor
    _origin: Tensor
    _low: Tensor
    _high: Tensor
    _atoms: Tensor

    def __init__(
        self,
        schema: Schema,
        num_bins: int | Mapping[str, int] | None = None,
        shape: str = "linear",
        spacing: str = "quantile",
        finest: bool = False,
    ) -> None:
        super().__init__(schema)
        num_bins = default_num_bins(schema) if num_bins is None else num_bins
        least = num_bins if isinstance(num_bins, int) else min(num_bins.values(), default=8)
        if least < 8:
            raise ValueError(f"num_bins must be at least 8, got {least}")
        if shape not in ("linear", "flat"):
            raise ValueError(f"shape must be 'linear' or 'flat', got '{shape}'")
        if spacing not in ("quantile", "uniform"):
            raise ValueError(f"spacing must be 'quantile' or 'uniform', got '{spacing}'")
        self.shape = shape
        self.uniform = spacing == "uniform"
        self.finest = finest
        scored = {column.name: index for index, column in enumerate(schema.scored)}
        self.num_scored = len(scored)
        numeric_source, code_source = offsets(schema.numeric), offsets(schema.categorical)
        self._numeric = [c for c in (*schema.scored, *schema.context) if c.is_numeric]
        number = {column.name: index for index, column in enumerate(self._numeric)}
        slots: list[TokenSlot] = []
        self.num_slots = sum(column.width for column in schema.scored)
        number_slots: list[int] = []
        number_column: list[int] = []
        number_from: list[int] = []
        code_slots: list[int] = []
        code_from: list[int] = []
        for column in (*schema.scored, *schema.context):
            bins = self._bins_of(column, num_bins) if column.is_numeric else 0
            symbols = column.num_atoms + bins if column.is_numeric else max(column.num_categories, 1)
            for cell in range(column.width):
                if column.is_numeric:
                    number_slots.append(len(slots))
                    number_column.append(number[column.name])
                    number_from.append(numeric_source[column.name] + cell)
                else:
                    code_slots.append(len(slots))
                    code_from.append(code_source[column.name] + cell)
                atoms = column.num_atoms if column.is_numeric else 0
                slots.append(TokenSlot(column.name, symbols, atoms, bins, scored.get(column.name, -1)))
        self.all_slots = tuple(slots)
        self.slots = self.all_slots[: self.num_slots]
        self.context_slots = self.all_slots[self.num_slots :]
        self.num_context = len(self.context_slots)
        self.max_symbols = max(slot.num_symbols for slot in self.slots)
        self._constants(number_slots, number_column, number_from, code_slots, code_from)
        self._fitted_buffers([self._bins_of(column, num_bins) for column in self._numeric])

    @staticmethod
    def _bins_of(column: Column, num_bins: int | Mapping[str, int]) -> int:
        if isinstance(num_bins, Mapping):
            return num_bins[column.name]
        return 2 * num_bins + 4 * len(column.atoms) if column.kind == "quantized" else num_bins

    def _constants(
        self,
        number_slots: list[int],
        number_column: list[int],
        number_from: list[int],
        code_slots: list[int],
        code_from: list[int],
    ) -> None:
        """Buffers that the schema fixes: they move with the module and are rebuilt, not stored."""

        def constant(name: str, values: object, dtype: torch.dtype = torch.int64) -> None:
            self.register_buffer(f"_{name}", torch.tensor(values, dtype=dtype), persistent=False)

        for name, values in (
            ("sizes", [slot.num_symbols for slot in self.slots]),
            ("number_slot", number_slots),
            ("number_column", number_column),
            ("number_from", number_from),
            ("code_slot", code_slots),
            ("code_from", code_from),
            ("num_atoms", [column.num_atoms for column in self._numeric]),
        ):
            constant(name, values)
        grid = [column.kind == "quantized" for column in self._numeric]
        constant("grid", grid, torch.bool)
        constant("missing_atom", [column.missing == "value" for column in self._numeric], torch.bool)
        constant("step", [c.step if g else 1.0 for c, g in zip(self._numeric, grid)], torch.float64)
        constant("origin", [c.origin if g else 0.0 for c, g in zip(self._numeric, grid)], torch.float64)
        lows, highs = [], []
        for column, is_grid in zip(self._numeric, grid):
            first, last = grid_ends(column)
            bounded = column.is_scored
            low = first - 0.5 if is_grid else -inf if column.lower is None else column.lower
            high = last + 0.5 if is_grid else inf if column.upper is None else column.upper
            lows.append(low if bounded else -inf)
            highs.append(high if bounded else inf)
        constant("low", lows, torch.float64)
        constant("high", highs, torch.float64)
        most = max([len(column.atoms) for column in self._numeric], default=0)
        atoms = [list(c.atoms) + [torch.nan] * (most - len(c.atoms)) for c in self._numeric]
        constant("atoms", np.array(atoms, dtype=np.float64).reshape(len(self._numeric), most).tolist(), torch.float64)
        self._atoms = self._atoms.reshape(len(self._numeric), most)
        # By the arithmetic of encoding, so that a value and its atom are equal bit by bit.
        self._atoms = self._position(self._atoms.T, torch.arange(len(self._numeric))).T.contiguous()

    def _fitted_buffers(self, bins: list[int]) -> None:
        count, most = len(bins), max(bins, default=1)
        float64 = torch.float64
        if self.uniform:  # start and width of the bins instead of a list of edges
            most = most if most <= MAX_LISTED else 1
            self.register_buffer("edges", torch.tensor([[0.0, 1.0]], dtype=float64).repeat(count, 1))
        else:
            self.register_buffer("edges", torch.full((count, most + 1), inf, dtype=float64))
        self.register_buffer("slope", torch.zeros(count, 1 if self.uniform else most, dtype=float64))
        self.register_buffer("possible", torch.zeros(count, most, dtype=torch.bool))
        self.register_buffer("used", torch.ones(count, dtype=torch.int64))
        self.register_buffer("tail_scale", torch.ones(count, 2, dtype=float64))
        self.register_buffer("tail_shape", torch.zeros(count, 2, dtype=float64))
        most = MOST_FREQUENT if any(c.kind == "quantized" and c.is_scored for c in self._numeric) else 0
        self.register_buffer("frequent", torch.full((count, most), inf, dtype=float64))
        self.register_buffer("frequent_share", torch.zeros(count, most, dtype=float64))

    # ---- fitting --------------------------------------------------------------------------------------------------

    def _fit(self, batch: TableBatch) -> None:
        x = batch.numeric.to(torch.float64)[:, self._number_from]
        u = self._position(x, self._number_column)
        atom = self._atom(u)
        low, high = self._low[self._number_column], self._high[self._number_column]
        good = ~x.isnan() & (atom < 0) & (u >= low) & (u <= high)
        for index, column in enumerate(self._numeric):
            cells = self._number_column == index
            values = pool(u[:, cells], good[:, cells]).cpu().numpy()
            slot = self.all_slots[int(self._number_slot[cells][0])]
            fit = self._fit_uniform if self.uniform else self._fit_quantile
            fit(index, slot, values)
            if column.kind == "quantized" and column.is_scored:
                self._fit_frequent(index, values)

    def _support(self, index: int) -> tuple[bool, tuple[float, float], tuple[float, ...]]:
        """Of a numeric column: whether it is on a grid, the ends of its support, and the atoms cut out of its bins."""
        grid = bool(self._grid[index])
        atoms = self._atoms[index, : len(self._numeric[index].atoms)].tolist() if grid else []
        return grid, (float(self._low[index]), float(self._high[index])), tuple(atoms)

    def _fit_uniform(self, index: int, slot: TokenSlot, values: np.ndarray) -> None:
        grid, ends, atoms = self._support(index)
        even = fit_uniform(values, slot.num_bins, slot.num_atoms, grid=grid, ends=ends, atoms=atoms, finest=self.finest)
        self.edges[index] = torch.tensor([even.start, even.width], dtype=torch.float64)
        self.used[index] = even.used
        self.tail_scale[index] = torch.tensor(even.scale, dtype=torch.float64)
        self.tail_shape[index] = torch.tensor(even.shape, dtype=torch.float64)
        if slot.num_bins <= MAX_LISTED:
            every = torch.arange(self.possible.shape[1], device=self.edges.device)[:, None]
            self.possible[index] = self._possible_bin(every, torch.full_like(every[0], index))[:, 0]

    def _fit_quantile(self, index: int, slot: TokenSlot, values: np.ndarray) -> None:
        grid, ends, atoms = self._support(index)
        bins = fit_bins(
            values,
            slot.num_bins,
            grid=grid,
            low=ends[0],
            high=ends[1],
            atoms=atoms,
            linear=self.shape == "linear",
        )
        used = len(bins.slope)
        self.edges[index] = inf
        self.edges[index, : used + 1] = torch.from_numpy(bins.edges)
        self.slope[index] = 0.0
        self.slope[index, :used] = torch.from_numpy(bins.slope)
        self.possible[index] = False
        self.possible[index, :used] = torch.from_numpy(bins.possible)
        self.used[index] = used
        self.tail_scale[index] = torch.tensor(bins.scale, dtype=torch.float64)
        self.tail_shape[index] = torch.tensor(bins.shape, dtype=torch.float64)

    def _fit_frequent(self, index: int, values: np.ndarray) -> None:
        """Frequent points of a column on a grid, in bins of several cells, and their shares of their bins."""
        self.frequent[index], self.frequent_share[index] = inf, 0.0
        x = torch.from_numpy(values).to(self.edges)
        points = frequent_points(x.cpu(), MOST_FREQUENT).sort().values.to(x)
        column = torch.tensor([index], device=x.device)
        bins = self._bin(points[:, None], column)
        lower, upper = self._ends(bins, column)
        wide = (upper - lower - self._atoms_within(lower, upper, column) > 1)[:, 0]
        points, bins = points[wide], bins[wide]
        if not len(points):
            return
        smooth = self._log_smooth(points[:, None], bins, column)[:, 0].exp()
        held, place = torch.unique(bins[:, 0], return_inverse=True)
        every, counts = torch.unique(self._bin(x[:, None], column)[:, 0], return_counts=True)
        rows = counts[torch.searchsorted(every, held)].to(x)
        ordered = x.sort().values
        count = (torch.searchsorted(ordered, points, right=True) - torch.searchsorted(ordered, points)).to(x)
        self.frequent[index, : len(points)] = points
        self.frequent_share[index, : len(points)] = bin_spikes.fit_shares(count, smooth, place, rows)

    @property
    def valid(self) -> Tensor:
        """``(num_slots, max_symbols)`` bool: symbols that a scored cell can take."""
        symbol = torch.arange(self.max_symbols, device=self.edges.device)
        valid = symbol < self._sizes[:, None]
        scored = self._number_slot < self.num_slots
        place, column = self._number_slot[scored], self._number_column[scored]
        bins = symbol - self._num_atoms[column][:, None]
        inside = bins.clamp(0, self.possible.shape[1] - 1)
        valid[place] &= (bins < 0) | self.possible[column].gather(1, inside)
        return valid

    # ---- encoding -------------------------------------------------------------------------------------------------

    def encode(self, batch: TableBatch) -> TokenRows:
        """Symbols of raw rows; a value beyond declared bounds marks its row ``outside`` and is moved to its bound."""
        x = batch.numeric.to(torch.float64)[:, self._number_from]
        column = self._number_column
        u = self._position(x, column)
        atom = self._atom(u)
        missing = x.isnan()
        beyond = ~missing & (atom < 0) & ((u < self._low[column]) | (u > self._high[column]))
        # On a grid the ends of the support are edges of cells, so the nearest cell lies half a step inside.
        inset = torch.where(self._grid[column], 0.5, 0.0)
        inside = torch.where(missing, 0.0, u)
        inside = torch.minimum(torch.maximum(inside, self._low[column] + inset), self._high[column] - inset)
        bins = self._bin(inside, column)
        number = torch.where(atom >= 0, atom, torch.where(missing, MASKED, bins + self._num_atoms[column]))
        tokens = torch.full((len(batch), len(self.all_slots)), MASKED, dtype=torch.int64, device=batch.codes.device)
        tokens[:, self._number_slot] = number
        tokens[:, self._code_slot] = batch.codes[:, self._code_from].clamp(min=HOLE)
        scored = self._number_slot < self.num_slots
        present = ~missing & (atom < 0)
        volume = torch.where(present, self._log_within(inside, bins, column), 0.0)[:, scored]
        where = torch.tensor([s.scored for s in self.all_slots], device=tokens.device)[self._number_slot[scored]]
        log_volume = volume.new_zeros(len(batch), self.num_scored).index_add(1, where, volume)
        return TokenRows(
            rows=batch.rows,
            tokens=tokens[:, : self.num_slots],
            context=tokens[:, self.num_slots :],
            log_volume=log_volume,
            outside=beyond[:, scored].any(1),
        )

    # ---- decoding -------------------------------------------------------------------------------------------------

    def decode(
        self, tokens: Tensor, rows: Tensor, generator: torch.Generator, context: TableBatch | None = None
    ) -> TableBatch:
        """Raw rows of symbols, numbers drawn within their bins.

        Args:
            tokens: ``(batch, num_slots)`` int64; -1 stays a hole.
            rows: ``(batch,)`` row numbers of the result.
            generator: Draws the position within a bin (on the host).
            context: Rows whose other cells are kept; without it context cells are holes.
        """
        if context is None:
            width = sum(c.width for c in self.schema.numeric)
            numeric = torch.full((len(tokens), width), torch.nan, dtype=torch.float64, device=tokens.device)
            codes = tokens.new_full((len(tokens), sum(c.width for c in self.schema.categorical)), HOLE)
        else:
            numeric, codes = context.numeric.to(torch.float64).clone(), context.codes.clone()
        scored = self._number_slot < self.num_slots
        column, place = self._number_column[scored], self._number_slot[scored]
        token = tokens[:, place]
        level = torch.rand(token.shape, generator=generator, dtype=torch.float64).to(tokens.device)
        level = level.clamp(2.0**-54, 1 - 2.0**-53)
        bins = (token - self._num_atoms[column]).clamp(min=0)
        u = self._draw(bins, level, column)
        x = torch.where(self._grid[column], self._origin[column] + u * self._step[column], u)
        if self._atoms.shape[1]:
            atoms = self._atoms[column]
            index = token.clamp(0, atoms.shape[1] - 1)
            value = atoms.expand(len(token), -1, -1).gather(2, index[..., None])[..., 0]
            value = torch.where(self._grid[column], self._origin[column] + value * self._step[column], value)
            x = torch.where((token >= 0) & (token < self._num_atoms[column]), value, x)
        last = self._num_atoms[column] - 1
        x = torch.where((token < 0) | (self._missing_atom[column] & (token == last)), torch.nan, x)
        numeric[:, self._number_from[scored]] = x
        chosen = self._code_slot < self.num_slots
        codes[:, self._code_from[chosen]] = tokens[:, self._code_slot[chosen]]
        return TableBatch(numeric, codes, rows)

    # ---- parts ----------------------------------------------------------------------------------------------------

    def _position(self, x: Tensor, column: Tensor) -> Tensor:
        """Numbers of grid points of quantized columns, other values as they are."""
        index = ((x - self._origin[column]) / self._step[column]).round()
        return torch.where(self._grid[column], index, x)

    def _atom(self, u: Tensor) -> Tensor:
        """Index of the atom of each number, -1 without."""
        column = self._number_column
        atom = torch.full_like(u, -1, dtype=torch.int64)
        if self._atoms.shape[1]:
            same = u[:, :, None] == self._atoms[column]
            atom = torch.where(same.any(2), same.to(torch.int8).argmax(2), atom)
        return torch.where(u.isnan() & self._missing_atom[column], self._num_atoms[column] - 1, atom)

    def _ends(self, bins: Tensor, column: Tensor) -> tuple[Tensor, Tensor]:
        """Lower and upper edge of bins."""
        if not self.uniform:
            return self.edges[column, bins], self.edges[column, bins + 1]
        start, width = self.edges[column].unbind(-1)
        low, high, inner = self._low[column], self._high[column], self.used[column] - 2
        edge = torch.minimum(start + (bins - 1).clamp(min=0) * width, high)
        lower = torch.where(bins == 0, low, edge)
        upper = torch.where(
            bins == 0, start, torch.where(bins > inner, high, torch.minimum(start + bins * width, high))
        )
        return lower, upper

    def _atoms_within(self, lower: Tensor, upper: Tensor, column: Tensor) -> Tensor | float:
        """How many grid points between two edges are atoms; only uniform bins hold any."""
        if not self.uniform or not self._atoms.shape[1]:
            return 0.0
        atoms = self._atoms[column]
        inside = (atoms > lower[..., None]) & (atoms < upper[..., None])
        return torch.where(self._grid[column], inside.sum(-1), 0).to(lower.dtype)

    def _possible_bin(self, bins: Tensor, column: Tensor) -> Tensor:
        """Whether bins are in use and hold anything."""
        used = bins < self.used[column]
        if not self.uniform:
            return used & self.possible[column, bins.clamp(max=self.possible.shape[1] - 1)]
        lower, upper = self._ends(bins, column)
        return used & (upper - lower - self._atoms_within(lower, upper, column) > 0)

    def used_symbols(self) -> list[int]:
        """Symbols of each scored cell that are in use after fitting: all further ones stand for nothing."""
        sizes = [slot.num_symbols for slot in self.slots]
        for place, column in zip(self._number_slot.tolist(), self._number_column.tolist(), strict=True):
            if place < self.num_slots:
                sizes[place] = self.slots[place].num_atoms + int(self.used[column])
        return sizes

    def meaningful(self, tokens: Tensor) -> Tensor:
        """``(batch, num_slots)`` bool: the symbol stands for something; holes (-1) count as meaningful."""
        good = tokens < self._sizes
        scored = self._number_slot < self.num_slots
        column, place = self._number_column[scored], self._number_slot[scored]
        token = tokens[:, place]
        bins = token - self._num_atoms[column]
        good[:, place] = (bins < 0) | self._possible_bin(bins.clamp(min=0), column)
        return good

    def existing(self, tokens: Tensor) -> Tensor:
        """The symbols, each that stands for nothing replaced by one nearby that does; holes stay."""
        sizes = torch.tensor(self.used_symbols(), device=tokens.device)
        tokens = torch.minimum(tokens, sizes - 1)
        for offset in range(1, MAX_STEPS):
            good = self.meaningful(tokens)
            if bool(good.all()):
                break
            for other in (tokens - offset, tokens + offset):
                there = self.meaningful(other.clamp(min=0)) & (other >= 0) & (other < sizes)
                tokens, good = torch.where(~good & there, other, tokens), good | there
        return tokens

    def _bin(self, u: Tensor, column: Tensor) -> Tensor:
        if self.uniform:
            start, width = self.edges[column].unbind(-1)
            inner = (self.used[column] - 2).to(u.dtype)
            place = torch.minimum(((u - start) / width).floor(), inner)
            at_top = (u - start == inner * width) & (inner > 0)
            place = torch.where(u < start, -1.0, torch.where(at_top, inner - 1, place))
            return (place + 1).to(torch.int64)
        inner = self.edges[column, 1:].contiguous()
        found = torch.searchsorted(inner, u.T.contiguous(), right=True).T
        return torch.minimum(found, self.used[column] - 1)

    def _log_within(self, u: Tensor, bins: Tensor, column: Tensor) -> Tensor:
        """Log-density of a position, or log-probability of its cell, given its bin."""
        smooth = self._log_smooth(u, bins, column)
        return smooth if not self.frequent.shape[1] else self._within(bins, column).log_probability(u, smooth)

    def _within(self, bins: Tensor, column: Tensor) -> bin_spikes.Within:
        return bin_spikes.Within(self.frequent[column], self.frequent_share[column], *self._ends(bins, column))

    def _log_smooth(self, u: Tensor, bins: Tensor, column: Tensor) -> Tensor:
        """The same without frequent points."""
        low, high = self._ends(bins, column)
        closed = low.isfinite() & high.isfinite()
        width = torch.where(closed, high - low, 1.0)
        if self.uniform:
            inner = -torch.log((width - self._atoms_within(low, high, column)).clamp(min=TINY_WIDTH))
        else:
            share = torch.where(closed, (u - low) / width, 0.5)
            inner = torch.log1p(self.slope[column, bins] * (2 * share - 1)) - torch.log(width)
        upper = low.isfinite()
        distance = torch.where(closed, 0.5, torch.where(upper, u - low, high - u)).clamp(min=0.0)
        side = upper.to(torch.int64)
        scale, shape = self.tail_scale[column, side], self.tail_shape[column, side]
        cell = bin_tails.log_cell((distance - 0.5).clamp(min=0.0), scale, shape)
        tail = torch.where(self._grid[column], cell, bin_tails.log_density(distance, scale, shape))
        return torch.where(closed, inner, tail)

    def _draw(self, bins: Tensor, level: Tensor, column: Tensor) -> Tensor:
        """Positions drawn within bins by inverse cdf; on a grid the number of a point."""
        bins = torch.minimum(bins, self.used[column] - 1)
        if not self.frequent.shape[1]:
            return self._draw_smooth(bins, level, column)
        point, level = self._within(bins, column).draw(level)
        return torch.where(point.isnan(), self._draw_smooth(bins, level, column), point)

    def _draw_smooth(self, bins: Tensor, level: Tensor, column: Tensor) -> Tensor:
        low, high = self._ends(bins, column)
        closed = low.isfinite() & high.isfinite()
        slope = torch.zeros_like(level) if self.uniform else self.slope[column, bins]
        # cdf (1 - r) s + r s^2 = level, its root in the form without cancellation
        root = ((1 - slope).square() + 4 * slope * level).sqrt()
        share = 2 * level / (1 - slope + root)
        inside = low + share * (high - low)
        upper = low.isfinite()
        side = upper.to(torch.int64)
        distance = bin_tails.quantile(level, self.tail_scale[column, side], self.tail_shape[column, side])
        u = torch.where(closed, inside, torch.where(upper, low + distance, high - distance))
        grid = torch.minimum(torch.maximum(u.round(), low + 0.5), high - 0.5)
        if self.uniform and self._atoms.shape[1]:
            grid = torch.where(closed, self._past_atoms(low, high, level, column), grid)
        return torch.where(self._grid[column], grid, u)

    def _past_atoms(self, low: Tensor, high: Tensor, level: Tensor, column: Tensor) -> Tensor:
        """A grid point between two edges, each that is no atom equally likely."""
        free = (high - low - self._atoms_within(low, high, column)).clamp(min=1.0)
        point = low + 0.5 + torch.minimum((level * free).floor(), free - 1)
        atoms = self._atoms.nan_to_num(inf).sort(1).values[column]
        for index in range(atoms.shape[-1]):
            atom = atoms[..., index].expand_as(point)
            point = torch.where((atom > low) & (atom <= point), point + 1, point)
        return point
