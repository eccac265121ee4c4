"""What tree models that undo noise share: levels, classes, the latent-variable model behind samples and likelihood."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from genzoo.codecs.matrix import CodeChoice, MatrixCodec, Rows
from genzoo.errors import CapabilityError
from genzoo.likelihood.estimators import importance_weighted
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.baselines.mixture_em import in_rows, row_weight
from genzoo.models.baselines.multinomials import CategoryLayout, laplace_log_probs
from genzoo.models.capabilities import Capabilities
from genzoo.models.posterior import class_names
from genzoo.models.scoring import ModelLogProb
from genzoo.models.trees.code_posterior import MOST_VALUES, all_codes, block_axes, known_values
from genzoo.models.trees.decoder import Decoder
from genzoo.models.trees.denoiser import Denoiser, GaussianFit, level_name, shared_name
from genzoo.models.trees.forest_imputation import complete_rows
from genzoo.models.trees.gaussian_fits import fit_groups
from genzoo.models.trees.labelled_forest import LabelledForest
from genzoo.models.trees.latent_classes import LatentClasses, fit_latent_classes
from genzoo.models.trees.level_job import train_level, train_shared
from genzoo.models.trees.level_plan import External, LevelPlan
from genzoo.models.trees.reverse_path import PathPart, ReversePath
from genzoo.models.trees.training_rows import RowStream, TrainingRows, members
from genzoo.tables.batch import TableBatch
from genzoo.trees.boosting import Growth
from genzoo.trees.levels import CELLS, CODES, SMOOTH, NoisePath, Spacing, shortest_path
from genzoo.trees.store import CUT_SHORT

FOREST_CAPABILITIES = Capabilities(
    missing="lower_bound",
    context=True,
    context_missing=True,
    likelihood="lower_bound",
    quantized="lower_bound",
    categorical="lower_bound",
    imputes=True,
    uses_mask=True,
    weights=True,
)
MOST_PATHS = 4096
"""Paths that go through the levels together: few rows take all their draws at once."""
REPEATS = 10
"""Rows drawn for a row of mean weight where moments are computed: rounding weights to whole rows costs little."""
Classes = Literal["input", "separate"]


class DenoisingForest(LabelledForest):
    """Boosted trees that undo noise, level by level, read as a latent-variable model. Abstract: a method adds the path
    that noise takes and its samplers.

    Args:
        schema: The table's schema as a plain dictionary.
        path: How a row turns into noise.
        num_levels: Levels of noise; each has its own trees. More are slower and tighter.
        copies: Noised copies of each training row at a level; 0 takes as many as make about 20,000 noised rows (at most
            20), and of a longer table a random 20,000 rows at each level.
        rounds: Most trees of a column at a level; 0 leaves the Gaussian fit.
        depth: Deepest tree.
        eta: Shrinkage of each tree.
        bins: Bins of each feature; fewer are faster.
        min_child_weight: Fewest noised rows in a leaf.
        leaves: A tree for each column (``scalar``), or one a round that predicts all (``vector``): fewer trees, a model
            several times smaller, for complete tables and XGBoost 3.3 and newer.
        stopping: Rounds without progress on held-out rows (the validation split) before a column stops; 0: never.
        spacing: Levels ``uniform`` in time, even in the ``log_snr``, or by the number of columns (``auto``).
        num_steps: Levels the likelihood and samples go through, chosen by dynamic programming; 0 takes all.
        posterior_mean: Learn from means over training rows instead of single rows (complete tables without context).
        heteroscedastic: One more booster a level says where the residual is wide.
        shared: One set of trees for all levels, told the level, in place of a set for each: a small model.
        rotations: Random rotations of the row that trees see besides its columns and principal axes.
        shrink: Correlations of the Gaussian fit are shrunk by as much as their sampling error asks for.
        scaler: Scale of the numbers before noise is added; ``standardise`` gives z-scores.
        code: Points that stand for categories of three values and more.
        label: A categorical value column that is never noised: its classes have Gaussian fits of their own, and a row
            is worth ``log P(label) + bound(the rest given the label)``.
        classes: With a label: trees are told the class (``input``), or each class has its own (``separate``).
        class_mix: Probability of each class by name, in place of its training frequency.
        stratified: Rows are drawn with as many of each class as its probability asks for, rounded up or down at random
            in each 4,096 rows, in place of a class drawn for each row: the mix of a small table is then the one meant.
            Each row is still a draw of the model; rows of one table are no longer independent.
        components: Classes that no column names, found as components of a mixture of Gaussians, each with a Gaussian
            fit and trees of its own: for rows in clusters. Scoring costs as many times more. 0: none.
        imputation: ``repaint``, the authors' way for diffusion, or ``particles``: sequential Monte Carlo, exact as
            their number grows, which must be large where many columns are observed.
        particles: Paths a row of sequential Monte Carlo.
        repaint_passes: Times that RePaint goes through each stretch of levels; 1 never goes back.
        repaint_jump: Levels in a stretch; 0 takes a tenth of all.
        likelihood: Measure residual variances. Without them training is cheaper, rows are drawn by following the flow,
            and there is no likelihood.
        tree_device: Where trees grow: ``cpu``, or ``cuda`` with a build of XGBoost that has it.
        external_memory: Noised rows of a level are kept on disk (the folder ``TMPDIR``) while its trees grow:
            ``always``, ``never``, or ``auto``: where they take more than 2 GiB, or the table streams and ``copies`` is
            given. The trees are the same.
        groups: Epochs the levels are spread over; a checkpoint is written after each.
        workers: Threads that grow trees; 0 takes the cores of the machine. The result does not depend on it.
        dask: Grow trees on a Dask cluster: ``local``, or the address of a scheduler; empty uses threads.
        draws: Importance weights a row.
        seed: Seed of noise and trees.
    """

    settings: ClassVar[frozenset[str]] = LabelledForest.settings | {
        "class_mix", "imputation", "num_steps", "particles", "repaint_jump", "repaint_passes", "stratified"
    }  # fmt: skip
    capabilities: ClassVar[Capabilities] = FOREST_CAPABILITIES
    codec: MatrixCodec
    mean: Tensor
    covariance: Tensor
    component_log_prob: Tensor
    category_log_prob: Tensor
    grid_values: Tensor

    def __init__(
        self,
        schema: dict[str, Any],
        path: NoisePath,
        num_levels: int = 25,
        copies: int = 0,
        rounds: int = 200,
        depth: int = 5,
        eta: float = 0.15,
        bins: int = 64,
        min_child_weight: float = 5.0,
        leaves: Literal["scalar", "vector"] = "scalar",
        stopping: int = 10,
        spacing: Spacing = "auto",
        num_steps: int = 0,
        posterior_mean: bool = True,
        heteroscedastic: bool = True,
        shared: bool = False,
        rotations: int = 0,
        shrink: bool = False,
        scaler: Literal["auto", "standardise", "robust", "asinh", "quantile", "cells"] = "auto",
        code: CodeChoice = "auto",
        label: str | None = None,
        classes: Classes = "input",
        class_mix: dict[str, float] | None = None,
        stratified: bool = False,
        components: int = 0,
        imputation: Literal["particles", "repaint"] = "repaint",
        particles: int = 32,
        repaint_passes: int = 5,
        repaint_jump: int = 0,
        likelihood: bool = True,
        box: bool = False,
        tree_device: Literal["cpu", "cuda"] = "cpu",
        external_memory: External = "auto",
        *,
        groups: int = 10,
        workers: int = 0,
        dask: str = "",
        draws: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__(schema, groups=groups, workers=workers, dask=dask, draws=draws, seed=seed)
        for name, value, least in (
            ("copies", copies, 0),
            ("repaint_passes", repaint_passes, 1),
            ("rotations", rotations, 0),
            ("components", components, 0),
            ("particles", particles, 1),
            ("num_steps", num_steps, 0),
            ("repaint_jump", repaint_jump, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self.path, self.box, self.has_likelihood = path, box, likelihood and not box
        self.codec = MatrixCodec(self.schema, "standardise" if box else scaler, code, label, box)
        width = self.codec.width
        self.components = components if components > 1 else 0
        self.num_groups = num_groups = self.components or self.codec.num_groups
        ends = SMOOTH
        if all(slot.quantized for slot in self.codec.typed.numbers):
            ends = CELLS if self.codec.typed.numbers else CODES
        self.levels = path.levels(num_levels, spacing, width, ends)
        self.num_steps, self.particles, self.shrink = num_steps, particles, shrink
        self.shared, self.rotations = shared, rotations
        self.label, self.class_mix, self.stratified = label, class_mix, stratified
        self.separate = bool(self.components) or (label is not None and classes == "separate")
        if self.components:
            if label is not None:
                raise ValueError(
                    f"components are classes that no column names, and label '{label}' names one; leave one of them out"
                )
            if not bool(self._smooth().any()):
                raise CapabilityError(
                    "components are found on columns of numbers, and this table has none; use components: 0"
                )
        self.imputation, self.repaint_passes, self.repaint_jump = imputation, repaint_passes, repaint_jump
        if class_mix is not None:
            self._given_mix(class_mix)
        if stratified and label is None and not self.components:
            raise ValueError("stratified needs classes: name their column (--model.label), or give components")
        growth = Growth(
            rounds,
            depth,
            eta,
            bins,
            min_child_weight=min_child_weight,
            patience=stopping,
            device=tree_device,
            vector=leaves == "vector",
        )
        self.plan = LevelPlan(
            growth, copies, posterior_mean, heteroscedastic, seed, self.has_likelihood, external_memory
        )
        self.layout = CategoryLayout([slot.num_categories for slot in self.codec.typed.categories])
        self.register_buffer("mean", torch.zeros(num_groups, width, dtype=torch.float64))
        self.register_buffer("component_log_prob", torch.zeros(self.components, dtype=torch.float64))
        self.register_buffer("covariance", torch.eye(width, dtype=torch.float64).repeat(num_groups, 1, 1))
        self.register_buffer("category_log_prob", torch.zeros(self.layout.total, dtype=torch.float64))
        shape = (len(self.codec.typed.numbers), 3, MOST_VALUES)
        self.register_buffer("grid_values", torch.full(shape, torch.nan, dtype=torch.float64))
        self._reverse: ReversePath | None = None

    # ---- what a method writes -------------------------------------------------------------------------------------

    @abstractmethod
    def draw_group(self, context: Tensor, generator: torch.Generator, group: int) -> tuple[Tensor, Tensor]:
        """Rows ``(n, P)`` and categories of one class, by the method's sampler."""

    # ---- classes --------------------------------------------------------------------------------------------------

    def _given_mix(self, mix: dict[str, float]) -> Tensor:
        """``(C,)`` log-probabilities of a given mix of classes."""
        if self.label is None:
            raise ValueError("class_mix needs a label: name the column of the classes (--model.label)")
        names = class_names(self, self.label)
        unknown = sorted(set(map(str, mix)) - set(names))
        if (
            unknown
            or not all(isinstance(w, int | float) and 0 <= w < math.inf for w in mix.values())
            or not any(mix.values())
        ):
            problem = f"'{unknown[0]}' is not one" if unknown else "weights are 0 or more, and not all 0"
            raise ValueError(
                f"class_mix gives a weight to each class of '{self.label}' ({', '.join(names)}): {problem}"
            )
        weights = [float(mix.get(name, 0.0)) for name in names]
        return (torch.tensor(weights, dtype=torch.float64) / sum(weights)).log()

    @property
    def class_log_prob(self) -> Tensor:
        """``(C,)`` log-probability of each class; zero for the one class of a table without classes."""
        if self.components:
            return self.component_log_prob.cpu()
        slot = self.codec.label_slot
        if slot is None:
            return torch.zeros(1, dtype=torch.float64)
        if self.class_mix is not None:
            return self._given_mix(self.class_mix)
        return self.category_log_prob[self.layout.slots()[slot]].cpu()

    # ---- training -------------------------------------------------------------------------------------------------

    @property
    def needs_held_out(self) -> bool:
        return self.plan.growth.patience > 0 or self.has_likelihood

    @property
    def ready(self) -> bool:
        return self.complete and self.has_likelihood

    @property
    def jobs(self) -> list[str]:
        """One per level, or per level and class; before them the trees that serve all levels, if there are such."""
        members: list[int | None] = list(range(self.num_groups)) if self.separate else [None]
        trees = [shared_name(group) for group in members] if self.shared else []
        return trees + [level_name(level.index, group) for level in self.levels for group in members]

    def job_stage(self, job: str) -> int:
        return 0 if job.startswith("trees") else 1

    def job_cost(self, job: str) -> float:
        # shared trees are most of the work: a level only measures their residuals
        return 4.0 * len(self.levels) if job.startswith("trees") else 1.0

    def most_useful_first(self, jobs: list[str]) -> list[str]:
        # levels far apart first: those without trees are then between others
        bits = len(self.levels).bit_length()

        def place(job: str) -> tuple[int, int]:
            words = job.split()
            return self.job_stage(job), int(f"{int(words[1]):0{bits}b}"[::-1], 2) if words[0] == "level" else 0

        return sorted(jobs, key=place)

    def on_fit_start(self) -> None:
        self.plan.growth.require_build()
        super().on_fit_start()

    def _training_rows(self) -> tuple[TrainingRows, Rows]:
        train, held_out = super()._training_rows()
        datamodule: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        groups = datamodule.row_groups() if self.plan.copies else None
        if groups is None:
            return TrainingRows(train, len(train)), held_out
        if self.schema.weight is not None:
            raise CapabilityError(
                f"{type(self).__name__} reads no row weights from a table that streams; "
                "read the table whole, or leave out the weights"
            )
        return TrainingRows(train, groups.num_rows, RowStream(groups, self.codec, self.schema)), held_out

    def _refuse_holes(self, rows: Rows) -> None:
        """Trees that predict all columns at once need every target."""
        learned = rows.select((rows.group >= 0).nonzero().flatten())  # a row of no known class is not learned from
        holes = (learned.values.isnan() & ~learned.filler).any(0)
        if bool(holes.any()):
            raise CapabilityError(
                f"leaves 'vector' need complete rows to learn from, and column "
                f"'{self.codec.column_names[int(holes.nonzero()[0])]}' has holes; use --model.leaves scalar"
            )

    def prepare(self, rows: TrainingRows, held_out: Rows) -> None:
        if self.plan.growth.vector:
            self._refuse_holes(rows.sample)
        counts = self.layout.counts(rows.sample.cells.category, row_weight(rows.sample.cells)[:, None])[0]
        train, held_out = (
            in_proportion(part, seed_of(self.seed, "weights", name), REPEATS)
            for name, part in (("train", rows.sample), ("held out", held_out))
        )
        generator = torch.Generator().manual_seed(seed_of(self.seed, "filler"))
        filler = torch.randn(train.values.shape, generator=generator, dtype=torch.float64)
        values = torch.where(train.filler, filler, train.values)
        group, prior_rows = train.group, None
        if self.components:
            found = fit_latent_classes(
                values,
                held_out.values,
                self._smooth().nonzero().flatten(),
                self.components,
                seed_of(self.seed, "components"),
            )
            self.component_log_prob.copy_(found.log_prob)
            group, prior_rows = found.log_joint(values).argmax(1), found.prior_rows
        mean, covariance = fit_groups(values, group, self.num_groups, self.separate, self.shrink, prior_rows)
        self.mean.copy_(mean)
        self.covariance.copy_(covariance)
        logs = [laplace_log_probs(counts[part]) for part in self.layout.slots()]
        if logs:
            self.category_log_prob.copy_(torch.cat(logs))
        for slot, number in enumerate(self.codec.typed.numbers):
            if number.quantized and number.indicator is None:
                column = self.codec.number_column[slot]
                seen = train.values[train.cells.present[:, slot], column]
                self.grid_values[slot] = known_values(seen, len(self.schema[number.column].atoms))
        self.refresh_derived()

    def weighed(self, rows: Rows) -> Rows:
        return replace(rows, cells=in_rows(rows.cells))

    def run_job(self, job: str, rows: TrainingRows, held_out: Rows) -> dict[str, bytes]:
        words = job.split()
        rows = replace(rows, sample=in_proportion(rows.sample, seed_of(self.seed, "weights", job, "train")))
        held_out = in_proportion(held_out, seed_of(self.seed, "weights", job, "held out"))
        group = int(words[-1]) if self.separate else 0
        if self.components:
            latent = self._latent_classes()
            rows, held_out = rows.in_classes(latent), latent.assigned(held_out)
        rows = rows.of_group(group if self.separate else None)
        held_out = members(held_out, group if self.separate else None)
        trees = words[0] == "trees"
        # a level of shared trees is measured in any case: its residuals are those of the trees
        least = 1e-9 if self.shared and not trees else 0.0
        plan = replace(self.plan, seconds=max(self.job_seconds, least))
        if trees:
            return train_shared(self._denoiser(1), rows, held_out, plan, group)
        return train_level(int(words[1]), self._denoiser(1), self._decoder(), rows, held_out, plan, group)

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
        codes = all_codes(self.codec, logs, self.grid_values.cpu())
        smooth = self._smooth()
        for code in codes:
            smooth[code.columns] = False
        fits = [
            GaussianFit(mean, covariance, block_axes(covariance, smooth))
            for mean, covariance in zip(self.mean.cpu(), self.covariance.cpu(), strict=True)
        ]
        return Denoiser(
            self.levels, self.store, fits, smooth, codes, self.separate, threads, self.rotations, self.shared
        )

    def _smooth(self) -> Tensor:
        """``(P,)`` columns that hold a number in every row."""
        smooth = torch.ones(self.codec.width, dtype=torch.bool)
        for block in self.codec.blocks:
            atoms = block.kind == "number" and self.codec.typed.numbers[block.slot].indicator is not None
            smooth[block.columns] = block.kind == "number" and not atoms
        return smooth

    def _latent_classes(self) -> LatentClasses:
        columns = self._smooth().nonzero().flatten()
        mean, covariance = self.mean.cpu()[:, columns], self.covariance.cpu()[:, columns][:, :, columns]
        return LatentClasses(self.component_log_prob.cpu(), mean, covariance, columns)

    def _decoder(self) -> Decoder:
        return Decoder(self.codec, [self.category_log_prob[part].cpu() for part in self.layout.slots()])

    # ---- the latent-variable model --------------------------------------------------------------------------------

    @property
    def likelihood_method(self) -> str:
        steps = len(self.reverse.path) if self.ready else self.num_steps or len(self.levels)
        return f"importance-weighted, {self.draws} draws, {steps} levels{self.likelihood_remark}"

    @property
    def reverse(self) -> ReversePath:
        """The fitted model along the levels it uses."""
        self.require_complete()
        if self._reverse is None:
            denoiser, decoder = self._denoiser(max(1, torch.get_num_threads())), self._decoder()
            path = list(range(len(self.levels)))[::-1]
            # a level that a time limit left without trees is gone through only where it pays
            steps = self.num_steps or len(path)
            if steps < len(path) or any(self.store.has(job, CUT_SHORT) for job in self.jobs):
                members = range(len(denoiser.fits)) if self.separate else [0]
                tau = torch.cat([torch.stack([denoiser.tau(level, g) for level in self.levels]) for g in members], 1)
                snr = np.array([level.snr for level in self.levels])
                path = shortest_path(snr, tau.numpy(), steps, not bool(decoder.joint.all()))
            self._reverse = ReversePath(denoiser, decoder, path)
        return self._reverse

    def require_likelihood(self) -> None:
        """Raises unless the model has a likelihood.

        Raises:
            CapabilityError: says why it has none.
        """
        if not self.has_likelihood:
            why = (
                "box: true clips samples to the range of the training rows, so it has no density; train with box: false"
                if self.box
                else "it was trained with likelihood: false; train with likelihood: true"
            )
            raise CapabilityError(f"this {type(self).__name__} draws rows and has no likelihood: {why}")

    def score_batch(self, batch: TableBatch, seed: int, draws: int) -> ModelLogProb:
        self.require_likelihood()
        scored: ModelLogProb = super().score_batch(batch, seed, draws)
        return scored

    def model_log_prob(self, encoded: Rows, noise: RowNoise, draws: int) -> ModelLogProb:
        device = encoded.values.device
        rows = self._of_unknown_component(encoded.to("cpu"))
        log_w = self.class_log_weights(rows, noise, draws)
        values, se = importance_weighted(torch.logsumexp(log_w, 2))
        return ModelLogProb(values.to(device), None if se is None else se.to(device))

    def _of_unknown_component(self, rows: Rows) -> Rows:
        """Rows to be scored or completed: no column says which component they are of."""
        return rows.in_group(-1) if self.components else rows

    def class_log_weights(self, rows: Rows, noise: RowNoise, draws: int, every: bool = False) -> Tensor:
        """``(n, draws, C)`` log-weights of the row in each class, the probability of the class in them.

        A row that knows its class has ``-inf`` for the others, unless ``every`` is asked for. The same noise is used
        for all classes.
        """
        prior = self.class_log_prob
        out = torch.full((len(rows), draws, len(prior)), -torch.inf, dtype=torch.float64)
        for group in range(len(prior)):
            member = (
                torch.ones_like(rows.group, dtype=torch.bool) if every else (rows.group == group) | (rows.group < 0)
            )
            chosen = member.nonzero().flatten()
            if len(chosen):
                part = rows.select(chosen).in_group(group)
                own = RowNoise(noise.seed, part.rows)
                together = max(1, MOST_PATHS // len(part))
                log_w = [
                    self._log_weights(part, own, range(first, min(first + together, draws)))
                    for first in range(0, draws, together)
                ]
                out[chosen, :, group] = torch.cat(log_w, 1) + prior[group]
        return out

    def _log_weights(self, rows: Rows, noise: RowNoise, draws: range) -> Tensor:
        """``(n, draws)``; all paths go through the levels together, those of one draw after those of the other."""
        reverse = self.reverse
        width, shape = self.codec.width, (len(draws), len(rows))
        rows = rows.select(torch.arange(len(rows)).repeat(len(draws)))
        filler = None
        if bool(rows.filler.any()):
            filler = torch.cat([noise.normal(width, stream=f"filler/{draw}") for draw in draws])
        x = rows.values if filler is None else torch.where(rows.filler, filler, rows.values)
        normal = torch.cat([noise.normal(len(reverse.path), width, stream=f"path/{draw}") for draw in draws])
        out = torch.zeros(len(rows), dtype=torch.float64)
        views = [(view, chosen) for view, chosen in reverse.denoiser.views(x, rows.group) if len(view.index)]
        parts = [
            PathPart(
                rows.select(chosen),
                x[chosen][:, view.index],
                view,
                normal[chosen][:, :, view.index].unbind(1).__getitem__,
            )
            for view, chosen in views
        ]
        for (_, chosen), found in zip(views, reverse.log_weights(parts), strict=True):
            out[chosen] = found
        if filler is not None:
            out += 0.5 * ((filler.square() + math.log(2 * math.pi)) * rows.filler).sum(1)
        return out.reshape(shape).T

    # ---- samples and imputations ----------------------------------------------------------------------------------

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        self.require_complete()
        given = torch.zeros(num_samples, self.codec.num_context) if context is None else context.cpu()
        group = torch.zeros(num_samples, dtype=torch.int64)
        if self.num_groups > 1:
            weights = self.class_log_prob.exp()
            if self.stratified:
                group = systematic(weights, num_samples, generator)
                group = group[torch.randperm(num_samples, generator=generator)]
            else:
                group = torch.multinomial(weights, num_samples, replacement=True, generator=generator)
        values = torch.empty(num_samples, self.codec.width, dtype=torch.float64)
        category = torch.full((num_samples, len(self.codec.typed.categories)), -1, dtype=torch.int64)
        for one in group.unique().tolist():
            chosen = (group == one).nonzero().flatten()
            values[chosen], category[chosen] = self.draw_group(given[chosen], generator, one)
        return self.decoded(values, category, torch.arange(num_samples), group)

    def model_impute(
        self, batch: TableBatch, encoded: Rows, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        return complete_rows(self, batch, self._of_unknown_component(encoded.to("cpu")), draws, generator)

    def decoded(self, values: Tensor, category: Tensor, rows: Tensor, group: Tensor) -> TableBatch:
        if self.codec.label_slot is not None:
            category = category.clone()
            category[:, self.codec.label_slot] = group
        device = self.mean.device
        return self.codec.decode(values.to(device), category.to(device), rows.to(device))


def in_proportion(rows: Rows, seed: int, repeats: int = 1) -> Rows:
    """Rows repeated in proportion to their weights (:func:`systematic`), ``n repeats`` of them. Rows without weights
    stay as they are.
    """
    weight = rows.cells.weight
    if weight is None:
        return rows
    chosen = rows.select(systematic(weight, repeats * len(rows), torch.Generator().manual_seed(seed)))
    return replace(chosen, cells=replace(chosen.cells, weight=None))


def systematic(weight: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``(count,)`` ascending indices, each as often as its weight asks for, rounded up or down at random."""
    start = torch.rand(1, generator=generator, dtype=torch.float64)
    place = (torch.arange(count, dtype=torch.float64) + start) * (weight.sum() / count)
    return torch.searchsorted(weight.cumsum(0), place, right=True).clamp_max(len(weight) - 1)
