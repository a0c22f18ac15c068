"""Sentences in a notebook's output, broken where a reader would break them."""

from __future__ import annotations

import textwrap

__all__ = ["say"]

WIDTH = 80


def say(*parts: object) -> None:
    """Print like `print`, in lines of at most 80 characters that end at the end of a word.

    Parameters
    ----------
    *parts : object
        Joined by blanks; continued lines are indented.
    """
    for line in " ".join(map(str, parts)).split("\n"):
        broken = textwrap.wrap(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        print("\n".join(broken))
