"""Tasks from the `datasets` library: a hub id, or a local folder that it can read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pifi_probe.errors import TaskError
from pifi_probe.tasks.columns import MAX_ROWS, Options, Table, build_task
from pifi_probe.tasks.hub_table import HUB_TASKS
from pifi_probe.tasks.layouts import Columns, require_columns
from pifi_probe.tasks.task import SPLIT_NAMES, Task

__all__ = ["named_task", "task_from_hub"]


def task_from_hub(name: str, options: Options, config: str | None = None, revision: str | None = None) -> Task:
    """Load a data set with :func:`datasets.load_dataset` and make it a task.

    Parameters
    ----------
    name : str
        A hub id ``owner/name`` or a local folder of CSV, JSON or parquet files.
    options : Options
        Columns and splits; a string in `validation` or `test` names a split of the data set. Its own splits
        of the names "train", "validation" and "test" are used first; a missing one is carved from "train".
    config, revision : str, optional
        The configuration (as "sst2" of GLUE) and the commit, branch or tag.

    Raises
    ------
    TaskError
        If the data set cannot be had, or its rows make no task.
    """
    dataset = _load(name, config, revision)
    chosen = _choose_splits(list(dataset), options)
    unknown = [split for split in chosen.values() if split not in dataset]
    if unknown:
        raise TaskError(
            f"there is no split {unknown[0]!r}; the splits are: {', '.join(dataset)}",
            where=name,
            next='name an existing one, such as test="validation"',
        )
    roles = options.columns(dataset["train"].column_names, f"{name} (train)")
    tables = {part: _table(dataset[split], f"{name} ({split})", roles) for part, split in chosen.items()}
    licence = str(dataset["train"].info.license or "unknown")
    short = name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    source = "/".join(filter(None, (short if Path(name).is_dir() else name, config)))
    source = f"{source}@{revision}" if revision else source
    return build_task(tables, options, name=short, source=source, licence=licence)


def _choose_splits(present: list[str], options: Options) -> dict[str, str]:
    """Map our splits to those of the data set; one that serves as test is not used for validation too."""
    if options.split is not None:
        return {"train": "train"}
    chosen = {part: part for part in SPLIT_NAMES if part in present}
    named = {part: value for part in ("validation", "test") if isinstance(value := getattr(options, part), str)}
    others = {part: split for part, split in chosen.items() if split not in named.values()}
    return {"train": "train", **others, **named}


def _load(name: str, config: str | None, revision: str | None) -> Any:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        # a folder by its full path: a bare name such as "csv" would mean one of the library's own builders
        path = str(Path(name).resolve()) if Path(name).is_dir() else name
        return datasets.load_dataset(path, config, revision=revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise TaskError(
            f"the data set is unknown, private or gated: {error}",
            where=name,
            next="check the id (owner/name), and log in with `hf auth login` if it is gated",
        ) from error
    except (datasets.exceptions.DatasetsError, HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise TaskError(
            f"the data set could not be loaded: {error}",
            where=name,
            next="check the id, config= and revision=, and the network",
        ) from error


def named_task(name: str, *, seed: int = 0, revision: str | None = None) -> Task:
    """Load a task of :data:`HUB_TASKS`.

    Rows of the test and validation splits whose text is also in an earlier split are dropped, and the task's
    notes say how many.

    Parameters
    ----------
    name : str
        A key of `HUB_TASKS`.
    seed : int
        Another seed carves other splits, where the data set lacks some.
    revision : str, optional
        Commit of the data set.

    Raises
    ------
    TaskError
        If the data set cannot be had, or is not what the table says.
    """
    row = HUB_TASKS[name]
    revision = revision or row.revision
    dataset = _load(row.repo, row.config, revision)
    splits = {part: getattr(row, part) for part in SPLIT_NAMES if getattr(row, part)}
    lost = [split for split in splits.values() if split not in dataset]
    if lost:
        raise TaskError(
            f"the data set has no split {lost[0]!r} any more; its splits are: {', '.join(dataset)}",
            where=f"{name}: {row.repo}",
            next="name an older commit with revision=, or load the repository itself with its columns",
        )
    roles = Columns(row.kind, row.text or None, row.label, row.pair, row.items, group=row.group)
    tables = {}
    for part, split in splits.items():
        rows = dataset[split]
        if row.unlabelled:
            rows = rows.select([number for number, label in enumerate(rows[row.label]) if label != -1])
        tables[part] = _table(rows, f"{row.repo} ({split})", roles, row.classes)
    licence = str(dataset[row.train].info.license or "unknown")
    source = "/".join(filter(None, (row.repo, row.config))) + (f"@{revision}" if revision else "")
    options = Options(seed=seed, language=row.language, drop_overlap=True)
    return build_task(tables, options, name, source, licence)


def _table(dataset: Any, where: str, roles: Columns, classes: tuple[str, ...] = ()) -> Table:
    require_columns(roles.names, dataset.column_names, where)
    if len(dataset) > MAX_ROWS:
        raise TaskError(f"there are more than {MAX_ROWS:,} rows", where=where, next="choose a smaller split")
    columns = {column: list(dataset[column]) for column in roles.names}
    feature = dataset.features[roles.label]
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return Table(where, roles, columns, tuple(names) if names else classes or None)
