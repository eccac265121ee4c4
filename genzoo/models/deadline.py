"""When training is to end, for models whose fit is more than a loop of the Trainer's."""

from __future__ import annotations

import math
import time
from typing import Any


def deadline_of(model: Any) -> float:
    """The moment of ``time.monotonic()`` at which the time limit of the model's Trainer is over; infinite without one.

    A model that is fitted outside a Trainer, as a part of another, has no limit of its own.
    """
    trainer = getattr(model, "_trainer", None)
    timers = [] if trainer is None else [timer for timer in trainer.callbacks if hasattr(timer, "time_remaining")]
    left = [timer.time_remaining() for timer in timers]
    return time.monotonic() + min((seconds for seconds in left if seconds is not None), default=math.inf)
