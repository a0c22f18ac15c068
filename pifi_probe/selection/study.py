"""`Study`: stop a search at any moment, continue it later, and read what it found."""

from __future__ import annotations

import html
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import SearchError, TaskError
from pifi_probe.escaping import one_line, printable
from pifi_probe.selection import events
from pifi_probe.selection.budget import DEFAULT, Budget, Estimate, Spent, estimate
from pifi_probe.selection.conclude import CONFIRM_SEED, SearchResult, conclude, confirmations, pick, selected
from pifi_probe.selection.database import Address
from pifi_probe.selection.executors import Executor, make_executor, refuse_in_worker
from pifi_probe.selection.runner import FEWEST_SEEDS, Runner
from pifi_probe.selection.separate import Listed, Separation, separation
from pifi_probe.selection.settings import Settings, read_settings, read_source, settle
from pifi_probe.selection.space import Candidate, Space
from pifi_probe.selection.store import Record, Store
from pifi_probe.selection.trials import Evaluator, Proposal, Strategy, Trial
from pifi_probe.tags import with_tags
from pifi_probe.vocabulary import mode_of_today

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pifi_probe.tasks.task import Task
    from pifi_probe.training.comparison import Comparison
    from pifi_probe.widgets.layer_search import LayerSearch

__all__ = ["FIRST_PASS", "Study", "first_pass", "make_evaluator"]

FIRST_PASS = 1000  # texts of each split
MOST_TO_CONFIRM = 0.6  # of a budget for both parts; above, two seeds are kept back


def make_evaluator(settings: Settings, task: Task, device: str = "auto") -> Evaluator:
    """Return what runs the trials of a search."""
    from pifi_probe.selection.evaluate import Parts, PiFiEvaluator
    from pifi_probe.training.recipe import Recipe

    space = Space.from_dict(settings.space)
    recipe = Recipe.from_dict({**settings.recipe, "device": device})
    parts = Parts(task, settings.slm, tuple(settings.llms), settings.wiring, recipe, settings.tokenizer)
    return PiFiEvaluator(parts, plain=space.max_layers == 1 and space.modes == ((),))


def first_pass(task: Task, texts: int | None) -> Task:
    """Return a task with at most so many texts of each split; None: all."""
    sizes = {name: len(split) for name, split in task.splits.items()}
    if texts is None or max(sizes.values()) <= texts:
        return task
    return task.subset(**{name: min(size, texts) for name, size in sizes.items()})


