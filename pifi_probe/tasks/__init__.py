"""From text to tasks: texts, classes and splits that share no text."""

from __future__ import annotations

import difflib
from pathlib import Path

from pifi_probe.errors import TaskError
from pifi_probe.tasks.columns import Options
from pifi_probe.tasks.from_file import FILE_TYPES, task_from_file
from pifi_probe.tasks.from_hub import task_from_hub
from pifi_probe.tasks.rated import RATED, task_from_asset
from pifi_probe.tasks.task import ShiftReport, Split, Task, shift_view

__all__ = ["RATED", "ShiftReport", "Split", "Task", "load_task", "shift_view"]


def load_task(
    name_or_path: str | Path,
    *,
    text: str = "text",
    label: str = "label",
    pair: str | None = None,
    split: str | None = None,
    validation: float | str = 0.1,
    test: float | str = 0.2,
    seed: int = 0,
    language: str = "en",
    config: str | None = None,
    revision: str | None = None,
    allow_overlap: bool = False,
) -> Task:
    """Load a task.

    Parameters
    ----------
    name_or_path : str or Path
        An embedded task (``movie-reviews``, ``tweets``, ``product-reviews``, ``news-editorials``), a file
        (``.csv``, ``.tsv``, ``.jsonl``, ``.parquet``), a local folder that `datasets` reads, or a hub id
        ``owner/name``. Embedded tasks have fixed columns, splits and language, and take no further argument.
    text, label, pair : str
        Columns of the text, the class (strings, whole numbers or booleans) and, for pairs, the second text.
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

    Returns
    -------
    Task

    Raises
    ------
    TaskError
        If nothing has this name, or the data make no task; the message names file, row and column.
    AssetError
        If an embedded task cannot be fetched.

    Examples
    --------
    >>> load_task("reviews.csv", text="review", label="stars", seed=1)  # doctest: +SKIP
    >>> load_task("nyu-mll/glue", config="mrpc", text="sentence1", pair="sentence2")  # doctest: +SKIP
    """
    name = str(name_or_path)
    options = Options(text, label, pair, split, validation, test, seed, language, allow_overlap)
    if name in RATED:
        if options != Options() or config is not None or revision is not None:
            raise TaskError(
                "an embedded task has fixed columns, splits and language",
                where=name,
                next="load it by its name alone, and use Task.subset for fewer rows",
            )
        return task_from_asset(name)
    path = Path(name).expanduser()
    if path.suffix.lower() in FILE_TYPES or path.is_file():
        return task_from_file(path, options)
    if path.is_dir() or name.count("/") == 1:
        return task_from_hub(name, options, config=config, revision=revision)
    near = difflib.get_close_matches(name, RATED, n=1)
    raise TaskError(
        "no task, file or folder has this name",
        where=name,
        next=f"did you mean {near[0]!r}?" if near else f"use {', '.join(RATED)}, a file, or a hub id owner/name",
    )
