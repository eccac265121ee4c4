"""``genzoo sample RUN``: rows drawn from a trained model, in the table's own form."""

from __future__ import annotations

from typing import Any

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, UsageError, add_output, add_seed, add_settings, settings_text, whole_number
from genzoo.commands.ranges import add_dask, in_order, opened


def run(arguments: list[str]) -> int:
    """Draws rows and writes them as a table."""
    parser = Parser("sample", "Draw rows from a trained model.")
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("-n", "--num", type=whole_number(1), metavar="N", help="rows to draw; with --given, its rows")
    parser.add_argument(
        "--given", metavar="FILE", help="rows that hold the context columns, or any columns where the model can"
    )
    add_output(parser, "where the rows go: csv, tsv, parquet or feather")
    add_dask(parser)
    add_settings(parser)
    add_seed(parser, "seed of the draws")
    given = parser.parse(arguments)
    if given.num is None and given.given is None:
        raise UsageError("genzoo sample: say how many rows to draw with -n 1000, or give rows with --given FILE")
    target = require_writable(given.output, given.overwrite, [given.given])

    from genzoo.tables.frames import read_frame
    from genzoo.tables.ranges import FarBeyond
    from genzoo.tables.stream import TableWriter, row_ranges

    settings = settings_text(given)
    model, _ = opened(given.run, None, settings)
    ranges = model.training_record.get("ranges", {})
    if given.given is None:
        tasks = ((given.run, settings, given.seed, *ends) for ends in row_ranges(given.num))
        pieces = in_order(sample_range, tasks, given.dask)
    else:
        known = read_frame(given.given, schema=model.schema)
        pieces = iter([model.sample(given.num, given=known, seed=given.seed, backend="pyarrow")])
        # what was given was not drawn
        ranges = {name: ends for name, ends in ranges.items() if name not in known.columns}
    far = FarBeyond(ranges)
    with TableWriter(target, given.overwrite) as writer:
        for piece in pieces:
            writer.write(piece)
            far.add(piece)
    for line in far.lines():
        print(line)
    print(f"wrote {writer.num_rows} rows to {target}")
    return 0


def sample_range(run: str, settings: str, seed: int, start: int, stop: int) -> Any:
    """Rows ``start`` to ``stop`` of a long sample, as an Arrow table: Arrow has a type for dates."""
    from genzoo.models.drawing import SAMPLE_BATCH, draw_rows

    model, _ = opened(run, None, settings)
    return draw_rows(model, stop - start, None, seed, "pyarrow", SAMPLE_BATCH, first=start)
