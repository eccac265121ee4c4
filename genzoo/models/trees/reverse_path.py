r"""The Gaussian latent-variable model that the denoisers define: importance weights, samples, and completions.

.. math:: p(x) = \int N(x_1; 0, I) \prod p(x_u \mid x_t)\, p(x \mid x_{t_1}), \qquad
   p(x_u \mid x_t) = N(c_t x_t + c_x \hat x, b^2 I + c_x^2 h T)

with the forward process as proposal: :math:`\log w` sums :math:`\log p(x_u | x_t) - \log q(x_u | x_t, x)` over the path
and the decoder's term; its mean over paths, exponentiated, is :math:`p(x)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genzoo.codecs.matrix import Rows
from genzoo.models.trees.decoder import Decoder
from genzoo.models.trees.denoiser import Denoiser, View, level_name
from genzoo.trees.levels import reverse_kernel

NoiseOf = Callable[[int], Tensor]
"""Step of the path (0: pure noise) to ``(n, observed)`` standard normal numbers."""


@dataclass(frozen=True)
class ReversePath:
    """A fitted model and the levels it goes through.

    Args:
        denoiser: All levels.
        decoder: From the lowest level of the path to the data.
        path: Indices of levels, descending; the first is pure noise.
    """

    denoiser: Denoiser
    decoder: Decoder
    path: Sequence[int]

    def level(self, place: int) -> float:
        return float(self.denoiser.levels[self.path[place]])

    def weight(self) -> Tensor:
        """Share of the denoiser's Gaussian in the cells of each column."""
        return torch.from_numpy(self.denoiser.store.array(level_name(self.path[-1]), "weight").copy())

    def log_weights(self, rows: Rows, x: Tensor, view: View, noise: NoiseOf) -> Tensor:
        """``(n,)`` log-weight of one path of each row.

        Args:
            rows: Encoded rows, all with the pattern of ``view``.
            x: ``(n, observed)`` values, fillers drawn (their density is the caller's to subtract).
            view: The pattern of holes.
            noise: Standard normal numbers of each step.
        """
        context = rows.cells.context
        x_t = noise(0)  # at t = 1 the forward process has forgotten x: prior and proposal are equal
        out = torch.zeros(len(x), dtype=torch.float64)
        for place, level in enumerate(self.path[:-1]):
            kernel = reverse_kernel(self.level(place), self.level(place + 1))
            x_hat, h = self.denoiser.estimate(level, x_t, view, context)
            axes, tau = view.residual_axes(level, self.level(place), self.denoiser.tau(level))
            z = noise(place + 1)
            deviation = (kernel.b * z + kernel.c_x * (x - x_hat)) @ axes
            growth = 1 + kernel.gain * h * tau  # variance of p over that of q, along each axis
            out += 0.5 * (z.square() - torch.log(growth) - deviation.square() / (kernel.b**2 * growth)).sum(1)
            x_t = kernel.c_t * x_t + kernel.c_x * x + kernel.b * z
        last, t = self.path[-1], self.level(-1)
        x_hat, h = self.denoiser.estimate(last, x_t, view, context)
        tau = self.denoiser.tau(last)
        return out + self.decoder.log_prob(rows, x, x_t, t, last, x_hat, h, view, tau, self.weight())

    def sample(self, context: Tensor, generator: torch.Generator, euler: bool = False) -> tuple[Tensor, Tensor]:
        """Rows ``(n, P)`` and categories ``(n, slots)``, one for each row of ``context``.

        Args:
            context: ``(n, num_context)``.
            generator: Source of randomness.
            euler: Follow the flow ``dx/dt = (x_t - x_hat) / t`` from the noise to the lowest level instead of drawing
                each step: samples of another distribution than the one whose likelihood is reported.
        """
        view = self.complete_view()
        x_t = torch.randn(len(context), len(self.denoiser.mean), generator=generator, dtype=torch.float64)
        for place, level in enumerate(self.path[:-1]):
            x_hat, h = self.denoiser.estimate(level, x_t, view, context)
            t, u = self.level(place), self.level(place + 1)
            if euler:
                x_t = x_t + (u - t) * (x_t - x_hat) / t
            else:
                x_t = self._step(level, t, u, x_t, x_hat, h, view, generator)
        last = self.path[-1]
        x_hat, h = self.denoiser.estimate(last, x_t, view, context)
        return self.decoder.draw(x_t, self.level(-1), x_hat, h, view, self.denoiser.tau(last), self.weight(), generator)

    def complete_view(self) -> View:
        """The pattern without holes."""
        return self.denoiser.view(torch.ones(len(self.denoiser.mean), dtype=torch.bool))

    def _step(
        self, level: int, t: float, u: float, x_t: Tensor, x_hat: Tensor, h: Tensor, view: View, g: torch.Generator
    ) -> Tensor:
        kernel = reverse_kernel(t, u)
        z = torch.randn(x_t.shape, generator=g, dtype=torch.float64)
        axes, tau = view.residual_axes(level, t, self.denoiser.tau(level))
        spread = kernel.b * (1 + kernel.gain * h * tau).sqrt()
        return kernel.c_t * x_t + kernel.c_x * x_hat + (spread * z) @ axes.T

    def complete(
        self, rows: Rows, x: Tensor, draws: int, particles: int, generator: torch.Generator
    ) -> list[tuple[Tensor, Tensor]]:
        """``draws`` completions of rows that share one pattern of holes, by sequential Monte Carlo.

        Each row becomes ``particles`` paths. The observed columns follow the forward process, the others the reverse
        kernel given them; a particle's weight is what the reverse kernel makes of the observed step. Exact as the
        number of particles grows.

        Args:
            rows: Encoded rows.
            x: ``(n, P)`` values, fillers drawn, NaN for holes; one pattern.
            draws: Completions of each row.
            particles: Paths of each row.
            generator: Source of randomness.
        """
        view = self.complete_view()
        seen = ~x[0].isnan()
        o, m = seen.nonzero().flatten(), (~seen).nonzero().flatten()
        x = x.repeat_interleave(particles, 0)
        rows = rows.select(torch.arange(len(rows)).repeat_interleave(particles))
        context = rows.cells.context
        x_t = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        log_w = torch.zeros(len(x), dtype=torch.float64)
        for place, level in enumerate(self.path[:-1]):
            t, u = self.level(place), self.level(place + 1)
            kernel = reverse_kernel(t, u)
            x_hat, h = self.denoiser.estimate(level, x_t, view, context)
            proposal = self._step(level, t, u, x_t, x_hat, h, view, generator)
            if len(o):
                z = torch.randn(len(x), len(o), generator=generator, dtype=torch.float64)
                step = kernel.c_t * x_t[:, o] + kernel.c_x * x[:, o] + kernel.b * z
                mean = kernel.c_t * x_t + kernel.c_x * x_hat
                # covariance of the reverse kernel over b^2, for each particle's h
                axes, tau = view.residual_axes(level, t, self.denoiser.tau(level))
                growth = 1 + kernel.gain * h * tau
                covariance = (axes[o] * growth[:, None]) @ axes[o].T
                root = torch.linalg.cholesky(covariance)
                deviation = torch.linalg.solve_triangular(
                    root, ((step - mean[:, o]) / kernel.b)[..., None], upper=False
                )
                log_w += 0.5 * (z.square().sum(1) - deviation.square().sum((1, 2)))
                log_w -= root.diagonal(dim1=1, dim2=2).log().sum(1)
                if len(m):  # Matheron's rule: a draw of all columns, moved to where the observed ones are
                    gap = torch.cholesky_solve((step - proposal[:, o])[..., None], root)
                    cross = (axes[m] * growth[:, None]) @ axes[o].T
                    proposal[:, m] += (cross @ gap)[..., 0]
                proposal[:, o] = step
            x_t = proposal
            x_t, log_w = self._resample(x_t, log_w, particles, generator)
        last, t = self.path[-1], self.level(-1)
        if len(o):
            part = self.denoiser.view(seen, alone=False)
            tau = self.denoiser.tau(last)
            x_hat, h = self.denoiser.estimate(last, x_t, view, context)
            log_w += self.decoder.log_prob(rows, x[:, o], x_t[:, o], t, last, x_hat[:, o], h, part, tau, self.weight())
        chosen = self._choose(log_w, particles, draws, generator)
        out = []
        for one in range(draws):
            at = chosen[:, one]
            x_hat, h = self.denoiser.estimate(last, x_t[at], view, context[at])
            drawn = self.decoder.draw(
                x_t[at], t, x_hat, h, view, self.denoiser.tau(last), self.weight(), generator, given=x[at]
            )
            out.append(drawn)
        return out

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
