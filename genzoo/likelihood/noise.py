"""Noise for evaluation that depends on the seed and the row number, never on batch size, device or rank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor

BLOCK = 1024


class RowNoise:
    """Random numbers addressed by (seed, stream, row number).

    Blocks of 1024 rows are drawn on the host from a generator seeded by (seed, stream, block), so any row sees the same
    draws whatever rows stand beside it. ``stream`` keeps uses apart: a module that draws twice names two streams. A
    block is drawn whole: for many draws of a wide row ask for one stream at a time (``stream=f"dither/{k}"``).

    Args:
        seed: Seed of the evaluation.
        rows: ``(batch,)`` int64 row numbers.
    """

    def __init__(self, seed: int, rows: Tensor) -> None:
        self.seed = seed
        self.rows = rows.detach().to("cpu", torch.int64)

    def uniform(self, *shape: int, stream: str, device: torch.device | str = "cpu") -> Tensor:
        """``(batch, *shape)`` float64 uniform numbers in the open interval (0, 1)."""
        tiny = 2.0**-54
        drawn = self._draw(torch.rand, shape, f"uniform/{stream}")
        return drawn.clamp_(tiny, 1 - 2.0**-53).to(device)

    def normal(self, *shape: int, stream: str, device: torch.device | str = "cpu") -> Tensor:
        """``(batch, *shape)`` float64 standard normal numbers."""
        return self._draw(torch.randn, shape, f"normal/{stream}").to(device)

    def _draw(self, draw: Callable[..., Tensor], shape: tuple[int, ...], stream: str) -> Tensor:
        out = torch.empty(len(self.rows), *shape, dtype=torch.float64)
        blocks = torch.div(self.rows, BLOCK, rounding_mode="floor")
        for block in torch.unique(blocks).tolist():
            generator = torch.Generator().manual_seed(seed_of(self.seed, stream, block))
            chosen = blocks == block
            values = draw(BLOCK, *shape, generator=generator, dtype=torch.float64)
            out[chosen] = values[self.rows[chosen] - block * BLOCK]
        return out


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed from numbers and words: the same on every machine, different for different parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
