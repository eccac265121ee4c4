"""``genzoo sample RUN``: rows drawn from a trained model, in the table's own form."""

from __future__ import annotations

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, UsageError, add_output, add_seed, whole_number


def run(arguments: list[str]) -> int:
    """Draws rows and writes them as a table."""
    parser = Parser("sample", "Draw rows from a trained model.")
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("-n", "--num", type=whole_number(1), metavar="N", help="rows to draw; with --given, its rows")
    parser.add_argument(
        "--given", metavar="FILE", help="rows that hold the context columns, or any columns where the model can"
    )
    add_output(parser, "where the rows go: csv, tsv, parquet or feather")
    add_seed(parser, "seed of the draws")
    given = parser.parse(arguments)
    if given.num is None and given.given is None:
        raise UsageError("genzoo sample: say how many rows to draw with -n 1000, or give rows with --given FILE")
    target = require_writable(given.output, given.overwrite)

    from genzoo.models.checkpoint import load
    from genzoo.tables.frames import write_frame

    model = load(given.run)
    # Arrow has a type for dates; pandas would write midnights
    frame = model.sample(given.num, given=given.given, seed=given.seed, backend="pyarrow")
    write_frame(frame, target, overwrite=given.overwrite)
    print(f"wrote {len(frame)} rows to {target}")
    return 0
