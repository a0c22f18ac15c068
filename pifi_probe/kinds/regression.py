"""Kind "regression": one number a row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from pifi_probe.kinds.base import Batch, OneOutput, Scores, TaskFacts, register_kind
from pifi_probe.kinds.parts.labels import is_minus_one, rating
from pifi_probe.kinds.parts.row_metrics import RATING, rating_metrics, rating_scores
from pifi_probe.kinds.parts.rows import Columns, Layout, Origin, Row, Split

__all__ = ["Ratings"]


@register_kind
class Ratings(OneOutput):
    """One number a row; the loss is the squared error, without smoothing."""

    name = "regression"
    layout = Layout(("text", "sentence1"), ("label", "rating", "score"), pair=("sentence2",), by_name=True)
    head = "sequence-classification"
    pair = None
    shown = "squared_error"
    measures = RATING

    @classmethod
    def labelled(cls, row: Row, values: Mapping[str, object], columns: Columns, origin: Origin) -> Row:
        """Read a number."""
        return row._replace(label=rating(values[columns.label], origin.column(columns.label)))

    @classmethod
    def wrong_label(cls, split: Split, row: int, n_labels: int) -> str:
        """Refuse what is not a finite number."""
        label = split.labels[row]
        if not isinstance(label, int | float):
            return f"has a rating that is a {type(label).__name__}, not a number"
        return "" if math.isfinite(label) else "has a rating that is not a finite number"

    @classmethod
    def hides_minus_one(cls, labels: Sequence[object]) -> bool:
        """-1 is a rating like others, unless all rows have it."""
        return all(map(is_minus_one, labels))

    @classmethod
    def model_settings(cls, task: TaskFacts) -> dict[str, Any]:
        """One output, read as a number."""
        return {"num_labels": 1, "problem_type": "regression"}

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the mean squared error."""
        return nn.functional.mse_loss(outputs.logits[:, 0].float(), targets["labels"].float())

    def metrics(self, split: Split, predictions: Any) -> dict[str, Any]:
        """See `rating_metrics`."""
        return rating_metrics(split.labels, predictions[:, 0])

    def scores(self, split: Split, predictions: Any) -> Scores:
        """See `rating_scores`."""
        return rating_scores(split.labels, predictions[:, 0])

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by squared error."""
        return -float(metrics["squared_error"])
