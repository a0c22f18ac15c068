"""Kind "single": one class a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pifi_probe.errors import RecipeError
from pifi_probe.kinds.base import Batch, OneOutput, Scores, register_kind
from pifi_probe.kinds.parts.labels import class_name, not_whole
from pifi_probe.kinds.parts.metrics import CLASSIFICATION, by_correct_answers, classification_metrics, per_example
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split

__all__ = ["Classes"]


@register_kind
class Classes(OneOutput):
    """One class a row."""

    name = "single"
    layout = Layout(("text", "sentence"), ("label",))
    head = "sequence-classification"
    classes = row_classes = True
    measures = CLASSIFICATION
    weights: torch.Tensor | None = None  # (K,), float32: of each class in the loss

    def weigh(self, weights: str | Sequence[float], labels: Sequence[Any]) -> None:
        """Weigh the classes in the training loss: equally, inversely to their number, or with the given weights."""
        names = self.task.label_names
        if weights == "balanced":
            counts = np.bincount(labels, minlength=len(names))
            # A class without a row has no term in the loss, whatever its weight.
            weights = (len(labels) / (len(names) * np.maximum(counts, 1))).tolist()
        if isinstance(weights, str):
            return
        if len(weights) != len(names):
            raise RecipeError(
                f"{len(weights)} class weights for {len(names)} classes ({', '.join(names)})",
                where="recipe, class_weights",
                next="give one number for each class, in this order",
            )
        self.weights = torch.tensor(weights, dtype=torch.float32)

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the cross-entropy in nats with label smoothing; with weights, their weighted mean over the batch."""
        logits = outputs.logits.float()
        weights = None if self.weights is None else self.weights.to(logits.device)
        return nn.functional.cross_entropy(logits, targets["labels"], weight=weights, label_smoothing=smoothing)

    @classmethod
    def labelled(cls, row: Row, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Read the name of the class."""
        at = origin.column(columns.label)
        return row._replace(label=class_name(values[columns.label], origin.numbers, origin.class_names, at))

    @classmethod
    def wrong_label(cls, split: Split, row: int, n_labels: int) -> str:
        """Refuse what is not a whole number below the number of classes."""
        label = split.labels[row]
        if type(label) is not int:
            return not_whole(label)
        return "" if 0 <= label < n_labels else f"has a label outside of 0 to {n_labels - 1}"

    def metrics(self, split: Split, predictions: Any) -> dict[str, Any]:
        """See `classification_metrics`."""
        return classification_metrics(split.labels, predictions)

    def scores(self, split: Split, predictions: Any) -> Scores:
        """Return ``accuracy`` (0 or 1) and ``nll`` of every row."""
        rows = per_example(split.labels, predictions)
        return {"accuracy": rows["correct"].astype(np.float64), "nll": rows["nll"]}

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by correct answers, with class weights by macro F1; then by negative log-likelihood."""
        if self.weights is not None:
            return float(round(metrics["macro_f1"] * metrics["n"]) + 1 / (1 + metrics["nll"]))
        return by_correct_answers(metrics)
