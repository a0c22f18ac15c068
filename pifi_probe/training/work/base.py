"""`Work`: from rows to batches, from batches to a loss, and from predictions to scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import DataCollatorWithPadding, PreTrainedTokenizerBase

from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.tasks.task import Split, Task
from pifi_probe.training.data import EncodedSplit
from pifi_probe.training.devices import autocast

__all__ = ["Work", "batches_of", "evaluating"]

Batch = dict[str, torch.Tensor]
Scores = dict[str, NDArray[np.float64]]


class Work(ABC):
    """What training and testing do for one kind of task.

    Parameters
    ----------
    task : Task
        Gives names and language; its rows are not read.
    """

    targets: ClassVar[tuple[str, ...]] = ("labels",)  # of a batch: what the model is not shown
    shown: ClassVar[str] = "accuracy"  # the metric for a progress bar

    def __init__(self, task: Task) -> None:
        self.task = task

    @abstractmethod
    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedSplit:
        """Tokenise a split; texts are cut off after `max_length` tokens, special ones counted."""

    def collate(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], Any]:
        """Return what makes a padded batch of rows of an `EncodedSplit`."""
        collator: Callable[[list[dict[str, Any]]], Any] = DataCollatorWithPadding(tokenizer)
        return collator

    def outputs(self, model: nn.Module, inputs: Batch, targets: Batch) -> Any:
        """Return what the model gives for a batch."""
        return model(**inputs)

    def loss(self, outputs: Any, targets: Batch, smoothing: float) -> torch.Tensor:
        """Return the training loss: the cross-entropy in nats with label smoothing, in float32."""
        return nn.functional.cross_entropy(outputs.logits.float(), targets["labels"], label_smoothing=smoothing)

    @abstractmethod
    def predict(
        self,
        model: PiFiPreTrainedModel,
        split: EncodedSplit,
        tokenizer: PreTrainedTokenizerBase,
        *,
        precision: str = "float32",
        final: bool = True,
    ) -> Any:
        """Return predictions for `metrics` and `scores`; not `final` means validation after an epoch."""

    @abstractmethod
    def metrics(self, split: Split, predictions: Any) -> dict[str, Any]:
        """Return the metrics of a split."""

    @abstractmethod
    def scores(self, split: Split, predictions: Any) -> Scores:
        """Return every row's own scores, shape (N,), for paired comparisons; the first is the main one."""

    @abstractmethod
    def quality(self, metrics: Mapping[str, Any]) -> float:
        """Return what chooses the best epoch; larger is better."""


@contextmanager
def evaluating(model: PiFiPreTrainedModel, precision: str) -> Iterator[None]:
    """Evaluate without gradients within the block; the model's mode comes back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(precision, model.device):
            yield
    finally:
        model.train(was_training)


def batches_of(
    split: EncodedSplit, collate: Callable[[list[dict[str, Any]]], Any], device: torch.device, batch_size: int = 32
) -> Iterator[tuple[Sequence[int], Any]]:
    """Yield row numbers and padded batches with targets, rows of like length together."""
    order = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = [int(row) for row in order[start : start + batch_size]]
        yield rows, {name: value.to(device) for name, value in collate([split[row] for row in rows]).items()}
