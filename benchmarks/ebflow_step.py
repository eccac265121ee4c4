"""Training step of the energy-based flow against the number of features: maximum likelihood and score matching.

    OMP_NUM_THREADS=1 python benchmarks/ebflow_step.py [--rounds 4] [--features 128 256 512 1024 2048 3072]

The two-layer network of the paper (a dense matrix, a smooth activation, a dense matrix), batch 100, float32. Times are
medians of CPU time at one thread in milliseconds (a busy machine does not count), losses interleaved: loss and
gradients in one column a loss, and what the optimiser adds in columns of its own, for it is the same for all. The
exponents are slopes of log time over log features, from ``--from`` features on. Two other ways to the sliced loss stand
beside the one written out layer by layer.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from genzoo.likelihood import score_matching
from genzoo.models.flows.energy_flow import EnergyFlow, Matching
from genzoo.models.flows.energy_networks import dense_layers

BATCH = 100


def double_backward(flow: EnergyFlow, x: Tensor) -> Tensor:
    """The sliced loss by automatic differentiation, reverse over reverse."""
    x = x.clone().requires_grad_()
    v = score_matching.sign_probes(x, 1)[0]
    (score,) = torch.autograd.grad(-flow.stack.energy(x).sum(), x, create_graph=True)
    (along,) = torch.autograd.grad((score * v).sum(), x, create_graph=True)
    return score_matching.sliced(score, (along * v).sum(1)[None])


def forward_over_reverse(flow: EnergyFlow, x: Tensor) -> Tensor:
    """The sliced loss by ``jvp`` of ``grad``."""
    probes = score_matching.sign_probes(x, 1)
    return score_matching.sliced(*score_matching.score_and_curvature(lambda p: -flow.stack.energy(p), x, probes))


def written_out(objective: str) -> Callable[[EnergyFlow, Tensor], Tensor]:
    setting = Matching(objective, slices=1)  # type: ignore[arg-type]
    return lambda flow, x: setting.loss(flow, x)


LOSSES: dict[str, Callable[[EnergyFlow, Tensor], Tensor]] = {
    "ML": written_out("ml"),
    "SML": written_out("sml"),
    "SSM": written_out("ssm"),
    "DSM": written_out("dsm"),
    "FDSSM": written_out("fdssm"),
    "SSM, double backward": double_backward,
    "SSM, jvp of grad": forward_over_reverse,
}


OPTIMIZERS: dict[str, Callable[[EnergyFlow], torch.optim.Optimizer]] = {
    "RMSprop": lambda flow: torch.optim.RMSprop(flow.parameters(), lr=1e-6),
    "fused AdamW": lambda flow: torch.optim.AdamW(flow.parameters(), lr=1e-6, fused=True),
}


def step_times(num_features: int, rounds: int, losses: list[str]) -> dict[str, float]:
    """Median CPU seconds by loss and optimiser; the first round is not counted."""
    torch.manual_seed(0)
    flow = EnergyFlow(num_features, dense_layers(num_features)).train()
    optimizers = {name: make(flow) for name, make in OPTIMIZERS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in [*losses, *OPTIMIZERS]}
    for _ in range(rounds + 1):
        for name in losses:
            x = torch.randn(BATCH, num_features)
            flow.zero_grad()
            start = time.process_time()
            LOSSES[name](flow, x).backward()
            seconds[name].append(time.process_time() - start)
        for name, optimizer in optimizers.items():
            start = time.process_time()
            optimizer.step()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(times[1:]) for name, times in seconds.items()}


def exponent(features: list[int], times: list[float]) -> float:
    """Slope of log time over log features by least squares."""
    a, b = [math.log(f) for f in features], [math.log(t) for t in times]
    centre_a, centre_b = statistics.mean(a), statistics.mean(b)
    pairs = list(zip(a, b, strict=True))
    return sum((p - centre_a) * (q - centre_b) for p, q in pairs) / sum((p - centre_a) ** 2 for p in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[128, 256, 512, 1024, 2048, 3072])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--from", dest="least", type=int, default=512, help="fewest features in the exponents")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table = {}
    names = [*options.losses, *OPTIMIZERS]
    print("| features |", " | ".join(names), "|")
    print("|---|" + "---|" * len(names))
    for number in options.features:
        table[number] = step_times(number, options.rounds, options.losses)
        print(f"| {number} |", " | ".join(f"{1e3 * t:.1f}" for t in table[number].values()), "|", flush=True)
    large = [number for number in options.features if number >= options.least]
    if len(large) > 1:
        slopes = [exponent(large, [table[number][name] for number in large]) for name in names]
        print(f"| exponent from {large[0]} |", " | ".join(f"{slope:.2f}" for slope in slopes), "|")
    last = table[options.features[-1]]
    if "ML" not in last:
        return
    for label, extra in {"": 0.0, **{f" + {name}": last[name] for name in OPTIMIZERS}}.items():
        ratios = [(last["ML"] + extra) / (last[name] + extra) for name in options.losses]
        print(
            f"| ML / loss at {options.features[-1]}{label} |", " | ".join(f"{ratio:.1f}" for ratio in ratios), "| | |"
        )


if __name__ == "__main__":
    main()
