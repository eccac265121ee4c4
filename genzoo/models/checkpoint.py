"""Checkpoints: plain values and tensors only, opened by path alone."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from genzoo.errors import CheckpointError
from genzoo.models.catalogue import CATALOGUE, outside_models
from genzoo.models.export import is_export, read_export
from genzoo.models.record import hints_of, require_types

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel

FORMAT = 1
KEY = "genzoo"


def versions() -> dict[str, str]:
    """Versions that decide what a checkpoint means."""
    found = {}
    for package in ("genzoo", "torch", "lightning", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def checkpoint_path(run: str | Path) -> Path:
    """The checkpoint of a run folder (the best one, else the last), or the path itself.

    Raises:
        CheckpointError: there is none.
    """
    path = Path(run)
    if path.is_dir():
        for candidate in (path / "checkpoints" / "best.ckpt", path / "checkpoints" / "last.ckpt", path / "best.ckpt"):
            if candidate.is_file():
                return candidate
        raise CheckpointError(f"'{run}' has no checkpoints/best.ckpt; give a run folder of genzoo fit, or a .ckpt file")
    if not path.is_file():
        raise CheckpointError(f"no run folder or checkpoint at '{run}'; look in runs/, or train one with genzoo fit")
    return path


def read_checkpoint(run: str | Path) -> dict[str, Any]:
    """Contents of a checkpoint, on the CPU.

    Raises:
        CheckpointError: the file is truncated, is not a checkpoint, or was not written by GenZoo.
    """
    if is_export(run):
        return read_export(run)
    path = checkpoint_path(run)
    try:
        # mapped: what is not read (the trees of other levels) is not loaded; a checkpoint is replaced, never rewritten
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        raise CheckpointError(
            f"'{path}' is not a readable checkpoint (truncated, or of another program): {_first_line(error)}"
        ) from error
    if not isinstance(content, dict) or KEY not in content or "state_dict" not in content:
        raise CheckpointError(f"'{path}' is a checkpoint of another program; GenZoo opens what genzoo fit wrote")
    if content[KEY].get("format", 0) > FORMAT:
        raise CheckpointError(
            f"'{path}' was written by a newer GenZoo ({content[KEY]['versions'].get('genzoo')}); upgrade to open it"
        )
    return content


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def trusted_class(class_path: str) -> Any:
    """The class at ``class_path`` if it is catalogued, joined by entry point, or already imported.

    Raises:
        CheckpointError: it is none of these; opening a file must not import unknown code.
    """
    module, _, name = class_path.rpartition(".")
    known = {entry.class_path for entry in CATALOGUE.values()}
    known |= {point.value.replace(":", ".") for point in outside_models().values()}
    if class_path not in known and module not in sys.modules:
        raise CheckpointError(
            f"the checkpoint needs the model class '{class_path}', which is not catalogued; import its module first"
        )
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CheckpointError(f"the checkpoint's model class '{class_path}' cannot be imported: {error}") from error


def load(run: str | Path, **settings: Any) -> DensityModel:
    """Opens a trained model: a run folder or a ``.ckpt`` file, by path alone.

    Args:
        run: Run folder (its best checkpoint is taken) or checkpoint file.
        settings: Arguments of the model that say how it is used, such as its sampler, in place of those it was trained
            with; ``settings`` of its class names them.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        CheckpointError: nothing there, truncated, foreign, or of a class that is not known.
        ValueError: an argument is not one of use, or has a value it cannot have.
    """
    content = read_checkpoint(run)
    record = content[KEY]
    kind = trusted_class(record["class_path"])
    strange = sorted(set(settings) - kind.settings)
    if strange:
        from genzoo.commands.parsing import near

        why = "says how it is trained" if strange[0] in hints_of(kind) else "is no argument of it"
        close = "" if strange[0] in hints_of(kind) else near(strange[0], kind.settings)
        raise ValueError(
            f"a trained {kind.__name__} can be given {', '.join(sorted(kind.settings))}; '{strange[0]}' {why}"
            + (f"; {close}" if close else "")
        )
    require_types(kind, settings)

    def made(arguments: dict[str, Any]) -> DensityModel:
        model: DensityModel = kind(**arguments)
        model.load_state_dict(content["state_dict"])
        model.restore_extra(content)
        return model

    try:
        model = made(record["init_args"])
    except (RuntimeError, TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"'{run}' does not fit model class '{record['class_path']}' of this version (written with genzoo "
            f"{record['versions'].get('genzoo')}): {_first_line(error)}"
        ) from error
    if settings:  # wrong values are the caller's, not the checkpoint's
        model = made(record["init_args"] | settings)
    model.training_record = record.get("training", {})
    model.eval()
    return model
