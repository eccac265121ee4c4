"""The table transformer: symbols in, scores of symbols out."""

from __future__ import annotations

import pytest
import torch

from genzoo.networks.symbols import Vocabulary
from genzoo.networks.transformer import TableTransformer

COLUMNS = (Vocabulary(3), Vocabulary(12, 10), Vocabulary(2), Vocabulary(16, 16))
CONTEXT = (Vocabulary(4), Vocabulary(9, 9))


def made(time: bool = False, seed: int = 0, random_head: bool = True) -> TableTransformer:
    torch.manual_seed(seed)
    network = TableTransformer(COLUMNS, CONTEXT, width=16, num_layers=2, num_heads=2, num_special=2, time=time)
    if random_head:
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


def symbols(batch: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    tokens = torch.stack([torch.randint(-2, v.size, (batch,), generator=g) for v in COLUMNS], 1)
    context = torch.stack([torch.randint(-1, v.size, (batch,), generator=g) for v in CONTEXT], 1)
    return tokens, context, torch.rand(batch, generator=g)


def test_scores_are_zero_at_the_start_so_every_symbol_is_equally_likely() -> None:
    tokens, context, time = symbols()
    assert (made(time=True, random_head=False)(tokens, context, time) == 0).all()


@pytest.mark.parametrize("time", [False, True])
def test_compiles_into_one_graph_with_equal_scores(time: bool) -> None:
    network = made(time)
    tokens, context, clock = symbols()
    arguments = (tokens, context, clock) if time else (tokens, context)
    compiled = torch.compile(network, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*arguments), network(*arguments))


def test_every_visible_cell_and_context_is_read() -> None:
    network = made()
    tokens, context, _ = symbols()
    base = network(tokens, context)
    for column in range(len(COLUMNS)):
        other = tokens.clone()
        other[:, column] = torch.where(tokens[:, column] == 0, 1, 0)
        changed = (network(other, context) - base).abs().amax((0, 2))
        assert (changed > 1e-5).all(), column
    for column in range(len(CONTEXT)):
        other = context.clone()
        other[:, column] = torch.where(context[:, column] == 0, 1, 0)
        assert ((network(tokens, other) - base).abs().amax((0, 2)) > 1e-5).all()


def test_masked_and_hole_are_different_symbols() -> None:
    network = made()
    tokens, context, _ = symbols()
    masked, hole = tokens.clone(), tokens.clone()
    masked[:, 0], hole[:, 0] = -1, -2
    assert not torch.allclose(network(masked, context), network(hole, context))


def test_time_changes_scores_where_the_network_is_given_one() -> None:
    network = made(time=True)
    tokens, context, time = symbols()
    assert not torch.allclose(network(tokens, context, time), network(tokens, context, 1 - time))


def test_permuting_columns_with_their_parameters_permutes_the_scores() -> None:
    torch.manual_seed(0)
    columns = [Vocabulary(3), Vocabulary(5, 5), Vocabulary(2)]
    order = [2, 0, 1]
    first = TableTransformer(columns, width=8, num_layers=1, num_heads=2)
    for parameter in first.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    second = TableTransformer([columns[i] for i in order], width=8, num_layers=1, num_heads=2)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        for name, special in (("embedding", 1), ("head", 0)):
            a, b = getattr(first, name), getattr(second, name)
            sizes = [c.size + special for c in columns]
            for key in ("vectors",) if special else ("weight", "bias"):
                parts = getattr(a, key).split(sizes)
                getattr(b, key).copy_(torch.cat([parts[i] for i in order]))
        second.embedding.columns.copy_(first.embedding.columns[order])
    tokens = torch.tensor([[0, 3, 1], [2, -1, 0], [-1, 4, -1]])
    torch.testing.assert_close(second(tokens[:, order]), first(tokens)[:, order])


def test_starting_marginals_are_the_softmax_of_the_scores() -> None:
    network = made(random_head=False)
    tokens, context, _ = symbols()
    log_probs = torch.full((4, 16), -torch.inf)
    for i, v in enumerate(COLUMNS):
        log_probs[i, : v.size] = torch.log_softmax(torch.randn(v.size), 0)
    network.head.start_at(log_probs)
    scores = network(tokens, context)
    for i, v in enumerate(COLUMNS):
        torch.testing.assert_close(scores[:, i, : v.size].log_softmax(-1), log_probs[i, : v.size].expand(6, -1))
