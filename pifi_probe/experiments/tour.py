"""The demo in three stops: what no other weights do, where real layers help, and the paper's wiring."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from pifi_probe.errors import RecipeError
from pifi_probe.experiments.demo import DEFAULT, LAST, LLM, SLM, TRAIN_ON, DemoArm, Size, at_most
from pifi_probe.experiments.plan import Arm
from pifi_probe.experiments.runner import stored_run
from pifi_probe.files import write_json, write_record
from pifi_probe.layers.control import PositiveControl
from pifi_probe.layers.extract import extract
from pifi_probe.probing.chain import probe_chain
from pifi_probe.probing.chain_table import ChainTable
from pifi_probe.probing.control import positive_control
from pifi_probe.provenance import collect
from pifi_probe.reading import read_object
from pifi_probe.reporting import plots
from pifi_probe.reporting.html import Section, report
from pifi_probe.tasks import load_task
from pifi_probe.training import Comparison, Recipe, RunResult, compare

__all__ = ["SECONDS", "Tour", "runs_that_fit", "run_tour"]

SECONDS = 500.0  # of all stops; the timed first run decides how many more runs fit
COPIES: dict[str, Any] = {"layers": "18", "n_fit": 96, "n_test": 48}
CHAIN: dict[str, Any] = {"layers": "8-14", "n_train": 800, "n_test": 1000, "n_align": 800, "max_tokens": 60}
CHAIN |= {"fractions": [200], "n_draws": 5}  # with fewer labels, too: five draws of them
PAPER = Size(DEFAULT, train=600, validation=150, test=500, seeds=3, epochs=4)
RECIPE: dict[str, Any] = {"batch_size": 16, "max_tokens": 60}
WIRED = tuple(DemoArm(Arm(control=control), LAST) for control in ("vanilla", None, "random", "linear"))
_LIMITS = (
    "One small encoder, one 135M language model in 4-bit weights, short English sentences: this says nothing about "
    "larger models, other languages or harder tasks. A difference whose interval includes zero is not shown, in "
    "either direction; one or two seeds say little of the noise between seeds."
)
_ONE_SEED = (
    "The twin's weights and both projections are drawn by the seed, so that one seed cannot tell the layer from its "
    "twin: `pifi-probe demo --full` trains three."
)


@dataclass
class Tour:
    """What the three stops found.

    Parameters
    ----------
    folder : Path
    control : PositiveControl
    chain : ChainTable
    results : list of RunResult
        In the paper's wiring.
    seconds : dict of str to float
        What each stop took when it was made, and ``"first"``: until the first answer.
    """

    folder: Path
    control: PositiveControl
    chain: ChainTable
    results: list[RunResult]
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def comparison(self) -> Comparison:
        """The runs in the paper's wiring against the encoder alone."""
        return compare(self.results, "vanilla")

    @property
    def answers(self) -> dict[str, str]:
        """One answer a stop, by what was asked."""
        wired, seeds = self.comparison.answer, {run.seed for run in self.results}
        if len(seeds) == 1:
            wired += f" {_ONE_SEED}"
        return {
            "What does a layer do that no other weights do?": self.control.answer,
            "Where do real layers help an encoder?": self.chain.answer,
            "And in the paper's wiring?": wired,
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return {
            "command": "pifi-probe demo",
            "seconds": sum(value for name, value in self.seconds.items() if name != "first"),
            "seconds of": self.seconds,
            "size": {"control": COPIES, "chain": CHAIN, "paper": asdict(PAPER) | RECIPE, "runs": len(self.results)},
            "answers": self.answers,
            "control": self.control.to_dict(),
            "chain": json.loads(self.chain.to_json(per_example=False)),
            "comparison": self.comparison.to_dict(),
            "provenance": collect(),
        }


def run_tour(folder: str | Path, *, say: Callable[[str], None] = lambda line: None) -> Tour:
    """Make the three stops, and write a report; what is finished in the folder is not made again.

    Parameters
    ----------
    folder : str or Path
    say : callable
        Told a line at each step.

    Raises
    ------
    RecipeError
        If the folder holds a demo of other sizes, or runs of another recipe.
    """
    root = Path(folder)
    _check_sizes(root / "sizes.json")
    times = read_object(root / "seconds.json") if (root / "seconds.json").exists() else {}
    began = time.monotonic()

    def timed(stop: str, make: Callable[[], Any]) -> Any:
        start = time.monotonic()
        found = make()
        times.setdefault(stop, time.monotonic() - start)
        times.setdefault("first", time.monotonic() - began)
        write_json(root / "seconds.json", times)
        return found

    say(
        f"1 of 3. Can layer {COPIES['layers']} of {LLM} find a word again and copy what followed it? Next to its "
        "twins, of the same shape: its weights in another order, or random ones."
    )
    control = timed("control", lambda: _control(root / "control.json"))
    say(control.answer)
    say(
        f"\n2 of 3. {TRAIN_ON}: layers {CHAIN['layers']} of {LLM}, one after the other, behind the frozen encoder "
        f"{SLM} and a linear map between them that was fitted without labels. This takes some minutes."
    )
    chain = timed("chain", lambda: _chain(root / "chain.json"))
    say(chain.answer)
    say(
        f"\n3 of 3. The paper's wiring: layer {LAST} alone, behind the encoder's one vector for a text, trained on "
        f"{PAPER.train} texts. Next to it vanilla, the encoder alone; random, a layer of random weights; and linear, "
        "no layer. The first run decides how many more fit."
    )
    results: list[RunResult] = []
    left = SECONDS - times["control"] - times["chain"]
    jobs = [(WIRED[0], 0)]
    while len(results) < len(jobs):
        results.append(_run(root, *jobs[len(results)]))
        done = results[-1]
        say(f"  [{len(results)}] {done.label}, seed {done.seed}: {done.metrics[TRAIN_ON]['accuracy']:.1%}")
        if len(jobs) == 1:
            took = sum(done.seconds.values())
            seeds, arms = runs_that_fit(left, took)
            jobs = [(arm, seed) for seed in range(seeds) for arm in WIRED[:arms]]
            say(f"  one run takes {took:.0f} s here: {len(jobs)} runs, {seeds} seed{'s' * (seeds > 1)} of {arms} arms")
    times["runs"] = sum(sum(run.seconds.values()) for run in results)
    tour = Tour(root, control, chain, results, times)
    write_json(root / "seconds.json", times)
    write_record(root / "comparison.json", tour.to_dict())
    report("PiFi demo", _sections(tour), root / "report.html", {"seconds": times, "provenance": collect()})
    return tour


def runs_that_fit(left: float, first: float) -> tuple[int, int]:
    """Return seeds and arms for the seconds that are left before the first run, which took `first`.

    Three arms with one seed are the least: the encoder alone, the layer, and its random twin; then two projections and
    further seeds.
    """
    plugged = 1.15 * first  # of an arm with a layer
    sizes = sorted(((seeds, arms) for seeds in (1, 2, 3) for arms in (3, 4)), key=lambda one: one[0] * one[1])
    fit = [(seeds, arms) for seeds, arms in sizes if first + (seeds * arms - 1) * plugged <= left]
    return fit[-1] if fit else sizes[0]


def _check_sizes(file: Path) -> None:
    """Refuse a folder whose first two stops were made with other sizes; runs have keys of their own."""
    asked = {"control": COPIES, "chain": CHAIN}
    if file.exists() and read_object(file) != asked:
        raise RecipeError(
            "the folder holds a demo of other sizes, as another version made it",
            where=str(file.parent),
            next="name another folder with --out, or remove this one",
        )
    write_json(file, asked)


def _control(file: Path) -> PositiveControl:
    if file.exists():
        return PositiveControl.from_json(file)
    found = positive_control(LLM, **COPIES)
    found.to_json(file)
    return found


def _chain(file: Path) -> ChainTable:
    if file.exists():
        return ChainTable.from_json(file)
    found = probe_chain(SLM, LLM, load_task(TRAIN_ON), **CHAIN)
    found.to_json(file)
    return found


def _run(root: Path, arm: DemoArm, seed: int) -> RunResult:
    task = load_task(TRAIN_ON)
    small = task.subset(train=PAPER.train, validation=PAPER.validation, test=at_most(task, PAPER.test))
    recipe = Recipe(seed=seed, epochs=PAPER.epochs, precision=PAPER.precision, **RECIPE)
    file = root / "paper" / f"{arm.key}-seed{seed}" / "result.json"
    return stored_run(file, arm.arm, SLM, extract(f"{LLM}[{arm.index}]"), small, [], recipe)


def _sections(tour: Tour) -> list[Section]:
    titles = list(tour.answers)
    first: Section = {"title": "The answer", "text": "\n".join(tour.answers.values())}
    copies: Section = {"title": titles[0], "text": tour.control.answer, "table": tour.control.table}
    gains = _gains(tour.chain)
    helps: Section = {
        "title": titles[1],
        "text": tour.chain.answer,
        "figure": plots.forest(gains, value_label="accuracy over the frozen encoder (points)"),
        "alt": "Points over the frozen encoder with intervals: interface alone, real layers, shuffled and random twin.",
        "table": tour.chain.summary(),
    }
    wired = tour.comparison.sections(titles[2])
    return [first, copies, helps, *wired, {"title": "What this does not show", "text": _LIMITS}]


def _gains(chain: ChainTable) -> pd.DataFrame:
    arms: Sequence[str] = [arm for arm in dict.fromkeys(chain.scores["arm"]) if arm != "encoder"]
    rows = [(arm, chain.difference(arm, "encoder")) for arm in arms]
    return pd.DataFrame(
        [
            {"arm": arm, **{"mean" if name == "difference" else name: 100 * row[name] for name in _BOUNDS}}
            for arm, row in rows
        ]
    )


_BOUNDS = ("difference", "low", "high")
