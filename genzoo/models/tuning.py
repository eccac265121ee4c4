"""A search over hyper-parameters: trials are trainings, judged by their best validation likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback

from genzoo.errors import GenZooError
from genzoo.models.search_spaces import SPACES, Choice, Space

UNFIT = "unfit"


def require_optuna() -> Any:
    """The ``optuna`` module.

    Raises:
        GenZooError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise GenZooError('genzoo tune needs Optuna: pip install "genzoo[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def space_of(name: str) -> Space:
    """What may be changed in a model.

    Raises:
        GenZooError: the model has nothing to search; the message names those that have.
    """
    if name not in SPACES:
        raise GenZooError(f"'{name}' has no search space; genzoo tune knows {', '.join(SPACES)}")
    return SPACES[name]


def open_study(path: Path, title: str, seed: int) -> Any:
    """The study in an SQLite file, made if it is not there.

    Raises:
        GenZooError: the file holds a study of another table, model or split.
    """
    optuna = require_optuna()
    storage = f"sqlite:///{path}"
    others = [name for name in optuna.get_all_study_names(storage) if name != title] if path.exists() else []
    if others:
        raise GenZooError(f"'{path}' holds the search '{others[0]}'; choose another --study for '{title}'")
    return optuna.create_study(
        storage=storage,
        study_name=title,
        load_if_exists=True,
        direction="minimize",
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=5),
    )


def suggest(trial: Any, space: Space) -> dict[str, Any]:
    """Arguments of one trial; an empty dictionary, the model's defaults, for the first."""
    if trial.number == 0:
        return {}
    found: dict[str, Any] = {}
    for name, domain in space.items():
        if isinstance(domain, Choice):
            found[name] = trial.suggest_categorical(name, list(domain.values))
        elif isinstance(domain.low, int) and isinstance(domain.high, int):
            found[name] = trial.suggest_int(name, domain.low, domain.high, log=domain.log)
        else:
            found[name] = trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return found


class Reporter(Callback):
    """Tells the study each validation of a trial and stops one that is behind the median of the others."""

    def __init__(self, trial: Any) -> None:
        self.trial = trial
        self.best = float("inf")
        self.pruned = False

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or "val/nll" not in trainer.callback_metrics:
            return
        self.best = min(self.best, float(trainer.callback_metrics["val/nll"]))
        self.trial.report(self.best, trainer.current_epoch)
        if self.trial.should_prune():
            self.pruned = True
            trainer.should_stop = True


def run_trial(
    trial: Any, kind: Any, fixed: Mapping[str, Any], datamodule: Any, space: Space, options: Mapping[str, Any]
) -> float:
    """Trains one model; returns its best validation loss in nats a row, the table's own units.

    A set of arguments that cannot train (a loss that is no number, an argument out of its range) is a failed trial with
    its reason; the search goes on.
    """
    from genzoo.models.training import train

    optuna = require_optuna()
    chosen = suggest(trial, space)
    trial.set_user_attr("arguments", chosen)
    reporter = Reporter(trial)
    try:
        model = train(
            kind(schema=datamodule.schema_dict, **{**fixed, **chosen}),
            datamodule,
            progress=False,
            callbacks=[reporter],
            **options,
        )
    except (GenZooError, ValueError) as error:
        trial.set_user_attr(UNFIT, str(error))
        raise optuna.TrialPruned(str(error)) from error
    trial.set_user_attr("parameters", model.num_parameters)
    if reporter.pruned:
        raise optuna.TrialPruned("behind the median of the other trials")
    return reporter.best
