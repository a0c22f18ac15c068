"""The embedded tasks: how their files are read, and what the real ones are where they are in the cache."""

from __future__ import annotations

import bz2
from collections import Counter
from pathlib import Path

import pytest

from pifi_probe import assets
from pifi_probe.errors import TaskError
from pifi_probe.tasks import EMBEDDED, Task, load_task, shift_view
from pifi_probe.tasks.topics import chinese_reviews, critic_reviews, sentiment_rating, topics
from pifi_probe.tasks.ui_strings import translation_choice, translation_match, ui_strings

SIZES = {  # train, validation, test; a change of these numbers changes recorded results
    "newsgroups": (9580, 1692, 7514),
    "reuters-r8": (4608, 814, 2172),
    "critic-reviews": (7991, 2224, 2534),
    "chinese-reviews": (10424, 3476, 3476),
    "sentiment-rating": (6361, 2121, 2121),
    "ui-strings-en-de": (854, 285, 285),
    "ui-strings-en-ko": (847, 282, 282),
    "ui-strings-en-zh": (827, 275, 275),
    "translation-match": (1708, 570, 570),
    "translation-choice": (854, 285, 285),
}


def cached(name: str) -> Task:
    """Return an embedded task whose asset is in the cache; nothing is downloaded here."""
    status = next(one for one in assets.list_assets() if name in (one.asset.name, *one.asset.aliases))
    if not status.cached:
        pytest.skip(f"run `pifi-probe assets pull {status.asset.name}` to test it")
    return load_task(name)


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_embedded_task_has_an_asset(name: str) -> None:
    assert assets.is_asset(name)


@pytest.mark.parametrize("name", SIZES)
def test_an_embedded_task_has_its_published_splits(name: str) -> None:
    task = cached(name)
    assert tuple(len(task.splits[part]) for part in ("train", "validation", "test")) == SIZES[name]
    keys = [set(split.keys) for split in task.splits.values()]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    assert task.licence and task.source


def test_no_film_is_in_two_splits_and_critics_never_test_movie_reviews() -> None:
    critics = cached("critic-reviews")
    films = [set(split.groups or ()) for split in critics.splits.values()]
    assert not (films[0] & films[1] or films[0] & films[2] or films[1] & films[2])
    with pytest.raises(TaskError, match="are training texts"):
        shift_view(critics, cached("movie-reviews"))


def write_tab(folder: Path, stem: str, train: list[str], test: list[str]) -> None:
    for part, rows in (("train", train), ("test", test)):
        (folder / f"{stem}-{part}.tab").write_text("Category\tText\nd\tstring\nclass\t\n" + "\n".join(rows) + "\n")


def test_topics_are_read_after_three_lines_and_repeats_are_dropped(tmp_path: Path) -> None:
    train = [f"{label}\ttext {label} {n}" for label in ("earn", "trade") for n in range(20)]
    test = ["earn\tfresh news", "trade\tText trade 3!", "earn\tfresh news"]
    write_tab(tmp_path, "reuters-r8", [*train, train[0]], test)
    task = topics("reuters-r8", tmp_path)
    assert task.label_names == ("earn", "trade")
    assert [len(task.splits[part]) for part in ("train", "validation", "test")] == [34, 6, 1]
    assert Counter(task.splits["validation"].labels) == {0: 3, 1: 3}
    assert task.splits["test"].texts == ("fresh news",)
    assert "2 of 3 test texts dropped" in task.notes[1]


def test_a_file_that_is_not_what_it_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "rotten_tomatoes_corpus_full.csv.bz2").write_bytes(b"no archive")
    with pytest.raises(TaskError, match="rotten_tomatoes.*fetch the asset again"):
        critic_reviews("critic-reviews", tmp_path)


