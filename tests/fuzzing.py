"""Files that somebody has damaged or forged: mutations with a seed, and what a reader may do with them.

A case ends in a result or in an error of our own. Anything else fails: another exception, a case that takes longer than
`SECONDS`, or a fuzzer whose cases all end alike, since then it tests one check only.
"""

from __future__ import annotations

import copy
import json
import math
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from pifi_probe.errors import PifiProbeError

SECONDS = 60.0  # for one case on a busy machine; they take milliseconds
QUICK = 200  # cases of each kind in `make test`
ACCEPTED = "accepted"

_NUMBERS = (0, -1, 1, 2, 7, 1 << 31, 1 << 63, 10**30, -(10**30), 0.5, -0.5, 4.15, 1e308, math.nan, math.inf, -math.inf)
_TEXTS = ("", " ", "\0", "\x1b[31m", "\ud800", "é" * 300, "nan", "1", "true", "[", "../..", "a: b\nc", "0" * 5000)
_OTHER = (None, True, False, [], {}, [[]], {"": None}, [None] * 9, {"a": {"b": [1]}}, list(range(50)))


def nasty(draw: random.Random) -> Any:
    """Draw a JSON value that hardly any field can have."""
    kind = draw.randrange(10)
    if kind < 4:
        return draw.choice(_NUMBERS)
    if kind < 6:
        return draw.choice(_TEXTS)
    if kind < 9:
        return copy.deepcopy(draw.choice(_OTHER))
    value: Any = 1
    for _ in range(draw.choice([5, 50, 400])):
        value = [value] if draw.random() < 0.5 else {"a": value}
    return value


def mutate_json(value: Any, draw: random.Random, n: int | None = None) -> Any:
    """Return a copy with a few places changed: replaced, removed, doubled, renamed, moved, or with a near number."""
    value = copy.deepcopy(value)
    for _ in range(n or draw.choice([1, 1, 1, 2, 3])):
        places = list(_places(value))
        if not places:
            return nasty(draw)
        holder, key = draw.choice(places)
        what = draw.randrange(8)
        if what < 3:
            holder[key] = nasty(draw)
        elif what == 3:
            del holder[key]
        elif what == 4:
            other, place = draw.choice(places)
            holder[key] = copy.deepcopy(other[place]) if _holds(other, place) else None
        elif what == 5 and isinstance(holder, dict):
            holder[draw.choice([key + "x", "", key.upper(), "n", "layers"])] = holder.pop(key)
        elif what == 6 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        else:
            holder[key] = _near(holder[key], draw)
    return value


def _holds(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def _near(value: Any, draw: random.Random) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + draw.choice([-1, 1, 100, -value, 9 * value])
    if isinstance(value, float):
        return value * draw.choice([-1.0, 2.0, 415.0, 1 + 1e-12])
    if isinstance(value, str) and value:
        at = draw.randrange(len(value))
        return value[:at] + draw.choice(["", "0", "9", " ", "-", "é"]) + value[at + 1 :]
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield holder and key of everything inside; of long lists only some."""
    keys = list(value) if isinstance(value, dict) else range(min(len(value), 5)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def mutate_bytes(data: bytes, draw: random.Random, end: int | None = None) -> bytes:
    """Return bytes with a few changes before `end`: set, cut out, doubled, inserted, or broken off."""
    raw, limit = bytearray(data), len(data) if end is None else end
    for _ in range(draw.choice([1, 1, 2, 4, 8])):
        at, length = draw.randrange(max(1, min(limit, len(raw)))), draw.choice([1, 1, 2, 4, 8, 30])
        what = draw.randrange(12)
        if what < 5:
            raw[at : at + 1] = bytes([draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])])
        elif what < 7:
            raw[at : at + length] = draw.choice([b"\xff", b"\0", b"9"]) * length
        elif what == 7:
            del raw[at : at + length]
        elif what == 8:
            raw[at:at] = raw[at : at + length]
        elif what == 9:
            raw[at:at] = draw.randbytes(length)
        elif what == 10:
            raw[at : at + 8] = draw.choice([1, 1 << 20, 1 << 31, 1 << 40, 1 << 62, (1 << 64) - 1]).to_bytes(8, "little")
        elif draw.random() < 0.3:
            del raw[at:]
    return bytes(raw)


def mutate_text(value: Any, draw: random.Random) -> bytes:
    """Return the bytes of a JSON value after a mutation of its structure, or of its bytes."""
    if draw.random() < 0.75:
        return json.dumps(mutate_json(value, draw)).encode("utf-8", errors="surrogatepass")
    return mutate_bytes(json.dumps(value).encode(), draw)


def fuzz(
    case: Callable[[random.Random], None], n: int, seed: int = 0, *, accepted: tuple[float, float], ways: int = 4
) -> None:
    """Run `n` cases, each with random numbers of its own.

    Parameters
    ----------
    case : callable
        Mutates and reads; returns when what was read could be used, or raises.
    n, seed : int
    accepted : tuple of float
        The least and the largest share of cases that may be read.
    ways : int
        In how many ways the cases must end at least.
    """
    ends: Counter[str] = Counter()
    raw: list[str] = []
    for number in range(n):
        try:
            with _limited():
                case(random.Random(f"{seed} {number}"))
            ends[ACCEPTED] += 1
        except PifiProbeError as error:
            line = str(error)
            assert "\n" not in line and len(line) < 3000
            line.encode()  # can be printed
            ends[f"{type(error).__name__}: {error.what[:36]}"] += 1
        except Exception as error:
            raw.append(f"case {number}: {type(error).__name__}: {str(error)[:200]}")
    assert not raw, f"{len(raw)} of {n} cases end raw:\n" + "\n".join(raw[:12])
    share = ends[ACCEPTED] / n
    assert accepted[0] <= share <= accepted[1], f"{share:.1%} are read: {ends.most_common(8)}"
    assert len(ends) >= ways, f"the cases end alike: {ends}"


class _TooLong(Exception):
    """A case takes longer than it may."""


@contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _TooLong(f"more than {SECONDS:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
