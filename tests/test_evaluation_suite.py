"""Fidelity, calibration, usefulness, privacy and outliers: right where the truth is known, silent where it must be."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

import genzoo
from contract import mixed_table
from genzoo.evaluation import calibration, fidelity, privacy
from genzoo.evaluation.auc import auc
from genzoo.evaluation.features import Features, nearest, one_hot
from genzoo.evaluation.sections import Section, Subject, make_sections
from genzoo.evaluation.usefulness import evaluate_usefulness
from genzoo.tables.encode import TableData, encode_frame
from genzoo.tables.infer import infer_schema

SCHEMA = infer_schema(mixed_table(3000, 0))


def rows(num: int, seed: int) -> TableData:
    return encode_frame(mixed_table(num, seed), SCHEMA)


def numbers(section: Section | None) -> dict[str, float]:
    assert section is not None
    return {m.name: m.value for m in section.metrics}


def test_auc_is_scikit_learns_with_ties_and_its_error_is_that_of_repetitions() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    one, two = rng.poisson(3.0, 40).astype(float), rng.poisson(2.0, 60).astype(float)
    value, se = auc(one, two)
    assert value == pytest.approx(roc_auc_score(np.repeat([1, 0], [40, 60]), np.concatenate([one, two])), abs=1e-12)
    again = [auc(rng.poisson(3.0, 40).astype(float), rng.poisson(2.0, 60).astype(float))[0] for _ in range(500)]
    assert se == pytest.approx(np.std(again), rel=0.25)
    assert math.isnan(auc(one, one[:0])[0])


def test_nearest_neighbours_are_scikit_learns_and_copies_are_at_distance_zero() -> None:
    from sklearn.neighbors import NearestNeighbors

    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(300, 5)), 1e3 + rng.normal(size=(200, 5))
    x[0] = y[7]
    # a tree subtracts coordinates; "brute" multiplies, and far from the origin a copy may then be 4e-5 away
    expected = NearestNeighbors(n_neighbors=3, algorithm="kd_tree").fit(y).kneighbors(x)[0]
    found = nearest(x, y, 3)
    assert np.allclose(found, expected, atol=1e-9)
    assert found[0, 0] == 0.0
    assert nearest(y, y, exclude_self=True).min() > 0
    assert nearest(y[:1], y[:1], exclude_self=True).shape == (1, 0)


def test_two_different_categories_are_one_unit_apart_and_a_hole_is_seen() -> None:
    data = rows(200, 1)
    points = Features.fit(data).points(data)
    assert np.isfinite(points).all()
    names = one_hot(np.array([0, 1, -1]), 2) / math.sqrt(2)
    assert np.linalg.norm(names[0] - names[1]) == pytest.approx(1)
    hole = np.isnan(data.numeric[:, 0])
    assert (points[hole, data.numeric.shape[1]] > 0).all()


def test_one_column_distances_are_scipys() -> None:
    from scipy.stats import ks_2samp, wasserstein_distance

    a, b = rows(500, 1), rows(400, 2)
    by_name = {name: (d, w) for name, d, w in fidelity.column_distances(a, b)}
    x, y = a.numeric[:, 2], b.numeric[:, 2]  # amount has no holes
    assert by_name["amount"][0] == pytest.approx(ks_2samp(x, y).statistic, abs=1e-12)
    assert by_name["amount"][1] == pytest.approx(wasserstein_distance(x, y) / y.std(), rel=1e-9)


def test_associations_are_scipys_on_complete_columns() -> None:
    from scipy.stats import spearmanr
    from scipy.stats.contingency import association

    frame = mixed_table(800, 3, holes=False)
    data = encode_frame(frame, infer_schema(frame))
    found = fidelity.association(data)
    assert found[0, 1] == pytest.approx(spearmanr(frame["x"], frame["count"]).statistic, abs=1e-9)
    table = pd.crosstab(frame["group"], frame["flag"]).to_numpy()
    assert found[3, 4] == pytest.approx(association(table, method="cramer"), abs=1e-9)


def test_rows_of_the_same_table_look_alike_and_exchanged_cells_do_not() -> None:
    train, test, same = rows(500, 4), rows(500, 5), rows(500, 6)
    section = fidelity.evaluate_fidelity(same, test, train)
    like = numbers(section)
    assert abs(like["two-sample AUC (trees)"] - 0.5) < 0.08  # four standard errors of 500 rows a side are 0.073
    assert abs(like["two-sample AUC (linear)"] - 0.5) < 0.08
    assert like["alpha-precision"] > 0.9
    assert abs(like["MMD"]) < 0.004
    unlike = numbers(fidelity.evaluate_fidelity(calibration.exchanged(same, 1.0), test, train))
    assert unlike["two-sample AUC (trees)"] > 0.65
    assert unlike["pair difference"] > 3 * like["pair difference"]
    assert unlike["column distance"] == pytest.approx(like["column distance"], abs=1e-12)  # marginals did not change
    assert "Training rows in place of samples score" in section.note


def test_mmd_and_sliced_wasserstein_of_shifted_gaussians_are_their_closed_forms() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(3000, 2)), rng.normal(size=(3000, 2)) + np.array([1.0, 0.0])
    # W2 along a direction w is |w_1| for a shift of one: the root of the mean of w_1^2 in two dimensions is sqrt(1/2)
    assert fidelity.sliced_wasserstein(a, b, 2000) == pytest.approx(math.sqrt(0.5), abs=0.05)
    both = np.concatenate([a[:1000], b[:1000]])
    m = float(np.median([((p - q) ** 2).sum() for p, q in zip(both[:-1:2], both[1::2][::-1])]))
    # E exp(-|x - y|^2 / m) for x - y ~ N(d, 2 I): (1 + 4 / m)^(-1) exp(-|d|^2 / (m + 4))
    exact = 2 / (1 + 4 / m) * (1 - math.exp(-1 / (m + 4)))
    value, se = fidelity.mmd(a, b)
    assert abs(value - exact) < 4 * se + 0.01


def test_samples_that_copy_training_rows_are_found_and_fresh_ones_are_not() -> None:
    train, test, fresh = rows(600, 7), rows(600, 8), rows(600, 9)
    good = privacy.evaluate_privacy(fresh, train, test)
    assert abs(numbers(good)["closer to training"] - 0.5) < 0.08
    # rows of few cells repeat by chance, in samples as in held-out rows
    assert numbers(good)["copies"] == pytest.approx(numbers(good)["copies by chance"], abs=0.02)
    assert abs(numbers(good)["membership AUC (distance)"] - 0.5) < 0.07
    bad = numbers(privacy.evaluate_privacy(train, train, test, member=np.ones(5), other=np.zeros(5)))
    assert bad["closer to training"] > 0.95
    assert bad["copies"] == 1
    assert bad["distance ratio"] == 0
    assert bad["membership AUC (distance)"] > 0.95
    assert bad["membership AUC (likelihood)"] == 1


def test_the_order_of_held_out_rows_does_not_make_samples_look_like_copies() -> None:
    train, test, fresh = rows(300, 7), rows(1200, 8), rows(600, 9)
    ordered = test.select(np.argsort(test.numeric[:, 0], kind="stable"))
    assert abs(numbers(privacy.evaluate_privacy(fresh, train, ordered))["closer to training"] - 0.5) < 0.1


def test_the_regions_of_a_gaussian_hold_what_they_claim() -> None:
    rng = np.random.default_rng(3)

    def values(x: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(-0.5 * x**2)

    levels = calibration.region_levels(values(rng.normal(size=4000)), values(rng.normal(size=4000)))
    assert abs(float(np.mean(levels <= 0.9)) - 0.9) < 4 * math.sqrt(0.09 / 2000)
    wide = calibration.region_levels(values(1.5 * rng.normal(size=4000)), values(rng.normal(size=4000)))
    assert float(np.mean(wide <= 0.9)) < 0.78  # P(|x| < 1.645 / 1.5) = 0.727


def test_exchanging_cells_keeps_every_column_and_changes_rows() -> None:
    data = rows(300, 10)
    mixed = calibration.exchanged(data, 0.5, 1)
    for a, b in ((data.numeric, mixed.numeric), (data.codes, mixed.codes)):
        assert np.array_equal(np.sort(a, axis=0), np.sort(b, axis=0), equal_nan=True)
        assert (np.nan_to_num(a) != np.nan_to_num(b)).any(axis=1).mean() > 0.3


def test_trees_trained_on_exchanged_rows_predict_nothing() -> None:
    train, test = rows(500, 11), rows(500, 12)
    good = evaluate_usefulness(rows(500, 13), train, test, targets=["x", "group", "flag"])
    assert numbers(good)["share kept"] == pytest.approx(1, abs=0.25)
    lines = {line[0]: line for line in good.grids[0].lines}
    assert lines["group"][1] == "F1"
    assert lines["flag"][1] == "AUC"
    assert lines["x"][1] == "R2"
    bad = evaluate_usefulness(calibration.exchanged(train, 1.0), train, test, targets=["x"])
    assert numbers(bad)["share kept"] < 0.3


def test_every_section_is_made_for_a_real_model_and_repeats() -> None:
    frame = mixed_table(600, 14, holes=False)
    model = genzoo.fit(frame.iloc[:400], model="independent")
    test = encode_frame(frame.iloc[400:], model.schema)
    train = encode_frame(frame.iloc[:400], model.schema)
    subject = Subject(model, test, train, model.sample(200, seed=1))
    made = {s.key: s for s in make_sections(subject, ("fidelity", "calibration", "usefulness", "privacy", "outliers"))}
    assert len(made) == 5
    ladder = {k: v for k, v in numbers(made["calibration"]).items() if k.startswith("lost")}
    assert abs(ladder["lost at 100%"]) < 1e-6  # a product of marginals cannot tell exchanged cells
    assert numbers(made["outliers"])["AUROC (likelihood)"] == pytest.approx(0.5, abs=0.12)
    assert make_sections(subject, ("privacy",)) == (made["privacy"],)


def test_sections_that_need_samples_or_training_rows_are_left_out_without_them() -> None:
    model = genzoo.fit(mixed_table(200, 15), model="independent")
    subject = Subject(model, dataclasses.replace(rows(100, 16), schema=model.schema))
    keys = {s.key for s in make_sections(subject, ("fidelity", "usefulness", "privacy"))}
    assert keys == set()
