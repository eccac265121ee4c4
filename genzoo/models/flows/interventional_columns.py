"""Which columns of a table an interventional flow reads as treatment, outcome and covariates."""

from __future__ import annotations

from genzoo.errors import CapabilityError
from genzoo.tables.schema import Column, Schema


def arm_names(column: Column) -> tuple[str, ...]:
    """The treatments, by name; a missing cell that counts as a value is the last."""
    return (*column.categories, "missing") if column.num_categories > len(column.categories) else column.categories


def _single(schema: Schema, role: str) -> Column:
    found = [c for c in schema.columns if c.is_modelled and c.role == role]
    if len(found) > 1:
        raise CapabilityError(
            f"InterventionalFlow takes one {role} column, the table has {', '.join(repr(c.name) for c in found)}; "
            "join them into one, or leave out the others"
        )
    return found[0]


def treatment_column(schema: Schema) -> Column:
    """The treatment.

    Raises:
        CapabilityError: there are several, or it does not name treatments.
    """
    column = _single(schema, "treatment")
    if not column.is_categorical or column.width > 1:
        raise CapabilityError(
            f"treatment column '{column.name}' is {column.kind}, and InterventionalFlow needs named treatments; "
            f"declare it categorical, with --data.overrides '{{{column.name}: {{kind: categorical}}}}' or in the schema"
        )
    if column.num_categories < 2:
        raise CapabilityError(f"treatment column '{column.name}' has one value in the training rows; two are needed")
    return column


def outcome_column(schema: Schema) -> Column:
    """The outcome.

    Raises:
        CapabilityError: there are several, or it is not one number.
    """
    column = _single(schema, "outcome")
    if column.num_atoms or column.width > 1:
        raise CapabilityError(
            f"outcome column '{column.name}' has values with a probability of their own (atoms) or several numbers; "
            "InterventionalFlow takes one continuous or quantized number: declare it so in the schema"
        )
    return column


def treatment_features(view: Schema, treatment: Column) -> tuple[list[int], list[int]]:
    """Context features of the codec that say the treatment, and all others."""
    place = sum(2 * c.width for c in view.context if c.is_numeric)
    mine: list[int] = []
    for column in view.context:
        if column.is_categorical:
            if column.name == treatment.name:
                mine = list(range(place, place + column.num_categories + 1))
            place += (column.num_categories + 1) * column.width
    return mine, [i for i in range(place) if i not in mine]
