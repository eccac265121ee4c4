"""Column scales: derivatives, inverses, tails, units, and the choice that ``auto`` makes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from genzoo.codecs import ColumnScaler
from genzoo.codecs.cell_knots import cell_knots
from genzoo.codecs.scaler_fit import AFFINE, QUANTILE, ScalerFit, apply, fit_column
from genzoo.errors import SchemaError

ROWS = 800


def _normal(rows: int = ROWS, seed: int = 0) -> Tensor:
    return torch.randn(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _uniform(rows: int = ROWS, seed: int = 0) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _cauchy(seed: int = 1) -> Tensor:
    return torch.tan(math.pi * (_uniform(seed=seed) - 0.5))


def _tied(seed: int = 0) -> Tensor:
    """Even numbers up to 20,000 on a grid of step 2; seven in ten rows hold one of thirty of them."""
    g = torch.Generator().manual_seed(seed)
    few = 2.0 * torch.randint(0, 10_000, (30,), generator=g).double()
    often = few[torch.randint(0, 30, (ROWS,), generator=g)]
    return torch.where(_uniform(seed=seed + 1) < 0.7, often, 2.0 * (10_000 * _uniform(seed=seed + 2)).floor())


#           name           choice         lower  upper  step  values
COLUMNS = [
    ("plain", "standardise", None, None, 0.0, 3 * _normal(seed=1) + 7),
    ("robust", "robust", None, None, 0.0, _cauchy()),
    ("tails", "asinh", None, None, 0.0, 5 * _cauchy(2) - 2),
    ("positive", "log", 0.0, None, 0.0, (2 * _normal(seed=3)).exp()),
    ("negative", "log", None, -1.0, 0.0, -1 - _normal(seed=4).exp()),
    ("share", "logit", 2.0, 5.0, 0.0, 2 + 3 * _normal(seed=5).sigmoid()),
    ("knots", "quantile", None, None, 0.0, (3 * _normal(seed=6)).exp()),
    ("bent", "quantile", 0.0, None, 0.0, (3 * _normal(seed=7)).exp()),
    ("bent share", "asinh", 0.0, 1.0, 0.0, _uniform(seed=8).clamp(1e-12, 1 - 1e-12)),
    ("grid", "quantile", None, None, 1.0, (2 * _normal(seed=9)).exp().floor()),
    ("grid plain", "auto", None, None, 0.5, (4 * _normal(seed=10)).round() / 2),
    ("cells", "cells", None, None, 2.0, _tied(seed=11)),
]
NAMES = [c[0] for c in COLUMNS]


def _scaler(factor: float = 1.0, num_knots: int = 64) -> ColumnScaler:
    def scaled(bounds: list[float | None]) -> list[float | None]:
        return [None if b is None else factor * b for b in bounds]

    scaler = ColumnScaler(
        NAMES,
        [c[1] for c in COLUMNS],
        scaled([c[2] for c in COLUMNS]),
        scaled([c[3] for c in COLUMNS]),
        [factor * c[4] for c in COLUMNS],
        num_knots,
    )
    scaler.fit([factor * c[5] for c in COLUMNS])
    return scaler


def _values(factor: float = 1.0) -> Tensor:
    return factor * torch.stack([c[5] for c in COLUMNS], 1)


def _spread_out() -> Tensor:
    """Points inside each column's support, far beyond the training rows on both sides."""
    far = torch.cat([-torch.logspace(-6, 6, 40, dtype=torch.float64), torch.logspace(-6, 6, 40, dtype=torch.float64)])
    one_sided = torch.logspace(-6, 6, 80, dtype=torch.float64)
    columns = []
    for _, _, lower, upper, _, values in COLUMNS:
        if lower is not None and upper is not None:
            columns.append(lower + (upper - lower) * torch.sigmoid(far.asinh()))
        elif lower is not None:
            columns.append(lower + one_sided)
        elif upper is not None:
            columns.append(upper - one_sided)
        else:
            columns.append(values.median() + far)
    return torch.stack(columns, 1)


def test_log_derivative_is_autograds_also_far_outside_the_training_rows() -> None:
    scaler = _scaler()
    for x in (_values(), _spread_out()):
        x = x.clone().requires_grad_()
        z, log_slope = scaler(x)
        (slope,) = torch.autograd.grad(z.sum(), x)
        assert torch.isfinite(z).all()
        assert (slope > 0).all()
        assert torch.allclose(slope.log(), log_slope, atol=1e-9)


