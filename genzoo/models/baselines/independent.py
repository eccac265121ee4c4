"""Independent columns: the product of the best smooth marginals, the floor every other model has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.codecs.vector import VectorCodec
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.base import DensityModel
from genzoo.models.baselines.filling import fill_holes
from genzoo.models.baselines.marginal_fit import fit_marginal
from genzoo.models.baselines.mixture_em import concatenate, row_weight
from genzoo.models.baselines.mixture_fit import layout_of
from genzoo.models.baselines.multinomials import laplace_log_probs
from genzoo.models.baselines.smooth_marginals import SmoothMarginals
from genzoo.models.capabilities import Capabilities
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch


class Independent(DensityModel):
    r"""Independent columns, each by a smooth marginal fitted in closed form, for any table.

    .. math:: p(x) = \prod_j p_j(x_j)

    A category has a smoothed multinomial (every known category keeps mass). A number has a piecewise linear density
    with exponential tails, blended with a Student t tail and, for a quantized column, with weights on its frequent
    grid points; the blend maximises the likelihood of held-out rows. Atoms are categories of an indicator; cells of
    atoms on a grid are taken out of the continuum, the rest renormalised.

    Context columns are accepted and change nothing: the floor of a conditional model is one that does not look.

    Likelihood: exact, for every pattern of holes (a hole adds nothing). Cell probabilities are differences of the cdf.

    Args:
        schema: The table's schema as a plain dictionary.
        num_knots: Knots of each density; more follow finer detail and cost memory. At least 64.
        num_spikes: Most grid points of one quantized column with a weight of their own.
        draws: Not used: the likelihood is exact.
        seed: Seed of the cross-validation folds.

    References:
        Silverman 1986, Density estimation for statistics and data analysis; Smyth and Wolpert 1999, Linearly combining
        density estimators via stacking. Differs from the papers: local bandwidths and grid spikes are stacked together.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="independent")  # doctest: +SKIP
        >>> model.log_prob("sklearn:wine").mean()  # doctest: +SKIP
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="exact", context=True, context_missing=True, imputes=True, by_column=True, weights=True
    )
    closed_form: ClassVar[bool] = True
    codec: VectorCodec
    category_log_prob: Tensor

    def __init__(
        self, schema: dict[str, Any], num_knots: int = 512, num_spikes: int = 1024, *, draws: int = 1, seed: int = 0
    ) -> None:
        super().__init__(schema, draws=draws, seed=seed)
        if num_knots < 64:
            raise ValueError(f"num_knots must be at least 64, got {num_knots}")
        self.codec = VectorCodec(self.schema)
        self.layout = layout_of(self.codec.numbers, self.codec.categories)
        has_grid = any(slot.quantized for slot in self.codec.numbers)
        num_atoms = self.codec.atom_cells().lower.shape[1]
        self.marginals = SmoothMarginals(len(self.codec.numbers), num_knots, num_spikes if has_grid else 0, num_atoms)
        self.register_buffer("category_log_prob", torch.zeros(self.layout.categories.total, dtype=torch.float64))

    @property
    def num_parameters(self) -> int:
        """Knots, tails, shares, spikes in use and category probabilities."""
        m = self.marginals
        spikes = 2 * int((m.spike_weight > 0).sum())
        return 2 * m.knots.numel() + m.tails.numel() + 2 * m.shares.numel() + spikes + self.category_log_prob.numel()

    def fit_closed_form(self, batches: Sequence[Any]) -> None:
        cells = concatenate(list(batches))
        device = self.category_log_prob.device
        counts = self.layout.categories.counts(cells.category, row_weight(cells)[:, None])[0].cpu()
        possible = self.codec.possible()
        atoms = self.codec.atom_cells()
        full = atoms.exists.sum(1) == self.codec.last - self.codec.first + 1
        for slot, filled in zip(self.codec.numbers, full.tolist(), strict=True):
            if filled and slot.indicator is not None:  # every cell within the bounds is an atom: nothing else exists
                possible[self.layout.categories.slots()[slot.indicator].stop - 1] = False
        logs = torch.full_like(counts, -torch.inf)
        for part in self.layout.categories.slots():
            known = part.start + possible[part].nonzero().flatten()
            logs[known] = laplace_log_probs(counts[known])
        self.category_log_prob.copy_(logs)
        self.marginals.cpu()
        bends = self.codec.bends.tolist()
        for j, slot in enumerate(self.codec.numbers):
            here = cells.present[:, j] & ~cells.outside
            x, lower, upper = (t[here, j].cpu() for t in (cells.number, cells.lower, cells.upper))
            weight = None if cells.weight is None else cells.weight[here]
            seed = seed_of(self.seed, "marginal", j)
            fit_marginal(self.marginals, j, x, lower, upper, slot.quantized, seed, weight, bends[j])
        self.marginals.to(device)
        self.marginals.atom_lower.copy_(atoms.lower)
        self.marginals.atom_upper.copy_(atoms.upper)

    def model_log_prob(self, encoded: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        numbers, categories = self._contributions(encoded)
        by_column = numbers.new_zeros(len(encoded), self.codec.num_scored)
        place = torch.tensor([s.scored for s in self.codec.numbers], dtype=torch.int64, device=numbers.device)
        by_column.index_add_(1, place, numbers)
        place = torch.tensor([s.scored for s in self.codec.categories], dtype=torch.int64, device=numbers.device)
        by_column.index_add_(1, place, categories)
        discrete = numbers[:, self.codec.quantized].sum(1) + categories.sum(1)
        return ModelLogProb(by_column.sum(1), None, discrete, by_column)

    def traced_log_prob(self, encoded: Cells) -> Tensor:
        numbers, categories = self._contributions(encoded)
        return numbers.sum(1) + categories.sum(1)

    def _contributions(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Log-probability of every number ``(batch, numbers)`` and category ``(batch, categories)``, 0 where absent."""
        quantized = self.codec.quantized
        density = self.marginals.log_density(cells.number)
        mass = self.marginals.log_mass(cells.lower, cells.upper) if self.marginals.num_spikes else density
        numbers = torch.where(cells.present, torch.where(quantized, mass, density), 0.0)
        return numbers, self.layout.categories.cell_log_probs(self.category_log_prob[None], cells.category)[:, 0]

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        number = self.marginals.sample(num_samples, generator)
        category = self.layout.categories.draw(self.category_log_prob.cpu().expand(num_samples, -1), generator)
        rows = torch.arange(num_samples, device=number.device)
        return self.codec.decode(number, category.to(number.device), rows)

    def model_impute(
        self, batch: TableBatch, encoded: Cells, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        return [fill_holes(self.schema, batch, self.model_sample(len(batch), None, generator)) for _ in range(draws)]
