"""Models compared across several tables: ranks, whether they differ, and by how much they must to be told apart."""

from __future__ import annotations

import itertools
import json
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import ComparisonError
from genzoo.reports.comparison import Comparison
from genzoo.reports.writing import write_texts

MOST_LISTED = 200_000
"""Work up to which Friedman's statistic is listed: 2 models on 316 tables, 3 on 32, 4 on 9, 5 on 4, 6 on 2."""


@dataclass(frozen=True, eq=False)
class Across:
    """Comparisons of the same models on several tables.

    Likelihoods of different tables have different units, so only ranks are averaged: on each table the models stand in
    the order of their guaranteed mean log-likelihood, ties share a rank, and models that failed or may not be ranked
    there share the last ranks.

    Args:
        comparisons: Name of the table to its comparison.
        links: Name of the table to the file of its report.
        level: Confidence of the tests.

    Raises:
        ComparisonError: fewer than two tables or two models.

    References:
        Demsar (2006), Statistical comparisons of classifiers over multiple data sets, JMLR 7; Friedman (1937);
        Iman and Davenport (1980).
    """

    comparisons: Mapping[str, Comparison]
    links: Mapping[str, str]
    level: float = 0.95

    def __post_init__(self) -> None:
        if len(self.comparisons) < 2:
            raise ComparisonError("ranks across tables need at least two tables")
        if len(self.models) < 2:
            raise ComparisonError("ranks across tables need at least two models")

    @cached_property
    def models(self) -> tuple[str, ...]:
        """Every model, in the order of the first table."""
        names = [r.name for c in self.comparisons.values() for r in c.results if not r.is_oracle]
        return tuple(dict.fromkeys(names))

    @cached_property
    def ranks(self) -> NDArray[np.float64]:
        """``(tables, models)``: 1 is the highest guaranteed likelihood."""
        from scipy.stats import rankdata

        return np.stack([rankdata(-self._values(c), method="average") for c in self.comparisons.values()])

    def _values(self, comparison: Comparison) -> NDArray[np.float64]:
        by_name = {r.name: r for r in comparison.results}
        out = np.full(len(self.models), -math.inf)
        for i, name in enumerate(self.models):
            result = by_name.get(name)
            if result is not None and result.likelihood is not None and result.withdrawn is None:
                out[i] = result.likelihood.mean()
        return out

    @property
    def mean_ranks(self) -> dict[str, float]:
        """Model to mean rank, best first."""
        means = dict(zip(self.models, self.ranks.mean(axis=0).tolist()))
        return dict(sorted(means.items(), key=lambda item: item[1]))

    @cached_property
    def p_equal(self) -> float:
        """Probability of ranks at least as unequal if all models were alike.

        Over all orders of the ranks of each table where these can be listed; else Iman and Davenport's F, which is far
        too small on a few tables and zero where all agree, so never less than the probability that all agree.
        """
        from scipy.stats import f

        n, k = self.ranks.shape
        if math.factorial(k) * n**k <= MOST_LISTED:
            return _listed_p(self.ranks)
        chi2 = 12 * n / (k * (k + 1)) * (float((self.ranks.mean(axis=0) ** 2).sum()) - k * (k + 1) ** 2 / 4)
        rest = n * (k - 1) - chi2
        agree = math.exp((1 - n) * math.lgamma(k + 1))
        return max(float(f.sf((n - 1) * chi2 / rest, k - 1, (k - 1) * (n - 1))), agree) if rest > 1e-12 else agree

    @cached_property
    def critical_difference(self) -> float:
        """Mean ranks that differ by less are not told apart (Nemenyi)."""
        from scipy.stats import studentized_range

        n, k = self.ranks.shape
        q = float(studentized_range.ppf(self.level, k, np.inf)) / math.sqrt(2)
        return q * math.sqrt(k * (k + 1) / (6 * n))

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """Largest sets of neighbouring models whose mean ranks lie within the critical difference."""
        names, means = list(self.mean_ranks), list(self.mean_ranks.values())
        found: list[tuple[int, int]] = []
        for i in range(len(names)):
            j = max(k for k in range(i, len(names)) if means[k] - means[i] <= self.critical_difference)
            if j > i and not any(a <= i and j <= b for a, b in found):
                found.append((i, j))
        return [tuple(names[i : j + 1]) for i, j in found]

    def wins(self, first: str, second: str) -> tuple[int, int, int]:
        """Tables where the first is better, where it is worse, and where the interval of the difference holds zero."""
        better = worse = open_ = 0
        for comparison in self.comparisons.values():
            try:
                pair = comparison.pair(first, second)
            except KeyError:
                continue
            if not pair.excludes_zero:
                open_ += 1
            elif pair.mean > 0:
                better += 1
            else:
                worse += 1
        return better, worse, open_

    def conclusions(self) -> list[str]:
        """What may be said, in sentences."""
        best = next(iter(self.mean_ranks))
        tied = next((group for group in self.groups if best in group), (best,))
        n, k = self.ranks.shape
        lines = [f"{best} has the best mean rank, {self.mean_ranks[best]:.2f} of {k} over {n} tables."]
        if self.p_equal > 1 - self.level:
            lines.append(f"The ranks do not show that the models differ (p = {self.p_equal:.2g}).")
        elif len(tied) > 1:
            others = ", ".join(name for name in tied if name != best)
            lines.append(
                f"The models differ (p = {self.p_equal:.2g}); the ranks do not tell {best} apart from {others} "
                f"(critical difference {self.critical_difference:.2f})."
            )
        else:
            lines.append(
                f"The models differ (p = {self.p_equal:.2g}), and {best} from all others by more than the critical "
                f"difference {self.critical_difference:.2f}."
            )
        kinds = {r.likelihood.kind for c in self.comparisons.values() for r in c.results if r.likelihood is not None}
        if kinds - {"exact"}:
            lines.append("Ranks are of guaranteed values: a model known by a bound may be better than its rank.")
        if n < 10:
            lines.append(f"{n} tables are few for ranks: a difference that is not shown may be there.")
        return lines

    def lines(self) -> list[list[str]]:
        """Model, mean rank, and on each table the likelihood with its error and rank; best first."""
        out = []
        for name, mean in self.mean_ranks.items():
            line = [name, f"{mean:.2f}"]
            for row, comparison in enumerate(self.comparisons.values()):
                result = next((r for r in comparison.results if r.name == name), None)
                if result is None or result.likelihood is None:
                    line.append("failed")
                else:
                    rank = self.ranks[row, self.models.index(name)]
                    line.append(f"{result.likelihood.label()}, rank {rank:g}")
            out.append(line)
        return out

    @property
    def head(self) -> list[str]:
        """Names of the columns of :meth:`lines`."""
        return ["Model", "Mean rank ↓", *self.comparisons]

    def markdown(self) -> str:
        """Conclusions and table."""
        rows = [self.head, ["---"] * len(self.head), *self.lines()]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        return "\n\n".join(["# Models across tables", *self.conclusions(), table]) + "\n"

    def csv(self) -> str:
        """One line a model and table: rank, mean, standard error and kind."""
        lines = ["model,table,rank,log_likelihood,se,kind"]
        for row, (table, comparison) in enumerate(self.comparisons.items()):
            for i, name in enumerate(self.models):
                found = next((r.likelihood for r in comparison.results if r.name == name), None)
                numbers = ("", "", "") if found is None else (repr(found.mean()), repr(found.se_total()), found.kind)
                cells = [_quoted(name), _quoted(table), f"{self.ranks[row, i]:g}", *numbers]
                lines.append(",".join(map(str, cells)))
        return "\n".join(lines) + "\n"

    def json(self) -> str:
        """Everything as JSON."""
        plain: dict[str, Any] = {
            "tables": list(self.comparisons),
            "models": list(self.models),
            "ranks": self.ranks.tolist(),
            "mean_ranks": self.mean_ranks,
            "p_equal": self.p_equal,
            "critical_difference": self.critical_difference,
            "groups": [list(group) for group in self.groups],
            "conclusions": self.conclusions(),
        }
        return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"

    def html(self) -> str:
        """One page with the diagram of ranks and links to the report of each table."""
        from genzoo.reports.across_html import render

        return render(self)

    def write(self, path: str | Path, overwrite: bool = False) -> list[Path]:
        """Writes ``.html`` (with ``.md`` and ``.csv`` beside it), ``.md``, ``.csv`` or ``.json``."""
        path = Path(path)
        makers = {".html": self.html, ".htm": self.html, ".md": self.markdown, ".csv": self.csv, ".json": self.json}
        end = path.suffix.lower()
        if end not in makers:
            raise ComparisonError(f"cannot write ranks across tables as '{path.name}'; use .html, .md, .csv or .json")
        places = [path] if end not in (".html", ".htm") else [path, path.with_suffix(".md"), path.with_suffix(".csv")]
        return write_texts({place: makers[place.suffix.lower()]() for place in places}, overwrite)

    def __str__(self) -> str:
        widths = [max(len(line[i]) for line in [self.head, *self.lines()]) for i in range(len(self.head))]
        rows = [
            "  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip() for line in [self.head, *self.lines()]
        ]
        return "\n".join([*rows, "", *self.conclusions()])


def _listed_p(ranks: NDArray[np.float64]) -> float:
    """Exact probability of rank sums at least as unequal, each table's ranks (ties as they are) in any order."""
    doubled = np.rint(2 * ranks).astype(np.int64)  # shared ranks are halves
    chances = {(0,) * doubled.shape[1]: 1.0}
    for row in doubled.tolist():
        orders = list(itertools.permutations(row))
        found: dict[tuple[int, ...], float] = {}
        for sums, chance in chances.items():
            for order in orders:
                # models are alike: only which sums there are counts, not whose
                key = tuple(sorted(map(operator.add, sums, order)))
                found[key] = found.get(key, 0.0) + chance / len(orders)
        chances = found
    observed = int((doubled.sum(axis=0) ** 2).sum())
    return min(1.0, sum(chance for sums, chance in chances.items() if sum(s * s for s in sums) >= observed))


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ',"\n') else text
