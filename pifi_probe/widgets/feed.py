"""`Feed`: tells the chart what is new in an engine, and the engine what is new in the study file."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pifi_probe.errors import PifiProbeError
from pifi_probe.widgets.chart import SearchChart
from pifi_probe.widgets.engine import Engine
from pifi_probe.widgets.publisher import Publisher
from pifi_probe.widgets.state import BUSY

__all__ = ["Feed"]

CONCLUDE_SECONDS = 1.0  # between two posteriors, at least


class Feed:
    """Keeps a chart up to date.

    Parameters
    ----------
    engine : Engine
    chart : SearchChart
    on_word : callable
        Told the state's word when facts have changed, for buttons and form.
    """

    def __init__(self, engine: Engine, chart: SearchChart, on_word: Callable[[str], None]) -> None:
        self._engine, self._chart, self._on_word = engine, chart, on_word
        self._sending = threading.Lock()
        self._sent, self._concluded_at, self._looked = -1, 0.0, ""
        self._publisher = Publisher(engine.state, self.publish)
        chart.on_msg(self._answer)

    def open(self) -> None:
        """Publish from a thread, from now on."""
        self._publisher.open()

    def close(self) -> None:
        """Publish no longer."""
        self._publisher.close()

    def publish(self) -> int:
        """Tell the browser what is new; return the version that was told."""
        state, chart = self._engine.state, self._chart
        with self._sending:
            busy = state.word in BUSY
            self._follow(busy)
            if not busy or time.monotonic() - self._concluded_at > CONCLUDE_SECONDS:
                self._engine.conclude()
                self._concluded_at = time.monotonic()
            change, word = state.changes(self._sent), state.word
            if change["facts"] is not None or word in BUSY:
                chart.facts = state.changes()["facts"] | {"elapsed": round(state.elapsed)}
                self._on_word(word)
            if change["summary"] is not None:
                chart.summary = change["summary"]
            if change["fresh"] or (word in BUSY and change["rows"]):
                chart.tell(change["rows"], every=change["fresh"])
            if word not in BUSY and chart.rows != (rows := state.rows()):
                chart.rows = rows
            self._sent = change["version"]
            return self._sent

    def _follow(self, busy: bool) -> None:
        """Look at the study file when another process has changed it; a search whose file is gone is paused."""
        engine = self._engine
        file = None if engine.study is None else engine.study.store.address.file
        if file is None:
            return
        try:
            status = file.stat()
            seen = f"{status.st_mtime_ns} {status.st_size}"
            if not busy and seen != self._looked:
                self._looked = seen
                engine.look(settle=engine.state.word in ("idle", "elsewhere"))
        except FileNotFoundError:
            engine.pause()  # what it finds would be lost
            engine.state.tell(message=f"the study file is gone: {file.name}")
        except (PifiProbeError, OSError) as error:
            engine.state.tell(message=str(error))

    def _answer(self, widget: object, content: object, buffers: object) -> None:
        if isinstance(content, dict) and content.get("kind") == "hello":  # a view was opened
            self.open()
            self._chart.tell(self._engine.state.rows(), every=True)
