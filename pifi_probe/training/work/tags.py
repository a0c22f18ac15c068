"""Kind "token-classification": a tag for each word, given and predicted at its first token."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from transformers import DataCollatorForTokenClassification, PreTrainedTokenizerBase

from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.tasks.row_metrics import tag_metrics, tag_scores
from pifi_probe.tasks.task import Split
from pifi_probe.training.data import EncodedSplit
from pifi_probe.training.work.base import Batch, Scores, Work, batches_of, evaluating

__all__ = ["Tags"]

NONE = -100


class Tags(Work):
    """A tag for each word."""

    shown = "f1"

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedSplit:
        """Tokenise the words joined by spaces; a word's tag stands at its first token, -100 elsewhere.

        Tokens are given to words by their place in the text, so that tokenizers which count the space before a
        word as its part need no option of their own.
        """
        assert split.items is not None
        texts = [" ".join(words) for words in split.items]
        encoded = dict(tokenizer(texts, truncation=True, max_length=max_length, return_offsets_mapping=True))
        offsets = encoded.pop("offset_mapping")
        labels = tuple(
            _at_tokens(spans, words, tags)
            for spans, words, tags in zip(offsets, split.items, split.labels, strict=True)
        )
        return EncodedSplit(encoded, labels)

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
        """Return the tag of each word that was not cut off."""
        found: dict[int, list[int]] = {}
        with evaluating(model, precision):
            for rows, batch in batches_of(split, self.collate(tokenizer), model.device):
                labels = batch.pop("labels")
                best = model(**batch).logits.argmax(-1)  # (batch, seq)
                for row, tags, truth in zip(rows, best, labels, strict=True):
                    found[row] = tags[truth != NONE].tolist()
        return [found[row] for row in range(len(split))]

    def metrics(self, split: Split, predictions: Sequence[Sequence[int]]) -> dict[str, Any]:
        """See `tag_metrics`; words that were cut off count as the first tag, "O"."""
        return tag_metrics(split.labels, _filled(split, predictions), self.task.label_names)

    def scores(self, split: Split, predictions: Sequence[Sequence[int]]) -> Scores:
        """See `tag_scores`."""
        return tag_scores(split.labels, _filled(split, predictions))

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by F1, then by right tags."""
        return float(metrics["f1"]) + 1e-6 * float(metrics["token_accuracy"])


def _at_tokens(spans: Sequence[tuple[int, int]], words: Sequence[str], tags: Sequence[int]) -> list[int]:
    """Return a tag for each token: the word's at the first token that ends in it, -100 elsewhere."""
    starts = [0, *accumulate(len(word) + 1 for word in words[:-1])]  # characters
    labels, seen = [], -1
    for start, end in spans:
        word = bisect_right(starts, end - 1) - 1 if end > start else -1
        labels.append(tags[word] if word > seen else NONE)
        seen = max(seen, word)
    return labels


def _filled(split: Split, predictions: Sequence[Sequence[int]]) -> list[list[int]]:
    pairs = zip(predictions, split.labels, strict=True)
    return [[*found, *[0] * (len(truth) - len(found))] for found, truth in pairs]
