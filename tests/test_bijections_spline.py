"""The rational-quadratic kernel: inverse, Jacobian, edges, precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genzoo.bijections.elementwise import Elementwise
from genzoo.bijections.spline import Spline, num_spline_parameters


def parameters(
    bins: int, shape: tuple[int, ...], scale: float = 1.5, seed: int = 0, dtype=torch.float64
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(num_spline_parameters(bins), *shape, generator=generator, dtype=torch.float64).to(dtype)


def test_zero_parameters_are_the_identity() -> None:
    x = torch.linspace(-6, 6, 101, dtype=torch.float64)
    value, log_derivative = Spline.from_parameters(
        torch.zeros(num_spline_parameters(8), 101, dtype=torch.float64), 4.0
    )(x)
    assert torch.allclose(value, x, atol=1e-12)
    assert log_derivative.abs().max() < 1e-12


@settings(max_examples=25)
@given(bins=st.integers(2, 20), scale=st.floats(0.0, 6.0), seed=st.integers(0, 1000), bound=st.floats(0.5, 8.0))
def test_the_inverse_undoes_the_spline_and_its_log_derivative(bins: int, scale: float, seed: int, bound: float) -> None:
    x = torch.linspace(-1.3 * bound, 1.3 * bound, 64, dtype=torch.float64)
    spline = Spline.from_parameters(parameters(bins, (64,), scale, seed), bound)
    y, log_derivative = spline(x)
    back, log_back = spline(y, inverse=True)
    # The slope may be as small as 1e-6 or so, and the inverse loses that much.
    slack = 1e-11 * (1 + torch.exp(-log_derivative))
    assert ((back - x).abs() < slack * bound).all()
    assert ((log_derivative + log_back).abs() < 1e-6).all()


def test_log_derivative_equals_autograd_in_both_directions() -> None:
    spline = Spline.from_parameters(parameters(7, (200,)), 3.0)
    for inverse in (False, True):
        x = torch.linspace(-3.5, 3.5, 200, dtype=torch.float64, requires_grad=True)
        y, log_derivative = spline(x, inverse)
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert torch.allclose(slope.log(), log_derivative, atol=1e-10)


def test_gradients_of_value_and_log_derivative_pass_gradcheck() -> None:
    free = parameters(5, (6,)).requires_grad_()
    x = torch.tensor([-3.0, -1.7, -0.2, 0.4, 1.9, 2.6], dtype=torch.float64, requires_grad=True)
    for inverse in (False, True):
        assert torch.autograd.gradcheck(lambda p, v, i=inverse: Spline.from_parameters(p, 2.5)(v, i), (free, x))


def test_knots_bounds_and_infinite_points_are_finite_and_exact() -> None:
    free = parameters(6, (1,)).requires_grad_()
    spline = Spline.from_parameters(free, 3.0)
    knots = spline.table[:, 0, 0].detach()
    x = torch.cat([knots, torch.tensor([-3.0, 3.0, -torch.inf, torch.inf, 1e300, -1e300], dtype=torch.float64)])[
        :, None
    ]
    value, log_derivative = spline(x)
    assert torch.allclose(value[:7, 0], spline.table[:, 1, 0], atol=1e-12)
    assert value[9, 0] == -torch.inf
    assert value[10, 0] == torch.inf
    assert value[7, 0] == -3.0
    assert value[8, 0] == 3.0
    value[:9].sum().backward()
    assert torch.isfinite(free.grad).all()
    assert torch.isfinite(log_derivative).all()


def test_the_spline_increases_everywhere() -> None:
    spline = Spline.from_parameters(parameters(10, (1,), scale=3.0), 4.0)
    y, _ = spline(torch.linspace(-5, 5, 4001, dtype=torch.float64)[:, None])
    assert (y.diff(dim=0) > 0).all()


def test_several_points_a_spline_equal_one_at_a_time() -> None:
    free = parameters(5, (4,))
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    spline = Spline.from_parameters(free, 3.0)
    together = spline(x)
    for k in range(3):
        alone = spline(x[k])
        assert torch.equal(together[0][k], alone[0])
        assert torch.equal(together[1][k], alone[1])


def test_float32_is_near_float64() -> None:
    x = torch.linspace(-5, 5, 500, dtype=torch.float64)
    free = parameters(8, (500,))
    for inverse in (False, True):
        exact = Spline.from_parameters(free, 4.0)(x, inverse)
        rough = Spline.from_parameters(free.float(), 4.0)(x.float(), inverse)
        assert (exact[0] - rough[0]).abs().max() < 2e-4
        assert (exact[1] - rough[1]).abs().max() < 5e-3


def test_a_wrong_number_of_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="3 \\* K - 1"):
        Spline.from_parameters(torch.zeros(9, 2), 3.0)


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_elementwise_maps_invert_and_know_their_derivative(kind: str) -> None:
    element = Elementwise(kind, num_bins=6, bound=3.0)
    generator = torch.Generator().manual_seed(3)
    free = torch.randn(element.num_parameters, 50, generator=generator, dtype=torch.float64)
    x = torch.linspace(-6, 6, 50, dtype=torch.float64, requires_grad=True)
    z, log_derivative = element.apply(x, free, to_latent=True)
    (slope,) = torch.autograd.grad(z.sum(), x)
    assert torch.allclose(slope.log(), log_derivative, atol=1e-9)
    back, log_back = element.apply(z.detach(), free, to_latent=False)
    assert torch.allclose(back, x, atol=1e-8)
    assert torch.allclose(log_back, -log_derivative, atol=1e-8)


def test_elementwise_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="affine or spline"):
        Elementwise("cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_bins >= 2"):
        Elementwise("spline", num_bins=1)
