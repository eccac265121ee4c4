"""A trained model as safetensors and JSON: weights that any program can read, and no code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from genzoo.errors import CheckpointError, DataError, GenZooError

if TYPE_CHECKING:
    from genzoo.models.base import DensityModel

WEIGHTS = "weights.safetensors"
RECORD = "model.json"
TENSOR = "$tensor"


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise GenZooError('exported models need safetensors: pip install "genzoo[export]"') from None
    return safetensors.torch


def export_model(model: DensityModel, folder: str | Path) -> Path:
    """Writes ``weights.safetensors`` and ``model.json`` into a new folder that :func:`genzoo.load` opens.

    Args:
        model: A trained model.
        folder: Folder to make; it must not hold anything.

    Raises:
        DataError: the folder holds files.
        GenZooError: safetensors is not installed.
    """
    library = _safetensors()
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"'{folder}' exists; choose another folder for the exported model")
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(model.checkpoint_content(), "", tensors)
    target.mkdir(parents=True, exist_ok=True)
    library.save_file(tensors, str(target / WEIGHTS))
    # last: a folder with a record is complete
    (target / RECORD).write_text(json.dumps(plain, indent=1, allow_nan=True) + "\n", encoding="utf-8")
    return target


def is_export(path: str | Path) -> bool:
    """A folder that :func:`export_model` made."""
    return (Path(path) / RECORD).is_file() and (Path(path) / WEIGHTS).is_file()


def read_export(folder: str | Path) -> dict[str, Any]:
    """Contents of an exported model, as those of a checkpoint.

    Raises:
        CheckpointError: a file of it is damaged.
    """
    library = _safetensors()
    folder = Path(folder)
    try:
        tensors = library.load_file(str(folder / WEIGHTS))
        content: dict[str, Any] = _with_tensors(json.loads((folder / RECORD).read_text(encoding="utf-8")), tensors)
    except Exception as error:
        raise CheckpointError(f"'{folder}' is not a readable exported model; export it again ({error})") from error
    return content


def _without_tensors(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """Plain values; each tensor moves into ``tensors`` and leaves its name."""
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {TENSOR: path}
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise GenZooError(f"'{path}' of the checkpoint has keys that are not text; the model cannot be exported")
        return {key: _without_tensors(inner, f"{path}/{key}" if path else key, tensors) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_tensors(inner, f"{path}/{i}", tensors) for i, inner in enumerate(value)]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise GenZooError(f"'{path}' of the checkpoint is a {type(value).__name__}, which JSON does not know")


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if set(value) == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _with_tensors(inner, tensors) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_tensors(inner, tensors) for inner in value]
    return value
