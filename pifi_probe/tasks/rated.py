"""The four embedded tasks: sentences with mean human sentiment ratings, as positive and negative ones."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from pifi_probe.errors import TaskError
from pifi_probe.kinds.parts.text import row_keys
from pifi_probe.tasks.splitting import assign_splits
from pifi_probe.tasks.task import SPLIT_NAMES, Split, Task

__all__ = ["FRACTIONS", "RATED", "rated_sentences", "rated_task"]

RATED = {
    "movie-reviews": "movieReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
    "product-reviews": "amazonReviewSnippets_GroundTruth.txt",
    "news-editorials": "nytEditorialSnippets_GroundTruth.txt",
}
NEUTRAL = 0.5  # on the scale of -4 to 4: sentences rated nearer to zero are left out
FRACTIONS = {"validation": 0.2, "test": 0.2}


@dataclass(frozen=True)
class _Rated:
    id: str
    rating: float
    text: str


def rated_task(name: str, folder: Path) -> Task:
    """Return the task `name` of :data:`RATED` from the folder that holds the four rating files.

    A sentence is "positive" if its mean rating is above zero, else "negative"; sentences with an absolute
    rating below 0.5 are left out. Of sentences that are equal but for case, punctuation and white space, the
    first is kept. Splits are 60/20/20 within each class, by the order of sha256 of ``name:id``.

    References
    ----------
    Hutto and Gilbert (2014), VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
    Text, ICWSM.
    """
    rated = rated_sentences(name, folder)
    clear = [row for row in rated if abs(row.rating) >= NEUTRAL]
    keys = row_keys([row.text for row in clear], None)
    first = dict(reversed(list(zip(keys, clear, strict=True))))
    rows = [row for key, row in zip(keys, clear, strict=True) if first[key] is row]
    labels = [int(row.rating > 0) for row in rows]
    parts = assign_splits([row.id for row in rows], labels, FRACTIONS, salt=name)
    members = {part: [index for index, of in enumerate(parts) if of == part] for part in SPLIT_NAMES}
    everything = Split(tuple(row.text for row in rows), tuple(labels), tuple(row.id for row in rows))
    return Task(
        name=name,
        kind="single",
        label_names=("negative", "positive"),
        language="en",
        splits={part: everything.take(members[part]) for part in SPLIT_NAMES},
        source="vaderSentiment 0.5, sentence ratings of Hutto and Gilbert (2014)",
        licence="MIT",
        notes=(
            f"{len(rated) - len(clear)} of {len(rated)} left out: rated within {NEUTRAL} of neutral",
            f"{len(clear) - len(rows)} dropped: equal to another one but for case and punctuation",
        ),
    )


def rated_sentences(name: str, folder: Path) -> list[_Rated]:
    """Read lines of id, rating and text; quotes are text, HTML entities (some double) are undone."""
    path, rows = folder / RATED[name], []
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(
            f"the ratings cannot be read: {error}", where=path.name, next="fetch the asset again"
        ) from error
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                identifier, rating, text = line.split("\t")
                rows.append(_Rated(identifier, float(rating), _unescape(text).strip()))
            except ValueError:
                raise TaskError(
                    "the line is not id, rating and text",
                    where=f"{path.name}, line {number}",
                    next="fetch the asset again",
                ) from None
    return rows


def _unescape(text: str) -> str:
    while (plain := html.unescape(text)) != text:
        text = plain
    return text
