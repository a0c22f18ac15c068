"""Numbers that a caller gives, and settings, refused when they are bad, in words that name them."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self, TypeGuard

import numpy as np

from pifi_probe.errors import PifiProbeError

__all__ = ["Checked", "is_number", "nearest", "whole_number", "whole_numbers"]


def is_number(value: object, kind: type[int] | type[float] = float) -> TypeGuard[float]:
    """Return whether this is a finite number, or a whole one: Python's or NumPy's, and not True or False."""
    abstract = numbers.Integral if kind is int else numbers.Real
    try:
        return isinstance(value, abstract) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # of a whole number that no float holds
        return False


def whole_number(name: str, value: object, least: int, error: type[PifiProbeError], where: str) -> int:
    """Return a whole number of at least `least`, not True; one of NumPy's becomes Python's, which JSON can hold.

    Raises
    ------
    PifiProbeError
        Of the given type, if it is another.
    """
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        found = least - 1
    if found < least or isinstance(value, bool):
        raise error(f"{name}={value!r}", where=where, next=f"{name} is a whole number of at least {least}")
    return found


def whole_numbers(error: type[PifiProbeError], where: str, least: int = 1, **given: object) -> tuple[int, ...]:
    """Return numbers in the order in which they are given; see `whole_number`."""
    return tuple(whole_number(name, value, least, error, where) for name, value in given.items())


@dataclass(frozen=True)
class Checked:
    """A base for settings; their `__post_init__` calls the methods below."""

    @classmethod
    def _refusal(cls, what: str, name: str, hint: str) -> PifiProbeError:
        """Return the error of these settings for the one that is named; "" where none of them has the name."""
        raise NotImplementedError

    def replace(self, **changes: Any) -> Self:
        """Return the settings with some of them changed.

        Raises
        ------
        PifiProbeError
            Of the type of these settings, if one is unknown (the nearest name is proposed) or out of range.
        """
        self._check_names(changes)
        return dataclasses.replace(self, **changes)

    @classmethod
    def _check_names(cls, names: Iterable[str]) -> None:
        known = [field.name for field in fields(cls)]
        for name in names:
            if name not in known:
                raise cls._refusal(f"unknown setting {name!r}", "", nearest(name, known))

    def _set_number(self, name: str, kind: type[int] | type[float]) -> None:
        """Store a plain Python number, so that equal settings have equal hashes."""
        value = getattr(self, name)
        good = is_number(value, kind)
        self._require(name, good, "must be a whole number" if kind is int else "must be a number")
        object.__setattr__(self, name, kind(value))

    def _set_count(self, name: str, least: int, optional: bool = False) -> None:
        """Store a whole number of at least `least`; where it may be left out, None stays."""
        if optional and getattr(self, name) is None:
            return
        self._set_number(name, int)
        self._require(name, getattr(self, name) >= least, f"must be at least {least}")

    def _set_flag(self, name: str) -> None:
        self._require(name, isinstance(getattr(self, name), bool | np.bool_), "must be True or False")
        object.__setattr__(self, name, bool(getattr(self, name)))

    def _require_choice(self, name: str, choices: Sequence[str]) -> None:
        self._require(name, getattr(self, name) in choices, "is unknown", nearest(getattr(self, name), choices))

    def _require(self, name: str, holds: bool, otherwise: str, hint: str = "") -> None:
        if not holds:
            default = next(field.default for field in fields(self) if field.name == name)
            raise self._refusal(
                f"{name}={getattr(self, name)!r} {otherwise}", name, hint or f"the default is {default!r}"
            )


def nearest(word: object, known: Sequence[str]) -> str:
    """Return a hint at the name that was meant, or at those that there are."""
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
