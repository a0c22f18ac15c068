"""Numbers in units that people read: 3.5 M weights, 2.2 MB."""

from __future__ import annotations

__all__ = ["amount"]

_STEPS = ("", "k", "M", "G", "T", "P")


def amount(number: float, unit: str = "") -> str:
    """Return a number with two or three digits and a step of a thousand: ``"3.54 M"``, ``"2.2 MB"``, ``"812 B"``."""
    step = 0
    while abs(number) >= 999.5 and step < len(_STEPS) - 1:
        number, step = number / 1000, step + 1
    digits = f"{number:.0f}" if step == 0 or abs(number) >= 100 else f"{number:.3g}"
    return f"{digits} {_STEPS[step]}{unit}".rstrip()
