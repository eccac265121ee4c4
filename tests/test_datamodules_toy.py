"""The toy datamodule: schema, oracle, fresh rows."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from genzoo.datamodules import Toy
from genzoo.datamodules.base import SPLITS
from genzoo.datamodules.toy import ToyName
from genzoo.tables.batch import TableBatch
from genzoo.tables.encode import encode_frame


@pytest.mark.parametrize("name", get_args(ToyName))
def test_toy_gives_splits_with_a_schema_and_an_oracle(name: ToyName) -> None:
    toy = Toy(name, num_train=300, num_val=40, num_test=50)
    assert [len(toy.data(split)) for split in SPLITS] == [300, 40, 50]
    assert toy.schema.num_training_rows == 300
    assert toy.schema.num_rows == 390
    assert toy.name == toy.schema.source == name
    oracle = toy.oracle_log_prob(toy.data("test"))
    assert oracle.shape == (50,)
    assert np.isfinite(oracle).all()
    assert len({row for split in SPLITS for row in toy.data(split).rows.tolist()}) == 390


def test_mixed_toy_goes_through_a_frame_and_back_with_the_same_oracle() -> None:
    toy = Toy("mixed", num_train=10, num_val=10, num_test=200)
    data = toy.data("test")
    again = encode_frame(toy.frame("test"), toy.schema)
    np.testing.assert_array_equal(again.codes, data.codes)
    np.testing.assert_allclose(toy.oracle_log_prob(again), toy.oracle_log_prob(data))
    assert sum(again.counts.values()) == 0
    assert np.isnan(data.numeric).any()
    assert not np.isnan(Toy("mixed", num_test=200, holes=0).data("test").numeric).any()


def test_rows_are_a_function_of_the_seed() -> None:
    def rows(seed: int) -> np.ndarray:
        return Toy("rings", num_train=20, num_val=5, num_test=5, seed=seed).data("test").numeric

    np.testing.assert_array_equal(rows(1), rows(1))
    assert not np.array_equal(rows(1), rows(2))


def test_fresh_rows_change_every_epoch_and_come_back_with_it() -> None:
    def epoch(toy: Toy, number: int) -> TableBatch:
        loader = toy.train_dataloader()
        loader.sampler.set_epoch(number)
        return TableBatch.concatenate(list(loader))

    toy = Toy("pinwheel", num_train=100, num_val=5, num_test=5, fresh=True)
    first, second = epoch(toy, 0), epoch(toy, 1)
    assert len(first) == len(second) == 100
    assert not set(first.numeric[:, 0].tolist()) & set(second.numeric[:, 0].tolist())
    again = epoch(Toy("pinwheel", num_train=100, num_val=5, num_test=5, fresh=True), 1)
    np.testing.assert_array_equal(again.numeric, second.numeric)
    fixed = Toy("pinwheel", num_train=100, num_val=5, num_test=5)
    assert set(epoch(fixed, 0).numeric[:, 0].tolist()) == set(epoch(fixed, 1).numeric[:, 0].tolist())


def test_record_makes_the_same_toy() -> None:
    toy = Toy("mixed", num_train=30, num_val=5, num_test=5, seed=4, holes=0.2)
    again = Toy(**toy.record["init_args"])
    np.testing.assert_array_equal(again.data("test").numeric, toy.data("test").numeric)


def test_wrong_toys_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown toy 'moons'; use one of two_moons"):
        Toy("moons")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_val must be at least 1, got 0"):
        Toy(num_val=0)
    with pytest.raises(ValueError, match="holes is a share of cells"):
        Toy("mixed", holes=1.0)
