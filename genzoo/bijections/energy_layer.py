"""Layers of an energy-based flow: what a score, written out layer by layer, needs to know of each of them."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.func import jvp, vjp

from genzoo.bijections.base import Bijection


class EnergyLayer(Bijection):
    r"""A bijection that keeps apart what of its log-determinant depends on the data.

    From data to latent, ``u = g(x)``. A layer is *linear* when the Jacobian of ``g`` does not depend on ``x``: then its
    log-determinant is a part of the normalising constant (:meth:`log_constant`) and no score needs it. Any other layer
    reports it row by row (:meth:`push`), and it belongs to the energy.

    Let ``F`` be a function of ``u`` with gradient ``grad``. Three derivatives of ``f(x) = F(g(x)) + log|det g'(x)|``
    make the score and its directional derivative without automatic differentiation over the data:

    - :meth:`pull`: the gradient of ``f``, which is ``J^T grad + d log|det J| / dx``;
    - :meth:`tangent`: ``J v``;
    - :meth:`curvature`: ``d^2/dt^2`` at 0 of ``<grad, g(x + t v)> + log|det J(x + t v)|``, what the layer itself adds
      to ``v^T f'' v``.

    The defaults take them from ``torch.func``; layers with a closed form override them. All are differentiable in the
    layer's parameters.
    """

    linear: ClassVar[bool] = False

    @abstractmethod
    def push(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Data to latent, ``(batch, D)``; and ``log|det J|`` ``(batch,)``, ``None`` for a linear layer."""

    def log_constant(self) -> Tensor:
        """``log|det|`` of a linear layer, a scalar, differentiable; 0 for others."""
        return torch.zeros((), dtype=torch.float64)

    def exact_log_constant(self) -> Tensor:
        """The same in float64 and without gradient, computed anew only when the weights have changed."""
        return self.log_constant().detach().double()

    def pull(self, x: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        """Gradient at ``x`` given the gradient at ``push(x)``, ``(batch, D)``."""
        result = vjp(lambda points: self._both(points, context), x)
        value: tuple[Tensor, Tensor] = result[0]
        pulled: Tensor = result[1]((grad, torch.ones_like(value[1])))[0]
        return pulled

    def carry(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """:meth:`push` without the log-determinant."""
        return self.push(x, context)[0]

    def push_along(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """:meth:`carry` of ``x`` and :meth:`tangent` of ``v``, in one go where that is cheaper."""
        return self.carry(x, context), self.tangent(x, v, context)

    def pull_bent(
        self, x: Tensor, v: Tensor, grad: Tensor, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`pull` and :meth:`curvature` (``None`` for a linear layer), in one go where that is cheaper."""
        return self.pull(x, grad, context), None if self.linear else self.curvature(x, v, grad, context)

    def tangent(self, x: Tensor, v: Tensor, context: Tensor | None = None) -> Tensor:
        """``J v`` for ``v`` ``(slices, batch, D)``, same shape."""
        many, flat, context = _spread(x, v, context)
        result = jvp(lambda points: self.push(points, context)[0], (many,), (flat,))
        along: Tensor = result[1]
        return along.reshape(v.shape)

    def curvature(self, x: Tensor, v: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        """Second derivative along ``v`` ``(slices, batch, D)`` of what the layer does, ``(slices, batch)``."""
        many, flat, context = _spread(x, v, context)
        weight = grad.repeat(len(v), 1)

        def value(points: Tensor) -> Tensor:
            u, log_det = self._both(points, context)
            return (u * weight).sum(1) + log_det

        def slope(points: Tensor) -> Tensor:
            result = jvp(value, (points,), (flat,))
            along: Tensor = result[1]
            return along

        result = jvp(slope, (many,), (flat,))
        bend: Tensor = result[1]
        return bend.reshape(v.shape[:2])

    def paired(self) -> EnergyLayer:
        """The layer for one loss that pushes and pulls once each, where its backward pass is cheaper for that."""
        return self

    def inverse(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        u, log_det = self.push(x, context)
        constant = self.log_constant().to(u).expand(len(u))
        return u, constant if log_det is None else log_det + constant

    def _both(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        u, log_det = self.push(x, context)
        return u, u.new_zeros(len(u)) if log_det is None else log_det


class LinearLayer(EnergyLayer):
    """A layer whose Jacobian is constant: no curvature, and a log-determinant outside the energy."""

    linear: ClassVar[bool] = True

    @abstractmethod
    def matrix(self) -> Tensor:
        """The Jacobian of ``push``, ``(D, D)``, in the weights' type; differentiable."""

    @abstractmethod
    def undo(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Latent to data, without a determinant."""

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.undo(z, context), -self.log_constant().to(z).expand(len(z))

    def curvature(self, x: Tensor, v: Tensor, grad: Tensor, context: Tensor | None = None) -> Tensor:
        return v.new_zeros(v.shape[:2])

    def log_constant(self) -> Tensor:
        log_abs_det: Tensor = torch.linalg.slogdet(self.matrix())[1]
        return log_abs_det

    def weights(self) -> Tensor:
        """What :meth:`matrix` is made of; the exact log-determinant is kept as long as it stays equal."""
        return self.matrix()

    @torch.no_grad()
    def exact_log_constant(self) -> Tensor:
        weights = self.weights().detach()
        kept: tuple[Tensor, float] | None = getattr(self, "_kept", None)
        # by value: an averaged weight is swapped in through .data, which counts as no change of the parameter
        if kept is None or kept[0].dtype != weights.dtype or kept[0].device != weights.device:
            kept = None
        if kept is None or not torch.equal(kept[0], weights):
            kept = (weights.clone(), float(torch.linalg.slogdet(self.matrix().cpu().double())[1]))
            self._kept = kept
        return torch.tensor(kept[1], dtype=torch.float64, device=weights.device)

    @torch.no_grad()
    def condition(self) -> float:
        """Largest over smallest singular value of the matrix."""
        values = torch.linalg.svdvals(self.matrix().double().cpu())
        return float(values[0] / values[-1])


def _spread(x: Tensor, v: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Points and directions as one batch, a copy of the points for each slice."""
    slices = len(v)
    return x.repeat(slices, 1), v.reshape(-1, v.shape[-1]), None if context is None else context.repeat(slices, 1)
