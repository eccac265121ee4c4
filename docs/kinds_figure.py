"""Draws ``images/kinds.svg``: what each kind of likelihood says about the model's own number.

python docs/kinds_figure.py > docs/images/kinds.svg
"""

from __future__ import annotations

from genzoo.reports.plots import MARKS

WIDTH, ROW, TRUTH = 700, 48, 520
# kind, mark, where the number stands, which side the truth may lie on (-1 below, 1 above, 0 both, None nowhere else)
LINES = (
    ("exact", "exact", 0, None, "the model's own number"),
    ("bound", "lower_bound", -95, 1, "a guarantee: the truth is here or further right"),
    ("upper bound", "upper_bound", 95, -1, "the truth is here or further left: not ranked"),
    ("unbiased", "estimate", 22, 2, "right on average; its error bar says how far off"),
    ("estimate", "estimate", -40, 0, "an error of unknown sign: not ranked"),
)
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.name{font-weight:600;fill:#57606a}"
    ".mark{fill:#2f7fd1;stroke:#2f7fd1;stroke-width:2}.open{fill:none}.truth{stroke:#8b949e;stroke-dasharray:4 3}"
    ".may{stroke:#2f7fd1;stroke-width:2;stroke-opacity:.55;fill:none}"
)


def picture() -> str:
    """The figure as SVG; readable in grey, on light and on dark pages."""
    height = 40 + ROW * len(LINES)
    title = "Kinds of likelihood: where the model's own log-likelihood may lie, given the reported number"
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>{title}</title><style>{STYLE}</style>",
        f'<text x="{TRUTH}" y="16" text-anchor="middle">the model\'s own log-likelihood</text>',
        f'<path class="truth" d="M{TRUTH} 24V{height - 14}"/>',
    ]
    for place, (name, mark, shift, side, words) in enumerate(LINES):
        y, x = 46 + ROW * place, TRUTH + shift
        out.append(f'<text class="name" x="6" y="{y - 3}">{name}</text>')
        if side == 2:
            out.append(f'<path class="may" d="M{x - 40} {y}H{x + 40}M{x - 40} {y - 5}v10M{x + 40} {y - 5}v10"/>')
        elif side is not None:
            for way in (-1, 1) if side == 0 else (side,):
                end = x + way * (90 if side == 0 else 130)
                out.append(f'<path class="may" d="M{x} {y}H{end}m{-way * 6} -4l{way * 6} 4l{-way * 6} 4"/>')
        hollow = " open" if name in ("upper bound", "estimate") else ""
        out.append(f'<g class="mark{hollow}" transform="translate({x} {y})">{MARKS[mark]}</g>')
        out.append(f'<text x="6" y="{y + 14}">{words}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    print(picture(), end="")
