"""Kind "qa": the answer as a span of its context, long contexts in overlapping windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.errors import RecipeError
from pifi_probe.kinds.base import Batch, Kind, Scores, register_kind
from pifi_probe.kinds.parts.encoding import EncodedSplit, require_offsets
from pifi_probe.kinds.parts.evaluating import batches_of, evaluating
from pifi_probe.kinds.parts.labels import answers
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split
from pifi_probe.kinds.parts.text import normalise
from pifi_probe.kinds.parts.text_metrics import ANSWERING, answer_metrics, answer_scores

__all__ = ["Answers"]

MAX_ANSWER = 30  # tokens, as in the examples of transformers
OVERLAP = 4  # a window shares one part in so many of its length with the next


@dataclass(frozen=True)
class EncodedWindows(EncodedSplit):
    """Windows of contexts; several may belong to one question.

    Parameters
    ----------
    columns, labels
        As `EncodedSplit`; labels are the first and last token of the answer, or 0 twice where it is elsewhere.
    questions : tuple of int
        For each window the number of its question.
    spans : tuple
        For each window and token its (start, end) in the context, (0, 0) for what is not context.
    contexts : tuple of str
        For each question.
    """

    questions: tuple[int, ...] = ()
    spans: tuple[tuple[tuple[int, int], ...], ...] = ()
    contexts: tuple[str, ...] = ()

    def __getitem__(self, row: int) -> dict[str, Any]:
        first, last = self.labels[row]
        return self.inputs(row) | {"start_positions": first, "end_positions": last}


@register_kind
class Answers(Kind):
    """A span of the context."""

    name = "qa"
    layout = Layout(("question",), ("answers", "answer"), pair=("context",), start=("answer_start",))
    head = "question-answering"
    pair = True
    targets = ("start_positions", "end_positions")
    shown = "f1"
    measures = ANSWERING

    @classmethod
    def labelled(cls, row: Row, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Read all answers, each checked against its context."""
        start = None if columns.start is None else values[columns.start]
        return row._replace(label=answers(values[columns.label], start, row.pair or "", origin.where))

    @classmethod
    def wrong_label(cls, split: Split, row: int, n_labels: int) -> str:
        """Refuse answers that do not stand in the context."""
        assert split.pairs is not None
        found, context = split.labels[row], split.pairs[row]
        if not found:
            return "has a question without an answer"
        lost = [text for start, text in found if start < 0 or not text or context[start : start + len(text)] != text]
        return f"has an answer outside of its context: {lost[0]!r}" if lost else ""

    @classmethod
    def keys(cls, texts: Sequence[str], pairs: Sequence[str] | None) -> list[str]:
        """Return the contexts, whatever is asked about them."""
        return [normalise(context) for context in pairs or ()]

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> EncodedWindows:
        """Tokenise (question, context) into windows of `max_tokens` tokens; contexts overlap by a quarter of it.

        A question that leaves a window less than half of its length is cut.

        Raises
        ------
        RecipeError
            If a window has no room for the context.
        """
        assert split.pairs is not None
        require_offsets(tokenizer, "qa")
        room = max_tokens - max_tokens // 2 - tokenizer.num_special_tokens_to_add(pair=True)  # besides any question
        if room < 2:
            raise RecipeError(
                f"max_tokens={max_tokens} leaves no room for a context next to its question",
                where="Recipe(max_tokens=...)",
                next="use 32 or more",
            )
        questions = [_shortened(text, tokenizer, max_tokens // 2) for text in split.texts]
        encoded = tokenizer(
            questions,
            list(split.pairs),
            truncation="only_second",
            max_length=max_tokens,
            stride=min(max_tokens // OVERLAP, room - 1),  # tokens that two windows share
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        rows = [int(row) for row in encoded["overflow_to_sample_mapping"]]
        spans = tuple(
            tuple(
                (int(span[0]), int(span[1])) if part == 1 else (0, 0)
                for span, part in zip(offsets, encoded.sequence_ids(window), strict=True)
            )
            for window, offsets in enumerate(encoded["offset_mapping"])
        )
        labels = tuple(_tokens_of(split.labels[row][0], place) for row, place in zip(rows, spans, strict=True))
        left_out = ("overflow_to_sample_mapping", "offset_mapping")
        columns = {name: column for name, column in dict(encoded).items() if name not in left_out}
        return EncodedWindows(columns, labels, tuple(rows), spans, split.pairs)

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Batch]:
        """Return what pads windows, and moves the answer's place with the padding on the left."""
        pad = super().collate(tokenizer)

        def collated(rows: list[dict[str, Any]]) -> Batch:
            batch: Batch = pad(rows)
            if tokenizer.padding_side == "left":
                width = batch["input_ids"].shape[1]
                moved = torch.tensor([width - len(row["input_ids"]) for row in rows])
                for name in self.targets:
                    batch[name] = batch[name] + moved
            return batch

        return collated

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the mean cross-entropy of start and end in nats, without smoothing, which would teach the padding."""
        pairs = ((outputs.start_logits, "start_positions"), (outputs.end_logits, "end_positions"))
        return torch.stack([nn.functional.cross_entropy(a.float(), targets[name]) for a, name in pairs]).mean()

    def predict(
        self,
        model: PreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> list[str]:
        """Return an answer for each question: the best span over its windows."""
        assert isinstance(split, EncodedWindows)
        best = [(-np.inf, "")] * len(split.contexts)
        left = tokenizer.padding_side == "left"
        with evaluating(model, precision):
            for windows, batch in batches_of(split, self.collate(tokenizer), model.device):
                inputs = {name: value for name, value in batch.items() if name not in self.targets}
                out = model(**inputs)
                starts, ends = (each.float().cpu().numpy() for each in (out.start_logits, out.end_logits))
                for number, window in enumerate(windows):
                    size = len(split.spans[window])
                    kept = slice(-size, None) if left else slice(size)
                    score, text = _best_span(starts[number, kept], ends[number, kept], split, window)
                    best[split.questions[window]] = max(best[split.questions[window]], (score, text))
        return [text for _, text in best]

    def metrics(self, split: Split, predictions: Sequence[str]) -> dict[str, Any]:
        """See `answer_metrics`."""
        return answer_metrics(split.labels, predictions, self.task.language)

    def scores(self, split: Split, predictions: Sequence[str]) -> Scores:
        """See `answer_scores`; F1 first."""
        found = answer_scores(split.labels, predictions, self.task.language)
        return {"f1": found["f1"], "exact_match": found["exact_match"]}

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by F1, then by exact match."""
        return float(metrics["f1"]) + 1e-6 * float(metrics["exact_match"])


def _shortened(question: str, tokenizer: PreTrainedTokenizerBase, n_tokens: int) -> str:
    spans = tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    return question if len(spans) <= n_tokens else question[: spans[n_tokens - 1][1]]


def _tokens_of(answer: tuple[int, str], spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the first and last token of an answer, or 0 twice where it is not whole in this window."""
    start, stop = answer[0], answer[0] + len(answer[1])
    inside = [n for n, (first, last) in enumerate(spans) if first < last and first < stop and last > start]
    if not inside or spans[inside[0]][0] > start or spans[inside[-1]][1] < stop:
        return 0, 0
    return inside[0], inside[-1]


def _best_span(
    starts: NDArray[np.float32], ends: NDArray[np.float32], split: EncodedWindows, window: int
) -> tuple[float, str]:
    """Return the score and text of the best span of a window's context."""
    spans = split.spans[window]
    inside = np.array([first < last for first, last in spans])
    scores = starts[:, None] + ends[None, :]  # (seq, seq)
    allowed = np.triu(np.ones_like(scores, dtype=bool)) & ~np.triu(np.ones_like(scores, dtype=bool), MAX_ANSWER)
    scores = np.where(allowed & inside[:, None] & inside[None, :], scores, -np.inf)
    first, last = np.unravel_index(int(scores.argmax()), scores.shape)
    text = split.contexts[split.questions[window]][spans[first][0] : spans[last][1]]
    return float(scores[first, last]), text.strip()
