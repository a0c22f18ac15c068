"""Metrics of numbers, choices, tags, answers and written text."""

from __future__ import annotations

import numpy as np
import pytest

from pifi_probe.errors import PifiProbeError
from pifi_probe.kinds.parts.row_metrics import choice_metrics, rating_metrics, tag_metrics
from pifi_probe.kinds.parts.text_metrics import answer_metrics, answer_scores, written_metrics, written_scores


def test_correlations_and_errors_of_ratings() -> None:
    found = rating_metrics([1.0, 2.0, 3.0], [2.0, 4.0, 6.0])
    assert [found["pearson"], found["spearman"]] == pytest.approx([1.0, 1.0])
    assert found["squared_error"] == pytest.approx(14 / 3) and found["absolute_error"] == pytest.approx(2.0)


def test_a_correlation_with_a_constant_is_undefined_and_says_why() -> None:
    found = rating_metrics([1.0, 2.0], [3.0, 3.0])
    assert "pearson" not in found and "constant" in found["undefined"]["pearson"]


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_broken_prediction_is_an_error(broken: float) -> None:
    with pytest.raises(PifiProbeError, match="diverged"):
        rating_metrics([1.0], [broken])
    with pytest.raises(PifiProbeError, match="diverged"):
        choice_metrics([0], [[broken, 1.0]])


def test_chance_is_the_mean_over_rows_of_unlike_length() -> None:
    found = choice_metrics([0, 1], [[2.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    assert found["accuracy"] == 0.5 and found["chance"] == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert found["nll"] == pytest.approx((np.log(1 + np.exp(-1)) + np.log(4)) / 2)


def test_an_entity_counts_only_as_a_whole() -> None:
    names = ["O", "B-PER", "I-PER"]
    found = tag_metrics([[1, 2, 0], [1, 0, 0]], [[1, 0, 0], [1, 0, 0]], names)
    assert found["f1"] == found["precision"] == found["recall"] == pytest.approx(0.5)
    assert found["token_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_tags_that_are_no_entities_are_scored_one_by_one() -> None:
    assert tag_metrics([[0, 1]], [[0, 0]], ["NOUN", "VERB"])["f1"] == pytest.approx((2 / 3 + 0) / 2)


@pytest.mark.parametrize(
    ("guess", "exact", "f1"),
    [
        ("The Eiffel tower!", 1.0, 1.0),
        ("tower", 0.0, 2 / 3),
        ("in the Eiffel tower", 0.0, 4 / 5),
        ("Paris", 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_an_answer_is_scored_without_case_articles_and_punctuation(guess: str, exact: float, f1: float) -> None:
    found = answer_metrics([((0, "Eiffel Tower"),)], [guess])
    assert (found["exact_match"], found["f1"]) == (exact, pytest.approx(f1))


def test_the_best_of_several_answers_counts() -> None:
    assert answer_scores([((0, "one"), (4, "one two"))], ["one two"])["exact_match"].tolist() == [1.0]


def test_chinese_answers_are_compared_by_characters() -> None:
    assert answer_scores([((0, "北京大学"),)], ["北京"], "zh")["f1"][0] == pytest.approx(2 / 3)


def test_a_copy_of_the_target_has_all_scores_at_one() -> None:
    texts = ["the cat sat on the mat today", "a dog ran over the green hill"]
    found = written_metrics(texts, texts, "en")
    for name in ("bleu", "chrf", "rouge1", "rouge2", "rougeL"):
        assert found[name] == pytest.approx(1.0)
    assert written_scores(texts, texts)["chrf"].tolist() == pytest.approx([1.0, 1.0])


def test_bleu_is_sacrebleus() -> None:
    import sacrebleu

    targets, written = ["the cat sat on the mat", "he reads a book"], ["the cat is on the mat", "he reads the book"]
    expected = sacrebleu.corpus_bleu(written, [targets]).score
    assert 100 * written_metrics(targets, written, "en")["bleu"] == pytest.approx(expected)


def test_rouge_is_given_for_english_only_and_chinese_is_cut_into_characters() -> None:
    found = written_metrics(["我 喜欢 猫和狗"], ["我 喜欢 猫和狗"], "en-zh")
    assert found["bleu"] == pytest.approx(1.0) and "rougeL" not in found and "rougeL" in found["undefined"]


def test_empty_output_is_counted() -> None:
    assert written_metrics(["a b c", "d e f"], ["", "d e f"], "de")["empty"] == 0.5
