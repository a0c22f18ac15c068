"""A task: texts with class labels, in splits that share no text."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pifi_probe.errors import TaskError
from pifi_probe.tasks.text import row_keys

__all__ = ["SPLIT_NAMES", "ShiftReport", "Split", "Task", "shift_view"]

SPLIT_NAMES = ("train", "validation", "test")
MAX_SHIFT_OVERLAP = 0.2


@dataclass(frozen=True, repr=False)
class Split:
    """The rows of one split, column by column.

    Parameters
    ----------
    texts : tuple of str, length n
        The text of each row; the first text of a pair.
    labels : tuple of int, length n
        Class indices into ``Task.label_names``.
    ids : tuple of str, length n
        One identifier per row, unique within the split.
    pairs : tuple of str, length n, optional
        The second text of each row, for tasks of kind "pair".

    Raises
    ------
    TaskError
        If the columns differ in length or an identifier occurs twice.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    ids: tuple[str, ...]
    pairs: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        lengths = {len(column) for column in (self.texts, self.labels, self.ids, self.pairs) if column is not None}
        if len(lengths) != 1:
            raise TaskError(
                f"the columns of a split have different lengths: {sorted(lengths)}",
                next="give one entry per row",
            )
        if len(set(self.ids)) != len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise TaskError("an identifier occurs twice in a split", where=twice, next="give every row its own")

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Split(n={len(self)})"

    @functools.cached_property
    def keys(self) -> tuple[str, ...]:
        """Normalised rows (length n): equal keys mean the same text."""
        return tuple(row_keys(self.texts, self.pairs))

    def take(self, rows: Iterable[int]) -> Split:
        """Return the split with only these rows, in this order."""
        chosen = list(rows)
        return Split(
            texts=tuple(self.texts[row] for row in chosen),
            labels=tuple(self.labels[row] for row in chosen),
            ids=tuple(self.ids[row] for row in chosen),
            pairs=None if self.pairs is None else tuple(self.pairs[row] for row in chosen),
        )


@dataclass(frozen=True, repr=False)
class Task:
    """Texts with class labels.

    Parameters
    ----------
    name : str
        For messages and tables; does not change the fingerprint.
    kind : {"single", "pair"}
        Whether a row has one text or two.
    label_names : tuple of str, length K >= 2
        Names of the classes, in the order of their indices.
    language : str
        Code of the texts' language, such as "en".
    splits : mapping of str to Split
        Some of "train", "validation" and "test"; none of them empty.
    source, licence : str
        Where the texts come from and on what terms.
    notes : tuple of str
        What was done to the rows, one sentence each (for example how many duplicates were dropped).

    Raises
    ------
    TaskError
        If a field contradicts another one.
    """

    name: str
    kind: str
    label_names: tuple[str, ...]
    language: str
    splits: Mapping[str, Split]
    source: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._require(self.kind in ("single", "pair"), f"a task's kind is single or pair, not {self.kind!r}")
        self._require(len(set(self.label_names)) == len(self.label_names), "two classes have the same name")
        self._require(self.n_labels >= 2, f"a task needs at least two classes, this one has {self.n_labels}")
        self._require(bool(self.splits), "a task needs at least one split")
        for name, split in self.splits.items():
            self._require(name in SPLIT_NAMES, f"unknown split {name!r}; splits are {', '.join(SPLIT_NAMES)}")
            self._require(len(split) > 0, f"the {name} split has no rows")
            self._require((split.pairs is not None) == (self.kind == "pair"), f"{name} does not fit a {self.kind} task")
            in_range = min(split.labels) >= 0 and max(split.labels) < self.n_labels
            self._require(in_range, f"the {name} split has a label outside of 0 to {self.n_labels - 1}")

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise TaskError(otherwise, where=self.name, next="correct the task's data")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={len(split)}" for name, split in self.splits.items())
        return f"Task({self.name!r}, {self.kind}, {self.n_labels} classes, {sizes}, language={self.language!r})"

    @property
    def n_labels(self) -> int:
        """Number of classes K."""
        return len(self.label_names)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hexadecimal sha256 over kind, language, classes and rows; name, source and notes do not count."""
        digest = hashlib.sha256()
        digest.update(json.dumps([self.kind, self.language, self.label_names]).encode())
        for name in SPLIT_NAMES:
            if name in self.splits:
                digest.update(f"\n{name}\n".encode())
                split = self.splits[name]
                for row in zip(split.ids, split.texts, split.pairs or split.ids, split.labels, strict=True):
                    digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def subset(
        self, train: int | None = None, validation: int | None = None, test: int | None = None, seed: int = 0
    ) -> Task:
        """Return the task with fewer rows per split, drawn by class and by `seed`.

        Draws are nested: with one seed, the rows of ``subset(train=256)`` are among those of
        ``subset(train=1000)``. Class shares are those of the whole split, to within one row per class. The
        draw is a hash of the identifiers and so the same on every machine and with every library version.

        Parameters
        ----------
        train, validation, test : int, optional
            Rows wanted; a split that is not named stays whole.
        seed : int
            Another seed draws other rows.

        Raises
        ------
        TaskError
            If the split is missing or has fewer rows, or the number is smaller than the number of classes.
        """
        splits = dict(self.splits)
        for name, wanted in (("train", train), ("validation", validation), ("test", test)):
            if wanted is None:
                continue
            available = len(splits[name]) if name in splits else 0
            if not self.n_labels <= wanted <= available:
                raise TaskError(
                    f"{wanted} rows of the {name} split were asked for, it has {available}",
                    where=self.name,
                    next=f"ask for {self.n_labels} (one per class) to {available}" if available else "ask for no rows",
                )
            splits[name] = splits[name].take(sorted(_nested_order(splits[name], seed)[:wanted]))
        return replace(self, splits=splits)


def _nested_order(split: Split, seed: int) -> list[int]:
    """Order all rows so that every prefix has the classes in the split's own shares."""
    draw = sorted(range(len(split)), key=lambda row: hashlib.sha256(f"{seed}\0{split.ids[row]}".encode()).digest())
    sizes, seen, position = Counter(split.labels), Counter[int](), dict[int, float]()
    for row in draw:
        label = split.labels[row]
        position[row] = seen[label] / sizes[label]
        seen[label] += 1
    return sorted(draw, key=lambda row: position[row])


@dataclass(frozen=True)
class ShiftReport:
    """What was dropped to make a fair test of domain shift."""

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
        return (
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
        raise TaskError(f"a {test_task.kind} task cannot test a {train_task.kind} task", where=where)
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
    classes = [train_task.label_names.index(name) for name in test_task.label_names]
    view = test.take(kept)
    view = replace(view, labels=tuple(classes[label] for label in view.labels))
    notes = (*test_task.notes, str(report)) if dropped else test_task.notes
    return replace(test_task, label_names=train_task.label_names, splits={"test": view}, notes=notes), report
