"""What models take from Lightning, and enough of it to score and sample where Lightning is not installed.

Training needs Lightning. A model that is served from ``genzoo export`` needs torch alone: then the module is a plain
``nn.Module`` with a device, and everything that trains is absent.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from genzoo.errors import GenZooError

try:
    from lightning.pytorch import LightningModule, Trainer, __version__
    from lightning.pytorch.callbacks import Callback, EarlyStopping, WeightAveraging
except ImportError:
    __version__ = ""

    class LightningModule(nn.Module):  # type: ignore[no-redef]
        """A module that can be evaluated but not trained."""

        automatic_optimization = False
        global_step = 0

        @property
        def device(self) -> torch.device:
            """Where the weights are."""
            found: Any = next(iter(self.parameters()), None)
            if found is None:
                found = next(iter(self.buffers()), None)
            return torch.device("cpu") if found is None else found.device

        @property
        def trainer(self) -> Any:
            """There is none.

            Raises:
                GenZooError: always.
            """
            raise GenZooError("training needs Lightning: pip install lightning")

    class _Absent:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            raise GenZooError("training needs Lightning: pip install lightning")

    Callback = EarlyStopping = WeightAveraging = Trainer = _Absent  # type: ignore[misc,assignment]

__all__ = ["Callback", "EarlyStopping", "LightningModule", "Trainer", "WeightAveraging", "__version__"]
