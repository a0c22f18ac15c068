"""Frozen-SLM PiFi: the encoder's vectors are computed once, and only L_in, L_out and the head are trained.

The cheapest trained answer to "does this layer help this encoder on this task?" (book/methods.md, Probes):
hundreds of times cheaper than a full run, because no step passes through the encoder. It leaves out what the
encoder would have learned together with the layer.

All seeds of an arm are trained at once: their projections and heads are stacked, and the layer, which they
share, sees their batches as one. Each seed has streams of its own for its weights, its order of the data and its
dropout, so that its numbers do not depend on which other seeds run next to it, and arms with one seed share
everything but what they compare (common random numbers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn.functional import cross_entropy

from pifi_probe.errors import PlugInError, TaskError, TrainingDiverged
from pifi_probe.plugin.build import N_CALIBRATION
from pifi_probe.plugin.config import WIRINGS, pooled_wirings
from pifi_probe.probing.frozen_arms import Arm, Tail, make_arm, make_tail, stack
from pifi_probe.training.recipe import Recipe

__all__ = ["Arm", "FrozenRun", "Vectors", "frozen_slm", "make_arm"]

LEARNING_RATE = 1e-3
_SCORING_ROWS = 1024  # vectors that pass through the layer at once when nothing is trained


class Vectors:
    """What the encoder gives for some texts, and their labels.

    Parameters
    ----------
    h : array of float, shape (N, d_slm)
        Pooled vectors, as the plug-in would get them.
    labels : array of int, shape (N,)
        Class indices.

    Raises
    ------
    TaskError
        If the shapes do not fit or a vector is NaN or infinite.
    """

    def __init__(self, h: ArrayLike, labels: ArrayLike) -> None:
        self.h: NDArray[np.float32] = np.array(h, dtype=np.float32, order="C")
        self.labels: NDArray[np.int64] = np.asarray(labels, dtype=np.int64)
        if self.h.ndim != 2 or self.labels.shape != self.h.shape[:1]:
            raise TaskError(
                f"vectors of shape {self.h.shape} do not fit labels of shape {self.labels.shape}",
                next="give (rows, width) and one label a row",
            )
        if not np.isfinite(self.h).all():
            row = int(np.flatnonzero(~np.isfinite(self.h).all(axis=1))[0])
            raise TaskError("the encoder's vector is NaN or infinite", where=f"row {row}", next="check the encoder")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: NDArray[np.int64]) -> Vectors:
        """Return these rows only."""
        return Vectors(self.h[rows], self.labels[rows])


@dataclass(frozen=True)
class FrozenRun:
    """The outcome of one arm; S seeds, N scored rows, E epochs.

    Parameters
    ----------
    nll : array of float, shape (S, N)
        Negative log-likelihood of the right class, in nats.
    correct : array of float, shape (S, N)
        1 where the likeliest class is the right one, else 0.
    best_epoch : array of int, shape (S,)
        The epoch whose weights were scored, from 1.
    validation_nll : array of float, shape (S, E)
        Mean over the held-out fifth after each epoch.
    """

    nll: NDArray[np.float64]
    correct: NDArray[np.float64]
    best_epoch: NDArray[np.int64]
    validation_nll: NDArray[np.float64]


def frozen_slm(
    arms: Iterable[Arm],
    train: Vectors,
    score: Vectors,
    *,
    n_labels: int,
    wiring: str = "matched",
    seeds: Sequence[int] = (0, 1, 2),
    epochs: int = 3,
    learning_rate: float = LEARNING_RATE,
    batch_size: int = 32,
    device: str = "cpu",
    on_step: Callable[[], None] | None = None,
) -> list[FrozenRun]:
    """Train every arm on cached vectors and score it, example by example.

    A fifth of the training rows (by class, the same for all arms and seeds) is held out; the epoch with the
    lowest negative log-likelihood on it is scored.

    Parameters
    ----------
    arms : iterable of Arm
        Taken one at a time: a generator keeps one layer in memory.
    train, score : Vectors
        Of one encoder, with no row in common.
    n_labels : int
        Number of classes K.
    wiring : {"pifi", "matched"}
        As in `plug_in`; both take the pooled vector as a sequence of one, so the layer's exact single-token form
        is used. Scales are matched on the first 64 training rows.
    seeds : sequence of int
        Of new weights, order of the data and dropout.
    epochs, batch_size : int
    learning_rate : float
        Of projections and head alike: with a frozen encoder there is nothing that a large step could spoil.
    device : str
    on_step : callable, optional
        Called before every training step; what it raises ends the training.

    Returns
    -------
    list of FrozenRun
        In the order of `arms`.

    Raises
    ------
    PlugInError
        If the wiring is unknown, the widths do not fit, or an arm was made for other seeds.
    TaskError
        If there are too few training rows, or a label is out of range.
    TrainingDiverged
        If an arm's loss becomes NaN or infinite.

    Notes
    -----
    Adam without weight decay, constant learning rate, label smoothing as in `Recipe`, no clipping. The same
    numbers again on one machine with one number of threads. Source: book/methods.md, Probes.
    """
    if wiring not in pooled_wirings():
        raise PlugInError(
            f"the wiring {wiring!r} feeds no pooled vector" if wiring in WIRINGS else f"unknown wiring {wiring!r}",
            where="wiring",
            next=f"use one of {', '.join(pooled_wirings())}; for aligned chains pp.probe_chain",
        )
    _check_rows(train, score, n_labels)
    held = _held_out(train.labels)
    fit, validation = train.take(np.flatnonzero(~held)), train.take(np.flatnonzero(held))
    runs = []
    calibration = torch.from_numpy(train.h[:N_CALIBRATION]).to(device)
    for arm in arms:
        _check_seeds(arm, seeds)
        tails = [make_tail(arm, calibration, n_labels, wiring, seed, place) for place, seed in enumerate(seeds)]
        model = stack(tails, arm, seeds).to(device)
        steps = _Steps(seeds, epochs, batch_size, on_step)
        best_epoch, history = _train(model, fit, validation, steps, learning_rate, arm.label)
        runs.append(_scored(_logits(model, score, len(seeds)), score.labels, best_epoch, history))
    return runs


@dataclass(frozen=True)
class _Steps:
    """In which steps an arm is trained."""

    seeds: Sequence[int]
    epochs: int
    batch_size: int
    on_step: Callable[[], None] | None


def _train(
    model: Tail, fit: Vectors, validation: Vectors, steps: _Steps, learning_rate: float, label: str
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Train all seeds and leave each with the weights of its best epoch."""
    trained = [p for p in model.parameters() if p.requires_grad]  # each has the seed as its first axis
    device, n_seeds, epochs = trained[0].device, len(steps.seeds), steps.epochs
    h, labels = torch.from_numpy(fit.h).to(device), torch.from_numpy(fit.labels).to(device)
    optimizer = torch.optim.Adam(trained, lr=learning_rate, fused=device.type in ("cpu", "cuda"))
    orders = [np.random.default_rng([seed, 0]) for seed in steps.seeds]
    smoothing = Recipe().label_smoothing
    best = [p.detach().clone() for p in trained]
    history = np.empty((n_seeds, epochs))
    for epoch in range(epochs):
        model.train()
        for rows in _batches(len(fit), steps.batch_size, orders):  # (S, batch)
            if steps.on_step is not None:
                steps.on_step()
            rows = rows.to(device)
            logits = model(h[rows].flatten(0, 1))  # (S * batch, K)
            loss = cross_entropy(logits, labels[rows].flatten(), label_smoothing=smoothing)
            optimizer.zero_grad()
            (n_seeds * loss).backward()  # the sum over seeds: no weight is in two of its terms
            optimizer.step()
        history[:, epoch] = _nll(_logits(model, validation, n_seeds), validation.labels).mean(axis=1)
        if not np.isfinite(history[:, epoch]).all():
            raise TrainingDiverged(
                f"the loss became NaN or infinite in epoch {epoch + 1}", where=label, next="lower the learning rate"
            )
        improved = torch.from_numpy(history[:, epoch] < history[:, :epoch].min(axis=1, initial=np.inf)).to(device)
        for kept, p in zip(best, trained, strict=True):
            kept[improved] = p.detach()[improved]
    with torch.no_grad():
        for kept, p in zip(best, trained, strict=True):
            p.copy_(kept)
    return history.argmin(axis=1) + 1, history


