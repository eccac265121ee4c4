"""A residual multi-layer perceptron."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualMLP(nn.Module):
    """``(batch, num_in)`` to ``(batch, num_out)``; hidden layers add to what they read; zero output at the start.

    Args:
        num_in: Inputs; 0 makes the output a learned constant.
        num_out: Outputs.
        hidden: Units of each hidden layer.
        num_layers: Hidden layers.
        dropout: Probability of dropping a hidden unit in training.
    """

    def __init__(self, num_in: int, num_out: int, hidden: int = 128, num_layers: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        if hidden < 1 or num_layers < 1:
            raise ValueError(f"hidden and num_layers must be at least 1, got {hidden} and {num_layers}")
        self.num_in = num_in
        self.first = nn.Linear(max(num_in, 1), hidden)
        self.middle = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(num_layers - 1))
        self.last = nn.Linear(hidden, num_out)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.num_in:
            x = x.new_zeros(len(x), 1)
        h = self.dropout(F.silu(self.first(x)))
        for layer in self.middle:
            h = h + self.dropout(F.silu(layer(h)))
        return self.last(h)
