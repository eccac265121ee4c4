"""The pieces of the side-by-side benchmarks that have no clock in them: views of rows, records, tables of results."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from genzoo.evaluation.imputation import score_imputation
from genzoo.evaluation.masks import hide_cells
from genzoo.tables.encode import TableData, encode_frame
from genzoo.tables.infer import infer_schema

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Scripts import one another by name; none of them stays in the way of other modules."""
    monkeypatch.syspath_prepend(str(FOLDER))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(FOLDER) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def rows() -> TableData:
    """Two numbers that go together, one of whole numbers, and two categories decided by a number."""
    rng = np.random.default_rng(0)
    size = rng.normal(size=300)
    frame = pd.DataFrame(
        {
            "size": size,
            "weight": 3 * size + rng.normal(scale=0.1, size=300),
            "count": rng.poisson(4, 300),
            "sign": np.where(size > 0, "up", "down"),
            "third": np.select([size < -0.4, size < 0.4], ["a", "b"], "c"),
        }
    )
    return encode_frame(frame, infer_schema(frame, overrides={"third": {"kind": "categorical"}}))


def test_each_imputer_at_hand_completes_the_holes_and_nothing_else(rows: TableData) -> None:
    import imputers

    hidden = hide_cells(rows, 0.3, seed=1)
    plain = score_imputation(rows, hidden, imputers.mode_and_median(hidden.data, hidden.data), rows)
    for name, impute in imputers.IMPUTERS.items():
        if name in imputers.PACKAGES:
            continue
        found = impute(hidden.data, hidden.data, 3, 0)
        scores = score_imputation(rows, hidden, found, rows)  # refuses changed cells and cells left empty
        counts = np.concatenate([f.numeric[:, _place(rows, "count")] for f in found])
        np.testing.assert_array_equal(counts, np.round(counts), err_msg=name)
        if "Imputer" in name:
            assert scores.mean("mae") < plain.mean("mae"), name
            assert scores.mean("accuracy") > plain.mean("accuracy"), name
    assert len(imputers.iterative_draws(hidden.data, hidden.data, 3, 0)) == 3


def _place(rows: TableData, name: str) -> int:
    return [c.name for c in rows.schema.numeric].index(name)


def test_rows_survive_the_way_through_the_form_that_synthesisers_read(rows: TableData) -> None:
    import synthesisers

    holes = hide_cells(rows, 0.2, seed=2).data
    back = synthesisers.as_rows(synthesisers.training_frame(holes), holes)
    np.testing.assert_array_equal(back.codes, holes.codes)
    np.testing.assert_array_equal(back.numeric, holes.numeric)


def test_a_synthesiser_over_its_limit_of_cpu_time_is_stopped() -> None:
    import synthesisers

    def endless() -> None:
        with synthesisers.cpu_limit(0.05):
            while True:
                sum(range(1000))

    with pytest.raises(synthesisers.OverLimit, match="stopped after"):
        endless()


def test_a_record_measured_again_replaces_the_old_one(tmp_path: Path) -> None:
    import result_page

    path = tmp_path / "new" / "results.json"
    for method, value in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        result_page.keep_record(path, {"table": "t", "method": method, "value": value}, ("table", "method"))
    found = {r["method"]: r["value"] for r in result_page.load_records(path)}
    assert found == {"a": 3.0, "b": 2.0}


def test_losses_name_the_best_of_either_side_and_skip_what_failed() -> None:
    import result_page

    def one(method: str, ours: bool, value: float | None, **more: Any) -> dict[str, Any]:
        return {"method": method, "ours": ours, "mae": value} | more

    records = [one("a", True, 0.5), one("b", True, 0.4), one("c", False, 0.3), one("d", False, 0.1, failed="no")]
    assert result_page.losses(records, "mae", "down", label="MAE") == "MAE: c 0.300, b 0.400"
    assert result_page.losses(records, "mae", "up") is None
    assert result_page.losses(records[:2], "mae", "down") is None
    assert result_page.losses([*records[:2], one("c", False, None)], "mae", "down") is None
    near = result_page.best_of(records[:3], "mae", "near", 0.42)
    assert near is not None
    assert near["method"] == "b"


