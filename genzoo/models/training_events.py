"""What a model does when Lightning calls it: fits its codec, trains, validates, tests, predicts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from genzoo.codecs.base import Codec
from genzoo.errors import CapabilityError, GenZooError
from genzoo.likelihood.noise import seed_of
from genzoo.models.averaging import WeightAverage
from genzoo.models.lightning_parts import Callback, EarlyStopping, LightningModule
from genzoo.models.optimisation import Schedule, make_optimizer, make_schedule
from genzoo.models.scored_rows import arrays_of, chunks, collect
from genzoo.models.scoring import ModelLogProb, split_unseen
from genzoo.tables.batch import TableBatch
from genzoo.tables.encode import require_inside
from genzoo.tables.ranges import training_ranges
from genzoo.tables.schema import Schema

if TYPE_CHECKING:
    from genzoo.likelihood.log_likelihood import LogLikelihood
    from genzoo.models.base import DensityModel


class TrainingEvents(LightningModule):
    """The order of events of every model under a Trainer; a model fills in the hooks.

    A model sets the attributes below in its constructor (:class:`~genzoo.models.base.DensityModel` does).
    """

    closed_form: ClassVar[bool] = False
    schema: Schema
    codec: Codec
    lr: float
    optimizer_choice: dict[str, Any] | None
    schedule: Schedule
    warm_up_steps: int
    schedule_patience: int
    patience: int
    ema: float
    gradient_clip: float
    accumulate: int
    draws: int
    seed: int
    training_record: dict[str, Any]
    validation_source: Callable[[], Iterable[TableBatch]] | None
    test_likelihood: LogLikelihood | None
    _mean_weight: float

    # ---- hooks ----------------------------------------------------------------------------------------------------

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

    def fit_closed_form(self, batches: Sequence[Any]) -> None:
        """Fits a closed-form model from the encoded training rows."""
        raise NotImplementedError(f"{type(self).__name__} is not trained in closed form")

    def initialise(self, batches: Sequence[Any]) -> None:
        """Hook: data-dependent starting values, called once after the codec was fitted."""

    def refresh_derived(self) -> None:
        """Hook: recomputes buffers derived from weights, when averaged weights took their place."""

    def after_optimizer_step(self) -> None:
        """Hook: what follows the weights (power iterations), once after each optimiser step."""

    @property
    def ready(self) -> bool:
        """The model can score rows (a closed-form model cannot before it is fitted)."""
        return bool(self.codec.fitted)

    def score_batch(self, batch: TableBatch, seed: int, draws: int) -> ModelLogProb:
        """Log-likelihood of raw rows in the schema's base measure, nats."""
        raise NotImplementedError(f"{type(self).__name__} scores no rows")

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
            datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            require_inside(datamodule.data("train"))
            self.fit_codec(datamodule)
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
        return [self.codec.encode(split_unseen(b, self.schema).batch) for b in chunks(data, 4096)] if len(data) else []

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
        self._test_parts.append(arrays_of(batch, self.score_batch(batch, self.seed, self.draws)))

    def on_test_epoch_end(self) -> None:
        parts = self._test_parts
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
        data = self.trainer.datamodule.data("test")  # type: ignore[attr-defined]
        self.test_likelihood = collect(cast("DensityModel", self), parts, data, self.seed, self.draws)
        self.log("test/nll", -self.test_likelihood.mean(), rank_zero_only=False)
        self.log("test/nll_se", self.test_likelihood.se_mean(), rank_zero_only=False)
        self._log_bits("test/bpd", -self.test_likelihood.mean())
        self._log_bits("test/bpd_se", self.test_likelihood.se_mean())

    def predict_step(self, batch: TableBatch, batch_idx: int) -> dict[str, np.ndarray]:
        return arrays_of(batch, self.score_batch(batch, self.seed, self.draws))
