"""An energy-based flow as a model of a table's rows or of pictures: trained without a determinant, scored with one."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from genzoo.bijections.smooth_activation import ShareLogit
from genzoo.codecs.base import Cells
from genzoo.codecs.pixels import PixelCodec, Pixels
from genzoo.codecs.vector import VectorCodec
from genzoo.errors import CapabilityError
from genzoo.likelihood.estimators import importance_weighted
from genzoo.likelihood.langevin import langevin
from genzoo.likelihood.noise import RowNoise
from genzoo.models.flows.dense_rows import DenseRows
from genzoo.models.flows.energy_flow import EnergyFlow, Matching, Stack
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

MOST_AT_ONCE = 16_384
PARTICLES = 16


class EnergyRows(nn.Module):
    r"""Rows of a table, through the learned surjection onto R^D.

    A score-matching loss has no say in how cells are drawn into R^D: it would make the drawing collapse to spikes,
    whose score is largest. So each part has a loss of its own. The flow matches the scores of points that are held
    fixed; the surjection ascends the bound ``E_q[log p(y) - log q(y | cells)]``, whose gradient needs the score of the
    flow and no constant: ``-s(y) dy/d phi + d log q/d phi``.

    Args:
        codec: The model's codec (not registered here).
        build: Makes the flow from the number of features and of context features.
        matching: The training objective, from the number of features.
    """

    def __init__(
        self, codec: VectorCodec, build: Callable[[int, int], EnergyFlow], matching: Callable[[int], Matching]
    ) -> None:
        super().__init__()
        self.rows = DenseRows(codec, build)
        self.matching = matching(self.rows.surjection.num_features)

    @property
    def flow(self) -> EnergyFlow:
        """The density on R^D."""
        return cast(EnergyFlow, self.rows.flow)

    def initialise(self, codec: VectorCodec, cells: Cells) -> None:
        """Nothing depends on training rows."""

    def loss(self, cells: Cells) -> Tensor:
        if self.matching.objective == "ml":
            return self.rows.losses(cells).mean()
        surjection = self.rows.surjection
        noise = torch.randn(len(cells), surjection.noise_width, device=cells.number.device)
        y, log_q = surjection(cells, noise)
        context = cells.context if self.rows.num_context else None
        fixed = y.detach()
        loss = self.matching.loss(self.flow, fixed, context)
        if y.requires_grad:
            with torch.no_grad():
                score = self.flow.stack.score(fixed, context)
            loss = loss + (log_q.to(y.dtype) - (score * y).sum(1)).mean() / y.shape[1]
        return loss

    def log_prob(self, cells: Cells, noise: RowNoise, draws: int) -> ModelLogProb:
        return self.rows.log_prob(cells, noise, draws)

    def sample(
        self, codec: VectorCodec, num_rows: int, context: Tensor | None, generator: torch.Generator
    ) -> TableBatch:
        return self.rows.sample(codec, num_rows, context, generator)

    def impute(
        self, codec: VectorCodec, batch: TableBatch, cells: Cells, draws: int, generator: torch.Generator, steps: int
    ) -> list[TableBatch]:
        """Langevin chains over everything that is drawn for a row, started from its filler.

        The state is the noise of the surjection: through it a chain moves holes, the places within cells of a grid and
        the points behind categories, all at once, and never leaves what was observed.
        """
        rows = (cells.number_hole.any(1) | (cells.category < 0).any(1)).nonzero().flatten()
        filled = [(batch.numeric.clone(), batch.codes.clone()) for _ in range(draws)]
        for index in rows.split(max(1, MOST_AT_ONCE // (draws * PARTICLES))):
            part = batch.select(index)
            many = cells.select(index).repeat(draws)
            noise = self._first(many, generator)
            chains = langevin(lambda e, c=many: self._target(c, e), noise, steps, generator, step=0.3)  # type: ignore[misc]
            with torch.no_grad():
                y = self.rows.surjection(many, chains.state)[0].double()
            for one, (numeric, codes) in enumerate(filled):
                decoded = codec.decode(*self.rows.surjection.decode(y[one::draws]), part.rows, part)
                numeric[index] = torch.where(part.numeric.isnan(), decoded.numeric, part.numeric)
                codes[index] = torch.where(part.codes < 0, decoded.codes, part.codes)
        return [batch.with_values(numeric=numeric, codes=codes) for numeric, codes in filled]

    def _first(self, cells: Cells, generator: torch.Generator) -> Tensor:
        """First states: of a few draws of the filler, one in proportion to the density it reaches."""
        width = self.rows.surjection.noise_width
        noise = torch.randn(len(cells), PARTICLES, width, generator=generator, dtype=torch.float64)
        noise = noise.to(cells.number.device)
        with torch.no_grad():
            _, log_weight = self.rows._log_weight(cells.repeat(PARTICLES), noise.flatten(0, 1))
        weight = log_weight.reshape(len(cells), PARTICLES).softmax(1).cpu()
        chosen = torch.multinomial(weight, 1, generator=generator).to(noise.device)
        return noise.gather(1, chosen[..., None].expand(-1, -1, width))[:, 0]

    def _target(self, cells: Cells, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Log-density of the noise given what is observed, up to a constant, and its gradient."""
        with torch.enable_grad():
            noise = noise.detach().requires_grad_()
            y, log_q = self.rows.surjection(cells, noise)
            context = cells.context if self.rows.num_context else None
            value = -self.flow.stack.energy(y.double(), context) - log_q - 0.5 * noise.square().sum(1)
            (score,) = torch.autograd.grad(value.sum(), noise)
        return value.detach(), score


