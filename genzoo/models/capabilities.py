"""What a model accepts and offers, as data read by the command line, the catalogue and error messages. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Capabilities:
    """Declared abilities of a model class.

    Args:
        kinds: Column kinds it can score.
        missing: Holes in scored columns: ``exact``, ``lower_bound`` or ``no``.
        context: It can condition on context columns.
        context_missing: It can read holes in context columns.
        likelihood: Kind of its likelihood on continuous columns (``exact``, ``lower_bound`` or ``estimate``).
        quantized: Kind of its likelihood when there are quantized columns.
        categorical: Kind of its likelihood when there are categorical columns, or columns with atoms.
        imputes: It fills missing cells.
        samples: It draws rows.
        uses_mask: It reads the pattern of holes as an input.
        by_column: It says what each cell contributes.
        sequences: It takes text or image blocks.
        min_columns: Fewest scored columns it can model.
        stages: Names of its training stages when there is more than one.
        roles: Roles that some column of the table must have (``treatment``, ``outcome``; ``sensitive``).
        weights: Row weights enter its training: it writes ``row_losses``, or its closed form reads them.
        estimand: What its likelihood is of: ``observational`` (the rows as they come) or ``interventional``, p(Y[a]).
    """

    kinds: tuple[str, ...] = ("continuous", "quantized", "mixed", "categorical", "binary")
    missing: str = "no"
    context: bool = False
    context_missing: bool = False
    likelihood: str = "exact"
    quantized: str = "exact"
    categorical: str = "exact"
    imputes: bool = False
    samples: bool = True
    uses_mask: bool = False
    by_column: bool = False
    sequences: bool = False
    min_columns: int = 1
    stages: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    weights: bool = False
    estimand: str = "observational"
