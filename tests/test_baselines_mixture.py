"""Gaussian and mixtures: closed forms, cells against the multivariate normal cdf, EM that climbs, exact imputation."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from baseline_tables import batch_of, fitted, number, schema_of, scores
from scipy.stats import multivariate_normal, norm
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch import Tensor

from genzoo.codecs.base import Cells
from genzoo.likelihood.normal_cells import log_normal_cell, truncated_normal
from genzoo.models.baselines.gaussian import Gaussian
from genzoo.models.baselines.independent import Independent
from genzoo.models.baselines.mixture import GaussianMixture
from genzoo.models.baselines.mixture_density import Layout, Mixture, draw_given, draw_rows, log_probs
from genzoo.models.baselines.mixture_em import Prior, concatenate, raise_to_floor, run_em
from genzoo.models.baselines.mixture_fit import fit_gaussian, held_out_score, layout_of, mixture_prior
from genzoo.models.baselines.mixture_refine import refine
from genzoo.models.baselines.multinomials import CategoryLayout
from genzoo.tables.schema import Column

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells_of(
    number: Tensor, width: float | None = None, category: Tensor | None = None, present: Tensor | None = None
) -> Cells:
    """Typed cells made by hand; NaN is a hole."""
    n = len(number)
    here = ~torch.isnan(number) if present is None else present
    number = torch.where(here, number, 0.0)
    half = 0.0 if width is None else width / 2
    empty = torch.zeros(n, 0)
    return Cells(
        rows=torch.arange(n),
        number=number,
        lower=number - half,
        upper=number + half,
        present=here,
        category=torch.zeros(n, 0, dtype=torch.int64) if category is None else category,
        number_hole=~here,
        context=empty,
        log_volume=empty.double(),
        outside=torch.zeros(n, dtype=torch.bool),
    )


def layout(d: int, quantized: bool = False, sizes: tuple[int, ...] = ()) -> Layout:
    return Layout((quantized,) * d, tuple(range(d)), CategoryLayout(sizes))


def some_mixture(d: int = 3, sizes: tuple[int, ...] = ()) -> Mixture:
    g = generator(1)
    root = torch.randn(2, d, d, generator=g, dtype=F64) * 0.5 + torch.eye(d, dtype=F64)
    logits = [torch.log_softmax(torch.randn(2, size, generator=g, dtype=F64), 1) for size in sizes]
    return Mixture(
        torch.tensor([0.3, 0.7], dtype=F64).log(),
        torch.randn(2, d, generator=g, dtype=F64),
        root @ root.transpose(1, 2),
        torch.cat(logits, 1) if logits else torch.zeros(2, 0, dtype=F64),
    )


def draws(n: int, s: int, d: int, seed: int = 0) -> Tensor:
    return torch.rand(n, s, d, generator=generator(seed), dtype=F64)


def test_log_mass_is_accurate_from_the_middle_to_fifty_deviations_and_for_narrow_cells() -> None:
    from mpmath import erfc, mp, mpf, sqrt

    mp.dps = 60
    for lower, width in itertools.product([-50.0, -8.0, -0.3, 0.0, 0.5, 7.5, 50.0], [1e-9, 9e-4, 1.1e-3, 0.1, 3.0]):
        upper = lower + width
        a, b = (mpf(lower), mpf(upper)) if lower > 0 else (-mpf(upper), -mpf(lower))
        exact = float(mp.log((erfc(a / sqrt(2)) - erfc(b / sqrt(2))) / 2))
        got = float(log_normal_cell(torch.tensor(lower, dtype=F64), torch.tensor(upper, dtype=F64)))
        # The edge itself is rounded: a width of 1e-9 at 50 is known to 7e-6 only in relative terms.
        assert got == pytest.approx(exact, abs=1e-10, rel=1e-11), (lower, width)
    assert float(log_normal_cell(torch.tensor(-math.inf), torch.tensor(math.inf))) == 0.0


def test_truncated_normal_stays_within_its_edges_and_has_the_right_quantiles() -> None:
    u = torch.tensor([0.01, 0.5, 0.99], dtype=F64)
    for lower, upper in [(-1.0, 2.0), (5.0, 5.5), (-math.inf, -9.0), (30.0, 31.0), (45.0, math.inf)]:
        a, b = torch.tensor(lower, dtype=F64), torch.tensor(upper, dtype=F64)
        x = truncated_normal(a, b, u)
        assert ((x >= a) & (x <= b)).all()
        share = (log_normal_cell(a.expand(3), x) - log_normal_cell(a, b)).exp()
        # Beyond 30 deviations the tail is taken as exponential: 1e-3 is its error.
        torch.testing.assert_close(share, u, atol=2e-3 if max(abs(lower), 0) >= 30 else 1e-9, rtol=0)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_simulated_cells_agree_with_the_multivariate_normal_cdf(d: int) -> None:
    mixture = some_mixture(d)
    x = torch.randn(4, d, generator=generator(2), dtype=F64).round()
    cells = cells_of(x, width=1.0)
    estimates = log_probs(mixture, layout(d, quantized=True), cells, draws(4, 4000, d)).exp()
    for row in range(4):
        exact = 0.0
        for k in range(2):
            part = multivariate_normal.cdf(
                cells.upper[row].numpy(),
                mixture.mean[k].numpy(),
                mixture.covariance[k].numpy(),
                maxpts=200_000,
                abseps=1e-8,
                releps=1e-7,
                lower_limit=cells.lower[row].numpy(),
            )
            exact += float(mixture.log_weight[k].exp()) * float(part)
        se = float(estimates[row].std() / math.sqrt(4000))
        # Twelve comparisons at 4.5 standard errors: false alarm below 1e-4. One cell has no Monte-Carlo error.
        assert float(estimates[row].mean()) == pytest.approx(exact, abs=4.5 * se + 1e-6)
        if d == 1:
            assert se < 1e-15


def test_a_row_mixing_densities_cells_and_holes_factorises_as_the_joint_says() -> None:
    mixture = some_mixture(3)
    one = Mixture(*(getattr(mixture, f)[:1] for f in ("log_weight", "mean", "covariance", "category")))
    one = Mixture(torch.zeros(1, dtype=F64), one.mean, one.covariance, one.category)
    cells = cells_of(torch.tensor([[0.4, torch.nan, 1.0]], dtype=F64), width=0.5)
    roles = Layout((False, False, True), (2, 1, 0), CategoryLayout(()))
    got = float(log_probs(one, roles, cells, draws(1, 1, 3))[0, 0])
    m, s = one.mean[0].numpy(), one.covariance[0].numpy()
    centre = m[2] + s[2, 0] / s[0, 0] * (0.4 - m[0])
    deviation = math.sqrt(s[2, 2] - s[2, 0] ** 2 / s[0, 0])
    inside = norm.cdf(1.25, centre, deviation) - norm.cdf(0.75, centre, deviation)
    assert got == pytest.approx(norm.logpdf(0.4, m[0], math.sqrt(s[0, 0])) + math.log(inside), abs=1e-10)


def test_log_probs_equal_scikit_learn_with_equal_parameters() -> None:
    mixture = some_mixture(3)
    other = SklearnMixture(2)
    other.weights_, other.means_ = mixture.log_weight.exp().numpy(), mixture.mean.numpy()
    other.covariances_ = mixture.covariance.numpy()
    other.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(other.covariances_))
    x = torch.randn(50, 3, generator=generator(), dtype=F64) * 3
    x[0] = 60.0  # underflows outside the log domain
    got = log_probs(mixture, layout(3), cells_of(x), draws(50, 1, 3))[:, 0]
    np.testing.assert_allclose(got.numpy(), other.score_samples(x.numpy()), rtol=1e-10)


@pytest.mark.parametrize("hole", [0, 1])
def test_a_marginal_with_a_hole_is_the_integral_of_the_joint(hole: int) -> None:
    mixture = some_mixture(2)
    line = torch.linspace(-25, 25, 20_001, dtype=F64)
    x = torch.full((len(line), 2), 0.7, dtype=F64)
    x[:, hole] = line
    joint = log_probs(mixture, layout(2), cells_of(x), draws(len(x), 1, 2))[:, 0].exp()
    x = torch.full((1, 2), 0.7, dtype=F64)
    x[0, hole] = torch.nan
    marginal = log_probs(mixture, layout(2), cells_of(x), draws(1, 1, 2))[0, 0].exp()
    assert float(torch.trapezoid(joint, line)) == pytest.approx(float(marginal), rel=1e-9)


def test_categories_and_numbers_share_the_component() -> None:
    mixture = some_mixture(1, sizes=(2, 3))
    roles = layout(1, sizes=(2, 3))
    states = torch.tensor(list(itertools.product(range(2), range(3))))
    at = cells_of(torch.full((6, 1), 0.2, dtype=F64), category=states)
    total = torch.logsumexp(log_probs(mixture, roles, at, draws(6, 1, 1))[:, 0], 0)
    holes = cells_of(torch.full((1, 1), 0.2, dtype=F64), category=torch.full((1, 2), -1))
    assert float(total) == pytest.approx(float(log_probs(mixture, roles, holes, draws(1, 1, 1))[0, 0]), abs=1e-12)
    by_hand = sum(
        math.exp(mixture.log_weight[k] + mixture.category[k, 1] + mixture.category[k, 2 + 2])
        * norm.pdf(0.2, float(mixture.mean[k, 0]), math.sqrt(mixture.covariance[k, 0, 0]))
        for k in range(2)
    )
    one = cells_of(torch.full((1, 1), 0.2, dtype=F64), category=torch.tensor([[1, 2]]))
    assert float(log_probs(mixture, roles, one, draws(1, 1, 1))[0, 0]) == pytest.approx(math.log(by_hand), abs=1e-12)


def test_conditional_draws_have_the_moments_of_the_conditional_gaussian() -> None:
    mixture = some_mixture(3)
    one = Mixture(torch.zeros(1, dtype=F64), mixture.mean[:1], mixture.covariance[:1], mixture.category[:1])
    x = torch.tensor([[0.5, torch.nan, -1.0]], dtype=F64).repeat(40_000, 1)
    filled, _ = draw_given(one, layout(3), cells_of(x), generator(3))
    s, m = one.covariance[0], one.mean[0]
    seen = [0, 2]
    slope = torch.linalg.solve(s[seen][:, seen], s[seen][:, [1]])[:, 0]
    centre = m[1] + slope @ (torch.tensor([0.5, -1.0], dtype=F64) - m[seen])
    variance = s[1, 1] - slope @ s[seen][:, 1]
    # Five standard errors.
    assert float(filled[:, 1].mean()) == pytest.approx(float(centre), abs=5 * math.sqrt(variance / 40_000))
    assert float(filled[:, 1].var()) == pytest.approx(float(variance), rel=5 * math.sqrt(2 / 40_000))
    assert torch.equal(filled[:, seen], x[:, seen])


def test_conditional_draws_given_a_wide_cell_weigh_the_cell_and_not_its_centre() -> None:
    """x1 = x0 + noise; x0 is only known to be positive: E[x1 | x0 > 0] = sqrt(2 / pi)."""
    cov = torch.tensor([[[1.0, 1.0], [1.0, 1.25]]], dtype=F64)
    one = Mixture(torch.zeros(1, dtype=F64), torch.zeros(1, 2, dtype=F64), cov, torch.zeros(1, 0, dtype=F64))
    cells = cells_of(torch.tensor([[50.0, torch.nan]], dtype=F64).repeat(20_000, 1), width=100.0)
    filled, _ = draw_given(one, Layout((True, False), (0, 1), CategoryLayout(())), cells, generator(4))
    assert float(filled[:, 1].mean()) == pytest.approx(math.sqrt(2 / math.pi), abs=0.03)


def test_em_never_lowers_its_objective_with_holes_cells_categories_prior_and_floor() -> None:
    g = generator(5)
    x = torch.randn(300, 3, generator=g, dtype=F64)
    x[:150] += 3
    x[torch.rand(300, 3, generator=g) < 0.2] = torch.nan
    x[:, 2] = x[:, 2].round()
    category = torch.randint(-1, 3, (300, 1), generator=g)
    cells = cells_of(x, width=1.0, category=category)
    roles = Layout((False, False, True), (2, 0, 1), CategoryLayout((3,)))
    start = some_mixture(3, sizes=(3,))
    eye = torch.eye(3, dtype=F64)
    for floor, rows in ((1e-4, 5.0), (0.5, 0.0)):
        prior = Prior(eye, rows, eye, floor, start.category[0], 1.0, torch.tensor([0.0, 0.0, 1 / 12], dtype=F64))
        _, history = run_em(start, roles, cells, prior, num_steps=40, tolerance=-1.0)
        steps = np.diff(history[1:])  # the first point need not satisfy the floor
        assert (steps > -1e-10).all()
        assert history[-1] > history[1]


def test_em_with_holes_recovers_a_gaussian_that_complete_rows_would_bias() -> None:
    """x1 is missing where x0 > 0: complete rows alone would place its mean at about -0.64."""
    g = generator(6)
    x = torch.randn(4000, 2, generator=g, dtype=F64)
    x[:, 1] = 0.8 * x[:, 0] + 0.6 * x[:, 1]
    x[x[:, 0] > 0, 1] = torch.nan
    fit = fit_gaussian(cells_of(x), layout(2), prior_rows=0.0)
    assert float(fit.mean[0, 1]) == pytest.approx(0.0, abs=0.1)
    assert float(fit.covariance[0, 0, 1]) == pytest.approx(0.8, abs=0.1)


def test_without_prior_the_gaussian_is_the_maximum_likelihood_fit() -> None:
    x = torch.randn(200, 4, generator=generator(), dtype=F64) @ torch.randn(4, 4, generator=generator(1), dtype=F64)
    fit = fit_gaussian(cells_of(x), layout(4), prior_rows=0.0)
    torch.testing.assert_close(fit.mean[0], x.mean(0))
    torch.testing.assert_close(fit.covariance[0], torch.cov(x.T, correction=0))


@pytest.mark.parametrize("rows", [1, 2, 10])
def test_the_gaussian_is_never_singular_with_fewer_rows_than_columns(rows: int) -> None:
    schema = schema_of(*(number(f"x{i}") for i in range(20)))
    g = generator(8)
    model = fitted(Gaussian, schema, batch_of(torch.randn(rows, 20, generator=g)))
    new = scores(model, batch_of(torch.randn(100, 20, generator=g))).values
    assert torch.isfinite(new).all()
    if rows == 10:
        # The true density gives -28.4 on average; a maximum-likelihood covariance of rank 9 gives astronomically less.
        assert float(new.mean()) > -45


def test_the_gaussian_on_its_own_data_reaches_the_known_optimum() -> None:
    g = generator(9)
    root = torch.tensor([[1.0, 0.0], [3.0, 0.5]], dtype=F64)
    x, new = ((torch.randn(n, 2, generator=g, dtype=F64) @ root.T) * 7 + 100 for n in (5000, 5000))
    model = fitted(Gaussian, schema_of(number("a"), number("b")), batch_of(x))
    truth = multivariate_normal([100.0, 100.0], (49 * root @ root.T).numpy()).logpdf(new.numpy())
    got = scores(model, batch_of(new)).values.numpy()
    assert model.likelihood_kind == "exact"
    # Five fitted numbers cost 5 / (2 n) = 0.0005 nats.
    assert float((truth - got).mean()) == pytest.approx(0.0005, abs=0.001)


def mixed_schema() -> tuple[object, object]:
    g = generator(10)
    k = torch.randint(0, 2, (600,), generator=g)
    x = torch.randn(600, generator=g, dtype=F64) + 3 * k
    count = torch.poisson(2.0 + 4 * k.double(), generator=g)
    other = torch.poisson(3.0 + 2 * k.double(), generator=g)
    amount = torch.where(torch.rand(600, generator=g) < 0.4, 0.0, torch.randn(600, generator=g).exp()).double()
    numeric = torch.stack([x, count, other, amount], 1)
    numeric[torch.rand(600, 4, generator=g) < 0.1] = torch.nan
    codes = torch.where(torch.rand(600, generator=g) < 0.1, -1, k)[:, None]
    schema = schema_of(
        number("x"),
        number("count", 1.0),
        number("other", 1.0),
        Column("amount", "mixed", atoms=(0.0,)),
        Column("k", "categorical", categories=("a", "b")),
    )
    return schema, batch_of(numeric, codes)


@pytest.mark.parametrize("kind", [Gaussian, GaussianMixture])
def test_mixed_rows_with_holes_are_scored_drawn_and_filled(kind: type) -> None:
    schema, batch = mixed_schema()
    model = fitted(kind, schema, batch, **({} if kind is Gaussian else {"num_components": 2}))
    part = scores(model, batch)
    assert model.likelihood_kind == "lower_bound"
    assert torch.isfinite(part.values).all()
    assert torch.isfinite(part.se).all()
    assert float(part.se.mean()) < 0.02, "a vector of two cells is cheap to simulate"
    assert (part.discrete <= 0).all()
    drawn = model.model_sample(2000, None, generator())
    assert not torch.isnan(drawn.numeric).any()
    assert torch.equal(drawn.numeric[:, 1], drawn.numeric[:, 1].round())
    assert float((drawn.numeric[:, 3] == 0).double().mean()) == pytest.approx(0.4, abs=0.06)
    filled = model.model_impute(batch, model.codec.encode(batch), 1, generator())[0]
    seen = ~torch.isnan(batch.numeric)
    assert torch.equal(filled.numeric[seen], batch.numeric[seen])
    assert not torch.isnan(filled.numeric).any()
    assert (filled.codes >= 0).all()
    if kind is GaussianMixture:
        # The hidden group is plain from x, count and other; most holes in its category are filled rightly.
        holes = (batch.codes[:, 0] == -1) & ~torch.isnan(batch.numeric[:, 0])
        right = (filled.codes[holes, 0] == (batch.numeric[holes, 0] > 1.5)).double().mean()
        assert float(right) > 0.75


def test_many_draws_of_a_row_follow_its_own_conditional_gaussian() -> None:
    schema = schema_of(number("x"), number("y"))
    x = torch.randn(4000, 1, generator=generator(), dtype=F64)
    y = 2 * x + 0.5 * torch.randn(4000, 1, generator=generator(1), dtype=F64)
    model = fitted(Gaussian, schema, batch_of(torch.cat([x, y], 1)))
    # two patterns of holes, more rows than one pass of several draws takes
    given = torch.tensor([[-1.0, torch.nan], [2.0, torch.nan], [torch.nan, 4.0]], dtype=F64).repeat(1500, 1)
    batch = batch_of(given)
    filled = model.model_impute(batch, model.codec.encode(batch), 5, generator())
    drawn = torch.stack([part.numeric for part in filled])  # (draws, rows, 2)
    slope = 2 / 4.25  # of x on y
    expected = [(1, -2.0, 0.5), (1, 4.0, 0.5), (0, 4 * slope, math.sqrt(1 - 4 / 4.25))]
    for row, (place, mean, deviation) in enumerate(expected):
        values = drawn[:, row::3, place].flatten()
        assert float(values.mean()) == pytest.approx(mean, abs=0.1)
        assert float(values.std()) == pytest.approx(deviation, rel=0.1)
    assert not torch.equal(drawn[0], drawn[1])


def test_one_quantized_column_is_exact_and_its_cells_sum_to_one() -> None:
    schema, batch = mixed_schema()
    schema = schema_of(schema.columns[0], schema.columns[1], schema.columns[4])
    batch = batch_of(batch.numeric[:, :2], batch.codes)
    model = fitted(GaussianMixture, schema, batch, num_components=3)
    assert model.likelihood_kind == "exact"
    grid = torch.arange(-200.0, 200.0)
    for x in (torch.nan, 0.7):
        numeric = torch.stack([torch.full_like(grid, x), grid], 1)
        part = scores(model, batch_of(numeric, torch.full((len(grid), 1), -1)), draws=1)
        alone = batch_of(torch.tensor([[x, torch.nan]]), torch.full((1, 1), -1))
        assert part.se is None
        total = float(torch.logsumexp(part.values, 0))
        assert total == pytest.approx(float(scores(model, alone).values[0]), abs=1e-9)


def test_two_clusters_are_found_and_the_number_of_components_is_chosen() -> None:
    g = generator(11)
    sign = torch.where(torch.rand(2000, 1, generator=g) < 0.5, -1.0, 1.0).double()
    x = torch.randn(2000, 2, generator=g, dtype=F64) + 4 * sign
    model = fitted(GaussianMixture, schema_of(number("a"), number("b")), batch_of(x[:1500]), refine=False)
    truth = torch.logsumexp(torch.stack([-(x[1500:] - 4 * s).square().sum(1) / 2 for s in (-1, 1)]), 0) - math.log(
        2 * 2 * math.pi
    )
    lost = (truth - scores(model, batch_of(x[1500:])).values).mean()
    assert model.state.mixture.num_components in (2, 4)
    assert float(lost) < 0.03


def test_gradient_steps_improve_what_em_left_within_coarse_cells() -> None:
    g = generator(12)
    x = (torch.randn(1500, 2, generator=g, dtype=F64) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]], dtype=F64)).mul(0.6)
    cells = cells_of(x.round(), width=1.0)
    roles = layout(2, quantized=True)
    start = fit_gaussian(cells, roles, prior_rows=0.0)
    prior = mixture_prior(start, roles, cells, 1, 1e-4)
    better = refine(start, roles, cells, cells, prior, num_epochs=20, lr=1e-2)
    # The latent covariance has 0.36 on the diagonal; EM, which spreads rows over cells of width one, is near 0.52.
    assert float(start.covariance[0, 0, 0]) > 0.45
    assert float(better.covariance[0, 0, 0]) < 0.42
    assert held_out_score(better, roles, cells, 0) > held_out_score(start, roles, cells, 0) + 0.01


def test_eigenvalues_below_the_floor_rise_to_it_and_no_others_change() -> None:
    least = torch.diag(torch.tensor([1.0, 4.0], dtype=F64))
    cov = torch.diag(torch.tensor([0.5, 9.0], dtype=F64))
    torch.testing.assert_close(raise_to_floor(cov[None], least)[0], torch.diag(torch.tensor([1.0, 9.0], dtype=F64)))


def test_samples_have_the_moments_of_the_mixture() -> None:
    mixture = some_mixture(2, sizes=(3,))
    x, category = draw_rows(mixture, layout(2, sizes=(3,)), 50_000, generator(13))
    w = mixture.log_weight.exp()
    mean = w @ mixture.mean
    second = (w[:, None, None] * (mixture.covariance + mixture.mean[:, :, None] * mixture.mean[:, None, :])).sum(0)
    cov = second - mean[:, None] * mean
    assert ((x.mean(0) - mean).abs() < 5 * (cov.diagonal() / 50_000).sqrt()).all()
    torch.testing.assert_close(torch.cov(x.T), cov, rtol=0.05, atol=0.03)
    p = w @ mixture.category.exp()
    found = torch.bincount(category[:, 0], minlength=3) / 50_000
    assert ((found - p).abs() < 5 * (p * (1 - p) / 50_000).sqrt()).all()


@pytest.mark.parametrize(("factor", "tolerance"), [(1024.0, 1e-9), (1000.0, 1e-6)])
@pytest.mark.parametrize("kind", [Gaussian, GaussianMixture])
def test_units_shift_densities_by_the_log_of_the_factor(kind: type, factor: float, tolerance: float) -> None:
    schema, batch = mixed_schema()
    options = {} if kind is Gaussian else {"num_components": 2}
    scaled = schema_of(
        number("x"),
        number("count", factor),
        number("other", factor),
        Column("amount", "mixed", atoms=(0.0,)),
        Column("k", "categorical", categories=("a", "b")),
    )
    base = scores(fitted(kind, schema, batch, **options), batch).values
    moved = batch.with_values(numeric=batch.numeric * factor)
    other = scores(fitted(kind, scaled, moved, **options), moved).values
    densities = (~torch.isnan(batch.numeric[:, 0])).double() + (batch.numeric[:, 3] > 0).double()
    torch.testing.assert_close(other - base, -densities * math.log(factor), atol=tolerance, rtol=0)


def test_a_saved_state_scores_and_draws_the_same_whatever_the_number_of_components() -> None:
    schema, batch = mixed_schema()
    model = fitted(GaussianMixture, schema, batch, max_components=4, refine=False)
    again = GaussianMixture(schema=schema.to_dict(), max_components=4, refine=False)
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(scores(again, batch).values, scores(model, batch).values, atol=0, rtol=0)
    torch.testing.assert_close(
        again.model_sample(10, None, generator()).numeric, model.model_sample(10, None, generator()).numeric
    )


def test_row_order_does_not_change_simulated_numbers() -> None:
    schema, batch = mixed_schema()
    model = fitted(Gaussian, schema, batch)
    order = torch.randperm(len(batch), generator=generator())
    whole = scores(model, batch).values
    torch.testing.assert_close(scores(model, batch.select(order)).values, whole[order], atol=1e-10, rtol=0)


def test_a_table_of_categories_only_becomes_a_latent_class_model() -> None:
    g = generator(14)
    k = torch.randint(0, 2, (800,), generator=g)
    codes = torch.where(torch.rand(800, 3, generator=g) < 0.9, k[:, None], 1 - k[:, None])
    schema = schema_of(*(Column(n, "binary", categories=("n", "y"), closed=True) for n in "abc"))
    batch = batch_of(torch.zeros(800, 0), codes)
    one, two = (fitted(GaussianMixture, schema, batch, num_components=n) for n in (1, 2))
    states = batch_of(torch.zeros(8, 0), torch.tensor(list(itertools.product(range(2), repeat=3))))
    for model in (one, two):
        assert float(scores(model, states).values.exp().sum()) == pytest.approx(1.0, abs=1e-12)
    gain = float((scores(two, batch).values - scores(one, batch).values).mean())
    # Independent bits have 3 log 2 = 2.08 nats; these rows have an entropy of 1.646, reached by two classes.
    assert gain > 0.42


def test_wrong_options_are_refused_by_name() -> None:
    plain = schema_of(number("x")).to_dict()
    with pytest.raises(ValueError, match="num_components must be at least 1"):
        GaussianMixture(schema=plain, num_components=0)
    with pytest.raises(ValueError, match="floor must be at least"):
        GaussianMixture(schema=plain, floor=0.0)
    with pytest.raises(ValueError, match="prior_rows must not be negative"):
        Gaussian(schema=plain, prior_rows=-1)


def test_batches_are_joined_in_order() -> None:
    schema, batch = mixed_schema()
    model = fitted(Gaussian, schema, batch)
    parts = [model.codec.encode(batch.select(slice(i, i + 200))) for i in (0, 200, 400)]
    assert torch.equal(concatenate(parts).number, model.codec.encode(batch).number)
    assert layout_of(model.codec.numbers, model.codec.categories).quantized == (False, True, True, False)


@pytest.mark.parametrize("kind", [Independent, Gaussian, GaussianMixture])
@pytest.mark.parametrize("names", [("empty",), ("empty", "full"), ("full", "empty")])
def test_a_column_without_known_categories_adds_nothing_and_stays_a_hole(kind: type, names: tuple[str, ...]) -> None:
    columns = {"full": Column("full", "categorical", categories=("a", "b")), "empty": Column("empty", "categorical")}
    schema = schema_of(number("x"), *(columns[name] for name in names))
    numeric = torch.randn(60, 1, generator=generator(), dtype=F64)
    codes = torch.stack([torch.arange(60) % 2 if name == "full" else torch.full((60,), -1) for name in names], 1)
    batch = batch_of(numeric, codes)
    model = fitted(kind, schema, batch)
    without = fitted(
        kind,
        schema_of(number("x"), *(columns[name] for name in names if name == "full")),
        batch_of(numeric, codes[:, [name == "full" for name in names]]),
    )
    assert torch.allclose(scores(model, batch).values, scores(without, batch_of(numeric, without_empty(codes))).values)
    unseen = batch_of(numeric, torch.where(codes < 0, -2, codes))
    gap = scores(model, unseen).values - scores(model, batch).values
    assert torch.allclose(gap, torch.full_like(gap, math.log(schema.epsilon)))
    drawn = model.model_sample(5, None, generator())
    filled = model.model_impute(batch, model.codec.encode(batch), 1, generator())[0]
    for part in (drawn, filled):
        assert (part.codes[:, names.index("empty")] == -1).all()


def without_empty(codes: Tensor) -> Tensor:
    return codes[:, (codes >= 0).any(0)]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"missing": "value"}, "exact"),
        ({"atoms": (-1.0,)}, "exact"),
        ({"atoms": (0.0,)}, "lower_bound"),
    ],
)
def test_atoms_that_no_cell_shares_leave_one_quantized_column_exact(changes: dict[str, object], kind: str) -> None:
    column = number("x", 1.0, lower=0.0, upper=5.0, **changes)
    x = torch.arange(120, dtype=F64).remainder(6)
    x[::4] = math.nan if "missing" in changes else changes["atoms"][0]
    model = fitted(Gaussian, schema_of(column), batch_of(x[:, None]))
    assert model.likelihood_kind == kind
    states = sorted({*range(6), *([] if "missing" in changes else changes["atoms"])})
    total = float(scores(model, batch_of(torch.tensor(states, dtype=F64)[:, None])).values.exp().sum())
    if "missing" in changes:
        total += float(scores(model, batch_of(torch.tensor([[math.nan]]))).values.exp())
    assert total == pytest.approx(1.0, abs=1e-9) if kind == "exact" else total < 1 - 1e-3
