"""Models compared on the same held-out rows: the table, what follows from it, and the files that say so."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.errors import ComparisonError, DataError
from genzoo.likelihood.compare import Paired, compare_all, paired, require_comparable
from genzoo.likelihood.log_likelihood import LogLikelihood
from genzoo.reports import formats, tables, verdicts
from genzoo.reports.plots import Dot
from genzoo.reports.results import DiscretisedResult, ModelResult
from genzoo.reports.rows import GROUPS, Row, group_of, measured
from genzoo.reports.section_html import sections_markdown
from genzoo.reports.writing import write_texts
from genzoo.tables.schema import Schema

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["Comparison", "DiscretisedResult", "ModelResult"]

COUNTING = ("categorical", "binary", "quantized")
SHOWN_APART = ("table", "title", "splits", "split", "shared_rows", "versions", "warnings")


@dataclass(frozen=True, eq=False)
class Comparison:
    """Results of several models on the same rows of one table.

    Args:
        results: One per model; names differ. Failed models stay, with their error.
        schema: Schema of the table (the training view).
        data_frame: The test rows, for plots; ``None`` leaves them out.
        facts: What else is known. Known keys: ``table`` (name), ``title``, ``splits`` (name of a split or count to
            number of rows), ``split`` (how it was made), ``shared_rows`` (ids of test rows that equal a training row),
            ``versions`` (package to version), ``created``, ``command``, ``seed``, ``warnings`` (sentences). Others are
            listed under provenance.
        ordered: The rows are ordered in time, so intervals come from a block bootstrap.
        level: Confidence of the intervals.

    Raises:
        ComparisonError: no result, names that are not unique, or likelihoods that answer different questions.

    Example:
        >>> comparison = Comparison(results, schema)           # doctest: +SKIP
        >>> comparison.write("report.html")                    # doctest: +SKIP
    """

    results: Sequence[ModelResult]
    schema: Schema
    data_frame: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    ordered: bool = False
    level: float = 0.95

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", tuple(self.results))
        names = [result.name for result in self.results]
        if not names:
            raise ComparisonError("a comparison needs at least one model")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ComparisonError(f"two models are called '{twice[0]}'; give them different names")
        scored = list(self._likelihoods(lambda result: True).values())
        for other in scored[1:]:
            require_comparable(scored[0], other)

    # -------------------------------------------------------------------------------------------- numbers

    def _likelihoods(self, chosen: Callable[[ModelResult], bool]) -> dict[str, LogLikelihood]:
        return {
            r.name: replace(r.likelihood, model=r.name) for r in self.results if r.likelihood is not None and chosen(r)
        }

    @cached_property
    def pairs(self) -> dict[tuple[str, str], Paired]:
        """Every pair of models, Holm-corrected as one family; the oracle is not part of it."""
        return compare_all(self._likelihoods(lambda r: not r.is_oracle), level=self.level, ordered=self.ordered)

    def pair(self, first: str, second: str) -> Paired:
        """First minus second. A pair with the oracle is outside the family and not corrected."""
        if (first, second) in self.pairs:
            return self.pairs[first, second]
        if (second, first) in self.pairs:
            return self.pairs[second, first].reversed()
        if (first, second) not in self._oracle_pairs:
            both = self._likelihoods(lambda r: r.name in (first, second))
            found = paired(both[first], both[second], level=self.level, ordered=self.ordered)
            self._oracle_pairs[first, second] = found
        return self._oracle_pairs[first, second]

    @cached_property
    def _oracle_pairs(self) -> dict[tuple[str, str], Paired]:
        return {}

    @cached_property
    def ranked(self) -> tuple[str, ...]:
        """Names of the ranked models, highest guaranteed value first."""
        return verdicts.rank([r for r in self.results if group_of(r) == "ranked"])

    @property
    def reference(self) -> str | None:
        """The first of the ranking, to which differences refer."""
        return self.ranked[0] if self.ranked else None

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """The main table: oracle, ranked models in order, others by value, failed ones."""
        shared = None
        if any(c.kind in ("continuous", "mixed") for c in self.schema.scored):
            shared = self.facts.get("shared_rows")
        cells = _cells_of_one_measure(self.schema, self.data_frame)
        rows = [self._row(result, cells, shared) for result in self.results]
        order = {group: i for i, group in enumerate(GROUPS)}
        return tuple(sorted(rows, key=lambda r: (order[r.group], r.rank or 0, -(r.mean or 0.0))))

    def _row(self, result: ModelResult, cells: float | None, shared: Sequence[int] | None) -> Row:
        plain = measured(result, cells, shared)
        group = group_of(result)
        if group == "ranked":
            plain["rank"] = self.ranked.index(result.name) + 1
        if self.reference is not None and group != "failed" and result.name != self.reference:
            pair = self.pair(result.name, self.reference)
            known = not math.isnan(pair.mean)
            plain |= {
                "difference": pair.mean if known else None,
                "difference_low": pair.low if known else None,
                "difference_high": pair.high if known else None,
                "p_value": pair.p_value if pair.p_holm is None else pair.p_holm,
                "verdict": verdicts.short_verdict(pair, self.reference, group),
            }
        return Row(name=result.name, group=group, **plain)

    @property
    def in_order(self) -> tuple[ModelResult, ...]:
        """The results in the order of the table."""
        by_name = {result.name: result for result in self.results}
        return tuple(by_name[row.name] for row in self.rows)

    @property
    def num_rows(self) -> int:
        """Test rows scored."""
        likelihoods = self._likelihoods(lambda r: True)
        return max((len(one) for one in likelihoods.values()), default=0)

    @property
    def num_effective(self) -> float | None:
        """How many rows of equal weight the test rows are worth; ``None`` without weights."""
        found = next((r.likelihood for r in self.results if r.likelihood is not None), None)
        return None if found is None or found.weights is None else found.num_effective

    def table(self) -> list[dict[str, Any]]:
        """The main table as plain values, a dictionary a model (see :class:`~genzoo.reports.rows.Row`)."""
        return [row.to_dict() for row in self.rows]

    # -------------------------------------------------------------------------------------------- words

    @property
    def table_name(self) -> str:
        """Name of the data."""
        return str(self.facts.get("table") or self.schema.source)

    @property
    def title(self) -> str:
        """Title of the report."""
        return str(self.facts.get("title") or f"Which model describes {self.table_name} best?")

    def conclusions(self) -> list[str]:
        """What follows from the numbers, the headline first; nothing that their kinds do not support."""
        return list(self._conclusions)

    @cached_property
    def _conclusions(self) -> tuple[str, ...]:
        return tuple(verdicts.conclusions(self))

    def warnings(self) -> list[str]:
        """What a reader must know before trusting the table."""
        return verdicts.warnings(self) + [str(w) for w in self.facts.get("warnings", ())]

    def caption(self) -> str:
        """One sentence under the main table."""
        return tables.caption_of(self.num_rows, self.table_name, self.num_effective is not None)

    def split_facts(self) -> list[tuple[str, str]]:
        """Counts and words about the table and its split."""
        facts = [("Table", self.table_name)]
        if self.schema.num_rows:
            facts.append(("Rows in the table", formats.count(self.schema.num_rows)))
        for name, number in self.facts.get("splits", {}).items():
            words = formats.count(number) if isinstance(number, (int, float)) else str(number)
            facts.append((str(name).replace("_", " ").capitalize(), words))
        facts.append(("Rows scored", formats.count(self.num_rows)))
        if self.num_effective is not None:
            column = self.schema.weight
            named = f"column {column.name}, " if column is not None else ""
            facts.append(
                ("Row weights", f"{named}worth {formats.count(round(self.num_effective))} rows of equal weight")
            )
        facts.append(("Columns scored", str(len(self.schema.scored))))
        if self.schema.context:
            facts.append(("Context columns", ", ".join(c.name for c in self.schema.context)))
        shared = self.facts.get("shared_rows")
        if shared is not None:
            facts.append(("Test rows also in training", formats.count(len(shared))))
        if self.facts.get("split"):
            facts.append(("Split", str(self.facts["split"])))
        if self.ordered:
            facts.append(("Order", "in time; intervals by block bootstrap"))
        return facts

    def shared_sentence(self) -> str:
        """What rows shared by training and test do to the first of the ranking, where a column has a density."""
        shared = self.facts.get("shared_rows")
        first = next((row for row in self.rows if row.rank == 1), None)
        if not shared or first is None or first.without_shared is None:
            return ""
        share = 100 * len(shared) / max(self.num_rows, 1)
        return (
            f"Also among the training rows: {formats.count(len(shared))} of the test rows ({share:.1f} %). "
            f"With all rows {first.name} has {formats.number(first.mean)} nats per row, without these "
            f"{formats.number(first.without_shared)}; the other models are under Parts and errors."
        )

    def provenance(self) -> list[tuple[str, Any]]:
        """Versions, seeds and fingerprints."""
        versions = self.facts.get("versions", {})
        lines: list[tuple[str, Any]] = [("Versions", versions)] if versions else []
        lines += [(k.replace("_", " ").capitalize(), v) for k, v in self.facts.items() if k not in SHOWN_APART]
        if self.schema.fingerprint:
            lines.append(("Fingerprint of the table", self.schema.fingerprint))
        lines.append(("Measure of the schema", self.schema.measure))
        method = next((p.method for p in self.pairs.values()), None)
        names = {"t": "Student t", "bca": "BCa bootstrap", "block": "circular block bootstrap"}
        if method:
            name = names.get(method, method)
            lines.append(("Intervals", f"{100 * self.level:g} %, paired, {name}; Holm over all pairs"))
        return lines

    def dots(self) -> list[Dot]:
        """What the figure of differences shows."""
        if self.reference is None:
            return []
        kinds = {r.name: r.likelihood.kind for r in self.results if r.likelihood is not None}
        dots = []
        for row in self.rows:
            if row.group == "failed":
                continue
            value = 0.0 if row.name == self.reference else row.difference
            if value is None:
                continue
            low = row.difference_low if row.difference_low is not None else value
            high = row.difference_high if row.difference_high is not None else value
            words = "first in rank" if row.rank == 1 else formats.signed(value, formats.digits_of((high - low) / 4))
            mark = "oracle" if row.group == "oracle" else kinds[row.name]
            dots.append(Dot(row.name, value, low, high, mark, row.group == "ranked", words))
        return dots

    # -------------------------------------------------------------------------------------------- files

    def to_html(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the report as one file that works offline."""
        return self._write_one(path, self.html(), overwrite)

    def to_markdown(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes conclusions and main table as Markdown."""
        return self._write_one(path, self.markdown(), overwrite)

    def to_csv(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the main table with every number, unrounded."""
        return self._write_one(path, tables.csv_text(self.rows), overwrite)

    def to_latex(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the main table for LaTeX with booktabs."""
        return self._write_one(path, tables.latex(self.rows, self.caption()), overwrite)

    def to_json(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes table, pairs, conclusions, schema and facts as JSON."""
        return self._write_one(path, self.json(), overwrite)

    def write(self, path: str | Path, overwrite: bool = False) -> list[Path]:
        """Writes the form that the suffix names (.html, .md, .csv, .tex, .json).

        Beside an HTML file stand the main table as .md, .csv and .tex of the same name.

        Returns:
            The files written.

        Raises:
            DataError: the suffix is unknown, a file exists, or the folder cannot be written to.
        """
        path = Path(path).expanduser()
        forms: dict[str, Callable[[], str]] = {
            ".html": self.html,
            ".md": self.markdown,
            ".csv": lambda: tables.csv_text(self.rows),
            ".tex": lambda: tables.latex(self.rows, self.caption()),
            ".json": self.json,
        }
        suffix = {".htm": ".html"}.get(path.suffix.lower(), path.suffix.lower())
        if suffix not in forms:
            raise DataError(f"cannot write a report as '{path.name}'; end its name with one of {', '.join(forms)}")
        ends = [suffix, ".md", ".csv", ".tex"] if suffix == ".html" else [suffix]
        texts: dict[Any, str] = {path if end == suffix else path.with_suffix(end): forms[end]() for end in ends}
        return write_texts(texts, overwrite)

    def _write_one(self, path: str | Path, content: str, overwrite: bool) -> Path:
        return write_texts({path: content}, overwrite)[0]

    def html(self) -> str:
        """The report as HTML."""
        from genzoo.reports.html import render

        return render(self)

    def markdown(self) -> str:
        """Title, conclusions, warnings and main table as Markdown."""
        parts = [f"# {self.title}", *self.conclusions(), *(f"> {w}" for w in self.warnings())]
        return "\n\n".join([*parts, tables.markdown(self.rows, self.caption()), *sections_markdown(self)])

    def json(self) -> str:
        """Everything but rows and samples, as JSON; infinities are the words ``inf`` and ``-inf``."""
        plain = {
            "title": self.title,
            "conclusions": self.conclusions(),
            "warnings": self.warnings(),
            "models": [row | self._beside(row["name"]) for row in self.table()],
            "pairs": [pair.to_dict() for pair in self.pairs.values()],
            "schema": self.schema.to_dict(),
            "facts": dict(self.facts),
        }
        return json.dumps(_plain(plain), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _beside(self, name: str) -> dict[str, Any]:
        result = next(r for r in self.results if r.name == name)
        own = result.likelihood.settings if result.likelihood is not None else {}
        return {"settings": {**own, **result.settings}, "sections": [s.to_dict() for s in result.sections]}

    # -------------------------------------------------------------------------------------------- terminal

    def __str__(self) -> str:
        lines = [tables.plain_text(self.rows), "", *self.conclusions(), *(f"Note: {w}" for w in self.warnings())]
        return "\n".join(lines)

    def print_rich(self, console: Console | None = None) -> None:
        """Prints table and conclusions with colours."""
        from rich.console import Console as RichConsole
        from rich.text import Text

        out = console or RichConsole()
        for line, style in tables.terminal_lines(self.rows, out.width):
            out.print(Text(line, style=style))
        headline, *more = self.conclusions()
        out.print()
        out.print(Text(headline, style="bold"))
        for sentence in more:
            out.print(Text(sentence))
        for warning in self.warnings():
            out.print(Text(f"Note: {warning}", style="yellow"))


def _cells_of_one_measure(schema: Schema, frame: Any) -> float | None:
    """Mean number of observed scored cells a row where all share one measure, else ``None``.

    Counting measure is one for all columns that have it; densities share a measure only in the same declared unit.
    """
    scored = schema.scored
    counting = all(c.kind in COUNTING for c in scored)
    units = {c.unit for c in scored}
    lebesgue = all(c.kind == "continuous" for c in scored) and len(units) == 1 and None not in units
    if not scored or not (counting or lebesgue):
        return None
    cells = float(sum(c.width for c in scored))
    if frame is not None:
        from genzoo.evaluation.marginals import missing_share
        from genzoo.tables.frames import to_arrow

        table = to_arrow(frame)
        holes = [c for c in scored if c.shape == () and c.missing == "hole" and c.name in table.column_names]
        cells -= sum(missing_share(table, c, schema.missing_tokens) for c in holes)
    return cells or None


def _plain(value: Any) -> Any:
    """Values that JSON knows."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy numbers and arrays
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, (str, int, bool)) else str(value)
