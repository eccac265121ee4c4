"""Gradient ascent on the simulated likelihood, from where EM ended: sharper within cells than EM's bound."""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.likelihood.noise import seed_of
from genzoo.models.baselines.mixture_density import Layout, Mixture, log_probs
from genzoo.models.baselines.mixture_em import Prior, penalty, row_weight, select
from genzoo.models.baselines.mixture_fit import held_out_score

BATCH = 512
DRAWS = 4
STEPS = 50


def _free(mixture: Mixture) -> list[Tensor]:
    """Unconstrained copies: weights, means, Cholesky roots with the logarithm of their diagonal, category logits."""
    root = torch.linalg.cholesky(mixture.covariance)
    root = root.tril(-1) + torch.diag_embed(root.diagonal(dim1=1, dim2=2).log())
    return [t.detach().clone().requires_grad_(True) for t in (mixture.log_weight, mixture.mean, root, mixture.category)]


def _constrained(free: list[Tensor], layout: Layout) -> Mixture:
    weight, mean, raw, logits = free
    root = raw.tril(-1) + torch.diag_embed(raw.diagonal(dim1=1, dim2=2).exp())
    slots = [torch.log_softmax(logits[:, part], dim=1) for part in layout.categories.slots()]
    return Mixture(
        torch.log_softmax(weight, 0), mean, root @ root.transpose(1, 2), torch.cat(slots, 1) if slots else logits
    )


def refine(
    mixture: Mixture,
    layout: Layout,
    train: Cells,
    held: Cells,
    prior: Prior,
    num_epochs: int = 10,
    patience: int = 2,
    lr: float = 5e-4,
    seed: int = 0,
    deadline: float = math.inf,
) -> Mixture:
    """Adam on minibatches of ``train``; the state that scores ``held`` best is returned, EM's own included.

    Args:
        mixture: Where EM ended.
        layout: Roles of the slots.
        train: Training rows.
        held: Rows that decide when to stop.
        prior: The prior of EM; its penalty stays part of the objective.
        num_epochs: Most passes over the rows (at most 50 batches each).
        patience: Passes without progress before stopping.
        lr: Step size of Adam, in standardised units.
        seed: Seed of batches and simulation draws.
        deadline: Moment of the monotonic clock after which no step is taken.
    """
    if len(held) == 0:
        return mixture
    best, best_score, waited = mixture, held_out_score(mixture, layout, held, seed), 0
    free = _free(mixture)
    optimizer = torch.optim.Adam(free, lr=lr)
    generator = torch.Generator().manual_seed(seed_of(seed, "refine"))
    draws = DRAWS if sum(layout.quantized) > 1 else 1
    weight = row_weight(train)
    share, rows = weight / weight.mean(), float(weight.sum())
    for _ in range(num_epochs):
        if time.monotonic() >= deadline:
            break
        for index in torch.randperm(len(train), generator=generator).split(BATCH)[:STEPS]:
            if time.monotonic() >= deadline:
                break
            with torch.enable_grad():
                batch = select(train, index)
                uniform = torch.rand(len(index), draws, len(layout.quantized), generator=generator, dtype=torch.float64)
                current = _constrained(free, layout)
                estimates = log_probs(current, layout, batch, uniform.clamp(1e-12, 1 - 1e-12))
                objective = (share[index] * torch.logsumexp(estimates, 1)).mean() + penalty(current, prior) / rows
                optimizer.zero_grad()
                (-objective).backward()
            if not all(bool(torch.isfinite(t.grad).all()) for t in free if t.grad is not None):
                return best
            optimizer.step()
        with torch.no_grad():
            current = _constrained(free, layout)
            current = Mixture(
                *(t.detach() for t in (current.log_weight, current.mean, current.covariance, current.category))
            )
            score = held_out_score(current, layout, held, seed)
        waited = 0 if score > best_score + 1e-4 else waited + 1
        if score > best_score:
            best, best_score = current, score
        if waited >= patience:
            break
    return best
