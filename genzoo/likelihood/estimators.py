"""Averages over draws: log-mean-exp of importance weights, means of bounds, and their standard errors. All float64."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def log_mean_exp(log_w: Tensor, dim: int = -1) -> Tensor:
    """``log mean exp`` along ``dim``, in float64; ``-inf`` where every entry is ``-inf``.

    Raises:
        ValueError: ``log_w`` has NaN, or no entry along ``dim``.
    """
    log_w = _checked(log_w, dim)
    return torch.logsumexp(log_w, dim) - math.log(log_w.shape[dim])


def importance_weighted(log_w: Tensor) -> tuple[Tensor, Tensor | None]:
    r"""Log of the mean of ``K`` unbiased estimates of a density: a lower bound in expectation, tighter with ``K``.

    ``log p_hat = log (1/K) sum_k w_k``; by Jensen ``E log p_hat <= log E p_hat = log p``, with bias about
    ``-Var(w) / (2 K mean(w)^2)``.

    Args:
        log_w: ``(batch, K)`` log-weights ``log p(x, z_k) - log q(z_k | x)``.

    Returns:
        ``value`` ``(batch,)`` float64 nats, and ``se`` ``(batch,)`` by the delta method,
        ``sd(w) / (mean(w) sqrt(K))``; ``None`` for ``K = 1``, where nothing can be said. A row whose weights are all
        zero has value ``-inf`` and se 0. With one weight far above the rest the s.e. is near 1 and optimistic: see
        :func:`effective_sample_size`.

    Raises:
        ValueError: ``log_w`` has NaN or is not of shape ``(batch, K)``.

    References:
        Burda, Grosse, Salakhutdinov 2016, Importance weighted autoencoders, arXiv:1509.00519.
    """
    log_w = _rows_of_draws(log_w)
    value = log_mean_exp(log_w, -1)
    count = log_w.shape[-1]
    if count == 1:
        return value, None
    w = _relative_weights(log_w)
    mean = w.mean(-1)
    # mean >= 1/K because the largest relative weight is 1; it is 0 only where all weights are zero.
    se = w.std(-1, correction=1) / (mean.clamp_min(0.5 / count) * math.sqrt(count))
    return value, se


def effective_sample_size(log_w: Tensor) -> Tensor:
    """``(sum w)^2 / sum w^2`` per row, between 1 and ``K``; 0 where all weights are zero.

    Args:
        log_w: ``(batch, K)`` log-weights.
    """
    w = _relative_weights(_rows_of_draws(log_w))
    return w.sum(-1).square() / w.square().sum(-1).clamp_min(0.5)


ess = effective_sample_size


def monte_carlo_mean(terms: Tensor) -> tuple[Tensor, Tensor | None]:
    """Plain mean of ``K`` independent draws of a bound or an unbiased estimate, with its standard error.

    Args:
        terms: ``(batch, K)`` nats.

    Returns:
        ``value`` ``(batch,)`` float64 and ``se`` ``(batch,)`` = ``sd / sqrt(K)``, or ``None`` for ``K = 1``. A row with
        a draw of ``-inf`` has value ``-inf`` and se 0.
    """
    terms = _rows_of_draws(terms)
    value = terms.mean(-1)
    count = terms.shape[-1]
    if count == 1:
        return value, None
    finite = torch.isfinite(value)
    safe = torch.where(finite.unsqueeze(-1), terms, torch.zeros_like(terms))
    return value, safe.std(-1, correction=1) / math.sqrt(count)


def _relative_weights(log_w: Tensor) -> Tensor:
    """Weights over the largest of the row; zeros where all are zero."""
    top = log_w.amax(-1, keepdim=True)
    return torch.exp(log_w - torch.where(torch.isfinite(top), top, torch.zeros_like(top)))


def _rows_of_draws(log_w: Tensor) -> Tensor:
    if log_w.ndim != 2:
        raise ValueError(f"expected draws of shape (batch, K), got {tuple(log_w.shape)}")
    return _checked(log_w, -1)


def _checked(log_w: Tensor, dim: int) -> Tensor:
    if log_w.shape[dim] == 0:
        raise ValueError("no draws to average: at least one is needed")
    log_w = log_w.to(torch.float64)
    if bool(torch.isnan(log_w).any()):
        raise ValueError(f"{int(torch.isnan(log_w).sum())} of {log_w.numel()} log-weights are NaN")
    return log_w
