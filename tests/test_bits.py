"""The bits codec: symbols as binary numbers, uniform bins with tails, codes that stand for nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from codec_tables import tables
from hypothesis import given, settings

from genzoo.codecs.bits import BitCodec
from genzoo.codecs.tokens import TokenCodec
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema


def batch_of(*numeric: np.ndarray, codes: np.ndarray | None = None) -> TableBatch:
    n = len(numeric[0]) if numeric else len(codes)  # type: ignore[arg-type]
    x = torch.tensor(np.stack(numeric, 1), dtype=torch.float64) if numeric else torch.zeros(n, 0, dtype=torch.float64)
    c = torch.zeros(n, 0, dtype=torch.int64) if codes is None else torch.tensor(codes, dtype=torch.int64)
    return TableBatch(x, c, torch.arange(n))


def uniform_codec(column: Column, x: np.ndarray, num_bins: int, finest: bool = False) -> TokenCodec:
    codec = TokenCodec(Schema((column,)), num_bins={column.name: num_bins}, spacing="uniform", finest=finest)
    codec.fit(batch_of(x))
    return codec


def fitted(column: Column, x: np.ndarray, **options: object) -> BitCodec:
    codec = BitCodec(Schema((column,), num_training_rows=len(x)), **options)  # type: ignore[arg-type]
    codec.fit(batch_of(x))
    return codec


def skewed(n: int = 2000, seed: int = 0) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(size=n))


@pytest.mark.parametrize("finest", [True, False])
@pytest.mark.parametrize("bounds", [{}, {"lower": 0.0}, {"lower": 0.0, "upper": 100.0}])
def test_density_within_each_uniform_bin_integrates_to_one(finest: bool, bounds: dict[str, float]) -> None:
    codec = uniform_codec(Column("x", "continuous", **bounds), skewed(), 32, finest)  # type: ignore[arg-type]
    ends = np.concatenate([-np.geomspace(1e12, 1e-4, 60_000), np.geomspace(1e-4, 1e12, 600_000)])
    middle, width = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
    rows = codec.encode(batch_of(middle))
    density = torch.where(rows.outside, 0.0, rows.log_volume[:, 0].exp()) * torch.tensor(width)
    total = torch.zeros(codec.max_symbols, dtype=torch.float64).index_add(0, rows.tokens[:, 0], density)
    valid = codec.valid[0]
    assert total[~valid].sum() == 0
    torch.testing.assert_close(total[valid], torch.ones(int(valid.sum()), dtype=torch.float64), atol=5e-3, rtol=0)


@pytest.mark.parametrize("bounds", [{}, {"lower": 0.0, "upper": 3000.0}])
@pytest.mark.parametrize("atoms", [(), (0.0, 40.0)])
@pytest.mark.parametrize("mean", [3, 60])
def test_cells_of_each_uniform_bin_sum_to_one_and_atoms_are_cut_out(
    bounds: dict[str, float], atoms: tuple[float, ...], mean: int
) -> None:
    x = np.random.default_rng(0).poisson(mean * np.random.default_rng(1).gamma(1.0, size=3000)).astype(float)
    column = Column("k", "quantized", step=1.0, atoms=atoms, **bounds)  # type: ignore[arg-type]
    codec = uniform_codec(column, x, 24)
    cells = np.arange(-300_000, 300_001, dtype=float)
    rows = codec.encode(batch_of(cells))
    mass = torch.where(rows.outside, 0.0, rows.log_volume[:, 0].exp())
    total = torch.zeros(codec.max_symbols, dtype=torch.float64).index_add(0, rows.tokens[:, 0], mass)
    valid = codec.valid[0]
    assert total[~valid].sum() == 0, "no cell falls into a bin that holds nothing"
    torch.testing.assert_close(total[valid], torch.ones(int(valid.sum()), dtype=torch.float64), atol=3e-3, rtol=0)
    for index, atom in enumerate(atoms):
        assert int(rows.tokens[cells == atom, 0]) == index


@pytest.mark.parametrize("kind", ["continuous", "quantized"])
def test_draws_within_uniform_bins_follow_the_probability_that_is_scored(kind: str) -> None:
    x = np.round(skewed(800, 1) * 50) if kind == "quantized" else skewed(800, 1)
    atoms = (20.0, 33.0) if kind == "quantized" else ()
    column = Column("x", kind, step=1.0 if kind == "quantized" else None, atoms=atoms)  # type: ignore[arg-type]
    codec = uniform_codec(column, x, 16)
    g = torch.Generator().manual_seed(0)
    for token in codec.valid[0].nonzero()[len(atoms) :, 0].tolist():
        drawn = codec.decode(torch.full((4000, 1), token), torch.arange(4000), g)
        again = codec.encode(drawn)
        assert (again.tokens == token).all()
        values = drawn.numeric[:, 0]
        a, b = values.quantile(0.2), values.quantile(0.8)
        chosen = (values > a) & (values <= b)
        volume = float((torch.where(chosen, (-again.log_volume[:, 0]).exp(), 0.0)).mean())
        skipped = sum(float(a) < atom <= float(b) for atom in atoms)
        assert volume == pytest.approx(float(b - a) - skipped, rel=0.1, abs=1e-9)


@pytest.mark.parametrize("spacing", ["quantile", "uniform"])
@pytest.mark.parametrize("kind", ["continuous", "quantized", "mixed"])
def test_all_codes_equally_likely_leave_exactly_the_mass_of_those_that_mean_something(spacing: str, kind: str) -> None:
    x = np.round(skewed(500, 2) * 4) if kind == "quantized" else skewed(500, 2)
    x[:60] = 0.0
    column = Column("x", kind, step=1.0 if kind == "quantized" else None, atoms=(0.0,) if kind == "mixed" else ())  # type: ignore[arg-type]
    codec = fitted(column, x, spacing=spacing, num_bits=6)
    width = codec.needed_widths()[0]
    codes = torch.arange(2**width)
    bits = (codes[:, None] >> torch.arange(codec.num_bits - 1, -1, -1)) & 1
    good = codec.meaningful(bits)[:, 0]
    symbols = codec.symbols(bits)[:, 0]
    assert symbols.unique().tolist() == codes.tolist(), "every code is some symbol"
    if kind == "quantized":
        cells = np.arange(-200_000, 200_001, dtype=float)
        rows = codec.encode(batch_of(cells))
        mass = float(rows.log_volume[:, 0].exp().sum()) / 2**width
        assert mass == pytest.approx(float(good.double().mean()), abs=2e-3)
    else:
        assert 0.5 < float(good.double().mean()) <= 1.0
        probe = np.concatenate([x, [-1e9, 1e9]])
        rows = codec.encode(batch_of(probe))
        assert codec.meaningful(rows.bits)[:, 0].all()


def test_gray_codes_of_neighbouring_bins_differ_in_one_bit() -> None:
    x = skewed()
    ordered = np.sort(x)
    for gray, most in ((True, 1), (False, 6)):
        codec = fitted(Column("x", "continuous"), x, num_bits=6, gray=gray)
        bits = codec.encode(batch_of(ordered)).bits
        change = (bits[1:] != bits[:-1]).sum(1)
        assert int(change.max()) == most
        assert int((change > 0).sum()) == int(codec.tokens.used[0]) - 1


def test_values_beyond_the_training_rows_keep_their_distance_instead_of_being_clipped() -> None:
    x = np.linspace(1.0, 2.0, 1000)
    codec = fitted(Column("x", "continuous"), x, spacing="uniform", num_bits=6)
    rows = codec.encode(batch_of(np.array([-3.0, -300.0, 5.0, 500.0])))
    assert torch.equal(rows.bits[0], rows.bits[1])
    assert torch.equal(rows.bits[2], rows.bits[3])
    assert not torch.equal(rows.bits[0], rows.bits[2])
    assert rows.log_volume[0] > rows.log_volume[1] + 1
    assert rows.log_volume[2] > rows.log_volume[3] + 1
    back = codec.decode(rows.bits, rows.rows, torch.Generator().manual_seed(0)).numeric[:, 0]
    assert (back[:2] < 1.01).all()
    assert (back[2:] > 1.99).all()


def test_a_column_takes_as_many_bits_as_its_rows_resolve() -> None:
    coarse = np.random.default_rng(0).integers(0, 9, 3000).astype(float)
    needed = {
        "nine values": fitted(Column("x", "quantized", step=1.0), coarse, spacing="uniform").needed_widths()[0],
        "flat": fitted(Column("x", "continuous"), np.random.default_rng(0).random(3000), spacing="uniform"),
        "heavy tail": fitted(Column("x", "continuous"), skewed(3000) ** 3, spacing="uniform"),
    }
    flat, heavy = needed["flat"].needed_widths()[0], needed["heavy tail"].needed_widths()[0]  # type: ignore[union-attr]
    assert needed["nine values"] == 4
    assert 4 <= flat <= 5
    assert flat + 3 < heavy <= 12
    full = fitted(Column("x", "continuous"), skewed(), spacing="uniform", num_bits=20, finest=True)
    assert full.needed_widths() == [20]


def test_one_more_bit_on_a_flat_column_leaves_the_density_of_even_codes_where_it_is() -> None:
    x = np.random.default_rng(0).random(5000)
    column = Column("x", "continuous")

    def density(num_bits: int) -> float:
        codec = fitted(column, x, spacing="uniform", num_bits=num_bits, finest=True)
        rows = codec.encode(batch_of(x))
        return float((rows.log_volume[:, 0] - num_bits * math.log(2)).mean())

    assert density(12) == pytest.approx(density(11), abs=1e-3)
    assert density(12) == pytest.approx(0.0, abs=1e-3)


def test_thirty_two_bits_bring_a_number_back_to_a_billionth_of_the_range() -> None:
    x = skewed()
    codec = fitted(Column("x", "continuous"), x, spacing="uniform", num_bits=32, finest=True, gray=False)
    rows = codec.encode(batch_of(x))
    back = codec.decode(rows.bits, rows.rows, torch.Generator().manual_seed(0)).numeric[:, 0].numpy()
    inside = (x > x.min()) & (x < x.max())
    np.testing.assert_allclose(back[inside], x[inside], atol=(x.max() - x.min()) * 2.0**-31)


@pytest.mark.parametrize("kind", ["continuous", "quantized", "mixed"])
def test_a_table_in_units_1024_times_as_fine_has_the_same_bits(kind: str) -> None:
    x = np.round(skewed(400, 3) * 40) if kind == "quantized" else skewed(400, 3)
    x[:100] = 0.0

    def made(factor: float) -> BitCodec:
        extra: dict[str, object] = {"step": factor, "origin": factor} if kind == "quantized" else {}
        atoms = (0.0,) if kind == "mixed" else ()
        return fitted(Column("x", kind, atoms=atoms, **extra), x * factor, spacing="uniform", num_bits=7)  # type: ignore[arg-type]

    one, other = made(1.0), made(1024.0)
    probe = np.concatenate([x, [-5.0, 1e6, 123.0]])
    assert torch.equal(one.encode(batch_of(probe)).bits, other.encode(batch_of(probe * 1024)).bits)


def test_holes_and_leading_bits_without_use_are_pinned() -> None:
    schema = Schema(
        (
            Column("k", "quantized", step=1.0),
            Column("c", "categorical", categories=("a", "b", "c", "d", "e")),
            Column("one", "categorical", categories=("x",)),
            Column("g", "categorical", role="context", categories=("u", "v")),
        )
    )
    codec = BitCodec(schema, num_bits=6)
    assert codec.num_bits == 6 + 3
    k = np.random.default_rng(0).integers(0, 5, 200).astype(float)
    codec.fit(batch_of(k, codes=np.zeros((200, 3))))
    assert codec.needed_widths() == [3, 3, 0]
    rows = codec.encode(batch_of(np.array([2.0, np.nan]), codes=np.array([[-1, 0, 1], [4, 0, -1]])))
    assert rows.bits[0].tolist()[:3] == [-1, -1, -1]
    assert (rows.bits[0, 3:6] >= 0).all()
    assert (rows.bits[0, 6:] == -1).all()
    assert (rows.bits[1, :6] == -1).all()
    assert rows.context.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    gone = codec.without_context(rows.context, torch.tensor([True, False]))
    assert gone.tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_shapes_depend_on_the_schema_alone() -> None:
    column = Column("x", "continuous")
    for spacing in ("quantile", "uniform"):
        few = fitted(column, np.ones(3), num_bits=5, spacing=spacing)
        many = fitted(column, skewed(4000), num_bits=5, spacing=spacing)
        shapes = [{name: buffer.shape for name, buffer in codec.state_dict().items()} for codec in (few, many)]
        assert shapes[0] == shapes[1]


def test_too_few_or_too_many_bits_are_refused() -> None:
    schema = Schema((Column("x", "continuous"),))
    with pytest.raises(ValueError, match="num_bits must be from 3 to 16 with quantile"):
        BitCodec(schema, num_bits=20)
    with pytest.raises(ValueError, match="num_bits must be from 3 to 40 with uniform"):
        BitCodec(schema, num_bits=2, spacing="uniform")
    with pytest.raises(ValueError, match="spacing must be"):
        TokenCodec(schema, spacing="even")


@pytest.mark.parametrize("spacing", ["quantile", "uniform"])
@settings(max_examples=30)
@given(tables())
def test_any_table_comes_back_from_its_bits(spacing: str, table: tuple[Schema, TableBatch]) -> None:
    schema, batch = table
    if not schema.scored:
        return
    codec = BitCodec(schema, spacing=spacing)  # type: ignore[arg-type]
    codec.fit(batch)
    rows, tokens = codec.encode(batch), codec.tokens.encode(batch)
    assert torch.isfinite(rows.log_volume).all()
    known = (tokens.tokens >= 0) & ~rows.outside[:, None]
    assert torch.equal(codec.symbols(rows.bits)[known], tokens.tokens[known])
    assert codec.meaningful(rows.bits)[known].all()
    back = codec.decode(rows.bits, batch.rows, torch.Generator().manual_seed(0), context=batch)
    again = codec.tokens.encode(back).tokens
    assert torch.equal(again[known], tokens.tokens[known])
    random = torch.randint(0, 2, rows.bits.shape, generator=torch.Generator().manual_seed(1))
    drawn = codec.decode(random, batch.rows, torch.Generator().manual_seed(0), context=batch)
    assert not torch.isinf(drawn.numeric).any(), "codes that stand for nothing become something nearby"


def test_the_largest_row_at_a_declared_end_is_in_a_closed_bin() -> None:
    upper = 2250.069112225179
    schema = Schema((Column("x", "continuous", storage="float", upper=upper, missing="value"),))
    for seed in range(120):  # a few of these widths, times their number, fall short of the end
        x = np.append(np.random.default_rng(seed).normal(size=31) * 900, upper)
        x = x[x <= upper]
        rows = torch.arange(len(x))
        batch = TableBatch(torch.tensor(x)[:, None], torch.zeros(len(x), 0, dtype=torch.int64), rows)
        codec = BitCodec(schema, spacing="uniform")
        codec.fit(batch)
        encoded = codec.encode(batch)
        assert codec.meaningful(encoded.bits).all()
        assert (encoded.log_volume < 0).all(), "a bin is wider than a unit here"
