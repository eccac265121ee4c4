"""How many bins: by the likelihood that independent columns give to held-out rows, before a network is built."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from genzoo.codecs.tokens import TokenCodec
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Schema

CANDIDATES = (8, 12, 16, 24, 32, 48, 64, 96, 128)


def marginal_log_likelihood(schema: Schema, num_bins: int, train: TableBatch, held_out: TableBatch) -> float:
    """Mean log-likelihood of held-out rows under independent columns with this many bins, nats a row.

    Frequencies are those of the training rows, half a row added to each symbol; rows beyond declared bounds are left
    out.
    """
    codec = TokenCodec(schema, num_bins)
    codec.fit(train)
    seen, new = codec.encode(train).tokens, codec.encode(held_out)
    total = new.log_volume.sum(1)
    for slot, valid in enumerate(codec.valid):
        counts = torch.where(valid, 0.5, 0.0).to(torch.float64)
        counts += torch.bincount(seen[:, slot][seen[:, slot] >= 0], minlength=codec.max_symbols)
        log_share = torch.log(counts / counts.sum())
        tokens = new.tokens[:, slot]
        total = total + torch.where(tokens >= 0, log_share[tokens.clamp(min=0)], 0.0)
    return float(total[~new.outside].mean())


def choose_num_bins(
    schema: Schema, train: TableBatch, held_out: TableBatch, candidates: Sequence[int] = CANDIDATES
) -> int:
    """The number of bins with the best held-out likelihood of independent columns.

    A model reads the number as an argument (``num_bins``), so that its shapes are settled before it is built:

        >>> module.setup("fit")  # doctest: +SKIP
        >>> bins = choose_num_bins(module.schema, module.fit_sample(), module.data("val").batch())  # doctest: +SKIP
        >>> model = RADD(schema=module.schema_dict, num_bins=bins)  # doctest: +SKIP

    Args:
        schema: Schema of the training view.
        train: Training rows.
        held_out: Other rows.
        candidates: Numbers to try, at least 8 each.
    """
    return max(candidates, key=lambda bins: marginal_log_likelihood(schema, bins, train, held_out))
