"""Where the texts of a study come from, as the study says; somebody else may have written it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import CorruptFileError
from pifi_probe.reading import Refused, typed

if TYPE_CHECKING:
    from pifi_probe.selection.store import Store

__all__ = ["note_source", "read_n_train", "read_source"]

_MOST = 4096  # characters of a name or path


@dataclass(frozen=True)
class _Source:
    name_or_path: str
    text: str = "text"
    label: str = "label"


def note_source(store: Store, name_or_path: str, n_train: int = 0, **columns: str) -> None:
    """Note in a study where its texts come from: arguments of `load_task`, and how many to train on (0: all)."""
    store.note("source", {"name_or_path": name_or_path, **columns})
    store.note("n_train", n_train)


def read_source(store: Store) -> dict[str, str] | None:
    """Return the arguments of `load_task` that a study names; None where it names none.

    Raises
    ------
    CorruptFileError
        If there are others than the name, `text` and `label`, or one is not text.
    """
    values = store.noted("source")
    if values is None:
        return None
    try:
        source = typed(_Source, values)
        if unknown := sorted(set(values) - set(vars(source))):
            raise Refused(f"unknown entry {unknown[0]!r:.60}")
        if bad := [name for name in values if not _is_name(values[name])]:
            raise Refused(f"{bad[0]} is no name")
    except Refused as error:
        raise _corrupt(store, f"where its texts come from cannot be read: {error}") from error
    return {name: str(value) for name, value in values.items()}


def read_n_train(store: Store) -> int:
    """Return how many texts a study trains on; 0 for all.

    Raises
    ------
    CorruptFileError
        If it is not a number of texts.
    """
    value = store.noted("n_train") or 0
    if type(value) is not int or value < 0:
        raise _corrupt(store, f"it trains on {value!r:.40} texts")
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST and value.isprintable()


def _corrupt(store: Store, what: str) -> CorruptFileError:
    return CorruptFileError(
        f"the study was altered or damaged: {what}",
        where=str(store.address),
        next="open it from Python with its task: Study.open(study, task=...), or restore it from a copy",
    )
