"""Rows with a treatment and an outcome; what the other treatment would have done is kept from every model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from genzoo.datamodules.base import Split, TableDataModule
from genzoo.datamodules.toys.interventional import LOG_2PI, ShiftedArms
from genzoo.errors import DataError
from genzoo.likelihood.noise import seed_of

if TYPE_CHECKING:
    import pandas as pd

    from genzoo.tables.encode import TableData

Array = NDArray[np.float64]
CausalName = Literal["scm", "ihdp", "acic2016", "table"]


@dataclass(frozen=True)
class CausalRows:
    """A causal data set as it is read.

    Args:
        frame: Covariates, treatment and factual outcome: all that a model may see.
        treatment: Name of the treatment column.
        outcome: Name of the outcome column.
        potential: Per arm (its name in the treatment column) the ``(rows,)`` outcome under that treatment, NaN where
            unknown; for evaluators only.
        means: Per arm the noiseless ``(rows,)`` outcome, where it is known.
        labels: ``train``, ``val`` or ``test`` for every row, or ``None`` without a split of its own.
    """

    frame: pd.DataFrame
    treatment: str
    outcome: str
    potential: dict[str, Array]
    means: dict[str, Array]
    labels: NDArray[np.str_] | None = None


class Causal(TableDataModule):
    """Observational rows for models of potential outcomes, with the truth beside them for evaluation.

    A model gets covariates, treatment and factual outcome. Counterfactual columns are taken out before the schema is
    read; :meth:`potential_outcomes` gives them to evaluators by row number.

    Args:
        name: ``scm``: synthetic rows with known densities, see
            :class:`~genzoo.datamodules.toys.interventional.ShiftedArms`.
            ``ihdp``: infants of the Infant Health and Development Program with simulated outcomes. ``acic2016``: the
            2016 data challenge. ``table``: any file.
        path: File of ``table``; folder (or file) of ``ihdp`` and ``acic2016``, whose files the error message names.
        treatment: Treatment column of ``table``.
        outcome: Outcome column of ``table``.
        potential: For ``table``: column of each potential outcome by treatment, ``{"0": "y0", "1": "y1"}``; kept from
            the model.
        ignore: For ``table``: further columns to leave out, such as noiseless outcomes.
        schema: For ``table``: schema file or dictionary.
        realisation: Number of the simulation, from 1.
        shift: Distance of the arms of ``scm``, in standard deviations of the confounder.
        num_rows: Rows of ``scm`` for training and validation together.
        num_test: Fresh test rows of ``scm``.
        val: Share of the rows for validation.
        test: Share of the rows for test (not ``scm``).
        folds: Cross-validation: the number of folds, one of which tests; 0 takes ``test`` instead.
        fold: Which fold tests, from 0.
        split_seed: Seed of the split; ``None`` takes ``seed``.
        batch_size: Training rows a step and device; ``None`` chooses from the number of rows.
        eval_batch_size: Rows a step in validation and test.
        seed: Seed of synthetic rows and of the order of training rows.
        drop_last: Leave out the incomplete last training batch of each epoch.

    Raises:
        DataError: files or columns are missing.

    Example:
        >>> rows = Causal("scm", num_rows=100, num_test=10)
        >>> rows.schema["outcome"].role, sorted(rows.potential_outcomes("test"))
        ('outcome', ['0', '1'])
    """

    def __init__(
        self,
        name: CausalName = "scm",
        path: str | None = None,
        treatment: str | None = None,
        outcome: str | None = None,
        potential: dict[str, str] | None = None,
        ignore: Sequence[str] = (),
        schema: str | dict[str, Any] | None = None,
        realisation: int = 1,
        shift: float = 1.5,
        num_rows: int = 1000,
        num_test: int = 10_000,
        val: float = 0.1,
        test: float = 0.1,
        folds: int = 0,
        fold: int = 0,
        split_seed: int | None = None,
        batch_size: int | None = None,
        eval_batch_size: int = 4096,
        seed: int = 0,
        drop_last: bool = False,
    ) -> None:
        if name not in get_args(CausalName):
            raise ValueError(f"unknown causal data '{name}'; use one of {', '.join(get_args(CausalName))}")
        if name != "scm" and path is None:
            raise ValueError(f"'path' says where the rows of '{name}' are")
        if name == "table" and (treatment is None or outcome is None):
            raise ValueError("a table needs 'treatment' and 'outcome', the names of these columns")
        if not 0 <= val < 1 or not 0 <= test < 1 or (folds and not 0 <= fold < folds):
            raise ValueError(
                f"val and test are shares from 0 to below 1, fold is below folds; got {val}, {test}, {fold} of {folds}"
            )
        super().__init__(batch_size=batch_size, eval_batch_size=eval_batch_size, seed=seed, drop_last=drop_last)
        path = None if path is None else str(path)
        ignore = [ignore] if isinstance(ignore, str) else list(ignore)
        self.save_hyperparameters(logger=False)
        self.source_kind, self.source_path = name, path
        self.treatment, self.outcome = treatment, outcome
        self.potential, self.ignored, self.given_schema = potential, ignore, schema
        self.realisation, self.scm = realisation, ShiftedArms(shift)
        self.num_rows, self.num_test = num_rows, num_test
        self.val, self.test, self.folds, self.fold = val, test, folds, fold
        self.split_seed = seed if split_seed is None else split_seed
        self.name = {"scm": f"scm_{shift:g}", "table": Path(path or "table").stem}.get(name, f"{name}_{realisation}")
        self._rows: CausalRows | None = None
        self._table: Any = None

    @property
    def rows(self) -> CausalRows:
        """The whole data set as it was read."""
        if self._rows is None:
            readers = {"scm": self._scm, "ihdp": self._ihdp, "acic2016": self._acic2016, "table": self._any}
            self._rows = readers[self.source_kind]()
        return self._rows

    def potential_outcomes(self, split: Split) -> dict[str, Array]:
        """Per arm the ``(rows,)`` outcome under that treatment in the order of :meth:`data`; NaN where unknown.

        For evaluators: no model is given these.
        """
        at = self.data(split).rows
        return {arm: values[at] for arm, values in self.rows.potential.items()}

    def outcome_means(self, split: Split) -> dict[str, Array]:
        """Per arm the noiseless outcome of each row, where the simulation says it; else empty."""
        at = self.data(split).rows
        return {arm: values[at] for arm, values in self.rows.means.items()}

    def potential_oracle(self, split: Split, arm: str) -> Array | None:
        """``(rows,)`` log-density of each row's ``Y[arm]`` under the truth, nats; ``None`` where it is not known.

        ``scm``: exact. ``ihdp``: unit normals around the noiseless outcomes of all other rows (leave-one-out).
        """
        values = self.potential_outcomes(split)[arm]
        if self.source_kind == "scm":
            return self.scm.log_prob(values, int(arm))
        if self.source_kind != "ihdp":
            return None
        centres, at = self.rows.means[arm], self.data(split).rows
        log_density = -0.5 * (values[:, None] - centres) ** 2 - 0.5 * LOG_2PI
        log_density[np.arange(len(at)), at] = -np.inf
        from scipy.special import logsumexp

        result: Array = logsumexp(log_density, axis=1) - np.log(len(centres) - 1)
        return result

    def frame(self, split: Split) -> Any:
        """The rows of a split with covariates, treatment and factual outcome."""
        self.data(split)
        return self._table.frame(split)

    def _load(self) -> dict[Split, TableData]:
        from genzoo.datamodules.table import Table
        from genzoo.tables.infer import infer_schema

        rows = self.rows
        frame = rows.frame.copy()
        split_column = next(c for c in ("split", "split_", "split__") if c not in frame.columns)
        frame[split_column] = self._labels() if rows.labels is None else rows.labels
        overrides: dict[str, dict[str, Any]] = {}
        if self.given_schema is None:
            treatment = infer_schema(frame[[rows.treatment, rows.outcome]])[rows.treatment]
            if treatment.is_numeric:
                overrides[rows.treatment] = {"kind": "categorical"}
        self._table = Table(
            frame=frame,
            schema=self.given_schema,
            overrides=overrides or None,
            treatment=[rows.treatment],
            outcome=[rows.outcome],
            ignore=[c for c in self.ignored if c in frame.columns],
            split_column=split_column,
            seed=self.seed,
        )
        self._table.name = self.name
        return {split: self._table.data(split) for split in get_args(Split)}

    def _labels(self) -> NDArray[np.str_]:
        num = len(self.rows.frame)
        order = np.random.default_rng(seed_of(self.split_seed, "causal split")).permutation(num)
        labels = np.full(num, "train", dtype="<U5")
        if self.folds:
            tested = np.array_split(order, self.folds)[self.fold]
        else:
            tested = order[: round(self.test * num)]
        rest = np.setdiff1d(order, tested, assume_unique=True)
        rest = np.random.default_rng(seed_of(self.split_seed, "causal validation", self.fold)).permutation(rest)
        labels[tested] = "test"
        labels[rest[: round(self.val * num)]] = "val"
        return labels

    # ---- sources --------------------------------------------------------------------------------------------------

    def _scm(self) -> CausalRows:
        import pandas as pd

        rng = np.random.default_rng(seed_of(self.seed, "scm", str(self.scm.shift)))
        x, arm, outcomes = self.scm.sample(self.num_rows + self.num_test, rng)
        frame = pd.DataFrame({"x": x, "treatment": arm, "outcome": outcomes[np.arange(len(x)), arm]})
        labels = np.full(len(x), "train", dtype="<U5")
        labels[: round(self.val * self.num_rows)] = "val"
        labels[self.num_rows :] = "test"
        potential = {str(a): outcomes[:, a] for a in (0, 1)}
        means = {str(a): self.scm.mean(x, a) for a in (0, 1)}
        return CausalRows(frame, "treatment", "outcome", potential, means, labels)

    def _ihdp(self) -> CausalRows:
        whole = _read_parquet(self._file("realisations_1_10.parquet"))
        part = whole[whole["realisation"] == self.realisation].reset_index(drop=True)
        if not len(part):
            known = sorted(whole["realisation"].unique().tolist())
            raise DataError(f"'{self.source_path}' has no realisation {self.realisation}; it has {known}")
        treated = part["treatment"].to_numpy() == 1
        factual, other = (part[c].to_numpy(np.float64) for c in ("y_factual", "y_cfactual"))
        potential = {"0": np.where(treated, other, factual), "1": np.where(treated, factual, other)}
        means = {"0": part["mu0"].to_numpy(np.float64), "1": part["mu1"].to_numpy(np.float64)}
        frame = part[[f"x{i}" for i in range(1, 26)]].assign(treatment=part["treatment"], outcome=factual)
        return CausalRows(frame, "treatment", "outcome", potential, means)

    def _acic2016(self) -> CausalRows:
        covariates = _read_parquet(self._file("covariates.parquet"))
        outcomes = _read_parquet(self._file("outcomes.parquet"))
        size = len(covariates)
        start = (self.realisation - 1) * size
        if self.realisation < 1 or start + size > len(outcomes):
            raise DataError(
                f"'{self.source_path}' has realisations 1 to {len(outcomes) // size}, got {self.realisation}"
            )
        part = outcomes.iloc[start : start + size].reset_index(drop=True)
        potential = {str(a): part[f"y{a}"].to_numpy(np.float64) for a in (0, 1)}
        means = {str(a): part[f"mu{a}"].to_numpy(np.float64) for a in (0, 1)}
        treated = part["z"].to_numpy() == 1
        factual = np.where(treated, potential["1"], potential["0"])
        return CausalRows(
            covariates.assign(treatment=part["z"], outcome=factual), "treatment", "outcome", potential, means
        )

    def _any(self) -> CausalRows:
        from genzoo.tables.frames import read_frame

        assert self.source_path is not None
        assert self.treatment is not None
        assert self.outcome is not None
        frame = read_frame(self.source_path).to_pandas()
        columns: Mapping[str, str] = self.potential or {}
        for column in (self.treatment, self.outcome, *columns.values()):
            if column not in frame.columns:
                raise DataError(f"'{self.source_path}' has no column '{column}'; it has {', '.join(frame.columns)}")
        potential = {str(arm): frame[column].to_numpy(np.float64) for arm, column in columns.items()}
        kept = frame.drop(columns=list(columns.values()))
        return CausalRows(kept, self.treatment, self.outcome, potential, {})

    def _file(self, name: str) -> Path:
        """The named file in the given folder, or the path itself if it is that file."""
        root = Path(str(self.source_path)).expanduser()
        found = root / name if root.is_dir() else root.with_name(name)
        if not found.is_file():
            raise DataError(f"'{self.source_kind}' needs the file '{name}', which is not in '{self.source_path}'")
        return found


def _read_parquet(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read '{path}': {error}") from error
