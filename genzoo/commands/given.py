"""What was typed after ``fit``, ``validate``, ``test`` or ``predict``: checked before torch is imported."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from genzoo.commands.names import absolute, find_datamodule, find_model, is_path_option, read_yaml, resolved_part
from genzoo.commands.parsing import UsageError, near

OPTIONS = {
    "config": "FILE.yaml  a recipe: model, data, trainer; may be given more than once",
    "model": "NAME  catalogue key (genzoo models), class name or class path; --model.OPTION VALUE sets its arguments",
    "data": "NAME  Table (the default), Toy, Images, UCIBenchmark; --data.OPTION VALUE sets its arguments",
    "trainer": "FILE.yaml  a layer of trainer options; --trainer.OPTION VALUE sets one (max_epochs, accelerator ...)",
    "minutes": "N  longest training time (fit), short for --trainer.max_time",
    "seed": "N  seed of split, weights and noise",
    "run_dir": "FOLDER  where the run goes; by default runs/<date>-<model>-<data>",
    "ckpt_path": "RUN  run folder or checkpoint: resume it (fit), or what to evaluate",
    "warm_start": "RUN  start from the weights of RUN with a fresh optimiser (fit)",
}
FLAGS = ("help", "help_all", "print_config")
NESTED = ("model", "data", "trainer")
NAME_LISTS = ("context", "treatment", "outcome", "sensitive", "ignore")
TYPED = ("config", "minutes")
"""Options that are no entry of a recipe."""
FIT = ("minutes", "warm_start")
"""Options of ``fit`` alone."""
RUN_OPTIONS = {"seed", "run_dir", "ckpt_path", "warm_start"}


@dataclass
class Given:
    """Options of one command.

    Args:
        command: ``fit``, ``validate``, ``test`` or ``predict``.
        layers: Configurations, the first is overridden by the next; typed options override all.
        typed: Options in the order typed, with names and paths resolved.
        flags: Options without a value.
        helps: What ``--model.help NAME`` asks for: ``("model", class path)``.
    """

    command: str
    layers: list[dict[str, Any]] = field(default_factory=list)
    typed: list[tuple[str, str]] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    helps: tuple[str, str] | None = None

    def option(self, name: str) -> Any:
        """Value of one of ``RUN_OPTIONS``: typed, else of the last recipe, else ``None``."""
        for key, value in reversed(self.typed):
            if key == name:
                return value
        for layer in reversed(self.layers):
            if layer.get(name) is not None:
                return layer[name]
        return None

    @property
    def seed(self) -> int | None:
        """The seed, checked."""
        value = self.option("seed")
        if value is None:
            return None
        try:
            seed = int(str(value))
        except ValueError:
            raise UsageError(f"--seed takes a whole number, got '{value}'") from None
        if seed < 0:
            raise UsageError(f"--seed must be at least 0, got {seed}")
        return seed

    def class_path(self, kind: str) -> str | None:
        """Class path of the model or the data, or ``None`` if neither typed nor in a recipe."""
        for key, value in reversed(self.typed):
            if key == kind and not value.startswith("{"):
                return value
            if key == kind and "class_path" in json.loads(value):
                return str(json.loads(value)["class_path"])
        for layer in reversed(self.layers):
            if "class_path" in layer.get(kind, {}):
                return str(layer[kind]["class_path"])
        return None

    def names(self, kind: str, argument: str) -> bool:
        """Whether ``--kind.argument`` was typed or stands in a recipe."""
        if any(key in (f"{kind}.{argument}", f"{kind}.init_args.{argument}") for key, _ in self.typed):
            return True
        return any(argument in (layer.get(kind, {}).get("init_args") or {}) for layer in self.layers)

    def mentions(self, kind: str) -> bool:
        """Whether anything of ``kind`` was typed or stands in a recipe."""
        typed = any(key == kind or key.startswith(f"{kind}.") for key, _ in self.typed)
        return typed or any(layer.get(kind) for layer in self.layers)

    def arguments(self, extra: list[dict[str, Any]] | None = None) -> list[str]:
        """Arguments for the parser: ``extra`` layers, recipes, then what was typed."""
        layers = [
            {k: v for k, v in layer.items() if k in NESTED and v is not None}
            for layer in [*(extra or []), *self.layers]
        ]
        configs = [f"--config={_yaml_line(layer)}" for layer in layers if layer]
        # a class before its arguments, in whatever order they were typed
        typed = sorted(self.typed, key=lambda pair: pair[0] not in ("model", "data"))
        return configs + [f"--{key}={value}" for key, value in typed if key not in RUN_OPTIONS]


def _yaml_line(layer: dict[str, Any]) -> str:
    """A layer as JSON on one line that YAML reads as well: it knows no surrogate pairs (emoji) and no bare DEL."""

    def one(found: re.Match[str]) -> str:
        return found[0] if found[1] is None else f"\\U{ord(json.loads(chr(34) + found[0] + chr(34))):08x}"

    text = json.dumps(layer).replace("\x7f", "\\u007f")
    return re.sub(r"\\\\|\\u(d[89ab]..)\\ud[c-f]..", one, text)


def read_given(command: str, arguments: list[str]) -> Given:
    """Reads and checks the options.

    Raises:
        UsageError: an option is unknown or lacks its value.
        GenZooError: a model, a data source or a file is unknown.
    """
    given = Given(command)
    here = Path.cwd()
    position = 0
    while position < len(arguments):
        word = arguments[position]
        position += 1
        if word == "-h":
            word = "--help"
        if not word.startswith("--"):
            _take(given, *_option_of_word(given, word), here)
            continue
        key, equals, value = word[2:].partition("=")
        following = arguments[position] if position < len(arguments) else None
        if key in FLAGS:
            given.flags.add(key)
            continue
        if key in ("model.help", "data.help"):
            kind = key.partition(".")[0]
            name = value or (following if following and not following.startswith("--") else "")
            position += bool(not value and name)
            path = (find_model if kind == "model" else find_datamodule)(name) if name else ""
            given.helps = (kind, path)
            continue
        _require_known(command, key)
        if not equals:
            if following is None or following.startswith("--"):
                raise UsageError(f"option --{key} needs a value")
            value = following
            position += 1
        _take(given, key, value, here)
    return given


def _take(given: Given, key: str, value: str, here: Path) -> None:
    if key == "config":
        given.layers.append(read_recipe(value))
    elif key in ("model", "data"):
        given.typed.append((key, _part(key, value, here)))
    elif key == "trainer":
        given.layers.append({"trainer": read_yaml(value)})
    elif key.removeprefix("data.").removeprefix("init_args.") in NAME_LISTS and not value.startswith("["):
        given.typed.append((key, json.dumps([name.strip() for name in value.split(",")])))
    elif key == "minutes":
        given.typed.append(("trainer.max_time", _duration(value)))
    elif key.startswith("data.") and is_path_option(key):
        given.typed.append((key, absolute(value, here)))
    else:
        given.typed.append((key, value))


def _duration(minutes: str) -> str:
    """Minutes as the ``DD:HH:MM:SS`` of the Trainer.

    Raises:
        UsageError: not a number above 0.
    """
    try:
        seconds = math.ceil(60 * float(minutes))
    except (ValueError, OverflowError):
        seconds = 0
    if seconds < 1:
        raise UsageError(f"--minutes takes a number above 0, got '{minutes}'")
    days, rest = divmod(seconds, 86400)
    return f"{days:02d}:{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"


def _part(kind: str, value: str, here: Path) -> str:
    if value.endswith((".yaml", ".yml")):
        return json.dumps(resolved_part(read_yaml(value), kind, Path(value).resolve().parent))
    return resolved_part(value, kind, here)["class_path"]


def read_recipe(path: str) -> dict[str, Any]:
    """A recipe with class paths in full and paths relative to it made absolute.

    Raises:
        UsageError: an entry is unknown.
    """
    content = read_yaml(path)
    folder = Path(path).resolve().parent
    recipe: dict[str, Any] = {}
    for key, value in content.items():
        known = [name for name in OPTIONS if name not in TYPED]
        if key not in known:
            raise UsageError(
                f"'{path}' has an unknown entry '{key}'; {near(str(key), known) or 'known: ' + ', '.join(known)}"
            )
        if key in ("model", "data") and value is not None:
            value = resolved_part(value, key, folder)
        elif key in ("ckpt_path", "warm_start"):
            value = absolute(value, folder)
        recipe[key] = value
    return recipe


def _require_known(command: str, key: str) -> None:
    name = key.removesuffix("+")
    first, dot, rest = name.partition(".")
    if (not dot and name in OPTIONS) or (dot and rest and first in NESTED):
        if command != "fit" and name in FIT:
            raise UsageError(f"genzoo {command} has no option '--{name}'; it belongs to genzoo fit")
        return
    dashed = name.replace("-", "_")
    hint = near(f"--{dashed}", [f"--{option}" for option in OPTIONS])
    places = {
        "max_epochs": "trainer", "max_time": "trainer", "devices": "trainer", "accelerator": "trainer",
        "precision": "trainer", "logger": "trainer", "lr": "model", "draws": "model", "patience": "model",
        "path": "data", "schema": "data", "batch_size": "data", "context": "data", "ignore": "data", "group": "data",
        "treatment": "data", "outcome": "data", "sensitive": "data", "time": "data", "val": "data", "test": "data",
        "split_column": "data", "test_path": "data", "val_path": "data",
    }  # fmt: skip
    place = places.get(dashed) or places.get(rest)
    if dashed in OPTIONS:
        hint = f"did you mean '--{dashed}'?"
    elif dashed == "epochs":  # as in genzoo compare
        hint = "did you mean '--trainer.max_epochs'?"
    elif place:
        hint = f"did you mean '--{place}.{rest if dot else dashed}'?"
    elif dot:
        hint = near(first, NESTED) or "options are --model.X, --data.X and --trainer.X"
    raise UsageError(f"genzoo {command} has no option '--{key}'; {hint or f'genzoo {command} --help lists them'}")


def _option_of_word(given: Given, word: str) -> tuple[str, str]:
    """The option that a word without one stands for: the table of ``fit``, the run of the other commands.

    Raises:
        UsageError: it is a recipe, a run given to ``fit`` (which may go on with it or start from it), or a second one.
    """
    if word.endswith((".yaml", ".yml")):
        raise UsageError(f"for a recipe write --config {word}")
    run = word.endswith(".ckpt") or (Path(word) / "checkpoints").is_dir()
    if given.command == "fit" and run:
        raise UsageError(f"to go on with a run write --ckpt_path {word}, to start from its weights --warm_start {word}")
    key = "data.path" if given.command == "fit" else "ckpt_path"
    if given.command != "fit" and not run and Path(word).is_file():
        raise UsageError(
            f"genzoo {given.command} needs a trained model: genzoo {given.command} RUN --data.path {word} "
            "(RUN: a run folder)"
        )
    earlier = [value for known, value in given.typed if known == key]
    if earlier:
        raise UsageError(
            f"genzoo {given.command} takes one {'table' if key == 'data.path' else 'run'}, got '{word}' too"
        )
    return key, word
