"""Optimisers and learning-rate schedules from plain arguments."""

from __future__ import annotations

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


def make_schedule(optimizer: torch.optim.Optimizer, schedule: Schedule, patience: int, total_steps: int) -> Any:
    """Schedule of the learning rate; ``plateau`` steps on val/nll, ``cosine`` on optimiser steps.

    Args:
        optimizer: What it drives.
        schedule: ``plateau`` (a third, after ``patience`` validations without progress), ``cosine`` or ``constant``.
        patience: Validations without progress.
        total_steps: Optimiser steps of the whole run (cosine).
    """
    if schedule == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=1 / 3, patience=patience, threshold=1e-4, threshold_mode="abs"
        )
    if schedule == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(1, total_steps))
    if schedule == "constant":
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    raise ValueError(f"unknown schedule '{schedule}'; use plateau, cosine or constant")
