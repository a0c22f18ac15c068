"""`reproduce`: an experiment of the paper by its name, and what it says here, compared with what the paper reports."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pifi_probe.errors import PlugInError, RecipeError
from pifi_probe.escaping import printable
from pifi_probe.experiments.extras import EXTRAS, Context, keep_forgetting
from pifi_probe.experiments.findings import Finding, finding_of
from pifi_probe.experiments.plan import Experiment, Scale, load_experiment
from pifi_probe.experiments.runner import Runs, run_blocks
from pifi_probe.experiments.summary import HEADINGS, cells, write_page, write_summary
from pifi_probe.files import write_record
from pifi_probe.provenance import collect
from pifi_probe.reporting.result import Result, plain
from pifi_probe.reporting.tables import Table
from pifi_probe.tasks.splitting import label_counts
from pifi_probe.telling import COLUMNS, LINES
from pifi_probe.training import Comparison, RunResult, compare
from pifi_probe.vocabulary import in_words_of_today

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Reproduction", "reproduce"]

FEWEST, ALL = 4, 10**9  # labelled texts


@dataclass(frozen=True, repr=False)
class Reproduction(Result):
    """What an experiment found.

    Parameters
    ----------
    experiment : Experiment
    scale : str
    findings : tuple of Finding
        One for each claim that this scale is about.
    comparisons : dict of str to Comparison
        By block: every arm against vanilla.
    extras : dict of str to list of dict
        Tables of what was measured besides the runs.
    left_out : dict of str to str
        Block or layer to the reason.
    folder : Path
        With one JSON a run, ``summary.json`` (this result), ``summary.md`` and ``summary.html``.
    seconds : float
        Of all runs.
    fewer : dict of int to Reproduction
        The same with so many labelled texts, where `fractions` were asked for.
    provenance : dict
    runs : Runs or None
        None for a result that was read from its file: the runs have files of their own.
    """

    experiment: Experiment
    scale: str
    findings: tuple[Finding, ...]
    comparisons: dict[str, Comparison]
    extras: dict[str, list[dict[str, Any]]]
    left_out: dict[str, str]
    folder: Path
    seconds: float
    fewer: dict[int, Reproduction] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    runs: Runs | None = field(default=None, compare=False)
    noun: ClassVar[str] = "what an experiment found"

    @property
    def frame(self) -> pd.DataFrame:
        """One row per claim: what the paper reports, what was measured with its interval, and the verdict."""
        import pandas as pd

        return pd.DataFrame([asdict(finding) for finding in self.findings])

    @property
    def stands_for(self) -> str:
        """What a result at this scale says, and what it does not."""
        return self.experiment.scale(self.scale).stands_for

    @property
    def answers(self) -> dict[str, str]:
        """What each block answers, in plain sentences; see `Comparison.answer`."""
        return {block: comparison.answer for block, comparison in self.comparisons.items() if comparison.effects}

    def panel(self) -> str:
        """Return the answers in at most eight lines of 80 columns."""
        found = [comparison.panel() for comparison in self.comparisons.values() if comparison.effects]
        if len(found) < 2:
            return "".join(found)
        lines = [
            line for block, text in self.answers.items() for line in textwrap.wrap(f"{block}: {text}", COLUMNS - 2)
        ]
        shown = lines[:LINES]
        if len(shown) < len(lines):
            shown[-1] = textwrap.shorten(f"{shown[-1]} (more below)", COLUMNS - 2, placeholder=" (more below)")
        return "\n".join(shown)

    def __str__(self) -> str:
        claims = [f"{finding.says}: {finding.verdict}" for finding in self.findings]
        return printable("\n".join([*self.answers.values(), *claims]))

    def __repr__(self) -> str:
        return str(self)

    def said(self) -> list[str]:
        """Return the answer of every block."""
        return [f"{block}: {text}" for block, text in self.answers.items()]

    def tables(self) -> list[Table]:
        """Return one table: a row for each claim."""
        import pandas as pd

        rows = [cells(finding) for finding in self.findings]
        title = f"{self.experiment.title} ({self.scale}) {self.stands_for}"
        return [Table(pd.DataFrame(rows, columns=list(HEADINGS)), title, below=HEADINGS[3:4])]

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the runs as values that JSON can hold."""
        kept = replace(self, runs=None)
        return Result.to_dict(kept) | {
            "experiment": self.experiment.name,
            "title": self.experiment.title,
            "plan": plain(self.experiment),
            "stands_for": self.stands_for,
            "answers": self.answers,
            "comparisons": {block: comparison.to_dict() for block, comparison in self.comparisons.items()},
            "fewer": {str(count): own.to_dict() for count, own in self.fewer.items()},
        }

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> Reproduction:
        return super()._read(_with_plan(values))


