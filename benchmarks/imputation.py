"""Hidden cells of held-out rows filled in by GenZoo's models and by other software, and the page of results.

    python benchmarks/imputation.py DATA --tables adult shoppers yeast --complete --train_rows 0 --rows 300 --draws 100
    python benchmarks/imputation.py DATA --tables adult shoppers default_credit beijing yeast --shares 0.2 0.4
    python benchmarks/imputation.py --page docs/results/imputation.md

DATA holds a folder a table (``real_tables.py``). Cells are hidden completely at random, the same for every method. By
default the training rows have as many holes as the rows to fill, since other imputers learn from holes alone; with
``--complete`` they keep their cells. Each result is kept in ``--results`` at once and a result already there is not
computed again; ``--page`` writes the page from it. A method whose package is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from imputers import IMPUTERS, PACKAGES
from real_tables import TABLES, learned_from, open_table
from result_page import (
    Record,
    keep_record,
    load_records,
    losses,
    markdown_table,
    not_measured,
    page_text,
    plain,
    shown,
    tidy,
)

from genzoo.datamodules.table import Table
from genzoo.evaluation.imputation import ImputationScores, score_imputation
from genzoo.evaluation.masks import Hidden, hide_cells
from genzoo.models.catalogue import model_class
from genzoo.models.drawing import impute_data
from genzoo.models.training import quiet, train
from genzoo.tables.encode import TableData, decode_table

RESULTS = Path("docs/results/imputation.json")
OURS = ("radd", "forest_autoregressive", "forest_flow", "gaussian")
METHODS = {
    True: ("radd", "gaussian", "mode and median"),
    False: ("radd", "forest_autoregressive", "forest_flow", *IMPUTERS),
}
"""What is measured unless told otherwise, with complete training rows and with holes."""
MINUTES = 2
"""Longest training of a forest that undoes noise."""
VISITS = {True: 200_000, False: 40_000}
"""Rows that RADD trains on, counted once an epoch, with complete training rows and with holes."""
KEYS = ("table", "share", "complete", "method")
RESAMPLES = 25
"""Bootstrap samples of the held-out rows, for the standard errors."""


@dataclass(frozen=True)
class Case:
    """Rows to learn from and rows to fill.

    Args:
        module: The training rows and their split into training and validation, for our models.
        training: The same rows, all of them, for other imputers.
        truth: Held-out rows.
        hidden: The same with cells hidden.
    """

    module: Table
    training: TableData
    truth: TableData
    hidden: Hidden


def some_rows(data: TableData, most: int, rng: np.random.Generator) -> TableData:
    """At most ``most`` rows in their order; all for 0."""
    if not most or most >= len(data):
        return data
    return data.select(np.sort(rng.choice(len(data), most, replace=False)))


def make_case(table: Table, share: float, complete: bool, train_rows: int, rows: int, seed: int) -> Case:
    """Chooses rows, hides cells of the held-out ones and, unless ``complete``, of the training rows too."""
    rng = np.random.default_rng([seed, 0x696D])
    table.setup("fit")
    test = some_rows(table.data("test"), rows, rng)
    if complete and not train_rows:
        module = table
    else:
        known = some_rows(table.data("train"), train_rows, rng)
        seen = known if complete else hide_cells(known, share, "mcar", seed + 1).data
        module = Table(frame=decode_table(seen), schema=table.schema_dict, val=0.1, test=0.0, seed=seed)
        module.setup("fit")
    training = learned_from(module)
    truth = test.with_schema(module.schema)
    return Case(module, training, truth, hide_cells(truth, share, "mcar", seed))


def fit_ours(name: str, case: Case, visits: int, seed: int, arguments: dict[str, Any]) -> Any:
    """One of our models, at its defaults but for ``arguments`` and the length of training: ``visits`` rows for RADD."""
    schema = case.module.schema_dict
    if name != "radd":
        limit = {"max_time": {"minutes": MINUTES}} if name == "forest_flow" else {}
        return train(
            model_class(name)(schema=schema, seed=seed, **arguments), case.module, None, progress=False, **limit
        )
    epochs = int(np.clip(visits / len(case.module.data("train")), 1, 200))
    model = model_class("radd")(schema=schema, schedule="cosine", patience=0, draws=4, seed=seed, **arguments)
    every = max(1, epochs // 10)
    return train(model, case.module, None, progress=False, max_epochs=epochs, check_val_every_n_epoch=every)


def measure(
    name: str, case: Case, draws: int, visits: int, seed: int, arguments: dict[str, Any]
) -> tuple[list[TableData], float, float, str]:
    """Completions, CPU seconds of training (ours), of the whole, and why other software failed, if it did."""
    started = time.process_time()
    if name in IMPUTERS:
        found, reason = [], ""
        try:
            found = IMPUTERS[name](case.training, case.hidden.data, draws, seed)
        except Exception as error:  # a row of the table, whatever it was
            reason = f"{type(error).__name__}: {error}"
        return found, float("nan"), time.process_time() - started, reason
    model = fit_ours(name, case, visits, seed, arguments)
    fitted = time.process_time() - started
    return impute_data(model, case.hidden.data, draws, seed), fitted, time.process_time() - started, ""


SCORES = ("accuracy", "mae", "rmse", "crps", "log_score")


def numbers_of(scores: ImputationScores) -> dict[str, float]:
    """Means over columns, and coverage over cells."""
    share, cells = scores.coverage()
    return {name: scores.mean(name) for name in SCORES} | {"coverage": share, "numbers": cells}


def scored(case: Case, completions: Sequence[TableData], seed: int) -> dict[str, float]:
    """Every score with its standard error over held-out rows, by the bootstrap."""
    found = numbers_of(score_imputation(case.truth, case.hidden, completions, case.training, seed))
    rng = np.random.default_rng([seed, 0x6273])
    again = []
    for _ in range(RESAMPLES):
        rows = rng.integers(0, len(case.truth), len(case.truth))
        part = Hidden(case.hidden.data.select(rows), case.hidden.numeric[rows], case.hidden.codes[rows])
        chosen = [filled.select(rows) for filled in completions]
        again.append(numbers_of(score_imputation(case.truth.select(rows), part, chosen, case.training, seed)))
    errors = {f"{name}_se": float(np.std([a[name] for a in again], ddof=1)) for name in (*SCORES, "coverage")}
    if len(completions) == 1:  # one completion is a point: its CRPS is its absolute error, its frequencies are 0 and 1
        found["log_score"] = errors["log_score_se"] = float("nan")
    return found | errors


def version_of(name: str) -> str:
    """The package behind a method with its version."""
    package = PACKAGES.get(name) or ("scikit-learn" if "Imputer" in name else "genzoo")
    return f"{package} {importlib.metadata.version(package)}"


def run(given: argparse.Namespace) -> None:
    """Every table, share and method that is not in the results yet."""
    done = {tuple(r[k] for k in KEYS) for r in load_records(given.results)}
    for name in given.tables:
        for share in given.shares:
            wanted = [m for m in given.methods if (name, share, given.complete, m) not in done]
            wanted = [m for m in wanted if m not in PACKAGES or find_spec(PACKAGES[m])]
            if not wanted:
                continue
            table = open_table(given.data, name, given.seed)
            case = make_case(table, share, given.complete, given.train_rows, given.rows, given.seed)
            for method in wanted:
                if method == "miceforest, fast" and not failed(given, name, share):
                    continue
                found, fitted, whole, reason = measure(
                    method, case, given.draws, given.visits, given.seed, given.arguments
                )
                numbers = {"failed": reason} if reason else scored(case, found, given.seed)
                record: Record = {
                    "table": name, "share": share, "complete": given.complete, "method": method,
                    "ours": method not in IMPUTERS, "version": version_of(method), "seed": given.seed,
                    "training_rows": len(case.training), "rows": len(case.truth), "draws": len(found),
                    "columns": [len(case.truth.schema.numeric), len(case.truth.schema.categorical)],
                    "fit_seconds": fitted, "seconds": whole, "visits": given.visits,
                }  # fmt: skip
                record |= numbers
                keep_record(given.results, {k: plain(v) for k, v in record.items()}, KEYS)
                print(" | ".join([name, f"{share:.0%}", *line_of(record)]), flush=True)


def failed(given: argparse.Namespace, name: str, share: float) -> bool:
    """Whether miceforest as it comes was tried on this table and failed."""
    key = name, share, given.complete, "miceforest"
    return any(r.get("failed") for r in load_records(given.results) if tuple(r[k] for k in KEYS) == key)


# ---- the page -----------------------------------------------------------------------------------------------------

HEAD = ("method", "accuracy ↑", "MAE ↓", "RMSE ↓", "CRPS ↓", "log score ↑", "coverage of 90 %", "draws", "CPU s")


def line_of(record: Record) -> tuple[str, ...]:
    """One line of a table."""
    cells = [shown(record.get(name), record.get(f"{name}_se")) for name in SCORES]
    name = f"**{record['method']}**" if record["ours"] else record["method"]
    if record.get("failed"):
        name += f" (failed: {record['failed']})"
    return name, *cells, shown(record.get("coverage")), str(record["draws"]), f"{record['seconds']:.0f}"


def tables_of(records: Sequence[Record]) -> str:
    """A heading and a table for each table and share, in the order they were measured."""
    parts = []
    for name in TABLES:
        for share in sorted({r["share"] for r in records}):
            chosen = [r for r in records if r["table"] == name and r["share"] == share]
            if not chosen:
                continue
            one = chosen[0]
            chosen.sort(key=lambda r: (not r["ours"], [*OURS, *IMPUTERS].index(r["method"])))
            cells = next((r["numbers"] for r in chosen if r["draws"] >= 10 and "numbers" in r), 0)
            about = (
                f"{one['columns'][0]} number and {one['columns'][1]} category columns, {one['training_rows']:,} "
                f"training rows, {one['rows']} rows filled, {cells} hidden numbers judged for coverage, "
                f"seed {one['seed']}."
            )
            lines = markdown_table(HEAD, map(line_of, chosen))
            parts.append(f"### {name}, {share:.0%} hidden\n\n{tidy(about)}\n\n{lines}")
    return "\n\n".join(parts)


def verdicts(records: Sequence[Record]) -> str:
    """Whether RADD beats both baselines on each table, and whether its intervals cover as they should."""
    lines = []
    for name in TABLES:
        known = {r["method"]: r for r in records if r["table"] == name}
        if not {"radd", "gaussian", "mode and median"} <= set(known):
            continue
        radd, plain = known["radd"], [known["gaussian"], known["mode and median"]]
        better = {
            "accuracy": all(radd["accuracy"] > r["accuracy"] for r in plain),
            "MAE": all(radd["mae"] < r["mae"] for r in plain),
            "CRPS": all(radd["crps"] < r["crps"] for r in plain),
        }
        ahead = [key for key, flag in better.items() if flag]
        behind = [key for key, flag in better.items() if not flag]
        inside = 0.85 <= radd["coverage"] <= 0.95
        lines.append(
            f"- {name}: RADD is ahead of both in {', '.join(ahead) or 'nothing'}"
            + (f", not in {', '.join(behind)}" if behind else "")
            + f"; coverage {radd['coverage']:.3f}, {'inside' if inside else 'outside'} 0.85 to 0.95."
        )
    return "\n".join(lines)


def where_we_lose(records: Sequence[Record]) -> str:
    """For each table and share the scores in which the best of other software is ahead of our best."""
    lines = []
    for name in TABLES:
        for share in sorted({r["share"] for r in records}):
            chosen = [r for r in records if r["table"] == name and r["share"] == share]
            found = [
                losses(chosen, "accuracy", "up", label="accuracy"),
                losses(chosen, "mae", "down", label="MAE"),
                losses(chosen, "rmse", "down", label="RMSE"),
                losses(chosen, "crps", "down", label="CRPS"),
                losses(chosen, "log_score", "up", label="log score"),
                losses(chosen, "coverage", "near", 0.9, label="coverage"),
            ]
            texts = [text for text in found if text]
            if chosen:
                lines.append(f"- {name}, {share:.0%}: {'; '.join(texts) if texts else 'in none of these scores'}.")
    for method in OURS:
        ours, near = ([r["seconds"] for r in records if r["method"] == name] for name in (method, "KNNImputer"))
        if ours and near:
            lines.append(
                f"- Time: `{method}` takes {min(ours):.0f} to {max(ours):.0f} CPU seconds a table, KNNImputer "
                f"{min(near):.1f} to {max(near):.1f}."
            )
    return "\n".join(tidy(line, "  ") for line in lines)


PAGE = """# Filling in hidden cells

