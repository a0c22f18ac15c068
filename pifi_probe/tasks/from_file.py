"""Tasks from CSV, TSV, JSONL and parquet files, read with bounded memory per line."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from pifi_probe.errors import TaskError
from pifi_probe.files import existing
from pifi_probe.kinds import Columns as Roles
from pifi_probe.tasks.columns import MAX_ROWS, MAX_TEXT, Options, Table, build_task
from pifi_probe.tasks.layouts import require_columns
from pifi_probe.tasks.task import Task

__all__ = ["FILE_TYPES", "file_type", "read_files", "read_texts", "task_from_file"]

MAX_LINE = 8 * MAX_TEXT  # bytes: a text of MAX_TEXT characters may need several bytes each
MAX_FILE = 4 << 30  # bytes
MAX_LINES = 4 * MAX_ROWS  # empty ones too: a compressed file may hold billions of them

Columns = dict[str, list[object]]
Lines = list[int]  # of the file, on which each row starts
Choose = Callable[[Sequence[str]], Sequence[str]]  # from the columns there are to those to read


def task_from_file(path: Path, options: Options) -> Task:
    """Read a task from one file, or from one file per split where an option names a file.

    Parameters
    ----------
    path : Path
        ``.csv`` (comma, double quotes, header line), ``.tsv`` (tab, no quoting, header line), ``.jsonl`` (one
        object per line, also ``.jsonl.gz``) or ``.parquet``; text is UTF-8.
    options : Options
        Columns and splits; a string in `validation` or `test` is a file of the same kinds.

    Raises
    ------
    TaskError
        If a file cannot be read or its rows make no task.
    """
    files = {"train": path}
    for part, value in (("validation", options.validation), ("test", options.test)):
        if isinstance(value, str):
            files[part] = existing(value) or Path(value)
    train = _read(path, lambda present: options.columns(present, path.name))
    tables = {part: train if file is path else _read(file, lambda _: train.roles) for part, file in files.items()}
    source = ", ".join(file.name for file in files.values())
    return build_task(tables, options, name=path.name.split(".")[0], source=source)


def file_type(path: Path) -> str:
    """Return the extension in lower case; ``.jsonl.gz`` is one."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(suffixes) if suffixes[-1:] == [".gz"] else "".join(suffixes[-1:])


def read_files(paths: Sequence[Path], roles_of: Callable[[Sequence[str]], Roles], where: str) -> Table:
    """Read several files, at least one, of the same columns as one table; parameters as of `Table`."""
    first = _read(paths[0], roles_of)
    if len(paths) == 1:
        return replace(first, where=where)
    tables = [first, *(_read(path, lambda _: first.roles) for path in paths[1:])]
    if len({table.class_names for table in tables}) > 1:
        raise TaskError(
            "the files name different classes", where=where, next="write them again, with the same features"
        )
    columns = {name: [value for table in tables for value in table.columns[name]] for name in first.columns}
    return Table(where, first.roles, columns, first.class_names)


def read_texts(path: Path, column: str = "text") -> list[str]:
    """Read texts alone: a column of a file that a task could be read from, or of a ``.txt`` file each line.

    Raises
    ------
    TaskError
        If the file cannot be read, has no such column, or a value is not a text.
    """
    if file_type(path) in (".txt", ".txt.gz") and path.is_file():
        return [line.rstrip("\r\n") for _, line in _lines(path)]
    table = _read(path, lambda _: Roles("texts", column, column))
    for row, value in enumerate(table.columns[column]):
        if not isinstance(value, str):
            raise TaskError(
                f"{column} is {value!r:.40}, which is not text", where=table.place(row + 1), next="fill it in"
            )
    return [str(value) for value in table.columns[column]]


