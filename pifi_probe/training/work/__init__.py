"""What training and testing do for each kind of task, one file a kind."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pifi_probe.tasks.task import Task
from pifi_probe.training.work.answers import Answers
from pifi_probe.training.work.base import Work
from pifi_probe.training.work.choices import Choices
from pifi_probe.training.work.classes import Classes, Ratings
from pifi_probe.training.work.tags import Tags
from pifi_probe.training.work.writing import Writing

__all__ = ["KINDS_OF_WORK", "Work", "work_of"]

KINDS_OF_WORK: Mapping[str, type[Work]] = MappingProxyType(
    {
        "single": Classes,
        "pair": Classes,
        "regression": Ratings,
        "multiple-choice": Choices,
        "qa": Answers,
        "token-classification": Tags,
        "seq2seq": Writing,
    }
)


def work_of(task: Task) -> Work:
    """Return what training and testing do for a task."""
    return KINDS_OF_WORK[task.kind](task)
