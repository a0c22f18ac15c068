"""Kind "seq2seq": a text in, a text out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.errors import TaskError
from pifi_probe.kinds.base import IGNORED, Batch, Kind, Scores, register_kind, smoothed_loss
from pifi_probe.kinds.parts.encoding import EncodedSplit
from pifi_probe.kinds.parts.evaluating import batches_of, evaluating
from pifi_probe.kinds.parts.labels import checked_text
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split
from pifi_probe.kinds.parts.text_metrics import WRITING, written_metrics, written_scores

__all__ = ["Writing", "Written"]


N_BEAMS = 4


@dataclass(frozen=True)
class Written:
    """What was predicted.

    Parameters
    ----------
    nll : array, shape (N,)
        Nats per token of each target.
    tokens : array of int, shape (N,)
        Tokens of each target.
    texts : tuple of str
        What the model wrote; empty during validation.
    """

    nll: NDArray[np.float64]
    tokens: NDArray[np.int64]
    texts: tuple[str, ...] = ()


@register_kind
class Writing(Kind):
    """A text for each text. Validation scores the given targets; only the test writes, with 4 beams."""

    name = "seq2seq"
    layout = Layout(("text", "source", "article"), ("target", "summary", "highlights"))
    head = "conditional-generation"
    shown = "nll"
    measures = WRITING

    @classmethod
    def labelled(cls, row: Row, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Read the text that is to be written."""
        value = values[columns.label]
        if value is None or (isinstance(value, str) and not value.strip()):
            raise TaskError(
                "the target is empty",
                where=origin.column(columns.label),
                next="remove the row or fill in the target",
            )
        return row._replace(label=checked_text(value, columns.label, origin.where))

    @classmethod
    def wrong_label(cls, split: Split, row: int, n_labels: int) -> str:
        """Refuse what is not text."""
        label = split.labels[row]
        if not isinstance(label, str):
            return f"has a target that is a {type(label).__name__}, not a text"
        return "" if label.strip() else "has an empty target"

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> EncodedSplit:
        """Tokenise texts and targets, both cut off after `max_tokens` tokens."""
        encoded = dict(tokenizer(list(split.texts), truncation=True, max_length=max_tokens))
        targets = tokenizer(text_target=list(split.labels), truncation=True, max_length=max_tokens)["input_ids"]
        return EncodedSplit(encoded, tuple(targets))

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Batch]:
        """Return what pads texts on the tokenizer's side, and targets on the right with -100."""
        pad = super().collate(tokenizer)

        def collated(rows: list[dict[str, Any]]) -> Batch:
            inputs = pad([{name: value for name, value in row.items() if name != "labels"} for row in rows])
            targets = [torch.tensor(row["labels"]) for row in rows]
            return {**inputs, "labels": pad_sequence(targets, batch_first=True, padding_value=IGNORED)}

        return collated

    def outputs(self, model: nn.Module, inputs: Batch, targets: Batch) -> Any:
        """Return logits (batch, target_seq, vocabulary), given the target's earlier tokens."""
        writer: Any = model
        shifted = writer.prepare_decoder_input_ids_from_labels(targets["labels"])
        return model(**inputs, decoder_input_ids=shifted)

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the cross-entropy in nats per token, with label smoothing."""
        return smoothed_loss(outputs.logits, targets["labels"], smoothing)

    def predict(
        self,
        model: PreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> Written:
        """Score the given targets and, in the end, write, up to 8 tokens more than the longest target has."""
        nll, tokens = np.zeros(len(split)), np.zeros(len(split), dtype=np.int64)
        texts = [""] * len(split)
        longest = max(len(ids) for ids in split.labels)
        with evaluating(model, precision):
            for rows, batch in batches_of(split, self.collate(tokenizer), model.device):
                labels = batch.pop("labels")
                logits = self.outputs(model, batch, {"labels": labels}).logits.float().transpose(1, 2)
                losses = nn.functional.cross_entropy(logits, labels, reduction="none")  # (batch, target_seq)
                tokens[rows] = [len(split.labels[row]) for row in rows]
                nll[rows] = losses.sum(1).cpu().numpy() / tokens[rows]
                if final:
                    ids = model.generate(**batch, num_beams=N_BEAMS, max_new_tokens=longest + 8)
                    for row, text in zip(rows, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                        texts[row] = text.strip()
        return Written(nll, tokens, tuple(texts) if final else ())

    def metrics(self, split: Split, predictions: Written) -> dict[str, Any]:
        """Return ``nll`` (nats per token of all targets) and, of what was written, see `written_metrics`."""
        mean = float((predictions.nll * predictions.tokens).sum() / predictions.tokens.sum())
        values = {"nll": mean, "n": len(split)}
        if not predictions.texts:
            return values
        return values | written_metrics(split.labels, predictions.texts, self.task.language)

    def scores(self, split: Split, predictions: Written) -> Scores:
        """Return ``chrf`` of what was written and ``nll`` per token, of every row."""
        return {**written_scores(split.labels, predictions.texts), "nll": predictions.nll}

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by negative log-likelihood per token: writing after every epoch would take longer than training."""
        return -float(metrics["nll"])
