"""The embedded tasks by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from pifi_probe.tasks.rated import RATED, rated_task
from pifi_probe.tasks.task import Task
from pifi_probe.tasks.topics import chinese_reviews, critic_reviews, sentiment_rating, topics
from pifi_probe.tasks.ui_strings import translation_choice, translation_match, ui_strings

__all__ = ["EMBEDDED", "task_from_asset"]

EMBEDDED: Mapping[str, Callable[[str, Path], Task]] = MappingProxyType(
    {
        **dict.fromkeys(RATED, rated_task),
        "sentiment-rating": sentiment_rating,
        "critic-reviews": critic_reviews,
        "newsgroups": topics,
        "reuters-r8": topics,
        "chinese-reviews": chinese_reviews,
        "ui-strings-en-de": ui_strings,
        "ui-strings-en-ko": ui_strings,
        "ui-strings-en-zh": ui_strings,
        "translation-match": translation_match,
        "translation-choice": translation_choice,
    }
)


def task_from_asset(name: str) -> Task:
    """Return an embedded task; its files are fetched and verified on first use.

    Raises
    ------
    AssetError
        If the files cannot be had.
    TaskError
        If a file is not what it should be.
    """
    from pifi_probe import assets

    return EMBEDDED[name](name, Path(assets.path(name)))
