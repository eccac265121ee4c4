"""Jacobians, log-determinants and traces of maps that act on each row by itself, on ``torch.func``.

Every function takes ``function``: a differentiable map of a batch, ``(batch, *event)`` to ``(batch, *event)``, whose
row ``i`` depends on row ``i`` of the input alone (no batch statistics). Results are differentiable in ``x`` and in
whatever parameters ``function`` closes over, and need no gradient mode: they work under ``torch.no_grad``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

RowMap = Callable[[Tensor], Tensor]


def jacobian(function: RowMap, x: Tensor, mode: Literal["reverse", "forward"] = "reverse") -> tuple[Tensor, Tensor]:
    """Value and full Jacobian of every row.

    Args:
        function: Map of a batch, row by row.
        x: ``(batch, *event)``; D is the number of entries of one row.
        mode: ``reverse`` takes one vector-Jacobian product for each output, ``forward`` one Jacobian-vector product
            for each input.

    Returns:
        ``function(x)`` and the Jacobians ``(batch, D_out, D_in)``, events flattened.
    """
    if mode == "reverse":
        value, pull = _pullback(function, x)
        width = value[0].numel()
        basis = _basis(width, value)
        rows = vmap(pull)(basis)  # (D_out, batch, *event)
        return value, rows.flatten(2).transpose(0, 1)
    if mode != "forward":
        raise ValueError(f"mode must be 'reverse' or 'forward', got '{mode}'")
    value = function(x)
    columns = vmap(lambda t: jvp(function, (x,), (t,))[1])(_basis(x[0].numel(), x))  # (D_in, batch, *event)
    return value, columns.flatten(2).permute(1, 2, 0)


def log_abs_det(matrices: Tensor) -> Tensor:
    """``log |det|`` of ``(..., D, D)``, ``(...)``; written out for D of 1 and 2, where it is several times faster."""
    width = matrices.shape[-1]
    if width == 1:
        return matrices[..., 0, 0].abs().log()
    if width == 2:
        a, b, c, d = matrices.flatten(-2).unbind(-1)
        return (a * d - b * c).abs().log()
    return torch.linalg.slogdet(matrices)[1]


def exact_log_det(function: RowMap, x: Tensor) -> tuple[Tensor, Tensor]:
    """``function(x)`` and ``log |det|`` of each row's Jacobian, ``(batch,)`` nats: D passes and a step of order D^3."""
    value, matrices = jacobian(function, x)
    return value, log_abs_det(matrices)


def exact_trace(function: RowMap, x: Tensor) -> tuple[Tensor, Tensor]:
    """``function(x)`` and the trace of the Jacobian of every row, ``(batch,)``; D passes."""
    value, pull = _pullback(function, x)
    basis = _basis(value[0].numel(), value)
    diagonal = vmap(lambda u: (pull(u) * u).flatten(1).sum(1))(basis)
    return value, diagonal.sum(0)


def hutchinson_trace(function: RowMap, x: Tensor, probes: Tensor) -> tuple[Tensor, Tensor]:
    r"""``function(x)`` and unbiased estimates :math:`\epsilon^T J \epsilon` of the trace of the Jacobian.

    Args:
        function: Map of a batch, row by row.
        x: ``(batch, *event)``.
        probes: ``(num_probes, batch, *event)`` with independent entries of mean 0 and variance 1
            (:func:`rademacher`: smallest variance among independent entries; or normal).

    Returns:
        The value, and one estimate for each probe and row, ``(num_probes, batch)``.

    References:
        Hutchinson (1990), A stochastic estimator of the trace of the influence matrix.
    """
    value, pull = _pullback(function, x)
    return value, vmap(lambda e: (pull(e) * e).flatten(1).sum(1))(probes.to(value))


def score(log_prob: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of each row's log-density with respect to the row, ``(batch, *event)``.

    Args:
        log_prob: ``(batch, *event)`` to ``(batch,)``, row by row.
        x: ``(batch, *event)``.
    """
    return grad(lambda points: log_prob(points).sum())(x)


def rademacher(noise: Tensor) -> Tensor:
    """Signs of symmetric noise (normal numbers, say): +1 or -1, each with probability one half."""
    return torch.where(noise >= 0, torch.ones_like(noise), -torch.ones_like(noise))


def _basis(width: int, like: Tensor) -> Tensor:
    """Unit vectors for every row: ``(width, batch, *event)`` of the shape and type of ``like``."""
    eye = torch.eye(width, dtype=like.dtype, device=like.device)
    return eye.reshape(width, 1, *like.shape[1:]).expand(width, *like.shape)


def _pullback(function: RowMap, x: Tensor) -> tuple[Tensor, RowMap]:
    """The value, and the map of a cotangent to its vector-Jacobian product."""
    result: Any = vjp(function, x)
    value, pull = result
    return value, lambda cotangent: pull(cotangent)[0]
