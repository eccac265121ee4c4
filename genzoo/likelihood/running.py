"""The mean of more likelihoods than memory holds: parts are added one after the other and let go."""

from __future__ import annotations

import math

import numpy as np

from genzoo.errors import ComparisonError
from genzoo.likelihood.averages import weighted_mean
from genzoo.likelihood.kinds import add_kinds
from genzoo.likelihood.log_likelihood import LogLikelihood, mean_label, mean_text


class RunningMean:
    """Mean, standard error, kind and counts of the rows of one model, from parts of them in any sizes.

    Sums are kept about the mean so far (Chan, Golub and LeVeque 1983), so that nothing cancels however long the table;
    results are those of :class:`LogLikelihood` on all rows, to rounding.
    """

    def __init__(self) -> None:
        self.num_rows = 0
        self.num_neg_inf = 0
        self.counts: dict[str, int] = {}
        self.method = ""
        self.weighted: bool | None = None
        self._kind: tuple[str, str] | None = None
        self._weight, self._weight_squares = 0.0, 0.0  # sums over all rows
        self._sum, self._squares = 0.0, 0.0  # of weights and of their squares, over rows above -inf
        self._mean, self._first, self._second = 0.0, 0.0, 0.0  # mean; sums of w^2 d and of w^2 d^2 about it
        self._noise = 0.0  # sum of w se_common

    def add(self, part: LogLikelihood) -> None:
        """Adds rows.

        Raises:
            ComparisonError: some parts have weights and others do not.
        """
        if not len(part):
            return
        weighted = part.weights is not None
        if self.weighted not in (None, weighted):
            raise ComparisonError("some rows have weights and others do not; score them with the same columns")
        self.weighted = weighted
        here = (part.kind, part.bias)
        if self._kind is None or self._kind == here:
            self._kind, self.method = here, self.method or part.method
        else:
            self._kind = add_kinds(self._kind, here)  # type: ignore[arg-type]
            self.method = part.method if self._kind == here else self.method
        for key, count in part.counts.items():
            self.counts[key] = self.counts.get(key, 0) + count
        self.num_rows += len(part)
        self.num_neg_inf += part.num_neg_inf
        w = np.ones(len(part)) if part.weights is None else part.weights
        total = float(w.sum())
        self._noise += total * part.se_common  # one model's common noise is the same in every part
        self._weight, self._weight_squares = self._weight + total, self._weight_squares + float(w @ w)
        finite = part.values != -math.inf
        if finite.any():
            w, values = w[finite], part.values[finite]
            mean = weighted_mean(values, None if part.weights is None else w)
            deviation = w * (values - mean)
            self._merge(float(w.sum()), float(w @ w), mean, float(w @ deviation), float(deviation @ deviation))

    def _merge(self, total: float, squares: float, mean: float, first: float, second: float) -> None:
        """Sums of what was added so far and of a part, both about their common mean."""
        both = self._sum + total
        common = self._mean + (mean - self._mean) * total / both
        old, new = self._mean - common, mean - common
        self._second += 2 * old * self._first + old**2 * self._squares
        self._second += second + 2 * new * first + new**2 * squares
        self._first += old * self._squares + first + new * squares
        self._sum, self._squares, self._mean = both, self._squares + squares, common

    def mean(self) -> float:
        """Nats a row; ``-inf`` if a row is, NaN without rows."""
        return math.nan if not self.num_rows else -math.inf if self.num_neg_inf else self._mean

    def mean_above_neg_inf(self) -> float:
        """Nats a row over the rows that the model holds possible; NaN without one."""
        return self._mean if self.num_rows > self.num_neg_inf else math.nan

    def se_total(self) -> float:
        """Standard error of :meth:`mean`; NaN for fewer than two rows, or a row at ``-inf``."""
        if self.num_rows < 2 or self.num_neg_inf:
            return math.nan
        rows = math.sqrt(self.num_rows / (self.num_rows - 1) * max(self._second, 0.0)) / self._sum
        return math.hypot(rows, self._noise / self._sum)

    @property
    def num_effective(self) -> float:
        """Rows of equal weight that would give a mean of the same precision."""
        return self._weight**2 / self._weight_squares if self._weight_squares else 0.0

    def label(self) -> str:
        """As :meth:`LogLikelihood.label`."""
        kind, bias = self._kind or ("exact", "none")
        return mean_label(self.mean(), self.se_total(), kind, bias, self.num_neg_inf, self.num_rows)  # type: ignore[arg-type]

    def rows_text(self) -> str:
        """As :meth:`LogLikelihood.rows_text`."""
        return mean_text(self.num_rows, self.num_effective if self.weighted else None)
