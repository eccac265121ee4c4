"""Cells as points of R^D: the learned dense view for densities on the line that know no categories, grids or holes."""

from __future__ import annotations

from math import log, pi
from typing import Literal

import torch
from torch import Tensor, nn

from genzoo.codecs.base import Cells
from genzoo.codecs.thresholds import gumbel_threshold, into_cell, logistic, sign_threshold, softplus_threshold
from genzoo.codecs.vector import VectorCodec
from genzoo.tables.batch import HOLE

LOG_SQRT_2PI = 0.5 * log(2 * pi)
MIN_LOG_SCALE = -7.0
MAX_LOG_SCALE = 1.5
MAX_SQUASHED_LOG_SCALE = 0.5
MAX_MEAN = 10.0
"""Limits of what is squashed: sigmoid and softplus stay above the smallest float32."""
UNIT_SQUASHED = 0.9327521295671886
"""The network's output at which a squashed coordinate has scale 1: 0.5 - softplus(0.5 - output) = 0."""


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
        codec: The vector codec whose cells are read. Shapes come from its slots, so it need not be fitted.
        hidden: Width of the network's layers.
        num_layers: Hidden layers; more let the fillers follow the rest of the row more closely.
        dequantise: ``variational`` learns the noise inside a quantized cell (tighter), ``uniform`` does not.
        threshold: How the largest coordinate is kept the largest. A Gumbel's lower tail is far lighter than most
            densities', so importance weights of ``gumbel`` lack a variance; the trained bound was the same within
            0.005 nats a row (two columns of five categories, mixture of 25 normals).
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
        codec: VectorCodec,
        hidden: int = 64,
        num_layers: int = 2,
        dequantise: Literal["variational", "uniform"] = "variational",
        threshold: Literal["softplus", "gumbel"] = "softplus",
        max_direct: int = 16,
        embedding: int = 8,
    ) -> None:
        super().__init__()
        if dequantise not in ("variational", "uniform"):
            raise ValueError(f"dequantise must be 'variational' or 'uniform', got '{dequantise}'")
        if threshold not in ("gumbel", "softplus"):
            raise ValueError(f"threshold must be 'gumbel' or 'softplus', got '{threshold}'")
        if max_direct < 2:
            raise ValueError(f"max_direct must be at least 2, got {max_direct}")
        self.dequantise = dequantise
        self.threshold = threshold
        self.num_categories = tuple(slot.num_categories for slot in codec.categories)
        bits: list[tuple[int, int, int]] = []  # coordinate, category slot, place of the bit
        direct: dict[int, list[tuple[int, list[int]]]] = {}  # K -> (category slot, its coordinates)
        number_at = [0] * len(codec.numbers)
        slot_at: list[tuple[int, ...]] = [()] * len(codec.categories)
        total = 0
        for kind, index in codec.order:
            width = 1 if kind == "number" else self._width(self.num_categories[index], max_direct)
            coordinates = list(range(total, total + width))
            total += width
            if kind == "number":
                number_at[index] = coordinates[0]
                continue
            slot_at[index] = tuple(coordinates)
            if width == self.num_categories[index] and width > 2:
                direct.setdefault(width, []).append((index, coordinates))
            else:
                bits += [(coordinate, index, width - 1 - place) for place, coordinate in enumerate(coordinates)]
        self.num_features = total
        self.noise_width = total
        self.slot_coordinates = tuple(slot_at)
        """Coordinates of each category slot."""
        self.bit_slots = frozenset(slot for _, slot, _ in bits)
        self._constant("number_coordinate", number_at)
        self._constant("bit_coordinate", [coordinate for coordinate, _, _ in bits])
        self._constant("bit_slot", [slot for _, slot, _ in bits])
        self._constant("bit_place", [place for _, _, place in bits])
        self._constant("quantized", [slot.quantized for slot in codec.numbers], torch.bool)
        self._any_quantized = any(slot.quantized for slot in codec.numbers)
        self._direct_sizes = tuple(direct)
        for size, slots in direct.items():
            self._constant(f"direct_slot_{size}", [slot for slot, _ in slots])
            self._constant(f"direct_coordinate_{size}", [coordinates for _, coordinates in slots])
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

    number_coordinate: Tensor
    bit_coordinate: Tensor
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
            y = torch.zeros_like(noise).index_copy(1, self.number_coordinate, cells.number.to(dtype))
            return y + idle, noise.new_zeros(len(cells), dtype=torch.float64)
        mean, raw = self._network(cells)
        log_scale = _below(raw, MAX_LOG_SCALE)
        y, log_q = mean + log_scale.exp() * noise, -noise.square() / 2 - LOG_SQRT_2PI - log_scale
        log_scale = _below(raw, MAX_SQUASHED_LOG_SCALE)
        wave, log_wave = logistic(noise)
        squashed = MAX_MEAN * torch.tanh(mean / MAX_MEAN) + log_scale.exp() * wave
        log_squashed = log_wave - log_scale
        y, log_q = self._numbers(cells, noise, squashed, log_squashed, y, log_q)
        y, log_q = self._signs(cells, squashed, log_squashed, y, log_q)
        y, log_q = self._largest(cells, squashed, log_squashed, y, log_q)
        return y, log_q.sum(1, dtype=torch.float64)

    def decode(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Cells that points stand for.

        Args:
            y: ``(batch, num_features)``.

        Returns:
            Model-space numbers ``(batch, num_numbers)`` and categories ``(batch, num_category_slots)`` int64. A code of
            bits that stands for no category becomes the valid one whose signs agree best, weighted by ``|y|``.
        """
        category = torch.zeros(len(y), len(self.num_categories), dtype=torch.int64, device=y.device)
        for slot, coordinates in enumerate(self.slot_coordinates):
            if self.num_categories[slot] == 0:
                category[:, slot] = HOLE
            elif coordinates and slot not in self.bit_slots:
                category[:, slot] = y[:, list(coordinates)].argmax(1)
        self._add_bits(category, y)
        for slot in self.bit_slots:
            bad = (category[:, slot] >= self.num_categories[slot]).nonzero()[:, 0]
            if len(bad):
                category[bad, slot] = self._nearest(y[bad][:, list(self.slot_coordinates[slot])], slot)
        return y[:, self.number_coordinate], category

    def invalid(self, y: Tensor) -> Tensor:
        """``(batch, num_category_slots)`` bool: the bits of a slot stand for no category (to report, or to redraw)."""
        category = torch.zeros(len(y), len(self.num_categories), dtype=torch.int64, device=y.device)
        self._add_bits(category, y)
        return category >= self.hole_index.clamp(min=1)

    # --- parts -------------------------------------------------------------------------------------------------------

    def _draws_anything(self, cells: Cells) -> bool:
        if len(self.bit_coordinate) or self._direct_sizes or self._any_quantized:
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

    def _numbers(
        self, cells: Cells, noise: Tensor, squashed: Tensor, log_squashed: Tensor, y: Tensor, log_q: Tensor
    ) -> tuple[Tensor, Tensor]:
        at = self.number_coordinate
        if not len(at):
            return y, log_q
        dtype = noise.dtype
        e, drawn, log_drawn = noise[:, at], y[:, at], log_q[:, at]
        normal = -e.square() / 2 - LOG_SQRT_2PI
        atom = ~cells.present & ~cells.number_hole
        drawn, log_drawn = torch.where(atom, e, drawn), torch.where(atom, normal, log_drawn)
        dense = cells.present & ~self.quantized
        drawn = torch.where(dense, cells.number.to(dtype), drawn)
        log_drawn = torch.where(dense, torch.zeros_like(log_drawn), log_drawn)
        if self._any_quantized:
            inside = cells.present & self.quantized
            lower, upper, width = (part.to(dtype) for part in _finite_width(cells, inside))
            if self.dequantise == "uniform":
                a, log_a = logistic(e)  # whose sigmoid is uniform
            else:
                a, log_a = squashed[:, at], log_squashed[:, at]
            point, log_slope = into_cell(lower, upper, width, a)
            log_point = log_a - log_slope
            drawn = torch.where(inside, point, drawn)
            log_drawn = torch.where(inside, log_point, log_drawn)
        return y.index_copy(1, at, drawn), log_q.index_copy(1, at, log_drawn)

    def _signs(
        self, cells: Cells, squashed: Tensor, log_squashed: Tensor, y: Tensor, log_q: Tensor
    ) -> tuple[Tensor, Tensor]:
        at = self.bit_coordinate
        if not len(at):
            return y, log_q
        category = cells.category[:, self.bit_slot]
        known = category >= 0
        positive = (category.clamp(min=0) >> self.bit_place & 1).bool()
        v, log_slope = sign_threshold(positive, squashed[:, at])
        y = y.index_copy(1, at, torch.where(known, v, y[:, at]))
        return y, log_q.index_copy(1, at, torch.where(known, log_squashed[:, at] - log_slope, log_q[:, at]))

    def _largest(
        self, cells: Cells, squashed: Tensor, log_squashed: Tensor, y: Tensor, log_q: Tensor
    ) -> tuple[Tensor, Tensor]:
        for size in self._direct_sizes:
            slots, coordinates = getattr(self, f"direct_slot_{size}"), getattr(self, f"direct_coordinate_{size}")
            at, shape = coordinates.flatten(), (len(y), len(slots), size)
            category = cells.category[:, slots]
            known = (category >= 0)[..., None].expand(shape)
            a, log_a = squashed[:, at].reshape(shape), log_squashed[:, at].reshape(shape)
            if self.threshold == "gumbel":
                # log q(v) = log q(a) - log|dU/da| + log|dU/dv|
                v, log_density = gumbel_threshold(torch.zeros_like(a), category.clamp(min=0), a)
                log_a = log_a - nn.functional.logsigmoid(a) - nn.functional.logsigmoid(-a)
            else:
                v, log_volume = softplus_threshold(category.clamp(min=0), a)
                log_density = -log_volume
            # The row's term is shared out over its coordinates; only the sum has a meaning.
            log_v = torch.where(known, log_a + log_density[..., None] / size, log_q[:, at].reshape(shape))
            v = torch.where(known, v, y[:, at].reshape(shape))
            y, log_q = y.index_copy(1, at, v.flatten(1)), log_q.index_copy(1, at, log_v.flatten(1))
        return y, log_q

    def _add_bits(self, category: Tensor, y: Tensor) -> None:
        if len(self.bit_coordinate):
            digits = (y[:, self.bit_coordinate] > 0).long() << self.bit_place
            category.index_add_(1, self.bit_slot, digits)

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
