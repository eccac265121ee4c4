"""The conditional spline flow of one number: a network writes, row by row, the monotone map in front of a normal.

Several heads (one per treatment) share a network, and several copies of the network (one per fold) train side by side
in one batched product, so that cross-fitting costs little more than a single fit.

References:
    Trippe, Turner (2018), Conditional density estimation with Bayesian normalising flows, arXiv:1802.04908.
    Durkan et al. (2019), Neural Spline Flows, arXiv:1906.04032.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from genzoo.bijections.elementwise import Elementwise
from genzoo.likelihood.normal_cells import log_normal_cell, log_normal_density


class LinearCopies(nn.Module):
    """``copies`` independent linear maps in one product: ``(copies, batch, num_in)`` to ``(copies, batch, num_out)``.

    Args:
        copies: Independent maps.
        num_in: Inputs of each.
        num_out: Outputs of each.
        zero: Start at zero instead of at random.
    """

    def __init__(self, copies: int, num_in: int, num_out: int, zero: bool = False) -> None:
        super().__init__()
        bound = 0.0 if zero else 1 / sqrt(max(num_in, 1))
        self.weight = nn.Parameter(torch.empty(copies, num_in, num_out).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(copies, 1, num_out).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)


class ConditionalSpline(nn.Module):
    r"""Densities :math:`p_h(y \mid x)` of one number, for heads :math:`h`, beside free linear-plus-network outputs.

    .. math:: P_h(Y \le y \mid x) = \Phi\big(S_{\theta_h(x)}((y - \mu_h(x)) e^{-s_h(x)})\big)

    with a rational-quadratic spline :math:`S`. Location :math:`\mu_h` and the free outputs are a linear function plus
    the network, so that they extrapolate as a linear model does; scale and bends come from the network alone.

    Likelihood: exact density, and exact mass of any cell, in model space.

    Args:
        num_inputs: Conditioning features of a row.
        num_heads: Densities a row; the heads share the hidden layers.
        num_free: Further outputs a row, such as the logits of a propensity.
        element: Family of the monotone map.
        copies: Independent networks (folds).
        hidden: Units of each hidden layer.
        num_layers: Hidden layers.
        dropout: Probability of dropping a hidden unit in training.

    Shapes: inputs ``(batch, num_inputs)``; parameters ``(num_parameters, copies, batch, num_heads)``; free outputs
    ``(copies, batch, num_free)``.
    """

    def __init__(
        self,
        num_inputs: int,
        num_heads: int,
        element: Elementwise,
        *,
        num_free: int = 0,
        copies: int = 1,
        hidden: int = 32,
        num_layers: int = 2,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if hidden < 1 or num_layers < 1:
            raise ValueError(f"hidden and num_layers must be at least 1, got {hidden} and {num_layers}")
        self.num_inputs, self.num_heads, self.num_free = num_inputs, num_heads, num_free
        self.element, self.copies = element, copies
        self.first = LinearCopies(copies, max(num_inputs, 1), hidden)
        self.middle = nn.ModuleList(LinearCopies(copies, hidden, hidden) for _ in range(num_layers - 1))
        self.last = LinearCopies(copies, hidden, element.num_parameters * num_heads + num_free, zero=True)
        self.straight = LinearCopies(copies, max(num_inputs, 1), num_heads + num_free, zero=True)
        self.dropout = nn.Dropout(dropout)

    def forward(self, inputs: Tensor, noise: float = 0.0) -> tuple[Tensor, Tensor]:
        """Parameters of the maps, and the free outputs.

        Args:
            inputs: ``(batch, num_inputs)``.
            noise: Standard deviation of normal noise on the representation (the first hidden layer), for training.
        """
        if not self.num_inputs:
            inputs = inputs.new_zeros(len(inputs), 1)
        x = inputs.expand(self.copies, *inputs.shape)
        h = F.silu(self.first(x))
        if noise:
            h = h + noise * torch.randn_like(h)
        h = self.dropout(h)
        for layer in self.middle:
            h = h + self.dropout(F.silu(layer(h)))
        out, straight = self.last(h), self.straight(x)
        maps, free = out.split((self.element.num_parameters * self.num_heads, self.num_free), -1)
        parameters = maps.unflatten(-1, (self.element.num_parameters, self.num_heads)).permute(2, 0, 1, 3)
        location, beside = straight.split((self.num_heads, self.num_free), -1)
        return torch.cat([parameters[:1] + location.unsqueeze(0), parameters[1:]]), free + beside

    def log_density(self, y: Tensor, parameters: Tensor) -> Tensor:
        """``log p(y | x)``, nats of model space.

        Args:
            y: One number for each map, or ``(points, ...)`` of them.
            parameters: ``(num_parameters, ...)``, see :meth:`forward`.
        """
        z, log_slope = self.element.apply(y, parameters, to_latent=True)
        return log_normal_density(z) + log_slope

    def log_mass(self, lower: Tensor, upper: Tensor, parameters: Tensor) -> Tensor:
        """``log P(lower < y < upper | x)``; edges may be infinite. Arguments as for :meth:`log_density`, float64."""
        both, _ = self.element.apply(torch.stack([lower, upper]), parameters, to_latent=True)
        return log_normal_cell(both[0], both[1])

    def cell_masses(self, edges: Tensor, parameters: Tensor) -> Tensor:
        """Mass of every cell between neighbouring edges, and of the two beyond the ends: sums to 1 exactly.

        Args:
            edges: ``(num_edges,)`` ascending.
            parameters: ``(num_parameters, ...)``.

        Returns:
            ``(num_edges + 1, ...)``.
        """
        points = edges.to(parameters.dtype).reshape(-1, *[1] * (parameters.dim() - 1))
        points = points.expand(-1, *parameters.shape[1:])
        z, _ = self.element.apply(points, parameters, to_latent=True)
        below = torch.special.ndtr(z)
        ends = torch.zeros_like(below[:1])
        return torch.cat([below, ends + 1]) - torch.cat([ends, below])
