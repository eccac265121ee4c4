"""``genzoo classify RUN FILE``: the probability of each category of a column given the rest of a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from genzoo.commands.output import require_writable
from genzoo.commands.parsing import Parser, add_output, add_seed, whole_number
from genzoo.commands.ranges import add_dask, in_order, opened
from genzoo.commands.score import remarks
from genzoo.commands.table_text import add_counts, learned_from

if TYPE_CHECKING:
    from genzoo.likelihood.log_likelihood import LogLikelihood


def run(arguments: list[str]) -> int:
    """Tells a column from the others; where the table has it, says how well."""
    parser = Parser(
        "classify",
        "Probability of each category of a column given the rest of a row, by Bayes' rule from the likelihood of rows: "
        "exact where that is. The file has columns row, category (the most probable) and probability:CATEGORY. "
        "A table that has the column is not told from it; the command then says how often it was right.",
    )
    parser.add_argument("run", metavar="RUN", help="run folder or checkpoint")
    parser.add_argument("file", metavar="FILE", help="table with the columns of the training table, but for the one")
    parser.add_argument("--column", metavar="A", help="the column to tell; by default the label that a model has")
    parser.add_argument("--draws", type=whole_number(1), help="Monte-Carlo draws a row; by default the model's own")
    add_output(parser, "where the probabilities go: csv, tsv, parquet or feather", required=False)
    add_dask(parser)
    add_seed(parser, "seed of the evaluation noise; by default the model's own", default=None)
    given = parser.parse(arguments)
    target = require_writable(given.output, given.overwrite, [given.file]) if "output" in given else None

    from genzoo.likelihood.running import RunningMean
    from genzoo.models.posterior import category_column
    from genzoo.tables.stream import TableWriter

    model, reader = opened(given.run, given.file)
    column = category_column(model, given.column)
    options = (given.run, given.file, column, given.seed, given.draws)
    tasks = ((*options, *ends) for ends in reader.ranges())
    scored, right, labels = RunningMean(), 0.0, dict[str, float]()
    odd: dict[str, Counter[str]] = {}
    with TableWriter(target, given.overwrite) if target is not None else nullcontext() as writer:
        for piece, part, hits, held, found in in_order(classify_range, tasks, given.dask):
            if writer is not None:
                writer.write(piece)
            scored.add(part)
            right += hits
            for name, weight in held.items():
                labels[name] = labels.get(name, 0.0) + weight
            add_counts(odd, found)
    if scored.num_rows:
        most, total = max(labels, key=lambda name: labels[name]), sum(labels.values())
        by_weight = ", by weight" if scored.weighted else ""
        print(
            f"'{column}' told right in {right / total:.1%} of the {scored.num_rows} rows that have it{by_weight} "
            f"({labels[most] / total:.1%} are '{most}')"
        )
        print(f"log-probability of the true category: {scored.label()} nats, {scored.rows_text()}; {scored.method}")
        if learned_from(model, given.file):
            print("most of these rows are what the model learned from; held-out rows are told less well")
    else:
        print(f"no row of the table has '{column}', so nothing says how often it is told right")
    for line in remarks(scored, odd):
        print(line)
    if model.kind_on(False)[0] != "exact":
        used = model.draws if given.draws is None else given.draws
        print(f"an estimate from {used} draws a row: --draws {8 * used} has less noise, another --seed shows how much")
    print("each row's probabilities: -o FILE" if target is None else f"wrote {target}")
    return 0


def classify_range(
    run: str, file: str, column: str, seed: int | None, draws: int | None, start: int, stop: int
) -> tuple[Any, LogLikelihood, float, Mapping[str, float], Mapping[str, Mapping[str, int]]]:
    """Rows ``start`` to ``stop`` of a file: their probabilities as an Arrow table, the log-probability of the rows that
    have the category, the weight of these that is told right, the weight of each category, and odd cells by column.
    """
    import numpy as np
    import pyarrow as pa

    from genzoo.models.posterior import class_names, codes_of, log_posterior, of_labels
    from genzoo.tables.encode import HOLE, encode_frame

    model, reader = opened(run, file)
    wanted = [c.name for c in model.schema.columns if c.is_modelled and c.name != column]
    data = encode_frame(reader.read(start, stop), model.schema, rows=np.arange(start, stop), require=wanted)
    log_p = log_posterior(model, data, column, seed, draws)
    names, code = class_names(model, column), codes_of(data, column)
    best = np.where(np.isnan(log_p), -np.inf, log_p).argmax(1)
    best[np.isnan(log_p[:, 0])] = len(names)  # the rest of the row is impossible: no category at all
    table = {"row": pa.array(data.rows), "category": pa.array([*names, None], pa.string()).take(pa.array(best))}
    for k, name in enumerate(names):
        table[f"probability:{name}"] = pa.array(np.exp(log_p[:, k]), from_pandas=True)
    known = code != HOLE
    weights = (np.ones(len(data)) if data.weights is None else data.weights)[known]
    counted = np.bincount(np.where(code < 0, len(names), code)[known], weights, minlength=len(names) + 1)
    held = {name: weight for name, weight in zip([*names, "a new category"], counted.tolist()) if weight}
    part = of_labels(model, data, column, log_p, seed, draws)
    return pa.table(table), part, float(weights[best[known] == code[known]].sum()), held, data.column_counts
