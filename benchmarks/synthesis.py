"""Synthetic rows by GenZoo's models and by other software, judged by the same measures, and the page of results.

    python benchmarks/synthesis.py DATA --tables beijing default_credit shoppers
    python benchmarks/synthesis.py --page docs/results/synthesis.md

DATA holds a folder a table (``real_tables.py``). All learn from the same random training rows, draw as many rows, and
are judged by ``genzoo.evaluation`` against the same held-out rows. Each result is kept in ``--results`` at once and a
result already there is not computed again; ``--page`` writes the page from it. A method whose package is not
installed is left out.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
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
from synthesisers import PACKAGES, SYNTHESISERS, encoded, version_of

from genzoo.datamodules.table import Table
from genzoo.evaluation.fidelity import evaluate_fidelity
from genzoo.evaluation.privacy import evaluate_privacy
from genzoo.evaluation.usefulness import evaluate_usefulness
from genzoo.models.catalogue import model_class
from genzoo.models.training import quiet, train
from genzoo.tables.encode import TableData, decode_table

RESULTS = Path("docs/results/synthesis.json")
KEYS = ("table", "method")
REAL = "other training rows"
OURS: dict[str, dict[str, Any]] = {
    "forest_autoregressive": {},
    "forest_flow": {},
    "radd": {"schedule": "cosine", "patience": 0, "draws": 4},
}
"""Our models and what differs from their defaults."""
LIMITS: dict[str, dict[str, Any]] = {"radd": {"max_epochs": 30}, "forest_flow": {"max_time": {"minutes": 2}}}
SETTINGS = {"max_epochs": "{} epochs", "max_time": "at most {0[minutes]} minutes of training"}
"""Limits of the Trainer in words."""
MEASURES = {
    "column distance": "down", "Wasserstein": "down", "pair difference": "down", "two-sample AUC (trees)": "down",
    "alpha-precision": "up", "beta-recall": "up", "score on samples": "up", "closer to training": "near",
    "copies": "down",
}  # fmt: skip
GOALS = {"closer to training": 0.5}


@dataclass(frozen=True)
class Case:
    """Rows to learn from, as many others that nobody learns from, and held-out rows.

    Args:
        module: The training rows with their split into training and validation, for our models.
        training: The same rows, all of them, for other synthesisers and for the measures.
        others: Other training rows, which stand for a perfect synthesiser.
        test: Held-out rows.
    """

    module: Table
    training: TableData
    others: TableData
    test: TableData


def make_case(table: Table, num: int, rows: int, seed: int) -> Case:
    """Draws ``num`` training rows and as many others, and at most ``rows`` held-out rows."""
    rng = np.random.default_rng([seed, 0x7379])
    table.setup("fit")
    whole, test = table.data("train"), table.data("test")
    num = min(num, len(whole) // 2)
    order = rng.permutation(len(whole))
    chosen, others = (whole.select(np.sort(order[part])) for part in (slice(num), slice(num, 2 * num)))
    module = Table(frame=decode_table(chosen), schema=table.schema_dict, val=0.1, test=0.0, seed=seed)
    module.setup("fit")
    training = learned_from(module)
    test = test.select(np.sort(rng.permutation(len(test))[:rows]))
    return Case(module, training, others.with_schema(module.schema), test.with_schema(module.schema))


def draw(name: str, case: Case, seed: int, limit: float) -> tuple[TableData, str]:
    """As many rows as there are training rows, and how the method was set."""
    num = len(case.training)
    if name == REAL:
        return case.others, "rows of the table that no method learns from"
    if name in SYNTHESISERS:
        return SYNTHESISERS[name](case.training, num, seed, limit)
    model = model_class(name)(schema=case.module.schema_dict, seed=seed, **OURS[name])
    options = dict(LIMITS.get(name, {}))
    setting = ", ".join(SETTINGS[option].format(value) for option, value in options.items()) or "as it comes"
    if name == "radd":
        options["check_val_every_n_epoch"] = 5
    model = train(model, case.module, None, progress=False, **options)
    return encoded(model.sample(num, seed=seed), case.training), setting


def judged(drawn: TableData, case: Case, target: str, seed: int) -> dict[str, float]:
    """Every measure of the page."""
    sections = [
        evaluate_fidelity(drawn, case.test, seed=seed),
        evaluate_usefulness(drawn, case.training, case.test, targets=[target], seed=seed),
        evaluate_privacy(drawn, case.training, case.test, seed=seed),
    ]
    found = {m.name: m for section in sections for m in section.metrics}
    out = {name: found[name].value for name in [*MEASURES, "score on real rows", "copies by chance"] if name in found}
    for name in ("two-sample AUC (trees)", "closer to training"):
        metric = found.get(name)
        if metric is not None and metric.high is not None and metric.low is not None:
            out[f"{name}_se"] = (metric.high - metric.low) / (2 * 1.96)
    for grid in sections[1].grids:
        out["measure"] = grid.lines[0][1]  # type: ignore[assignment]
    return out


def run(given: argparse.Namespace) -> None:
    """Every table and method that is not in the results yet."""
    done = {tuple(r[k] for k in KEYS) for r in load_records(given.results)}
    for name in given.tables:
        wanted = [m for m in given.methods if (name, m) not in done and (m not in PACKAGES or find_spec(PACKAGES[m]))]
        if not wanted:
            continue
        case = make_case(open_table(given.data, name, given.seed), given.train_rows, given.rows, given.seed)
        for method in wanted:
            record: Record = {
                "table": name, "method": method, "ours": method in OURS, "version": version_of(method),
                "seed": given.seed, "training_rows": len(case.training), "rows": len(case.test), "limit": given.limit,
                "columns": [len(case.test.schema.numeric), len(case.test.schema.categorical)],
            }  # fmt: skip
            started = time.process_time()
            try:
                drawn, record["setting"] = draw(method, case, given.seed, given.limit)
            except Exception as error:  # a row of the table, whatever it was
                if method in OURS:
                    raise
                record["failed"] = str(error) or type(error).__name__
                drawn = None
            record["seconds"] = time.process_time() - started
            if drawn is not None:
                record |= judged(drawn, case, TABLES[name].target, given.seed)
            keep_record(given.results, {k: plain(v) for k, v in record.items()}, KEYS)
            print(" | ".join([name, *line_of(record)]), flush=True)


# ---- the page -----------------------------------------------------------------------------------------------------

HEAD = (
    "method", "columns ↓", "Wasserstein ↓", "pairs ↓", "AUC ↓", "precision ↑", "recall ↑", "target ↑",
    "closer to training → 0.5", "copies ↓", "CPU s",
)  # fmt: skip


def line_of(record: Record) -> tuple[str, ...]:
    """One line of a table."""
    name = f"**{record['method']}**" if record["ours"] else record["method"]
    if record.get("failed"):
        name += f" (not run: {record['failed']})"
    cells = [shown(record.get(measure), record.get(f"{measure}_se")) for measure in MEASURES]
    return name, *cells, "–" if record["method"] == REAL else f"{record['seconds']:.0f}"


def tables_of(records: Sequence[Record]) -> str:
    """A heading and a table for each table."""
    parts = []
    for name in TABLES:
        chosen = [r for r in records if r["table"] == name]
        if not chosen:
            continue
        chosen.sort(key=lambda r: [REAL, *OURS, *SYNTHESISERS].index(r["method"]))
        one = next(r for r in chosen if "score on real rows" in r)
        settings = "; ".join(
            f"{r['method']}: {r['setting']}" for r in chosen if r.get("setting") and r["method"] != REAL
        )
        text = (
            f"{one['columns'][0]} number and {one['columns'][1]} category columns; {one['training_rows']:,} "
            f"training rows, as many drawn, {one['rows']:,} held-out rows; seed {one['seed']}. Target: "
            f"`{TABLES[name].target}` ({one['measure']}), {shown(one['score on real rows'])} by trees trained on the "
            f"training rows themselves. Copies among held-out rows: {shown(one['copies by chance'])}."
        )
        lines = markdown_table(HEAD, map(line_of, chosen))
        parts.append(f"## {name}\n\n{tidy(text)}\n\n{lines}\n\n{tidy(f'Settings: {settings}.')}")
    return "\n\n".join(parts)


def open_cases(records: Sequence[Record]) -> str:
    """What is still to be measured on the tables that were begun."""
    wanted = {name: [REAL, *OURS, *SYNTHESISERS] for name in TABLES if any(r["table"] == name for r in records)}
    return not_measured(wanted, records, "table")


def where_we_lose(records: Sequence[Record]) -> str:
    """For each table the measures in which the best of other software is ahead of our best."""
    lines = []
    for name in TABLES:
        chosen = [r for r in records if r["table"] == name and r["method"] != REAL]
        # no more copies than held-out rows hold by chance is as good as none
        chosen = [r if r.get("failed") else r | {"copies": max(r["copies"], r["copies by chance"])} for r in chosen]
        found = [losses(chosen, measure, way, GOALS.get(measure, 0.0)) for measure, way in MEASURES.items()]  # type: ignore[arg-type]
        texts = [text for text in found if text]
        if chosen:
            texts.append(losses(chosen, "seconds", "down", digits=0, label="CPU seconds") or "")
            lines.append(f"- {name}: {'; '.join(filter(None, texts)) or 'in none of these measures'}.")
    return "\n".join(tidy(line, "  ") for line in lines)


PAGE = """# Synthetic rows side by side

