"""RADD: a masked diffusion whose network needs no time, so it is an any-order model and an imputer at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genzoo.codecs.tokens import TokenCodec, TokenRows
from genzoo.diffusion import any_order
from genzoo.diffusion.absorbing import (
    Geometric,
    LogLinear,
    Loss,
    Schedule,
    alpha,
    denoising_score_entropy,
    mask_cells,
    masked_nll,
    score_factor,
    spread_levels,
)
from genzoo.diffusion.categorical import Conditional, masked_log_softmax
from genzoo.diffusion.reveal import Drawn, Sampler, reveal
from genzoo.errors import CapabilityError
from genzoo.likelihood.estimators import importance_weighted, monte_carlo_mean
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.discrete.token_rows import Network, build_network, filled, log_marginals, usual_lr
from genzoo.models.flows.sizes import default_dropout
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

Likelihood = Literal["auto", "exact", "bound", "subset", "importance"]
EXACT_UP_TO = 7
"""Cells up to which ``auto`` lists all subsets: 128 network calls a row."""
SMALLEST_TIME = 1e-3
SUBSET_ROWS = 2**17


class RADD(DensityModel):
    r"""Reparameterised absorbing discrete diffusion, for any table.

    Cells are symbols (categories, atoms, bins of numbers) that a diffusion masks one by one. Its reverse needs only the
    probability of the symbol of a masked cell given the visible ones, ``c_i(x_i | S)``, which does not depend on time:
    one transformer without a time. Filling cells in a uniformly random order gives

    .. math:: p(x) = \frac{1}{L!} \sum_\sigma \prod_l c_{\sigma(l)}(x_{\sigma(l)} \mid x_{\sigma(<l)}) \ge
        \exp \mathbb{E}_\sigma \sum_l \log c_{\sigma(l)}(x_{\sigma(l)} \mid x_{\sigma(<l)}).

    Numbers add the log-density within their bin (:class:`genzoo.codecs.tokens.TokenCodec`).

    Likelihood: ``exact`` lists the subsets of cells (``2^L`` calls a row; ``auto`` does so up to 7 cells). ``bound``
    averages ``draws`` masked sets a row: a lower bound with a standard error. ``subset`` is the same bound without
    noise (``2^L`` calls). ``importance`` averages the probabilities of ``draws`` orders: a tighter lower bound, ``L``
    calls a draw. Set ``model.likelihood`` to change it after training. Holes stay masked, so the number is that of the
    observed cells, for every pattern, and the pattern itself is no input.

    Args:
        schema: The table's schema as a plain dictionary.
        num_bins: Bins of a continuous column, twice as many for a quantized one; ``None``: ``2 n^(1/3)`` of the
            training rows, 16 to 64. More follow finer detail and need more rows.
        network: ``transformer`` over the columns; ``mlp``, residual blocks over the whole row, for wide binary rows;
            ``text``, a transformer with one vocabulary and rotary places, for one block. ``auto``: ``mlp`` for more
            than 32 binary cells, ``text`` for another block, else ``transformer``.
        width: Features of each cell in the network (of a row for ``mlp``); ``None``: 64 for ``transformer``, 128 for
            ``text``, 512 for ``mlp``.
        num_layers: Layers or residual blocks of the network; ``None``: 2, for ``text`` 4.
        num_heads: Attention heads; they divide ``width``.
        dropout: Probability of dropping a feature in training; ``None``: 0.2 below 1000 training rows, 0.1 below
            10,000, else 0.
        logistic: Adds to ``mlp`` a logistic regression of each cell on the symbols of the others, its weights under a
            Laplace prior of this scale: training minimises ``|weight| / logistic`` beside the nats of all training
            rows. Smaller is sparser; the prior fades as rows grow. 0 adds nothing.
        loss: What training minimises; the first four have one expectation. ``any_order`` draws the number of masked
            cells and has the least noise of them; ``lambda_dce`` the masking probability, ``t_dce`` and ``t_dse`` a
            time. ``cross_entropy`` is ``any_order`` with one weight for all masked cells, instead of more where few are
            masked: the same conditionals are best, with less noise on long rows, but its value is no bound. The
            likelihood reported is the same for all.
        noise: Schedule of ``t_dce`` and ``t_dse``: ``log_linear`` or ``geometric``.
        likelihood: See above.
        sampler: ``any_order`` and ``first_hitting`` reveal a cell a call and follow the exact likelihood; ``tweedie``
            and ``euler`` reveal several at once in ``num_steps`` steps.
        num_steps: Steps of ``tweedie`` and ``euler``; more are closer to the exact law.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``draws``, ...).

    References:
        Ou, Nie, Xue, Zhu, Sun, Li, Li (2025), Your absorbing discrete diffusion secretly models the conditional
        distributions of clean data, arXiv:2406.03736.
        Differs from the paper: columns with vocabularies of their own instead of text; schedules start at all masked;
        starts at the columns' marginals, attention of ``text`` at neighbours; exact likelihood by subsets; reveals are
        drawn before the network is called.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="radd")  # doctest: +SKIP
        >>> model.log_prob("sklearn:wine").kind  # doctest: +SKIP
        'lower_bound'
    """

    settings: ClassVar[frozenset[str]] = DensityModel.settings | {"num_steps", "sampler"}
    capabilities: ClassVar[Capabilities] = Capabilities(
        missing="lower_bound",
        context=True,
        context_missing=True,
        likelihood="lower_bound",
        quantized="lower_bound",
        categorical="lower_bound",
        imputes=True,
        sequences=True,
        weights=True,
    )
    default_lr: ClassVar[float] = 3e-3
    codec: TokenCodec

    def __init__(
        self,
        schema: dict[str, Any],
        num_bins: int | None = None,
        network: Network = "auto",
        width: int | None = None,
        num_layers: int | None = None,
        num_heads: int = 4,
        dropout: float | None = None,
        logistic: float = 0.0,
        loss: Loss = "any_order",
        noise: Literal["log_linear", "geometric"] = "log_linear",
        likelihood: Likelihood = "auto",
        sampler: Sampler = "any_order",
        num_steps: int = 64,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        for name, value, known in (
            ("loss", loss, ("any_order", "lambda_dce", "t_dce", "t_dse", "cross_entropy")),
            ("noise", noise, ("log_linear", "geometric")),
            ("likelihood", likelihood, ("auto", "exact", "bound", "subset", "importance")),
            ("sampler", sampler, ("any_order", "first_hitting", "tweedie", "euler")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{value}'")
        if logistic < 0:
            raise ValueError(f"logistic is the scale of a prior, at least 0, got {logistic}")
        self.codec = TokenCodec(self.schema, num_bins)
        self.logistic = logistic
        self.loss_kind: Loss = loss
        self.noise_schedule: Schedule = LogLinear() if noise == "log_linear" else Geometric()
        self.likelihood: Likelihood = likelihood
        self.sampler: Sampler = sampler
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
            logistic=logistic > 0,
        )
        if training.get("lr") is None:
            self.lr = usual_lr(self.network, self.default_lr)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def _choice(self) -> str:
        if self.likelihood in ("exact", "subset") and self.codec.num_slots > any_order.MAX_EXACT:
            raise CapabilityError(
                f"likelihood '{self.likelihood}' lists all subsets of the cells of a row: at most "
                f"{any_order.MAX_EXACT} cells, the table has {self.codec.num_slots}; use 'bound' or 'importance'"
            )
        if self.likelihood != "auto":
            return self.likelihood
        return "exact" if self.codec.num_slots <= EXACT_UP_TO else "bound"

    @property
    def likelihood_kind(self) -> str:
        """Exact where all subsets of cells are listed, else a lower bound."""
        return "exact" if self._choice() == "exact" else "lower_bound"

    @property
    def likelihood_method(self) -> str:
        return {
            "exact": "all orders, by dynamic programming over subsets",
            "bound": f"any-order bound, {self.draws} masked sets",
            "subset": "any-order bound, all subsets",
            "importance": f"importance-weighted, {self.draws} orders",
        }[self._choice()]

    def conditional(self, context: Tensor) -> Conditional:
        """The model's probabilities of masked cells, for rows with this context ``(batch, num_context)``."""
        valid = self.codec.valid

        def log_probs(tokens: Tensor, index: Tensor) -> Tensor:
            return masked_log_softmax(self.network(tokens, context[index]), valid)

        return log_probs

    def model_log_prob(self, encoded: TokenRows, noise: RowNoise, draws: int) -> ModelLogProb:
        conditional, tokens = self.conditional(encoded.context), encoded.tokens
        choice = self._choice()
        if choice == "bound":
            level, order = any_order.bound_noise(noise, self.codec.num_slots, draws)
            terms, _ = any_order.bound_terms(conditional, tokens, level, order)
            return ModelLogProb(*monte_carlo_mean(terms))
        if choice == "importance":
            order = torch.stack(
                [noise.uniform(self.codec.num_slots, stream=f"any_order/chain/{k}") for k in range(draws)], 1
            )
            return ModelLogProb(*importance_weighted(any_order.order_log_probs(conditional, tokens, order)))
        # Without noise equal symbols have equal probabilities: each distinct row is scored once.
        width = tokens.shape[1]
        distinct, place = torch.unique(torch.cat([tokens, encoded.context], 1), dim=0, return_inverse=True)
        parts = []
        for rows in distinct.split(max(1, SUBSET_ROWS // 2**width)):
            table = any_order.subset_table(self.conditional(rows[:, width:]), rows[:, :width])
            parts.append(any_order.exact_log_prob(table) if choice == "exact" else any_order.exact_bound(table)[0])
        return ModelLogProb(torch.cat(parts)[place])

    # ---- training -------------------------------------------------------------------------------------------------

    def initialise(self, batches: Sequence[Any]) -> None:
        """The network starts at the columns' own frequencies."""
        self.network.head.start_at(log_marginals(self.codec, batches[0].tokens))

    def row_losses(self, encoded: TokenRows) -> Tensor:
        """Nats a row, in expectation the negative any-order bound (but for ``cross_entropy``), and the row's share of
        the prior of ``logistic``.
        """
        losses = self.loss_terms(encoded.tokens, encoded.context)
        term = getattr(self.network, "logistic", None)
        if term is None:
            return losses
        rows = self.schema.num_training_rows or len(encoded.tokens)
        return losses + term.size() / (self.logistic * rows)

    def loss_terms(self, tokens: Tensor, context: Tensor) -> Tensor:
        """The chosen loss of each row, ``(batch,)``, at random masks from torch's own generator."""
        level = spread_levels(len(tokens), tokens.device)
        observed = (tokens >= 0).sum(1)
        if self.loss_kind in ("any_order", "cross_entropy"):
            count = (level * observed).floor().to(torch.int64).clamp(max=observed - 1) + 1
            order = torch.rand(tokens.shape, dtype=torch.float64, device=tokens.device)
            masked = any_order.mask_uniformly(tokens, count, order)
            weight = observed / count.clamp(min=1)
            if self.loss_kind == "cross_entropy":  # in the mean over counts a cell weighs 1
                weight = 2 * observed / (observed + 1)
        else:
            time = SMALLEST_TIME + (1 - SMALLEST_TIME) * level
            by_time = self.loss_kind != "lambda_dce"
            lam = 1 - alpha(self.noise_schedule, time) if by_time else time
            masked = mask_cells(tokens, lam)
            factor = score_factor(self.noise_schedule, time)
            weight = self.noise_schedule.rate(time) * factor if by_time else 1 / lam
        every = torch.arange(len(tokens), device=tokens.device)
        log_probs = self.conditional(context)(tokens.masked_fill(masked, -1), every)
        if self.loss_kind == "t_dse":
            return self.noise_schedule.rate(time) * denoising_score_entropy(log_probs, tokens, masked, factor)
        return weight * masked_nll(log_probs, tokens, masked)

    # ---- samples --------------------------------------------------------------------------------------------------

    def fill(self, tokens: Tensor, context: Tensor, generator: torch.Generator, cached: bool = True) -> Drawn:
        """Symbols for the masked cells of ``tokens`` and the number of network calls, by the chosen sampler."""
        return reveal(self.conditional(context), tokens, generator, self.sampler, self.num_steps, cached)

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        device = self.codec.edges.device
        start = torch.full((num_samples, self.codec.num_slots), -1, dtype=torch.int64, device=device)
        if context is None:
            context = start[:, :0]
        tokens = self.fill(start, context, generator).tokens
        return self.codec.decode(tokens, torch.arange(num_samples, device=device), generator)

    def model_impute(
        self, batch: TableBatch, encoded: TokenRows, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        """Draws from the model's distribution of the holes given the observed cells."""
        return [
            filled(self.codec, batch, self.fill(encoded.tokens, encoded.context, generator).tokens, generator)
            for _ in range(draws)
        ]
