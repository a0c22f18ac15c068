"""`LayerSearch`: choosing a layer as something one watches, steers and understands in a notebook."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets

from pifi_probe.background import in_background
from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.importing import import_libraries
from pifi_probe.layers.spec import model_names
from pifi_probe.selection.database import DATED, dated
from pifi_probe.selection.views import changed
from pifi_probe.widgets.chart import SearchChart
from pifi_probe.widgets.controls import Form
from pifi_probe.widgets.engine import Engine, Work
from pifi_probe.widgets.feed import Feed
from pifi_probe.widgets.out import Markup, frame_of, save, snapshot
from pifi_probe.widgets.request import Request, with_task
from pifi_probe.widgets.state import BUSY
from pifi_probe.widgets.toolbar import Toolbar

if TYPE_CHECKING:
    import pandas as pd

    from pifi_probe.selection.conclude import SearchResult
    from pifi_probe.selection.events import OnEvent
    from pifi_probe.selection.space import Candidate
    from pifi_probe.selection.study import Study
    from pifi_probe.tasks.task import Task

__all__ = ["LayerSearch"]


class LayerSearch(ipywidgets.VBox):
    """A search with a form, buttons, a live chart and a table.

    Parameters
    ----------
    task : Task, str or Path, optional
        A task, or what `load_task` takes; None: to be chosen in the form.
    slm : str
    llm : str or list of str
    study : str, Path or None
        File of the study. What lies in it already is shown at once, and Resume continues it, after a restart of
        the kernel too. None: in memory.
    **options
        Further arguments of `pifi_probe.search`, such as ``strategy``, ``budget``, ``n_seeds``, ``layers``.

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
        task: Task | str | Path | None = None,
        *,
        slm: str = "minilm-l6",
        llm: str | Sequence[str] = "smollm2-135m",
        study: str | Path | None = DATED,
        **options: Any,
    ) -> None:
        study = dated(study)
        self._form: Form | None = Form(task, slm, llm, study, options)
        stored, failure = None, ""
        try:
            stored = Request(str(task) if isinstance(task, Path) else task or "", slm, llm, study, options).stored()
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
        import_libraries()  # here, and not in the threads: the next cell imports the same
        self.engine = Engine()
        self.chart = SearchChart()
        self._feed = Feed(self.engine, self.chart, self._on_word)
        hidden = () if self._form is not None else ("Start", "Headroom", "Estimate")
        self.toolbar = Toolbar(
            {name: self._guarded(getattr(self, _ACTIONS[name])) for name in Toolbar.names if name not in hidden}
        )
        self.code = ipywidgets.Textarea(description="Script", layout=ipywidgets.Layout(width="100%", display="none"))
        self.figure = ipywidgets.HTML(tooltip="")
        form = [] if self._form is None else [self._form]
        super().__init__(
            [*form, self.toolbar, self.figure, self.chart, self.toolbar.after, self.code],
            layout=ipywidgets.Layout(width="100%"),
        )
        traitlets.link((self, "selected"), (self.chart, "selected"))
        self.chart.on_msg(self._asked)
        if self._form is not None:
            traitlets.link((self._form.metric, "value"), (self.chart, "metric"))
            describe = self._form.describe
            for field in (self._form.llm, self._form.slm):
                field.observe(lambda change: self._aside(describe), "value")
            self._aside(describe)
        if study is not None:
            self._show(study)
            if self._form is not None and self.engine.state.rows():
                self._form.put_away()
        self.publish()

    def _show(self, study: Study) -> None:
        self.engine.study = study
        try:
            self.engine.look()
        except PifiProbeError as error:
            self.engine.state.tell(state="failed", message=str(error))

    # Steering

    def start(self) -> None:
        """Start the search that the form asks for, or continue it, in a thread; returns at once.

        Raises
        ------
        SearchError
            If one is running, or a field cannot be used.
        """
        self._feed.open()
        self.engine.start(self._work())

    def run(self) -> SearchResult | None:
        """Search to the end in this thread, and return what was found; for scripts and tested notebooks.

        Ctrl-C, or interrupting the kernel, pauses.

        Raises
        ------
        PifiProbeError
            What ended the search.
        """
        self._feed.open()
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
        """Stop within one training step; `resume` continues."""
        self.engine.pause()

    def stop(self) -> None:
        """Stop within one training step, for good: only a new budget continues the search."""
        self.engine.stop()

    def resume(self) -> None:
        """Continue the study that is shown, in a thread.

        Raises
        ------
        SearchError
            If there is none, or a search is running.
        """
        if self.engine.study is None:
            raise SearchError("there is no search to go on with", where="resume", next="start one")
        self._feed.open()
        self.engine.start(self._resumption(self.engine.study))

    def separate(self) -> None:
        """Run the seeds that would tell the two best layers apart, in a thread; see `Study.separate`.

        Raises
        ------
        SearchError
            If there is no search, or one is running.
        """
        study = self._needed()

        def work(on_event: OnEvent) -> object:
            current = self._readable(study)
            current.on_event = on_event
            return current.separate()

        self._feed.open()
        self.engine.start(work)

    def _readable(self, study: Study) -> Study:
        """Return a study together with its task."""
        given = None if self._form is None else self._form.given
        return study if study.evaluator is not None else with_task(study, given)

    def show_texts(self, label: str) -> None:
        """Show next to the chart which test texts a candidate fixes and breaks against the projections alone.

        Parameters
        ----------
        label : str
            As in the table; where its results are not stored text by text, that is said.
        """
        study = self._needed()
        found = changed(study.store.records(), label)
        if found is None:
            shown: dict[str, Any] = {"words": _NOT_STORED, "fixed": [], "broken": []}
        else:
            try:
                task = self._readable(study).task
                shown = {"words": str(found)} if task is None else found.shown(task)
            except PifiProbeError as error:  # the texts are not at hand: the numbers are
                shown = {"words": f"{found}; its texts cannot be shown: {error}"}
        self.chart.texts = self.chart.texts | {label: {"fixed": [], "broken": []} | shown}

    def estimate(self) -> str:
        """Return what the search will take in time and memory, from a few timed steps."""
        found = str(self._request().estimate())
        self.engine.state.tell(estimate=found)
        return found

    def headroom(self) -> str:
        """Return what the large models add to the small one on the task, one sentence each, and show the curves."""
        return self._show_headroom(self._request())

    def _show_headroom(self, request: Request) -> str:
        try:
            found = request.headroom()
        finally:
            self.engine.state.tell(estimate="")
        self.engine.headroom |= {
            name: list(one.added) for name, one in zip(model_names(request.llm), found, strict=True)
        }
        self.figure.value = "".join(one._repr_html_() for one in found)
        return "\n".join(one.answer for one in found)

    def _headroom_aside(self) -> None:
        request = self._request()
        self.engine.state.tell(estimate="measuring the headroom: a minute or two ...", message="")
        self._aside(lambda: self._show_headroom(request))

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
            current = study if study.is_over(budget) else self._readable(study)
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

    def static(self) -> Markup:
        """Return chart, table and card as rich output that can be explored on a page without Python.

        Where scripts do not run either, as in a notebook that is not trusted, the words and the table of `snapshot` are
        shown.
        """
        self.publish()
        return Markup(self.chart.page(snapshot(self.engine.state, self.study, picture=False)), repr(self))

    def _needed(self) -> Study:
        if self.study is None:
            raise SearchError("there is no search yet", where="LayerSearch", next="start one")
        return self.study

    # The view

    def publish(self) -> None:
        """Tell the browser what is new; it is done all the time once the widget is shown."""
        self._feed.publish()

    def _asked(self, widget: object, content: object, buffers: object) -> None:
        """Do what the chart asks for."""
        asked = content if isinstance(content, dict) else {}
        if asked.get("kind") == "separate":
            self._guarded(self.separate)()
        elif asked.get("kind") == "texts":
            label = str(asked.get("label"))
            self._aside(lambda: self.show_texts(label))

    def _on_word(self, word: str) -> None:
        self.toolbar.enable(word, self.engine.study is not None)
        if self._form is not None:
            self._form.lock(word in BUSY)

    def _guarded(self, action: Callable[[], object]) -> Callable[[], None]:
        def act() -> None:
            try:
                action()
            except PifiProbeError as error:
                self.engine.state.tell(message=str(error))
            except Exception as error:  # shown, since a thread or a callback has nobody else to tell
                self.engine.state.tell(message=f"{type(error).__name__}: {error}")
            self._feed.open()

        return act

    def _aside(self, action: Callable[[], object]) -> None:
        """Do something slow in a thread; what goes wrong is shown."""
        in_background(self._guarded(action), "layer-search-aside")

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
        if hasattr(self, "_feed"):  # not, where a wrong argument ended the constructor
            self.engine.pause()
            self._feed.close()
        super().close()

    def __repr__(self) -> str:
        return f"LayerSearch({self.state}, {len(self.engine.state.rows())} trials)"

    def _repr_keys(self) -> Any:
        return iter(())

    def _repr_mimebundle_(self, **options: Any) -> Any:
        self._feed.open()
        bundle = super()._repr_mimebundle_(**options)
        return bundle | {"text/plain": repr(self), "text/html": self.snapshot()}


_NOT_STORED = (
    "It is not known which texts this layer changes: it and the projections have no per-text results at one fidelity. "
    "The confirmation makes them for the choice."
)
_ACTIONS = {
    "Start": "start",
    "Pause": "pause",
    "Resume": "resume",
    "Stop": "stop",
    "Headroom": "_headroom_aside",
    "Estimate": "_estimate_aside",
    "Copy as code": "_copy",
    "Export model": "_export_aside",
}
