"""EBFlow: a flow with free linear layers, trained by score matching without any determinant; exact likelihood after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genzoo.codecs.pixels import PixelCodec, fits_pixels
from genzoo.codecs.vector import VectorCodec
from genzoo.errors import CapabilityError
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.flows.energy_flow import EnergyFlow, Matching, Objective
from genzoo.models.flows.energy_networks import convolutional_layers, coupling_layers, dense_layers
from genzoo.models.flows.energy_rows import EnergyRows, PictureRows
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

CHEAP_DETERMINANT = 64
"""Up to this many features a determinant costs no more than the rest of a step."""
LARGEST_CONDITION = 1024
"""Condition numbers are computed for matrices up to this size."""


class EBFlow(DensityModel):
    r"""Energy-based normalizing flow for pictures and tables, trained by score matching or maximum likelihood.

    The density is that of a flow ``u = g(x)`` over a standard normal whose linear layers are free matrices,

    .. math:: p(x) = \frac{e^{-E(x)}}{Z}, \qquad
        E(x) = -\log \mathcal{N}(g(x)) - \sum_{i \text{ bends}} \log |\det J_i(x)|, \qquad
        Z^{-1} = \prod_{i \text{ linear}} |\det W_i|.

    The score :math:`s = -\nabla_x E` does not hold :math:`Z`, so score matching trains matrices of ``D x D`` at
    ``O(D^2)`` a row; only evaluation computes determinants, once for each set of weights.

    Likelihood: exact (change of variables, float64) on complete continuous rows; otherwise a lower bound that ``draws``
    tightens at proportional cost: noise within the levels of a picture, a learned surjection for cells, categories and
    holes of a table. Pictures with missing pixels are imputed, not scored.

    Imputation: Metropolis-adjusted Langevin chains of ``steps`` proposals with the model's score; exact in the limit.

    Args:
        schema: The table's schema as a plain dictionary.
        objective: ``ml`` maximum likelihood, with a determinant a step; ``sml`` the same gradient from samples, with
            solves; ``ssm`` sliced, ``dsm`` denoising, ``fdssm`` finite-difference sliced score matching. ``auto``:
            ``ml`` up to 64 features, where a determinant costs nothing and the likelihood is better for it; else
            ``ssm``.
        network: ``dense`` (matrices and smooth activations), ``convolutional`` (pictures), ``coupling`` (matrices and
            affine couplings). ``auto``: ``dense`` for pictures, ``coupling`` for tables.
        num_layers: Matrices (dense), stages of two convolutions (convolutional) or couplings (coupling); ``None``: 2,
            3, 6.
        hidden: Units of each hidden layer of the couplings' networks.
        kernel: Side of the convolutions, odd.
        alpha: Slope of the smooth activation on the far left, within (0, 1).
        slices: Random directions a row of ``ssm``; ``None``: all directions up to 16 features, else one. More lower the
            noise of the gradient at proportional cost.
        noise: Standard deviation of the noise of ``dsm``, in standard units of a table or in units of the logit of a
            picture; the density of data with that noise is learned.
        epsilon: Length of the steps of ``fdssm``, likewise.
        energy_weight: Weight of the mean energy a feature in score-matching losses; keeps energies low.
        match: ``preprocessed``: scores of pictures are matched behind the logit; ``data``: in front of it (an
            ablation, with ``ssm`` or ``sml`` only: noisy points would leave the range of values).
        smoothness: Divides the logit of pictures: a larger number, narrower tails.
        scaler: Scaling of numeric columns of tables, see :class:`genzoo.codecs.vector.VectorCodec`.
        steps: Langevin proposals of an imputation.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``draws``, ...).

    Shapes: rows of any table; pictures as one block column, quantized with bounds.

    Raises:
        CapabilityError: a block of categories, or ``network="convolutional"`` on a table.

    References:
        Chao, Sun, Hsu, Kira, Lee (2023), Training Energy-Based Normalizing Flow with Score-Matching Objectives,
        arXiv:2305.15267. Differs from the paper: tables; score and curvature written out layer by layer; determinants
        are computed anew exactly when weights change; every loss is divided by D; a step that is not finite is an
        error, not zeroed.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="ebflow", objective="dsm")  # doctest: +SKIP
        >>> model.log_prob("sklearn:wine").mean()  # doctest: +SKIP
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="lower_bound",
        context=True,
        context_missing=True,
        quantized="lower_bound",
        categorical="lower_bound",
        imputes=True,
        sequences=True,
    )
    default_lr: ClassVar[float] = 2e-3

    def __init__(
        self,
        schema: dict[str, Any],
        objective: Literal["auto", "ml", "sml", "ssm", "dsm", "fdssm"] = "auto",
        network: Literal["auto", "dense", "convolutional", "coupling"] = "auto",
        num_layers: int | None = None,
        hidden: int = 64,
        kernel: int = 7,
        alpha: float = 0.3,
        slices: int | None = None,
        noise: float = 0.1,
        epsilon: float = 0.1,
        energy_weight: float = 0.0,
        match: Literal["preprocessed", "data"] = "preprocessed",
        smoothness: float = 0.5,
        scaler: str = "auto",
        steps: int = 100,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        if network not in ("auto", "dense", "convolutional", "coupling"):
            raise ValueError(f"network must be auto, dense, convolutional or coupling, got '{network}'")
        if match not in ("preprocessed", "data"):
            raise ValueError(f"match must be 'preprocessed' or 'data', got '{match}'")
        pictures = fits_pixels(self.schema)
        self._require_blocks(pictures, network)
        self.network = network if network != "auto" else "dense" if pictures else "coupling"
        self.steps = steps
        self.rows: EnergyRows | PictureRows

        def build(num_features: int, num_context: int) -> EnergyFlow:
            if self.network == "convolutional":
                shape = self.schema.scored[0].shape
                return EnergyFlow(num_features, convolutional_layers(shape, num_layers or 3, 2, kernel, alpha))
            if self.network == "dense":
                start: Any = "negative" if pictures else "orthogonal"
                layers = dense_layers(num_features, num_layers or 2, alpha, start, num_context)
                return EnergyFlow(num_features, layers)
            return EnergyFlow(num_features, coupling_layers(num_features, num_context, num_layers or 6, hidden))

        def matching(num_features: int) -> Matching:
            chosen: Objective = "ml" if num_features <= CHEAP_DETERMINANT else "ssm"
            if objective != "auto":
                chosen = objective
            return Matching(chosen, slices, noise, epsilon, energy_weight)

        self.codec: PixelCodec | VectorCodec
        if pictures:
            if self.schema.context:
                raise CapabilityError("EBFlow does not condition pictures on context columns; leave them out")
            self.codec = PixelCodec(self.schema, smoothness)
            setting = matching(self.codec.num_features)
            if match == "data" and setting.objective not in ("ssm", "sml", "ml"):
                raise ValueError(f"match: data goes with objective ssm or sml, got '{setting.objective}'")
            self.rows = PictureRows(self.codec, build(self.codec.num_features, 0), setting, match)
        else:
            self.codec = VectorCodec(self.schema, scaler=scaler, widen_cells=True)
            self.rows = EnergyRows(self.codec, build, matching)

    def _require_blocks(self, pictures: bool, network: str) -> None:
        for column in self.schema.scored:
            if column.shape and column.is_categorical and column.width > 256:
                raise CapabilityError(
                    f"EBFlow does not model blocks of categories such as '{column.name}' (shape {list(column.shape)}); "
                    "use a discrete diffusion (radd)"
                )
        if network == "convolutional" and not pictures:
            raise CapabilityError(
                "network: convolutional needs pictures: one block column, quantized with declared bounds; "
                "use network: dense or coupling"
            )

    @property
    def objective(self) -> str:
        """The training objective, chosen if ``auto`` was asked for."""
        return self.rows.matching.objective

    @property
    def likelihood_method(self) -> str:
        if self.likelihood_kind == "exact":
            return "change of variables"
        return f"importance-weighted, {self.draws} draws"

    def kind_on(self, holes: bool) -> tuple[str, str]:
        """Holes are marginalised by Monte Carlo."""
        if holes:
            return "lower_bound", f"importance-weighted, {self.draws} draws"
        return super().kind_on(holes)

    def initialise(self, batches: Sequence[Any]) -> None:
        self.rows.initialise(self.codec, batches[0])  # type: ignore[arg-type]

    def loss(self, encoded: Any) -> Tensor:
        if isinstance(self.rows, PictureRows):
            return self.rows.loss(self.codec, encoded)  # type: ignore[arg-type]
        return self.rows.loss(encoded)

    def model_log_prob(self, encoded: Any, noise: RowNoise, draws: int) -> ModelLogProb:
        if isinstance(self.rows, PictureRows):
            return self.rows.log_prob(self.codec, encoded, noise, draws)  # type: ignore[arg-type]
        return self.rows.log_prob(encoded, noise, draws)

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        if isinstance(self.rows, PictureRows):
            return self.rows.sample(self.codec, num_samples, generator)  # type: ignore[arg-type]
        return self.rows.sample(self.codec, num_samples, context, generator)  # type: ignore[arg-type]

    def model_impute(self, batch: TableBatch, encoded: Any, draws: int, generator: torch.Generator) -> list[TableBatch]:
        return self.rows.impute(self.codec, batch, encoded, draws, generator, self.steps)  # type: ignore[arg-type]

    def determinants(self) -> dict[str, float]:
        """``log |det|`` and condition number of each matrix, in order from data to latent."""
        found = {}
        for number, layer in enumerate(self.rows.flow.linear):
            found[f"log_det_{number}"] = float(layer.exact_log_constant())
            if self.rows.flow.num_features <= LARGEST_CONDITION:
                found[f"condition_{number}"] = layer.condition()
        return found

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        if not self.trainer.sanity_checking:
            for name, value in self.determinants().items():
                self.log(f"matrix/{name}", value, rank_zero_only=False)
