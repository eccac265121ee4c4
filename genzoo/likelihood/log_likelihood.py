"""The one form in which every model reports likelihoods: a number per row, with its kind, its error and its meaning."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genzoo.errors import ComparisonError
from genzoo.likelihood.averages import (
    effective_rows,
    error_of_mean,
    noise_of_mean,
    quantile,
    same_weights,
    weighted_mean,
    winsorised_mean,
)
from genzoo.likelihood.kinds import Bias, LikelihoodKind, add_kinds, check_kind, default_bias, kind_word, negate_kind

Floats = NDArray[np.float64]
ESTIMANDS = ("observational", "interventional")
SPACES = ("data", "benchmark", "discretised", "model")


@dataclass(frozen=True, eq=False)
class LogLikelihood:
    """Log-likelihoods of some rows, in nats, with everything needed to compare them honestly.

    ``values[i]`` is the log-density of the observed scored cells of row ``rows[i]``, given which cells are observed and
    given the context columns, with respect to the base measure of the schema. Arrays are float64 and read-only.

    Args:
        values: ``(n,)`` nats. ``-inf`` is a row of zero likelihood; NaN and ``+inf`` are refused.
        rows: ``(n,)`` int64, number of each row in its file.
        kind: ``exact``, ``lower_bound``, ``upper_bound``, ``estimate`` or ``unnormalised``.
        bias: Sign of the expected error; by default what ``kind`` says (an estimate: ``unknown``; say ``none`` for
            zero-mean noise).
        se: ``(n,)`` Monte Carlo standard error of each row, independent between rows; ``None`` if there is none or it
            is not known (one draw a row: the spread between rows then still holds it).
        se_common: Standard error shared by all rows (one log Z, one probe set); never divided by ``n``.
        discrete: ``(n,)`` the part that is probability, or ``None``.
        continuous: ``(n,)`` the part that is density, or ``None``.
        columns: Scored columns.
        context: Columns conditioned on.
        estimand: ``observational``, or ``interventional`` for p(Y[a]).
        space: ``data``, ``benchmark``, ``discretised`` or ``model``.
        measure: ``schema.measure``.
        data: Fingerprint of the table that holds the rows.
        uses_mask: The model reads the pattern of holes.
        method: How the number was made ("change of variables", "importance-weighted bound").
        settings: Plain values that made it: draws, steps, tolerance, seed.
        model: Name of the model.
        counts: Rows or cells worth knowing of: ``unseen``, ``off_grid``, ``outside``.
        by_column: ``(n, num_scored)`` contribution of each cell, or ``None``.
        weights: ``(n,)`` how much each row counts in means, above 0; ``None``: all the same.
        meta: Plain values beside the number: seconds, num_parameters.

    Raises:
        ValueError: shapes do not agree, a value is NaN or ``+inf``, a weight is not above 0, kind and bias contradict
            each other, an exact number has a Monte Carlo error, or the parts do not add up.
    """

    values: Floats
    rows: NDArray[np.int64]
    kind: LikelihoodKind
    bias: Bias = None  # type: ignore[assignment]  # replaced by what the kind says
    se: Floats | None = None
    se_common: float = 0.0
    discrete: Floats | None = None
    continuous: Floats | None = None
    columns: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    estimand: str = "observational"
    space: str = "data"
    measure: str = ""
    data: str = ""
    uses_mask: bool = False
    method: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    by_column: Floats | None = None
    weights: Floats | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        put = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731  (the class is frozen)
        put("bias", self.bias or default_bias(self.kind))
        check_kind(self.kind, self.bias)
        put("columns", tuple(self.columns))
        put("context", tuple(self.context))
        put("se_common", float(self.se_common))
        put("values", _array(self.values, "values"))
        rows = np.array(self.rows)
        if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
            raise ValueError(f"rows must be one list of whole numbers, got {rows.dtype} of shape {rows.shape}")
        put("rows", _frozen(rows.astype(np.int64)))
        for name in ("se", "discrete", "continuous", "by_column", "weights"):
            if getattr(self, name) is not None:
                put(name, _array(getattr(self, name), name))
        self._check()

    def _check(self) -> None:
        num = len(self.rows)
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(
            ("values", "se", "discrete", "continuous", "weights"), (num,)
        )
        shapes["by_column"] = (num, len(self.columns))
        for name, shape in shapes.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}; {num} rows ask for {shape}")
        for name, array in (("values", self.values), ("discrete", self.discrete), ("continuous", self.continuous)):
            if array is not None:
                _refuse_not_a_likelihood(name, array, self.rows, self.values)
        if self.weights is not None and not (np.isfinite(self.weights) & (self.weights > 0)).all():
            raise ValueError("a row's weight must be finite and above 0; leave rows out that shall not count")
        if self.se is not None and not (np.isfinite(self.se) & (self.se >= 0)).all():
            raise ValueError("a standard error must be finite and not negative; give 0 where the likelihood is -inf")
        if not (math.isfinite(self.se_common) and self.se_common >= 0):
            raise ValueError(f"se_common must be finite and not negative, got {self.se_common}")
        if self.kind == "exact" and (self.se_common > 0 or (self.se is not None and (self.se > 0).any())):
            raise ValueError(
                "an exact likelihood has no Monte Carlo error; with zero-mean noise it is kind='estimate', bias='none'"
            )
        if self.estimand not in ESTIMANDS:
            raise ValueError(f"unknown estimand {self.estimand!r}; use one of {', '.join(ESTIMANDS)}")
        if self.space not in SPACES:
            raise ValueError(f"unknown space {self.space!r}; use one of {', '.join(SPACES)}")
        if self.discrete is not None and self.continuous is not None:
            finite = np.isfinite(self.values)
            parts = self.discrete[finite] + self.continuous[finite]
            if not np.allclose(parts, self.values[finite], rtol=1e-6, atol=1e-4):
                worst = float(np.max(np.abs(parts - self.values[finite])))
                raise ValueError(f"discrete and continuous part do not add up to the values, {worst:.3g} nats off")

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        name = f"{self.model}: " if self.model else ""
        return f"LogLikelihood({name}{self.label()} nats a row, {len(self)} rows, space {self.space!r})"

    # ---------------------------------------------------------------------------------------------- summaries

    def mean(self) -> float:
        """Mean over rows in nats, weighted where rows have weights; ``-inf`` if a row is, NaN without rows."""
        return weighted_mean(self.values, self.weights)

    def se_mean(self) -> float:
        """Standard error of :meth:`mean` from rows and their Monte Carlo noise; ``se_common`` is apart.

        ``s / sqrt(n)``: the sample variance ``s^2`` of the values already holds the noise of the draws, which are
        independent between rows. With weights, the linearised error of the ratio of sums,
        ``sqrt(n / (n - 1) sum w^2 (l - mean)^2) / sum w``, which is the same where weights are equal. NaN for fewer
        than two rows, or a row at ``-inf``.
        """
        if len(self) < 2 or not np.isfinite(self.values).all():
            return math.nan
        return error_of_mean(self.values, self.weights)

    def se_total(self) -> float:
        """Standard error of :meth:`mean` from all sources: ``sqrt(s^2 / n + se_common^2)``."""
        return math.hypot(self.se_mean(), self.se_common)

    def summary(self) -> dict[str, Any]:
        """Plain numbers for a report, in nats a row.

        ``se_rows`` includes the draws' noise, of which ``se_mc`` is the part that more draws would remove
        (``sqrt(mean(se^2) / n)``) and ``noise_share`` its share of the variance; ``se_common`` is apart; ``se`` is all
        together. ``winsorised`` is the mean after the 0.1 % lowest and highest rows were set to the next one: a
        secondary number, with the same cut for every model. With weights all of these are of the weighted rows, and
        ``num_effective`` is how many rows of equal weight they are worth.
        """
        v = self.values
        num = len(self)
        se_rows = self.se_mean()
        se_mc = 0.0 if self.kind == "exact" else math.nan
        if self.se is not None and num:
            se_mc = noise_of_mean(self.se, self.weights)
        w = self.weights
        finite = np.isfinite(v)
        return {
            "num_rows": num,
            "num_effective": self.num_effective,
            "mean": self.mean(),
            "se": self.se_total(),
            "se_rows": se_rows,
            "se_mc": se_mc,
            "se_common": self.se_common,
            "noise_share": (se_mc / se_rows) ** 2 if se_rows > 0 else math.nan,
            "kind": self.kind,
            "bias": self.bias,
            "discrete": None if self.discrete is None or not num else weighted_mean(self.discrete, w),
            "continuous": None if self.continuous is None or not num else weighted_mean(self.continuous, w),
            "winsorised": winsorised_mean(v, weights=w),
            "median": quantile(v, 0.5, w),
            "q01": quantile(v, 0.01, w),
            "q99": quantile(v, 0.99, w),
            "min": float(v.min()) if num else math.nan,
            "num_neg_inf": self.num_neg_inf,
            "mean_finite": weighted_mean(v[finite], None if w is None else w[finite]),
            "uses_mask": self.uses_mask,
            **{f"num_{key}": value for key, value in self.counts.items()},
        }

    @property
    def num_effective(self) -> float:
        """Rows of equal weight that would give means of the same precision: ``(sum w)^2 / sum w^2``."""
        return float(len(self)) if self.weights is None else effective_rows(self.weights)

    def rows_text(self) -> str:
        """What the mean is over: ``mean of 200 rows``, and with weights what these are worth."""
        return mean_text(len(self), None if self.weights is None else self.num_effective)

    @property
    def num_neg_inf(self) -> int:
        """Rows of zero likelihood."""
        return int(np.isneginf(self.values).sum())

    def label(self) -> str:
        """The number, its error and its kind in one cell: ``2.310 ± 0.020 (bound)``."""
        return mean_label(self.mean(), self.se_total(), self.kind, self.bias, self.num_neg_inf, len(self))

    # ---------------------------------------------------------------------------------------------- rows and spaces

    def select(self, index: ArrayLike | slice) -> LogLikelihood:
        """The rows at ``index`` (positions or a mask)."""
        at = index if isinstance(index, slice) else np.asarray(index, dtype=np.int64 if np.size(index) == 0 else None)
        cut: dict[str, Any] = {
            name: None if getattr(self, name) is None else getattr(self, name)[at]
            for name in ("values", "rows", "se", "discrete", "continuous", "by_column", "weights")
        }
        return replace(self, **cut)

    def aligned(self, rows: NDArray[np.int64]) -> LogLikelihood:
        """The same likelihoods in the order of ``rows``.

        Raises:
            ComparisonError: the two do not hold the same rows.
        """
        if np.array_equal(self.rows, rows):
            return self
        order, wanted = np.argsort(self.rows, kind="stable"), np.argsort(rows, kind="stable")
        ours = self.rows[order]
        if len(ours) != len(rows) or not np.array_equal(ours, rows[wanted]):
            raise ComparisonError(
                f"the rows differ: {len(ours)} rows{_span(ours)} against {len(rows)}{_span(np.asarray(rows))}; "
                "score both on the same rows"
            )
        if len(ours) > 1 and (np.diff(ours) == 0).any():
            raise ComparisonError(
                "the rows stand in another order and some row numbers appear twice, so they cannot be paired; "
                "number the rows uniquely"
            )
        place = np.empty(len(rows), dtype=np.int64)
        place[wanted] = order
        return self.select(place)

    def shifted(self, shift: ArrayLike, space: str | None = None) -> LogLikelihood:
        """The same likelihoods with a known constant added to the density part, for other units.

        Args:
            shift: Nats, one number or one per row (rows with holes): ``sum of log s`` takes a density of ``x`` to one
                of ``x / s``.
            space: Name of the space the result is in, such as ``benchmark``.
        """
        amount = np.broadcast_to(np.asarray(shift, dtype=np.float64), self.values.shape)
        return replace(
            self,
            values=self.values + amount,
            continuous=None if self.continuous is None else self.continuous + amount,
            space=space or self.space,
            by_column=None,
        )

    # ---------------------------------------------------------------------------------------------- algebra

    def __add__(self, other: object) -> LogLikelihood:
        """Sum of two parts of one row's likelihood, as in ``log P(y) + log p(x | y)``; their draws are independent."""
        if not isinstance(other, LogLikelihood):
            return NotImplemented
        other = self._partner(other)
        twice = [name for name in self.columns if name in other.columns]
        if twice:
            raise ComparisonError(
                f"column {twice[0]!r} is scored in both parts of the sum; score each column once, "
                "the other part given it as context"
            )
        kind, bias = add_kinds((self.kind, self.bias), (other.kind, other.bias))
        columns = self.columns + other.columns
        context = tuple(dict.fromkeys(c for c in self.context + other.context if c not in columns))
        by_column = None
        if self.by_column is not None and other.by_column is not None:
            by_column = np.concatenate([self.by_column, other.by_column], axis=1)
        return LogLikelihood(
            values=self.values + other.values,
            rows=self.rows,
            kind=kind,
            bias=bias,
            se=quadrature(self.se, other.se),
            se_common=math.hypot(self.se_common, other.se_common),
            discrete=_sum_of_parts(self, other, "discrete"),
            continuous=_sum_of_parts(self, other, "continuous"),
            columns=columns,
            context=context,
            estimand=self.estimand,
            space=self.space,
            measure=_joint_measure(self.measure, other.measure),
            data=self.data or other.data,
            uses_mask=self.uses_mask or other.uses_mask,
            method=_joined(self.method, other.method),
            settings=self.settings if self.settings == other.settings else {"parts": [self.settings, other.settings]},
            model=_joined(self.model, other.model),
            counts={k: self.counts.get(k, 0) + other.counts.get(k, 0) for k in {**self.counts, **other.counts}},
            by_column=by_column,
            weights=self.weights,
            meta={**self.meta, **other.meta},
        )

    def __sub__(self, other: object) -> Difference:
        """Row by row difference to another likelihood of the same cells; see :func:`genzoo.likelihood.paired`."""
        if not isinstance(other, LogLikelihood):
            return NotImplemented
        other = self._partner(other)
        kind, bias = add_kinds((self.kind, self.bias), negate_kind(other.kind, other.bias))
        with np.errstate(invalid="ignore"):  # -inf minus -inf: neither model scores the row, NaN says so
            values = self.values - other.values
        return Difference(
            values=_frozen(values),
            rows=self.rows,
            kind=kind,
            bias=bias,
            se=quadrature(self.se, other.se),
            se_common=math.hypot(self.se_common, other.se_common),
            first=self.model or "first",
            second=other.model or "second",
            weights=self.weights,
        )

    def _partner(self, other: LogLikelihood) -> LogLikelihood:
        for name, what in (("data", "table"), ("estimand", "estimand"), ("space", "space")):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs and (name != "data" or (mine and theirs)):
                raise ComparisonError(f"the {what} differs: {mine!r} against {theirs!r}; score both alike")
        other = other.aligned(self.rows)
        if not same_weights(self.weights, other.weights):
            raise ComparisonError("the weights of the rows differ; score both with the same weight column, or none")
        return other

    # ---------------------------------------------------------------------------------------------- storage

    def to_dict(self) -> dict[str, Any]:
        """Plain values only (lists, numbers, words)."""
        from genzoo.likelihood.storage import to_dict

        return to_dict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LogLikelihood:
        """Inverse of :meth:`to_dict`."""
        from genzoo.likelihood.storage import from_dict

        return from_dict(plain)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes one Parquet file: a line per row, the rest as JSON in its metadata. An existing file is kept."""
        from genzoo.likelihood.storage import save

        return save(self, path, overwrite)

    @classmethod
    def load(cls, path: str | Path) -> LogLikelihood:
        """Reads what :meth:`save` wrote."""
        from genzoo.likelihood.storage import load

        return load(path)


@dataclass(frozen=True, eq=False)
class Difference:
    """Row by row difference of two likelihoods; not a likelihood itself.

    Args:
        values: ``(n,)`` nats, first minus second; ``+-inf`` where one of them is ``-inf``, NaN where both are.
        rows: ``(n,)`` row numbers.
        kind: Kind of the difference: two exact numbers differ exactly, a lower minus an upper bound is a lower bound,
            two lower bounds give an estimate of unknown bias.
        bias: Its sign.
        se: ``(n,)`` Monte Carlo standard errors, in quadrature, or ``None``. Draws shared by both models (same seed)
            make it too large; intervals use the spread of ``values``, which is right in either case.
        se_common: Common standard errors, in quadrature.
        first: Name of the first model.
        second: Name of the second model.
        weights: ``(n,)`` how much each row counts, or ``None``.
    """

    values: Floats
    rows: NDArray[np.int64]
    kind: LikelihoodKind
    bias: Bias
    se: Floats | None
    se_common: float
    first: str
    second: str
    weights: Floats | None = None

    def __len__(self) -> int:
        return len(self.rows)


def mean_label(mean: float, se: float, kind: LikelihoodKind, bias: Bias, num_neg_inf: int, num_rows: int) -> str:
    """See :meth:`LogLikelihood.label`."""
    word = kind_word(kind, bias)
    if num_neg_inf:
        return f"-inf, {num_neg_inf} of {num_rows} rows ({word})"
    if not math.isfinite(se):
        return f"{mean:.3f} ({word})"
    digits = decimals_for(se)
    return f"{mean:.{digits}f} ± {se:.{digits}f} ({word})"


def mean_text(num_rows: int, num_effective: float | None) -> str:
    """See :meth:`LogLikelihood.rows_text`."""
    if num_effective is None:
        return f"mean of {num_rows} rows"
    return f"weighted mean of {num_rows} rows, worth {num_effective:.0f} of equal weight"


def quadrature(first: Floats | None, second: Floats | None) -> Floats | None:
    """Standard error of a sum of two independent terms; ``None`` is no error."""
    if first is None or second is None:
        return first if second is None else second
    return np.hypot(first, second)


def decimals_for(se: float) -> int:
    """Decimals that show two digits of a standard error, between 0 and 6; 3 where it is rounding error or unknown."""
    return 3 if not se > 1e-9 else max(0, min(6, 1 - math.floor(math.log10(se))))


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def _array(value: ArrayLike, name: str) -> Floats:
    try:
        return _frozen(np.array(value, dtype=np.float64))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from None


def _refuse_not_a_likelihood(name: str, array: Floats, rows: NDArray[np.int64], values: Floats) -> None:
    # A part of a row at -inf may be undefined (-inf minus -inf); the row's value may not.
    nan = np.isnan(array) & (True if name == "values" else ~np.isneginf(values))
    for bad, word in ((nan, "NaN"), (np.isposinf(array), "+inf")):
        if bad.any():
            raise ValueError(
                f"{name}: {int(bad.sum())} of {len(rows)} rows are {word} (first: row {rows[bad.argmax()]}); "
                "a log-likelihood is a finite number, or -inf where the likelihood is zero"
            )


def _sum_of_parts(first: LogLikelihood, second: LogLikelihood, name: str) -> Floats | None:
    a, b = getattr(first, name), getattr(second, name)
    return None if a is None or b is None else a + b


def _joint_measure(first: str, second: str) -> str:
    if first == second or not first or not second:
        return first or second
    return hashlib.sha256("+".join(sorted((first, second))).encode()).hexdigest()[:16]


def _joined(first: str, second: str) -> str:
    return first if first == second else " + ".join(filter(None, (first, second)))


def _span(rows: NDArray[np.int64]) -> str:
    return f" ({rows.min()} to {rows.max()})" if len(rows) else ""
