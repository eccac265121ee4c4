"""The Jacobian kit against autograd row by row, closed forms and averages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from genzoo.bijections.jacobian import (
    exact_log_det,
    exact_trace,
    hutchinson_trace,
    jacobian,
    log_abs_det,
    rademacher,
    score,
)


def network(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(width, 7), nn.SiLU(), nn.Linear(7, width)).double()


def row_by_row(function: nn.Module, x: Tensor) -> Tensor:
    rows = [torch.autograd.functional.jacobian(lambda row: function(row[None])[0], row) for row in x]
    return torch.stack([row.reshape(x[0].numel(), x[0].numel()) for row in rows])


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_jacobian_is_that_of_every_row_alone(mode: str) -> None:
    net, x = network(5), torch.randn(6, 5, dtype=torch.float64)
    value, matrices = jacobian(net, x, mode)  # type: ignore[arg-type]
    torch.testing.assert_close(value, net(x))
    torch.testing.assert_close(matrices, row_by_row(net, x))


@pytest.mark.parametrize("mode", ["reverse", "forward"])
def test_events_of_several_dimensions_are_flattened(mode: str) -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(2, 2, 3, padding=1).double(), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(jacobian(conv, x, mode)[1], row_by_row(conv, x))  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [1, 2, 3, 6])
def test_log_abs_det_is_that_of_slogdet(width: int) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(4, 3, width, width, dtype=torch.float64)
    torch.testing.assert_close(log_abs_det(matrices), torch.linalg.slogdet(matrices)[1])


def test_exact_quantities_work_without_gradient_mode_and_carry_gradients_with_it() -> None:
    net, x = network(3), torch.randn(4, 3, dtype=torch.float64)
    expected = row_by_row(net, x)
    with torch.no_grad():
        torch.testing.assert_close(exact_log_det(net, x)[1], torch.linalg.slogdet(expected)[1])
        torch.testing.assert_close(exact_trace(net, x)[1], expected.diagonal(dim1=1, dim2=2).sum(1))
    assert torch.autograd.gradcheck(lambda x: exact_log_det(net, x)[1], (x.requires_grad_(),))
    exact_trace(net, x)[1].sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.ndim == 2)


def test_hutchinson_estimates_average_to_the_trace() -> None:
    net, x = network(5), torch.randn(3, 5, dtype=torch.float64)
    noise = torch.randn(20_000, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    exact = exact_trace(net, x)[1]
    spread = []
    for probes in (noise, rademacher(noise)):
        estimates = hutchinson_trace(net, x, probes)[1]
        error = (estimates.mean(0) - exact) / (estimates.std(0) / 20_000**0.5)
        assert error.abs().max() < 4.5  # of six standard normal values: once in 20,000 runs
        spread.append(estimates.std(0).mean())
    assert spread[1] < spread[0], "signs leave out the noise of the diagonal"


def test_score_of_a_normal_is_minus_x() -> None:
    x = torch.randn(4, 3, dtype=torch.float64)
    torch.testing.assert_close(score(lambda y: -y.square().sum(1) / 2, x), -x)
