"""Exponential moving average of the weights, with Lightning's callback and the order of events GenZoo needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from genzoo.models.lightning_parts import LightningModule, Trainer, WeightAveraging


def ramped_decay(decay: float) -> Any:
    """Averaging function whose decay grows as (1 + n) / (10 + n) up to ``decay``, so early weights are forgotten.

    It moves all weights of a kind in one operation: a network of many small ones spends more on the calls.
    """

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        n = float(num_averaged)
        rate = min(decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(averaged, current, 1 - rate)

    return average


class WeightAverage(WeightAveraging):
    """Averages parameters and copies buffers; evaluation and checkpoints use the averaged weights.

    The codec is fitted before the copy is made (Lightning sets up callbacks before the module), and buffers derived
    from weights are computed anew whenever averaged and trained weights change places.
    """

    def __init__(self, decay: float = 0.99) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=ramped_decay(decay))

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage == "fit":
            pl_module.fit_codec(trainer.datamodule)  # type: ignore[attr-defined,operator]
        super().setup(trainer, pl_module, stage)

    def evaluated(self, pl_module: LightningModule) -> nn.Module:
        """The module whose weights validation and checkpoints see: the average, once there is one."""
        average = self._average_model
        return pl_module if average is None or not int(average.n_averaged) else average.module

    def restart(self, pl_module: LightningModule) -> None:
        """The average starts anew from the module's weights (a new stage of training begins)."""
        average = self._average_model
        if average is not None:
            average.module.load_state_dict(pl_module.state_dict())
            average.n_averaged.zero_()

    def _swap_models(self, pl_module: LightningModule) -> None:
        super()._swap_models(pl_module)
        pl_module.refresh_derived()  # type: ignore[operator]

    def _copy_average_to_current(self, pl_module: LightningModule) -> None:
        super()._copy_average_to_current(pl_module)
        pl_module.refresh_derived()  # type: ignore[operator]
