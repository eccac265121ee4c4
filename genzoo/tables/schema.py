"""The schema of a table: what each column is, and the base measure its likelihood refers to.

The schema alone fixes the measure (kind, step, origin, unit, atoms, bounds, role), so two models trained with one
schema give likelihoods in the same units. What is read from training rows only (vocabularies, the number of training
rows) is added by :meth:`Schema.for_training` and does not enter :attr:`Schema.measure`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite, prod
from typing import Any, Literal, get_args

from genzoo.errors import SchemaError

MISSING_TOKENS = ("", "NA", "N/A", "n/a", "#N/A", "<NA>", "NaN", "nan", "?", "null", "NULL")
"""Text cells read as missing, unless told otherwise."""
Kind = Literal["continuous", "quantized", "mixed", "categorical", "binary", "constant"]
Role = Literal["value", "context", "treatment", "outcome", "sensitive", "weight", "time", "group", "ignore"]
Storage = Literal["float", "int", "bool", "string", "text", "date", "datetime", "duration"]
Missing = Literal["hole", "value"]
Doubt = Literal["", "identifier", "mistake", "form", "refused"]

KINDS: tuple[str, ...] = get_args(Kind)
ROLES: tuple[str, ...] = get_args(Role)
NUMERIC_KINDS = ("continuous", "quantized", "mixed")
CATEGORICAL_KINDS = ("categorical", "binary")
UNMODELLED_ROLES = ("weight", "time", "group", "ignore")


@dataclass(frozen=True)
class Column:
    """One column (or block) of a table.

    Args:
        name: The column's name in the table.
        kind: The base measure. ``continuous``: Lebesgue density in the column's unit. ``quantized``: probability of the
            cell of width ``step``. ``mixed``: counting measure on ``atoms``, Lebesgue elsewhere. ``categorical`` and
            ``binary``: probability. ``constant``: adds nothing.
        role: How the column is used. ``value`` columns (and treatment, outcome, sensitive) are scored; ``context`` is
            conditioned on; ``weight`` says how much a row counts (survey, importance weights): it enters losses and
            means and is not modelled, as are ``time``, ``group`` and ``ignore``.
        storage: How cells are written in a file, so that samples come back in the same form. ``text`` is for a block of
            single characters, written as one string.
        step: Grid spacing of a quantized column, in the column's unit.
        origin: A point of the grid.
        atoms: Values with probability of their own (``mixed`` and, optionally, ``quantized`` columns), ascending.
        lower: Declared lower bound, or ``None``; outside it the likelihood is zero.
        upper: Declared upper bound, or ``None``.
        categories: Known values of a categorical or binary column, as text, in order.
        closed: The vocabulary is declared complete: unseen values are impossible instead of rare.
        missing: ``hole``: a missing cell is not scored. ``value``: it is one more category or atom.
        unit: Free text for reports.
        value: The one value of a constant column, as text (``None`` if all cells are missing).
        shape: Shape of a block (text, image); ``()`` for an ordinary column.
        decimals: Digits after the point when numbers are written, or ``None`` for shortest form.
        note: Why the kind was chosen, for the printed schema.
        doubt: What the user may know better: the column may be an ``identifier``, a few of its cells a ``mistake``, its
            text numbers or dates in another ``form``; or no model can use it (``refused``).
    """

    name: str
    kind: Kind
    role: Role = "value"
    storage: Storage = "float"
    step: float | None = None
    origin: float = 0.0
    atoms: tuple[float, ...] = ()
    lower: float | None = None
    upper: float | None = None
    categories: tuple[str, ...] = ()
    closed: bool = False
    missing: Missing = "hole"
    unit: str | None = None
    value: str | None = None
    shape: tuple[int, ...] = ()
    decimals: int | None = None
    note: str = field(default="", compare=False)
    doubt: Doubt = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("atoms", "categories", "shape"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in KINDS:
            raise SchemaError(f"column '{self.name}': unknown kind '{self.kind}'; use one of {', '.join(KINDS)}")
        if self.role not in ROLES:
            raise SchemaError(f"column '{self.name}': unknown role '{self.role}'; use one of {', '.join(ROLES)}")
        if self.doubt not in get_args(Doubt):
            raise SchemaError(f"column '{self.name}': unknown doubt '{self.doubt}'; leave the entry out")
        if self.kind == "quantized" and not (self.step and self.step > 0):
            raise SchemaError(f"column '{self.name}' is quantized and needs a step above 0, got {self.step}")
        if self.kind == "mixed" and self.num_atoms == 0:
            raise SchemaError(f"column '{self.name}' is mixed and needs atoms; name them, or use kind continuous")
        if self.is_numeric:
            self._check_measure()

    def _check_measure(self) -> None:
        """Refuses atoms and bounds that make no measure."""
        if not all(map(isfinite, self.atoms)):
            raise SchemaError(
                f"column '{self.name}': atoms are finite numbers, got {list(self.atoms)}; "
                "for missing cells say missing: value"
            )
        if len(set(self.atoms)) < len(self.atoms):
            raise SchemaError(f"column '{self.name}': two of its atoms {list(self.atoms)} are equal; name each once")
        low, high = self.lower, self.upper
        if low is not None and high is not None and (low > high or (low == high and self.kind != "quantized")):
            raise SchemaError(
                f"column '{self.name}': its lower bound {low} is not below its upper bound {high}; correct the bounds"
            )

    @property
    def width(self) -> int:
        """Number of cells of the column in one row (1, or the size of the block)."""
        return prod(self.shape)

    @property
    def is_numeric(self) -> bool:
        return self.kind in NUMERIC_KINDS

    @property
    def is_categorical(self) -> bool:
        return self.kind in CATEGORICAL_KINDS

    @property
    def is_modelled(self) -> bool:
        return self.kind != "constant" and self.role not in UNMODELLED_ROLES

    @property
    def is_scored(self) -> bool:
        return self.is_modelled and self.role != "context"

    @property
    def num_atoms(self) -> int:
        """Atoms of a numeric column; a missing cell with ``missing: value`` is the last one (NaN)."""
        return len(self.atoms) + (self.is_numeric and self.missing == "value")

    @property
    def num_categories(self) -> int:
        """Known categories; a missing cell with ``missing: value`` is the last one."""
        return len(self.categories) + (self.is_categorical and self.missing == "value")

    def measure(self) -> dict[str, Any]:
        """What fixes the base measure of this column; equal for every split, fold and seed."""
        keys = ("name", "kind", "role", "step", "origin", "atoms", "lower", "upper", "missing", "shape", "value")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order.

    Args:
        columns: One entry per column of the table.
        num_rows: Rows of the whole file the schema was read from (0 when written by hand).
        num_training_rows: Rows of the training split (0 before a split); fixes the mass kept for unseen categories.
        missing_tokens: Text cells read as missing.
        fingerprint: Hash of the file's content.
        source: Name of the table, for run folders and reports.
    """

    columns: tuple[Column, ...]
    num_rows: int = 0
    num_training_rows: int = 0
    missing_tokens: tuple[str, ...] = MISSING_TOKENS
    fingerprint: str = ""
    source: str = "table"

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", tuple(self.columns))
        object.__setattr__(self, "missing_tokens", tuple(self.missing_tokens))
        names = [column.name for column in self.columns]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(f"column names appear more than once: {', '.join(map(repr, twice))}; rename them")
        weights = [column for column in self.columns if column.role == "weight"]
        if len(weights) > 1:
            named = " and ".join(f"'{column.name}'" for column in weights)
            raise SchemaError(f"columns {named} have role weight; a row has one weight: multiply them into one column")
        if weights and weights[0].shape:
            raise SchemaError(f"weight column '{weights[0].name}' is a block; give one number a row")

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise SchemaError(f"no column '{name}' in the schema; it has {', '.join(c.name for c in self.columns)}")

    @property
    def numeric(self) -> tuple[Column, ...]:
        """Modelled numeric columns, in the order of ``TableBatch.numeric``."""
        return tuple(c for c in self.columns if c.is_modelled and c.is_numeric)

    @property
    def categorical(self) -> tuple[Column, ...]:
        """Modelled categorical and binary columns, in the order of ``TableBatch.codes``."""
        return tuple(c for c in self.columns if c.is_modelled and c.is_categorical)

    @property
    def scored(self) -> tuple[Column, ...]:
        """Columns whose cells are scored, in table order."""
        return tuple(c for c in self.columns if c.is_scored)

    @property
    def context(self) -> tuple[Column, ...]:
        """Columns that are conditioned on."""
        return tuple(c for c in self.columns if c.is_modelled and c.role == "context")

    @property
    def weight(self) -> Column | None:
        """The column of row weights, or ``None``."""
        return next((column for column in self.columns if column.role == "weight"), None)

    @property
    def cells_of_one_measure(self) -> int | None:
        """Scored cells of a row where all share one measure, so that bits a cell mean something; else ``None``.

        Counting measure is one for all columns that have it; densities share one only in the same declared unit.
        """
        scored = self.scored
        counting = all(c.kind == "quantized" or c.is_categorical for c in scored)
        units = {c.unit for c in scored}
        lebesgue = all(c.kind == "continuous" for c in scored) and len(units) == 1 and None not in units
        return (sum(c.width for c in scored) or None) if counting or lebesgue else None

    @property
    def epsilon(self) -> float:
        """Mass kept for a category not seen in training: 1 / (training rows + 1)."""
        return 1.0 / (self.num_training_rows + 1)

    @property
    def measure(self) -> str:
        """Hash of the base measure; likelihoods are comparable only when it agrees."""
        text = json.dumps([c.measure() for c in self.columns if c.is_modelled], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def with_column(self, name: str, **changes: Any) -> Schema:
        """A copy with some fields of one column changed."""
        self[name]
        return replace(self, columns=tuple(replace(c, **changes) if c.name == name else c for c in self.columns))

    def with_roles(self, role: Role, names: Iterable[str]) -> Schema:
        """A copy in which the named columns have ``role``."""
        schema = self
        for name in names:
            schema = schema.with_column(name, role=role)
        return schema

    def for_training(self, num_training_rows: int, vocabularies: Mapping[str, Sequence[str]]) -> Schema:
        """A copy with what training rows decide: their number, and the vocabulary of each open column."""
        columns = [
            replace(c, categories=tuple(vocabularies[c.name])) if c.name in vocabularies and not c.closed else c
            for c in self.columns
        ]
        return replace(self, columns=tuple(columns), num_training_rows=num_training_rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only: fit for YAML, JSON and checkpoints. Fields at their default are left out."""
        defaults = asdict(Column(name="", kind="continuous"))
        columns = []
        for column in self.columns:
            plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(column).items()}
            kept = {k: v for k, v in plain.items() if k in ("name", "kind") or _plain(defaults[k]) != v}
            columns.append(kept)
        return {
            "columns": columns,
            "num_rows": self.num_rows,
            "num_training_rows": self.num_training_rows,
            "missing_tokens": list(self.missing_tokens),
            "fingerprint": self.fingerprint,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Schema:
        """Inverse of :meth:`to_dict`.

        Raises:
            SchemaError: a field or kind is unknown.
        """
        known = set(Column.__dataclass_fields__)
        if "columns" not in plain:
            raise SchemaError("a schema needs an entry 'columns'")
        columns = []
        for entry in plain["columns"]:
            if "name" not in entry or "kind" not in entry:
                raise SchemaError(f"each column of a schema needs 'name' and 'kind'; got {dict(entry)}")
            unknown = sorted(set(entry) - known)
            if unknown:
                raise SchemaError(f"column '{entry['name']}': unknown field {unknown[0]!r}; known: {sorted(known)}")
            columns.append(Column(**entry))
        rest = {k: v for k, v in plain.items() if k != "columns"}
        for key in ("fingerprint", "source"):  # a table called 2024, in YAML written by hand
            if key in rest:
                rest[key] = str(rest[key])
        unknown = sorted(set(rest) - set(cls.__dataclass_fields__))
        if unknown:
            raise SchemaError(f"unknown entry {unknown[0]!r} in the schema")
        return cls(columns=tuple(columns), **rest)


def column_places(schema: Schema) -> list[tuple[Column, bool, slice]]:
    """Each modelled column: (column, is numeric, its places in the array of numbers or of codes)."""
    found = []
    for numeric, columns in ((True, schema.numeric), (False, schema.categorical)):
        start = 0
        for column in columns:
            found.append((column, numeric, slice(start, start + column.width)))
            start += column.width
    return found


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
