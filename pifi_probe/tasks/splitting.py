"""Splits that never change: rows are ordered by a hash, never by a library's random numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence

from pifi_probe.checked import is_number
from pifi_probe.errors import TaskError
from pifi_probe.tasks.task import SPLIT_NAMES, Split

__all__ = ["assign_splits", "label_counts", "refuse_overlap"]


def assign_splits(
    keys: Sequence[str], strata: Sequence[Hashable], fractions: Mapping[str, float], salt: str
) -> list[str]:
    """Give every row a split, class by class.

    Within each class, keys are ordered by sha256 of ``salt:key``; the first ``fractions["test"]`` of them are
    "test", the next ``fractions["validation"]`` "validation", the rest "train".

    Parameters
    ----------
    keys : sequence of str, length n
        Rows of equal keys go to one split (with the class of the first of them).
    strata : sequence, length n
        The class of each row.
    fractions : mapping of str to float
        Shares of "test" and "validation", in (0, 1). A class with at least three keys is in every split.
    salt : str
        Another salt gives other splits.

    Returns
    -------
    list of str, length n
        "train", "validation" or "test" for each row.
    """
    first_row = {key: row for row, key in reversed(list(enumerate(keys)))}
    classes: dict[Hashable, list[str]] = {}
    for key, row in first_row.items():
        classes.setdefault(strata[row], []).append(key)
    split_of: dict[str, str] = {}
    for members in classes.values():
        members.sort(key=lambda key: hashlib.sha256(f"{salt}:{key}".encode()).digest())
        start = 0
        for name in ("test", "validation"):
            if name in fractions:
                wanted = max(1, round(len(members) * fractions[name]))
                stop = start + min(wanted, len(members) - 1 - start)
                split_of.update(dict.fromkeys(members[start:stop], name))
                start = stop
        split_of.update(dict.fromkeys(members[start:], "train"))
    return [split_of[key] for key in keys]


def label_counts(fractions: Iterable[float], n: int, fewest: int, where: str) -> list[int]:
    """Return how many labelled texts are meant: a value below 1 is a share of `n`, others are numbers of texts.

    Raises
    ------
    TaskError
        If one is below `fewest` or above `n`.
    """
    if isinstance(fractions, str) or not isinstance(fractions, Iterable):
        raise TaskError(
            f"fractions={fractions!r} is not a list", where=where, next="give a list, such as fractions=[100, 0.5]"
        )
    counts = []
    for fraction in fractions:
        known = is_number(fraction)
        size = (round(fraction * n) if fraction < 1 else int(fraction)) if known else -1
        if not fewest <= size <= n:
            raise TaskError(
                f"{size if known else repr(fraction)} labelled texts were asked for",
                where=f"fractions of {where}",
                next=f"ask for {fewest} to {n}, or for shares below 1",
            )
        counts.append(size)
    return counts


def refuse_overlap(splits: Mapping[str, Split], names: Iterable[str], where: str) -> None:
    """Raise TaskError if a text of one of the named splits is also in another split (normalised)."""
    for name in names:
        for other in SPLIT_NAMES:
            if other == name or other not in splits or name not in splits:
                continue
            known = set(splits[other].keys)
            shared = [row for row, key in enumerate(splits[name].keys) if key in known]
            if shared:
                example = splits[name].texts[shared[0]][:80]
                raise TaskError(
                    f'{len(shared)} texts of the {name} split are also in the {other} split: "{example}"',
                    where=where,
                    next="remove them, or pass drop_overlap=True to leave them out, or allow_overlap=True to keep them",
                )
