"""Argument parsing for the light commands: errors as one sentence that names the nearest option."""

from __future__ import annotations

import argparse
import difflib
import json
from collections.abc import Iterable
from typing import Any, NoReturn

from genzoo.errors import GenZooError


class UsageError(GenZooError):
    """What was typed cannot be understood."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises :class:`UsageError` instead of printing usage and leaving."""

    def __init__(self, command: str, description: str, **options: Any) -> None:
        super().__init__(
            prog=f"genzoo {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            **options,
        )

    def parse(self, arguments: list[str]) -> argparse.Namespace:
        """Parses all of ``arguments``.

        Raises:
            UsageError: an option is unknown, or a value is missing or of the wrong kind.
        """
        known, unknown = self.parse_known_args(arguments)
        if unknown:
            options = [option for action in self._actions for option in action.option_strings]
            strange = [word for word in unknown if word.startswith("-")] or unknown
            what = "option" if strange[0].startswith("-") else "argument"
            name = strange[0].partition("=")[0]
            hint = near(name, options) or f"{self.prog} --help lists the options"
            raise UsageError(f"{self.prog} has no {what} '{name}'; {hint}")
        return known

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}; see {self.prog} --help")


def near(name: str, known: Iterable[str]) -> str:
    """``did you mean 'x'?``, or an empty string when nothing is near."""
    names = list(known)
    found = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if not found:
        return ""
    return f"did you mean {' or '.join(repr(n) for n in found)}?"


def whole_number(least: int) -> Any:
    """Type of an option that takes a whole number of at least ``least``."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}, got {value}")
        return value

    return convert


def positive(text: str) -> float:
    """Type of an option that takes a number above zero."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def words(text: str) -> list[str]:
    """Type of an option that takes names separated by commas, or a JSON list where a name holds a comma."""
    if text.lstrip().startswith("["):
        try:
            found = json.loads(text)
        except ValueError:
            found = None
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            raise argparse.ArgumentTypeError(f'{text} is no list of names; write it as \'["a", "b, c"]\'')
    else:
        found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise argparse.ArgumentTypeError("give at least one name")
    return found


def add_output(parser: argparse.ArgumentParser, help: str, required: bool = True) -> None:
    """Adds ``-o FILE`` and ``--overwrite``."""
    parser.add_argument("-o", "--output", required=required, metavar="FILE", help=help, default=argparse.SUPPRESS)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def add_sections(parser: argparse.ArgumentParser) -> None:
    """Adds ``--sections``."""
    from genzoo.evaluation.sections import MAKERS, section_keys

    def chosen(text: str) -> list[str]:
        names = words(text)
        try:
            section_keys(names)
        except GenZooError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return names

    parser.add_argument(
        "--sections",
        type=chosen,
        metavar="A,B",
        help=f"further sections of the report, of {', '.join(MAKERS)}, all, none; by default those that apply",
    )


def add_seed(parser: argparse.ArgumentParser, help: str, default: int | None = 0) -> None:
    """Adds ``--seed``."""
    parser.add_argument("--seed", type=whole_number(0), default=default, help=help)


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds ``--set NAME=VALUE``: arguments of use of the model, as pairs of name and value."""

    def pair(text: str) -> tuple[str, Any]:
        import yaml

        name, sign, value = text.partition("=")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            read = None
        if not sign or not name or read is None:
            raise argparse.ArgumentTypeError(f"'{text}' is not NAME=VALUE, as in sampler=euler")
        return name, read

    parser.add_argument(
        "--set",
        type=pair,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument of the model that says how it is used, such as sampler=euler or particles=200, in place of "
        "the one it was trained with; may be repeated",
    )


def settings_text(given: argparse.Namespace) -> str:
    """What ``--set`` says, as JSON, so that it travels to other processes; what JSON has no word for is text."""
    return json.dumps(dict(given.set), default=str)
