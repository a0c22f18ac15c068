"""Tasks from the `datasets` library: a hub id, or a local folder that it can read."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pifi_probe.errors import TaskError
from pifi_probe.kinds import Columns
from pifi_probe.tasks.columns import MAX_ROWS, Options, Table, build_task
from pifi_probe.tasks.from_file import FILE_TYPES, file_type, read_files
from pifi_probe.tasks.hub_table import HUB_TASKS
from pifi_probe.tasks.layouts import require_columns
from pifi_probe.tasks.task import SPLIT_NAMES, Task

__all__ = ["named_task", "task_from_hub"]

RolesOf = Callable[[Sequence[str]], Columns]


def task_from_hub(name: str, options: Options, config: str | None = None, revision: str | None = None) -> Task:
    """Find a data set with the `datasets` library and make it a task.

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
    chosen = _choose_splits(dataset.splits, options)
    unknown = [split for split in chosen.values() if split not in dataset.splits]
    if unknown:
        raise TaskError(
            f"there is no split {unknown[0]!r}; the splits are: {', '.join(dataset.splits)}",
            where=name,
            next='name an existing one, such as test="validation"',
        )
    train = dataset.table("train", lambda present: options.columns(present, f"{name} (train)"), f"{name} (train)")
    tables = {
        part: train if split == "train" else dataset.table(split, lambda _: train.roles, f"{name} ({split})")
        for part, split in chosen.items()
    }
    short = name.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    source = "/".join(filter(None, (short if Path(name).is_dir() else name, config)))
    source = f"{source}@{revision}" if revision else source
    return build_task(tables, options, name=short, source=source, licence=dataset.licence)


def _choose_splits(present: list[str], options: Options) -> dict[str, str]:
    """Map our splits to those of the data set; one that serves as test is not used for validation too."""
    if options.split is not None:
        return {"train": "train"}
    chosen = {part: part for part in SPLIT_NAMES if part in present}
    named = {part: value for part in ("validation", "test") if isinstance(value := getattr(options, part), str)}
    others = {part: split for part, split in chosen.items() if split not in named.values()}
    return {"train": "train", **others, **named}


class _Files:
    """A data set whose files the library has found, and which are read as single files are.

    Only what is asked for is downloaded. The library's own readers make numbers, dates and missing values of texts.
    """

    def __init__(self, name: str, builder: Any) -> None:
        self.name, self.builder = name, builder
        self.splits = [str(split) for split in builder.config.data_files]
        self.licence = str(builder.info.license or "unknown")

    def table(self, split: str, roles_of: RolesOf, where: str) -> Table:
        """Return the rows of a split."""
        import datasets

        config = datasets.DownloadConfig(token=self.builder.token, storage_options=self.builder.storage_options or {})
        manager = datasets.DownloadManager(dataset_name=self.builder.dataset_name, download_config=config)
        with _explained(self.name):
            paths = manager.download(list(self.builder.config.data_files[split]))
        table = read_files([Path(path) for path in paths], roles_of, where)
        stated = _class_names((self.builder.info.features or {}).get(table.roles.label))
        return replace(table, class_names=table.class_names or stated)


class _Loaded:
    """A data set that the library has read: files of other kinds, or with settings of their own."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.splits = [str(split) for split in dataset]
        self.licence = str(next(iter(dataset.values())).info.license or "unknown")

    def table(self, split: str, roles_of: RolesOf, where: str) -> Table:
        """Return the rows of a split."""
        rows = self.dataset[split]
        roles = roles_of(rows.column_names)
        require_columns(roles.names, rows.column_names, where)
        if len(rows) > MAX_ROWS:
            raise TaskError(f"there are more than {MAX_ROWS:,} rows", where=where, next="choose a smaller split")
        columns = {column: list(rows[column]) for column in roles.names}
        return Table(where, roles, columns, _class_names(rows.features[roles.label]))


def _class_names(feature: Any) -> tuple[str, ...] | None:
    names = getattr(getattr(feature, "feature", feature), "names", None)
    return tuple(names) if names else None


def _load(name: str, config: str | None, revision: str | None) -> _Files | _Loaded:
    import datasets

    # a folder by its full path: a bare name such as "csv" would mean one of the library's own builders
    path = str(Path(name).resolve()) if Path(name).is_dir() else name
    with _explained(name):
        builder = datasets.load_dataset_builder(path, config, revision=revision)
        if _is_read_here(builder.config):
            return _Files(name, builder)
        as_written = {"keep_default_na": False} if hasattr(builder.config, "keep_default_na") else {}
        return _Loaded(datasets.load_dataset(path, config, revision=revision, **as_written))


def _is_read_here(config: Any) -> bool:
    """Whether all files are of a kind that is read here, and the data set asks for nothing else than their kind."""
    files = [str(file) for split in (config.data_files or {}).values() for file in split]
    plain, found = type(config)(), dataclasses.fields(config)
    own = {"name", "version", "data_dir", "data_files", "description"}
    asked = {field.name for field in found if getattr(config, field.name) != getattr(plain, field.name)} - own
    tabs = all(file_type(Path(file)) == ".tsv" for file in files) and getattr(config, "sep", "") == "\t"
    return (
        bool(files)
        and not asked - ({"sep"} if tabs else set())
        and all(file_type(Path(file)) in FILE_TYPES for file in files)
    )


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say in words why a data set cannot be had."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except TaskError:
        raise
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
    lost = [split for split in splits.values() if split not in dataset.splits]
    if lost:
        raise TaskError(
            f"the data set has no split {lost[0]!r} any more; its splits are: {', '.join(dataset.splits)}",
            where=f"{name}: {row.repo}",
            next="name an older commit with revision=, or load the repository itself with its columns",
        )
    roles = Columns(row.kind, row.text or None, row.label, row.pair, row.items, group=row.group)
    tables = {}
    for part, split in splits.items():
        table = dataset.table(split, lambda _: roles, f"{row.repo} ({split})")
        tables[part] = replace(table, class_names=table.class_names or row.classes or None)
    source = "/".join(filter(None, (row.repo, row.config))) + (f"@{revision}" if revision else "")
    options = Options(seed=seed, language=row.language, drop_overlap=True, drop_unlabelled=row.unlabelled)
    return build_task(tables, options, name, source, dataset.licence)
