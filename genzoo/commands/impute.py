"""``genzoo impute RUN FILE``: the table with its missing cells filled in; observed cells stay as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, UsageError, add_output, add_seed, add_settings, settings_text, whole_number
from genzoo.commands.ranges import add_dask, in_order, opened
from genzoo.commands.table_text import add_counts, cell_remarks

if TYPE_CHECKING:
    from genzoo.tables.schema import Schema


def run(arguments: list[str]) -> int:
    """Fills holes by draws from the model; several draws give several files."""
    parser = Parser(
        "impute",
        "Fill in the missing cells of a table by draws given the observed ones. "
        "With --draws 5 and -o filled.csv the completed tables are filled-1.csv to filled-5.csv. "
        "With --repair cells that do not fit the others of their row are replaced instead, and missing ones stay.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("file", metavar="FILE", help="table with holes, in the columns of the training table")
    parser.add_argument("--draws", type=whole_number(1), default=1, help="completed tables to draw")
    parser.add_argument(
        "--repair", action="store_true", help="replace implausible cells; radd, gidd, multinomial_diffusion"
    )
    parser.add_argument("--max-changes", type=whole_number(1), default=2, help="with --repair: most cells of a row")
    parser.add_argument(
        "--min-gain", type=float, default=3.0, help="with --repair: nats by which a new value is more probable"
    )
    add_output(parser, "where the completed table goes: csv, tsv, parquet or feather")
    add_dask(parser)
    add_settings(parser)
    add_seed(parser, "seed of the draws")
    given = parser.parse(arguments)
    if given.repair:
        if given.set:
            raise UsageError("genzoo impute: --set says how holes are filled, and --repair fills none; leave one out")
        from genzoo.commands.repair import run_repair

        return run_repair(given)
    targets = [require_writable(path, given.overwrite, [given.file]) for path in outputs(given.output, given.draws)]

    from genzoo.tables.stream import TableWriter

    settings = settings_text(given)
    model, reader = opened(given.run, given.file, settings)
    tasks = ((given.run, given.file, settings, given.draws, given.seed, *ends) for ends in reader.ranges())
    empty: Counter[str] = Counter()
    odd: dict[str, Counter[str]] = {}
    with ExitStack() as stack:
        writers = [stack.enter_context(TableWriter(target, given.overwrite)) for target in targets]
        for pieces, counts in in_order(impute_range, tasks, given.dask):
            for piece, writer in zip(pieces, writers, strict=True):
                writer.write(piece)
            empty.update({name: pieces[0][name].null_count for name in pieces[0].column_names})
            add_counts(odd, counts)
    print(f"wrote {writers[0].num_rows} completed rows to {', '.join(map(str, targets))}")
    for line in left_open(empty, model.schema) + cell_remarks(odd):
        print(line)
    return 0


def impute_range(
    run: str, file: str, settings: str, draws: int, seed: int, start: int, stop: int
) -> tuple[list[Any], Mapping[str, Mapping[str, int]]]:
    """Rows ``start`` to ``stop`` of a file completed ``draws`` times, as Arrow tables, and odd cells by column.

    Draws depend on the seed and the batch of rows, so it does not matter into which ranges the file is cut.
    """
    from genzoo.models.drawing import IMPUTE_BATCH, impute_counted
    from genzoo.tables.frames import to_arrow

    model, reader = opened(run, file, settings)
    filled, odd = impute_counted(model, reader.read(start, stop), draws, seed, IMPUTE_BATCH, first=start)
    return [to_arrow(frame) for frame in filled], odd


def left_open(empty: Mapping[str, int], schema: Schema) -> list[str]:
    """Says which columns still have missing cells, from the number of them in each column, and why."""
    lines = []
    for name, count in empty.items():
        column = next((c for c in schema.columns if c.name == name), None)
        if not count:
            continue
        if column is None or not column.is_scored:
            reason = "the model does not model the column"
        elif column.missing == "value":
            reason = "the schema takes a missing cell for a value (missing: value)"
        else:
            continue
        lines.append(f"left as they were: {count} missing cells of '{name}', because {reason}")
    return lines


def outputs(path: str | Path, draws: int) -> list[Path]:
    """``filled.csv`` for one draw; ``filled-1.csv`` ... for several."""
    target = Path(path)
    if draws == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{draw}{target.suffix}") for draw in range(1, draws + 1)]
