"""GIDD: a discrete diffusion that masks and also replaces symbols, so that it can revise what it has written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genzoo.codecs.tokens import TokenCodec, TokenRows
from genzoo.diffusion.absorbing import spread_levels
from genzoo.diffusion.categorical import draw, in_pieces, masked_log_softmax
from genzoo.diffusion.process import Hybrid, hybrid_bound_terms, marginal, plug_in
from genzoo.likelihood.estimators import monte_carlo_mean
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.discrete.noisy import ReverseChain, hide_cells, lists_states, seen
from genzoo.models.discrete.token_rows import Network, build_network, filled, log_marginals, usual_lr
from genzoo.models.flows.sizes import default_dropout
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

Weights = Literal["dynamic_exact", "dynamic", "clip", "none"]
EDGE = 1e-4
"""Times of training keep this far from 0 and 1, where the weights are infinite; reported bounds do not."""


class GIDD(DensityModel):
    r"""Generalised interpolating discrete diffusion: masking with a share of uniform replacement, for any table.

    Cells are symbols. At time ``t`` a cell keeps its symbol with probability ``alpha_t``, is masked, or shows a uniform
    symbol of its column; half-way ``uniform_share`` of the cells are replaced. The network gives for every cell a
    distribution ``xhat`` of the clean symbol given the *other* cells (its optimum), put into the reverse kernel. With
    :math:`\Delta_i = \mathrm{KL}(q_t(\cdot|x_i) \| q_t(\cdot|\hat x_i)) + r_i - \log r_i - 1` and
    :math:`r_i = q_t(z_i|x_i) / q_t(z_i|\hat x_i)`,

    .. math:: -\log p(x) \le \int_0^1 dt \, \mathbb{E}_{z \sim q_t(\cdot|x)} \sum_i w_t(z_i, x_i) \, \Delta_i.

    Likelihood: ``bound`` averages ``draws`` times and noisy rows of that integral, with its true weights over the whole
    range: a lower bound with a standard error. ``exact`` is the probability of the chain of ``num_steps`` steps that
    draws samples, by listing all its states: for narrow tables without context (``auto`` chooses it up to 2048 states).
    Given the pattern of holes: a hole is pinned to a symbol that the network sees, neither noised nor scored.

    Imputation: observed cells are held through the chain: exact in law for ``uniform_share=0`` and fine steps, else an
    approximation.

    Args:
        schema: The table's schema as a plain dictionary.
        uniform_share: Share of cells replaced half-way, in [0, 1); 0 is plain masking. More lets the model revise more
            and costs likelihood.
        num_bins: Bins of a continuous column, twice as many for a quantized one; ``None``: ``2 n^(1/3)`` of the
            training rows, 16 to 64.
        network: ``transformer`` over the columns; ``mlp``, residual blocks over the whole row, for wide binary rows;
            ``text``, a transformer with one vocabulary and rotary places, for one block. ``auto``: ``mlp`` for more
            than 32 binary cells, ``text`` for another block, else ``transformer``.
        width: Features of each cell in the network (of a row for ``mlp``); ``None``: 64 for ``transformer``, 128 for
            ``text``, 512 for ``mlp``.
        num_layers: Layers or residual blocks of the network; ``None``: 2, for ``text`` 4.
        num_heads: Attention heads; they divide ``width``.
        dropout: Probability of dropping a feature in training; ``None``: by the number of training rows.
        weights: Training weights of the integrand. ``dynamic_exact``: the true ones times ``2 t (1 - t)``, which leaves
            the optimum where it is; ``dynamic``: the paper's; ``clip``: the true ones up to 1; ``none``: the true ones.
        hide: Share of training rows in which cells are hidden at random, so that new patterns of holes score well.
        likelihood: See above.
        num_steps: Steps of the reverse chain.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``draws``, ...).

    References:
        von Ruette, Fluri, Ding, Orvieto, Schoelkopf, Hofmann (2025), Generalized Interpolating Discrete Diffusion,
        arXiv:2503.04482.
        Differs from the paper: columns with vocabularies of their own; exact training weights; the chain ends at clean
        rows; times of the bound are drawn as ``t = u^4``, so that its variance is finite.
    """

    settings: ClassVar[frozenset[str]] = DensityModel.settings | {"num_steps"}
    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="lower_bound",
        context=True,
        context_missing=True,
        likelihood="lower_bound",
        quantized="lower_bound",
        categorical="lower_bound",
        imputes=True,
        uses_mask=True,
        sequences=True,
        weights=True,
    )
    default_lr: ClassVar[float] = 3e-3
    codec: TokenCodec

    def __init__(
        self,
        schema: dict[str, Any],
        uniform_share: float = 0.1,
        num_bins: int | None = None,
        network: Network = "auto",
        width: int | None = None,
        num_layers: int | None = None,
        num_heads: int = 4,
        dropout: float | None = None,
        weights: Weights = "dynamic_exact",
        hide: float = 0.1,
        likelihood: Literal["auto", "exact", "bound"] = "auto",
        num_steps: int = 64,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        if weights not in ("dynamic_exact", "dynamic", "clip", "none"):
            raise ValueError(f"weights must be one of dynamic_exact, dynamic, clip, none, got '{weights}'")
        if likelihood not in ("auto", "exact", "bound"):
            raise ValueError(f"likelihood must be one of auto, exact, bound, got '{likelihood}'")
        self.process = Hybrid(uniform_share)
        self.codec = TokenCodec(self.schema, num_bins)
        self.weights: Weights = weights
        self.hide = hide
        self.likelihood = likelihood
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        self.num_steps = num_steps
        self.network = build_network(
            self.codec,
            network,
            width=width,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=default_dropout(self.schema) if dropout is None else dropout,
            num_special=2,
            time=True,
        )
        if training.get("lr") is None:
            self.lr = usual_lr(self.network, self.default_lr)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    @property
    def likelihood_kind(self) -> str:
        """Exact where the states of the chain are listed, else a lower bound."""
        return "exact" if lists_states(self.codec, True, self.likelihood) else "lower_bound"

    @property
    def likelihood_method(self) -> str:
        if self.likelihood_kind == "exact":
            return f"all states of a chain of {self.num_steps} steps"
        return f"continuous-time bound, {self.draws} draws"

    def denoise(self, tokens: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """Leave-one-out distributions of the clean symbols, ``(n, L, K)`` float64."""
        scores = self.network(tokens, context, time)
        return masked_log_softmax(scores, self.codec.valid).double().exp()

    def chain(self) -> ReverseChain:
        """The reverse process that draws samples: an even grid in ``asin(sqrt(t))``, from all masked to clean."""
        valid = self.codec.valid
        grid = [math.sin(math.pi / 2 * (1 - k / self.num_steps)) ** 2 for k in range(self.num_steps)] + [0.0]

        def reverse(z: Tensor, clean: Tensor, step: int) -> Tensor:
            t, s = (torch.tensor([grid[k]], dtype=torch.float64, device=z.device) for k in (step, step + 1))
            return plug_in(z, clean, self.process.level(s, valid), self.process.level(t, valid))

        return ReverseChain(self.denoise, reverse, grid.__getitem__, self.num_steps, valid, self.codec.max_symbols)

    def model_log_prob(self, encoded: TokenRows, noise: RowNoise, draws: int) -> ModelLogProb:
        if self.likelihood_kind == "exact":
            return ModelLogProb(self.chain().exact_log_prob(encoded.tokens))
        batch, length = encoded.tokens.shape
        start = noise.uniform(stream="hybrid/time")[:, None]
        level = (start + torch.arange(draws, dtype=torch.float64) / draws) % 1.0
        replace = torch.stack([noise.uniform(length, stream=f"hybrid/noise/{k}") for k in range(draws)], 1)
        index = torch.arange(batch).repeat_interleave(draws).to(encoded.tokens.device)
        # Near t = 0 the weight grows like 1/t at a chance of sqrt(t): even times would have infinite variance.
        root = level.reshape(-1).clamp(2.0**-40, 1 - 2.0**-40).to(index.device)
        time, density = root**4, 4 * root**3
        replace = replace.reshape(batch * draws, length).to(index.device)

        def piece(tokens: Tensor, which: Tensor) -> Tensor:
            return self._integrand(tokens, encoded.context[index[which]], time[which], replace[which]).sum(1)

        every = torch.arange(len(index), device=index.device)
        terms = -density * in_pieces(piece, encoded.tokens[index], every)
        return ModelLogProb(*monte_carlo_mean(terms.reshape(batch, draws)))

    def _noised(self, tokens: Tensor, time: Tensor, uniform: Tensor) -> Tensor:
        """Noisy symbols at ``time`` of clean ones, by the inverse cdf."""
        clean = torch.nn.functional.one_hot(tokens, self.codec.max_symbols)
        return draw(torch.log(marginal(self.process.level(time, self.codec.valid), clean)), uniform)

    def _integrand(
        self, tokens: Tensor, context: Tensor, time: Tensor, uniform: Tensor, weights: Weights = "none"
    ) -> Tensor:
        """Weighted terms of the bound of each cell ``(n, L)``, 0 for holes."""
        hole, x, mask = tokens < 0, tokens.clamp(min=0), self.codec.max_symbols
        valid = self.codec.valid
        z = self._noised(x, time, uniform)
        clean = self.denoise(seen(z, hole, mask), context, time)
        cell = hybrid_bound_terms(self.process, time, z, x, clean, valid)
        size = valid.sum(1)
        weight = self.process.weights(time, z == mask, z == x, size)
        t = time[:, None]
        if weights == "dynamic_exact":
            weight = weight * 2 * t * (1 - t)
        elif weights == "clip":
            weight = weight.clamp(max=1.0)
        elif weights == "dynamic":
            own = self.process.strength / size * torch.sqrt(t / (1 - t))
            weight = torch.where(z == mask, 2.0, torch.where(z == x, own, 1.0))
        return torch.where(hole, 0.0, weight * cell)

    # ---- training -------------------------------------------------------------------------------------------------

    def initialise(self, batches: Sequence[Any]) -> None:
        """The network starts at the columns' own frequencies, for which the bound is tight."""
        self.network.head.start_at(log_marginals(self.codec, batches[0].tokens))

    def row_losses(self, encoded: TokenRows) -> Tensor:
        """The weighted integrand at one random time a row."""
        tokens = hide_cells(encoded.tokens, self.hide)
        time = EDGE + (1 - 2 * EDGE) * spread_levels(len(tokens), tokens.device)
        uniform = torch.rand(tokens.shape, dtype=torch.float64, device=tokens.device)
        return self._integrand(tokens, encoded.context, time, uniform, self.weights).sum(1)

    # ---- samples --------------------------------------------------------------------------------------------------

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        rows = torch.arange(num_samples, device=self.codec.edges.device)
        context = rows.new_zeros(num_samples, 0) if context is None else context
        tokens = self.chain().sample(num_samples, context, generator)
        return self.codec.decode(tokens, rows, generator)

    def model_impute(
        self, batch: TableBatch, encoded: TokenRows, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        """Completions of the chain with the observed cells held."""
        chain = self.chain()
        return [
            filled(self.codec, batch, chain.complete(encoded.tokens, encoded.context, generator), generator)
            for _ in range(draws)
        ]
