"""Bijections of rows: round trips and Jacobians."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from flow_tables import shake

from genzoo.bijections.affine import Affine
from genzoo.bijections.base import Bijection, Composition
from genzoo.bijections.coupling import Coupling
from genzoo.bijections.elementwise import Elementwise
from genzoo.bijections.permutation import Permutation
from genzoo.models.flows.coupling import CouplingFlow


@pytest.fixture(autouse=True)
def _same_weights_each_time() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def layers() -> dict[str, Bijection]:
    element = Elementwise("spline", 5, 3.0)
    return {
        "affine": Affine(4),
        "permutation": Permutation([2, 0, 3, 1]),
        "coupling": Coupling(4, element, [1, 3], num_context=2, hidden=16),
        "all moved": Coupling(4, element, [0, 1, 2, 3], num_context=2, hidden=16),
        "composition": Composition([Affine(4), Coupling(4, element, [0], 2, 16), Permutation.random(4, 1)]),
    }


@pytest.mark.parametrize("name", list(layers()))
def test_forward_and_inverse_undo_each_other_and_their_log_det_is_autograds(name: str) -> None:
    layer = layers()[name].double()
    shake(layer, 0.3)
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    context = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    x, log_det = layer(z, context)
    back, log_back = layer.inverse(x, context)
    assert torch.allclose(back, z, atol=1e-9)
    assert torch.allclose(log_back, -log_det, atol=1e-9)
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(lambda v, r=row: layer(v[None], context[r : r + 1])[0][0], z[row])
        assert torch.allclose(jacobian.slogdet()[1], log_det[row], atol=1e-9)


def test_kept_features_pass_a_coupling_layer_unchanged() -> None:
    layer = Coupling(3, Elementwise("spline", 4, 3.0), [1], hidden=8)
    shake(layer, 0.5)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    x, _ = layer(z)
    assert torch.equal(x[:, [0, 2]], z[:, [0, 2]])
    assert not torch.equal(x[:, 1], z[:, 1])


@pytest.mark.parametrize("width", [1, 2])
def test_a_coupling_flow_integrates_to_one(width: int) -> None:
    flow = CouplingFlow(width, element=Elementwise("spline", 5, 3.0), num_transforms=4, hidden=16).double()
    shake(flow, 0.12)
    axis = torch.linspace(-12, 12, 401 if width == 2 else 4001, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * width).reshape(-1, width)
    with torch.no_grad():
        mass = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** width
    assert abs(float(mass) - 1) < 1e-3


def test_wrong_orders_and_features_are_refused() -> None:
    with pytest.raises(ValueError, match="permutation of 0 to 2"):
        Permutation([0, 0, 1])
    with pytest.raises(ValueError, match="moved must name features"):
        Coupling(2, Elementwise("affine"), [2])
    with pytest.raises(ValueError, match="at least one bijection"):
        Composition([])