def reproduce(
    name: str,
    scale: str = "small",
    *,
    out: str | Path | None = None,
    data: str | Path | None = None,
    fractions: Sequence[float] = (),
    on_run: Callable[[int, int, RunResult], None] | None = None,
) -> Reproduction:
    """Run an experiment of the paper, or continue one, and compare what it says with what the paper reports.

    Parameters
    ----------
    name : str
        One of `pifi_probe.experiments.plan.experiments`, such as ``"layer-position"``, or a ``.yaml`` file.
    scale : {"small", "paper"}
        ``"small"``: minutes to hours on the embedded models and texts. ``"paper"``: the paper's own models and
        tasks from the hub, which need a GPU and access to gated models.
    out : str or Path, optional
        Folder for results, ``runs/NAME-SCALE`` when none is given; finished runs in it are not run again.
    data : str or Path, optional
        Folder of own data, for parts that need a file; they are left out without it.
    fractions : sequence of int or float
        Run it with fewer labelled texts, too: numbers of them, or shares below 1 of what the scale trains on.
        Results lie in folders below `out`.
    on_run : callable, optional
        Called with the number of finished runs, the number of all, and the run's result.

    Returns
    -------
    Reproduction

    Raises
    ------
    RecipeError
        If there is no such experiment or scale, the folder holds other runs, or no part can be run.
    TaskError
        If a fraction asks for more labelled texts than the scale trains on, or for fewer than four.

    Examples
    --------
    >>> pp.reproduce("layer-position", scale="small").frame  # doctest: +SKIP
    """
    experiment = load_experiment(name)
    size = experiment.scale(scale)
    folder = Path(out) if out is not None else Path("runs") / f"{experiment.name}-{scale}"
    whole = size.sizes.get("train", ALL)
    if whole == ALL and any(fraction < 1 for fraction in fractions):
        raise RecipeError(
            f"{experiment.name} at scale {scale!r} trains on all texts, so a share of them is not defined",
            where="fractions",
            next="give numbers of labelled texts",
        )
    own = None if data is None else Path(data)
    counts = label_counts(fractions, whole, FEWEST, experiment.name)
    found = _run(experiment, scale, size, folder, own, on_run)
    for count in counts:
        less = replace(size, sizes={**size.sizes, "train": count})
        found.fewer[count] = _run(experiment, scale, less, folder / f"labels-{count}", own, on_run)
    return found


def _run(
    experiment: Experiment,
    scale: str,
    size: Scale,
    folder: Path,
    data: Path | None,
    on_run: Callable[[int, int, RunResult], None] | None,
) -> Reproduction:
    after = keep_forgetting if "forgetting" in experiment.extras else None
    runs = run_blocks(experiment, size, folder, data=data, on_run=on_run, after=after)
    context = Context(experiment, size, runs, folder)
    found = Reproduction(
        experiment=experiment,
        scale=scale,
        findings=tuple(finding_of(claim, runs) for claim in experiment.claims_at(size)),
        comparisons=_comparisons(runs),
        extras={extra: EXTRAS[extra](context) for extra in experiment.extras},
        left_out=runs.skipped,
        folder=folder,
        seconds=sum(sum(run.seconds.values()) for own in runs.results.values() for arm in own.values() for run in arm),
        provenance=collect(),
        runs=runs,
    )
    record = found.to_dict() | {"settings": _settings(size)}
    write_record(folder / "summary.json", record)
    write_summary(folder / "summary.md", record, found.findings)
    write_page(folder / "summary.html", record, found)
    return found


def _comparisons(runs: Runs) -> dict[str, Comparison]:
    """Compare the arms of each block that has the encoder alone among them."""
    comparisons = {}
    for block, arms in runs.results.items():
        try:
            comparisons[block] = compare([run for own in arms.values() for run in own])
        except PlugInError:
            continue  # no vanilla arm: the claims compare its arms
    return comparisons


def _with_plan(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return stored values with the experiment itself; earlier files do not hold it, and name one of the package."""
    plan = values.get("plan") or plain(load_experiment(values["experiment"]))
    fewer = {count: _with_plan(own) for count, own in values.get("fewer", {}).items()}
    findings = [in_words_of_today(one) for one in values["findings"]]
    return {"folder": ".", **values, "experiment": plan, "findings": findings, "fewer": fewer, "runs": None}


def _settings(scale: Scale) -> dict[str, Any]:
    return {"seeds": scale.seeds, "layers": dict(scale.layers), "recipe": dict(scale.recipe)}
