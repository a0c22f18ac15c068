"""A task: texts with labels, in splits that share no text."""

from __future__ import annotations

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pifi_probe.errors import TaskError
from pifi_probe.escaping import one_line
from pifi_probe.kinds import KINDS, Kind, Split, fits

__all__ = ["SPLIT_NAMES", "Split", "Task", "nested_order"]

SPLIT_NAMES = ("train", "validation", "test")


@dataclass(frozen=True, repr=False)
class Task:
    """Texts with labels.

    Parameters
    ----------
    name : str
        For messages and tables; does not change the fingerprint.
    kind : str
        What a row and its label are: a key of `pifi_probe.kinds.KINDS`; see `Split`.
    label_names : tuple of str, length K >= 2
        Names of the classes, in the order of their indices; empty for kinds without classes.
    language : str
        Code of the texts' language, such as "en"; for a translation, both: "en-de".
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
        self._require(self.kind in KINDS, f"a task's kind is one of {', '.join(KINDS)}, not {self.kind!r}")
        kind = self._kind
        self._require(len(set(self.label_names)) == len(self.label_names), "two classes have the same name")
        if kind.classes:
            self._require(self.n_labels >= 2, f"a task needs at least two classes, this one has {self.n_labels}")
        else:
            self._require(not self.label_names, f"a {self.kind} task has no classes")
        self._require(bool(self.splits), "a task needs at least one split")
        for name, split in self.splits.items():
            self._require(name in SPLIT_NAMES, f"unknown split {name!r}; splits are {', '.join(SPLIT_NAMES)}")
            self._require(len(split) > 0, f"the {name} split has no rows")
            self._check_split(name, split, kind)

    def _check_split(self, name: str, split: Split, kind: type[Kind]) -> None:
        self._require(fits(kind, split), f"{name} does not fit a {self.kind} task")
        for row in range(len(split)):
            wrong = kind.wrong_label(split, row, self.n_labels)
            self._require(not wrong, f"the {name} split {wrong} (row {split.ids[row]})" if wrong else "")

    def _require(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise TaskError(otherwise, where=self.name, next="correct the task's data")

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name}={len(split)}" for name, split in self.splits.items())
        classes = f"{self.n_labels} classes, " if self.label_names else ""
        return f"Task({self.name!r}, {one_line(self.kind)}, {classes}{one_line(sizes)}, language={self.language!r})"

    @property
    def n_labels(self) -> int:
        """Number of classes K; 0 for kinds without classes."""
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
                items = () if split.items is None else (split.items,)
                columns = (split.ids, split.texts, split.pairs or split.ids, split.labels, *items)
                for row in zip(*columns, strict=True):
                    digest.update(json.dumps(row).encode() + b"\n")
        return digest.hexdigest()

    def subset(
        self,
        train: int | None = None,
        validation: int | None = None,
        test: int | None = None,
        seed: int = 0,
        *,
        per_class: int | None = None,
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
        per_class : int, optional
            Instead of `train`: as many training rows of every class, whatever the classes' shares; nested, too.

        Raises
        ------
        TaskError
            If a class has fewer rows, or rows have no class; if the split is missing or has fewer rows, or the
            number is smaller than the number of classes.
        """
        splits = dict(self.splits)
        if per_class is not None:
            splits["train"] = self._of_every_class(per_class, train, seed)
        for name, wanted in (("train", train), ("validation", validation), ("test", test)):
            if wanted is None:
                continue
            available = len(splits[name]) if name in splits else 0
            least = max(1, self.n_labels) if self.has_row_classes else 1
            if not least <= wanted <= available:
                raise TaskError(
                    f"{wanted} rows of the {name} split were asked for, it has {available}",
                    where=self.name,
                    next=f"ask for {least} (one per class) to {available}" if available else "ask for no rows",
                )
            strata = self._kind.strata(splits[name].labels)
            splits[name] = splits[name].take(sorted(_nested_order(splits[name], strata, seed)[:wanted]))
        return replace(self, splits=splits)

    def _of_every_class(self, wanted: int, train: int | None, seed: int) -> Split:
        """Return as many training rows of every class."""
        if train is not None or not self.has_row_classes or "train" not in self.splits:
            lacks = "needs a train split whose rows have one class"
            what = "is given together with train" if train is not None else lacks
            raise TaskError(f"per_class {what}", where=self.name, next="give train=, the number of all rows, alone")
        split = self.splits["train"]
        counts = Counter(split.labels)
        rarest = min(range(self.n_labels), key=lambda label: counts[label])
        if not 1 <= wanted <= counts[rarest]:
            raise TaskError(
                f"{wanted} rows of every class were asked for, and {self.label_names[rarest]} has {counts[rarest]}",
                where=f"{self.name}, train",
                next=f"ask for 1 to {counts[rarest]}" if counts[rarest] else "leave the class out of the task",
            )
        seen = Counter[Any]()
        chosen = []
        for row in _nested_order(split, split.labels, seed):
            seen[split.labels[row]] += 1
            if seen[split.labels[row]] <= wanted:
                chosen.append(row)
        return split.take(sorted(chosen))

    @property
    def _kind(self) -> type[Kind]:
        return KINDS[self.kind]

    @property
    def has_row_classes(self) -> bool:
        """Whether every row has one class, so that shares of classes mean something."""
        return self._kind.row_classes

    def held_out(self, *groups: str) -> Task:
        """Return the task with the rows of these groups as its test split and without them elsewhere.

        Parameters
        ----------
        groups : str
            Among the ``Split.groups`` of this task, such as the names of exams.

        Returns
        -------
        Task
            All other rows are divided into "train" and "validation" (10 %, by a hash of the identifiers; rows of
            equal texts, of questions those of equal contexts, go to one of them). Those whose text is also held out are
            left out, and a note says how many.

        Raises
        ------
        TaskError
            If the task has no groups, or no row is in one of these groups, or none is in another.
        """
        rows = [(name, row) for name in self.splits for row in range(len(self.splits[name]))]
        known = {group for split in self.splits.values() for group in split.groups or ()}
        unknown = sorted(set(groups) - known)
        if not groups or unknown or known == set(groups):
            raise TaskError(
                f"{', '.join(unknown or groups) or 'nothing'} cannot be held out",
                where=self.name,
                next=f"name some, not all, of: {', '.join(sorted(known))}" if known else "load it with group=",
            )
        keys = {name: self._kind.keys(split.texts, split.pairs) for name, split in self.splits.items()}
        held = [(name, row) for name, row in rows if (self.splits[name].groups or ("",) * (row + 1))[row] in groups]
        tested, inside = {keys[name][row] for name, row in held}, set(held)
        parts: dict[str, list[tuple[str, int]]] = {"train": [], "validation": [], "test": held}
        first: dict[str, str] = {}  # the identifier that decides for all rows of a text
        n_left_out = 0
        for name, row in rows:
            key = keys[name][row]
            if (name, row) in inside:
                continue
            if key in tested:
                n_left_out += 1
                continue
            draw = hashlib.sha256(f"held out:{first.setdefault(key, self.splits[name].ids[row])}".encode()).digest()[0]
            parts["validation" if draw < 26 else "train"].append((name, row))  # 26 of 256
        notes = [f"{n_left_out} rows left out: their text is also held out"] if n_left_out else []
        splits = {part: _gathered(self.splits, chosen) for part, chosen in parts.items()}
        return replace(self, splits=splits, notes=(*self.notes, *notes))


