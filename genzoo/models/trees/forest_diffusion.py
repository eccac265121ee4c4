"""Tree-based diffusion on the variance-preserving path, with samples, imputation and a likelihood bound."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genzoo.models.capabilities import Capabilities
from genzoo.models.trees.denoising_forest import FOREST_CAPABILITIES, DenoisingForest
from genzoo.models.trees.samplers import follow_flow, require_steps, reverse_diffusion
from genzoo.trees.levels import VariancePreserving


class ForestDiffusion(DenoisingForest):
    r"""Tree-based diffusion for any table: boosted trees learn the score at levels of noise.

    Rows are noised on the variance-preserving path,

    .. math:: x_t = m_t x + s_t e, \qquad m_t^2 + s_t^2 = 1, \qquad
              \log m_t = -\tfrac{t^2}{4} (b_1 - b_0) - \tfrac{t}{2} b_0 ,

    and trees estimate :math:`\hat x(x_t) = E[x \mid x_t]`, which is the score
    :math:`\nabla \log q_t = (m_t \hat x - x_t) / s_t^2` in other words. Everything else is shared with
    :class:`~genzoo.models.trees.forest_flow.ForestFlow`: the linear part, classes, the latent-variable model and its
    importance weights. A row at the last level is not quite noise (:math:`m_1 = 0.13`), so that model starts from the
    noised Gaussian fit instead of :math:`N(0, I)`: with no trees it is exactly that Gaussian.

    Likelihood: lower bound, the log-mean-exp of ``draws`` importance weights, of the latent-variable model that the
    ``ancestral`` sampler draws from; the stochastic equation and the flow have no density of their own here.

    Args:
        schema: The table's schema as a plain dictionary.
        beta_min: Rate of noise at time 0, ``b0``.
        beta_max: Rate of noise at time 1, ``b1``; the larger, the less of a row is left at the end.
        sampler: ``ancestral`` draws from the model whose likelihood is reported; ``sde`` takes Euler-Maruyama steps of
            the reverse stochastic equation, as the authors do (for which ``spacing: uniform`` is meant, and 50 levels);
            ``euler``, ``heun`` and ``rk4`` follow the probability flow.
        solver_steps: Steps of those three; 0 makes one from each level to the next.
        forest: Arguments of :class:`~genzoo.models.trees.denoising_forest.DenoisingForest`.

    References:
        Jolicoeur-Martineau, Fatras, Kachman 2024, Generating and imputing tabular data via diffusion and flow-based
        gradient-boosted trees, arXiv:2309.09968; Song et al. 2021, arXiv:2011.13456 (variance-preserving path);
        Lugmayr et al. 2022, arXiv:2201.09865 (RePaint).
        Differs from the papers: a likelihood; a linear part before the trees; z-scores or smooth scales instead of a
        box; each score is evaluated once a step; the first row is drawn from the noised Gaussian fit.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="forest_diffusion")  # doctest: +SKIP
        >>> model.sample(10)  # doctest: +SKIP
    """

    settings: ClassVar[frozenset[str]] = DenoisingForest.settings | {"sampler", "solver_steps"}
    capabilities: ClassVar[Capabilities] = FOREST_CAPABILITIES

    def __init__(
        self,
        schema: dict[str, Any],
        beta_min: float = 0.1,
        beta_max: float = 8.0,
        sampler: Literal["ancestral", "sde", "euler", "heun", "rk4"] = "ancestral",
        solver_steps: int = 0,
        **forest: Any,
    ) -> None:
        path = VariancePreserving(beta_min, beta_max)
        super().__init__(schema, path=path, **forest)
        if sampler == "ancestral" and not self.has_likelihood:
            raise ValueError(
                "the ancestral sampler draws from the model of the likelihood, which likelihood: false leaves out; "
                "use --model.sampler sde, euler, heun or rk4"
            )
        require_steps(solver_steps)
        self.sampler, self.solver_steps, self.variance_path = sampler, solver_steps, path

    def draw_group(self, context: Tensor, generator: torch.Generator, group: int) -> tuple[Tensor, Tensor]:
        if self.sampler == "ancestral":
            return self.reverse.sample(context, generator, group)
        if self.sampler == "sde":
            return reverse_diffusion(self.reverse, self.variance_path, context, generator, group)
        return follow_flow(self.reverse, self.path, context, generator, self.sampler, self.solver_steps, group)
