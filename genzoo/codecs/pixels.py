"""The pixel codec: a bounded grid of values as points of R^D, by uniform noise and a logit."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import log

import torch
from torch import Tensor

from genzoo.codecs.base import Codec
from genzoo.codecs.column_plan import grid_ends
from genzoo.errors import SchemaError
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Schema


@dataclass(frozen=True)
class Pixels:
    """Encoded pictures.

    Args:
        rows: ``(batch,)`` int64 row numbers.
        value: ``(batch, num_features)`` float64 place on the grid, 0 to ``levels - 1``; 0 for a hole.
        hole: ``(batch, num_features)`` bool: the pixel is missing.
        log_volume: ``(batch, 1)`` float64 zeros: what the noise contributes comes from :meth:`PixelCodec.dense`.
        outside: ``(batch,)`` bool: a value beyond the bounds.
    """

    rows: Tensor
    value: Tensor
    hole: Tensor
    log_volume: Tensor
    outside: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, index: Tensor | slice) -> Pixels:
        """The rows at ``index``."""
        return Pixels(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def repeat(self, draws: int) -> Pixels:
        """Every row ``draws`` times, neighbours."""
        return Pixels(**{field.name: getattr(self, field.name).repeat_interleave(draws, 0) for field in fields(self)})


class PixelCodec(Codec):
    r"""Uniform dequantisation and a logit, for one bounded block on a grid (a picture).

    .. math:: v = (k + u) / K, \qquad w = (v + \alpha)(1 - 2\alpha), \qquad y = \frac{1}{a} \log\frac{w}{1 - w}

    with ``k`` the place of the value on its grid of ``K`` levels and ``u`` uniform on (0, 1). Then
    ``log P(k) >= E_u[log p(y) + log |dy/dk|]``, in nats: the likelihood of a picture is a lower bound, tight up to the
    width of a cell. Nothing is fitted.

    Args:
        schema: One scored column: numeric, quantized, with both bounds.
        smoothness: ``a``; a larger number gives narrower tails near the bounds.
        alpha: Keeps ``w`` off 0 and 1; unit: the whole range.

    Shapes: ``dense`` and ``decode`` take and give ``(batch, num_features)``, ``num_features`` the width of the block.

    References:
        Dinh, Sohl-Dickstein, Bengio (2017), arXiv:1605.08803; Papamakarios, Pavlakou, Murray (2017), arXiv:1705.07057.
    """

    def __init__(self, schema: Schema, smoothness: float = 1.0, alpha: float = 1e-6) -> None:
        super().__init__(schema)
        if not fits_pixels(schema):
            raise SchemaError(
                "pixels need a schema of one scored column, quantized with declared lower and upper bounds and no "
                "atoms; it has " + ", ".join(f"'{c.name}' ({c.kind})" for c in schema.scored)
            )
        if smoothness <= 0 or not 0 < alpha < 0.5:
            raise ValueError(f"smoothness must be above 0 and alpha within (0, 0.5); got {smoothness} and {alpha}")
        column = schema.scored[0]
        self.shape = column.shape
        self.num_features = column.width
        first, last = grid_ends(column)
        self.step, self.origin = float(column.step or 1.0), column.origin + first * float(column.step or 1.0)
        self.levels = int(last - first) + 1
        self.smoothness, self.alpha = smoothness, alpha
        names = [c.name for c in schema.numeric]
        start = sum(c.width for c in schema.numeric[: names.index(column.name)])
        self._place = slice(start, start + column.width)
        self._num_numeric = sum(c.width for c in schema.numeric)
        self._num_codes = sum(c.width for c in schema.categorical)

    def _fit(self, batch: TableBatch) -> None:
        pass

    def encode(self, batch: TableBatch) -> Pixels:
        """Places on the grid; a value beyond the bounds marks its row ``outside`` and is moved to the nearest."""
        x = batch.numeric[:, self._place].double()
        hole = x.isnan()
        index = ((torch.where(hole, self.origin, x) - self.origin) / self.step).round()
        value = index.clamp(0, self.levels - 1)
        return Pixels(batch.rows, value, hole, x.new_zeros(len(x), 1), (value != index).any(1))

    def dense(self, pixels: Pixels, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Points of R^D for pictures, and the log-volume to add to their log-density.

        Args:
            pixels: Encoded pictures; a hole is treated as the lowest value.
            uniform: ``(batch, num_features)`` in (0, 1).

        Returns:
            ``y (batch, num_features)`` and ``log |dy/dk| (batch,)``, float64.
        """
        y, log_slope = self.logit((pixels.value + uniform.double()) / self.levels)
        return y, log_slope.sum(1) - self.num_features * log(self.levels)

    def logit(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Model-space numbers of shares ``v`` of the range, and ``log dy/dv``, elementwise."""
        w = (v + self.alpha) * (1 - 2 * self.alpha)
        log_w, log_rest = w.log(), torch.log1p(-w)
        slope = torch.full_like(v, (1 - 2 * self.alpha) / self.smoothness).log()
        return (log_w - log_rest) / self.smoothness, slope - log_w - log_rest

    def share(self, y: Tensor) -> Tensor:
        """Inverse of :meth:`logit`: shares of the range; a little beyond 0 and 1 for points no picture has."""
        return torch.sigmoid(self.smoothness * y.double()) / (1 - 2 * self.alpha) - self.alpha

    def decode(self, y: Tensor, rows: Tensor) -> TableBatch:
        """Raw pictures of points; NaN stays a hole. Other columns of the schema are holes."""
        index = (self.share(y) * self.levels).floor().clamp(0, self.levels - 1)
        numeric = y.new_full((len(y), self._num_numeric), torch.nan, dtype=torch.float64)
        numeric[:, self._place] = self.origin + index * self.step
        codes = torch.full((len(y), self._num_codes), -1, dtype=torch.int64, device=y.device)
        return TableBatch(numeric, codes, rows)


def fits_pixels(schema: Schema) -> bool:
    """The schema's scored part is one bounded numeric block on a grid."""
    if len(schema.scored) != 1:
        return False
    column = schema.scored[0]
    bounded = column.lower is not None and column.upper is not None
    return bool(column.shape) and column.kind == "quantized" and bounded and not column.num_atoms
