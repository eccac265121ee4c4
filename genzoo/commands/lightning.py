"""The training commands: a LightningCLI whose model, data and options can also come from a checkpoint."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import yaml
from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from genzoo.commands import output
from genzoo.commands.given import Given
from genzoo.commands.parsed import parse_sentence, refusal, require_known_options
from genzoo.commands.restored import Restored, adapt_rows, data_changed
from genzoo.commands.table_text import column_remarks, rows_text
from genzoo.datamodules.base import TableDataModule
from genzoo.errors import DataError, GenZooError
from genzoo.models.base import DensityModel
from genzoo.models.catalogue import CATALOGUE
from genzoo.models.training import (
    best_checkpoint,
    load_best,
    make_trainer,
    monitor_of,
    quiet,
    run_fit,
    run_folder,
    trainer_defaults,
)

if TYPE_CHECKING:
    from jsonargparse import Namespace

DEFAULT_MODEL = "genzoo.models.flows.spline_flow.SplineFlow"
DEFAULT_DATA = "genzoo.datamodules.table.Table"
RUN_DIR_OF_RANKS = "GENZOO_RUN_DIR"


PARSING: dict[str, Any] = {"exit_on_error": False, "description": None, "allow_abbrev": False}


class GenZooCLI(LightningCLI):
    """Parses the options of one command and makes the datamodule and the model; nothing is run.

    Args:
        given: Checked options.
        restored: The checkpoint that gives model, data and schema, or ``None`` for a new run.
    """

    def __init__(self, given: Given, restored: Restored | None = None) -> None:
        self.given = given
        self.restored = restored
        self.base = restored.layer() if restored else new_run(given)
        super().__init__(
            DensityModel,
            TableDataModule,
            save_config_callback=None,
            trainer_defaults=trainer_defaults(),
            seed_everything_default=False,
            parser_kwargs=PARSING | {"prog": f"genzoo {given.command}"},
            subclass_mode_model=True,
            subclass_mode_data=True,
            args=given.arguments([self.base]),
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """No ``--seed_everything``: seeds are arguments of the data and the model."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        if self.restored is None:
            # plain values, so that checkpoints open with weights_only
            parser.link_arguments("data.schema_dict", "model.init_args.schema", apply_on="instantiate")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        require_known_options(self.given, self.base)
        try:
            self.config = parser.parse_args(args)
        except (ArgumentError, TypeError, ValueError) as error:
            raise GenZooError(parse_sentence(error, self.given)) from error

    def _set_seed(self) -> None:
        """No global seed: the datamodule and the model carry their own."""

    def before_instantiate_classes(self) -> None:
        seed = self.given.seed
        for kind in ("data", "model"):
            init = self.config[kind].get("init_args")
            if seed is not None and init is not None and "seed" in init and not self.given.names(kind, "seed"):
                init["seed"] = seed
        if self.restored is not None:
            self.restored.require_same_class(str(self.config["model"]["class_path"]))

    def instantiate_classes(self) -> None:
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ValueError as error:
            # the parser wraps what a model or a datamodule says of the table into its own report
            raise GenZooError(refusal(str(error))) from error
        self.datamodule: Any = self.config_init["data"]
        self.model: Any = self.config_init["model"]

    def make_trainer(self, folder: str | Path, **own: Any) -> pl.Trainer:
        """The Trainer of this command, writing into ``folder``."""
        options = dict(self.config_init["trainer"])
        for option, ours, off in (
            ("gradient_clip_val", "gradient_clip", None),
            ("accumulate_grad_batches", "accumulate", 1),
        ):
            if options.get(option) not in (None, off):
                raise GenZooError(f"--trainer.{option} does not reach the optimiser here; use --model.{ours}")
        progress = options.pop("enable_progress_bar", None) is not False
        if options.get("logger") is True:
            options.pop("logger")
        try:
            return make_trainer(folder, progress=progress, **(options | own))
        except MisconfigurationException as error:
            raise GenZooError(f"the trainer's options do not fit this machine: {error}") from error

    def config_text(self) -> str:
        """The full configuration as YAML that ``--config`` takes again."""
        plain = yaml.safe_load(self.parser.dump(self.config, skip_unset=False, format="yaml", skip_validation=True))
        plain.pop("config", None)
        # what the datamodule says, and what only Python can give
        (plain["model"].get("init_args") or {}).pop("schema", None)
        (plain["data"].get("init_args") or {}).pop("frame", None)
        for name in ("seed", "warm_start"):
            if self.given.option(name) is not None:
                plain[name] = self.given.seed if name == "seed" else str(Path(self.given.option(name)).resolve())
        return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def new_run(given: Given) -> dict[str, Any]:
    """What a new run takes when neither model nor data are named."""
    layer: dict[str, Any] = {}
    if given.class_path("model") is None:
        layer["model"] = {"class_path": DEFAULT_MODEL}
    if given.class_path("data") is None:
        if not given.mentions("data") and given.flags.isdisjoint({"help_all", "print_config"}):
            raise DataError("say which table to train on: genzoo fit my.csv (or sklearn:wine, genzoo:adult)")
        layer["data"] = {"class_path": DEFAULT_DATA}
    return layer


