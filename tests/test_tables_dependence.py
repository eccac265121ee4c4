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
    assert str(one) == "column 'd' is a linear function of 'b'"


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
    assert "rises or falls exactly with 'a'" in unlimited_text(encoded(frame))[0]


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
        "column 'd' is a linear function of 'a': its density has no upper limit, so --ignore it or one of the others"
    ]
    assert "'d' is a linear function of 'a'" in facts_of(table)["warnings"][0]
    comparison = genzoo.compare({"gaussian": genzoo.fit(frame, model="gaussian")}, frame)
    assert "'d' is a linear function of 'a'" in str(comparison)


def test_numbers_of_any_size_are_compared():
    rng = np.random.default_rng(4)
    for unit in (1e-300, 1e-5, 1e300):
        a, b = unit * rng.normal(size=NUM_ROWS), unit * rng.normal(size=NUM_ROWS)
        assert named(pd.DataFrame({"a": a, "b": b, "c": a + b})) == {"c": ("a", "b")}
        assert named(pd.DataFrame({"a": a, "b": b})) == {}
