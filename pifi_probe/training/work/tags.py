"""Kind "token-classification": a tag for each word, given and predicted at its first token.

Each tag of a token knows the number of its word, so that a word without any token (a zero-width space, or one that was
cut off) shifts nothing: it has no prediction, and counts as wrong.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.tasks.row_metrics import NO_TAG, tag_metrics, tag_scores
from pifi_probe.tasks.task import Split
from pifi_probe.training.data import EncodedSplit, require_offsets
from pifi_probe.training.work.base import Batch, Scores, Work, batches_of, evaluating

__all__ = ["Tags"]

NONE = -100


@dataclass(frozen=True)
class EncodedWords(EncodedSplit):
    """Rows whose labels hold a tag or -100 for each token.

    Parameters
    ----------
    columns, labels
        As `EncodedSplit`.
    words : tuple of tuple of int
        For each row, the numbers of the words that have a token, in their order; as many as the row has tags.
    n_words : tuple of int
        For each row.
    """

    words: tuple[tuple[int, ...], ...] = ()
    n_words: tuple[int, ...] = ()


class Tags(Work):
    """A tag for each word."""

    shown = "f1"

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedWords:
        """Tokenise the words joined by spaces; a word's tag stands at its first token, -100 elsewhere.

        Tokens are given to words by their place in the text, so that tokenizers which count the space before a
        word as its part need no option of their own.
        """
        assert split.items is not None
        require_offsets(tokenizer, "token-classification")
        texts = [" ".join(words) for words in split.items]
        encoded = dict(tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True))
        offsets = encoded.pop("offset_mapping")
        found = [_words_at(spans, words) for spans, words in zip(offsets, split.items, strict=True)]
        labels = tuple(
            [NONE if word is None else tags[word] for word in row]
            for row, tags in zip(found, split.labels, strict=True)
        )
        seen = tuple(tuple(word for word in row if word is not None) for row in found)
        return EncodedWords(encoded, labels, seen, tuple(map(len, split.items)))

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Return transformers' collator, which pads labels as it pads tokens."""
        collator: Callable[[list[dict[str, Any]]], Any] = DataCollatorForTokenClassification(tokenizer)
        return collator

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the cross-entropy over tagged tokens."""
        logits = outputs.logits.float().transpose(1, 2)  # (batch, n_labels, seq)
        return nn.functional.cross_entropy(logits, targets["labels"], label_smoothing=smoothing)

    def predict(
        self,
        model: PiFiPreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> list[list[int]]:
        """Return the tag of each word; `NO_TAG` for a word without a token."""
        assert isinstance(split, EncodedWords)
        found = [[NO_TAG] * n for n in split.n_words]
        with evaluating(model, precision):
            for rows, batch in batches_of(split, self.collate(tokenizer), model.device):
                labels = batch.pop("labels")
                best = model(**batch).logits.argmax(-1)  # (batch, seq)
                for row, tags, truth in zip(rows, best, labels, strict=True):
                    for word, tag in zip(split.words[row], tags[truth != NONE].tolist(), strict=True):
                        found[row][word] = tag
        return found

    def metrics(self, split: Split, predictions: Sequence[Sequence[int]]) -> dict[str, Any]:
        """See `tag_metrics`; words without a token count as wrong."""
        return tag_metrics(split.labels, predictions, self.task.label_names)

    def scores(self, split: Split, predictions: Sequence[Sequence[int]]) -> Scores:
        """See `tag_scores`."""
        return tag_scores(split.labels, predictions)

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by F1, then by right tags."""
        return float(metrics["f1"]) + 1e-6 * float(metrics["token_accuracy"])


def _words_at(spans: Sequence[tuple[int, int]], words: Sequence[str]) -> list[int | None]:
    """Return for each token the number of the word that it is the first to end in, else None."""
    starts = [0, *accumulate(len(word) + 1 for word in words[:-1])]  # characters
    found: list[int | None] = []
    seen = -1
    for start, end in spans:
        word = bisect_right(starts, end - 1) - 1 if end > start else -1
        inside = word > seen and start < starts[word] + len(words[word])  # more than the space after the word
        found.append(word if inside else None)
        seen = word if inside else seen
    return found