def _read(path: Path, roles_of: Callable[[Sequence[str]], Roles]) -> Table:
    reader = FILE_TYPES.get(file_type(path))
    if reader is None:
        raise TaskError(
            f"{path.suffix or 'a file without extension'} is not a kind of file that can be read here",
            where=str(path),
            next=f"save it as one of {', '.join(FILE_TYPES)}",
        )
    if not os.path.isfile(path):
        what = "this is not an ordinary file" if os.path.exists(path) else "there is no such file"
        raise TaskError(what, where=str(path), next="check the path")
    found: list[Roles] = []

    def choose(present: Sequence[str]) -> Sequence[str]:
        found.append(roles_of(present))
        require_columns(found[0].names, present, path.name)
        return found[0].names

    try:
        if path.stat().st_size > MAX_FILE:
            raise TaskError("the file is too large", where=str(path), next=f"keep it below {MAX_FILE >> 30} GiB")
        columns, lines = reader(path, choose)
    except (OSError, EOFError, zlib.error) as error:
        raise TaskError(
            f"the file cannot be read: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            next="check the file",
        ) from error
    if not columns or not next(iter(columns.values())):
        raise TaskError("the file has no rows", where=str(path), next="give a file with a header and rows")
    names = _parquet_class_names(path, found[0].label) if file_type(path) == ".parquet" else None
    return Table(path.name, found[0], columns, names, lines=lines)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line numbers (from 1) and decoded lines; never holds more than MAX_LINE bytes of one line."""
    with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
        number = total = 0
        while raw := file.readline(MAX_LINE + 1):
            number, total = number + 1, total + len(raw)
            where = f"{path.name}, line {number}"
            if number > MAX_LINES:
                raise TaskError(
                    f"the file has more than {MAX_LINES:,} lines", where=path.name, next="keep fewer, and no empty ones"
                )
            if total > MAX_FILE:
                raise TaskError("the file is too large", where=where, next=f"keep it below {MAX_FILE >> 30} GiB")
            if len(raw) > MAX_LINE:
                raise TaskError(
                    f"the line is longer than {MAX_LINE // 1_000_000} MB",
                    where=where,
                    next=f"check the line ends, and keep each text below {MAX_TEXT:,} characters",
                )
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise TaskError(
                    f"byte {error.start + 1} of the line is not UTF-8",
                    where=where,
                    next="save the file as UTF-8",
                ) from None


def _append(columns: Columns, values: Sequence[object], where: str) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)
    if len(column) > MAX_ROWS:
        raise TaskError(f"there are more than {MAX_ROWS:,} rows", where=where, next="keep fewer")


def _read_csv(path: Path, choose: Choose) -> tuple[Columns, Lines]:
    with _long_fields():
        return _read_delimited(path, choose, _csv_rows(path))


def _read_tsv(path: Path, choose: Choose) -> tuple[Columns, Lines]:
    # text/tab-separated-values (IANA) has no quoting: a quote is a character like any other
    return _read_delimited(path, choose, ((n, line.rstrip("\r\n").split("\t")) for n, line in _lines(path)))


def _read_delimited(path: Path, choose: Choose, rows: Iterator[tuple[int, list[str]]]) -> tuple[Columns, Lines]:
    columns: Columns = {}
    lines: Lines = []
    header: list[str] | None = None
    where: list[int] = []
    for number, row in rows:
        if header is None:
            header = row
            _refuse_other_separators(header, path)
            columns = {name: [] for name in choose(header)}
            where = [header.index(name) for name in columns]
        elif any(row):
            if len(row) != len(header):
                raise TaskError(
                    f"the row has {len(row)} fields, the header {len(header)}",
                    where=f"{path.name}, line {number}",
                    next="quote fields that hold a comma or a line end, or save the file as .jsonl",
                )
            _append(columns, [row[index] for index in where], path.name)
            lines.append(number)
    return columns, lines


def _refuse_other_separators(header: list[str], path: Path) -> None:
    """Refuse a file whose columns are separated by another character than its name says."""
    if len(header) > 1 or not header:
        return
    names = {";": "semicolons", "|": "vertical bars", "\t": "tabs", ",": "commas"}
    for separator, name in names.items():
        own = {"\t": ".tsv", ",": ".csv"}.get(separator)
        if separator in header[0] and own != path.suffix.lower():
            code = (
                f"pandas.read_csv({str(path)!r}, sep={separator!r}).to_csv({path.stem + '-commas.csv'!r}, index=False)"
            )
            raise TaskError(
                f"the columns are separated by {name}, which a {path.suffix} file does not have between them",
                where=path.name,
                next=f"rename it to {path.stem + own}" if own else f"write it with commas: {code}",
            )


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the line on which it starts; a quoted field may go over several."""
    # strict: a quote that is never closed is an error, not a text that swallows the rest of the file
    rows, start = csv.reader((line for _, line in _lines(path)), strict=True), 1
    try:
        for row in rows:
            yield start, row
            start = rows.line_num + 1
    except csv.Error as error:
        raise TaskError(
            f"the file is not CSV: {error}",
            where=f"{path.name}, line {start}",
            next="look for a quote that is not closed, or save the file as .jsonl",
        ) from None


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """Allow CSV fields of MAX_TEXT characters; the csv module's limit (131,072) is a global."""
    before = csv.field_size_limit(MAX_TEXT)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _read_jsonl(path: Path, choose: Choose) -> tuple[Columns, Lines]:
    columns: Columns = {}
    lines: Lines = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TaskError(f"the line is not JSON: {error}", where=where, next="write one object per line") from None
        if not isinstance(row, dict):
            raise TaskError(
                f"the line is a {type(row).__name__}, not an object", where=where, next='write {"text": ...}'
            )
        if not columns:
            columns = {name: [] for name in choose(list(row))}
        _append(columns, [row.get(name) for name in columns], path.name)
        lines.append(number)
    return columns, lines


def _read_parquet(path: Path, choose: Choose) -> tuple[Columns, None]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path)
        columns: Columns = {name: [] for name in choose(file.schema_arrow.names)}
        if file.metadata.num_rows > MAX_ROWS:
            raise TaskError(f"there are more than {MAX_ROWS:,} rows", where=path.name, next="keep fewer")
        for batch in file.iter_batches(batch_size=4096, columns=list(columns)):
            for name, column in columns.items():
                column.extend(batch.column(name).to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise TaskError(f"the file is not valid parquet: {error}", where=path.name, next="write it again") from error
    return columns, None


def _parquet_class_names(path: Path, column: str) -> tuple[str, ...] | None:
    """Return the names of a column's classes where the datasets library has written them into the file."""
    import pyarrow.parquet

    metadata = pyarrow.parquet.read_schema(path).metadata or {}
    try:
        feature = json.loads(metadata.get(b"huggingface", b"{}"))
        for key in ("info", "features", column):
            feature = feature.get(key) or {}
        names = class_names_of(feature)
    except (ValueError, AttributeError, RecursionError) as error:
        raise TaskError(
            f"the file's description of its columns cannot be read: {error}",
            where=f"{path.name}, column {column!r}",
            next="write the file again",
        ) from error
    return names


def class_names_of(feature: object) -> tuple[str, ...] | None:
    """Return the names of the classes in a feature of the datasets library, as stored, or of a list of such."""
    if isinstance(feature, list) and len(feature) == 1:
        return class_names_of(feature[0])
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{names!r} are not names of classes")
        return tuple(names) or None
    return class_names_of(feature.get("feature"))


FILE_TYPES: dict[str, Callable[[Path, Choose], tuple[Columns, Lines | None]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".parquet": _read_parquet,
}
