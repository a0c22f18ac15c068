"""LayerBench: gather the recorded runs of every layer into one file, and replay our strategies on it.

Reads ``book/_studies/truth/`` and ``truth-frozen/``, writes ``pifi_probe/layerbench.json`` (the tables) and
``benchmarks/results/layerbench.json`` (the leaderboard); trains nothing. Runs that a table lacks are made, one by one
and resumable, by ``benchmarks/truth_table.py TABLE``.

    python benchmarks/layerbench.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from _common import HERE, parser, record, target
from truth_table import LLM, N_LAYERS, SLM, STUDIES, TABLES, Table, arms, frozen_file_of

import pifi_probe as pp
from pifi_probe import layerbench
from pifi_probe.files import write_text
from pifi_probe.kinds import metric_named
from pifi_probe.ladder import answer
from pifi_probe.reading import read_json
from pifi_probe.training import RunResult

PACKAGED = HERE.parent / "pifi_probe" / "layerbench.json"
LEFT_OUT = ("check-1000",)  # five layers, to check the size of the others


def gathered() -> dict[str, Any]:
    """Return every table that has runs, as it is written."""
    names = [name for name in TABLES if name not in LEFT_OUT and seeds_of(name)]
    made = [frozen_table(name) if TABLES[name].encoder == "frozen" else table(name) for name in names]
    return {"version": layerbench.VERSION, "cite": layerbench.CITE, "tables": made}


def seeds_of(name: str) -> list[int]:
    """Return the seeds with which all that a table plans was trained; none where its plan has just grown."""
    plan, folder = TABLES[name], STUDIES / name
    if plan.encoder == "frozen":
        whole = all(frozen_file_of(name, control, index).is_file() for control, index in arms(plan))
        return list(range(plan.seeds)) if whole else []
    return [s for s in range(plan.seeds) if all(file_of(folder, c, i, s).is_file() for c, i in arms(plan))]


def table(name: str) -> dict[str, Any]:
    """Return one table: layers that have all seeds, and controls."""
    plan, folder = TABLES[name], STUDIES / name
    seeds, runs, losses = seeds_of(name), [], {}
    for control, index in arms(plan):
        for seed in seeds:
            run = RunResult.from_json(file_of(folder, control, index, seed))
            test = run.tests[plan.task]
            metric = test.score_names[0]
            own: dict[str, Any] = {"kind": control or layerbench.LAYER, "layer": index, "seed": seed}
            if metric == "accuracy":
                own["correct"] = layerbench.encode_bits(test.correct)
            else:
                own["scores"] = " ".join(f"{value:.4g}" for value in test.per_example(metric))
            runs.append(own)
            if control is None:
                found = run.metrics["validation"]
                losses[index, seed] = found["nll"] if "nll" in found else found["squared_error"]
    layers = sorted({index for index, _ in losses})
    cheap = cheap_of(name, layers)
    return planned(name, plan) | {
        "layers": layers,
        "seeds": seeds,
        "sizes": run.task["sizes"],
        "metric": metric,
        "validation": [[losses[index, seed] for seed in seeds] for index in layers],
        "runs": runs,
        "cheap": cheap["values"],
        "costs": cheap["costs"],
        "provenance": run.provenance,
    }


def frozen_table(name: str) -> dict[str, Any]:
    """Return one table whose encoder was frozen."""
    plan = TABLES[name]
    found = [read_json(frozen_file_of(name, control, index)) for control, index in arms(plan)]
    layers = {one["layer"]: one for one in found if one["kind"] == layerbench.LAYER}
    return planned(name, plan) | {
        "layers": sorted(layers),
        "seeds": list(range(plan.seeds)),
        "sizes": found[0]["sizes"],
        "metric": "accuracy",
        "validation": [layers[index]["validation"] for index in sorted(layers)],
        "runs": [
            {"kind": one["kind"], "layer": one["layer"], "seed": seed, "correct": bits}
            for one in found
            for seed, bits in zip(one["seeds"], one["correct"], strict=True)
        ],
        "cheap": {},
        "costs": {"full": 1.0},
        "provenance": found[0]["provenance"],
    }


def planned(name: str, plan: Table) -> dict[str, Any]:
    """Return what a table's plan says of it."""
    return {
        "name": name,
        "task": plan.task,
        "slm": SLM,
        "llm": LLM,
        "wiring": plan.wiring,
        "encoder": plan.encoder,
        "n_layers": N_LAYERS,
        "controls": [list(control) for control in plan.controls],
    }


def file_of(folder: Path, control: str | None, index: int, seed: int) -> Path:
    """Return where a run lies."""
    return folder / f"{control or 'layer'}-{index:02d}-seed{seed}.json"


def cheap_of(name: str, layers: list[int]) -> dict[str, Any]:
    """Return the losses at cheaper fidelities, where they were recorded."""
    file = STUDIES / f"{name}-cheap.json"
    if not file.is_file():
        return {"values": {}, "costs": {"full": 1.0}}
    found = json.loads(file.read_text(encoding="utf-8"))
    values = {
        fidelity: {seed: [own[str(index)] for index in layers] for seed, own in seeds.items()}
        for fidelity, seeds in found["values"].items()
    }
    return {"values": values, "costs": found["costs"]}


def main() -> None:
    """Gather and replay."""
    options = parser(__doc__)
    chosen = options.parse_args()
    if chosen.out is None and not chosen.quick:
        write_text(PACKAGED, json.dumps(gathered(), separators=(",", ":")) + "\n")
        layerbench._recorded.cache_clear()
    board = pp.layerbench.leaderboard(n_draws=2 if chosen.quick else layerbench.DRAWS)
    rows = board.round(6).to_dict("records")
    settings = {
        "version": layerbench.VERSION,
        "draws": layerbench.DRAWS,
        "tables": [repr(t) for t in layerbench.tables()],
    }
    asked = layerbench.tables()[:1] if chosen.quick else layerbench.tables()
    measurements = {"leaderboard": rows, "told": [told(one) for one in asked]}
    record("layerbench", chosen, settings, measurements, tables(measurements, settings))


def tables(measurements: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the rows that are shown, and what the default strategy loses on the tables."""
    rows = measurements["leaderboard"]
    auto = [row["in_noise"] for row in rows if row["strategy"] == "auto"]
    of = f"mean over {len(auto)} table{'s' * (len(auto) != 1)} with cheaper fidelities"
    what = f"auto's regret against the best layer, {of}, in standard deviations of a seed"
    return {
        "targets": [target(what, sum(auto) / len(auto), most=0.5, unit="")],
        "rows": rows,
    }


def told(one: layerbench.Table) -> dict[str, Any]:
    """Return what a table says of its donor: the answer in words, and every step of the ladder."""
    effects = layerbench.effects(one)
    unit = metric_named(one.metric).of_differences
    steps = [
        {"name": effect.name, "difference": f"{effect.interval()} {unit}", "verdict": effect.verdict}
        | ({"layer": effect.of[0]} if effect.name in ("choice", "layers") else {})
        for effect in effects
    ]
    return {"table": one.name, "encoder": one.encoder, "answer": answer(effects, unit), "steps": steps}


if __name__ == "__main__":
    main()
