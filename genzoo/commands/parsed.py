"""One sentence out of the many lines an argument parser says."""

from __future__ import annotations

import argparse
import inspect
import re
from importlib import import_module
from typing import Any

from genzoo.commands.given import Given
from genzoo.commands.parsing import near

ParseTrouble = (argparse.ArgumentError, TypeError, ValueError)


def parse_sentence(error: Exception, parser: Any, given: Given) -> str:
    """What is wrong with an option, with the nearest names.

    Args:
        error: What the parser raised.
        parser: The parser, which knows the options of the Trainer.
        given: The options.
    """
    text = str(error)
    unknown = _unknown_option(text, given)
    if unknown is not None:
        key, names = unknown
        kind, _, option = key.partition(".")
        hint = near(option, names)
        place = f"--{kind}.help NAME lists them" if kind in ("model", "data") else "--help_all lists them"
        owner = {"model": _class_name(given, "model"), "data": _class_name(given, "data"), "trainer": "Trainer"}[kind]
        return f"{owner} has no option '--{key}'; {hint.replace(chr(39), f'{chr(39)}--{kind}.', 1) if hint else place}"
    return _first_sentence(text)


def _unknown_option(text: str, given: Given) -> tuple[str, list[str]] | None:
    for key, _ in given.typed:
        kind, dot, option = key.partition(".")
        option = option.removeprefix("init_args.").removesuffix("+")
        if dot and "." not in option:
            names = option_names(given, kind)
            if names and option not in names:
                return f"{kind}.{option}", names
    for layer in given.layers:
        for kind in ("model", "data", "trainer"):
            part = layer.get(kind) or {}
            for option in part if kind == "trainer" else part.get("init_args") or {}:
                names = option_names(given, kind)
                if names and option not in names:
                    return f"{kind}.{option}", names
    return None


def option_names(given: Given, kind: str) -> list[str]:
    """Arguments of the model, the datamodule or the Trainer, those of base classes included."""
    if kind == "trainer":
        import lightning.pytorch as pl

        return [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
    path = given.class_path(kind)
    if path is None:
        return []
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError):
        return []
    names: list[str] = []
    for base in found.__mro__:
        if "__init__" not in base.__dict__ or not base.__module__.startswith(("genzoo", found.__module__)):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        names += [
            p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name != "self"
        ]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return [name for name in dict.fromkeys(names) if name != "schema" or kind == "data"]


def _class_name(given: Given, kind: str) -> str:
    return (given.class_path(kind) or kind).rpartition(".")[2]


def _first_sentence(text: str) -> str:
    """The innermost cause: parsers put the outer ones first and indent the inner ones."""
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
    lines = [line for line in lines if not line.startswith(("Given value type:", "Does not validate against any"))]
    text = " ".join(lines)
    text = re.sub(r"^(Parser key|argument|Validation failed:)\s*", "option ", text)
    return re.sub(r"\s+", " ", text)[:400]
