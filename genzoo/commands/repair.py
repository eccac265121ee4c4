"""``genzoo impute --repair``: implausible cells replaced; ``genzoo score --by cell``: how plausible each cell is."""

from __future__ import annotations

import argparse
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from genzoo.commands.output import require_writable
from genzoo.commands.ranges import in_order, opened
from genzoo.errors import GenZooError

LEAST_PLAUSIBLE = 3
"""How many cells are named on the screen."""


def run_repair(given: argparse.Namespace) -> int:
    """Writes the table with its implausible cells replaced, and says how many changed in which column."""
    from genzoo.models.discrete.repair import require_plausibility
    from genzoo.tables.stream import TableWriter

    if given.draws != 1:
        raise GenZooError(f"--repair makes one table, --draws {given.draws} asks for more; leave one of them out")
    target = require_writable(given.output, given.overwrite, [given.file])
    model, reader = opened(given.run, given.file)
    require_plausibility(model)
    options = (given.max_changes, given.min_gain, given.seed)
    tasks = ((given.run, given.file, *options, *ends) for ends in reader.ranges())
    changed: Counter[str] = Counter()
    with TableWriter(target, given.overwrite) as writer:
        for piece, counts in in_order(repair_range, tasks, given.dask):
            writer.write(piece)
            changed.update(counts)
    print(f"wrote {writer.num_rows} rows to {target}; {sum(changed.values())} cells changed")
    for name, count in changed.most_common():
        print(f"  {name}: {count}")
    return 0


def repair_range(
    run: str, file: str, max_changes: int, min_gain: float, seed: int, start: int, stop: int
) -> tuple[Any, dict[str, int]]:
    """Rows ``start`` to ``stop`` of a file after repair, as an Arrow table, and the changed cells of each column."""
    from genzoo.models.discrete.repair import repair_counted
    from genzoo.tables.frames import to_arrow

    model, reader = opened(run, file)
    rows = reader.read(start, stop)
    frame, counts = repair_counted(model, rows, first=start, max_changes=max_changes, min_gain=min_gain, seed=seed)
    return to_arrow(frame), counts


def score_cells(given: argparse.Namespace, target: Path | None) -> int:
    """Writes the log-probability of each cell given the others of its row, and names the least plausible cells."""
    import numpy as np
    import pyarrow as pa

    from genzoo.models.discrete.repair import require_plausibility
    from genzoo.tables.stream import TableWriter

    model, reader = opened(given.run, given.file)
    require_plausibility(model)
    names = [column.name for column in model.schema.scored]
    worst: list[tuple[float, int, str]] = []
    with TableWriter(target, given.overwrite) if target is not None else nullcontext() as writer:
        tasks = ((given.run, given.file, *ends) for ends in reader.ranges())
        for start, scores in in_order(cell_range, tasks, given.dask):
            rows = np.arange(start, start + len(scores))
            if writer is not None:
                cells = {
                    f"cell:{name}": pa.array(scores[:, i].copy(), from_pandas=True) for i, name in enumerate(names)
                }
                writer.write(pa.table({"row": rows, **cells}))
            flat = np.where(np.isnan(scores), np.inf, scores).ravel()
            for place in np.argsort(flat, kind="stable")[:LEAST_PLAUSIBLE]:
                row, column = divmod(int(place), len(names))
                worst.append((float(flat[place]), start + row, names[column]))
            worst = sorted(worst)[:LEAST_PLAUSIBLE]
    print("log-probability of each cell given the others of its row, nats; least plausible:")
    for value, row, name in worst:
        print(f"  row {row}: '{name}' ({value:.2f})")
    print("each cell's number: -o FILE" if target is None else f"wrote {target}")
    return 0


def cell_range(run: str, file: str, start: int, stop: int) -> tuple[int, Any]:
    """The first row's number and ``(rows, scored columns)`` log-probabilities of rows ``start`` to ``stop``."""
    from genzoo.models.discrete.repair import cell_scores

    model, reader = opened(run, file)
    return start, cell_scores(model, reader.read(start, stop))
