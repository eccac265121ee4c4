"""Binary diffusion: a row as bits that flip at random, and a network that says what they were."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from genzoo.codecs.bits import PINNED, BitCodec, BitRows, Spacing
from genzoo.diffusion import xor
from genzoo.diffusion.absorbing import spread_levels
from genzoo.diffusion.chain import MAX_STATES, all_states
from genzoo.diffusion.process import marginalised
from genzoo.errors import CapabilityError
from genzoo.likelihood.estimators import monte_carlo_mean
from genzoo.likelihood.noise import RowNoise
from genzoo.models.base import DensityModel
from genzoo.models.capabilities import Capabilities
from genzoo.models.discrete.noisy import ReverseChain
from genzoo.models.flows.sizes import default_dropout
from genzoo.models.scoring import ModelLogProb
from genzoo.networks.bits import BitMLP, ConcatMLP
from genzoo.tables.batch import TableBatch

Heads = Literal["both", "value", "flip"]
MAX_ROWS = 2**14
MAX_ROUNDS = 50
PAPER_LEVELS = 1000


@dataclass(frozen=True)
class Seen:
    """What a network is shown beside the noisy bits.

    Args:
        pinned: ``(n, num_bits)`` bool: holes and bits that are not needed.
        shown: ``(n, num_bits)`` bool: clean bits of cells that are given.
        context: ``(n, num_context)``.
    """

    pinned: Tensor
    shown: Tensor
    context: Tensor

    def select(self, index: Tensor | slice) -> Seen:
        return Seen(self.pinned[index], self.shown[index], self.context[index])


class BinaryDiffusion(DensityModel):
    r"""Diffusion over the bits of a row, for any table.

    Cells become bits (:class:`genzoo.codecs.bits.BitCodec`). Noise flips each bit with a probability ``b`` between 0
    and 1/2; the network reads the noisy bits and the time and has two heads, log-odds that a bit was 1 and that it was
    flipped: two views of one posterior, averaged. To what it says of a bit from the others, the noisy bit's own
    evidence ``log((1 - b) / b)`` is added exactly. With ``q`` the probability of a flip given the other bits,

    .. math:: -\log p(x) \le \int_0^1 dv \frac{v}{1 - v^2} \mathbb{E}_z \sum_i \rho_i (\log r_i - 1 + 1 / r_i),
        \quad b = v^2 / 2,

    with ``rho`` and ``r`` as in :mod:`genzoo.diffusion.xor`; numbers add the log-density within their bin.

    Likelihood: ``bound`` averages ``draws`` times and noisy rows of that integral, over its whole range: a lower bound
    with a standard error. ``exact`` lists the states of the chain of ``num_steps`` steps that draws samples: for rows
    of up to 11 bits without context (``auto`` chooses it there). Given the pattern of holes: bits of a hole are pinned,
    seen, neither noised nor scored. Codes that stand for nothing cost mass in the bound; rows with one are drawn again.

    Imputation: in a share ``show`` of the training rows some cells are shown clean, so that the network learns the
    others given them; holes are drawn by the chain with the observed cells shown.

    Args:
        schema: The table's schema as a plain dictionary.
        num_bits: Most bits of a numeric cell; ``None``: by the number of training rows.
        spacing: Bins of numbers: ``quantile`` (equal shares of rows) or ``uniform`` (fixed point).
        gray: Neighbouring codes differ in one bit.
        finest: Uniform bins: use all ``num_bits``, from the smallest to the largest training row.
        network: ``residual``: normalised residual blocks; ``concat``: the paper's.
        width: Features of a row in the network.
        num_layers: Blocks of the network.
        dropout: Probability of dropping a feature in training; ``None``: by the number of training rows.
        loss: ``bound``: the integrand above; ``cross_entropy``: of both heads, the paper's.
        levels: Noise of training: ``continuous``, ``b = v^2 / 2`` down to clean rows; or 1000 levels of the paper, from
            one over the number of bits to 1/2 (``quad``, ``linear``, ``sigmoid``).
        evidence: Add the noisy bit's own evidence; else the network has to learn it (the paper's).
        heads: Which heads say what a bit was: both averaged, that of its value, or that of its flip.
        hide: Share of training rows in which cells are hidden at random, so that new patterns of holes score well.
        show: Share of training rows in which cells are shown clean; 0 makes imputation impossible.
        drop_context: Share of training rows without context, for guidance.
        guidance: How far samples follow the context: log-odds are those without it plus ``guidance`` times the
            difference. 1 draws from the model; more is sharper and no longer what the likelihood describes.
        likelihood: See above.
        sampler: ``ancestral`` draws from the model's chain. ``paper`` rounds the posterior to 0 or 1 and adds noise
            again: it seeks modes, and no likelihood describes what it draws.
        num_steps: Steps of the chain.
        training: Arguments of :class:`genzoo.models.base.DensityModel` (``lr``, ``patience``, ``ema``, ``draws``, ...).

    References:
        Kinakh and Voloshynovskiy (2024), Tabular data generation using binary diffusion, arXiv:2409.13882.
        Differs from the paper: a likelihood bound, noise down to clean rows, bins by quantiles in Gray code, tails
        instead of clipping, holes, a residual network with the noisy bit's evidence added, ancestral samples.
        ``configs/model/binary_diffusion_authors.yaml`` sets what the paper does.
    """

    settings: ClassVar[frozenset[str]] = DensityModel.settings | {"guidance", "sampler"}
    capabilities: ClassVar[Capabilities] = Capabilities(
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
    default_lr: ClassVar[float] = 2e-3
    codec: BitCodec
    _last_bit: Tensor
    paper_levels: Tensor

    def __init__(
        self,
        schema: dict[str, Any],
        num_bits: int | None = None,
        spacing: Spacing = "quantile",
        gray: bool = True,
        finest: bool = False,
        network: Literal["residual", "concat"] = "residual",
        width: int = 512,
        num_layers: int = 3,
        dropout: float | None = None,
        loss: Literal["bound", "cross_entropy"] = "bound",
        levels: Literal["continuous", "quad", "linear", "sigmoid"] = "continuous",
        evidence: bool = True,
        heads: Heads = "both",
        hide: float = 0.1,
        show: float = 0.2,
        drop_context: float = 0.1,
        guidance: float = 1.0,
        likelihood: Literal["auto", "exact", "bound"] = "auto",
        sampler: Literal["ancestral", "paper"] = "ancestral",
        num_steps: int = 64,
        **training: Any,
    ) -> None:
        super().__init__(schema, **training)
        for name, value, known in (
            ("network", network, ("residual", "concat")),
            ("loss", loss, ("bound", "cross_entropy")),
            ("levels", levels, ("continuous", "quad", "linear", "sigmoid")),
            ("heads", heads, ("both", "value", "flip")),
            ("likelihood", likelihood, ("auto", "exact", "bound")),
            ("sampler", sampler, ("ancestral", "paper")),
        ):
            if value not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got '{value}'")
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")
        self.codec = BitCodec(self.schema, num_bits, spacing, gray, finest)
        self.loss_kind = loss
        self.levels = levels
        self.evidence = evidence
        self.heads: Heads = heads
        self.hide, self.show, self.drop_context = hide, show, drop_context
        self.guidance = guidance
        self.likelihood = likelihood
        self.sampler = sampler
        self.num_steps = num_steps
        size = self.codec.num_bits
        ends = [field.start + field.width - 1 for field in self.codec.fields if field.width]
        self.register_buffer("_last_bit", torch.tensor(ends, dtype=torch.int64), persistent=False)
        if levels != "continuous":
            table = xor.paper_levels(PAPER_LEVELS, 1 / max(size, 2), levels)
            self.register_buffer("paper_levels", table, persistent=False)
        kind = BitMLP if network == "residual" else ConcatMLP
        drop = default_dropout(self.schema) if dropout is None else dropout
        num_in = size + 2 * len(ends) + self.codec.num_context
        self.network = kind(num_in, size, width, num_layers, drop)
        # What is known of a bit without any other: the log-odds of its frequency in training rows.
        self.register_buffer("marginal", torch.zeros(size))

    marginal: Tensor

    # ---- network --------------------------------------------------------------------------------------------------

    def outputs(self, z: Tensor, seen: Seen, b: Tensor) -> Tensor:
        """Log-odds ``(n, 2, num_bits)`` float64 of a clean 1 and of a flip, given the *other* bits.

        Args:
            z: ``(n, num_bits)`` noisy bits (clean where shown, anything where pinned).
            seen: The rest of what the network reads.
            b: ``(n,)`` flip probabilities.
        """
        value = torch.where(seen.pinned, 0, 2 * z - 1)
        flags = [seen.pinned[:, self._last_bit], seen.shown[:, self._last_bit]]
        features = torch.cat([value, *flags, seen.context], 1).to(self.marginal.dtype)
        heads = self.network(features, torch.sqrt(2 * b)).double()
        if not self.evidence:  # the network gives posteriors, out of which the bit's own evidence is taken
            own = xor.evidence(b)[:, None]
            return heads - torch.stack([(2 * z - 1) * own, -own.expand_as(z)], 1)
        start = self.marginal.double()
        return heads + torch.stack([start.expand(z.shape), (1 - 2 * z) * start], 1)

    def leave_one_out(self, z: Tensor, seen: Seen, b: Tensor) -> Tensor:
        """Log-odds ``(n, num_bits)`` float64 of a clean 1 given the other bits, by the chosen heads."""
        heads = self.outputs(z, seen, b)
        if self.heads == "value":
            return heads[:, 0]
        return (1 - 2 * z) * heads[:, 1] if self.heads == "flip" else xor.combined(heads, z)

    def _guided(self, z: Tensor, seen: Seen, b: Tensor) -> Tensor:
        h = self.leave_one_out(z, seen, b)
        if self.guidance == 1 or not self.codec.num_context:
            return h
        every = torch.ones(len(z), dtype=torch.bool, device=z.device)
        without = Seen(seen.pinned, seen.shown, self.codec.without_context(seen.context, every))
        plain = self.leave_one_out(z, without, b)
        return plain + self.guidance * (h - plain)

    # ---- likelihood -----------------------------------------------------------------------------------------------

    def _lists_states(self) -> bool:
        possible = 2**self.codec.num_bits <= MAX_STATES and self.codec.num_context == 0
        if self.likelihood == "exact" and not possible:
            reason = "context columns" if self.codec.num_context else f"{self.codec.num_bits} bits"
            raise CapabilityError(
                "likelihood 'exact' lists the states of a row: at most 11 bits and no context columns, "
                f"the table has {reason}; use 'bound'"
            )
        return possible and self.likelihood != "bound"

    @property
    def likelihood_kind(self) -> str:
        """Exact where the states of the chain are listed, else a lower bound."""
        return "exact" if self._lists_states() else "lower_bound"

    @property
    def likelihood_method(self) -> str:
        if self.likelihood_kind == "exact":
            return f"all states of a chain of {self.num_steps} steps"
        return f"continuous-time bound, {self.draws} draws"

    def model_log_prob(self, encoded: BitRows, noise: RowNoise, draws: int) -> ModelLogProb:
        if self.likelihood_kind == "exact":
            return ModelLogProb(self._listed(encoded.bits))
        batch, length = encoded.bits.shape
        start = noise.uniform(stream="xor/time")[:, None]
        level = (start + torch.arange(draws, dtype=torch.float64) / draws) % 1.0
        terms = []
        for draw in range(draws):
            v = level[:, draw].clamp(2.0**-40, 1 - 2.0**-40).to(encoded.bits.device)
            uniform = noise.uniform(length, stream=f"xor/flips/{draw}").to(v.device)
            parts = [
                self._integrand(encoded.bits[part], encoded.context[part], v[part], uniform[part])
                for part in torch.arange(batch, device=v.device).split(MAX_ROWS)
            ]
            terms.append(-torch.cat(parts))
        return ModelLogProb(*monte_carlo_mean(torch.stack(terms, 1)))

    def _integrand(self, x: Tensor, context: Tensor, v: Tensor, uniform: Tensor, shown: Tensor | None = None) -> Tensor:
        """The integrand of the bound for each row ``(n,)`` at times ``v``, over the bits that are not shown."""
        seen = self._seen(x, context, shown)
        b = xor.flip_probability(v)
        z = self._noised(x, uniform < b[:, None], seen)
        terms = xor.bound_terms(self.leave_one_out(z, seen, b), z, x.clamp(min=0), v[:, None])
        return torch.where(seen.pinned | seen.shown, 0.0, terms).sum(1)

    @staticmethod
    def _seen(x: Tensor, context: Tensor, shown: Tensor | None) -> Seen:
        return Seen(x < 0, torch.zeros_like(x, dtype=torch.bool) if shown is None else shown, context)

    @staticmethod
    def _noised(x: Tensor, flips: Tensor, seen: Seen) -> Tensor:
        return x.clamp(min=0) ^ (flips & ~seen.shown & ~seen.pinned).long()

    def chain(self) -> ReverseChain:
        """The reverse process of the ancestral sampler, for listing its states."""
        size = self.codec.num_bits
        grid = self.grid()

        def denoise(z: Tensor, context: Tensor, time: Tensor) -> Tensor:
            seen = self._seen(z, context, None)
            b = xor.flip_probability(time)
            clean = z.clamp(min=0)
            p = torch.sigmoid(xor.posterior_logit(self.leave_one_out(clean, seen, b), clean, b[:, None]))
            return torch.stack([1 - p, p], -1)

        def reverse(z: Tensor, clean: Tensor, step: int) -> Tensor:
            s, t = (xor.level(xor.flip_probability(grid[k : k + 1].to(z.device)), size) for k in (step + 1, step))
            return marginalised(z, clean, s, t)

        valid = torch.ones(size, 2, dtype=torch.bool, device=self.marginal.device)
        return ReverseChain(denoise, reverse, lambda step: float(grid[step]), self.num_steps, valid, None)

    def grid(self) -> Tensor:
        """``(num_steps + 1,)`` times of the chain, from 1 (noise) to 0 (clean)."""
        return torch.linspace(1, 0, self.num_steps + 1, dtype=torch.float64)

    def _listed(self, bits: Tensor) -> Tensor:
        """Exact log-probability of rows as they are drawn: among the codes that stand for something."""
        out = torch.zeros(len(bits), dtype=torch.float64, device=bits.device)
        power = 2 ** torch.arange(bits.shape[1] - 1, -1, -1, device=bits.device)
        patterns, group = torch.unique((bits < 0).long() @ power, return_inverse=True)
        for number, code in enumerate(patterns):
            here = torch.nonzero(group == number)[:, 0]
            kept = torch.nonzero((code & power) == 0)[:, 0]
            if not len(kept):
                continue
            states = torch.full((2 ** len(kept), len(power)), PINNED, device=bits.device)
            states[:, kept] = all_states([torch.arange(2, device=bits.device)] * len(kept))
            log_law = self.chain().exact_log_prob(states)
            good = self._meaningful(states).all(1)
            place = bits[here][:, kept] @ power[-len(kept) :]  # the last bit runs fastest in the list
            out[here] = log_law[place] - torch.logsumexp(log_law[good], 0)
        return out

    def _meaningful(self, bits: Tensor) -> Tensor:
        """``(n, num_cells)`` bool: the cell's code exists, or the cell is a hole."""
        hole = torch.ones(len(bits), self.codec.num_cells, dtype=torch.int64, device=bits.device)
        hole = hole.scatter_reduce(1, self.codec.field_of_bit.expand(bits.shape), (bits < 0).long(), "amin")
        return self.codec.meaningful(bits) | (hole > 0)

    # ---- training -------------------------------------------------------------------------------------------------

    def initialise(self, batches: Sequence[Any]) -> None:
        """The network starts at the frequencies of the bits."""
        bits = batches[0].bits
        ones, known = (bits == 1).sum(0) + 0.5, (bits >= 0).sum(0) + 1.0
        self.marginal.copy_(torch.logit(ones.double() / known))

    def _some_cells(self, num: int, rate: float, device: torch.device) -> Tensor:
        """``(num, num_bits)`` bool: in a share ``rate`` of the rows, cells by a probability drawn for the row."""
        chosen = torch.rand(num, 1, device=device) < rate
        share = torch.rand(num, 1, device=device)
        cells = chosen & (torch.rand(num, self.codec.num_cells, device=device) < share)
        return cells[:, self.codec.field_of_bit]

    def row_losses(self, encoded: BitRows) -> Tensor:
        """A draw of the bound, or the cross-entropies of both heads; nats a row."""
        device, num = encoded.bits.device, len(encoded)
        x = encoded.bits.masked_fill(self._some_cells(num, self.hide, device), PINNED)
        shown = self._some_cells(num, self.show, device) & (x >= 0)
        context = encoded.context
        if self.codec.num_context and self.drop_context:
            context = self.codec.without_context(context, torch.rand(num, device=device) < self.drop_context)
        level = spread_levels(num, device)
        uniform = torch.rand(x.shape, dtype=torch.float64, device=device)
        if self.loss_kind == "bound" and self.levels == "continuous":
            v = level.clamp(1e-6, 1 - 1e-6)
            return self._integrand(x, context, v, uniform, shown)
        if self.levels == "continuous":
            b = xor.flip_probability(level).clamp(min=1e-9)
        else:
            b = self.paper_levels[(level * PAPER_LEVELS).long().clamp(max=PAPER_LEVELS - 1)]
        if self.loss_kind == "bound":
            return self._integrand(x, context, torch.sqrt(2 * b).clamp(max=1 - 1e-6), uniform, shown)
        seen = self._seen(x, context, shown)
        z = self._noised(x, uniform < b[:, None], seen)
        clean, own = x.clamp(min=0), xor.evidence(b)[:, None]
        heads = self.outputs(z, seen, b)
        value = F.binary_cross_entropy_with_logits(heads[:, 0] + (2 * z - 1) * own, clean.double(), reduction="none")
        flip = F.binary_cross_entropy_with_logits(heads[:, 1] - own, (clean ^ z).double(), reduction="none")
        return torch.where(seen.pinned | seen.shown, 0.0, value + flip).sum(1)

    # ---- samples --------------------------------------------------------------------------------------------------

    def draw_bits(self, x: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Complete rows of bits; bits of ``x`` (-1: unknown) are given and shown to the network.

        Bits that are not needed come back as 0.
        """
        needed = self.codec.needed
        seen = Seen(~needed.expand(x.shape), x >= 0, context)

        def coins(shape: torch.Size) -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64).to(x.device)

        def kept(z: Tensor) -> Tensor:
            return torch.where(x >= 0, x, torch.where(needed, z, 0))

        z = kept((coins(x.shape) < 0.5).long())
        grid = self._sampling_levels().to(x.device)
        for upper, lower in itertools.pairwise(grid):
            b = upper.expand(len(x))
            logit = xor.posterior_logit(self._guided(z, seen, b), z, b[:, None])
            if self.sampler == "paper":
                # the posterior rounded, then noise of the *same* level again, as the authors do; at last, none
                rounded = (logit > 0).long()
                again = torch.zeros_like(upper) if lower == 0 else upper
                z = kept(rounded ^ (coins(x.shape) < again).long())
            else:
                p = xor.reverse_one(torch.sigmoid(logit), z, lower, upper)
                z = kept((coins(x.shape) < p).long())
        return z

    def _sampling_levels(self) -> Tensor:
        """``(num_steps + 1,)`` flip probabilities from 1/2 to 0: of the chain, or for rounding those of training."""
        if self.sampler == "ancestral" or self.levels == "continuous":
            return xor.flip_probability(self.grid())
        thinned = torch.linspace(PAPER_LEVELS - 1, 0, self.num_steps).round().long()
        return torch.cat([self.paper_levels.cpu()[thinned], torch.zeros(1, dtype=torch.float64)])

    def _drawn(self, x: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """As :meth:`draw_bits`; rows with a code that stands for nothing are drawn again."""
        bits = self.draw_bits(x, context, generator)
        for _ in range(MAX_ROUNDS):
            bad = torch.nonzero(~self.codec.meaningful(bits).all(1))[:, 0]
            if not len(bad):
                break
            bits[bad] = self.draw_bits(x[bad], context[bad], generator)
        return bits

    def model_sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        device = self.marginal.device
        unknown = torch.full((num_samples, self.codec.num_bits), PINNED, dtype=torch.int64, device=device)
        context = torch.zeros(num_samples, 0, device=device) if context is None else context
        bits = self._drawn(unknown, context, generator)
        return self.codec.decode(bits, torch.arange(num_samples, device=device), generator)

    def model_impute(
        self, batch: TableBatch, encoded: BitRows, draws: int, generator: torch.Generator
    ) -> list[TableBatch]:
        """Draws of the holes with the observed cells shown clean."""
        if self.show == 0:
            raise CapabilityError("BinaryDiffusion was trained with show=0 and does not impute; train with show=0.2")
        filled = []
        for _ in range(draws):
            bits = self._drawn(encoded.bits, encoded.context, generator)
            drawn = self.codec.decode(bits, batch.rows, generator, context=batch)
            filled.append(
                batch.with_values(
                    numeric=torch.where(batch.numeric.isnan(), drawn.numeric, batch.numeric),
                    codes=torch.where(batch.codes < 0, drawn.codes, batch.codes),
                )
            )
        return filled
