"""Matching the states of a finite table between groups: the bijection that makes two distributions most alike.

References:
    Balunovic, Ruoss, Vechev (2022), Fair Normalizing Flows, arXiv:2106.05937; the rearrangement inequality, Hardy,
    Littlewood and Polya (1934).
"""

from __future__ import annotations

import torch
from torch import Tensor


def sort_match(reference: Tensor, probability: Tensor, classes: Tensor | None = None) -> Tensor:
    r"""The bijection of states that sends the r-th likeliest of one group to the r-th likeliest of the reference.

    By the rearrangement inequality it minimises :math:`\frac12\sum_z |p_0(z) - p_1(f^{-1}(z))|` over all bijections f.

    Args:
        reference: ``(S,)`` probabilities of the reference group.
        probability: ``(S,)`` probabilities of the other group.
        classes: ``(S,)`` labels: states are matched within their class only, so the class of a state is preserved.

    Returns:
        ``(S,)`` int64: the code of each state. Ties keep the order of the states.
    """
    if classes is None:
        classes = torch.zeros_like(reference, dtype=torch.int64)
    code = torch.empty_like(classes)
    for label in torch.unique(classes).tolist():
        states = (classes == label).nonzero().flatten()
        from_here = states[torch.sort(probability[states], descending=True, stable=True).indices]
        to_there = states[torch.sort(reference[states], descending=True, stable=True).indices]
        code[from_here] = to_there
    return code


def pushed(probability: Tensor, code: Tensor) -> Tensor:
    """``(S,)`` probabilities of the codes: those of the states, moved by a bijection."""
    return torch.empty_like(probability).scatter_(0, code, probability)


def fit_logistic(features: Tensor, label: Tensor, weight: Tensor, num_classes: int, penalty: float = 1.0) -> Tensor:
    """Multinomial logistic regression by L-BFGS, ``(num_features + 1, num_classes)``; the last row is the intercept.

    Args:
        features: ``(n, num_features)`` float64.
        label: ``(n,)`` int64.
        weight: ``(n,)`` weights of rows, mean about 1.
        num_classes: Labels are below.
        penalty: Half of it times the squared coefficients is added to the summed loss.
    """
    ones = features.new_ones(len(features), 1)
    design = torch.cat([features, ones], 1)
    with torch.enable_grad():
        beta = torch.zeros(design.shape[1], num_classes, dtype=design.dtype, device=design.device, requires_grad=True)
        optimiser = torch.optim.LBFGS([beta], max_iter=200, line_search_fn="strong_wolfe", tolerance_grad=1e-8)

        def closure() -> Tensor:
            optimiser.zero_grad()
            each = torch.nn.functional.cross_entropy(design @ beta, label, reduction="none")
            loss = ((each * weight).sum() + 0.5 * penalty * beta[:-1].square().sum()) / len(design)
            loss.backward()
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
    return beta.detach()
