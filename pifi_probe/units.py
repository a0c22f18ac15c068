"""Numbers in units that people read: 3.5 M weights, 2.2 MB, 12 minutes."""

from __future__ import annotations

import math

__all__ = ["amount", "duration", "scale_of", "size_of"]

_STEPS = ("", "k", "M", "G", "T", "P")


def amount(number: float, unit: str = "") -> str:
    """Return a number with two or three digits and a step of a thousand: ``"3.54 M"``, ``"2.2 MB"``, ``"812 B"``."""
    step = 0
    while abs(number) >= 999.5 and step < len(_STEPS) - 1:
        number, step = number / 1000, step + 1
    digits = f"{number:.0f}" if step == 0 or abs(number) >= 100 else f"{number:.3g}"
    return f"{digits} {_STEPS[step]}{unit}".rstrip()


def scale_of(unit: str) -> tuple[float, int]:
    """Return the factor by which a difference of scores is shown in a unit, and its decimals: 100 and 1 for points."""
    return (100.0, 1) if unit == "points" else (1.0, 3)


def size_of(margin: float, unit: str) -> str:
    """Return a margin in words: 0.01 is ``"1 point"`` where differences are told in points."""
    size = scale_of(unit)[0] * margin
    return f"{size:g} {unit.removesuffix('s') if size == 1 else unit}"


def duration(seconds: float, *, short: bool = False) -> str:
    """Return a time in words, ``"12 minutes"``, or short, ``"12 min"``."""
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} {'h' if short else 'hours'}"
    if seconds >= 90:
        return f"{seconds / 60:.0f} {'min' if short else 'minutes'}"
    return f"{max(seconds, 1):.0f} {'s' if short else 'seconds'}"
