"""Kind "multi-label": any number of labels a row, each of which applies or does not.

What a probability must reach for its label to apply is chosen on the validation split, for each label, after every
epoch; the thresholds of the best epoch are part of the trained model's configuration, and tests are read with them.
"""

from __future__ import annotations

import ast
import io
import json
import tokenize
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.errors import TaskError
from pifi_probe.kinds.base import Batch, Kind, Scores, TaskFacts, register_kind
from pifi_probe.kinds.parts.encoding import EncodedSplit, encode
from pifi_probe.kinds.parts.evaluating import predict_logits
from pifi_probe.kinds.parts.label_metrics import HALF, LABELLING, best_thresholds, label_metrics, label_scores
from pifi_probe.kinds.parts.labels import class_name, in_order, is_missing, not_whole, yes_or_no
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split

__all__ = ["Flags", "MultiLabel"]

MAX_WRITTEN = 100_000  # characters of a list that is written as text


class Flags(NamedTuple):
    """What is predicted of N rows and K labels.

    Parameters
    ----------
    logits : array of float32, shape (N, K)
    thresholds : array of float64, shape (K,), or None
        Probabilities from which on labels apply. None: to be chosen on these rows, which is for validation alone.
    """

    logits: NDArray[np.float32]
    thresholds: NDArray[np.float64] | None


