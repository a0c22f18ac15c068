"""`LayerSearch`: choosing a layer as something one watches, steers and understands in a notebook."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets

from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.widgets.chart import SearchChart
from pifi_probe.widgets.controls import Form, flow
from pifi_probe.widgets.engine import Engine, Work
from pifi_probe.widgets.out import frame_of, save, snapshot
from pifi_probe.widgets.publisher import Publisher
from pifi_probe.widgets.request import Request, with_task
from pifi_probe.widgets.state import BUSY

if TYPE_CHECKING:
    import pandas as pd

    from pifi_probe.selection.events import OnEvent
    from pifi_probe.selection.result import SearchResult
    from pifi_probe.selection.space import Candidate
    from pifi_probe.selection.study import Study
    from pifi_probe.tasks.task import Task

__all__ = ["LayerSearch"]

CONCLUDE_SECONDS = 1.0  # between two posteriors, at least


class LayerSearch(ipywidgets.VBox):
    """A search with a form, buttons, a live chart and a table.

    Parameters
    ----------
    task : Task or str, optional
        A task, or what `load_task` takes; None: to be chosen in the form.
    slm : str
    llm : str or list of str
    study : str, Path or None
        File of the study. What lies in it already is shown at once, and Resume goes on with it, after a restart of
        the kernel too. None: in memory.
    **options
        Further arguments of `pifi_probe.search`, such as ``strategy``, ``budget``, ``seeds``, ``layers``.

    Attributes
    ----------
    selected : int or None
        Number of the selected trial; may be set and observed.
    chart : SearchChart
        The picture without form and buttons, for pages without Python.

    Examples
    --------
    >>> w = pp.widgets.LayerSearch("movie-reviews", strategy="fast", budget="5m")  # doctest: +SKIP
    >>> w  # doctest: +SKIP
    """

    selected = traitlets.Int(None, allow_none=True)

    def __init__(
        self,
        task: Task | str | None = None,
        slm: str = "minilm-l6",
        llm: str | Sequence[str] = "smollm2-135m",
        *,
        study: str | Path | None = "s.db",
        **options: Any,
    ) -> None:
        self._form: Form | None = Form(task, slm, llm, study, options)
        stored, failure = None, ""
        try:
            stored = Request(task or "", slm, llm, study, options).stored()
        except PifiProbeError as error:
            failure = str(error)
        self._assemble(stored)
        if failure:
            self.engine.state.tell(state="failed", message=failure)
            self.publish()

    @classmethod
    def of(cls, study: Study) -> LayerSearch:
        """Return the widget of a study that is open; `Study.widget` calls it."""
        self = cls.__new__(cls)
        self._form = None
        self._assemble(study)
        return self

    def _assemble(self, study: Study | None) -> None:
        self.engine = Engine()
        self.chart = SearchChart()
        self._sending = threading.Lock()
        self._sent, self._concluded_at, self._looked = -1, 0.0, ""
        self._publisher = Publisher(self.engine.state, self.publish)
        self._buttons = {
            name: ipywidgets.Button(description=name, tooltip=tip, layout=ipywidgets.Layout(width="auto"))
            for name, tip in _BUTTONS.items()
        }
        for name, button in self._buttons.items():
            button.on_click(self._guarded(getattr(self, _ACTIONS[name])))
        self._buttons["Start"].button_style = "primary"
        self.code = ipywidgets.Textarea(description="Script", layout=ipywidgets.Layout(width="100%", display="none"))
        hidden = () if self._form is not None else ("Start", "Estimate")
        shown = [button for name, button in self._buttons.items() if name not in hidden]
        form = [] if self._form is None else [self._form]
        super().__init__([*form, flow(*shown), self.chart, self.code], layout=ipywidgets.Layout(width="100%"))
        traitlets.link((self, "selected"), (self.chart, "selected"))
        self.chart.on_msg(self._answer)
        if self._form is not None:
            traitlets.link((self._form.metric, "value"), (self.chart, "metric"))
            describe = self._form.describe
            for field in (self._form.llm, self._form.slm):
                field.observe(lambda change: self._aside(describe), "value")
            self._aside(describe)
        if study is not None:
            self._show(study)
        self.publish()

    def _show(self, study: Study) -> None:
        self.engine.study = study
        try:
            self.engine.look()
        except PifiProbeError as error:
            self.engine.state.tell(state="failed", message=str(error))

    # Steering

    def start(self) -> None:
        """Start the search that the form asks for, or go on with it, in a thread; returns at once.

        Raises
        ------
        SearchError
            If one is running, or a field cannot be used.
        """
        self._publisher.open()
        self.engine.start(self._work())

    def run(self) -> SearchResult | None:
        """Search to the end in this thread, and return what was found; for scripts and tested notebooks.

        Ctrl-C, or interrupting the kernel, pauses.

        Raises
        ------
        PifiProbeError
            What ended the search.
        """
        self._publisher.open()
        try:
            self.engine.run(self._work())
        finally:
            self.publish()
        return self.result

    async def finished(self) -> SearchResult | None:
        """Wait for the end of the search without blocking the kernel, and return what was found.

        Raises
        ------
        PifiProbeError
            What ended the search.
        """
        while self.engine.busy:
            await asyncio.sleep(0.05)
        self.publish()
        if self.engine.error is not None:
            raise self.engine.error
        return self.result

    def pause(self) -> None:
        """Leave off within one training step; `resume` goes on."""
        self.engine.pause()

    def stop(self) -> None:
        """Leave off within one training step, for good: only a new budget goes on."""
        self.engine.stop()

    def resume(self) -> None:
        """Go on with the study that is shown, in a thread.

        Raises
        ------
        SearchError
            If there is none, or a search is running.
        """
        if self.engine.study is None:
            raise SearchError("there is no search to go on with", where="resume", next="start one")
        self._publisher.open()
        self.engine.start(self._resumption(self.engine.study))

    def estimate(self) -> str:
        """Return what the search will take in time and memory, from a few timed steps."""
        found = str(self._request().estimate())
        self.engine.state.tell(estimate=found)
        return found

    def _request(self) -> Request:
        if self._form is None:
            raise SearchError("this widget shows one study", where="start", next="use resume()")
        return self._form.request()

    def _work(self) -> Work:
        if self._form is None:
            assert self.engine.study is not None
            return self._resumption(self.engine.study)
        return self._form.request().search

    def _resumption(self, study: Study) -> Work:
        budget = None if self._form is None else self._form.budget.value

        def work(on_event: OnEvent) -> object:
            readable = study.evaluator is not None or study.is_over(budget)
            current = study if readable else with_task(study)
            current.on_event = on_event
            return current.resume(budget=budget)

        return work

    # What was found

    @property
    def state(self) -> str:
        """One word: idle, preparing, running, pausing, paused, stopping, stopped, finished, failed or elsewhere."""
        return self.engine.state.word

    @property
    def study(self) -> Study | None:
        """The study that is shown."""
        return self.engine.study

    @property
    def result(self) -> SearchResult | None:
        """What was found so far."""
        return None if self.study is None else self.study.result

    @property
    def best(self) -> Candidate | None:
        """The candidate chosen so far."""
        return None if self.study is None else self.study.best

    @property
    def results(self) -> pd.DataFrame:
        """One row a trial, by number."""
        return frame_of(self.engine.state.rows())

    def save(self, path: str | Path) -> Path:
        """Write the trials (``.csv``, ``.json``) or the depth chart (``.svg``, ``.png``).

        Raises
        ------
        SearchError
            If there is nothing to save, or the suffix is another one.
        SaveError
            If the file cannot be written.
        """
        return save(Path(path), self._needed(), self.engine.state.rows())

    def to_code(self) -> str:
        """Return a script that trains the choice."""
        return self._needed().to_code()

    def export(self, folder: str | Path) -> Path:
        """Train the choice once more, and write model, card, report, trials and script."""
        study = self._needed()
        return (study if study.task is not None else with_task(study)).export(folder)

    def snapshot(self) -> str:
        """Return the search as a piece of HTML that needs neither Python nor scripts."""
        return snapshot(self.engine.state, self.study)

    def _needed(self) -> Study:
        if self.study is None:
            raise SearchError("there is no search yet", where="LayerSearch", next="start one")
        return self.study

    # The view

    def publish(self) -> int:
        """Tell the browser what is new; return the version that was told."""
        state = self.engine.state
        with self._sending:
            busy = state.word in BUSY
            if not busy:
                self._follow()
            if not busy or time.monotonic() - self._concluded_at > CONCLUDE_SECONDS:
                self.engine.conclude()
                self._concluded_at = time.monotonic()
            change = state.changes(self._sent)
            if change["facts"] is not None or busy:
                self.chart.facts = state.changes()["facts"] | {"elapsed": round(state.elapsed)}
                self._enable(state.word)
            if change["summary"] is not None:
                self.chart.summary = change["summary"]
            if busy and change["rows"]:
                self.chart.tell(change["rows"])
            elif not busy:
                rows = state.rows()
                if rows != self.chart.rows:
                    self.chart.rows = rows
            self._sent = change["version"]
            return self._sent

    def _follow(self) -> None:
        """Look at the study file when another process has changed it."""
        study = self.engine.study
        file = None if study is None else study.store.address.file
        if study is None or file is None:
            return
        try:
            status = file.stat()
            seen = f"{status.st_mtime_ns} {status.st_size}"
            if seen != self._looked:
                self._looked = seen
                self.engine.look(settle=self.state in ("idle", "elsewhere"))
        except FileNotFoundError:
            self.engine.state.tell(message=f"the study file is gone: {study.store.address}")
        except (PifiProbeError, OSError) as error:
            self.engine.state.tell(message=str(error))

    def _enable(self, word: str) -> None:
        busy, some = word in BUSY, self.engine.study is not None
        possible = {
            "Start": not busy,
            "Pause": word in ("preparing", "running"),
            "Resume": not busy and some,
            "Stop": word in ("preparing", "running", "pausing"),
            "Estimate": not busy,
            "Copy as code": some,
            "Export model": some and not busy,
        }
        for name, button in self._buttons.items():
            button.disabled = not possible[name]
        if self._form is not None:
            self._form.lock(busy)

    def _answer(self, widget: object, content: Any, buffers: object) -> None:
        if isinstance(content, dict) and content.get("kind") == "hello":  # a view was opened
            self._publisher.open()
            self.chart.tell(self.engine.state.rows())

    def _guarded(self, action: Callable[[], object]) -> Callable[[object], None]:
        def click(button: object) -> None:
            try:
                action()
            except PifiProbeError as error:
                self.engine.state.tell(message=str(error))
            self._publisher.open()

        return click

    def _aside(self, action: Callable[[], object]) -> None:
        """Do something slow in a thread; what goes wrong is shown."""
        threading.Thread(target=self._guarded(action), args=(None,), name="layer-search-aside", daemon=True).start()

    def _estimate_aside(self) -> None:
        request = self._request()
        self.engine.state.tell(estimate="timing a few steps ...", message="")
        self._aside(lambda: self.engine.state.tell(estimate=str(request.estimate())))

    def _copy(self) -> None:
        self.code.value = self.to_code()
        self.code.layout.display = ""
        self.code.rows = self.code.value.count("\n") + 1
        self.chart.send({"kind": "copy", "text": self.code.value})

    def _export_aside(self) -> None:
        self.engine.state.tell(message="exporting into the folder winner ...")
        self._aside(lambda: self.engine.state.tell(message=f"exported: {self.export('winner')}"))

    def close(self) -> None:
        """Stop the view; a running search is paused, and every finished trial kept."""
        self.engine.pause()
        self._publisher.close()
        super().close()

    def __repr__(self) -> str:
        return f"LayerSearch({self.state}, {len(self.engine.state.rows())} trials)"

    def _repr_keys(self) -> Any:
        return iter(())

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self._publisher.open()
        bundle = super()._repr_mimebundle_(**options)
        return bundle | {"text/plain": repr(self), "text/html": self.snapshot()}


_BUTTONS = {
    "Start": "Start the search, or go on with the study file",
    "Pause": "Leave off within one step; Resume goes on",
    "Resume": "Go on where the study was left",
    "Stop": "Leave off for good; finished trials are kept",
    "Estimate": "Time a few steps, and say what the search will take",
    "Copy as code": "Show and copy a script that trains the choice",
    "Export model": "Train the choice once more into the folder winner",
}
_ACTIONS = {
    "Start": "start",
    "Pause": "pause",
    "Resume": "resume",
    "Stop": "stop",
    "Estimate": "_estimate_aside",
    "Copy as code": "_copy",
    "Export model": "_export_aside",
}
