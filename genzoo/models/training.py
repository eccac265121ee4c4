"""One training loop for every model: the Trainer, its callbacks and the run folder."""

from __future__ import annotations

import datetime
import json
import re
import shutil
import signal
import tempfile
import threading
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger

from genzoo.errors import GenZooError
from genzoo.models.checkpoint import KEY, read_checkpoint, versions

MAX_EPOCHS = 1000


class TimeBudget(Timer):
    """Lightning's limit on training time, of which a resumed run has all again: it was resumed to go on."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forgets the time that earlier runs took."""


class EpochBar(RichProgressBar):
    """Counts epochs from 1, and names the last only where it was asked for: the default limit is no forecast."""

    def _get_train_description(self, current_epoch: int) -> str:
        most = self.trainer.max_epochs
        named = f"Epoch {current_epoch + 1}" + ("" if most in (None, -1, MAX_EPOCHS) else f" of {most}")
        return f"{named:{len(self.validation_description)}}"


class BestCheckpoint(ModelCheckpoint):
    """Keeps the epoch with the best validation likelihood as ``best.ckpt`` and the newest as ``last.ckpt``.

    A model without an optimiser takes few counted steps; the base class would skip a checkpoint at step 0.
    """

    def __init__(self, folder: str | Path | None = None, monitor: str | None = "val/nll") -> None:
        super().__init__(
            dirpath=folder,
            filename="best",
            monitor=monitor,
            mode="min",
            save_top_k=1,
            save_last=True,
            auto_insert_metric_name=False,
            enable_version_counter=False,
        )
        self._last_global_step_saved = -1

    def _save_topk_checkpoint(self, trainer: pl.Trainer, monitor_candidates: dict[str, Any]) -> None:
        """Best and last go their own ways: an epoch that is no better, or of a model that cannot score yet (half an
        ensemble logs no ``val/nll``), is still the one to resume from. Lightning saves the last only beside a best.
        """
        if self.monitor is None or self.monitor in monitor_candidates:
            super()._save_topk_checkpoint(trainer, monitor_candidates)
        self._last_global_step_saved = trainer.global_step

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """A run resumed in a new folder brings its best checkpoint along, so that it ends as the uninterrupted one."""
        old, best = state_dict.get("dirpath"), state_dict.get("best_model_path")
        if self.dirpath and old and old != self.dirpath and best and Path(best).is_file():
            Path(self.dirpath).mkdir(parents=True, exist_ok=True)
            target = str(Path(self.dirpath) / Path(best).name)
            shutil.copyfile(best, target)
            score = state_dict["best_model_score"]
            state_dict = state_dict | {
                "dirpath": self.dirpath,
                "best_model_path": target,
                "best_k_models": {target: score} if state_dict.get("best_k_models") else {},
                "kth_best_model_path": target if state_dict.get("kth_best_model_path") else "",
                "last_model_path": "",
            }
        super().load_state_dict(state_dict)


class RunFolder(Callback):
    """Writes what a run is into its folder: schema, versions, and after a test the likelihood of each row."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage != "fit" or not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        schema = pl_module.schema.to_dict()  # type: ignore[union-attr,operator]
        (self.folder / "schema.yaml").write_text(yaml.safe_dump(schema, sort_keys=False, allow_unicode=True))
        (self.folder / "versions.json").write_text(json.dumps(versions(), indent=2) + "\n")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and pl_module.test_likelihood is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            target = self.folder / "test_log_likelihood.parquet"
            pl_module.test_likelihood.save(target, overwrite=True)  # type: ignore[union-attr,operator]
            self._write_card(pl_module)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and self.folder.is_dir():
            self._write_card(pl_module)

    def _write_card(self, model: Any) -> None:
        from genzoo.reports.card import model_card

        (self.folder / "card.md").write_text(model_card(model, model.test_likelihood), encoding="utf-8")


def run_folder(model: str, data: str, root: str | Path = "runs") -> Path:
    """A new folder ``root/<date>-<model>-<data>``; an existing one is never used again."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{datetime.date.today():%Y-%m-%d}-{model}-{data}").strip("-")
    root = Path(root)
    for number in range(1, 10_000):
        folder = root / (clean if number == 1 else f"{clean}-{number}")
        try:
            folder.mkdir(parents=True, exist_ok=False)
        except FileExistsError:
            continue
        except OSError as error:
            raise GenZooError(
                f"cannot make the run folder '{folder}': {error.strerror}; choose another with --run_dir"
            ) from error
        return folder
    raise GenZooError(f"'{root}' holds too many runs named {clean}; choose another folder with --run_dir")


