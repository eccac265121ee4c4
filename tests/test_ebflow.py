"""The energy-based flow: layers and derivatives, score-matching losses, exact likelihoods, pictures and tables."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from contract import mixed_table
from genzoo.bijections.dense_linear import Convolution, Dense, Reorder
from genzoo.bijections.energy_layer import EnergyLayer
from genzoo.bijections.smooth_activation import ShareLogit, SmoothLeakyReLU
from genzoo.datamodules.images import Images
from genzoo.datamodules.table import Table
from genzoo.errors import CapabilityError
from genzoo.likelihood import score_matching
from genzoo.likelihood.langevin import langevin
from genzoo.models.averaging import ramped_decay
from genzoo.models.flows.ebflow import EBFlow
from genzoo.models.flows.energy_flow import EnergyFlow, Matching, Stack
from genzoo.models.flows.energy_networks import CouplingLayer, convolutional_layers, coupling_layers, dense_layers
from genzoo.models.flows.energy_rows import EnergyRows
from genzoo.models.training import make_trainer
from genzoo.tables.schema import Column, Schema

D = 6


def shaken(module: Any, size: float = 0.2, seed: int = 0) -> Any:
    """The module in float64, away from its starting point."""
    generator = torch.Generator().manual_seed(seed)
    module = module.double()
    for parameter in module.parameters():
        parameter.data += size * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return module


def layer_of(name: str) -> EnergyLayer:
    torch.manual_seed(1)
    layers: dict[str, Any] = {
        "dense": lambda: Dense(D, "negative", 2),
        "convolution": lambda: Convolution((1, 2, 3), 3),
        "reorder": lambda: Reorder(torch.randperm(D)),
        "activation": lambda: SmoothLeakyReLU(),
        "residual_activation": lambda: SmoothLeakyReLU(residual=True),
        "logit": lambda: ShareLogit(4.0, 0.5),
        "coupling": lambda: CouplingLayer(D, [3, 4, 5], 2, 8, 2),
    }
    return shaken(layers[name]())  # type: ignore[no-any-return]


LAYERS = ("dense", "convolution", "reorder", "activation", "residual_activation", "logit", "coupling")


def points(name: str, batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(batch, D, generator=generator, dtype=torch.float64)
    return 4 * torch.sigmoid(x) if name == "logit" else x


def context_of(x: Tensor) -> Tensor:
    return x[:, :2].cos()


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_knows_its_log_determinant(name: str) -> None:
    layer, x = layer_of(name), points(name)
    context = context_of(x)
    u, log_det = layer.inverse(x, context)
    full = torch.stack(
        [torch.func.jacrev(lambda p, c=c: layer.push(p[None], c[None])[0][0])(row) for row, c in zip(x, context)]
    )
    torch.testing.assert_close(log_det, torch.linalg.slogdet(full)[1])
    back, log_det_back = layer(u, context)
    torch.testing.assert_close(back, x, atol=1e-9, rtol=1e-9)
    torch.testing.assert_close(log_det_back, -log_det, atol=1e-8, rtol=1e-8)
    assert layer.linear == (layer.push(x, context)[1] is None)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_knows_its_derivatives(name: str) -> None:
    """Gradient, directional derivative and curvature against automatic differentiation in float64."""
    layer, x = layer_of(name), points(name)
    context = context_of(x)
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    v = torch.randn(2, *x.shape, generator=generator, dtype=torch.float64)

    def value(p: Tensor, c: Tensor, g: Tensor) -> Tensor:
        u, log_det = layer.push(p[None], c[None])
        return (u[0] * g).sum() + (0.0 if log_det is None else log_det[0])

    for i in range(len(x)):
        arguments = (x[i], context[i], grad[i])
        torch.testing.assert_close(layer.pull(x, grad, context)[i], torch.func.grad(value)(*arguments))
        hessian = torch.func.hessian(value)(*arguments)
        jacobian = torch.func.jacrev(lambda p, c: layer.push(p[None], c[None])[0][0])(x[i], context[i])
        for s in range(2):
            torch.testing.assert_close(layer.tangent(x, v, context)[s, i], jacobian @ v[s, i])
            bend = v[s, i] @ hessian @ v[s, i]
            torch.testing.assert_close(layer.curvature(x, v, grad, context)[s, i], bend, atol=1e-10, rtol=1e-7)
    pushed = layer.push_along(x, v, context)
    torch.testing.assert_close(pushed[0], layer.push(x, context)[0])
    torch.testing.assert_close(pushed[1], layer.tangent(x, v, context))
    pulled = layer.pull_bent(x, v, grad, context)
    torch.testing.assert_close(pulled[0], layer.pull(x, grad, context))
    if pulled[1] is not None:
        torch.testing.assert_close(pulled[1], layer.curvature(x, v, grad, context))
    assert (pulled[1] is None) == layer.linear


def flow_of(kind: str) -> EnergyFlow:
    torch.manual_seed(0)
    if kind == "dense":
        return shaken(EnergyFlow(D, dense_layers(D, 3)))  # type: ignore[no-any-return]
    if kind == "convolutional":
        return shaken(EnergyFlow(16, convolutional_layers((4, 4), 2, 2, 3)))  # type: ignore[no-any-return]
    return shaken(EnergyFlow(D, coupling_layers(D, 0, 2, 8)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["dense", "convolutional", "coupling"])
def test_score_is_unaffected_by_the_determinants_of_linear_layers(kind: str) -> None:
    flow = flow_of(kind)
    x = torch.randn(7, flow.num_features, dtype=torch.float64)
    full = torch.func.grad(lambda p: flow.log_prob(p).sum())(x)
    energy = torch.func.grad(lambda p: -flow.stack.energy(p).sum())(x)
    torch.testing.assert_close(full, energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow.stack.score(x), energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(flow.stack.energy_and_score(x)[0], flow.stack.energy(x))
    flow.eval()
    constant = flow.log_prob(x) + flow.stack.energy(x)
    torch.testing.assert_close(constant, flow.log_constant().expand(7))
    torch.testing.assert_close(
        constant[0], torch.stack([torch.linalg.slogdet(one.matrix())[1] for one in flow.linear]).sum()
    )


@pytest.mark.parametrize("kind", ["dense", "convolutional", "coupling"])
def test_likelihood_agrees_with_the_full_jacobian_and_samples_come_back(kind: str) -> None:
    flow = flow_of(kind).eval()
    drawn = flow.sample(4, None, torch.Generator().manual_seed(0))

    def latent(row: Tensor) -> Tensor:
        for layer in flow.stack.layers:
            row = layer.push(row[None])[0][0]
        return row

    for row, log_prob in zip(drawn, flow.log_prob(drawn)):
        jacobian = torch.func.jacrev(latent)(row)
        base = -0.5 * latent(row).square().sum() - 0.5 * flow.num_features * math.log(2 * math.pi)
        torch.testing.assert_close(log_prob, torch.linalg.slogdet(jacobian)[1] + base)
    torch.testing.assert_close(
        torch.stack([latent(row) for row in drawn]),
        torch.randn(4, flow.num_features, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        atol=1e-8,
        rtol=1e-8,
    )


@pytest.mark.parametrize("kind", ["dense", "convolutional", "coupling"])
def test_the_written_out_score_and_curvature_are_those_of_automatic_differentiation(kind: str) -> None:
    flow = flow_of(kind)
    x = torch.randn(3, flow.num_features, dtype=torch.float64)
    probes = score_matching.sign_probes(x, 2)
    score, curvature = flow.stack.score_and_curvature(x, probes)
    expected = score_matching.score_and_curvature(lambda p: -flow.stack.energy(p), x, probes)
    torch.testing.assert_close(score, expected[0])
    torch.testing.assert_close(curvature, expected[1])
    # and so are their gradients in the weights
    weights = list(flow.parameters())
    loss = score_matching.sliced(score, curvature)
    ours = torch.autograd.grad(loss, weights, allow_unused=True)
    paired = score_matching.sliced(*flow.stack.paired().score_and_curvature(x, probes))
    torch.testing.assert_close(paired, loss)
    for _ in range(2):  # a second backward pass finds what it needs
        again = torch.autograd.grad(paired, weights, allow_unused=True, retain_graph=True)
        for one, other in zip(ours, again):
            torch.testing.assert_close(
                torch.zeros(()) if one is None else one, torch.zeros(()) if other is None else other
            )
    theirs = torch.autograd.grad(score_matching.sliced(*expected), weights, allow_unused=True)
    for one, other in zip(ours, theirs):
        zero = torch.zeros(())
        torch.testing.assert_close(zero if one is None else one, zero if other is None else other, check_dtype=False)


def test_a_gradient_takes_the_memory_of_the_last_one_only_if_nobody_holds_it() -> None:
    torch.manual_seed(0)
    flow = EnergyFlow(20, dense_layers(20, start="orthogonal")).train()
    weight = flow.linear[0].weight
    batches = [torch.randn(7, 20) for _ in range(4)]

    def expected(x: Tensor, seed: int) -> Tensor:
        torch.manual_seed(seed)
        noise = torch.randn_like(x)
        loss = score_matching.denoising(flow.stack.score(x + 0.1 * noise), noise, 0.1)
        return torch.autograd.grad(loss, weight)[0]

    def step(x: Tensor, seed: int) -> None:
        torch.manual_seed(seed)
        Matching("dsm").loss(flow, x).backward()

    step(batches[0], 0)
    place = weight.grad.data_ptr()
    torch.testing.assert_close(weight.grad, expected(batches[0], 0))
    flow.zero_grad()
    step(batches[1], 1)
    assert weight.grad.data_ptr() == place
    torch.testing.assert_close(weight.grad, expected(batches[1], 1))
    step(batches[2], 2)  # a second batch is added
    torch.testing.assert_close(weight.grad, expected(batches[1], 1) + expected(batches[2], 2))
    row, copy = weight.grad[3], weight.grad[3].clone()  # a part of a gradient that outlives it
    flow.zero_grad()
    step(batches[3], 3)
    assert torch.equal(row, copy)
    torch.testing.assert_close(weight.grad, expected(batches[3], 3))


def test_energies_along_a_step_are_those_of_the_three_points() -> None:
    flow = flow_of("dense")
    x, v = torch.randn(2, 3, D, dtype=torch.float64)
    three = torch.stack(flow.stack.energies_along(x, v))
    torch.testing.assert_close(three, torch.stack([flow.stack.energy(x + side * v) for side in (0, 1, -1)]))


def test_scaling_the_last_layer_changes_the_constant_by_d_log_c() -> None:
    flow = flow_of("dense").eval()
    before = flow.log_constant()
    flow.linear[-1].get_parameter("weight").data *= 3.0
    torch.testing.assert_close(flow.log_constant() - before, torch.tensor(D * math.log(3.0), dtype=torch.float64))


def test_determinants_are_kept_until_weights_change() -> None:
    flow = flow_of("dense").eval()
    x = torch.randn(2, D, dtype=torch.float64)
    with torch.no_grad():
        first = flow.log_prob(x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.linalg, "slogdet", _refused)
            torch.testing.assert_close(flow.log_prob(x), first)
        flow.linear[0].get_parameter("weight").data.mul_(2.0)
        fresh = EnergyFlow(D, flow.stack.layers).eval()
        for layer in fresh.linear:
            del layer._kept  # type: ignore[attr-defined]
        torch.testing.assert_close(flow.log_constant(), fresh.log_constant())


def test_the_activation_is_inverted_far_out_and_from_single_precision() -> None:
    for layer in (SmoothLeakyReLU(), SmoothLeakyReLU(residual=True), SmoothLeakyReLU(0.01)):
        x = torch.linspace(-50, 50, 2001, dtype=torch.float64)[:, None]
        assert float((layer(layer.value(x))[0] - x).abs().max()) < 1e-8
        single = x.float()
        assert float((layer(layer.value(single))[0] - single).abs().max()) < 1e-3


def _refused(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("a determinant, a factorisation or an inverse was computed")


@pytest.mark.parametrize("kind", ["dense", "convolutional", "coupling"])
@pytest.mark.parametrize("objective", ["ssm", "dsm", "fdssm"])
def test_score_matching_computes_no_determinant(kind: str, objective: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = flow_of(kind).train()
    for name in (
        "slogdet",
        "det",
        "lu",
        "lu_factor",
        "lu_factor_ex",
        "inv",
        "solve",
        "qr",
        "svd",
        "svdvals",
        "eigvals",
    ):
        monkeypatch.setattr(torch.linalg, name, _refused)
    for name in ("slogdet", "det", "logdet", "lu", "inverse"):
        monkeypatch.setattr(torch, name, _refused)
        monkeypatch.setattr(torch.Tensor, name, _refused, raising=False)
    x = torch.randn(8, flow.num_features, dtype=torch.float64)
    Matching(objective).loss(flow, x).backward()
    for name, parameter in flow.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    with pytest.raises(AssertionError, match="was computed"):
        Matching("ml").loss(flow, x)


# ---- losses against closed forms on Gaussians ---------------------------------------------------------------------


def gaussian_flow(covariance: Tensor) -> EnergyFlow:
    """The flow of one matrix that is N(0, covariance)."""
    flow = EnergyFlow(len(covariance), [Dense(len(covariance), "identity")]).double()
    flow.layers[0].weight.data = torch.linalg.inv(torch.linalg.cholesky(covariance))  # type: ignore[assignment]
    return flow


def random_covariance(width: int = 4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return a @ a.t() / width + 0.5 * torch.eye(width, dtype=torch.float64)


def draws(covariance: Tensor, number: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(number, len(covariance), generator=generator, dtype=torch.float64)
    return z @ torch.linalg.cholesky(covariance).t()


@pytest.mark.parametrize("objective", ["ssm", "exact", "dsm", "fdssm"])
def test_losses_have_their_closed_form_on_gaussians(objective: str) -> None:
    """Within 5 standard errors: false alarm below 1e-6."""
    model, data = random_covariance(), random_covariance(seed=5)
    flow, x = gaussian_flow(model), draws(random_covariance(seed=5), 100_000)
    precision = torch.linalg.inv(model)
    implicit = 0.5 * torch.trace(precision @ data @ precision) - torch.trace(precision)
    torch.manual_seed(0)
    if objective == "dsm":
        sigma = 0.3
        noisy = data + sigma**2 * torch.eye(4)
        implicit = 0.5 * torch.trace(precision @ noisy @ precision) - torch.trace(precision) + 4 / (2 * sigma**2)
        setting = Matching("dsm", noise=sigma)
    elif objective == "fdssm":
        setting = Matching("fdssm", epsilon=0.1)  # a quadratic energy has no error in epsilon but (E+ - E-)^2 / 8
    else:
        setting = Matching("ssm", slices=1 if objective == "ssm" else None)
    parts = torch.stack([setting.loss(flow, part).detach() for part in x.chunk(50)])
    error = float(parts.std() / 50**0.5)
    assert float(parts.mean()) == pytest.approx(float(implicit) / 4, abs=5 * error + 1e-12)
    assert error < 0.05


def test_finite_differences_approach_the_implicit_loss_with_the_square_of_the_step() -> None:
    flow = flow_of("dense")
    x = torch.randn(1, D, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(4000, D, generator=generator, dtype=torch.float64)
    v = v / v.norm(dim=1, keepdim=True)
    score, curvature = flow.stack.score_and_curvature(x.expand(4000, D), v[None])
    score, curvature = score.detach(), curvature.detach()
    along = (score * v).sum(1)  # the same directions, so that nothing but the step differs
    limit = float((0.5 * along.square() + curvature[0]).mean())
    errors = []
    for epsilon in (0.4, 0.2, 0.1):
        centre, ahead, behind = (flow.stack.energy(x.expand(4000, D) + side * epsilon * v) for side in (0, 1, -1))
        errors.append(abs(float(score_matching.finite_difference(centre, ahead, behind, epsilon).detach()) - limit))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_the_contrastive_gradient_is_that_of_maximum_likelihood() -> None:
    torch.manual_seed(0)
    flow = shaken(EnergyFlow(2, dense_layers(2, 2)), 0.4).train()
    x = draws(random_covariance(2, 3), 20_000)
    weights = list(flow.parameters())
    likelihood = torch.autograd.grad(Matching("ml").loss(flow, x), weights)
    contrast = torch.autograd.grad(Matching("sml").loss(flow, x.repeat(5, 1)), weights)
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (likelihood, contrast))
    assert float(torch.cosine_similarity(one, other, dim=0)) > 0.99
    assert float(other.norm() / one.norm()) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("objective", ["ssm", "dsm", "fdssm", "ml"])
def test_gaussian_data_are_learned(objective: Any) -> None:
    """Sliced and finite-difference matching find S, denoising finds S + sigma^2: within the error of 4000 rows."""
    covariance, sigma = random_covariance(3), 0.5
    x = draws(covariance, 4000)
    torch.manual_seed(0)
    flow = EnergyFlow(3, [Dense(3, "identity")]).double().train()
    setting = Matching(objective, noise=sigma, epsilon=0.1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
    for _ in range(400):
        loss = setting.loss(flow, x[torch.randint(0, 4000, (1000,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    weight = flow.linear[0].matrix().detach()
    found = torch.linalg.inv(weight.t() @ weight)
    expected = covariance + (sigma**2 if objective == "dsm" else 0.0) * torch.eye(3)
    assert float((found - expected).abs().max()) < 0.15 * float(expected.max())


def test_density_in_two_dimensions_integrates_to_one() -> None:
    for layers in (dense_layers(2, 3), coupling_layers(2, 0, 3, 8)):
        torch.manual_seed(0)
        flow = shaken(EnergyFlow(2, layers), 0.15).eval()
        reach = flow.sample(20_000, None, torch.Generator().manual_seed(0)).abs().amax(0) * 1.7
        axes = [torch.linspace(-float(r), float(r), 900, dtype=torch.float64) for r in reach]
        grid = torch.cartesian_prod(*axes)
        with torch.no_grad():
            density = flow.log_prob(grid).exp()
        total = float(density.sum() * (axes[0][1] - axes[0][0]) * (axes[1][1] - axes[1][0]))
        assert total == pytest.approx(1, abs=2e-3)


def squares(num: int, generator: torch.Generator, noise: float = 0.375) -> tuple[Tensor, Tensor]:
    """Rows of a smoothed checkerboard (eight squares of side 3, normal noise), and the log-density of any rows."""
    lower = torch.tensor([(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0], dtype=torch.float64) * 3 - 6
    x = lower[torch.randint(0, 8, (num,), generator=generator)]
    x = x + 3 * torch.rand(num, 2, generator=generator, dtype=torch.float64)
    x = x + noise * torch.randn(num, 2, generator=generator, dtype=torch.float64)
    away = x[:, None] - lower
    inside = torch.special.ndtr(away / noise) - torch.special.ndtr((away - 3) / noise)
    return x, (inside.prod(2).mean(1) / 9).log()


@pytest.mark.parametrize(("objective", "most"), [("ml", 0.4), ("dsm", 0.8)])
def test_a_smoothed_toy_is_never_described_better_than_by_its_own_density(objective: Any, most: float) -> None:
    """Differences on the same 20,000 rows; three standard errors. One Gaussian loses 0.65; a seed 0.25 and 0.61."""
    g = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    flow = EnergyFlow(2, coupling_layers(2, 0, 4, 32)).double().train()
    setting = Matching(objective, noise=0.375, epsilon=0.1)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for _ in range(400):
        # denoising adds the noise itself
        loss = setting.loss(flow, squares(512, g, 1e-9 if objective == "dsm" else 0.375)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, truth = squares(20_000, g)
    with torch.no_grad():
        lost = truth - flow.eval().log_prob(x)
    assert float(truth.mean()) == pytest.approx(-4.683, abs=0.02)
    assert float(lost.mean()) > -3 * float(lost.std()) / math.sqrt(len(x))
    assert float(lost.mean()) < most


def test_matching_before_the_preprocessing_is_another_loss_of_the_same_density() -> None:
    flow = flow_of("dense").train()
    front = ShareLogit(256.0, 0.5).double()
    x = 256 * torch.rand(20, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, log_det = front.push(x)
    before = Stack([front, *flow.stack.layers])
    torch.testing.assert_close(before.energy(x), flow.stack.energy(y) - log_det)
    ssm = Matching("ssm")
    assert not torch.isclose(ssm.loss(flow, y), ssm.loss(flow, x, stack=before))


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="objective must be one of"):
        Matching("nce")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="slices must be at least 1"):
        Matching(slices=0)
    with pytest.raises(ValueError, match="noise and epsilon must be above 0"):
        Matching(noise=0.0)
    with pytest.raises(ValueError, match="kernel must be odd"):
        Convolution((1, 4, 4), 2)
    with pytest.raises(ValueError, match="sides divisible by 4"):
        convolutional_layers((6, 6), 3)


def test_parameter_counts_are_those_of_the_paper() -> None:
    def count(flow: EnergyFlow) -> int:
        return sum(p.numel() for p in flow.parameters())

    assert count(EnergyFlow(784, dense_layers(784))) == 1_230_880
    assert count(EnergyFlow(784, convolutional_layers((28, 28)))) == 26_796
    assert np.isfinite(count(EnergyFlow(2, coupling_layers(2, 0))))


# ---- sampling with the score ---------------------------------------------------------------------------------------


def test_langevin_chains_have_the_conditional_law_of_the_free_coordinates() -> None:
    covariance = random_covariance(4, 2)
    precision = torch.linalg.inv(covariance)
    free = torch.tensor([True, True, False, False]).expand(1500, 4)
    start = torch.tensor([3.0, -3.0, 1.0, -0.5], dtype=torch.float64).expand(1500, 4)

    def target(x: Tensor) -> tuple[Tensor, Tensor]:
        return -0.5 * ((x @ precision) * x).sum(1), -x @ precision

    chains = langevin(target, start, 120, torch.Generator().manual_seed(0), step=0.2, free=free)
    assert torch.equal(chains.state[:, 2:], start[:, 2:])
    kept = torch.linalg.inv(precision[:2, :2])
    centre = -kept @ precision[:2, 2:] @ start[0, 2:]
    found = chains.state[:, :2]
    # mean of 1500 independent chains: 5 standard errors
    assert ((found.mean(0) - centre).abs() < 5 * (kept.diagonal() / 1500).sqrt()).all()
    torch.testing.assert_close(torch.cov(found.t()), kept, atol=0.15 * float(kept.max()), rtol=0)
    assert 0.4 < float(chains.acceptance.mean()) < 0.75


def test_langevin_never_accepts_a_state_without_density() -> None:
    def target(x: Tensor) -> tuple[Tensor, Tensor]:
        inside = (x > 0).all(1)
        return torch.where(inside, -x.sum(1), -torch.inf), torch.where(inside[:, None], -torch.ones_like(x), torch.nan)

    chains = langevin(target, torch.ones(200, 1, dtype=torch.float64), 200, torch.Generator().manual_seed(1))
    assert (chains.state > 0).all()
    assert float(chains.state.mean()) == pytest.approx(1.0, abs=5 / 200**0.5)


# ---- the model -----------------------------------------------------------------------------------------------------


def small_pictures(number: int = 120) -> np.ndarray:
    """Diagonal gradients with noise: neighbours depend on each other."""
    rng = np.random.default_rng(0)
    level = rng.uniform(60, 190, (number, 1, 1))
    slope = rng.normal(0, 10, (number, 1, 1)) * np.arange(4)[None, :, None]
    return np.clip(level + slope + rng.normal(0, 8, (number, 4, 4)), 0, 255).astype(np.uint8)


def fitted_pictures(folder: Any, **options: Any) -> tuple[Any, Images]:
    module = Images(array=small_pictures(), batch_size=20)
    model = EBFlow(module.schema_dict, patience=0, ema=0.9, steps=30, draws=2, **options)
    trainer = make_trainer(folder, progress=False, max_epochs=2)
    trainer.fit(model, datamodule=module)
    return model, module


@pytest.mark.parametrize(
    "options",
    [
        {"objective": "ssm"},
        {"objective": "dsm", "noise": 0.2, "network": "convolutional", "num_layers": 2, "kernel": 3},
        {"objective": "fdssm", "network": "coupling", "num_layers": 2, "hidden": 8, "energy_weight": 0.1},
        {"objective": "ssm", "match": "data"},
        {"objective": "sml"},
    ],
)
def test_pictures_are_scored_drawn_and_filled(options: dict[str, Any], tmp_path: Any) -> None:
    model, module = fitted_pictures(tmp_path, **options)
    data = module.data("test")
    likelihood = model.log_prob(data)
    assert likelihood.kind == model.likelihood_kind == "lower_bound"
    assert (likelihood.values <= 0).all()
    assert likelihood.measure == module.schema.measure
    drawn = np.stack(model.sample(5, seed=0)["image"])
    assert drawn.shape == (5, 16)
    assert drawn.min() >= 0
    assert drawn.max() <= 255
    frame = pd.DataFrame({"image": [list(map(float, row)) for row in data.numeric[:3]]})
    for row in frame["image"]:
        row[5:9] = [None] * 4
    filled = [np.stack(one["image"]) for one in model.impute(frame, draws=2, seed=1)]
    observed = np.ones(16, dtype=bool)
    observed[5:9] = False
    for one in filled:
        np.testing.assert_array_equal(one[:, observed], data.numeric[:3][:, observed])
        assert ((one >= 0) & (one <= 255)).all()
    assert (filled[0] != filled[1]).any()
    with pytest.raises(CapabilityError, match="3 of 3 pictures have missing pixels"):
        model.log_prob(frame)


def test_matching_pictures_in_either_space_scores_alike_and_trains_apart() -> None:
    module = Images(array=small_pictures())
    models = [EBFlow(module.schema_dict, objective="ssm", match=match) for match in ("preprocessed", "data")]  # type: ignore[arg-type]
    for model in models:
        model.fit_codec(module)
    models[1].load_state_dict(models[0].state_dict())
    scores = [model.log_prob(module.data("test")).values for model in models]
    np.testing.assert_array_equal(scores[0], scores[1])
    losses = []
    for model in models:
        torch.manual_seed(0)
        losses.append(float(model.loss(model.codec.encode(module.fit_sample())).detach()))
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.parametrize("objective", ["ssm", "dsm", "fdssm"])
def test_training_steps_of_the_model_compute_no_determinant(objective: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = mixed_table(120)
    table = Table(frame=frame, seed=0)
    images = Images(array=small_pictures())
    for module in (table, images):
        model = EBFlow(module.schema_dict, objective=objective, num_layers=2, hidden=8)
        model.fit_codec(module)
        with monkeypatch.context() as patch:
            for name in ("slogdet", "det", "lu", "lu_factor", "lu_factor_ex", "inv", "solve", "qr", "svd", "svdvals"):
                patch.setattr(torch.linalg, name, _refused)
            for name in ("slogdet", "det", "logdet", "lu", "inverse"):
                patch.setattr(torch, name, _refused)
                patch.setattr(torch.Tensor, name, _refused, raising=False)
            model.loss(model.codec.encode(module.fit_sample())).backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_surjection_ascends_the_bound_while_the_flow_matches_scores() -> None:
    """Its gradient is that of maximum likelihood, without a determinant; the flow's is that of matching alone."""
    module = Table(frame=mixed_table(200), seed=0)
    gradients = {}
    for objective in ("ml", "ssm"):
        model = EBFlow(module.schema_dict, objective=objective, num_layers=2, hidden=8)  # type: ignore[arg-type]
        model.fit_codec(module)
        shaken(model.rows, 0.05).float()
        cells = model.codec.encode(module.fit_sample())
        torch.manual_seed(0)
        model.loss(cells).backward()
        assert isinstance(model.rows, EnergyRows)
        width = model.rows.rows.surjection.num_features
        gradients[objective] = torch.cat(
            [p.grad.flatten() for p in model.rows.rows.surjection.parameters() if p.grad is not None]
        )
    assert float(gradients["ml"].norm()) > 0
    torch.testing.assert_close(gradients["ssm"] * width, gradients["ml"], rtol=2e-3, atol=2e-4)


