"""The figures of a report: differences, training curves, marginals and pairs of samples beside data.

Data are grey areas or grey dots; a model is a dark line, an outline or dots of its own panel, so that everything reads
without colour. Each function returns one ``<svg>`` (or a small ``<figure>``) as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from genzoo.evaluation.marginals import Bins, Counted, TableBins, Values, pairwise
from genzoo.reports.svg import Panel, short, text, tick_label, ticks
from genzoo.tables.schema import Column

MARKS = {
    "exact": '<circle r="5"/>',
    "lower_bound": '<path d="M-4 -5.5L6 0L-4 5.5Z"/>',
    "upper_bound": '<path d="M4 -5.5L-6 0L4 5.5Z"/>',
    "estimate": '<rect x="-4.5" y="-4.5" width="9" height="9"/>',
    "oracle": '<path d="M0 -6.5L6.5 0L0 6.5L-6.5 0Z"/>',
}


@dataclass(frozen=True)
class Dot:
    """One row of the figure of differences.

    Args:
        name: Model.
        value: Difference to the reference in nats per row.
        low: Lower end of its interval.
        high: Upper end.
        mark: Key of :data:`MARKS`.
        ranked: Drawn filled; others are drawn hollow.
        words: The number as text.
    """

    name: str
    value: float
    low: float
    high: float
    mark: str
    ranked: bool
    words: str


def difference_plot(dots: Sequence[Dot], reference: str) -> str:
    """Differences to the reference with their intervals; widths in percent, so that text keeps its size on a phone."""
    shown = [d for d in dots if math.isfinite(d.value)]
    if len(shown) < 2:
        return ""
    ends = np.array([[d.low, d.high] for d in shown])
    ends = np.where(np.isfinite(ends), ends, np.array([[d.value] * 2 for d in shown]))
    low, high = float(min(ends.min(), 0)), float(max(ends.max(), 0))
    # One far-off model would press the others into one point: a linear part near zero, logarithmic beyond.
    inner = float(np.quantile(np.abs([d.value for d in shown if d.value != 0] or [1.0]), 0.25, method="lower"))
    bent = (high - low) > 25 * inner > 0
    scale = inner / 4 if bent else 1.0

    def bend(value: float) -> float:
        return math.asinh(value / scale) if bent else value

    pad = 0.06 * ((bend(high) - bend(low)) or 1.0)
    start, stop = bend(low) - pad, bend(high) + pad

    def x(value: float) -> str:
        return f"{3 + 94 * (bend(value) - start) / (stop - start):.2f}%"

    row, top = 42, 4
    bottom = top + row * len(shown)
    marks = _bent_ticks(low, high, scale) if bent else ticks(low, high, 5)
    parts = [
        f'<rect class="band" x="0" y="{top + row * i}" width="100%" height="{row}"/>' for i in range(0, len(shown), 2)
    ]
    for value in marks:
        parts.append(f'<line class="grid" x1="{x(value)}" x2="{x(value)}" y1="{top}" y2="{bottom}"/>')
        parts.append(text(x(value), bottom + 16, tick_label(value), "middle"))
    parts.append(f'<line class="zero" x1="{x(0)}" x2="{x(0)}" y1="{top}" y2="{bottom}"/>')
    for i, (dot, (a, b)) in enumerate(zip(shown, ends)):
        y = top + row * i + 29
        parts.append(text("6", y - 12, dot.name, "start", "name"))
        parts.append(text("99%", y - 12, dot.words, "end", "value"))
        cls = "ranked" if dot.ranked else "apart"
        parts.append(f'<g class="{cls}"><line x1="{x(a)}" x2="{x(b)}" y1="{y}" y2="{y}"/>')
        for end in (a, b):
            parts.append(f'<line x1="{x(end)}" x2="{x(end)}" y1="{y - 4}" y2="{y + 4}"/>')
        parts.append(
            f'<svg x="{x(dot.value)}" y="{y}" overflow="visible">{MARKS.get(dot.mark, MARKS["estimate"])}</svg></g>'
        )
    label = f"difference to {short(reference, 30)} (nats per row)" + (", compressed scale" if bent else "") + " →"
    parts.append(text("50%", bottom + 36, label, "middle", "label"))
    title = f"Difference to {reference} in nats per row: " + "; ".join(f"{d.name} {d.words}" for d in shown)
    return (
        f'<svg class="differences" width="100%" height="{bottom + 44}" role="img">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _bent_ticks(low: float, high: float, scale: float) -> list[float]:
    """Ticks of the compressed axis: zero and powers of ten on either side, thinned to at most about eight."""
    marks = [0.0]
    for end in (low, high):
        size, sign = abs(end), math.copysign(1.0, end)
        value = 10.0 ** math.ceil(math.log10(scale)) if scale > 0 else 1.0
        while value <= size * 1.001:
            marks.append(sign * value)
            value *= 10
    marks.sort()
    if len(marks) > 8:
        marks = [m for i, m in enumerate(marks) if m == 0 or i % 2 == 0]
    return marks


def curve_plot(curves: Mapping[str, Sequence[tuple[float, float]]], name: str) -> str:
    """Training curves of one model: training dashed, validation solid; the vertical axis may cut the first fifth."""
    kept = {k: [(s, v) for s, v in points if math.isfinite(v)] for k, points in curves.items()}
    kept = {k: points for k, points in kept.items() if len(points) > 1}  # one point is no curve
    if not kept:
        return ""
    last = max(s for points in kept.values() for s, _ in points)
    first = min(s for points in kept.values() for s, _ in points)
    late = [v for points in kept.values() for s, v in points if s >= first + 0.2 * (last - first)]
    every = [v for points in kept.values() for _, v in points]
    low, high = min(every), max(late)
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.01
    panel = Panel((first, last if last > first else first + 1), (low - room, high + room), left=46)
    panel.axes("step", "nats per row ↓")
    box = f"{panel.left} {panel.top} {panel.width - panel.left - panel.right} {panel.height - panel.top - panel.bottom}"
    x, y, width, height = box.split()
    # a nested drawing clips what lies outside its view box
    panel.parts.append(f'<svg x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{box}">')
    for key, points in kept.items():
        panel.line([s for s, _ in points], [v for _, v in points], "train" if key.startswith("train") else "val")
    panel.parts.append("</svg>")
    ends = ", ".join(f"{key} ends at {points[-1][1]:.3f}" for key, points in kept.items())
    return panel.render(f"Training of {name}: {ends}")


def axis_label(column: Column) -> str:
    """Column name and unit."""
    return f"{column.name} ({column.unit})" if column.unit else column.name


def marginal_figure(bins: Bins, counted: Counted) -> str:
    """One column: data as a grey area, samples as a dark outline, with their distance."""
    column = bins.column
    plot = _category_plot(bins, counted) if not column.is_numeric else _histogram(bins, counted)
    notes = []
    if column.is_numeric:
        for i, label in enumerate(bins.labels[:3]):
            name = label if label == "missing" else f"= {label}"
            notes.append(f"{name}: data {_percent(counted.data[i])}, samples {_percent(counted.samples[i])}")
        if len(bins.labels) > 3:
            notes.append(f"{len(bins.labels) - 3} more atoms")
        outside = counted.data[-2:].sum(), counted.samples[-2:].sum()
        if len(bins.edges) and outside[1] > max(0.02, 2 * outside[0]):
            notes.append(f"outside the axis: data {_percent(outside[0])}, samples {_percent(outside[1])}")
    caption = f"<b>{escape(column.name)}</b> {distance_words(counted)}"
    if notes:
        caption += "<br>" + "<br>".join(map(escape, notes))
    return f"<figure>{plot}<figcaption>{caption}</figcaption></figure>"


def distance_words(counted: Counted) -> str:
    """``distance 0.03 (0.02 by chance)``."""
    return f"distance {counted.distance:.3f} ({counted.by_chance:.3f} by chance)"


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def _histogram(bins: Bins, counted: Counted) -> str:
    first, count = len(bins.labels), bins.num_intervals
    column = bins.column
    if count == 0:
        return text_panel(f"{column.name}: no cells outside the atoms")
    data, samples = counted.data[first : first + count], counted.samples[first : first + count]
    edges: list[float] = bins.edges.tolist()
    panel = Panel((edges[0], edges[-1]), (0, 1.08 * max(float(data.max()), float(samples.max()), 1e-9)))
    panel.axes(axis_label(column), "share of rows", x_storage=column.storage, y_percent=True)
    panel.bars(edges, data.tolist(), "data")
    panel.steps(edges, samples.tolist(), "samples")
    return panel.render(f"{column.name}: data (area) and samples (line), {distance_words(counted)}")


def _category_plot(bins: Bins, counted: Counted) -> str:
    labels = [*bins.labels, "other"]
    data, samples = counted.data, counted.samples
    if data[-1] == 0 and samples[-1] == 0:
        labels, data, samples = labels[:-1], data[:-1], samples[:-1]
    high = 1.08 * max(float(data.max(initial=0)), float(samples.max(initial=0)), 1e-9)
    row = 18
    height = 40 + row * len(labels)
    panel = Panel((0, high), (0, 1), height=height, left=88)
    panel.axes("share of rows", "", y_ticks=[], x_ticks=[(v, f"{100 * v:.3g}%") for v in ticks(0, high, 3)])
    for i, (label, p, q) in enumerate(zip(labels, data, samples)):
        y = panel.top + row * i
        panel.parts.append(text(panel.left - 5, y + 13, short(label, 15), "end"))
        panel.parts.append(
            f'<path class="data" d="M{panel.left} {y + 3}H{panel.px(float(p)):.1f}V{y + 15}H{panel.left}Z"/>'
        )
        panel.parts.append(
            f'<path class="samples" d="M{panel.left} {y + 1}H{panel.px(float(q)):.1f}V{y + 17}H{panel.left}"/>'
        )
    return panel.render(f"{bins.column.name}: data (area) and samples (outline), {distance_words(counted)}")


def text_panel(words: str) -> str:
    """A panel that only says why nothing is drawn."""
    return f'<p class="empty">{escape(words)}</p>'


def pair_figure(table: TableBins, pair: tuple[str, str], samples: Mapping[str, Values], max_dots: int = 400) -> str:
    """Two columns: data on the left, samples on the right, same axes."""
    first, second = table.bins[pair[0]], table.bins[pair[1]]
    data = table.values[pair[0]], table.values[pair[1]]
    drawn = samples[pair[0]], samples[pair[1]]
    counted = pairwise(first, second, data, drawn)
    if len(first.edges) and len(second.edges):
        panels = [
            _scatter(first, second, values, who, max_dots) for values, who in ((data, "data"), (drawn, "samples"))
        ]
    else:
        used = _used(counted.data + counted.samples)
        panels = [
            _heat(first, second, p, used, who) for p, who in ((counted.data, "data"), (counted.samples, "samples"))
        ]
    caption = f"<b>{escape(pair[0])}</b> and <b>{escape(pair[1])}</b>"
    return f'<figure class="pair"><div>{panels[0]}{panels[1]}</div><figcaption>{caption}</figcaption></figure>'


def _scatter(first: Bins, second: Bins, values: tuple[Values, Values], who: str, max_dots: int) -> str:
    x, y = (np.asarray(v, dtype=np.float64) for v in values)
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both][:max_dots], y[both][:max_dots]
    ends = [_dot_range(bins) for bins in (first, second)]
    panel = Panel(ends[0], ends[1], width=200, height=170, left=44)
    panel.axes(
        axis_label(first.column),
        axis_label(second.column),
        x_storage=first.column.storage,
        y_storage=second.column.storage,
    )
    panel.dots(x.tolist(), y.tolist(), f"dots {who}-dots")
    panel.parts.append(text(panel.width - panel.right, panel.top + 4, f"{who}, n = {len(x)}", "end", "who"))
    return panel.render(f"{first.column.name} and {second.column.name}: {who}, {len(x)} rows")


def _dot_range(bins: Bins) -> tuple[float, float]:
    """Ends of a scatter axis: the intervals, stretched to hold the atoms, with some room."""
    low, high = float(bins.edges[0]), float(bins.edges[-1])
    if bins.column.atoms:
        low, high = min(low, *bins.column.atoms), max(high, *bins.column.atoms)
    room = 0.05 * (high - low)
    return low - room, high + room


def _heat(first: Bins, second: Bins, shares: NDArray[np.float64], used: tuple[int, int], who: str) -> str:
    high = float(shares.max(initial=0)) or 1.0
    panel = Panel((0, used[0]), (0, used[1]), width=200, height=170, left=64, top=14)
    panel.axes(
        axis_label(first.column),
        axis_label(second.column),
        x_ticks=_bin_ticks(first, 3, used[0]),
        y_ticks=_bin_ticks(second, 8, used[1]),
    )
    panel.parts = [part for part in panel.parts if 'class="grid"' not in part]
    panel.parts.append(text(panel.width - panel.right, 9, who, "end", "who"))
    for i, j in zip(*np.nonzero(shares)):
        a, b, c, d = panel.px(i), panel.px(i + 1), panel.py(j + 1), panel.py(j)
        shade = max(math.sqrt(float(shares[i, j]) / high), 0.04)  # square root: rare cells stay visible
        path = f"M{a:.1f} {c:.1f}H{b:.1f}V{d:.1f}H{a:.1f}Z"
        panel.parts.append(f'<path class="{who}-heat" opacity="{shade:.2f}" d="{path}"/>')
    return panel.render(f"{first.column.name} and {second.column.name}: share of {who} in each cell")


def _used(shares: NDArray[np.float64]) -> tuple[int, int]:
    """Bins up to the last that holds anything, on either axis."""
    return tuple(int(np.nonzero(shares.sum(axis=1 - axis))[0].max(initial=0)) + 1 for axis in (0, 1))  # type: ignore[return-value]


def _bin_ticks(bins: Bins, most: int, used: int) -> list[tuple[float, str]]:
    """Names of the first ``used`` bins at their centres, thinned to at most ``most``."""
    labels = [*bins.labels]
    if len(bins.edges):
        middles = (bins.edges[:-1] + bins.edges[1:]) / 2
        dated = bins.column.storage in ("date", "datetime")
        labels += [tick_label(m if dated else float(f"{m:.3g}"), bins.column.storage) for m in middles.tolist()] + [
            "<",
            ">",
        ]
    elif bins.has_other:
        labels.append("other")
    labels = labels[:used]
    step = max(math.ceil(len(labels) / most), 1)
    return [(i + 0.5, short(labels[i], 9)) for i in range(0, len(labels), step)]