def fit(given: Given) -> int:
    """Trains, then tests the best checkpoint."""
    quiet()
    resumed = given.option("ckpt_path")
    warm = given.option("warm_start")
    source = resumed or warm
    restored = Restored.read(source, given, resume=bool(resumed)) if source else None
    cli = GenZooCLI(given, restored)
    if "print_config" in given.flags:
        print(cli.config_text(), end="")
        return 0
    datamodule, model = prepare(cli)
    folder = new_folder(given, model, datamodule)
    with output.refused_leaves_nothing(folder):
        trainer = cli.make_trainer(folder, monitor=monitor_of(datamodule))
        if trainer.is_global_zero:
            (folder / "config.yaml").write_text(cli.config_text(), encoding="utf-8")
            print(f"{key_of(model)} on {datamodule.name}: {rows_text(datamodule)}; run folder {folder}", flush=True)
            for line in column_remarks(datamodule, "--data.ignore"):
                print(f"  {line}", flush=True)
        if warm:
            model.warm_start(warm)
        finished = run_fit(trainer, model, datamodule, str(restored.path) if restored and resumed else None)
    best = best_checkpoint(trainer)
    if not finished:
        kept = f"the best checkpoint so far is {shown(best)}" if best else f"no epoch was complete; {folder} is empty"
        raise KeyboardInterrupt(kept)
    load_best(trainer, model)
    if len(datamodule.data("test")):
        tested = cli.make_trainer(folder, logger=False, enable_checkpointing=False, max_epochs=1, fast_dev_run=False)
        (found,) = tested.test(model, datamodule=datamodule, verbose=False)
        for logger in trainer.loggers:
            logger.log_metrics(dict(found), step=trainer.global_step)
            logger.save()
        if trainer.is_global_zero:
            print_test(model, datamodule)
    elif trainer.is_global_zero:
        print("no test rows: nothing was tested; genzoo score RUN FILE scores a table")
    if trainer.is_global_zero:
        print(f"run: {folder}" + (f" (best checkpoint: {shown(best)})" if best else ""))
    return 0


def evaluate(given: Given) -> int:
    """Runs ``validate``, ``test`` or ``predict`` on a checkpoint."""
    quiet()
    restored = Restored.read(given.option("ckpt_path"), given)
    cli = GenZooCLI(given, restored)
    if "print_config" in given.flags:
        print(cli.config_text(), end="")
        return 0
    datamodule, model = prepare(cli)
    restored.load_into(model)
    split = "val" if given.command == "validate" else "test"
    if not len(datamodule.data(split)):
        raise DataError(f"'{datamodule.name}' has no {'validation' if split == 'val' else 'test'} rows")
    own: dict[str, Any] = {"logger": False, "enable_checkpointing": False}
    if given.command == "validate":
        trainer = cli.make_trainer(".", **own)
        found = trainer.validate(model, datamodule=datamodule, verbose=False)
        print(f"validation log-likelihood: {-found[0]['val/nll']:.4f} nats per row ({label_of(model.likelihood_kind)})")
        return 0
    folder = new_folder(given, model, datamodule, suffix=f"-{given.command}")
    trainer = cli.make_trainer(folder, **own)
    if trainer.is_global_zero:
        (folder / "config.yaml").write_text(cli.config_text(), encoding="utf-8")
    trainer.test(model, datamodule=datamodule, verbose=False)
    if trainer.is_global_zero:
        print_test(model, datamodule)
        print(f"wrote {folder / 'test_log_likelihood.parquet'}")
    return 0


