"""How a level of noise is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from genzoo.trees.boosting import Growth

External = Literal["auto", "always", "never"]
MOST_BYTES = 2**31
"""Noised rows of a level that take more than this are kept on disk, by default."""


@dataclass(frozen=True)
class LevelPlan:
    """How a level is trained.

    Args:
        growth: The trees.
        copies: Noised copies of each training row; 0 makes about 20,000 noised rows of any table.
        posterior_mean: Targets are means over training rows instead of the row itself (complete rows only).
        heteroscedastic: One more booster predicts the size of the residual.
        seed: Seed of the model.
        likelihood: Residual variances are measured; without them rows can be drawn by the flow alone.
        external: Noised rows are kept on disk: ``always``, ``never``, or ``auto``: those of a table that streams, or
            more than :data:`MOST_BYTES`.
        seconds: Time a level has, most of it for its trees, all columns together. Without any, the level is left at its
            Gaussian fit.
    """

    growth: Growth
    copies: int
    posterior_mean: bool
    heteroscedastic: bool
    seed: int
    likelihood: bool = True
    external: External = "auto"
    seconds: float = math.inf

    @property
    def grows(self) -> bool:
        """There are trees at all."""
        return self.growth.rounds > 0 and self.seconds > 0

    def on_disk(self, num_rows: int, width: int, streams: bool) -> bool:
        """Whether ``num_rows`` training rows of ``width`` columns are noised to disk."""
        if self.external != "auto":
            return self.external == "always"
        # features are about twice as many as columns; targets come beside them
        return self.copies > 0 and (streams or num_rows * self.copies * width * 3 * 4 > MOST_BYTES)
