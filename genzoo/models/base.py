"""The one contract every model keeps: train on a table, score rows in the table's units, sample, impute, save."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from genzoo.codecs.base import Codec
from genzoo.errors import CapabilityError, GenZooError
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.averaging import WeightAverage
from genzoo.models.capabilities import Capabilities
from genzoo.models.checkpoint import FORMAT, KEY, read_checkpoint, versions
from genzoo.models.fit_check import require_capable, require_roles, require_weighable
from genzoo.models.lightning_parts import Callback, EarlyStopping, LightningModule, __version__
from genzoo.models.optimisation import Schedule, make_optimizer, make_schedule
from genzoo.models.record import RecordsArguments, require_plain
from genzoo.models.scoring import (
    ModelLogProb,
    evaluation_precision,
    float64_difference,
    impossible_cells,
    in_data_space,
    rows_with_holes,
    split_unseen,
    sum_over_known,
)
from genzoo.tables.batch import TableBatch
from genzoo.tables.ranges import training_ranges
from genzoo.tables.schema import Schema

if TYPE_CHECKING:
    from genzoo.likelihood.log_likelihood import LogLikelihood
    from genzoo.tables.encode import TableData


class DensityModel(RecordsArguments, LightningModule, ABC):
    r"""Base of every model. A method writes :meth:`row_losses`, :meth:`model_log_prob`, :meth:`model_sample` and,
    if it can, :meth:`model_impute`, all in the space of its codec; this class does the rest.

    The number every model reports is :math:`\log p(\text{observed value cells} \mid \text{which are observed,
    context})` in nats, in the table's own units. The pattern of holes is never scored.

    Args:
        schema: The table's schema as a plain dictionary (:meth:`genzoo.Schema.to_dict`), from the datamodule.
        lr: Learning rate; ``None`` takes the model's own default.
        optimizer: ``{"class_path": "torch.optim.AdamW", "init_args": {...}}``; ``None`` is AdamW.
        schedule: Learning rate: ``plateau`` (a third, when val/nll stands still), ``cosine`` or ``constant``.
        warm_up_steps: Optimiser steps over which the learning rate rises from zero (cosine and constant).
        schedule_patience: Validations without progress before the learning rate falls (plateau).
        patience: Validations without progress before training stops; 0 never stops early.
        ema: Decay of the moving average of the weights that is evaluated and saved; 0 switches it off.
        gradient_clip: Largest norm of the gradient; 0 switches clipping off.
        accumulate: Batches whose gradients make one optimiser step.
        draws: Monte-Carlo draws a row in evaluation, for models that are not exact on the table.
        seed: Seed of weights, training noise and evaluation noise.
    """

    capabilities: ClassVar[Capabilities]
    closed_form: ClassVar[bool] = False
    evaluation_gradients: ClassVar[bool] = False
    default_lr: ClassVar[float] = 1e-3
    codec: Codec

    def __init__(
        self,
        schema: dict[str, Any],
        *,
        lr: float | None = None,
        optimizer: dict[str, Any] | None = None,
        schedule: Schedule = "plateau",
        warm_up_steps: int = 0,
        schedule_patience: int = 5,
        patience: int = 15,
        ema: float = 0.99,
        gradient_clip: float = 5.0,
        accumulate: int = 1,
        draws: int = 16,
        seed: int = 0,
    ) -> None:
        super().__init__()
        require_plain(self.init_args, type(self).__name__)
        self.automatic_optimization = False
        self.schema = Schema.from_dict(schema)
        self.lr = self.default_lr if lr is None else lr
        self.optimizer_choice = optimizer
        self.schedule: Schedule = schedule
        self.warm_up_steps = warm_up_steps
        self.schedule_patience = schedule_patience
        self.patience = patience
        self.ema = ema
        self.gradient_clip = gradient_clip
        self.accumulate = accumulate
        self.draws = draws
        self.seed = seed
        self.training_record: dict[str, Any] = {}
        self.validation_source: Callable[[], Iterable[TableBatch]] | None = None
        self.test_likelihood: LogLikelihood | None = None
        self._mean_weight = 1.0
        require_roles(type(self).__name__, self.capabilities, self.schema)
        require_weighable(type(self).__name__, self.capabilities, self.schema)
        require_capable(type(self).__name__, self.capabilities, self.view)

    @staticmethod
    @contextmanager
    def construction(arguments: dict[str, Any]) -> Iterator[None]:
        """Weights are a function of the seed alone: the caller's random state is neither used nor changed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(arguments.get("seed", 0), "weights"))
            yield

    # ---- what a method writes -------------------------------------------------------------------------------------

    @property
    def view(self) -> Schema:
        """The schema as this model scores it: columns that it conditions on by its nature (a sensitive attribute, a
        treatment and its covariates) have role context here. By default the table's own roles.
        """
        return self.schema

    @property
    def likelihood_kind(self) -> str:
        """Kind of this model's likelihood on this schema: exact, lower_bound, upper_bound, estimate, unnormalised."""
        c, columns = self.capabilities, self.view.scored
        kinds = {c.likelihood}
        if any(column.kind == "quantized" for column in columns):
            kinds.add(c.quantized)
        if any(column.is_categorical or column.num_atoms for column in columns):
            kinds.add(c.categorical)
        kinds.discard("exact")
        if not kinds:
            return "exact"
        return kinds.pop() if len(kinds) == 1 else "estimate"

    @property
    def likelihood_method(self) -> str:
        """How the number is computed, in a few words, for reports."""
        return "closed form" if self.likelihood_kind == "exact" else f"importance-weighted, {self.draws} draws"

    @property
    def likelihood_bias(self) -> str | None:
        """Sign of the expected error where the kind is ``estimate``: ``none`` if unbiased; ``None`` is unknown."""
        return None

    def kind_on(self, holes: bool) -> tuple[str, str]:
        """Kind and method on rows with (``holes``) or without missing scored cells: by default the same for both."""
        return self.likelihood_kind, self.likelihood_method

    @property
    def explains_columns(self) -> bool:
        """The likelihood is a sum of contributions of columns."""
        return self.capabilities.by_column

    @property
    def reads_pattern(self) -> bool:
        """The density depends on which cells are missing, not only on the observed ones."""
        return self.capabilities.uses_mask

    def row_losses(self, encoded: Any) -> Tensor:
        """What training minimises the mean of: a number a row, ``(batch,)``. Not needed by closed-form models."""
        raise NotImplementedError(f"{type(self).__name__} has no loss of each row")

    def loss(self, encoded: Any) -> Tensor:
        """What training minimises: a scalar, the mean of :meth:`row_losses`.

        A model whose loss is not a mean over rows writes this one instead, and cannot train with row weights.
        """
        return self.row_losses(encoded).mean()

    def weighted_loss(self, encoded: Any, weights: Tensor) -> Tensor:
        r"""``mean(w_i / m * l_i)`` with :math:`m` the mean weight of all training rows.

        Dividing by the mean of the batch instead would bias small batches with uneven weights towards light rows.
        """
        losses = self.row_losses(encoded)
        return (losses * (weights / self._mean_weight).to(losses)).mean()

    @abstractmethod
    def model_log_prob(self, encoded: Any, noise: RowNoise, draws: int) -> ModelLogProb:
        """Log-likelihood of encoded rows in the codec's space, nats; float64."""

    def traced_log_prob(self, encoded: Any) -> Tensor:
        """Hook: the values of :meth:`model_log_prob`, where they are exact, by the same operations for all rows.

        What ``genzoo export --onnx`` traces: no branch on values, sizes from shapes, nothing drawn.
        """
        raise NotImplementedError(f"{type(self).__name__} has no traced likelihood")

    @property
    def graph_obstacle(self) -> str | None:
        """Why an exact likelihood cannot be traced; ``None`` where :meth:`traced_log_prob` gives it."""
        written = type(self).traced_log_prob is not DensityModel.traced_log_prob
        return None if written else "its likelihood takes other steps for other rows"

    @abstractmethod
    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        """Decoded raw rows. ``context`` is ``(num_samples, num_context)`` encoded context features, or ``None``."""

    def model_impute(self, batch: TableBatch, encoded: Any, draws: int, generator: torch.Generator) -> list[TableBatch]:
        """``draws`` completions of raw rows: every hole of a scored column filled, observed cells as they are."""
        raise CapabilityError(
            f"{type(self).__name__} does not impute; use a model that does (genzoo models lists them)"
        )

    def fit_closed_form(self, batches: Sequence[Any]) -> None:
        """Fits a closed-form model from the encoded training rows."""
        raise NotImplementedError(f"{type(self).__name__} is not trained in closed form")

    def initialise(self, batches: Sequence[Any]) -> None:
        """Hook: data-dependent starting values, called once after the codec was fitted."""

    def refresh_derived(self) -> None:
        """Hook: recomputes buffers derived from weights, when averaged weights took their place."""

    def after_optimizer_step(self) -> None:
        """Hook: what follows the weights (power iterations), once after each optimiser step."""

    def extra_state_for_checkpoint(self) -> dict[str, Any]:
        """Hook: tensors kept beside the module's state (boosters), under keys of their own."""
        return {}

    def restore_extra(self, checkpoint: dict[str, Any]) -> None:
        """Hook: inverse of :meth:`extra_state_for_checkpoint`."""

    @property
    def ready(self) -> bool:
        """The model can score rows (a closed-form model cannot before it is fitted)."""
        return bool(self.codec.fitted)

    # ---- order of events ------------------------------------------------------------------------------------------

    def fit_codec(self, datamodule: Any) -> None:
        """Fits the codec on training rows, once; a checkpoint's codec is kept."""
        if bool(self.codec.fitted):
            return
        if datamodule is None or not hasattr(datamodule, "fit_sample"):
            raise GenZooError(
                "training needs a GenZoo datamodule (Table, Toy, ...), which knows the rows to fit scales on"
            )
        batch = datamodule.fit_sample()
        self.fit_codec_on(batch)
        self.training_record["ranges"] = training_ranges(batch.numeric.cpu().numpy(), self.schema)

    def fit_codec_on(self, batch: TableBatch) -> None:
        """Fits the codec and the starting values on these training rows."""
        self.codec.fit(batch)
        if not self.closed_form:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self.seed, "initialise"))
                self.initialise([self.codec.encode(split_unseen(batch, self.schema).batch)])

    def setup(self, stage: str) -> None:
        precision = str(self.trainer.precision)
        if precision.endswith("-true") and precision != "32-true":
            raise GenZooError(
                f"precision '{precision}' would cast the float64 scales of the codec; "
                "use --trainer.precision bf16-mixed or 32-true"
            )
        if stage == "fit":
            if precision == "16-mixed" and self.gradient_clip:
                # clipping happens in the model, before the Trainer takes the loss scale out of the gradients
                raise GenZooError(
                    "precision '16-mixed' scales gradients, which the model would clip by the wrong size; "
                    "use --trainer.precision bf16-mixed, or --model.gradient_clip 0"
                )
            if self.closed_form and self.trainer.world_size > 1:
                raise CapabilityError(f"{type(self).__name__} trains on one device; use --trainer.devices 1")
            self.fit_codec(self.trainer.datamodule)  # type: ignore[attr-defined]
            datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            self.training_record |= {"data": getattr(datamodule, "record", {})}
            self._mean_weight = getattr(datamodule, "mean_weight", 1.0)
            self._started = time.monotonic()
        else:
            self.codec.require_fitted()

    def configure_callbacks(self) -> list[Callback]:
        if self.closed_form:
            return []
        callbacks: list[Callback] = []
        if self.ema:
            callbacks.append(WeightAverage(self.ema))
        if self.patience:
            callbacks.append(
                EarlyStopping("val/nll", patience=self.patience, min_delta=1e-4, check_on_train_epoch_end=False)
            )
        return callbacks

    def configure_optimizers(self) -> Any:
        if self.closed_form:
            return None
        optimizer = make_optimizer((p for p in self.parameters() if p.requires_grad), self.lr, self.optimizer_choice)
        steps = self.trainer.max_steps if self.trainer.max_steps > 0 else int(self.trainer.estimated_stepping_batches)
        steps //= self.accumulate
        return [optimizer], [make_schedule(optimizer, self.schedule, self.schedule_patience, steps, self.warm_up_steps)]

    def training_step(self, batch: TableBatch, batch_idx: int) -> None:
        batch = split_unseen(batch, self.schema).batch
        if self.in_closed_form:
            if batch_idx == 0:
                self._closed_form_batches: list[Any] = []
            self._closed_form_batches.append(self.training_rows(batch))
            if self.trainer.is_last_batch:
                self.fit_closed_form(self._closed_form_batches)
                del self._closed_form_batches
                self.count_step()
                self.end_closed_form()
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            # training noise is a function of (seed, step), so a resumed run sees the draws of an uninterrupted one
            torch.manual_seed(seed_of(self.seed, "train", self.global_step, batch_idx, self.global_rank))
            rows = self.training_rows(batch)
            loss = self.loss(rows) if batch.weights is None else self.weighted_loss(rows, batch.weights)
            if not torch.isfinite(loss):
                raise GenZooError(
                    f"the loss became {float(loss)} at step {self.global_step}; try a smaller learning rate "
                    f"(--model.lr {self.lr / 3:.2g}) or stronger gradient clipping (--model.gradient_clip 1)"
                )
            self.manual_backward(loss / self.accumulate)
        if (batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch:
            self._optimizer_step()
        self.log("train/loss", loss.detach(), on_step=False, on_epoch=True, batch_size=len(batch))

    def _optimizer_step(self) -> None:
        optimizer, scheduler = self.current_optimizer()
        if self.current_clip:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.current_clip)
        optimizer.step()
        self.after_optimizer_step()
        optimizer.zero_grad()
        if self.current_schedule != "plateau":
            scheduler.step()

    # Models that train in stages (genzoo/models/stages.py) answer the next six by the stage they are in.

    def training_rows(self, batch: TableBatch) -> Any:
        """What the loss reads of raw rows: by default the codec's view of them."""
        return self.codec.encode(batch)

    @property
    def in_closed_form(self) -> bool:
        """Training collects the rows of this epoch and computes, instead of stepping an optimiser."""
        return self.closed_form

    def end_closed_form(self) -> None:
        """What follows a closed form: the end of training."""
        self.trainer.should_stop = True

    def current_optimizer(self) -> tuple[Any, Any]:
        """The optimiser and the learning-rate schedule in use."""
        return self.optimizers(), self.lr_schedulers()

    @property
    def current_schedule(self) -> Schedule:
        return self.schedule

    @property
    def current_clip(self) -> float:
        return self.gradient_clip

    def count_step(self) -> None:
        """Counts one optimiser step of a model that has no optimiser, so that Lightning checkpoints and logs."""
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def validation_batches(self) -> list[Any]:
        """Encoded validation rows, for closed-form choices such as the number of components."""
        if self.validation_source is not None:
            return [self.codec.encode(batch) for batch in self.validation_source()]
        if getattr(self, "_trainer", None) is None:
            return []
        data = self.trainer.datamodule.data("val")  # type: ignore[attr-defined]
        return [self.codec.encode(split_unseen(b, self.schema).batch) for b in _chunks(data, 4096)] if len(data) else []

    def on_validation_epoch_start(self) -> None:
        self._validation = torch.zeros(2, dtype=torch.float64)

    def validation_step(self, batch: TableBatch, batch_idx: int) -> None:
        if not self.ready:
            return
        values = self.score_batch(batch, self.seed, self.draws).values
        total, count = values.sum(), float(len(values))
        if batch.weights is not None:
            weights = (batch.weights / self._mean_weight).to(values)
            total, count = (weights * values).sum(), float(weights.sum())
        self._validation += torch.tensor([-float(total), count], dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        total = self._gathered(self._validation)
        if total[1] == 0:
            return
        nll = float(total[0] / total[1])
        self.log("val/nll", self._logged(nll), prog_bar=True, rank_zero_only=False)
        self._log_bits("val/bpd", nll)
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking and not self.closed_form:
            optimizer: Any = self.optimizers()
            self.log("lr", optimizer.param_groups[0]["lr"])
            if self.schedule == "plateau":
                scheduler: Any = self.lr_schedulers()
                scheduler.step(nll)

    def _gathered(self, total: Tensor) -> Tensor:
        """``(2,)`` sums over rows (and their weights), over all devices."""
        if self.trainer.world_size > 1:
            return self.all_gather(total.to(self.device)).reshape(-1, 2).sum(0).cpu()  # type: ignore[union-attr]
        return total

    def _logged(self, number: float) -> Tensor:
        """A float64 tensor, or Lightning rounds the number to float32 (a device without float64 has to)."""
        return torch.tensor(number, dtype=torch.float32 if self.device.type == "mps" else torch.float64)

    def _log_bits(self, name: str, nll: float) -> None:
        """Logs bits per cell where rows hold a block whose cells share one measure (characters, pixels)."""
        cells = self.schema.cells_of_one_measure
        if cells and any(column.shape for column in self.schema.scored):
            self.log(name, nll / (cells * math.log(2)), rank_zero_only=False)

    def on_test_epoch_start(self) -> None:
        self._test_parts: list[dict[str, np.ndarray]] = []

    def test_step(self, batch: TableBatch, batch_idx: int) -> None:
        self._test_parts.append(_numpy(batch, self.score_batch(batch, self.seed, self.draws)))

    def on_test_epoch_end(self) -> None:
        parts = self._test_parts
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        data = self.trainer.datamodule.data("test")  # type: ignore[attr-defined]
        self.test_likelihood = self._collect(parts, data, self.seed, self.draws)
        self.log("test/nll", -self.test_likelihood.mean(), rank_zero_only=False)
        self.log("test/nll_se", self.test_likelihood.se_mean(), rank_zero_only=False)
        self._log_bits("test/bpd", -self.test_likelihood.mean())
        self._log_bits("test/bpd_se", self.test_likelihood.se_mean())

    def predict_step(self, batch: TableBatch, batch_idx: int) -> dict[str, np.ndarray]:
        return _numpy(batch, self.score_batch(batch, self.seed, self.draws))

    # ---- likelihood in data units ---------------------------------------------------------------------------------

    def score_batch(self, batch: TableBatch, seed: int, draws: int) -> ModelLogProb:
        """Log-likelihood of raw rows in the schema's base measure, nats. Gradients only if the model needs them."""
        self.codec.require_fitted()
        if self.evaluation_gradients and torch.is_inference_mode_enabled():
            raise GenZooError(f"{type(self).__name__} needs gradients to evaluate; use --trainer.inference_mode false")
        with torch.set_grad_enabled(self.evaluation_gradients), evaluation_precision():
            unseen = split_unseen(batch, self.view)
            noise = RowNoise(seed, batch.rows)
            if self.capabilities.missing == "no" and bool(unseen.rows.any()):
                # a model that knows no holes: the marginal over the known categories, by enumeration
                encoded, part = sum_over_known(self, unseen, noise, draws)
            else:
                encoded = self.codec.encode(unseen.batch)
                part = self.model_log_prob(encoded, noise, draws)
            values = in_data_space(encoded, part.values, unseen)
            if bool(torch.isnan(values).any()):
                bad = int(torch.isnan(values).sum())
                raise GenZooError(
                    f"{type(self).__name__} gave no number for {bad} of {len(values)} rows; train with a smaller "
                    "learning rate, or report the table as a defect"
                )
            discrete = self._discrete_part(part, values, unseen.terms.sum(1))
            by_column = None
            if part.by_column is not None:
                by_column = part.by_column.double() + encoded.log_volume + unseen.terms
                outside = encoded.outside | unseen.impossible
                by_column[impossible_cells(batch, self.view) & outside[:, None]] = -torch.inf
            return ModelLogProb(values.detach(), part.se, discrete, by_column)

    def _discrete_part(self, part: ModelLogProb, values: Tensor, terms: Tensor) -> Tensor | None:
        scored = self.view.scored
        if all(c.kind == "continuous" and not c.num_atoms for c in scored):
            return torch.zeros_like(values)
        if all(c.kind == "quantized" or c.is_categorical for c in scored):
            return values
        return None if part.discrete is None else part.discrete.double() + terms

    def log_prob(
        self, table: Any, *, seed: int | None = None, draws: int | None = None, batch_size: int = 4096
    ) -> LogLikelihood:
        """Log-likelihood of each row, nats, in the table's own units, labelled with what kind of number it is.

        Args:
            table: A frame (pandas, polars, Arrow), a path, or an encoded table.
            seed: Seed of the evaluation noise; the model's own by default. Draws depend on seed and row number alone.
            draws: Monte-Carlo draws a row, for models that are not exact.
            batch_size: Rows scored at once; changes memory, not the result.

        Raises:
            SchemaError: a column is missing or does not fit the schema.
        """
        data = self._encoded_table(table)
        seed, draws = self.seed if seed is None else seed, self.draws if draws is None else draws
        was_training, own_draws, started = self.training, self.draws, time.monotonic()
        self.eval()
        self.draws = draws  # a method that names its draws names these
        try:
            parts = [_numpy(b, self.score_batch(b.to(self.device), seed, draws)) for b in _chunks(data, batch_size)]
            return self._collect(parts, data, seed, draws, seconds=time.monotonic() - started)
        finally:
            self.draws = own_draws
            self.train(was_training)

    def _collect(
        self, parts: list[dict[str, np.ndarray]], data: TableData, seed: int, draws: int, seconds: float = 0.0
    ) -> LogLikelihood:
        from genzoo.likelihood.log_likelihood import LogLikelihood

        def joined(key: str) -> np.ndarray | None:
            found = [part.get(key) for part in parts]
            if key == "se" and not all(array is None for array in found):  # the others are without noise
                found = [
                    np.zeros(len(p["rows"])) if array is None else array for p, array in zip(parts, found, strict=True)
                ]
            return None if any(array is None for array in found) else np.concatenate(found)  # type: ignore[arg-type]

        rows = joined("rows")
        values = joined("values")
        assert rows is not None
        assert values is not None
        order = np.argsort(rows, kind="stable")

        def ordered(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[order]

        discrete = ordered(joined("discrete"))
        values = values[order]
        if discrete is None:
            continuous = None
        else:
            continuous = np.where(np.isfinite(values), values - np.where(np.isfinite(discrete), discrete, 0.0), 0.0)
        holes = bool(rows_with_holes(data, self.view).any())
        kind, method = self.kind_on(holes)
        return LogLikelihood(
            values=values,
            rows=rows[order],
            weights=ordered(joined("weights")),
            kind=kind,  # type: ignore[arg-type]
            bias=self.likelihood_bias if kind == "estimate" else None,  # type: ignore[arg-type]
            se=ordered(joined("se")),
            discrete=discrete,
            continuous=continuous,
            columns=tuple(c.name for c in self.view.scored),
            context=tuple(c.name for c in self.view.context),
            estimand=self.capabilities.estimand,
            measure=self.schema.measure,
            data=data.fingerprint,
            uses_mask=self.reads_pattern and holes,
            method=method,
            settings={} if kind == "exact" else {"draws": draws, "seed": seed},
            model=type(self).__name__,
            counts=dict(data.counts),
            by_column=ordered(joined("by_column")),
            meta={"seconds": seconds, "num_parameters": self.num_parameters},
        )

    def precision_check(self, data: TableData, num_rows: int = 256) -> float:
        """Mean difference to a float64 evaluation on the first rows, nats a row; should be below 1e-3."""
        was_training = self.training
        self.eval()
        try:
            return float64_difference(
                self, data.select(slice(0, num_rows)).batch().to(self.device), self.seed, self.draws
            )
        finally:
            self.train(was_training)

    @property
    def num_parameters(self) -> int:
        """Numbers fitted on training rows: weights, or the float buffers of a closed-form model."""
        weights = sum(p.numel() for p in self.parameters())
        return weights or sum(b.numel() for b in self.buffers() if b.is_floating_point())

    def _encoded_table(self, table: Any) -> TableData:
        from genzoo.tables.encode import TableData, encode_frame
        from genzoo.tables.frames import read_frame

        if isinstance(table, TableData):
            if table.schema.measure != self.schema.measure:
                raise GenZooError("the rows were encoded with another schema than the model was trained with")
            return table.with_schema(self.schema)
        return encode_frame(read_frame(table, schema=self.schema), self.schema)

    # ---- samples and imputations ----------------------------------------------------------------------------------

    def sample(
        self,
        num_samples: int | None = None,
        *,
        given: Any = None,
        seed: int = 0,
        backend: str = "pandas",
        batch_size: int = 4096,
    ) -> Any:
        """Draws rows as a frame in the table's own form.

        Args:
            num_samples: Number of rows; with ``given``, its rows are repeated in turn (default: one draw each).
            given: Rows of context columns, or of any columns where the model imputes: the others are drawn given them.
            seed: Seed of the draws.
            backend: ``pandas``, ``polars`` or ``pyarrow``.
            batch_size: Rows drawn at once.

        Raises:
            CapabilityError: context is needed and not given, or the model cannot condition on the given columns.
        """
        from genzoo.models.drawing import draw_rows

        return draw_rows(self, num_samples, given, seed, backend, batch_size)

    def impute(self, table: Any, *, draws: int = 1, seed: int = 0, batch_size: int = 1024) -> list[Any]:
        """Fills the holes of scored columns; observed cells come back as they were.

        Args:
            table: Frame or path with holes.
            draws: Number of completed frames (multiple imputation).
            seed: Seed of the draws.
            batch_size: Rows filled at once.

        Returns:
            ``draws`` frames of the kind that came in.

        Raises:
            CapabilityError: the model does not impute.
        """
        from genzoo.models.drawing import impute_table

        return impute_table(self, table, draws, seed, batch_size)

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def checkpoint_record(self) -> dict[str, Any]:
        """What a checkpoint says of the model beside its weights; plain values only."""
        kind = type(self)
        return {
            "format": FORMAT,
            "class_path": f"{kind.__module__}.{kind.__qualname__}",
            "init_args": self.init_args,
            "versions": versions(),
            "training": self.training_record,
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if getattr(self, "_trainer", None) is not None and hasattr(self, "_started"):
            metrics = {k: float(v) for k, v in self.trainer.callback_metrics.items()}
            self.training_record |= {
                "seconds": time.monotonic() - self._started,
                "epochs": self.trainer.current_epoch + 1,
                "steps": self.trainer.global_step,
                "metrics": metrics,
            }
        checkpoint[KEY] = self.checkpoint_record()
        checkpoint.update(self.extra_state_for_checkpoint())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.restore_extra(checkpoint)

    def save(self, path: Any) -> None:
        """Writes a checkpoint that :func:`genzoo.load` opens."""
        from genzoo.tables.frames import atomic_path

        with atomic_path(path, overwrite=True) as temporary:
            torch.save(self.checkpoint_content(), temporary)

    def checkpoint_content(self) -> dict[str, Any]:
        """All that a saved model is: weights, codec, arguments and record; plain values and tensors."""
        return {
            "state_dict": self.state_dict(),
            "pytorch-lightning_version": __version__,
            KEY: self.checkpoint_record(),
            **self.extra_state_for_checkpoint(),
        }

    def warm_start(self, run: Any) -> None:
        """Takes weights and codec of an earlier run with equal arguments; training starts anew from there."""
        content = read_checkpoint(run)
        if Schema.from_dict(content[KEY]["init_args"]["schema"]).measure != self.schema.measure:
            raise GenZooError(f"'{run}' was trained with another schema; a warm start needs the same columns and kinds")
        try:
            self.load_state_dict(content["state_dict"])
        except RuntimeError as error:
            raise GenZooError(f"'{run}' has other layers than this model: {str(error).splitlines()[0]}") from error
        self.restore_extra(content)


def _chunks(data: TableData, size: int) -> Iterable[TableBatch]:
    for start in range(0, len(data), size):
        yield data.select(slice(start, start + size)).batch()


def _numpy(batch: TableBatch, part: ModelLogProb) -> dict[str, np.ndarray]:
    arrays = {"rows": batch.rows.cpu().numpy(), "values": part.values.cpu().numpy()}
    if batch.weights is not None:
        arrays["weights"] = batch.weights.cpu().numpy()
    for key in ("se", "discrete", "by_column"):
        value = getattr(part, key)
        if value is not None:
            arrays[key] = value.detach().double().cpu().numpy()
    return arrays