def test_inverse_brings_every_value_back() -> None:
    scaler = _scaler()
    for x in (_values(), _spread_out()):
        back = scaler.inverse(scaler(x)[0])
        # Relative to the distance that matters: from the middle of the column.
        size = (x - scaler.anchor).abs() + x.abs()
        assert ((back - x).abs() <= 1e-9 * size).all(), dict(zip(NAMES, ((back - x).abs() / size).amax(0).tolist()))


def test_maps_are_strictly_increasing_over_the_whole_support() -> None:
    x = _spread_out().sort(0).values
    z = _scaler()(x)[0]
    assert (z.diff(dim=0) > 0).all()


def test_numbers_and_their_subset_of_columns_agree() -> None:
    scaler = _scaler()
    columns = torch.tensor([6, 2, 5, 5, 0])
    z, slope = scaler(_values())
    part, part_slope = scaler(_values()[:, columns], columns)
    assert torch.equal(part, z[:, columns])
    assert torch.equal(part_slope, slope[:, columns])
    assert torch.equal(scaler.inverse(part, columns), scaler.inverse(z)[:, columns])


@pytest.mark.parametrize("name", ["plain", "positive", "negative", "share", "knots", "bent", "bent share"])
def test_training_values_are_nearly_standard_afterwards(name: str) -> None:
    z = _scaler()(_values())[0][:, NAMES.index(name)]
    assert abs(float(z.mean())) < 0.05
    assert abs(float(z.std()) - 1) < 0.05


@pytest.mark.parametrize("name", ["knots", "bent", "tails", "positive", "share"])
def test_a_standard_normal_behind_the_map_integrates_to_one(name: str) -> None:
    scaler, index = _scaler(), torch.tensor([NAMES.index(name)])
    # Between points of equal steps in z, the density in x times dx sums to the normal mass between them.
    z = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None]
    edges = scaler.inverse(z, index)[:, 0]
    middle = ((edges[1:] + edges[:-1]) / 2)[:, None]
    at, log_slope = scaler(middle, index)
    density = (-at.square() / 2 - 0.5 * math.log(2 * math.pi) + log_slope).exp()[:, 0]
    assert abs(float((density * edges.diff()).sum()) - 1) < 1e-3  # a step that holds a knot mixes two slopes


def test_quantile_tails_go_on_with_mass_beyond_the_extreme_knots() -> None:
    scaler, index = _scaler(), torch.tensor([NAMES.index("knots")])
    count = int(scaler.knot_count[index])
    assert 2 <= count <= 64
    for side in (-1.0, 1.0):
        x = scaler.inverse(torch.tensor([[side * 5.0], [side * 50.0], [side * 500.0]], dtype=torch.float64), index)
        assert torch.isfinite(x).all()
        z, log_slope = scaler(x, index)
        assert torch.isfinite(log_slope).all()
        assert torch.allclose(z.flatten(), side * torch.tensor([5.0, 50.0, 500.0], dtype=torch.float64))


def test_units_in_powers_of_two_change_no_bit_of_the_scaled_values() -> None:
    for factor in (1024.0, 2.0**-30):
        z, slope = _scaler()(_values())
        scaled, scaled_slope = _scaler(factor)(_values(factor))
        assert torch.equal(scaled, z)
        assert torch.allclose(scaled_slope, slope - math.log(factor), atol=1e-12)


def test_other_units_change_scaled_values_by_rounding_only() -> None:
    z, slope = _scaler()(_values())
    scaled, scaled_slope = _scaler(1000.0)(_values(1000.0))
    assert torch.allclose(scaled, z, rtol=1e-12, atol=1e-12)
    assert torch.allclose(scaled_slope, slope - math.log(1000), rtol=1e-12, atol=1e-11)


def test_a_value_on_a_declared_bound_has_a_finite_place_and_slope() -> None:
    scaler = _scaler()
    for name, bound in (("positive", 0.0), ("negative", -1.0), ("share", 2.0), ("share", 5.0), ("bent", 0.0)):
        index = torch.tensor([NAMES.index(name)])
        z, log_slope = scaler(torch.tensor([[bound]], dtype=torch.float64), index)
        assert torch.isfinite(z).all()
        assert torch.isfinite(log_slope).all()
        inside = COLUMNS[int(index)][5]
        extreme = scaler((inside[(inside - bound).abs().argmin()])[None, None], index)[0]
        assert torch.sign(extreme - z) == (-1 if name == "negative" or bound == 5.0 else 1)


