"""A search whose trials take 50 ms, in this process or as ``python -m tests.search_stub FILE LOG``."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pifi_probe.errors import CheckpointError, RunInterrupted
from pifi_probe.selection.budget import Budget, Measure
from pifi_probe.selection.conclude import confirmations, selected
from pifi_probe.selection.events import Event
from pifi_probe.selection.executors import Executor, Local
from pifi_probe.selection.runner import Runner
from pifi_probe.selection.space import Candidate, Space
from pifi_probe.selection.store import Record, Store
from pifi_probe.selection.trials import Outcome, Proposal, Trial

SPACE = Space((("llm", 10),))
FIRST = Proposal(SPACE.singles()[0], "full", 0, "first")
N_TRIALS = 30  # of `Sweep`
ROOT = Path(__file__).parent.parent
SECONDS = 0.05
STEP = 0.002


@dataclass(frozen=True)
class StubEvaluator:
    """Takes `seconds` in steps of 2 ms, and gives a value that candidate and seed alone decide."""

    seconds: float = SECONDS
    broken: tuple[str, ...] = ()  # layers that cannot be read
    log: str = ""  # a file that gets a line for each evaluation that ended

    def check(self) -> dict[str, str]:
        return {}

    def cost(self, candidate: Candidate, fidelity: str) -> float:
        return 1.0 if fidelity == "full" else 0.01

    def measure(self) -> Measure:
        return Measure(self.seconds, 1 << 20)

    def evaluate(self, candidate: Candidate, fidelity: str, seed: int, stop: Callable[[], bool]) -> Outcome:
        until = time.perf_counter() + self.seconds
        while time.perf_counter() < until:
            if stop():
                raise RunInterrupted("told to stop")
            time.sleep(STEP)
        if candidate.spec in self.broken:
            raise CheckpointError("a tensor is missing", where=candidate.spec)
        if self.log:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(f"{candidate.key} {fidelity} {seed}\n")
        correct = "".join("1" if byte < 200 else "0" for byte in hashlib.sha512(candidate.key.encode()).digest())
        result = {"label": candidate.label, "tests": {"task": {"correct": correct}}}
        return Outcome(
            value(candidate, seed), 0.8, self.cost(candidate, fidelity), self.seconds, result, latency=1.0 + seed
        )


def value(candidate: Candidate, seed: int) -> float:
    digest = hashlib.sha256(f"{candidate.key} {seed}".encode()).digest()
    return 0.5 + digest[0] / 2550


@dataclass
class Sweep:
    """Every layer with every seed at the full fidelity, and then the best mean."""

    space: Space = SPACE
    seeds: int = 3
    name: str = "sweep"
    seen: dict[tuple[str, str, int], Trial] = field(default_factory=dict)

    def observe(self, trial: Trial) -> None:
        self.seen[trial.identity] = trial

    def propose(self, running: Sequence[Proposal], left: float) -> Proposal | None:
        taken = {*self.seen, *(one.identity for one in running)}
        failed = {trial.candidate for trial in self.seen.values() if trial.state == "failed"}
        for seed in range(self.seeds):
            for candidate in self.space.singles():
                proposal = Proposal(candidate, "full", seed, "the next in the sweep")
                if proposal.identity not in taken and candidate not in failed:
                    return proposal
        return None

    def choose(self) -> Candidate | None:
        done = [trial for trial in self.seen.values() if trial.state == "complete" and trial.outcome is not None]
        values: dict[Candidate, list[float]] = {}
        for trial in done:
            assert trial.outcome is not None
            values.setdefault(trial.candidate, []).append(trial.outcome.value)
        return min(values, key=lambda candidate: sum(values[candidate]) / len(values[candidate]), default=None)


def runner(
    store: Store,
    budget: str = "100 trials",
    evaluator: StubEvaluator = StubEvaluator(),  # noqa: B008  (frozen)
    *,
    executor: Executor | None = None,
    on_event: Callable[[Event], None] | None = None,
    confirm: int = 0,
    seeds: int = 3,
    **options: Any,
) -> Runner:
    def confirm_with(records: list[Record]) -> list[Proposal]:
        strategy = Sweep(seeds=seeds)
        for trial in selected(records):
            strategy.observe(trial)
        return confirmations(selected(records), strategy.choose(), SPACE, confirm)

    return Runner(
        store,
        evaluator,
        lambda: Sweep(seeds=seeds),
        Budget.parse(budget),
        executor or Local(),
        confirm_with,
        on_event,
        **options,
    )


def in_memory() -> Store:
    return Store.open(None)


def identities(store: Store, state: str = "complete") -> list[tuple[str, str, int]]:
    return [record.trial.identity for record in store.records() if record.trial.state == state]


def start(file: Path, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.search_stub", str(file), str(log)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def search(file: Path, log: str) -> None:
    """Go on with the study until it ends."""
    print(runner(Store.open(file), evaluator=StubEvaluator(log=log)).run())


if __name__ == "__main__":
    search(Path(sys.argv[1]), sys.argv[2])
