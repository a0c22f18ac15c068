"""`Registry`: what is chosen by a name, and may be added from outside the package."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar, cast

from pifi_probe.errors import PifiProbeError

__all__ = ["TEXTS", "Registry", "caller", "home_of", "lacking", "mistyped", "told_how"]

T = TypeVar("T")
Decorator = TypeVar("Decorator", bound=Callable[..., Any])
_NOTHING: Mapping[str, str] = MappingProxyType({})
TEXTS = "a tuple of texts, such as ('one',)"


def _texts(value: object) -> bool:
    return isinstance(value, tuple | list) and all(isinstance(one, str) and one for one in value)


# what an attribute can be asked to be, in the words of the message
_IS: Mapping[str, Callable[[object], bool]] = {
    "a text": lambda value: isinstance(value, str),
    "True or False": lambda value: isinstance(value, bool),
    "True, False or None": lambda value: value is None or isinstance(value, bool),
    TEXTS: _texts,
    "a mapping of names to values": lambda value: (
        isinstance(value, Mapping) and all(isinstance(one, str) for one in value)
    ),
    "a number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "callable": callable,
    "a mapping of texts to texts": lambda value: (
        isinstance(value, Mapping) and all(isinstance(one, str) for pair in value.items() for one in pair)
    ),
}
_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


class Registry(dict[str, T]):
    """Entries by name, in the order of their registration.

    Parameters
    ----------
    noun : str
        What an entry is, for messages: "kind of task".
    error : type
        The error that is raised.
    names : Pattern
        What a name looks like.
    such_as : str
        The same in words, for messages.
    reserved : Mapping
        Names that no entry can have, and why.
    """

    def __init__(
        self,
        noun: str,
        error: type[PifiProbeError],
        *,
        names: re.Pattern[str] = _NAME,
        such_as: str = 'lower-case letters, digits and "-", such as "my-own"',
        reserved: Mapping[str, str] = _NOTHING,
    ) -> None:
        super().__init__()
        self.noun, self.error = noun, error
        self._one = f"an {noun}" if noun[0] in "aeio" else f"a {noun}"
        self._names, self._such_as, self._reserved = names, such_as, reserved
        self._homes: dict[str, str] = {}

    def add(self, name: object, entry: T, *, home: str = "", otherwise: str = "choose another name") -> None:
        """Add an entry; one that was defined again in the same place (a notebook's cell) replaces itself.

        Parameters
        ----------
        home : str
            Where the entry was defined; found out for a class or function. See `caller`.
        otherwise : str
            What to do where the name is taken.

        Raises
        ------
        PifiProbeError
            Of the registry's type, if the name is not a name, is reserved, or is taken.
        """
        home = home or home_of(entry)
        self.check(name, entry, home=home, otherwise=otherwise)
        self[str(name)], self._homes[str(name)] = entry, home

    def check(self, name: object, entry: T, *, home: str, otherwise: str = "choose another name") -> None:
        """Raise what `add` would."""
        if not isinstance(name, str) or not self._names.fullmatch(name):
            raise self.error(f"{name!r} cannot name {self._one}", where=home, next=f"use {self._such_as}")
        if name in self._reserved:
            raise self.error(
                f"{name!r} cannot name {self._one}: {self._reserved[name]}", where=home, next="choose another name"
            )
        if name in self and self[name] != entry and (not home or self._homes.get(name) != home):
            raise self.error(f"there is {self._one} {name!r} already", where=home, next=otherwise)

    def named(self, name: object, where: str) -> T:
        """Return the entry of that name, or raise the registry's error with the names there are."""
        if isinstance(name, str) and name in self:
            return self[name]
        near = difflib.get_close_matches(str(name), self, n=1)
        raise self.error(
            f"unknown {self.noun} {name!r}",
            where=where,
            next=f"use one of {', '.join(self)}" + (f"; did you mean {near[0]!r}?" if near else ""),
        )


def caller() -> str:
    """Return the module that called the function that asks: the home of a row, which has none of its own."""
    return str(sys._getframe(2).f_globals.get("__name__", ""))


def home_of(entry: object) -> str:
    """Return where a class or function was defined; "" for anything else."""
    name = getattr(entry, "__qualname__", "")
    return f"{entry.__module__}.{name}" if name else ""


def told_how(error: type[PifiProbeError], written: str) -> Callable[[Decorator], Decorator]:
    """Let a registering decorator that is written with or without its brackets, but should not be, say how it is.

    Parameters
    ----------
    error : type
        What is raised in place of Python's TypeError.
    written : str
        How the decorator is written.
    """

    def wrap(register: Decorator) -> Decorator:
        @functools.wraps(register)
        def checked(*args: Any, **kwargs: Any) -> Any:
            try:
                inspect.signature(register).bind(*args, **kwargs)
            except TypeError as why:
                where = next((home_of(one) for one in args if home_of(one)), "") or register.__name__
                raise error(f"{register.__name__}: {why}", where=where, next=f"write {written}") from why
            return register(*args, **kwargs)

        return cast(Decorator, checked)

    return wrap


def lacking(cls: type, base: type, attributes: tuple[str, ...] = ()) -> str:
    """Return what a class lacks of what its base class asks for, or "".

    Parameters
    ----------
    cls, base : type
        Abstract methods must be there, and what the base class's methods are called with must be taken.
    attributes : tuple of str
        That must be set, to something that is not empty.
    """
    if absent := sorted(getattr(cls, "__abstractmethods__", ())):
        return f"lacks {', '.join(f'{name}()' for name in absent)}"
    if absent := [name for name in attributes if not getattr(cls, name, None)]:
        return f"lacks {', '.join(absent)}"
    for name, theirs in inspect.getmembers(base, callable):
        own: Any = getattr(cls, name)
        if name.startswith("_") or own is theirs or getattr(own, "__func__", 0) is getattr(theirs, "__func__", 1):
            continue
        asked = inspect.signature(theirs)
        keywords = {key: None for key, one in asked.parameters.items() if one.kind is one.KEYWORD_ONLY}
        values = [None for one in asked.parameters.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
        try:
            inspect.signature(own).bind(*values, **keywords)
        except (TypeError, ValueError) as error:  # it has no signature, or another
            return f"cannot be called as {name}{asked}: {error}"
    return ""


def mistyped(entry: object, attributes: Mapping[str, str]) -> str:
    """Return which attribute of a class or row is not what it should be, or "".

    Parameters
    ----------
    attributes : Mapping
        Name to what the attribute should be, in words that `_IS` has. A text is no tuple of texts: ``("one")`` without
        its comma is refused.
    """
    for name, wanted in attributes.items():
        if not hasattr(entry, name):
            return f"lacks {name}"
        if not _IS[wanted](value := getattr(entry, name)):
            return f"has {name}={value!r}, which is not {wanted}"
    return ""
