"""Training step and evaluation of the residual flow against normflows' of equal size, in one run.

    OMP_NUM_THREADS=1 python benchmarks/residual_flow.py [--rounds 15] [--device cpu]

16 blocks with networks D-128-128-D, a map of each feature after each, batch 512, in 2 and in 8 dimensions. A step is
loss, backward, Adam, and what follows the weights' norms; scoring is ``log_prob`` of 512 rows in evaluation mode. Steps
of all flows are interleaved; times are medians of CPU time (a busy machine does not count). Noise is measured after a
few steps on fresh rows: ``se`` is the standard error that estimating log-determinants adds to the score of a row, nats;
``gradient noise`` is the spread of the loss's gradient over repeats on the same rows, relative to its length.
normflows' modes: ``default`` (roulette, Neumann series, memory-saving), and ``brute_force`` (the full Jacobian; two
dimensions only), the like-for-like row beside GenZoo's exact steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genzoo.models.flows.residual_density import BlockSizes, ResidualDensity

BATCH, BLOCKS, HIDDEN, COEFFICIENT = 512, 16, 128, 0.9


@dataclass
class Contestant:
    """One flow: its module, and the log-likelihood of rows as a function."""

    name: str
    module: torch.nn.Module
    log_prob: Callable[[Tensor], Tensor]
    after: Callable[[], None]
    step_seconds: list[float] = field(default_factory=list)
    score_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.module.parameters(), 1e-3)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def gradient(self, x: Tensor) -> Tensor:
        self.optimizer.zero_grad()
        (-self.log_prob(x).mean()).backward()
        return torch.cat([p.grad.flatten() for p in self.module.parameters() if p.grad is not None])

    def step(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        (-self.log_prob(x).mean()).backward()
        self.optimizer.step()
        self.after()


def rows(num: int, width: int, generator: torch.Generator) -> Tensor:
    """Correlated, skewed, the first two with two modes; about standardised."""
    z = torch.randn(num, width, generator=generator)
    x = z.clone()
    for j in range(1, width):
        x[:, j] = 0.6 * z[:, j] + 0.5 * torch.sin(2 * x[:, j - 1]) + x[:, j - 1].tanh() ** 2 - 0.4
    sign = torch.where(torch.rand(num, 2, generator=generator) < 0.5, -1.0, 1.0)
    x[:, :2] = 0.5 * x[:, :2] + sign
    return x


def genzoo_flow(width: int, log_det: Any, device: str) -> Contestant:
    torch.manual_seed(0)
    sizes = BlockSizes(HIDDEN, 2, COEFFICIENT**3)
    flow = ResidualDensity((width,), num_blocks=BLOCKS, sizes=sizes, log_det=log_det).to(device)
    return Contestant(f"genzoo, {log_det}", flow, flow.log_prob, flow.refresh)


def normflows_flow(width: int, device: str, **mode: Any) -> Contestant:
    import normflows as nf

    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for _ in range(BLOCKS):
        net = nf.nets.LipschitzMLP([width, HIDDEN, HIDDEN, width], init_zeros=True, lipschitz_const=COEFFICIENT)
        layers += [nf.flows.Residual(net, **mode), nf.flows.ActNorm(width)]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(width, trainable=False), layers).to(device)
    name = "normflows, brute_force" if mode else "normflows, default"
    return Contestant(name, flow, flow.log_prob, lambda: None)  # norms are followed in its forward pass


def seconds(work: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.process_time()
        work()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def scores(flow: Contestant, x: Tensor) -> Tensor:
    with torch.no_grad():
        return flow.log_prob(x).detach()


def noise(flow: Contestant, x: Tensor, repeats: int) -> tuple[float, float]:
    """Root mean square error of a score, and relative spread of the gradient, over repeats on the same rows."""
    flow.module.train()
    gradients = torch.stack([flow.gradient(x) for _ in range(2 * repeats)])
    spread = gradients.var(0).sum().sqrt() / gradients.mean(0).norm()
    flow.module.eval()
    drawn = torch.stack([scores(flow, x) for _ in range(repeats)])
    flow.module.train()
    return float(drawn.double().var(0).mean().sqrt()), float(spread)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed steps of each flow")
    parser.add_argument("--steps", type=int, default=60, help="training steps before the noise is measured")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    if given.device == "cpu":
        torch.set_num_threads(1)
    print(
        f"{'D':>2s} {'flow':24s} {'parameters':>10s} {'step ms':>8s} {'rows/s':>9s} {'se':>8s} {'gradient noise':>14s}"
    )
    for width in (2, 8):
        flows = [genzoo_flow(width, log_det, given.device) for log_det in ("exact", "roulette")]
        try:
            flows.append(normflows_flow(width, given.device))
            if width == 2:
                flows.append(normflows_flow(width, given.device, reduce_memory=False, brute_force=True))
        except ImportError as error:
            print(f"left out: {error.name} is not installed (pip install {error.name})")
        batch = rows(BATCH, width, torch.Generator().manual_seed(1)).to(given.device)
        for flow in flows:  # warm up
            flow.step(batch)
            flow.step(batch)
        for _ in range(given.rounds):
            for flow in flows:
                flow.step_seconds.append(seconds(partial(flow.step, batch), given.device))
                flow.module.eval()
                scores(flow, batch)  # norms are certified once, not for every batch
                flow.score_seconds.append(seconds(partial(scores, flow, batch), given.device))
                flow.module.train()
        stream = torch.Generator().manual_seed(2)
        for _ in range(given.steps):
            fresh = rows(BATCH, width, stream).to(given.device)
            for flow in flows:
                flow.step(fresh)
        table(width, flows, batch)


def table(width: int, flows: list[Contestant], batch: Tensor) -> None:
    rival = next((flow for flow in flows if flow.name == "normflows, default"), None)
    for flow in flows:
        step, score = statistics.median(flow.step_seconds), statistics.median(flow.score_seconds)
        se, spread = noise(flow, batch, 6)
        line = f"{width:2d} {flow.name:24s} {flow.parameters:10,d} {1e3 * step:8.1f} {BATCH / score:9,.0f}"
        line += f" {se:8.4f} {spread:14.3f}"
        if rival is not None and flow.name.startswith("genzoo"):
            steps = statistics.median(rival.step_seconds) / step
            speed = statistics.median(rival.score_seconds) / score
            line += f"   steps {steps:.2f}x, scores {speed:.2f}x as fast as normflows' default"
        print(line, flush=True)


if __name__ == "__main__":
    main()
