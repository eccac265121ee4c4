"""The tokens codec: symbols that keep a number a density or the probability of its cell."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from codec_tables import tables
from hypothesis import given, settings

from genzoo.codecs import bin_spikes
from genzoo.codecs.bin_choice import choose_num_bins, marginal_log_likelihood
from genzoo.codecs.bin_fit import fit_bins
from genzoo.codecs.tokens import TokenCodec
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema


def batch_of(*numeric: np.ndarray, codes: np.ndarray | None = None) -> TableBatch:
    n = len(numeric[0]) if numeric else len(codes)  # type: ignore[arg-type]
    x = torch.tensor(np.stack(numeric, 1), dtype=torch.float64) if numeric else torch.zeros(n, 0, dtype=torch.float64)
    c = torch.zeros(n, 0, dtype=torch.int64) if codes is None else torch.tensor(codes, dtype=torch.int64)
    return TableBatch(x, c, torch.arange(n))


def fitted(column: Column, x: np.ndarray, **options: object) -> TokenCodec:
    codec = TokenCodec(Schema((column,), num_training_rows=len(x)), **options)  # type: ignore[arg-type]
    codec.fit(batch_of(x))
    return codec


def skewed(n: int = 500, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(size=n))


@pytest.mark.parametrize("shape", ["linear", "flat"])
@pytest.mark.parametrize("bounds", [{}, {"lower": 0.0}, {"lower": 0.0, "upper": 500.0}])
def test_density_within_each_bin_integrates_to_one(shape: str, bounds: dict[str, float]) -> None:
    codec = fitted(Column("x", "continuous", **bounds), skewed(), shape=shape)  # type: ignore[arg-type]
    # midpoints of a grid that is fine in the middle and logarithmic far out
    ends = np.concatenate([-np.geomspace(1e9, 1e-4, 60_000), np.geomspace(1e-4, 1e9, 400_000)])
    middle, width = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
    rows = codec.encode(batch_of(middle))
    density = torch.where(rows.outside, 0.0, rows.log_volume[:, 0].exp()) * torch.tensor(width)
    total = torch.zeros(codec.max_symbols, dtype=torch.float64).index_add(0, rows.tokens[:, 0], density)
    valid = codec.valid[0]
    assert total[~valid].sum() == 0
    torch.testing.assert_close(total[valid], torch.ones(int(valid.sum()), dtype=torch.float64), atol=5e-3, rtol=0)


@pytest.mark.parametrize("bounds", [{}, {"lower": 0.0}, {"lower": 0.0, "upper": 2000.0}])
@pytest.mark.parametrize("atoms", [(), (0.0, 40.0)])
@pytest.mark.parametrize("mean", [3, 60])
def test_cells_of_each_bin_sum_to_one_and_atoms_are_cut_out(
    bounds: dict[str, float], atoms: tuple[float, ...], mean: int
) -> None:
    x = np.random.default_rng(0).poisson(mean * np.random.default_rng(1).gamma(1.0, size=600)).astype(float)
    codec = fitted(Column("k", "quantized", step=1.0, atoms=atoms, **bounds), x, num_bins=8)  # type: ignore[arg-type]
    cells = np.arange(-200_000, 200_001, dtype=float)
    rows = codec.encode(batch_of(cells))
    mass = torch.where(rows.outside, 0.0, rows.log_volume[:, 0].exp())
    total = torch.zeros(codec.max_symbols, dtype=torch.float64).index_add(0, rows.tokens[:, 0], mass)
    valid = codec.valid[0]
    assert total[~valid].sum() == 0, "no cell falls into a bin that cannot be drawn"
    torch.testing.assert_close(total[valid], torch.ones(int(valid.sum()), dtype=torch.float64), atol=2e-3, rtol=0)
    for index, atom in enumerate(atoms):
        assert int(rows.tokens[cells == atom, 0]) == index


def test_few_grid_points_have_a_bin_each_and_add_no_volume() -> None:
    x = np.random.default_rng(0).integers(3, 15, 400).astype(float)
    codec = fitted(Column("k", "quantized", step=1.0), x)
    rows = codec.encode(batch_of(np.arange(3.0, 15.0)))
    assert len(set(rows.tokens[:, 0].tolist())) == 12
    np.testing.assert_allclose(rows.log_volume.numpy(), 0.0, atol=1e-12)


def test_a_value_with_the_rows_of_a_bin_gets_its_own_bin() -> None:
    rng = np.random.default_rng(0)
    x = np.where(rng.random(2000) < 0.2, 777.0, rng.integers(0, 5000, 2000)).astype(float)
    codec = fitted(Column("k", "quantized", step=1.0), x, num_bins=16)
    rows = codec.encode(batch_of(np.array([776.0, 777.0, 778.0])))
    assert len(set(rows.tokens[:, 0].tolist())) == 3
    assert float(rows.log_volume[1, 0]) == pytest.approx(0.0, abs=1e-12)


def tied(n: int = 1500, seed: int = 0) -> np.ndarray:
    """Whole numbers up to a million; seven rows in ten hold one of 60 of them, with unequal shares."""
    rng = np.random.default_rng(seed)
    few = np.random.default_rng(9).integers(0, 1_000_000, 60).astype(float)
    often = few[rng.choice(60, n, p=np.arange(1, 61) / (30 * 61))]
    return np.where(rng.random(n) < 0.7, often, np.floor(1_000_000 * rng.random(n)))


TIED = [{}, {"spacing": "uniform"}]


@pytest.mark.parametrize("options", TIED)
@pytest.mark.parametrize("atoms", [(), (0.0, 1000.0)])
def test_bins_with_frequent_values_still_sum_to_one(options: dict[str, str], atoms: tuple[float, ...]) -> None:
    x = np.append(tied() // 10, [1000.0] * 30)
    codec = fitted(Column("k", "quantized", step=1.0, atoms=atoms), x, num_bins=8, **options)
    assert int(codec.frequent.isfinite().sum()) > 30
    closed = np.arange(-1000, 101_000, dtype=float)  # and the tails to either side, ever coarser
    rows = codec.encode(batch_of(closed))
    total = torch.zeros(codec.max_symbols, dtype=torch.float64)
    total = total.index_add(0, rows.tokens[:, 0], rows.log_volume[:, 0].exp())
    symbols = codec.valid[0].nonzero()[:, 0]
    inner = symbols[(total[symbols] > 0) & (symbols != rows.tokens[0, 0]) & (symbols != rows.tokens[-1, 0])]
    assert len(inner) >= 8
    torch.testing.assert_close(total[inner], torch.ones(len(inner), dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.parametrize("options", TIED)
def test_frequent_values_are_drawn_as_often_as_they_are_scored(options: dict[str, str]) -> None:
    x = tied()
    codec = fitted(Column("k", "quantized", step=1.0), x, num_bins=8, **options)
    g = torch.Generator().manual_seed(0)
    draws = 40_000
    for token in codec.encode(batch_of(x)).tokens.unique().tolist():
        drawn = codec.decode(torch.full((draws, 1), token), torch.arange(draws), g)
        again = codec.encode(drawn)
        assert (again.tokens == token).all()
        values, place, counts = drawn.numeric[:, 0].unique(return_inverse=True, return_counts=True)
        often = torch.isin(values, codec.frequent[0])
        share = counts / draws
        scored = torch.zeros_like(values).index_copy(0, place, again.log_volume[:, 0].exp())
        error = (scored * (1 - scored) / draws).sqrt()
        assert ((share - scored).abs() <= 5 * error)[often].all()
        held = float(codec._within(torch.tensor([[token]]) - codec.slots[0].num_atoms, torch.tensor([0])).held)
        assert float(share[often].sum()) == pytest.approx(held, abs=5 * math.sqrt(0.25 / draws) + 1e-3)


@pytest.mark.parametrize("offset", [0.0, 1.0, 2.0**50, 2.0**50 + 1])
def test_draws_of_a_tail_stay_in_it_far_from_zero(offset: float) -> None:
    x = offset + np.random.default_rng(0).poisson(40, 500).astype(float)
    codec = fitted(Column("k", "quantized", step=1.0), x, num_bins=8)
    for token in (0, int(codec.used[0]) - 1):
        drawn = codec.decode(torch.full((50_000, 1), token), torch.arange(50_000), torch.Generator().manual_seed(1))
        assert (codec.encode(drawn).tokens == token).all()


@pytest.mark.parametrize("options", TIED)
def test_frequent_values_gain_on_new_rows_and_a_new_value_keeps_a_probability(options: dict[str, str]) -> None:
    codec, test = fitted(Column("k", "quantized", step=1.0), tied(), **options), batch_of(tied(seed=1))
    frequent = codec.encode(test).log_volume.mean()
    codec.frequent_share.zero_()
    assert float(frequent - codec.encode(test).log_volume.mean()) > 2
    only = fitted(Column("k", "quantized", step=1.0), np.repeat([3.0, 5e5, 9e5, 1e6], 50), num_bins=8, **options)
    rows = only.encode(batch_of(np.array([4.0, 123_456.0, 999_999.0])))
    assert (rows.log_volume > math.log(1e-6 / 201) - 1).all()


def test_shares_of_frequent_values_are_those_of_largest_likelihood() -> None:
    count, smooth = torch.tensor([9.0, 4.0, 30.0, 2.0]).double(), torch.tensor([0.2, 0.1, 0.01, 0.3]).double()
    bins, rows = torch.tensor([0, 0, 1, 1]), torch.tensor([20.0, 33.0]).double()
    share = bin_spikes.fit_shares(count, smooth, bins, rows).requires_grad_()
    rest = 1 - torch.zeros(2, dtype=torch.float64).index_add(0, bins, share)
    others = rows - torch.zeros(2, dtype=torch.float64).index_add(0, bins, count) + bin_spikes.NEW_ROWS
    likelihood = (count * (share + rest[bins] * smooth).log()).sum() + (others * rest.log()).sum()
    (slope,) = torch.autograd.grad(likelihood, share)
    kept = share > 1e-6
    assert kept.sum() >= 3
    assert slope[kept].abs().max() < 1e-3
    assert (slope[~kept] < 0).all(), "a value that the shape explains needs no share"


@pytest.mark.parametrize("kind", ["continuous", "quantized", "tied", "mixed"])
def test_a_table_in_units_1024_times_as_fine_has_the_same_symbols_bit_by_bit(kind: str) -> None:
    x = np.round(skewed(400, 3) * 40) if kind == "quantized" else tied(400) if kind == "tied" else skewed(400, 3)
    x[:100] = 0.0
    kind = "quantized" if kind == "tied" else kind

    def made(factor: float) -> TokenCodec:
        extra: dict[str, object] = {"step": factor, "origin": factor} if kind == "quantized" else {}
        atoms = (0.0,) if kind == "mixed" else ()
        return fitted(Column("x", kind, atoms=atoms, **extra), x * factor)  # type: ignore[arg-type]

    one, other = made(1.0), made(1024.0)
    probe = np.concatenate([x, [-5.0, 1e6, 123.0]])
    first, second = one.encode(batch_of(probe)), other.encode(batch_of(probe * 1024))
    assert torch.equal(first.tokens, second.tokens)
    dense = (~torch.isin(torch.tensor(probe), torch.zeros(1))).double() if kind == "mixed" else torch.ones(len(probe))
    shift = 0.0 if kind == "quantized" else math.log(1024)
    torch.testing.assert_close(
        second.log_volume[:, 0], first.log_volume[:, 0] - shift * dense.double(), atol=1e-11, rtol=1e-14
    )


@pytest.mark.parametrize("kind", ["continuous", "quantized"])
def test_draws_within_bins_follow_the_density_that_is_scored(kind: str) -> None:
    x = np.round(skewed(300, 1) * 50) if kind == "quantized" else skewed(300, 1)
    codec = fitted(Column("x", kind, step=1.0 if kind == "quantized" else None), x, num_bins=8)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(0)
    draws = 20_000
    for token in codec.valid[0].nonzero()[:, 0].tolist():
        drawn = codec.decode(torch.full((draws, 1), token), torch.arange(draws), g)
        again = codec.encode(drawn)
        assert (again.tokens == token).all()
        # the mean of 1 / p over draws from p, counted within a set, is the volume of the set: here between quantiles
        values = drawn.numeric[:, 0]
        a, b = values.quantile(0.2), values.quantile(0.8)
        chosen = (values > a) & (values <= b)
        volume = float((torch.where(chosen, (-again.log_volume[:, 0]).exp(), 0.0)).mean())
        assert volume == pytest.approx(float(b - a), rel=0.06, abs=1e-9)


def test_holes_atoms_and_missing_values_have_their_symbols() -> None:
    schema = Schema(
        (
            Column("m", "mixed", atoms=(0.0,)),
            Column("v", "continuous", missing="value"),
            Column("c", "categorical", categories=("a", "b"), missing="value"),
        ),
        num_training_rows=50,
    )
    x, v = skewed(50), skewed(50, 2)
    codec = TokenCodec(schema)
    codec.fit(batch_of(x, v, codes=np.zeros((50, 1))))
    rows = codec.encode(batch_of(np.array([0.0, np.nan]), np.array([np.nan, 1.0]), codes=np.array([[2], [-1]])))
    assert rows.tokens[0].tolist() == [0, 0, 2]
    assert rows.tokens[1, 0] == -1
    assert rows.tokens[1, 2] == -1
    assert rows.log_volume[0].tolist() == [0.0, 0.0, 0.0]
    back = codec.decode(rows.tokens, rows.rows, torch.Generator().manual_seed(0))
    assert back.numeric[0, 0] == 0.0
    assert math.isnan(back.numeric[0, 1])
    assert math.isnan(back.numeric[1, 0])


def test_values_beyond_declared_bounds_mark_their_row_and_values_far_out_do_not() -> None:
    codec = fitted(Column("x", "continuous", lower=0.0), skewed())
    rows = codec.encode(batch_of(np.array([-0.1, 0.0, 1e12])))
    assert rows.outside.tolist() == [True, False, False]
    assert torch.isfinite(rows.log_volume).all()


def test_shapes_depend_on_the_schema_alone() -> None:
    column = Column("x", "continuous")
    few, many = fitted(column, np.ones(3), num_bins=20), fitted(column, skewed(4000), num_bins=20)
    shapes = [{name: buffer.shape for name, buffer in codec.state_dict().items()} for codec in (few, many)]
    assert shapes[0] == shapes[1]


def test_bins_hold_equal_shares_of_the_rows() -> None:
    x = skewed(6400)
    bins = fit_bins(x, 32, grid=False)
    counts, _ = np.histogram(x, bins.edges)
    assert len(counts) == 32
    assert abs(counts - 200).max() <= 200 * 0.05


def test_linear_bins_describe_new_rows_better_than_flat_ones() -> None:
    train, test = (np.random.default_rng(s).normal(size=n) for s, n in ((0, 2000), (1, 20_000)))
    score = {}
    for shape in ("linear", "flat"):
        codec = fitted(Column("x", "continuous"), train, num_bins=16, shape=shape)
        share = torch.bincount(codec.encode(batch_of(train)).tokens[:, 0], minlength=16) / len(train)
        rows = codec.encode(batch_of(test))
        score[shape] = float((share[rows.tokens[:, 0]].log() + rows.log_volume[:, 0]).mean())
    assert score["linear"] > score["flat"] + 0.0005
    assert score["linear"] > -0.5 * math.log(2 * math.pi * math.e) - 0.02


def test_the_number_of_bins_grows_with_the_rows_and_is_the_best_on_held_out_ones() -> None:
    def rough(n: int, seed: int) -> TableBatch:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=n) / 8 + rng.integers(0, 8, n)  # eight narrow bumps
        return batch_of(x)

    schema = Schema((Column("x", "continuous"),))
    held_out = rough(3000, 9)
    few, many = (choose_num_bins(schema, rough(n, 1), held_out) for n in (150, 8000))
    assert few < many
    best = marginal_log_likelihood(schema, many, rough(8000, 1), held_out)
    assert best > marginal_log_likelihood(schema, 8, rough(8000, 1), held_out) + 0.1
    true = np.exp(-((held_out.numeric.numpy() - np.arange(8)) ** 2) * 32).sum(1) / math.sqrt(2 * math.pi)
    assert float(np.log(true).mean()) - 0.1 < best < float(np.log(true).mean())


@settings(max_examples=40)
@given(tables())
def test_any_table_is_encoded_and_decoded_into_the_same_symbols(table: tuple[Schema, TableBatch]) -> None:
    schema, batch = table
    if not schema.scored:
        return
    codec = TokenCodec(schema)
    codec.fit(batch)
    rows = codec.encode(batch)
    assert torch.isfinite(rows.log_volume).all()
    valid = codec.valid
    observed = rows.tokens >= 0
    inside = observed & ~rows.outside[:, None]
    slots = torch.arange(codec.num_slots).expand_as(rows.tokens)
    assert valid[slots[inside], rows.tokens[inside]].all()
    assert (rows.tokens < torch.tensor([s.num_symbols for s in codec.slots])).all()
    back = codec.decode(rows.tokens, batch.rows, torch.Generator().manual_seed(0), context=batch)
    again = codec.encode(back)
    assert torch.equal(again.tokens[~rows.outside], rows.tokens[~rows.outside])
    assert torch.equal(again.context, rows.context)