class Study:
    """A search on disk: what was tried, what was found, and the means to continue.

    Parameters
    ----------
    store : Store
        Of a search whose settings are known.
    evaluator : Evaluator, optional
        Runs trials; without one the study can only be read.
    on_event : callable, optional

    Raises
    ------
    SearchError
        If the study holds no search.
    """

    def __init__(
        self, store: Store, evaluator: Evaluator | None = None, on_event: events.OnEvent | None = None
    ) -> None:
        self.store, self.evaluator, self.on_event = store, evaluator, on_event
        self.task: Task | None = None
        values = store.noted("settings")
        if values is None:
            raise SearchError(
                "the study holds no search yet", where=str(store.address), next="start it with pifi-probe search"
            )
        self.settings, self.space = read_settings(values, str(store.address))
        self._runner: Runner | None = None
        self._resuming = threading.Lock()
        self._steering = threading.Lock()
        self._asked = ""  # "paused" or "stopped", while it is resumed

    @classmethod
    def open(
        cls, study: str | Path | Address, task: Task | None = None, on_event: events.OnEvent | None = None
    ) -> Study:
        """Open a study that a search has made.

        Parameters
        ----------
        study : str, Path or Address
            As for `search`.
        task : Task, optional
            Needed to continue; without it the study can only be read. Cut down to as many texts as the search used.
        on_event : callable, optional

        Raises
        ------
        SearchError
            If there is no such study, or the task is another one.
        """
        store = Store(Address.parse(study), create=False)
        found = cls(store, on_event=on_event)
        if task is not None:
            if task.fingerprint != found.settings.task["fingerprint"]:
                with suppress(TaskError):  # too few rows: it is another task, which is said below
                    task = task.subset(**found.settings.task["sizes"])
            sizes = {name: len(split) for name, split in task.splits.items()}
            own = {"name": task.name, "fingerprint": task.fingerprint, "sizes": sizes}
            settle(store, replace(found.settings, task=own))
            found.task, found.evaluator = task, make_evaluator(found.settings, task)
        return found

    # Resuming, pausing and stopping

    def resume(
        self, *, budget: str | float | Budget | None = None, executor: str | Executor = "local", workers: int = 1
    ) -> SearchResult | None:
        """Spend what is left of the budget, and confirm the choice; return what was found.

        Parameters
        ----------
        budget : str or float, optional
            A new budget for the whole study; None: the stored one.
        executor, workers
            As in `search`.

        Raises
        ------
        SearchError
            If the study was opened without a task, the budget is smaller than one trial, another thread runs this
            study, or the program is not written for worker processes.
        """
        with self._alone():
            return self._resume(self._settle_budget(budget), executor, workers)

    def separate(self, *, executor: str | Executor = "local", workers: int = 1) -> SearchResult | None:
        """Run the seeds that would tell the two best candidates apart, on top of the budget; see `separation`.

        If that changes the choice of a finished search, the new choice is confirmed as well.

        Raises
        ------
        SearchError
            If there is nothing to run, the study was opened without a task, or another thread runs it.
        """
        with self._alone():
            asked = self.separation
            if asked is None or not asked.runs:
                reason = "before two candidates were run" if asked is None else str(asked)
                raise SearchError("more seeds decide nothing here", where=reason, next="resume the study")
            self._tell(events.Started(self))
            evaluator = self._ready()
            amount = Budget(self.spent.trials + len(asked.runs), "trials")
            self._work(
                Runner(
                    self.store,
                    evaluator,
                    lambda: Listed(asked.runs),
                    amount,
                    make_executor(executor, workers),
                    self._confirmations if self.is_over() else lambda records: [],
                    self.on_event,
                )
            )
            return self.result

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread of this process run the study."""
        refuse_in_worker()
        if not self._resuming.acquire(blocking=False):
            raise SearchError(
                "the study is already running", where=str(self.store.address), next="pause or stop it first"
            )
        try:
            yield
        finally:
            with self._steering:
                self._runner, self._asked = None, ""
                self._resuming.release()

    def _resume(self, amount: Budget, executor: str | Executor, workers: int) -> SearchResult | None:
        self._tell(events.Started(self))
        if self.is_over():
            self._tell(events.Finished(f"nothing is left to do within the budget of {amount}"))
            return self.result
        if self._asked == "stopped":
            self.store.note("over", self._extent(amount))
            self._tell(events.Stopped("stopped"))
            return self.result
        evaluator = self._ready()
        where = make_executor(executor, workers)
        expected = self.estimate(amount, where.slots)
        self._tell(events.Estimated(expected))
        runner = Runner(
            self.store,
            evaluator,
            self._strategy,
            amount,
            where,
            self._confirmations,
            self.on_event,
            expected.full_seconds,
            kept_back=lambda fidelity: self._kept_back(fidelity, amount, expected.full_seconds),
        )
        if self._work(runner) != "paused":
            self.store.note("over", self._extent(amount))
        return self.result

    def _ready(self) -> Evaluator:
        """Return what runs trials, with the weights that all others were made with."""
        if self.evaluator is None:
            raise SearchError(
                "the study was opened without its task", where=str(self.store.address), next="give Study.open(task=...)"
            )
        self._settle_weights(self.evaluator.check())
        return self.evaluator

    def _work(self, runner: Runner) -> str:
        with self._steering:
            self._runner = runner
            if self._asked:
                self._steer(self._asked)
        return runner.run()

    def _settle_weights(self, found: Mapping[str, str]) -> None:
        """Note the digests of the models that trials are made from, or check that they are those of all others."""
        if self.store.noted("weights") is None:
            self.store.note("weights", dict(found))
        stored = self.store.noted("weights")
        known = stored if isinstance(stored, Mapping) else {}
        changed = [
            f"{name} ({str(known[name])[:19]} there, {digest[:19]} here)"
            for name, digest in found.items()
            if known.get(name, digest) != digest
        ]
        if changed:
            raise SearchError(
                f"trials of the study were made with other weights under the same name: {', '.join(changed)}",
                where=str(self.store.address),
                next="put those weights back, or name another study file: old and new trials cannot be compared",
            )

    def is_over(self, budget: str | float | None = None) -> bool:
        """Return whether the stored budget, or a new one, was worked off or stopped; loads no model."""
        return bool(self.store.noted("over") == self._extent(self.budget if budget is None else Budget.parse(budget)))

    def _extent(self, budget: Budget) -> list[object]:
        """Return what has to be the same for a search that is over to stay over."""
        return [str(budget), self.store.noted("confirm", True)]

    def _settle_budget(self, budget: str | float | Budget | None) -> Budget:
        amount = self.budget if budget is None else Budget.parse(budget)
        self.store.note("budget", str(amount))
        return amount

    @property
    def budget(self) -> Budget:
        """What the search may spend in total; see `Budget`."""
        return Budget.parse(str(self.store.noted("budget", DEFAULT)))

    def pause(self) -> None:
        """Stop within one training step; from any thread. `resume` continues. Does nothing where nothing runs."""
        with self._steering:
            if self._resuming.locked():
                self._steer("paused")

    def stop(self) -> None:
        """Stop within one training step, for good: only a new budget lets `resume` continue."""
        with self._steering:
            if self._resuming.locked():
                self._steer("stopped")
            else:
                self.store.note("over", self._extent(self.budget))

    def _steer(self, what: str) -> None:
        """Hand on what was asked for; before there is a runner, keep it for that one."""
        self._asked = self._asked if self._asked == "stopped" else what
        if self._runner is not None:
            self._runner.stop() if self._asked == "stopped" else self._runner.pause()

    def cancel(self, number: int | None = None) -> None:
        """Stop one running trial within one training step, and continue with the next one.

        Parameters
        ----------
        number : int, optional
            Of the trial; None: the one that was started first of those that run here.

        Raises
        ------
        SearchError
            If no trial of this number runs here.
        """
        runner = self._runner
        if runner is not None:
            runner.cancel(number)
        elif number is not None:
            raise SearchError(f"trial {number} does not run here", where="cancel", next="resume the study first")

    def estimate(self, budget: str | float | Budget | None = None, slots: int = 1) -> Estimate:
        """Return time and memory that are still needed, from a few timed training steps."""
        from pifi_probe.selection.strategies import STRATEGIES  # brings scikit-learn

        if self.evaluator is None:
            raise SearchError("the study was opened without its task", next="give Study.open(task=...)")
        amount = self.budget if budget is None else Budget.parse(budget)
        measure = self.evaluator.measure()
        fidelity = STRATEGIES.named(self.settings.strategy["name"], "strategy of the study").fidelity
        if not amount.covers_all:
            return estimate(
                measure, amount, self.spent, self._confirm_cost(fidelity, self.settings.seeds), slots, fidelity
            )
        kept = self._kept_back(fidelity, amount, measure.full_seconds)
        if (kept + 1) * measure.full_seconds > slots * amount.amount:  # not even one full run next to it
            fidelity = "frozen"
            kept = self._kept_back(fidelity, amount, measure.full_seconds)
        return estimate(measure, amount, self.store.spent(confirmed=True), kept, slots, fidelity)

    def _kept_back(self, fidelity: str, budget: Budget, full_seconds: float) -> float:
        """Return what a budget for both parts keeps for the confirmation: all seeds, or two where that is too much."""
        whole = self._confirm_cost(fidelity, self.settings.seeds)
        if whole * full_seconds <= MOST_TO_CONFIRM * budget.amount:
            return whole
        return self._confirm_cost(fidelity, min(FEWEST_SEEDS, self.settings.seeds), controls=False)

    def _confirm_cost(self, fidelity: str, n_seeds: int, *, controls: bool = True) -> float:
        """Return the full runs that confirm any layer chosen at a fidelity; without the further seeds of controls."""
        assert self.evaluator is not None
        if not self.store.noted("confirm", True):
            return 0.0
        assumed = Trial(self.space.singles()[0], fidelity, 0, "complete", None, 0)
        runs = confirmations([assumed], assumed.candidate, self.space, n_seeds)
        last = CONFIRM_SEED + n_seeds
        return sum(self.evaluator.cost(run.candidate, run.fidelity) for run in runs if controls or run.seed < last)

    def _strategy(self) -> Strategy:
        from pifi_probe.selection.strategies import make_strategy  # brings scikit-learn

        name, options = self.settings.strategy["name"], self.settings.strategy["options"]
        return make_strategy(name, self.space, seeds=self.settings.seeds, **options)

    def _informed(self, records: Sequence[Record]) -> Strategy:
        strategy = self._strategy()
        for trial in selected(records):
            strategy.observe(trial)
        return strategy

    def _confirmations(self, records: list[Record]) -> list[Proposal]:
        if not self.store.noted("confirm", True):
            return []
        chosen, _, _ = pick(self._informed(records), selected(records), self.space)
        return confirmations(selected(records), chosen, self.space, self.settings.seeds)

    def _tell(self, event: events.Event) -> None:
        if self.on_event is not None:
            self.on_event(event)

    # What was found

    @property
    def trials(self) -> list[Trial]:
        """All complete, failed and running trials, those of the confirmation too, by number."""
        return [record.trial for record in self.store.records()]

    @property
    def tags(self) -> tuple[str, ...]:
        """The user's own words for it."""
        return with_tags(self.store.noted("tags"), ())

    @property
    def spent(self) -> Spent:
        """What the selection has taken so far."""
        return self.store.spent()

    @property
    def result(self) -> SearchResult | None:
        """What has been found so far; None until the first trial is complete."""
        records = self.store.records()
        result = conclude(self._informed(records), records, self.space, self.store.spent())
        return result if result is None else replace(result, texts=str(self.store.noted("texts", "")))

    @property
    def best(self) -> Candidate | None:
        """The candidate chosen so far."""
        result = self.result
        return None if result is None else result.chosen

    @property
    def separation(self) -> Separation | None:
        """What would tell the two best candidates apart; None before two were run at the highest fidelity."""
        return separation(self.store.records(), self.result)

    def leaderboard(self) -> pd.DataFrame:
        """Return one row per candidate and fidelity: seeds, mean validation NLL, accuracy, cost; the best one first."""
        from pifi_probe.selection.views import leaderboard

        return leaderboard(self.store.records(), self.result)

    def compare(self, baseline: str = "vanilla") -> Comparison:
        """Compare the choice with its controls on fresh seeds and test texts; see `pifi_probe.compare`.

        Raises
        ------
        SearchError
            If it was not confirmed with full runs; ``result.gains`` has what was measured with a frozen encoder.
        """
        from pifi_probe.selection.views import confirmed_runs
        from pifi_probe.training.compare import compare

        return compare(confirmed_runs(self.store.records()), baseline, tags=self.tags)

    def plot(self, kind: str = "depth") -> Figure:
        """Plot the search.

        Parameters
        ----------
        kind : {"ladder", "depth", "regret", "fidelities", "pareto"}
            What projections, a twin and the chosen layer gain over the encoder alone; NLL over depth with the
            posterior; how far the choice was from the final one, against what was spent; how alike
            neighbouring fidelities rank; NLL against latency.

        Raises
        ------
        SearchError
            If there is no such plot, or nothing to plot yet.
        """
        from pifi_probe.selection.views import plot

        kind = mode_of_today("plot", kind)

        if kind == "ladder":
            if self.result is None or not self.result.effects:
                raise SearchError("there is no ladder yet", where="Study.plot", next="resume the study: it confirms")
            return self.result.plot_ladder()
        return plot(kind, self.store.records(), self.result, self.space)

    def widget(self) -> LayerSearch:
        """Return the study as a widget: live chart, table, and the buttons that steer it."""
        from pifi_probe.widgets.layer_search import LayerSearch

        return LayerSearch.of(self)

    def to_code(self) -> str:
        """Return a script that trains the choice."""
        from pifi_probe.selection.export import to_code

        return to_code(self.settings, self._chosen(), self.source)

    @property
    def source(self) -> dict[str, Any]:
        """Arguments of `load_task` that give the task, as far as the study knows."""
        return read_source(self.store) or {"name_or_path": self.settings.task["name"]}

    def export(self, folder: str | Path) -> Path:
        """Train the choice once more, and write it with its card, the report, the trials and the script.

        Parameters
        ----------
        folder : str or Path
            An interrupted export continues where it stopped.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        SearchError
            If nothing was chosen yet, or the study was opened without its task.
        """
        from pifi_probe.selection.export import export

        if self.task is None:
            raise SearchError("the study was opened without its task", next="give Study.open(task=...)")
        return export(self, self._chosen(), self.task, Path(folder))

    def _chosen(self) -> Candidate:
        chosen = self.best
        if chosen is None:
            raise SearchError(
                "nothing was chosen yet: no trial is complete", where=str(self.store.address), next="resume the study"
            )
        return chosen

    def __repr__(self) -> str:
        done = len(selected(self.store.records()))
        tags = f", tags {', '.join(self.tags)}" if self.tags else ""
        place = f"{self.store.address}, {self.settings.strategy['name']}{tags}"
        return one_line(f"Study({place}: {done} trials, chosen: {self._label()})")

    def _label(self) -> str:
        best = self.best
        return "nothing yet" if best is None else best.label

    def _repr_html_(self) -> str:
        from pifi_probe.reporting.tables import to_html

        result = self.result
        text = "nothing yet" if result is None else result.verdict
        text += f"\ntags: {', '.join(self.tags)}" if self.tags else ""
        lines = "<br>".join(html.escape(line) for line in printable(text).splitlines())
        return f"<p>{lines}</p>{to_html(self.leaderboard()) if result is not None else ''}"
