"""Growing one booster, with early stopping on held-out rows, and reading its margin."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from genzoo.errors import GenZooError
from genzoo.trees.library import VECTOR_LEAVES, has_vector_leaves, xgboost

Objective = Literal["binary:logistic", "reg:squarederror", "reg:gamma"]
Array = NDArray[Any]


@dataclass(frozen=True)
class Growth:
    """How trees grow.

    Args:
        rounds: Most trees of a booster.
        depth: Deepest tree.
        eta: Shrinkage of each tree.
        bins: Bins of each feature; fewer are faster.
        reg_lambda: L2 penalty of leaf values.
        min_child_weight: Least sum of second derivatives in a leaf.
        patience: Rounds without progress on held-out rows before growth stops; 0 never stops.
        subsample: Share of the rows each tree sees.
        device: ``cpu``, or ``cuda`` with a build of XGBoost that has it; trees of the two differ in the last bits.
        seconds: Longest time that a booster grows: the tree under way is finished. 0 grows none.
        vector: Leaves hold a vector: one tree a round predicts all targets, in place of a tree for each.
    """

    rounds: int = 300
    depth: int = 6
    eta: float = 0.1
    bins: int = 64
    reg_lambda: float = 1.0
    min_child_weight: float = 5.0
    patience: int = 10
    subsample: float = 1.0
    device: Literal["cpu", "cuda"] = "cpu"
    seconds: float = math.inf
    vector: bool = False

    def __post_init__(self) -> None:
        for name, least in (("rounds", 0), ("depth", 1), ("bins", 2), ("patience", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if not 0 < self.eta <= 1:
            raise ValueError(f"eta must be above 0 and at most 1, got {self.eta}")

    def require_build(self) -> None:
        """Raises unless the installed build of XGBoost can grow such trees; reading them takes any build.

        Raises:
            GenZooError: says which build is needed.
        """
        if self.device == "cuda" and not xgboost().build_info().get("USE_CUDA", False):
            raise GenZooError(
                "trees on device 'cuda' need the build of XGBoost with GPU support, and this one has none; "
                "pip uninstall xgboost-cpu && pip install xgboost, or use device 'cpu'"
            )
        if self.vector and not has_vector_leaves():
            raise GenZooError(
                f"leaves 'vector' need XGBoost {VECTOR_LEAVES} or newer, which needs Python 3.12, and this is "
                f"{xgboost().__version__}, where they are slower than a tree for each column; "
                f"pip install 'xgboost-cpu>={VECTOR_LEAVES}', or use leaves 'scalar'"
            )

    def parameters(self, objective: str, seed: int) -> dict[str, Any]:
        """XGBoost's names of these; one thread, so that a booster is a function of rows and seed."""
        return {
            "objective": objective,
            "tree_method": "hist",
            "max_depth": self.depth,
            "eta": self.eta,
            "max_bin": self.bins,
            "reg_lambda": self.reg_lambda,
            "min_child_weight": self.min_child_weight,
            "subsample": self.subsample,
            "nthread": 1,
            "device": self.device,
            "seed": seed % 2**31,
            "verbosity": 0,
        } | ({"multi_strategy": "multi_output_tree"} if self.vector else {})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Examples:
    """Rows to learn from, or to stop by.

    Args:
        features: ``(n, num_features)`` float32; NaN is missing.
        target: ``(n,)``, or ``(n, P)`` for leaves that hold a vector.
        margin: Starting value of the prediction, of the same shape, or ``None`` for zero.
        weight: ``(n,)`` or ``None``.
    """

    features: Array
    target: Array
    margin: Array | None = None
    weight: Array | None = None

    def __len__(self) -> int:
        return len(self.target)


@dataclass(frozen=True)
class Grown:
    """A booster as bytes, and what it took.

    Args:
        blob: UBJSON; empty when no tree helps (the prediction is the starting margin).
        rounds: Trees kept.
        held_out: Loss on the held-out rows before the first tree and after the last kept, or ``None``.
        cut_short: The time limit ended growth.
    """

    blob: bytes
    rounds: int
    held_out: tuple[float, float] | None = None
    cut_short: bool = False


def grow(
    train: Examples,
    held_out: Examples | None,
    growth: Growth,
    objective: Objective,
    seed: int,
    feature_types: Sequence[str] | None = None,
) -> Grown:
    """Grows one booster on ``train``; keeps the number of trees at which the loss of ``held_out`` was least.

    No tree is kept when none lowers it: the starting margin is a candidate like any other.
    """
    if growth.rounds == 0 or len(train) == 0 or train.features.shape[1] == 0:
        return Grown(b"", 0)
    if growth.seconds <= 0:
        return Grown(b"", 0, cut_short=True)
    matrix = quantised(train.features, growth.bins, feature_types=feature_types)
    return grow_on(matrix, train, None if held_out is None else held_out, growth, objective, seed, feature_types)


