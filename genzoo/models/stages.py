"""Models trained in stages: several losses, one after the other, inside one fit of one Trainer."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from genzoo.errors import GenZooError
from genzoo.likelihood.noise import seed_of
from genzoo.models.averaging import WeightAverage
from genzoo.models.base import DensityModel
from genzoo.models.checkpoint import KEY as RECORD
from genzoo.models.embedding import SubModel
from genzoo.models.lightning_parts import Callback
from genzoo.models.optimisation import Schedule, make_optimizer, make_schedule
from genzoo.models.scoring import ModelLogProb, split_unseen
from genzoo.tables.batch import TableBatch

KEY = "genzoo_stages"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stage:
    """One stage of training: what it minimises, and whose weights it moves. All other weights stand still.

    Args:
        name: Short word; its validation value is logged as ``val/<name>``.
        modules: Parts of the model that this stage trains; their parameters and buffers are its state.
        loss: Raw rows (unseen categories already holes) to a scalar.
        closed_form: Instead of ``loss``: all training rows, a batch an item, in one epoch. Writes into ``modules``.
        epochs: Most epochs; a closed form takes one.
        monitor: Raw validation rows to ``(batch,)`` values, or to their mean; the stage keeps the state with the lowest
            mean. By default the loss. Evaluated without gradients, with the same random numbers every epoch.
        warm_up: First epochs whose states are not yet candidates (a loss that is still being mixed in).
        lr: Learning rate; ``None`` takes the model's, as do the next four.
        optimizer: See :class:`genzoo.models.base.DensityModel`.
        schedule: ``plateau`` follows this stage's monitor; ``cosine`` ends with the stage.
        schedule_patience: Validations without progress before the learning rate falls.
        patience: Validations without progress before the stage ends; 0 never ends it early.
        gradient_clip: Largest norm of the gradient.
        begin: Called when the stage starts, with gradients off (starting values taken from an earlier stage).
    """

    name: str
    modules: tuple[nn.Module, ...]
    loss: Callable[[TableBatch], Tensor] | None = None
    closed_form: Callable[[Sequence[TableBatch]], None] | None = None
    epochs: int = 100
    monitor: Callable[[TableBatch], Tensor] | None = None
    warm_up: int = 0
    lr: float | None = None
    optimizer: dict[str, Any] | None = None
    schedule: Schedule | None = None
    schedule_patience: int | None = None
    patience: int | None = None
    gradient_clip: float | None = None
    begin: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if (self.loss is None) == (self.closed_form is None):
            raise TypeError(f"stage '{self.name}' needs either a loss or a closed form")
        if self.epochs < 1:
            raise ValueError(f"stage '{self.name}' needs at least one epoch, got {self.epochs}")


@dataclass(frozen=True)
class Progress:
    """Where training stands: plain values and tensors, kept in every checkpoint.

    Args:
        index: Number of the current stage.
        epoch: Epochs it has had.
        best: Lowest value of its monitor so far.
        waiting: Validations since then.
        state: Its weights and buffers at that value, by their names in the model.
        complete: Every stage has ended.
    """

    index: int = 0
    epoch: int = 0
    best: float = math.inf
    waiting: int = 0
    state: dict[str, Tensor] = field(default_factory=dict)
    complete: bool = False


def share_epochs(wanted: Sequence[int], limit: int) -> list[int]:
    """Epochs of each stage: as wanted if they fit into ``limit`` (-1: no limit), else cut in proportion, at least one.

    Raises:
        GenZooError: fewer epochs than stages.
    """
    if limit < 0 or sum(wanted) <= limit:
        return list(wanted)
    if limit < len(wanted):
        raise GenZooError(
            f"the model trains in {len(wanted)} stages of one epoch at least, and --trainer.max_epochs is {limit}; "
            f"give {len(wanted)} or more (all of them in full: {sum(wanted)})"
        )
    spare, beyond = limit - len(wanted), sum(wanted) - len(wanted)
    exact = [(epochs - 1) * spare / beyond for epochs in wanted]
    found = [1 + math.floor(part) for part in exact]
    for stage in sorted(range(len(wanted)), key=lambda i: math.floor(exact[i]) - exact[i])[: limit - sum(found)]:
        found[stage] += 1
    return found


class StagedModel(DensityModel):
    """Base of models trained in stages. A model writes :meth:`stages` and what every model writes, but no ``loss``.

    One Trainer runs all stages: each has its optimiser, learning-rate schedule, number of epochs and patience. When a
    stage ends, its best state takes the place of its last one (the averaged weights, if ``ema`` is on), the average
    starts anew, and the next stage begins. ``val/nll`` is logged once, after the last stage, of the weights that are
    kept: this is what the best checkpoint waits for. Where training stands is part of each checkpoint, so a run that
    was interrupted goes on as if it had not been. A Trainer with fewer epochs than the stages want cuts all of them in
    proportion.
    """

    def __init__(self, schema: dict[str, Any], **training: Any) -> None:
        super().__init__(schema, **training)
        self.progress = Progress()
        self._plan: list[Stage] = []
        self._trainable: frozenset[str] | None = None
        self._stage_value: float | None = None

    @abstractmethod
    def stages(self) -> Sequence[Stage]:
        """The stages, in order; their names and number depend on arguments and schema alone. Called once a fit."""

    # ---- where training stands ------------------------------------------------------------------------------------

    @property
    def plan(self) -> list[Stage]:
        """The stages, in a fit with the epochs that the Trainer gives them."""
        return self._plan or list(self.stages())

    @property
    def stage(self) -> Stage:
        """The current stage of a fit."""
        return self._plan[self.progress.index]

    def _make_plan(self) -> None:
        wanted = [replace(s, epochs=1) if s.closed_form is not None else s for s in self.stages()]
        limit = self.trainer.max_epochs
        epochs = share_epochs([stage.epochs for stage in wanted], -1 if limit is None else limit)
        if [stage.epochs for stage in wanted] != epochs:
            said = ", ".join(f"{s.name} {n} of {s.epochs}" for s, n in zip(wanted, epochs, strict=True))
            log.warning(f"--trainer.max_epochs {limit} is less than the stages want; epochs: {said}")
        self._plan = [
            replace(stage, epochs=n, warm_up=min(stage.warm_up * n // stage.epochs, n - 1))
            for stage, n in zip(wanted, epochs, strict=True)
        ]

    @property
    def ready(self) -> bool:
        """The last stage has begun: earlier ones leave nothing that could be scored."""
        return bool(self.codec.fitted) and (self.progress.complete or self._in_last_stage)

    @property
    def _in_last_stage(self) -> bool:
        return self.progress.index >= self._num_stages - 1

    @property
    def _num_stages(self) -> int:
        return len(self.stages())

    def require_trained(self) -> None:
        """Raises a sentence if a run was interrupted before its last stage."""
        self.codec.require_fitted()
        if not self.progress.complete and self.progress.epoch + self.progress.index > 0 and not self._in_last_stage:
            name = self.stages()[self.progress.index].name
            raise GenZooError(
                f"training was interrupted in stage {self.progress.index + 1} of {self._num_stages} ('{name}'); "
                "resume it with genzoo fit --config RUN/config.yaml --ckpt_path RUN/checkpoints/last.ckpt"
            )

    # ---- order of events ------------------------------------------------------------------------------------------

    def fit_codec(self, datamodule: Any) -> None:
        """Codecs of embedded models, then the model's own, once."""
        if not bool(self.codec.fitted) and hasattr(datamodule, "fit_sample"):
            batch = split_unseen(datamodule.fit_sample(), self.view).batch
            for module in self.modules():
                if isinstance(module, SubModel):
                    module.fit_codec(batch)
        super().fit_codec(datamodule)

    def refresh_derived(self) -> None:
        for module in self.modules():
            if isinstance(module, SubModel):
                module.model.refresh_derived()

    def configure_callbacks(self) -> list[Callback]:
        return [WeightAverage(self.ema)] if self.ema else []

    def configure_optimizers(self) -> Any:
        self._thaw()
        self._trainable = frozenset(name for name, p in self.named_parameters() if p.requires_grad)
        self._make_plan()
        optimizers, schedules = [], []
        self.trainer.estimated_stepping_batches  # noqa: B018 - counts the batches of an epoch
        batches = int(self.trainer.num_training_batches)
        for stage in self._plan:
            if stage.loss is None:
                continue
            lr = self.lr if stage.lr is None else stage.lr
            optimizer = make_optimizer(self._weights(stage), lr, stage.optimizer or self.optimizer_choice)
            patience = self.schedule_patience if stage.schedule_patience is None else stage.schedule_patience
            steps = stage.epochs * math.ceil(batches / self.accumulate)
            schedules.append(make_schedule(optimizer, stage.schedule or self.schedule, patience, steps))
            optimizers.append(optimizer)
        return (optimizers, schedules) if optimizers else None

    def on_train_start(self) -> None:
        if self.global_step == 0:  # not resumed: a second fit, or a warm start, begins at the first stage
            self.progress = Progress()
            self.training_record["stages"] = []
            self._begin()
        if self.progress.complete:
            self.trainer.should_stop = True
        self._focus()

    def on_train_epoch_start(self) -> None:
        self._focus()

    def _focus(self) -> None:
        """Only the weights of the current stage learn, and only its parts are in training mode."""
        if self.progress.complete:
            return
        own = {id(p) for p in self._weights(self.stage)}
        for parameter in self.parameters():
            parameter.requires_grad_(id(parameter) in own)
        self.eval()
        self.training = True
        for module in self.stage.modules:
            module.train()

    def training_step(self, batch: TableBatch, batch_idx: int) -> None:
        if not self.progress.complete:
            super().training_step(batch, batch_idx)

    def loss(self, encoded: Any) -> Tensor:
        """The current stage's loss; stages see raw rows, so this takes a :class:`~genzoo.tables.batch.TableBatch`."""
        assert self.stage.loss is not None
        return self.stage.loss(encoded)

    def training_rows(self, batch: TableBatch) -> Any:
        return batch

    @property
    def in_closed_form(self) -> bool:
        return self.stage.closed_form is not None

    def fit_closed_form(self, batches: Sequence[Any]) -> None:
        if self.trainer.world_size > 1:
            raise GenZooError(f"stage '{self.stage.name}' trains on one device; use --trainer.devices 1")
        assert self.stage.closed_form is not None
        self.stage.closed_form(batches)

    def end_closed_form(self) -> None:
        """The next stage follows."""

    def current_optimizer(self) -> tuple[Any, Any]:
        found: Any = self.optimizers()
        schedules: Any = self.lr_schedulers()
        if not isinstance(found, list):
            return found, schedules
        number = sum(stage.loss is not None for stage in self._plan[: self.progress.index])
        return found[number], schedules[number]

    @property
    def current_schedule(self) -> Schedule:
        return self.stage.schedule or self.schedule

    @property
    def current_clip(self) -> float:
        return self.gradient_clip if self.stage.gradient_clip is None else self.stage.gradient_clip

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self._stage_value = None

    def validation_step(self, batch: TableBatch, batch_idx: int) -> None:
        if self.trainer.state.fn != "fit":
            super().validation_step(batch, batch_idx)
            return
        if self.trainer.sanity_checking or self.progress.complete:
            return
        monitor = self.stage.monitor or self.stage.loss
        if monitor is None:  # a closed form that has nothing to compare
            return
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed_of(self.seed, "validate", self.stage.name, batch_idx, self.global_rank))
            values = monitor(split_unseen(batch, self.view).batch).double()
        count = values.numel() if values.ndim else len(batch)
        self._validation += torch.tensor([float(values.sum() if values.ndim else values * count), count])

    def on_validation_epoch_end(self) -> None:
        if self.trainer.state.fn != "fit":
            super().on_validation_epoch_end()
            return
        total = self._gathered(self._validation)
        if total[1] == 0 or self.progress.complete:
            return
        self._stage_value = float(total[0] / total[1])
        self.log(f"val/{self.stage.name}", self._logged(self._stage_value), prog_bar=True, rank_zero_only=False)

    def on_train_epoch_end(self) -> None:
        """Keeps the best state of the stage, and ends it when its epochs or its patience are spent."""
        if self.progress.complete:
            return
        stage, value = self.stage, self._stage_value
        now = replace(self.progress, epoch=self.progress.epoch + 1)
        if stage.loss is not None and value is not None:
            optimizer, schedule = self.current_optimizer()
            self.log("lr", optimizer.param_groups[0]["lr"])
            if self.current_schedule == "plateau" and now.epoch > stage.warm_up:
                schedule.step(value)
        if value is not None and now.epoch > stage.warm_up:
            if not math.isfinite(value):
                raise GenZooError(
                    f"val/{stage.name} became {value}; try a smaller learning rate (--model.lr {self.lr / 3:.2g})"
                )
            if value < now.best - 1e-4 or not now.state:
                now = replace(now, best=value, waiting=0, state=self._evaluated_state(stage))
            else:
                now = replace(now, waiting=now.waiting + 1)
        patience = self.patience if stage.patience is None else stage.patience
        self.progress = now
        self._stage_value = None
        if now.epoch >= stage.epochs or (patience and now.waiting >= patience):
            self._end()

    def on_train_end(self) -> None:
        self._thaw()
        self._plan = []

    # ---- stages begin and end -------------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self.stage.begin is not None:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self.seed, "begin", self.stage.name))
                self.stage.begin()
            self._restart_average()

    def _end(self) -> None:
        now, stage = self.progress, self.stage
        self.load_state_dict(now.state or self._evaluated_state(stage), strict=False)
        self.refresh_derived()
        self._restart_average()
        if stage.loss is not None:
            self.current_optimizer()[0].state.clear()
        record = {"name": stage.name, "epochs": now.epoch, "best": now.best if now.state else None}
        self.training_record["stages"] = [*self.training_record.get("stages", []), record]
        if now.index + 1 < len(self._plan):
            self.progress = Progress(now.index + 1)
            self._begin()
            return
        self.progress = Progress(now.index, now.epoch, now.best, complete=True)
        self.trainer.should_stop = True
        data: Any = self.trainer.datamodule.data("val")  # type: ignore[attr-defined]
        if len(data) and self.trainer.limit_val_batches:
            self.log("val/nll", self._logged(-self.log_prob(data).mean()), prog_bar=True, rank_zero_only=False)

    def _average(self) -> WeightAverage | None:
        return next((c for c in self.trainer.callbacks if isinstance(c, WeightAverage)), None)  # type: ignore[attr-defined]

    def _restart_average(self) -> None:
        average = self._average()
        if average is not None:
            average.restart(self)

    def _evaluated_state(self, stage: Stage) -> dict[str, Tensor]:
        """Weights and buffers of the stage's parts as validation saw them."""
        average = self._average()
        source = self if average is None else average.evaluated(self)
        names = {id(module): name for name, module in self.named_modules()}
        wanted = tuple(names[id(module)] + "." for module in stage.modules)
        return {k: v.detach().clone() for k, v in source.state_dict().items() if k.startswith(wanted)}

    def _weights(self, stage: Stage) -> list[nn.Parameter]:
        """What the stage trains: every parameter of its modules that was trainable before the fit, once."""
        inside = {id(p) for module in stage.modules for p in module.parameters()}
        assert self._trainable is not None
        return [p for name, p in self.named_parameters() if id(p) in inside and name in self._trainable]

    def _thaw(self) -> None:
        """Every weight as trainable as before the fit, also after one that was interrupted."""
        if self._trainable is not None:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name in self._trainable)

    # ---- what an unfinished model must not do ---------------------------------------------------------------------

    def score_batch(self, batch: TableBatch, seed: int, draws: int) -> ModelLogProb:
        self.require_trained()
        return super().score_batch(batch, seed, draws)

    def sample(self, *args: Any, **options: Any) -> Any:
        self.require_trained()
        return super().sample(*args, **options)

    def impute(self, *args: Any, **options: Any) -> list[Any]:
        self.require_trained()
        return super().impute(*args, **options)

    # ---- checkpoints ----------------------------------------------------------------------------------------------

    def extra_state_for_checkpoint(self) -> dict[str, Any]:
        now = self.progress
        plain = {name: getattr(now, name) for name in Progress.__dataclass_fields__}
        return {KEY: plain | {"state": dict(now.state)}}

    def restore_extra(self, checkpoint: dict[str, Any]) -> None:
        """Where training stands. A model that was interrupted in its last stage takes the best state of that stage so
        far; a Trainer that resumes puts the last state over it.
        """
        if KEY not in checkpoint:
            return
        self.progress = Progress(**checkpoint[KEY])
        self.training_record["stages"] = checkpoint[RECORD]["training"].get("stages", [])
        if self.progress.state and self._in_last_stage:
            self.load_state_dict(self.progress.state, strict=False)
