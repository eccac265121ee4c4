"""Evaluation noise depends on the seed and the row number alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from genzoo.likelihood.noise import BLOCK, RowNoise, seed_of

DRAWS = ["uniform", "normal"]


def noise(rows, seed=0, kind="normal", stream="a", shape=(3,)) -> torch.Tensor:
    return getattr(RowNoise(seed, torch.as_tensor(rows, dtype=torch.int64)), kind)(*shape, stream=stream)


@settings(max_examples=30)
@given(st.lists(st.integers(-5000, 2**40), min_size=1, max_size=30), st.randoms(), st.sampled_from(DRAWS))
def test_a_row_sees_the_same_draws_in_any_batch_and_any_order(rows, random, kind):
    whole = noise(rows, kind=kind)
    order = list(range(len(rows)))
    random.shuffle(order)
    torch.testing.assert_close(noise([rows[i] for i in order], kind=kind), whole[order], rtol=0, atol=0)
    for i in order[:3]:
        torch.testing.assert_close(noise([rows[i]], kind=kind), whole[i : i + 1], rtol=0, atol=0)


def test_seed_stream_row_and_kind_of_noise_each_change_the_draws():
    rows = list(range(4))
    base = noise(rows, kind="uniform")
    others = [
        noise(rows, kind="uniform", seed=1),
        noise(rows, kind="uniform", stream="b"),
        noise([r + BLOCK for r in rows], kind="uniform"),
        torch.special.ndtr(noise(rows)),
    ]
    for other in others:
        assert not torch.isclose(base, other).any()
    assert not torch.isclose(noise(rows), noise(rows, stream="b")).any()
    assert len(torch.unique(base)) == base.numel()


@pytest.mark.parametrize("kind", DRAWS)
def test_draws_have_their_distribution_and_neighbouring_rows_are_independent(kind):
    drawn = noise(np.arange(20_000), kind=kind, shape=()).numpy()
    # Kolmogorov-Smirnov at p = 1e-4 and a correlation within 4 / sqrt(n): false alarm about 2e-4 for a random seed.
    assert stats.kstest(drawn, "norm" if kind == "normal" else "uniform").pvalue > 1e-4
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 4 / np.sqrt(20_000)


def test_uniform_draws_stay_off_both_ends():
    drawn = noise(np.arange(50_000), kind="uniform")
    assert drawn.dtype == torch.float64
    assert float(drawn.min()) > 0
    assert float(drawn.max()) < 1


def test_global_random_state_is_left_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    noise([1, 2, 3])
    torch.testing.assert_close(torch.rand(3), expected)


def test_no_rows_give_no_noise():
    assert noise([]).shape == (0, 3)


def test_seeds_are_the_same_on_every_machine_and_differ_between_parts():
    assert seed_of(0, "a", 1) == 8342431607888760756  # first 63 bits of sha256("0/a/1"), little endian
    assert (
        len({seed_of(0, "a", 1), seed_of(0, "a", 2), seed_of(1, "a", 1), seed_of(0, "b", 1), seed_of("0/a", 11)}) == 5
    )
    assert 0 <= seed_of("x") < 2**63
