"""Short names of models and datamodules, in what is typed and in recipes, without importing torch."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from genzoo.commands.parsing import near
from genzoo.errors import DataError, GenZooError
from genzoo.models import catalogue

DATAMODULES = {
    "Table": "genzoo.datamodules.table.Table",
    "Toy": "genzoo.datamodules.toy.Toy",
    "Causal": "genzoo.datamodules.causal.Causal",
    "Fairness": "genzoo.datamodules.fairness.Fairness",
    "UCIBenchmark": "genzoo.datamodules.uci.UCIBenchmark",
    "Text": "genzoo.datamodules.text.Text",
    "BinaryVectors": "genzoo.datamodules.binary.BinaryVectors",
    "BinaryImages": "genzoo.datamodules.binary.BinaryImages",
    "Images": "genzoo.datamodules.images.Images",
    "StreamedTable": "genzoo.datamodules.streamed.StreamedTable",
}

PATH_ENDINGS = ("path", "folder", "dir", "root", "schema", "file")


def outside_datamodules() -> dict[str, EntryPoint]:
    """Datamodules of other installed packages: entry points of the group ``genzoo.datamodules``."""
    return {point.name: point for point in entry_points(group="genzoo.datamodules")}


def find_model(name: str) -> str:
    """Class path of a model name; see :func:`genzoo.models.catalogue.find`."""
    return catalogue.find(name)


def find_datamodule(name: str) -> str:
    """Class path of a datamodule's name, entry point or class path.

    Raises:
        GenZooError: no such datamodule; the message offers the nearest names.
    """
    for key, path in DATAMODULES.items():
        if name.lower() == key.lower() or name == path:
            return path
    points = outside_datamodules()
    if name in points:
        return points[name].value.replace(":", ".")
    if "." in name and not Path(name).exists():
        return name
    if Path(name).is_file() or ":" in name:
        raise GenZooError(f"--data takes a kind of source, not a file; for a table write genzoo fit {name}")
    names = [*DATAMODULES, *points]
    raise GenZooError(f"unknown data source '{name}'; {near(name, names) or 'known: ' + ', '.join(names)}")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A recipe or layer as a dictionary.

    Raises:
        DataError: the file is missing, is not YAML, or does not hold a mapping.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot read '{path}': {error.strerror}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise DataError(f"'{path}' is not valid YAML{where}: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise DataError(f"'{path}' should hold entries such as model, data and trainer")
    return content


def resolved_part(part: Any, kind: str, folder: Path) -> dict[str, Any]:
    """One ``model`` or ``data`` entry with its class path in full and its paths absolute.

    Args:
        part: A name, or a dictionary with ``class_path`` and ``init_args``.
        kind: ``model`` or ``data``.
        folder: What relative paths are relative to.
    """
    found: dict[str, Any] = {"class_path": part} if isinstance(part, str) else dict(part)
    find = find_model if kind == "model" else find_datamodule
    if "class_path" in found:
        found["class_path"] = find(str(found["class_path"]))
    strange = sorted(set(found) - {"class_path", "init_args", "dict_kwargs"})
    if strange:
        raise DataError(
            f"entry '{strange[0]}' of '{kind}' in the configuration is not class_path or init_args; "
            f"put arguments under init_args"
        )
    if kind == "data" and isinstance(found.get("init_args"), dict):
        found["init_args"] = {
            key: absolute(value, folder) if is_path_option(key) else value for key, value in found["init_args"].items()
        }
    return found


def is_path_option(name: str) -> bool:
    """An argument of a datamodule that names a file or folder."""
    return name.lower().endswith(PATH_ENDINGS)


def absolute(value: Any, folder: Path) -> Any:
    """A path relative to ``folder`` made absolute; names such as ``sklearn:wine`` and what is no path stay."""
    if isinstance(value, list):
        return [absolute(item, folder) for item in value]
    if not isinstance(value, str) or not value or ":" in value.split("/")[0]:
        return value
    return str((folder / Path(value).expanduser()).resolve())
