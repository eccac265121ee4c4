"""``genzoo impute RUN FILE``: the table with its missing cells filled in; observed cells stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, add_output, add_seed, whole_number

if TYPE_CHECKING:
    from genzoo.tables.schema import Schema


def run(arguments: list[str]) -> int:
    """Fills holes by draws from the model; several draws give several files."""
    parser = Parser(
        "impute",
        "Fill in the missing cells of a table by draws given the observed ones. "
        "With --draws 5 and -o filled.csv the completed tables are filled-1.csv to filled-5.csv.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("file", metavar="FILE", help="table with holes, in the columns of the training table")
    parser.add_argument("--draws", type=whole_number(1), default=1, help="completed tables to draw")
    add_output(parser, "where the completed table goes: csv, tsv, parquet or feather")
    add_seed(parser, "seed of the draws")
    given = parser.parse(arguments)
    targets = [require_writable(path, given.overwrite) for path in outputs(given.output, given.draws)]

    from genzoo.models.checkpoint import load
    from genzoo.tables.frames import read_frame, write_frame

    model = load(given.run)
    # as a frame, so that the types of its columns come back (a path gives pandas, which has no dates)
    frame = read_frame(given.file, schema=model.schema)
    frames = model.impute(frame, draws=given.draws, seed=given.seed)
    for frame, target in zip(frames, targets):
        write_frame(frame, target, overwrite=given.overwrite)
    print(f"wrote {len(frames[0])} completed rows to {', '.join(map(str, targets))}")
    for line in left_open(read_frame(frames[0]), model.schema):
        print(line)
    return 0


def left_open(frame: Any, schema: Schema) -> list[str]:
    """Says which columns still have missing cells, and why."""
    lines = []
    for name in frame.columns:
        empty = int(frame[name].null_count())
        column = next((c for c in schema.columns if c.name == name), None)
        if not empty:
            continue
        if column is None or not column.is_scored:
            reason = "the model does not model the column"
        elif column.missing == "value":
            reason = "the schema takes a missing cell for a value (missing: value)"
        else:
            continue
        lines.append(f"left as they were: {empty} missing cells of '{name}', because {reason}")
    return lines


def outputs(path: str | Path, draws: int) -> list[Path]:
    """``filled.csv`` for one draw; ``filled-1.csv`` ... for several."""
    target = Path(path)
    if draws == 1:
        return [target]
    return [target.with_name(f"{target.stem}-{draw}{target.suffix}") for draw in range(1, draws + 1)]
