"""A dense flow as a model of a codec's rows, through the learned surjection onto R^D."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from genzoo.codecs.base import Cells
from genzoo.codecs.surjection import Slots, Surjection
from genzoo.likelihood.estimators import importance_weighted, monte_carlo_mean
from genzoo.likelihood.noise import RowNoise
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch


class DenseFlow(Protocol):
    """A density on R^D, given a context: what a module needs to stand behind :class:`DenseRows`."""

    def log_prob(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """``(batch, D)`` to ``(batch,)``, nats."""

    def sample(self, num_samples: int, context: Tensor | None, generator: torch.Generator) -> Tensor:
        """``(num_samples, D)`` draws."""


@runtime_checkable
class EstimatedFlow(Protocol):
    """A flow whose log-density, if ``noisy``, is known in evaluation by unbiased estimates only."""

    @property
    def noisy(self) -> bool: ...

    def estimate(self, x: Tensor, context: Tensor | None, noise: RowNoise, stream: str) -> Tensor:
        """``(batch, D)`` to unbiased estimates ``(batch,)``, whose noise is that of ``stream``."""


class Decodes(Slots, Protocol):
    """A codec that turns model-space numbers and categories back into raw rows."""

    def decode(
        self, number: Tensor, category: Tensor, rows: Tensor, context: TableBatch | None = None
    ) -> TableBatch: ...


class DenseRows(nn.Module):
    """A density on R^D between encoded rows and tables.

    Args:
        codec: The model's codec (not registered here).
        build: Makes the flow, a module, from the number of features and of context features.
        surjection: Further arguments of :class:`genzoo.codecs.surjection.Surjection`.
    """

    def __init__(self, codec: Slots, build: Callable[[int, int], nn.Module], **surjection: Any) -> None:
        super().__init__()
        self.surjection = Surjection(codec, **surjection)
        self.num_context = codec.num_context
        self.always_exact = not codec.categories and not any(slot.quantized for slot in codec.numbers)
        self.flow = build(self.surjection.num_features, codec.num_context)

    @property
    def density(self) -> DenseFlow:
        """The flow, by what it can do."""
        return cast(DenseFlow, self.flow)

    def initialise(self, codec: Slots, cells: Cells) -> None:
        """Nothing depends on training rows."""

    @property
    def estimated(self) -> bool:
        """The flow's log-density is estimated in evaluation."""
        return isinstance(self.flow, EstimatedFlow) and self.flow.noisy

    def _log_weight(
        self, cells: Cells, noise: Tensor, probes: tuple[RowNoise, str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """A point for each row, and ``log p(y) - log q(y | cells)``; ``probes`` is the noise of an estimated flow."""
        y, log_q = self.surjection(cells, noise)
        context = cells.context if self.num_context else None
        if not self.training:  # a number that is not drawn keeps its digits, and its size
            numbers = torch.where(
                cells.present & ~self.surjection.quantized, cells.number, y[:, : cells.number.shape[1]]
            )
            y = torch.cat([numbers, y[:, numbers.shape[1] :].double()], 1)
        if probes is not None and isinstance(self.flow, EstimatedFlow):
            return y, self.flow.estimate(y, context, *probes).double() - log_q
        return y, self.density.log_prob(y, context).double() - log_q

    def losses(self, cells: Cells) -> Tensor:
        """Negative lower bound of each row, ``(batch,)`` nats, one draw."""
        noise = torch.randn(len(cells), self.surjection.noise_width, device=cells.number.device)
        return -self._log_weight(cells, noise)[1]

    def log_prob(self, cells: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        """Importance-weighted lower bound with ``draws`` draws a row; exact, with one, where nothing is drawn.

        An estimated flow is averaged over the draws, at least two, without weights: the logarithm of a mean would turn
        its noise into a bias of unknown sign.
        """
        if self.estimated:
            return self._estimate(cells, noise, max(draws, 2))
        if self.always_exact and bool(cells.present.all()):
            idle = cells.number.new_zeros(len(cells), self.surjection.noise_width)
            return ModelLogProb(self._log_weight(cells, idle)[1])
        normal = noise.normal(draws, self.surjection.noise_width, stream="surjection", device=cells.number.device)
        log_weight = self._log_weight(cells.repeat(draws), normal.flatten(0, 1))[1].reshape(len(cells), draws)
        value, se = importance_weighted(log_weight)
        return ModelLogProb(value, se)

    def _estimate(self, cells: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        width, device = self.surjection.noise_width, cells.number.device
        terms = [
            self._log_weight(cells, noise.normal(width, stream=f"surjection/{k}", device=device), (noise, f"flow/{k}"))[
                1
            ]
            for k in range(draws)
        ]
        return ModelLogProb(*monte_carlo_mean(torch.stack(terms, 1)))

    def sample(self, codec: Decodes, num_rows: int, context: Tensor | None, generator: torch.Generator) -> TableBatch:
        """Decoded rows."""
        y = self.density.sample(num_rows, context if self.num_context else None, generator)
        y = y.to(self.surjection.embedding.weight.device)
        number, category = self.surjection.decode(y)
        return codec.decode(number, category, torch.arange(num_rows, device=y.device))

    def impute(
        self,
        codec: Decodes,
        batch: TableBatch,
        cells: Cells,
        draws: int,
        generator: torch.Generator,
        particles: int,
    ) -> list[TableBatch]:
        """Holes from draws of the filler, resampled by the density they reach; observed cells as they were."""
        rows = (cells.number_hole.any(1) | (cells.category < 0).any(1)).nonzero().flatten()
        filled = [(batch.numeric.clone(), batch.codes.clone()) for _ in range(draws)]
        particles = max(particles, 4 * draws)
        for index in rows.split(max(1, 65_536 // particles)):
            part = batch.select(index)
            noise = torch.randn(len(index) * particles, self.surjection.noise_width, generator=generator)
            probes = None
            if self.estimated:
                seed = int(torch.randint(1 << 62, (1,), generator=generator))
                probes = RowNoise(seed, torch.arange(len(index) * particles)), "particles"
            y, log_weight = self._log_weight(
                cells.select(index).repeat(particles), noise.to(batch.numeric.device), probes
            )
            weight = log_weight.reshape(len(index), particles).softmax(1).cpu()
            chosen = torch.multinomial(weight, draws, replacement=True, generator=generator).to(index.device)
            for one, (numeric, codes) in enumerate(filled):
                pick = torch.arange(len(index), device=index.device) * particles + chosen[:, one]
                decoded = codec.decode(*self.surjection.decode(y[pick].double()), part.rows, part)
                numeric[index] = torch.where(part.numeric.isnan(), decoded.numeric, part.numeric)
                codes[index] = torch.where(part.codes < 0, decoded.codes, part.codes)
        return [batch.with_values(numeric=numeric, codes=codes) for numeric, codes in filled]
