"""From text to tasks: texts, classes and splits that share no text."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from pifi_probe.errors import TaskError
from pifi_probe.files import existing
from pifi_probe.kinds import KINDS
from pifi_probe.tasks.columns import Options
from pifi_probe.tasks.embedded import EMBEDDED, task_from_asset
from pifi_probe.tasks.from_file import FILE_TYPES, file_type, task_from_file
from pifi_probe.tasks.from_hub import named_task, task_from_hub
from pifi_probe.tasks.hub_table import HUB_TASKS
from pifi_probe.tasks.rated import RATED
from pifi_probe.tasks.shift import ShiftReport, shift_view
from pifi_probe.tasks.task import Split, Task

__all__ = ["EMBEDDED", "HUB_TASKS", "KINDS", "RATED", "ShiftReport", "Split", "Task", "load_task", "shift_view"]


def load_task(
    name_or_path: str | Path,
    *,
    text: str = "text",
    label: str | Sequence[str] = "label",
    pair: str | None = None,
    items: str | None = None,
    group: str | None = None,
    kind: str | None = None,
    split: str | None = None,
    validation: float | str = 0.1,
    test: float | str = 0.2,
    seed: int = 0,
    language: str = "en",
    config: str | None = None,
    revision: str | None = None,
    allow_overlap: bool = False,
    drop_overlap: bool = False,
    drop_unlabelled: bool = False,
) -> Task:
    """Load a task.

    Parameters
    ----------
    name_or_path : str or Path
        An embedded task (a key of `EMBEDDED`, such as ``movie-reviews``), a named task of the hub (a key of
        `HUB_TASKS`, such as ``sst2``), a file (``.csv``, ``.tsv``, ``.jsonl``, ``.jsonl.gz``, ``.parquet``), a
        local folder that `datasets` reads, or a hub id ``owner/name``. Embedded and named tasks have fixed
        columns, splits and language; named ones take `seed` and `revision`, embedded ones nothing.
    text, label, pair : str
        Columns of the text, the label (for classes strings, whole numbers or booleans) and the second text. What
        is not named is looked for under its usual names; see `pifi_probe.tasks.layouts`. Several columns of labels, as
        a list or ``"sad,angry"``: each says with 1 or 0 whether its label applies, and the kind is "multi-label".
    items : str, optional
        Column of the choices, or of the words.
    group : str, optional
        Column of what a row belongs to: carved splits share no group. See `Task.held_out`.
    kind : str, optional
        A key of `KINDS`, such as "single" or "qa"; inferred from the columns, except "regression" and "multi-label"
        with one column, which must be named. That column holds lists, or texts whose labels are separated by ``|``,
        ``;`` or ``,`` (the first of them that occurs in the file).
    split : str, optional
        A column that says "train", "validation" or "test".
    validation, test : float or str
        A share of the training rows, carved by class and by a hash of the text when the source has no such
        split of its own; or the name of another file (of another split, for a hub id).
    seed : int
        Another seed carves other splits.
    language : str
        Code of the texts' language.
    config, revision : str, optional
        Configuration and commit of a hub data set.
    allow_overlap : bool
        Accept given splits that share texts (normalised) with another split.
    drop_overlap : bool
        Drop rows of given test and validation splits whose text is also in an earlier split (or twice in their
        own), and say so in the task's notes.
    drop_unlabelled : bool
        Leave out rows whose label is missing or -1, which marks labels that are hidden (of ratings: where all are
        -1), in any of the columns of labels, and say so in the task's notes. A test or validation split that has no
        other rows is carved from the training rows.

    Returns
    -------
    Task

    Raises
    ------
    TaskError
        If nothing has this name, or the data make no task; the message names file, line or row, and column.
    AssetError
        If an embedded task cannot be fetched.

    Examples
    --------
    >>> load_task("reviews.csv", text="review", label="stars", seed=1)  # doctest: +SKIP
    >>> load_task("nyu-mll/glue", config="mrpc", text="sentence1", pair="sentence2")  # doctest: +SKIP
    """
    name = str(name_or_path)
    options = Options(
        text=text,
        label=label if isinstance(label, str) else _names(label),
        pair=pair,
        split=split,
        validation=validation,
        test=test,
        seed=seed,
        language=language,
        allow_overlap=allow_overlap,
        kind=kind,
        items=items,
        group=group,
        drop_overlap=drop_overlap,
        drop_unlabelled=drop_unlabelled,
    )
    if name in EMBEDDED:
        if options != Options() or config is not None or revision is not None:
            raise TaskError(
                "an embedded task has fixed columns, splits and language",
                where=name,
                next="load it by its name alone, and use Task.subset for fewer rows",
            )
        return task_from_asset(name)
    if name in HUB_TASKS:
        if replace(options, seed=0) != Options() or config is not None:
            raise TaskError(
                "a named task has fixed columns, splits and language",
                where=name,
                next=f"load it by its name, or name columns of the repository {HUB_TASKS[name].repo!r}",
            )
        return named_task(name, seed=seed, revision=revision)
    path = existing(name)
    if file_type(Path(name)) in FILE_TYPES or (path and path.is_file()):
        return task_from_file(path or Path(name), options)
    if path or name.count("/") == 1:
        return task_from_hub(name, options, config=config, revision=revision)
    near = difflib.get_close_matches(name, [*EMBEDDED, *HUB_TASKS], n=1)
    raise TaskError(
        "no task, file or folder has this name",
        where=name,
        next=f"did you mean {near[0]!r}?" if near else f"use {', '.join(EMBEDDED)}, a file, or a hub id owner/name",
    )


def _names(label: Sequence[str]) -> tuple[str, ...]:
    """Return several names; what is not a list of them is left as it is, for `Options` to refuse."""
    return tuple(label) if isinstance(label, list | tuple) else cast(tuple[str, ...], label)
