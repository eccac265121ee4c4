"""``genzoo models [NAME]``: the catalogue, without importing torch."""

from __future__ import annotations

import shutil
import textwrap

from genzoo.commands.parsing import Parser
from genzoo.errors import GenZooError
from genzoo.models.capabilities import Capabilities
from genzoo.models.catalogue import CATALOGUE, Entry, find, outside_models

KIND_NAMES = {"exact": "exact", "lower_bound": "bound", "upper_bound": "upper bound", "estimate": "estimate"}


def run(arguments: list[str]) -> int:
    """Prints the catalogue, or one entry of it."""
    parser = Parser("models", "The catalogue: what each model is, what it accepts, what its likelihood is.")
    parser.add_argument("name", nargs="?", metavar="NAME", help="one model in detail")
    given = parser.parse(arguments)
    print(details(given.name) if given.name else listing(), end="")
    return 0


def listing() -> str:
    """Every model on one line each, by family."""
    rows = [("model", "likelihood", "mixed rows", "holes", "context", "imputes", "what it is")]
    groups: dict[str, list[Entry]] = {}
    for entry in CATALOGUE.values():
        groups.setdefault(entry.group, []).append(entry)
    for entries in groups.values():
        for entry in entries:
            c = entry.capabilities
            rows.append(
                (
                    entry.key,
                    _kind(c.likelihood),
                    _mixed(c),
                    _kind(c.missing),
                    "yes" if c.context else "no",
                    "yes" if c.imputes else "no",
                    entry.summary,
                )
            )
    for key, point in outside_models().items():
        if key not in CATALOGUE:
            rows.append((key, "", "", "", "", "", f"from an installed package: {point.value}"))
    fixed = [max(len(row[i]) for row in rows) for i in range(6)]
    room = max(shutil.get_terminal_size((120, 24)).columns - sum(fixed) - 2 * 6, 24)
    lines = []
    for row in rows:
        head = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, fixed))
        wrapped = textwrap.wrap(row[6], room) or [""]
        lines.append(f"{head}  {wrapped[0]}".rstrip())
        lines += [" " * (len(head) + 2) + rest for rest in wrapped[1:]]
    lines.append("")
    lines.append(
        "likelihood: on continuous columns; mixed rows: with categories and counts; genzoo models NAME for more"
    )
    return "\n".join(lines) + "\n"


def details(name: str) -> str:
    """One model: paper, kinds of likelihood, what it accepts, how to run it."""
    path = find(name)
    entry = next((e for e in CATALOGUE.values() if e.class_path == path), None)
    if entry is None:
        if name not in outside_models():
            raise GenZooError(f"'{name}' is a class path, not a catalogue entry; genzoo models lists the names")
        return f"{name}\n  class      {path}\n  run        genzoo fit my.csv --model {name}\n"
    c = entry.capabilities
    lines = [
        entry.key,
        *textwrap.wrap(entry.summary, 100, initial_indent="  ", subsequent_indent="  "),
        "",
        f"  class        {entry.class_path}",
        f"  family       {entry.group}",
        f"  paper        {entry.paper or '-'}",
        *([] if c.estimand == "observational" else [f"  estimand     {c.estimand}: never compared with others"]),
        f"  likelihood   {_kind(c.likelihood)} on continuous, {_kind(c.quantized)} with quantized, "
        f"{_kind(c.categorical)} with categorical columns",
        f"  accepts      {', '.join(c.kinds)} columns" + ("; text and image blocks" if c.sequences else ""),
        f"  holes        {_holes(c)}",
        f"  context      {_context(c)}",
        f"  imputes      {'yes' if c.imputes else 'no'}",
        f"  samples      {'yes' if c.samples else 'no'}",
        f"  by column    {'yes: genzoo score --by column' if c.by_column else 'no'}",
        f"  row weights  {'yes: --data.weight COLUMN' if c.weights else 'no'}",
    ]
    if c.stages:
        lines.append(f"  stages       {', '.join(c.stages)}")
    if entry.recipe:
        lines.append(f"  recipe       configs/recipes/{entry.recipe.removesuffix('.yaml')}.yaml")
    if c.roles:
        lines.append(f"  needs        {' and '.join(c.roles)} column" + "s" * (len(c.roles) > 1))
    roles = "".join(f" --data.{role} '[COLUMN]'" for role in c.roles)
    lines.append(f"  run          genzoo fit my.csv --model {entry.key}{roles}")
    lines.append(f"  arguments    genzoo fit --model.help {entry.class_name}")
    return "\n".join(lines) + "\n"


def _kind(kind: str) -> str:
    return KIND_NAMES.get(kind, kind)


def _mixed(c: Capabilities) -> str:
    if not {"categorical", "quantized"} <= set(c.kinds):
        return "no"
    kinds = {c.likelihood, c.quantized, c.categorical}
    return _kind("exact" if kinds == {"exact"} else ("estimate" if "estimate" in kinds else "lower_bound"))


def _holes(c: Capabilities) -> str:
    if c.missing == "no":
        return "refused in scored columns"
    read = "; reads the pattern of holes" if c.uses_mask else ""
    return f"{'exact marginal' if c.missing == 'exact' else 'lower bound of the marginal'}{read}"


def _context(c: Capabilities) -> str:
    if not c.context:
        return "no"
    return "yes, holes allowed" if c.context_missing else "yes, complete"
