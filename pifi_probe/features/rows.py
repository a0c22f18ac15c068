"""Which rows of a task are scored: the one place that draws them."""

from __future__ import annotations

from pifi_probe.errors import TaskError
from pifi_probe.tasks.task import Split, Task

__all__ = ["refuse_test_split", "scoring_rows"]


def scoring_rows(task: Task, n: int | None = 1000, split: str = "train", seed: int = 0) -> Split:
    """Draw the rows that a scoring or search function may see.

    Parameters
    ----------
    task : Task
    n : int, optional
        Rows wanted, drawn by class; draws of one `seed` are nested (see `Task.subset`). None: the whole split.
    split : {"train", "validation"}
        Never the test split: a layer that was chosen on it would be tested on what it was chosen by.
    seed : int
        Another seed draws other rows.

    Returns
    -------
    Split

    Raises
    ------
    TaskError
        If the task has no class for each row, the test split is asked for, or the split is missing or has fewer
        rows.
    """
    if not task.has_row_classes:
        raise TaskError(
            f"layers are scored by one class a row, and this task is of kind {task.kind!r}",
            where=task.name,
            next="compare layers on it by training: pp.plug_in, pp.fine_tune and pp.compare",
        )
    refuse_test_split(split, task.name)
    if split not in task.splits:
        usable = [name for name in task.splits if name != "test"]
        raise TaskError(
            f"the task has no split {split!r} to score layers on",
            where=task.name,
            next=f"use one of {', '.join(usable)}" if usable else "load the task with a train split",
        )
    if n is None:
        return task.splits[split]
    return task.subset(**{split: n}, seed=seed).splits[split]


def refuse_test_split(split: str, where: str) -> None:
    """Raise TaskError if it is the test split."""
    if split == "test":
        raise TaskError(
            "the test split cannot be used to score or choose layers: its result would then no longer be held out",
            where=where,
            next='use split="train" or "validation", and test the chosen layer once with pp.fine_tune',
        )
