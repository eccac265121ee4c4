"""Cells as points of R^D: the learned dense view for densities on the line that know no categories, grids or holes."""

from __future__ import annotations

from collections.abc import Sequence
from math import log, pi
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from genzoo.codecs.base import CategorySlot, Cells, NumberSlot
from genzoo.codecs.thresholds import gumbel_threshold, into_cell, logistic, sign_threshold, softplus_threshold
from genzoo.tables.batch import HOLE

LOG_SQRT_2PI = 0.5 * log(2 * pi)
MIN_LOG_SCALE = -7.0
MAX_LOG_SCALE = 1.5
MAX_SQUASHED_LOG_SCALE = 0.5
MAX_MEAN = 10.0
"""Limits of what is squashed: sigmoid and softplus stay above the smallest float32."""
UNIT_SQUASHED = 0.9327521295671886
"""The network's output at which a squashed coordinate has scale 1: 0.5 - softplus(0.5 - output) = 0."""


Threshold = Literal["softplus", "gumbel", "gumbel_threshold"]


class Slots(Protocol):
    """What a surjection has to know of a row: its cells and the context. The vector codec knows it."""

    @property
    def numbers(self) -> Sequence[NumberSlot]: ...

    @property
    def categories(self) -> Sequence[CategorySlot]: ...

    @property
    def num_context(self) -> int: ...


