"""Cells hidden at random (20 %) and filled in by RADD, by one Gaussian, and by mode and median.

    python benchmarks/imputation.py TABLE [--run RUN] [--rows 300] [--draws 100] [--epochs 30]

TABLE is a file or ``genzoo:adult``. RADD is trained here unless a run is given. Held-out rows alone are judged.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import replace

import numpy as np
import torch

import genzoo
from genzoo.datamodules.table import Table
from genzoo.evaluation.imputation import ImputationScores, score_imputation
from genzoo.evaluation.masks import Hidden, hide_cells
from genzoo.models.catalogue import model_class
from genzoo.models.drawing import impute_data
from genzoo.models.training import quiet, train
from genzoo.tables.encode import TableData


def mode_and_median(training: TableData, hidden: Hidden) -> TableData:
    """The hidden rows with the median of each number and the most frequent category of each column."""
    numeric, codes = hidden.data.numeric.copy(), hidden.data.codes.copy()
    for place in range(numeric.shape[1]):
        gap = np.isnan(numeric[:, place])
        known = training.numeric[:, place][~np.isnan(training.numeric[:, place])]
        numeric[gap, place] = np.quantile(known, 0.5, method="inverted_cdf")
    for place in range(codes.shape[1]):
        known = training.codes[:, place][training.codes[:, place] >= 0]
        codes[codes[:, place] < 0, place] = np.bincount(known).argmax()
    return replace(hidden.data, numeric=numeric, codes=codes)


def line(name: str, scores: ImputationScores, seconds: float) -> str:
    """One row of the printed table."""
    share, cells = scores.coverage()
    parts = [scores.mean(key) for key in ("accuracy", "mae", "crps")]
    numbers = " | ".join("" if np.isnan(part) else f"{part:.3f}" for part in parts)
    covered = f"{share:.3f} of {cells}" if not np.isnan(share) else ""
    return f"| {name} | {numbers} | {covered} | {seconds:.0f} |"


def main() -> None:
    """Trains, hides, fills and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table")
    parser.add_argument("--test", help="file of held-out rows, for a table that comes in two files")
    parser.add_argument("--run", help="a trained RADD")
    parser.add_argument("--rows", type=int, default=300, help="held-out rows to judge on")
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    warnings.filterwarnings("ignore")
    module = Table(path=given.table, test_path=given.test, seed=given.seed)
    module.setup("fit")
    training, test = module.data("train"), module.data("test")
    rng = np.random.default_rng(given.seed)
    chosen = np.sort(rng.choice(len(test), min(given.rows, len(test)), replace=False))
    truth = test.select(chosen)
    hidden = hide_cells(truth, 0.2, "mcar", given.seed)
    print(f"{given.table}: {len(training)} training rows, {len(truth)} held-out rows judged, {given.draws} draws")
    print("| | accuracy | MAE | CRPS | 5-95 % of the draws hold | CPU s |\n|---|---|---|---|---|---|")
    models = {}
    started = time.process_time()
    if given.run:
        models["radd"] = genzoo.load(given.run)
    else:
        radd = model_class("radd")(schema=module.schema_dict, schedule="cosine", patience=0, draws=4, seed=given.seed)
        every = max(1, given.epochs // 5)
        models["radd"] = train(
            radd, module, None, progress=False, max_epochs=given.epochs, check_val_every_n_epoch=every
        )
    print(f"trained in {time.process_time() - started:.0f} CPU s")
    models["gaussian"] = train(model_class("gaussian")(schema=module.schema_dict), module, None, progress=False)
    for name, model in models.items():
        started = time.process_time()
        completions = impute_data(model, hidden.data, given.draws, given.seed)
        scores = score_imputation(truth, hidden, completions, training)
        print(line(name, scores, time.process_time() - started), flush=True)
    plain = score_imputation(truth, hidden, [mode_and_median(training, hidden)], training)
    print(line("mode and median", plain, 0.0))


if __name__ == "__main__":
    main()
