"""Tags: short words of the user's own, by which runs, comparisons and studies are found again."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pifi_probe.errors import PifiProbeError
from pifi_probe.escaping import printable

__all__ = ["no_tag", "tags_of", "with_tags"]

LONGEST, MOST = 60, 50


def no_tag(given: Any) -> str:
    """Say why something is not a tag; empty where it is one."""
    if not isinstance(given, str):
        return f"it is not text but a {type(given).__name__}"
    if not given or given != given.strip() or len(given) > LONGEST:
        return f"it has {len(given)} characters" if len(given) > LONGEST else "it is empty, or has a space at an end"
    if "," in given:
        return "it holds a comma"
    return "" if printable(given) == given and "\n" not in given else "it holds a line break or control characters"


def tags_of(given: str | Iterable[str]) -> tuple[str, ...]:
    """Return tags, each once.

    Raises
    ------
    PifiProbeError
        If one is not one short line of text, or there are too many.
    """
    found = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else (given,)
    for tag in found:
        if why := no_tag(tag):
            shown = ascii(tag) if len(ascii(tag)) <= LONGEST else f"{ascii(tag)[:LONGEST]}..."
            raise PifiProbeError(
                f"{shown} is not a tag: {why}",
                where="tags",
                next=f"give words of at most {LONGEST} characters, one each",
            )
    return with_tags((), found)


def with_tags(stored: Any, further: Iterable[str]) -> tuple[str, ...]:
    """Return stored tags and further ones, each once; what a file holds that is not a tag is left out.

    Raises
    ------
    PifiProbeError
        If they are too many.
    """
    known = [one for one in stored if not no_tag(one)] if isinstance(stored, list | tuple) else []
    found = tuple(dict.fromkeys([*known, *further]))
    if len(found) > MOST:
        raise PifiProbeError(f"{len(found)} tags are too many", where="tags", next=f"give at most {MOST}")
    return found