def test_plots_are_no_reviews(tmp_path: Path) -> None:
    rows = ["category,text,movie_name,has_plot_and_reviews"]
    rows += [f"{kind},{kind} {film} {n},film {film},True" for film in range(9) for kind in ("fresh", "rotten", "plot")
             for n in range(2)]  # fmt: skip
    (tmp_path / "rotten_tomatoes_corpus_full.csv.bz2").write_bytes(bz2.compress("\n".join(rows).encode()))
    task = critic_reviews("critic-reviews", tmp_path)
    texts = [text for split in task.splits.values() for text in split.texts]
    assert len(texts) == 36 and not any("plot" in text for text in texts)
    label = task.splits["train"].labels[0]
    assert task.splits["train"].texts[0].startswith(("rotten", "fresh")[label])


def test_chinese_reviews_have_a_file_for_each_class(tmp_path: Path) -> None:
    for word in ("neg", "pos"):
        (tmp_path / f"{word}.txt").write_text("\n".join(f"{word} 书 {n}" for n in range(10)), encoding="utf-8")
    task = chinese_reviews("chinese-reviews", tmp_path)
    split = task.splits["train"]
    assert all(text.startswith(("neg", "pos")[label]) for text, label in zip(split.texts, split.labels, strict=True))


def test_ratings_stay_numbers_and_neutral_sentences_stay(tmp_path: Path) -> None:
    lines = [f"{n}\t{n / 5 - 2}\tsentence {n}" for n in range(20)]
    (tmp_path / "movieReviewSnippets_GroundTruth.txt").write_text("\n".join(lines))
    task = sentiment_rating("sentiment-rating", tmp_path)
    labels = sorted(label for split in task.splits.values() for label in split.labels)
    assert labels == pytest.approx([n / 5 - 2 for n in range(20)])


PO = """
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\\n"
"""


@pytest.fixture
def strings(tmp_path: Path) -> Path:
    folder = tmp_path / "de"
    folder.mkdir()
    kept = [(f"open the door number {n}", f"öffne die Tür Nummer {'X' * n}") for n in range(24)]
    left_out = [
        ("two words", "zwei Wörter hier"),
        ("keep %s for me", "behalte %s für mich"),
        ("Open the door number 1!", "noch einmal"),
        ("not yet translated here", ""),
        ("the same in both", "the same in both"),
    ]
    text = PO + "".join(f'\nmsgid "{a}"\nmsgstr "{b}"\n' for a, b in kept + left_out)
    text += '\n#, fuzzy\nmsgid "this is only guessed"\nmsgstr "das ist nur geraten"\n'
    (folder / "one.po").write_text(text, encoding="utf-8")
    return tmp_path


def test_ui_strings_leave_out_placeholders_short_fuzzy_and_repeated_ones(strings: Path) -> None:
    task = ui_strings("ui-strings-en-de", strings)
    texts = [text for split in task.splits.values() for text in split.texts]
    assert len(texts) == 24 and all(text.startswith("open the door") for text in texts)
    assert task.language == "en-de"


def test_each_text_is_once_in_a_right_and_once_in_a_wrong_pair(strings: Path) -> None:
    for split in translation_match("translation-match", strings).splits.values():
        for column in (split.texts, split.pairs or ()):
            for label in (0, 1):
                found = Counter(text for text, own in zip(column, split.labels, strict=True) if own == label)
                assert set(found.values()) == {1} and set(found) == set(column)


def test_each_translation_is_once_right_and_three_times_wrong(strings: Path) -> None:
    task = translation_choice("translation-choice", strings)
    assert len(set(task.splits["train"].labels)) > 1, "the right choice has no fixed place"
    for split in task.splits.values():
        items = split.items or ()
        right = Counter(row[label] for row, label in zip(items, split.labels, strict=True))
        assert set(right.values()) == {1}
        assert set(Counter(choice for row in items for choice in row).values()) == {4}
        assert all(len(set(row)) == 4 for row in items)


def test_the_three_tasks_of_translations_have_the_same_splits(strings: Path) -> None:
    made = (ui_strings("ui-strings-en-de", strings), translation_choice("x", strings), translation_match("x", strings))
    for part in ("train", "validation", "test"):
        assert len({frozenset(task.splits[part].texts) for task in made}) == 1
