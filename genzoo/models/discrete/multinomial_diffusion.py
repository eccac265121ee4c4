"""Multinomial diffusion: symbols are replaced uniformly in discrete steps and restored by the analytic posterior."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genzoo.codecs.tokens import TokenCodec, TokenRows
from genzoo.diffusion.absorbing import spread_levels
from genzoo.diffusion.categorical import draw, in_pieces, masked_log_softmax
from genzoo.diffusion.chain import run_chain
from genzoo.diffusion.process import UniformCosine, marginal, marginalised, plug_in, prior_term, step_terms
from genzoo.likelihood.estimators import monte_carlo_mean
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.discrete.noisy import ReverseChain, hide_cells, lists_states, seen
from genzoo.models.discrete.token_rows import Network, build_network, filled, log_marginals, usual_lr
from genzoo.models.flows.sizes import default_dropout
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

Output = Literal["plug_in", "marginalised"]
SEEN_BEFORE_WEIGHTING = 10


class MultinomialDiffusion(DensityModel):
    r"""Multinomial diffusion, for any table.

    In each of ``num_steps`` steps a cell's symbol is replaced by a uniform one of its column with a small probability.
    The network guesses the clean symbols of a noisy row; the reverse kernel is the posterior with that guess put in.

    .. math:: -\log p(x) \le \mathrm{KL}(q(z_T|x) \| u) + \sum_{k=1}^{T} \mathbb{E}_{z_k}
        \mathrm{KL}(q(z_{k-1}|z_k, x) \| p(z_{k-1}|z_k))

    Likelihood: ``bound`` scores ``draws`` of the ``T`` terms a row, spread evenly over the steps (all of them from
    ``draws = T`` on), plus the prior term: a lower bound with a standard error. ``exact`` lists the states of the
    chain, for narrow tables without context (``auto`` chooses it up to 2048 states). Given the pattern of holes: a
    hole is pinned to a symbol that the network sees, neither noised nor scored.

    Imputation: observed cells are set to their own noisy version before each step, and each step is repeated
    ``repeats`` times so that both sides agree: an approximation that more repeats improve.

    Args:
        schema: The table's schema as a plain dictionary.
        num_steps: Steps T of the process.
        output: Reading of the network's output. ``plug_in``: in place of the clean symbol (the paper's);
            ``marginalised``: the posterior averaged over it.
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
        importance: Draw the steps of training in proportion to the size of their terms, once each was seen more than
            ten times; else evenly.
        hide: Share of training rows in which cells are hidden at random, so that new patterns of holes score well.
        likelihood: See above.
        repeats: Repetitions of each step in imputation.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``draws``, ...).

    References:
        Hoogeboom, Nielsen, Jaini, Forre, Welling (2021), Argmax Flows and Multinomial Diffusion, arXiv:2102.05379;
        Lugmayr et al. (2022), RePaint, arXiv:2201.09865.
        Differs from the paper: columns with vocabularies of their own; the last step uses the same kernel as the
        others; the reported bound covers all steps; every draw of a step in training updates its weight.
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
        sequences=True,
        weights=True,
    )
    default_lr: ClassVar[float] = 3e-3
    codec: TokenCodec
    size_of_term: Tensor
    times_seen: Tensor

    def __init__(
        self,
        schema: dict[str, Any],
        num_steps: int = 100,
        output: Output = "plug_in",
        num_bins: int | None = None,
        network: Network = "auto",
        width: int | None = None,
        num_layers: int | None = None,
        num_heads: int = 4,
        dropout: float | None = None,
        importance: bool = True,
        hide: float = 0.1,
        likelihood: Literal["auto", "exact", "bound"] = "auto",
        repeats: int = 4,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        if output not in ("plug_in", "marginalised"):
            raise ValueError(f"output must be 'plug_in' or 'marginalised', got '{output}'")
        if likelihood not in ("auto", "exact", "bound"):
            raise ValueError(f"likelihood must be one of auto, exact, bound, got '{likelihood}'")
        self.process = UniformCosine(num_steps)
        self.codec = TokenCodec(self.schema, num_bins)
        self.num_steps = num_steps
        self.output: Output = output
        self.importance = importance
        self.hide = hide
        self.likelihood = likelihood
        self.repeats = repeats
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
        self.register_buffer("size_of_term", torch.ones(num_steps, dtype=torch.float64))
        self.register_buffer("times_seen", torch.zeros(num_steps, dtype=torch.int64))

    # ---- likelihood -----------------------------------------------------------------------------------------------

    @property
    def likelihood_kind(self) -> str:
        """Exact where the states of the chain are listed, else a lower bound."""
        return "exact" if lists_states(self.codec, False, self.likelihood) else "lower_bound"

    @property
    def likelihood_method(self) -> str:
        if self.likelihood_kind == "exact":
            return f"all states of a chain of {self.num_steps} steps"
        return f"bound over {self.num_steps} steps, {self.draws} terms"

    def denoise(self, tokens: Tensor, context: Tensor, time: Tensor) -> Tensor:
        """Distributions of the clean symbols, ``(n, L, K)`` float64; ``time`` is the step over their number."""
        return masked_log_softmax(self.network(tokens, context, time), self.codec.valid).double().exp()

    def _reverse(self, z: Tensor, clean: Tensor, step: Tensor) -> Tensor:
        """Kernel from step ``step`` ``(n,)`` (1 to T) to the one before."""
        valid = self.codec.valid
        kernel = plug_in if self.output == "plug_in" else marginalised
        return kernel(z, clean, self.process.level(step - 1, valid), self.process.level(step, valid))

    def chain(self) -> ReverseChain:
        """The reverse process that draws samples, from uniform rows to clean ones."""

        def reverse(z: Tensor, clean: Tensor, step: int) -> Tensor:
            return self._reverse(z, clean, torch.tensor([self.num_steps - step], device=z.device))

        def time(step: int) -> float:
            return 1 - step / self.num_steps

        return ReverseChain(self.denoise, reverse, time, self.num_steps, self.codec.valid, None)

    def _noised(self, x: Tensor, step: Tensor, uniform: Tensor) -> Tensor:
        """Noisy symbols after ``step`` steps, by the inverse cdf."""
        level = self.process.level(step, self.codec.valid)
        return draw(torch.log(marginal(level, F.one_hot(x, self.codec.max_symbols))), uniform)

    def _term(self, tokens: Tensor, context: Tensor, step: Tensor, uniform: Tensor) -> Tensor:
        """One term of the bound for each row ``(n,)``, nats."""
        hole, x, valid = tokens < 0, tokens.clamp(min=0), self.codec.valid
        z = self._noised(x, step, uniform)
        clean = self.denoise(seen(z, hole, None), context, step / self.num_steps)
        reverse = self._reverse(z, clean, step)
        cells = step_terms(z, x, reverse, self.process.level(step - 1, valid), self.process.level(step, valid))
        return torch.where(hole, 0.0, cells).sum(1)

    def _prior(self, tokens: Tensor) -> Tensor:
        last = torch.tensor([self.num_steps], device=tokens.device)
        valid = self.codec.valid
        cells = prior_term(tokens.clamp(min=0), self.process.level(last, valid), valid)
        return torch.where(tokens < 0, 0.0, cells).sum(1)

    def model_log_prob(self, encoded: TokenRows, noise: RowNoise, draws: int) -> ModelLogProb:
        if self.likelihood_kind == "exact":
            return ModelLogProb(self.chain().exact_log_prob(encoded.tokens))
        batch, length = encoded.tokens.shape
        device = encoded.tokens.device
        start = noise.uniform(stream="multinomial/step")[:, None]
        level = (start + torch.arange(draws, dtype=torch.float64)) / draws
        step = (level * self.num_steps).floor().to(torch.int64).clamp(max=self.num_steps - 1).reshape(-1) + 1
        replace = torch.stack([noise.uniform(length, stream=f"multinomial/noise/{k}") for k in range(draws)], 1)
        replace, step = replace.reshape(batch * draws, length).to(device), step.to(device)
        index = torch.arange(batch, device=device).repeat_interleave(draws)

        def piece(tokens: Tensor, which: Tensor) -> Tensor:
            return self._term(tokens, encoded.context[index[which]], step[which], replace[which])

        terms = in_pieces(piece, encoded.tokens[index], torch.arange(len(index), device=device))
        terms = -self.num_steps * terms.reshape(batch, draws) - self._prior(encoded.tokens)[:, None]
        return ModelLogProb(*monte_carlo_mean(terms))

    # ---- training -------------------------------------------------------------------------------------------------

    def initialise(self, batches: Sequence[Any]) -> None:
        """The network starts at the columns' own frequencies."""
        self.network.head.start_at(log_marginals(self.codec, batches[0].tokens))

    def step_probabilities(self) -> Tensor:
        """``(T,)`` how often each step is drawn in training."""
        even = torch.full_like(self.size_of_term, 1 / self.num_steps)
        if not self.importance or bool((self.times_seen <= SEEN_BEFORE_WEIGHTING).any()):
            return even
        size = torch.sqrt(self.size_of_term + 1e-10) + 1e-4
        if self.num_steps > 1:
            size = torch.cat([size[1:2], size[1:]])
        return size / size.sum()

    def row_losses(self, encoded: TokenRows) -> Tensor:
        """An unbiased draw of the bound, nats a row."""
        tokens = hide_cells(encoded.tokens, self.hide)
        probability = self.step_probabilities()
        level = spread_levels(len(tokens), tokens.device)
        step = torch.searchsorted(probability.cumsum(0), level, right=True).clamp(max=self.num_steps - 1)
        uniform = torch.rand(tokens.shape, dtype=torch.float64, device=tokens.device)
        terms = self._term(tokens, encoded.context, step + 1, uniform)
        if self.training:
            self._remember(step, terms.detach())
        return terms / probability[step] + self._prior(tokens)

    def _remember(self, step: Tensor, terms: Tensor) -> None:
        """Moving average of the squared term of each step drawn."""
        count = torch.bincount(step, minlength=self.num_steps)
        total = torch.zeros_like(self.size_of_term).index_add_(0, step, terms.square())
        drawn = count > 0
        mean = total / count.clamp(min=1)
        self.size_of_term.copy_(torch.where(drawn, 0.1 * mean + 0.9 * self.size_of_term, self.size_of_term))
        self.times_seen += count

    # ---- samples --------------------------------------------------------------------------------------------------

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        rows = torch.arange(num_samples, device=self.codec.edges.device)
        context = rows.new_zeros(num_samples, 0) if context is None else context
        return self.codec.decode(self.chain().sample(num_samples, context, generator), rows, generator)

    def model_impute(
        self, batch: TableBatch, encoded: TokenRows, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        """Completions by repeated steps with the observed cells noised along."""
        return [
            filled(self.codec, batch, self._complete(encoded.tokens, encoded.context, generator), generator)
            for _ in range(draws)
        ]

    def _complete(self, tokens: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        chain, given = self.chain(), tokens >= 0
        hole = torch.zeros_like(given)
        z = chain.noise((len(tokens), tokens.shape[1]), generator)

        def noised(x: Tensor, step: int) -> Tensor:
            uniform = torch.rand(x.shape, generator=generator, dtype=torch.float64).clamp(2.0**-54, 1 - 2.0**-53)
            return self._noised(x, torch.tensor([step], device=x.device), uniform.to(x.device))

        for step in range(self.num_steps):
            left = self.num_steps - step
            for repeat in range(self.repeats):
                z = torch.where(given, noised(tokens.clamp(min=0), left), z)
                probs = chain.kernel(z, hole, context, step)
                z = run_chain(lambda _, __, probs=probs: probs, z, 1, generator)  # type: ignore[misc]
                if repeat < self.repeats - 1:
                    z = self._forward(z, left, generator)
        return torch.where(given, tokens, z)

    def _forward(self, z: Tensor, step: int, generator: torch.Generator) -> Tensor:
        """One step of noise, from ``step - 1`` to ``step``."""
        bars = self.process.alpha_bar
        kept = float(bars[step] / bars[step - 1])
        stay = torch.rand(z.shape, generator=generator, dtype=torch.float64).to(z.device) < kept
        return torch.where(stay, z, self.chain().noise((len(z), z.shape[1]), generator))
