"""Remembers the arguments an object was made with, as plain values, so that a checkpoint can make it again."""

from __future__ import annotations

import functools
import inspect
from contextlib import AbstractContextManager, nullcontext, suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

WORDS = {NoneType: "none", bool: "true or false", int: "a whole number", float: "a number", str: "text"}
"""Kinds of arguments in messages."""


class RecordsArguments:
    """Mixin: ``self.init_args`` holds the bound arguments of the outermost ``__init__``, defaults included.

    Works the same from Python and from a command line, and does not depend on how the caller spelt the arguments.
    An argument whose annotation is a ``Literal`` must have one of its values, else a ``ValueError`` names them.
    """

    init_args: dict[str, Any]

    @staticmethod
    def construction(arguments: dict[str, Any]) -> AbstractContextManager[None]:
        """Hook: a context in which the object is made, such as one that seeds its random starting values."""
        return nullcontext()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" not in cls.__dict__:
            return
        original = cls.__init__
        signature = inspect.signature(original)

        @functools.wraps(original)
        def wrapped(self: Any, *args: Any, **named: Any) -> None:
            if "init_args" not in self.__dict__:
                bound = signature.bind(self, *args, **named)
                bound.apply_defaults()
                arguments = dict(list(bound.arguments.items())[1:])
                for name, parameter in signature.parameters.items():
                    if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                        arguments.update(arguments.pop(name, {}))
                # object.__setattr__: nn.Module refuses some attributes before its own __init__ has run
                object.__setattr__(self, "init_args", arguments)
                require_choices(type(self), arguments)
                with self.construction(arguments):
                    original(self, *args, **named)
            else:
                original(self, *args, **named)

        cls.__init__ = wrapped  # type: ignore[method-assign]


def require_choices(kind: type, arguments: dict[str, Any]) -> None:
    """Checks arguments that have a choice of values.

    Raises:
        ValueError: names the argument and its values.
    """
    for name, value in arguments.items():
        values = _choice(hints_of(kind).get(name))
        if values and value not in values:
            raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, got {value!r}")


def require_types(kind: type, arguments: dict[str, Any]) -> None:
    """Checks that arguments are of the kind their annotations say: numbers, texts, truth values, dictionaries.

    Raises:
        ValueError: names the argument, what it is to be and what it is.
    """
    for name, value in arguments.items():
        kinds = [get_origin(hint) or hint for hint in _members(hints_of(kind).get(name))]
        plain = [one for one in kinds if isinstance(one, type)]
        if plain and len(plain) == len(kinds) and not any(_is_a(value, one) for one in plain):
            names = " or ".join(WORDS.get(one, one.__name__) for one in plain)
            raise ValueError(f"{name} must be {names}, got {value!r}")


def _is_a(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _choice(hint: Any) -> tuple[Any, ...]:
    """The values of a ``Literal`` (or none of them), nothing of another annotation."""
    members = _members(hint)
    if not all(member is NoneType or get_origin(member) is Literal for member in members):
        return ()
    return tuple(value for m in members for value in ((None,) if m is NoneType else get_args(m)))


@functools.cache
def hints_of(kind: type) -> dict[str, Any]:
    """Annotations of the arguments of a class, those it passes on among them."""
    out: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if "__init__" in base.__dict__:
            # annotated by names of type checking, or in C
            with suppress(NameError, TypeError):
                out |= get_type_hints(base.__init__)  # type: ignore[misc]
    return out


def require_plain(value: Any, where: str) -> None:
    """Checks that ``value`` is made of numbers, strings, lists and dictionaries only.

    Raises:
        TypeError: names the argument that is not plain.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            require_plain(item, f"{where}[{i}]")
        return
    if isinstance(value, dict):
        for key, item in value.items():
            require_plain(item, f"{where}.{key}")
        return
    raise TypeError(
        f"argument '{where}' is a {type(value).__name__}; a checkpoint keeps only numbers, strings, lists, dictionaries"
    )
