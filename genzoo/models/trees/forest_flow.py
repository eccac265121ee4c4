"""Tree-based flow matching with a likelihood: boosted denoisers at levels of noise, read as a latent-variable model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from genzoo.models.capabilities import Capabilities
from genzoo.models.trees.denoising_forest import FOREST_CAPABILITIES, DenoisingForest
from genzoo.models.trees.samplers import follow_flow, require_steps
from genzoo.trees.levels import StraightPath


class ForestFlow(DenoisingForest):
    r"""Tree-based flow matching for any table: boosted trees undo noise, level by level, and give a likelihood.

    Rows are noised on the straight path :math:`x_t = (1 - t) x + t e`; at each level trees estimate
    :math:`\hat x(x_t) = E[x \mid x_t]` on top of the estimate that is right for Gaussian rows. The authors sample by
    the flow :math:`dx/dt = (x_t - \hat x) / t`, which has no density, since trees are piecewise constant. The same
    trees are the denoiser of a latent-variable model that has one:

    .. math:: p(x) = \int N(x_1; 0, I) \prod_{u < t}
              N\big(x_u;\, c_t x_t + c_x \hat x,\; b^2 I + c_x^2 h(x_t) T_t\big)\, p(x \mid x_{t_1})

    with :math:`T_t` the residual covariance of the level in the principal axes of the rows, scaled by one more booster
    :math:`h`. Samples, imputations and the likelihood all come from it.

    Likelihood: lower bound, the log-mean-exp of ``draws`` importance weights; tighter with more draws and levels, at
    proportional cost. Cells of a grid and categories are scored by the decoder as probabilities. Holes: the bound of
    the observed cells given the pattern, which trees see as NaN.

    Args:
        schema: The table's schema as a plain dictionary.
        sampler: ``ancestral`` draws from the model whose likelihood is reported; ``euler``, ``heun`` and ``rk4`` follow
            the authors' flow by steps of first, second and fourth order.
        solver_steps: Steps of those; 0 makes one from each level to the next.
        box: The authors' pipeline: numbers scaled to [-1, 1] by their training range, rows drawn by the flow and
            clipped to that range. Asked for a likelihood it refuses, since clipped rows have none.
        forest: Arguments of :class:`~genzoo.models.trees.denoising_forest.DenoisingForest`.

    References:
        Jolicoeur-Martineau, Fatras, Kachman 2024, Generating and imputing tabular data via diffusion and flow-based
        gradient-boosted trees, arXiv:2309.09968; Cresswell, Kim 2024, arXiv:2408.16046; Burda, Grosse, Salakhutdinov
        2016, arXiv:1509.00519 (importance weights).
        Differs from the papers: a likelihood; z-scores or smooth scales without clipping instead of a box; a linear
        part before the trees; stopping on held-out rows; one model for all classes; stochastic imputation.

    Example:
        >>> import genzoo
        >>> model = genzoo.fit("sklearn:wine", model="forest_flow")  # doctest: +SKIP
        >>> model.log_prob("sklearn:wine").kind  # doctest: +SKIP
        'lower_bound'
    """

    settings: ClassVar[frozenset[str]] = DenoisingForest.settings | {"sampler", "solver_steps"}
    capabilities: ClassVar[Capabilities] = FOREST_CAPABILITIES

    def __init__(
        self,
        schema: dict[str, Any],
        sampler: Literal["ancestral", "euler", "heun", "rk4"] = "ancestral",
        solver_steps: int = 0,
        box: bool = False,
        **forest: Any,
    ) -> None:
        super().__init__(schema, path=StraightPath(), box=box, **forest)
        if sampler == "ancestral" and not self.has_likelihood:
            option = "box: true" if box else "likelihood: false"
            raise ValueError(
                f"the ancestral sampler draws from the model of the likelihood, which {option} leaves out; "
                "use --model.sampler euler, heun or rk4"
            )
        require_steps(solver_steps)
        self.sampler, self.solver_steps = sampler, solver_steps

    def draw_group(self, context: Tensor, generator: torch.Generator, group: int) -> tuple[Tensor, Tensor]:
        if self.sampler == "ancestral":
            return self.reverse.sample(context, generator, group)
        return follow_flow(self.reverse, self.path, context, generator, self.sampler, self.solver_steps, group)