def quantised(features: Array, bins: int, feature_types: Sequence[str] | None = None, like: Any = None) -> Any:
    """Features in bins, ready to be given one target after the other (:func:`grow_on`)."""
    return xgboost().QuantileDMatrix(
        features, max_bin=bins, nthread=1, ref=like, feature_types=feature_types, enable_categorical=True
    )


def grow_on(
    matrix: Any,
    train: Examples,
    held_out: Examples | None,
    growth: Growth,
    objective: Objective,
    seed: int,
    feature_types: Sequence[str] | None = None,
    held_out_matrix: Any = None,
) -> Grown:
    """As :func:`grow`, on features that are in bins already (their order is that of ``train``)."""
    if growth.seconds <= 0:
        return Grown(b"", 0, cut_short=True)
    xgb = xgboost()
    _label(matrix, train)
    parameters = growth.parameters(objective, seed) | {"base_score": 0.5 if objective == "binary:logistic" else 0.0}
    if objective == "reg:gamma":
        parameters["base_score"] = 1.0
    stopping = growth.patience > 0 and held_out is not None and len(held_out) > 0
    limit = _time_limit(growth.seconds)
    if not stopping:
        booster = xgb.train(parameters, matrix, growth.rounds, verbose_eval=False, callbacks=[limit])
        return Grown(bytes(booster.save_raw("ubj")), booster.num_boosted_rounds(), None, limit.reached)
    assert held_out is not None
    if held_out_matrix is None:
        held_out_matrix = quantised(held_out.features, growth.bins, feature_types, like=matrix)
    _label(held_out_matrix, held_out)
    before = _start_loss(held_out, objective)
    record: dict[str, Any] = {}
    booster = xgb.train(
        parameters,
        matrix,
        growth.rounds,
        evals=[(held_out_matrix, "held_out")],
        evals_result=record,
        callbacks=[xgb.callback.EarlyStopping(rounds=growth.patience), limit],
        verbose_eval=False,
    )
    losses = next(iter(record["held_out"].values()))
    best = int(np.argmin(losses))
    if not losses[best] < before:
        return Grown(b"", 0, (before, before), limit.reached)
    kept = bytes(booster[: best + 1].save_raw("ubj"))
    return Grown(kept, best + 1, (before, float(losses[best])), limit.reached)


def _time_limit(seconds: float) -> Any:
    """XGBoost's callback that ends growth after so many seconds."""
    end = time.monotonic() + seconds
    base: Any = xgboost().callback.TrainingCallback

    class TimeLimit(base):  # type: ignore[misc]
        reached = False

        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            self.reached = time.monotonic() >= end
            return self.reached

    return TimeLimit()


def margin(booster: Any, features: Array, threads: int = 1) -> NDArray[np.float64]:
    """What the trees of a booster add to the starting margin, ``(n,)`` float64; ``(n, P)`` of vector leaves."""
    booster.set_param({"nthread": threads})
    out = booster.inplace_predict(features, predict_type="margin", validate_features=False)
    return np.asarray(out, dtype=np.float64)


def _label(matrix: Any, examples: Examples) -> None:
    matrix.set_label(examples.target)
    # set even if None was meant: a matrix that is used again keeps what it was given before
    matrix.set_base_margin(np.zeros(np.shape(examples.target)) if examples.margin is None else examples.margin)
    matrix.set_weight(np.ones(len(examples)) if examples.weight is None else examples.weight)


def _start_loss(examples: Examples, objective: Objective) -> float:
    """The loss XGBoost would print before the first tree."""
    y = np.asarray(examples.target, dtype=np.float64)
    m = np.zeros(y.shape) if examples.margin is None else np.asarray(examples.margin, dtype=np.float64)
    w = np.ones(len(y)) if examples.weight is None else np.asarray(examples.weight, dtype=np.float64)
    if objective == "binary:logistic":
        loss = np.logaddexp(0, m) - y * m
    elif objective == "reg:gamma":
        loss = 2 * (m - np.log(y) + y * np.exp(-m) - 1)  # gamma-deviance
    else:
        return float(np.sqrt(np.average((y - m) ** 2, weights=w, axis=0).mean()))
    return float(np.average(loss, weights=w))
