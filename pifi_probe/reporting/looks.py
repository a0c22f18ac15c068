"""How every picture draws an arm: a real layer orange, its twins grey, projections alone blue, the encoder black.

Charts of reports, notebooks, book and widget take their colours and shapes from here; style sheets cannot import them,
so `tests/test_looks.py` compares those.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator
from typing import Any

__all__ = ["ARMS", "COLOURS", "INK", "MARKERS", "group_of", "looks_of", "other_looks", "style", "styled"]

# hues of Okabe and Ito (2008), Color Universal Design, where needed made darker or lighter:
# each has a contrast of at least 3:1 to a white and to a nearly black page; those of the arms come last
COLOURS = ("#009E73", "#B8629A", "#A67C00", "#2E8BC0", "#0072B2", "#D55E00", "#767676")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "d")
INK = "#1b1b1c"  # of text and axes; becomes the colour of the page's text in an SVG
ARMS = {  # colour and marker of a group of arms, the same on every picture
    "vanilla": (INK, "D"),
    "linear": ("#0072B2", "o"),
    "twins": ("#767676", "^"),
    "real": ("#D55E00", "s"),
}
_WORDS = {
    "vanilla": ("vanilla", "encoder"),
    "linear": ("linear", "projections", "interface"),
    "twins": ("random", "shuffled", "twin"),
    "real": ("real", "layer", "candidate"),
}


def group_of(name: object) -> str | None:
    """Return the group in `ARMS` that an arm belongs to by its name; None where the name does not say.

    The wiring in front does not count, nor what follows the first word: ``"pifi: random smollm2-135m[29]"`` is a twin,
    ``"matched: smollm2-135m[29]"`` a real layer.
    """
    own = str(name).rpartition(": ")[2].lower()
    first = re.match(r"[a-z]*", own)
    for group, words in _WORDS.items():
        if first is not None and first[0] in words:
            return group
    return "real" if re.fullmatch(r"\S+\[[-\d:]+\]", own) else None


def looks_of(names: Iterable[Any]) -> dict[Any, tuple[str, str]]:
    """Give every series a colour and a marker of its own, those of its group where the name tells it.

    Further series of a group keep its colour and get another marker; two real layers are told apart by colour, too.
    A series of no group never has the colour of one.
    """
    names = list(dict.fromkeys(names))
    groups = {name: group_of(name) for name in names}
    others, looks, seen = other_looks(), {}, set()
    for name, group in groups.items():
        if group is not None and group not in seen:
            looks[name] = ARMS[group]
        elif group is None or group == "real":
            looks[name] = next(others)
        else:
            colour, marker = ARMS[group]
            used = {one for c, one in looks.values() if c == colour}
            looks[name] = (colour, next((one for one in MARKERS if one not in used), marker))
        seen.add(group)
    return looks


def other_looks() -> Iterator[tuple[str, str]]:
    """Yield the colours that no arm has, each with a marker; after the last colour the markers have moved on by one."""
    free = [colour for colour in COLOURS if colour not in {own for own, _ in ARMS.values()}]
    for number in itertools.count():
        yield free[number % len(free)], MARKERS[(number + number // len(free)) % len(MARKERS)]


def style() -> dict[Any, Any]:
    """Return the settings of matplotlib that all plots share."""
    from matplotlib.rcsetup import cycler

    inked = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    return {
        **dict.fromkeys(inked, INK),
        "text.parse_math": False,  # a label such as "$x" is text
        "svg.fonttype": "none",
        "svg.hashsalt": "pifi_probe",
        "font.size": 10,
        "axes.prop_cycle": cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": INK,
        "grid.alpha": 0.12,
        "lines.linewidth": 1.8,
        "lines.markersize": 6.5,
        "legend.frameon": False,
    }


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw in the style that all plots share."""
    import matplotlib

    with matplotlib.rc_context(style()):
        yield