def _gathered(splits: Mapping[str, Split], rows: Iterable[tuple[str, int]]) -> Split:
    """Return rows of several splits as one split; identifiers get the name of their split where they clash."""
    chosen = list(rows)
    ids = [splits[name].ids[row] for name, row in chosen]
    if len(set(ids)) != len(ids):
        ids = [f"{name}:{splits[name].ids[row]}" for name, row in chosen]
    first = next(iter(splits.values()))

    def column(field: str) -> Any:
        return tuple(getattr(splits[name], field)[row] for name, row in chosen)

    optional = {field: column(field) for field in ("pairs", "items", "groups") if getattr(first, field) is not None}
    return Split(texts=column("texts"), labels=column("labels"), ids=tuple(ids), **optional)


def nested_order(draw: Sequence[int], strata: Sequence[Any]) -> list[int]:
    """Order rows so that every prefix has the strata (the classes) in their own shares; within one, as drawn."""
    sizes, seen, position = Counter(strata), Counter[Any](), dict[int, float]()
    for row in draw:
        label = strata[row]
        position[row] = seen[label] / sizes[label]
        seen[label] += 1
    return sorted(draw, key=lambda row: position[row])


def _nested_order(split: Split, strata: Sequence[Any], seed: int) -> list[int]:
    """Order all rows by `nested_order`, in a draw that depends on their identifiers."""
    draw = sorted(range(len(split)), key=lambda row: hashlib.sha256(f"{seed}\0{split.ids[row]}".encode()).digest())
    return nested_order(draw, strata)
