"""Tables with a sensitive column and an outcome, prepared as the papers on fair representations do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genzoo.datamodules.base import SPLITS, Split, TableDataModule
from genzoo.errors import DataError
from genzoo.likelihood.noise import seed_of

if TYPE_CHECKING:
    import pandas as pd

    from genzoo.datamodules.table import Table
    from genzoo.tables.encode import TableData

FairName = Literal["stripes", "adult", "compas", "crime"]
CRIME = ("racePctWhite", "pctWInvInc", "PctFam2Par", "PctKids2Par", "PctYoungKids2Par", "PctKidsBornNeverMar")
ADULT = ("workclass", "education", "marital_status", "occupation", "relationship", "race")
QUARTERED = ("age", "diff_custody", "diff_jail", "priors_count")
QUARTERS = ("q1", "q2", "q3", "q4")


class Fairness(TableDataModule):
    """Benchmarks of fair representations; nothing is downloaded.

    Args:
        name: ``stripes``: the toy of two groups with opposite labels, whose best representation is known. ``adult``:
            six categories of the shipped census table, sex, income. ``compas``: seven categories (four of them quarters
            of numbers) of the recidivism table, race, no second arrest. ``crime``: six numbers of Communities and Crime
            (unnormalised), a high share of minorities, rare violent crime.
        path: The file of ``compas`` (columns as published by ProPublica, stays in seconds as ``diff_custody`` and
            ``diff_jail``; all rows, or the two races alone) or ``crime``; Parquet or CSV.
        num_rows: Rows of ``stripes``.
        val: Share of rows for validation.
        test: Share of rows for testing.
        batch_size: Training rows a step and device; ``None`` chooses from the number of rows.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of the split, of the order of training rows, and of the toy.
        drop_last: Leave out the incomplete last training batch of each epoch.

    References:
        Balunovic, Ruoss, Vechev (2022), arXiv:2106.05937; Becker and Kohavi (1996), Adult; Redmond (2011), Communities
        and Crime Unnormalized; Angwin et al. (2016), Machine Bias.

    Example:
        >>> toy = Fairness("stripes", num_rows=200)
        >>> [(c.name, c.role) for c in toy.schema.columns if c.role != "value"]
        [('group', 'sensitive'), ('label', 'outcome')]
    """

    def __init__(
        self,
        name: FairName = "stripes",
        path: str | None = None,
        num_rows: int = 3000,
        val: float = 0.16,
        test: float = 0.2,
        batch_size: int | None = None,
        eval_batch_size: int = 4096,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if name not in get_args(FairName):
            raise ValueError(f"unknown fairness table '{name}'; use one of {', '.join(get_args(FairName))}")
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        path = None if path is None else str(path)
        self.save_hyperparameters(logger=False)
        self.table, self.num_rows, self.val, self.test = name, num_rows, val, test
        self.path = path or ""
        self.name = name
        self._inner: Table | None = None

    def prepared(self) -> tuple[pd.DataFrame, dict[str, Any]]:
        """The frame and its roles, as arguments of :class:`genzoo.datamodules.table.Table`."""
        if self.table == "stripes":
            return stripes(self.num_rows, self.seed), {"sensitive": ["group"], "outcome": ["label"]}
        if self.table == "adult":
            return adult(), {"sensitive": ["sex"], "outcome": ["income"]}
        if self.table == "compas":
            # a quarter may be empty: it is a category none the less
            four: dict[str, Any] = {"kind": "categorical", "categories": list(QUARTERS), "closed": True}
            roles = {"sensitive": ["race"], "outcome": ["no_arrest"], "overrides": dict.fromkeys(QUARTERED, four)}
            return compas(self._read()), roles
        dense: dict[str, Any] = {"kind": "continuous", "step": None, "atoms": []}
        roles = {"sensitive": ["minority"], "outcome": ["rare"], "overrides": dict.fromkeys(CRIME, dense)}
        return crime(self._read()), roles

    def frame(self, split: Split) -> Any:
        self.setup()
        assert self._inner is not None
        return self._inner.frame(split)

    def _load(self) -> dict[Split, TableData]:
        from genzoo.datamodules.table import Table

        frame, options = self.prepared()
        self._inner = Table(frame=frame, val=self.val, test=self.test, seed=self.seed, **options)
        return {split: self._inner.data(split) for split in SPLITS}

    def _read(self) -> pd.DataFrame:
        from genzoo.tables.frames import read_frame

        if not self.path:
            raise DataError(f"'path' says where the file of {self.table} is; give --data.path FILE")
        frame: pd.DataFrame = read_frame(self.path).to_pandas()
        return frame


def stripes(num_rows: int, seed: int) -> pd.DataFrame:
    """Two groups of two unit Gaussians each, at (-3, 3), (3, 3) and (-3, -3), (3, -3), whose labels are opposite.

    Their statistical distance is 2 Phi(3) - 1 = .9973; the bijection (x, y) -> (-x, y + 6) of the second group brings
    it to 0 and leaves a classifier with accuracy Phi(3) = .9987.
    """
    import pandas as pd

    rng = np.random.default_rng(seed_of(seed, "stripes"))
    group, side = rng.integers(0, 2, num_rows), rng.integers(0, 2, num_rows)
    x = rng.normal(size=num_rows) + np.where(side, 3, -3)
    y = rng.normal(size=num_rows) + np.where(group == 0, 3, -3)
    label = np.where(group == 0, x > 0, x < 0)
    return pd.DataFrame({"x": x, "y": y, "group": np.array(["a", "b"])[group], "label": yes_or_no(label)})


def adult() -> pd.DataFrame:
    """Complete rows of the shipped census table: six categories, sex, income."""
    from genzoo.tables.frames import read_frame

    table: pd.DataFrame = read_frame("genzoo:adult").to_pandas()
    return table[[*ADULT, "sex", "income"]].dropna()


def compas(table: pd.DataFrame) -> pd.DataFrame:
    """Defendants of two races whose scores are valid; four numbers in quarters, three categories, no second arrest."""
    import pandas as pd

    here = table["days_b_screening_arrest"].between(-30, 30) & (table["is_recid"] != -1)
    here &= table["race"].isin(["African-American", "Caucasian"]) & table["score_text"].notna()
    table = table[here]
    frame = pd.DataFrame(index=table.index)
    for name in QUARTERED:
        edges = np.quantile(table[name], [0.25, 0.5, 0.75])
        frame[name] = np.array(QUARTERS)[np.digitize(table[name], edges)]
    for name in ("sex", "c_charge_degree", "v_score_text", "race"):
        frame[name] = table[name].astype(str)
    return frame.assign(no_arrest=yes_or_no(table["two_year_recid"].to_numpy() == 0))


def crime(table: pd.DataFrame) -> pd.DataFrame:
    """Communities whose violent crime is known: six numbers, a high share of minorities, crime below the median."""
    table = table.dropna(subset=["ViolentCrimesPerPop"])
    minority = table["racePctWhite"] / 5 < table["racepctblack"] + table["racePctAsian"] + table["racePctHisp"]
    rare = table["ViolentCrimesPerPop"] < table["ViolentCrimesPerPop"].median()
    return table[list(CRIME)].assign(minority=yes_or_no(minority.to_numpy()), rare=yes_or_no(rare.to_numpy()))


def yes_or_no(values: NDArray[np.bool_]) -> NDArray[np.str_]:
    """Truth as text."""
    return np.where(values, "yes", "no")
