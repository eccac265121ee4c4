"""A few words of SVG: axes, ticks and shapes for the small figures of a report.

Figures are written as inline SVG and not by a plotting library: colours come from the page's style sheet, so one figure
serves light, dark and print; text stays text; a panel is two or three kilobytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

import numpy as np


def ticks(low: float, high: float, count: int = 4, whole: bool = False) -> list[float]:
    """Round numbers between ``low`` and ``high``, about ``count`` of them; ``whole``: whole numbers only."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw * 0.999)
    if whole:
        step = max(math.ceil(step), 1)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def column_ticks(low: float, high: float, storage: str, count: int) -> list[tuple[float, str]]:
    """Ticks of a column with their labels: first days of years for long stretches of dates, else round numbers."""
    if storage not in ("date", "datetime"):
        return [(v, tick_label(v, storage)) for v in ticks(low, high, count)]
    day = 1.0 if storage == "date" else 86400.0
    if storage == "datetime" and high - low < 3 * day:
        return [(v, str(np.datetime64(round(v), "s"))[5:16].replace("T", " ")) for v in ticks(low, high, 2)]
    if not (math.isfinite(low) and math.isfinite(high)) or high - low < 3 * 365 * day:
        return [(v, tick_label(v, storage)) for v in ticks(low, high, 2)]
    years = ticks(1970 + low / day / 365.2425, 1970 + high / day / 365.2425, count, whole=True)
    starts = {int(y): np.datetime64(f"{int(y)}-01-01", "D").astype(np.int64) * day for y in years}
    return [(float(v), str(year)) for year, v in starts.items() if low <= v <= high]


def tick_label(value: float, storage: str = "float") -> str:
    """Short text of a tick: ``12``, ``0.05``, ``3.2k``, ``5M``; a date for date columns."""
    if storage in ("date", "datetime"):
        day = math.floor(value if storage == "date" else value / 86400)
        return str(np.datetime64(day, "D"))
    if value == 0:
        return "0"
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if limit <= size < 1e12 and (limit > 1e3 or size >= 1e4):
            return f"{value / limit:.4g}{letter}"
    return f"{value:.4g}".replace("-", "−").replace("e−0", "e−").replace("e+0", "e")