class PictureRows(nn.Module):
    """Pictures, by uniform noise and a logit of fixed form, in front of which or behind which scores are matched.

    Args:
        codec: The model's codec (not registered here).
        flow: Density of what the codec makes of pictures.
        matching: The training objective.
        match: ``preprocessed``: scores are matched behind the logit; ``data``: in front of it, on the scale of the
            values, where the slope of the logit near both ends outweighs all else.
    """

    centre: Tensor
    spread: Tensor

    def __init__(self, codec: PixelCodec, flow: EnergyFlow, matching: Matching, match: str) -> None:
        super().__init__()
        self.flow = flow
        self.matching = matching
        self.front = ShareLogit(codec.levels, codec.smoothness, codec.alpha) if match == "data" else None
        self.register_buffer("centre", torch.zeros(codec.num_features, dtype=torch.float64))
        self.register_buffer("spread", torch.ones(codec.num_features, dtype=torch.float64))

    def initialise(self, codec: PixelCodec, pixels: Pixels) -> None:
        """Mean and spread of each pixel, from which chains over missing pixels start."""
        y, _ = codec.dense(pixels, torch.rand_like(pixels.value))
        self.centre.copy_(y.mean(0))
        self.spread.copy_(y.std(0).clamp_min(0.1) if len(y) > 1 else torch.ones_like(self.spread))

    def loss(self, codec: PixelCodec, pixels: Pixels) -> Tensor:
        _require_whole(pixels)
        uniform = torch.rand_like(pixels.value)
        like = next(self.flow.parameters())
        if self.front is None or self.matching.objective == "ml":
            return self.matching.loss(self.flow, codec.dense(pixels, uniform)[0].to(like.dtype))
        before = Stack([self.front, *self.flow.stack.layers])
        return self.matching.loss(self.flow, (pixels.value + uniform).to(like.dtype), stack=before)

    def log_prob(self, codec: PixelCodec, pixels: Pixels, noise: RowNoise, draws: int) -> ModelLogProb:
        """Importance-weighted lower bound with ``draws`` draws of the noise within a level."""
        _require_whole(pixels)
        parts = []
        for k in range(draws):
            uniform = noise.uniform(codec.num_features, stream=f"dither/{k}", device=pixels.value.device)
            y, log_volume = codec.dense(pixels, uniform)
            parts.append(self.flow.log_prob(y) + log_volume)
        value, se = importance_weighted(torch.stack(parts, 1))
        return ModelLogProb(value, se)

    def sample(self, codec: PixelCodec, num_rows: int, generator: torch.Generator) -> TableBatch:
        y = self.flow.sample(num_rows, None, generator)
        return codec.decode(y, torch.arange(num_rows, device=y.device))

    def impute(
        self, codec: PixelCodec, batch: TableBatch, pixels: Pixels, draws: int, generator: torch.Generator, steps: int
    ) -> list[TableBatch]:
        """Langevin chains over the missing pixels, started from each pixel's own mean and spread.

        The others keep one draw of the noise within their level.
        """
        index = pixels.hole.any(1).nonzero().flatten()
        filled = [batch.numeric.clone() for _ in range(draws)]
        if len(index):
            part, many = batch.select(index), pixels.select(index).repeat(draws)
            shape = many.value.shape
            uniform = torch.rand(shape, generator=generator, dtype=torch.float64).to(many.value)
            normal = torch.randn(shape, generator=generator, dtype=torch.float64).to(many.value)
            start = torch.where(many.hole, self.centre + self.spread * normal, codec.dense(many, uniform)[0])
            chains = langevin(self._target, start, steps, generator, 0.1, self.spread, many.hole)
            for one, numeric in enumerate(filled):
                drawn = codec.decode(chains.state[one::draws], part.rows).numeric
                numeric[index] = torch.where(part.numeric.isnan(), drawn, part.numeric)
        return [batch.with_values(numeric=numeric) for numeric in filled]

    def _target(self, y: Tensor) -> tuple[Tensor, Tensor]:
        energy, score = self.flow.stack.energy_and_score(y)
        return -energy, score


def _require_whole(pixels: Pixels) -> None:
    missing = int(pixels.hole.any(1).sum())
    if missing:
        raise CapabilityError(
            f"{missing} of {len(pixels)} pictures have missing pixels, and EBFlow scores whole pictures only; "
            "fill them first (genzoo impute)"
        )
