"""The typed autoregressive density: it is a probability for every pattern of holes, and its samples agree with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import pytest
import torch
from flow_tables import (
    ATOMS,
    CATEGORIES,
    FIRST,
    LAST,
    NUMBERS,
    STEP,
    atom_cells,
    continuous,
    dense_cells,
    make_cells,
    shake,
    snap,
)

from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.base import CategorySlot, NumberSlot
from genzoo.likelihood.normal_cells import log_normal_cell
from genzoo.models.flows.ancestral import draw, empty_cells
from genzoo.models.flows.autoregressive import AutoregressiveDensity
from genzoo.models.flows.completion import complete
from genzoo.models.flows.slots import number_features


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


GRID = range(FIRST, LAST + 1)
ELEMENTS = {"spline": Elementwise("spline", 5, 3.0), "affine": Elementwise("affine")}


def discrete_density(kind: str = "spline") -> AutoregressiveDensity:
    density = AutoregressiveDensity(
        NUMBERS, CATEGORIES, 0, element=ELEMENTS[kind], num_transforms=2, hidden=24, num_layers=2
    )
    shake(density, 0.25)
    density.set_atoms(*atom_cells())
    return density.eval()


def all_states(pattern: tuple[bool, bool, bool]) -> list[tuple[int | None, int | None, int | None]]:
    values = (range(3), GRID, GRID)
    return list(product(*(values[i] if pattern[i] else (None,) for i in range(3))))


@pytest.mark.parametrize("kind", list(ELEMENTS))
@pytest.mark.parametrize("pattern", list(product([True, False], repeat=3)))
def test_probabilities_of_all_states_sum_to_one_for_every_pattern_of_holes(
    kind: str, pattern: tuple[bool, bool, bool]
) -> None:
    with torch.no_grad():
        scores = discrete_density(kind).log_prob(make_cells(all_states(pattern)))
    assert abs(float(scores.total().exp().sum()) - 1) < 1e-6
    assert torch.equal(scores.total(), scores.discrete())


def test_an_atom_owns_the_mass_that_the_continuum_puts_on_its_cell() -> None:
    density = discrete_density()
    cells = make_cells([(0, 0, ATOMS[0])])
    with torch.no_grad():
        score = density.log_prob(cells)
        density.set_atoms(*(torch.zeros_like(e) for e in atom_cells()))
        without = density.log_prob(cells)
    assert score.total() > without.total()
    assert torch.equal(score.category, without.category)


def test_holes_add_nothing_and_their_stored_values_do_not_matter() -> None:
    density = discrete_density()
    cells = make_cells([(None, 2, None), (1, None, 3)])
    other = replace(cells, number=torch.where(cells.present, cells.number, 77.0))
    with torch.no_grad():
        score, again = density.log_prob(cells), density.log_prob(other)
    assert torch.equal(score.total(), again.total())
    assert score.category[0, 0] == 0
    assert score.number[1, 0] == 0


def test_samples_have_the_frequencies_of_the_density() -> None:
    density = discrete_density()
    states = all_states((True, True, True))
    with torch.no_grad():
        probability = density.log_prob(make_cells(states)).total().exp()
    num = 40_000
    generator = torch.Generator().manual_seed(0)
    drawn = draw(density, empty_cells(density, num, torch.zeros(num, 0)), snap, generator)
    spiked = torch.where(
        drawn.present[:, 1],
        (drawn.number[:, 1] / STEP).round().long(),
        torch.tensor(ATOMS)[drawn.category[:, 1].clamp(max=1)],
    )
    index = (
        (drawn.category[:, 0] * len(GRID) + (drawn.number[:, 0] / STEP).round().long() - FIRST) * len(GRID)
        + spiked
        - FIRST
    )
    counts = torch.bincount(index, minlength=len(states)).double()
    # No sample of the continuum sits on an atom, so each value is drawn in one form only.
    assert not torch.isin((drawn.number[drawn.present[:, 1], 1] / STEP).round().long(), torch.tensor(ATOMS)).any()
    expected = num * probability
    big = expected > 20
    deviation = (counts - expected)[big] / (expected * (1 - probability))[big].sqrt()
    assert deviation.abs().max() < 4.8  # about 100 states: false alarm below 1e-3
    assert (deviation**2).mean() < 1.6
    assert abs(float(counts[~big].sum() - expected[~big].sum())) < 5 * float(expected[~big].sum()) ** 0.5


@pytest.mark.parametrize("hole", [0, 1, 2])
def test_completions_have_the_frequencies_of_the_exact_conditional(hole: int) -> None:
    density = discrete_density()
    observed = [1, -1, 3]
    values = range(3) if hole == 0 else GRID
    states = [tuple(v if i == hole else observed[i] for i in range(3)) for v in values]
    with torch.no_grad():
        conditional = density.log_prob(make_cells(states)).total().softmax(0)
    row = tuple(None if i == hole else observed[i] for i in range(3))
    cells = make_cells([row] * 3000)
    (drawn,) = complete(density, cells, snap, 1, torch.Generator().manual_seed(1), num_particles=48)
    if hole == 0:
        found = drawn.category[:, 0]
    elif hole == 1:
        found = (drawn.number[:, 0] / STEP).round().long() - FIRST
    else:
        atom = torch.tensor([*ATOMS, 0])[drawn.category[:, 1]]
        found = torch.where(drawn.present[:, 1], (drawn.number[:, 1] / STEP).round().long(), atom) - FIRST
    counts = torch.bincount(found, minlength=len(states)).double()
    assert (counts / 3000 - conditional).abs().max() < 0.05  # 5 standard errors, and the bias of 48 particles
    keep = ~cells.number_hole & cells.present
    assert torch.equal(drawn.number[keep], cells.number[keep])
    assert torch.equal(drawn.category[cells.category >= 0], cells.category[cells.category >= 0])


@pytest.mark.parametrize(("kind", "alternate"), [("spline", False), ("spline", True), ("affine", True)])
def test_a_continuous_density_integrates_to_one_for_every_pattern_of_holes(kind: str, alternate: bool) -> None:
    density = AutoregressiveDensity(
        continuous(2), (), 0, element=ELEMENTS[kind], num_transforms=3, hidden=16, alternate=alternate
    ).eval()
    shake(density, 0.1)
    axis = torch.linspace(-12, 12, 401, dtype=torch.float64)
    cells = dense_cells(torch.cartesian_prod(axis, axis))
    with torch.no_grad():
        mass = density.log_prob(cells).total().exp().sum() * (axis[1] - axis[0]) ** 2
        assert abs(float(mass) - 1) < 1e-3
        for hidden in (0, 1):
            hole = torch.zeros(len(axis), 2, dtype=torch.bool)
            hole[:, hidden] = True
            one = dense_cells(axis[:, None].expand(-1, 2).contiguous())
            one = replace(one, present=~hole, number_hole=hole)
            part = density.log_prob(one).total().exp().sum() * (axis[1] - axis[0])
            assert abs(float(part) - 1) < 1e-3


@pytest.mark.parametrize("alternate", [False, True])
def test_log_density_is_the_normal_plus_autograds_log_determinant(alternate: bool) -> None:
    density = (
        AutoregressiveDensity(
            continuous(4), (), 0, element=ELEMENTS["spline"], num_transforms=3, hidden=24, alternate=alternate
        )
        .double()
        .eval()
    )
    shake(density, 0.2)
    generator = torch.Generator().manual_seed(2)
    drawn = draw(density, empty_cells(density, 1, torch.zeros(1, 0)), snap, generator).number

    def to_latent(x: torch.Tensor) -> torch.Tensor:
        y = x[:, None]
        for net in density.nets:
            static = density.static_features(dense_cells(y.t()))
            inputs = torch.cat([number_features(y, torch.ones_like(y, dtype=torch.bool)), static], 1)
            y, _ = density.element.apply(y, density.split_outputs(net(inputs))[0], to_latent=True)
        return y[:, 0]

    x = drawn[0]
    jacobian = torch.autograd.functional.jacobian(to_latent, x)
    z = to_latent(x)
    expected = (
        -0.5 * (z**2).sum() - 2 * torch.log(torch.tensor(2 * torch.pi, dtype=torch.float64)) + jacobian.slogdet()[1]
    )
    assert torch.allclose(density.log_prob(dense_cells(drawn)).total()[0], expected, atol=1e-9)


def mixed_slots() -> tuple[tuple[NumberSlot, ...], tuple[CategorySlot, ...]]:
    numbers = (NumberSlot("a", False, None, 0), NumberSlot("b", True, None, 2), NumberSlot("c", False, 1, 3))
    categories = (CategorySlot("k", 4, None, 1), CategorySlot("c", 3, 2, 3))
    return numbers, categories


def mixed_cells(num: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num, 3, generator=generator, dtype=torch.float64)
    indicator = torch.randint(0, 3, (num,), generator=generator)
    present = torch.ones(num, 3, dtype=torch.bool)
    present[:, 2] = indicator == 2
    category = torch.stack([torch.randint(0, 4, (num,), generator=generator), indicator], 1)
    cells = dense_cells(x)
    lower, upper = x.clone(), x.clone()
    lower[:, 1] -= 0.1
    upper[:, 1] += 0.1
    return replace(
        cells,
        present=present,
        number=torch.where(present, x, 0.0),
        lower=lower,
        upper=upper,
        category=category,
        log_volume=torch.zeros(num, 4, dtype=torch.float64),
    )


def test_a_conditional_sees_earlier_slots_only() -> None:
    numbers, categories = mixed_slots()
    density = AutoregressiveDensity(
        numbers, categories, 0, element=ELEMENTS["spline"], num_transforms=2, hidden=32
    ).eval()
    shake(density, 0.3)
    cells = mixed_cells()
    cells = replace(cells, category=torch.full_like(cells.category, 2), present=torch.ones_like(cells.present))
    order = [("category", 0), ("number", 1), ("category", 1), ("number", 0), ("number", 2)]
    assert density.layout.discrete == order[:3]

    def scores(changed) -> list[torch.Tensor]:
        with torch.no_grad():
            part = density.log_prob(changed)
        return [part.category[:, s] if kind == "category" else part.number[:, s] for kind, s in order]

    before = scores(cells)
    for place, (kind, slot) in enumerate(order):
        if kind == "category":
            category = cells.category.clone()
            category[:, slot] = 1
            after = scores(replace(cells, category=category))
        else:
            parts = {}
            for name in ("number", "lower", "upper"):
                parts[name] = getattr(cells, name).clone()
                parts[name][:, slot] += 0.5
            after = scores(replace(cells, **parts))
        for later in range(len(order)):
            same = torch.equal(before[later], after[later])
            assert same == (later < place), (order[place], order[later])


def test_contributions_do_not_depend_on_the_other_rows() -> None:
    numbers, categories = mixed_slots()
    density = AutoregressiveDensity(numbers, categories, 0, element=ELEMENTS["spline"], hidden=16).eval()
    shake(density, 0.3)
    cells = mixed_cells(8)
    with torch.no_grad():
        whole, alone = density.log_prob(cells).total(), density.log_prob(cells.select(slice(3, 4))).total()
    assert torch.allclose(whole[3:4], alone, atol=1e-6)


def test_training_in_float32_is_near_evaluation_in_float64_and_every_gradient_is_finite() -> None:
    numbers, categories = mixed_slots()
    density = AutoregressiveDensity(numbers, categories, 0, element=ELEMENTS["spline"], hidden=16)
    shake(density, 0.3)
    cells = mixed_cells(50)
    rough = density.train().log_prob(cells).total()
    rough.sum().backward()
    with torch.no_grad():
        precise = density.eval().double().log_prob(cells).total()
    assert (rough - precise).abs().max() < 1e-3
    for name, parameter in density.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def test_narrow_and_far_cells_keep_their_digits() -> None:
    density = AutoregressiveDensity(
        (NumberSlot("a", True, None, 0),), (), 0, element=ELEMENTS["spline"], hidden=8
    ).eval()
    shake(density, 0.3)
    dense = AutoregressiveDensity(continuous(1), (), 0, element=ELEMENTS["spline"], hidden=8).eval()
    dense.load_state_dict(dict(density.state_dict().items()))
    x = torch.tensor([[-30.0], [-2.0], [0.3], [2.9], [8.0], [50.0]], dtype=torch.float64)
    width = 1e-7
    cells = replace(dense_cells(x), lower=x - width / 2, upper=x + width / 2)
    log_probability = density.log_prob(cells).total()
    log_density = dense.log_prob(dense_cells(x)).total()
    assert torch.allclose(log_probability - torch.log(torch.tensor(width)), log_density, rtol=1e-6, atol=1e-5)
    log_probability.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in density.parameters())


@pytest.mark.parametrize("alternate", [False, True])
def test_completions_of_a_gaussian_have_its_conditional_moments(alternate: bool) -> None:
    """An affine flow with known weights is Gaussian: x0 = u0, x1 = 0.8 x0 + 0.6 u1."""
    density = AutoregressiveDensity(
        continuous(2), (), 0, element=Elementwise("affine"), num_transforms=1, hidden=8, alternate=alternate
    ).eval()
    grid = torch.linspace(-5, 5, 4001, dtype=torch.float64)
    shake(density, 0.25, seed=5)
    x1 = 0.7
    with torch.no_grad():
        rows = torch.stack([grid, torch.full_like(grid, x1)], 1)
        weight = density.log_prob(dense_cells(rows)).total().softmax(0)
    mean = float((weight * grid).sum())
    sd = float((weight * (grid - mean) ** 2).sum().sqrt())
    cells = dense_cells(torch.tensor([[0.0, x1]]).repeat(1500, 1))
    hole = torch.zeros(1500, 2, dtype=torch.bool)
    hole[:, 0] = True
    cells = replace(cells, number_hole=hole, present=~hole)
    (drawn,) = complete(density, cells, snap, 1, torch.Generator().manual_seed(0), num_particles=64)
    assert (drawn.number[:, 1] == cells.number[:, 1]).all()
    assert abs(float(drawn.number[:, 0].mean()) - mean) < 4.5 * sd / 1500**0.5
    assert abs(float(drawn.number[:, 0].std()) / sd - 1) < 0.1


@pytest.mark.parametrize("alternate", [False, True])
def test_continuous_samples_follow_the_density(alternate: bool) -> None:
    density = AutoregressiveDensity(
        continuous(2), (), 0, element=ELEMENTS["spline"], num_transforms=2, hidden=16, alternate=alternate
    ).eval()
    shake(density, 0.12)
    num = 8000
    drawn = draw(density, empty_cells(density, num, torch.zeros(num, 0)), snap, torch.Generator().manual_seed(0))
    axis = torch.linspace(-12, 12, 601, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = (density.log_prob(dense_cells(grid)).total().exp() * (axis[1] - axis[0]) ** 2).reshape(601, 601)
    for column, marginal in ((0, mass.sum(1)), (1, mass.sum(0))):
        cdf = marginal.cumsum(0) - marginal / 2
        empirical = (drawn.number[:, column, None] <= axis).double().mean(0)
        assert (cdf - empirical).abs().max() < 1.95 / num**0.5 + 5e-3  # Kolmogorov at 1e-3, and the grid


def test_context_changes_every_conditional() -> None:
    density = AutoregressiveDensity(continuous(2), (), 3, element=ELEMENTS["spline"], hidden=16).eval()
    shake(density, 0.3)
    x = torch.zeros(2, 2)
    with torch.no_grad():
        scores = density.log_prob(dense_cells(x, torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 2.0]]))).number
    assert (scores[0] != scores[1]).all()


def test_large_vocabularies_are_embedded_and_sum_to_one() -> None:
    categories = (CategorySlot("a", 3, None, 0), CategorySlot("city", 100, None, 1), CategorySlot("b", 2, None, 2))
    density = AutoregressiveDensity((), categories, 0, element=ELEMENTS["affine"], num_transforms=1, hidden=16).eval()
    shake(density, 0.3)
    codes = torch.tensor(list(product(range(3), range(100), range(2))))
    cells = replace(dense_cells(torch.zeros(600, 0)), category=codes, log_volume=torch.zeros(600, 3))
    with torch.no_grad():
        assert abs(float(density.log_prob(cells).total().exp().sum()) - 1) < 1e-6


def test_frequencies_set_the_heads_before_training() -> None:
    categories = (CategorySlot("a", 2, None, 0),)
    density = AutoregressiveDensity((), categories, 0, element=ELEMENTS["affine"], hidden=4).eval()
    density.set_frequencies(torch.tensor([[0], [0], [0], [1], [-1]]))
    cells = replace(dense_cells(torch.zeros(2, 0)), category=torch.tensor([[0], [1]]), log_volume=torch.zeros(2, 1))
    with torch.no_grad():
        assert torch.allclose(density.log_prob(cells).total().exp(), torch.tensor([0.7, 0.3], dtype=torch.float64))


@pytest.mark.parametrize("sign", [-1.0, 1.0])
@pytest.mark.parametrize("width", [1e-6, 2e-3, 0.5, 3.0])
@pytest.mark.parametrize("far", [0.0, 3.0, 1e4, 9e11])
def test_the_probability_of_a_cell_has_its_gradient_however_far_out_it_lies(
    far: float, width: float, sign: float
) -> None:
    edges = sorted((sign * far, sign * (far + width)))
    lower, upper = (torch.tensor([edge], dtype=torch.float64, requires_grad=True) for edge in edges)
    value = log_normal_cell(lower, upper)
    to_lower, to_upper = torch.autograd.grad(value, (lower, upper))
    if edges[0] == edges[1]:  # float64 does not tell the edges apart
        assert (float(value.detach()), float(to_lower), float(to_upper)) == (-math.inf, 0.0, 0.0)
        return
    assert torch.isfinite(torch.stack([value, to_lower, to_upper])).all()
    # both edges outwards: more mass; both to the right: by the difference of the densities at the edges
    assert float(to_lower) <= 0 <= float(to_upper)
    middle = 0.5 * (edges[0] + edges[1])
    assert float(to_lower + to_upper) * sign <= 0
    if far == 3.0:
        step = 1e-6
        moved = log_normal_cell(lower + step, upper + step) - log_normal_cell(lower - step, upper - step)
        assert float(to_lower + to_upper) == pytest.approx(float(moved.detach()) / (2 * step), rel=1e-5)
    if far >= 1e4 and width > 1:  # the hazard of a normal tail is its distance
        near = to_lower if sign > 0 else to_upper
        assert abs(float(near)) == pytest.approx(abs(far), rel=1e-7)
    assert abs(float(to_lower + to_upper)) <= 1.001 * abs(middle) + width + 1


def test_an_atom_astronomically_far_from_the_grid_leaves_finite_gradients() -> None:
    lower = torch.tensor([-9e11, -1.0], dtype=torch.float64, requires_grad=True)
    upper = torch.tensor([-9e11 + 2, 1.0], dtype=torch.float64, requires_grad=True)
    excess = torch.logaddexp(torch.zeros(2, dtype=torch.float64), log_normal_cell(lower, upper))
    gradients = torch.autograd.grad(excess.sum(), (lower, upper))
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
