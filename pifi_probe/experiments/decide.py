"""`decide`: vanilla, linear, twins and a layer, with as many seeds as the answer needs, or the budget allows."""

from __future__ import annotations

import math
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pifi_probe.checked import is_number
from pifi_probe.errors import CorruptFileError, RecipeError
from pifi_probe.experiments.crew import ARMS, Crew, Job, layers_named, opened, run_all
from pifi_probe.experiments.runner import stored_run
from pifi_probe.files import make_folder, write_json
from pifi_probe.kinds import KINDS, metric_named
from pifi_probe.ladder import Effect
from pifi_probe.layers.frozen import FrozenLayers
from pifi_probe.permissions import pickle_on_request
from pifi_probe.provenance import collect
from pifi_probe.reading import Refused, read_object, typed
from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table
from pifi_probe.selection.budget import Budget
from pifi_probe.selection.executors import Executor
from pifi_probe.tasks import Task
from pifi_probe.tasks.splitting import label_counts
from pifi_probe.telling import COLUMNS, LINES, needed_lines
from pifi_probe.training import Comparison, Recipe, RunResult, compare
from pifi_probe.units import duration
from pifi_probe.vocabulary import TWINS

__all__ = ["QUESTIONS", "Decision", "decide"]

QUESTIONS: Mapping[str, tuple[str, ...]] = {  # which arms a question compares
    "knowledge": ("real", *TWINS),
    "plugging in": ("real", "vanilla"),
    "projections": ("linear", "vanilla"),
    "block": ("linear", *TWINS),
}
LOOKS = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)  # seeds after which the runs are looked at
ERROR = 0.05  # of a wrong verdict, over all looks of all calls
SHARE = 0.8  # of the error that is left, for the looks of one call


@dataclass(frozen=True, repr=False)
class Decision(Result):
    """What `pifi_probe.decide` returns.

    Parameters
    ----------
    question : str
    effect : Effect
        The answer's difference and interval, at the level of the last look.
    looks : list of dict
        Every look at the data: seeds, level, mean, low, high, verdict.
    comparison : Comparison
        All runs, at the usual 95 %.
    seconds : float
        Of all runs.
    stopped : {"decided", "budget", "seeds"}
    folder : Path
        Of the runs; the same call continues there.
    fewer : dict of int to Decision
        The same with so many labelled texts, where `fractions` were asked for.
    provenance : dict
    """

    question: str
    effect: Effect
    looks: list[dict[str, Any]]
    comparison: Comparison
    seconds: float
    stopped: str
    folder: Path
    fewer: dict[int, Decision] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    noun: ClassVar[str] = "a decision"

    @property
    def verdict(self) -> str:
        """The answer in one word: better, worse, equivalent or undecided."""
        return self.effect.verdict

    @property
    def sight(self) -> list[str]:
        """Where no effect of the weights was found: whether these layers could have shown one."""
        asked = self.question == "knowledge" and self.verdict != "better"
        return self.comparison.sight() if asked else []

    def panel(self) -> str:
        """Return the answer in at most eight lines of 80 columns; `str` says all that was found."""
        said, level = [self._first()], self.looks[-1]["level"] if self.looks else self.comparison.level
        if self.looks:
            said.append(f"Looks are paid for: that interval is one of {100 * level:.1f} %, those below are of 95 %.")
        if self.verdict == "undecided":
            (more,) = needed_lines([self.effect], self.comparison.seconds, level)
            said.append(f"Stopped by the {self.stopped}. To decide {more}")
        said.append(self.comparison.answer)
        lines = [line for text in said for line in textwrap.wrap(text, COLUMNS - 2)]
        if len(lines) > LINES:
            end = " (more in decision.json)"
            lines = [*lines[: LINES - 1], textwrap.shorten(lines[LINES - 1] + end, COLUMNS - 2, placeholder=end)]
        return "\n".join(lines)

    def _first(self) -> str:
        unit = self.comparison.unit
        shown = f"{self.effect.interval(unit)} {unit}"
        seeds = f"{self.effect.n_seeds} seeds, {self.seconds / 60:.1f} minutes of runs"
        return f"{self.question}: {self.verdict}, {shown} ({seeds})"

    def __str__(self) -> str:
        lines = [self._first()]
        if self.looks:
            times = "once" if len(self.looks) == 1 else f"{len(self.looks)} times"
            lines.append(
                f"That interval is one of {100 * self.looks[-1]['level']:.1f} %, since looks are paid for and the data "
                f"were looked at {times}; those below are of 95 %."
            )
        lines.append(self.comparison.answer)
        if self.verdict == "undecided":
            lines += [f"stopped by the {self.stopped}", *self.comparison.needed()[:2]]
        lines += self.sight
        lines += [f"{size:,} labelled texts: {str(own).splitlines()[0]}" for size, own in sorted(self.fewer.items())]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        values = super().to_dict() | {"verdict": self.verdict, "answer": str(self), "sight": self.sight}
        nested = {"comparison": self.comparison.to_dict()}
        return values | nested | {"fewer": {str(size): own.to_dict() for size, own in self.fewer.items()}}

    def said(self) -> list[str]:
        """Return the answer, what it rests on, and what is left open."""
        return str(self).splitlines()

    def tables(self) -> list[Table]:
        """Return one table: a row for each look at the data."""
        import pandas as pd

        return [Table(pd.DataFrame(self.looks), f"looks at the data: {self.question}")]


