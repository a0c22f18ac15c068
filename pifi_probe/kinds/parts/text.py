"""When two texts are the same text."""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence

__all__ = ["normalise", "row_keys"]

_ASCII_SYMBOLS = frozenset("$+<=>^`|~")  # punctuation to a reader, symbols to Unicode


class _Removed(dict[int, int | None]):
    """A table for ``str.translate``: punctuation and white space go, everything else stays."""

    def __missing__(self, code: int) -> int | None:
        character = chr(code)
        gone = character.isspace() or character in _ASCII_SYMBOLS or unicodedata.category(character)[0] == "P"
        self[code] = None if gone else code
        return self[code]


@functools.cache
def _removed() -> _Removed:
    return _Removed()


def normalise(text: str) -> str:
    """Return `text` without case, punctuation and white space (Unicode NFKC).

    Two texts that only differ in those are the same text for every rule about splits: "It 's good ."
    equals "it's GOOD". A text that has nothing else (":)") is kept as it is, without case and outer space.
    Letters, digits, emoji and combining marks of all scripts stay.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    # a mark may now stand next to its letter: compose them
    return unicodedata.normalize("NFC", folded.translate(_removed())) or folded.strip()


def row_keys(texts: Sequence[str], pairs: Sequence[str] | None) -> list[str]:
    """Return the key of every row: rows of equal keys hold the same text (and the same second text)."""
    if pairs is None:
        return [normalise(text) for text in texts]
    return [f"{normalise(text)}\x1f{normalise(pair)}" for text, pair in zip(texts, pairs, strict=True)]
