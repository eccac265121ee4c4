"""What ``genzoo tune`` may change in each model, and within which ends; plain values, no torch.

A space holds the arguments that matter on tables of a few hundred to a few hundred thousand rows. Ends are inside what
trains without trouble; the model's defaults are the first trial of every search.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Range:
    """Numbers between two ends; whole if the ends are.

    Args:
        low: Lower end.
        high: Upper end, included.
        log: Search by ratios.
    """

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """A few values."""

    values: tuple[Any, ...]


Space = dict[str, Range | Choice]

_NETWORK: Space = {"lr": Range(1e-4, 5e-3, log=True), "dropout": Range(0.0, 0.4)}
_FLOW: Space = _NETWORK | {"hidden": Choice((64, 128, 256)), "num_layers": Range(1, 3)}
_DISCRETE: Space = _NETWORK | {"width": Choice((64, 128, 192)), "num_layers": Range(1, 4)}
_FOREST: Space = {
    "depth": Range(3, 8),
    "eta": Range(0.03, 0.5, log=True),
    "min_child_weight": Range(1.0, 50.0, log=True),
}

SPACES: dict[str, Space] = {
    "mixture": {"num_components": Range(1, 60, log=True), "floor": Range(1e-5, 1e-2, log=True)},
    "maf": _FLOW | {"num_transforms": Range(2, 8)},
    "spline_flow": _FLOW | {"num_transforms": Range(1, 5), "bins": Choice((8, 16, 24))},
    "radd": _DISCRETE | {"num_bins": Choice((16, 32, 64))},
    "gidd": _DISCRETE | {"num_bins": Choice((16, 32, 64))},
    "multinomial_diffusion": _DISCRETE | {"num_bins": Choice((16, 32, 64))},
    "forest_autoregressive": _FOREST | {"num_bins": Choice((32, 64, 128))},
    "forest_flow": _FOREST | {"num_levels": Range(10, 50)},
}