After this page you know how well GenZoo's models fill in cells beside the imputers of scikit-learn and miceforest,
and where they are behind. It is written by `benchmarks/imputation.py` from the numbers in
`docs/results/imputation.json`; measured on one thread of 2 shared CPU cores (x86-64), November 2026, with {versions}.

Cells are hidden completely at random, the same cells for every method, and only hidden cells of held-out rows are
judged. **Accuracy**: share of categories that the most frequent draw names. **MAE** of the median of the draws,
**RMSE** of their mean, **CRPS** of the draws (of a single completion it is the absolute error), each column in its
standard deviations on the training rows. **Log score**: mean log-probability of the right category under the
frequencies of the draws. All are means over columns, ± a standard error by {resamples} bootstrap samples of the
held-out rows. **Coverage**: share of hidden numbers inside the central 90 % of the draws, ties at random; only for
ten draws or more. Names in bold are GenZoo's. CPU seconds are of training and filling together.

## Trained on complete rows

RADD against one Gaussian and mode and median: 100 draws, so that the 5 % and 95 % quantiles exist. RADD trains on
{visits_complete} rows in all (cosine schedule, otherwise its defaults).

{complete}

{verdicts}

## Side by side, learned from rows with holes

The training rows have as many holes as the rows to fill, because IterativeImputer and miceforest learn from columns
with holes alone. Training rows are a random sample of the table's, the same for all. Our models are at their
defaults{radd}; `forest_flow` trains for at most two minutes, on the tables with 100 draws alone. The others as they
come: `KNNImputer` (five neighbours) and `IterativeImputer` (Bayesian ridge, ten rounds) on standardised numbers and
indicators, the largest indicator of a filled block being the category (regressions do without that of the most frequent
category, since whole blocks predict themselves); `IterativeImputer, draws` is the same with `sample_posterior=True`;
`miceforest` with one data set, three iterations and mean matching of five candidates, each draw filling the rows anew;
where its search for neighbours in log-odds of categories stops with an error, `miceforest, fast` draws them from the
predicted probabilities. Numbers are put on their column's grid.

