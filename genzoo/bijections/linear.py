"""Invertible linear maps in LU form, and permutations, either of which can keep light and heavy tails apart.

References:
    Oliva et al. (2018), Transformation Autoregressive Networks, arXiv:1801.09819 (LU parametrisation).
    Laszkiewicz, Lederer, Fischer (2022), Marginal Tail-Adaptive Normalizing Flows, arXiv:2206.10311 (block form).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.bijections.base import Bijection


class LULinear(Bijection):
    r"""``z = W x + b`` from data to latent with ``W = L U``: O(D^2) in both directions, the determinant is a sum.

    ``L`` is lower triangular with ones, ``U`` upper triangular with diagonal ``exp(log_diagonal)``; the identity at the
    start. :meth:`separate` removes from ``U`` the rows of light features against the columns of heavy ones. With light
    features first, ``W`` is then block triangular, ``[[L1 U1, 0], [C U1, L3 U3]]`` with a free lower-left block, and so
    is its inverse: no light feature reads a heavy one, in either direction. With one class only, it is the plain map.

    Args:
        num_features: D.
        bias: Learn ``b``.
    """

    keep: Tensor

    def __init__(self, num_features: int, bias: bool = True) -> None:
        super().__init__()
        if num_features < 1:
            raise ValueError(f"num_features must be at least 1, got {num_features}")
        self.num_features = num_features
        below = num_features * (num_features - 1) // 2
        self.log_diagonal = nn.Parameter(torch.zeros(num_features))
        # Entries strictly below and above the diagonal; a single feature has none (and no parameter without gradient).
        self.lower = nn.Parameter(torch.zeros(below)) if below else None
        self.upper = nn.Parameter(torch.zeros(below)) if below else None
        self.shift = nn.Parameter(torch.zeros(num_features)) if bias else None
        index = torch.tril_indices(num_features, num_features, -1)
        self.register_buffer("_index", index, persistent=False)
        self._index: Tensor
        self.register_buffer("keep", torch.ones(below, dtype=torch.bool))

    def separate(self, heavy: Tensor) -> None:
        """Keeps light features free of heavy ones.

        Args:
            heavy: ``(num_features,)`` bool, light features first.

        Raises:
            ValueError: a light feature comes after a heavy one, where the triangular form cannot keep them apart.
        """
        flags = heavy.to(self.keep)
        if bool((flags[:-1] & ~flags[1:]).any()):
            raise ValueError("light features must come before heavy ones")
        # entry (column, row) of the transposed index: U[i, j] with i < j reads feature j
        above, right = self._index[1], self._index[0]
        self.keep.copy_(flags[above] == flags[right])

    def factors(self, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
        """``L`` and ``U``, ``(num_features, num_features)`` each."""
        diagonal = self.log_diagonal.to(dtype or self.log_diagonal.dtype).exp()
        lower, upper = torch.eye(self.num_features).to(diagonal), torch.diag(diagonal)
        if self.lower is not None and self.upper is not None:
            row, column = self._index
            lower = lower.index_put((row, column), self.lower.to(diagonal))
            upper = upper.index_put((column, row), torch.where(self.keep, self.upper, 0.0).to(diagonal))
        return lower, upper

    def matrix(self) -> Tensor:
        """``W``, ``(num_features, num_features)``."""
        lower, upper = self.factors()
        return lower @ upper

    def log_abs_det(self) -> Tensor:
        """log |det W|, a scalar."""
        return self.log_diagonal.sum()

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = self.factors(z.dtype)
        x = z if self.shift is None else z - self.shift.to(z)
        x = torch.linalg.solve_triangular(lower, x.t(), upper=False, unitriangular=True)
        x = torch.linalg.solve_triangular(upper, x, upper=True).t()
        return x, -self.log_abs_det().to(z).expand(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        lower, upper = self.factors(x.dtype)
        z = (x @ upper.t()) @ lower.t()
        z = z if self.shift is None else z + self.shift.to(x)
        return z, self.log_abs_det().to(x).expand(len(x))


class BlockPermutation(Bijection):
    """A permutation drawn from a seed that :meth:`separate` makes keep light features before heavy ones.

    ``forward`` goes from latent to data: ``x[:, order[i]] = z[:, i]``, so that ``inverse`` sorts light features to the
    front. The order is a buffer: which features are heavy may be known only after the module was built.

    Args:
        num_features: D.
        seed: Seed of the draw.
    """

    order: Tensor
    back: Tensor

    def __init__(self, num_features: int, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("_key", torch.rand(num_features, generator=generator), persistent=False)
        self._key: Tensor
        order = self._key.argsort()
        self.register_buffer("order", order)
        self.register_buffer("back", order.argsort())

    def separate(self, heavy: Tensor) -> Tensor:
        """Draws the order anew within the light and within the heavy features; returns the classes in the new order.

        Args:
            heavy: ``(num_features,)`` bool, in the order of the data side.
        """
        order = (self._key + heavy.to(self._key)).argsort(stable=True)
        self.set_order(order)
        return heavy[order]

    def set_order(self, order: Tensor) -> None:
        """Takes a given order instead of a drawn one, ``(num_features,)`` int64."""
        self.order.copy_(order)
        self.back.copy_(order.argsort())

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return z[:, self.back], z.new_zeros(len(z))

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return x[:, self.order], x.new_zeros(len(x))
