"""Tables and verdicts of the combination study, from its recorded runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pifi_probe as pp
from pifi_probe import differences as together
from pifi_probe.differences import between
from pifi_probe.kinds import metric_named
from pifi_probe.stats import verdict as verdict_of
from pifi_probe.training import RunResult

METRICS = ("accuracy", "nll")
COMBINATIONS = ("pair", "triple", "block")
# Control, and what it says of itself. Those of a block are the pair's, but for its own shuffled layers:
# one best layer twice, an ensemble of it and an MLP with twice a block's projections ask more of it than its own would.
CONTROLS = {
    "repeated": "(a) one layer {k} times",
    "shuffled": "(b) {k} shuffled layers",
    "ensemble": "(c) ensemble of {k} seeds of the single layer",
    "mlp": "(d) trainable MLP with as many weights as {k} projections",
}
PLAIN = {
    "vanilla": "vanilla",
    "single": "single layer, chosen like the sets",
    "last": "last layer",
    "best-in-full": "best single layer of all 30 trained in full, by validation NLL",
}
Runs = Mapping[str, Sequence[RunResult]]


def read(folder: Path) -> dict[str, list[RunResult]]:
    """Return the recorded runs by arm, each under the name of its arm."""
    arms: dict[str, list[RunResult]] = {}
    for file in sorted(folder.glob("*-seed*.json")):
        arm = file.stem.rsplit("-seed", 1)[0]
        run = RunResult.from_json(file)
        arms.setdefault(arm, []).append(replace(run, model=run.model | {"label": arm}))
    order = [*PLAIN, *COMBINATIONS, *(f"{control}-{name}" for name in COMBINATIONS for control in CONTROLS)]
    return {arm: arms[arm] for arm in order if arm in arms}


def summary(folder: Path, selection: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was chosen, how every arm did, every combination against its controls, and a verdict."""
    arms = read(folder)
    found: dict[str, Any] = {
        "task": folder.name,
        "chosen": {
            name: {key: value for key, value in selection[name].items() if key != "tried"}
            for name in ("single", *COMBINATIONS)
        },
        "runs": {arm: [run.seed for run in runs] for arm, runs in arms.items()},
        "validation_nll": {arm: [run.epochs[run.best_epoch]["nll"] for run in runs] for arm, runs in arms.items()},
        "rows": [
            {"metric": metric, **row}
            for metric in METRICS
            for row in pp.compare([run for runs in arms.values() for run in runs], metric=metric).frame.to_dict(
                orient="records"
            )
        ],
        "controls": [row for metric in METRICS for row in against_controls(arms, metric)],
    }
    return found | {"verdict": verdict(found["controls"])}


def opponents(combination: str) -> list[str]:
    """Return the arms that a combination is compared with."""
    k = "pair" if combination == "block" else combination
    own = [f"{name}-{combination if name == 'shuffled' else k}" for name in CONTROLS]
    return [*PLAIN, *own]


def against_controls(arms: Runs, metric: str) -> list[dict[str, Any]]:
    """Compare each combination with each of its controls; all arms tell how much seeds matter.

    The p-values are adjusted for the controls of a combination, which share its runs (step-down Dunnett).
    """
    found: list[dict[str, Any]] = []
    known = metric_named(metric)
    scores = {
        arm: {run.seed: known.sign * next(iter(run.tests.values())).per_example(metric) for run in runs}
        for arm, runs in arms.items()
    }
    for combination in (name for name in COMBINATIONS if name in arms):
        asked = {name: between([combination], [name]) for name in opponents(combination) if name in arms}
        judged = together.Runs(scores, [combination]).differences(asked)
        for control, one in judged.items():
            found.append(
                {
                    "metric": metric,
                    "combination": combination,
                    "control": control,
                    "seeds": one.interval.n_seeds,
                    "difference": one.interval.mean,
                    "low": one.interval.low,
                    "high": one.interval.high,
                    "p": one.interval.p_value,
                    "p_adjusted": one.p_value,
                    "verdict": verdict_of(one.interval, known.of_differences),
                }
            )
    return found


