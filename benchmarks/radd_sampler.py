"""RADD's cached sampler against the same network without the cache: wall-clock time and network calls.

    OMP_NUM_THREADS=1 python benchmarks/radd_sampler.py [--lengths 128 256 --steps 1024 --rows 4]

A row is filled in ``steps`` grid steps. Without the cache the network is called for every row in every step; with it
only for rows that reveal a cell in this step, which is drawn before the call. Both use the same random numbers, and the
rows they draw are equal. ``formula`` is the exact expected number of calls a row, ``n (1 - (1 - 1/n)^L)``; ``calls``
the mean of the rows drawn, with its standard error, and ``simulated`` that of 2000 rows whose reveals are drawn without
a network. The network is a text transformer at random weights: its speed does not depend on them.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from genzoo.diffusion.reveal import Drawn, expected_nfe, reveal, reveal_probability
from genzoo.networks.symbols import Vocabulary
from genzoo.networks.text import TextTransformer

SYMBOLS = 27


def simulated_calls(length: int, steps: int, rows: int, seed: int = 1) -> Tensor:
    """``(rows,)`` steps in which a row reveals something, without a network."""
    generator = torch.Generator().manual_seed(seed)
    masked = torch.ones(rows, length, dtype=torch.bool)
    calls = torch.zeros(rows, dtype=torch.float64)
    for step in range(steps):
        chosen = masked & (torch.rand(rows, length, generator=generator) < reveal_probability(steps, step, "tweedie"))
        calls += chosen.any(1)
        masked &= ~chosen
    return calls


def timed(network: TextTransformer, rows: int, length: int, steps: int, cached: bool) -> tuple[Drawn, float, float]:
    """What was drawn, seconds on the clock, and seconds of CPU time."""

    def conditional(tokens: Tensor, index: Tensor) -> Tensor:
        return network(tokens).log_softmax(-1)

    start = torch.full((rows, length), -1)
    generator = torch.Generator().manual_seed(0)
    clock, cpu = time.perf_counter(), time.process_time()
    with torch.no_grad():
        drawn = reveal(conditional, start, generator, "tweedie", steps, cached)
    return drawn, time.perf_counter() - clock, time.process_time() - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256])
    for name, default in (("steps", 1024), ("rows", 4), ("width", 64), ("layers", 2), ("heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for length in options.lengths:
        torch.manual_seed(0)
        network = TextTransformer(Vocabulary(SYMBOLS), length, (), options.width, options.layers, options.heads).eval()
        torch.nn.init.normal_(network.head.symbols.weight)
        slow, slow_clock, slow_cpu = timed(network, options.rows, length, options.steps, cached=False)
        fast, fast_clock, fast_cpu = timed(network, options.rows, length, options.steps, cached=True)
        calls, many = fast.calls.double(), simulated_calls(length, options.steps, 2000)
        print(
            f"length {length:4}: {slow_clock / fast_clock:.2f} times as fast on the clock ({slow_clock:.1f} s against "
            f"{fast_clock:.1f} s), {slow_cpu / fast_cpu:.2f} times in CPU time; equal rows: "
            f"{bool((slow.tokens == fast.tokens).all())}; calls {calls.mean():.1f} ± "
            f"{calls.std(correction=0) / options.rows**0.5:.1f} a row, simulated {many.mean():.2f} ± "
            f"{many.std() / 2000**0.5:.2f}, "
            f"formula {expected_nfe(length, options.steps):.2f}, without cache {options.steps}"
        )


if __name__ == "__main__":
    main()