@register_kind
class MultiLabel(Kind):
    """Any number of labels a row; the loss is the mean binary cross-entropy of all labels."""

    name = "multi-label"
    layout = Layout(("text", "sentence"), ("labels",), by_name=True, several=True)
    head = "sequence-classification"
    classes = True
    pair = None
    shown = "micro_f1"
    measures = LABELLING

    @classmethod
    def labelled(cls, row: Row, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Read the names of the labels that apply, from a column of each or from one of all."""
        if columns.labels:
            found = [name for name in columns.labels if yes_or_no(values[name], origin.column(name))]
            return row._replace(label=tuple(found))
        at = origin.column(columns.label)
        given = _listed(values[columns.label], origin.separator, at)
        names = [class_name(each, False, origin.class_names, at) for each in given]
        return row._replace(label=in_order(names))

    @classmethod
    def wrong_label(cls, split: Split, row: int, n_labels: int) -> str:
        """Refuse what is not a tuple of different whole numbers below the number of labels."""
        labels = split.labels[row]
        if not isinstance(labels, tuple):
            return f"has labels that are a {type(labels).__name__}, not a tuple of whole numbers"
        if wrong := next((not_whole(label) for label in labels if type(label) is not int), ""):
            return wrong
        if len(set(labels)) < len(labels):
            return "has a label twice in a row"
        return "" if all(0 <= label < n_labels for label in labels) else f"has a label outside of 0 to {n_labels - 1}"

    @classmethod
    def unlabelled(cls, label: object) -> bool:
        """Tell an empty list, which is a row to which no label applies, from a row that nobody has labelled."""
        return is_missing(label) and label != []

    @classmethod
    def strata(cls, labels: Sequence[Any]) -> Sequence[Hashable]:
        """Count a row as the rarest of its labels, so that rare ones are in every split."""
        counts = Counter(label for row in labels for label in row)
        return [min(row, key=lambda label: (counts[label], label), default=-1) for row in labels]

    @classmethod
    def model_settings(cls, task: TaskFacts) -> dict[str, Any]:
        """One output a label, each read by itself."""
        return {**super().model_settings(task), "problem_type": "multi_label_classification"}

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_tokens: int) -> EncodedSplit:
        """Tokenise texts, or pairs; the labels of a row become K zeros and ones."""
        return replace(encode(split, tokenizer, max_tokens), labels=tuple(self._truth(split).tolist()))

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the mean binary cross-entropy in nats; smoothing s makes 1 to 1 - s/2, and 0 to s/2."""
        truth = targets["labels"].float() * (1 - smoothing) + smoothing / 2
        return nn.functional.binary_cross_entropy_with_logits(outputs.logits.float(), truth)

    def predict(
        self,
        model: PreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> Flags:
        """Return logits, with the thresholds of the model's configuration; 0.5 where it has none."""
        logits = predict_logits(model, split, tokenizer, precision=precision)
        if not final:
            return Flags(logits, None)
        known = getattr(model.config, "thresholds", None) or ()
        if len(known) != logits.shape[1]:  # none were chosen, or for another head
            known = [HALF] * logits.shape[1]
        return Flags(logits, np.array(known, dtype=np.float64))

    def metrics(self, split: Split, predictions: Flags) -> dict[str, Any]:
        """See `label_metrics`; with the ``thresholds``."""
        truth, chosen = self._truth(split), self._thresholds(split, predictions)
        return {**label_metrics(truth, predictions.logits, chosen), "thresholds": chosen.tolist()}

    def scores(self, split: Split, predictions: Flags) -> Scores:
        """See `label_scores`."""
        return label_scores(self._truth(split), predictions.logits, self._thresholds(split, predictions))

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by macro F1, then by negative log-likelihood."""
        return float(metrics["macro_f1"]) + 1e-6 / (1 + float(metrics["nll"]))

    def settle(self, model: PreTrainedModel, epoch: Mapping[str, Any]) -> None:
        """Keep the thresholds that validation has chosen."""
        model.config.thresholds = list(epoch["thresholds"])

    def _truth(self, split: Split) -> NDArray[np.float64]:
        truth = np.zeros((len(split), len(self.task.label_names)))
        for row, labels in enumerate(split.labels):
            truth[row, list(labels)] = 1.0
        return truth

    def _thresholds(self, split: Split, predictions: Flags) -> NDArray[np.float64]:
        if predictions.thresholds is not None:
            return predictions.thresholds
        return best_thresholds(self._truth(split), predictions.logits)


def _with_commas(text: str) -> str:
    """Put a comma between values that only white space divides, as numpy writes them; Python would join two texts."""
    made: list[str] = []
    before = tokenize.OP
    for kind, token, *_ in tokenize.generate_tokens(io.StringIO(text).readline):
        if kind in (tokenize.NL, tokenize.NEWLINE, tokenize.ENDMARKER):
            continue
        values = (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)
        made += [","] * (kind in values and before in values) + [token]
        before = kind
    return " ".join(made)


def _listed(value: object, separator: str, at: str) -> list[Any]:
    """Return the labels of a row as a list; they may be written as one, or stand between separators."""
    if isinstance(value, str) and value.strip().startswith("["):
        value = _read_list(value.strip(), at)
    elif isinstance(value, str) and (found := _python_group(value.strip())) is not None:
        value = found
    elif isinstance(value, str) and not is_missing(value):
        parts = value.split(separator) if separator else [value]
        value = [part.strip() for part in parts if part.strip()]
    if MultiLabel.unlabelled(value):
        raise TaskError(
            "the labels are missing",
            where=at,
            next="write [] where no label applies, or remove the row: drop_unlabelled=True leaves out such rows",
        )
    if not isinstance(value, list):
        raise TaskError(
            f"the labels are a {type(value).__name__}, not a list",
            where=at,
            next='give a list such as ["sad", "angry"], or a text such as sad|angry; one class a row is kind="single"',
        )
    return value


def _python_group(text: str) -> list[Any] | None:
    """Read a tuple or a set of texts or numbers as Python writes it; None for any other text, such as (other)."""
    if text[:1] + text[-1:] not in ("()", "{}") or len(text) > MAX_WRITTEN:
        return None
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return list(found) if isinstance(found, tuple | set) else None


def _read_list(text: str, at: str) -> object:
    """Read a list as JSON, or as Python or numpy writes it, of which pandas makes a column of texts."""
    try:
        if len(text) <= MAX_WRITTEN:
            try:
                return json.loads(text)
            except ValueError:
                return ast.literal_eval(_with_commas(text))
    except (ValueError, SyntaxError, RecursionError, MemoryError, tokenize.TokenError):
        pass
    raise TaskError(f"{text[:60]!r} is not a list of labels", where=at, next='write it as ["sad", "angry"]')