After this page you know how rows drawn by GenZoo's models compare with those of SDV and of the package
ForestDiffusion, and where GenZoo is behind. It is written by `benchmarks/synthesis.py` from the numbers in
`docs/results/synthesis.json`; measured on one thread of 2 shared CPU cores (x86-64), November 2026, with {versions}.

All methods learn from the same random sample of a table's training rows and draw as many rows; the measures of
`genzoo.evaluation` judge them against the same held-out rows. Columns: **columns**, mean distance of a column's
distribution (Kolmogorov-Smirnov for numbers, total variation for categories); **Wasserstein**, mean over number
columns, in standard deviations; **pairs**, mean difference of the association of two columns; **AUC**, of boosted
trees that tell drawn from held-out rows, 0.5 if they cannot; **precision** and **recall**, alpha-precision and
beta-recall; **target**, held-out score of trees trained on the drawn rows; **closer to training**, share of drawn
rows nearer to a training row than to a held-out row, 0.5 if nothing is remembered; **copies**, share of drawn rows
equal to a training row. The line of *other training rows* is what a perfect method would reach. Names in bold are
GenZoo's; CPU seconds are of learning and drawing.

Methods are left at their defaults, but for the settings below each table. A method of the others is given {limit} CPU
seconds: CTGAN trains for as many of its 300 epochs as fit, ForestDiffusion (default: 50 levels of noise and 100
noised copies of each row) has {levels} levels and one copy, and is not run where one level with {trees} trees says
that even this takes longer.

