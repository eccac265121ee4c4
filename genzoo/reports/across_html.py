"""Ranks across tables as one HTML page: conclusions, the diagram of critical differences, the table, the reports."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

from genzoo.reports.html import simple_table
from genzoo.reports.svg import text

if TYPE_CHECKING:
    from genzoo.reports.across import Across


def render(across: Across) -> str:
    """The whole page as text."""
    from genzoo import __version__

    assets = files("genzoo.reports") / "assets"
    first, *more = across.conclusions()
    lead = f"<p>{escape(first)}</p>" + "".join(f"<p>{escape(line)}</p>" for line in more)
    links = "".join(
        f'<li><a href="{escape(across.links[name], quote=True)}">{escape(name)}</a></li>'
        for name in across.comparisons
        if name in across.links
    )
    note = (
        "Likelihoods of different tables have different units, so their ranks are averaged and not their values. On "
        "each table the models stand in the order of their guaranteed mean log-likelihood on held-out rows."
    )
    sections = [
        ("ranks", "Mean ranks", rank_diagram(across)),
        ("table", "Every table", simple_table(across.head, across.lines(), "Models by tables")),
        ("reports", "Reports", f"<ul>{links}</ul>"),
    ]
    body = f'<div class="lead"><h2>Conclusion</h2>{lead}</div><p class="note">{note}</p>' + "".join(
        f'<section id="{key}" aria-labelledby="{key}-title"><h2 id="{key}-title">{name}</h2>{inside}</section>'
        for key, name, inside in sections
    )
    title = f"{len(across.models)} models on {len(across.comparisons)} tables"
    return Template((assets / "report.html").read_text("utf-8")).substitute(
        title=title,
        heading=title,
        subtitle=escape(", ".join(across.comparisons)),
        version=escape(__version__),
        css=(assets / "report.css").read_text("utf-8"),
        js=(assets / "report.js").read_text("utf-8"),
        nav="".join(f'<li><a href="#{key}">{name}</a></li>' for key, name, _ in sections),
        body=body,
        footer=f"Written by GenZoo {escape(__version__)}.",
    )


def rank_diagram(across: Across) -> str:
    """Models at their mean ranks on one axis; bars join those that ranks do not tell apart.

    Reference:
        Demsar (2006), figure 1.
    """
    names, most = list(across.mean_ranks.items()), len(across.models)
    width, row, left = 720.0, 24, 140
    axis = 64
    half = (len(names) + 1) // 2
    bars = across.groups
    top = axis + 16 + 12 * len(bars)
    height = top + row * half + 10

    def x(rank: float) -> float:
        return left + (width - 2 * left) * (rank - 1) / max(most - 1, 1)

    parts = [f'<path class="axis" d="M{x(1):.1f} {axis}H{x(most):.1f}"/>']
    for rank in range(1, most + 1):
        parts.append(f'<path class="axis" d="M{x(rank):.1f} {axis}V{axis - 6}"/>')
        parts.append(text(x(rank), axis - 10, str(rank), "middle"))
    end = min(1 + across.critical_difference, most)
    parts.append(f'<path class="val" d="M{x(1):.1f} 18V26M{x(1):.1f} 22H{x(end):.1f}M{x(end):.1f} 18V26"/>')
    shown = f"critical difference {across.critical_difference:.2f}"
    parts.append(text(x(1), 13, shown + (" (beyond the axis)" if end == most else ""), "start", "label"))
    for i, group in enumerate(bars):
        y = axis + 12 + 12 * i
        a, b = x(across.mean_ranks[group[0]]) - 4, x(across.mean_ranks[group[-1]]) + 4
        parts.append(f'<path class="samples" style="stroke-width:4" d="M{a:.1f} {y}H{b:.1f}"/>')
    for i, (name, mean) in enumerate(names):
        on_left = i < half
        y = top + row * (i if on_left else len(names) - 1 - i) + 10
        side = 4.0 if on_left else width - 4
        parts.append(f'<path class="axis" d="M{x(mean):.1f} {axis}V{y}H{side:g}"/>')
        label = f"{name} {mean:.2f}"
        parts.append(text(side, y - 4, label, "start" if on_left else "end", "label"))
    summary = "Mean ranks: " + ", ".join(f"{name} {rank:.2f}" for name, rank in names)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Mean ranks"><svg class="ranks" '
        f'viewBox="0 0 {width:g} {height}" width="{width:g}" height="{height}" role="img">'
        f"<title>{escape(summary)}</title>"
        f"{''.join(parts)}</svg></div>"
    )
