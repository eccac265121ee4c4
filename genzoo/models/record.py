"""Remembers the arguments an object was made with, as plain values, so that a checkpoint can make it again."""

from __future__ import annotations

import functools
import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any


class RecordsArguments:
    """Mixin: ``self.init_args`` holds the bound arguments of the outermost ``__init__``, defaults included.

    Works the same from Python and from a command line, and does not depend on how the caller spelt the arguments.
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
                with self.construction(arguments):
                    original(self, *args, **named)
            else:
                original(self, *args, **named)

        cls.__init__ = wrapped  # type: ignore[method-assign]


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
