"""Any table: read, given a schema, split, and handed out in fast batches."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from genzoo.datamodules.base import SPLITS, Split, TableDataModule, require_weights
from genzoo.datamodules.splits import Index, check_fractions, column_split, grouped_split, ordered_split, random_split
from genzoo.errors import DataError, SchemaError
from genzoo.tables.schema import Role, Schema

if TYPE_CHECKING:
    import narwhals as nw

    from genzoo.tables.encode import TableData

SplitRule = Literal["auto", "random", "grouped", "ordered"]

CANONICAL_TEST = {"genzoo:adult": 32_561}
"""Shipped tables with a published test set: the rows from this one on."""

SMALL_TABLE = 1000


class Table(TableDataModule):
    """A table from a file or a frame, with its schema and a split.

    The schema is read from the whole table before the split, so that the measure of each column is the same for every
    split and seed; vocabularies come from the training rows. Rows are split at random, unless files, a split column, a
    group column or a time column say otherwise; ``genzoo:adult`` keeps its published test rows.

    Args:
        path: CSV, TSV, Parquet, Feather or Arrow file, ``sklearn:wine`` (and scikit-learn's other bundled tables), or
            ``genzoo:adult``.
        frame: A pandas, polars or Arrow frame instead of ``path``; Python only, never saved.
        schema: YAML file or dictionary as ``genzoo schema`` writes it; ``None`` infers it from the table.
        overrides: Fields of inferred columns to replace, by column: ``{"age": {"kind": "continuous"}}``.
        context: Columns to condition on.
        treatment: Columns with role treatment.
        outcome: Columns with role outcome.
        sensitive: Columns with role sensitive.
        ignore: Columns to leave out.
        weight: Column that says how much each row counts, numbers above 0 (survey or importance weights): it enters the
            training loss, validation and the means of every report; not modelled.
        time: Column that orders the rows; not modelled. The latest rows test, those before them validate.
        group: Column whose groups stay together in one split; not modelled.
        split: ``auto`` takes ``ordered`` with a time column, ``grouped`` with a group column, else ``random``.
            ``ordered`` without a time column takes the order of the file.
        split_column: Column that says train, val or test in every row; not modelled.
        split_path: A table with a column ``split`` that says train, val or test for every row of this one.
        val_path: File of the validation rows; ``path`` then holds the others.
        test_path: File of the test rows; ``path`` then holds the others.
        val: Share of the rows for validation, 0 for none; ``None`` takes 0.1, or 0.15 below 1,000 rows.
        test: Share of the rows for test, 0 for none; ``None`` as for ``val``.
        missing_tokens: Text cells read as missing; ``None`` takes those of the schema, or the usual ones.
        split_seed: Seed of the split; ``None`` takes ``seed``.
        batch_size: Training rows a step and device; ``None`` chooses from the number of rows, within 32 and 512.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of the order of training rows.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Raises:
        DataError: the table cannot be read, or is too small to split.
        SchemaError: the schema and the table differ, or a role names an unknown column.

    Example:
        >>> table = Table("sklearn:iris")
        >>> {split: len(table.data(split)) for split in ("train", "val", "test")}
        {'train': 106, 'val': 22, 'test': 22}
    """

    def __init__(
        self,
        path: str | None = None,
        frame: Any = None,
        schema: str | dict[str, Any] | None = None,
        overrides: dict[str, dict[str, Any]] | None = None,
        context: Sequence[str] = (),
        treatment: Sequence[str] = (),
        outcome: Sequence[str] = (),
        sensitive: Sequence[str] = (),
        ignore: Sequence[str] = (),
        weight: str | None = None,
        time: str | None = None,
        group: str | None = None,
        split: SplitRule = "auto",
        split_column: str | None = None,
        split_path: str | None = None,
        val_path: str | None = None,
        test_path: str | None = None,
        val: float | None = None,
        test: float | None = None,
        missing_tokens: Sequence[str] | None = None,
        split_seed: int | None = None,
        batch_size: int | None = None,
        eval_batch_size: int = 4096,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if (path is None) == (frame is None):
            given = "neither" if path is None else "both"
            raise ValueError(f"give 'path' (a file, sklearn:wine, genzoo:adult) or 'frame' (a frame); got {given}")
        if time is not None and group is not None:
            raise ValueError("give 'time' (ordered split) or 'group' (grouped split), not both")
        if split_column is not None and split_path is not None:
            raise ValueError("give 'split_column' or 'split_path', not both")
        if split not in ("auto", "random", "grouped", "ordered"):
            raise ValueError(f"unknown split '{split}'; use one of auto, random, grouped, ordered")
        check_fractions(val or 0.0, test or 0.0)
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        # what is saved is plain: no frame, lists, a schema as a dictionary
        path, val_path, test_path = (None if p is None else str(p) for p in (path, val_path, test_path))
        schema = schema.to_dict() if isinstance(schema, Schema) else str(schema) if isinstance(schema, Path) else schema
        context, treatment, outcome, sensitive, ignore = map(_names, (context, treatment, outcome, sensitive, ignore))
        missing_tokens = None if missing_tokens is None else list(missing_tokens)
        self.save_hyperparameters(ignore=["frame"], logger=False)
        self.path, self.val_path, self.test_path, self.split_path = path, val_path, test_path, split_path
        self.given_schema, self.overrides = schema, overrides
        self.roles: dict[Role, list[str]] = {
            "context": context,
            "treatment": treatment,
            "outcome": outcome,
            "sensitive": sensitive,
            "weight": _names(weight),
            "time": _names(time),
            "group": _names(group),
            "ignore": [*ignore, *_names(split_column)],
        }
        listed = [name for names in self.roles.values() for name in names]
        twice = sorted({name for name in listed if listed.count(name) > 1})
        if twice:
            given = " and ".join(role for role, names in self.roles.items() if twice[0] in names)
            raise ValueError(f"column '{twice[0]}' is named twice ({given}); a column has one role")
        self.split_rule, self.split_column, self.val, self.test = split, split_column, val, test
        self.split_seed = seed if split_seed is None else split_seed
        self.missing_tokens = missing_tokens
        self._source: Any = path if frame is None else frame
        self._frames: dict[Split, nw.DataFrame[Any]] = {}
        from genzoo.tables.frames import source_name

        self.name = source_name(self._source)

    def frame(self, split: Split) -> nw.DataFrame[Any]:
        """The rows of a split as they were read, with every column, in the order of :meth:`data`."""
        self.data(split)
        return self._frames[split]

    def split_labels(self) -> list[str]:
        """``train``, ``val`` or ``test`` for every row of the table (those of ``val_path`` and ``test_path`` apart)."""
        separate = {"val": self.val_path, "test": self.test_path}
        labels = np.full(sum(len(self.data(s)) for s in SPLITS if separate.get(s) is None), "train", dtype="<U5")
        for split in SPLITS:
            if separate.get(split) is None:
                labels[self.data(split).rows] = split
        return labels.tolist()

    def fold_labels(self, folds: int) -> list[list[str]]:
        """For each fold of a cross-validation, ``train``, ``val`` or ``test`` for every row of the table.

        Rows of one group stay together; the share of validation rows is that of the split.

        Raises:
            DataError: too few rows or groups, or rows that stand in files of their own.
        """
        if self.val_path is not None or self.test_path is not None:
            raise DataError("folds deal out the rows of one table; leave out val_path and test_path")
        from genzoo.datamodules.splits import fold_splits

        sizes = [len(self.data(split)) for split in SPLITS]
        rows = np.concatenate([self.data(split).rows for split in SPLITS])
        name = next((c.name for c in self.schema.columns if c.role == "group"), None)
        groups = None
        if name is not None:
            groups = np.empty(len(rows), dtype=np.int64)
            groups[rows] = _numbered(nw.concat([self.frame(split) for split in SPLITS]), name, "group")
        out = []
        for index in fold_splits(len(rows), folds, sizes[1] / len(rows), self.split_seed, groups):
            labels = np.full(len(rows), "train", dtype="<U5")
            for split in ("val", "test"):
                labels[index[split]] = split
            out.append(labels.tolist())
        return out

    def save_split(self, path: str) -> None:
        """Writes :meth:`split_labels` as a table that ``split_path`` takes.

        Raises:
            DataError: the path exists or cannot be written.
        """
        from genzoo.tables.frames import write_frame

        write_frame({"split": self.split_labels()}, path)

    def _load(self) -> dict[Split, TableData]:
        from genzoo.tables.encode import encode_frame, training_schema

        frames = self._read()
        whole = self._whole_schema(frames)
        encoded = {part: encode_frame(frame, whole) for part, frame in frames.items()}
        require_weights(encoded, whole)
        index = self._split(frames["train"], whole, [part for part in frames if part != "train"])
        splits: dict[Split, TableData] = {}
        for split in SPLITS:
            if split != "train" and split in frames:
                splits[split], self._frames[split] = encoded[split], frames[split]
            else:
                splits[split] = encoded["train"].select(index[split])
                self._frames[split] = frames["train"][index[split], :]
        schema = training_schema(whole, splits["train"])
        return {split: data.with_schema(schema) for split, data in splits.items()}

    def _read(self) -> dict[Split, nw.DataFrame[Any]]:
        from genzoo.tables.frames import read_frame

        tokens = self.missing_tokens
        schema = None if self.given_schema is None else self._load_schema()
        frames: dict[Split, Any] = {"train": read_frame(self._source, schema=schema, missing_tokens=tokens)}
        held_out: tuple[tuple[Split, str | None], ...] = (("val", self.val_path), ("test", self.test_path))
        for split, path in held_out:
            if path is not None:
                frames[split] = read_frame(path, schema=schema, missing_tokens=tokens)
        return frames

    def _load_schema(self) -> Schema:
        from genzoo.tables.show import load_schema

        schema = (
            Schema.from_dict(self.given_schema)
            if isinstance(self.given_schema, Mapping)
            else load_schema(str(self.given_schema))
        )
        return schema if self.missing_tokens is None else replace(schema, missing_tokens=tuple(self.missing_tokens))

    def _whole_schema(self, frames: Mapping[Split, nw.DataFrame[Any]]) -> Schema:
        """The schema before the split, from all rows: of the table, and of the files held out from it."""
        from genzoo.tables.fingerprint import fingerprint
        from genzoo.tables.infer import infer_schema
        from genzoo.tables.schema import MISSING_TOKENS

        roles = {role: names for role, names in self.roles.items() if names}
        by_name: dict[str, Any] = {str(role): names for role, names in roles.items()}
        present = frames["train"].columns
        for role, names in roles.items():
            absent = [name for name in names if name not in present]
            if absent:
                near = difflib.get_close_matches(absent[0], present, n=1)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise SchemaError(f"'{role}' names column '{absent[0]}', and the table has {', '.join(present)}{hint}")
        source = self._source if len(frames) == 1 else _joined(list(frames.values()))
        if self.given_schema is not None:
            schema = self._load_schema()
            for name, changes in (self.overrides or {}).items():
                schema = schema.with_column(name, **changes)
            schema = _with_vocabularies(schema, source)
            for role, names in roles.items():
                # a schema need not mention what is not modelled
                known = [name for name in names if any(c.name == name for c in schema.columns)]
                schema = schema.with_roles(role, known if role in ("ignore", "time", "group") else names)
            schema = replace(schema, num_rows=sum(map(len, frames.values())), fingerprint=fingerprint(source))
        else:
            tokens = MISSING_TOKENS if self.missing_tokens is None else self.missing_tokens
            schema = infer_schema(source, overrides=self.overrides, roles=by_name, missing_tokens=tokens)
        if not schema.scored:
            raise DataError(f"'{self.name}' has no column to model: all are constant, context or left out")
        return replace(schema, source=self.name)

    def _split(self, frame: nw.DataFrame[Any], schema: Schema, separate: Sequence[str]) -> dict[str, Index]:
        """Positions of the rows of each split in the main table; parts in ``separate`` have files of their own."""
        num_rows = len(frame)
        small = 0.15 if num_rows < SMALL_TABLE else 0.1
        val = 0.0 if "val" in separate else small if self.val is None else self.val
        test = 0.0 if "test" in separate else small if self.test is None else self.test
        check_fractions(val, test)
        if self.split_column is not None or self.split_path is not None:
            return self._given_split(frame, separate, schema)
        time = next((c.name for c in schema.columns if c.role == "time"), None)
        group = next((c.name for c in schema.columns if c.role == "group"), None)
        time, group = next(iter(self.roles["time"]), time), next(iter(self.roles["group"]), group)
        rule = self.split_rule
        if rule == "auto":
            if time is not None and group is not None:
                raise DataError(
                    f"the schema has a time column '{time}' and a group column '{group}'; say split: ordered, grouped "
                    "or random"
                )
            rule = "ordered" if time is not None else "grouped" if group is not None else "random"
            first_test = CANONICAL_TEST.get(self.path or "")
            if rule == "random" and first_test is not None and self.test is None and not separate:
                index = random_split(first_test, val, 0.0, self.split_seed)
                return {**index, "test": np.arange(first_test, num_rows)}
        if rule == "grouped":
            if group is None:
                raise ValueError("split: grouped needs a group column; name it with 'group'")
            return grouped_split(_numbered(frame, group, "group"), val, test, self.split_seed)
        if rule == "ordered":
            self.ordered = True
            keys = np.arange(num_rows) if time is None else _numbered(frame, time, "time")
            return ordered_split(keys, val, test)
        return random_split(num_rows, val, test, self.split_seed)

    def _given_split(self, frame: nw.DataFrame[Any], separate: Sequence[str], schema: Schema) -> dict[str, Index]:
        from genzoo.tables.frames import read_frame

        name = self.split_column or "split"
        table = frame
        if self.split_path is not None:
            table = read_frame(self.split_path, columns=["split"])
            if len(table) != len(frame):
                raise DataError(f"'{self.split_path}' has {len(table)} rows, and the table has {len(frame)}")
        index = column_split(table[name].to_list(), name)
        for part in separate:
            if len(index[part]):
                raise DataError(f"split column '{name}' marks rows as {part}, and '{part}_path' gives a file for them")
        time = next(iter(self.roles["time"]), next((c.name for c in schema.columns if c.role == "time"), None))
        if time is not None and len(index["test"]):
            # a stored split in time is still one: its test rows come after all others
            when = _numbered(frame, time, "time")
            others = np.concatenate([index["train"], index["val"]])
            self.ordered = bool(when[index["test"]].min() >= when[others].max())
        return index


def _names(names: Sequence[str] | str | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _with_vocabularies(schema: Schema, source: Any) -> Schema:
    """The schema with the categories of columns that were declared categorical without naming them, from the table."""
    from genzoo.tables.infer import infer_schema

    bare = [c for c in schema.columns if c.is_modelled and c.is_categorical and not c.categories and not c.closed]
    if not bare:
        return schema
    read = infer_schema(
        source,
        overrides={c.name: {"kind": c.kind} for c in bare},
        missing_tokens=schema.missing_tokens,
        refused="ignore",
    )
    for column in bare:
        found = read[column.name]
        schema = schema.with_column(column.name, categories=found.categories, storage=found.storage)
    return schema


def _joined(frames: Sequence[nw.DataFrame[Any]]) -> Any:
    """All rows of several frames, in the columns of the first."""
    import pyarrow as pa

    from genzoo.tables.frames import to_arrow

    columns = frames[0].columns
    tables = []
    for frame in frames:
        absent = [name for name in columns if name not in frame.columns]
        if absent:
            raise SchemaError(f"a held-out file lacks column '{absent[0]}' of the table; it has {frame.columns}")
        tables.append(to_arrow(frame.select(columns)))
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowInvalid as error:
        raise DataError(f"the columns of the held-out files differ in type from the table's: {error}") from error
    except pa.ArrowTypeError as error:
        raise DataError(f"the columns of the held-out files differ in type from the table's: {error}") from error


def _numbered(frame: nw.DataFrame[Any], name: str, role: str) -> Index:
    """The cells of a column as numbers in their order; equal cells get equal numbers.

    Raises:
        DataError: the column is absent or has missing cells.
    """
    import pyarrow.compute as pc

    from genzoo.tables.frames import to_arrow

    if name not in frame.columns:
        raise DataError(f"the {role} column '{name}' is not in the table; it has {', '.join(frame.columns)}")
    cells = to_arrow(frame.select(name))[name]
    if cells.null_count:
        raise DataError(
            f"{role} column '{name}' has {cells.null_count} missing values; fill them, or leave their rows out"
        )
    return np.asarray(pc.rank(cells, sort_keys="ascending", tiebreaker="dense"), dtype=np.int64)
