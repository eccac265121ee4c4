"""Tree-based flow matching with a likelihood: boosted denoisers at levels of noise, read as a latent-variable model."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genzoo.codecs.matrix import CodeChoice, MatrixCodec, Rows
from genzoo.likelihood.estimators import importance_weighted
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.baselines.filling import fill_holes
from genzoo.models.baselines.multinomials import CategoryLayout, laplace_log_probs
from genzoo.models.capabilities import Capabilities
from genzoo.models.scoring import ModelLogProb
from genzoo.models.trees.base import TreeModel
from genzoo.models.trees.code_posterior import MOST_VALUES, all_codes, block_axes, known_values
from genzoo.models.trees.decoder import Decoder
from genzoo.models.trees.denoiser import Denoiser, level_name, patterns
from genzoo.models.trees.level_job import LevelPlan, train_level
from genzoo.models.trees.reverse_path import ReversePath
from genzoo.tables.batch import TableBatch
from genzoo.trees.boosting import Growth
from genzoo.trees.levels import Spacing, level_grid, shortest_path

RIDGE = 1e-6
"""Added to the covariance of the scaled training rows, so that one-hot codes and copied columns are no singularity."""


class ForestFlow(TreeModel):
    r"""Tree-based flow matching for any table: boosted trees undo noise, level by level, and give a likelihood.

    Rows are noised on the straight path :math:`x_t = (1 - t) x + t e`; at each level trees estimate
    :math:`\hat x(x_t) = E[x \mid x_t]` on top of the estimate that is right for Gaussian rows. The authors sample by
    the flow :math:`dx/dt = (x_t - \hat x) / t`, which has no density, since trees are piecewise constant. The same
    trees are the denoiser of a latent-variable model that has one:

    .. math:: p(x) = \int N(x_1; 0, I) \prod_{u < t}
              N\big(x_u;\, c_t x_t + c_x \hat x,\; b^2 I + c_x^2 h(x_t) T_t\big)\, p(x \mid x_{t_1})

    with :math:`T_t` the residual covariance of the level in the principal axes of the rows, scaled by one more booster
    :math:`h`. Samples, imputations and the likelihood all come from it.

    Likelihood: lower bound, the log-mean-exp of ``draws`` importance weights; tighter with more draws and levels, at
    proportional cost. Cells of a grid and categories are scored by the decoder as probabilities. Holes: the bound of
    the observed cells given the pattern, which trees see as NaN.

    Args:
        schema: The table's schema as a plain dictionary.
        num_levels: Levels of noise; each has its own trees. More are slower and tighter.
        copies: Noised copies of each training row at a level; 0 takes as many as make about 20,000 noised rows (at most
            20), and of a longer table a random 20,000 rows at each level.
        rounds: Most trees of a column at a level; 0 leaves the Gaussian fit.
        depth: Deepest tree.
        eta: Shrinkage of each tree.
        min_child_weight: Fewest noised rows in a leaf.
        stopping: Rounds without progress on held-out rows (the validation split) before a column stops; 0: never.
        spacing: Levels ``uniform`` in t, even in the ``log_snr``, or by the number of columns (``auto``).
        num_steps: Levels the likelihood and samples go through, chosen by dynamic programming; 0 takes all.
        posterior_mean: Learn from means over training rows instead of single rows (complete tables without context).
        heteroscedastic: One more booster a level says where the residual is wide.
        sampler: ``ancestral`` draws from the model whose likelihood is reported; ``euler`` follows the authors' flow.
        scaler: Scale of the numbers before noise is added; ``standardise`` gives z-scores.
        code: Points that stand for categories of three values and more.
        particles: Paths a row in imputation; more is closer to the exact conditional.
        groups: Epochs the levels are spread over; a checkpoint is written after each.
        workers: Threads that grow trees; 0 takes the cores of the machine. The result does not depend on it.
        draws: Importance weights a row.
        seed: Seed of noise and trees.

    References:
        Jolicoeur-Martineau, Fatras, Kachman 2024, Generating and imputing tabular data via diffusion and flow-based
        gradient-boosted trees, arXiv:2309.09968; Cresswell, Kim 2024, arXiv:2408.16046; Burda, Grosse, Salakhutdinov
        2016, arXiv:1509.00519 (importance weights).
        Differs from the papers: a likelihood; z-scores or smooth scales without clipping instead of a box; a linear
        part before the trees; stopping on held-out rows; one model for all classes; stochastic imputation.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="forest_flow")  # doctest: +SKIP
        >>> model.log_prob("sklearn:wine").kind  # doctest: +SKIP
        'lower_bound'
    """

    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="lower_bound",
        context=True,
        context_missing=True,
        likelihood="lower_bound",
        quantized="lower_bound",
        categorical="lower_bound",
        imputes=True,
        uses_mask=True,
    )
    codec: MatrixCodec
    mean: Tensor
    covariance: Tensor
    category_log_prob: Tensor
    grid_points: Tensor
    grid_logs: Tensor

    def __init__(
        self,
        schema: dict[str, Any],
        num_levels: int = 25,
        copies: int = 0,
        rounds: int = 200,
        depth: int = 5,
        eta: float = 0.15,
        min_child_weight: float = 5.0,
        stopping: int = 10,
        spacing: Spacing = "auto",
        num_steps: int = 0,
        posterior_mean: bool = True,
        heteroscedastic: bool = True,
        sampler: Literal["ancestral", "euler"] = "ancestral",
        scaler: Literal["auto", "standardise", "robust", "asinh", "quantile"] = "auto",
        code: CodeChoice = "auto",
        particles: int = 32,
        *,
        groups: int = 10,
        workers: int = 0,
        draws: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(schema, groups=groups, workers=workers, draws=draws, seed=seed)
        if copies < 0:
            raise ValueError(f"copies must be 0 (by the number of rows) or more, got {copies}")
        self.codec = MatrixCodec(self.schema, scaler, code)
        width = self.codec.width
        discrete = all(slot.quantized for slot in self.codec.typed.numbers)
        self.levels = level_grid(num_levels, spacing, width, discrete)
        self.num_steps, self.sampler, self.particles = num_steps, sampler, particles
        growth = Growth(rounds, depth, eta, min_child_weight=min_child_weight, patience=stopping)
        self.plan = LevelPlan(growth, copies, posterior_mean, heteroscedastic, seed)
        self.layout = CategoryLayout([slot.num_categories for slot in self.codec.typed.categories])
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(width, dtype=torch.float64))
        self.register_buffer("category_log_prob", torch.zeros(self.layout.total, dtype=torch.float64))
        for name in ("grid_points", "grid_logs"):
            shape = (len(self.codec.typed.numbers), MOST_VALUES)
            self.register_buffer(name, torch.full(shape, torch.nan, dtype=torch.float64))
        self._reverse: ReversePath | None = None

    @property
    def likelihood_method(self) -> str:
        steps = self.num_steps or len(self.levels)
        return f"importance-weighted, {self.draws} draws, {steps} levels"

    # ---- training -------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[str]:
        """One per level."""
        return [level_name(level) for level in range(len(self.levels))]

    def prepare(self, train: Rows, held_out: Rows) -> None:
        generator = torch.Generator().manual_seed(seed_of(self.seed, "filler"))
        filler = torch.randn(train.values.shape, generator=generator, dtype=torch.float64)
        mean, covariance = gaussian_fit(torch.where(train.filler, filler, train.values))
        self.mean.copy_(mean)
        self.covariance.copy_(covariance)
        counts = self.layout.counts(train.cells.category, train.log_volume.new_ones(len(train), 1))[0]
        logs = [laplace_log_probs(counts[part]) for part in self.layout.slots()]
        if logs:
            self.category_log_prob.copy_(torch.cat(logs))
        for slot, number in enumerate(self.codec.typed.numbers):
            if number.quantized and number.indicator is None:
                seen = train.cells.number[train.cells.present[:, slot], slot]
                self.grid_points[slot], self.grid_logs[slot] = known_values(seen)
        self.refresh_derived()

    def run_job(self, job: str, train: Rows, held_out: Rows) -> dict[str, bytes]:
        return train_level(int(job.split()[1]), self._denoiser(1), self._decoder(), train, held_out, self.plan)

    def refresh_derived(self) -> None:
        self._reverse = None

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.refresh_derived()
        return super().load_state_dict(*args, **kwargs)

    def restore_extra(self, checkpoint: dict[str, Any]) -> None:
        super().restore_extra(checkpoint)
        self.refresh_derived()

    def _denoiser(self, threads: int) -> Denoiser:
        logs = [self.category_log_prob[part].cpu() for part in self.layout.slots()]
        codes = all_codes(self.codec, logs, self.grid_points.cpu(), self.grid_logs.cpu())
        covariance = self.covariance.cpu()
        smooth = torch.ones(len(covariance), dtype=torch.bool)
        for block in self.codec.blocks:
            atoms = block.kind == "number" and self.codec.typed.numbers[block.slot].indicator is not None
            smooth[block.columns] = block.kind == "number" and not atoms
        for code in codes:
            smooth[code.columns] = False
        axes = block_axes(covariance, smooth)
        return Denoiser(self.levels, self.store, self.mean.cpu(), covariance, axes, smooth, codes, threads)

    def _decoder(self) -> Decoder:
        return Decoder(self.codec, [self.category_log_prob[part].cpu() for part in self.layout.slots()])

    # ---- the latent-variable model --------------------------------------------------------------------------------

    @property
    def reverse(self) -> ReversePath:
        """The fitted model along the levels it uses."""
        self.require_complete()
        if self._reverse is None:
            denoiser, decoder = self._denoiser(max(1, torch.get_num_threads())), self._decoder()
            path = list(range(len(self.levels)))[::-1]
            if 0 < self.num_steps < len(path):
                tau = torch.stack([denoiser.tau(level) for level in range(len(path))]).numpy()
                path = shortest_path(self.levels, tau, self.num_steps, not bool(decoder.joint.all()))
            self._reverse = ReversePath(denoiser, decoder, path)
        return self._reverse

    def model_log_prob(self, encoded: Rows, noise: RowNoise, draws: int) -> ModelLogProb:
        device = encoded.values.device
        rows = encoded.to("cpu")
        log_w = torch.stack([self._log_weights(rows, noise, draw) for draw in range(draws)], 1)
        values, se = importance_weighted(log_w)
        return ModelLogProb(values.to(device), None if se is None else se.to(device))

    def _log_weights(self, rows: Rows, noise: RowNoise, draw: int) -> Tensor:
        reverse = self.reverse
        width, device = self.codec.width, "cpu"
        filler = noise.normal(width, stream=f"filler/{draw}", device=device) if bool(rows.filler.any()) else None
        x = rows.values if filler is None else torch.where(rows.filler, filler, rows.values)
        normal = noise.normal(len(reverse.path), width, stream=f"path/{draw}", device=device)
        out = torch.zeros(len(rows), dtype=torch.float64)
        for observed, chosen in patterns(x):
            view = reverse.denoiser.view(observed)
            if not len(view.index):
                continue
            part = normal[chosen][:, :, view.index]
            out[chosen] = reverse.log_weights(
                rows.select(chosen), x[chosen][:, view.index], view, part.unbind(1).__getitem__
            )
        if filler is not None:
            out += 0.5 * ((filler.square() + math.log(2 * math.pi)) * rows.filler).sum(1)
        return out

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        given = torch.zeros(num_samples, self.codec.num_context) if context is None else context.cpu()
        values, category = self.reverse.sample(given, generator, euler=self.sampler == "euler")
        return self._decoded(values, category, torch.arange(num_samples))

    def model_impute(
        self, batch: TableBatch, encoded: Rows, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        reverse, rows = self.reverse, encoded.to("cpu")
        numeric = [batch.numeric.cpu().clone() for _ in range(draws)]
        codes = [batch.codes.cpu().clone() for _ in range(draws)]
        plain = batch.to("cpu")
        filler = torch.randn(rows.values.shape, generator=generator, dtype=torch.float64)
        x = torch.where(rows.filler, filler, rows.values)
        empty = (rows.cells.category < 0).any(1)  # a slot of one category has no column in the matrix
        for observed, chosen in patterns(x):
            if bool(observed.all()):
                chosen = chosen[empty[chosen]]
            if not len(chosen):
                continue
            particles = max(self.particles, 2 * draws)
            drawn = reverse.complete(rows.select(chosen), x[chosen], draws, particles, generator)
            for one, (values, category) in enumerate(drawn):
                filled = self._decoded(values, category, plain.rows[chosen]).to("cpu")
                completed = fill_holes(self.schema, plain.select(chosen), filled)
                numeric[one][chosen], codes[one][chosen] = completed.numeric, completed.codes
        device = batch.numeric.device
        return [plain.with_values(n, c).to(device) for n, c in zip(numeric, codes, strict=True)]

    def _decoded(self, values: Tensor, category: Tensor, rows: Tensor) -> TableBatch:
        device = self.mean.device
        return self.codec.decode(values.to(device), category.to(device), rows.to(device))


def gaussian_fit(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``(P,)`` and covariance ``(P, P)`` of rows with holes (NaN), the covariance made positive definite."""
    present = (~values.isnan()).double()
    count = present.sum(0)
    mean = torch.nan_to_num(values, nan=0.0).sum(0) / count.clamp_min(1.0)
    centred = torch.nan_to_num(values - mean, nan=0.0)
    covariance = (centred.T @ centred) / (present.T @ present).clamp_min(1.0)
    if bool(values.isnan().any()):  # moments of pairs need not fit together
        value, vector = torch.linalg.eigh(covariance)
        covariance = (vector * value.clamp_min(0.0)) @ vector.T
    return mean, covariance + RIDGE * torch.eye(len(mean), dtype=values.dtype)
