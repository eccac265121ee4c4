"""Independent columns: exact marginals that sum and integrate to one, near the best marginal, unit-free."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from baseline_tables import batch_of, fitted, number, schema_of, scores
from torch import Tensor

from genzoo.models.baselines.independent import Independent
from genzoo.models.baselines.marginal_fit import fit_marginal
from genzoo.models.baselines.multinomials import laplace_log_probs
from genzoo.models.baselines.smooth_marginals import SmoothMarginals, tail_mass, tail_quantile
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema

INF = float("inf")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def smooth(x: Tensor, step: float | None = None, bend: float = 0.0, **sizes: int) -> SmoothMarginals:
    marginals = SmoothMarginals(1, **sizes)
    half = 0.0 if step is None else step / 2
    fit_marginal(marginals, 0, x, x - half, x + half, step is not None, bend=bend)
    return marginals


def three_columns(num: int = 400) -> tuple[Schema, TableBatch]:
    """A count with many zeros and a spike at 7, a category, and a count whose zero is an atom."""
    g = generator()
    group = torch.randint(0, 3, (num,), generator=g)
    count = torch.poisson(1.0 + 2 * group.double(), generator=g)
    count[torch.rand(num, generator=g) < 0.2] = 7
    other = torch.poisson(torch.full((num,), 2.0, dtype=torch.float64), generator=g) * 5
    numeric = torch.stack([count, other], 1)
    numeric[torch.rand(num, 2, generator=g) < 0.1] = torch.nan
    schema = schema_of(
        number("count", 1.0),
        Column("group", "categorical", categories=("a", "b", "c"), closed=True),
        number("other", 5.0, atoms=(0.0, 10.0)),
    )
    return schema, batch_of(numeric, group[:, None])


@pytest.mark.parametrize("pattern", list(itertools.product([True, False], repeat=3)))
def test_cell_probabilities_over_the_grid_with_tails_sum_to_one_for_every_pattern(
    pattern: tuple[bool, ...],
) -> None:
    schema, batch = three_columns()
    model = fitted(Independent, schema, batch)
    # Tails of t with four degrees of freedom: mass beyond N cells falls as N^-4, so each axis is summed by itself.
    far = torch.cat([torch.arange(-2_000.0, 2_001.0)])
    total = 1.0
    for here, (column, grid) in zip(pattern, [(0, far), (2, far * 5)], strict=False):
        if not here:
            continue
        numeric = torch.full((len(grid), 2), torch.nan, dtype=torch.float64)
        numeric[:, 0 if column == 0 else 1] = grid
        codes = torch.full((len(grid), 1), -1)
        total *= float(scores(model, batch_of(numeric, codes)).values.exp().sum())
    codes = torch.arange(3)[:, None] if pattern[2] else torch.full((1, 1), -1)
    numeric = torch.full((len(codes), 2), torch.nan, dtype=torch.float64)
    total *= float(scores(model, batch_of(numeric, codes)).values.exp().sum())
    assert total == pytest.approx(1.0, abs=1e-6)


def test_a_row_is_the_sum_of_its_columns_and_holes_add_nothing() -> None:
    schema, batch = three_columns()
    model = fitted(Independent, schema, batch)
    part = scores(model, batch)
    assert part.by_column.shape == (len(batch), 3)
    torch.testing.assert_close(part.by_column.sum(1), part.values)
    torch.testing.assert_close(part.discrete, part.values)
    assert (part.by_column[torch.isnan(batch.numeric[:, 0]), 0] == 0).all()
    assert part.se is None
    assert model.likelihood_kind == "exact"


@pytest.mark.parametrize("rows", [1, 2, 3, 30, 3000])
@pytest.mark.parametrize("bend", [0.0, 1.0])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_density_integrates_to_one_and_agrees_with_its_masses(rows: int, bend: float, scale: float) -> None:
    x = torch.randn(rows, generator=generator(), dtype=torch.float64) * scale + 3 * scale
    marginals = smooth(x, bend=bend * scale)
    everything = torch.tensor([[-INF]], dtype=torch.float64), torch.tensor([[INF]], dtype=torch.float64)
    assert float(marginals.mass(*everything)) == pytest.approx(1.0, abs=1e-12)
    # Between knots the density is linear but for the tail part: a fine trapezoid is exact to second order.
    spread = x.std(correction=0) if rows > 1 else marginals.centre[0, 1]
    grid = torch.linspace(-50, 50, 400_001, dtype=torch.float64)[:, None] * spread + marginals.centre[0, 0]
    density = marginals.log_density(grid).exp()[:, 0]
    inside = marginals.mass(grid[:1], grid[-1:])
    assert float(torch.trapezoid(density, grid[:, 0])) == pytest.approx(float(inside), abs=1e-4)


def test_masses_are_positive_and_finite_fifty_and_a_million_spreads_away() -> None:
    marginals = smooth(torch.randn(1000, generator=generator(), dtype=torch.float64).round(decimals=1), step=0.1)
    far = torch.tensor([[-1e6], [-50.0], [50.0], [1e6]], dtype=torch.float64)
    log_p = marginals.log_mass(far - 0.05, far + 0.05)
    assert torch.isfinite(log_p).all()
    assert (log_p < -8).all()
    # So far out the density is flat in a cell: mass = density x width.
    torch.testing.assert_close(log_p, marginals.log_density(far) + math.log(0.1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "loss"), [("normal", 0.01), ("uniform", 0.04), ("exponential", 0.04), ("cauchy", 0.04), ("narrow", 0.05)]
)
def test_a_smooth_marginal_is_near_the_true_density(name: str, loss: float) -> None:
    """Nats lost per row on 20,000 new rows after 2,000: about twice what one seed measures."""
    g = generator(1)

    def draw(num: int) -> Tensor:
        u = torch.rand(num, generator=g, dtype=torch.float64)
        z = torch.randn(num, generator=g, dtype=torch.float64)
        return {
            "normal": z,
            "uniform": u,
            "exponential": -u.log(),
            "cauchy": torch.tan(math.pi * (u - 0.5)),
            "narrow": torch.where(u < 0.5, 0.02 * z - 1, 0.5 * z + 1),
        }[name]

    def true(x: Tensor) -> Tensor:
        normal = torch.distributions.Normal
        return {
            "normal": lambda: normal(0.0, 1.0).log_prob(x),
            "uniform": lambda: torch.zeros_like(x),
            "exponential": lambda: -x,
            "cauchy": lambda: torch.distributions.Cauchy(0.0, 1.0).log_prob(x),
            "narrow": lambda: (
                torch.logaddexp(normal(-1.0, 0.02).log_prob(x), normal(1.0, 0.5).log_prob(x)) - math.log(2)
            ),
        }[name]()

    marginals, new = smooth(draw(2000)), draw(20_000)
    lost = float((true(new) - marginals.log_density(new[:, None])[:, 0]).mean())
    assert -0.01 < lost < loss


def test_a_rough_pmf_is_learned_as_well_as_its_counts_allow() -> None:
    g = generator(2)
    p = torch.rand(50, generator=g, dtype=torch.float64) ** 4
    p /= p.sum()
    x, new = (torch.multinomial(p, n, replacement=True, generator=g).double() for n in (2000, 20_000))
    marginals = smooth(x, step=1.0)
    lost = (p[new.long()].log() - marginals.log_mass(new[:, None] - 0.5, new[:, None] + 0.5)[:, 0]).mean()
    # A multinomial with 49 free numbers loses 49 / (2 n) = 0.012 nats by estimation alone.
    assert float(lost) < 0.02


def test_frequent_grid_values_are_captured_beside_a_smooth_bulk() -> None:
    g = generator(3)
    x = torch.floor(200 * torch.rand(4000, generator=g, dtype=torch.float64))
    x[:2000] = 40.0
    marginals = smooth(x, step=1.0)
    at = torch.tensor([[40.0], [41.0], [150.0]], dtype=torch.float64)
    p = marginals.log_mass(at - 0.5, at + 0.5).exp()[:, 0]
    assert float(p[0]) == pytest.approx(0.5025, abs=0.01)
    assert float(p[1]) == pytest.approx(0.0025, rel=0.5)
    assert float(p[2]) == pytest.approx(0.0025, rel=0.5)


def test_samples_follow_the_cell_probabilities() -> None:
    schema, batch = three_columns()
    model = fitted(Independent, schema, batch)
    drawn = model.model_sample(20_000, None, generator(5))
    for column, grid in ((0, torch.arange(0.0, 9.0)), (1, torch.arange(0.0, 30.0, 5.0))):
        numeric = torch.full((len(grid), 2), torch.nan, dtype=torch.float64)
        numeric[:, column] = grid
        p = scores(model, batch_of(numeric, torch.full((len(grid), 1), -1))).values.exp()
        found = (drawn.numeric[:, column, None] == grid).double().mean(0)
        # 15 cells, five standard errors: false alarm about 1 in 100,000.
        assert ((found - p).abs() < 5 * (p * (1 - p) / 20_000).sqrt()).all()


def test_quantiles_invert_masses() -> None:
    marginals = smooth(torch.randn(500, generator=generator(), dtype=torch.float64))
    level = torch.tensor([[1e-6, 0.01, 0.3, 0.5, 0.9, 1 - 1e-6]], dtype=torch.float64)
    part = marginals._smooth()
    x = part.quantile(level)
    torch.testing.assert_close(part.mass(torch.full_like(x, -INF), x), level, atol=1e-9, rtol=0)
    for bent in (torch.tensor(False), torch.tensor(True)):
        x = tail_quantile(level, bent)
        torch.testing.assert_close(tail_mass(torch.full_like(x, -INF), x, bent), level, atol=1e-12, rtol=0)


def test_tail_masses_between_near_and_far_edges_keep_their_digits() -> None:
    edges = torch.tensor([-800.0, -30.0, -1.0, 0.0, 2.0, 40.0, 700.0], dtype=torch.float64)

    def student(x: Tensor) -> Tensor:
        """Cdf at ``x <= 0`` without cancellation: (1 + w)^2 (2 - w) / 4."""
        s = torch.sqrt(4 + x.square())
        return (4 / (s * (s - x))).square() * (2 - x / s) / 4

    for bent, below in ((True, torch.sigmoid), (False, student)):
        for low, high in itertools.combinations(edges, 2):
            found = tail_mass(low, high, torch.tensor(bent))
            if low >= 0:
                expected = below(-low) - below(-high)
            elif high <= 0:
                expected = below(high) - below(low)
            else:
                expected = 1 - below(low) - below(-high)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_draws_of_a_column_on_a_bent_scale_have_moments_in_its_own_unit() -> None:
    """A power law on a logarithm: one draw in fifty of Student's t there is a catastrophe in the column's unit."""
    g = generator(11)
    x = torch.sinh(1.5 * torch.randn(3000, 1, generator=g, dtype=torch.float64))
    model = fitted(Independent, schema_of(number("x")), batch_of(x))
    assert float(model.codec.bends) > 0
    drawn = model.model_sample(200_000, None, generator(12)).numeric[:, 0]
    assert float(drawn.abs().max()) < 100 * float(x.abs().max())
    assert float(drawn.std()) == pytest.approx(math.sqrt(0.5 * (math.exp(4.5) - 1)), rel=0.3)
    far = torch.tensor([10.0, 100.0, 1000.0, 1e4], dtype=torch.float64) * float(x.abs().max())
    density = scores(model, batch_of(far[:, None])).values
    assert torch.isfinite(density).all()
    # mass beyond falls at least as the fourth power, so the density at least as the fifth
    assert (density.diff() < -4.9 * math.log(10)).all()


@pytest.mark.parametrize("num_knots", [64, 96, 256])
def test_few_knots_are_enough_for_a_density(num_knots: int) -> None:
    x = torch.randn(5000, 1, generator=generator(), dtype=torch.float64)
    model = fitted(Independent, schema_of(number("x")), batch_of(x), num_knots=num_knots)
    new = batch_of(torch.randn(5000, 1, generator=generator(1), dtype=torch.float64))
    entropy = 0.5 * math.log(2 * math.pi * math.e)
    assert float(scores(model, new).values.mean()) == pytest.approx(-entropy, abs=0.05)


def test_draws_of_a_heavy_column_with_a_lower_bound_are_no_larger_than_a_power_law_makes_them() -> None:
    g = generator(13)
    laplace = torch.empty(1000, 1, dtype=torch.float64).exponential_(generator=g)
    x = (laplace * torch.where(torch.rand(1000, 1, generator=g) < 0.5, -1.0, 1.0)).exp()
    model = fitted(Independent, schema_of(number("x", lower=0.0)), batch_of(x))
    drawn = model.model_sample(100_000, None, generator(14)).numeric
    assert float(drawn.max()) < 1e4 * float(x.max())


@pytest.mark.parametrize(("factor", "tolerance"), [(1024.0, 1e-9), (1000.0, 1e-6)])
def test_units_shift_a_density_by_the_log_of_the_factor_and_a_cell_by_nothing(factor: float, tolerance: float) -> None:
    g = generator(7)
    x = torch.randn(300, generator=g, dtype=torch.float64).exp()
    count = torch.poisson(torch.full((300,), 3.0, dtype=torch.float64), generator=g)
    batch = batch_of(torch.stack([x, count], 1))
    scaled = batch_of(torch.stack([x, count], 1) * factor)
    base = fitted(Independent, schema_of(number("x"), number("count", 1.0)), batch)
    other = fitted(Independent, schema_of(number("x"), number("count", factor)), scaled)
    shift = scores(other, scaled).by_column - scores(base, batch).by_column
    torch.testing.assert_close(
        shift[:, 0], torch.full((300,), -math.log(factor), dtype=torch.float64), atol=tolerance, rtol=0
    )
    torch.testing.assert_close(shift[:, 1], torch.zeros(300).double(), atol=tolerance, rtol=0)


def test_equal_gaps_of_a_grid_do_not_depend_on_rounding_in_the_unit() -> None:
    x = torch.round(3 * torch.randn(400, generator=generator(4), dtype=torch.float64))[:, None]
    base = fitted(Independent, schema_of(number("x", 1.0)), batch_of(x))
    for factor in (1000.0, 1e-3, 3.0):
        other = fitted(Independent, schema_of(number("x", factor)), batch_of(x * factor))
        gap = scores(other, batch_of(x * factor)).values - scores(base, batch_of(x)).values
        assert float(gap.abs().max()) < 1e-9


def test_atoms_that_fill_a_bounded_grid_hold_all_mass() -> None:
    column = number("x", 1.0, lower=0.0, upper=2.0, atoms=(0.0, 1.0, 2.0))
    model = fitted(Independent, schema_of(column), batch_of(torch.arange(50).remainder(3)[:, None]))
    states = batch_of(torch.tensor([[0.0], [1.0], [2.0], [3.0], [torch.nan]]))
    values = scores(model, states).values
    assert float(values[:3].exp().sum()) == pytest.approx(1.0, abs=1e-12)
    assert values[3:].tolist() == [-INF, 0.0]
    assert model.model_sample(200, None, generator()).numeric.unique().tolist() == [0.0, 1.0, 2.0]


def test_every_known_category_keeps_mass_and_the_pseudo_count_fits_the_counts() -> None:
    p = laplace_log_probs(torch.tensor([90.0, 10.0, 0.0], dtype=torch.float64)).exp()
    assert float(p.sum()) == pytest.approx(1.0)
    assert 0 < float(p[2]) < 0.02
    # One row: nothing is left to predict it from, so plain Laplace.
    torch.testing.assert_close(
        laplace_log_probs(torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)).exp(),
        torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64),
    )


def test_a_column_of_holes_only_and_a_single_row_still_give_a_density() -> None:
    schema = schema_of(number("empty"), number("x"))
    batch = batch_of(torch.tensor([[torch.nan, 1.5]]))
    model = fitted(Independent, schema, batch)
    values = scores(model, batch_of(torch.tensor([[0.3, 2.0], [torch.nan, -40.0]]))).values
    assert torch.isfinite(values).all()


def test_imputation_fills_holes_and_leaves_observed_cells() -> None:
    schema, batch = three_columns()
    model = fitted(Independent, schema, batch)
    filled = model.model_impute(batch, model.codec.encode(batch), 2, generator(1))
    assert len(filled) == 2
    for one in filled:
        assert not torch.isnan(one.numeric).any()
        seen = ~torch.isnan(batch.numeric)
        assert torch.equal(one.numeric[seen], batch.numeric[seen])


def test_too_few_knots_are_refused_with_the_least_number() -> None:
    with pytest.raises(ValueError, match="num_knots must be at least 64"):
        Independent(schema=schema_of(number("x")).to_dict(), num_knots=3)


def test_an_atom_on_the_cell_of_another_holds_no_mass() -> None:
    column = number("x", 1.0, lower=0.0, upper=3.0, atoms=(0.0, 0.2))
    model = fitted(Independent, schema_of(column), batch_of(torch.arange(40).remainder(4)[:, None]))
    values = scores(model, batch_of(torch.tensor([[0.0], [1.0], [2.0], [3.0]]))).values
    assert float(values.exp().sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("bend", [0.0, 1.0])
@pytest.mark.parametrize("ends", [(-INF, INF), (-INF, -0.35), (0.25, 1.15), (1.85, INF)])
def test_draws_between_ends_follow_the_masses_there(bend: float, ends: tuple[float, float]) -> None:
    g = generator(3)
    x = torch.randn(3000, generator=g, dtype=torch.float64).round(decimals=1)
    x[:600] = 0.8
    marginals = smooth(x, step=0.1, bend=bend)
    lower, upper = (torch.full((40_000, 1), end, dtype=torch.float64) for end in ends)
    drawn = marginals.draw_between(lower, upper, generator(4))
    assert ((drawn > lower) & (drawn <= upper)).all()
    cuts = torch.tensor([-INF, -2.05, -0.35, 0.25, 0.75, 0.85, 1.15, 1.85, 2.45, INF], dtype=torch.float64)
    cuts = cuts.clamp(*ends)[:, None]
    expected = marginals.mass(cuts[:-1], cuts[1:])[:, 0]
    expected = expected / expected.sum()
    found = ((drawn > cuts[:-1, 0]) & (drawn <= cuts[1:, 0])).double().mean(0)
    # nine cells, five standard errors: false alarm about 1 in 200,000
    assert ((found - expected).abs() <= 5 * (expected * (1 - expected) / len(drawn)).sqrt() + 1e-9).all()
