"""From the lowest level of noise to the data: densities, cells of grids and categories, each a probability.

Everything here is a function of the noised row alone, so each cell's probabilities sum to one given it.

- Numbers with a density share the Gaussian ``N(x_hat, h T)``; an absent number (a row on an atom) is a draw with a
  known density and is scored in the same way.
- A cell of a grid gets its mass under a mixture of two Gaussians: the denoiser's, and the noised number itself over
  ``a`` with the noise's own width, which tells cells apart that are wider than the noise. On the whole grid, never
  renormalised to the training range.
- A category is decided by Bayes' rule from its noised code and the frequencies of the training rows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genzoo.codecs.matrix import Block, MatrixCodec, Rows
from genzoo.likelihood.normal_cells import log_normal_cell
from genzoo.models.trees.denoiser import View, patterns
from genzoo.trees.levels import Level


class Decoder:
    """The decoder of a model.

    Args:
        codec: Its codec.
        category_log_prob: Per category slot, ``(num_categories,)`` log-frequencies.
    """

    def __init__(self, codec: MatrixCodec, category_log_prob: list[Tensor]) -> None:
        self.codec, self.category_log_prob = codec, category_log_prob
        numbers = codec.typed.numbers
        self.joint = torch.zeros(codec.width, dtype=torch.bool)
        """Columns that always hold a number with a density: these share a covariance."""
        for slot, number in enumerate(numbers):
            self.joint[codec.number_column[slot]] = not number.quantized and number.indicator is None
        self._blocks: dict[tuple[bytes, bool, int, int], tuple[Tensor, Tensor, Tensor]] = {}

    def log_prob(
        self,
        rows: Rows,
        x: Tensor,
        x_t: Tensor,
        level: Level,
        x_hat: Tensor,
        h: Tensor,
        view: View,
        tau: Tensor,
        weight: Tensor,
    ) -> Tensor:
        """``(n,)`` log-probability of the observed cells given the noised row.

        Args:
            rows: Encoded rows, all with the pattern of ``view``.
            x: ``(n, observed)`` their values, fillers drawn.
            x_t: ``(n, observed)`` noised values at the lowest level.
            level: That level.
            x_hat: ``(n, observed)`` the denoiser's estimate.
            h: ``(n, observed)`` factors of the residual variances.
            view: The pattern.
            tau: ``(P,)`` residual variances along the principal axes.
            weight: ``(P,)`` share of the denoiser's Gaussian in the cells of each column.
        """
        axes, value, joint = self._joint(view, level, tau)
        out = torch.zeros(len(x), dtype=torch.float64)
        if len(joint):
            residual = (x[:, joint] - x_hat[:, joint]) @ axes
            variance = h[:, joint] * value
            out -= 0.5 * (torch.log(2 * math.pi * variance) + residual.square() / variance).sum(1)
        spread = (view.axes[view.index].square() @ tau).clamp_min(1e-12)
        place = {column: p for p, column in enumerate(view.index.tolist())}
        for block in self.codec.blocks:
            if block.kind == "number":
                if block.start not in place or bool(self.joint[block.start]):
                    continue
                p = place[block.start]
                sd = (h[:, p] * spread[p]).sqrt()
                density = -0.5 * ((x[:, p] - x_hat[:, p]) / sd).square() - torch.log(sd) - 0.5 * math.log(2 * math.pi)
                if self.codec.typed.numbers[block.slot].quantized:
                    lower, upper = rows.cells.lower[:, block.slot], rows.cells.upper[:, block.slot]
                    cell = self._cell(lower, upper, x_hat[:, p], sd, x_t[:, p], level, weight[block.start])
                    density = torch.where(rows.filler[:, block.start], density, cell)
                out += density
            elif block.width and block.start in place:
                log_prob = self.categories(block, x_t[:, place[block.start] : place[block.start] + block.width], level)
                out += log_prob.gather(1, rows.cells.category[:, block.slot][:, None])[:, 0]
        return out

    def _cell(
        self, lower: Tensor, upper: Tensor, x_hat: Tensor, sd: Tensor, x_t: Tensor, level: Level, weight: Tensor
    ) -> Tensor:
        first = log_normal_cell((lower - x_hat) / sd, (upper - x_hat) / sd)
        if level.signal == 0:
            return first
        second = self.cell_from_noise(lower, upper, x_t, level)
        return torch.logaddexp(first + torch.log(weight), second + torch.log1p(-weight))

    @staticmethod
    def cell_from_noise(lower: Tensor, upper: Tensor, x_t: Tensor, level: Level) -> Tensor:
        """Log-mass of a cell under ``N(x_t / a, (s / a)^2)``."""
        centre, width = x_t / level.signal, level.noise / level.signal
        return log_normal_cell((lower - centre) / width, (upper - centre) / width)

    def categories(self, block: Block, x_t: Tensor, level: Level) -> Tensor:
        """``(n, num_categories)`` log-probabilities of a category given its noised code."""
        distance = (x_t[:, None, :] - level.signal * self.codec.codes(block.slot).cpu()).square().sum(2)
        return (self.category_log_prob[block.slot] - 0.5 * distance / level.noise**2).log_softmax(1)

    def _joint(self, view: View, level: Level, tau: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Axes and variances of the residual covariance on the joint columns, and their places in the pattern."""
        key = (view.observed.numpy().tobytes(), view.alone, view.group, level.index)
        if key not in self._blocks:
            joint = self.joint[view.index].nonzero().flatten()
            if len(joint) == len(view.index) and view.complete:
                axes, value = view.residual_axes(level, tau)
            else:
                value, axes = torch.linalg.eigh(view.smooth_residual(level, tau, joint))
            self._blocks[key] = (axes, value.clamp_min(1e-12), joint)
        return self._blocks[key]

    def draw(
        self,
        x_t: Tensor,
        level: Level,
        x_hat: Tensor,
        h: Tensor,
        view: View,
        tau: Tensor,
        weight: Tensor,
        generator: torch.Generator,
        given: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Complete rows: ``values (n, P)`` and ``category (n, slots)``.

        Args:
            x_t: ``(n, P)``.
            level: Level of noise.
            x_hat: ``(n, P)``.
            h: ``(n, P)``.
            view: The complete pattern.
            tau: ``(P,)``.
            weight: ``(P,)``.
            generator: Source of randomness.
            given: ``(n, P)`` values that are known, else NaN: numbers with a density are drawn given those of them that
                share their covariance.
        """
        noise = torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
        root = view.axes * tau.sqrt()
        values = x_hat + h.sqrt() * (noise @ root.T)
        # columns that share no covariance are independent given the noised row, as they are scored
        fresh = torch.randn(x_t.shape, generator=generator, dtype=torch.float64)
        spread = (view.axes.square() @ tau).clamp_min(1e-12)
        values = torch.where(self.joint, values, x_hat + (h * spread).sqrt() * fresh)
        if given is not None:
            covariance = (view.axes * tau) @ view.axes.T
            for seen, at in patterns(given):
                known, wanted = ((self.joint & part).nonzero().flatten() for part in (seen, ~seen))
                if len(known) and len(wanted):
                    gain = torch.linalg.solve(covariance[known][:, known], covariance[known][:, wanted])
                    values[at[:, None], wanted] += (given[at[:, None], known] - values[at[:, None], known]) @ gain
        category = torch.full((len(x_t), len(self.codec.typed.categories)), -1, dtype=torch.int64)
        for block in self.codec.blocks:
            if block.kind == "number":
                if self.codec.typed.numbers[block.slot].quantized and level.signal > 0:
                    own = torch.rand(len(x_t), generator=generator, dtype=torch.float64) < weight[block.start]
                    raw = (x_t[:, block.start] + level.noise * fresh[:, block.start]) / level.signal
                    values[:, block.start] = torch.where(own, values[:, block.start], raw)
            elif block.width:
                probability = self.categories(block, x_t[:, block.columns], level).exp()
                category[:, block.slot] = torch.multinomial(probability, 1, generator=generator)[:, 0]
            elif self.codec.typed.categories[block.slot].num_categories:
                category[:, block.slot] = 0
        return values, category