def test_buffers_keep_their_shape_whatever_was_fitted() -> None:
    fresh = ColumnScaler(
        NAMES, [c[1] for c in COLUMNS], [c[2] for c in COLUMNS], [c[3] for c in COLUMNS], [c[4] for c in COLUMNS], 64
    )
    fitted = _scaler()
    state = fitted.state_dict()
    assert {k: v.shape for k, v in fresh.state_dict().items()} == {k: v.shape for k, v in state.items()}
    fresh.load_state_dict(state)
    assert torch.equal(fresh(_values())[0], fitted(_values())[0])
    assert all(v.dtype in (torch.float64, torch.int64) for v in state.values())


@pytest.mark.parametrize("choice", ["auto", "standardise", "robust", "asinh", "quantile", "cells"])
@pytest.mark.parametrize("values", [[], [5.0], [0.0] * 50, [5.0] * 50, [0.1] * 99 + [7.0], [1e300, -1e300, 0.0, 1.0]])
@pytest.mark.parametrize("step", [0.0, 0.5])
def test_degenerate_columns_still_get_a_bijection(choice: str, values: list[float], step: float) -> None:
    scaler = ColumnScaler(["x"], [choice], [None], [None], [step])
    scaler.fit([torch.tensor(values, dtype=torch.float64)])
    x = torch.tensor([[0.0], [1.0], [5.0], [7.0], [-3.0], *([v] for v in values[:4])], dtype=torch.float64)
    z, log_slope = scaler(x)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_slope).all()
    if max(map(abs, values), default=0.0) < 1e3:
        assert torch.allclose(scaler.inverse(z), x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lower, upper, choice", [(0.0, None, "log"), (None, 3.0, "log"), (0.0, 3.0, "logit")])
@pytest.mark.parametrize("values", [[], [0.0] * 5, [3.0] * 5, [0.0, 3.0]])
def test_degenerate_bounded_columns_still_get_a_bijection(
    lower: float | None, upper: float | None, choice: str, values: list[float]
) -> None:
    scaler = ColumnScaler(["x"], [choice], [lower], [upper], [0.0])
    scaler.fit([torch.tensor(values, dtype=torch.float64)])
    x = torch.tensor([[0.0], [0.5], [2.5], [3.0]], dtype=torch.float64)
    z, log_slope = scaler(x)
    assert torch.isfinite(z).all()
    assert torch.isfinite(log_slope).all()
    assert torch.allclose(scaler.inverse(z)[1:3], x[1:3], rtol=1e-9)


def _chosen(values: Tensor, step: float = 0.0, lower: float | None = None, upper: float | None = None) -> str:
    scaler = ColumnScaler(["x"], ["auto"], [lower], [upper], [step])
    scaler.fit([values])
    return scaler.describe()["x"]


def test_auto_leaves_light_tails_alone_and_bends_heavy_ones() -> None:
    eight = torch.arange(ROWS) % 8 * (math.pi / 4)
    assert _chosen(_normal()) == "affine"
    assert _chosen(_uniform()) == "affine"
    assert _chosen(2 * eight.cos().double() + 0.1 * _normal()) == "affine"
    assert _chosen(_cauchy()) == "asinh"
    assert _chosen(torch.cat([_normal(), torch.tensor([1e9], dtype=torch.float64)])) == "asinh"
    assert _chosen((3 * _normal()).exp()) == "quantile"
    assert _chosen((3 * _normal()).exp(), lower=0.0) == "log, affine"
    assert _chosen(_normal().sigmoid(), lower=0.0, upper=1.0) == "logit, affine"
    assert _chosen(_cauchy()[:30]) == "affine"


def test_one_outlier_does_not_squeeze_the_others_under_auto() -> None:
    values = torch.cat([_normal(), torch.tensor([1e9], dtype=torch.float64)])
    scaler = ColumnScaler(["x"], ["auto"], [None], [None], [0.0])
    scaler.fit([values])
    z = scaler(values[:, None])[0][:, 0]
    assert float(z[:-1].quantile(0.75) - z[:-1].quantile(0.25)) > 0.7
    assert torch.isfinite(z).all()


def test_the_scale_of_a_grid_is_never_finer_than_half_a_step() -> None:
    scaler = ColumnScaler(["x"], ["standardise"], [None], [None], [1.0])
    values = torch.zeros(1000, dtype=torch.float64)
    values[0] = 1.0
    scaler.fit([values])
    z = scaler(torch.tensor([[-0.5], [0.5]], dtype=torch.float64))[0]
    assert float(z.diff(dim=0)) <= 2 + 1e-12


def test_knots_of_a_grid_are_distinct_values() -> None:
    scaler = _scaler()
    index = NAMES.index("grid")
    count = int(scaler.knot_count[index])
    knots = scaler.knot_v[index, :count]
    assert (knots.diff() > 0).all()
    assert (scaler.knot_z[index, :count].diff() > 0).all()
    raw = knots * scaler.spread[index] + scaler.middle[index]
    raw = raw * scaler.unit[index] + scaler.shift[index]
    assert torch.allclose(raw, raw.round(), atol=1e-9)


def _log_masses(fitted: ScalerFit, points: Tensor, step: float) -> Tensor:
    lower, upper = (apply(fitted, points + side * step / 2)[0] for side in (-1, 1))
    return (torch.special.ndtr(upper) - torch.special.ndtr(lower)).log()


def test_a_normal_behind_cells_gives_frequent_values_their_shares_and_new_ones_a_probability() -> None:
    x = _tied()
    fitted = fit_column(x, "cells", 2.0, 256)
    points, counts = torch.unique(x, return_counts=True)
    often = points[counts > 5]
    assert len(often) == 30
    torch.testing.assert_close(
        _log_masses(fitted, often, 2.0), (counts[counts > 5].double() / (len(x) + 1)).log(), atol=0.05, rtol=0
    )
    masses = _log_masses(fitted, torch.arange(0, 20_000, 2, dtype=torch.float64), 2.0).exp()
    assert (masses > 0).all()
    assert 0.99 < float(masses.sum()) <= 1.0  # the rest lies further out
    plain = fit_column(x, "standardise", 2.0, 256)
    new = _tied(seed=5)  # thirty other frequent values: all but three rows in ten are new
    gained = _log_masses(fitted, x, 2.0).mean() - _log_masses(plain, x, 2.0).mean()
    lost = _log_masses(plain, new, 2.0).mean() - _log_masses(fitted, new, 2.0).mean()
    assert gained > 3
    assert lost < 2


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(1, 40)), min_size=1, max_size=60),
    st.integers(20, 60),
)
def test_knots_at_cells_ascend_and_stay_within_their_number(runs: list[tuple[int, int]], num_knots: int) -> None:
    index = torch.cat([torch.full((n,), float(v), dtype=torch.float64) for v, n in runs])
    found = cell_knots(index, num_knots, 4)
    if found is not None:
        places, heights = found
        assert len(places) == len(heights) <= num_knots + 2 * len(torch.unique(index))
        assert (places.diff() > 0).all()
        assert (heights.diff() > 0).all()
        assert torch.isfinite(heights).all()
    for step in (1e-6, 1.0, 1e4):
        z, log_slope = apply(fit_column(index * step, "cells", step, num_knots), index * step)
        assert torch.isfinite(z).all()
        assert torch.isfinite(log_slope).all()


