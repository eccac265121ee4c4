"""Columns with a density that follow from others are found, and nothing else is."""

import numpy as np
import pandas as pd
import pytest

from genzoo.tables.dependence import determined_columns, unlimited_text
from genzoo.tables.encode import TableData, encode_frame
from genzoo.tables.infer import infer_schema

NUM_ROWS = 400


def encoded(frame: pd.DataFrame, **overrides: dict) -> TableData:
    return encode_frame(frame, infer_schema(frame, cache=False, overrides=overrides))


def named(frame: pd.DataFrame, **overrides: dict) -> dict[str, tuple[str, ...]]:
    return {one.name: one.others for one in determined_columns(encoded(frame, **overrides))}


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame({name: rng.normal(size=NUM_ROWS) for name in "abc"})


def test_independent_columns_are_left_alone(frame):
    assert named(frame) == {}
    assert unlimited_text(encoded(frame)) == []


def test_a_copy_in_another_unit_is_found(frame):
    frame["d"] = 32.0 + 1.8 * frame["b"]
    (one,) = determined_columns(encoded(frame))
    assert str(one) == "column 'd' is, to rounding, a linear function of 'b'"


def test_a_total_beside_its_parts_is_found_without_the_other_columns(frame):
    frame["total"] = frame["a"] + 2 * frame["c"]
    assert named(frame) == {"total": ("a", "c")}


def test_a_total_written_with_two_digits_is_found():
    rng = np.random.default_rng(1)
    parts = pd.DataFrame({name: np.round(rng.gamma(2.0, 900.0, NUM_ROWS), 2) for name in "ab"})
    parts["noise"] = rng.normal(size=NUM_ROWS)
    parts["half"] = np.round((parts["a"] + parts["b"]) / 2, 2)
    assert named(parts) == {"half": ("a", "b")}


def test_a_rising_or_falling_function_is_found(frame):
    frame["d"], frame["e"] = np.exp(frame["a"]), np.arctan(-frame["b"])
    assert named(frame) == {"d": ("a",), "e": ("b",)}
    assert "is, to rounding, a smooth function of 'a'" in unlimited_text(encoded(frame))[0]


def test_a_close_but_noisy_relation_is_no_finding(frame):
    frame["d"] = frame["a"] + 1e-2 * frame["b"] * frame["c"]
    assert named(frame) == {}


def test_far_values_do_not_hide_the_noise_of_the_others(frame):
    """Least squares look at the far rows; the bulk, which does not follow, must have its say."""
    far = np.where(np.arange(NUM_ROWS) < 3, 1e9, 0.0)
    frame["a"], frame["b"] = frame["a"] + far, frame["b"] + far
    assert named(frame) == {}


def test_several_sets_are_told_apart_and_a_determined_column_explains_no_other(frame):
    rng = np.random.default_rng(2)
    frame["d"] = frame["a"] - frame["b"]
    frame["e"] = rng.normal(size=NUM_ROWS)
    frame["f"] = 3.0 * frame["e"]
    frame["g"] = frame["d"] + frame["c"]
    assert named(frame) == {"d": ("a", "b"), "f": ("e",), "g": ("a", "b", "c")}


def test_cells_with_probabilities_may_follow_from_others():
    rng = np.random.default_rng(3)
    count = rng.integers(0, 30, NUM_ROWS)
    frame = pd.DataFrame({"count": count, "double": 2 * count, "x": rng.normal(size=NUM_ROWS)})
    assert named(frame) == {}


def test_ignored_columns_are_not_read_and_context_may_determine(frame):
    frame["d"] = 2 * frame["a"]
    assert named(frame, a={"role": "ignore"}) == {}
    assert named(frame, a={"role": "context"}) == {"d": ("a",)}
    assert named(frame, d={"role": "context"}) == {"a": ("d",)}


def test_holes_and_few_rows(frame):
    frame["d"] = 2 * frame["a"]
    frame.loc[::2, "b"] = np.nan
    assert named(frame) == {"d": ("a",)}
    frame.loc[1::2, "c"] = np.nan  # no row is complete: the columns with holes give way
    assert named(frame) == {"d": ("a",)}
    assert named(frame[["a", "d"]].head(20)) == {}
    assert named(frame[["a"]]) == {}


def test_training_commands_and_reports_name_them(frame):
    import genzoo
    from genzoo.commands.sources import facts_of
    from genzoo.commands.table_text import column_remarks
    from genzoo.datamodules.table import Table

    frame["d"] = 2 * frame["a"]
    table = Table(frame=frame)
    assert column_remarks(table, "--ignore") == [
        "column 'd' is, to rounding, a linear function of 'a': only sharpness limits a density there, "
        "so --ignore it or one of the others"
    ]
    assert "'d' is, to rounding, a linear function of 'a'" in facts_of(table)["warnings"][0]
    comparison = genzoo.compare({"gaussian": genzoo.fit(frame, model="gaussian")}, frame)
    assert "'d' is, to rounding, a linear function of 'a'" in str(comparison)


