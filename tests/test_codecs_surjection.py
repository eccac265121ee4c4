"""The learned dense view: supports, densities, and bounds that sum to one over all states of a table."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from codec_tables import tables
from hypothesis import assume, given, settings
from torch import Tensor

from genzoo.codecs import Surjection, VectorCodec
from genzoo.codecs.base import Cells
from genzoo.codecs.thresholds import gumbel_threshold, into_cell, logistic, sign_threshold, softplus_threshold
from genzoo.tables.batch import HOLE, TableBatch
from genzoo.tables.schema import Column, Schema

DIGITS = tuple("abcdefghijklmnopqrstuvwxyz")


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=_generator(seed), dtype=torch.float64)


def _table(schema: Schema, rows: int = 400, seed: int = 0) -> TableBatch:
    """Rows that fit the schema, without holes."""
    g = _generator(seed)
    numbers = [torch.randn(rows, generator=g, dtype=torch.float64) * 2 + 1 for _ in schema.numeric]
    for index, column in enumerate(schema.numeric):
        x = numbers[index]
        if column.kind == "quantized" and column.step:
            x = column.origin + column.step * ((x - column.origin) / column.step).round()
            x = x.clamp(
                -math.inf if column.lower is None else column.lower, math.inf if column.upper is None else column.upper
            )
        if column.atoms:
            x = torch.where(torch.rand(rows, generator=g) < 0.3, column.atoms[0], x)
        numbers[index] = x
    codes = [torch.randint(0, max(c.num_categories, 1), (rows,), generator=g) for c in schema.categorical]
    numeric = torch.stack(numbers, 1) if numbers else torch.zeros(rows, 0, dtype=torch.float64)
    return TableBatch(
        numeric, torch.stack(codes, 1) if codes else torch.zeros(rows, 0, dtype=torch.int64), torch.arange(rows)
    )


def _fitted(schema: Schema) -> VectorCodec:
    codec = VectorCodec(schema)
    codec.fit(_table(schema))
    return codec


def _surjection(codec: VectorCodec, seed: int = 0, **options: object) -> Surjection:
    """In float64, with an encoder far from its start, so that q depends on the cells."""
    torch.manual_seed(seed)
    surjection = Surjection(codec, hidden=16, **options).double()  # type: ignore[arg-type]
    with torch.no_grad():
        surjection.encoder[-1].weight.normal_(0, 0.3)  # type: ignore[union-attr,operator]
        surjection.encoder[-1].bias[: surjection.num_features].normal_(0, 0.3)  # type: ignore[union-attr,index]
    return surjection


def _correlated(num_features: int) -> torch.distributions.MultivariateNormal:
    """A fixed density of R^D that is not a product."""
    mix = torch.eye(num_features, dtype=torch.float64) + 0.3 * _normal(num_features, num_features, seed=5)
    mean = 0.4 * _normal(num_features, seed=6)
    return torch.distributions.MultivariateNormal(mean, mix @ mix.T + 0.2 * torch.eye(num_features))


def _gumbels(num_features: int) -> torch.distributions.Distribution:
    """Independent Gumbels: the density that Gumbel thresholding has tails for."""
    location = 0.5 * _normal(num_features, seed=6)
    return torch.distributions.Independent(torch.distributions.Gumbel(location, torch.ones_like(location)), 1)


def test_gumbel_thresholds_of_the_same_gumbels_give_the_softmax_for_every_draw() -> None:
    phi = _normal(7, seed=1)
    for category in range(7):
        a = 4 * _normal(500, 7, seed=2)
        v, log_q = gumbel_threshold(phi.expand(500, 7), torch.full((500,), category), a)
        log_p = (phi - v - (phi - v).exp()).sum(1)
        assert torch.allclose(log_p - log_q, torch.log_softmax(phi, 0)[category].expand(500), atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("gumbel", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_wanted_category_is_the_largest_in_every_one_of_1e5_draws(dtype: torch.dtype, gumbel: bool) -> None:
    category = torch.randint(0, 5, (100_000,), generator=_generator(3))
    a = (8 * _normal(100_000, 5, seed=4)).to(dtype)
    v, log_q = gumbel_threshold(torch.zeros_like(a), category, a) if gumbel else softplus_threshold(category, a)
    assert torch.equal(v.argmax(1), category)
    assert (v == v.max(1, keepdim=True).values).sum() == 100_000, "no ties"
    assert torch.isfinite(log_q).all()


def test_gumbel_density_is_the_jacobian_that_autograd_finds() -> None:
    a = _normal(3, seed=7)
    for category in range(3):
        phi = _normal(3, seed=8)

        def draw(a: Tensor, phi: Tensor = phi, category: int = category) -> Tensor:
            return gumbel_threshold(phi, torch.tensor(category), a)[0]

        jacobian = torch.autograd.functional.jacobian(draw, a)
        log_uniform = (torch.nn.functional.logsigmoid(a) + torch.nn.functional.logsigmoid(-a)).sum()
        expected = log_uniform - torch.linalg.slogdet(jacobian)[1]
        assert torch.allclose(gumbel_threshold(phi, torch.tensor(category), a)[1], expected, atol=1e-10)


def test_softplus_volume_is_the_jacobian_that_autograd_finds() -> None:
    u = 2 * _normal(4, seed=11)
    for category in range(4):
        chosen = torch.tensor(category)
        jacobian = torch.autograd.functional.jacobian(lambda u, chosen=chosen: softplus_threshold(chosen, u)[0], u)
        assert torch.allclose(softplus_threshold(chosen, u)[1], torch.linalg.slogdet(jacobian)[1], atol=1e-10)


def test_logistic_numbers_have_the_density_they_say() -> None:
    noise = torch.linspace(-7, 7, 101, dtype=torch.float64, requires_grad=True)
    assert torch.isfinite(logistic(torch.linspace(-12, 12, 101))[0]).all(), "float32 too"
    value, log_density = logistic(noise)
    (slope,) = torch.autograd.grad(value.sum(), noise)
    expected = -noise.square() / 2 - 0.5 * math.log(2 * math.pi) - slope.log()
    assert torch.allclose(log_density, expected, atol=1e-9)
    assert torch.allclose(value.sigmoid(), torch.special.ndtr(noise), rtol=1e-12)


@pytest.mark.parametrize("lower", [-math.inf, -0.3])
@pytest.mark.parametrize("upper", [math.inf, 1.2])
def test_points_of_a_cell_lie_inside_and_their_slope_is_autograds(lower: float, upper: float) -> None:
    a = (3 * _normal(50, seed=9)).requires_grad_()
    low, high = torch.full((50,), lower, dtype=torch.float64), torch.full((50,), upper, dtype=torch.float64)
    y, log_slope = into_cell(low, high, torch.full_like(low, 1.5), a)
    (slope,) = torch.autograd.grad(y.sum(), a)
    assert ((y > lower) & (y < upper)).all()
    assert torch.allclose(slope.abs().log(), log_slope, atol=1e-9)


def test_signs_are_as_wanted_and_their_slope_is_autograds() -> None:
    a = (3 * _normal(60, seed=10)).requires_grad_()
    positive = torch.arange(60) % 2 == 0
    v, log_slope = sign_threshold(positive, a)
    (slope,) = torch.autograd.grad(v.sum(), a)
    assert torch.equal(v > 0, positive)
    assert torch.allclose(slope.abs().log(), log_slope, atol=1e-9)


def _categorical(name: str, size: int) -> Column:
    return Column(name, "categorical", categories=tuple(f"v{i}" for i in range(size)))


TINY = {
    "direct and sign": Schema((_categorical("a", 3), _categorical("b", 2))),
    "bounded grid": Schema(
        (_categorical("a", 2), Column("q", "quantized", step=1.0, lower=0.0, upper=2.0), _categorical("c", 4))
    ),
    "grid with an atom": Schema(
        (_categorical("a", 2), Column("q", "quantized", step=1.0, lower=0.0, upper=2.0, missing="value"))
    ),
    "one cell": Schema((Column("q", "quantized", step=1.0, lower=0.0, upper=0.0), _categorical("a", 3))),
}


def _states(schema: Schema, observed: tuple[bool, ...]) -> TableBatch:
    """All states of the observed columns; holes elsewhere."""
    options: list[list[float]] = []
    for column, seen in zip(schema.columns, observed, strict=True):
        if column.is_categorical:
            options.append(list(range(column.num_categories)) if seen else [HOLE])
        else:
            grid = [float(k) for k in range(int(column.upper or 0) + 1)]
            missing = [math.nan] if column.missing == "value" else []
            options.append(grid + missing if seen else [math.nan])
    states = list(itertools.product(*options))
    numeric = [[s for s, c in zip(state, schema.columns, strict=True) if c.is_numeric] for state in states]
    codes = [[int(s) for s, c in zip(state, schema.columns, strict=True) if c.is_categorical] for state in states]
    return TableBatch(
        torch.tensor(numeric, dtype=torch.float64).reshape(len(states), -1),
        torch.tensor(codes).reshape(len(states), -1),
        torch.arange(len(states)),
    )


def _probabilities(
    surjection: Surjection, cells: Cells, draws: int, density: torch.distributions.Distribution
) -> tuple[Tensor, Tensor]:
    """Importance-weighted probability of each row under a fixed density, and its standard error."""
    with torch.no_grad():
        noise = _normal(len(cells) * draws, surjection.noise_width)
        y, log_q = surjection(cells.repeat(draws), noise)
        weight = (density.log_prob(y) - log_q).exp().reshape(len(cells), draws)
    return weight.mean(1), weight.std(1) / draws**0.5


CASES = [
    *((name, dequantise, "softplus") for name in sorted(TINY) for dequantise in ("variational", "uniform")),
    ("direct and sign", "variational", "gumbel"),
    ("one cell", "variational", "gumbel"),
    ("direct and sign", "variational", "gumbel_threshold"),
    ("one cell", "variational", "gumbel_threshold"),
]


@pytest.mark.parametrize("name, dequantise, threshold", CASES)
def test_estimated_probabilities_sum_to_one_for_every_pattern_of_holes(
    name: str, dequantise: str, threshold: str
) -> None:
    schema = TINY[name]
    codec = _fitted(schema)
    surjection = _surjection(codec, dequantise=dequantise, threshold=threshold)
    density = _correlated if threshold == "softplus" else _gumbels
    missing_is_a_value = [c.missing == "value" for c in schema.columns]
    for observed in itertools.product([True, False], repeat=len(schema.columns)):
        if any(value and not seen for value, seen in zip(missing_is_a_value, observed, strict=True)):
            continue  # there is no hole in such a column
        cells = codec.encode(_states(schema, observed))
        probability, error = _probabilities(surjection, cells, 8000, density(surjection.num_features))
        total, total_error = float(probability.sum()), float(error.square().sum().sqrt())
        assert total_error < 0.06
        assert abs(total - 1) < 5 * total_error + 1e-9, (observed, total, total_error)


def test_bits_sum_to_the_mass_of_valid_codes_and_to_the_product_of_signs() -> None:
    schema = Schema((_categorical("a", 5),))
    codec = _fitted(schema)
    surjection = _surjection(codec, max_direct=2)
    assert surjection.num_features == 3
    mean = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)
    noise = _normal(5 * 40_000, 3, seed=1)
    with torch.no_grad():
        y, log_q = surjection(codec.encode(_states(schema, (True,))).repeat(40_000), noise)
    weight = (-(y - mean).square() / 2 - 0.5 * math.log(2 * math.pi)).sum(1).sub(log_q).exp().reshape(5, -1)
    for code in range(5):
        signs = torch.tensor([2 * (code >> place & 1) - 1 for place in (2, 1, 0)])
        exact = float(torch.special.ndtr(signs * mean).prod())
        assert abs(float(weight[code].mean()) - exact) < 5 * float(weight[code].std()) / 200


def test_the_bound_is_below_and_importance_weighting_tightens_it() -> None:
    schema = TINY["direct and sign"]
    codec = _fitted(schema)
    surjection = _surjection(codec)
    density = _correlated(surjection.num_features)
    _, truth = surjection.decode(density.sample((400_000,)))
    cells = codec.encode(_states(schema, (True, True)))
    with torch.no_grad():
        y, log_q = surjection(cells.repeat(4000), _normal(len(cells) * 4000, surjection.noise_width))
        log_weight = (density.log_prob(y) - log_q).reshape(len(cells), 4000)
    blocks = log_weight.reshape(len(cells), 40, 100).logsumexp(2) - math.log(100)
    iwbo, error = blocks.mean(1), blocks.std(1) / 40**0.5
    elbo = log_weight.mean(1)
    for row in range(len(cells)):
        exact = math.log(float((truth == cells.category[row]).all(1).double().mean()))
        assert elbo[row] + 0.1 < iwbo[row] < exact + 4 * error[row] + 0.01
        assert iwbo[row] > exact - 0.1


def test_complete_continuous_rows_pass_through_exactly() -> None:
    schema = Schema((Column("x", "continuous"), Column("y", "continuous")))
    codec = _fitted(schema)
    surjection = Surjection(codec).double()
    cells = codec.encode(_table(schema))
    y, log_q = surjection(cells, _normal(len(cells), surjection.noise_width))
    assert torch.equal(y, cells.number)
    assert torch.equal(log_q, torch.zeros(len(cells), dtype=torch.float64))
    y.sum().backward()
    assert all(p.grad is not None for p in surjection.parameters())


def test_a_hole_of_a_correlated_normal_leaves_the_exact_marginal_in_the_mean() -> None:
    schema = Schema((Column("x", "continuous"), Column("y", "continuous")))
    codec = _fitted(schema)
    surjection = _surjection(codec)
    batch = _table(schema, 3)
    cells = codec.encode(batch.with_values(numeric=batch.numeric * torch.tensor([1.0, math.nan])))
    density = _correlated(2)
    probability, error = _probabilities(surjection, cells, 40_000, density)
    marginal = torch.distributions.Normal(density.mean[0], density.covariance_matrix[0, 0].sqrt())
    exact = marginal.log_prob(cells.number[:, 0]).exp()
    assert ((probability - exact).abs() < 5 * error).all()
    assert (error < 0.02 * exact).all()


MIXED = Schema(
    (
        Column("x", "continuous"),
        Column("m", "mixed", atoms=(0.0,)),
        _categorical("one", 1),
        _categorical("two", 2),
        Column("q", "quantized", step=0.5, origin=0.25),
        _categorical("six", 6),
        Column("n", "quantized", step=1.0, atoms=(0.0,), lower=0.0, missing="value"),
        _categorical("many", 21),
        Column("given", "continuous", role="context"),
    )
)


def _with_holes(batch: TableBatch, seed: int = 3) -> TableBatch:
    g = _generator(seed)
    numeric = torch.where(torch.rand(batch.numeric.shape, generator=g) < 0.2, math.nan, batch.numeric)
    codes = torch.where(torch.rand(batch.codes.shape, generator=g) < 0.2, HOLE, batch.codes)
    return batch.with_values(numeric, codes)


@pytest.mark.parametrize(
    "dequantise, threshold",
    [("variational", "gumbel"), ("variational", "gumbel_threshold"), ("uniform", "softplus")],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_observed_comes_back_from_the_dense_view(dequantise: str, threshold: str, dtype: torch.dtype) -> None:
    codec = _fitted(MIXED)
    surjection = _surjection(codec, dequantise=dequantise, threshold=threshold).to(dtype)
    cells = codec.encode(_with_holes(_table(MIXED)))
    y, log_q = surjection(cells, _normal(len(cells), surjection.noise_width))
    assert y.dtype == dtype
    assert y.shape == (len(cells), surjection.num_features)
    assert log_q.dtype == torch.float64
    assert torch.isfinite(y).all()
    assert torch.isfinite(log_q).all()
    number, category = surjection.decode(y)
    known = cells.category >= 0
    assert torch.equal(category[known], cells.category[known])
    assert not surjection.invalid(y)[known].any()
    snapped = codec.snap(number)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert torch.allclose(snapped[cells.present], cells.number[cells.present], atol=tolerance, rtol=tolerance)
    log_q.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in surjection.parameters() if p.grad is not None)


@settings(max_examples=40)
@given(tables())
def test_the_dense_view_of_any_table_is_finite_in_float32_and_decodes_to_its_cells(
    table: tuple[Schema, TableBatch],
) -> None:
    schema, batch = table
    codec = VectorCodec(schema)
    codec.fit(batch)
    assume(codec.numbers or any(slot.num_categories > 1 for slot in codec.categories))
    surjection = Surjection(codec, hidden=8)
    cells = codec.encode(batch)
    y, log_q = surjection(cells, 2 * _normal(len(cells), surjection.noise_width))
    assert torch.isfinite(y).all()
    assert torch.isfinite(log_q).all()
    category = surjection.decode(y)[1]
    known = cells.category >= 0
    assert torch.equal(category[known], cells.category[known])


def test_codes_of_no_category_become_the_nearest_valid_one_and_are_told() -> None:
    schema = Schema((_categorical("many", 21),))
    surjection = Surjection(_fitted(schema))
    y = torch.tensor([[2.0, 3.0, -0.1, 1.0, 1.0], [2.0, -3.0, 1.0, -1.0, -1.0]])  # codes 27 and 20
    assert surjection.invalid(y)[:, 0].tolist() == [True, False]
    category = surjection.decode(y)[1][:, 0].tolist()
    signs = [2 * ((torch.arange(21) >> place) & 1) - 1 for place in (4, 3, 2, 1, 0)]
    best = sum(float(v) * s for v, s in zip(y[0], signs, strict=True))
    assert category == [int(torch.as_tensor(best).argmax()), 20]


def test_noise_of_one_row_changes_no_other_row() -> None:
    codec = _fitted(MIXED)
    surjection = _surjection(codec)
    cells = codec.encode(_with_holes(_table(MIXED)))
    noise = _normal(len(cells), surjection.noise_width)
    y, log_q = surjection(cells, noise)
    part, log_part = surjection(cells.select(slice(10, 20)), noise[10:20])
    assert torch.allclose(part, y[10:20], atol=1e-12)
    assert torch.allclose(log_part, log_q[10:20], atol=1e-12)


def test_the_dense_view_joins_a_checkpoint_without_copying_the_codec() -> None:
    codec = _fitted(MIXED)
    state = Surjection(codec, hidden=16).state_dict()
    assert set(state) == {"embedding.weight"} | {f"encoder.{i}.{k}" for i in (0, 2, 4) for k in ("weight", "bias")}
    other = _surjection(codec, seed=9)
    other.load_state_dict(state)


def test_unknown_options_are_refused() -> None:
    codec = _fitted(MIXED)
    with pytest.raises(ValueError, match="dequantise must be"):
        Surjection(codec, dequantise="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threshold must be"):
        Surjection(codec, threshold="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_direct"):
        Surjection(codec, max_direct=1)
