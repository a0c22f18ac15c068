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

import numpy as np
import torch
from transformers import DataCollatorForTokenClassification, PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.errors import TaskError
from pifi_probe.kinds.base import IGNORED, Batch, Kind, Scores, register_kind, smoothed_loss
from pifi_probe.kinds.parts.encoding import EncodedSplit, require_offsets
from pifi_probe.kinds.parts.evaluating import batches_of, evaluating
from pifi_probe.kinds.parts.labels import checked_text, class_name, not_whole
from pifi_probe.kinds.parts.row_metrics import NO_TAG, TAGGING, tag_metrics, tag_scores
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split

__all__ = ["Tags"]


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


@register_kind
class Tags(Kind):
    """A tag for each word."""

    name = "token-classification"
    layout = Layout((), ("ner_tags", "tags", "labels"), items=("tokens", "words"))
    head = "token-classification"
    classes = True
    items = True
    shown = "f1"
    measures = TAGGING

    @classmethod
    def parse(cls, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Join the words to the row's text."""
        assert columns.items is not None
        row = cls.labelled(Row(origin.id, "", None), values, columns, origin)
        return row._replace(text=" ".join(row.items or ()))

    @classmethod
    def labelled(cls, row: Row, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Read two lists of equal length: words, and the names of their classes."""
        words, tags = values[columns.items or ""], values[columns.label]
        if not isinstance(words, list) or not isinstance(tags, list) or not words or len(words) != len(tags):
            sizes = [len(each) if isinstance(each, list) else type(each).__name__ for each in (words, tags)]
            raise TaskError(
                f"words and labels do not fit: {sizes[0]} and {sizes[1]}",
                where=origin.where,
                next="give two lists of equal length (from .jsonl or .parquet)",
            )
        at = origin.column(columns.label)
        return row._replace(
            items=tuple(checked_text(word, f"word {number}", origin.where) for number, word in enumerate(words)),
            label=tuple(class_name(tag, False, origin.class_names, at) for tag in tags),
        )

    @classmethod
    def wrong_label(cls, split: Split, row: int, n_labels: int) -> str:
        """Refuse words without a class."""
        assert split.items is not None
        tags, words = split.labels[row], split.items[row]
        if not words or len(tags) != len(words):
            return f"has a row with {len(words)} words and {len(tags)} labels"
        if wrong := next((tag for tag in tags if type(tag) is not int), None):
            return not_whole(wrong)
        return "" if min(tags) >= 0 and max(tags) < n_labels else f"has a label outside of 0 to {n_labels - 1}"

    @classmethod
    def read(cls, split: Split, row: int) -> tuple[str, str | None]:
        """Return the words joined by spaces."""
        assert split.items is not None
        return " ".join(split.items[row]), None

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> EncodedWords:
        """Tokenise the words joined by spaces; a word's tag stands at its first token, -100 elsewhere.

        Tokens are given to words by their place in the text, so that tokenizers which count the space before a
        word as its part need no option of their own.
        """
        assert split.items is not None
        require_offsets(tokenizer, "token-classification")
        texts = [" ".join(words) for words in split.items]
        encoded = dict(tokenizer(texts, truncation=True, max_length=max_tokens, return_offsets_mapping=True))
        offsets = encoded.pop("offset_mapping")
        found = [_words_at(spans, words) for spans, words in zip(offsets, split.items, strict=True)]
        labels = tuple(
            [IGNORED if word is None else tags[word] for word in row]
            for row, tags in zip(found, split.labels, strict=True)
        )
        seen = tuple(tuple(word for word in row if word is not None) for row in found)
        return EncodedWords(encoded, labels, seen, tuple(map(len, split.items)))

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Return transformers' collator, which pads labels as it pads tokens."""
        collator: Callable[[list[dict[str, Any]]], Any] = DataCollatorForTokenClassification(tokenizer)
        return collator

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the cross-entropy over tagged tokens; 0 where no word of a batch has a token."""
        return smoothed_loss(outputs.logits, targets["labels"], smoothing)

    def predict(
        self,
        model: PreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> list[list[int]]:
        """Return the tag of each word; `NO_TAG` for a word without a token."""
        assert isinstance(split, EncodedWords)
        found = [[NO_TAG] * n for n in split.n_words]
        left = tokenizer.padding_side == "left"
        with evaluating(model, precision):
            for rows, batch in batches_of(split, self.collate(tokenizer), model.device):
                batch.pop("labels")
                best = model(**batch).logits.argmax(-1).cpu().numpy()  # (batch, seq)
                for row, tags in zip(rows, best, strict=True):
                    truth = np.array(split.labels[row])
                    own = tags[-len(truth) :] if left else tags[: len(truth)]
                    for word, tag in zip(split.words[row], own[truth != IGNORED].tolist(), strict=True):
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