class Surjection(nn.Module):
    r"""Draws a point ``y`` of R^D for the cells of a row, with its log-density: any density on R^D can score the row.

    .. math:: P(\text{cells}) = \int p(y) 1[y \text{ decodes to the cells}] dy
              \ge \exp E_q[\log p(y) - \log q(y \mid \text{cells})]

    One network reads all cells (values, categories, flags of holes, context) and gives each coordinate of ``y`` a
    location and a scale; noise of that law is mapped onto the set that decodes to the cell:

    - continuous, observed: ``y`` is the number itself; nothing is drawn, no ``q`` term;
    - quantized, observed: into the cell ``(lower, upper)`` through a sigmoid (softplus for a cell that is open at a
      declared bound), or uniformly with ``dequantise="uniform"``;
    - category: argmax surjection on K coordinates by Gumbel or softplus thresholding (``3 <= K <= max_direct``), a sign
      for K = 2, ``ceil(log2 K)`` signs, most significant bit first, for more; none for K = 1;
    - hole, of a number or a category: a free Gaussian, the learned filler q(holes given the rest and the pattern);
    - number of a column that sits on an atom: a standard normal filler, of known density.

    What is squashed starts as logistic noise, what is free as Gaussian. A Gaussian pressed by a sigmoid or softplus
    has a density that vanishes at the edge of its set, and importance weights without variance; a logistic one keeps
    it positive, and is exactly uniform in a quantized cell at the start of training.

    Likelihood: ``log p(y) - log_q`` is a lower bound of the log-probability in expectation, tightened by importance
    weighting over several draws a row; exact where all cells are continuous and observed (``log_q = 0``). Bit codes
    that stand for no category cost mass in the bound. :meth:`decode` maps them to the nearest valid code, so samples
    need no rejection and the model that is sampled is at least as likely as the bound says.

    Args:
        codec: The vector codec whose cells are read, or the slots of another one. Shapes come from its slots, so it
            need not be fitted.
        hidden: Width of the network's layers.
        num_layers: Hidden layers; more let the fillers follow the rest of the row more closely.
        dequantise: ``variational`` learns the noise inside a quantized cell (tighter), ``uniform`` does not.
        threshold: How the largest coordinate is kept the largest: ``softplus``; ``gumbel``, Gumbels at learned
            locations, truncated; ``gumbel_threshold``, the same map fed with learned noise instead of uniform one. A
            Gumbel's lower tail is far lighter than most densities', so importance weights of both lack a variance; the
            trained bound was the same within 0.005 nats a row (two columns of five categories, mixture of 25 normals).
        max_direct: Most categories that get a coordinate each; more are written in bits.
        embedding: Numbers per category that the network reads.

    Shapes: ``forward`` takes ``batch`` rows of cells and noise ``(batch, noise_width)``; gives ``y``
    ``(batch, num_features)`` in the network's float type and ``log_q`` ``(batch,)`` float64.

    References:
        Hoogeboom et al. (2021), arXiv 2102.05379; Ho et al. (2019), Flow++, arXiv 1902.00275 (variational
        dequantisation). Differs from the papers: one diagonal network for all kinds of cells and for holes,
        logistic instead of Gaussian noise under a squashing map.
    """

    def __init__(
        self,
        codec: Slots,
        hidden: int = 64,
        num_layers: int = 2,
        dequantise: Literal["variational", "uniform"] = "variational",
        threshold: Threshold = "softplus",
        max_direct: int = 16,
        embedding: int = 8,
    ) -> None:
        super().__init__()
        if dequantise not in ("variational", "uniform"):
            raise ValueError(f"dequantise must be 'variational' or 'uniform', got '{dequantise}'")
        if threshold not in ("softplus", "gumbel", "gumbel_threshold"):
            raise ValueError(f"threshold must be 'softplus', 'gumbel' or 'gumbel_threshold', got '{threshold}'")
        if max_direct < 2:
            raise ValueError(f"max_direct must be at least 2, got {max_direct}")
        self.dequantise = dequantise
        self.threshold = threshold
        self.num_categories = tuple(slot.num_categories for slot in codec.categories)
        # Coordinates stand in groups, so that each kind of cell is one slice: numbers, bits, then K at a time.
        widths = [self._width(size, max_direct) for size in self.num_categories]
        direct = {slot for slot, width in enumerate(widths) if width > 2 and width == self.num_categories[slot]}
        total = self._num_numbers = len(codec.numbers)
        at: dict[int, int] = {}
        bits: list[tuple[int, int]] = []  # category slot, place of the bit
        for slot, width in enumerate(widths):
            if slot not in direct:
                at[slot], total = total, total + width
                bits += [(slot, width - 1 - place) for place in range(width)]
        self._num_bits = len(bits)
        self._direct: dict[int, int] = {}  # K -> number of slots
        for size in sorted({widths[slot] for slot in direct}):
            slots = [slot for slot in sorted(direct) if widths[slot] == size]
            self._direct[size] = len(slots)
            self._constant(f"direct_slot_{size}", slots)
            for slot in slots:
                at[slot], total = total, total + size
        self.num_features = total
        self.noise_width = total
        self.slot_coordinates = tuple(tuple(range(at[s], at[s] + width)) for s, width in enumerate(widths))
        """Coordinates of each category slot; number slot ``i`` is coordinate ``i``."""
        self.bit_slots = frozenset(slot for slot, _ in bits)
        self._constant("bit_slot", [slot for slot, _ in bits])
        self._constant("bit_place", [place for _, place in bits])
        self._constant("quantized", [slot.quantized for slot in codec.numbers], torch.bool)
        self._any_quantized = any(slot.quantized for slot in codec.numbers)
        self._constant("embedding_offset", _cumulative([size + 1 for size in self.num_categories]))
        self._constant("hole_index", list(self.num_categories))
        self.embedding = nn.Embedding(max(sum(size + 1 for size in self.num_categories), 1), embedding)
        inputs = 2 * len(codec.numbers) + embedding * len(self.num_categories) + codec.num_context
        layers: list[nn.Module] = []
        for _ in range(num_layers):
            layers += [nn.Linear(inputs, hidden), nn.SiLU()]
            inputs = hidden
        self.encoder = nn.Sequential(*layers, nn.Linear(inputs, 2 * total))
        self._start()

    bit_slot: Tensor
    bit_place: Tensor
    quantized: Tensor
    embedding_offset: Tensor
    hole_index: Tensor

    def forward(self, cells: Cells, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Draws ``y`` and ``log q(y | cells)``.

        Args:
            cells: Encoded rows (``cells.repeat(K)`` for K draws a row).
            noise: ``(batch, noise_width)`` standard normal numbers.
        """
        dtype = self.embedding.weight.dtype
        noise = noise.to(self.embedding.weight)
        if not self._draws_anything(cells):
            # Complete continuous rows: the number itself. The zero keeps every parameter in the graph (DDP).
            idle = sum((p.sum() for p in self.parameters()), noise.new_zeros(())) * 0 if self.training else 0
            return cells.number.to(dtype) + idle, noise.new_zeros(len(cells), dtype=torch.float64)
        mean, raw = self._network(cells)
        # One split a tensor: the backward pass of many slices would fill as many wide zeros.
        widths = [self._num_numbers, self._num_bits, *(size * count for size, count in self._direct.items())]
        groups = list(zip(*(part.split(widths, 1) for part in (mean, raw, noise)), strict=True))
        parts = []
        if self._num_numbers:
            parts.append(self._numbers(cells, *groups[0]))
        if self._num_bits:
            parts.append(self._signs(cells, *groups[1]))
        parts += [self._largest(cells, size, *group) for size, group in zip(self._direct, groups[2:], strict=True)]
        log_q = torch.stack([log_q.sum(1, dtype=torch.float64) for _, log_q in parts]).sum(0)
        return torch.cat([y for y, _ in parts], 1), log_q

    def decode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cells that points stand for.

        Args:
            y: ``(batch, num_features)``.

        Returns:
            Model-space numbers ``(batch, num_numbers)`` and categories ``(batch, num_category_slots)`` int64. A code of
            bits that stands for no category becomes the valid one whose signs agree best, weighted by ``|y|``.
        """
        category = self._codes(y)
        start = self._num_numbers + self._num_bits
        for size, count in self._direct.items():
            here, start = y[:, start : start + size * count], start + size * count
            category[:, getattr(self, f"direct_slot_{size}")] = here.reshape(len(y), count, size).argmax(2)
        for slot in self.bit_slots:
            bad = (category[:, slot] >= self.num_categories[slot]).nonzero()[:, 0]
            if len(bad):
                category[bad, slot] = self._nearest(y[bad][:, list(self.slot_coordinates[slot])], slot)
        category[:, self.hole_index == 0] = HOLE  # a column that had no known category
        return y[:, : self._num_numbers], category

    def invalid(self, y: Tensor) -> Tensor:
        """``(batch, num_category_slots)`` bool: the bits of a slot stand for no category (to report, or to redraw)."""
        return self._codes(y) >= self.hole_index.clamp(min=1)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _draws_anything(self, cells: Cells) -> bool:
        if self._num_bits or self._direct or self._any_quantized:
            return True
        return not bool(cells.present.all())

    def _network(self, cells: Cells) -> tuple[Tensor, Tensor]:
        """Location and unbounded log-scale of every coordinate, ``(batch, num_features)`` each."""
        dtype = self.embedding.weight.dtype
        # Bounded, so that an outlier in one column does not drown the others.
        number = (cells.number / torch.hypot(torch.ones_like(cells.number), cells.number / 10)).to(dtype)
        category = torch.where(cells.category < 0, self.hole_index, cells.category) + self.embedding_offset
        inputs = [number, cells.present.to(dtype), self.embedding(category).flatten(1), cells.context.to(dtype)]
        mean, raw = self.encoder(torch.cat(inputs, 1)).to(dtype).chunk(2, 1)
        return mean, raw

    def _numbers(self, cells: Cells, mean: Tensor, raw: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of numbers and their log-densities, ``(batch, num_numbers)`` each."""
        y, log_q = _free(mean, raw, noise)
        atom = ~cells.present & ~cells.number_hole
        y, log_q = torch.where(atom, noise, y), torch.where(atom, _log_normal(noise), log_q)
        y = torch.where(cells.present, cells.number.to(y), y)
        log_q = log_q.masked_fill(cells.present, 0.0)
        if self._any_quantized:
            inside = cells.present & self.quantized
            lower, upper, width = (part.to(y) for part in _finite_width(cells, inside))
            if self.dequantise == "uniform":
                a, log_a = logistic(noise)  # whose sigmoid is uniform
            else:
                a, log_a = _squashed(mean, raw, noise)
            point, log_slope = into_cell(lower, upper, width, a)
            y, log_q = torch.where(inside, point, y), torch.where(inside, log_a - log_slope, log_q)
        return y, log_q

    def _signs(self, cells: Cells, mean: Tensor, raw: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of bits and their log-densities, ``(batch, num_bits)`` each."""
        category = cells.category[:, self.bit_slot]
        known = category >= 0
        (free, log_free), (a, log_a) = _free(mean, raw, noise), _squashed(mean, raw, noise)
        v, log_slope = sign_threshold((category >> self.bit_place & 1).bool(), a)
        return torch.where(known, v, free), torch.where(known, log_a - log_slope, log_free)

    def _largest(self, cells: Cells, size: int, mean: Tensor, raw: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates of categories with ``size`` values, ``(batch, slots * size)``, and log-densities by slot."""
        category = cells.category[:, getattr(self, f"direct_slot_{size}")]
        known, chosen = category >= 0, category.clamp(min=0)
        shape = (*category.shape, size)
        (free, log_free), (a, log_a) = _free(mean, raw, noise), _squashed(mean, raw, noise)
        a, log_q = a.reshape(shape), log_a.reshape(shape).sum(2)
        if self.threshold == "gumbel":  # uniform numbers; the network says where the Gumbels lie
            places = (MAX_MEAN * torch.tanh(mean / MAX_MEAN)).reshape(shape)
            v, log_q = gumbel_threshold(places, chosen, logistic(noise)[0].reshape(shape))
        elif self.threshold == "gumbel_threshold":
            # log q(v) = log q(a) - log|dU/da| + log|dU/dv|
            v, log_density = gumbel_threshold(torch.zeros_like(a), chosen, a)
            log_uniform = nn.functional.logsigmoid(a) + nn.functional.logsigmoid(-a)
            log_q = log_q - log_uniform.sum(2) + log_density
        else:
            v, log_volume = softplus_threshold(chosen, a)
            log_q = log_q - log_volume
        y = torch.where(known[..., None], v, free.reshape(shape)).flatten(1)
        return y, torch.where(known, log_q, log_free.reshape(shape).sum(2))

    def _codes(self, y: Tensor) -> Tensor:
        """Codes that the signs of bits spell, ``(batch, num_category_slots)``; 0 for other slots."""
        category = torch.zeros(len(y), len(self.num_categories), dtype=torch.int64, device=y.device)
        bits = y[:, self._num_numbers : self._num_numbers + self._num_bits] > 0
        return category.index_add_(1, self.bit_slot, bits.long() << self.bit_place)

    def _nearest(self, v: Tensor, slot: int) -> Tensor:
        """Valid code with the largest inner product of signs and ``v``, ``(batch,)``."""
        width = v.shape[1]
        codes = torch.arange(self.num_categories[slot], device=v.device)
        places = torch.arange(width - 1, -1, -1, device=v.device)
        signs = 2 * (codes[:, None] >> places & 1).to(v.dtype) - 1
        return (v @ signs.T).argmax(1)

    @staticmethod
    def _width(num_categories: int, max_direct: int) -> int:
        if num_categories <= 1:
            return 0
        if num_categories == 2 or num_categories > max_direct:
            return (num_categories - 1).bit_length()
        return num_categories

    def _start(self) -> None:
        """A small last layer: fillers begin as wide Gaussians (1.6), noise inside cells and thresholds as uniform."""
        last = self.encoder[-1]
        assert isinstance(last, nn.Linear)
        with torch.no_grad():
            last.weight.mul_(0.1)
            last.bias.zero_()
            last.bias[self.num_features :] = UNIT_SQUASHED

    def _constant(self, name: str, values: list, dtype: torch.dtype = torch.int64) -> None:  # type: ignore[type-arg]
        self.register_buffer(name, torch.tensor(values, dtype=dtype), persistent=False)


def _log_normal(noise: Tensor) -> Tensor:
    return -noise.square() / 2 - LOG_SQRT_2PI


def _free(mean: Tensor, raw: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Gaussian draws and their log-densities."""
    log_scale = _below(raw, MAX_LOG_SCALE)
    return mean + log_scale.exp() * noise, _log_normal(noise) - log_scale


def _squashed(mean: Tensor, raw: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Logistic draws and their log-densities, for coordinates that a sigmoid or softplus follows."""
    log_scale = _below(raw, MAX_SQUASHED_LOG_SCALE)
    wave, log_wave = logistic(noise)
    return MAX_MEAN * torch.tanh(mean / MAX_MEAN) + log_scale.exp() * wave, log_wave - log_scale


def _below(raw: Tensor, limit: float) -> Tensor:
    """A log-scale that bends off below ``limit``."""
    return (limit - nn.functional.softplus(limit - raw)).clamp(min=MIN_LOG_SCALE)


def _cumulative(sizes: list[int]) -> list[int]:
    return [sum(sizes[:index]) for index in range(len(sizes))]


def _finite_width(cells: Cells, inside: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Lower edge, upper edge and width of cells, float64; (-1, 1) where not ``inside``, so that no branch is infinite.

    A cell with one infinite end gets twice the distance from the other end to its centre, one with two gets 1.
    """
    one = torch.ones_like(cells.number)
    lower, upper = torch.where(inside, cells.lower, -one), torch.where(inside, cells.upper, one)
    centre = torch.where(inside, cells.number, 0 * one)
    width = torch.where(upper.isinf(), 2 * (centre - lower), upper - lower)
    width = torch.where(lower.isinf(), 2 * (upper - centre), width)
    return lower, upper, torch.where(lower.isinf() & upper.isinf(), one, width)
