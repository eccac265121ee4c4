"""Fair representations as points of R^D: one bijective encoder a group, so that codes of all groups are alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from genzoo.bijections.base import Bijection, Composition
from genzoo.bijections.coupling import Coupling
from genzoo.bijections.elementwise import Elementwise
from genzoo.likelihood.noise import seed_of
from genzoo.models.flows.dense_points import DensePoints
from genzoo.networks.mlp import ResidualMLP


def half_masks(num_features: int, num_blocks: int, seed: int) -> list[list[int]]:
    """Which features each coupling layer moves: random halves, each followed by its complement."""
    generator = torch.Generator().manual_seed(seed_of(seed, "masks"))
    masks: list[list[int]] = []
    while len(masks) < num_blocks:
        order = torch.randperm(num_features, generator=generator).tolist()
        half = (num_features + 1) // 2
        masks += [sorted(order[:half]), sorted(order[half:]) or sorted(order[:half])]
    return masks[:num_blocks]


class FairPoints(nn.Module):
    """Group densities on R^D, an encoder a group, and a classifier of codes.

    ``inverse`` of an encoder takes a point to its code, ``forward`` goes back. All encoders begin as the identity and
    share their masks.

    Args:
        densities: One density for each cell: a group, or a group and a label (``cell = group * num_labels + label``).
        num_groups: Number of groups.
        cell_labels: Labels that have densities of their own; 1 if densities are by group alone.
        num_classes: Labels the classifier tells apart; 0 for none.
        element: Family of the encoders' monotone maps.
        num_blocks: Coupling layers of each encoder.
        hidden: Units of each hidden layer of the encoders.
        classifier_hidden: Units of each hidden layer of the classifier.
        seed: Seed of masks and draws.
    """

    def __init__(
        self,
        densities: Sequence[DensePoints],
        num_groups: int,
        cell_labels: int,
        num_classes: int,
        element: Elementwise,
        num_blocks: int,
        hidden: int,
        classifier_hidden: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.densities = nn.ModuleList(densities)
        self.num_groups, self.cell_labels, self.seed = num_groups, cell_labels, seed
        self.num_features = densities[0].num_features
        masks = half_masks(self.num_features, num_blocks, seed)
        self.encoders = nn.ModuleList(
            Composition([Coupling(self.num_features, element, moved, hidden=hidden) for moved in masks])
            for _ in range(num_groups)
        )
        start = self.encoders[0].state_dict()
        for encoder in self.encoders[1:]:
            encoder.load_state_dict(start)
        self.classifier = ResidualMLP(self.num_features, num_classes, classifier_hidden) if num_classes else None
        self._pool: list[tuple[Tensor, Tensor]] = []

    def density(self, cell: int) -> DensePoints:
        part = self.densities[cell]
        assert isinstance(part, DensePoints)
        return part

    def encoder(self, group: int) -> Bijection:
        part = self.encoders[group]
        assert isinstance(part, Bijection)
        return part

    def cells_of(self, label: int) -> list[int]:
        """The density of each group, for one label."""
        return [group * self.cell_labels + label for group in range(self.num_groups)]

    # ---- codes ------------------------------------------------------------------------------------------------------

    def encode(self, y: Tensor, group: Tensor) -> Tensor:
        """Codes of points, ``(batch, num_features)``, each by its group's encoder."""
        out = torch.empty_like(y)
        for g in range(self.num_groups):
            here = (group == g).nonzero().flatten()
            if len(here):
                out = out.index_copy(0, here, self.encoder(g).inverse(y[here])[0])
        return out

    def decode(self, z: Tensor, group: Tensor) -> Tensor:
        """Points of codes: the inverse of :meth:`encode`."""
        out = torch.empty_like(z)
        for g in range(self.num_groups):
            here = (group == g).nonzero().flatten()
            if len(here):
                out = out.index_copy(0, here, self.encoder(g)(z[here])[0])
        return out

    def log_prob(self, z: Tensor, label: int = 0) -> Tensor:
        """``(batch, num_groups)`` log-density of codes under each group, nats in code space."""
        found = []
        for group, cell in enumerate(self.cells_of(label)):
            y, log_det = self.encoder(group)(z)
            found.append(self.density(cell).log_prob(y).to(log_det.dtype) + log_det)
        return torch.stack(found, 1)

    def sample(self, num_samples: int, group: int, generator: torch.Generator, label: int = 0) -> Tensor:
        """``(num_samples, num_features)`` float64 codes of fresh draws of a group's fitted density."""
        y = self.density(self.cells_of(label)[group]).sample(num_samples, generator)
        return self.encoder(group).inverse(y)[0]

    def log_label(self, z: Tensor) -> Tensor:
        """``(batch, num_classes)`` log-probability of each label given the code."""
        assert self.classifier is not None
        return torch.log_softmax(self.classifier(z.to(self.classifier.last.weight.dtype)).double(), 1)

    # ---- training ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def fill_pool(self, size: int) -> None:
        """Draws of every fitted density with their log-densities, from which training takes its batches.

        A function of the seed and the fitted densities, so an interrupted run that draws them anew goes on as before.
        """
        if len(self._pool) == len(self.densities) and len(self._pool[0][0]) == size:
            return
        device = next(self.encoders.parameters()).device
        dtype = next(self.encoders.parameters()).dtype
        self._pool = []
        for cell in range(len(self.densities)):
            generator = torch.Generator().manual_seed(seed_of(self.seed, "pool", cell))
            y = self.density(cell).sample(size, generator).to(device, dtype)
            parts = [self.density(cell).log_prob(part).to(dtype) for part in y.split(4096)]
            self._pool.append((y, torch.cat(parts)))

    def forget_pool(self) -> None:
        """The densities have changed."""
        self._pool = []

    def divergence(self, size: int, labels: Sequence[int]) -> Tensor:
        r"""Mean of :math:`KL(p_{Z_a} \| p_{Z_b})` over ordered pairs of groups and over labels, nats.

        Monte Carlo with ``size`` points of the pool a density. Gradients reach both encoders, through the change of
        variables and through the other group's density at the decoded point.
        """
        terms = []
        for label in labels:
            cells = self.cells_of(label)
            for group, cell in enumerate(cells):
                y, log_p = self._pool[cell]
                index = torch.randint(len(y), (size,), device=y.device)
                z, log_det = self.encoder(group).inverse(y[index])
                own = log_p[index] - log_det
                for other, cell_other in enumerate(cells):
                    if other == group:
                        continue
                    back, log_det_other = self.encoder(other)(z)
                    terms.append((own - self.density(cell_other).log_prob(back).to(own) - log_det_other).mean())
        return torch.stack(terms).mean()

    def classification(self, y: Tensor, group: Tensor, label: Tensor, leader: int | None = None) -> Tensor:
        """Cross-entropy of the labels given the codes, averaged within each group, then over groups, nats.

        With a ``leader`` the classifier learns from that group alone, and the encoders of the others learn to be
        understood by it. A classifier that learns from all groups while their codes still lie apart knows the group,
        and reads equal codes in opposite ways; encoders that then move together lose the label.
        """
        known = label >= 0
        y, group, label = y[known].to(next(self.encoders.parameters()).dtype), group[known], label[known]
        if not len(y):
            return sum((p.sum() * 0.0 for p in self.parameters()), y.new_zeros(()))
        z = self.encode(y, group)
        log_label = self.log_label(z)
        if leader is not None and self.encoders.training:
            assert self.classifier is not None
            still = {name: p.detach() for name, p in self.classifier.named_parameters()}
            followed = torch.func.functional_call(self.classifier, still, (z,)).double().log_softmax(1)
            log_label = torch.where((group == leader)[:, None], log_label, followed)
        each = nn.functional.nll_loss(log_label, label, reduction="none")
        means = [each[group == g].mean() for g in group.unique().tolist()]
        return torch.stack(means).mean()
