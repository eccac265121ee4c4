"""Mathematics of Gaussian mixtures with categories, holes and cells: log-probabilities and conditional draws."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.likelihood.normal_cells import LOG_2PI, log_normal_cell, log_normal_density, truncated_normal
from genzoo.models.baselines.multinomials import CategoryLayout

MAX_ELEMENTS = 2_000_000
"""Most numbers in one intermediate tensor of the simulator; more rows are done in parts."""


@dataclass(frozen=True)
class Mixture:
    r"""Parameters of :math:`\sum_k \pi_k N(x; \mu_k, \Sigma_k) \prod_c \theta_{kc}[y_c]`.

    Args:
        log_weight: ``(K,)``; -inf is a component not in use.
        mean: ``(K, d)``.
        covariance: ``(K, d, d)``.
        category: ``(K, total categories)`` log-probabilities.
    """

    log_weight: Tensor
    mean: Tensor
    covariance: Tensor
    category: Tensor

    @property
    def num_components(self) -> int:
        return len(self.log_weight)

    def used(self) -> Mixture:
        """Only the components in use."""
        on = torch.isfinite(self.log_weight)
        return Mixture(*(getattr(self, f.name)[on] for f in fields(self)))


@dataclass(frozen=True)
class Layout:
    """Which numbers are cells, in which order they are simulated, and where categories lie.

    Args:
        quantized: One flag per number slot.
        order: Number slots from the narrowest cell (in standard deviations) to the widest.
        categories: Layout of the category slots.
    """

    quantized: tuple[bool, ...]
    order: tuple[int, ...]
    categories: CategoryLayout

    def split(self, present: Sequence[bool]) -> tuple[list[int], list[int], list[int]]:
        """Present densities, present cells (in order of simulation), and absent slots."""
        densities = [j for j, here in enumerate(present) if here and not self.quantized[j]]
        cells = [j for j in self.order if present[j] and self.quantized[j]]
        return densities, cells, [j for j, here in enumerate(present) if not here]


def patterns(present: Tensor) -> Iterator[tuple[list[bool], Tensor]]:
    """Distinct rows of ``present`` ``(batch, d)`` and the indices of the rows that have each."""
    if present.shape[1] == 0:
        yield [], torch.arange(len(present), device=present.device)
        return
    kinds, inverse = torch.unique(present, dim=0, return_inverse=True)
    order = torch.argsort(inverse, stable=True)
    sizes = torch.bincount(inverse, minlength=len(kinds)).tolist()
    yield from zip(kinds.tolist(), order.split(sizes), strict=True)


def log_probs(mixture: Mixture, layout: Layout, cells: Cells, uniform: Tensor) -> Tensor:
    r"""Log of unbiased estimates of each row's density or probability, one for each draw.

    Densities and holes are exact; a vector of cells is integrated by the simulator of Geweke, Hajivassiliou and Keane:
    one cell after the other, :math:`\hat p = \prod_t [\Phi(b_t) - \Phi(a_t)]`, with the edges conditional on earlier
    coordinates drawn within their cells. Exact when a row has at most one cell.

    Args:
        mixture: Parameters.
        layout: Roles of the slots.
        cells: Encoded rows.
        uniform: ``(batch, draws, d)`` numbers in (0, 1), the same for every component.

    Returns:
        ``(batch, draws)``; the log-mean-exp over draws is a lower bound in expectation.

    References:
        Geweke (1991); Hajivassiliou and McFadden (1998), The method of simulated scores; Genz (1992), Numerical
        computation of multivariate normal probabilities.
    """
    return torch.logsumexp(component_log_probs(mixture, layout, cells, uniform), dim=1)


def component_log_probs(mixture: Mixture, layout: Layout, cells: Cells, uniform: Tensor) -> Tensor:
    """``log pi_k p_k(row)`` for every component and draw: ``(batch, K, draws)``."""
    weight = mixture.log_weight[:, None] + layout.categories.row_log_probs(mixture.category, cells.category)[:, :, None]
    parts, indices = [], []
    for present, rows in patterns(cells.present):
        step = max(1, MAX_ELEMENTS // (mixture.num_components * uniform.shape[1]))
        for chunk in rows.split(step):
            parts.append(_simulate(mixture, layout, cells, uniform, present, chunk)[0])
            indices.append(chunk)
    if not parts:
        return weight.expand(-1, -1, uniform.shape[1])
    place = torch.argsort(torch.cat(indices))
    return weight + torch.cat(parts)[place]


def _simulate(
    mixture: Mixture, layout: Layout, cells: Cells, uniform: Tensor, present: list[bool], rows: Tensor
) -> tuple[Tensor, Tensor]:
    """Log-density of numbers of rows with one pattern, and the simulated places within cells.

    Returns:
        ``(b, K, draws)`` and ``(K, b, draws, number of cells)`` in model space.
    """
    densities, inside, _ = layout.split(present)
    dims = densities + inside
    num, draws, c = mixture.num_components, uniform.shape[1], len(densities)
    root = torch.linalg.cholesky(mixture.covariance[:, dims][:, :, dims])
    mean = mixture.mean[:, dims]
    residual = cells.number[rows][:, densities].T - mean[:, :c, None]  # (K, c, b)
    z = torch.linalg.solve_triangular(root[:, :c, :c], residual, upper=False)
    scale = root.diagonal(dim1=1, dim2=2)
    out = -0.5 * z.square().sum(1) - scale[:, :c].log().sum(1, keepdim=True) - 0.5 * c * LOG_2PI
    out = out[:, :, None].expand(-1, -1, draws)
    if not inside:
        return out.transpose(0, 1), out.new_zeros(num, len(rows), draws, 0)
    from_densities = root[:, c:, :c] @ z  # (K, m, b)
    steps: list[Tensor] = []
    places = []
    for t, j in enumerate(inside):
        shift = (mean[:, c + t, None] + from_densities[:, t])[:, :, None].expand(-1, -1, draws)
        for s, e in enumerate(steps):
            shift = shift + root[:, c + t, c + s, None, None] * e
        deviation = scale[:, c + t, None, None]
        lower = (cells.lower[rows, j][:, None] - shift) / deviation
        upper = (cells.upper[rows, j][:, None] - shift) / deviation
        out = out + log_normal_cell(lower, upper)
        e = truncated_normal(lower, upper, uniform[rows, :, j])
        steps.append(e)
        places.append(shift + deviation * e)
    return out.transpose(0, 1), torch.stack(places, dim=3)


def exact_log_probs(mixture: Mixture, layout: Layout, cells: Cells) -> Tensor:
    """:func:`log_probs` of rows with at most one cell, ``(batch,)``, by the same operations for every pattern of holes.

    Numbers are eliminated one after the other from each row's own covariance: a pivot gives the conditional variance,
    the rest is updated (a Cholesky root, column by column). An absent number stands there as one of variance 1 at its
    mean that depends on nothing. For graphs; :func:`log_probs` shares roots among rows and is cheaper.
    """
    weight = mixture.log_weight + layout.categories.row_log_probs(mixture.category, cells.category)
    densities = [j for j, quantized in enumerate(layout.quantized) if not quantized]
    inside = [j for j, quantized in enumerate(layout.quantized) if quantized]
    assert len(inside) <= 1
    dims = densities + inside
    present = cells.present[:, None, dims]
    here = present.to(torch.float64)
    both = here[..., :, None] * here[..., None, :]
    matrix = mixture.covariance[:, dims][:, :, dims] * both + torch.diag_embed(1 - here)  # (batch, K, d, d)
    residual = (cells.number[:, None, dims] - mixture.mean[:, dims]) * here  # (batch, K, d)
    for place in range(len(densities)):
        scale = matrix[..., 0, 0].sqrt()
        z, slope = residual[..., 0] / scale, matrix[..., 1:, 0] / scale[..., None]
        density = log_normal_density(z) - scale.log()
        weight = weight + torch.where(present[..., place], density, 0.0)
        residual = residual[..., 1:] - slope * z[..., None]
        matrix = matrix[..., 1:, 1:] - slope[..., :, None] * slope[..., None, :]
    for j in inside:
        scale, mean = matrix[..., 0, 0].sqrt(), cells.number[:, None, j] - residual[..., 0]
        lower, upper = ((edge[:, None, j] - mean) / scale for edge in (cells.lower, cells.upper))
        weight = weight + torch.where(present[..., -1], log_normal_cell(lower, upper), 0.0)
    return torch.logsumexp(weight, 1)


def draw_rows(mixture: Mixture, layout: Layout, num: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """``(num, d)`` numbers and ``(num, num_slots)`` categories."""
    component = torch.multinomial(mixture.log_weight.exp().cpu(), num, replacement=True, generator=generator)
    component = component.to(mixture.mean.device)
    noise = torch.randn(num, mixture.mean.shape[1], generator=generator, dtype=torch.float64).to(mixture.mean.device)
    root = torch.linalg.cholesky(mixture.covariance)
    number = mixture.mean[component].clone()
    for k in range(mixture.num_components):
        chosen = component == k
        number[chosen] += noise[chosen] @ root[k].T
    category = layout.categories.draw(mixture.category[component].cpu(), generator)
    return number, category.to(number.device)


def draw_given(
    mixture: Mixture, layout: Layout, cells: Cells, generator: torch.Generator | None, draws: int = 32
) -> tuple[Tensor, Tensor]:
    """One draw of every absent number and category given the observed ones.

    The component is drawn by its responsibility, then numbers from the conditional Gaussian, which is exact without
    cells. Where observed numbers are cells, component and places within the cells are resampled from ``draws``
    weighted simulations, which is exact as ``draws`` grows.

    Returns:
        ``(batch, d)`` numbers and ``(batch, num_slots)`` categories; observed entries keep their value.
    """
    batch, d = cells.number.shape
    if not bool((cells.present & torch.tensor(layout.quantized, dtype=torch.bool, device=cells.present.device)).any()):
        draws = 1
    device = cells.number.device
    uniform = torch.rand(batch, draws, d, generator=generator, dtype=torch.float64).clamp(2.0**-54, 1 - 2.0**-53)
    noise = torch.randn(batch, d, generator=generator, dtype=torch.float64).to(device)
    pick = torch.rand(batch, 1, generator=generator, dtype=torch.float64).to(device)
    uniform = uniform.to(device)
    prior = mixture.log_weight + layout.categories.row_log_probs(mixture.category, cells.category)
    number = torch.where(cells.present, cells.number, 0.0)
    component = torch.zeros(batch, dtype=torch.int64, device=device)
    step = max(1, MAX_ELEMENTS // (mixture.num_components * draws * max(1, d)))
    for present, every in patterns(cells.present):
        densities, inside, absent = layout.split(present)
        for rows in every.split(step):
            weight, places = _simulate(mixture, layout, cells, uniform, present, rows)
            weight = (prior[rows][:, :, None] + weight).reshape(len(rows), -1)
            cumulative = torch.softmax(weight, dim=1).cumsum(1)
            choice = torch.searchsorted(cumulative, pick[rows] * cumulative[:, -1:]).clamp_max(weight.shape[1] - 1)[
                :, 0
            ]
            k, s = choice // draws, choice % draws
            component[rows] = k
            seen = torch.cat(
                [cells.number[rows][:, densities], places[k, torch.arange(len(rows), device=device), s]], dim=1
            )
            dims = densities + inside
            if absent:
                number[rows[:, None], torch.tensor(absent, device=device)] = _conditional_draw(
                    mixture, dims, absent, k, seen, noise[rows][:, absent]
                )
    category = layout.categories.draw(mixture.category[component].cpu(), generator).to(device)
    return number, torch.where(cells.category >= 0, cells.category, category)


def conditional(mixture: Mixture, dims: list[int], absent: list[int]) -> tuple[Tensor, Tensor]:
    """Slopes of absent on present numbers ``(K, absent, dims)``, and the covariance left ``(K, absent, absent)``."""
    cov = mixture.covariance
    across = cov[:, absent][:, :, dims]
    if not dims:
        return across, cov[:, absent][:, :, absent]
    root = torch.linalg.cholesky(cov[:, dims][:, :, dims])
    slope = torch.cholesky_solve(across.transpose(1, 2), root).transpose(1, 2)
    left = cov[:, absent][:, :, absent] - slope @ across.transpose(1, 2)
    return slope, 0.5 * (left + left.transpose(1, 2))


def _conditional_draw(
    mixture: Mixture, dims: list[int], absent: list[int], component: Tensor, seen: Tensor, noise: Tensor
) -> Tensor:
    slope, left = conditional(mixture, dims, absent)
    root = safe_cholesky(left)
    out = torch.empty_like(noise)
    for k in torch.unique(component).tolist():
        rows = component == k
        centre = mixture.mean[k, absent] + (seen[rows] - mixture.mean[k, dims]) @ slope[k].T
        out[rows] = centre + noise[rows] @ root[k].T
    return out


def safe_cholesky(matrix: Tensor) -> Tensor:
    """A root of a covariance that rounding may have left slightly indefinite."""
    root, info = torch.linalg.cholesky_ex(matrix)
    if not bool(info.any()):
        return root
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp_min(0).sqrt()[..., None, :]


def without_densities(cells: Cells, layout: Layout) -> Cells:
    """The same rows with every number that has a density taken out: what is left is probability."""
    flags = torch.tensor(layout.quantized, dtype=torch.bool, device=cells.present.device)
    return replace(cells, present=cells.present & flags)
