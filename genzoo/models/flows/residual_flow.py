"""Residual flow: free-form maps near the identity, inverted by iteration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genzoo.codecs.pixels import PixelCodec, fits_pixels
from genzoo.codecs.vector import VectorCodec
from genzoo.errors import CapabilityError
from genzoo.likelihood.noise import RowNoise
from genzoo.likelihood.roulette import Roulette
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.flows.dense_rows import DenseRows
from genzoo.models.flows.residual_density import EVALUATION_TERMS, BlockSizes, ResidualDensity
from genzoo.models.flows.residual_pictures import ResidualPictures
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

ROWS_TO_START_FROM = 4096


class ResidualFlow(DensityModel):
    r"""Residual flow, for tables of numbers above all, and for pictures.

    Blocks ``x + g(x)`` with a free network ``g`` whose Lipschitz constant is below one turn data into Gaussian noise:

    .. math:: \log p(x) = \log N(z; 0, I) + \sum_{\text{blocks}} \log\det(I + J_g), \qquad
        \log\det(I + J) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k} \operatorname{tr} J^k

    with a shift and scale of each feature (ActNorm) before the first and after every block. No order of columns, no
    split into halves: every Jacobian is full. Rows reach the flow as points of R^D: grids are dequantised, categories
    drawn by an argmax surjection, holes filled by a learned filler. A table that is one block of bounded pixels (the
    data module ``Images``) gets convolutional blocks behind uniform noise and a logit.

    Likelihood: exact on complete continuous rows of up to 64 columns (full Jacobians). Wider ones get unbiased
    estimates (20 exact terms, then a random number, with random probes): a mean over ``draws``, with its standard
    error, whose noise depends on seed and row number alone. With categories, grids or holes a lower bound that
    ``draws`` tightens at proportional cost. Before rows are scored, every block's Lipschitz constant is certified anew
    from the weights in use.

    Training beyond 4 features follows the Neumann series of the gradient, whose memory does not grow with the terms.

    Args:
        schema: The table's schema as a plain dictionary.
        num_blocks: Residual blocks (for pictures: at each scale); more bends, proportional cost.
        hidden: Units, or channels, of each hidden layer of a block's network.
        num_layers: Hidden layers of each network.
        lipschitz: Largest Lipschitz constant of a block's network, below 1: nearer to 1 bends more, and samples more
            slowly (the number of iterations grows like 1 / (1 - lipschitz)).
        preactivate: An activation before the first linear map of each network too.
        norm_orders: Orders of the norms (1 to infinity) in which the inputs of the linear maps of a network are
            measured, one for each of its ``num_layers + 1`` maps; the last map ends in the first order. ``None`` is
            2 throughout. Not for pictures.
        log_det: Log-determinants in training: ``exact``, ``roulette`` (estimates), or ``auto``: exact up to 4
            features.
        terms: Law of the number of terms of an estimate beyond ``exact_terms``: ``geometric`` or ``poisson``.
        terms_parameter: Probability of stopping at each further term (geometric), or their mean number (Poisson).
        exact_terms: Terms that training always takes; more lower the noise, each costs a pass.
        num_scales: Times a picture is folded to half its size before more blocks.
        alpha: Pictures: keeps the logit off black and white, in shares of the range; 1e-6 is usual for MNIST.
        scaler: Scaling of numeric columns, see :class:`genzoo.codecs.vector.VectorCodec`.
        particles: Completions a row of which imputations are chosen.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``draws``,
            ``seed``, ...).

    References:
        Chen, Behrmann, Duvenaud, Jacobsen (2019), Residual Flows for Invertible Generative Modeling, NeurIPS,
        arXiv:1906.02735. Behrmann et al. (2019), Invertible Residual Networks, ICML, arXiv:1811.00995.
        Differs from the paper: exact likelihood up to 64 features, and exact training up to 4; probes of random signs;
        Lipschitz constants certified from above before evaluation; gradients of estimates are right for weighted
        rows; no activation before the first map (``preactivate``); orders of mixed norms are given, not learned.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="residual_flow")  # doctest: +SKIP
        >>> model.certificate() < 1  # doctest: +SKIP
        True
    """

    settings: ClassVar[frozenset[str]] = DensityModel.settings | {"particles"}
    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="lower_bound",
        context=True,
        context_missing=True,
        quantized="lower_bound",
        categorical="lower_bound",
        imputes=True,
        sequences=True,
        weights=True,
    )
    default_lr: ClassVar[float] = 2e-3
    codec: VectorCodec | PixelCodec

    def __init__(
        self,
        schema: dict[str, Any],
        num_blocks: int = 10,
        hidden: int = 128,
        num_layers: int = 2,
        lipschitz: float = 0.97,
        preactivate: bool = False,
        norm_orders: list[float] | None = None,
        log_det: Literal["auto", "exact", "roulette"] = "auto",
        terms: Literal["geometric", "poisson"] = "geometric",
        terms_parameter: float = 0.5,
        exact_terms: int = 2,
        num_scales: int = 2,
        alpha: float = 0.05,
        scaler: str = "auto",
        particles: int = 64,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        self.particles = particles
        orders = None if norm_orders is None else tuple(float(order) for order in norm_orders)
        sizes = BlockSizes(hidden, num_layers, lipschitz, preactivate, orders)
        options: dict[str, Any] = {
            "num_blocks": num_blocks,
            "sizes": sizes,
            "log_det": log_det,
            "roulette": Roulette(terms, terms_parameter, exact_terms),
        }
        self.rows: DenseRows | ResidualPictures
        if fits_pixels(self.schema) and len(self.schema.scored[0].shape) in (2, 3):
            if orders is not None:
                raise ValueError("norm_orders is for tables; convolutions are measured in the norm of order 2")
            if self.schema.context:
                raise CapabilityError("ResidualFlow of pictures takes no context columns; drop them from the context")
            shape = self.schema.scored[0].shape
            # channels last in files, first in convolutions; a grey picture has none
            if len(shape) == 3:
                raise CapabilityError("ResidualFlow takes grey pictures, of shape (height, width)")
            self.codec = PixelCodec(self.schema, alpha=alpha)
            self.rows = ResidualPictures(ResidualDensity((1, *shape), num_scales=num_scales, **options))
        else:
            for column in self.schema.scored:
                if column.width > 256 and column.is_categorical:
                    raise CapabilityError(
                        f"ResidualFlow cannot model column '{column.name}': a block of {column.width} categories; "
                        "use radd, or another model of text"
                    )
            self.codec = VectorCodec(self.schema, scaler=scaler, widen_cells=True)
            self.rows = DenseRows(
                self.codec, lambda features, context: ResidualDensity((features,), context, **options)
            )

    @property
    def flow(self) -> ResidualDensity:
        """The density of the dense rows."""
        assert isinstance(self.rows.flow, ResidualDensity)
        return self.rows.flow

    def certificate(self) -> float:
        """Largest certified Lipschitz constant of a block's network, of the weights in use; below 1."""
        return self.flow.certificate()

    @property
    def likelihood_kind(self) -> str:
        """Exact, or an unbiased estimate of wide rows, on numbers with a density; a lower bound on everything else."""
        if not all(column.kind == "continuous" and not column.num_atoms for column in self.schema.scored):
            return "lower_bound"
        return "estimate" if self.flow.noisy else "exact"

    @property
    def likelihood_bias(self) -> str | None:
        return "none"

    @property
    def likelihood_method(self) -> str:
        if self.flow.noisy:
            return f"change of variables, {EVALUATION_TERMS} exact terms and roulette, {max(self.draws, 2)} draws"
        if self.likelihood_kind == "exact":
            return "change of variables, full Jacobians"
        return f"importance-weighted, {self.draws} draws"

    def kind_on(self, holes: bool) -> tuple[str, str]:
        """Holes are marginalised by Monte Carlo."""
        if not holes:
            return super().kind_on(holes)
        kept = self.likelihood_method if self.flow.noisy else f"importance-weighted, {self.draws} draws"
        return "lower_bound", kept

    def initialise(self, batches: Sequence[Any]) -> None:
        """Every ActNorm starts by standardising training rows."""
        rows = batches[0].select(slice(0, ROWS_TO_START_FROM))
        if isinstance(self.rows, ResidualPictures):
            self.rows.initialise(self._pixels, rows)
        else:
            y, _ = self.rows.surjection(rows, torch.randn(len(rows), self.rows.surjection.noise_width))
            self.flow.initialise(y, rows.context if self.rows.num_context else None)

    def after_optimizer_step(self) -> None:
        self.flow.refresh()

    def refresh_derived(self) -> None:
        """Vectors of the power iterations for weights that took the place of others; certificates follow by need."""
        self.flow.refresh(thorough=True)

    def row_losses(self, encoded: Any) -> Tensor:
        if isinstance(self.rows, ResidualPictures):
            return self.rows.losses(self._pixels, encoded)
        return self.rows.losses(encoded)

    def model_log_prob(self, encoded: Any, noise: RowNoise, draws: int) -> ModelLogProb:
        if isinstance(self.rows, ResidualPictures):
            return self.rows.log_prob(self._pixels, encoded, noise, draws)
        return self.rows.log_prob(encoded, noise, draws)

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        if isinstance(self.rows, ResidualPictures):
            return self.rows.sample(self._pixels, num_samples, generator)
        return self.rows.sample(self._vector, num_samples, context, generator)

    def model_impute(self, batch: TableBatch, encoded: Any, draws: int, generator: torch.Generator) -> list[TableBatch]:
        if isinstance(self.rows, ResidualPictures):
            raise CapabilityError("ResidualFlow does not fill missing pixels; use ebflow, which does")
        return self.rows.impute(self._vector, batch, encoded, draws, generator, self.particles)

    @property
    def _pixels(self) -> PixelCodec:
        assert isinstance(self.codec, PixelCodec)
        return self.codec

    @property
    def _vector(self) -> VectorCodec:
        assert isinstance(self.codec, VectorCodec)
        return self.codec
