"""Residual bijections: ``z = x + g(x)`` with a network ``g`` whose Lipschitz constant is below one."""

from __future__ import annotations

from math import ceil, log

import torch
from torch import Tensor

from genzoo.bijections.base import Bijection
from genzoo.bijections.jacobian import log_abs_det
from genzoo.bijections.lipschitz import LipschitzNet, UsedWeights
from genzoo.errors import GenZooError
from genzoo.likelihood.roulette import power_series


def residual_log_det(jacobian: Tensor) -> Tensor:
    """``log det(I + J)`` of ``(..., D, D)``, ``(...)`` nats."""
    eye = torch.eye(jacobian.shape[-1], dtype=jacobian.dtype, device=jacobian.device)
    return log_abs_det(eye + jacobian)


class ResidualBlock(Bijection):
    r"""``z = x + g(x)`` from data to latent; the way back is a fixed-point iteration.

    .. math:: \log\left|\det \frac{dz}{dx}\right| = \log\det(I + J_g(x)) = \sum_{k \ge 1} \frac{(-1)^{k+1}}{k}
        \operatorname{tr} J_g^k

    :meth:`forward` and :meth:`inverse` give the log-determinant of the full Jacobian; :meth:`estimate` an unbiased
    number from random probes, for wide rows.

    Args:
        net: ``g``, whose output has the shape of its input.
        tolerance: The iteration has converged where a step is below ``tolerance * (1 + |z|)`` in every entry; ``None``
            takes 1e-6 for float32 and 1e-10 for float64 weights.
        max_iterations: Most steps; ``None`` takes what the Lipschitz constant guarantees, with a margin.

    References:
        Behrmann et al. (2019), Invertible residual networks, arXiv:1811.00995; Chen et al. (2019), arXiv:1906.02735.
    """

    def __init__(self, net: LipschitzNet, tolerance: float | None = None, max_iterations: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.tolerance = tolerance
        self.max_iterations = max_iterations
        self.residual = 0.0
        """Largest ``|x + g(x) - z|`` of the last iteration, over ``1 + |z|``."""

    def inverse(
        self, x: Tensor, context: Tensor | None = None, used: UsedWeights | None = None
    ) -> tuple[Tensor, Tensor]:
        """``z`` and the exact log-determinant; ``used`` are the network's weights in use, if they are known already."""
        z, jacobian = self.with_jacobian(x, context, used)
        return z, residual_log_det(jacobian)

    def with_jacobian(
        self, x: Tensor, context: Tensor | None = None, used: UsedWeights | None = None
    ) -> tuple[Tensor, Tensor]:
        """``z``, and the Jacobians ``(batch, D, D)`` of the network; see :func:`residual_log_det`."""
        at = self.net.linearise(x.to(self._dtype()), context, used)
        return x + at.value, at.jacobian()

    def forward(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        x = self.solve(z, context)
        return x, -residual_log_det(self.net.linearise(x.to(self._dtype()), context).jacobian())

    def estimate(
        self,
        x: Tensor,
        probe: Tensor,
        weights: Tensor,
        context: Tensor | None = None,
        used: UsedWeights | None = None,
    ) -> tuple[Tensor, Tensor]:
        """``z``, and an unbiased estimate of the log-determinant of each row, ``(batch,)`` nats.

        Where gradients are on, the estimate's is that of the Neumann series: one product's graph, whatever the number
        of terms, and unbiased row by row.

        Args:
            x: ``(batch, *event)``.
            probe: Of the shape of ``x``, entries of mean 0 and variance 1.
            weights: ``(batch or 1, num_terms)``, see :class:`genzoo.likelihood.roulette.Roulette`.
            context: ``(batch, num_context)`` or ``None``.
            used: The network's weights in use, if they are known already.
        """
        at = self.net.linearise(x.to(self._dtype()), context, used)
        probe = probe.to(at.value)
        needs_gradient = torch.is_grad_enabled() and at.value.requires_grad
        with torch.no_grad():
            value, w = power_series(at.detach().pull, probe, weights, neumann=needs_gradient)
        value = value.to(at.value.dtype)
        if w is not None:
            surrogate = (w * at.push(probe)).flatten(1).sum(1)
            value = value + (surrogate - surrogate.detach())
        return x + at.value, value

    @torch.no_grad()
    def solve(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """The ``x`` with ``x + g(x) = z``, by Banach's iteration; rows that have converged rest.

        Raises:
            GenZooError: it did not converge.
        """
        dtype = self._dtype()
        tolerance = self.tolerance or (1e-10 if dtype == torch.float64 else 1e-6)
        limit = self.max_iterations or self._enough(tolerance)
        x = z - self.net(z.to(dtype), context)
        open_rows = torch.arange(len(z), device=z.device)
        here, target, given = x, z, context
        for _ in range(limit):
            moved = target - self.net(here.to(dtype), given)
            step = ((moved - here).abs() / (1 + target.abs())).flatten(1).amax(1)
            here = moved
            going = ~(step < tolerance)
            if bool(going.all()):
                continue
            x[open_rows] = here
            open_rows, here, target = open_rows[going], here[going], target[going]
            given = None if given is None else given[going]
            if not len(open_rows):
                break
        x[open_rows] = here
        residual = ((x + self.net(x.to(dtype), context) - z).abs() / (1 + z.abs())).flatten(1).amax(1)
        self.residual = float(residual.max()) if len(z) else 0.0
        if not self.residual < 10 * tolerance:
            raise GenZooError(
                f"the inverse of a residual block did not converge: {int((~(residual < 10 * tolerance)).sum())} of "
                f"{len(z)} rows have a residual up to {self.residual:.2g} after {limit} steps (asked for "
                f"{tolerance:.0e}); use a smaller Lipschitz constant (lipschitz=0.9) or float64"
            )
        return x

    def _enough(self, tolerance: float) -> int:
        # |x_t - x| <= L^t / (1 - L) |x_1 - x_0|, where the first step is taken for less than 1000
        bound = self.net.bound if self.training else self.net.certificate()
        return 20 + ceil(log(tolerance * (1 - bound) / 1000) / log(bound))

    def _dtype(self) -> torch.dtype:
        return self.net.sharpness.dtype
