"""Masked autoregressive flow: the typed autoregressive density with affine maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.base import Cells
from genzoo.codecs.vector import VectorCodec
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.flows.sizes import default_dropout
from genzoo.models.flows.typed_rows import TypedRows
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch


class MAF(DensityModel):
    r"""Masked autoregressive flow, for any table: Gaussian conditionals, made flexible by stacking.

    .. math:: u_j = (x_j - \mu_j(x_{<j})) \exp(-\alpha_j(x_{<j}))

    Continuous columns go through ``num_transforms`` such maps, every second one in reverse order, down to a standard
    normal. Before them in the chain stand categories and indicators of atoms (softmax heads) and numbers on a grid
    (Gaussian conditional cdf, differenced over the cell).

    Likelihood: exact, for every pattern of holes (the pattern is an input, never scored).

    Args:
        schema: The table's schema as a plain dictionary.
        num_transforms: Affine maps in a row; more bends of the continuous columns, proportional cost.
        hidden: Units of each hidden layer of the networks; at least the number of columns.
        num_layers: Hidden layers of each network.
        dropout: Probability of dropping a hidden unit in training; ``None``: more for fewer training rows.
        hide: Share of training rows in which cells are hidden at random; ``None``: 0.1 if training rows have holes,
            else 0.
        scaler: Scaling of numeric columns, see :class:`genzoo.codecs.vector.VectorCodec`.
        num_spikes: Most values of each column on a grid that get a probability of their own, because training rows hold
            them more often than their neighbours (rounded numbers, few values on a fine grid).
        particles: Completions a row of which imputations are chosen.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``seed``, ...).

    References:
        Papamakarios, Pavlakou, Murray (2017), Masked Autoregressive Flow for Density Estimation, arXiv:1705.07057.
        Differs from the paper: no batch normalisation; residual networks; categories, grids, atoms and holes.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="maf")  # doctest: +SKIP
        >>> model.sample(3)  # doctest: +SKIP
    """

    settings: ClassVar[frozenset[str]] = DensityModel.settings | {"particles"}
    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="exact", context=True, context_missing=True, imputes=True, uses_mask=True, by_column=True, weights=True
    )
    default_lr: ClassVar[float] = 3e-3
    codec: VectorCodec

    def __init__(
        self,
        schema: dict[str, Any],
        num_transforms: int = 5,
        hidden: int = 128,
        num_layers: int = 2,
        dropout: float | None = None,
        hide: float | None = None,
        scaler: str = "auto",
        num_spikes: int = 128,
        particles: int = 64,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        self.codec = VectorCodec(self.schema, scaler=scaler, num_spikes=num_spikes, widen_cells=True)
        dropout = default_dropout(self.schema) if dropout is None else dropout
        self.particles = particles
        self.rows = TypedRows(
            self.codec,
            Elementwise("affine"),
            hide,
            num_transforms=num_transforms,
            hidden=hidden,
            num_layers=num_layers,
            dropout=dropout,
            alternate=True,
        )

    @property
    def likelihood_method(self) -> str:
        return "change of variables, chain of conditionals"

    def initialise(self, batches: Sequence[Any]) -> None:
        """Starting values from training rows: atoms, frequencies of categories."""
        self.rows.initialise(self.codec, batches[0])

    def row_losses(self, encoded: Cells) -> Tensor:
        return self.rows.losses(encoded)

    def model_log_prob(self, encoded: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        return self.rows.log_prob(encoded)

    def traced_log_prob(self, encoded: Cells) -> Tensor:
        return self.rows.density.log_prob(encoded).total()

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        return self.rows.sample(self.codec, num_samples, context, generator)

    def model_impute(
        self, batch: TableBatch, encoded: Cells, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        return self.rows.impute(self.codec, batch, encoded, draws, generator, self.particles)
