"""Kind "multiple-choice": the question with each of its choices, as many as there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.kinds.base import Batch, Kind, Scores, register_kind
from pifi_probe.kinds.parts.encoding import EncodedSplit
from pifi_probe.kinds.parts.evaluating import batches_of, evaluating
from pifi_probe.kinds.parts.labels import MAX_CHOICES, choices, not_whole
from pifi_probe.kinds.parts.metrics import by_correct_answers
from pifi_probe.kinds.parts.row_metrics import CHOICE, choice_metrics, choice_scores
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split

__all__ = ["Choices"]


class EncodedChoices(EncodedSplit):
    """Rows whose columns hold one list of ints per choice."""

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of each row's longest choice."""
        return [max(map(len, choices)) for choices in self.columns["input_ids"]]

    def flat(self, row: int) -> dict[str, Any]:
        """Return the row's first choice."""
        return {name: column[row][0] for name, column in self.columns.items()}


@register_kind
class Choices(Kind):
    """One of several texts a row."""

    name = "multiple-choice"
    layout = Layout(
        ("question", "ctx", "query", "text"),
        ("label", "answer", "answerKey", "gold"),
        items=("choices", "options", "endings"),
        before=("passage",),
    )
    head = "multiple-choice"
    items = True
    measures = CHOICE

    @classmethod
    def labelled(cls, row: Row, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Read the choices and the index of the right one."""
        assert columns.items is not None
        texts, right = choices(values[columns.items], values[columns.label], origin.where)
        return row._replace(items=texts, label=right)

    @classmethod
    def wrong_label(cls, split: Split, row: int, n_labels: int) -> str:
        """Refuse what is not a whole number among the row's choices."""
        assert split.items is not None
        n_choices, label = len(split.items[row]), split.labels[row]
        if type(label) is not int:
            return not_whole(label)
        if not 2 <= n_choices <= MAX_CHOICES:
            return f"has a row with {n_choices} choices; 2 to {MAX_CHOICES} are possible"
        return "" if 0 <= label < n_choices else f"has an answer {label} outside of the {n_choices} choices"

    @classmethod
    def read(cls, split: Split, row: int) -> tuple[str, str | None]:
        """Return the question with its first choice."""
        assert split.items is not None
        return split.texts[row], split.items[row][0]

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> EncodedSplit:
        """Tokenise (question, choice) pairs; too long ones lose the start of their longer text.

        A question stands at the end of its passage: cutting the end would lose it.
        """
        assert split.items is not None
        sizes = [len(choices) for choices in split.items]
        questions = [text for text, size in zip(split.texts, sizes, strict=True) for _ in range(size)]
        side, tokenizer.truncation_side = tokenizer.truncation_side, "left"
        try:
            flat = tokenizer(
                questions, [one for row in split.items for one in row], truncation=True, max_length=max_tokens
            )
        finally:
            tokenizer.truncation_side = side
        ends = np.cumsum(sizes)
        columns = {
            name: [column[end - size : end] for end, size in zip(ends, sizes, strict=True)]
            for name, column in dict(flat).items()
        }
        return EncodedChoices(columns, split.labels)

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Batch]:
        """Return what pads choices to one length and rows to one number of choices; a missing one is all padding."""

        def collated(rows: list[dict[str, Any]]) -> Batch:
            names = [name for name in rows[0] if name != "labels"]
            most = max(len(row["input_ids"]) for row in rows)
            flat = {name: [one for row in rows for one in row[name]] for name in names}
            padded = tokenizer.pad(flat, return_tensors="pt")
            place = [number * most + one for number, row in enumerate(rows) for one in range(len(row["input_ids"]))]
            batch: Batch = {}
            for name in names:
                fill = tokenizer.pad_token_id if name == "input_ids" else 0
                full = torch.full((len(rows) * most, padded[name].shape[1]), fill, dtype=padded[name].dtype)
                full[place] = padded[name]
                batch[name] = full.view(len(rows), most, -1)
            return batch | {"labels": torch.tensor([row["labels"] for row in rows])}

        return collated

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the cross-entropy with smoothing spread over each row's own choices."""
        logits = outputs.logits.float()  # (batch, n_choices)
        there = logits > torch.finfo(outputs.logits.dtype).min
        log_p = nn.functional.log_softmax(logits, dim=1)
        right = -log_p.gather(1, targets["labels"][:, None])[:, 0]
        even = -log_p.masked_fill(~there, 0).sum(1) / there.sum(1)
        return ((1 - smoothing) * right + smoothing * even).mean()

    def predict(
        self,
        model: PreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> list[NDArray[np.float32]]:
        """Return the logits of each row's choices."""
        found: dict[int, NDArray[np.float32]] = {}
        with evaluating(model, precision):
            for rows, batch in batches_of(split, self.collate(tokenizer), model.device):
                batch.pop("labels")
                logits = model(**batch).logits.float().cpu().numpy()
                for row, scores in zip(rows, logits, strict=True):
                    found[row] = scores[: len(split.columns["input_ids"][row])]
        return [found[row] for row in range(len(split))]

    def metrics(self, split: Split, predictions: Sequence[NDArray[np.float32]]) -> dict[str, Any]:
        """See `choice_metrics`."""
        return choice_metrics(split.labels, predictions)

    def scores(self, split: Split, predictions: Sequence[NDArray[np.float32]]) -> Scores:
        """See `choice_scores`."""
        return choice_scores(split.labels, predictions)

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by correct answers, then by negative log-likelihood."""
        return by_correct_answers(metrics)
