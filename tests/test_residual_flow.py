"""Residual flow: Lipschitz bounds, log-determinants exact and estimated, inverses, tables and images."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

import genzoo
from contract import continuous_table
from genzoo.bijections.actnorm import ActNorm
from genzoo.bijections.induced_norms import certified_norm, power_iteration
from genzoo.bijections.jacobian import jacobian, log_abs_det, rademacher
from genzoo.bijections.lipschitz import LipschitzConv2d, LipschitzLinear, LipschitzNet, lipswish
from genzoo.bijections.residual import ResidualBlock
from genzoo.bijections.squeeze import Squeeze
from genzoo.errors import GenZooError
from genzoo.likelihood.noise import RowNoise
from genzoo.likelihood.roulette import Roulette
from genzoo.models.flows.residual_density import BlockSizes, ResidualDensity
from genzoo.models.flows.residual_flow import ResidualFlow


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def stirred(module: Any, size: float = 0.3, seed: int = 0) -> Any:
    """Float64, with weights away from the start, and power iterations that have caught up."""
    module = module.double()
    torch.manual_seed(seed)
    for name, parameter in module.named_parameters():
        # a start near the identity would hide mistakes: the last layers get the size of the others
        parameter.data += (size if "weight" in name else 0.1) * torch.randn_like(parameter)
    for part in module.modules():
        if isinstance(part, LipschitzNet):
            part.refresh(thorough=True)
    return module


def dense_net(width: int = 4, lipschitz: float = 0.9, **options: Any) -> LipschitzNet:
    torch.manual_seed(0)
    return stirred(BlockSizes(16, 2, lipschitz, **options).dense(width, 0))


def image_net(shape: tuple[int, int, int] = (2, 4, 4), lipschitz: float = 0.9) -> LipschitzNet:
    torch.manual_seed(0)
    return stirred(BlockSizes(6, 2, lipschitz).convolutional(shape, 0))


# ---- activation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.05, 0.974, 7.0])
def test_lipswish_has_slopes_between_minus_a_tenth_and_one(beta: float) -> None:
    h = torch.linspace(-60, 60, 100_001, dtype=torch.float64) / beta
    slope = lipswish(h, torch.tensor(beta, dtype=torch.float64))[1]
    assert float(slope.max()) <= 0.99986
    assert float(slope.min()) >= -0.0909
    assert float(slope.max()) > 0.999


def test_lipswish_is_right_to_the_second_derivative_and_under_torch_func() -> None:
    h, beta = noise(4, 3).requires_grad_(), torch.tensor(0.9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lipswish, (h, beta), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lipswish, (h, beta))
    value, slope = lipswish(h, beta)
    torch.testing.assert_close(value, h * torch.sigmoid(0.9 * h) / 1.1)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda x: lipswish(x, beta)[0].sum()))(h), slope)


# ---- norms --------------------------------------------------------------------------------------------------------

ORDERS = (1.0, 1.5, 2.0, 3.0, math.inf)


@pytest.mark.parametrize(("domain", "codomain"), list(itertools.product(ORDERS, ORDERS)))
def test_certified_norms_are_above_what_power_iteration_reaches(domain: float, codomain: float) -> None:
    w = noise(5, 3)
    reached = 0.0
    for seed in range(20):
        u, v = power_iteration(lambda t: w @ t, lambda t: w.T @ t, noise(3, seed=seed), domain, codomain, 100)
        assert float(torch.linalg.vector_norm(v, domain)) == pytest.approx(1)
        assert float(u @ w @ v) == pytest.approx(float(torch.linalg.vector_norm(w @ v, codomain)))
        reached = max(reached, float(u @ w @ v))
    bound = certified_norm(w, domain, codomain)
    assert reached <= bound * (1 + 1e-9)
    assert bound < 2.5 * reached, "a bound, not a wild guess"
    if domain == 1 or codomain == math.inf or domain == codomain == 2:
        assert bound == pytest.approx(reached, rel=1e-6)


@pytest.mark.parametrize("size", [(4, 4), (3, 6)])
def test_norm_of_a_convolution_is_certified_from_above_and_nearly_reached(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = LipschitzConv2d(2, 3, 3, size, 0.9).double()
    matrix = jacobian(lambda x: layer.push(x, layer.weight), noise(1, 2, *size))[1][0]
    exact, bound = float(torch.linalg.matrix_norm(matrix.detach(), 2)), layer.upper_bound()
    assert exact <= bound <= 1.2 * exact
    torch.testing.assert_close(
        layer.pull(noise(1, 3, *size), layer.weight).flatten(), matrix.T @ noise(3, *size).flatten()
    )


def test_training_follows_the_norm_with_one_refresh_a_step_and_evaluation_certifies_it() -> None:
    torch.manual_seed(0)
    layer = LipschitzLinear(20, 30, 0.9)
    optimizer = torch.optim.Adam(layer.parameters(), 3e-3)
    for _ in range(100):
        optimizer.zero_grad()
        (-layer.apply_to(torch.randn(50, 20), layer.effective(), layer.bias).square().mean()).backward()
        optimizer.step()
        layer.refresh()

    def used() -> float:
        return float(torch.linalg.matrix_norm(layer.effective().detach().double(), 2))

    assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) > 1.2
    # the start is orthogonal: all singular values tie, the hardest case for a few steps of iteration
    assert 0.9 * (1 - 1e-6) < used() < 0.9 * (1 + 0.05)
    layer.refresh(thorough=True)
    assert used() < 0.9 * (1 + 1e-3)
    layer.eval()
    assert used() <= layer.certified() <= 0.9 * (1 + 2e-6)


def test_new_weights_are_certified_anew_even_without_leaving_evaluation() -> None:
    layer = LipschitzLinear(5, 5, 0.9).eval()
    before = layer.effective()
    with torch.no_grad():
        layer.weight.mul_(10.0)
    assert float(torch.linalg.matrix_norm(layer.effective(), 2)) <= 0.9 * (1 + 1e-5)
    torch.testing.assert_close(layer.effective(), before)  # the start has norm 0.9


@pytest.mark.parametrize("make", [dense_net, image_net])
def test_the_certificate_bounds_the_jacobian_everywhere(make: Any) -> None:
    net = make().eval()
    shape = (4,) if make is dense_net else (2, 4, 4)
    matrices = net.linearise(3 * noise(100, *shape)).jacobian().detach()
    largest = float(torch.linalg.matrix_norm(matrices, 2).max())
    assert largest <= net.certificate() <= 0.9 * (1 + 1e-5)
    assert largest > 0.05, "the networks do something"


@pytest.mark.parametrize("orders", [(1.0, 1.0, 1.0), (math.inf, math.inf, math.inf), (2.0, 3.0, 1.5), (1.5, 2.0, 2.0)])
def test_blocks_of_mixed_norms_are_contractions(orders: tuple[float, ...]) -> None:
    net = dense_net(orders=orders).eval()
    assert net.certificate() < 1
    a, b = 3 * noise(200, 4, seed=1), 3 * noise(200, 4, seed=2)
    order = orders[0]
    moved = torch.linalg.vector_norm(net(a) - net(b), order, 1) / torch.linalg.vector_norm(a - b, order, 1)
    assert float(moved.max()) <= net.certificate()
    block = ResidualBlock(net)
    torch.testing.assert_close(block.solve(a + net(a)), a, atol=1e-8, rtol=0)


def test_norm_orders_must_close() -> None:
    layers = [LipschitzLinear(3, 4, 0.9, domain=2, codomain=3), LipschitzLinear(4, 3, 0.9, domain=3, codomain=3)]
    with pytest.raises(ValueError, match="close"):
        LipschitzNet(layers)


# ---- log-determinants ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preactivate", [False, True])
def test_exact_log_determinants_are_those_of_autograd(preactivate: bool) -> None:
    block = ResidualBlock(dense_net(preactivate=preactivate))
    x = noise(7, 4, seed=3)
    z, log_det = block.inverse(x)
    value, matrices = jacobian(lambda x: x + block.net(x), x)
    torch.testing.assert_close(z, value)
    torch.testing.assert_close(log_det, log_abs_det(matrices))


def test_convolutional_log_determinants_are_those_of_autograd() -> None:
    block = ResidualBlock(image_net())
    x = noise(3, 2, 4, 4, seed=3)
    value, matrices = jacobian(lambda x: x + block.net(x), x)
    z, log_det = block.inverse(x)
    torch.testing.assert_close(z, value)
    torch.testing.assert_close(log_det, log_abs_det(matrices))


@pytest.mark.parametrize("make", [dense_net, image_net])
def test_estimates_of_a_block_average_to_the_exact_log_determinant(make: Any) -> None:
    block = ResidualBlock(make(lipschitz=0.6))
    shape = (4,) if make is dense_net else (2, 4, 4)
    x = noise(2, *shape, seed=3)
    num = 2000
    roulette = Roulette(num_exact=2)
    generator = torch.Generator().manual_seed(0)
    weights = roulette.weights(roulette.numbers(torch.rand(2 * num, 1, generator=generator)))
    many = x.repeat_interleave(num, 0)
    with torch.no_grad():
        z, value = block.estimate(many, rademacher(noise(*many.shape, seed=5)), weights)
    exact = block.inverse(x)[1]
    torch.testing.assert_close(z[::num], block.inverse(x)[0])
    value = value.reshape(2, num)
    error = (value.mean(1) - exact) / (value.std(1) / num**0.5)
    assert error.abs().max() < 4.5


def test_gradients_of_estimates_are_unbiased_for_rows_of_different_weight() -> None:
    block = ResidualBlock(dense_net(3, lipschitz=0.6))
    x = noise(2, 3, seed=3)
    share = torch.tensor([0.2, 3.0], dtype=torch.float64)  # a shortcut that takes the first row's weight would fail
    wanted = [x.requires_grad_(), *(p for p in block.parameters() if p.ndim)]
    exact = torch.autograd.grad((share * block.inverse(x)[1]).sum(), wanted, allow_unused=True)
    roulette, num, draws = Roulette(num_exact=2), 400, []
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        weights = roulette.weights(roulette.numbers(torch.rand(2 * num, 1, generator=generator)))
        many = x.repeat_interleave(num, 0)
        value = block.estimate(many, rademacher(noise(2 * num, 3, seed=1000 + seed)), weights)[1]
        draws.append(torch.autograd.grad((share.repeat_interleave(num) * value).sum() / num, wanted, allow_unused=True))
    worst, compared = 0.0, 0
    for i, reference in enumerate(exact):
        if reference is None:
            assert draws[0][i] is None
            continue
        each = torch.stack([draw[i] for draw in draws])
        spread = each.std(0) / len(draws) ** 0.5
        if float(spread.max()) < 1e-9:
            torch.testing.assert_close(each.mean(0), reference)
            continue
        worst = max(worst, float(((each.mean(0) - reference) / spread.clamp_min(1e-12)).abs().max()))
        compared += reference.numel()
    assert compared > 300
    assert worst < 5.5  # Student's t with 59 degrees of freedom, 400 entries: above once in 2000 runs


def test_memory_of_an_estimate_does_not_grow_with_its_terms() -> None:
    block = ResidualBlock(dense_net())
    x = noise(5, 4, seed=3)

    def saved(num_terms: int) -> int:
        sizes: list[int] = []

        def pack(t: Tensor) -> Tensor:
            sizes.append(t.numel())
            return t

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            block.estimate(x, noise(5, 4), torch.ones(1, num_terms, dtype=torch.float64))
        return sum(sizes)

    assert saved(40) == saved(2) > 0


def test_the_value_of_an_estimate_is_the_estimate_itself_in_training_too() -> None:
    block = ResidualBlock(dense_net())
    x, probe, weights = noise(5, 4, seed=3), noise(5, 4), torch.ones(1, 6, dtype=torch.float64)
    with_gradient = block.estimate(x, probe, weights)[1]
    assert with_gradient.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(with_gradient.detach(), block.estimate(x, probe, weights)[1])


# ---- inverse ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-8)])
def test_the_inverse_brings_rows_back(dtype: torch.dtype, error: float) -> None:
    block = ResidualBlock(dense_net(lipschitz=0.95)).to(dtype).eval()
    x = (2 * noise(300, 4, seed=4)).to(dtype)
    z, log_det = block.inverse(x)
    back, minus = block.forward(z)
    assert float((back - x).abs().max()) < error
    assert block.residual < 10 * error
    torch.testing.assert_close(minus, -log_det, atol=100 * error, rtol=0)


def test_rows_that_have_converged_rest() -> None:
    block = ResidualBlock(dense_net(lipschitz=0.95)).eval()
    rows_seen: list[int] = []
    whole = block.net.forward

    def counted(x: Tensor, context: Tensor | None = None) -> Tensor:
        rows_seen.append(len(x))
        return whole(x, context)

    block.net.forward = counted  # type: ignore[method-assign]
    x = noise(64, 4, seed=4) * torch.logspace(-3, 1, 64, dtype=torch.float64)[:, None]
    torch.testing.assert_close(block.solve(x + whole(x)), x, atol=1e-8, rtol=0)
    assert len(rows_seen) < block._enough(1e-10), "never more steps than the Lipschitz constant asks for"
    assert min(rows_seen[1:-1]) < 64
    assert sum(rows_seen) < 0.95 * 64 * len(rows_seen)


def test_errors_of_the_iteration_stay_below_the_geometric_bound() -> None:
    block = ResidualBlock(dense_net(lipschitz=0.9)).eval()
    bound = block.net.certificate()
    with torch.no_grad():
        x = 2 * noise(200, 4, seed=6)
        z = x + block.net(x)
        here = z - block.net(z)
        first = (here - z).norm(dim=1)
        for t in range(1, 40):
            assert bool(((here - x).norm(dim=1) <= bound**t / (1 - bound) * first + 1e-12).all())
            here = z - block.net(here)


def test_an_inverse_that_has_not_converged_is_an_error() -> None:
    block = ResidualBlock(dense_net(lipschitz=0.95), max_iterations=2).eval()
    with pytest.raises(GenZooError, match="rows have a residual up to"):
        block.solve(noise(10, 4))


# ---- densities ----------------------------------------------------------------------------------------------------


def density(shape: tuple[int, ...], **options: Any) -> ResidualDensity:
    torch.manual_seed(0)
    sizes = BlockSizes(options.pop("hidden", 12), 2, options.pop("lipschitz", 0.8))
    return stirred(ResidualDensity(shape, options.pop("num_context", 0), sizes=sizes, **options), 0.2)


def test_a_flow_starts_near_a_standardised_normal() -> None:
    torch.manual_seed(0)
    flow = ResidualDensity((3,), num_blocks=5, sizes=BlockSizes(12, 2, 0.8)).double().eval()
    x = torch.tensor([1.0, 20.0, 3.0]) * noise(2000, 3, seed=1) + torch.tensor([5.0, 0.0, -7.0])
    flow.initialise(x)
    spread = x.std(0, correction=0)
    expected = torch.distributions.Normal(x.mean(0), spread).log_prob(x).sum(1)
    found = flow.log_prob(x).detach()
    assert float((found - expected).abs().mean()) < 0.05
    for block in flow.blocks():
        assert float(block.inverse(noise(50, 3))[1].abs().max()) < 0.02


def test_blocks_divided_together_are_those_divided_alone() -> None:
    flow = density((2,), num_blocks=3, num_context=2).train()
    x, context = noise(20, 2), noise(20, 2, seed=1)
    parameters = list(flow.parameters())
    together = flow.log_prob(x, context)
    alone = x.new_zeros(len(x))
    z = x
    for part in flow.parts:
        z, log_det = part.inverse(z, context)
        alone = alone + log_det
    alone = alone + torch.distributions.Normal(0.0, 1.0).log_prob(z).sum(1)
    torch.testing.assert_close(together, alone)
    ours, theirs = (torch.autograd.grad(value.sum(), parameters) for value in (together, alone))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_density_in_the_plane_integrates_to_one() -> None:
    flow = density((2,), num_blocks=3).eval()
    axis = torch.linspace(-12, 12, 400, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        total = flow.log_prob(grid).exp().sum() * (axis[1] - axis[0]) ** 2
    assert float(total) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shape", [(3,), (1, 4, 4)])
def test_log_prob_is_the_change_of_variables_of_its_own_map(shape: tuple[int, ...]) -> None:
    flow = density(shape, num_blocks=2, num_context=2, num_scales=1, num_last=1, last_hidden=12).eval()
    width, num = flow.num_features, 5
    context = noise(num, 2, seed=9)
    z = noise(num, width, seed=8)
    x = flow.to_data(z, context)

    def latent(x: Tensor) -> Tensor:
        h = x.reshape(-1, *shape)
        for part in flow.parts:
            h = part.inverse(h, context[: len(h)])[0]
        return h.flatten(1)

    value, matrices = jacobian(latent, x)
    torch.testing.assert_close(value, z, atol=1e-7, rtol=0)
    normal = -0.5 * value.square().sum(1) - 0.5 * width * math.log(2 * math.pi)
    torch.testing.assert_close(flow.log_prob(x, context), normal + log_abs_det(matrices))
    assert not torch.allclose(flow.log_prob(x, context), flow.log_prob(x, context + 1)), "the context matters"


def test_exact_and_roulette_training_agree_on_average() -> None:
    exact, estimated = density((3,), num_blocks=2), density((3,), num_blocks=2, log_det="roulette", lipschitz=0.8)
    x = noise(1, 3, seed=3).repeat(10_000, 1)
    torch.manual_seed(0)
    drawn = torch.stack([estimated.log_prob(part).mean() for part in x.split(100)]).detach()
    reference = exact.log_prob(x[:1])[0].detach()
    assert float(drawn.std()) > 0
    assert abs(float(drawn.mean() - reference)) < 4.5 * float(drawn.std()) / len(drawn) ** 0.5


def test_wide_rows_are_estimated_without_bias_whatever_the_batch() -> None:
    flow = density((1, 6, 12), num_blocks=1, num_scales=1, num_last=1, last_hidden=12, hidden=6).eval()
    assert flow.noisy
    x = noise(20, 72, seed=3)
    rows = torch.arange(20)
    with torch.no_grad():
        exact = flow._exact(x, None)
        drawn = torch.stack([flow.estimate(x, None, RowNoise(0, rows), f"{k}") for k in range(40)])
        part = flow.estimate(x[5:9], None, RowNoise(0, rows[5:9]), "0")
    torch.testing.assert_close(part, drawn[0, 5:9])
    error = (drawn.mean(0) - exact) / (drawn.std(0) / 40**0.5)
    assert error.abs().max() < 5.5  # Student's t with 39 degrees of freedom, 20 rows: above once in 20,000 runs


def test_actnorm_starts_from_the_data_once_and_inverts() -> None:
    norm = ActNorm((2, 3, 3)).double()
    x = 5 + 3 * noise(50, 2, 3, 3)
    norm.initialise(x)
    z, log_det = norm.inverse(x)
    torch.testing.assert_close(z.mean([0, 2, 3]), torch.zeros(2, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(z.var([0, 2, 3], correction=0), torch.ones(2, dtype=torch.float64), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.forward(z)[0], x)
    torch.testing.assert_close(log_det, torch.full((50,), 9 * float(norm.log_scale.sum()), dtype=torch.float64))
    before = norm.bias.clone()
    norm.initialise(x + 100)
    torch.testing.assert_close(norm.bias, before)


def test_squeezing_keeps_every_pixel_and_refuses_odd_sizes() -> None:
    squeeze, x = Squeeze((1, 4, 6)), noise(2, 1, 4, 6)
    z = squeeze.inverse(x)[0]
    assert z.shape == (2, 4, 2, 3)
    torch.testing.assert_close(z[0, :, 0, 0].sort()[0], x[0, 0, :2, :2].flatten().sort()[0])
    torch.testing.assert_close(squeeze.forward(z)[0], x)
    with pytest.raises(ValueError, match="fewer scales"):
        Squeeze((1, 7, 7))


# ---- models -------------------------------------------------------------------------------------------------------


def fitted(frame: pd.DataFrame, epochs: int = 2, **options: Any) -> ResidualFlow:
    small: dict[str, Any] = {"num_blocks": 2, "hidden": 16, "patience": 0}
    model = genzoo.fit(frame, model="residual_flow", max_epochs=epochs, data={"batch_size": 100}, **(small | options))
    assert isinstance(model, ResidualFlow)
    return model


@pytest.fixture(scope="module")
def wide() -> tuple[ResidualFlow, pd.DataFrame]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(200, 3)) @ rng.normal(size=(3, 66)) + rng.normal(size=(200, 66)))
    frame.columns = [f"c{i}" for i in range(66)]
    return fitted(frame, epochs=1, draws=4), frame


def test_complete_numbers_are_exact_and_holes_make_a_bound() -> None:
    frame = continuous_table(300, num_columns=3)
    model = fitted(frame)
    score = model.log_prob(frame)
    assert score.kind == "exact"
    assert score.se is None
    assert 0 < model.certificate() < 1
    np.testing.assert_array_equal(score.values, model.log_prob(frame).values)
    frame.loc[:9, "c1"] = None
    bound = model.log_prob(frame)
    assert bound.kind == "lower_bound"
    assert np.allclose(bound.values[10:], score.values[10:], atol=1e-5)


def test_wide_rows_are_unbiased_estimates_with_an_error_that_holds(wide: tuple[ResidualFlow, pd.DataFrame]) -> None:
    model, frame = wide
    score = model.log_prob(frame)
    assert (score.kind, score.bias) == ("estimate", "none")
    assert score.se is not None
    np.testing.assert_allclose(model.log_prob(frame, batch_size=33).values, score.values, rtol=0, atol=1e-5)
    other = model.log_prob(frame, seed=1)
    assert other.se is not None
    z = (score.values - other.values) / np.sqrt(score.se**2 + other.se**2)
    assert np.abs(score.values - other.values).max() > 0
    assert abs(z.mean()) < 0.5
    with torch.no_grad():
        exact = model.flow._exact(model.codec.encode(model._encoded_table(frame).batch()).number, None).numpy()
    volume = model.codec.encode(model._encoded_table(frame).batch()).log_volume.sum(1).numpy()
    error = (score.values - exact - volume).mean() / (np.sqrt((score.se**2).sum()) / len(frame))
    assert abs(error) < 5


def test_wide_rows_with_a_hole_get_a_bound_and_are_filled(wide: tuple[ResidualFlow, pd.DataFrame]) -> None:
    model, frame = wide
    part = frame.head(8).copy()
    part.iloc[:4, 3] = None
    assert model.log_prob(part).kind == "lower_bound"
    first, again = model.impute(part, seed=1)[0], model.impute(part, seed=1)[0]
    assert not first.isna().any().any()
    pd.testing.assert_frame_equal(first, again)


def test_a_forward_pass_leaves_buffers_alone_and_an_optimiser_step_refreshes_them_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = continuous_table(300)
    calls: list[int] = []
    refresh = ResidualDensity.refresh
    monkeypatch.setattr(
        ResidualDensity, "refresh", lambda self, thorough=False: (calls.append(thorough), refresh(self, thorough))
    )
    model = fitted(frame, epochs=1, ema=0.0, accumulate=2)
    steps = model.training_record.get("steps")
    assert calls
    assert not any(calls)
    assert steps is None or len(calls) == steps
    model.train()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.loss(model.codec.encode(model._encoded_table(frame).batch()))
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_averaged_weights_get_vectors_of_their_own_before_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    refresh = ResidualDensity.refresh
    monkeypatch.setattr(
        ResidualDensity, "refresh", lambda self, thorough=False: (calls.append(thorough), refresh(self, thorough))
    )
    model = fitted(continuous_table(200), epochs=1, ema=0.9)
    assert any(calls), "thorough when averaged weights take over"
    for block in model.flow.blocks():
        for layer in block.net.layers:
            weight = layer.weight.detach().double()
            reached = float(layer.u.double() @ weight @ layer.v.double())
            assert reached == pytest.approx(float(torch.linalg.matrix_norm(weight, 2)), rel=1e-3)
    assert model.certificate() < 1


def test_a_checkpoint_keeps_vectors_and_starting_scales(tmp_path: Path) -> None:
    frame = continuous_table(200)
    model = fitted(frame, epochs=1)
    model.save(tmp_path / "model.ckpt")
    again = genzoo.load(tmp_path / "model.ckpt")
    for (name, ours), (other, theirs) in zip(model.named_buffers(), again.named_buffers(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs), name
    assert all(bool(part.initialized) for part in again.flow.parts if isinstance(part, ActNorm))
    assert again.certificate() == model.certificate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lipschitz": 1.0}, "between 0 and 1"),
        ({"norm_orders": [2.0, 3.0]}, "one number for each of the 3"),
        ({"norm_orders": [0.5, 2.0, 2.0]}, "at least 1"),
        ({"log_det": "guess"}, "log_det must be one of auto, exact, roulette, got 'guess'"),
        ({"num_layers": 0}, "hidden layers"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(continuous_table(100), **options)


# ---- pictures -----------------------------------------------------------------------------------------------------


def pictures(side: int, num: int = 60, seed: int = 0) -> np.ndarray:
    """Bright squares on a dark ground."""
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 40, size=(num, side, side))
    for picture, top, left in zip(drawn, rng.integers(0, side // 2, num), rng.integers(0, side // 2, num), strict=True):
        picture[top : top + side // 2, left : left + side // 2] += 180
    return drawn.astype(np.uint8)


@pytest.mark.parametrize("side", [4, 12])
def test_pictures_are_scored_by_a_bound_and_drawn(side: int, tmp_path: Path) -> None:
    from genzoo.datamodules.images import Images
    from genzoo.models.training import make_trainer

    module = Images(array=pictures(side), batch_size=20)
    module.setup("fit")
    small: dict[str, Any] = {"num_blocks": 1, "hidden": 8, "num_scales": 1, "patience": 0, "draws": 2}
    model = ResidualFlow(schema=module.schema_dict, **small)
    make_trainer(tmp_path, progress=False, max_epochs=1).fit(model, datamodule=module)
    assert model.flow.noisy == (side == 12)
    score = model.log_prob(module.data("test"))
    assert score.kind == "lower_bound"
    assert np.isfinite(score.values).all()
    assert (score.values < 0).all(), "the log of a probability"
    again = model.log_prob(module.data("test"), batch_size=2)
    np.testing.assert_allclose(again.values, score.values, rtol=0, atol=1e-3)
    assert model.certificate() < 1
    drawn = model.model_sample(3, None, torch.Generator().manual_seed(0)).numeric
    assert drawn.shape == (3, side**2)
    assert ((drawn >= 0) & (drawn <= 255) & (drawn % 1 == 0)).all()
    holes = module.data("test").batch()
    holes.numeric[0, 0] = torch.nan
    with pytest.raises(genzoo.errors.CapabilityError, match="missing pixels"):
        model.score_batch(holes, 0, 2)
