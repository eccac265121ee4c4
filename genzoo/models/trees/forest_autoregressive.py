"""An autoregressive ensemble of trees: an exact likelihood on mixed rows with holes, from boosted classifiers."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.codecs.vector import VectorCodec
from genzoo.likelihood.noise import RowNoise, seed_of
from genzoo.models.baselines.marginal_fit import fit_marginal
from genzoo.models.baselines.mixture_em import row_weight
from genzoo.models.baselines.multinomials import CategoryLayout, laplace_log_probs
from genzoo.models.baselines.smooth_marginals import SmoothMarginals
from genzoo.models.capabilities import Capabilities
from genzoo.models.scoring import ModelLogProb
from genzoo.models.trees.base import TreeModel
from genzoo.models.trees.marginal_bins import BinnedMarginal, choose_cuts
from genzoo.models.trees.slot_walk import complete, sample_rows
from genzoo.tables.batch import TableBatch
from genzoo.trees.boosting import Examples, Growth, grow, margin
from genzoo.trees.hierarchy import Hierarchy, Ints, balanced, huffman
from genzoo.trees.store import CUT_SHORT, array_bytes

NUM_KNOTS = 512
NUM_SPIKES = 1024
LEAST_BINS = 4
ROWS_PER_BIN = 20
"""Fewer bins than asked for on small tables: a bin of a few rows follows their noise."""


class ForestAutoregressive(TreeModel):
    r"""Autoregressive tree ensemble for any table: one boosted classifier a column, exact on mixed rows with holes.

    .. math:: \log p(x) = \sum_j \Big[ \log P_j(b(x_j) \mid x_{<j}) + \log \frac{f_j(x_j)}{F_j(b(x_j))} \Big]

    A number :math:`x_j` is in bin :math:`b`; inside a bin it follows its smooth marginal :math:`f_j` (:math:`F_j` is
    the bin's mass), which has tails and, on a grid, the exact probability of a cell. Bins are the leaves of a binary
    tree, categories of another; the question at a node is answered by gradient-boosted trees that see the earlier
    columns (holes as NaN), the node's place and its size, and start from the marginal's log-odds. With no tree this
    is the product of smooth marginals (:class:`~genzoo.models.baselines.independent.Independent`).

    Likelihood: exact, for every pattern of holes (given the pattern: earlier holes are inputs). Columns are in the
    order of the table; with ``orders`` above 1 the model is the even mixture of ensembles in as many orders,

    .. math:: \log p(x) = \log \tfrac{1}{M} \sum_{m=1}^{M} p_m(x),

    which is exact as well, and no longer splits into contributions of columns.

    Args:
        schema: The table's schema as a plain dictionary.
        num_bins: Most bins of a number. More follow finer structure; cost grows with their logarithm.
        rounds: Most boosted trees of a column.
        depth: Deepest tree.
        eta: Shrinkage of each tree.
        min_child_weight: Least sum of second derivatives in a leaf.
        stopping: Rounds without progress on held-out rows (the validation split) before a column stops; 0: never.
        orders: Orders of columns: that of the table first, the others at random. Cost grows with them.
        particles: Completions a row that an imputation chooses from; more is closer to the exact conditional.
        groups: Epochs the columns are spread over; a checkpoint is written after each.
        workers: Threads that grow trees; 0 takes the cores of the machine. The result does not depend on it.
        dask: Grow trees on a Dask cluster: ``local``, or the address of a scheduler; empty uses threads.
        draws: Not used: the likelihood is exact.
        seed: Seed of folds and trees.

    References:
        McCarter 2025, Unmasking Trees for tabular data (TMLR): hierarchical bins and gradient-boosted questions.
        Differs from the paper: one classifier a column sees the node as an input; it starts from a smooth marginal,
        which also fills the bins, so that the model has an exact density; fixed orders of columns.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="forest_autoregressive")  # doctest: +SKIP
        >>> model.log_prob("sklearn:wine").kind  # doctest: +SKIP
        'exact'
    """

    settings: ClassVar[frozenset[str]] = TreeModel.settings | {"particles"}
    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="exact", context=True, context_missing=True, imputes=True, uses_mask=True, by_column=True, weights=True
    )
    codec: VectorCodec
    category_log_prob: Tensor
    cuts: Tensor

    def __init__(
        self,
        schema: dict[str, Any],
        num_bins: int = 64,
        rounds: int = 300,
        depth: int = 5,
        eta: float = 0.1,
        min_child_weight: float = 5.0,
        stopping: int = 20,
        orders: int = 1,
        particles: int = 32,
        *,
        groups: int = 10,
        workers: int = 0,
        dask: str = "",
        draws: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(schema, groups=groups, workers=workers, dask=dask, draws=draws, seed=seed)
        if num_bins < 2:
            raise ValueError(f"num_bins must be at least 2, got {num_bins}")
        for name, value in (("orders", orders), ("particles", particles)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.growth = Growth(rounds, depth, eta, min_child_weight=min_child_weight, patience=stopping)
        self.particles = particles
        self.codec = VectorCodec(self.schema)
        codec = self.codec
        self.orders = column_orders(codec, orders, seed)
        """Each order as places of the table's own order."""
        has_grid = any(slot.quantized for slot in codec.numbers)
        num_atoms = codec.atom_cells().lower.shape[1]
        self.marginals = SmoothMarginals(len(codec.numbers), NUM_KNOTS, NUM_SPIKES if has_grid else 0, num_atoms)
        self.layout = CategoryLayout([slot.num_categories for slot in codec.categories])
        self.register_buffer("category_log_prob", torch.zeros(self.layout.total, dtype=torch.float64))
        self.register_buffer("cuts", torch.full((len(codec.numbers), num_bins - 1), torch.inf, dtype=torch.float64))
        self._trees: dict[int, Hierarchy] = {}
        self._bins: dict[int, BinnedMarginal] = {}

    @property
    def explains_columns(self) -> bool:
        return len(self.orders) == 1

    # ---- training -------------------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[str]:
        """One per order and slot that has something to learn from: an earlier slot or context."""
        return [
            job_name(order, place)
            for order, places in enumerate(self.orders)
            for step, place in enumerate(places)
            if step or self.codec.num_context
        ]

    def prepare(self, train: Cells, held_out: Cells) -> None:
        counts = self.layout.counts(train.category, row_weight(train)[:, None])[0]
        logs = [laplace_log_probs(counts[part]) for part in self.layout.slots()]
        if logs:
            self.category_log_prob.copy_(torch.cat(logs))
        self.marginals.cpu()
        self.cuts.fill_(torch.inf)
        bends = self.codec.bends.tolist()
        for j, slot in enumerate(self.codec.numbers):
            here = train.present[:, j]
            x, lower, upper = (t[here, j] for t in (train.number, train.lower, train.upper))
            weight = None if train.weight is None else train.weight[here]
            seed = seed_of(self.seed, "marginal", j)
            fit_marginal(self.marginals, j, x, lower, upper, slot.quantized, seed, weight, bends[j])
            num_bins = min(self.cuts.shape[1] + 1, max(LEAST_BINS, len(x) // ROWS_PER_BIN))
            cuts = choose_cuts(x, upper, slot.quantized, num_bins)
            self.cuts[j, : len(cuts)] = cuts
        atoms = self.codec.atom_cells()
        self.marginals.atom_lower.copy_(atoms.lower)
        self.marginals.atom_upper.copy_(atoms.upper)
        self.marginals.to(self.category_log_prob.device)
        self.refresh_derived()

    def refresh_derived(self) -> None:
        self._trees, self._bins = {}, {}

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self.refresh_derived()
        return super().load_state_dict(*args, **kwargs)

    def run_job(self, job: str, train: Cells, held_out: Cells) -> dict[str, bytes]:
        end = time.monotonic() + self.job_seconds
        words = job.split()
        place, order = int(words[1]), int(words[3]) if len(words) > 2 else 0
        questions, held_out_questions = (self._questions(order, place, rows) for rows in (train, held_out))
        grown = grow(
            questions,
            held_out_questions,
            replace(self.growth, seconds=end - time.monotonic()),
            "binary:logistic",
            seed_of(self.seed, "trees", place, *([order] if order else [])),
            self.feature_types(order, place),
        )
        parts = {"growth": array_bytes([grown.rounds, *(grown.held_out or (np.nan, np.nan))])}
        if grown.cut_short:
            parts[CUT_SHORT] = array_bytes([1])
        return parts | ({"booster": grown.blob} if grown.blob else {})

    def _questions(self, order: int, place: int, cells: Cells) -> Examples:
        """Every question on the path of every observed cell of a slot: features, answer, marginal log-odds."""
        tree = self.tree(place)
        rows, leaf = self.leaves(place, cells)
        features = self.features(cells)
        index, node, answer = [], [], []
        for level in range(tree.depth):
            at = tree.nodes[leaf, level]
            asked = np.flatnonzero(at >= 0)
            index.append(rows[asked])
            node.append(at[asked])
            answer.append(tree.right[leaf[asked], level])
        none = np.zeros(0, dtype=np.int64)
        nodes = np.concatenate([none, *node])
        asked_of = np.concatenate([none, *index])
        return Examples(
            self.asked(order, place, features, asked_of, nodes),
            np.concatenate([none, *answer]).astype(np.float32),
            tree.log_odds[nodes],
            None if cells.weight is None else cells.weight.numpy()[asked_of],
        )

    # ---- slots ----------------------------------------------------------------------------------------------------

    def tree(self, place: int) -> Hierarchy:
        """The tree over the leaves of the slot at a place of the order."""
        if place not in self._trees:
            kind, slot = self.codec.order[place]
            if kind == "category":
                mass = self.category_log_prob[self.layout.slots()[slot]].exp().cpu().numpy()
                self._trees[place] = huffman(mass)
            else:
                self._trees[place] = balanced(self.bins(slot).mass.numpy())
        return self._trees[place]

    def bins(self, slot: int) -> BinnedMarginal:
        """Bins of a number slot."""
        if slot not in self._bins:
            cuts = self.cuts[slot].cpu()
            cuts = cuts[torch.isfinite(cuts)]
            self._bins[slot] = BinnedMarginal(self.marginals, slot, cuts, self.codec.numbers[slot].quantized)
        return self._bins[slot]

    def features(self, cells: Cells) -> NDArray[np.float32]:
        """``(n, num_context + num_slots)``: context, then the slots in order; NaN for what is not there."""
        out = np.full((len(cells), self.codec.num_context + len(self.codec.order)), np.nan, dtype=np.float32)
        out[:, : self.codec.num_context] = cells.context.cpu().numpy()
        for place in range(len(self.codec.order)):
            self.set_feature(out, place, cells.number, cells.present, cells.category)
        return out

    def set_feature(
        self, features: NDArray[np.float32], place: int, number: Tensor, present: Tensor, category: Tensor
    ) -> None:
        """Writes one slot into the feature matrix."""
        kind, slot = self.codec.order[place]
        column = self.codec.num_context + place
        if kind == "category":
            code = category[:, slot].cpu().numpy()
            features[:, column] = np.where(code >= 0, code, np.nan)
        else:
            value = number[:, slot].cpu().numpy()
            # float32 holds what a tree compares; a number beyond it is as far out as float32 goes
            value = np.clip(value, -3e38, 3e38)
            features[:, column] = np.where(present[:, slot].cpu().numpy(), value, np.nan)

    def earlier(self, order: int, place: int) -> list[int]:
        """Places that come before one in an order."""
        places = self.orders[order]
        return list(places[: places.index(place)])

    def feature_types(self, order: int, place: int) -> list[str]:
        """XGBoost's letter for each feature of a slot: ``c`` for categories of three values and more."""
        types = ["q"] * self.codec.num_context
        for kind, slot in (self.codec.order[other] for other in self.earlier(order, place)):
            many = kind == "category" and self.codec.categories[slot].num_categories > 2
            types.append("c" if many else "q")
        return [*types, "q", "q"]

    def asked(
        self, order: int, place: int, features: NDArray[np.float32], rows: Ints, nodes: Ints
    ) -> NDArray[np.float32]:
        """Features of questions: context and earlier slots of each row, and the node."""
        context = self.codec.num_context
        columns = [*range(context), *(context + other for other in self.earlier(order, place))]
        return np.concatenate([features[rows[:, None], columns], self.tree(place).features[nodes]], 1)

    def leaves(self, place: int, cells: Cells) -> tuple[Ints, Ints]:
        """Rows in which the slot is observed, and its leaf there."""
        kind, slot = self.codec.order[place]
        if kind == "category":
            seen = cells.category[:, slot] >= 0
            leaf = cells.category[seen, slot]
        else:
            seen = cells.present[:, slot]
            leaf = self.bins(slot).bin(cells.number[seen, slot].cpu())
        return seen.nonzero().flatten().cpu().numpy(), leaf.cpu().numpy()

    def margins(
        self, order: int, place: int, features: NDArray[np.float32], rows: Ints, nodes: Ints
    ) -> NDArray[np.float64]:
        """What the trees of a slot in an order add to the marginal log-odds."""
        job = job_name(order, place)
        if not self.store.has(job, "booster"):
            return np.zeros(len(rows))
        asked = self.asked(order, place, features, rows, nodes)
        return margin(self.store.booster(job, "booster"), asked, self.threads)

    @property
    def threads(self) -> int:
        """Threads that read trees; no result depends on it."""
        return max(1, torch.get_num_threads())

    # ---- likelihood, samples, imputations -------------------------------------------------------------------------

    def slot_log_prob(self, order: int, place: int, cells: Cells, features: NDArray[np.float32]) -> Tensor:
        """``(n,)`` log-probability (density) of a slot given those before it in an order; 0 where it is a hole."""
        rows, leaf = self.leaves(place, cells)
        score = self.tree(place).log_prob(leaf, lambda at, nodes: self.margins(order, place, features, rows[at], nodes))
        out = torch.zeros(len(cells), dtype=torch.float64)
        index = torch.from_numpy(rows)
        out[index] = torch.from_numpy(score)
        kind, slot = self.codec.order[place]
        if kind == "number":
            x, lower, upper = (t[:, slot].cpu()[index] for t in (cells.number, cells.lower, cells.upper))
            out[index] += self.bins(slot).log_within(x, lower, upper)
        return out

    def model_log_prob(self, encoded: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        self.require_complete()
        features = self.features(encoded)
        device = encoded.number.device
        each = [self._in_order(order, encoded, features) for order in range(len(self.orders))]
        if len(each) == 1:
            by_column, discrete = each[0]
            return ModelLogProb(by_column.sum(1).to(device), None, discrete.to(device), by_column.to(device))
        whole = torch.stack([by_column.sum(1) for by_column, _ in each])
        return ModelLogProb((torch.logsumexp(whole, 0) - math.log(len(each))).to(device))

    def _in_order(self, order: int, cells: Cells, features: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
        """Contributions of the scored columns ``(n, num_scored)`` in an order, and ``(n,)`` their discrete part."""
        by_column = torch.zeros(len(cells), self.codec.num_scored, dtype=torch.float64)
        discrete = torch.zeros(len(cells), dtype=torch.float64)
        for place, (kind, slot) in enumerate(self.codec.order):
            score = self.slot_log_prob(order, place, cells, features)
            what = self.codec.categories[slot] if kind == "category" else self.codec.numbers[slot]
            by_column[:, what.scored] += score
            if kind == "category" or self.codec.numbers[slot].quantized:
                discrete += score
        return by_column, discrete

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        self.require_complete()
        return sample_rows(self, num_samples, context, generator)

    def model_impute(
        self, batch: TableBatch, encoded: Cells, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        self.require_complete()
        return complete(self, batch, encoded, draws, generator)


def job_name(order: int, place: int) -> str:
    """Name of the job of a slot in an order."""
    return f"slot {place}" + (f" order {order}" if order else "")


def column_orders(codec: VectorCodec, count: int, seed: int) -> list[list[int]]:
    """Orders of the slots: that of the table, and random ones.

    A number with atoms stays behind its indicator: that it is absent says which atom the row is on.
    """
    units: list[list[int]] = []
    for place, (kind, slot) in enumerate(codec.order):
        indicator = codec.numbers[slot].indicator if kind == "number" else None
        if indicator is None:
            units.append([place])
        else:
            next(unit for unit in units if codec.order[unit[0]] == ("category", indicator)).append(place)
    orders = [list(range(len(codec.order)))]
    rng = np.random.default_rng(seed_of(seed, "orders"))
    while len(orders) < count:
        orders.append([place for unit in rng.permutation(len(units)) for place in units[unit]])
    return orders
