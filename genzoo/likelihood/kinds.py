"""What kind of number a likelihood is, and how kinds combine (DESIGN: signs of the expected error)."""

from __future__ import annotations

from typing import Literal, get_args

LikelihoodKind = Literal["exact", "lower_bound", "upper_bound", "estimate", "unnormalised"]
Bias = Literal["none", "below", "above", "unknown"]

KINDS: tuple[str, ...] = get_args(LikelihoodKind)