def test_numbers_of_any_size_are_compared():
    rng = np.random.default_rng(4)
    for unit in (1e-300, 1e-5, 1e300):
        a, b = unit * rng.normal(size=NUM_ROWS), unit * rng.normal(size=NUM_ROWS)
        assert named(pd.DataFrame({"a": a, "b": b, "c": a + b})) == {"c": ("a", "b")}
        assert named(pd.DataFrame({"a": a, "b": b})) == {}


def test_a_reading_that_differs_by_a_little_has_a_density_of_its_own():
    """Meters: what was added since the last reading has a gamma density, however small beside the reading."""
    rng = np.random.default_rng(5)
    start = rng.permutation(np.cumsum(rng.gamma(2.0, 20.0, 5000)))
    assert named(pd.DataFrame({"start": start, "end": start + rng.gamma(2.0, 3.0, 5000)})) == {}
    x = rng.uniform(size=NUM_ROWS)  # known to a cell of a rounded copy, uniform within it
    frame = pd.DataFrame({"rounded": np.round(x, 5), "x": x})
    assert named(frame, rounded={"kind": "quantized"}) == {}


def test_half_a_unit_of_noise_is_no_rounding():
    rng = np.random.default_rng(6)
    for _ in range(50):
        x = rng.normal(size=60)
        frame = pd.DataFrame({"x": x, "y": np.round(1000 * x + rng.normal(0, 0.6, 60))})
        assert named(frame, y={"kind": "continuous"}) == {}
    levels = rng.integers(0, 3, NUM_ROWS).astype(float)
    noisy = pd.DataFrame({"x": levels, "y": np.clip(levels + rng.integers(-1, 2, NUM_ROWS), 0, 2)})
    assert named(noisy, x={"kind": "continuous"}, y={"kind": "continuous"}) == {}


def test_a_mixed_column_is_judged_outside_its_atoms():
    rng = np.random.default_rng(7)
    rows = rng.choice(4000, 60, replace=False)
    gift, win = np.zeros(4000), np.zeros(4000)
    gift[rows], win[rng.choice(4000, 60, replace=False)] = rng.gamma(2, 50, 60), rng.gamma(2, 50, 60)
    gift[7], win[7] = 1e9, 2e9
    frame = pd.DataFrame({"x": rng.normal(size=4000), "gift": gift, "win": win, "won": np.where(win > 0, 1, 0)})
    kinds = {name: {"kind": "mixed", "atoms": [0.0]} for name in ("gift", "win")} | {"won": {"kind": "quantized"}}
    assert named(frame, **kinds) == {}
    frame["tax"] = np.where(gift > 0, 0.3 * gift + 10, 0.0)
    assert named(frame, tax={"kind": "mixed", "atoms": [0.0]}, **kinds) == {"tax": ("gift",)}


def test_quantities_that_only_grow_share_an_order_and_no_more():
    rng = np.random.default_rng(8)
    frame = pd.DataFrame({"time": np.cumsum(rng.exponential(size=500)), "meter": np.cumsum(rng.gamma(2.0, size=500))})
    assert named(frame) == {}


def test_the_logarithm_of_a_total_is_named_beside_the_total(frame):
    frame = np.exp(frame)
    for order in (("total", "log_total"), ("log_total", "total")):
        total = frame["a"] + frame["c"]
        made = {"total": total, "log_total": np.log(total)}
        table = frame.assign(**{name: made[name] for name in order})
        found = named(table)
        assert found == {"total": ("a", "c"), "log_total": ("total",)}


def test_rows_of_the_whole_table_are_read():
    rng = np.random.default_rng(9)
    net = rng.gamma(2.0, 100.0, 12_000)
    tax = np.where(np.arange(12_000) < 10_000, 1.19, rng.uniform(1.0, 1.3, 12_000))
    assert named(pd.DataFrame({"net": net, "gross": tax * net})) == {}


def test_copies_are_found_where_no_row_of_the_table_is_whole():
    rng = np.random.default_rng(10)
    frame = pd.DataFrame({f"c{k}": rng.normal(size=NUM_ROWS) for k in range(31)})
    frame["copy"] = 2.54 * frame["c0"]
    frame = frame.mask(rng.random(frame.shape) < 0.25)
    assert named(frame) == {"copy": ("c0",)}


def test_many_determined_columns_are_named_in_little_time():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(2000, 40))
    turned = x @ np.linalg.qr(rng.normal(size=(40, 40)))[0]
    frame = pd.DataFrame(np.concatenate([x, turned], 1), columns=[f"c{k}" for k in range(80)])
    found = named(frame)
    assert list(found) == [f"c{k}" for k in range(40, 80)]
    assert all(others == tuple(f"c{k}" for k in range(40)) for others in found.values())
