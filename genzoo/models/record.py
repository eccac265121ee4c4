"""Remembers the arguments an object was made with, as plain values, so that a checkpoint can make it again."""

from __future__ import annotations

import functools
import inspect
from contextlib import AbstractContextManager, nullcontext
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


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
    choices = choices_of(kind)
    for name, value in arguments.items():
        if value not in choices.get(name, (value,)):
            named = ", ".join(map(str, choices[name]))
            raise ValueError(f"{name} must be one of {named}, got {value!r}")


@functools.cache
def choices_of(kind: type) -> dict[str, tuple[Any, ...]]:
    """The values of every argument of a class, or of those it passes on to, that has a choice of them."""
    out: dict[str, tuple[Any, ...]] = {}
    for base in reversed(kind.__mro__):
        if "__init__" not in base.__dict__:
            continue
        try:
            hints = get_type_hints(base.__init__)  # type: ignore[misc]
        except (NameError, TypeError):  # annotated by names of type checking, or in C
            continue
        for name, hint in hints.items():
            out.pop(name, None)
            members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            if all(member is NoneType or get_origin(member) is Literal for member in members):
                out[name] = tuple(v for m in members for v in ((None,) if m is NoneType else get_args(m)))
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
