"""A masked residual network whose outputs see only earlier inputs (MADE).

References:
    Germain, Gregor, Murray, Larochelle (2015), MADE, arXiv:1502.03509.
    Differs from the paper: degrees are spread evenly instead of drawn, hidden layers are residual, and inputs of
    degree 0 (context, flags of holes) reach every output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class MaskedLinear(nn.Module):
    """A linear layer in which output ``i`` reads input ``j`` only where the mask is true.

    Args:
        mask: ``(num_out, num_in)`` bool.
    """

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        num_out, num_in = mask.shape
        self.weight = nn.Parameter(torch.empty(num_out, num_in))
        self.bias = nn.Parameter(torch.zeros(num_out))
        # The mask follows from the constructor's arguments, so it is not saved.
        self.register_buffer("mask", mask.to(self.weight.dtype), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Variance 1 / (inputs that are really read), per output."""
        fan_in = self.mask.sum(1, keepdim=True).clamp_min(1)
        with torch.no_grad():
            self.weight.uniform_(-1, 1).mul_((3 / fan_in).sqrt()).mul_(self.mask)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, num_in)`` to ``(batch, num_out)``."""
        return F.linear(x, self.weight * self.mask, self.bias)

    def transposed(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """``(batch, num_in)`` to ``(num_out, batch)``; ``rows`` computes only these outputs."""
        if rows is not None:
            return torch.addmm(self.bias[rows, None], self.weight[rows] * self.mask[rows], x.t())
        return torch.addmm(self.bias[:, None], self.weight * self.mask, x.t())


class MADE(nn.Module):
    """Masked residual MLP: output ``i`` depends on input ``j`` only if ``in_degrees[j] <= out_degrees[i]``.

    Args:
        in_degrees: ``(num_in,)`` int64 from 0; 0 is seen by every output.
        out_degrees: ``(num_out,)`` int64 from 0.
        hidden: Units of each hidden layer; should be at least the largest degree.
        num_layers: Hidden layers; all but the first add to what they read.
        dropout: Probability of dropping a hidden unit in training.
        rich_start: Inputs of degree 0 carry information (a context): units that see only them get a full share. Else
            they get a few, and the width goes to later degrees.
    """

    def __init__(
        self,
        in_degrees: Tensor,
        out_degrees: Tensor,
        hidden: int = 128,
        num_layers: int = 2,
        dropout: float = 0.0,
        rich_start: bool = True,
    ) -> None:
        super().__init__()
        if hidden < 1 or num_layers < 1:
            raise ValueError(f"hidden and num_layers must be at least 1, got {hidden} and {num_layers}")
        degrees = _hidden_degrees(hidden, int(out_degrees.max()) if len(out_degrees) else 0, rich_start)
        self.first = MaskedLinear(degrees[:, None] >= in_degrees[None, :])
        self.middle = nn.ModuleList(MaskedLinear(degrees[:, None] >= degrees[None, :]) for _ in range(num_layers - 1))
        self.last = MaskedLinear(out_degrees[:, None] >= degrees[None, :])
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.last.weight)  # at the start every output is its bias

    def trunk(self, x: Tensor) -> Tensor:
        """``(batch, num_in)`` to the last hidden layer ``(batch, hidden)``."""
        h = self.dropout(F.silu(self.first(x)))
        for layer in self.middle:
            h = h + self.dropout(F.silu(layer(h)))
        return h

    def forward(self, x: Tensor, rows: slice | None = None) -> Tensor:
        """``(batch, num_in)`` to ``(num_out, batch)``, or to the outputs in ``rows``.

        Outputs run along the first dimension because what follows (softmax over the bins of a spline) is faster so.
        """
        return self.last.transposed(self.trunk(x), rows)


def _hidden_degrees(hidden: int, top: int, rich_start: bool) -> Tensor:
    """Degrees of hidden units, ascending and evenly spread over ``0 ... top``."""
    if rich_start or top == 0:
        return torch.arange(hidden) * (top + 1) // hidden
    few = min(4, hidden // (top + 1))
    return torch.cat([torch.zeros(few, dtype=torch.int64), 1 + torch.arange(hidden - few) * top // (hidden - few)])
