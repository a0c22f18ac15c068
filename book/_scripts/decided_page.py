"""Judge every recorded comparison anew, and write `book/decided.md`: what was decided then, and what is now.

python book/_scripts/decided_page.py --judge    # writes book/_studies/decided.json from the runs; minutes
python book/_scripts/decided_page.py            # writes the page from it
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

import pifi_probe as pp
from pifi_probe.experiments.findings import finding_of
from pifi_probe.experiments.plan import load_experiment
from pifi_probe.experiments.runner import Runs
from pifi_probe.files import write_json
from pifi_probe.kinds import metric_named
from pifi_probe.ladder import answer
from pifi_probe.provenance import collect
from pifi_probe.stats import holm, paired_difference
from pifi_probe.telling import needed_lines
from pifi_probe.training import RunResult
from pifi_probe.vocabulary import in_words_of_today

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "book" / "_studies"
RECORD = STUDIES / "decided.json"
PAGE = ROOT / "book" / "decided.md"
SKIPPED = ("check-1000",)  # layers and one control, to check a size
RUNGS = ("plugging in", "projections", "block", "knowledge")
QUESTIONS = (*RUNGS, "layers")
NATS = "nll"

HEAD = """# Decided then, decided now

No run on this page is new. Each recorded comparison was judged twice.

*Then*: every arm alone against its baseline, Student's t over its own two or three seeds, and Holm's correction. With
three seeds t asks for 4.3 times the standard error; with two nothing could be said over seeds at all.