@pickle_on_request
def decide(
    slm: str,
    layer: str | FrozenLayers,
    task: Task,
    *,
    margin: float = 1.0,
    budget: str | float | Budget = "30m",
    question: str = "knowledge",
    wiring: str = "matched",
    fractions: Sequence[float] = (),
    recipe: Recipe | None = None,
    executor: str | Executor = "local",
    workers: int = 1,
    out: str | Path | None = None,
    on_run: Callable[[RunResult], None] | None = None,
    allow_pickle: bool = False,
) -> Decision:
    """Train arms with further seeds until a question is answered or the budget is spent.

    Every arm (encoder alone, two projections, random and shuffled twins, the layer) gets two seeds; then the arms that
    the question compares get more, and the runs are looked at after 3, 4, 6, 8, 12, ... seeds. Looking often makes
    chance finds likelier, so every look is paid for out of 5 %, the chance of a wrong verdict over all looks together
    (a union bound, which holds however the looks depend on each other). One call may spend four fifths of what is
    left, in step with its budget: after half of the budget the first call has spent 2 % (a spending function that is
    linear in the budget; Lan and DeMets, 1983). What looks have spent is kept in the folder, so that a call that goes
    on pays out of the rest.

    Parameters
    ----------
    slm : str
        The encoder.
    layer : str, FrozenLayer, FrozenChain or FrozenParallel
        For ``wiring="aligned"`` the donor's name alone, too: the chain that `pifi_probe.headroom` suggests.
    task : Task
    margin : float
        The largest difference that counts as none: in points for shares such as accuracy (`compare` takes the share
        itself, 0.01), else in the metric's unit.
    budget : str or float
        A time ("30m", "2h"), or full runs ("40"); at least two seeds of five arms, which is said after the first run
        where they do not fit.
    question : {"knowledge", "plugging in", "projections", "block"}
        Which effect of the ladder is to be decided; see `pifi_probe.ladder`.
    wiring : {"matched", "pifi", "aligned"}
        As in `pifi_probe.search`, ``"matched"`` unless told: it starts at the encoder alone, so that what follows is
        the layer's. `pifi_probe.plug_in` makes the paper's model, ``"pifi"``, unless told.
    fractions : sequence of int or float
        Decide it with fewer labelled texts, too: numbers of them, or shares below 1. Each gets an equal part of the
        budget, and a folder of its own below `out`; the texts are drawn once, by the recipe's seed. An aligned
        chain's interface sees these texts alone; `pifi_probe.probe_chain` aligns it on all, without their labels.
    recipe : Recipe, optional
        Its seed is the first.
    executor, workers
        Where runs are made, as in `search`.
    out : str or Path, optional
        Folder of the runs, ``runs/decide-TASK`` when not given. Runs that are there are not made again.
    on_run : callable, optional
        Called with each run as it ends.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.

    Returns
    -------
    Decision

    Raises
    ------
    RecipeError
        If the question is unknown, the margin is not above 0, the budget does not pay for a first look, or the
        folder holds runs of other texts or recipes.
    SearchError
        If the budget cannot be read.
    TaskError
        If a fraction has too few labels, or more than there are.
    """
    if question not in QUESTIONS:
        raise RecipeError(f"unknown question {question!r}", where="decide", next=f"use one of {', '.join(QUESTIONS)}")
    most = 100 if metric_named(KINDS[task.kind].shown).is_share else math.inf
    if not is_number(margin) or not 0 < margin < most:
        raise RecipeError(
            f"margin={margin!r} is not between 0 and {most:g}", where="decide", next="1.0 is one point of accuracy"
        )
    if not isinstance(recipe, Recipe | None):
        raise RecipeError(
            f"a {type(recipe).__name__} is no recipe", where="decide", next="give pifi_probe.Recipe(...), or None"
        )
    limit = Budget.parse(budget)
    base = recipe or Recipe()
    fewest = 2 * task.n_labels if task.has_row_classes else 2
    sizes = label_counts(fractions, len(task.splits.get("train", ())), fewest, task.name)
    limit = Budget(limit.amount / (1 + len(sizes)), limit.unit)
    root = make_folder(Path(out) if out is not None else Path("runs") / f"decide-{task.name}")
    donor = layers_named(slm, layer, task, wiring)
    fewer = {
        size: decide(
            slm,
            donor,
            task.subset(train=size, seed=base.seed),
            margin=margin,
            budget=limit,
            question=question,
            wiring=wiring,
            recipe=base,
            executor=executor,
            workers=workers,
            out=root / f"labels-{size}",
            on_run=on_run,
        )
        for size in sizes
    }
    crew = Crew(root, slm, donor, task, base, wiring, make=stored_run)
    with opened(executor, workers) as where:
        runs, looks, effect, stopped = _looks(crew, where, limit, question, margin, on_run, root / "looks.json")
    comparison = compare(list(runs.values()), margin=_margin(list(runs.values()), margin))
    seconds = sum(sum(run.seconds.values()) for run in runs.values())
    made = collect(task=task.fingerprint)
    decision = Decision(question, effect, looks, comparison, seconds, stopped, root, fewer, made)
    decision.to_json(root / "decision.json")
    return decision