def test_numbers_are_shown_with_their_error_and_a_dash_where_there_is_none() -> None:
    import result_page

    assert result_page.shown(0.12345, 0.01) == "0.123 ± 0.010"
    assert result_page.shown(0.12345, math.nan, digits=1) == "0.1"
    assert result_page.shown(None) == result_page.shown(math.nan) == "–"
    table = result_page.markdown_table(("name", "n"), [("x", "1")])
    assert table.splitlines() == ["| name | n |", "| --- | ---: |", "| x | 1 |"]


def test_what_is_not_measured_yet_is_said() -> None:
    import result_page

    records = [{"table": "t", "method": "a"}, {"table": "u", "method": "b"}]
    wanted = {"t": ["a"], "u": ["a", "b"]}
    assert result_page.not_measured(wanted, records, "table") == "Not measured yet: u: a."
    assert result_page.not_measured({"t": ["a"]}, records, "table") == ""


# ---- the 27 small tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iris", "wine", "concrete_slump", "ionosphere", "congress"])
def test_the_training_rows_themselves_have_their_published_measures(shared_data: Path, name: str) -> None:
    """Splits, kinds of columns, the space of distances and the balls are those of the authors."""
    import forest27_protocol as protocol

    published = protocol.published()[name][protocol.REAL]
    splits = [protocol.load(shared_data / "forestdiffusion27", name, seed) for seed in range(3)]
    points = [(protocol.points(s.train, s), protocol.points(s.test, s)) for s in splits]
    for measure, pairs in (
        ("coverage_train", [(train, train) for train, _ in points]),
        ("coverage_test", [(test, train) for train, test in points]),
    ):
        assert np.mean([protocol.coverage(a, b) for a, b in pairs]) == pytest.approx(published[measure], abs=5e-4)
    pytest.importorskip("ot", reason="POT, for exact transport, comes beside GenZoo")
    costs = [protocol.transport(test, train) for train, test in points]
    assert np.mean(costs) == pytest.approx(published["W_test"], rel=2e-3)


def test_ranks_of_the_published_methods_are_those_of_the_published_table() -> None:
    import forest27_protocol as protocol

    known = protocol.published()
    assert set(known) == set(protocol.TABLES)
    ranks = [protocol.mean_ranks(known, m)["Forest-Flow"] for m in ("W_train", "W_test", "coverage_test")]
    assert np.round(ranks, 1).tolist() == [1.9, 1.5, 1.8]


def test_names_become_categories_for_the_generator_and_come_back() -> None:
    import forest27
    import forest27_protocol as protocol

    rows = np.array([[0.5, 1.0, 0.0], [1.5, 0.0, 2.0], [2.5, 1.0, 1.0]])
    split = protocol.Split(rows, rows, (2,), (1, 2), protocol.SmallTable(binary=(1,)))
    frame = forest27.frame_of(rows, split)
    assert frame["x2"].tolist() == ["v0", "v2", "v1"]
    np.testing.assert_array_equal(forest27.rows_of(frame, split), rows)
    assert protocol.points(rows, split)[:, 1].tolist() == [1.0, 0.0, 1.0]  # two values are a number
    assert protocol.points(rows, split)[:, 2:].tolist() == [[0.5, 0, 0], [0, 0, 0.5], [0, 0.5, 0]]


def test_models_run_again_take_the_place_of_their_rows_and_the_best_stays_the_best() -> None:
    import results

    def one(name: str, mean: float, rank: int = 0) -> dict[str, Any]:
        return {"name": name, "mean": mean, "se": 0.1, "kind": "exact", "rank": rank}

    kept = {"table": "t", "rows": {"test": 9}, "command": "all", "minutes": 1, "date": "d"}
    record = kept | {"models": [one("a", -1.0, 1), one("b", -2.0, 2), one("c", -3.0, 3), {"name": "e", "failed": "no"}]}
    again = results.renewed(record, kept | {"command": "some", "models": [one("c", -1.5, 1)]})
    assert [(row["name"], row.get("rank")) for row in again["models"]] == [("a", 1), ("c", 2), ("b", 3), ("e", None)]
    assert again["again"] == [{"command": "some", "minutes": 1, "date": "d"}]
    with pytest.raises(SystemExit, match="c is now the best"):
        results.renewed(record, kept | {"models": [one("c", -0.5, 1)]})
    with pytest.raises(SystemExit, match="other rows"):
        results.renewed(record, kept | {"rows": {"test": 8}, "models": [one("c", -1.5, 1)]})