*Now*: all runs of an experiment together, as the page on [methods](methods.md) describes: one model of arms and seeds,
moderated spreads, groups of arms (all layers against all twins), and "no difference larger than one point" as an answer
of its own. Positive differences favour the first side. Where fewer seeds ran than either needs, *now* is undecided,
too.
"""


def judged() -> dict[str, Any]:
    """Return all verdicts, from the runs."""
    return {
        "experiments": {file.parent.name: claims(file) for file in sorted(STUDIES.glob("experiments/*/summary.json"))},
        "tables": {
            folder.name: table(folder)
            for folder in sorted((STUDIES / "truth").iterdir())
            if folder.is_dir() and folder.name not in SKIPPED
        },
        "provenance": collect(),
    }


def runs_of(summary: Path) -> tuple[dict[str, Any], dict[str, dict[str, list[RunResult]]]]:
    """Return a recorded summary and its runs, by block and arm."""
    record = json.loads(summary.read_text(encoding="utf-8"))
    plan = load_experiment(record["experiment"])
    scale = plan.scale(record["scale"])
    found: dict[str, dict[str, list[RunResult]]] = {}
    for block in scale.blocks:
        for arm in plan.arms_in(scale, block):
            for seed in range(plan.seeds_of(scale, block)[arm]):
                file = summary.parent / "runs" / f"{block}-{arm}-seed{seed}" / "result.json"
                if file.is_file():
                    found.setdefault(block, {}).setdefault(arm, []).append(RunResult.from_json(file))
    return record, found


def claims(summary: Path) -> list[dict[str, Any]]:
    """Return every claim of an experiment with both verdicts."""
    record, found = runs_of(summary)
    plan = load_experiment(record["experiment"])
    then = {finding["says"]: finding for finding in record["findings"]}
    rows = []
    for claim in plan.claims_at(plan.scale(record["scale"])):
        if claim.says in then and then[claim.says]["measured"] is not None:
            rows.append({"then": then[claim.says], "now": asdict(finding_of(claim, Runs(found, {}, {})))})
    return rows


def table(folder: Path) -> list[dict[str, Any]]:
    """Return for every test set of a table how many arms were told from vanilla, and the ladder."""
    runs = [RunResult.from_json(file) for file in sorted(folder.glob("*.json"))]
    compared = pp.compare(runs)
    found = []
    for test in runs[0].tests:
        own = [e for e in compared.effects if e.test == test and e.name in QUESTIONS]
        effects, nats = ([e for e in own if e.metric == metric] for metric in (compared.metric, NATS))
        undecided = [e for e in effects if e.verdict == "undecided"]
        rows = [row for row in compared.rows if row.test == test and row.baseline]
        found.append(
            {
                "test": test,
                "metric": compared.metric,
                "arms": len(rows),
                "seeds": len(rows[0].seeds),
                "then": told_then(runs, test, compared.metric),
                "now": sum((row.p_value or 1.0) < 0.05 for row in rows),
                "effects": [asdict(effect) for effect in effects],
                "nats": {effect.name: {"shown": effect.interval(), "verdict": effect.verdict} for effect in nats},
                "answer": answer(effects, compared.unit),
                "needed": needed_lines(undecided, compared.seconds, compared.level),
            }
        )
    return found


def told_then(runs: list[RunResult], test: str, metric: str) -> int | None:
    """Return how many arms each alone could be told from vanilla over seeds; None with fewer than three seeds."""
    sign = metric_named(metric).sign
    arms: dict[str, list[Any]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        arms.setdefault(run.label, []).append(sign * run.tests[test].per_example(metric))
    base = next(label for label in arms if label.endswith(": vanilla"))
    if len(arms[base]) < 3:
        return None
    others = [np.stack(own) for label, own in arms.items() if label != base]
    return sum(p < 0.05 for p in holm([paired_difference(own, np.stack(arms[base])).p_value for own in others]))


def page(record: dict[str, Any]) -> str:
    """Return the page."""
    parts = [HEAD.strip(), summary(record), "## The paper's claims"]
    for name, rows in record["experiments"].items():
        lines = [["claim", "then", "now"]]
        lines += [[cell(row["now"]["says"]), shown(row["then"]), shown(row["now"])] for row in rows]
        parts.append(f"### {name}\n\n{markdown(lines)}")
    parts.append(
        "## Every layer, trained one by one\n\nThe ladder below asks five questions of each table; none of them was "
        "asked before. *Layers* is the layer farthest from the mean of all, with an interval that holds for all of "
        "them at once. In nats the loss on the test texts is compared; positive is better, too. *Arms told from "
        "vanilla* counts layers and controls whose difference to the encoder alone holds among all of them."
    )
    parts.append(surprise(record["tables"]))
    for name, tests in record["tables"].items():
        parts.append(f"### {name}")
        for own in tests:
            then = "none could be: two seeds" if own["then"] is None else f"{own['then']} of {own['arms']}"
            lines = [["question", "difference", "verdict", "in nats"]]
            lines += [
                [e["name"], interval(e, own["metric"]), e["verdict"], in_nats(own, e["name"])] for e in own["effects"]
            ]
            told = f"Arms told from vanilla: then {then}, now {own['now']} of {own['arms']}."
            parts.append(f"**{own['test']}** ({own['seeds']} seeds). {own['answer']} {told}\n\n{markdown(lines)}")
            if own["needed"]:
                parts.append("What would decide the rest:\n\n" + "\n".join(f"- {line}" for line in own["needed"]))
    parts.append(
        "## What could not be judged again\n\nThe recorded demo keeps the means and intervals of its arms, not the "
        "scores of single texts, so it stands as it was judged. Its next recording keeps them."
    )
    return "\n\n".join(parts) + "\n"


def surprise(tables: dict[str, list[dict[str, Any]]]) -> str:
    """Return the two findings that nobody asked for: what the weights do where the block costs, and where twins win."""
    (paper,) = (tests[0] for name, tests in tables.items() if name.endswith("-paper"))
    steps = {effect["name"]: effect for effect in paper["effects"]}
    block, knowledge = (f"{interval(e, paper['metric'])}, {e['verdict']}" for e in (steps["block"], steps["knowledge"]))
    found = "better" in (steps["knowledge"]["verdict"], paper["nats"]["knowledge"]["verdict"])
    repair = " The weights repair a part of what the block breaks." if found else ""
    costly, losing = (
        [
            f"{own['test']} ({name}, {interval(effect, own['metric'])})"
            for name, tests in tables.items()
            for own in tests
            for effect in own["effects"]
            if effect["name"] == step and effect["wiring"] == "matched" and effect["verdict"] == "worse"
        ]
        for step in ("block", "knowledge")
    )
    return (
        f"**A surprise that stays.** In the paper's wiring, on {paper['test']}: the block {block}; the real layers "
        f"against their twins {knowledge}, in nats {in_nats(paper, 'knowledge')}.{repair} In the matched wiring the "
        f"block is found to cost on {_listed(costly)}, and the twins are ahead on {_listed(losing)}."
    )


def _listed(sets: list[str]) -> str:
    return f"{len(sets)} test set{'s' * (len(sets) != 1)}: {'; '.join(sets)}" if sets else "no test set"


def in_nats(own: dict[str, Any], name: str) -> str:
    """Return what an effect is in nats, and its verdict there; empty where texts have no loss of their own."""
    found = own["nats"].get(name)
    return f"{found['shown']}, {found['verdict']}" if found else ""


def summary(record: dict[str, Any]) -> str:
    """Return the counts that the page is about."""
    rows = [row for own in record["experiments"].values() for row in own]
    then, now = (sum(decided(row[when]["verdict"]) for row in rows) for when in ("then", "now"))
    turned = sum(opposite(row) for row in rows)
    effects = [e for own in record["tables"].values() for test in own for e in test["effects"] if e["name"] in RUNGS]
    answered = [e for e in effects if e["verdict"] != "undecided"]
    counts = [f"{sum(e['verdict'] == one for e in answered)} {one}" for one in ("better", "worse", "equivalent")]
    return (
        f"Of {len(rows)} measured claims, {then} were decided then and {now} are now"
        f"{f'; {turned} changed sides' if turned else '; none changed sides'}. Of {len(effects)} questions of the "
        f"ladder to the tables of layers, {len(answered)} are decided: "
        f"{', '.join(counts)}."
    )


def decided(verdict: str) -> bool:
    """Return whether a claim holds or does not; with the spread of seeds unknown, it is open."""
    return not verdict.startswith("open") and "nothing about seed noise" not in verdict


def opposite(row: dict[str, Any]) -> bool:
    """Return whether a claim was decided one way then and the other way now."""
    both = decided(row["then"]["verdict"]) and decided(row["now"]["verdict"])
    return both and row["then"]["verdict"].startswith("holds") != row["now"]["verdict"].startswith("holds")


def shown(finding: dict[str, Any]) -> str:
    """Return difference, interval and verdict."""
    numbers = f"{finding['measured']:+z.2f} [{finding['low']:+z.2f}, {finding['high']:+z.2f}] {finding['unit']}"
    return f"{numbers}: {cell(in_words_of_today(finding)['verdict'])}"


def interval(effect: dict[str, Any], metric: str) -> str:
    """Return the interval of an effect in words."""
    known = metric_named(metric)
    mean, low, high = (f"{known.scale * effect[name]:+z.{known.digits}f}" for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}] {known.of_differences}"


def cell(text: str) -> str:
    """Return text that fits a cell of a table."""
    return text.replace("|", "\\|")


def markdown(lines: list[list[str]]) -> str:
    """Return lines of cells as a Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], ["---"] * len(lines[0]), *lines[1:]])


if __name__ == "__main__":
    if "--judge" in sys.argv:
        write_json(RECORD, judged())
    PAGE.write_text(page(json.loads(RECORD.read_text(encoding="utf-8"))), encoding="utf-8")
