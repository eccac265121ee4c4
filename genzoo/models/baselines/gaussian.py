"""One Gaussian with full covariance, categories independent of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.codecs.vector import VectorCodec
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.baselines.mixture_em import cell_variance, concatenate
from genzoo.models.baselines.mixture_fit import choose_sharpness, fit_gaussian, layout_of
from genzoo.models.baselines.mixture_state import MixtureState
from genzoo.models.capabilities import Capabilities
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch


class Gaussian(DensityModel):
    r"""A Gaussian with full covariance over the numbers of a table, categories independent of them and of each other.

    .. math:: p(x, y) = N(x; \mu, \Sigma) \prod_c \theta_c[y_c]

    Fitted by maximum likelihood, holes by EM; the covariance is shrunk towards uncorrelated columns by as many rows as
    cross-validation likes, so that it is never singular.

    Likelihood: exact for densities, categories and every pattern of holes. Two or more quantized columns: the joint
    probability of the cells is simulated one cell after the other (GHK), a lower bound in expectation whose error falls
    with ``draws`` and is tiny for narrow cells; with one quantized column it is exact. A number on an atom is marginal.

    Args:
        schema: The table's schema as a plain dictionary.
        prior_rows: How many rows of uncorrelated columns the covariance is shrunk by; ``None`` lets
            cross-validation choose, 0 is plain maximum likelihood.
        scaler: Scale of numbers, see :class:`genzoo.codecs.scalers.ColumnScaler`; ``auto`` bends skewed columns too,
            with their Jacobian.
        draws: Simulations a row, for tables with two or more quantized columns.
        seed: Seed of folds and evaluation noise.

    References:
        Dempster, Laird, Rubin 1977, Maximum likelihood from incomplete data via the EM algorithm; Hajivassiliou and
        McFadden 1998, The method of simulated scores (GHK). Differs: shrinkage by cross-validated prior rows.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="exact", quantized="lower_bound", imputes=True, weights=True
    )
    closed_form: ClassVar[bool] = True
    codec: VectorCodec

    def __init__(
        self,
        schema: dict[str, Any],
        prior_rows: float | None = None,
        scaler: str = "standardise",
        *,
        draws: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(schema, draws=draws, seed=seed)
        if prior_rows is not None and prior_rows < 0:
            raise ValueError(f"prior_rows must not be negative, got {prior_rows}")
        self.prior_rows = prior_rows
        self.codec = VectorCodec(self.schema, scaler=scaler, widen_cells=True)
        shared = bool(self.codec.atom_cells().exists.any())
        self.state = MixtureState(self.codec.numbers, self.codec.categories, 1, shared)

    @property
    def likelihood_kind(self) -> str:
        return "lower_bound" if self.state.simulated else "exact"

    @property
    def num_parameters(self) -> int:
        return self.state.num_free

    def fit_closed_form(self, batches: Sequence[Any]) -> None:
        train = concatenate(list(batches))
        device = train.number.device
        layout = layout_of(self.codec.numbers, self.codec.categories, cell_variance(self.state.layout, train))
        fitted = fit_gaussian(train, layout, self.prior_rows, seed=self.seed)
        # Two numbers (mean, variance within cells) cannot overfit enough to need held-out rows.
        fitted = choose_sharpness(fitted, layout, train, train, self.seed)
        self.state.store(fitted, cell_variance(layout, train).to(device))

    def model_log_prob(self, encoded: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        return self.state.score(encoded, noise, draws)

    def traced_log_prob(self, encoded: Cells) -> Tensor:
        return self.state.traced_log_prob(encoded)

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        return self.state.sample(self.codec, num_samples, generator)

    def model_impute(
        self, batch: TableBatch, encoded: Cells, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        return self.state.impute(self.codec, batch, encoded, draws, generator)
