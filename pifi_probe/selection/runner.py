"""`Runner`: proposes, claims, runs and commits one trial after the other, until the budget or the ideas are spent."""

from __future__ import annotations

import functools
import logging
import math
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from types import FrameType

from pifi_probe.errors import AssetError, HubError, ModelNotFoundError, PifiProbeError, SaveError, SearchError
from pifi_probe.escaping import one_line
from pifi_probe.selection import events
from pifi_probe.selection.budget import Budget, Spent
from pifi_probe.selection.executors import Executor, WorkersCannotStart
from pifi_probe.selection.store import CONFIRM, LIVE_SESSIONS, SELECT, Claim, Record, Store
from pifi_probe.selection.trials import Evaluator, Outcome, Proposal, Strategy
from pifi_probe.units import duration

__all__ = ["Runner"]

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.2
FEWEST_SEEDS = 2  # of a confirmation: with one, nothing is known of the noise of seeds
BEAT_SECONDS = 15.0
# Another process could run the trial.
_OF_THIS_MACHINE = (ModelNotFoundError, AssetError, HubError, SaveError, WorkersCannotStart)


class Runner:
    """Works on a study until nothing is left to do, or until it is told to stop.

    Parameters
    ----------
    store : Store
    evaluator : Evaluator
    make_strategy : callable
        Returns a new strategy, which is then told of all finished trials.
    budget : Budget
        Of selection.
    executor : Executor
    confirmations : callable
        From all records to the runs that confirm the choice; empty when there is nothing to confirm.
    on_event : callable, optional
    full_seconds : float, optional
        Of a full run, for budgets of time; measured from the first full trial when not known.
    kept_back : callable, optional
        From the fidelity of a trial to the full runs that confirming a choice on it takes: what a budget for both parts
        keeps back.
    beat_seconds : float
        Between two signs of life.
    """

    def __init__(
        self,
        store: Store,
        evaluator: Evaluator,
        make_strategy: Callable[[], Strategy],
        budget: Budget,
        executor: Executor,
        confirmations: Callable[[list[Record]], list[Proposal]],
        on_event: events.OnEvent | None = None,
        full_seconds: float | None = None,
        beat_seconds: float = BEAT_SECONDS,
        kept_back: Callable[[str], float] = lambda fidelity: 0.0,
    ) -> None:
        self.store, self.evaluator, self.make_strategy = store, evaluator, make_strategy
        self.budget, self.executor, self.confirmations = budget, executor, confirmations
        self.full_seconds, self.beat_seconds = full_seconds, beat_seconds
        self.kept_back = kept_back
        self._tell: events.OnEvent = on_event or (lambda event: None)
        self._asked = ""  # "paused" or "stopped"
        self._cancelled: set[int] = set()  # numbers of trials
        self._wake = threading.Event()
        self._running: dict[Future[Outcome], Claim] = {}
        self._claims: list[Claim] = []
        self._wanted: list[Proposal] = []  # the confirmation's runs
        self._idle: list[tuple[int, str]] | None = None  # trials as they were when there was nothing to do but wait
        self._session = secrets.token_hex(8)
        self._began = time.monotonic()

    # From any thread

    def pause(self) -> None:
        """Stop after the current training step; the running trial is given back."""
        self._ask("paused")

    def stop(self) -> None:
        """Stop as `pause` does, but for good."""
        self._ask("stopped")

    def cancel(self, number: int | None = None) -> None:
        """Stop one running trial after its current step, count it as failed, and continue with the next one.

        Parameters
        ----------
        number : int, optional
            Of the trial; None: the one that was started first of those that run here.

        Raises
        ------
        SearchError
            If no trial of this number runs here.
        """
        running = sorted(claim.number for claim in list(self._claims))
        if number is not None and number not in running:
            shown = ", ".join(str(one) for one in running) or "none"
            raise SearchError(f"trial {number} does not run here", where="cancel", next=f"these run here: {shown}")
        if running:
            chosen = running[0] if number is None else number
            self._cancelled.add(chosen)
            self._interrupt(chosen)

    def _ask(self, what: str) -> None:
        self._asked = self._asked if self._asked == "stopped" else what  # a stop is for good
        self.executor.interrupt()
        self._wake.set()

    def _interrupt(self, number: int) -> None:
        for future, claim in list(self._running.items()):
            if claim.number == number:
                self.executor.interrupt(future)

    def _told_to_stop(self, number: int) -> bool:
        return bool(self._asked) or number in self._cancelled

    # In the thread that runs the search

    def run(self) -> str:
        """Work; return ``"paused"``, ``"stopped"`` or ``"finished"``.

        Raises
        ------
        SearchError
            If the budget is smaller than the first trial.
        SaveError
            If the disk is full; every finished trial is kept.
        ModelNotFoundError, AssetError, HubError, WorkersCannotStart
            If this machine lacks what a trial needs; the trial is given back.
        """
        self._began = time.monotonic()
        LIVE_SESSIONS.add(self._session)
        why = ""
        try:
            with self._listening(), self._beating():
                why = self._phase(SELECT)
                if not self._asked:
                    self._phase(CONFIRM)
        finally:
            self.executor.close()
            with suppress(PifiProbeError):  # a full disk: whoever resumes finds that this session is over
                self._give_back()
            LIVE_SESSIONS.discard(self._session)
        if self._asked:
            self._tell(events.Stopped(self._asked))
            return self._asked
        self._tell(events.Finished(why))
        return "finished"

    def _phase(self, phase: str) -> str:
        """Run the trials of a phase; return why it is over."""
        begun = False
        while not self._asked:
            if len(self._running) >= self.executor.slots:
                self._collect(block=True)
                continue
            self.store.free_the_dead()
            proposal, why = self._next(phase)
            if proposal is not None:
                if not begun:
                    self._tell(events.Phase(phase))
                    begun = True
                self._begin(proposal, phase)
                self._collect(block=False)
            elif self._running:
                self._collect(block=True)
            elif why:
                return why
            else:  # others are at work on this study
                self._wake.wait(POLL_SECONDS)
        self._collect_all()
        return ""

    def _next(self, phase: str) -> tuple[Proposal | None, str]:
        """Return the next run; with none, why the phase is over, or nothing when trials are still running."""
        records = self.store.records()
        state = [(record.trial.number, record.trial.state) for record in records]
        if state == self._idle:
            return None, ""
        proposal, why = self._confirmation(records) if phase == CONFIRM else self._selection(records)
        busy = any(record.trial.state == "running" for record in records)
        self._idle = state if busy and proposal is None else None
        return proposal, "" if busy or proposal is not None else why

    def _confirmation(self, records: list[Record]) -> tuple[Proposal | None, str]:
        if any(r.trial.state == "running" and r.phase == SELECT for r in records):
            return None, ""  # the choice may still change
        known = {record.trial.identity for record in records}
        self._wanted = wanted = self.confirmations(records)
        proposal = next((p for p in wanted if p.identity not in known), None)
        if proposal is not None and not self._pays_for(proposal.seed, wanted, known):
            return None, f"confirmed with fewer seeds: the budget of {self.budget} is spent"
        return proposal, "confirmed"

    def _pays_for(self, seed: int, wanted: list[Proposal], known: set[tuple[str, str, int]]) -> bool:
        """Return whether the runs of a further seed fit; one that was begun, and the first two, always do."""
        row = [one for one in wanted if one.seed == seed]
        first = sorted({one.seed for one in wanted})[:FEWEST_SEEDS]
        begun = any(one.identity in known for one in row)
        if not self.budget.covers_all or seed in first or begun or self.full_seconds is None:
            return True
        cost = sum(self.evaluator.cost(one.candidate, one.fidelity) for one in row) / self.executor.slots
        return cost * self.full_seconds <= self.budget.left(self.store.spent(confirmed=True))

    def _selection(self, records: list[Record]) -> tuple[Proposal | None, str]:
        strategy = self.make_strategy()
        running = []
        for record in records:
            trial = record.trial
            if record.phase == SELECT and trial.state == "running":
                running.append(Proposal(trial.candidate, trial.fidelity, trial.seed, trial.why))
            elif record.phase == SELECT:
                strategy.observe(trial)
        spent = self._spent()
        proposal = strategy.propose(running, self._left(spent))
        if proposal is None:
            return None, f"{strategy.name}: nothing more to try"
        reserved = sum(self.evaluator.cost(one.candidate, one.fidelity) for one in running)
        planned = Spent(spent.cost + reserved, spent.trials + len(running), spent.seconds)
        cost = self.evaluator.cost(proposal.candidate, proposal.fidelity)
        after = self.kept_back(proposal.fidelity) if self.budget.covers_all else 0.0
        seconds = None if self.full_seconds is None else (cost + after / self.executor.slots) * self.full_seconds
        if self.budget.fits(planned, cost, seconds):
            return proposal, ""
        if not spent.trials and not running:
            takes = (
                f"{cost:.3g} C" if seconds is None else f"{cost + after:.3g} C, about {duration(seconds, short=True)}"
            )
            what = "the first trial and its confirmation" if after else "the first trial"
            raise SearchError(
                f"the budget of {self.budget} is smaller than {what} ({takes})",
                where=f"{proposal.candidate.label}, {proposal.fidelity} run",
                next='raise budget=, use strategy="fast", or fewer texts (task.subset)',
            )
        return None, f"the budget of {self.budget} is spent"

    def _spent(self) -> Spent:
        """Return what has been spent of the budget: of one for both parts, by both."""
        return self.store.spent(confirmed=self.budget.covers_all)

    def _left(self, spent: Spent) -> float:
        """Return what is left in full runs, as far as that is known."""
        if self.budget.unit == "C":
            return self.budget.left(spent)
        if self.budget.unit == "seconds" and self.full_seconds:
            return self.budget.left(spent) / self.full_seconds
        return math.inf

    def _begin(self, proposal: Proposal, phase: str) -> None:
        claim = self.store.claim(proposal, phase, self._session)
        if claim is None:
            return
        self._claims.append(claim)
        self._tell(events.TrialStarted(proposal, claim.number))
        stop = functools.partial(self._told_to_stop, claim.number)
        future = self.executor.submit(self.evaluator, proposal, stop)
        self._running[future] = claim
        if stop():  # asked for while the trial was on its way to a worker
            self.executor.interrupt(future)

    def _collect(self, *, block: bool) -> None:
        """Commit what has ended; with `block`, wait for it, but not longer than a moment."""
        done, _ = wait(self._running, timeout=POLL_SECONDS if block else 0, return_when=FIRST_COMPLETED)
        for future in sorted(done, key=lambda one: self._running[one].number):
            self._commit(self._running.pop(future), future)

    def _collect_all(self) -> None:
        while self._running:
            self._collect(block=True)

    def _commit(self, claim: Claim, future: Future[Outcome]) -> None:
        error = future.exception()
        if isinstance(error, BrokenExecutor):
            logger.warning(
                "the worker of %s died; the trial will be run again", one_line(claim.proposal.candidate.label)
            )
            self._give_back(claim, died=True)
            return
        if isinstance(error, KeyboardInterrupt) and claim.number not in self._cancelled:
            self._asked = self._asked or "paused"
            self._give_back(claim)
            return
        if isinstance(error, _OF_THIS_MACHINE):
            self._give_back(claim)
            raise error
        elapsed = time.monotonic() - self._began
        outcome = future.result() if error is None else Outcome(math.nan, message=_message(error))
        if error is None and not math.isfinite(outcome.value):
            outcome = replace(outcome, message=outcome.message or f"its value is {outcome.value}")
        trial = self.store.finish(claim, outcome, elapsed)
        self._claims.remove(claim)
        if outcome.message:
            logger.debug("%s failed", claim.proposal.candidate.label, exc_info=error)
            self._tell(events.Failed(trial, outcome.message))
            return
        if trial.fidelity == "full":
            self.full_seconds = outcome.seconds / outcome.cost if outcome.cost else self.full_seconds
        spent = self._spent()
        done, of, remaining = self._progress(spent)
        self._tell(events.TrialFinished(trial, spent, self.budget.share(spent), done, of, remaining))

    def _progress(self, spent: Spent) -> tuple[int, int, float | None]:
        """Return confirmed runs, those of a whole confirmation, and seconds left for both parts."""
        records = self.store.records()
        confirming = any(record.phase == CONFIRM for record in records)
        if not self._wanted:  # how many do not depend on the choice, which takes a moment
            self._wanted = self.confirmations(records)
        wanted = self._wanted
        known = {record.trial.identity for record in records if record.trial.outcome is not None}
        left = [one for one in wanted if one.identity not in known]
        if self.full_seconds is None:
            return len(wanted) - len(left), len(wanted), None
        rate = _seconds_a_run(records) or self.full_seconds
        costs = sum(self.evaluator.cost(one.candidate, one.fidelity) for one in left)
        seconds = costs * rate / self.executor.slots
        if self.budget.covers_all:
            rest = self.budget.left(spent)
            seconds = min(seconds, rest) if confirming and rest else seconds if confirming else rest
        elif not confirming and self.budget.unit == "C":
            seconds += self.budget.left(spent) * rate / self.executor.slots
        elif not confirming:
            seconds += self.budget.left(spent) * spent.seconds / max(spent.trials, 1)
        return len(wanted) - len(left), len(wanted), seconds

    def _give_back(self, claim: Claim | None = None, *, died: bool = False) -> None:
        """Free a trial, or all that are still ours."""
        for one in [claim] if claim is not None else list(self._claims):
            self._claims.remove(one)
            self.store.release(one, died=died)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Let the first Ctrl-C pause, and the second one interrupt at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: FrameType | None) -> None:
            if self._asked:
                raise KeyboardInterrupt
            self.pause()

        before = signal.signal(signal.SIGINT, handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    @contextmanager
    def _beating(self) -> Iterator[None]:
        """Show from a second thread that this process is alive."""
        over = threading.Event()

        def beat() -> None:
            count = 0
            while not over.wait(self.beat_seconds):
                count += 1
                try:
                    self.store.beat(list(self._claims), count)
                except (SearchError, SaveError) as error:
                    logger.warning("no sign of life could be written: %s", error)

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _seconds_a_run(records: list[Record]) -> float:
    """Return what a full run takes by the trials that have ended, who know more than timed steps; 0: none."""
    done = [one.trial.outcome for one in records if one.trial.outcome is not None and one.trial.outcome.cost > 0]
    cost = sum(one.cost for one in done)
    return sum(one.seconds for one in done) / cost if cost else 0.0


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "cancelled"
    return str(error) or type(error).__name__
