r"""The Gaussian latent-variable model that the denoisers define: importance weights, samples, and completions.

.. math:: p(x) = \int p(x_1) \prod p(x_u \mid x_t)\, p(x \mid x_{t_1}), \qquad
   p(x_u \mid x_t) = N(c_t x_t + c_x \hat x, b^2 I + c_x^2 h T)

with :math:`p(x_1)` the noised Gaussian fit (:math:`N(0, I)` where no signal is left) and the forward process as
proposal: :math:`\log w` sums :math:`\log p(x_u | x_t) - \log q(x_u | x_t, x)` over the path and the decoder's term; its
mean over paths, exponentiated, is :math:`p(x)`. Categories take steps of their own
(:mod:`genzoo.models.trees.category_steps`), independent of the other columns given :math:`x_t`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from genzoo.codecs.matrix import Rows
from genzoo.models.trees.category_steps import draw_step, log_step_ratio
from genzoo.models.trees.decoder import Decoder
from genzoo.models.trees.denoiser import Denoiser, View, patterns
from genzoo.trees.levels import Level, forward_kernel, reverse_kernel

NoiseOf = Callable[[int], Tensor]
"""Step of the path (0: pure noise) to ``(n, observed)`` standard normal numbers."""


class PathPart(NamedTuple):
    """Rows that share a pattern of holes, on their way through noise.

    Args:
        rows: Encoded rows, all with the pattern of ``view``.
        x: ``(n, observed)`` values, fillers drawn (their density is the caller's to subtract).
        view: The pattern of holes.
        noise: Standard normal numbers of each step.
    """

    rows: Rows
    x: Tensor
    view: View
    noise: NoiseOf


@dataclass(frozen=True)
class ReversePath:
    """A fitted model and the levels it goes through.

    Args:
        denoiser: All levels.
        decoder: From the lowest level of the path to the data.
        path: Indices of levels, descending; the first is that of most noise.
    """

    denoiser: Denoiser
    decoder: Decoder
    path: Sequence[int]

    @property
    def levels(self) -> list[Level]:
        """The levels gone through, from most noise to least."""
        return [self.denoiser.levels[index] for index in self.path]

    def log_weights(self, parts: Sequence[PathPart]) -> list[Tensor]:
        """``(n,)`` log-weight of one path of each row of each part; the parts are of one class."""
        levels = self.levels
        begun = [one.view.prior_log_ratio(levels[0], one.x, one.noise(0)) for one in parts]
        x_t, out = [x for x, _ in begun], [ratio for _, ratio in begun]

        def estimates(level: Level) -> list[tuple[Tensor, Tensor]]:
            told = [(one.view, at, one.rows.cells.context) for one, at in zip(parts, x_t, strict=True)]
            return self.denoiser.estimates(level, told)

        for place, (level, lower) in enumerate(pairwise(levels)):
            kernel = reverse_kernel(level, lower)
            for k, (one, (x_hat, h)) in enumerate(zip(parts, estimates(level), strict=True)):
                view, z = one.view, one.noise(place + 1)
                axes, tau = view.residual_axes(level, self.denoiser.tau(level, view.group))
                moved = kernel.c_x * one.x + kernel.b * z
                deviation = (moved - kernel.c_x * x_hat) @ axes
                growth = 1 + kernel.gain * h * tau  # variance of p over that of q, along each axis
                each = torch.log(growth) + deviation.square() / (kernel.b**2 * growth)
                # a category is an axis of its own in each column, and takes other steps
                out[k] += 0.5 * (z.square().sum(1) - each[:, ~self.denoiser.is_category[view.index]].sum(1))
                for codes, places, log_prob in self.denoiser.category_steps(level, x_t[k], x_hat, view):
                    out[k] += log_step_ratio(codes, log_prob, kernel, moved[:, places])
                x_t[k] = kernel.c_t * x_t[k] + moved
        last = levels[-1]
        for k, (one, (x_hat, h)) in enumerate(zip(parts, estimates(last), strict=True)):
            tau, weight = self.denoiser.tau(last, one.view.group), self.denoiser.weight(last, one.view.group)
            out[k] += self.decoder.log_prob(one.rows, one.x, x_t[k], last, x_hat, h, one.view, tau, weight)
        return out

    def sample(self, context: Tensor, generator: torch.Generator, group: int = 0) -> tuple[Tensor, Tensor]:
        """Rows ``(n, P)`` and categories ``(n, slots)`` of the latent-variable model, one for each row of ``context``.

        Args:
            context: ``(n, num_context)``.
            generator: Source of randomness.
            group: The class.
        """
        view = self.denoiser.complete_view(group)
        z = torch.randn(len(context), self.denoiser.width, generator=generator, dtype=torch.float64)
        levels = self.levels
        x_t = view.prior(levels[0], z)
        for level, lower in pairwise(levels):
            x_hat, h = self.denoiser.estimate(level, x_t, view, context)
            x_t = self.step(level, lower, x_t, x_hat, h, view, generator)
        return self.draw(x_t, view, context, generator)

    def draw(
        self, x_t: Tensor, view: View, context: Tensor, generator: torch.Generator, given: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """From the lowest level to the data (``given``: see :meth:`Decoder.draw`)."""
        last = self.levels[-1]
        x_hat, h = self.denoiser.estimate(last, x_t, view, context)
        tau, weight = self.denoiser.tau(last, view.group), self.denoiser.weight(last, view.group)
        return self.decoder.draw(x_t, last, x_hat, h, view, tau, weight, generator, given)

    def step(
        self, level: Level, lower: Level, x_t: Tensor, x_hat: Tensor, h: Tensor, view: View, g: torch.Generator
    ) -> Tensor:
        """A draw from the reverse kernel of complete rows."""
        kernel = reverse_kernel(level, lower)
        z = torch.randn(x_t.shape, generator=g, dtype=torch.float64)
        axes, tau = view.residual_axes(level, self.denoiser.tau(level, view.group))
        spread = kernel.b * (1 + kernel.gain * h * tau).sqrt()
        out = kernel.c_t * x_t + kernel.c_x * x_hat + (spread * z) @ axes.T
        for codes, places, log_prob in self.denoiser.category_steps(level, x_t, x_hat, view):
            out[:, places] = draw_step(codes, log_prob, kernel, x_t[:, places], g)
        return out

    def complete(
        self, rows: Rows, x: Tensor, draws: int, particles: int, generator: torch.Generator, group: int = 0
    ) -> list[tuple[Tensor, Tensor]]:
        """``draws`` completions of rows by sequential Monte Carlo.

        Each row becomes ``particles`` paths. The observed columns follow the forward process, the others the reverse
        kernel given them; a particle's weight is what the reverse kernel makes of the observed step. Exact as the
        number of particles grows.

        Args:
            rows: Encoded rows.
            x: ``(n, P)`` values, fillers drawn, NaN for holes.
            draws: Completions of each row.
            particles: Paths of each row.
            generator: Source of randomness.
            group: The class of the rows.
        """
        view = self.denoiser.complete_view(group)
        paths = torch.arange(len(x) * particles).reshape(-1, particles)
        alike = [(observed, paths[chosen].flatten()) for observed, chosen in patterns(x)]
        x = x.repeat_interleave(particles, 0)
        rows = rows.select(torch.arange(len(rows)).repeat_interleave(particles))
        context, levels = rows.cells.context, self.levels
        x_t, log_w = torch.empty_like(x), torch.zeros(len(x), dtype=torch.float64)
        for seen, at in alike:
            x_t[at], log_w[at] = self._complete_prior(x[at], seen.nonzero().flatten(), view, generator)
        for level, lower in pairwise(levels):
            x_hat, h = self.denoiser.estimate(level, x_t, view, context)
            proposal = self.step(level, lower, x_t, x_hat, h, view, generator)
            for seen, at in alike:
                if bool(seen.any()):
                    proposal[at], ratio = self._given_step(
                        level, lower, x[at], x_t[at], x_hat[at], h[at], proposal[at], seen, view, generator
                    )
                    log_w[at] += ratio
            x_t, log_w = self._resample(proposal, log_w, particles, generator)
        last = levels[-1]
        x_hat, h = self.denoiser.estimate(last, x_t, view, context)
        tau, weight = self.denoiser.tau(last, group), self.denoiser.weight(last, group)
        for seen, at in alike:
            o = seen.nonzero().flatten()
            if len(o):
                part = self.denoiser.view(seen, alone=False, group=group)
                log_w[at] += self.decoder.log_prob(
                    rows.select(at), x[at][:, o], x_t[at][:, o], last, x_hat[at][:, o], h[at], part, tau, weight
                )
        at = self._choose(log_w, particles, draws, generator).T.flatten()
        values, category = self.decoder.draw(x_t[at], last, x_hat[at], h[at], view, tau, weight, generator, x[at])
        return list(zip(values.chunk(draws), category.chunk(draws), strict=True))

    def _given_step(
        self,
        level: Level,
        lower: Level,
        x: Tensor,
        x_t: Tensor,
        x_hat: Tensor,
        h: Tensor,
        proposal: Tensor,
        seen: Tensor,
        view: View,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """A step of the reverse kernel moved to where the observed columns go by the forward process, and the change of
        the particles' log-weights.

        Args:
            level: Where the particles are.
            lower: Where they go.
            x: ``(n, P)`` rows of one pattern of holes.
            x_t: ``(n, P)`` particles.
            x_hat: ``(n, P)`` their estimates.
            h: ``(n, P)`` factors of their residual variances.
            proposal: ``(n, P)`` draws of the reverse kernel.
            seen: ``(P,)`` observed columns.
            view: The pattern without holes.
            generator: Source of randomness.
        """
        kernel, o = reverse_kernel(level, lower), seen.nonzero().flatten()
        z = torch.randn(len(x), len(o), generator=generator, dtype=torch.float64)
        moved = kernel.c_x * x[:, o] + kernel.b * z
        step = kernel.c_t * x_t[:, o] + moved
        mean = kernel.c_t * x_t + kernel.c_x * x_hat
        log_w = 0.5 * z.square().sum(1)
        gaussian = ~self.denoiser.is_category[o]
        n = o[gaussian]
        if len(n):
            # covariance of the reverse kernel over b^2, for each particle's h
            axes, tau = view.residual_axes(level, self.denoiser.tau(level, view.group))
            growth = 1 + kernel.gain * h * tau
            covariance = (axes[n] * growth[:, None]) @ axes.T
            proposal, ratio = _given(proposal, step[:, gaussian], mean, covariance, kernel.b, n)
            log_w += ratio
        for codes, _, log_prob in self.denoiser.category_steps(level, x_t, x_hat, view):
            if bool(seen[codes.columns[0]]):
                places = torch.searchsorted(o, codes.columns)
                log_w += log_step_ratio(codes, log_prob, kernel, moved[:, places])
                proposal[:, codes.columns] = step[:, places]
        return proposal, log_w

    def _complete_prior(self, x: Tensor, o: Tensor, view: View, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Particles at the level of most noise, and their weights."""
        level = self.levels[0]
        drawn = view.prior(level, torch.randn(x.shape, generator=generator, dtype=torch.float64))
        log_w = torch.zeros(len(x), dtype=torch.float64)
        if level.signal > 0 and len(o):
            z = torch.randn(len(x), len(o), generator=generator, dtype=torch.float64)
            x_t = level.signal * x[:, o] + level.noise * z
            covariance = level.signal**2 * view.covariance + level.noise**2 * torch.eye(x.shape[1], dtype=x.dtype)
            mean = (level.signal * view.mean).expand_as(x)
            relative = (covariance[o] / level.noise**2).expand(len(x), -1, -1)
            drawn, ratio = _given(drawn, x_t, mean, relative, level.noise, o)
            log_w += 0.5 * z.square().sum(1) + ratio
        return drawn, log_w

    def repaint(
        self,
        rows: Rows,
        x: Tensor,
        generator: torch.Generator,
        passes: int = 1,
        jump: int = 5,
        group: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """One completion of rows, by RePaint.

        At every level the observed columns are noised afresh and the others follow the reverse kernel of the whole
        row; after every ``jump`` levels the row goes back to more noise and comes down again, ``passes`` times in all.
        Cheap and inexact: the observed columns are only told through the noised row.

        Args:
            rows: Encoded rows.
            x: ``(n, P)`` values, fillers drawn, NaN for holes.
            generator: Source of randomness.
            passes: Times that each stretch of levels is gone through; 1 never goes back.
            jump: Levels in a stretch.
            group: The class of the rows.
        """
        view, seen = self.denoiser.complete_view(group), ~x.isnan()
        context, levels = rows.cells.context, self.levels

        def normal() -> Tensor:
            return torch.randn(x.shape, generator=generator, dtype=torch.float64)

        def pinned(x_t: Tensor, level: Level) -> Tensor:
            return torch.where(seen, level.signal * x + level.noise * normal(), x_t)

        x_t = pinned(view.prior(levels[0], normal()), levels[0])
        for start in range(0, len(levels) - 1, jump):
            stretch = levels[start : start + jump + 1]
            for again in range(passes):
                if again:
                    a, s = forward_kernel(stretch[-1], stretch[0])
                    x_t = pinned(a * x_t + s * normal(), stretch[0])
                for level, lower in pairwise(stretch):
                    x_hat, h = self.denoiser.estimate(level, x_t, view, context)
                    x_t = pinned(self.step(level, lower, x_t, x_hat, h, view, generator), lower)
        return self.draw(x_t, view, context, generator, given=x)

    @staticmethod
    def _choose(log_w: Tensor, particles: int, draws: int, generator: torch.Generator) -> Tensor:
        """``(rows, draws)`` indices of particles in proportion to their weights."""
        w = log_w.reshape(-1, particles)
        w = torch.where(torch.isfinite(w).any(1, keepdim=True), w, 0.0).softmax(1)
        chosen = torch.multinomial(w, draws, replacement=True, generator=generator)
        return chosen + torch.arange(len(w))[:, None] * particles

    def _resample(
        self, x_t: Tensor, log_w: Tensor, particles: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """New particles in proportion to their weights, for rows where fewer than half still count."""
        w = log_w.reshape(-1, particles).softmax(1)
        poor = 1 / w.square().sum(1) < 0.5 * particles
        index = torch.arange(len(log_w)).reshape(-1, particles)
        if bool(poor.any()):
            chosen = self._choose(log_w, particles, particles, generator)
            index = torch.where(poor[:, None], chosen, index)
            kept = log_w.reshape(-1, particles)
            mean = torch.logsumexp(kept, 1, keepdim=True).expand_as(kept)
            log_w = torch.where(poor[:, None], mean, kept).flatten()
        return x_t[index.flatten()], log_w


def _given(
    drawn: Tensor, known: Tensor, mean: Tensor, covariance: Tensor, unit: float, o: Tensor
) -> tuple[Tensor, Tensor]:
    """Draws of a Gaussian, moved to where some columns are known (Matheron's rule).

    Args:
        drawn: ``(n, P)`` draws of all columns.
        known: ``(n, len(o))`` values of the columns ``o``.
        mean: ``(n, P)``.
        covariance: ``(n, len(o), P)`` of the columns ``o`` with all, over ``unit`` squared.
        unit: Scale of the covariance.
        o: Known columns.

    Returns:
        The moved draws, and ``(n,)`` the log-density of what is known over that of ``N(0, unit^2 I)`` at 0.
    """
    root = torch.linalg.cholesky(covariance[:, :, o])
    deviation = torch.linalg.solve_triangular(root, ((known - mean[:, o]) / unit)[..., None], upper=False)
    ratio = -0.5 * deviation.square().sum((1, 2)) - root.diagonal(dim1=1, dim2=2).log().sum(1)
    gap = torch.cholesky_solve((known - drawn[:, o])[..., None], root)
    moved = drawn + (covariance.transpose(1, 2) @ gap)[..., 0]
    moved[:, o] = known
    return moved, ratio
