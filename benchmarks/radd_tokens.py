"""Training tokens per second of GenZoo's text transformer against the RADD authors' network, of equal size, in one run.

    OMP_NUM_THREADS=1 python benchmarks/radd_tokens.py --reference FOLDER [--width 128 --layers 4 --heads 4]

FOLDER is a copy of the authors' repository (github.com/ML-GSAI/RADD); only ``model/transformer.py`` and
``model/rotary.py`` are used, and ``einops`` has to be installed. Their network calls torch's
scaled_dot_product_attention; its autocast to half precision is for GPUs and does nothing on a CPU. Without the folder,
GenZoo's network runs alone. A step is: mask cells, network, any-order loss on log-probabilities, backward, gradient
clipping, AdamW. Steps of the two are interleaved and each network's median of CPU time counts, so that a busy machine
does not.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from genzoo.networks.symbols import Vocabulary
from genzoo.networks.text import TextTransformer

SYMBOLS = 27


def ours(width: int, layers: int, heads: int, length: int, dropout: float) -> nn.Module:
    return TextTransformer(Vocabulary(SYMBOLS), length, (), width, layers, heads, dropout)


def theirs(folder: Path, width: int, layers: int, heads: int, length: int, dropout: float) -> nn.Module:
    """The authors' network from their files; packages that only load configurations and weights are left out."""
    for name, attribute in (("huggingface_hub", "PyTorchModelHubMixin"), ("omegaconf", "OmegaConf")):
        if importlib.util.find_spec(name) is None:
            stub = types.ModuleType(name)
            setattr(stub, attribute, type(attribute, (), {}))
            sys.modules[name] = stub
    sys.path.insert(0, str(folder))
    from model.transformer import RADD  # type: ignore[import-not-found]

    model = types.SimpleNamespace(
        hidden_size=width, n_heads=heads, n_blocks=layers, dropout=dropout, use_checkpoint=False, dtype="float16"
    )
    network = RADD(types.SimpleNamespace(tokens=SYMBOLS, model=model))

    class Scores(nn.Module):
        """``-1`` is their last symbol; log-probabilities of the others."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, tokens: Tensor) -> Tensor:
            return self.network(torch.where(tokens < 0, SYMBOLS, tokens))[..., :SYMBOLS]

    return Scores()


class Contestant:
    """A network with its optimiser; ``normalised``: it gives log-probabilities."""

    def __init__(self, network: nn.Module, normalised: bool) -> None:
        self.network, self.normalised = network.train(), normalised
        self.optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
        self.seconds: list[float] = []
        self.losses: list[float] = []

    @property
    def num_parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def step(self, tokens: Tensor, masked: Tensor, weight: Tensor) -> None:
        started = time.process_time()
        scores = self.network(tokens.masked_fill(masked, -1))
        log_probs = scores if self.normalised else scores.log_softmax(-1)
        own = log_probs.gather(-1, tokens[..., None])[..., 0]
        loss = -(weight * torch.where(masked, own, 0.0).sum(1)).mean() / tokens.shape[1]
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.seconds.append(time.process_time() - started)
        self.losses.append(float(loss.detach()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, help="copy of the authors' repository")
    for name, default in (("width", 128), ("layers", 4), ("heads", 4), ("length", 128), ("batch", 32), ("steps", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--dropout", type=float, default=0.0)
    options: Any = parser.parse_args()
    torch.manual_seed(0)
    sizes = (options.width, options.layers, options.heads, options.length, options.dropout)
    contestants = {"genzoo": Contestant(ours(*sizes), normalised=False)}
    if options.reference is not None:
        contestants["authors"] = Contestant(theirs(options.reference, *sizes), normalised=True)
    shape = (options.batch, options.length)
    for _ in range(options.steps):
        tokens = torch.randint(0, SYMBOLS, shape)
        count = torch.randint(1, options.length + 1, (options.batch, 1))
        masked = torch.rand(shape).argsort(1).argsort(1) < count
        for contestant in contestants.values():
            contestant.step(tokens, masked, options.length / count[:, 0])
    median = {name: statistics.median(c.seconds[3:]) for name, c in contestants.items()}
    for name, contestant in contestants.items():
        speed = options.batch * options.length / median[name]
        print(
            f"{name:8} {contestant.num_parameters:>9,} parameters  {speed:9,.0f} tokens/s of CPU time  "
            f"loss {contestant.losses[0]:.3f} -> {contestant.losses[-1]:.3f}"
        )
    if "authors" in median:
        print(f"ratio    {median['authors'] / median['genzoo']:.2f}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
