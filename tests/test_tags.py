"""Words and answers: each tag stays with its word, and what the model never saw counts as wrong."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from pifi_probe.errors import RecipeError, TaskError, TokenizerError
from pifi_probe.kinds import kind_of
from pifi_probe.kinds.parts.row_metrics import NO_TAG, tag_metrics, tag_scores
from pifi_probe.tasks import Split, Task
from tests import slm
from tests.kinds import task_of

NAMES = ("O", "B-X", "I-X")
BLANK = "\u200b"


def metaspace() -> PreTrainedTokenizerFast:
    """One token a letter, the space before a word in a token of its own, as SentencePiece has it."""
    letters = {mark: n for n, mark in enumerate(["<unk>", "<pad>", "<s>", *"\u2581abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = Tokenizer(models.BPE(letters, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", bos_token="<s>")


def blank_dropping(side: str) -> PreTrainedTokenizerFast:
    """The tiny tokenizer, which as those of BERT makes no token of a zero-width space."""
    from tokenizers import normalizers

    tokenizer = slm.tiny_tokenizer(side)
    tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    return tokenizer


class Knowing(nn.Module):
    """Says of each token the tag that `tag_of` its id has."""

    device = torch.device("cpu")

    def __init__(self, tag_of: dict[int, int]) -> None:
        super().__init__()
        self.tag_of = tag_of

    def forward(self, input_ids: torch.Tensor, **rest: Any) -> Any:
        tags = torch.tensor([[self.tag_of.get(int(one), 0) for one in row] for row in input_ids])
        return SimpleNamespace(logits=nn.functional.one_hot(tags, len(NAMES)).float())


def words_task(*rows: tuple[list[str], list[int]]) -> Task:
    split = Split(
        texts=tuple(" ".join(words) for words, _ in rows),
        labels=tuple(tuple(tags) for _, tags in rows),
        ids=tuple(str(n) for n in range(len(rows))),
        items=tuple(tuple(words) for words, _ in rows),
    )
    return Task("words", "token-classification", NAMES, "en", {"train": split})


def scored(task: Task, tokenizer: PreTrainedTokenizerFast, tag_of: dict[str, int], max_tokens: int = 64) -> Any:
    work, split = kind_of(task), task.splits["train"]
    model = Knowing({tokenizer.convert_tokens_to_ids(word): tag for word, tag in tag_of.items()})
    encoded = work.encode(split, tokenizer, max_tokens)
    found = work.predict(model, encoded, tokenizer)  # type: ignore[arg-type]
    return found, work.scores(split, found)["token_accuracy"].tolist(), work.metrics(split, found)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("place", range(4))
def test_a_word_without_tokens_shifts_nothing_and_is_wrong(side: str, place: int) -> None:
    words, tags = ["the", "film", "was", "good"], [0, 1, 0, 2]
    words.insert(place, BLANK)
    tags.insert(place, 0)
    task = words_task((words, tags), (["a", "film"], [0, 1]))
    found, accuracy, _ = scored(task, blank_dropping(side), {"film": 1, "good": 2})
    assert [tag for word, tag in zip(words, found[0], strict=True) if word != BLANK] == [0, 1, 0, 2]
    assert found[0][place] == NO_TAG
    assert accuracy == [0.8, 1.0]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_batch_of_words_without_tokens_trains_nothing_and_breaks_nothing(smoothing: float) -> None:
    work = kind_of(words_task(([BLANK], [1])))
    logits = torch.randn(1, 3, len(NAMES), requires_grad=True)
    loss = work.loss(SimpleNamespace(logits=logits), {"labels": torch.full((1, 3), -100)}, smoothing)
    loss.backward()
    assert loss.item() == 0.0 and logits.grad is not None and not logits.grad.any()


def test_only_blanks_leave_no_prediction() -> None:
    found, accuracy, _ = scored(words_task(([BLANK, BLANK], [0, 0]), (["a"], [0])), blank_dropping("right"), {})
    assert found[0] == [NO_TAG, NO_TAG] and accuracy == [0.0, 1.0]


def test_words_that_are_cut_off_are_wrong_whatever_their_class() -> None:
    task = words_task((["the", "film", "was", "good"], [0, 1, 0, 0]))
    found, accuracy, metrics = scored(task, slm.tiny_tokenizer(), {"film": 1}, max_tokens=4)  # two words
    assert found == [[0, 1, NO_TAG, NO_TAG]]
    assert accuracy == [0.5] and metrics["f1"] == 1.0


def test_an_entity_that_is_cut_off_is_missed() -> None:
    metrics = tag_metrics([[1, 2, 0, 1]], [[1, 2, NO_TAG, NO_TAG]], NAMES)
    assert (metrics["precision"], metrics["recall"], metrics["token_accuracy"]) == (1.0, 0.5, 0.5)


def test_tags_that_are_no_entities_count_what_is_missing_as_missed() -> None:
    metrics = tag_metrics([[0, 1, 1]], [[0, 1, NO_TAG]], ("NOUN", "VERB"))
    assert metrics["f1"] == pytest.approx((1.0 + 2 / 3) / 2)
    assert tag_scores([[0, 1, 1]], [[0, 1, NO_TAG]])["token_accuracy"].tolist() == [pytest.approx(2 / 3)]


def test_a_space_in_a_token_of_its_own_belongs_to_no_word() -> None:
    task = words_task((["ab", BLANK, "c"], [1, 0, 2]))
    encoded = kind_of(task).encode(task.splits["train"], metaspace(), 32)
    at = [(tag, word) for tag, word in zip([t for t in encoded.labels[0] if t >= 0], encoded.words[0], strict=True)]
    assert dict((word, tag) for tag, word in at) | {1: 0} == {0: 1, 1: 0, 2: 2}


def test_places_in_the_text_are_needed() -> None:
    slow = SimpleNamespace(is_fast=False, name_or_path="slow")
    for kind in ("token-classification", "qa"):
        task = task_of(kind)
        with pytest.raises(TokenizerError) as caught:
            kind_of(task).encode(task.splits["train"], slow, 32)  # type: ignore[arg-type]
        assert kind in caught.value.what and "fast" in caught.value.next


@pytest.mark.parametrize("max_tokens", [24, 32, 64])
def test_windows_share_a_quarter_of_their_length(max_tokens: int) -> None:
    task = task_of("qa")
    train = task.splits["train"]
    context = " ".join(f"{slm.WORDS[n % 19]}" for n in range(200))
    long = replace(train.take([0]), pairs=(context,), labels=(((0, context.split()[0]),),))
    encoded = kind_of(task).encode(long, slm.tiny_tokenizer(), max_tokens)
    spans = [[span for span in window if span[0] < span[1]] for window in encoded.spans]
    shared = [len({*a} & {*b}) for a, b in zip(spans, spans[1:], strict=False)]
    assert len(shared) > 2 and set(shared[:-1]) == {max_tokens // 4}
    assert {span for window in spans for span in window} == {*spans[0], *(s for w in spans for s in w)}


def test_the_longest_question_still_leaves_windows_that_move() -> None:
    task = task_of("qa")
    train = task.splits["train"]
    context = " ".join(slm.WORDS[n % 19] for n in range(60))
    long = replace(train.take([0]), texts=("is it " * 50,), pairs=(context,), labels=(((0, context.split()[0]),),))
    for max_tokens in (10, 12, 16, 20, 40):
        encoded = kind_of(task).encode(long, slm.tiny_tokenizer(), max_tokens)
        seen = {span for window in encoded.spans for span in window if span[0] < span[1]}
        assert len(seen) == 60
        assert all(len(ids) <= max_tokens for ids in encoded.columns["input_ids"])
    with pytest.raises(RecipeError):
        kind_of(task).encode(long, slm.tiny_tokenizer(), 8)


class TestHeldOut:
    """Equal texts are on one side only."""

    @staticmethod
    def task(texts: list[str], groups: list[str], **more: Any) -> Task:
        n = len(texts)
        split = Split(tuple(texts), (0, 1) * (n // 2), tuple(map(str, range(n))), groups=tuple(groups), **more)
        return Task("held", "single", ("a", "b"), "en", {"train": split})

    def test_equal_texts_are_not_in_both_training_and_validation(self) -> None:
        texts = [f"Text {n // 4}!" if n % 2 else f"text {n // 4}" for n in range(400)]
        task = self.task(texts, ["x", *["y"] * 399])
        view = task.held_out("x")
        train, validation = (set(view.splits[name].keys) for name in ("train", "validation"))
        assert not train & validation and len(validation) > 2

    def test_texts_that_are_tested_are_not_trained_on(self) -> None:
        texts = [f"text {n}" for n in range(100)] + [f"TEXT {n}." for n in range(40)]
        view = self.task(texts, ["x"] * 100 + ["y"] * 40).held_out("y")
        kept = set(view.splits["train"].keys) | set(view.splits["validation"].keys)
        assert not kept & set(view.splits["test"].keys)
        assert len(view.splits["test"]) == 40 and "40 rows left out" in view.notes[-1]

    def test_different_texts_are_divided_by_their_identifiers_as_before(self) -> None:
        view = self.task([f"text {n}" for n in range(100)], ["x"] * 50 + ["y"] * 50).held_out("y")
        assert view.splits["validation"].ids == ("1", "5", "21", "24", "26", "48")

    def test_everything_equal_to_what_is_held_out_leaves_nothing(self) -> None:
        with pytest.raises(TaskError):
            self.task(["a"] * 10, ["x"] * 5 + ["y"] * 5).held_out("y")
