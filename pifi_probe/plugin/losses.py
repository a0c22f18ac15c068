"""Losses of the heads: means over a batch or, when gradients are accumulated, over all batches of a step.

A model returns them when it is called with labels, as by transformers' own Trainer. `pifi_probe.fine_tune` calls it
without labels and minimises `pifi_probe.kinds.Kind.loss`, which knows label smoothing and class weights; without these
both are the same number.
"""

from __future__ import annotations

import torch
from torch import nn

from pifi_probe.errors import PlugInError
from pifi_probe.kinds.base import IGNORED

__all__ = ["IGNORED", "cross_entropy", "sequence_loss", "span_loss"]


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
) -> torch.Tensor:
    """Return the cross-entropy in nats per label; the classes are the last dimension.

    Parameters
    ----------
    logits : Tensor, (..., n_classes)
    labels : Tensor, (...), int64
        -100 where there is no label. A batch without any label has a loss of 0.
    num_items_in_batch : int or Tensor, optional
        Number of labels that the sum is divided by: those of all batches between two steps of the optimiser, as
        ``transformers.Trainer`` counts them, so that the gradients of several small batches add up to those of one
        large batch. By default the labels of this batch.
    """
    flat, classes = logits.float().flatten(0, -2), labels.to(logits.device).flatten()
    total = nn.functional.cross_entropy(flat, classes, ignore_index=IGNORED, reduction="sum")
    return _divided(total, (classes != IGNORED).sum(), num_items_in_batch)


def _divided(total: torch.Tensor, here: torch.Tensor | int, given: torch.Tensor | int | None = None) -> torch.Tensor:
    count = here if given is None else given
    return total / (count.to(total.device).clamp_min(1) if isinstance(count, torch.Tensor) else count)


def sequence_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    problem_type: str | None,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Return the loss of a head on whole texts.

    Parameters
    ----------
    logits : Tensor, (batch, n_labels)
    labels : Tensor
        (batch,), int64: classes. (batch,) or (batch, n_labels), float: numbers, or 0 and 1 for each label.
    problem_type : str or None
        As in transformers: ``"regression"`` (mean squared error), ``"single_label_classification"`` (cross-entropy)
        or ``"multi_label_classification"`` (binary cross-entropy). None: regression for one output, else by the
        type of the labels.
    num_items_in_batch : int or Tensor, optional
        See `cross_entropy`.

    Raises
    ------
    PlugInError
        If the shapes of logits and labels do not fit.
    """
    labels = labels.to(logits.device)
    if problem_type is None:
        classes = "multi_label_classification" if labels.is_floating_point() else "single_label_classification"
        problem_type = "regression" if logits.shape[-1] == 1 else classes
    if problem_type == "single_label_classification":
        return cross_entropy(logits, labels, num_items_in_batch)
    if problem_type == "regression" and logits.shape[-1] == 1:
        labels = labels.reshape(-1, 1)
    if labels.shape != logits.shape:
        raise PlugInError(
            f"{problem_type} with {logits.shape[-1]} outputs needs labels of shape {tuple(logits.shape)}, "
            f"got {tuple(labels.shape)}",
            where="labels",
            next='give one number for each output, or set model.config.problem_type = "single_label_classification"',
        )
    outputs, targets = logits.float(), labels.float()
    if problem_type == "regression":
        total = nn.functional.mse_loss(outputs, targets, reduction="sum")
    else:
        total = nn.functional.binary_cross_entropy_with_logits(outputs, targets, reduction="sum")
    return _divided(total, targets.numel(), num_items_in_batch)


def span_loss(
    start: torch.Tensor,
    end: torch.Tensor,
    start_positions: torch.Tensor,
    end_positions: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
) -> torch.Tensor:
    """Return the mean of the cross-entropies of an answer's first and last token, in nats.

    Parameters
    ----------
    start, end : Tensor, (batch, seq)
        Logits.
    start_positions, end_positions : Tensor, (batch,) or (batch, 1), int64
        -100, or a position that was cut off, where there is none.
    num_items_in_batch : int or Tensor, optional
        See `cross_entropy`; the answers of all batches of a step.
    """
    losses = []
    for logits, positions in ((start, start_positions), (end, end_positions)):
        places = positions.to(logits.device).reshape(-1)
        places = places.masked_fill(places >= logits.shape[1], IGNORED)
        losses.append(cross_entropy(logits, places, num_items_in_batch))
    return torch.stack(losses).mean()