def gaussian_model() -> tuple[Any, pd.DataFrame, np.ndarray]:
    """A model of two columns set to a Gaussian by hand, and the covariance of its rows in the table's units."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(400, 2)) @ np.array([[1.0, 0.8], [0.0, 0.6]]), columns=["a", "b"])
    module = Table(frame=frame, seed=0)
    model = EBFlow(module.schema_dict, network="dense", num_layers=1, objective="ssm", scaler="standardise", steps=80)
    model.fit_codec(module)
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]])
    weight = np.linalg.inv(np.linalg.cholesky(covariance))
    dense = model.rows.flow.linear[0]
    dense.get_parameter("weight").data.copy_(torch.as_tensor(weight))
    dense.get_parameter("bias").data.zero_()
    return model, frame, covariance


def test_missing_numbers_are_drawn_from_their_conditional() -> None:
    model, _, covariance = gaussian_model()
    rows = pd.DataFrame({"a": [1.0] * 300, "b": [np.nan] * 300})
    filled = model.impute(rows, draws=1, seed=0)[0]
    assert (filled["a"] == 1.0).all()
    cells = model.codec.encode(model._encoded_table(filled).batch()).number.numpy()
    rho = covariance[0, 1]
    assert cells[:, 1].mean() == pytest.approx(rho * cells[0, 0], abs=5 * (1 - rho**2) ** 0.5 / 300**0.5)
    assert cells[:, 1].std() == pytest.approx((1 - rho**2) ** 0.5, rel=0.2)


def test_exact_numbers_on_complete_rows_and_bounds_on_holes() -> None:
    model, frame, covariance = gaussian_model()
    exact = model.log_prob(frame.head(5))
    assert exact.kind == "exact"
    z = model.codec.encode(model._encoded_table(frame.head(5)).batch())
    normal = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=torch.float64), torch.as_tensor(covariance))
    expected = normal.log_prob(z.number) + z.log_volume.sum(1)
    np.testing.assert_allclose(exact.values, expected.numpy(), atol=1e-6)
    holes = pd.DataFrame({"a": frame["a"].head(50), "b": [np.nan] * 50})
    bound = model.log_prob(holes, draws=256)
    assert bound.kind == "lower_bound"
    marginal = model.codec.encode(model._encoded_table(holes).batch())
    truth = (torch.distributions.Normal(0.0, 1.0).log_prob(marginal.number[:, 0]) + marginal.log_volume.sum(1)).numpy()
    gap = truth - bound.values
    assert gap.mean() > -3 * bound.se_mean()
    assert gap.mean() < 0.2


def test_determinants_and_condition_numbers_are_logged(tmp_path: Any) -> None:
    _, frame, _ = gaussian_model()
    module = Table(frame=frame, seed=0)
    trainer = make_trainer(tmp_path, progress=False, max_epochs=1)
    fresh = EBFlow(module.schema_dict, objective="ssm", num_layers=2, hidden=8, ema=0.0, patience=0)
    trainer.fit(fresh, datamodule=module)
    logged = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("matrix/")}
    assert set(logged) == {f"matrix/{name}_{k}" for name in ("log_det", "condition") for k in range(3)}
    found = fresh.determinants()
    for name, value in logged.items():
        assert value == pytest.approx(found[name.removeprefix("matrix/")], rel=1e-4, abs=1e-4)
    values = torch.linalg.svdvals(fresh.rows.flow.linear[0].matrix().double())
    assert found["condition_0"] == pytest.approx(float(values[0] / values[-1]))
    assert found["log_det_0"] == pytest.approx(float(values.log().sum()))


def test_the_average_of_weights_forgets_the_first_ones() -> None:
    average = ramped_decay(0.999)
    values = [torch.tensor(0.0), torch.zeros(2, 3)]
    for n in range(3):
        rate = 1 - (1 + n) / (10 + n)
        expected = [value + rate * (n + 1.0 - value) for value in values]
        average(values, [torch.full_like(value, n + 1.0) for value in values], n)
        torch.testing.assert_close(values, expected)
    average(values, [value + 1 for value in values], 10**6)
    torch.testing.assert_close(values, [value + 0.001 for value in expected])


def test_an_objective_and_a_network_are_chosen_by_the_table() -> None:
    table = EBFlow(Table(frame=mixed_table(60)).schema_dict)
    assert (table.objective, table.network) == ("ml", "coupling")
    pictures = EBFlow(Images(array=np.zeros((20, 9, 9), dtype=np.uint8)).schema_dict)
    assert (pictures.objective, pictures.network) == ("ssm", "dense")


def test_what_the_model_cannot_do_is_said_in_words() -> None:
    table, pictures = Table(frame=mixed_table(60)).schema_dict, Images(array=small_pictures()).schema_dict
    with pytest.raises(CapabilityError, match="convolutional needs pictures"):
        EBFlow(table, network="convolutional")
    with pytest.raises(ValueError, match="match: data goes with objective ssm or sml, got 'dsm'"):
        EBFlow(pictures, objective="dsm", match="data")
    with pytest.raises(ValueError, match="objective must be one of"):
        EBFlow(table, objective="nce")  # type: ignore[arg-type]
    text = Schema((Column("t", "categorical", categories=("a", "b"), shape=(300,)),))
    with pytest.raises(CapabilityError, match="blocks of categories such as 't'"):
        EBFlow(text.to_dict())
