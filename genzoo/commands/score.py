"""``genzoo score RUN FILE``: the log-likelihood of each row, in nats and the table's own units."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, add_output, add_seed, whole_number
from genzoo.errors import CapabilityError

if TYPE_CHECKING:
    from genzoo.likelihood.log_likelihood import LogLikelihood


def run(arguments: list[str]) -> int:
    """Scores rows; prints the mean and, with ``-o``, writes every row's number."""
    parser = Parser(
        "score",
        "Log-likelihood of each row in nats. The file has columns row, log_likelihood, se and kind; "
        "with --by column also log_likelihood:NAME for every column.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("file", metavar="FILE", help="table with the columns of the training table")
    parser.add_argument("--by", choices=["column"], help="what each cell contributes, where the model has it")
    parser.add_argument("--draws", type=whole_number(1), help="Monte-Carlo draws a row; by default the model's own")
    add_output(parser, "where the numbers go: csv, tsv, parquet or feather", required=False)
    add_seed(parser, "seed of the evaluation noise; by default the model's own", default=None)
    given = parser.parse(arguments)
    target = require_writable(given.output, given.overwrite) if "output" in given else None

    from genzoo.models.checkpoint import load
    from genzoo.tables.frames import write_frame

    model = load(given.run)
    if given.by and not model.capabilities.by_column:
        from genzoo.models.catalogue import alternatives

        raise CapabilityError(
            f"{type(model).__name__} does not say what each column contributes; "
            f"use {', '.join(alternatives(lambda c: c.by_column)) or 'another model'}, or leave out --by column"
        )
    scored = model.log_prob(given.file, seed=given.seed, draws=given.draws)
    print(f"{scored.label()} nats per row, mean of {len(scored.values)} rows; {scored.method}")
    for line in remarks(scored):
        print(line)
    if given.by:
        for line in unusual(scored):
            print(line)
    if target is None:
        print("each row's number: -o FILE")
    else:
        write_frame(as_table(scored, by_column=bool(given.by)), target, overwrite=given.overwrite)
        print(f"wrote {target}")
    return 0


def as_table(scored: LogLikelihood, by_column: bool = False) -> Any:
    """An Arrow table with one line a row; ``se`` is empty where the number has no Monte-Carlo error."""
    import pyarrow as pa

    count = len(scored.values)
    table = {
        "row": pa.array(scored.rows),
        "log_likelihood": pa.array(scored.values),
        "se": pa.nulls(count, pa.float64()) if scored.se is None else pa.array(scored.se),
        "kind": pa.array([str(scored.kind)] * count),
    }
    if by_column and scored.by_column is not None:
        for i, name in enumerate(scored.columns):
            table[f"log_likelihood:{name}"] = pa.array(scored.by_column[:, i].copy())
    return pa.table(table)


def unusual(scored: LogLikelihood, most: int = 3) -> list[str]:
    """The least likely rows, and in each the cell that is furthest below its column's median."""
    import numpy as np

    cells = scored.by_column
    if cells is None or len(cells) < 2:
        return []
    lines = []
    middle = np.median(cells, axis=0)
    below = cells - np.where(np.isfinite(middle), middle, 0.0)
    for row in np.argsort(scored.values, kind="stable")[:most]:
        column = int(np.argmin(below[row]))
        lines.append(
            f"row {scored.rows[row]}: {scored.values[row]:.2f}; its most unusual cell is '{scored.columns[column]}' "
            f"({cells[row, column]:.2f}, median of the rows {middle[column]:.2f})"
        )
    return ["least likely rows:", *(f"  {line}" for line in lines)]


def remarks(scored: LogLikelihood) -> list[str]:
    """What a reader of the mean should know: impossible rows, unseen categories, values off their grid."""
    import numpy as np

    lines = []
    impossible = int(np.isneginf(scored.values).sum())
    if impossible:
        have = "row has" if impossible == 1 else "rows have"
        lines.append(f"{impossible} {have} log-likelihood -inf (outside declared bounds or a closed vocabulary)")
    names = {
        "unseen": "cells hold a category not seen in training",
        "off_grid": "values are off their column's grid and were taken as the nearest point",
        "outside": "values are outside a declared bound",
    }
    lines += [f"{scored.counts[key]} {text}" for key, text in names.items() if scored.counts.get(key)]
    return lines
