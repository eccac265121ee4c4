"""Frequent values of a grid become atoms of the codec: found on any scale, scored on the same measure."""

from __future__ import annotations

import numpy as np
import torch

from genzoo.codecs.spikes import frequent_points
from genzoo.codecs.vector import VectorCodec
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema


def points(values: np.ndarray, limit: int = 128) -> set[float]:
    return set(frequent_points(torch.as_tensor(values, dtype=torch.float64), limit).tolist())


def test_a_smooth_distribution_on_a_grid_has_no_frequent_points() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.poisson(20, 3000), np.round(rng.normal(size=3000) * 15), rng.geometric(0.1, 3000)):
        # the ends of a distribution rise from nothing, so one or two points of 30 to 100 may pass
        assert len(points(values)) <= 2


def test_rounded_values_and_few_values_on_a_fine_grid_are_found() -> None:
    rng = np.random.default_rng(0)
    smooth = np.round(rng.normal(size=2000) * 50)
    rounded = np.where(rng.random(2000) < 0.3, np.round(smooth / 20) * 20, smooth)
    assert points(rounded) >= {-40.0, -20.0, 0.0, 20.0, 40.0}
    few = rng.choice([10.0, 5_000.0, 123_456.0, 1e9], 200)
    assert points(few) == {10.0, 5_000.0, 123_456.0, 1e9}


def test_values_that_appear_once_stay_in_the_continuum() -> None:
    assert points(np.array([1.0, 50.0, 900.0, 7_000.0, 7_000.0])) == {7_000.0}


def test_the_most_gainful_points_are_kept() -> None:
    values = np.repeat([1e3, 1e6, 1e9], [5, 50, 500])
    assert frequent_points(torch.as_tensor(values, dtype=torch.float64), 2).tolist() == [1e9, 1e6]


def codec(factor: float) -> tuple[VectorCodec, TableBatch]:
    rng = np.random.default_rng(1)
    count = np.where(rng.random(400) < 0.3, 7, rng.poisson(20, 400)).astype(float)
    count[:5] = np.nan
    schema = Schema((Column("count", "quantized", step=factor, storage="int"),))
    numeric = torch.as_tensor(count * factor)[:, None]
    batch = TableBatch(numeric, torch.zeros(400, 0, dtype=torch.int64), torch.arange(400))
    made = VectorCodec(schema, num_spikes=4)
    made.fit(batch)
    return made, batch


def test_rows_on_a_frequent_value_carry_its_indicator_and_come_back_as_it() -> None:
    made, batch = codec(1.0)
    cells = made.encode(batch)
    on_spike = batch.numeric[:, 0] == 7
    place = int((made.atoms[0] == 7).nonzero()[0])
    assert bool((cells.category[on_spike, 0] == place).all())
    assert not bool(cells.present[on_spike, 0].any())
    assert bool((cells.category[:5, 0] == -1).all())
    assert float(cells.log_volume.abs().sum()) == 0.0, "a frequent value is a cell: the measure does not change"
    again = made.decode(cells.number, cells.category, batch.rows).numeric[5:]
    torch.testing.assert_close(again, batch.numeric[5:])


def test_unused_places_are_impossible_and_the_others_possible() -> None:
    made, _ = codec(1.0)
    used = ~made.atoms[0].isnan()
    assert 1 <= int(used.sum()) < 4
    assert made.possible().tolist() == [*used.tolist(), True]


def test_frequent_values_do_not_depend_on_the_unit() -> None:
    made, batch = codec(1.0)
    scaled, large = codec(1024.0)
    torch.testing.assert_close(scaled.atoms, made.atoms * 1024.0, equal_nan=True, rtol=0, atol=0)
    assert torch.equal(made.encode(batch).category, scaled.encode(large).category)


def test_frequent_values_are_saved_with_the_codec() -> None:
    made, batch = codec(1.0)
    fresh = VectorCodec(made.schema, num_spikes=4)
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh.encode(batch).category, made.encode(batch).category)