def _looks(
    crew: Crew,
    where: Executor,
    limit: Budget,
    question: str,
    margin: float,
    on_run: Callable[[RunResult], None] | None,
    file: Path,
) -> tuple[dict[Job, RunResult], list[dict[str, Any]], Effect, str]:
    """Return runs, looks, the last effect, and why it was the last."""
    runs: dict[Job, RunResult] = {}
    looks: list[dict[str, Any]] = []
    ledger = _Ledger(file, f"{question}, margin {margin:g}")
    started, paid, stopped = time.perf_counter(), 0, "seeds"  # paid: runs that earlier calls have looked at
    todo = [
        [(arm, seed) for seed in range(n_seeds) for arm in (QUESTIONS[question] if n_seeds > LOOKS[0] else ARMS)]
        for n_seeds in LOOKS
    ]
    for at, n_seeds in enumerate(LOOKS):
        new = [job for job in todo[at] if job not in runs and not crew.file(*job).is_file()]  # others cost no time
        if not looks:  # the first run tells what the others will take
            runs |= run_all(crew, (new or todo[at])[:1], where, on_run)
            count = len(new) if limit.unit == "seconds" else len(todo[at])
            _refuse_small(limit, count, next(iter(runs.values())), where.slots)
        runs |= run_all(crew, [job for job in todo[at] if job not in runs], where, on_run)
        if n_seeds in ledger.levels:
            paid = len(runs)
        spent = time.perf_counter() - started
        done = spent / limit.amount if limit.unit == "seconds" else (len(runs) - paid) / max(limit.amount - paid, 1)
        more = [job for job in (todo[at + 1] if at + 1 < len(LOOKS) else []) if job not in runs]
        costly = [job for job in more if limit.unit != "seconds" or not crew.file(*job).is_file()]
        last = not more or not _affordable(limit, len(costly), list(runs.values()), spent, where.slots)
        level = ledger.level(n_seeds, 1.0 if last else min(done, 1.0))
        effect = _effect(list(runs.values()), question, level, margin)
        looks.append(
            {"seeds": n_seeds, "level": level}
            | {name: getattr(effect, name) for name in ("mean", "low", "high", "verdict")}
        )
        if effect.verdict != "undecided":
            stopped = "decided"
            break
        if last:
            stopped = "budget" if more else "seeds"
            break
    return runs, looks, effect, stopped


