"""A zoo model as a differentiable density on R^D, with the way from rows to points and back."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.codecs.base import Cells
from genzoo.codecs.vector import VectorCodec
from genzoo.errors import CapabilityError
from genzoo.likelihood.noise import RowNoise
from genzoo.models.embedding import SubModel
from genzoo.models.flows.dense_rows import DenseRows
from genzoo.tables.batch import TableBatch


class DensePoints(nn.Module):
    """The view of an embedded model as a density of points.

    A model with a dense view (:class:`~genzoo.models.flows.dense_rows.DenseRows`: coupling flows, residual flows)
    takes any columns: categories, grids and holes are drawn into points of R^D that decode to them. Any other model
    with numbers as cells (mixture, autoregressive flows) takes complete continuous columns; the numbers are the point.

    Args:
        density: The embedded model.

    Raises:
        CapabilityError: the model has no dense view and some column is not continuous, or it estimates its density.
    """

    def __init__(self, density: SubModel) -> None:
        super().__init__()
        self.density = density
        model = density.model
        if not isinstance(model.codec, VectorCodec):
            raise CapabilityError(
                f"{type(model).__name__} has no density on R^D; use spline_flow or mixture as the group density"
            )
        if self.rows is None:
            odd = next((c for c in model.schema.scored if c.kind != "continuous" or c.num_atoms), None)
            if odd is not None:
                raise CapabilityError(
                    f"{type(model).__name__} has no density on R^D with column '{odd.name}' ({odd.kind}); use "
                    "--model.density spline_flow with density_args {transform: coupling}, or declare it continuous"
                )
        if self.rows is not None and self.rows.estimated:
            raise CapabilityError(
                f"{type(model).__name__} only estimates densities of {self.rows.surjection.num_features} features, and "
                "distances of groups need them exactly; use --model.density spline_flow with density_args "
                "{transform: coupling}, or leave columns out"
            )
        self.num_features = len(self.codec.numbers) if self.rows is None else self.rows.surjection.num_features
        self.noise_width = 0 if self.rows is None else self.rows.surjection.noise_width

    # not attributes: a module named twice would be saved twice
    @property
    def rows(self) -> DenseRows | None:
        """The dense view, if the model has one."""
        rows = getattr(self.density.model, "rows", None)
        return rows if isinstance(rows, DenseRows) else None

    @property
    def codec(self) -> VectorCodec:
        codec = self.density.model.codec
        assert isinstance(codec, VectorCodec)
        return codec

    def cells(self, batch: TableBatch) -> Cells:
        """Typed cells of the parent's rows."""
        return self.codec.encode(self.density.choose(batch))

    def point(self, cells: Cells, noise: Tensor) -> tuple[Tensor, Tensor]:
        """A point for each row, ``(batch, num_features)`` float64, and ``log q(point | cells)``.

        Args:
            cells: Encoded rows.
            noise: ``(batch, noise_width)`` standard normal; not read where nothing is drawn.

        Raises:
            CapabilityError: a row has holes and the model has no filler for them.
        """
        if self.rows is None:
            if not bool(cells.present.all()):
                raise CapabilityError(
                    f"{type(self.density.model).__name__} makes no point of a row with missing cells; use "
                    "--model.density spline_flow with density_args {transform: coupling}, or impute them first"
                )
            return cells.number, torch.zeros(len(cells), dtype=torch.float64, device=cells.number.device)
        y, log_q = self.rows.surjection(cells, noise)
        exact = cells.present & ~self.rows.surjection.quantized
        numbers = torch.where(exact, cells.number, y[:, : cells.number.shape[1]].double())
        return torch.cat([numbers, y[:, numbers.shape[1] :].double()], 1), log_q

    def log_prob(self, y: Tensor) -> Tensor:
        """``(batch, num_features)`` points to ``(batch,)`` nats in model space; gradients reach the points."""
        if self.rows is not None:
            return self.rows.density.log_prob(y, None)
        rows = torch.arange(len(y), device=y.device)
        yes = torch.ones_like(y, dtype=torch.bool)
        number = y.double()
        cells = Cells(
            rows=rows,
            number=number,
            lower=number,
            upper=number,
            present=yes,
            category=torch.empty(len(y), 0, dtype=torch.int64, device=y.device),
            number_hole=~yes,
            context=y.new_zeros(len(y), 0, dtype=torch.float32),
            log_volume=number.new_zeros(len(y), self.codec.num_scored),
            outside=torch.zeros_like(rows, dtype=torch.bool),
        )
        return self.density.model.model_log_prob(cells, RowNoise(0, rows), 1).values

    def sample(self, num_samples: int, generator: torch.Generator) -> Tensor:
        """``(num_samples, num_features)`` float64 draws of the fitted density."""
        if self.rows is not None:
            return self.rows.density.sample(num_samples, None, generator).double()
        drawn = self.density.model.model_sample(num_samples, None, generator)
        return self.codec.encode(drawn).number

    def decode(self, y: Tensor, rows: Tensor) -> TableBatch:
        """The rows of the embedded model's columns that points stand for."""
        if self.rows is not None:
            number, category = self.rows.surjection.decode(y)
        else:
            number, category = y, torch.empty(len(y), 0, dtype=torch.int64, device=y.device)
        return self.codec.decode(number.double(), category, rows)
