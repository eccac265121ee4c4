"""Optimisers and learning-rate schedules from plain arguments."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from torch import nn

Schedule = Literal["plateau", "cosine", "constant"]


def make_optimizer(
    parameters: Iterable[nn.Parameter], lr: float, choice: dict[str, Any] | None
) -> torch.optim.Optimizer:
    """AdamW with ``lr``, or ``choice``: ``{"class_path": "torch.optim.SGD", "init_args": {...}}``.

    Raises:
        ValueError: the class is not an optimiser of ``torch.optim``.
    """
    choice = choice or {}
    path = choice.get("class_path", "torch.optim.AdamW")
    name = path.removeprefix("torch.optim.")
    kind = getattr(torch.optim, name, None)
    if not (isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)):
        raise ValueError(f"optimizer '{path}' is not in torch.optim; use for example torch.optim.AdamW")
    return kind(parameters, **{"lr": lr, **choice.get("init_args", {})})


def make_schedule(
    optimizer: torch.optim.Optimizer, schedule: Schedule, patience: int, total_steps: int, warm_up: int = 0
) -> Any:
    """Schedule of the learning rate; ``plateau`` steps on val/nll, ``cosine`` on optimiser steps.

    Args:
        optimizer: What it drives.
        schedule: ``plateau`` (a third, after ``patience`` validations without progress), ``cosine`` or ``constant``.
        patience: Validations without progress.
        total_steps: Optimiser steps of the whole run (cosine).
        warm_up: First steps, over which the rate rises in a straight line (cosine and constant).

    Raises:
        ValueError: another schedule, or a warm-up with ``plateau``, which steps on validations.
    """
    if warm_up and schedule == "plateau":
        raise ValueError("warm_up_steps counts optimiser steps; use it with schedule cosine or constant")
    if schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=1 / 3, patience=patience, threshold=1e-4, threshold_mode="abs"
        )
    if warm_up and schedule in ("cosine", "constant"):
        rest = max(1, total_steps - warm_up)

        def factor(step: int) -> float:
            if step < warm_up:
                return (step + 1) / warm_up
            return 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm_up) / rest)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    if schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, total_steps))
    if schedule == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    raise ValueError(f"unknown schedule '{schedule}'; use plateau, cosine or constant")
