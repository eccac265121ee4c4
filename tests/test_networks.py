"""Networks of the discrete models: over a block with one vocabulary, over a whole row, and which one is chosen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from genzoo import load
from genzoo.codecs.tokens import TokenCodec
from genzoo.diffusion.categorical import masked_log_softmax
from genzoo.models.discrete.gidd import GIDD
from genzoo.models.discrete.multinomial_diffusion import MultinomialDiffusion
from genzoo.models.discrete.radd import RADD
from genzoo.models.discrete.token_rows import build_network, chosen_network, log_marginals
from genzoo.networks.logistic import LogisticTerm
from genzoo.networks.residual import SymbolMLP
from genzoo.networks.symbols import Vocabulary
from genzoo.networks.text import TextTransformer
from genzoo.networks.transformer import Layer, TableTransformer, rotation, turned
from genzoo.tables.batch import TableBatch
from genzoo.tables.schema import Column, Schema

LENGTH = 12
COLUMNS = (Vocabulary(3), Vocabulary(12, 10), Vocabulary(2), Vocabulary(16, 16))
CONTEXT = (Vocabulary(4), Vocabulary(9, 9))


def scattered(network: torch.nn.Module) -> torch.nn.Module:
    """The network away from its start, where the scores are zero."""
    for parameter in network.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return network.eval()


def text_network(time: bool = False, placed: bool = False, causal: bool = False) -> TextTransformer:
    torch.manual_seed(0)
    network = TextTransformer(Vocabulary(5), LENGTH, CONTEXT, 16, 2, 2, 0.0, 2, time, placed, causal)
    scattered(network)
    return network


def row_network(time: bool = False, logistic: bool = False) -> SymbolMLP:
    torch.manual_seed(0)
    network = SymbolMLP(COLUMNS, CONTEXT, width=16, num_layers=2, num_special=2, time=time, logistic=logistic)
    scattered(network)
    return network


def row_network_and_term(time: bool = False) -> SymbolMLP:
    return row_network(time, logistic=True)


def text_rows(batch: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    tokens = torch.randint(-2, 5, (batch, LENGTH), generator=g)
    return tokens, context_rows(batch, g), torch.rand(batch, generator=g)


def table_rows(batch: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    tokens = torch.stack([torch.randint(-2, v.size, (batch,), generator=g) for v in COLUMNS], 1)
    return tokens, context_rows(batch, g), torch.rand(batch, generator=g)


def context_rows(batch: int, generator: torch.Generator) -> Tensor:
    return torch.stack([torch.randint(-1, v.size, (batch,), generator=generator) for v in CONTEXT], 1)


def text_schema(
    length: int = LENGTH, symbols: int = 4, kind: str = "categorical", shape: tuple[int, ...] = ()
) -> Schema:
    words = tuple("abcdefgh"[:symbols])
    column = Column("text", kind, categories=words, closed=True, shape=shape or (length,), storage="text")  # type: ignore[arg-type]
    return Schema((column,), num_training_rows=200)


def block_batch(schema: Schema, num_rows: int = 64, holes: bool = False) -> TableBatch:
    g = torch.Generator().manual_seed(2)
    width, symbols = schema.columns[0].width, schema.columns[0].num_categories
    codes = torch.randint(0, symbols, (num_rows, width), generator=g)
    if holes:
        codes[torch.rand(codes.shape, generator=g) < 0.2] = -1
    return TableBatch(torch.zeros(num_rows, 0, dtype=torch.float64), codes, torch.arange(num_rows))


# ---- one graph, one arithmetic -------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [False, True])
@pytest.mark.parametrize("made", [text_network, row_network, row_network_and_term])
def test_compiles_into_one_graph_with_equal_scores(made, time: bool) -> None:  # type: ignore[no-untyped-def]
    network = made(time)
    tokens, context, clock = text_rows() if made is text_network else table_rows()
    arguments = (tokens, context, clock) if time else (tokens, context)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), network(*arguments))


@pytest.mark.parametrize("made", [text_network, row_network, row_network_and_term])
def test_half_precision_is_near_single_and_log_probabilities_are_single(made) -> None:  # type: ignore[no-untyped-def]
    network = made(True)
    rows = text_rows() if made is text_network else table_rows()
    with torch.no_grad():
        exact = network(*rows)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half = network(*rows)
    valid = torch.ones(exact.shape[1:], dtype=torch.bool)
    log_probs = masked_log_softmax(half, valid)
    assert half.dtype == torch.bfloat16
    assert log_probs.dtype == torch.float32
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(exact.shape[:2]), atol=1e-6, rtol=0)
    assert float((half.float() - exact).abs().mean()) < 0.02 * float(exact.abs().mean())


@pytest.mark.parametrize("made", [text_network, row_network, row_network_and_term])
def test_every_parameter_gets_a_gradient(made) -> None:  # type: ignore[no-untyped-def]
    network = made(True)
    rows = text_rows() if made is text_network else table_rows()
    network(*rows).square().mean().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert (parameter.grad != 0).any(), name


# ---- the text transformer ------------------------------------------------------------------------------------------


def test_rotated_products_depend_on_the_distance_alone() -> None:
    torch.manual_seed(0)
    one = torch.randn(1, 1, 3, 1, 8, dtype=torch.float64).expand(1, 9, 3, 1, 8)
    q, k, v = turned(one, rotation(9, 8))[0, :, :, 0].unbind(1)
    product = q @ k.T
    for distance in range(-8, 9):
        diagonal = torch.diagonal(product, distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-6, rtol=0)
    assert float(product.std()) > 1e-3
    torch.testing.assert_close(v, one[0, :, 2, 0])


def test_weights_of_one_length_serve_another() -> None:
    torch.manual_seed(0)
    long = TextTransformer(Vocabulary(5), 8, width=16, num_layers=1, num_heads=2)
    scattered(long)
    short = TextTransformer(Vocabulary(5), 4, width=16, num_layers=1, num_heads=2).eval()
    short.load_state_dict(long.state_dict())
    word = torch.tensor([[0, 3, 1, 4]])
    torch.testing.assert_close(short(word), long(word))


def test_number_of_weights_does_not_grow_with_the_length_unless_placed() -> None:
    def size(length: int, placed: bool) -> int:
        network = TextTransformer(Vocabulary(27), length, width=16, num_layers=1, num_heads=2, placed=placed)
        return sum(p.numel() for p in network.parameters())

    assert size(8, False) == size(512, False)
    assert size(512, True) == size(8, True) + 504 * (16 + 27)


def attention_at_the_start(network: TextTransformer, place: int) -> Tensor:
    """Weights ``(heads, length)`` that a cell gives to each cell by the biases of the first layer alone."""
    layer = network.layers[0]
    assert isinstance(layer, Layer)
    bias = layer.qkv.bias.detach().reshape(1, 1, 3, layer.num_heads, -1)
    q, k, v = turned(bias.expand(1, len(network.rotation), -1, -1, -1), network.rotation)[0].unbind(1)
    assert (v == 0).all()
    return (torch.einsum("hd,mhd->hm", q[place], k) / math.sqrt(q.shape[-1])).softmax(-1)


def test_each_head_starts_at_one_neighbour() -> None:
    def offsets(**more: object) -> list[int]:
        network = TextTransformer(Vocabulary(5), 64, width=128, num_layers=1, **more)  # type: ignore[arg-type]
        weight, place = attention_at_the_start(network, 30).max(-1)
        assert float(weight.min()) > 0.45
        return (place - 30).tolist()

    assert offsets() == [-1, 1, -2, 2]
    assert offsets(num_heads=2) == [-1, 1]
    assert offsets(causal=True) == [-1, -2, -3, -4]
    assert offsets(placed=True, axes=(1, 8)) == [-1, 1, -8, 8]


def test_a_text_network_leaves_the_frequencies_of_its_symbols_at_once() -> None:
    """A masked cell follows from its neighbours, which attention that starts even over 64 cells finds much later."""

    def learned(looking: bool) -> float:
        torch.manual_seed(0)
        network = TextTransformer(Vocabulary(8), 64, width=32, num_layers=2, num_heads=2)
        if not looking:
            for name, parameter in network.named_parameters():
                if name.endswith("qkv.bias"):
                    parameter.data.zero_()
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        losses = []
        for _ in range(50):
            word = torch.randint(8, (16, 64))
            for i in range(1, 64):
                word[:, i] = torch.where(torch.rand(16) < 0.9, (5 * word[:, i - 1] + 1) % 8, word[:, i])
            masked = torch.rand(16, 64) < 0.3
            scores = network(word.masked_fill(masked, -1))
            loss = torch.nn.functional.cross_entropy(scores[masked], word[masked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return sum(losses[-5:]) / 5

    assert learned(True) < 0.4 * math.log(8)
    assert learned(False) > 0.8 * math.log(8)


def test_a_causal_network_reads_only_what_comes_before() -> None:
    network = text_network(causal=True)
    tokens, _, _ = text_rows()
    base = network(tokens)
    other = tokens.clone()
    other[:, 7] = (tokens[:, 7].clamp(min=0) + 1) % 5
    changed = (network(other) - base).abs().amax((0, 2)) > 1e-6
    assert changed.tolist() == [place >= 7 for place in range(LENGTH)]


def test_text_scores_start_at_the_pooled_marginals_and_placed_ones_at_each_cells_own() -> None:
    schema = text_schema()
    batch = block_batch(schema)
    codec = TokenCodec(schema)
    tokens = codec.encode(batch).tokens
    marginals = log_marginals(codec, tokens)
    plain = TextTransformer(Vocabulary(4), LENGTH, width=16, num_layers=1, num_heads=2)
    plain.head.start_at(marginals)
    pooled = marginals.exp().mean(0)
    torch.testing.assert_close(plain(tokens)[0, 3].softmax(-1).double(), pooled, atol=1e-6, rtol=0)
    placed = TextTransformer(Vocabulary(4), LENGTH, width=16, num_layers=1, num_heads=2, placed=True)
    placed.head.start_at(marginals)
    torch.testing.assert_close(placed(tokens)[0].softmax(-1).double(), marginals.exp(), atol=1e-6, rtol=0)


# ---- the perceptron over a row -------------------------------------------------------------------------------------


def test_row_scores_are_zero_at_the_start_and_beyond_a_vocabulary() -> None:
    tokens, context, _ = table_rows()
    torch.manual_seed(0)
    assert (SymbolMLP(COLUMNS, CONTEXT, width=16, num_special=2)(tokens, context) == 0).all()
    scores = row_network()(tokens, context)
    for column, vocabulary in enumerate(COLUMNS):
        assert (scores[:, column, vocabulary.size :] == 0).all()
        assert (scores[:, column, : vocabulary.size] != 0).all()


def test_every_cell_and_context_of_a_row_is_read_and_holes_differ_from_masks() -> None:
    network = row_network()
    tokens, context, _ = table_rows()
    base = network(tokens, context)
    for column in range(len(COLUMNS)):
        for symbol in (-2, -1, 0, 1):
            other = tokens.clone()
            other[:, column] = symbol
            differs = tokens[:, column] != symbol
            assert ((network(other, context) - base).abs().amax((1, 2)) > 1e-6).tolist() == differs.tolist()
    for column in range(len(CONTEXT)):
        other = context.clone()
        other[:, column] = torch.where(context[:, column] == 0, 1, 0)
        assert ((network(tokens, other) - base).abs().amax((1, 2)) > 1e-6).all()


def test_the_sum_of_symbol_vectors_is_the_product_with_indicators() -> None:
    from genzoo.networks.residual import indicators
    from genzoo.networks.symbols import SymbolEmbedding

    torch.manual_seed(0)
    embedding = SymbolEmbedding(COLUMNS, 8, 2, placed=False)
    tokens, _, _ = table_rows()
    torch.testing.assert_close(indicators(embedding, tokens) @ embedding.table(), embedding(tokens).sum(1))


# ---- the logistic term beside it -----------------------------------------------------------------------------------


def test_the_logistic_term_sums_the_weights_of_the_other_cells_and_of_the_context() -> None:
    network = row_network_and_term()
    tokens, context, _ = table_rows()
    assert network.logistic is not None
    weight = network.logistic.weight
    network.logistic.weight = torch.nn.Parameter(torch.zeros_like(weight))
    without = network(tokens, context)
    network.logistic.weight = weight
    change = network(tokens, context) - without
    starts = [0, 5, 19, 23]  # sizes 3, 12, 2 and 16, and two special symbols in each
    ends = [0, 3, 15, 17]
    for row in range(len(tokens)):
        place = [s + int(t) if t >= 0 else s + v.size - 1 - int(t) for s, t, v in zip(starts, tokens[row], COLUMNS)]
        given = [41 + s + int(t) if t >= 0 else 41 + s + v.size for s, t, v in zip([0, 5], context[row], CONTEXT)]
        for i, (end, vocabulary) in enumerate(zip(ends, COLUMNS)):
            others = [p for j, p in enumerate(place) if j != i] + given
            expected = 4 * weight[others][:, end : end + vocabulary.size].sum(0)
            torch.testing.assert_close(change[row, i, : vocabulary.size], expected, atol=1e-5, rtol=0)
            assert (change[row, i, vocabulary.size :] == 0).all()


def test_the_logistic_term_starts_at_zero_and_is_measured_without_a_cells_own_block() -> None:
    term = LogisticTerm(COLUMNS, 2, CONTEXT)
    assert float(term.size().detach()) == 0
    term.weight.data += 1.0
    own = sum(v.size * (v.size + 2) for v in COLUMNS)
    assert float(term.size().detach()) == 4 * (term.weight.numel() - own)


def test_radd_trains_the_logistic_term_under_its_prior_saves_it_and_refuses_it_elsewhere(tmp_path: Path) -> None:
    schema = text_schema(symbols=2, kind="binary")
    g = torch.Generator().manual_seed(3)
    codes = torch.randint(0, 2, (200, 6), generator=g).repeat(1, 2)  # cell i + 6 repeats cell i
    rows = TableBatch(torch.zeros(200, 0, dtype=torch.float64), codes, torch.arange(200))
    sizes = {}
    for scale in (0.01, 1.0):
        model = RADD(schema=schema.to_dict(), network="mlp", width=16, num_layers=1, logistic=scale)
        model.fit_codec_on(rows)
        assert model.network.logistic is not None
        plain = model.loss_terms(model.codec.encode(rows).tokens, torch.zeros(200, 0, dtype=torch.int64))
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        torch.manual_seed(0)
        for _ in range(50):
            loss = model.loss(model.codec.encode(rows))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        sizes[scale] = float(model.network.logistic.size().detach())
        weight = model.network.logistic.weights().detach()
        repeats = max(float(weight[3 * (i + 6), 2 * i].abs()) for i in range(6))
        model.eval()
        assert float(model.score_batch(rows, 0, 16).values.mean()) > -float(plain.mean().detach())
    assert sizes[0.01] < 0.2 * sizes[1.0], "a narrow prior keeps the weights small"
    assert repeats > 2.0, "a wide one lets the copies find each other"
    torch.manual_seed(0)
    with_prior = float(model.loss(model.codec.encode(rows)).detach())
    torch.manual_seed(0)
    without = model.loss_terms(model.codec.encode(rows).tokens, torch.zeros(200, 0, dtype=torch.int64)).mean()
    assert with_prior - float(without.detach()) == pytest.approx(sizes[1.0] / schema.num_training_rows, rel=1e-3)
    model.save(tmp_path / "model.ckpt")
    again = load(tmp_path / "model.ckpt")
    torch.testing.assert_close(again.score_batch(rows, 0, 4).values, model.score_batch(rows, 0, 4).values)
    with pytest.raises(ValueError, match=r"added to network 'mlp', got 'transformer'"):
        RADD(schema=schema.to_dict(), network="transformer", logistic=0.1)
    with pytest.raises(ValueError, match=r"scale of a prior, at least 0, got -1"):
        RADD(schema=schema.to_dict(), network="mlp", logistic=-1.0)


# ---- the choice ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (text_schema(), "text"),
        (text_schema(64, 2, "binary"), "mlp"),
        (text_schema(16, 2, "binary"), "transformer"),
        (Schema(tuple(Column(f"c{i}", "categorical", categories=("x", "y", "z")) for i in range(40))), "transformer"),
        (Schema(tuple(Column(f"c{i}", "binary", categories=("0", "1")) for i in range(40))), "mlp"),
        (Schema((Column("x", "continuous"),)), "transformer"),
    ],
)
def test_auto_takes_the_network_that_fits_the_rows(schema: Schema, expected: str) -> None:
    codec = TokenCodec(schema)
    assert chosen_network(codec) == expected
    kinds = {"text": TextTransformer, "mlp": SymbolMLP, "transformer": TableTransformer}
    assert type(build_network(codec, width=16, num_layers=1, num_heads=2)) is kinds[expected]
    assert type(build_network(codec, "mlp", width=16, num_layers=1)) is SymbolMLP


def test_a_picture_gets_places_of_its_own() -> None:
    network = build_network(TokenCodec(text_schema(shape=(3, 4))), width=16, num_layers=1, num_heads=2)
    assert isinstance(network, TextTransformer)
    assert network.places is not None
    wide = build_network(TokenCodec(text_schema(shape=(4, 16))), width=128, num_layers=1, num_heads=4)
    assert isinstance(wide, TextTransformer)
    assert (attention_at_the_start(wide, 20).argmax(-1) - 20).tolist() == [-1, 1, -16, 16]


def test_unknown_networks_and_text_over_columns_are_refused_in_words() -> None:
    table = Schema((Column("a", "binary", categories=("0", "1")), Column("b", "binary", categories=("0", "1"))))
    with pytest.raises(ValueError, match=r"network must be one of auto, transformer, mlp, text, got 'lstm'"):
        RADD(schema=table.to_dict(), network="lstm")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"'text' reads one block .* the table has 2 columns"):
        RADD(schema=table.to_dict(), network="text")


@pytest.mark.parametrize("network", ["transformer", "mlp", "text"])
@pytest.mark.parametrize(
    ("kind", "more"), [(RADD, {}), (GIDD, {"hide": 0.0, "num_steps": 4}), (MultinomialDiffusion, {"num_steps": 4})]
)
def test_an_untrained_model_bounds_a_block_at_log_k_a_cell(kind, more, network: str) -> None:  # type: ignore[no-untyped-def]
    """Any process, any network: uniform guesses cost exactly ``log K`` a cell (GIDD's integral: within its noise)."""
    schema = text_schema()
    model = kind(
        schema=schema.to_dict(), network=network, width=16, num_layers=1, num_heads=2, likelihood="bound", **more
    ).eval()
    model.codec.fit(block_batch(schema))  # without ``initialise``: the head is at zero
    found = model.score_batch(block_batch(schema), 0, 64)
    expected = -LENGTH * math.log(4)
    error = 5 * float((found.se.square().sum()).sqrt()) / len(found.values) + 1e-5
    assert abs(float(found.values.mean()) - expected) < error
    if kind is RADD:
        torch.testing.assert_close(found.values, torch.full_like(found.values, expected), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("network", "logistic"), [("transformer", 0.0), ("mlp", 0.0), ("mlp", 0.1), ("text", 0.0)])
def test_the_bound_of_a_block_is_below_its_exact_likelihood_with_every_network(network: str, logistic: float) -> None:
    schema = text_schema(length=5, symbols=3)
    torch.manual_seed(0)
    sizes = {"width": 16, "num_layers": 1, "num_heads": 2}
    model = RADD(schema=schema.to_dict(), network=network, logistic=logistic, **sizes)  # type: ignore[arg-type]
    model.codec.fit(block_batch(schema))
    scattered(model.network)
    states = torch.cartesian_prod(*[torch.arange(3)] * 5)
    rows = TableBatch(torch.zeros(243, 0, dtype=torch.float64), states, torch.arange(243))
    model.eval()
    exact = model.score_batch(rows, 0, 1).values
    assert abs(float(exact.exp().sum()) - 1) < 1e-6
    model.likelihood = "subset"
    bound = model.score_batch(rows, 0, 1).values
    assert (bound <= exact + 1e-9).all()
    assert float((exact - bound).mean()) > 1e-4


def test_holes_of_a_block_are_filled_and_observed_cells_stay() -> None:
    schema = text_schema()
    batch = block_batch(schema, holes=True)
    for kind in (RADD, GIDD):
        model = kind(schema=schema.to_dict(), width=16, num_layers=1, num_heads=2).eval()
        model.codec.fit(block_batch(schema))
        (full,) = model.model_impute(batch, model.codec.encode(batch), 1, torch.Generator().manual_seed(0))
        seen = batch.codes >= 0
        assert (full.codes[seen] == batch.codes[seen]).all()
        assert ((full.codes >= 0) & (full.codes < 4)).all()
