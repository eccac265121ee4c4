"""A category given the rest of its row, from any model of the whole row: Bayes' rule over the known categories."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import CapabilityError
from genzoo.models.scored_rows import collect
from genzoo.tables.batch import HOLE
from genzoo.tables.schema import column_places

if TYPE_CHECKING:
    from genzoo.likelihood.log_likelihood import LogLikelihood
    from genzoo.models.base import DensityModel
    from genzoo.tables.encode import TableData

Floats = NDArray[np.float64]


def class_posterior(model: DensityModel, table: Any, column: str | None, seed: int | None, draws: int | None) -> Any:
    """See :meth:`genzoo.DensityModel.class_posterior`."""
    import pandas as pd

    name = category_column(model, column)
    log_p = log_posterior(model, model._encoded_table(table, may_lack=[name]), name, seed, draws)
    index = table.index if isinstance(table, pd.DataFrame) else None
    return pd.DataFrame(np.exp(log_p), index, class_names(model, name))


def label_log_prob(
    model: DensityModel, table: Any, column: str | None, seed: int | None, draws: int | None
) -> LogLikelihood:
    """See :meth:`genzoo.DensityModel.label_log_prob`."""
    name = category_column(model, column)
    data = model._encoded_table(table)
    return of_labels(model, data, name, log_posterior(model, data, name, seed, draws), seed, draws)


def of_labels(
    model: DensityModel, data: TableData, name: str, log_p: Floats, seed: int | None, draws: int | None
) -> LogLikelihood:
    """The log-probability of each row's own category, of the rows that have one.

    Args:
        model: What gave ``log_p``.
        data: Rows.
        name: The column.
        log_p: ``(n, C)`` from :func:`log_posterior`.
        seed: Seed of the noise in it.
        draws: Its draws.
    """
    labelled = np.flatnonzero(codes_of(data, name) != HOLE)
    data, log_p = data.select(labelled), log_p[labelled]
    code, epsilon = codes_of(data, name), model.schema.epsilon
    own = np.take_along_axis(log_p, np.maximum(code, 0)[:, None], 1)[:, 0]
    # the rule for categories that training rows did not hold, as in the likelihood of whole rows
    known, new = (math.log1p(-epsilon) if epsilon < 1 else -math.inf), math.log(epsilon)
    if model.schema[name].closed:
        known, new = 0.0, -math.inf
    own = np.where(np.isnan(own), -math.inf, np.where(code < 0, new, own + known))
    part = {"rows": data.rows, "values": own} | ({} if data.weights is None else {"weights": data.weights})
    draws, seed = model.draws if draws is None else draws, model.seed if seed is None else seed
    whole = collect(model, [part], data, seed, draws)
    named: dict[str, Any] = {
        "columns": (name,),
        "context": tuple(other for other in (*whole.columns, *whole.context) if other != name),
        "discrete": None,
        "continuous": None,
    }
    if whole.kind == "exact":
        return replace(whole, method="Bayes' rule", **named)
    method = f"Bayes' rule on bounds{model.likelihood_remark}"
    return replace(whole, kind="estimate", bias="unknown", method=method, **named)


def log_posterior(model: DensityModel, data: TableData, name: str, seed: int | None, draws: int | None) -> Floats:
    """``(n, C)`` log-probabilities of the known categories; NaN where the rest of the row is impossible with each."""
    joint = model.log_joint_of_classes(data, name, seed, draws)
    with np.errstate(invalid="ignore"):
        shifted = joint - joint.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


def log_joint_of_classes(
    model: DensityModel, data: TableData, name: str, seed: int | None, draws: int | None
) -> Floats:
    """``(n, C)``: the log-likelihood of each row with each category in the column's place."""
    order = np.argsort(data.rows, kind="stable")  # a likelihood is in the order of the row numbers
    found = np.empty((len(data), len(class_names(model, name))))
    for code in range(found.shape[1]):
        altered = replace(data, codes=data.codes.copy())
        codes_of(altered, name)[:] = code
        found[order, code] = model.log_prob(altered, seed=seed, draws=draws).values
    return found


def class_names(model: DensityModel, name: str) -> list[str]:
    """Categories of a column; a missing cell that counts as a value is the last."""
    column = model.schema[name]
    names = [*map(str, column.categories)]
    hole = "missing"
    while hole in names:  # a category may bear that name
        hole += "_"
    return [*names, *([hole] * (column.missing == "value"))]


def category_column(model: DensityModel, name: str | None) -> str:
    """The column to tell, checked; by default the one that the model sets apart.

    Raises:
        CapabilityError: there is none, or the model does not score it as a category.
        SchemaError: the table has no such column.
    """
    scored = [column.name for column in model.view.scored if column.is_categorical and not column.shape]
    name = name or model.label_column
    listed = f"it scores the categories {scored}" if scored else "it scores no categories"
    if name is None:
        raise CapabilityError(f"this {type(model).__name__} has no label, so name a column; {listed}")
    if model.schema[name].name not in scored:
        number = model.schema[name].is_numeric
        advice = "; to tell a number as categories, train with kind: categorical for it in the schema" if number else ""
        raise CapabilityError(
            f"{type(model).__name__} gives no probabilities of categories to '{name}'; {listed}{advice}"
        )
    return name


def codes_of(data: TableData, name: str) -> NDArray[np.int64]:
    """``(n,)`` view of a plain column's codes."""
    place = next(place for column, _, place in column_places(data.schema) if column.name == name)
    return data.codes[:, place.start]
