"""An autoregressive transformer on a text, of the size of the text diffusions, whose bits per character it refers to.

    OMP_NUM_THREADS=1 python benchmarks/text_autoregressive.py FOLDER [--length 128 --steps 2000]

The network is ``genzoo.networks.text.TextTransformer`` with causal attention; chunks, batches, steps, learning rate and
averaged weights are those of the ``wiki27_text`` recipes. Every chunk is scored on its own, from its first character,
exactly. Prints bits per character on the test chunks with the standard error over chunks, and the CPU time of training.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from genzoo.datamodules import Text
from genzoo.models.averaging import ramped_decay
from genzoo.models.optimisation import make_schedule
from genzoo.networks.symbols import Vocabulary
from genzoo.networks.text import TextTransformer
from genzoo.tables.batch import TableBatch


def chunk_nll(network: torch.nn.Module, tokens: Tensor) -> Tensor:
    """``-log p`` of chunks ``(batch, length)``, nats ``(batch,)``; the first character sees the masked symbol alone."""
    before = torch.cat([torch.full_like(tokens[:, :1], -1), tokens[:, :-1]], 1)
    log_probs = network(before).log_softmax(-1)
    return -log_probs.gather(-1, tokens[..., None])[..., 0].double().sum(1)


def endless(loader: Any) -> Iterator[TableBatch]:
    """The training batches of one epoch after the other."""
    for epoch in itertools.count():
        loader.sampler.set_epoch(epoch)
        yield from loader


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="the text, as for genzoo.datamodules.Text")
    for name, default in (("width", 128), ("layers", 4), ("heads", 4), ("length", 128), ("batch", 16), ("steps", 2000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--verbose", action="store_true", help="the loss of every hundredth step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    text = Text(options.path, length=options.length, batch_size=options.batch)
    vocabulary = Vocabulary(text.schema["text"].num_categories)
    network = TextTransformer(
        vocabulary, options.length, (), options.width, options.layers, options.heads, causal=True
    ).train()
    optimizer = torch.optim.AdamW(network.parameters(), options.lr, betas=(0.9, 0.99))
    loader = text.train_dataloader()
    schedule = make_schedule(optimizer, "cosine", 0, options.steps, warm_up=50)
    averaged = AveragedModel(network, multi_avg_fn=ramped_decay(0.99))
    started = time.process_time()
    for step, batch in zip(range(options.steps), endless(loader), strict=False):
        loss = chunk_nll(network, batch.codes).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        averaged.update_parameters(network)
        if options.verbose and step % 100 == 99:
            print(
                f"step {step + 1}: {float(loss.detach()) / options.length / math.log(2):.3f} bits per character",
                flush=True,
            )
    seconds = time.process_time() - started
    averaged.eval()
    with torch.no_grad():
        nll = torch.cat([chunk_nll(averaged, batch.codes) for batch in text.test_dataloader()])
    unit = options.length * math.log(2)
    parameters = sum(p.numel() for p in network.parameters())
    print(
        f"{parameters:,} parameters: {nll.mean() / unit:.4f} ± {nll.std() / math.sqrt(len(nll)) / unit:.4f} bits per "
        f"character (exact), {len(nll)} test chunks of {options.length}; {seconds:.0f} s of CPU time in training"
    )


if __name__ == "__main__":
    main()
