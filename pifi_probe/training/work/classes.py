"""Kinds "single", "pair" and "regression": one label a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.tasks.metrics import classification_metrics, per_example
from pifi_probe.tasks.row_metrics import rating_metrics, rating_scores
from pifi_probe.tasks.task import Split
from pifi_probe.training.data import EncodedSplit, encode, predict_logits
from pifi_probe.training.work.base import Batch, Scores, Work

__all__ = ["Classes", "Ratings", "by_correct_answers"]


def by_correct_answers(metrics: Mapping[str, Any]) -> float:
    """Order by correct answers, then by negative log-likelihood."""
    return float(round(metrics["accuracy"] * metrics["n"]) + 1 / (1 + metrics["nll"]))


class Classes(Work):
    """One class a row."""

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedSplit:
        """Tokenise texts, or pairs."""
        return encode(split, tokenizer, max_length)

    def predict(
        self,
        model: PiFiPreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> NDArray[np.float32]:
        """Return logits, shape (N, K)."""
        return predict_logits(model, split, tokenizer, precision=precision)

    def metrics(self, split: Split, predictions: Any) -> dict[str, Any]:
        """See `classification_metrics`."""
        return classification_metrics(split.labels, predictions)

    def scores(self, split: Split, predictions: Any) -> Scores:
        """Return ``accuracy`` (0 or 1) and ``nll`` of every row."""
        rows = per_example(split.labels, predictions)
        return {"accuracy": rows["correct"].astype(np.float64), "nll": rows["nll"]}

    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Order by correct answers, then by negative log-likelihood."""
        return by_correct_answers(metrics)


class Ratings(Classes):
    """One number a row; the loss is the squared error, without smoothing."""

    shown = "squared_error"

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
