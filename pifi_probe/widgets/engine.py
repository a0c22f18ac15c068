"""`Engine`: a search in a thread that can be started, paused, resumed and stopped; nothing of Jupyter."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pifi_probe.background import in_background
from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.selection import events
from pifi_probe.selection.separate import separation
from pifi_probe.selection.store import CONFIRM, SELECT
from pifi_probe.selection.trials import Trial
from pifi_probe.widgets.rows import headrooms, phase_of, row_of, summary_of
from pifi_probe.widgets.state import BUSY, SearchState

if TYPE_CHECKING:
    from pifi_probe.selection.study import Study

__all__ = ["Engine", "Work"]

logger = logging.getLogger(__name__)

Work = Callable[[events.OnEvent], object]  # runs a search to its end, telling events


class Engine:
    """Runs the work of one search, and keeps `state` up to date.

    Parameters
    ----------
    study : Study, optional
        One that exists already.
    clock : callable
        Seconds that never go back.

    Attributes
    ----------
    state : SearchState
    study : Study or None
        None before the first search has begun.
    headroom : dict of str to list of float
        By model the points that it adds at each depth, where it was measured next to the search.
    error : BaseException or None
        What ended the last search.
    """

    def __init__(self, study: Study | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.state = SearchState(clock)
        self.study = study
        self.error: BaseException | None = None
        self.headroom: dict[str, list[float]] = {}
        self._asked = ""
        self._phase = SELECT
        self._adopted = False  # `study` is the one that the work runs
        self._steering = threading.Lock()  # a word from outside, or the last one of the work: one after the other
        self._concluding = threading.Lock()
        self._concluded = -1
        if study is not None:
            self.look()

    # Steering, from any thread

    @property
    def busy(self) -> bool:
        """Whether a search of this engine runs."""
        return self.state.word in BUSY

    def start(self, work: Work) -> None:
        """Run a search in a thread of its own, and return at once.

        Raises
        ------
        SearchError
            If one is running.
        """
        self._begin()
        in_background(lambda: self._run(work), "layer-search", self.pause)

    def run(self, work: Work) -> None:
        """Run a search in this thread; Ctrl-C pauses it when this is the main thread.

        Raises
        ------
        SearchError
            If one is running.
        BaseException
            What ended the search.
        """
        self._begin()
        self._run(work)
        if self.error is not None:
            raise self.error

    def pause(self) -> None:
        """Stop within one training step; finished trials are kept, and the search can be resumed."""
        self._ask("paused", "pausing")

    def stop(self) -> None:
        """Stop within one training step, or end a paused search, for good: only a new budget continues it."""
        if not self._ask("stopped", "stopping") and self.study is not None and self.state.word == "paused":
            self.study.stop()
            self.state.tell(state="stopped")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end of the search; return whether nothing runs."""
        return self.state.wait_until_idle(timeout)

    def _ask(self, what: str, word: str) -> bool:
        """Ask a running search to stop; return whether one runs."""
        with self._steering:
            if not self.busy:
                return False
            if self._asked != "stopped":  # a stop is for good
                self._asked = what
                self.state.tell(state=word)
        self._apply()
        return True

    def _apply(self) -> None:
        """Hand on what was asked for; before its study exists there is nobody to hand it to."""
        if self._adopted and self.study is not None and self._asked:
            with contextlib.suppress(PifiProbeError):  # an unreadable file ends the search by itself
                self.study.pause() if self._asked == "paused" else self.study.stop()

    # The work

    def _begin(self) -> None:
        with self._steering:
            if self.busy:
                raise SearchError("the search is running already", where="start", next="pause or stop it first")
            self._asked, self.error, self._phase, self._adopted = "", None, SELECT, False
            self.state.tell(state="preparing", message="", running="", remaining=None)

    def _run(self, work: Work) -> None:
        word = "failed"
        message = ""
        try:
            work(self.on_event)
            word = ""
        except KeyboardInterrupt as error:  # every finished trial is on disk
            self.error, message, word = error, str(error) or "interrupted; resume continues", "paused"
        except PifiProbeError as error:
            self.error, message = error, str(error)
        except Exception as error:
            logger.debug("the search failed", exc_info=True)
            self.error, message = error, f"{type(error).__name__}: {error}"
        finally:
            with contextlib.suppress(PifiProbeError):
                self.look(settle=False)
            with self._steering:
                word = word or self._asked or "finished"
                told = {"message": message} if message else {}
                self.state.tell(state=word, running="", phase="", remaining=None, **told)

    def on_event(self, event: events.Event) -> None:
        """Take note of an event of the search; called in the thread that runs it."""
        if isinstance(event, events.Started):
            self._adopt(event.study)
        elif isinstance(event, events.Estimated):
            self.state.tell(estimate=str(event.estimate))
        elif isinstance(event, events.Phase):
            self._phase = event.name
            self._go("running", phase=phase_of(event.name))
        elif isinstance(event, events.TrialStarted):
            one = event.proposal
            trial = Trial(one.candidate, one.fidelity, one.seed, "running", None, event.number, one.why)
            self._put(trial)
            self._go("running", running=one.candidate.label, why=one.why)
        elif isinstance(event, events.TrialFinished):
            self._put(event.trial)
            spent = event.spent
            confirmed = event.confirmed / event.to_confirm if event.to_confirm else 0.0
            self.state.tell(
                share=event.share,
                cost=spent.cost,
                trials=spent.trials,
                seconds=spent.seconds,
                remaining=event.remaining,
                confirmed=confirmed,
                confirming=f"{event.confirmed} of {event.to_confirm}" if event.to_confirm else "",
            )
        elif isinstance(event, events.Failed):
            self._put(event.trial)
        if isinstance(event, events.Stopped):
            self._asked = event.reason
        elif isinstance(event, events.Finished):
            self._asked = ""
            self.state.tell(message=event.why)
        else:
            self._apply()

    def _go(self, word: str, **facts: Any) -> None:
        self.state.tell(**({} if self._asked else {"state": word}), **facts)

    def _adopt(self, study: Study) -> None:
        if self.study is not study:
            known = None if self.study is None else self.study.store.address
            if known != study.store.address or known.file is None:
                self.state.forget()
            self.study, self._concluded = study, -1
            self.look(settle=False)
        self._adopted = True
        self.state.tell(study=str(study.store.address), strategy=study.settings.strategy["name"])

    def _put(self, trial: Trial) -> None:
        assert self.study is not None
        self.state.put([row_of(trial, CONFIRM if self._phase == CONFIRM else SELECT)])

    # What is on disk

    def look(self, *, settle: bool = True) -> None:
        """Read the study file: what another process, or this one before a restart, has found.

        Parameters
        ----------
        settle : bool
            Set the state from what is there, too.

        Raises
        ------
        SearchError, CorruptFileError
            If the file is locked, removed or damaged.
        """
        study = self.study
        if study is None:
            return
        records = study.store.records()
        self.state.replace(row_of(record.trial, record.phase) for record in records)
        spent, budget = study.spent, study.budget
        self.state.tell(
            study=str(study.store.address),
            strategy=study.settings.strategy["name"],
            budget=str(budget),
            share=budget.share(spent),
            cost=spent.cost,
            trials=spent.trials,
            seconds=spent.seconds,
        )
        if settle and not self.busy:
            elsewhere = any(record.trial.state == "running" for record in records)
            word = "finished" if study.is_over() else "paused" if records else "idle"
            self.state.tell(state="elsewhere" if elsewhere else word)

    def conclude(self) -> None:
        """Work out posterior and verdict again, if a trial has ended since; takes a moment."""
        study = self.study
        if study is None or not self._concluding.acquire(blocking=False):
            return
        try:
            rows = self.state.rows()
            done = sum(row["state"] != "running" for row in rows)
            if done != self._concluded:
                self._concluded = done
                result = study.result
                records = study.store.records()
                apart = separation(records, result)
                curves = headrooms(records) | self.headroom
                self.state.conclude(summary_of(result, study.space, rows, apart, curves))
        finally:
            self._concluding.release()