def print_test(model: Any, datamodule: Any) -> None:
    """The test log-likelihood; in bits per cell for text and pictures, in both units where a benchmark has its own."""
    likelihood = model.test_likelihood
    print(f"test log-likelihood: {likelihood_text(likelihood)}")
    cells = datamodule.schema.cells_of_one_measure
    if cells and any(column.shape for column in datamodule.schema.scored):
        unit = cells * math.log(2)
        name = "character" if all(column.storage == "text" for column in datamodule.schema.scored) else "cell"
        print(f"that is {-likelihood.mean() / unit:.4f} ± {likelihood.se_mean() / unit:.4f} bits per {name}")
    if datamodule.log_scale:
        original = likelihood.shifted(-datamodule.log_scale)
        print(f"these are benchmark units; in original units: {original.label()} nats per row")


def prepare(cli: GenZooCLI) -> tuple[Any, Any]:
    """The datamodule, read, and the model; rows are encoded for a restored model's schema."""
    datamodule, model = cli.datamodule, cli.model
    datamodule.setup("fit")
    if cli.restored is not None:
        for line in data_changed(datamodule, model.schema):
            print(line, flush=True)
        datamodule = adapt_rows(datamodule, model.schema, cli.config["data"])
    return datamodule, model


def new_folder(given: Given, model: Any, datamodule: Any, suffix: str = "") -> Path:
    """The run folder: ``--run_dir``, which must be new, or ``runs/<date>-<model>-<data>``."""
    if "LOCAL_RANK" in os.environ and RUN_DIR_OF_RANKS in os.environ:
        return Path(os.environ[RUN_DIR_OF_RANKS])
    chosen = given.option("run_dir")
    folder = run_folder(key_of(model), f"{datamodule.name}{suffix}") if chosen is None else output.new_folder(chosen)
    os.environ[RUN_DIR_OF_RANKS] = str(folder)
    return folder


def shown(path: str) -> str:
    """A path below the current folder in its short form."""
    here, place = Path.cwd(), Path(path)
    return str(place.relative_to(here)) if place.is_relative_to(here) else path


def key_of(model: Any) -> str:
    """Catalogue key of a model, or its class name."""
    path = f"{type(model).__module__}.{type(model).__qualname__}"
    return next((entry.key for entry in CATALOGUE.values() if entry.class_path == path), type(model).__name__)


def likelihood_text(likelihood: Any) -> str:
    """``2.310 ± 0.020 (bound) nats per row, mean of 100 rows``."""
    return f"{likelihood.label()} nats per row, {likelihood.rows_text()}"


def label_of(kind: str) -> str:
    """The word for a kind of likelihood in printed numbers."""
    return {"lower_bound": "bound", "upper_bound": "upper bound"}.get(kind, kind)


def print_help(given: Given) -> None:
    """Prints the arguments of a class, or every option."""
    if given.helps is None:
        cli = _HelpParser(given)
        print(cli.parser.format_help())
        return
    kind, path = given.helps
    parser = LightningArgumentParser(exit_on_error=False, allow_abbrev=False, prog=f"genzoo {given.command}")
    base, hidden = (DensityModel, {"schema"}) if kind == "model" else (TableDataModule, {"frame"})
    parser.add_subclass_arguments(base, kind, skip=hidden)
    parser.parse_args([f"--{kind}.help={path}"] if path else [f"--{kind}.help"])


class _HelpParser(GenZooCLI):
    """Only the parser."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        self.config: Namespace = parser.get_defaults(skip_validation=True)

    def before_instantiate_classes(self) -> None:
        return

    def instantiate_classes(self) -> None:
        return
