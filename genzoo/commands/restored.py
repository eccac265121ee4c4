"""Model, data and options of a run, read back from its checkpoint."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genzoo.commands.given import Given
from genzoo.commands.names import DATAMODULES, outside_datamodules
from genzoo.errors import CheckpointError, DataError, SchemaError
from genzoo.models.checkpoint import KEY, checkpoint_path, read_checkpoint, trusted_class
from genzoo.tables.schema import Schema


@dataclass
class Restored:
    """A checkpoint that gives what is not typed.

    Args:
        path: The checkpoint file.
        content: What it holds.
        data: The record of its datamodule, or ``None`` when the data are typed anew.
    """

    path: Path
    content: dict[str, Any]
    data: dict[str, Any] | None

    @classmethod
    def read(cls, run: str, given: Given, resume: bool = False) -> Restored:
        """Reads a run folder or checkpoint; a run folder is resumed from its last checkpoint, else its best is taken.

        Raises:
            CheckpointError: it cannot be read, or does not say where its rows are and nothing was typed.
        """
        path = Path(run)
        last = path / "checkpoints" / "last.ckpt"
        path = last if resume and last.is_file() else checkpoint_path(path)
        content = read_checkpoint(path)
        trusted_class(content[KEY]["class_path"])
        data = content[KEY].get("training", {}).get("data") or None
        if data is None and not given.mentions("data"):
            raise CheckpointError(
                f"'{run}' was trained on a frame in memory and does not say where its rows are; give --data.path FILE"
            )
        if data is not None:
            trusted_datamodule(data["class_path"])
        return cls(path, content, data)

    def layer(self) -> dict[str, Any]:
        """The configuration the checkpoint stands for."""
        record = self.content[KEY]
        layer: dict[str, Any] = {"model": {"class_path": record["class_path"], "init_args": record["init_args"]}}
        data = self.data
        if data is None:
            data = {"class_path": DATAMODULES["Table"]}
        layer["data"] = {k: v for k, v in data.items() if k in ("class_path", "init_args")}
        return layer

    def require_same_class(self, class_path: str) -> None:
        """Checks that a typed model is the checkpoint's.

        Raises:
            CheckpointError: it is another.
        """
        kept = self.content[KEY]["class_path"]
        if class_path != kept:
            raise CheckpointError(
                f"'{self.path}' holds a {kept.rpartition('.')[2]}, and --model asks for "
                f"{class_path.rpartition('.')[2]}; leave out --model"
            )

    def load_into(self, model: Any) -> None:
        """Puts the checkpoint's weights and codec into a model made with its arguments.

        Raises:
            CheckpointError: typed arguments changed the shape of the model.
        """
        try:
            model.load_state_dict(self.content["state_dict"])
        except RuntimeError as error:
            lines = [*(line.strip() for line in str(error).splitlines()), "", ""]
            raise CheckpointError(
                f"'{self.path}' does not fit the model's arguments ({lines[1]}); leave out --model options "
                "that change its shape"
            ) from error
        model.restore_extra(self.content)
        model.training_record = self.content[KEY]["training"]
        model.eval()


def trusted_datamodule(class_path: str) -> None:
    """Checks that a datamodule named in a checkpoint is ours, joined by entry point, or already imported.

    Raises:
        CheckpointError: it is none of these; opening a file must not import unknown code.
    """
    known = {*DATAMODULES.values(), *(point.value.replace(":", ".") for point in outside_datamodules().values())}
    if class_path not in known and class_path.rpartition(".")[0] not in sys.modules:
        raise CheckpointError(
            f"the checkpoint needs the data source '{class_path}', which is not known; import its module first"
        )


def data_changed(datamodule: Any, schema: Schema) -> list[str]:
    """A line of warning when the data are not those the model was trained on."""
    now = datamodule.schema.fingerprint
    if not schema.fingerprint or not now or now == schema.fingerprint:
        return []
    if datamodule.schema.source == schema.source:
        return [
            f"warning: '{datamodule.name}' has changed since the model was trained "
            f"(fingerprint now {now[:8]}, then {schema.fingerprint[:8]})"
        ]
    return [f"note: the model was trained on '{schema.source}'; these rows are of '{datamodule.schema.source}'"]


def adapt_rows(datamodule: Any, schema: Schema, config: Any) -> Any:
    """The datamodule with its rows encoded for a trained model's schema.

    A table whose own columns would be read as other kinds is read again under the model's schema; vocabularies are
    those of the model's training rows.

    Raises:
        SchemaError: the table does not have the model's columns.
    """
    if datamodule.schema.measure != schema.measure:
        init = dict(config.get("init_args") or {})
        if "schema" not in init:
            raise SchemaError("the rows have other columns or kinds than those the model was trained on")
        datamodule = type(datamodule)(**(init | {"schema": schema.to_dict()}))
        datamodule.setup("fit")
        if datamodule.schema.measure != schema.measure:
            raise DataError(
                "the table cannot be read with the columns the model was trained on; genzoo schema FILE shows them"
            )
    if datamodule.schema != schema:
        datamodule.adopt_schema(schema)
    return datamodule
