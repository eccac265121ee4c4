"""Interventional flow: the whole density of an outcome under each treatment, from observational rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from genzoo.bijections.conditional_spline import ConditionalSpline
from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.base import Cells
from genzoo.codecs.column_plan import offsets
from genzoo.codecs.vector import VectorCodec
from genzoo.errors import CapabilityError, DataError
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.likelihood.one_step import OneStepSums, beyond_support, inverse_weights, negative_mass, observed_masses
from genzoo.models.capabilities import Capabilities
from genzoo.models.flows.arm_density import ArmCells, ArmDensity, ArmFlow
from genzoo.models.flows.interventional_columns import arm_names, outcome_column, treatment_column, treatment_features
from genzoo.models.flows.interventional_effects import LEVELS, Effects, effects
from genzoo.models.flows.interventional_measure import InterventionalMeasure
from genzoo.models.scoring import ModelLogProb
from genzoo.models.stages import Stage, StagedModel
from genzoo.tables.batch import HOLE, TableBatch
from genzoo.tables.schema import Schema

Estimator = Literal["one_step", "adjusted", "plug_in"]
BLOCK = 2048
RIDGE = 1e-4
"""Penalty on squared parameters of the target's bends: what no row speaks of stays straight."""


class InterventionalFlow(StagedModel):
    r"""Density of a potential outcome, :math:`p(Y[a] = y)`, for a table with a treatment and an outcome column.

    Every other modelled column is a covariate :math:`x`. Under consistency, overlap and no unmeasured confounding,

    .. math:: p(Y[a] = y) = E_X\, p(y \mid X, A = a).

    Stage ``nuisance`` fits :math:`\hat p(y \mid x, a)` (conditional splines) and the propensity
    :math:`\hat\pi_a(x)` on one network per fold; stage ``measure`` turns them, each row by the network that has not
    seen it, into signed masses of cells

    .. math:: m_a(C) = \frac1n \sum_i \hat P_a(C \mid x_i) + \frac{\lambda_a}{n} \sum_i
        \frac{1[A_i = a]}{\hat\pi_a(x_i)} \big(1[y_i \in C] - \hat P_a(C \mid x_i)\big);

    stage ``target`` fits one flow :math:`g_a` per arm by :math:`\min -\sum_C m_a(C) \log G_a(C)`. The result is right
    in the limit if either the outcome model or the propensity is (double robustness).

    Likelihood: exact density of the fitted :math:`g_a`, in the outcome's unit. Its estimand is interventional: it is
        never compared with a joint or conditional density. A row's number is ``log p(Y[a] = y)`` for the row's own
        treatment ``a`` and outcome ``y``; covariates do not enter.

    Args:
        schema: The table's schema; one column has role treatment (categorical, two values or more), one has role
            outcome (a number).
        estimator: ``one_step``: as above. ``adjusted``: without the correction. ``plug_in``: without the correction
            and without a target flow: the masses themselves, as a histogram of narrow cells.
        shrink: Multiply the correction by a James-Stein factor, estimated for each arm: near 1 where it stands out of
            its noise (a wrong outcome model, many rows), near 0 where it is noise. ``False``: factor 1, as in the
            paper.
        folds: Networks, each trained without its share of the rows; 1 uses the same rows for all (as in the paper).
        hidden: Units of each hidden layer of the nuisance network.
        num_layers: Its hidden layers.
        bins: Pieces of the conditional splines.
        target_bins: Pieces of the target splines; more detail, more noise.
        bound: Splines bend within +-``bound`` standard deviations.
        num_cells: Cells of the grid between its ends; the grid reaches 10 % beyond the training outcomes.
        clip: Propensities below count as without overlap.
        low_overlap: Such rows get the weight ``1 / clip`` (``cap``), or none (``drop``, as in the authors' code).
        hajek: Self-normalised weights: each arm's sum to the number of rows.
        outcome_noise: Standard deviation, in standard deviations of the outcome, of the noise added to outcomes while
            the nuisance network trains.
        representation_noise: Likewise, on its first hidden layer.
        dropout: Probability of dropping a hidden unit of the nuisance network.
        scaler: Scaling of the outcome, from factual outcomes alone; see :class:`genzoo.codecs.vector.VectorCodec`.
        nuisance_epochs: Most epochs of stage ``nuisance``.
        target_epochs: Most epochs of stage ``target``; a step costs the same for any number of rows.
        target_lr: Learning rate of stage ``target``.
        training: Arguments of :class:`genzoo.models.base.DensityModel`.

    References:
        Melnychuk, Frauen, Feuerriegel (2023), Normalizing Flows for Interventional Density Estimation,
        arXiv:2209.06203.
        Differs from the paper: cross-fitting; masses of cells instead of densities at points, so that total mass is 1
        exactly; the correction is shrunk; weights are capped instead of dropped; any number of arms; locations
        extrapolate linearly. Not here: outcomes of two or more dimensions.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("trial.csv", model="interventional_flow",
        ...     data={"treatment": ["drug"], "outcome": ["weight"]})  # doctest: +SKIP
        >>> model.potential_log_prob([70.0, 80.0], arm="yes")  # doctest: +SKIP
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        kinds=("continuous", "quantized"),
        missing="exact",
        context=True,
        context_missing=True,
        by_column=True,
        stages=("nuisance", "measure", "target"),
        roles=("treatment", "outcome"),
        estimand="interventional",
    )
    default_lr: ClassVar[float] = 3e-3
    codec: VectorCodec
    target: ArmDensity
    _inputs: Tensor

    def __init__(
        self,
        schema: dict[str, Any],
        estimator: Estimator = "one_step",
        shrink: bool = True,
        folds: int = 5,
        hidden: int = 32,
        num_layers: int = 2,
        bins: int = 8,
        target_bins: int = 8,
        bound: float = 4.0,
        num_cells: int = 512,
        clip: float = 0.05,
        low_overlap: Literal["cap", "drop"] = "cap",
        hajek: bool = False,
        outcome_noise: float = 0.05,
        representation_noise: float = 0.0,
        dropout: float = 0.0,
        scaler: str = "standardise",
        nuisance_epochs: int = 60,
        target_epochs: int = 40,
        target_lr: float = 2e-2,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        if estimator not in ("one_step", "adjusted", "plug_in"):
            raise ValueError(f"estimator must be one_step, adjusted or plug_in, got '{estimator}'")
        if low_overlap not in ("cap", "drop"):
            raise ValueError(f"low_overlap must be cap or drop, got '{low_overlap}'")
        if folds < 1 or num_cells < 2 or not 0 <= clip < 1:
            raise ValueError(
                f"folds must be at least 1, num_cells at least 2, clip from 0 to below 1; got {folds}, {num_cells}, "
                f"{clip}"
            )
        self.treatment, self.outcome = treatment_column(self.schema), outcome_column(self.schema)
        self.arms: tuple[str, ...] = arm_names(self.treatment)
        self.estimator, self.shrink, self.folds = estimator, shrink, folds
        self.clip, self.low_overlap, self.hajek = clip, low_overlap, hajek
        self.outcome_noise, self.representation_noise = outcome_noise, representation_noise
        self.nuisance_epochs, self.target_epochs, self.target_lr = nuisance_epochs, target_epochs, target_lr
        self.codec = VectorCodec(self.view, scaler={self.outcome.name: scaler})
        self._code = offsets(self.schema.categorical)[self.treatment.name]
        self._number = offsets(self.schema.numeric)[self.outcome.name]
        mine, inputs = treatment_features(self.view, self.treatment)
        self._arm_features = mine
        self.register_buffer("_inputs", torch.tensor(inputs, dtype=torch.int64), persistent=False)
        self.nuisance = ConditionalSpline(
            len(inputs),
            len(self.arms),
            Elementwise("spline", bins, bound),
            num_free=len(self.arms),
            copies=folds,
            hidden=hidden,
            num_layers=num_layers,
            dropout=dropout,
        )
        self.measure = InterventionalMeasure(len(self.arms), num_cells)
        if estimator == "plug_in":
            self.target = ArmCells(len(self.arms), num_cells + 1)
        else:
            self.target = ArmFlow(len(self.arms), Elementwise("spline", target_bins, bound))

    @property
    def view(self) -> Schema:
        """The outcome is scored, every other modelled column is conditioned on."""
        others = [c.name for c in self.schema.columns if c.is_modelled and c.role != "outcome"]
        return self.schema.with_roles("context", others)

    @property
    def likelihood_method(self) -> str:
        words = {"one_step": "one-step target flow", "adjusted": "covariate-adjusted target flow", "plug_in": "plug-in"}
        return words[self.estimator]

    # ---- training -------------------------------------------------------------------------------------------------

    def initialise(self, batches: Sequence[Any]) -> None:
        """Lays the grid over the training outcomes."""
        cells: Cells = batches[0]
        number = cells.number[cells.present[:, 0], 0]
        if not len(number):
            raise DataError(f"outcome column '{self.outcome.name}' has no value in any training row")
        self.measure.place(self.codec, number)

    def stages(self) -> Sequence[Stage]:
        """Nuisance, measure and, unless the plug-in is asked for, target."""
        nuisance = Stage(
            "nuisance",
            (self.nuisance,),
            loss=self._nuisance_loss,
            monitor=self._nuisance_monitor,
            epochs=self.nuisance_epochs,
            schedule="cosine",
        )
        if self.estimator == "plug_in":
            return [nuisance, Stage("measure", (self.measure, self.target), closed_form=self._fill)]
        target = Stage(
            "target",
            (self.target,),
            loss=self._target_loss,
            epochs=self.target_epochs,
            lr=self.target_lr,
            schedule="cosine",
            begin=self._start_target,
        )
        return [nuisance, Stage("measure", (self.measure,), closed_form=self._fill), target]

    def _usable(self, batch: TableBatch) -> TableBatch:
        """Rows whose treatment and outcome are known; others say nothing of the outcome under a treatment."""
        known = (batch.codes[:, self._code] >= 0) & ~batch.numeric[:, self._number].isnan()
        return batch if bool(known.all()) else batch.select(known)

    def _fold(self, rows: Tensor) -> Tensor:
        """``(batch,)``: which network may not learn from a row; a function of seed and row number."""
        salt = seed_of(self.seed, "folds") % 2**31
        return ((rows * 2_654_435_761 + salt * 40_503) >> 15) % self.folds

    def _nuisance_terms(self, batch: TableBatch, noisy: bool) -> Tensor:
        """``(folds, batch)``: what each network loses on each row, outcome and treatment together, in nats."""
        cells: Cells = self.codec.encode(batch)
        arm = batch.codes[:, self._code]
        dtype = self.nuisance.first.weight.dtype
        inputs = cells.context[:, self._inputs].to(dtype)
        parameters, logits = self.nuisance(inputs, self.representation_noise if noisy else 0.0)
        own = arm[None, :, None].expand(self.folds, -1, 1)
        parameters = parameters.gather(3, own.expand(len(parameters), -1, -1, -1)).squeeze(3)
        shape = parameters.shape[1:]
        if self.codec.numbers[0].quantized:
            lower, upper = cells.lower[:, 0].expand(shape), cells.upper[:, 0].expand(shape)
            log_prob = self.nuisance.log_mass(lower, upper, parameters).to(dtype)
        else:
            y = cells.number[:, 0].to(dtype)
            y = y + self.outcome_noise * torch.randn_like(y) if noisy else y
            log_prob = self.nuisance.log_density(y.expand(shape), parameters)
        treated = F.cross_entropy(logits.transpose(1, 2), arm.expand(shape), reduction="none")
        return treated - log_prob

    def _nuisance_loss(self, batch: TableBatch) -> Tensor:
        batch = self._usable(batch)
        if not len(batch):
            return sum((p.sum() * 0.0 for p in self.nuisance.parameters()), torch.zeros((), device=self.device))
        terms = self._nuisance_terms(batch, noisy=True)
        if self.folds == 1:
            return terms.mean()
        learns = self._fold(batch.rows) != torch.arange(self.folds, device=terms.device)[:, None]
        # every network at the learning rate that it would have alone
        return (terms * learns).sum() / learns.sum().clamp_min(1) * self.folds

    def _nuisance_monitor(self, batch: TableBatch) -> Tensor:
        return self._nuisance_terms(self._usable(batch), noisy=False).mean(0)

    @torch.no_grad()
    def _fill(self, batches: Sequence[TableBatch]) -> None:
        """Stage ``measure``: the one-step estimate from all training rows, each by the network that has not seen it."""
        rows = self._usable(TableBatch.concatenate(list(batches)))
        arm = rows.codes[:, self._code]
        seen = torch.bincount(arm, minlength=len(self.arms))
        if bool((seen == 0).any()):
            name = self.arms[int((seen == 0).nonzero()[0])]
            raise DataError(f"no training row has treatment '{name}' of column '{self.treatment.name}' and an outcome")
        blocks = [rows.select(slice(i, i + BLOCK)) for i in range(0, len(rows), BLOCK)]
        propensity = torch.cat([self._held_out(block)[1] for block in blocks])
        weights = inverse_weights(propensity, arm, self.clip, self.low_overlap, self.hajek)
        sums = OneStepSums(len(self.arms), self.measure.group.cpu(), self.measure.indicators().cpu())
        edges = self.measure.edges
        for block, weight in zip(blocks, weights.split(BLOCK), strict=True):
            parameters, _ = self._held_out(block)
            modelled = self.nuisance.cell_masses(edges, parameters).permute(1, 2, 0)
            number = self.codec.encode(block).number[:, 0]
            observed = observed_masses(number, edges)
            values = observed @ self.measure.indicators()
            values[:, 0] = block.numeric[:, self._number]
            sums.add(modelled.cpu(), observed.cpu(), weight.cpu(), values.cpu())
        self.measure.take(sums.result())
        self.measure.take_overlap(propensity, arm, weights, self.clip, beyond_support(propensity, arm))
        self.training_record["overlap"] = {
            "arms": list(self.arms),
            "shrinkage": self.measure.shrinkage.tolist(),
            "negative_mass": negative_mass(self.measure.plug_in + self.measure.correction).tolist(),
            "effective_rows": self.measure.effective.tolist(),
            "beyond_support": self.measure.beyond.tolist(),
        }
        if isinstance(self.target, ArmCells):
            self.target.start(self.measure.plug_in, edges)

    def _held_out(self, batch: TableBatch) -> tuple[Tensor, Tensor]:
        """Parameters ``(num_parameters, batch, num_arms)`` and propensities by each row's held-out network."""
        inputs = self.codec.encode(batch).context[:, self._inputs].to(self.nuisance.first.weight)
        parameters, logits = self.nuisance(inputs)
        fold, place = self._fold(batch.rows), torch.arange(len(batch), device=inputs.device)
        return parameters[:, fold, place], logits[fold, place].double().softmax(-1)

    @property
    def correction_factor(self) -> Tensor:
        """``(num_arms,)``: how much of the one-step correction the target follows."""
        if self.estimator != "one_step":
            return torch.zeros_like(self.measure.shrinkage)
        return self.measure.shrinkage if self.shrink else torch.ones_like(self.measure.shrinkage)

    def masses(self) -> Tensor:
        """``(num_arms, num_cells + 2)`` signed masses that the target follows."""
        return self.measure.plug_in + self.correction_factor[:, None] * self.measure.correction

    def _start_target(self) -> None:
        assert isinstance(self.target, ArmFlow)
        self.target.start(self.masses(), self.measure.edges)

    def _target_loss(self, batch: TableBatch) -> Tensor:
        assert isinstance(self.target, ArmFlow)
        ridge = self.target.parameters_of_arms[2:].square().sum(0).mean()
        return self.target.cross_entropy(self.masses(), self.measure.edges).mean() + RIDGE * ridge

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def model_log_prob(self, encoded: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        present = encoded.present[:, 0]
        arm = encoded.context[:, self._arm_features].argmax(1)
        unknown = present & (arm == len(self.arms))
        if bool(unknown.any()):
            raise CapabilityError(
                f"treatment column '{self.treatment.name}' is missing, or holds a treatment that training rows did "
                f"not, in {int(unknown.sum())} rows that have an outcome; p(Y[a]) needs a known a"
            )
        arm = torch.where(present, arm, 0)
        if self.codec.numbers[0].quantized:
            values = self.target.log_mass(encoded.lower[:, 0], encoded.upper[:, 0], arm)
        else:
            values = self.target.log_density(encoded.number[:, 0], arm)
        values = torch.where(present, values, 0.0)
        return ModelLogProb(values, by_column=values[:, None])

    def potential_log_prob(self, values: Any, arm: str | int) -> NDArray[np.float64]:
        """``log p(Y[arm] = value)``, nats in the outcome's own unit.

        Args:
            values: ``(n,)`` outcomes; NaN gives 0 (nothing observed, nothing scored).
            arm: Name of the treatment, or its number in ``arms``.
        """
        values = torch.as_tensor(np.asarray(values, dtype=np.float64)).reshape(-1)
        batch = self._rows_of(values, torch.full((len(values),), self.arm_index(arm)))
        was_training = self.training
        self.eval()
        try:
            return self.score_batch(batch.to(self.device), self.seed, self.draws).values.cpu().numpy()
        finally:
            self.train(was_training)

    def arm_index(self, arm: str | int) -> int:
        """Number of an arm.

        Raises:
            DataError: no such treatment.
        """
        if isinstance(arm, int) and 0 <= arm < len(self.arms):
            return arm
        if str(arm) not in self.arms:
            raise DataError(f"no treatment '{arm}' in column '{self.treatment.name}'; it has {', '.join(self.arms)}")
        return self.arms.index(str(arm))

    def _rows_of(self, outcome: Tensor, arm: Tensor) -> TableBatch:
        """Raw rows of treatment and outcome, all other cells holes."""
        num = len(outcome)
        numeric = torch.full((num, sum(c.width for c in self.schema.numeric)), torch.nan, dtype=torch.float64)
        codes = torch.full((num, sum(c.width for c in self.schema.categorical)), HOLE)
        numeric[:, self._number], codes[:, self._code] = outcome.double().cpu(), arm.cpu()
        return TableBatch(numeric, codes, torch.arange(num))

    # ---- samples --------------------------------------------------------------------------------------------------

    def potential_sample(self, arm: Tensor, generator: torch.Generator) -> Tensor:
        """``(n,)`` draws of ``Y[arm]`` in the outcome's unit for ``(n,)`` arm numbers."""
        level = torch.rand(len(arm), generator=generator, dtype=torch.float64).clamp(1e-12, 1 - 1e-12)
        return self._decoded(self.target.quantile(level.to(self.device), arm.to(self.device)))

    def _decoded(self, number: Tensor) -> Tensor:
        empty = torch.empty(len(number), 0, dtype=torch.int64, device=number.device)
        rows = torch.arange(len(number), device=number.device)
        return self.codec.decode(number.double()[:, None], empty, rows).numeric[:, self._number]

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        """Rows of treatment and outcome; arms as often as in training, or as the context features say."""
        if context is None:
            share = self.measure.rows.double().cpu()
            arm = torch.multinomial(share / share.sum(), num_samples, replacement=True, generator=generator)
        else:
            arm = context[:, self._arm_features].argmax(1)
        return self._rows_of(self.potential_sample(arm, generator), arm)

    def sample(
        self,
        num_samples: int | None = None,
        *,
        given: Any = None,
        seed: int = 0,
        backend: str = "pandas",
        batch_size: int = 4096,
    ) -> Any:
        """Draws of (treatment, outcome under that treatment) as a frame of these two columns.

        Args:
            num_samples: Number of rows; with ``given``, its rows are repeated in turn.
            given: Rows with the treatment column; without, treatments are drawn as often as in training rows.
            seed: Seed of the draws.
            backend: ``pandas``, ``polars`` or ``pyarrow``.
            batch_size: Not used; a draw costs a few numbers.
        """
        from genzoo.models.flows.interventional_sample import sample_outcomes

        self.require_trained()
        return sample_outcomes(self, num_samples, given, seed, backend)

    def effects(self, reference: str | int = 0, levels: Sequence[float] = LEVELS, confidence: float = 0.95) -> Effects:
        """Means, quantiles and effects of every treatment with intervals; see
        :func:`genzoo.models.flows.interventional_effects.effects`.
        """
        return effects(self, reference, levels, confidence)

    def negative_mass(self) -> NDArray[np.float64]:
        """``(num_arms,)``: mass below zero, on coarse cells, of what the target follows; 0 is best."""
        return negative_mass(self.masses()).cpu().numpy()
