"""The one door to XGBoost: imported when a tree is grown or read, and asked for in words where it is absent."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from genzoo.errors import GenZooError

VECTOR_LEAVES = "3.3"
"""The first version of XGBoost whose trees with vector leaves are worth their time."""


def xgboost() -> Any:
    """The module ``xgboost``, from either distribution (``xgboost-cpu`` or ``xgboost``).

    Raises:
        GenZooError: neither is installed, or it does not load.
    """
    try:
        return import_module("xgboost")
    except ModuleNotFoundError as error:
        raise GenZooError(
            "models made of trees need XGBoost, which is not installed; "
            "pip install 'genzoo[trees]' (CPU, 6 MB), or pip install xgboost (with GPU support, 300 MB)"
        ) from error
    except Exception as error:  # a library that does not load raises its own kinds of error
        raise GenZooError(f"XGBoost is installed but does not load: {error}; install xgboost-cpu again") from error


def has_vector_leaves() -> bool:
    """Whether trees that predict all columns at once are fast enough in this build to be of use."""
    found, least = (tuple(map(int, text.split(".")[:2])) for text in (xgboost().__version__, VECTOR_LEAVES))
    return found >= least
