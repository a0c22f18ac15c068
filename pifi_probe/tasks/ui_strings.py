"""Embedded tasks from interface texts in two languages: translate, recognise a translation, choose one."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pifi_probe.errors import TaskError
from pifi_probe.kinds import Row
from pifi_probe.kinds.parts.text import normalise
from pifi_probe.tasks.rows import to_split, without_repeats
from pifi_probe.tasks.task import Task
from pifi_probe.tasks.topics import divided

__all__ = ["translation_choice", "translation_match", "ui_strings"]

FOLDERS = {"de": "de", "ko": "ko_KR", "zh": "zh_Hans"}
MIN_WORDS = 3  # of the English string
N_CHOICES = 4
MARKUP = ("%", "<", "{", "&", "\\")
SOURCE = "interface texts of OpenStack Horizon 27.0.0"


def ui_strings(name: str, folder: Path) -> Task:
    """Return "ui-strings-en-de", "-ko" or "-zh": English interface texts and their translations.

    Strings of three English words or more, without placeholders and markup; of equal English strings and of
    equal translations the first is kept.
    """
    language = name.rsplit("-", 1)[1]
    splits = {part: to_split(rows) for part, rows in _divided(language, folder).items()}
    return Task(name, "seq2seq", (), f"en-{language}", splits, SOURCE, "Apache-2.0")


def translation_match(name: str, folder: Path) -> Task:
    """Return "translation-match": whether the German text translates the English one.

    Every English and every German string occurs once in a right and once in a wrong pair, wrong pairs join
    strings of neighbouring length, and splits are those of "ui-strings-en-de": neither a text alone nor its
    length tells the class.
    """
    splits = {}
    for part, rows in _divided("de", folder).items():
        others = _neighbours(rows, 1)
        right = [Row(f"{row.id}-right", row.text, 1, pair=row.label) for row in rows]
        wrong = [Row(f"{row.id}-wrong", row.text, 0, pair=others[row.id][0].label) for row in rows]
        splits[part] = to_split([row for both in zip(right, wrong, strict=True) for row in both])
    return Task(name, "pair", ("no", "yes"), "en", splits, SOURCE, "Apache-2.0")


def translation_choice(name: str, folder: Path) -> Task:
    """Return "translation-choice": which of four German texts translates the English one.

    The three wrong ones are translations of other strings of the same split with neighbouring length; every
    translation is a wrong choice three times. The place of the right one comes from a hash.
    """
    splits = {}
    for part, rows in _divided("de", folder).items():
        others, made = _neighbours(rows, N_CHOICES - 1), []
        for row in rows:
            place = hashlib.sha256(f"place:{row.id}".encode()).digest()[0] % N_CHOICES
            choices = [other.label for other in others[row.id]]
            choices.insert(place, row.label)
            made.append(Row(row.id, row.text, place, items=tuple(choices)))
        splits[part] = to_split(made)
    return Task(name, "multiple-choice", (), "en", splits, SOURCE, "Apache-2.0")


def _divided(language: str, folder: Path) -> dict[str, list[Row]]:
    """Return the strings of a language by split; label: the translation."""
    rows = without_repeats(_strings(folder / FOLDERS[language]))
    first = {normalise(row.label): row for row in reversed(rows)}
    rows = [row for row in rows if first[normalise(row.label)] is row]
    return divided(f"ui-strings-en-{language}", rows, [0] * len(rows))


def _strings(folder: Path) -> list[Row]:
    import polib

    rows = []
    for file in sorted(folder.glob("*.po")):
        try:
            entries = polib.pofile(str(file), encoding="utf-8")
        except (OSError, ValueError) as error:
            raise TaskError(
                f"the translations cannot be read: {error}", where=file.name, next="fetch the asset again"
            ) from error
        for number, entry in enumerate(entries, start=1):
            text, target = " ".join(entry.msgid.split()), " ".join(entry.msgstr.split())
            usable = target and target != text and not entry.fuzzy and not entry.obsolete
            if usable and len(text.split()) >= MIN_WORDS and not any(mark in text + target for mark in MARKUP):
                rows.append(Row(f"{file.stem}-{number}", text, target))
    return rows


def _neighbours(rows: list[Row], count: int) -> dict[str, list[Row]]:
    """Return, for the row of each identifier, the next `count` rows by length of the translation, in a ring."""
    ring = sorted(rows, key=lambda row: (len(row.label), hashlib.sha256(row.id.encode()).digest()))
    return {
        row.id: [ring[(place + step) % len(ring)] for step in range(1, count + 1)] for place, row in enumerate(ring)
    }
