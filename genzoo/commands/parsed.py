"""One sentence out of the many lines an argument parser says."""

from __future__ import annotations

import difflib
import inspect
import re
from importlib import import_module
from typing import Any

from genzoo.commands.given import Given
from genzoo.errors import GenZooError

KINDS = ("model", "data", "trainer")


def require_known_options(given: Given, base: dict[str, Any]) -> None:
    """Checks that the model, the datamodule and the Trainer have the options that were typed or stand in a recipe.

    Args:
        given: The options.
        base: What holds where nothing was typed: class paths of the model and the data.

    Raises:
        GenZooError: names the option, its owner and the nearest options.
    """
    for kind in KINDS:
        path = given.class_path(kind) or base.get(kind, {}).get("class_path")
        names = option_names(kind, path)
        for option in _named_options(given, kind):
            if names and option not in names:
                owner = "the Trainer" if kind == "trainer" else str(path).rpartition(".")[2]
                found = [f"'--{kind}.{name}'" for name in difflib.get_close_matches(option, names, n=3, cutoff=0.6)]
                lists = "--help_all lists them" if kind == "trainer" else f"--{kind}.help {owner} lists them"
                hint = f"did you mean {' or '.join(found)}?" if found else lists
                raise GenZooError(f"{owner} has no option '--{kind}.{option}'; {hint}")


def _named_options(given: Given, kind: str) -> list[str]:
    options = []
    for key, _ in given.typed:
        first, dot, rest = key.partition(".")
        rest = rest.removeprefix("init_args.").removeprefix("dict_kwargs.")
        if first == kind and dot and rest != "class_path":
            options.append(rest.partition(".")[0].removesuffix("+"))
    for layer in given.layers:
        part = layer.get(kind) or {}
        options += list(part if kind == "trainer" else part.get("init_args") or {})
    return options


def parse_sentence(error: Exception, given: Given) -> str:
    """What is wrong with the value of an option, in one sentence.

    Args:
        error: What the parser raised.
        given: The options.
    """
    text = str(error)
    for key, value in given.typed:
        short = key.replace("init_args.", "")
        last = short.rpartition(".")[2]
        if "." in key and value in text and last in text:
            return f"--{short} {value}: {_cause(text)}"
    return _cause(text)


def option_names(kind: str, path: str | None) -> list[str]:
    """Arguments of the model, the datamodule or the Trainer, those of base classes included."""
    if kind == "trainer":
        import lightning.pytorch as pl

        return [name for name in inspect.signature(pl.Trainer.__init__).parameters if name != "self"]
    if path is None:
        return []
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise GenZooError(f"--{kind} {path} cannot be imported: {error}") from error
    names: list[str] = []
    for base in found.__mro__:
        if "__init__" not in base.__dict__ or base.__module__.startswith(("lightning.", "torch.")):
            continue
        parameters = inspect.signature(base.__init__).parameters.values()
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names += [p.name for p in parameters if p.kind in named and p.name != "self"]
        if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    hidden = {"model": "schema", "data": "frame"}[kind]
    return [name for name in dict.fromkeys(names) if name != hidden]


def refusal(text: str) -> str:
    """What a class said when it was made, out of the report of a parser that tried several types for one argument."""
    if "Union subtypes" not in text:
        return text
    reasons = re.findall(r"^ *- (.*)$", text.partition("Errors:")[2].partition("Given value")[0], flags=re.M)
    return next((reason for reason in reasons if not reason.startswith("Expected a <class")), text)


def _cause(text: str) -> str:
    """The innermost cause: parsers put the outer ones first and indent the inner ones."""
    known = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text", "NoneType": "null"}
    expected = []
    for kind in re.findall(r"Expected (?:a|an|one of|any of)?:? ?([^\n]*)", text):
        if "TableDataModule" in kind or "DensityModel" in kind:
            continue
        kind = re.sub(r"\.? ?Got value:.*", "", kind)
        if "Sequence" in kind:
            kind = "a list such as [a, b]"
        name = re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>", kind.strip())
        word = (
            known.get(name.group(1), name.group(1))
            if name
            else re.sub(r"^typing\.Literal", "one of ", kind.strip(" ."))
        )
        expected.append(word)
    words = [word for word in dict.fromkeys(expected) if word != "null"] or list(dict.fromkeys(expected))
    if words:
        return f"expected {' or '.join(words)}"
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
    lines = [line for line in lines if not line.startswith(("Given value type:", "Does not validate against any"))]
    return re.sub(r"\s+", " ", " ".join(lines))[:400]
