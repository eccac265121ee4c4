"""A small synthetic table of every column kind, with holes, whose likelihood is known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp

from genzoo.tables.schema import Column, Schema

Array = NDArray[np.float64]
Codes = NDArray[np.int64]

LOG_2PI = float(np.log(2 * np.pi))
AGE_STEP, PRICE_STEP = 1.0, 0.25
CITIES = ("Aarhus", "Bergen", "Cork", "Delft", "Essen")

COLUMNS = (
    Column("height", "continuous", unit="cm"),
    Column("city", "categorical", storage="string", categories=CITIES, closed=True),
    Column("age", "quantized", storage="int", step=AGE_STEP, decimals=0, unit="years"),
    Column("income", "mixed", atoms=(0.0,), unit="thousand euros"),
    Column("member", "binary", storage="string", categories=("no", "yes"), closed=True),
    Column("weight", "continuous", unit="kg"),
    Column("price", "quantized", step=PRICE_STEP, decimals=2, unit="euros"),
)
HEIGHT, AGE, INCOME, WEIGHT, PRICE = range(5)
CITY, MEMBER = range(2)


def log_normal_mass(low: Array, high: Array) -> Array:
    """``log(Phi(high) - Phi(low))`` for ``low <= high``, accurate in both tails."""
    flip = low > 0
    low, high = np.where(flip, -high, low), np.where(flip, -low, high)
    top, bottom = log_ndtr(high), log_ndtr(low)
    with np.errstate(invalid="ignore", divide="ignore"):
        mass = top + np.log(-np.expm1(bottom - top))
    return np.where(low < high, mass, -np.inf)


@dataclass(frozen=True)
class MixedTable:
    """A mixture of three classes; columns are independent given the class but for height and weight, which correlate.

    Given the class: ``(height, weight)`` is a bivariate Gaussian; ``age`` a Gaussian rounded to whole years; ``income``
    is 0 with some probability, else lognormal; ``price`` a lognormal rounded to 0.25; ``city`` and ``member`` are
    drawn from tables. Holes fall at random (missing completely at random), and the likelihood of a row
    is the exact marginal of its observed cells.

    Args:
        holes: Share of missing cells in height, city, age and income; the other columns are complete.
    """

    holes: float = 0.1
    class_weights: tuple[float, ...] = (0.5, 0.3, 0.2)

    HEIGHT = (np.array([165.0, 178.0, 120.0]), np.array([6.0, 7.0, 12.0]))
    WEIGHT = (np.array([62.0, 82.0, 26.0]), np.array([7.0, 10.0, 6.0]))
    CORRELATION = np.array([0.5, 0.3, 0.9])
    AGE = (np.array([38.0, 55.0, 8.0]), np.array([11.0, 9.0, 2.5]))
    NO_INCOME = np.array([0.15, 0.3, 0.95])
    LOG_INCOME = (np.array([3.4, 3.8, 0.5]), np.array([0.5, 0.7, 0.6]))
    LOG_PRICE = (np.array([2.0, 1.2, 0.4]), np.array([0.4, 0.8, 0.5]))
    CITY = np.array([[0.4, 0.3, 0.1, 0.1, 0.1], [0.05, 0.05, 0.3, 0.3, 0.3], [0.2, 0.2, 0.2, 0.2, 0.2]])
    MEMBER = np.array([0.2, 0.7, 0.01])

    def schema(self) -> Schema:
        """The measure of each column; vocabularies are closed."""
        return Schema(columns=COLUMNS, source="mixed")

    def sample(self, num_rows: int, rng: np.random.Generator) -> tuple[Array, Codes]:
        """``numeric`` (num_rows, 5) with NaN for a hole and ``codes`` (num_rows, 2) with -1, in schema order."""
        k = rng.choice(len(self.class_weights), size=num_rows, p=self.class_weights)
        a, b = rng.normal(size=(2, num_rows))
        rho = self.CORRELATION[k]
        numeric = np.empty((num_rows, 5))
        numeric[:, HEIGHT] = self.HEIGHT[0][k] + self.HEIGHT[1][k] * a
        numeric[:, WEIGHT] = self.WEIGHT[0][k] + self.WEIGHT[1][k] * (rho * a + np.sqrt(1 - rho**2) * b)
        numeric[:, AGE] = np.rint(rng.normal(self.AGE[0][k], self.AGE[1][k]))
        income = rng.lognormal(self.LOG_INCOME[0][k], self.LOG_INCOME[1][k])
        numeric[:, INCOME] = np.where(rng.random(num_rows) < self.NO_INCOME[k], 0.0, income)
        price = rng.lognormal(self.LOG_PRICE[0][k], self.LOG_PRICE[1][k])
        numeric[:, PRICE] = np.rint(price / PRICE_STEP) * PRICE_STEP
        codes = np.empty((num_rows, 2), dtype=np.int64)
        below = rng.random(num_rows)[:, None] >= np.cumsum(self.CITY, axis=1)[k]
        codes[:, CITY] = below[:, :-1].sum(axis=1)
        codes[:, MEMBER] = rng.random(num_rows) < self.MEMBER[k]
        missing = rng.random((num_rows, 4)) < self.holes
        for place, column in enumerate((HEIGHT, AGE, INCOME)):
            numeric[missing[:, place], column] = np.nan
        codes[missing[:, 3], CITY] = -1
        return numeric, codes

    def log_prob(self, numeric: Array, codes: Codes) -> Array:
        """``(rows,)`` log-likelihood of the observed cells, nats, under the measure of :meth:`schema`."""
        columns = [numeric[:, [j]] for j in range(5)]
        log_class = np.log(self.class_weights) + self._body(columns[HEIGHT], columns[WEIGHT])
        log_class = log_class + _observed(columns[AGE], self._age) + _observed(columns[INCOME], self._income)
        log_class = log_class + _observed(columns[PRICE], self._price)
        member = np.stack([1 - self.MEMBER, self.MEMBER], axis=1)
        for table, code in ((self.CITY, codes[:, CITY]), (member, codes[:, MEMBER])):
            log_class = log_class + np.where(code[:, None] >= 0, np.log(table).T[code], 0.0)
        with np.errstate(invalid="ignore"):
            return logsumexp(log_class, axis=1)

    def _body(self, height: Array, weight: Array) -> Array:
        """Bivariate Gaussian of height and weight, or the marginal of the one that is observed."""
        a = (height - self.HEIGHT[0]) / self.HEIGHT[1]
        b = (weight - self.WEIGHT[0]) / self.WEIGHT[1]
        log_a = -0.5 * a**2 - 0.5 * LOG_2PI - np.log(self.HEIGHT[1])
        log_b = -0.5 * b**2 - 0.5 * LOG_2PI - np.log(self.WEIGHT[1])
        left = 1 - self.CORRELATION**2
        log_b_given_a = (
            -0.5 * (b - self.CORRELATION * a) ** 2 / left - 0.5 * LOG_2PI - np.log(self.WEIGHT[1]) - 0.5 * np.log(left)
        )
        both = np.where(np.isnan(b), log_a, log_a + log_b_given_a)
        return np.where(np.isnan(a), np.where(np.isnan(b), 0.0, log_b), both)

    def _age(self, age: Array) -> Array:
        mean, sd = self.AGE
        age = np.rint(age / AGE_STEP) * AGE_STEP
        return log_normal_mass((age - AGE_STEP / 2 - mean) / sd, (age + AGE_STEP / 2 - mean) / sd)

    def _income(self, income: Array) -> Array:
        mean, sd = self.LOG_INCOME
        positive = income > 0
        log_income = np.log(np.where(positive, income, 1.0))
        density = -0.5 * ((log_income - mean) / sd) ** 2 - 0.5 * LOG_2PI - np.log(sd) - log_income
        return np.where(
            income == 0, np.log(self.NO_INCOME), np.where(positive, np.log1p(-self.NO_INCOME) + density, -np.inf)
        )

    def _price(self, price: Array) -> Array:
        mean, sd = self.LOG_PRICE
        price = np.rint(price / PRICE_STEP) * PRICE_STEP
        with np.errstate(divide="ignore"):
            low = np.log(np.maximum(price - PRICE_STEP / 2, 0.0))
            high = np.log(np.maximum(price + PRICE_STEP / 2, 0.0))
        return log_normal_mass((low - mean) / sd, (high - mean) / sd)


def _observed(values: Array, log_prob: object) -> Array:
    assert callable(log_prob)
    filled = np.where(np.isnan(values), 1.0, values)
    return np.where(np.isnan(values), 0.0, log_prob(filled))
