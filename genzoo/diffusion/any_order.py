r"""Likelihoods of a model that fills a row one cell at a time in a random order: exact, bounds, and their draws.

``c_i(x_i | S)`` is the model's probability of the symbol of cell ``i`` when the cells ``S`` are visible. The model
fills cells in an order drawn uniformly, so

.. math:: p(x) = \frac{1}{L!} \sum_\sigma \prod_l c_{\sigma(l)}(x_{\sigma(l)} \mid x_{\sigma(<l)}).

By Jensen the average of the logarithms over orders is a lower bound: the likelihood bound of the absorbing diffusion.
Cells without a symbol (holes, ``-1``) stay masked and count as certain; every formula then gives the number of the
observed cells alone, because the order of these among themselves stays uniform.

References: Ou et al. (2024), arXiv:2406.03736; Uria, Murray and Larochelle (2014), arXiv:1310.1757.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo.diffusion.categorical import Conditional, in_pieces, symbol_log_prob
from genzoo.likelihood.noise import RowNoise

MAX_EXACT = 16
"""Most cells for which all subsets are listed."""


def mask_uniformly(tokens: Tensor, count: Tensor, order: Tensor) -> Tensor:
    """Cells of a random subset of the observed ones: those first in ``order``.

    Args:
        tokens: ``(n, L)``, -1 for holes.
        count: ``(n,)`` cells to mask.
        order: ``(n, L)`` uniform numbers.

    Returns:
        ``(n, L)`` bool, True for the masked observed cells.
    """
    observed = tokens >= 0
    order = order.masked_fill(~observed, torch.inf)
    # the next in order after the last one to mask; one sort of values costs a third of two of indices
    after = torch.nn.functional.pad(order.sort(1).values, (0, 1), value=torch.inf).gather(1, count[:, None])
    return observed & (order < after)


def bound_terms(conditional: Conditional, tokens: Tensor, level: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    r"""Unbiased draws of the any-order bound, nats, and the share of each cell.

    A number ``k`` of masked cells is uniform on ``1..n`` (``n`` observed cells), the masked set ``M`` uniform given
    ``k``; the draw is ``(n / k) sum_{i in M} log c_i(x_i | rest)``.

    Args:
        conditional: The model.
        tokens: ``(batch, L)``.
        level: ``(batch, draws)`` in (0, 1), chooses ``k``.
        order: ``(batch, draws, L)`` in (0, 1), chooses ``M``.

    Returns:
        ``(batch, draws)`` and ``(batch, L)``, the mean over draws of each cell's part; float64.
    """
    batch, draws = level.shape
    rows = torch.arange(batch, device=tokens.device).repeat_interleave(draws)
    many = tokens[rows]
    observed = (many >= 0).sum(1)
    count = (level.reshape(-1).to(tokens.device) * observed).floor().to(torch.int64).clamp(max=observed - 1) + 1
    masked = mask_uniformly(many, count, order.reshape(batch * draws, -1).to(tokens.device))
    visible = many.masked_fill(masked, -1)

    def terms(state: Tensor, index: Tensor) -> Tensor:
        return symbol_log_prob(conditional(state, rows[index]), many[index])

    found = in_pieces(terms, visible, torch.arange(len(many), device=tokens.device)).to(torch.float64)
    weight = observed / count.clamp(min=1)
    cells = torch.where(masked, found * weight[:, None], 0.0).reshape(batch, draws, -1)
    return cells.sum(2), cells.mean(1)


def bound_noise(noise: RowNoise, length: int, draws: int) -> tuple[Tensor, Tensor]:
    """Evaluation draws: sizes of the masked set spread evenly over the draws of a row, subsets independent.

    The standard error takes the draws of a row as independent and so is an upper limit (three cells, ten draws: 30 %
    above the spread between seeds).
    """
    start = noise.uniform(stream="any_order/size")[:, None]
    level = (start + torch.arange(draws, dtype=torch.float64) / draws) % 1.0
    order = torch.stack([noise.uniform(length, stream=f"any_order/order/{k}") for k in range(draws)], 1)
    return level.clamp(2.0**-54, 1 - 2.0**-53), order


def subset_table(conditional: Conditional, tokens: Tensor) -> Tensor:
    """``log c_i(x_i | S)`` for all subsets ``S`` of cells: ``(batch, 2^L, L)`` float64, 0 for holes and ``i`` in ``S``.

    Bit ``i`` of the index of a subset says that cell ``i`` is visible. Costs ``2^L`` calls a row.
    """
    batch, length = tokens.shape
    if length > MAX_EXACT:
        raise ValueError(f"all subsets of {length} cells are too many; at most {MAX_EXACT} cells")
    bits = subsets(length, tokens.device)
    number = len(bits)
    rows = torch.arange(batch, device=tokens.device).repeat_interleave(number)
    which = torch.arange(number, device=tokens.device).repeat(batch)
    state = torch.where(bits[which], tokens[rows], -1)

    def terms(state: Tensor, index: Tensor) -> Tensor:
        return symbol_log_prob(conditional(state, rows[index]), tokens[rows[index]])

    found = in_pieces(terms, state, torch.arange(len(state), device=tokens.device)).to(torch.float64)
    return torch.where(bits, 0.0, found.reshape(batch, number, length))


def subsets(length: int, device: torch.device | str = "cpu") -> Tensor:
    """``(2^L, L)`` bool: all subsets, bit by bit."""
    index = torch.arange(2**length, device=device)
    return ((index[:, None] >> torch.arange(length, device=device)) & 1).bool()


def exact_log_prob(table: Tensor) -> Tensor:
    """Exact ``log p(x)`` ``(batch,)`` from a subset table, by dynamic programming over subsets.

    ``a(S)`` is the probability of the symbols of ``S`` when ``S`` is filled in a random order:
    ``a(S) = mean over i in S of a(S without i) c_i(x_i | S without i)``.
    """
    batch, number, length = table.shape
    log_a = table.new_zeros(batch, number)
    sizes = subsets(length, table.device).sum(1)
    every = torch.arange(number, device=table.device)
    for size in range(1, length + 1):
        these = every[sizes == size]
        ways = []
        for i in range(length):
            inside = (these >> i) & 1 == 1
            before = torch.where(inside, these - (1 << i), these)
            way = log_a[:, before] + table[:, before, i]
            ways.append(torch.where(inside, way, -torch.inf))
        log_a[:, these] = torch.logsumexp(torch.stack(ways), 0) - math.log(size)
    return log_a[:, -1]


def exact_bound(table: Tensor) -> tuple[Tensor, Tensor]:
    """The any-order bound without noise, ``(batch,)``, and each cell's part ``(batch, L)``.

    Cell ``i`` is reached with the cells ``S`` visible in a share ``|S|! (L - |S| - 1)! / L!`` of the orders.
    """
    length = table.shape[2]
    sizes = subsets(length, table.device).sum(1).to(torch.float64)
    weight = torch.lgamma(sizes + 1) + torch.lgamma((length - sizes).clamp(min=1e-9)) - math.lgamma(length + 1)
    weight = torch.where(sizes < length, weight.exp(), 0.0)
    cells = (table * weight[:, None]).sum(1)
    return cells.sum(1), cells


def order_log_probs(conditional: Conditional, tokens: Tensor, order: Tensor) -> Tensor:
    """Log-probability of each row filled in given orders: ``(batch, num_orders)`` float64.

    Args:
        conditional: The model; one call a cell and order.
        tokens: ``(batch, L)``.
        order: ``(batch, num_orders, L)`` numbers: cells are filled from the smallest to the largest.
    """
    batch, num_orders, length = order.shape
    rows = torch.arange(batch, device=tokens.device).repeat_interleave(num_orders)
    many = tokens[rows]
    # holes first: they stay masked and cost no call
    key = order.reshape(-1, length).to(tokens.device).masked_fill(many < 0, -torch.inf)
    rank = key.argsort(1).argsort(1)
    holes = (many < 0).sum(1)
    total = torch.zeros(len(many), dtype=torch.float64, device=tokens.device)
    for step in range(length):
        active = torch.nonzero(holes <= step)[:, 0]
        if not len(active):
            continue
        state = torch.where(rank[active] < step, many[active], -1)
        here = rank[active] == step

        def terms(state: Tensor, index: Tensor, active: Tensor = active) -> Tensor:
            return symbol_log_prob(conditional(state, rows[active[index]]), many[active[index]])

        found = in_pieces(terms, state, torch.arange(len(active), device=tokens.device)).to(torch.float64)
        total[active] += torch.where(here, found, 0.0).sum(1)
    return total.reshape(batch, num_orders)
