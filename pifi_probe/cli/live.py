"""The live table of a search."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any, Self

from pifi_probe.cli.output import console
from pifi_probe.escaping import printable

__all__ = ["Live"]

SHOWN = 12  # trials


class Live:
    """Shows the last trials while a search runs; one line a trial where the output is not a terminal.

    Parameters
    ----------
    quiet : bool
        Show nothing.

    Attributes
    ----------
    reason : str
        ``"paused"`` or ``"stopped"`` when the search stopped early, else empty.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        from rich.live import Live as RichLive

        self.reason = ""
        self._quiet = quiet
        self._console = console()
        self._rows: deque[tuple[str, ...]] = deque(maxlen=SHOWN)
        self._head = "starting"
        self._budget: Any = None
        self._live = RichLive(console=self._console, transient=True, refresh_per_second=4)
        self._moves = not quiet and self._console.is_terminal

    def __enter__(self) -> Self:
        if self._moves:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._moves:
            self._live.stop()

    def __call__(self, event: Any) -> None:
        """Take note of an event of the search."""
        from pifi_probe.selection import events

        if isinstance(event, events.Stopped):
            self.reason = event.reason
        line = self._line(event)
        if line and not self._quiet and not self._moves:
            self._console.print(line, soft_wrap=True)
        if self._moves:
            self._live.update(self._table())

    def _line(self, event: Any) -> str:
        """Return the event as a line, and keep what the table shows."""
        from pifi_probe.selection import events

        if isinstance(event, events.Started):
            self._budget = event.study.budget
        if isinstance(event, events.Estimated):
            self._head = str(event.estimate)
            return self._head.replace("; ", ";\n")  # each part in 80 columns
        if isinstance(event, events.Phase):
            return {"select": "selecting", "confirm": "confirming the choice on fresh seeds"}[event.name]
        if isinstance(event, events.TrialStarted):
            one = event.proposal
            self._rows.append((str(event.number), one.candidate.label, one.fidelity, str(one.seed), "running", one.why))
        if isinstance(event, events.TrialFinished):
            trial, outcome = event.trial, event.trial.outcome
            assert outcome is not None
            self._head = f"{event.progress(self._budget)} ({event.share:.0%} of the budget)"
            return self._end(trial, f"NLL {outcome.value:.4f}, {outcome.seconds:.1f} s")
        if isinstance(event, events.Failed):
            return self._end(event.trial, f"failed: {event.message}")
        return event.why if isinstance(event, events.Finished) else ""

    def _end(self, trial: Any, found: str) -> str:
        row = (str(trial.number), trial.candidate.label, trial.fidelity, str(trial.seed), found, trial.why)
        places = [place for place, old in enumerate(self._rows) if old[0] == row[0]]
        if places:
            self._rows[places[0]] = row
        return f"[{trial.number}] {trial.candidate.label}, {trial.fidelity}, seed {trial.seed}: {found}"

    def _table(self) -> Any:
        from pifi_probe.reporting.terminal import Fitted

        rows = [
            [printable(cell) for cell in (name, number, found, fidelity, seed)]
            for number, name, fidelity, seed, found, _ in self._rows
        ]
        why = f"why {self._rows[-1][1]}: {self._rows[-1][-1]}" if self._rows else ""
        return Fitted(("candidate", "trial", "found", "fidelity", "seed"), rows, printable(self._head), printable(why))
