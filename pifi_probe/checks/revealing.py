"""A reader's guess next to what was measured: in words, and on one axis once there is a guess."""

from __future__ import annotations

import math
from html import escape

from pifi_probe.checks.session import guessed

__all__ = ["reveal"]

LIVE = "\u2248"  # nbval does not compare what follows: it differs a little between machines
_WIDTH, _EDGE = 460, 60


def reveal(guess: object, measured: object, unit: str = "", form: str = "", *, live: bool = True) -> None:
    """Print a guess and what was measured; draw both where both are numbers.

    Parameters
    ----------
    guess : object
        What the reader wrote; None for no guess.
    measured : object
        A number or a word.
    unit : str
        What the numbers count, such as ``"points"``.
    form : str
        How the measured number is written, in Python's format language, such as ``".1f"``.
    live : bool
        True where this machine has just measured it: it is written as about so much.
    """
    said = format(measured, form)
    sign = LIVE if live and _number(measured) is not None else ""
    print(f"your guess: {guessed(guess)} | measured: {sign}{said} {unit}".rstrip())
    mine, real = _number(guess), _number(measured)
    if mine is not None and real is not None:
        from IPython.display import HTML, display

        display(HTML(_axis(mine, real, str(guess), said, unit)))


def _number(value: object) -> float | None:
    """Return a value as a finite number, None where it is not a number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _axis(mine: float, real: float, guess: str, said: str, unit: str) -> str:
    """Return inline SVG of both on an axis that starts at zero; it takes the colour of the text around it."""
    low, high = min(0.0, mine, real), max(0.0, mine, real)
    wide = (high - low) or 1.0
    x_guess, x_real, x_zero = (_EDGE + (value - low) / wide * (_WIDTH - 2 * _EDGE) for value in (mine, real, 0.0))
    alt = f"Axis in {unit or 'numbers'} from zero: your guess {guess}, measured {said}."
    return (
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="0 0 {_WIDTH} 74" style="max-width: {_WIDTH}px; '
        'width: 100%" font-family="sans-serif" font-size="12" fill="currentColor" text-anchor="middle">'
        f'<line x1="{_EDGE}" x2="{_WIDTH - _EDGE}" y1="37" y2="37" stroke="currentColor"/>'
        f'<line x1="{x_zero:.1f}" x2="{x_zero:.1f}" y1="32" y2="42" stroke="currentColor"/>'
        f'<circle cx="{x_guess:.1f}" cy="37" r="6" fill="none" stroke="currentColor" stroke-width="2"/>'
        f'<text x="{x_guess:.1f}" y="22">your guess {escape(guess)}</text>'
        f'<circle cx="{x_real:.1f}" cy="37" r="6"/>'
        f'<text x="{x_real:.1f}" y="62">measured {escape(said)}</text></svg>'
    )
