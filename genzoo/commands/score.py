"""``genzoo score RUN FILE``: the log-likelihood of each row, in nats and the table's own units."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, add_output, add_seed, whole_number
from genzoo.commands.ranges import add_dask, in_order, opened
from genzoo.commands.table_text import add_counts, cell_remarks
from genzoo.errors import CapabilityError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genzoo.likelihood.log_likelihood import LogLikelihood
    from genzoo.likelihood.running import RunningMean
    from genzoo.tables.encode import TableData
    from genzoo.tables.schema import Schema

MOST_EXPLAINED = 200_000
"""Rows up to which the least likely rows are named: their cells are kept in memory."""


def run(arguments: list[str]) -> int:
    """Scores rows; prints the mean and, with ``-o``, writes every row's number."""
    parser = Parser(
        "score",
        "Log-likelihood of each row in nats. The file has columns row, log_likelihood, se and kind; "
        "with --by column also log_likelihood:NAME for every column; with --by cell it has row and cell:NAME.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("file", metavar="FILE", help="table with the columns of the training table")
    parser.add_argument(
        "--by",
        choices=["column", "cell"],
        help="column: what each cell contributes, where the model has it; cell: how plausible it is given all others",
    )
    parser.add_argument("--draws", type=whole_number(1), help="Monte-Carlo draws a row; by default the model's own")
    add_output(parser, "where the numbers go: csv, tsv, parquet or feather", required=False)
    add_dask(parser)
    add_seed(parser, "seed of the evaluation noise; by default the model's own", default=None)
    given = parser.parse(arguments)
    target = require_writable(given.output, given.overwrite, [given.file]) if "output" in given else None

    if given.by == "cell":
        from genzoo.commands.repair import score_cells

        return score_cells(given, target)

    from genzoo.likelihood.running import RunningMean
    from genzoo.reports.combining import join_rows
    from genzoo.tables.stream import TableWriter

    model, reader = opened(given.run, given.file)
    if given.by and not model.explains_columns:
        from genzoo.models.catalogue import alternatives

        raise CapabilityError(
            f"{type(model).__name__} does not say what each column contributes; "
            f"use {', '.join(alternatives(lambda c: c.by_column)) or 'another model'}, or leave out --by column"
        )
    for line in unread(reader.columns, model.schema):
        print(line)
    options = (given.run, given.file, given.seed, given.draws, bool(given.by))
    tasks = ((*options, *ends) for ends in reader.ranges())
    scored, parts = RunningMean(), []
    columns: dict[str, Counter[str]] = {}
    explained = given.by is not None and reader.num_rows <= MOST_EXPLAINED
    with TableWriter(target, given.overwrite) if target is not None else nullcontext() as writer:
        for part, kinds, found in in_order(score_range, tasks, given.dask):
            if writer is not None:
                writer.write(as_table(part, kinds, by_column=bool(given.by)))
            scored.add(part)
            add_counts(columns, found)
            if explained:
                parts.append(part)
    print(f"{scored.label()} nats per row, {scored.rows_text()}; {scored.method}")
    for line in remarks(scored, columns):
        print(line)
    if explained:
        for line in unusual(join_rows(parts)):
            print(line)
    if target is None:
        print("each row's number: -o FILE")
    else:
        print(f"wrote {target}")
    return 0


def score_range(
    run: str, file: str, seed: int | None, draws: int | None, by_column: bool, start: int, stop: int
) -> tuple[LogLikelihood, list[str], Mapping[str, Mapping[str, int]]]:
    """Log-likelihood of rows ``start`` to ``stop`` of a file, the kind of each row's number, and odd cells by column.

    What a missing cell contributes is NaN.

    The numbers are the same whatever ranges the file is cut into: draws depend on the seed and the row number.
    """
    import numpy as np

    from genzoo.models.scoring import rows_with_holes
    from genzoo.tables.encode import encode_frame

    model, reader = opened(run, file)
    data = encode_frame(reader.read(start, stop), model.schema, rows=np.arange(start, stop))
    part: LogLikelihood = model.log_prob(data, seed=seed, draws=draws)
    names = [model.kind_on(holes)[0] for holes in (False, True)]
    kinds = [names[holes] for holes in rows_with_holes(data, model.view).tolist()]
    shares = None
    if by_column and part.by_column is not None:
        shares = np.where(missing_cells(data, part.columns), np.nan, part.by_column)
    return replace(part, by_column=shares), kinds, data.column_counts


def missing_cells(data: TableData, columns: Sequence[str]) -> NDArray[np.bool_]:
    """``(n, columns)`` which cells are missing; of a block, whether all of it is."""
    import numpy as np

    from genzoo.tables.encode import HOLE
    from genzoo.tables.schema import column_places

    found, numbers, codes = {}, np.isnan(data.numeric), data.codes == HOLE
    for column, numeric, place in column_places(data.schema):
        found[column.name] = (numbers if numeric else codes)[:, place].all(1) & (column.missing != "value")
    return np.stack([found[name] for name in columns], 1)


def as_table(scored: LogLikelihood, kinds: list[str], by_column: bool = False) -> Any:
    """An Arrow table with one line a row; ``se`` is empty where the number has no Monte-Carlo error."""
    import pyarrow as pa

    count = len(scored.values)
    table = {
        "row": pa.array(scored.rows),
        "log_likelihood": pa.array(scored.values),
        "se": pa.nulls(count, pa.float64()) if scored.se is None else pa.array(scored.se),
        "kind": pa.array(kinds),
    }
    if by_column and scored.by_column is not None:
        for i, name in enumerate(scored.columns):
            table[f"log_likelihood:{name}"] = pa.array(scored.by_column[:, i].copy(), from_pandas=True)
    return pa.table(table)


def unread(columns: Sequence[str], schema: Schema) -> list[str]:
    """Says which columns of a file the schema does not name, so that a misnamed one is noticed."""
    known = {column.name for column in schema.columns}
    others = [name for name in columns if name not in known]
    shown = ", ".join(map(repr, others[:8])) + (f" and {len(others) - 8} more" if len(others) > 8 else "")
    return [f"not read, because the model does not know them: {shown}"] if others else []


def unusual(scored: LogLikelihood, most: int = 3) -> list[str]:
    """The least likely rows, and in each the cell whose contribution is lowest among those of its column.

    Ranks compare a density with a probability (an atom, a category) fairly, which nats do not; of a single row, which
    has no ranks, the lowest contributions are named.
    """
    import numpy as np

    cells = scored.by_column
    if cells is None:
        return []
    some = ~np.isnan(cells).all(1)  # a row without observed cells explains nothing
    cells, values, rows = cells[some], scored.values[some], scored.rows[some]
    if not len(cells):
        return []
    if len(cells) == 1:
        lowest = [c for c in np.argsort(cells[0], kind="stable")[:most] if not np.isnan(cells[0, c])]
        return [
            "lowest contributions (nats; a finer grid has lower ones): "
            + ", ".join(f"'{scored.columns[c]}' {cells[0, c]:.2f}" for c in lowest)
        ]
    lines = []
    middle = np.nanmedian(np.where(np.isnan(cells).all(0), 0.0, cells), axis=0)
    for row in np.argsort(values, kind="stable")[:most]:
        with np.errstate(invalid="ignore"):
            lower = (cells <= cells[row]).sum(0) / np.maximum((~np.isnan(cells)).sum(0), 1)
            below = np.where(np.isnan(cells[row]), np.inf, cells[row] - middle)
        lower[np.isnan(cells[row])] = np.inf
        column = int(np.lexsort((below, lower))[0])
        lines.append(
            f"row {rows[row]}: {values[row]:.2f}; its most unusual cell is '{scored.columns[column]}' "
            f"({cells[row, column]:.2f}; as low in {lower[column]:.1%} of the rows)"
        )
    return ["least likely rows (the first row of the file is 0):", *(f"  {line}" for line in lines)]


def remarks(scored: RunningMean, columns: Mapping[str, Mapping[str, int]]) -> list[str]:
    """What a reader of the mean should know: impossible rows, and odd cells with their columns.

    Args:
        scored: The rows.
        columns: For each column with odd cells, how many of each kind (:class:`genzoo.tables.encode.TableData`).
    """
    lines = []
    impossible = scored.num_neg_inf
    if impossible:
        have = "row has" if impossible == 1 else "rows have"
        others = scored.num_rows - impossible
        rest = f"; the mean of the other {others} is {scored.mean_above_neg_inf():.3f}" if others else ""
        lines.append(f"{impossible} {have} log-likelihood -inf (outside declared bounds or a closed vocabulary){rest}")
    return lines + cell_remarks(columns)
