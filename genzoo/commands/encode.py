"""``genzoo encode RUN FILE``: the fair representation of a table, and with ``--decode`` the way back."""

from __future__ import annotations

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, add_output, add_seed
from genzoo.errors import CapabilityError, DataError


def run(arguments: list[str]) -> int:
    """Writes codes of rows, or the rows that codes stand for."""
    parser = Parser(
        "encode",
        "Write the fair representation of a table: a code a row, from which its group cannot be told beyond what the "
        "model certifies. Outcome and sensitive columns are left out unless kept.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint of a fair_flow")
    parser.add_argument("file", metavar="FILE", help="table with the columns of the training table; or codes")
    parser.add_argument("--decode", action="store_true", help="FILE holds codes and sensitive columns: go back")
    parser.add_argument("--keep", metavar="A,B", default="", help="columns to carry along as they are")
    add_output(parser, "where the codes go: csv, tsv, parquet or feather")
    add_seed(parser, "seed of what is drawn; to go back, the one it was encoded with")
    given = parser.parse(arguments)
    target = require_writable(given.output, given.overwrite)
    if given.decode and given.keep:
        raise DataError("--keep goes with encoding; --decode writes the table's own columns")

    from genzoo.models.checkpoint import load
    from genzoo.models.flows.fair_flow import FairFlow
    from genzoo.tables.frames import write_frame

    model = load(given.run)
    if not isinstance(model, FairFlow):
        raise CapabilityError(f"{type(model).__name__} has no fair representation; train a fair_flow on this table")
    keep = [name.strip() for name in given.keep.split(",") if name.strip()]
    if given.decode:
        frame = model.decode(given.file, seed=given.seed, backend="pyarrow")
    else:
        frame = model.encode(given.file, seed=given.seed, keep=keep, backend="pyarrow")
    write_frame(frame, target, overwrite=given.overwrite)
    print(f"wrote {frame.num_rows} {'rows' if given.decode else 'codes'} to {target}")
    kept = [column.name for column in model.codec.sensitive if column.name in keep]
    if kept:
        print(
            f"note: '{kept[0]}' stands beside the codes, so this file is no fair representation; it serves to go back"
        )
    return 0