@pytest.mark.parametrize("power", [20, 30, 40, 43, 45, 50])
def test_cells_between_frequent_ones_keep_edges_apart_however_fine_the_grid(power: int) -> None:
    g = torch.Generator().manual_seed(0)
    few = torch.randint(0, 2**power, (15,), generator=g).double()
    x = few[torch.randint(0, 15, (20_000,), generator=g)]
    scaler = ColumnScaler(["x"], ["auto"], [None], [None], [1.0], cells=True)
    scaler.fit([x])
    assert scaler.describe()["x"] == ("quantile" if power <= 43 else "affine")
    new = torch.randint(int(few.min()), int(few.max()), (5_000, 1), generator=g).double()
    lower, upper = (scaler(new + side)[0] for side in (-0.5, 0.5))
    z_lower, z_upper = ((edge - 0.3) / 1.7 for edge in (lower, upper))  # as a layer of a flow would move them
    assert (z_upper > z_lower).all()
    if power <= 43:
        assert float((upper - lower).min()) > 2.0**-45


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_choice_does_not_hang_on_a_period_of_the_rows(shuffled: bool) -> None:
    g = torch.Generator().manual_seed(0)
    quarter = torch.stack([1000 * k + 37 * torch.randint(0, 10, (300,), generator=g) for k in range(4)], 1).double()
    x = quarter.flatten()
    x = x[torch.randperm(len(x), generator=g)] if shuffled else x
    assert fit_column(x, "auto", 1.0, 256, cells=True).family == QUANTILE


