"""The main table as Markdown, CSV, LaTeX and plain text."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from dataclasses import fields

from genzoo.reports import columns, formats
from genzoo.reports.columns import TableColumn
from genzoo.reports.rows import GROUP_TITLES, GROUPS, Row


def markdown(rows: Sequence[Row], caption: str) -> str:
    """A pipe table per group; failed models as a list."""
    cols = columns.shown(columns.MAIN, rows)
    parts = []
    for group in GROUPS:
        members = [row for row in rows if row.group == group]
        if not members:
            continue
        parts.append(f"**{GROUP_TITLES[group]}**\n")
        if group == "failed":
            parts.append("\n".join(f"- `{row.name}`: {row.error}" for row in members) + "\n")
            continue
        lines = ["| " + " | ".join(c.title for c in cols) + " |"]
        lines.append("|" + "|".join(":--" if c.left else "--:" for c in cols) + "|")
        for row in members:
            cells = [c.cell(row).replace("|", "\\|") for c in cols]
            if row.rank == 1:
                cells = [
                    f"**{cell}**" if c.title.startswith(("Model", "Log-")) else cell for c, cell in zip(cols, cells)
                ]
            lines.append("| " + " | ".join(cells) + " |")
        reasons = [f"- {row.name}: {row.reason}" for row in members if row.group == "unranked" and row.reason]
        parts.append("\n".join(lines) + "\n" + ("\n" + "\n".join(reasons) + "\n" if reasons else ""))
    return "\n".join([*parts, caption, ""])


def csv_text(rows: Sequence[Row]) -> str:
    """Every field of every row, unrounded; empty where a number does not exist, ``-inf`` for minus infinity."""
    names = [f.name for f in fields(Row)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        plain = row.to_dict()
        writer.writerow(["" if plain[n] is None else plain[n] for n in names])
    return out.getvalue()


_TEX = {
    **{c: "\\" + c for c in "&%$#_{}"},
    **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
    **{"±": r"$\pm$", "−": "$-$", "∞": r"$\infty$", "–": "--", "↑": r"$\uparrow$", "↓": r"$\downarrow$"},
    **{"\u202f": r"\,", "<": r"\textless{}", ">": r"\textgreater{}", "…": r"\ldots{}"},
}


def tex_escape(words: str) -> str:
    """Text that LaTeX prints as it is."""
    return "".join(_TEX.get(letter, letter) for letter in words)


TEX_COLUMNS = (
    "Rank",
    "Model",
    "Log-likelihood",
    "Difference",
    "Discretised",
    "Spike",
    "Bits/dim",
    "Parameters",
    "Training",
)


def latex(rows: Sequence[Row], caption: str) -> str:
    """A ``booktabs`` table (``\\usepackage{booktabs}``); groups are divided by a rule and a title."""
    cols = [c for c in columns.shown(columns.MAIN, rows) if c.title.startswith(TEX_COLUMNS)]
    lines = [r"% needs \usepackage{booktabs}", r"\begin{table}", r"\centering", f"\\caption{{{tex_escape(caption)}}}"]
    lines += [r"\begin{tabular}{" + "".join("l" if c.left else "r" for c in cols) + "}", r"\toprule"]
    lines.append(" & ".join(tex_escape(c.title) for c in cols) + r" \\")
    for group in GROUPS:
        members = [row for row in rows if row.group == group]
        if not members:
            continue
        lines += [r"\midrule", f"\\multicolumn{{{len(cols)}}}{{l}}{{\\emph{{{tex_escape(GROUP_TITLES[group])}}}}} \\\\"]
        for row in members:
            if group == "failed":
                words = tex_escape(row.error or "")
                wide = f"\\multicolumn{{{len(cols) - 2}}}{{p{{0.6\\linewidth}}}}{{{words}}}"
                lines.append(f"-- & {tex_escape(row.name)} & {wide} \\\\")
                continue
            cells = [tex_escape(c.cell(row)) for c in cols]
            if row.rank == 1:
                cells = [
                    f"\\textbf{{{x}}}" if c.title.startswith(("Model", "Log-")) else x for c, x in zip(cols, cells)
                ]
            lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


TERMINAL = ("Rank", "Model", "Log-likelihood", "Difference", "Rows at", "Spike", "Training")


def terminal_columns(rows: Sequence[Row], width: int) -> list[TableColumn]:
    """The columns that fit ``width`` letters, the first ones first; titles may be broken into words."""
    kept: list[TableColumn] = []
    used = 0
    for start in TERMINAL:
        for c in columns.shown(columns.MAIN, rows):
            if not c.title.startswith(start) or (start == "Rows at" and not any(row.num_neg_inf for row in rows)):
                continue
            used += 2 + max([len(w) for w in c.title.split()] + [len(c.cell(row)) for row in rows])
            if used - 2 <= width or len(kept) < 3:
                kept.append(c)
    return kept


def terminal_lines(rows: Sequence[Row], width: int = 110) -> list[tuple[str, str]]:
    """The table for a terminal: lines of at most ``width`` letters (if names allow it), each with a rich style."""
    cols = terminal_columns(rows, width)
    cells = {id(row): [c.cell(row) for c in cols] for row in rows if row.group != "failed"}
    sizes = [max([len(w) for w in c.title.split()] + [len(x[i]) for x in cells.values()]) for i, c in enumerate(cols)]

    def line(parts: Sequence[str]) -> str:
        padded = [p.ljust(w) if c.left else p.rjust(w) for p, w, c in zip(parts, sizes, cols)]
        return "  ".join(padded).rstrip()

    titles = [textwrap.wrap(c.title, size, break_long_words=False) for c, size in zip(cols, sizes)]
    height = max(map(len, titles))
    titles = [[""] * (height - len(words)) + words for words in titles]
    out = [(line(words), "bold") for words in zip(*titles)]
    out.append(("─" * (sum(sizes) + 2 * (len(sizes) - 1)), ""))
    groups = [group for group in GROUPS if any(row.group == group for row in rows)]
    for group in groups:
        if len(groups) > 1:
            out.append((GROUP_TITLES[group], "italic"))
        for row in (row for row in rows if row.group == group):
            if group == "failed":
                out.append((f"  {row.name}: {row.error}", "red"))
                continue
            out.append((line(cells[id(row)]), "bold green" if row.rank == 1 else "" if group == "ranked" else "dim"))
            if group == "unranked" and row.reason:
                out.append((f"    {row.reason}", "yellow"))
    return out


def plain_text(rows: Sequence[Row], width: int = 110) -> str:
    """The table for the terminal, without colours."""
    return "\n".join(line for line, _ in terminal_lines(rows, width))


def caption_of(num_rows: int, table: str, weighted: bool = False) -> str:
    """One sentence under the table."""
    mean = "Weighted mean" if weighted else "Mean"
    return (
        f"{mean} log-likelihood of {formats.count(num_rows)} held-out rows of {table}, nats per row ± standard error "
        "(kind); differences are paired row by row, with 95 % intervals."
    )