{tables}

{open_cases}

## Where GenZoo loses

The best of the others against the best of GenZoo's models in each measure, wherever theirs is better (differences are
not tested):

{losses}
"""


def write_page(path: Path, records: Sequence[Record]) -> None:
    """The page of all records."""
    from synthesisers import LEVELS, TRIAL_TREES

    limits = sorted({int(r["limit"]) for r in records})
    text = page_text(
        PAGE, records, tables=tables_of(records), open_cases=open_cases(records),
        losses=where_we_lose(records),
        limit=" or ".join(map(str, limits)), levels=LEVELS, trees=TRIAL_TREES,
    )  # fmt: skip
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Measures what is asked for, then writes the page if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=Path("data"))
    parser.add_argument("--tables", nargs="*", default=[], choices=list(TABLES))
    parser.add_argument("--methods", nargs="*", choices=[REAL, *OURS, *SYNTHESISERS])
    parser.add_argument("--train_rows", type=int, default=1500, help="training rows, a random sample")
    parser.add_argument("--rows", type=int, default=2000, help="held-out rows")
    parser.add_argument("--limit", type=float, default=45.0, help="CPU seconds for each of the other methods")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--page", type=Path)
    given = parser.parse_args()
    given.methods = given.methods or [REAL, *OURS, *SYNTHESISERS]
    torch.set_num_threads(1)
    quiet()
    warnings.filterwarnings("ignore")
    run(given)
    if given.page:
        write_page(given.page, load_records(given.results))


if __name__ == "__main__":
    main()
