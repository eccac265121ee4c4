"""Tail-adaptive flow: a spline flow whose columns have light or heavy tails as the data say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.base import Cells
from genzoo.codecs.vector import VectorCodec
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.flows.dense_rows import DenseRows
from genzoo.models.flows.sizes import default_dropout
from genzoo.models.flows.tail_classes import ColumnTail, TailClasses
from genzoo.models.flows.tail_density import Base, TailDensity, TailLayer, builder
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch


class TailAdaptiveFlow(DensityModel):
    r"""Autoregressive spline flow with chosen tails, for tables with rare, large values.

    A flow of bounded slope gives every column the tail of its base density: from a Gaussian, never a heavy one. Two
    ways out, on one spline backbone:

    .. math:: \text{base:}\quad z_j \sim N(0, 1) \text{ (light)},\; t_{\nu_j} \text{ (heavy)} \qquad
        \text{tail:}\quad x_j = \mu_j + \sigma_j s\, \frac{\operatorname{erfc}(|z_j| / \sqrt 2)^{-\lambda_{js}} - 1}
        {\lambda_{js}}, \quad s = \operatorname{sign} z_j

    ``base`` makes the base density heavy: all coordinates (``taf``: one :math:`\nu`, ``gtaf``: one each) or the heavy
    columns alone (``mtaf``, ``mtaf_fix``), whose class is estimated on training rows; then permutations and linear maps
    keep light columns free of heavy ones, so that a light column stays light. ``tail`` puts a last layer of generalised
    Pareto tails with index :math:`1 / \lambda` per column and side in front of the table, so that the networks never
    see an extreme value. Both at once is allowed, and heavier than any power.

    Columns reach the flow linearly scaled (median, quartiles), or the tails would be those of the scaler; a column with
    declared bounds by its logarithm or log-odds, to which its tail class then refers.

    Likelihood: exact on complete continuous rows, else a lower bound that ``draws`` tightens at proportional cost.

    Args:
        schema: The table's schema as a plain dictionary.
        base: Base density: ``gaussian``, ``taf``, ``gtaf``, ``mtaf``, ``mtaf_fix`` (degrees of freedom not trained).
        tail: Last layer: ``none``, ``ttf`` (weights trained), ``ttf_fix`` (weights as estimated).
        tails: Per column ``light``, ``heavy`` or the degrees of freedom; others are estimated on training rows. See
            :meth:`tail_classes`.
        num_transforms: Autoregressive layers; more bends, proportional cost.
        hidden: Units of each hidden layer of the networks.
        num_layers: Hidden layers of each network.
        bins: Pieces of each spline; more detail in each conditional, more memory.
        bound: Splines bend within +-``bound`` (standard units) and are linear outside.
        dropout: Probability of dropping a hidden unit in training; ``None``: more for fewer training rows.
        scaler: Linear scaling of numeric columns: ``robust`` (median and quartiles) or ``standardise`` (mean and
            standard deviation, which heavy tails inflate).
        particles: Completions a row of which imputations are chosen.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``draws``,
            ``seed``, ...).

    References:
        Laszkiewicz, Lederer, Fischer (2022), Marginal Tail-Adaptive Normalizing Flows, ICML, arXiv:2206.10311.
        Jaini, Kobyzev, Yu, Brubaker (2020), Tails of Lipschitz Triangular Flows, ICML, arXiv:1907.04481.
        Hickling, Prangle (2025), Flexible Tails for Normalizing Flows, ICML, arXiv:2406.16971.
        Differs from the papers: classes come from training rows, degrees of freedom are 1 / xi (not 1 + 1 / xi), robust
        scaling inside the model, networks read bounded-growth views of their inputs, one learning rate; categories,
        grids, atoms and holes by the learned surjection.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("claims.csv", model="tail_adaptive_flow", base="mtaf", tail="none")  # doctest: +SKIP
        >>> [(tail.column, tail.index) for tail in model.tail_classes()]  # doctest: +SKIP
    """

    settings: ClassVar[frozenset[str]] = DensityModel.settings | {"particles"}
    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="lower_bound",
        context=True,
        context_missing=True,
        quantized="lower_bound",
        categorical="lower_bound",
        imputes=True,
        weights=True,
    )
    default_lr: ClassVar[float] = 3e-3
    codec: VectorCodec

    def __init__(
        self,
        schema: dict[str, Any],
        base: Base = "gaussian",
        tail: TailLayer = "ttf",
        tails: dict[str, str | float] | None = None,
        num_transforms: int = 2,
        hidden: int = 64,
        num_layers: int = 2,
        bins: int = 8,
        bound: float = 4.0,
        dropout: float | None = None,
        scaler: Literal["robust", "standardise"] = "robust",
        particles: int = 64,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        # Context columns are read, not scored: their scale may bend.
        linear = {column.name: scaler for column in self.schema.scored if column.is_numeric}
        self.codec = VectorCodec(self.schema, scaler=linear)
        self.classes = TailClasses(self.schema, self.codec.numbers, tails)
        self.particles = particles
        self.rows = DenseRows(
            self.codec,
            builder(
                len(self.codec.numbers),
                element=Elementwise("spline", bins, bound),
                base=base,
                tail=tail,
                num_transforms=num_transforms,
                hidden=hidden,
                num_layers=num_layers,
                dropout=default_dropout(self.schema) if dropout is None else dropout,
                seed=self.seed,
            ),
        )

    @property
    def flow(self) -> TailDensity:
        """The density on R^D."""
        flow = self.rows.flow
        assert isinstance(flow, TailDensity)
        return flow

    @property
    def likelihood_method(self) -> str:
        return "change of variables" if self.likelihood_kind == "exact" else f"importance-weighted, {self.draws} draws"

    def kind_on(self, holes: bool) -> tuple[str, str]:
        """Holes are marginalised by Monte Carlo."""
        if holes:
            return "lower_bound", f"importance-weighted, {self.draws} draws"
        return super().kind_on(holes)

    def initialise(self, batches: Sequence[Any]) -> None:
        """Tail classes, and where tails begin, from training rows."""
        cells: Cells = batches[0]
        self.classes.fit(cells, seed_of(self.seed, "tails"))
        number = torch.where(cells.present, cells.number, torch.nan)
        location = number.nanmedian(0).values.nan_to_num(0.0)
        scale = (number - location).abs().nanmedian(0).values.nan_to_num(1.0)
        scale = torch.where(scale > 0, scale, 1.0)
        classes = self.classes
        self.flow.start(classes.heavy, classes.index, classes.weights, location, scale)

    def tail_classes(self) -> list[ColumnTail]:
        """Class and tail index of every numeric column as the model was started, estimated or given."""
        self.codec.require_fitted()
        return self.classes.describe()

    def tail_indices(self) -> dict[str, tuple[float, float]]:
        """Tail indices of the lower and the upper side of every numeric column that the trained model is built for.

        The base density's degrees of freedom, or ``1 / lambda`` of the tail layer; ``inf`` for a light side, 0 for one
        that is heavier than any power (a Student base under a tail layer). With base ``taf`` or ``gtaf``, linear maps
        mix columns, and the heaviest base coordinate is every column's; with ``mtaf``, every heavy column's.

        Maps of bounded slope leave the index of a power alone, but not that of a tail layer in front of them: where
        they stretch the normal tail behind it ``s`` times, the column's index is ``1 / (lambda s^2)``. The number here
        is that of ``s = 1``, where the layer starts; hold it against the tail of samples.
        """
        freedom = self.flow.base.freedom().detach()
        if self.flow.base.base in ("taf", "gtaf"):
            freedom = freedom.min().expand_as(freedom)
        elif bool(self.flow.base.heavy.any()):
            freedom = torch.where(self.flow.base.heavy, freedom.min(), torch.inf)
        both = freedom[: len(self.codec.numbers)].repeat(2, 1)
        layer = self.flow.tail_layer
        if layer is not None:
            both = torch.where(both.isinf(), 1 / layer.weights().detach(), 0.0)
        return {slot.column: (float(both[0, i]), float(both[1, i])) for i, slot in enumerate(self.codec.numbers)}

    def row_losses(self, encoded: Cells) -> Tensor:
        return self.rows.losses(encoded)

    def model_log_prob(self, encoded: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        return self.rows.log_prob(encoded, noise, draws)

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        return self.rows.sample(self.codec, num_samples, context, generator)

    def model_impute(
        self, batch: TableBatch, encoded: Cells, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        return self.rows.impute(self.codec, batch, encoded, draws, generator, self.particles)