def make_trainer(
    folder: str | Path, *, progress: bool = True, monitor: str | None = "val/nll", **options: Any
) -> pl.Trainer:
    """A Trainer with GenZoo's callbacks writing into ``folder``.

    Args:
        folder: Run folder.
        progress: Show a progress bar.
        monitor: What the best checkpoint minimises; ``None`` keeps the last epoch (no validation rows).
        options: Any argument of ``lightning.pytorch.Trainer``.
    """
    callbacks: list[Callback] = [RunFolder(folder)]
    if options.get("enable_checkpointing") is not False:
        callbacks.append(BestCheckpoint(Path(folder) / "checkpoints", monitor))
    if progress:
        callbacks.append(EpochBar())
    callbacks += options.pop("callbacks", None) or []
    own: dict[str, Any] = {
        "logger": CSVLogger(str(folder), name="", version=""),
        "default_root_dir": str(folder),
        "enable_progress_bar": progress,
    }
    given = {k: v for k, v in options.items() if v is not None}
    if "max_time" in given:
        callbacks.append(TimeBudget(given.pop("max_time")))
    return pl.Trainer(callbacks=callbacks, **(trainer_defaults() | own | given))


def time_limit(minutes: float) -> dict[str, int]:
    """The Trainer's ``max_time``."""
    return {"seconds": max(round(60 * minutes), 1)}


def trainer_defaults() -> dict[str, Any]:
    """Arguments of the Trainer that differ from Lightning's defaults; plain values, shared with the command line."""
    return {
        "max_epochs": MAX_EPOCHS,
        "accelerator": "auto",
        "devices": 1,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
        "inference_mode": False,
        "use_distributed_sampler": False,
    }


def train(model: Any, datamodule: Any, folder: str | Path | None = None, **options: Any) -> Any:
    """Trains ``model`` on ``datamodule`` and leaves it with the weights of its best validation.

    Args:
        model: A fresh :class:`genzoo.DensityModel`.
        datamodule: A GenZoo datamodule.
        folder: Run folder; ``None`` trains in a temporary one and keeps nothing on disk.
        options: Arguments of :func:`make_trainer`.

    Returns:
        The model, in evaluation mode on the CPU. An interruption (Ctrl-C) keeps the best weights so far and says so.

    Raises:
        SystemExit: 143, if the process was told to end (SIGTERM); what a ``folder`` holds stays there.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="genzoo-") as temporary:
            return train(model, datamodule, temporary, **options)
    datamodule.setup("fit")
    trainer = make_trainer(folder, monitor=monitor_of(datamodule), **options)
    interrupted = not run_fit(trainer, model, datamodule)
    if trainer.received_sigterm:
        raise SystemExit(128 + signal.SIGTERM)
    if best_checkpoint(trainer) is None:
        if interrupted:
            raise KeyboardInterrupt("no epoch was complete, nothing is kept")
        raise GenZooError("training ended before the first checkpoint; allow at least one epoch")
    if interrupted:
        warnings.warn("training was interrupted; the model has the best weights so far", stacklevel=2)
    return load_best(trainer, model)


def monitor_of(datamodule: Any) -> str | None:
    """What the best checkpoint minimises; ``None`` without validation rows."""
    return "val/nll" if len(datamodule.data("val")) else None


def run_fit(trainer: pl.Trainer, model: Any, datamodule: Any, ckpt_path: str | None = None) -> bool:
    """Trains until the end (``True``) or until Ctrl-C (``False``), after which Ctrl-C works again."""
    handler = signal.getsignal(signal.SIGINT)
    options: dict[str, Any] = {} if ckpt_path is None else {"ckpt_path": ckpt_path, "weights_only": True}
    try:
        trainer.fit(model, datamodule=datamodule, **options)
    except (KeyboardInterrupt, SystemExit):
        return False
    finally:
        # Lightning ignores further interrupts while it shuts down, and leaves it so
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
    return True


def best_checkpoint(trainer: pl.Trainer) -> str | None:
    """The best checkpoint of a fit, else the last one, else ``None``."""
    checkpoint: Any = trainer.checkpoint_callback
    if checkpoint is None:
        return None
    return checkpoint.best_model_path or checkpoint.last_model_path or None


def load_best(trainer: pl.Trainer, model: Any) -> Any:
    """Puts the best weights of a fit into the model; evaluation mode, on the CPU."""
    best = best_checkpoint(trainer)
    if best is not None:
        content = read_checkpoint(best)
        model.load_state_dict(content["state_dict"])
        model.restore_extra(content)
        model.training_record = content[KEY]["training"]
    return model.cpu().eval()


NOTES_TO_SILENCE = (
    r".*does not have many workers.*",
    r".*Checkpoint directory.*exists and is not empty.*",
    r".*Total length of `BatchLoader` across ranks is zero.*",
    r".*`training_step` returned `None`.*",
    r".*configure_optimizers.*returned `None`.*",
    r".*GPU available but not used.*",
    r".*Experiment logs directory.*exists and is not empty.*",
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*",
    # sums over devices are gathered by the base class; sync_dist would average them by a rounded number of rows
    r".*recommended to use `self.log\(.*sync_dist=True\)`.*",
    r".*nn.functional.all_gather is deprecated.*",
)


def quiet() -> None:
    """Silences Lightning's notes on devices and workers, which say nothing a user of a table can act on."""
    import logging
    import warnings

    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for note in NOTES_TO_SILENCE:
        warnings.filterwarnings("ignore", message=note)
