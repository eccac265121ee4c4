"""Documentation of GenZoo: MyST pages, docstrings, and a catalogue page written from the catalogue itself."""

from __future__ import annotations

from typing import Any

from genzoo import __version__
from genzoo.commands.models import details
from genzoo.models.catalogue import CATALOGUE

project = "GenZoo"
author = "GenZoo contributors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "GenZoo"
myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 3
autodoc_typehints = "description"
autodoc_member_order = "bysource"
napoleon_use_rtype = False
# names of the code base that docstrings mention and no page documents
nitpicky = False


def catalogue() -> str:
    """The catalogue as Markdown: a table, then a section a model."""
    lines = ["| name | likelihood | holes | context | imputes | what it is |", "|---|---|---|---|---|---|"]
    kinds = {"exact": "exact", "lower_bound": "bound", "estimate": "estimate", "no": "no"}
    for key, entry in CATALOGUE.items():
        c = entry.capabilities
        link = f"[`{key}`](#{key.replace('_', '-')})"
        cells = [
            link, kinds.get(c.likelihood, c.likelihood), kinds.get(c.missing, c.missing),
            "yes" if c.context else "no", "yes" if c.imputes else "no", entry.summary,
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    for key, entry in CATALOGUE.items():
        body = "\n".join(details(key).splitlines()[1:])
        lines += ["", f"({key.replace('_', '-')})=", f"## {key}", "", entry.summary, "", "```text", body, "```"]
    return "\n".join(lines)


def fill_catalogue(app: Any, docname: str, source: list[str]) -> None:
    """Puts the catalogue where ``models.md`` asks for it."""
    if docname == "models":
        source[0] = source[0].replace("CATALOGUE-GOES-HERE", catalogue())


def setup(app: Any) -> None:
    """Connects the catalogue page."""
    app.connect("source-read", fill_catalogue)
