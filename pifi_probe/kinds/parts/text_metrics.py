"""Metrics of answers and of written text, and each row's own score; all are shares in [0, 1]."""

from __future__ import annotations

import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.kinds.parts.measures import EXACT_MATCH, F1, NLL, Metric

__all__ = ["ANSWERING", "WRITING", "answer_metrics", "answer_scores", "written_metrics", "written_scores"]

Scores = dict[str, NDArray[np.float64]]
ANSWERING = (EXACT_MATCH, F1)
WRITING = (
    *(Metric(name, 0, 1) for name in ("bleu", "chrf", "rouge1", "rouge2", "rougeL")),
    NLL,
    Metric("empty", 0, 1, larger_is_better=False, shown=False),
)
_NO_SPACES = ("zh", "ja")  # languages that are written without spaces between words
_ARTICLES = frozenset({"a", "an", "the"})
_BLEU_TOKENS = {"zh": "zh", "ja": "char", "ko": "char"}  # sacrebleu's own for ja and ko need further packages


def answer_metrics(
    answers: Sequence[Sequence[tuple[int, str]]], predicted: Sequence[str], language: str = "en"
) -> dict[str, Any]:
    """Return ``exact_match``, ``f1`` (means over questions) and ``n``; see `answer_scores`."""
    scores = answer_scores(answers, predicted, language)
    values: dict[str, Any] = {name: float(column.mean()) for name, column in scores.items()}
    return values | {"n": len(predicted), "undefined": {}}


def answer_scores(
    answers: Sequence[Sequence[tuple[int, str]]], predicted: Sequence[str], language: str = "en"
) -> Scores:
    """Return the scores of SQuAD for every question, the best over its answers.

    Parameters
    ----------
    answers : sequence
        For each question, its answers as (start, text).
    predicted : sequence of str
    language : str
        Words are separated by spaces; Chinese and Japanese are compared by characters.

    Returns
    -------
    dict of arrays of shape (N,)
        ``exact_match`` (0 or 1) and ``f1`` (of words), without case, punctuation and English articles.

    References
    ----------
    Rajpurkar et al. (2016), SQuAD: 100,000+ Questions for Machine Comprehension of Text. Written here because the
    libraries that have it fetch it from the hub or bring a training framework with them.
    """
    rows = [
        [(_words(text, language), _words(guess, language)) for _, text in given]
        for given, guess in zip(answers, predicted, strict=True)
    ]
    exact = [max(float(truth == guess) for truth, guess in row) for row in rows]
    return {"exact_match": np.array(exact), "f1": np.array([max(_f1(*pair) for pair in row) for row in rows])}


def _words(text: str, language: str) -> list[str]:
    kept = "".join(
        mark for mark in text.casefold() if mark not in string.punctuation and unicodedata.category(mark)[0] != "P"
    )
    if language in _NO_SPACES:
        return [mark for mark in kept if not mark.isspace()]
    return [word for word in kept.split() if language != "en" or word not in _ARTICLES]


def _f1(truth: list[str], guess: list[str]) -> float:
    shared = sum((Counter(truth) & Counter(guess)).values())
    if not truth or not guess:
        return float(truth == guess)
    return 2 * shared / (len(truth) + len(guess))


def written_metrics(targets: Sequence[str], written: Sequence[str], language: str) -> dict[str, Any]:
    """Return the metrics of translations or summaries.

    Parameters
    ----------
    targets, written : sequence of str, length N
    language : str
        Of the targets; of "en-de" the last.

    Returns
    -------
    dict
        ``bleu`` and ``chrf`` of the corpus (sacrebleu, divided by 100), ``empty`` (the share of rows without
        text), ``n`` and, for English, ``rouge1``, ``rouge2`` and ``rougeL`` (means of F1; rouge-score with
        stemming, which knows Latin letters only).
    """
    import sacrebleu

    language = language.rsplit("-", 1)[-1]
    tokens = _BLEU_TOKENS.get(language, "13a")
    values: dict[str, Any] = {
        "bleu": sacrebleu.corpus_bleu(list(written), [list(targets)], tokenize=tokens).score / 100,
        "chrf": sacrebleu.corpus_chrf(list(written), [list(targets)]).score / 100,
        "empty": float(np.mean([not text.strip() for text in written])),
        "n": len(targets),
        "undefined": {} if language == "en" else {"rougeL": "it is given for English"},
    }
    if language == "en":
        from rouge_score.rouge_scorer import RougeScorer

        names = ["rouge1", "rouge2", "rougeL"]
        scorer = RougeScorer(names, use_stemmer=True)
        rows = [scorer.score(target, text) for target, text in zip(targets, written, strict=True)]
        values |= {name: float(np.mean([row[name].fmeasure for row in rows])) for name in names}
    return values


def written_scores(targets: Sequence[str], written: Sequence[str]) -> Scores:
    """Return ``chrf`` of every row, shape (N,)."""
    import sacrebleu

    pairs = zip(targets, written, strict=True)
    return {"chrf": np.array([sacrebleu.sentence_chrf(text, [target]).score / 100 for target, text in pairs])}
