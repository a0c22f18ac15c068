"""Put recorded numbers into README.md and the book: each table between two markers is made from JSON, never by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pifi_probe.experiments.findings import Finding
from pifi_probe.experiments.summary import HEADINGS, cells

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DEMO = RESULTS / "demo-full.json"
DECIDED = ROOT / "book" / "_studies" / "decided.json"  # claims judged with all runs of their block
EXPERIMENTS = ROOT / "book" / "_studies" / "experiments"
README = ROOT / "README.md"


def demo_table(record: dict[str, Any], tests: Iterable[str] = ()) -> str:
    """Return the recorded demo as Markdown: one table for each of `tests` (all)."""
    size, machine = record["size"], record["provenance"]["machine"]
    lines = [
        f"`{record['command']}`, {record['provenance']['date'][:10]}, {machine['cpu']}, {machine['cores']} cores: "
        f"{size['train']} training and {size['validation']} validation texts, {size['seeds']} seeds, "
        f"{size['epochs']} epochs, {size['precision']}; 95 % intervals over seeds and test texts, each arm "
        "judged alone (Holm), as it was recorded: the answers to single texts were not kept.",
        "",
    ]
    against_random = {(row["test"], row["arm"]): row for row in record["comparisons"]["random"]["rows"]}
    rows = record["comparisons"]["vanilla"]["rows"]
    for test in tests or dict.fromkeys(row["test"] for row in rows):
        lines += [
            f"**{test}**",
            "",
            "| arm | accuracy % | balanced % | to vanilla (points) | to the random-init layer (points) | verdict |",
            "|---|---|---|---|---|---|",
        ]
        for row in (row for row in rows if row["test"] == test):
            other = against_random[test, row["arm"]]
            lines.append(
                f"| {row['arm']} | {100 * row['mean']:.1f} | {100 * row['balanced_accuracy']:.1f} | "
                f"{_difference(row)} | {_difference(other)} | {row['verdict']} |"
            )
        lines.append("")
    return "\n".join(lines)


def _difference(row: dict[str, Any]) -> str:
    if row["difference"] is None:
        return ""
    values = [100 * row[name] for name in ("difference", "difference_low", "difference_high")]
    return f"{values[0]:+z.1f} [{values[1]:+z.1f}, {values[2]:+z.1f}]"


def experiments() -> dict[str, dict[str, Any]]:
    """Return the experiments whose recording is whole, by name, with their claims as they are judged now."""
    found = {file.parent.name: _load(file) for file in sorted(EXPERIMENTS.glob("*/summary.json"))}
    for name, rows in _load(DECIDED)["experiments"].items():
        now = {row["now"]["says"]: row["now"] for row in rows}
        record = found[name]
        record["findings"] = [now.get(finding["says"], finding) for finding in record["findings"]]
    return found


def claims_table(record: dict[str, Any]) -> str:
    """Return the claims of an experiment next to what was measured."""
    rows = [cells(Finding(**finding)) for finding in record["findings"]]
    return _markdown([HEADINGS, ["---"] * len(HEADINGS), *rows])


def targets_table(record: dict[str, Any]) -> str:
    """Return what a benchmark was to reach, and whether it did."""
    lines = [["what", "to reach", "measured", "reached"], ["---"] * 4]
    for row in record["targets"]:
        reached = {True: "yes", False: "**no**", None: ""}[row["holds"]]
        lines.append([row["what"], row["to reach"] or "", f"{row['measured']:.3g}", reached])
    return _markdown(lines)


def cost_table(record: dict[str, Any], pairs: Iterable[str], arms: Iterable[str]) -> str:
    """Return what `arms` cost for `pairs` of an encoder and a layer."""
    shown = {"trained, M": "trained weights (M)", "MB": "model (MB)", "training MB": "training memory (MB)"}
    shown |= {"step, ms": "one step (ms)", "1 x 128, ms": "one text (ms)"}
    lines = [["encoder + layer", "arm", *shown.values()], ["---"] * (2 + len(shown))]
    for row in record["rows"]:
        if row["arm"] in arms and row["encoder + layer"] in pairs:
            lines.append([row["encoder + layer"], row["arm"], *(_amount(row[name]) for name in shown)])
    return _markdown(lines)


def _amount(value: Any) -> str:
    if isinstance(value, dict):
        return f"{_amount(value['median'])} ({_amount(value['q25'])} to {_amount(value['q75'])})"
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _markdown(lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _load(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _demo() -> str:
    return demo_table(_load(DEMO), ["movie-reviews"])


def _experiments() -> str:
    """Return the first claim of every experiment; the results page has all of them."""
    rows = [[name, *cells(Finding(**record["findings"][0]))[:4]] for name, record in experiments().items()]
    return _markdown([["experiment", *HEADINGS[:4]], ["---"] * 5, *rows]) + "\n"


def _selection() -> str:
    return targets_table(_load(RESULTS / "selection.json")) + "\n"


def _efficiency() -> str:
    pairs, arms = ("small + 135M", "tiny + 8B", "base + 8B"), ("vanilla", "PiFi", "PiFi, folded", "LoRA")
    return cost_table(_load(RESULTS / "efficiency.json"), pairs, arms) + "\n"


def intervals_table(rows: list[dict[str, Any]]) -> str:
    """Return coverage and width by number of arms, seeds and kind of noise."""
    lines = [["arms, seeds", "noise of the arms", "held %", "noisiest arm %", "any wrong find %", "width / own t"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        if row["arms"] in (3, 9, 38) and row["seeds"] < 5 and "no seed" not in row["noise"]:
            values = (row["coverage"], row["noisiest arm"], row["family-wise error"])
            shape = f"{row['arms']}, {row['seeds']}"
            if "of controls" in row:
                shape += f" (controls {row['of controls']})"
            lines.append([shape, row["noise"], *(f"{v:.1f}" for v in values), f"{row['width']:.2f}"])
    return _markdown(lines)


def _intervals() -> str:
    records = [_load(RESULTS / f"{name}.json") for name in ("intervals", "intervals_uneven")]
    return intervals_table([row for record in records for row in record["rows"]]) + "\n"


ALIGNED = ROOT / "book" / "_studies" / "aligned" / "movie-reviews.json"
CHAIN_ARMS = {
    "encoder": "MiniLM alone",
    "interface": "+ interface, no layer",
    "shuffled": "+ the chain, weights shuffled",
    "random": "+ the chain, weights random",
    "real": "**+ the chain as it is**",
}


def chain_table(record: dict[str, Any], tests: Iterable[str], sizes: Iterable[int]) -> str:
    """Return the accuracy of every arm of a chain by test set and number of labels, and what the real one adds."""
    columns = record["scores"]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    cells = [(test, size) for test in tests for size in sizes]
    lines = [["", *(f"{test}, {size:,} labels" for test, size in cells)], ["---"] * (1 + len(cells))]
    for arm, name in CHAIN_ARMS.items():
        reading = "alone" if arm == "encoder" else "with encoder"
        found = {(row["test"], row["n_labels"]): row for row in rows if (row["arm"], row["reading"]) == (arm, reading)}
        shown = [f"{100 * found[cell]['accuracy']:.1f}" for cell in cells]
        lines.append([name, *([f"**{one}**" for one in shown] if arm == "real" else shown)])
    gains = record["differences"]
    by_cell = {
        (test, size): f"{100 * mean:+z.1f} [{100 * low:z.1f}, {100 * high:z.1f}]"
        for metric, test, size, a, b, mean, low, high in zip(
            *(gains[name] for name in ("metric", "test", "n_labels", "a", "b", "difference", "low", "high")),
            strict=True,
        )
        if (metric, a, b) == ("accuracy", "real", "encoder")
    }
    lines.append(["the chain adds (points)", *(by_cell[cell] for cell in cells)])
    return _markdown(lines)


def _aligned() -> str:
    return chain_table(_load(ALIGNED), ("movie-reviews", "product-reviews"), (100, 1500)) + "\n"


def _decided() -> str:
    """Return what the tables of layers answer, each for its own test set: differences and verdicts."""
    questions = ("plugging in", "projections", "block", "knowledge")
    lines = [["table", "seeds", *questions], ["---"] * (2 + len(questions))]
    for name, tests in _load(DECIDED)["tables"].items():
        own = {effect["name"]: effect for effect in tests[0]["effects"]}
        cells = []
        for question in questions:
            effect = own[question]
            scale, digits = (100.0, 1) if tests[0]["metric"] == "accuracy" else (1.0, 2)
            mean, low, high = (f"{scale * effect[key]:+z.{digits}f}" for key in ("mean", "low", "high"))
            cells.append(f"{mean} [{low}, {high}], {effect['verdict']}")
        lines.append([name, str(tests[0]["seeds"]), *cells])
    return _markdown(lines) + "\n"


METHODS = ROOT / "book" / "methods.md"
OVERVIEW = ROOT / "book" / "overview.md"
ON_README = ("aligned",)
BLOCKS: dict[str, Callable[[], str]] = {
    "aligned": _aligned,
    "demo": _demo,
    "experiments": _experiments,
    "decided": _decided,
    "selection": _selection,
    "efficiency": _efficiency,
}
ON_METHODS: dict[str, Callable[[], str]] = {"intervals": _intervals}


def updated(readme: str, names: Iterable[str] = BLOCKS) -> str:
    """Return the README, or another page, with the recorded tables between their markers."""
    for name in names:
        block = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
        text = (BLOCKS | ON_METHODS)[name]()
        readme = block.sub(lambda match, text=text: f"{match[1]}{text}\n{match[2]}", readme)  # type: ignore[misc]
    return readme


if __name__ == "__main__":
    README.write_text(updated(README.read_text(encoding="utf-8"), ON_README), encoding="utf-8")
    OVERVIEW.write_text(updated(OVERVIEW.read_text(encoding="utf-8")), encoding="utf-8")
    METHODS.write_text(updated(METHODS.read_text(encoding="utf-8"), ON_METHODS), encoding="utf-8")