{holes}

{open_cases}

## Where GenZoo loses

The best of the other imputers against the best of GenZoo's models, wherever theirs is better (the differences are not
tested; the standard errors are in the tables):

{losses}
"""


def open_cases(records: Sequence[Record]) -> str:
    """What is still to be measured of the side by side."""
    cases = [r | {"case": f"{r['table']} {r['share']:.0%}"} for r in records]
    failed = {r["case"] for r in cases if r["method"] == "miceforest" and r.get("failed")}
    wanted = {
        case: [m for m in METHODS[False] if m != "miceforest, fast" or case in failed]
        for case in (f"{name} {share:.0%}" for share in (0.2, 0.4) for name in TABLES)
    }
    return not_measured(wanted, cases, "case")


def visits_of(records: Sequence[Record]) -> str:
    """How many rows RADD trained on."""
    return " or ".join(f"{n:,}" for n in sorted({r["visits"] for r in records if r["method"] == "radd"}))


def write_page(path: Path, records: Sequence[Record]) -> None:
    """The page of all records."""
    complete, holes = ([r for r in records if r["complete"] is flag] for flag in (True, False))
    text = page_text(
        PAGE, records, resamples=RESAMPLES, complete=tables_of(complete), verdicts=verdicts(complete),
        holes=tables_of(holes),
        open_cases=open_cases(holes), losses=where_we_lose(holes), visits_complete=visits_of(complete),
        radd=f", but for the length of RADD's training ({visits_of(holes)} rows in all)" if visits_of(holes) else "",
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures what is asked for, then writes the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("data"))
    parser.add_argument("--tables", nargs="*", default=[], choices=list(TABLES))
    parser.add_argument("--methods", nargs="*", default=None, choices=[*OURS, *IMPUTERS])
    parser.add_argument("--shares", nargs="*", type=float, default=[0.2])
    parser.add_argument("--complete", action="store_true", help="training rows keep their cells")
    parser.add_argument("--train_rows", type=int, default=1000, help="training rows, a random sample; 0 for all")
    parser.add_argument("--rows", type=int, default=300, help="held-out rows to judge on")
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--visits", type=int, default=0, help="rows RADD trains on, counted once an epoch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arguments", type=json.loads, default={}, help="JSON: arguments of our models")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.methods = given.methods or METHODS[given.complete]
    given.visits = given.visits or VISITS[given.complete]
    torch.set_num_threads(1)
    quiet()
    warnings.filterwarnings("ignore")
    run(given)
    if given.page:
        write_page(given.page, load_records(given.results))


if __name__ == "__main__":
    main()
