"""Documentation of GenZoo: MyST pages, docstrings, and a catalogue page written from the catalogue itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from genzoo import __version__
from genzoo.commands.models import details
from genzoo.models.capabilities import Capabilities
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


NEEDS: tuple[tuple[str, Callable[[Capabilities], bool]], ...] = (
    ("an exact likelihood on rows of any kind", lambda c: {c.likelihood, c.quantized, c.categorical} == {"exact"}),
    ("an exact likelihood of numbers with a density", lambda c: c.likelihood == "exact"),
    ("holes scored exactly", lambda c: c.missing == "exact"),
    ("a density that does not look at the pattern of holes", lambda c: c.missing != "no" and not c.uses_mask),
    ("missing cells filled in", lambda c: c.imputes),
    ("some columns given (context)", lambda c: c.context),
    ("what each cell contributes to a row's number", lambda c: c.by_column),
    ("row weights (survey, importance)", lambda c: c.weights),
    ("text, bits or pictures as blocks", lambda c: c.sequences),
    ("codes that hide a sensitive group", lambda c: "sensitive" in c.roles),
    ("effects of a treatment", lambda c: "treatment" in c.roles),
)


def choice() -> str:
    """What is needed and which models have it; then what each model is. Models for one purpose stand only there."""
    lines = ["| you need | models |", "|---|---|"]
    for need, has in NEEDS:
        special = "roles" in has.__code__.co_names
        able = [key for key, e in CATALOGUE.items() if has(e.capabilities) and (special or not e.capabilities.roles)]
        names = ", ".join(f"[`{key}`](#{key.replace('_', '-')})" for key in able)
        lines.append(f"| {need} | {names} |")
    kinds = {"exact": "exact", "lower_bound": "bound", "estimate": "estimate", "no": "no"}
    lines += ["", "| model | family | densities | counts | categories | holes |", "|---|---|---|---|---|---|"]
    for key, entry in CATALOGUE.items():
        c = entry.capabilities
        cells = [kinds.get(kind, kind) for kind in (c.likelihood, c.quantized, c.categorical, c.missing)]
        lines.append(f"| [`{key}`](#{key.replace('_', '-')}) | {entry.group} | {' | '.join(cells)} |")
    return "\n".join(lines)


def fill_catalogue(app: Any, docname: str, source: list[str]) -> None:
    """Puts the catalogue where ``models.md`` and ``choose.md`` ask for it."""
    if docname == "models":
        source[0] = re.sub("<!-- CATALOGUE-GOES-HERE.*-->", lambda _: catalogue(), source[0])
    if docname == "choose":
        source[0] = re.sub("<!-- CHOICE-GOES-HERE.*-->", lambda _: choice(), source[0])


def setup(app: Any) -> None:
    """Connects the catalogue page."""
    app.connect("source-read", fill_catalogue)
