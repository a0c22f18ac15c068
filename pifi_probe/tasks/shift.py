"""Domain shift: the test split of one task for a model that was trained on another."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from pifi_probe.errors import TaskError
from pifi_probe.escaping import one_line
from pifi_probe.kinds import KINDS
from pifi_probe.tasks.task import Task

__all__ = ["ShiftReport", "shift_view"]

MAX_SHIFT_OVERLAP = 0.2


@dataclass(frozen=True)
class ShiftReport:
    """What was dropped to make a fair test of domain shift.

    Parameters
    ----------
    test_name, train_name : str
        Of the two tasks.
    n_before : int
        Test rows that there were.
    n_dropped : int
        Those whose text the model was trained on.
    example : str, optional
        The first of these texts.
    """

    test_name: str
    train_name: str
    n_before: int
    n_dropped: int
    example: str | None = None

    @property
    def share(self) -> float:
        """Share of the test rows that were dropped, in [0, 1]."""
        return self.n_dropped / self.n_before

    def __str__(self) -> str:
        return one_line(
            f"{self.n_dropped} of {self.n_before} test texts of {self.test_name} ({self.share:.1%}) "
            f"also occur in the training data of {self.train_name} and were dropped"
        )


def shift_view(test_task: Task, train_task: Task) -> tuple[Task, ShiftReport]:
    """Return the test split of one task, made ready for a model trained on another.

    Rows whose text equals (normalised) a text of the training or validation split of `train_task` are
    dropped, and labels are mapped by name to the classes of `train_task`.

    Parameters
    ----------
    test_task : Task
        Gives the test split.
    train_task : Task
        What the model was trained on.

    Returns
    -------
    view : Task
        Only a "test" split, with the label names of `train_task`.
    report : ShiftReport
        How many rows were dropped, and one of them.

    Raises
    ------
    TaskError
        If kinds or label names disagree, or more than 20 % of the rows would be dropped: then the two tasks
        are not two domains.
    """
    where = f"{test_task.name} as a shift test of {train_task.name}"
    if test_task.kind != train_task.kind:
        raise TaskError(
            f"a {test_task.kind} task cannot test a {train_task.kind} task",
            where=where,
            next=f"give another task of kind {train_task.kind}",
        )
    unknown = [name for name in test_task.label_names if name not in train_task.label_names]
    if unknown:
        raise TaskError(
            f"label names disagree: {', '.join(unknown)} not among {', '.join(train_task.label_names)}",
            where=where,
            next="rename the labels of one task so that equal names mean equal classes",
        )
    if "test" not in test_task.splits:
        raise TaskError("the task has no test split", where=where, next="load it with a test split")
    test = test_task.splits["test"]
    seen = {
        key for name in ("train", "validation") if name in train_task.splits for key in train_task.splits[name].keys
    }
    kept = [row for row, key in enumerate(test.keys) if key not in seen]
    dropped = sorted(set(range(len(test))) - set(kept))
    report = ShiftReport(
        test_task.name, train_task.name, len(test), len(dropped), test.texts[dropped[0]] if dropped else None
    )
    if report.share > MAX_SHIFT_OVERLAP:
        raise TaskError(
            f"{report.n_dropped} of {report.n_before} test texts ({report.share:.0%}) are training texts",
            where=where,
            next=f"choose a task that shares at most {MAX_SHIFT_OVERLAP:.0%} of its texts",
        )
    view = test.take(kept)
    if KINDS[test_task.kind].classes:
        classes = [train_task.label_names.index(name) for name in test_task.label_names]
        view = replace(view, labels=tuple(_mapped(label, classes) for label in view.labels))
    notes = (*test_task.notes, str(report)) if dropped else test_task.notes
    return replace(test_task, label_names=train_task.label_names, splits={"test": view}, notes=notes), report


def _mapped(label: Any, classes: list[int]) -> Any:
    """Return the class, or the classes of a row's words, as the training task numbers them."""
    return classes[label] if isinstance(label, int) else tuple(classes[one] for one in label)
