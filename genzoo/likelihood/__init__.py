"""Log-likelihoods with their kind and error, their comparison, and the estimators behind them.

Names are imported when they are first used, so that nothing here loads torch before it is needed. The function
``discretised`` is in the module of its name.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_WHERE = {
    "Bias": "kinds",
    "LikelihoodKind": "kinds",
    "add_kinds": "kinds",
    "default_bias": "kinds",
    "is_rankable": "kinds",
    "kind_word": "kinds",
    "negate_kind": "kinds",
    "Difference": "log_likelihood",
    "LogLikelihood": "log_likelihood",
    "Paired": "compare",
    "compare_all": "compare",
    "paired": "compare",
    "require_comparable": "compare",
    "Conclusion": "conclusions",
    "Ranking": "conclusions",
    "conclude": "conclusions",
    "conclusion": "conclusions",
    "ranking": "conclusions",
    "Interval": "bootstrap",
    "automatic_block_length": "bootstrap",
    "bca_interval": "bootstrap",
    "block_interval": "bootstrap",
    "holm": "bootstrap",
    "t_interval": "bootstrap",
    "DiscretisedResult": "discretised",
    "resolutions": "discretised",
    "DuplicateEffect": "summaries",
    "with_and_without": "summaries",
    "winsorised_mean": "averages",
    "effective_sample_size": "estimators",
    "importance_weighted": "estimators",
    "log_mean_exp": "estimators",
    "monte_carlo_mean": "estimators",
    "RowNoise": "noise",
    "seed_of": "noise",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return __all__
