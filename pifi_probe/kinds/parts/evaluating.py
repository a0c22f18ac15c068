"""From a model and rows to predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.devices import autocast
from pifi_probe.kinds.parts.encoding import EncodedSplit

__all__ = ["batches_of", "evaluating", "predict_logits"]

_BATCH = 32


@contextmanager
def evaluating(model: PreTrainedModel, precision: str) -> Iterator[None]:
    """Evaluate without gradients within the block; the model's mode comes back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), autocast(precision, model.device):
            yield
    finally:
        model.train(was_training)


def batches_of(
    split: EncodedSplit, collate: Callable[[list[dict[str, Any]]], Any], device: torch.device
) -> Iterator[tuple[Sequence[int], Any]]:
    """Yield row numbers and padded batches with targets, rows of like length together."""
    order = np.argsort(split.lengths, kind="stable")
    for start in range(0, len(order), _BATCH):
        rows = [int(row) for row in order[start : start + _BATCH]]
        yield rows, {name: value.to(device) for name, value in collate([split[row] for row in rows]).items()}


def predict_logits(
    model: PreTrainedModel,
    split: EncodedSplit,
    tokenizer: PreTrainedTokenizerBase,
    *,
    batch_size: int = 64,
    precision: str = "float32",
) -> NDArray[np.float32]:
    """Return the logits of all rows, in the order of the rows.

    Parameters
    ----------
    model : PreTrainedModel
        Left in the mode (training or evaluation) it was in.
    split : EncodedSplit
    tokenizer : PreTrainedTokenizerBase
        Pads the batches.
    batch_size : int
    precision : {"float32", "bf16"}

    Returns
    -------
    array of float32, shape (n, n_labels)
    """
    collate = DataCollatorWithPadding(tokenizer)
    order = np.argsort(split.lengths, kind="stable")  # neighbours of like length: little padding
    logits = np.empty((len(split), model.config.num_labels), dtype=np.float32)
    with evaluating(model, precision):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            batch = collate([split.inputs(int(row)) for row in rows]).to(model.device)
            logits[rows] = model(**batch).logits.float().cpu().numpy()
    return logits
