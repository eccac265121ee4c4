"""Says, before anything is built, whether a model can take what a table holds."""

from __future__ import annotations

from functools import partial

from genzoo.errors import CapabilityError
from genzoo.models.capabilities import Capabilities
from genzoo.models.catalogue import alternatives
from genzoo.tables.schema import Schema


def require_capable(name: str, capabilities: Capabilities, schema: Schema) -> None:
    """Checks column kinds, context, blocks and the number of scored columns.

    Raises:
        CapabilityError: names the column and the models that can take it.
    """
    scored = schema.scored
    if not scored:
        raise CapabilityError("the table has no column to model: every column is constant, ignored or context")
    if len(scored) < capabilities.min_columns:
        raise CapabilityError(
            f"{name} needs at least {capabilities.min_columns} columns to model, the table has {len(scored)}; "
            f"use {_list(alternatives(lambda c: c.min_columns <= len(scored)))}"
        )
    for column in scored:
        if column.kind not in capabilities.kinds:
            able = _list(alternatives(partial(_takes, column.kind)))
            raise CapabilityError(
                f"{name} cannot model column '{column.name}' ({column.kind}); use {able}, "
                "or declare the column differently in the schema"
            )
        if column.shape and not capabilities.sequences and column.width > 256:
            raise CapabilityError(
                f"{name} does not model blocks such as '{column.name}' (shape {list(column.shape)}); "
                f"use {_list(alternatives(lambda c: c.sequences))}"
            )
    if schema.context and not capabilities.context:
        raise CapabilityError(
            f"{name} does not condition on context columns ('{schema.context[0].name}'); "
            f"use {_list(alternatives(lambda c: c.context))}, or make the column a value"
        )


def require_roles(name: str, capabilities: Capabilities, schema: Schema) -> None:
    """Checks that the table says which columns play the parts that the model needs.

    Raises:
        CapabilityError: names the role and how to give it.
    """
    for role in capabilities.roles:
        holders = [column for column in schema.columns if column.role == role]
        if not holders:
            raise CapabilityError(
                f"{name} needs a {role} column, and no column of the table has that role; name one with "
                f"--data.{role}, or with role: {role} in the schema"
            )
        if not any(column.is_modelled for column in holders):
            raise CapabilityError(f"{name} needs a {role} column, and '{holders[0].name}' has one value in every row")


def require_weighable(name: str, capabilities: Capabilities, schema: Schema) -> None:
    """Checks that a table with row weights meets a model that trains with them.

    Raises:
        CapabilityError: names the column and the models that can.
    """
    if schema.weight is not None and not capabilities.weights:
        raise CapabilityError(
            f"{name} does not train with row weights (column '{schema.weight.name}'); "
            f"use {_list(alternatives(lambda c: c.weights))}, or give the column role ignore"
        )


def require_complete(name: str, capabilities: Capabilities, schema: Schema, holes: dict[str, int]) -> None:
    """Checks that holes stand only where the model can take them.

    Args:
        name: Model name for the message.
        capabilities: What it accepts.
        schema: The table's schema.
        holes: Missing cells per column name.

    Raises:
        CapabilityError: names the column, the number of holes and what to do.
    """
    for column in schema.columns:
        count = holes.get(column.name, 0)
        if not count or not column.is_modelled or column.missing == "value":
            continue
        if column.role == "context" and not capabilities.context_missing:
            raise CapabilityError(
                f"context column '{column.name}' has {count} missing values, and {name} needs complete context "
                f"columns; impute them, or drop '{column.name}' from the context"
            )
        if column.is_scored and capabilities.missing == "no":
            raise CapabilityError(
                f"column '{column.name}' has {count} missing values, and {name} needs complete rows; "
                f"use {_list(alternatives(lambda c: c.missing != 'no'))}, or impute them first"
            )


def _takes(kind: str, capabilities: Capabilities) -> bool:
    return kind in capabilities.kinds


def _list(names: list[str]) -> str:
    return ", ".join(names) if names else "another model"
