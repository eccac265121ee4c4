"""GenZoo: train density models on any table and compare likelihoods that mean the same thing."""

from __future__ import annotations

from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "fit": "genzoo.api",
    "load": "genzoo.models.checkpoint",
    "compare": "genzoo.api",
    "infer_schema": "genzoo.tables.infer",
    "Schema": "genzoo.tables.schema",
    "Column": "genzoo.tables.schema",
    "LogLikelihood": "genzoo.likelihood.log_likelihood",
    "DensityModel": "genzoo.models.base",
    "DensityEstimator": "genzoo.estimator",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'genzoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
