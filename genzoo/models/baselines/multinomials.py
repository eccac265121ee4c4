"""Smoothed multinomials: every known category keeps some probability."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PSEUDO_COUNTS = (0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0)


class CategoryLayout:
    """Where the categories of each slot lie in one flat axis of all categories.

    Args:
        sizes: Number of categories of each slot.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self.sizes = tuple(sizes)
        self.starts = tuple(sum(self.sizes[:i]) for i in range(len(self.sizes)))
        self.total = sum(self.sizes)

    def __len__(self) -> int:
        return len(self.sizes)

    def slots(self) -> list[slice]:
        """One slice of the flat axis per slot."""
        return [slice(start, start + size) for start, size in zip(self.starts, self.sizes, strict=True)]

    def counts(self, category: Tensor, weight: Tensor) -> Tensor:
        """Weighted counts of each category.

        Args:
            category: ``(batch, num_slots)`` int64; -1 is a hole and not counted.
            weight: ``(batch, num_components)``.

        Returns:
            ``(num_components, total)``.
        """
        out = weight.new_zeros(self.total, weight.shape[1])
        for j, start in enumerate(self.starts):
            seen = category[:, j] >= 0
            out.index_add_(0, category[seen, j] + start, weight[seen])
        return out.T

    def cell_log_probs(self, log_probs: Tensor, category: Tensor) -> Tensor:
        """Log-probability of each cell under each component, 0 for holes.

        Args:
            log_probs: ``(num_components, total)``.
            category: ``(batch, num_slots)``.

        Returns:
            ``(batch, num_components, num_slots)``.
        """
        starts = torch.tensor(self.starts, dtype=torch.int64, device=category.device)
        # One more column of zeros takes the holes.
        table = torch.cat([log_probs, log_probs.new_zeros(len(log_probs), 1)], dim=1)
        return table[:, torch.where(category >= 0, category + starts, self.total)].transpose(0, 1)

    def row_log_probs(self, log_probs: Tensor, category: Tensor) -> Tensor:
        """Sum over slots of :meth:`cell_log_probs`, ``(batch, num_components)``, without the tensor of all cells."""
        table = log_probs.T.contiguous()
        # One more row of zeros takes the holes.
        table = torch.cat([table, table.new_zeros(1, table.shape[1])])
        out = table.new_zeros(category.shape[0], table.shape[1])
        for j, start in enumerate(self.starts):
            code = category[:, j]
            out = out + table[torch.where(code >= 0, code + start, self.total)]
        return out

    def draw(self, log_probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One category per slot and row.

        Args:
            log_probs: ``(batch, total)``.

        Returns:
            ``(batch, num_slots)`` int64; -1 (a hole) in a slot without a known category.
        """
        out = [
            torch.multinomial(log_probs[:, part].exp(), 1, generator=generator)[:, 0]
            if len(log_probs) and part.start < part.stop
            else torch.full((len(log_probs),), -1, dtype=torch.int64)
            for part in self.slots()
        ]
        return torch.stack(out, dim=1) if out else torch.zeros(len(log_probs), 0, dtype=torch.int64)


def laplace_log_probs(counts: Tensor) -> Tensor:
    """Log-probabilities of one multinomial with the pseudo-count that predicts left-out rows best.

    Row by row, ``(c_k - 1 + a) / (n - 1 + a K)`` predicts a row of category k from the others; ``a`` maximises the
    sum of its logarithms over :data:`PSEUDO_COUNTS`.

    Args:
        counts: ``(num_categories,)`` float64.

    Returns:
        ``(num_categories,)``, all finite, summing (as probabilities) to one.
    """
    total, size = counts.sum(), len(counts)
    best, best_score = PSEUDO_COUNTS[-1], -float("inf")
    if total >= 2:
        for pseudo in PSEUDO_COUNTS:
            left_out = counts * (torch.log((counts - 1).clamp_min(0) + pseudo) - torch.log(total - 1 + pseudo * size))
            score = float(left_out.sum())
            if score > best_score:
                best, best_score = pseudo, score
    return torch.log(counts + best) - torch.log(total + best * size)