def verdict(rows: Iterable[Mapping[str, Any]]) -> str:
    """Say of every combination whether it is better than vanilla, the single layer and its controls."""
    said = []
    for combination in COMBINATIONS:
        parts = []
        for metric in METRICS:
            own = [row for row in rows if row["combination"] == combination and row["metric"] == metric]
            better = [row["control"] for row in own if row["difference"] > 0 and row["p_adjusted"] < 0.05]
            worse = [row["control"] for row in own if row["difference"] < 0 and row["p_adjusted"] < 0.05]
            if own:
                parts.append(f"by {metric.replace('nll', 'NLL')} {_judged(better, worse)} (of {len(own)})")
        if parts:
            said.append(f"{combination}: {', '.join(parts)}")
    same = [
        combination
        for combination in COMBINATIONS
        if (
            needed := [
                row
                for row in rows
                if row["combination"] == combination and row["control"] not in ("vanilla", "last", "best-in-full")
            ]
        )
        and all(row["difference"] > 0 and row["p_adjusted"] < 0.05 for row in needed if row["metric"] == "nll")
    ]
    end = (
        f"Better in NLL than the single layer and all controls at equal k: {', '.join(same)}."
        if same
        else "No combination is better in NLL than the single layer and all its controls at equal k."
    )
    return f"{end} Adjusted for all controls of a combination, {'; '.join(said)}."


def _judged(better: Sequence[str], worse: Sequence[str]) -> str:
    found = [f"{how} than {' and '.join(arms)}" for how, arms in (("better", better), ("worse", worse)) if arms]
    return " and ".join(found) or "no difference found"


def title(arm: str) -> str:
    """Return an arm in words."""
    if arm in PLAIN:
        return PLAIN[arm]
    name, _, of = arm.partition("-")
    if not of:
        return arm
    k = {"triple": 3}.get(of, 2)
    return CONTROLS[name].format(k=k) + (" of the block" if of == "block" else "")


def table(found: Mapping[str, Any]) -> str:
    """Return the study of a task as Markdown."""
    chosen = {
        name: (" >> " if one["design"] == "serial" else " + ").join(map(str, one["layers"]))
        for name, one in found["chosen"].items()
    }
    nll = {row["arm"]: row for row in found["rows"] if row["metric"] == "nll"}
    lines = [
        f"Layers chosen: {', '.join(f'{name} {layers}' for name, layers in chosen.items())}.",
        "",
        "| arm | seeds | accuracy % | to vanilla (points) | NLL | verdict on the accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for row in (row for row in found["rows"] if row["metric"] == "accuracy"):
        lines.append(
            f"| {title(row['arm'])} | {len(row['seeds'])} | {100 * row['mean']:.1f} | {_points(row)} | "
            f"{nll[row['arm']]['mean']:.3f} | {row['verdict']} |"
        )
    lines += [
        "",
        "Each combination against its controls; positive is better, intervals at 95 % over seeds and test texts, "
        "p-values adjusted for the controls of a combination.",
        "",
        "| combination | against | accuracy (points) | p | NLL (nats) | p |",
        "|---|---|---|---|---|---|",
    ]
    places = {(row["metric"], row["combination"], row["control"]): row for row in found["controls"]}
    for (metric, combination, control), row in places.items():
        if metric == "accuracy":
            other = places["nll", combination, control]
            lines.append(
                f"| {combination} {chosen[combination]} | {title(control)} | {_interval(row, 100, 1)} | "
                f"{_p(row)} | {_interval(other, 1, 3)} | {_p(other)} |"
            )
    return "\n".join([*lines, "", f"**{found['verdict']}**", ""])


def _points(row: Mapping[str, Any]) -> str:
    names = {"difference": "difference", "low": "difference_low", "high": "difference_high"}
    if row["difference"] is None or row["difference"] != row["difference"]:
        return ""
    return _interval({name: row[key] for name, key in names.items()}, 100, 1)


def _p(row: Mapping[str, Any]) -> str:
    return "< 0.01" if row["p_adjusted"] < 0.005 else f"{row['p_adjusted']:.2f}"


def _interval(row: Mapping[str, Any], scale: float, digits: int) -> str:
    mean, low, high = (scale * row[name] for name in ("difference", "low", "high"))
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
