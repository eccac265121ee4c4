"""Training step and scoring speed of the autoregressive spline flow against zuko and normflows, in one run.

    OMP_NUM_THREADS=1 python benchmarks/spline_flow.py [--rounds 30] [--steps 400] [--device cpu]

Eight correlated, skewed columns; every flow has 5 transforms, 8 bins, two hidden layers of 128 units. ``equal size``
rows narrow or widen GenZoo's flow to the other's number of parameters. Steps are network, loss, backward and optimiser
on encoded rows, interleaved between the flows, medians of CPU time (a busy machine does not count). ``nll`` is the
mean on fresh rows after an equal number of steps at the same learning rate, nats. A library that is not installed is
left out, with a note.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from genzoo.bijections.elementwise import Elementwise
from genzoo.codecs.base import Cells, NumberSlot
from genzoo.models.flows.autoregressive import AutoregressiveDensity

COLUMNS, BATCH, TRANSFORMS, BINS, HIDDEN = 8, 512, 5, 8, 128


@dataclass
class Contestant:
    """One flow: its module, and the log-likelihood of standardised rows as a function."""

    name: str
    module: torch.nn.Module
    log_prob: Callable[[Tensor], Tensor]

    def __post_init__(self) -> None:
        self.optimizer = torch.optim.Adam(self.module.parameters(), 1e-3)
        self.step_seconds: list[float] = []
        self.score_seconds: list[float] = []

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def step(self, x: Tensor) -> None:
        self.optimizer.zero_grad()
        (-self.log_prob(x).mean()).backward()
        self.optimizer.step()


def rows(num: int, generator: torch.Generator) -> Tensor:
    """Correlated, skewed, two of them with two modes; about standardised."""
    z = torch.randn(num, COLUMNS, generator=generator)
    x = z.clone()
    for j in range(1, COLUMNS):
        x[:, j] = 0.6 * z[:, j] + 0.5 * torch.sin(2 * x[:, j - 1]) + x[:, j - 1].tanh() ** 2 - 0.4
    sign = torch.where(torch.rand(num, 2, generator=generator) < 0.5, -1.0, 1.0)
    x[:, :2] = 0.5 * x[:, :2] + sign
    return x


def genzoo_flow(name: str, hidden: int, device: str) -> Contestant:
    numbers = tuple(NumberSlot(f"x{j}", False, None, j) for j in range(COLUMNS))
    element = Elementwise("spline", BINS, 4.0)
    options: dict[str, Any] = {"num_transforms": TRANSFORMS, "hidden": hidden, "alternate": True}
    flow = AutoregressiveDensity(numbers, (), 0, element=element, **options).to(device)

    def log_prob(x: Tensor) -> Tensor:
        return flow.log_prob(encoded(x)).total()

    return Contestant(name, flow, log_prob)


def encoded(x: Tensor) -> Cells:
    """Complete rows as cells; no copy is made."""
    here = torch.ones_like(x, dtype=torch.bool)
    numbers, empty = x.double(), x[:, :0]
    index = torch.arange(len(x), device=x.device)
    category, outside = index[:, None][:, :0], torch.zeros_like(index, dtype=torch.bool)
    return Cells(index, numbers, numbers, numbers, here, category, ~here, empty, numbers[:, :0], outside)


def zuko_flow(device: str) -> Contestant:
    import zuko

    flow = zuko.flows.NSF(COLUMNS, transforms=TRANSFORMS, hidden_features=(HIDDEN, HIDDEN), bins=BINS).to(device)
    return Contestant("zuko NSF", flow, lambda x: flow().log_prob(x))


def normflows_flow(device: str) -> Contestant:
    import normflows as nf

    layers: list[torch.nn.Module] = []
    for _ in range(TRANSFORMS):
        layers.append(nf.flows.AutoregressiveRationalQuadraticSpline(COLUMNS, 2, HIDDEN, num_bins=BINS, tail_bound=4.0))
        layers.append(nf.flows.LULinearPermute(COLUMNS))
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(COLUMNS, trainable=False), layers).to(device)
    return Contestant("normflows autoregressive", flow, flow.log_prob)


def equal_width(target: int, device: str) -> int:
    """Hidden units with which GenZoo's flow comes nearest to ``target`` parameters."""
    return min(range(64, 400, 2), key=lambda hidden: abs(genzoo_flow("", hidden, device).parameters - target))


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="timed steps of each flow")
    parser.add_argument("--steps", type=int, default=400, help="training steps before the nll is taken; 0 skips it")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.device == "cpu":
        torch.set_num_threads(1)
    others: list[Contestant] = []
    for make in (zuko_flow, normflows_flow):
        try:
            others.append(make(given.device))
        except ImportError as error:
            print(f"left out: {error.name} is not installed (pip install {error.name})")
    flows = [genzoo_flow(f"genzoo, hidden {HIDDEN}", HIDDEN, given.device)]
    for other in others:
        width = equal_width(other.parameters, given.device)
        flows.append(genzoo_flow(f"genzoo, equal size to {other.name.split()[0]}", width, given.device))
    flows += others
    generator = torch.Generator().manual_seed(1)
    batch = rows(BATCH, generator).to(given.device)
    for flow in flows:  # warm up
        flow.step(batch)
        flow.step(batch)
    for _ in range(given.rounds):
        for flow in flows:
            flow.step_seconds.append(seconds(partial(flow.step, batch), given.device))
            flow.module.eval()
            with torch.no_grad():
                flow.score_seconds.append(seconds(partial(flow.log_prob, batch), given.device))
            flow.module.train()
    nll: dict[str, float] = {}
    fresh = rows(20_000, torch.Generator().manual_seed(2)).to(given.device)
    for flow in flows:
        stream = torch.Generator().manual_seed(3)
        for _ in range(given.steps):
            flow.step(rows(BATCH, stream).to(given.device))
        flow.module.eval()
        with torch.no_grad():
            nll[flow.name] = -float(torch.cat([flow.log_prob(part) for part in fresh.split(4000)]).mean())
    table(flows, nll, given.steps)


def table(flows: list[Contestant], nll: dict[str, float], steps: int) -> None:
    ours = {flow.name: flow for flow in flows}
    print(f"{'flow':36s} {'parameters':>10s} {'step ms':>8s} {'rows/s':>9s} {'nll':>8s}   against genzoo of equal size")
    for flow in flows:
        step, score = statistics.median(flow.step_seconds), statistics.median(flow.score_seconds)
        line = f"{flow.name:36s} {flow.parameters:10,d} {1e3 * step:8.1f} {BATCH / score:9,.0f} {nll[flow.name]:8.3f}"
        rival = ours.get(f"genzoo, equal size to {flow.name.split()[0]}")
        if rival is not None:
            step_ratio = step / statistics.median(rival.step_seconds)
            score_ratio = score / statistics.median(rival.score_seconds)
            line += f"   genzoo steps {step_ratio:.2f}x as fast, scores {score_ratio:.2f}x as fast,"
            line += f" nll {nll[rival.name] - nll[flow.name]:+.3f}"
        print(line)
    print(f"nll after {steps} further steps of {BATCH} fresh rows, on 20,000 others; scoring is float64 in genzoo")


if __name__ == "__main__":
    main()