def _batches(n: int, batch_size: int, orders: Sequence[np.random.Generator]) -> Iterator[torch.Tensor]:
    """Yield the rows of each batch, (S, batch), every seed in its own order."""
    order = torch.from_numpy(np.stack([rng.permutation(n) for rng in orders]))
    yield from order.split(batch_size, dim=1)


@torch.no_grad()
def _logits(model: Tail, vectors: Vectors, n_seeds: int) -> NDArray[np.float64]:
    """Return the logits of all rows under every seed, (S, N, K)."""
    model.eval()
    device = next(model.head.parameters()).device
    blocks = []
    for rows in torch.from_numpy(vectors.h).split(max(1, _SCORING_ROWS // n_seeds)):
        logits = model(rows.to(device).repeat(n_seeds, 1))  # (S * rows, K)
        blocks.append(logits.view(n_seeds, len(rows), -1).cpu().double())
    return torch.cat(blocks, dim=1).numpy()


def _nll(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    from scipy.special import log_softmax

    return -log_softmax(logits, axis=-1)[:, np.arange(len(labels)), labels]


def _scored(
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    best_epoch: NDArray[np.int64],
    history: NDArray[np.float64],
) -> FrozenRun:
    correct = (logits.argmax(axis=-1) == labels).astype(np.float64)
    return FrozenRun(_nll(logits, labels), correct, best_epoch, history)


def _held_out(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark every fifth row of the rows sorted by class, in an order drawn once for all: a fifth of each class."""
    order = np.lexsort((np.random.default_rng(0).random(len(labels)), labels))
    held = np.zeros(len(labels), dtype=bool)
    held[order[2::5]] = True
    return held


def _check_seeds(arm: Arm, seeds: Sequence[int]) -> None:
    if len(arm.layers) > 1 and len(arm.layers) != len(seeds):
        raise PlugInError(
            f"the arm holds {len(arm.layers)} layers and there are {len(seeds)} seeds",
            where=arm.label,
            next="make the arm with the same seeds",
        )


def _check_rows(train: Vectors, score: Vectors, n_labels: int) -> None:
    if train.h.shape[1] != score.h.shape[1]:
        raise PlugInError(
            f"training vectors have width {train.h.shape[1]}, scored ones {score.h.shape[1]}",
            where="frozen_slm",
            next="make both with one encoder",
        )
    if len(train) < 5 * n_labels or len(score) < 1:
        raise TaskError(
            f"{len(train)} training rows and {len(score)} scored rows are too few for {n_labels} classes",
            where="frozen_slm",
            next=f"give at least {5 * n_labels} training rows: a fifth of them is held out",
        )
    for labels in (train.labels, score.labels):
        if labels.min() < 0 or labels.max() >= n_labels:
            raise TaskError(
                f"a label lies outside of 0 to {n_labels - 1}", where="frozen_slm", next="correct n_labels or labels"
            )
