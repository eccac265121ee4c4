"""What the discrete models share: vocabularies and starting values of the network, and filling holes of raw rows."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from genzoo.codecs.tokens import TokenCodec
from genzoo.networks.residual import SymbolMLP
from genzoo.networks.symbols import Vocabulary
from genzoo.networks.text import TextTransformer
from genzoo.networks.transformer import TableTransformer
from genzoo.tables.batch import TableBatch

Network = Literal["auto", "transformer", "mlp", "text"]
NETWORKS: tuple[str, ...] = get_args(Network)
SIZES: dict[str, tuple[int, int]] = {"transformer": (64, 2), "text": (128, 4), "mlp": (512, 2)}
"""Width and layers of each network where they are not given."""
TEXT_LR = 2e-3
WIDE = 32
"""Binary rows of more cells than this are read by the perceptron, where it is left to ``auto``."""


def chosen_network(codec: TokenCodec, network: Network = "auto") -> str:
    """The network meant by ``auto``: ``text`` for a block, ``mlp`` for wide binary rows, else ``transformer``.

    Raises:
        ValueError: unknown name, or ``text`` for cells of different vocabularies.
    """
    if network not in NETWORKS:
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, got '{network}'")
    alike = len({(slot.num_symbols, slot.num_bins, slot.column) for slot in codec.slots}) == 1
    if network == "text" and not alike:
        columns = len({slot.column for slot in codec.slots})
        raise ValueError(
            f"network 'text' reads one block (a column with a shape); the table has {columns} columns to score; "
            "use 'transformer' or 'mlp'"
        )
    if network != "auto":
        return network
    if codec.max_symbols <= 2:
        return "mlp" if codec.num_slots > WIDE else "transformer"
    return "text" if alike and codec.num_slots > 1 else "transformer"


def build_network(
    codec: TokenCodec,
    network: Network = "auto",
    *,
    width: int | None = None,
    num_layers: int | None = None,
    num_heads: int = 4,
    dropout: float = 0.0,
    num_special: int = 1,
    time: bool = False,
    logistic: bool = False,
) -> TableTransformer | SymbolMLP | TextTransformer:
    """The network of a discrete model over the cells of the codec, context cells included; sizes ``None``: SIZES.

    Raises:
        ValueError: as :func:`chosen_network`, or a logistic term beside another network than ``mlp``.
    """
    name = chosen_network(codec, network)
    if logistic and name != "mlp":
        raise ValueError(f"a logistic term is added to network 'mlp', got '{name}'; use network 'mlp' or logistic 0")
    width, num_layers = (given or default for given, default in zip((width, num_layers), SIZES[name], strict=True))
    scored, context = (
        [Vocabulary(slot.num_symbols, slot.num_bins) for slot in slots] for slots in (codec.slots, codec.context_slots)
    )
    sizes: dict[str, Any] = {"width": width, "num_layers": num_layers, "dropout": dropout}
    sizes |= {"num_special": num_special, "time": time}
    if name == "mlp":
        return SymbolMLP(scored, context, logistic=logistic, **sizes)
    if name == "transformer":
        return TableTransformer(scored, context, num_heads=num_heads, **sizes)
    shape = codec.schema[codec.slots[0].column].shape
    axes = [math.prod(shape[i + 1 :]) for i in reversed(range(len(shape))) if shape[i] > 1] or [1]
    return TextTransformer(
        scored[0], len(scored), context, num_heads=num_heads, placed=len(shape) > 1, axes=axes, **sizes
    )


def usual_lr(network: object, usual: float) -> float:
    """Learning rate where none is given: a text transformer, wider and deeper, takes less than tables train with."""
    return TEXT_LR if isinstance(network, TextTransformer) else usual


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
