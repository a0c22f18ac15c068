"""The regime of the encoder: as it comes, or after a little plain fine-tuning."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from transformers import PreTrainedModel

from pifi_probe.errors import TaskError
from pifi_probe.layers.tokenizer import GivenTokenizer
from pifi_probe.plugin.build import plug_in
from pifi_probe.tasks.task import Split, Task
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.run import fine_tune

__all__ = ["other_rows", "warm_encoder"]


def other_rows(task: Task, scored: Split, n: int | None, seed: int) -> Split:
    """Draw training rows that are not scored, blind to labels; all of them, or the first `n` of the draw."""
    train, taken = task.splits["train"], set(scored.ids)
    free = [row for row in range(len(train)) if train.ids[row] not in taken]
    order = np.random.default_rng([seed, 7]).permutation(len(free))
    return train.take(free[one] for one in order[:n])


def warm_encoder(
    slm: str | PreTrainedModel,
    task: Task,
    scored: Split,
    epochs: float,
    *,
    wiring: str,
    max_tokens: int,
    tokenizer: GivenTokenizer | None = None,
    seed: int,
) -> tuple[PreTrainedModel, str]:
    """Fine-tune encoder and head for a while, with nothing plugged in.

    Parameters
    ----------
    slm : str or PreTrainedModel
        Left as it is.
    task : Task
    scored : Split
        Rows that must not be trained on.
    epochs : float
        Above 0; of the whole training split. A quarter means a quarter of its rows, once.
    wiring : {"pifi", "matched"}
        For the pooling.
    max_tokens : int
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        As in `plug_in`.
    seed : int

    Returns
    -------
    PreTrainedModel
        The encoder.
    str
        What was done.

    Raises
    ------
    TaskError
        If too few training rows are left.

    Notes
    -----
    One training row in ten is held out to choose the epoch; validation and test split of the task are not read.
    Raw vectors are weak and fully tuned ones separable, so that every score of them saturates (book/methods.md,
    Probes).
    """
    rest = other_rows(task, scored, None, seed)
    n_checked = len(rest) // 10
    usable = len(rest) - n_checked
    steps = round(epochs * len(task.splits["train"]))
    passes = max(1, math.ceil(steps / max(usable, 1)))
    n = min(usable, round(steps / passes))
    if n_checked < 1 or n < task.n_labels:
        raise TaskError(
            f"{len(rest)} training rows are left to warm up on, and {steps} steps of one row were asked for",
            where=task.name,
            next="score fewer rows, or use another warm_up",
        )
    checked, fitted = rest.take(range(n_checked)), rest.take(range(n_checked, n_checked + n))
    view = replace(task, splits={"train": fitted, "validation": checked, "test": checked})
    model = plug_in(slm, None, task=view, control="vanilla", wiring=wiring, seed=seed, tokenizer=tokenizer)
    fine_tune(model, view, Recipe(epochs=passes, seed=seed, max_tokens=max_tokens))
    times = "once" if passes == 1 else f"{passes} times, the best epoch of them"
    regime = f"warm: vanilla fine-tuning for {epochs:g} epochs ({n} training rows, {times}; none of them scored)"
    return model.encoder, regime