def short(text: str, length: int) -> str:
    """Text cut to ``length`` characters with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def text(x: float | str, y: float, words: str, anchor: str = "start", cls: str = "") -> str:
    """A text element; ``x`` may be a percentage."""
    x = x if isinstance(x, str) else f"{x:.1f}"
    style = f' class="{cls}"' if cls else ""
    return f'<text x="{x}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(words)}</text>'


@dataclass
class Panel:
    """A drawing area with a horizontal and a vertical axis, in pixels of the view box.

    Args:
        x: Ends of the horizontal axis, in data units.
        y: Ends of the vertical axis, in data units.
        width: Width of the whole figure.
        height: Height of the whole figure.
        left: Room for vertical tick labels.
        bottom: Room for horizontal tick labels and the axis label.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    width: int = 240
    height: int = 150
    left: int = 42
    bottom: int = 32
    top: int = 8
    right: int = 8
    parts: list[str] = field(default_factory=list)

    def px(self, value: float) -> float:
        """Horizontal place of a value."""
        return self.left + (value - self.x[0]) / _span(self.x) * (self.width - self.left - self.right)

    def py(self, value: float) -> float:
        """Vertical place of a value (downwards)."""
        return self.height - self.bottom - (value - self.y[0]) / _span(self.y) * (self.height - self.top - self.bottom)

    def axes(
        self,
        x_label: str,
        y_label: str,
        *,
        x_storage: str = "float",
        y_storage: str = "float",
        y_percent: bool = False,
        x_ticks: Sequence[tuple[float, str]] | None = None,
        y_ticks: Sequence[tuple[float, str]] | None = None,
    ) -> None:
        """Draws frame, ticks and axis labels."""
        bottom, left, right = self.height - self.bottom, self.left, self.width - self.right
        if x_ticks is None:
            x_ticks = column_ticks(*self.x, x_storage, 4)
        if y_ticks is None:
            y_ticks = column_ticks(*self.y, y_storage, 3)
            if y_percent:
                y_ticks = [(v, f"{100 * v:.3g}%") for v, _ in y_ticks]
        for value, _ in y_ticks:
            self.parts.append(
                f'<line class="grid" x1="{left}" x2="{right}" y1="{self.py(value):.1f}" y2="{self.py(value):.1f}"/>'
            )
        self.parts.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
        for value, label in x_ticks:
            # labels at the ends stay inside the figure
            place = min(max(self.px(value), left - 8 + 3 * len(label)), self.width - 3 * len(label))
            self.parts.append(text(place, bottom + 12, label, "middle"))
        for value, label in y_ticks:
            self.parts.append(text(left - 4, self.py(value) + 3.5, label, "end"))
        if x_label:
            self.parts.append(text((left + right) / 2, self.height - 5, short(x_label, 36), "middle", "label"))
        if y_label:
            middle = (self.top + bottom) / 2
            self.parts.append(
                f'<text class="label" text-anchor="middle" transform="translate(9 {middle:.1f}) rotate(-90)">'
                f"{escape(short(y_label, 24))}</text>"
            )

    def line(self, xs: Sequence[float], ys: Sequence[float], cls: str) -> None:
        """A polyline; points that are not finite break it."""
        pieces: list[str] = []
        pen = "M"
        for x, y in zip(xs, ys):
            if not (math.isfinite(x) and math.isfinite(y)):
                pen = "M"
                continue
            low, high = self.y[0] - _span(self.y), self.y[1] + _span(self.y)
            pieces.append(f"{pen}{self.px(x):.1f} {self.py(min(max(y, low), high)):.1f}")
            pen = "L"
        self.parts.append(f'<path class="{cls}" d="{"".join(pieces)}"/>')

    def bars(self, edges: Sequence[float], heights: Sequence[float], cls: str) -> None:
        """Filled histogram bars over intervals."""
        pieces = [
            f"M{self.px(a):.1f} {self.py(0):.1f}V{self.py(h):.1f}H{self.px(b):.1f}V{self.py(0):.1f}Z"
            for a, b, h in zip(edges[:-1], edges[1:], heights)
            if h > 0
        ]
        self.parts.append(f'<path class="{cls}" d="{"".join(pieces)}"/>')

    def steps(self, edges: Sequence[float], heights: Sequence[float], cls: str) -> None:
        """Outline of a histogram."""
        pieces = [f"M{self.px(edges[0]):.1f} {self.py(0):.1f}"]
        for b, h in zip(edges[1:], heights):
            pieces.append(f"V{self.py(h):.1f}H{self.px(b):.1f}")
        pieces.append(f"V{self.py(0):.1f}")
        self.parts.append(f'<path class="{cls}" d="{"".join(pieces)}"/>')

    def dots(self, xs: Sequence[float], ys: Sequence[float], cls: str) -> None:
        """Small round dots; those outside the axes are left out."""
        pieces = [
            f"M{self.px(x):.0f} {self.py(y):.0f}h0"
            for x, y in zip(xs, ys)
            if self.x[0] <= x <= self.x[1] and self.y[0] <= y <= self.y[1]
        ]
        self.parts.append(f'<path class="{cls}" d="{"".join(pieces)}"/>')

    def render(self, title: str) -> str:
        """The finished figure; ``title`` is read aloud and shown on hover."""
        return (
            f'<svg class="panel" viewBox="0 0 {self.width} {self.height}" role="img">'
            f"<title>{escape(title)}</title>{''.join(self.parts)}</svg>"
        )


def _span(ends: tuple[float, float]) -> float:
    return (ends[1] - ends[0]) or 1.0
