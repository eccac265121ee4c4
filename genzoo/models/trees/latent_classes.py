r"""Classes that no column names: components of a mixture of Gaussians, found by EM.

A single Gaussian under the trees leaves them all that clusters differ in. With :math:`K` components a row is worth
:math:`\log \sum_k P(k)\, p(x \mid k)`, each with a Gaussian fit and trees of its own; with no trees this is a mixture
of Gaussians. Rows of the training set belong to their most probable component.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from genzoo.codecs.matrix import Rows
from genzoo.models.trees.denoiser import patterns
from genzoo.models.trees.gaussian_fits import RIDGE, gaussian_fit

STEPS = 60
STARTS = 4
STILL = 1e-4
"""Nats a row; EM stops when it gains less."""
PRIOR_ROWS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Rows that the covariance of all components is worth beside that of each; the best on held-out rows is taken."""


@dataclass(frozen=True)
class LatentClasses:
    """Components of a mixture of Gaussians.

    Args:
        log_prob: ``(K,)`` float64.
        mean: ``(K, S)``.
        covariance: ``(K, S, S)``.
        columns: ``(S,)`` the columns of the matrix that they are told apart by.
        prior_rows: Rows that the covariance of all was worth beside that of each.
    """

    log_prob: Tensor
    mean: Tensor
    covariance: Tensor
    columns: Tensor
    prior_rows: float = 1.0

    def log_joint(self, values: Tensor) -> Tensor:
        """``(n, K)`` log-probability of a component and the observed numbers of rows ``(n, P)``."""
        x = values[:, self.columns]
        out = self.log_prob.repeat(len(x), 1)
        for observed, chosen in patterns(x):
            o = observed.nonzero().flatten()
            if len(o) and len(chosen):
                normal = torch.distributions.MultivariateNormal(self.mean[:, o], self.covariance[:, o][:, :, o])
                out[chosen] += normal.log_prob(x[chosen][:, None, o])
        return out

    def assigned(self, rows: Rows) -> Rows:
        """The rows as members of their most probable component."""
        return rows.in_group(self.log_joint(rows.values).argmax(1))


def fit_latent_classes(train: Tensor, held_out: Tensor, columns: Tensor, count: int, seed: int) -> LatentClasses:
    """A mixture of Gaussians by EM from several starts.

    Args:
        train: ``(n, P)`` training rows, NaN for holes.
        held_out: Rows that choose how far components are drawn towards each other; the training rows if there are none.
        columns: Columns of numbers with a density.
        count: Number of components.
        seed: Seed of the starts.
    """
    x = filled(train[:, columns])
    judge = held_out if len(held_out) else train
    judge = held_out if len(held_out) else train

    def score(found: LatentClasses, rows: Tensor) -> float:
        return float(torch.logsumexp(found.log_joint(rows), 1).mean())

    starts = [torch.Generator().manual_seed(seed + start) for start in range(STARTS)]
    first = max((_em(x, columns, _apart(x, count, g), 1.0) for g in starts), key=lambda found: score(found, train))
    share = first.log_joint(train).softmax(1)
    found = [first, *(_em(x, columns, share, prior_rows) for prior_rows in PRIOR_ROWS)]
    return max(found, key=lambda one: score(one, judge))


def filled(x: Tensor) -> Tensor:
    """Rows ``(n, S)`` with the conditional mean of one Gaussian in place of holes."""
    mean, covariance = gaussian_fit(x)
    out = x.clone()
    for observed, chosen in patterns(x):
        o, h = observed.nonzero().flatten(), (~observed).nonzero().flatten()
        if len(h):
            gain = torch.linalg.solve(covariance[o][:, o], covariance[o][:, h])
            out[chosen[:, None], h] = mean[h] + (x[chosen][:, o] - mean[o]) @ gain
    return out


def _apart(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``(n, K)`` first shares: each row belongs to the nearest of some rows that are far from each other."""
    z = x / x.std(0).clamp_min(1e-6)
    chosen = [int(torch.randint(len(x), (1,), generator=generator))]
    while len(chosen) < count:
        distance = torch.cdist(z, z[chosen]).amin(1).square()
        chosen.append(int(torch.multinomial(distance + 1e-12, 1, generator=generator)))
    return torch.nn.functional.one_hot(torch.cdist(z, z[chosen]).argmin(1), count).double()


def _em(x: Tensor, columns: Tensor, share: Tensor, prior_rows: float) -> LatentClasses:
    """Expectation-maximisation from first shares ``(n, K)`` of complete rows ``(n, S)``."""
    (n, width), count = x.shape, share.shape[1]
    ridge = RIDGE * torch.eye(width, dtype=x.dtype)
    before = -torch.inf
    for _ in range(STEPS):
        total = share.sum(0)
        mean = (share.T @ x) / total.clamp_min(1e-9)[:, None]
        centred = x[:, None] - mean
        scatter = torch.einsum("nk,nki,nkj->kij", share, centred, centred)
        covariance = (scatter + prior_rows * scatter.sum(0) / n) / (total + prior_rows)[:, None, None] + ridge
        log_prob = ((total + 1) / (n + count)).log()
        found = LatentClasses(log_prob, mean, covariance, torch.arange(width), prior_rows)
        joint = found.log_joint(x)
        share, now = joint.softmax(1), float(torch.logsumexp(joint, 1).mean())
        if now - before < STILL:
            break
        before = now
    return replace(found, columns=columns)