def test_auto_takes_cells_where_they_were_asked_for_and_values_are_tied_on_a_grid() -> None:
    def chosen(x: Tensor, step: float, cells: bool) -> int:
        return fit_column(x, "auto", step, 256, cells=cells).family

    tied, smooth = _tied(), 2.0 * (1000 * _normal(seed=3)).round()
    assert chosen(tied, 2.0, cells=False) == AFFINE
    assert chosen(tied, 2.0, cells=True) == QUANTILE
    assert chosen(smooth, 2.0, cells=True) == AFFINE
    assert chosen(tied, 0.0, cells=True) == AFFINE, "a density has no cells"
    assert fit_column(smooth, "cells", 2.0, 256).family == AFFINE
    assert fit_column(_normal(), "cells", 0.0, 256).family == AFFINE


def test_the_fit_scores_with_the_map_that_is_used() -> None:
    for choice in ("standardise", "robust", "asinh", "quantile"):
        w = _cauchy(5)
        for bent_tails in (True, False):
            fitted = fit_column(w, choice, 0.0, 50, bent_tails)
            scaler = ColumnScaler(["x"], [choice], [None], [None], [0.0], 50)
            scaler.bent_tails.fill_(bent_tails)
            scaler._store(0, fitted)
            x = torch.cat([w, 100 * w])
            z, slope = apply(fitted, x)
            batched, batched_slope = scaler(x[:, None])
            assert torch.allclose(batched[:, 0], z, rtol=1e-12)
            assert torch.allclose(batched_slope[:, 0], slope, atol=1e-12)


@pytest.mark.parametrize("choice, lower, upper", [("log", None, None), ("log", 0.0, 1.0), ("logit", 0.0, None)])
def test_scalers_that_need_bounds_say_so(choice: str, lower: float | None, upper: float | None) -> None:
    with pytest.raises(SchemaError, match=f"column 'income': scaler '{choice}' needs"):
        ColumnScaler(["income"], [choice], [lower], [upper], [0.0])


def test_unknown_scalers_are_named() -> None:
    with pytest.raises(SchemaError, match="column 'income': unknown scaler 'minmax'; use one of auto"):
        ColumnScaler(["income"], ["minmax"], [None], [None], [0.0])
    with pytest.raises(ValueError, match="num_knots"):
        ColumnScaler(["income"], ["auto"], [None], [None], [0.0], num_knots=1)


@pytest.mark.parametrize(("step", "spread"), [(8e-9, 1.0), (0.0, 1.0), (0.2, 0.1)])
def test_one_value_on_the_finest_grid_is_its_own_scale(step: float, spread: float) -> None:
    fitted = fit_column(torch.full((7,), 0.0, dtype=torch.float64), "auto", step, 16)
    assert fitted.spread == pytest.approx(spread)


def test_bends_are_the_steps_of_z_for_a_factor_e_of_distance() -> None:
    scaler = _scaler()
    bends = dict(zip(NAMES, scaler.bends.tolist(), strict=True))
    assert {name for name, bend in bends.items() if bend == 0} == {
        "plain",
        "robust",
        "share",
        "bent share",
        "grid plain",
    }
    for name, sign in (("tails", 1), ("tails", -1), ("positive", 1), ("negative", -1), ("knots", 1), ("bent", 1)):
        column = torch.tensor([NAMES.index(name)])
        far = sign * torch.tensor([[60.0], [61.0]], dtype=torch.float64).exp()
        z = scaler(far, column)[0][:, 0]
        assert float((z[1] - z[0]).abs()) == pytest.approx(bends[name], rel=1e-6), name