class _Ledger:
    """What looks at a question have spent of `ERROR`, in a file: a look is paid for once, at the level it had.

    Parameters
    ----------
    file : Path
    asked : str
        The question with its margin; each has an error of its own.
    """

    def __init__(self, file: Path, asked: str) -> None:
        self.file, self.asked = file, asked
        self.known = _levels_of(file) if file.is_file() else {}
        self.levels = self.known.setdefault(asked, {})
        self._left = ERROR - sum(1 - level for level in self.levels.values())
        self._used = 0.0  # by this call

    def level(self, seeds: int, done: float) -> float:
        """Return the level of a look; a new one has spent, with those before it, `done` of what this call may spend."""
        if seeds not in self.levels:
            most = SHARE * self._left
            error = max(most * done - self._used, 1e-3 * most)  # a look that costs nothing yet still has an interval
            self._used += error
            self.levels[seeds] = 1 - error
            write_json(self.file, self.known)
        return self.levels[seeds]


def _levels_of(file: Path) -> dict[str, dict[int, float]]:
    try:
        stored = typed(dict[str, dict[str, float]], read_object(file))
        known = {asked: {int(seeds): level for seeds, level in own.items()} for asked, own in stored.items()}
        if any(not 1 - ERROR < level < 1 for own in known.values() for level in own.values()):
            raise Refused("a level outside of 0.95 to 1")
        return known
    except (Refused, ValueError, CorruptFileError) as error:
        raise RecipeError(
            f"what earlier looks have spent cannot be read: {error}",
            where=str(file),
            next="remove this file, and the looks are paid for again; runs are kept",
        ) from error


def _refuse_small(limit: Budget, n_runs: int, first: RunResult, slots: int) -> None:
    """Raise `RecipeError` where a budget does not pay for the first look."""
    each = sum(first.seconds.values())
    needs = n_runs * each / slots if limit.unit == "seconds" else n_runs
    if needs > limit.amount:
        time_or_runs = f"{n_runs} runs" + (f", about {duration(needs, short=True)}" if limit.unit == "seconds" else "")
        raise RecipeError(
            f"the budget of {limit} is smaller than two seeds of every arm ({time_or_runs})",
            where="decide",
            next="raise budget=, or take fewer texts (task.subset, --n-train); the first run is kept",
        )


def _margin(runs: list[RunResult], margin: float) -> float:
    metric = next(iter(runs[0].tests.values())).score_names[0]
    return margin / metric_named(metric).scale


def _effect(runs: list[RunResult], question: str, level: float, margin: float) -> Effect:
    found = compare(runs, level=level, margin=_margin(runs, margin))
    return next(e for e in found.effects if e.name == question and e.metric == found.metric)


def _affordable(limit: Budget, n_more: int, runs: list[RunResult], seconds: float, slots: int) -> bool:
    """Whether so many further runs, as long as those before, fit into the budget."""
    if limit.unit != "seconds":
        return len(runs) + n_more <= limit.amount
    each = sum(sum(run.seconds.values()) for run in runs) / len(runs)
    return seconds + n_more * each / slots <= limit.amount
