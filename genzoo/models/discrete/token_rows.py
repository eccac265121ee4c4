"""What the discrete models share: vocabularies and starting values of the network, and filling holes of raw rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from genzoo.codecs.tokens import TokenCodec
from genzoo.networks.symbols import Vocabulary
from genzoo.networks.transformer import TableTransformer
from genzoo.tables.batch import TableBatch


def table_transformer(codec: TokenCodec, **sizes: Any) -> TableTransformer:
    """A transformer over the cells of the codec, context cells included."""
    scored, context = (
        [Vocabulary(slot.num_symbols, slot.num_bins) for slot in slots] for slots in (codec.slots, codec.context_slots)
    )
    return TableTransformer(scored, context, **sizes)


def log_marginals(codec: TokenCodec, tokens: Tensor) -> Tensor:
    """``(num_slots, max_symbols)`` smoothed log-frequencies of the symbols, ``-inf`` where not valid."""
    valid = codec.valid
    counts = torch.full(valid.shape, 0.5, dtype=torch.float64, device=tokens.device)
    for slot in range(codec.num_slots):
        seen = tokens[:, slot]
        counts[slot] += torch.bincount(seen[seen >= 0], minlength=codec.max_symbols)
    counts = torch.where(valid, counts, 0.0)
    return torch.log(counts / counts.sum(1, keepdim=True))


def filled(codec: TokenCodec, batch: TableBatch, tokens: Tensor, generator: torch.Generator) -> TableBatch:
    """Raw rows whose holes are taken from ``tokens``; observed cells as they were, bit by bit."""
    drawn = codec.decode(tokens, batch.rows, generator, context=batch)
    return batch.with_values(
        numeric=torch.where(batch.numeric.isnan(), drawn.numeric, batch.numeric),
        codes=torch.where(batch.codes < 0, drawn.codes, batch.codes),
    )
