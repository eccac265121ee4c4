"""Measured numbers kept as plain records, and the Markdown tables written from them."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

Record = dict[str, Any]


def load_records(path: Path) -> list[Record]:
    """The records of a file, none if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


def keep_record(path: Path, record: Record, keys: Sequence[str]) -> None:
    """Adds a record to a file; one that agrees in ``keys`` is replaced, so an interrupted run can go on."""
    others = [r for r in load_records(path) if any(r.get(k) != record[k] for k in keys)]
    lines = ",\n".join(json.dumps(r, sort_keys=True) for r in [*others, record])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def plain(value: Any) -> Any:
    """A value for JSON; NaN becomes none."""
    return None if isinstance(value, float) and math.isnan(value) else value


def tidy(text: str, indent: str = "") -> str:
    """A paragraph in lines of at most 120 characters."""
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def shown(value: float | None, error: float | None = None, digits: int = 3) -> str:
    """A number with its error; a dash where it does not apply."""
    if value is None or math.isnan(value):
        return "–"
    text = f"{value:.{digits}f}"
    return text if error is None or math.isnan(error) else f"{text} ± {error:.{digits}f}"


def markdown_table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *lines])


def best_of(
    records: Sequence[Record], metric: str, direction: Literal["up", "down", "near"], goal: float = 0.0
) -> Record | None:
    """The record with the largest, smallest or nearest-to-goal value; ``None`` if none has one.

    Records of methods that failed do not count.
    """
    known = [r for r in records if not r.get("failed") and r.get(metric) is not None and not math.isnan(r[metric])]
    if not known:
        return None
    costs: Mapping[str, Any] = {
        "up": lambda r: -r[metric],
        "down": lambda r: r[metric],
        "near": lambda r: abs(r[metric] - goal),
    }
    return min(known, key=costs[direction])


def losses(
    records: Sequence[Record],
    metric: str,
    direction: Literal["up", "down", "near"],
    goal: float = 0.0,
    digits: int = 3,
    label: str = "",
) -> str | None:
    """Where the best of other software is ahead of the best of ours in one metric, in words; ``None`` where it is not.

    Records say ``ours`` (a truth value) and ``method``.
    """
    ours = best_of([r for r in records if r["ours"]], metric, direction, goal)
    peer = best_of([r for r in records if not r["ours"]], metric, direction, goal)
    if ours is None or peer is None:
        return None
    if best_of([ours, peer], metric, direction, goal) is ours:
        return None
    return (
        f"{label or metric}: {peer['method']} {shown(peer[metric], digits=digits)}, "
        f"{ours['method']} {shown(ours[metric], digits=digits)}"
    )


def not_measured(wanted: Mapping[str, Sequence[str]], records: Sequence[Record], name: str) -> str:
    """Which wanted methods of each case have no record, as a paragraph; empty if all have.

    Args:
        wanted: Case to its methods.
        records: What was measured.
        name: Field of a record that holds its case.
    """
    done = {(r[name], r["method"]) for r in records}
    open_cases = {case: [m for m in methods if (case, m) not in done] for case, methods in wanted.items()}
    texts = [f"{case}: {', '.join(methods)}" for case, methods in open_cases.items() if methods]
    return tidy(f"Not measured yet: {'; '.join(texts)}.") if texts else ""


def page_text(template: str, records: Sequence[Record], **fields: str) -> str:
    """A page from its template; its first paragraph names the versions measured, so its lines are broken here."""
    versions = sorted({r["version"] for r in records} | {f"torch {torch.__version__.split('+')[0]}"})
    title, lead, rest = template.format(versions=", ".join(versions), **fields).split("\n\n", 2)
    return f"{title}\n\n{tidy(lead)}\n\n{rest}"
