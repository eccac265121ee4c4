"""Masked networks: who sees whom."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from flow_tables import shake

from genzoo.networks.made import MADE, MaskedLinear
from genzoo.networks.mlp import ResidualMLP


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("rich_start", [True, False])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_an_output_depends_on_an_input_exactly_when_its_degree_allows(rich_start: bool, num_layers: int) -> None:
    in_degrees = torch.tensor([0, 1, 1, 2, 4])
    out_degrees = torch.tensor([3, 0, 1, 2, 4])
    net = MADE(in_degrees, out_degrees, hidden=40, num_layers=num_layers, rich_start=rich_start).double()
    shake(net, 0.5)
    x = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: net(v[None])[:, 0], x)
    assert torch.equal(jacobian != 0, in_degrees[None] <= out_degrees[:, None])


def test_some_outputs_alone_equal_a_slice_of_all() -> None:
    net = MADE(torch.tensor([1, 2]), torch.arange(3).repeat(4), hidden=16)
    shake(net, 0.5)
    x = torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(net(x, slice(1, 12, 3)), net(x)[1::3], atol=1e-6)


def test_masked_weights_get_no_gradient() -> None:
    layer = MaskedLinear(torch.tensor([[True, False], [True, True]]))
    layer(torch.ones(3, 2)).sum().backward()
    assert layer.weight.grad[0, 1] == 0
    assert layer.weight.grad[1, 1] != 0


def test_networks_start_at_zero_output() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert ResidualMLP(3, 2, 8)(x).abs().max() == 0
    assert MADE(torch.tensor([1, 2, 3]), torch.tensor([0, 1, 2]), 8)(x).abs().max() == 0
    assert ResidualMLP(0, 2, 8)(x[:, :0]).shape == (4, 2)


def test_a_network_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        MADE(torch.tensor([1]), torch.tensor([0]), hidden=0)
    with pytest.raises(ValueError, match="at least 1"):
        ResidualMLP(1, 1, num_layers=0)
