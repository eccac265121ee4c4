"""What each column of a table is, read from the whole file: the kind of every column, by one rule.

The rule ends in exactly one kind:

1. no value or one value: ``constant``; two values of any type: ``binary``; text: ``categorical``, refused when it is
   nearly unique.
2. Numbers. An **atom** is a value on at least 5 % of the rows, or on at least 1 % and ten times as often as the values
   next to it (its neighbours among the values that occur), and on five rows at least.
3. If fewer than 5 % of the rows outside the atoms share their value, the column has a density: ``continuous``, or
   ``mixed`` with its atoms. A handful of rows outside the atoms (under 5 % of the rows and under 20 values) shows no
   continuum, so such a column goes on to 4.
4. Else it is ``quantized`` at the greatest common step (see :mod:`genzoo.tables.grid`). On a grid, frequency alone is
   nothing special (16 years of education hold 6 % each on average), so a quantized column names as atoms only those
   values of 2. that are ten times as frequent as their neighbours: the zeros of a capital gain, the 40 hours of a week.

Text with more than 1000 different values, or with more than 20 and more than half as many as rows, is refused: no model
learns it. So is a column of numbers (more than 20 different) with up to three different words among them, which are
missing tokens or mistakes; codes of both forms (``250.83``, ``V57``) are categories. Columns that are ignored, or
declared categorical, are never refused.

Dates and date-times are always quantized: days, or the greatest common step of the times in seconds.

Shares and ratios do not depend on the unit, and steps and atoms scale with it, so a change of unit changes no verdict.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np

from genzoo.errors import DataError, SchemaError
from genzoo.tables.cells import can_be_number, flat_cells, number_text, numbers, texts
from genzoo.tables.fingerprint import cached, fingerprint, store
from genzoo.tables.frames import iter_row_groups, source_name, to_arrow
from genzoo.tables.grid import find_grid, printed_decimals
from genzoo.tables.schema import MISSING_TOKENS, ROLES, UNMODELLED_ROLES, Column, Schema
from genzoo.tables.tally import Tally, Values, category_words

RULE = 5  # raise when the rule changes: cached verdicts of the old one are then not read

ATOM_SHARE = 0.05
SMALL_ATOM_SHARE = 0.01
ATOM_RATIO = 10.0
ATOM_ROWS = 5
TIED_SHARE = 0.05
CONTINUUM_VALUES = 20
MAX_CATEGORIES = 1000
MAX_UNIQUE_SHARE = 0.5
FEW_CATEGORIES = 20
MAX_FOREIGN = 3


def infer_schema(
    source: Any,
    *,
    overrides: Mapping[str, Mapping[str, Any] | Column] | None = None,
    roles: Mapping[str, Any] | None = None,
    missing_tokens: Iterable[str] = MISSING_TOKENS,
    refused: Literal["raise", "ignore"] = "raise",
    cache: bool = True,
) -> Schema:
    """Reads the whole table once and says what each column is.

    The verdicts depend on the content alone, so they are the same for every split, fold and seed; they are kept in the
    user's cache folder under the content's fingerprint. A Parquet file is read by row group.

    Args:
        source: Anything :func:`genzoo.tables.frames.read_frame` takes.
        overrides: Per column, fields of :class:`Column` that replace the inferred ones, e.g.
            ``{"age": {"kind": "continuous"}, "zip": {"role": "ignore"}}``. What a kind needs beyond that (step, atoms,
            categories) is read from the data.
        roles: ``{"income": "context"}`` or ``{"context": ["income"]}``.
        missing_tokens: Text cells read as missing; those that are numbers (``-999``) empty number cells too.
        refused: What happens to columns that no model can use (nearly unique text): ``raise`` an error that names them
            and says what to do, or ``ignore`` them with a note.
        cache: Read and write the cache.

    Raises:
        DataError: the table is empty, has one row, infinite values, or columns that no model can use.
        SchemaError: an override names an unknown column or field.
    """
    tokens = tuple(missing_tokens)
    changes = _changes(overrides, roles)
    mark = fingerprint(source)
    kinds = {name: change for name, change in changes.items() if set(change) & {"kind", "role", "missing"}}
    key = {"rule": RULE, "fingerprint": mark, "tokens": tokens, "overrides": kinds, "refused": refused}
    entry = cached(key) if cache else None
    if entry is None:
        schema = _read(source, tokens, changes, refused, mark)
        if cache:
            store(key, schema.to_dict())
    else:
        schema = Schema.from_dict(entry)
    schema = replace(schema, source=source_name(source))
    unknown = sorted(set(changes) - {c.name for c in schema.columns})
    if unknown:
        raise SchemaError(
            f"no column '{unknown[0]}' in {schema.source}; it has {', '.join(c.name for c in schema.columns)}"
        )
    for name, change in changes.items():
        schema = schema.with_column(name, **change)
    return schema


def missing_shares(source: Any, missing_tokens: Iterable[str] = MISSING_TOKENS) -> dict[str, float]:
    """Share of missing cells of each column, in [0, 1]."""
    tokens = tuple(missing_tokens)
    missing: dict[str, int] = {}
    cells: dict[str, int] = {}
    for frame in iter_row_groups(source, missing_tokens=tokens):
        table = to_arrow(frame)
        for name in table.column_names:
            array = flat_cells(table[name])
            gone = (
                np.isnan(numbers(array, tokens)).sum() if can_be_number(array.type) else texts(array, tokens).null_count
            )
            missing[name] = missing.get(name, 0) + int(gone)
            cells[name] = cells.get(name, 0) + len(array)
    return {name: missing[name] / max(1, cells[name]) for name in cells}


def _changes(
    overrides: Mapping[str, Mapping[str, Any] | Column] | None, roles: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    changes: dict[str, dict[str, Any]] = {}
    for name, change in (overrides or {}).items():
        plain = asdict(change) if isinstance(change, Column) else dict(change)
        plain.pop("name", None)
        unknown = sorted(set(plain) - set(Column.__dataclass_fields__))
        if unknown:
            raise SchemaError(
                f"column '{name}': unknown field '{unknown[0]}'; known: {sorted(Column.__dataclass_fields__)}"
            )
        changes[name] = {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
    for key, given in (roles or {}).items():
        pairs = [(name, key) for name in given] if key in ROLES and not isinstance(given, str) else [(key, given)]
        for name, role in pairs:
            changes.setdefault(name, {})["role"] = role
    return changes


def _read(
    source: Any, tokens: tuple[str, ...], changes: Mapping[str, Mapping[str, Any]], refused: str, mark: str
) -> Schema:
    tallies: dict[str, Tally] = {}
    ignored = {name for name, change in changes.items() if change.get("role") == "ignore"}
    number = 0
    for frame in iter_row_groups(source, missing_tokens=tokens):
        table = to_arrow(frame)
        number += table.num_rows
        for name in table.column_names:
            tally = tallies.setdefault(name, Tally(name, tokens))
            if name not in ignored:
                tally.add(table[name])
    if number < 2:
        raise DataError(f"'{source_name(source)}' has {number} row; give a table with at least two rows")
    columns, trouble, refused_names = [], [], []
    for name, tally in tallies.items():
        change = changes.get(name, {})
        if name in ignored:
            columns.append(Column(name, "categorical", role="ignore", storage="string", note="ignored"))
            continue
        values = tally.result()
        reason = None if "kind" in change or change.get("role") in UNMODELLED_ROLES else refusal(values)
        if reason is not None:
            trouble.append(reason)
            refused_names.append(name)
            columns.append(Column(name, "categorical", "ignore", "string", note=reason, doubt="refused"))
        else:
            columns.append(infer_column(values, change.get("kind"), change.get("atoms")))
    if trouble and refused == "raise":
        raise DataError(f"{'; '.join(trouble)}; {_advice(refused_names)}")
    return Schema(tuple(columns), num_rows=number, missing_tokens=tokens, fingerprint=mark, source=source_name(source))


def refusal(values: Values) -> str | None:
    """Why no model can use a text column; ``None`` for a column that can be used."""
    if values.is_number or values.storage == "bool":
        return None
    distinct, present = len(values.words), values.num_present
    numeric = [word for word in values.words if _is_number(word)]
    others = [word for word in values.words if not _is_number(word)]
    near_unique = distinct > MAX_CATEGORIES or distinct > max(FEW_CATEGORIES, MAX_UNIQUE_SHARE * present)
    mixes = bool(others) and len(numeric) > FEW_CATEGORIES
    if mixes and (len(others) <= MAX_FOREIGN or (near_unique and len(numeric) > len(others))):
        counts = dict(zip(values.words, values.counts.tolist()))
        shown = ", ".join(f"{word!r} ({counts[word]} cell{'s' * (counts[word] > 1)})" for word in others[:3])
        return (
            f"column '{values.name}' mixes numbers and text: {shown} among {len(numeric)} different numbers (correct "
            "these cells, or name them in --data.missing_tokens)"
        )
    if near_unique:
        more = "more than " if values.truncated else ""
        found = f"column '{values.name}' is text with {more}{distinct} different values in {present} rows"
        form = _other_form(values.words)
        if form:
            return f"{found}: {form}"
        return f"{found}, too many to learn"
    return None


def _other_form(words: Sequence[str]) -> str:
    """Asks about text whose words are numbers or dates in a form that is not read as such; empty for other text."""
    some = words[:1000]

    def share(pattern: str) -> float:
        return sum(re.fullmatch(rf"\s*{pattern}\s*", word) is not None for word in some) / max(1, len(some))

    thousands = share(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
    if share(r"[+-]?\d+,\d+") > 0.9 and share(r"[+-]?\d{1,3},\d{3}") <= 0.9:
        return f"numbers with a decimal comma? write {words[0].replace(',', '.')} instead"
    if thousands > 0.9:
        return f"numbers with separators of thousands? write {words[0].replace(',', '')} instead"
    if share(r"\d{1,2}[/.]\d{1,2}[/.]\d{2,4}") > 0.9:
        return "dates? write them as YYYY-MM-DD"
    number, currency = r"[+-]?\d[\d.,]*", r"(?P<sign>[€$£¥])"
    for pattern in (
        rf"{number}\s*(?P<sign>%|[^\W\d_]{{1,3}}[23²³]?)",
        rf"{number}\s*{currency}",
        rf"{currency}\s*{number}",
    ):
        found = [match["sign"] for word in some if (match := re.fullmatch(rf"\s*{pattern}\s*", word))]
        if len(set(found)) == 1 and len(found) > max(0.9 * len(some), 2):
            return f"numbers with a unit? write {words[0].replace(found[0], '').strip()} instead of {words[0]!r}"
    return ""


def _advice(names: list[str]) -> str:
    """What to do about refused columns."""
    them, listed = "them" if len(names) > 1 else "it", ",".join(names)
    if any("," in name for name in names):
        listed = json.dumps(names, ensure_ascii=False)
    ignored = f"'{listed}'" if re.fullmatch(r"[\w,.-]+", listed) is None else listed
    return (
        f"leave {them} out (--ignore {ignored}; in genzoo fit --data.ignore {ignored}), or declare {them} in the "
        "schema (kind: categorical; genzoo schema writes one to edit)"
    )


def _foreign_words(values: Values) -> str:
    """A few words among categories that are numbers, on few of the cells."""
    counts = dict(zip(values.words, values.counts.tolist()))
    others = {word: count for word, count in counts.items() if not _is_number(word)}
    few = len(others) <= MAX_FOREIGN and sum(others.values()) < ATOM_SHARE * values.num_present
    if not others or not few or len(counts) - len(others) < 3:
        return ""
    shown = ", ".join(f"{word!r} ({count} cell{'s' * (count > 1)})" for word, count in others.items())
    return f"numbers but for {shown}"


def _is_number(word: str) -> bool:
    return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", word) is not None


def infer_column(values: Values, kind: str | None = None, atoms: tuple[float, ...] | None = None) -> Column:
    """The verdict for one column (see the module's text), or the fields that a declared kind needs.

    Args:
        values: What was counted.
        kind: Declared kind, or ``None`` for the verdict.
        atoms: Declared atoms of a mixed column, or ``None`` to find them.

    Raises:
        SchemaError: the values do not fit the declared kind.
    """
    base: dict[str, Any] = {"name": values.name, "storage": values.storage, "shape": values.shape}
    distinct = len(values.counts)
    if kind is None:
        if distinct == 0:
            return Column(kind="constant", value=None, note="all cells missing", **base)
        if distinct == 1:
            word = category_words(values)[0]
            missing = f", {_percent(values.num_missing / values.num_rows)} missing" if values.num_missing else ""
            return Column(kind="constant", value=word, note=f"only {word!r}{missing}", **base)
        if distinct == 2:
            return Column(kind="binary", categories=category_words(values), note="two values", **base)
        if not values.is_number:
            note, foreign = f"{distinct} categories", _foreign_words(values)
            form = _other_form(values.words)
            if foreign:
                base |= {"doubt": "mistake"}
                note += f", {foreign}"
            elif form:
                base |= {"doubt": "form"}
                note += f": {form}"
            return Column(kind="categorical", categories=category_words(values), note=note, **base)
        return _number_column(values, base)
    if kind in ("categorical", "binary"):
        if kind == "binary" and distinct != 2:
            raise SchemaError(f"column '{values.name}' has {distinct} values and cannot be binary")
        return Column(kind=kind, categories=category_words(values), note="declared", **base)  # type: ignore[arg-type]
    if kind == "constant":
        return Column(kind="constant", value=category_words(values)[0] if distinct else None, note="declared", **base)
    if not values.is_number:
        raise SchemaError(
            f"column '{values.name}' holds text ({', '.join(map(repr, values.words[:3]))}) and cannot be {kind}"
        )
    if distinct < 2:
        raise SchemaError(f"column '{values.name}' has {distinct} value and cannot be {kind}")
    return _declared_number(values, base, kind, atoms)


def _declared_number(values: Values, base: dict[str, Any], kind: str, named: tuple[float, ...] | None) -> Column:
    if kind == "quantized":
        return _quantized(values, base, _isolated(values) & _atoms(values), "declared")
    decimals = printed_decimals(values.values, values.single) if values.storage == "float" else None
    base = {**base, "decimals": decimals if decimals is not None and decimals >= 0 else None, "note": "declared"}
    if kind == "mixed":
        if named:
            return Column(kind="mixed", atoms=tuple(named), **base)
        atoms = _atoms(values)
        if not atoms.any():
            raise SchemaError(
                f"column '{values.name}' has no atoms (a value on 5 % of the rows); name them, or use kind continuous"
            )
        return Column(kind="mixed", atoms=_atom_values(values, atoms), **base)
    return Column(kind=kind, **base)  # type: ignore[arg-type]


def _atoms(values: Values) -> np.ndarray:
    """``(u,)`` bool: the value is an atom by rule 2."""
    share = values.counts / max(1, values.num_present)
    heavy = (share >= ATOM_SHARE) | ((share >= SMALL_ATOM_SHARE) & _isolated(values))
    return heavy & (values.counts >= ATOM_ROWS)


def _isolated(values: Values) -> np.ndarray:
    """``(u,)`` bool: ten times as frequent as the values next to it."""
    counts = values.counts.astype(np.float64)
    left, right = np.concatenate([[0.0], counts[:-1]]), np.concatenate([counts[1:], [0.0]])
    return counts >= ATOM_RATIO * np.maximum(left, right)


def _number_column(values: Values, base: dict[str, Any]) -> Column:
    atoms = _atoms(values)
    rest = ~atoms
    rows = float((values.counts * values.weights)[rest].sum())
    shared = float((values.counts * values.weights)[rest & (values.counts > 1)].sum())
    scarce = rows < ATOM_SHARE * values.num_present and int(rest.sum()) < CONTINUUM_VALUES
    if values.storage in ("date", "datetime"):
        return _quantized(values, base, atoms & _isolated(values), values.storage)
    if rows == 0 or scarce or shared >= TIED_SHARE * rows:
        tied = (
            "all values frequent" if rows == 0 or scarce else f"{_percent(shared / rows)} of the rows share their value"
        )
        return _quantized(values, base, atoms & _isolated(values), tied)
    decimals = printed_decimals(values.values, values.single) if values.storage == "float" else None
    base = {**base, "decimals": decimals if decimals is not None and decimals >= 0 else None}
    note = f"{_percent(shared / rows)} of the rows share their value"
    if atoms.any():
        chosen = _atom_values(values, atoms)
        return Column(kind="mixed", atoms=chosen, note=f"{_atom_note(values, atoms)}; else {note}", **base)
    if values.storage == "int" and shared == 0:
        note = "integers that never repeat"
        base |= {"doubt": "identifier"}
    return Column(kind="continuous", note=note, **base)


def _quantized(values: Values, base: dict[str, Any], atoms: np.ndarray, why: str) -> Column:
    if values.storage in ("int", "date", "datetime", "duration"):  # whole numbers of units, days or microseconds
        per_unit = 10**6 if values.storage in ("datetime", "duration") else 1
        ticks = np.rint(values.values * per_unit).astype(np.int64)
        divisor = int(np.gcd.reduce(np.diff(ticks))) or 1
        step, origin, decimals, common = divisor / per_unit, int(ticks[0]) % divisor / per_unit, None, True
    else:
        grid = find_grid(values.values, values.single)
        step, origin, decimals, common = grid.step, grid.origin, grid.decimals, grid.common
    chosen = _atom_values(values, atoms)
    found = f"step {number_text(step)}" if common else "no common step: cells as fine as the numbers are stored"
    note = f"{why}; {found}" + (f"; {_atom_note(values, atoms)}" if chosen else "")
    written = decimals if values.storage == "float" else None
    return Column(kind="quantized", step=step, origin=origin, atoms=chosen, note=note, **{**base, "decimals": written})


def _atom_values(values: Values, atoms: np.ndarray) -> tuple[float, ...]:
    chosen = values.values[atoms]
    return tuple(float(str(np.float32(v))) if values.single else float(v) for v in chosen)


def _atom_note(values: Values, atoms: np.ndarray) -> str:
    order = np.argsort(-values.counts[atoms], kind="stable")
    chosen, counts = np.array(_atom_values(values, atoms))[order], values.counts[atoms][order]
    shown = ", ".join(f"{number_text(v)} ({_percent(c / values.num_present)})" for v, c in zip(chosen[:3], counts[:3]))
    return f"atoms {shown}" + (f" and {len(chosen) - 3} more" if len(chosen) > 3 else "")


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
