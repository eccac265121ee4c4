"""What rows that also stand in the training data do to a mean."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from genzoo.likelihood.log_likelihood import LogLikelihood


@dataclass(frozen=True)
class DuplicateEffect:
    """What rows that also stand in the training data do to a mean log-likelihood (a density can live on them).

    Args:
        num_rows: Scored rows.
        num_duplicates: Those that are equal to a training row.
        mean: Nats a row with them.
        se: Its standard error.
        mean_without: Nats a row without them; NaN if nothing is left.
        se_without: Its standard error.
    """

    num_rows: int
    num_duplicates: int
    mean: float
    se: float
    mean_without: float
    se_without: float

    @property
    def share(self) -> float:
        """Share of duplicates."""
        return self.num_duplicates / self.num_rows if self.num_rows else math.nan


def with_and_without(likelihood: LogLikelihood, duplicate: ArrayLike) -> DuplicateEffect:
    """The mean with and without the rows marked in ``duplicate`` (``(n,)`` bool, in the order of the likelihood).

    To be shown wherever a column has a density; a table of probabilities alone has no use for it.

    Raises:
        ValueError: the mask does not fit the rows.
    """
    mask = np.asarray(duplicate)
    if mask.dtype != np.bool_ or mask.shape != likelihood.rows.shape:
        raise ValueError(
            f"the mask of duplicates must be {len(likelihood)} true or false values, "
            f"got {mask.dtype} of shape {mask.shape}"
        )
    rest = likelihood.select(~mask)
    return DuplicateEffect(
        num_rows=len(likelihood),
        num_duplicates=int(mask.sum()),
        mean=likelihood.mean(),
        se=likelihood.se_total(),
        mean_without=rest.mean(),
        se_without=rest.se_total(),
    )
