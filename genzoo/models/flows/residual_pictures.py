"""A residual density as a model of pictures: uniform noise within each level, a logit, convolutional blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genzoo.codecs.pixels import PixelCodec, Pixels
from genzoo.errors import CapabilityError
from genzoo.likelihood.estimators import importance_weighted, monte_carlo_mean
from genzoo.likelihood.noise import RowNoise
from genzoo.models.flows.residual_density import ResidualDensity
from genzoo.models.scoring import ModelLogProb
from genzoo.tables.batch import TableBatch

ROWS_AT_ONCE = 256


class ResidualPictures(nn.Module):
    """Pictures between a :class:`PixelCodec` and a :class:`ResidualDensity`; log P(picture) is bounded from below.

    Args:
        flow: Density of what the codec makes of pictures.
    """

    def __init__(self, flow: ResidualDensity) -> None:
        super().__init__()
        self.flow = flow

    def initialise(self, codec: PixelCodec, pixels: Pixels) -> None:
        """Every ActNorm starts by standardising pictures."""
        self.flow.initialise(codec.dense(pixels, torch.rand_like(pixels.value))[0])

    def losses(self, codec: PixelCodec, pixels: Pixels) -> Tensor:
        """Negative lower bound of each row, ``(batch,)`` nats, one draw."""
        _require_whole(pixels)
        y, log_volume = codec.dense(pixels, torch.rand_like(pixels.value))
        like = next(self.flow.parameters())
        return -(self.flow.log_prob(y.to(like.dtype)).double() + log_volume)

    def log_prob(self, codec: PixelCodec, pixels: Pixels, noise: RowNoise, draws: int) -> ModelLogProb:
        """Lower bound with ``draws`` draws of the noise within a level, importance-weighted where the flow is exact.

        A wide picture's log-density is itself estimated: then the draws, at least two, are averaged without weights.
        """
        _require_whole(pixels)
        draws = max(draws, 2) if self.flow.noisy else draws
        parts = []
        for k in range(draws):
            uniform = noise.uniform(codec.num_features, stream=f"dither/{k}", device=pixels.value.device)
            y, log_volume = codec.dense(pixels, uniform)
            parts.append(self._score(y, noise, f"flow/{k}").double() + log_volume)
        terms = torch.stack(parts, 1)
        return ModelLogProb(*(monte_carlo_mean(terms) if self.flow.noisy else importance_weighted(terms)))

    def _score(self, y: Tensor, noise: RowNoise, stream: str) -> Tensor:
        if not self.flow.noisy:
            return self.flow.log_prob(y)
        done = [
            self.flow.estimate(y[start : start + ROWS_AT_ONCE], None, _part(noise, start), stream)
            for start in range(0, len(y), ROWS_AT_ONCE)
        ]
        return torch.cat(done) if done else y.new_zeros(0)

    def sample(self, codec: PixelCodec, num_rows: int, generator: torch.Generator) -> TableBatch:
        """Decoded pictures."""
        y = self.flow.sample(num_rows, None, generator)
        return codec.decode(y, torch.arange(num_rows, device=y.device))


def _part(noise: RowNoise, start: int) -> RowNoise:
    return RowNoise(noise.seed, noise.rows[start : start + ROWS_AT_ONCE])


def _require_whole(pixels: Pixels) -> None:
    if bool(pixels.hole.any()):
        count = int(pixels.hole.any(1).sum())
        raise CapabilityError(
            f"{count} pictures have missing pixels, and ResidualFlow scores whole pictures; leave them out, or fill "
            "them with a model that imputes pictures (ebflow)"
        )
