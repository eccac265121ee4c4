"""Gaussian mixtures with categories: EM, then gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.codecs.vector import VectorCodec
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.base import DensityModel
from genzoo.models.baselines.mixture_em import cell_variance, concatenate, run_em, select
from genzoo.models.baselines.mixture_fit import choose_sharpness, fit_mixture, layout_of
from genzoo.models.baselines.mixture_refine import refine
from genzoo.models.baselines.mixture_state import MixtureState
from genzoo.models.capabilities import Capabilities
from genzoo.models.deadline import deadline_of
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch


class GaussianMixture(DensityModel):
    r"""A mixture whose components are Gaussians over the numbers times multinomials over the categories.

    .. math:: p(x, y) = \sum_k \pi_k N(x; \mu_k, \Sigma_k) \prod_c \theta_{kc}[y_c]

    EM (k-means++ starts, log domain, holes handled exactly in both steps), then Adam on the likelihood itself with
    early stopping on held-out rows; EM's result stays where that does not improve it. A prior worth d + 2 rows and a
    floor relative to the pooled covariance are part of the model.

    Likelihood: as in :class:`Gaussian`: exact for densities, categories and holes; two or more quantized columns are
    simulated within each component (GHK), a lower bound in expectation that tightens with ``draws``.
    Imputation: component by responsibility, then conditional Gaussian; exact, but for observed cells, whose places are
    resampled from 32 weighted simulations.

    Args:
        schema: The table's schema as a plain dictionary.
        num_components: Number of components; ``None`` doubles it from one while held-out rows gain.
        max_components: Most components tried, and size of the buffers.
        floor: Least variance of a component in any direction, as a share of the pooled one; at least 1e-8.
        num_starts: Starts of EM for each number of components.
        refine: Follow EM by gradient steps.
        scaler: Scale of numbers, see :class:`genzoo.codecs.scalers.ColumnScaler`; ``auto`` bends skewed columns, with
            their Jacobian, and widens frequent cells. ``standardise``: a mixture in the table's own units.
        draws: Simulations a row, for tables with two or more quantized columns.
        seed: Seed of starts, batches and evaluation noise.

    References:
        Dempster, Laird, Rubin 1977; Ghahramani and Jordan 1994, Supervised learning from incomplete data via an EM
        approach; Fraley and Raftery 2007, Bayesian regularization for normal mixture estimation; Arthur and
        Vassilvitskii 2007, k-means++. Differs: the penalty is kept under gradient steps.
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="exact", quantized="lower_bound", imputes=True, weights=True
    )
    closed_form: ClassVar[bool] = True
    codec: VectorCodec

    def __init__(
        self,
        schema: dict[str, Any],
        num_components: int | None = None,
        max_components: int = 16,
        floor: float = 1e-4,
        num_starts: int = 2,
        refine: bool = True,
        scaler: str = "auto",
        *,
        draws: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__(schema, draws=draws, seed=seed)
        if num_components is not None and num_components < 1:
            raise ValueError(f"num_components must be at least 1, got {num_components}")
        if max_components < 1:
            raise ValueError(f"max_components must be at least 1, got {max_components}")
        if floor < 1e-8:
            raise ValueError(f"floor must be at least 1e-8, got {floor}; a component could shrink onto one row")
        self.num_components = num_components
        self.max_components = num_components or max_components
        self.floor, self.num_starts, self.refine = floor, max(1, num_starts), refine
        self.codec = VectorCodec(self.schema, scaler=scaler, widen_cells=True)
        shared = bool(self.codec.atom_cells().exists.any())
        self.state = MixtureState(self.codec.numbers, self.codec.categories, self.max_components, shared)

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
        held_batches = self.validation_batches()
        whole = train
        if held_batches:
            held = concatenate(list(held_batches))
        else:  # no validation rows: a seventh of the training rows decides, and all of them are fitted at the end
            generator = torch.Generator().manual_seed(seed_of(self.seed, "held out"))
            order = torch.randperm(len(train), generator=generator)
            cut = len(train) // 7
            held, train = select(whole, order[:cut]), select(whole, order[cut:])
        deadline = deadline_of(self)
        fitted, prior = fit_mixture(
            train,
            held,
            layout,
            self.num_components,
            self.max_components,
            self.floor,
            self.num_starts,
            self.seed,
            deadline,
        )
        if not held_batches and fitted.num_components > 1:
            fitted = run_em(fitted, layout, whole, prior, num_steps=30, tolerance=1e-5, deadline=deadline)[0]
        fitted = choose_sharpness(fitted, layout, train, held, self.seed)
        if self.refine:
            fitted = refine(fitted, layout, train, held, prior, seed=self.seed, deadline=deadline)
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
