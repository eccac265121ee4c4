"""Strictly increasing maps of numeric columns to a standard scale, all columns at once, with their log-derivatives.

Every map is ``x -> u -> w -> z``:

1. ``u = (x - shift) / unit``: shift and unit carry the column's unit, everything after them is a pure number. That
   makes the whole map equivariant: a table in other units (times 1024: bit by bit) has the same ``z``.
2. ``w``: the identity, or for a continuous column with declared bounds a map of its support onto the line:
   ``log u`` (lower bound), ``-log u`` (upper bound), ``log u - log(1 - u)`` (both).
3. ``z``: affine ``(w - m) / s``; or ``(asinh((w - m) / s) - a) / b``; or the quantile map, piecewise linear between
   knots ``(v_i, Phi^-1(F(v_i)))`` of ``v = (w - m) / s``, with ``z = z_K + asinh(beta (v - v_K))`` beyond the last knot
   (log-normal-like tails; with bounds, where ``v`` is a logarithm already, ``z_K + beta (v - v_K)``), likewise below
   the first.

Nothing is clipped: each map is a bijection of the column's support onto the line with a positive derivative.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genzoo.codecs.cell_knots import MOST_CELLS
from genzoo.codecs.scaler_fit import AFFINE, ASINH, QUANTILE, ScalerFit, fit_column
from genzoo.errors import SchemaError

FREE, ABOVE, BELOW, BETWEEN = 0, 1, 2, 3
Columns = Tensor | Sequence[int] | None
CHOICES = ("auto", "standardise", "robust", "asinh", "log", "logit", "quantile", "cells")
FAMILIES = {AFFINE: "affine", ASINH: "asinh", QUANTILE: "quantile"}


class ColumnScaler(nn.Module):
    """One strictly increasing map per column, ``z = T(x)``.

    Args:
        names: Name of each column, for messages and :meth:`describe`.
        choices: Per column one of ``auto``, ``standardise``, ``robust``, ``asinh``, ``log``, ``logit``, ``quantile``,
            ``cells``. With declared bounds the named map is applied after the bounds' own map.
        lower: Declared lower bound of a column's support, ``None`` without; give it for columns with a density only.
        upper: Likewise, upper bound.
        steps: Grid spacing of a quantized column, else 0: scales do not become finer than half of it.
        num_knots: Most knots of a quantile map. More follow the data closer, and carry more of their noise.
        cells: ``auto`` may take ``cells`` on a grid: for models that give frequent cells no probability of their own.

    Raises:
        SchemaError: ``log`` or ``logit`` for a column without the bounds it needs, or an unknown name.
    """

    shift: Tensor
    unit: Tensor
    middle: Tensor
    spread: Tensor
    after_middle: Tensor
    after_spread: Tensor
    inset_lower: Tensor
    inset_upper: Tensor
    tail_lower: Tensor
    tail_upper: Tensor
    knot_v: Tensor
    knot_z: Tensor
    knot_count: Tensor
    family: Tensor
    anchor: Tensor
    highest: Tensor
    bent_tails: Tensor

    def __init__(
        self,
        names: Sequence[str],
        choices: Sequence[str],
        lower: Sequence[float | None],
        upper: Sequence[float | None],
        steps: Sequence[float],
        num_knots: int = 256,
        cells: bool = False,
    ) -> None:
        super().__init__()
        if num_knots < 2:
            raise ValueError(f"num_knots must be at least 2, got {num_knots}")
        self.names, self.choices = tuple(names), tuple(choices)
        self.lower, self.upper, self.steps = tuple(lower), tuple(upper), tuple(steps)
        self.num_knots = num_knots
        self.cells = cells
        self.support = tuple(_support(*bounds) for bounds in zip(lower, upper, strict=True))
        for name, choice, support in zip(self.names, self.choices, self.support, strict=True):
            _check_choice(name, choice, support)
        count = len(self.names)
        zeros, ones = torch.zeros(count, dtype=torch.float64), torch.ones(count, dtype=torch.float64)
        for key in ("shift", "middle", "after_middle", "anchor"):
            self.register_buffer(key, zeros.clone())
        for key in ("unit", "spread", "after_spread", "inset_lower", "inset_upper", "tail_lower", "tail_upper"):
            self.register_buffer(key, ones.clone())
        highest = torch.tensor([0.0 if u is None else u for u in self.upper], dtype=torch.float64)
        self.register_buffer("highest", highest, persistent=False)
        bent_tails = torch.tensor([support == FREE for support in self.support], dtype=torch.bool)
        self.register_buffer("bent_tails", bent_tails, persistent=False)
        wide = any(steps) and (cells or "cells" in self.choices)
        most = num_knots + 2 * MOST_CELLS * wide
        self.register_buffer("knot_v", torch.full((count, most), torch.inf, dtype=torch.float64))
        self.register_buffer("knot_z", torch.full((count, most), torch.inf, dtype=torch.float64))
        self.register_buffer("knot_count", torch.zeros(count, dtype=torch.int64))
        self.register_buffer("family", torch.zeros(count, dtype=torch.int64))
        self._families: tuple[int, ...] = (AFFINE,) * count

    def fit(self, values: Sequence[Tensor]) -> None:
        """Fits every column.

        Args:
            values: Per column the observed training values inside its support, ``(n,)`` float64, no NaN; may be empty.
        """
        for index, sample in enumerate(values):
            sample = sample.detach().to("cpu", torch.float64)
            self._fit_support(index, sample)
            column = torch.tensor([index])
            w = self._to_line(sample.to(self.shift.device)[:, None], (index,), column.to(self.shift.device))[0][:, 0]
            step = self.steps[index] / float(self.unit[index]) if self.support[index] == FREE else 0.0
            choice = {"log": "standardise", "logit": "standardise"}.get(self.choices[index], self.choices[index])
            self._store(
                index, fit_column(w.cpu(), choice, step, self.num_knots, self.support[index] == FREE, self.cells)
            )
        if values:
            zero = torch.zeros(1, len(self.names), dtype=torch.float64, device=self.shift.device)
            self.anchor.copy_(self.inverse(zero)[0])

    def forward(self, x: Tensor, columns: Columns = None) -> tuple[Tensor, Tensor]:
        """``z = T(x)`` and ``log T'(x)``.

        Args:
            x: ``(batch, num_columns)`` float64 in the columns' units, strictly inside or on the declared bounds. On a
                bound itself, one point without volume, the value and derivative at the nearest training distance
                (halved) stand in, so that the density there is finite.
            columns: Indices of the columns that ``x`` holds; all of them if ``None``.
        """
        listed, columns = self._columns(columns)
        w, log_derivative = self._to_line(x, listed, columns)
        middle, spread = self.middle[columns], self.spread[columns]
        v = (w - middle) / spread
        z, log_derivative = v, log_derivative - spread.log()
        curves, knots = self._curved_and_knotted(listed)
        if curves:
            curved = self._index(curves)
            chosen, u = columns[curved], v[:, curved]
            after = (torch.asinh(u) - self.after_middle[chosen]) / self.after_spread[chosen]
            z = z.index_copy(1, curved, after)
            slope = -torch.hypot(u, torch.ones_like(u)).log() - self.after_spread[chosen].log()
            log_derivative = log_derivative.index_add(1, curved, slope)
        if knots:
            knotted = self._index(knots)
            after, slope = self._quantile(v[:, knotted], columns[knotted])
            z = z.index_copy(1, knotted, after)
            log_derivative = log_derivative.index_add(1, knotted, slope)
        return z, log_derivative

    def inverse(self, z: Tensor, columns: Columns = None) -> Tensor:
        """``x = T^-1(z)``; infinite where ``z`` is beyond what float64 can hold in the column's unit.

        Args:
            z: ``(batch, num_columns)`` float64.
            columns: Indices of the columns that ``z`` holds; all of them if ``None``.
        """
        listed, columns = self._columns(columns)
        v = z
        curves, knots = self._curved_and_knotted(listed)
        if curves:
            curved = self._index(curves)
            chosen = columns[curved]
            before = z[:, curved] * self.after_spread[chosen] + self.after_middle[chosen]
            v = v.index_copy(1, curved, torch.sinh(before))
        if knots:
            knotted = self._index(knots)
            v = v.index_copy(1, knotted, self._quantile_inverse(z[:, knotted], columns[knotted]))
        return self._from_line(v * self.spread[columns] + self.middle[columns], listed, columns)

    @property
    def bends(self) -> Tensor:
        """``(num_columns,)`` float64: how far ``z`` moves far out when the distance in the column's unit grows e-fold.

        0 where ``z`` moves with the distance itself (an affine map), or where the support has two ends and there is no
        far out. Of a support with one end, the other side counts. For ``asinh`` after a logarithm (never chosen by
        ``auto``), whose slope never settles, it is the slope at the middle.
        """
        support = torch.tensor(self.support, dtype=torch.int64, device=self.shift.device)
        free, above, one_sided = support == FREE, support == ABOVE, (support == ABOVE) | (support == BELOW)
        beta = torch.where(above, self.tail_upper, self.tail_lower)
        line = 1 / self.spread  # of a logarithm
        bent = torch.where(self.family == ASINH, 1 / self.after_spread, torch.ones_like(line))
        after = torch.where(self.family == ASINH, line / self.after_spread, line)
        after = torch.where(self.family == QUANTILE, line * beta, after)
        curved = free & (self.family != AFFINE)
        return torch.where(curved, bent, torch.where(one_sided, after, torch.zeros_like(line)))

    def describe(self) -> dict[str, str]:
        """The map of each column in a word or two, for reports."""
        before = {FREE: "", ABOVE: "log, ", BELOW: "log, ", BETWEEN: "logit, "}
        kinds = self.family.tolist()
        return {n: before[s] + FAMILIES[f] for n, s, f in zip(self.names, self.support, kinds, strict=True)}

    def _columns(self, columns: Columns) -> tuple[Sequence[int], Tensor]:
        """Indices as plain numbers and as a tensor."""
        if isinstance(columns, Tensor):
            return columns.tolist(), columns
        listed = range(len(self.names)) if columns is None else columns
        return listed, self._index(listed)

    def _curved_and_knotted(self, columns: Sequence[int]) -> tuple[list[int], list[int]]:
        """Positions of the columns whose map is an asinh, and a quantile map."""
        if not torch.compiler.is_compiling():
            self._families = tuple(self.family.tolist())
        # A graph cannot branch on the values of a buffer: it takes those that the last ordinary call saw.
        families = [self._families[column] for column in columns]
        curved, knotted = ([i for i, family in enumerate(families) if family == kind] for kind in (ASINH, QUANTILE))
        return curved, knotted

    def _index(self, positions: Sequence[int]) -> Tensor:
        return torch.tensor(positions, dtype=torch.int64, device=self.shift.device)

    def _fit_support(self, index: int, x: Tensor) -> None:
        """Sets shift, unit and insets of one column: the only numbers that carry its unit."""
        support, step = self.support[index], self.steps[index]
        shift, unit, insets = 0.0, 0.0, [1.0, 1.0]
        lower, upper = self.lower[index], self.upper[index]
        if support == FREE:
            fitted = ScalerFit.location_and_unit(x)
            shift, unit = fitted[0], fitted[1] or abs(fitted[0]) or step or 1.0
        elif lower is not None and upper is not None:
            shift, unit = lower, upper - lower
            insets = [_inset((x - lower) / unit, 0.25), _inset((upper - x) / unit, 0.25)]
        else:
            bound = lower if lower is not None else upper
            assert bound is not None
            distance = (x - bound).abs()
            distance = distance[distance > 0]
            shift, unit = bound, float(distance.median()) if len(distance) else abs(bound) or 1.0
            insets = [_inset(distance / unit, 1.0)] * 2
        self.shift[index], self.unit[index] = shift, unit
        self.inset_lower[index], self.inset_upper[index] = insets

    def _store(self, index: int, fitted: ScalerFit) -> None:
        self.family[index] = fitted.family
        for key in ("middle", "spread", "after_middle", "after_spread", "tail_lower", "tail_upper"):
            getattr(self, key)[index] = getattr(fitted, key)
        count = len(fitted.knot_v)
        self.knot_count[index] = count
        for buffer, knots in ((self.knot_v, fitted.knot_v), (self.knot_z, fitted.knot_z)):
            buffer[index] = torch.inf
            buffer[index, :count] = knots.to(buffer)

    def _to_line(self, x: Tensor, listed: Sequence[int], columns: Tensor) -> tuple[Tensor, Tensor]:
        """``w`` and ``log dw/dx``."""
        shift, unit = self.shift[columns], self.unit[columns]
        w = (x - shift) / unit
        log_derivative = (-unit.log()).expand_as(w)
        for support in (ABOVE, BELOW, BETWEEN):
            positions = self._where(support, listed)
            if not positions:
                continue
            here = self._index(positions)
            chosen = columns[here]
            to_lower = w[:, here] if support != BELOW else -w[:, here]
            to_lower = torch.where(to_lower == 0, self.inset_lower[chosen], to_lower)
            if support == BETWEEN:
                to_upper = (self.highest[chosen] - x[:, here]) / unit[here]
                on_upper = to_upper == 0
                to_upper = torch.where(on_upper, self.inset_upper[chosen], to_upper)
                to_lower = torch.where(on_upper, 1 - self.inset_upper[chosen], to_lower)
                line, slope = to_lower.log() - to_upper.log(), -to_lower.log() - to_upper.log()
            else:
                line, slope = to_lower.log() * (1 if support == ABOVE else -1), -to_lower.log()
            w = w.index_copy(1, here, line)
            log_derivative = log_derivative.index_add(1, here, slope)
        return w, log_derivative

    def _from_line(self, w: Tensor, listed: Sequence[int], columns: Tensor) -> Tensor:
        shift, unit = self.shift[columns], self.unit[columns]
        x = w * unit + shift
        for support in (ABOVE, BELOW, BETWEEN):
            positions = self._where(support, listed)
            if not positions:
                continue
            here = self._index(positions)
            line, low, width = w[:, here], shift[here], unit[here]
            if support == BETWEEN:
                upper = self.highest[columns[here]]
                # From the nearer bound, so that distances to either keep their relative precision.
                bounded = torch.where(line < 0, low + width * line.sigmoid(), upper - width * (-line).sigmoid())
            elif support == ABOVE:
                bounded = low + width * line.exp()
            else:
                bounded = low - width * (-line).exp()
            x = x.index_copy(1, here, bounded)
        return x

    def _where(self, support: int, columns: Sequence[int]) -> list[int]:
        """Positions of the columns with this support."""
        if support not in self.support:
            return []
        return [i for i, column in enumerate(columns) if self.support[column] == support]

    def _quantile(self, v: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Piecewise-linear map between knots, asinh beyond them, and the logarithm of its slope."""
        low_v, low_z, high_v, high_z, below, above = self._segment(v, self.knot_v, columns)
        bent = self.bent_tails[columns]
        slope = (high_z - low_z) / (high_v - low_v)
        z, log_slope = low_z + (v - low_v) * slope, slope.log()
        for outside, beta, knot_v, knot_z in (
            (below, -self.tail_lower[columns], low_v, low_z),
            (above, self.tail_upper[columns], high_v, high_z),
        ):
            # Inside values are replaced by the knot before the tail formula, so that no branch can overflow.
            far = torch.where(outside, (v - knot_v) * beta.abs(), torch.zeros_like(v))
            z = torch.where(outside, knot_z + torch.where(bent, torch.asinh(far), far), z)
            bend = torch.hypot(far, torch.ones_like(far)).log()
            tail = beta.abs().log() - torch.where(bent, bend, torch.zeros_like(far))
            log_slope = torch.where(outside, tail, log_slope)
        return z, log_slope

    def _quantile_inverse(self, z: Tensor, columns: Tensor) -> Tensor:
        low_v, low_z, high_v, high_z, below, above = self._segment(z, self.knot_z, columns)
        bent = self.bent_tails[columns]
        v = low_v + (z - low_z) * ((high_v - low_v) / (high_z - low_z))
        for outside, beta, knot_v, knot_z in (
            (below, self.tail_lower[columns], low_v, low_z),
            (above, self.tail_upper[columns], high_v, high_z),
        ):
            far = torch.where(outside, z - knot_z, torch.zeros_like(z))
            v = torch.where(outside, knot_v + torch.where(bent, torch.sinh(far), far) / beta, v)
        return v

    def _segment(self, value: Tensor, knots: Tensor, columns: Tensor) -> tuple[Tensor, ...]:
        """Both ends ``(v, z)`` of the segment of each value, and whether it lies below the first or above the last."""
        count = self.knot_count[columns]
        position = torch.searchsorted(knots[columns], value.detach().T.contiguous()).T
        right = torch.minimum(position.clamp(min=1), count - 1)
        ends = [
            table[columns].T.gather(0, index) for index in (right - 1, right) for table in (self.knot_v, self.knot_z)
        ]
        return *ends, position == 0, position >= count


def _support(lower: float | None, upper: float | None) -> int:
    return {(False, False): FREE, (True, False): ABOVE, (False, True): BELOW}.get(
        (lower is not None, upper is not None), BETWEEN
    )


def _check_choice(name: str, choice: str, support: int) -> None:
    if choice not in CHOICES:
        raise SchemaError(f"column '{name}': unknown scaler '{choice}'; use one of {', '.join(CHOICES)}")
    if choice == "log" and support not in (ABOVE, BELOW):
        raise SchemaError(
            f"column '{name}': scaler 'log' needs exactly one declared bound of a column with a density; "
            "declare 'lower' or 'upper' in the schema, or use asinh or quantile"
        )
    if choice == "logit" and support != BETWEEN:
        raise SchemaError(
            f"column '{name}': scaler 'logit' needs both bounds of a column with a density; "
            "declare 'lower' and 'upper' in the schema, or use asinh or quantile"
        )


def _inset(distance: Tensor, default: float) -> float:
    """Half the smallest positive distance to a bound in training, in units: where a value on the bound is placed."""
    positive = distance[distance > 0]
    return 0.5 * float(positive.min()) if len(positive) else default
