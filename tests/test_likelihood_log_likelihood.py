"""LogLikelihood: what it refuses, its errors, sums and differences, storage."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genzoo.errors import ComparisonError, DataError
from genzoo.likelihood import LogLikelihood, winsorised_mean, with_and_without
from genzoo.likelihood.log_likelihood import decimals_for

INF = math.inf


def make(values, kind="exact", **changes) -> LogLikelihood:
    values = np.asarray(values, dtype=float)
    return LogLikelihood(values, np.arange(len(values)), kind, **changes)


# ------------------------------------------------------------------------------------------------ validation


def test_bias_follows_the_kind_unless_given():
    kinds = ["exact", "lower_bound", "upper_bound", "estimate", "unnormalised"]
    assert [make([0.0], k).bias for k in kinds] == ["none", "below", "above", "unknown", "unknown"]
    assert make([0.0], "estimate", bias="none").bias == "none"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": [0.0, math.nan]}, r"values: 1 of 2 rows are NaN \(first: row 8\)"),
        ({"values": [INF, 0.0]}, r"values: 1 of 2 rows are \+inf \(first: row 7\)"),
        ({"values": [0.0]}, r"values has shape \(1,\); 2 rows ask for \(2,\)"),
        ({"values": ["a", "b"]}, "values must be numbers"),
        ({"rows": [0.5, 1.5]}, "rows must be one list of whole numbers"),
        ({"kind": "bound"}, "unknown likelihood kind 'bound'"),
        ({"bias": "above"}, "kind 'lower_bound' has bias 'below', got 'above'"),
        ({"se": [0.1, -0.1]}, "must be finite and not negative"),
        ({"se": [0.1]}, r"se has shape \(1,\)"),
        ({"se_common": math.nan}, "se_common must be finite"),
        ({"kind": "exact", "se": [0.1, 0.1]}, "an exact likelihood has no Monte Carlo error"),
        ({"kind": "exact", "se_common": 0.1}, "an exact likelihood has no Monte Carlo error"),
        ({"discrete": [0.0, 0.0], "continuous": [0.0, 0.0]}, "do not add up to the values, 2 nats off"),
        ({"by_column": [[0.0], [0.0]]}, r"by_column has shape \(2, 1\); 2 rows ask for \(2, 0\)"),
        ({"estimand": "causal"}, "unknown estimand 'causal'; use one of observational, interventional"),
        ({"space": "pixels"}, "unknown space 'pixels'"),
    ],
)
def test_what_is_no_likelihood_is_refused_in_one_sentence(changes, message):
    given_ = {"values": [1.0, 2.0], "rows": [7, 8], "kind": "lower_bound"} | changes
    with pytest.raises(ValueError, match=message):
        LogLikelihood(**given_)


def test_rows_of_zero_likelihood_are_allowed_counted_and_make_the_mean_minus_infinity():
    ll = make([-INF, 1.0, 3.0], discrete=[-INF, 1.0, 1.0], continuous=[math.nan, 0.0, 2.0])
    summary = ll.summary()
    assert ll.mean() == -INF
    assert math.isnan(ll.se_mean())
    assert (summary["num_neg_inf"], summary["mean_finite"], summary["min"], summary["median"]) == (1, 2.0, -INF, 1.0)
    assert ll.label() == "-inf, 1 of 3 rows (exact)"


def test_arrays_are_float64_copies_that_cannot_be_changed():
    values = np.zeros(3, dtype=np.float32)
    ll = make(values)
    values[:] = 5
    assert ll.values.dtype == np.float64
    assert ll.mean() == 0
    with pytest.raises(ValueError):
        ll.values[0] = 1


# ------------------------------------------------------------------------------------------------ errors and summaries


def test_standard_error_holds_rows_and_draws_and_keeps_the_common_part_apart():
    rng = np.random.default_rng(0)
    n, noise, common = 4000, 0.5, 0.03
    ll = make(rng.normal(size=n) + noise * rng.normal(size=n), "lower_bound", se=np.full(n, noise), se_common=common)
    s = ll.summary()
    assert s["se_rows"] == ll.se_mean() == pytest.approx(math.sqrt((1 + noise**2) / n), rel=0.05)
    assert s["se_mc"] == pytest.approx(noise / math.sqrt(n))
    assert s["noise_share"] == pytest.approx(noise**2 / (1 + noise**2), rel=0.1)
    assert s["se"] == ll.se_total() == pytest.approx(math.hypot(s["se_rows"], common))
    assert make(np.tile(ll.values, 100), "lower_bound", se_common=common).se_total() >= common  # never divided by n


def test_monte_carlo_error_of_a_bound_with_one_draw_is_not_known():
    assert math.isnan(make([0.0, 1.0], "lower_bound").summary()["se_mc"])
    assert make([0.0, 1.0]).summary()["se_mc"] == 0


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (0.2, "2.310 ± 0.020 (bound)"),
        (20.0, "2.3 ± 2.0 (bound)"),
        (3000.0, "2 ± 300 (bound)"),
        (0.0, "2.310 ± 0.000 (bound)"),
    ],
)
def test_label_shows_two_digits_of_the_error_and_the_kind(spread, text):
    signs = np.tile([1.0, -1.0], 50)
    values = 2.31 + signs * spread * math.sqrt(99 / 100)  # sd with n - 1 is then the spread
    assert make(values, "lower_bound").label() == text


def test_label_without_an_error_shows_none():
    assert make([1.0]).label() == "1.000 (exact)"
    assert decimals_for(0.02) == 3
    assert decimals_for(1e-8) == 6


def test_winsorising_touches_one_row_in_a_thousand_on_each_side_and_fewer_rows_not_at_all():
    values = np.zeros(2000)
    values[:3] = -1e6, -1e6, -7.0
    assert winsorised_mean(values) == pytest.approx((-7.0 * 3) / 2000)
    assert winsorised_mean(np.array([-1e6, 0.0])) == -5e5
    assert winsorised_mean(np.array([-INF, *np.zeros(1999)])) == 0
    assert math.isnan(winsorised_mean(np.zeros(0)))


def test_duplicates_are_taken_out_of_the_mean():
    effect = with_and_without(make([9.0, 9.0, 1.0, 3.0]), [True, True, False, False])
    assert (effect.mean, effect.mean_without, effect.num_duplicates, effect.share) == (5.5, 2.0, 2, 0.5)
    assert effect.se_without == pytest.approx(1.0)
    assert math.isnan(with_and_without(make([1.0]), [True]).mean_without)
    with pytest.raises(ValueError, match="must be 2 true or false values, got int64"):
        with_and_without(make([1.0, 2.0]), [0, 1])


# ------------------------------------------------------------------------------------------------ algebra

finite = hnp.arrays(np.float64, 4, elements=st.floats(-1e3, 1e3))
kinds = st.sampled_from(
    [
        ("exact", "none"),
        ("lower_bound", "below"),
        ("upper_bound", "above"),
        ("estimate", "none"),
        ("estimate", "unknown"),
    ]
)


@st.composite
def likelihoods(draw, column):
    values, (kind, bias) = draw(finite), draw(kinds)
    noisy = kind != "exact"
    se = np.abs(draw(finite)) if noisy and draw(st.booleans()) else None
    return make(values, kind, bias=bias, se=se, se_common=draw(st.floats(0, 9)) if noisy else 0.0, columns=(column,))


@settings(max_examples=60)
@given(likelihoods("a"), likelihoods("b"), likelihoods("c"))
def test_sums_of_likelihoods_are_associative_in_values_errors_and_kind(a, b, c):
    left, right = (a + b) + c, a + (b + c)
    np.testing.assert_allclose(left.values, right.values, atol=1e-9)
    assert (left.kind, left.bias, left.columns) == (right.kind, right.bias, right.columns)
    assert left.se_common == pytest.approx(right.se_common)
    assert (left.se is None) == (right.se is None)
    if left.se is not None:
        np.testing.assert_allclose(left.se, right.se, atol=1e-9)


@settings(max_examples=60)
@given(likelihoods("a"), likelihoods("a"))
def test_differences_are_antisymmetric_and_flip_their_sign_of_error(a, b):
    one, other = a - b, b - a
    np.testing.assert_array_equal(one.values, -other.values)
    flipped = {"below": "above", "above": "below"}
    assert other.bias == flipped.get(one.bias, one.bias)
    assert one.se_common == other.se_common


def test_label_and_features_add_up_to_the_joint_by_the_chain_rule():
    rows = np.array([5, 3, 9])
    label = LogLikelihood(
        [-1.0, -2.0, -3.0],
        rows,
        "exact",
        columns=("y",),
        discrete=[-1.0, -2.0, -3.0],
        continuous=np.zeros(3),
        measure="m",
        by_column=[[-1.0], [-2.0], [-3.0]],
    )
    features = LogLikelihood(
        [30.0, 10.0, 20.0],
        [9, 5, 3],
        "lower_bound",
        se=[0.3, 0.1, 0.2],
        columns=("x",),
        context=("y",),
        discrete=np.zeros(3),
        continuous=[30.0, 10.0, 20.0],
        measure="m",
        uses_mask=True,
        by_column=[[30.0], [10.0], [20.0]],
    )
    joint = label + features
    np.testing.assert_array_equal(joint.values, [9.0, 18.0, 27.0])
    np.testing.assert_array_equal(joint.rows, rows)
    np.testing.assert_array_equal(joint.se, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(joint.by_column, [[-1, 10], [-2, 20], [-3, 30]])
    np.testing.assert_array_equal(joint.discrete + joint.continuous, joint.values)
    assert (joint.kind, joint.columns, joint.context, joint.uses_mask) == ("lower_bound", ("y", "x"), (), True)


def test_a_column_is_not_scored_twice_in_a_sum():
    with pytest.raises(ComparisonError, match="column 'a' is scored in both parts"):
        make([0.0], columns=("a",)) + make([0.0], columns=("a", "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"space": "benchmark"}, "the space differs: 'data' against 'benchmark'"),
        ({"data": "g"}, "the table differs: 'f' against 'g'"),
        ({"estimand": "interventional"}, "the estimand differs"),
        ({"rows": [0, 2]}, r"the rows differ: 2 rows \(0 to 2\) against 2 \(0 to 1\)"),
    ],
)
def test_parts_of_different_rows_or_meaning_do_not_add(change, message):
    base = {"values": [0.0, 0.0], "rows": [0, 1], "kind": "exact", "data": "f"}
    for combine in (lambda a, b: a + b, lambda a, b: a - b):
        with pytest.raises(ComparisonError, match=message):
            combine(LogLikelihood(**base), LogLikelihood(**(base | change)))


def test_rows_in_another_order_are_paired_by_their_number_and_repeated_numbers_are_refused():
    a, b = LogLikelihood([1.0, 2.0], [4, 2], "exact"), LogLikelihood([20.0, 10.0], [2, 4], "exact")
    np.testing.assert_array_equal((b - a).rows, [2, 4])
    np.testing.assert_array_equal((b - a).values, [18.0, 9.0])
    with pytest.raises(ComparisonError, match="some row numbers appear twice"):
        LogLikelihood([1.0, 2.0, 3.0], [4, 4, 2], "exact") - LogLikelihood([1.0, 2.0, 3.0], [2, 4, 4], "exact")


def test_difference_of_two_rows_of_zero_likelihood_is_undefined_not_zero():
    d = make([-INF, -INF, 0.0]) - make([-INF, 0.0, -INF])
    assert math.isnan(d.values[0])
    assert d.values[1] == -INF
    assert d.values[2] == INF


def test_benchmark_units_shift_values_and_density_part_alike():
    ll = make([1.0, 2.0], discrete=[-1.0, -1.0], continuous=[2.0, 3.0]).shifted([0.5, 0.25], space="benchmark")
    np.testing.assert_array_equal(ll.values, [1.5, 2.25])
    np.testing.assert_array_equal(ll.continuous, [2.5, 3.25])
    assert ll.space == "benchmark"
    assert ll.discrete[0] == -1.0


def test_selecting_rows_keeps_everything_else():
    ll = make([1.0, 2.0, 3.0], "lower_bound", se=[0.1, 0.2, 0.3], columns=("a",), by_column=[[1.0], [2.0], [3.0]])
    part = ll.select([2, 0])
    assert part.rows.tolist() == [2, 0]
    assert part.se.tolist() == [0.3, 0.1]
    assert part.by_column.tolist() == [[3.0], [1.0]]
    assert len(ll.select([])) == 0
    assert math.isnan(ll.select([]).mean())


# ------------------------------------------------------------------------------------------------ storage


def full() -> LogLikelihood:
    return LogLikelihood(
        [-INF, 2.5, 0.1],
        [10, 2**40, 7],
        "lower_bound",
        se=[0.0, 0.1, 0.2],
        se_common=0.01,
        discrete=[-INF, 2.0, 0.1],
        continuous=[math.nan, 0.5, 0.0],
        columns=("größe", "b"),
        context=("c",),
        estimand="interventional",
        space="discretised",
        measure="m",
        data="f",
        uses_mask=True,
        method="bound",
        settings={"draws": np.int64(4), "t": (1, 2)},
        model="M",
        counts={"unseen": 1},
        by_column=[[-INF, 0.0], [2.0, 0.5], [0.1, 0.0]],
        meta={"seconds": np.float64(0.5)},
    )


@pytest.mark.parametrize("way", ["parquet", "dict", "json"])
@pytest.mark.parametrize("ll", [full(), make([1.0]), make([]), make([], columns=("a",), by_column=np.zeros((0, 1)))])
def test_a_stored_likelihood_comes_back_bit_equal(ll, way, tmp_path):
    if way == "parquet":
        back = LogLikelihood.load(ll.save(tmp_path / "a.parquet"))
    else:
        back = LogLikelihood.from_dict(json.loads(json.dumps(ll.to_dict())) if way == "json" else ll.to_dict())
    for name in ("values", "rows", "se", "discrete", "continuous", "by_column"):
        first, second = getattr(ll, name), getattr(back, name)
        assert (first is None) == (second is None), name
        if first is not None:
            np.testing.assert_array_equal(first, second)
            assert first.dtype == second.dtype
    plain = ll.to_dict()
    assert back.to_dict().keys() == plain.keys()
    assert json.dumps(back.to_dict()) == json.dumps(plain)
    assert back.columns == ll.columns
    assert isinstance(back.columns, tuple)


def test_stored_file_is_a_plain_table_for_other_programs(tmp_path):
    import pandas as pd

    frame = pd.read_parquet(full().save(tmp_path / "a.parquet"))
    assert list(frame) == ["row", "log_prob", "se", "discrete", "continuous", "log_prob:größe", "log_prob:b"]
    assert frame["log_prob"].tolist() == [-INF, 2.5, 0.1]


def test_existing_files_are_kept_and_nothing_half_written_stays(tmp_path):
    path = tmp_path / "a.parquet"
    make([1.0]).save(path)
    with pytest.raises(DataError, match="exists; choose another name"):
        make([2.0]).save(path)
    assert LogLikelihood.load(path).mean() == 1.0
    make([2.0]).save(path, overwrite=True)
    assert LogLikelihood.load(path).mean() == 2.0
    with pytest.raises(DataError, match="cannot write"):
        make([1.0]).save(tmp_path / "no" / "a.parquet")
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_foreign_and_truncated_files_end_in_one_sentence(tmp_path):
    import pandas as pd

    with pytest.raises(DataError, match="no file"):
        LogLikelihood.load(tmp_path / "none.parquet")
    pd.DataFrame({"row": [1], "log_prob": [0.0]}).to_parquet(tmp_path / "foreign.parquet")
    with pytest.raises(DataError, match="without stored log-likelihoods"):
        LogLikelihood.load(tmp_path / "foreign.parquet")
    path = full().save(tmp_path / "a.parquet")
    (tmp_path / "cut.parquet").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        LogLikelihood.load(tmp_path / "cut.parquet")
    with pytest.raises(DataError, match="unknown entry 'colour'"):
        LogLikelihood.from_dict(full().to_dict() | {"colour": 1})
    with pytest.raises(DataError, match="lacks 'kind'"):
        LogLikelihood.from_dict({"values": [], "rows": []})


def test_only_plain_values_are_stored(tmp_path):
    with pytest.raises(TypeError, match="only plain values"):
        make([1.0], settings={"model": object()}).save(tmp_path / "a.parquet")
    assert not list(tmp_path.iterdir())


def test_importing_the_package_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, genzoo.likelihood as l; l.LogLikelihood; l.paired; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
