"""Numbers that a caller gives, checked before anything is computed."""

from __future__ import annotations

import operator

from pifi_probe.errors import PifiProbeError

__all__ = ["whole_number", "whole_numbers"]


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
