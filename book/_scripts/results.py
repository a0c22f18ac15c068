"""Write book/results.md: every recorded table and plot with its provenance, from the recorded files only.

python book/_scripts/results.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import pifi_probe as pp
from pifi_probe.ranking import layer_effect
from pifi_probe.vocabulary import stored_settings

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import _combination_tables as sets
import readme_tables as tables
import result_pictures as pictures
from truth_table import TABLES, arms

sys.path.pop(0)
sys.path.pop(0)

BOOK = Path(__file__).resolve().parent.parent
ROOT = BOOK.parent
PAGE = BOOK / "results.md"
RECORDS = ROOT / "benchmarks" / "results"
PROBES = BOOK / "_studies" / "probes"
COMBINATIONS = BOOK / "_studies" / "combinations"
EXPERIMENTS = BOOK / "_studies" / "experiments"
TRUTH = BOOK / "_studies" / "truth"
SELECTED = "movie-reviews-matched"  # by which selectors are judged
CHECKED = "check-1000"  # five layers, to check the size of the others
SHORT = 10  # rows of a table that is not folded
SPEED = (
    "extract",
    "extract_16",
    "extract_32",
    "train_step",
    "fold",
    "stream_memory",
    "probe_sweep",
    "probe_sweep_loops",
    "estimators",
    "efficiency",
)
WHAT = {"own-state": "the language model's own states", "plug-in": "the layer as a function on the encoder's vectors"}
HEAD = """# Results

Every number on this page comes from a recorded file, named next to it with the command that made it, its date, commit
and machine. `make results` writes the page, and a test fails when it differs from the records.

## The questions

{questions}

## How to read a verdict

An interval that includes zero means that the run *detects no difference*; it does not mean that there is none. A gain
over *vanilla* (the encoder alone) that the *random* layer has too is not knowledge of the language model. All runs of
an experiment are judged together; [Decided then, decided now](decided.md) lists what that changed. Where no effect of
the weights was found with the last layer, or with one vector for a text, the set-up could hardly have shown one: in the
[positive control](glossary.md#positive-control) neither does anything that its twins do not
(`benchmarks/results/control.json`).

## What the paper reports

PiFi's paper ({cite:t}`kim-etal-2025-pifi`) reports, with BERT-sized encoders and Llama-3.1-8B:

- 2.3 points of accuracy over the encoder alone, averaged over tasks of natural language understanding;
- more than 13 points under domain shift;
- the last layer as the best one of the layers tried.

The runs below are smaller: mostly MiniLM with 6 layers and SmolLM2-135M in 4-bit weights, at most 1,000 training texts.
They test the method at that size, not the paper's numbers at its own.
"""

SETS = """The paper asks whether several layers do more than one. A pair and a triple (side by side, each layer with
projections of its own) were chosen greedily, and a block of two neighbours in series among all, by validation NLL with
the encoder frozen; then each was trained in full next to what has as many parts and less of the language model: one
layer several times, shuffled layers, an ensemble of seeds of the best single layer, a trainable MLP. A block is held
against the pair's controls, which have more weights, and against its own shuffled layers."""
TRAINED = """Full trainings, each layer and each control with the same seeds: every layer on movie-reviews, every third
on the other tasks. Positive differences are gains. Intervals are over seeds and test texts, all runs judged together;
the best of ten layers is a lucky one."""
FROZEN = """### With a frozen encoder

Projections and head alone are trained, on the encoder's vectors: cheaper, so every layer and every control has five
seeds. All runs of a table are judged together; [LayerBench](layerbench.md#what-the-tables-say) has every step."""
REUSED = "Vanilla, the last layer and the best layer in full are runs of the table above, made on another processor."
DENSITY = """The paper supposes that a deeper language model holds less in each layer. Usable information that layers
add to the encoder's vectors, NLL(h) - NLL([h; z]) in thousandths of a nat, for one layer and for two and four together
(neighbours in depth, or spread over it; the sets of one row share no layer), next to twins of shuffled weights."""
RESOLVED = """Why the upper end is out of reach: these splits resolve differences of {resolved:.2f} standard deviations
of a seed in four of five studies, so that an interval that ends below 0.5 asks for more tables or seeds, whatever the
strategy."""
LIMITS = """Two small models say whether a set of layers holds more than shuffled weights would, and how that grows with
the size of the set. They do not say that depth is the cause of a difference: the two differ in family, width, training
data and quantisation too, and two models make no trend. They say nothing of 8B against 70B, where layers are 6 to 14
times wider; and they leave out what fine-tuning could make of a layer, since projection and classifier are linear. A
test of the claim needs several sizes of one family, trained alike."""


def page() -> str:
    """Return the page."""
    parts = [experiments, demo, truth, selection, probes, speed]
    if any(COMBINATIONS.glob("*/summary.json")):
        parts.insert(4, combinations)
    if (RECORDS / "density.json").is_file():
        parts.insert(-2, density)
    written = "\n\n".join(part() for part in parts)
    asked = re.findall(r"^## (.+\?)$", written, re.MULTILINE)
    questions = "\n".join(f"- [{one}](#{anchor(one)})" for one in asked)
    return HEAD.strip().replace("{questions}", questions) + "\n\n" + written + "\n"


def anchor(heading: str) -> str:
    """Return what a link to a heading names: its words in lower case, joined by hyphens."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def folded(title: str, table: str) -> str:
    """Return a table that is shown when its title is clicked; a short one stays open."""
    rows = table.count("\n") - 1
    return table if rows <= SHORT else f":::{{dropdown}} {title}, {rows} rows\n\n{table}\n\n:::"


def with_folded(text: str, *, answer_first: bool = False) -> str:
    """Return Markdown with its long tables folded, and what is said in bold moved to the front where that is wanted."""
    parts = [folded("Every arm" if "| arm |" in part else "Every comparison", part) if part.startswith("|") else part
             for part in text.split("\n\n")]  # fmt: skip
    return "\n\n".join(sorted(parts, key=lambda part: not part.startswith("**")) if answer_first else parts)


def experiments() -> str:
    """Return every recorded experiment: what the paper claims next to what was measured."""
    parts = [
        "## Do the paper's claims hold here?\n\nEach experiment is one command, `pifi-probe reproduce NAME`. "
        "The column *paper* is what the paper reports at its own size, with other models; "
        "the verdict is about the size tried here. The first claim of each:",
        pictures.shown("claims"),
    ]
    for name, record in tables.experiments().items():
        parts.append(
            f"### {name}\n\n**{record['title']}** {record['stands_for']}\n\n"
            f"{pictures.shown(f'claims-{name}')}\n\n{verdicts(record['findings'])}\n\n"
            f":::{{dropdown}} {name}: every claim, its source and its verdict\n\n"
            f"{tables.claims_table(record)}\n\n:::\n\n"
            f"From `book/_studies/experiments/{name}/summary.json`; {made(record['provenance'])}."
        )
        parts += [f"Left out: {part}: {why}" for part, why in record["left_out"].items()]
        for title, rows in record["extras"].items():
            parts.append(f"*{title}*\n\n{folded(title, frame_table(pd.DataFrame(rows)))}")
        parts.append(f":::{{dropdown}} {name}: the score of every arm\n\n{scores(name, record)}\n\n:::")
    return "\n\n".join(parts)


def verdicts(findings: list[dict[str, Any]]) -> str:
    """Return how many claims hold here, do not, and are open, in a sentence."""
    said: dict[str, int] = {}
    for one in findings:
        kind = one["verdict"].partition(":")[0]
        said[kind] = said.get(kind, 0) + 1
    if len(findings) == 1:
        return f"The claim: {findings[0]['verdict']}."
    if len(said) == 1 and "open" in said:
        number = "Both" if len(findings) == 2 else f"All {len(findings)}"
        return f"{number} claims are open: their intervals do not decide them."
    parts = [f"{count} {(_ONE if count == 1 else _MANY).get(kind, kind)}" for kind, count in said.items()]
    return f"Of {len(findings)} claims, {' and '.join(filter(None, (', '.join(parts[:-1]), parts[-1])))}."


_ONE = {"open": "is open", "holds here": "holds here", "does not hold here": "does not hold here"}
_MANY = {"open": "are open", "holds here": "hold here", "does not hold here": "do not hold here"}


def scores(name: str, record: dict[str, Any]) -> str:
    """Return the mean of every arm with its interval; BLEU, where texts were written, over the runs' own."""
    bleu: dict[tuple[str, str, str], list[float]] = {}
    for file in sorted((EXPERIMENTS / name / "runs").glob("*/result.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        for test, found in run["tests"].items():
            if "bleu" in found["metrics"]:
                part = next(one for one in record["comparisons"] if file.parent.name.startswith(f"{one}-"))
                bleu.setdefault((part, test, run["label"]), []).append(found["metrics"]["bleu"])
    lines = []
    for part, compared in record["comparisons"].items():
        for row in compared["rows"]:
            mean, low, high = (f"{100 * row[key]:.1f}" for key in ("mean", "low", "high"))
            line = {"part": part, "test": row["test"], "arm": row["arm"], "seeds": len(row["seeds"])}
            line |= {"score": compared["metric"], "x 100": f"{mean} [{low}, {high}]"}
            for key, title in (("balanced_accuracy", "balanced x 100"), ("auroc", "AUROC")):
                if row[key] is not None:
                    line[title] = f"{100 * row[key]:.1f}" if key == "balanced_accuracy" else f"{row[key]:.3f}"
            if own := bleu.get((part, row["test"], row["arm"])):
                line["BLEU x 100"] = f"{100 * sum(own) / len(own):.2f}"
            lines.append(line)
    return frame_table(pd.DataFrame(lines).fillna(""))


def frame_table(frame: pd.DataFrame) -> str:
    """Return a frame in Markdown, numbers in three digits."""
    shown = frame.map(lambda value: f"{value:.3g}" if isinstance(value, float) else value).replace("nan", "")
    lines = ["| " + " | ".join(shown.columns) + " |", "|" + "---|" * len(shown.columns)]
    lines += ["| " + " | ".join(str(value) for value in row) + " |" for row in shown.itertuples(index=False, name=None)]
    return "\n".join(lines)


def selection() -> str:
    """Return what every selector is worth on the truth table, with its plots."""
    file = RECORDS / "selection.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    return "\n\n".join(
        [
            "## Is a search for the layer worth it?",
            "The strategies of `pp.search` replayed on the runs of movie-reviews in the *matched* wiring. "
            f"From `{_name(file)}`; {made(record)}.",
            *(pictures.shown(name) for name in pictures.SELECTION),
            targets(record),
            RESOLVED.format(resolved=record["targets"][-1]["measured"]),
            f":::{{dropdown}} Every strategy, {len(record['rows'])} rows\n\n{rows_table(record)}\n\n:::",
            "One search, recorded, to look into: [A search to explore](explorer.md).",
        ]
    )


def rows_table(record: dict[str, Any]) -> str:
    """Return the arms of a recorded benchmark."""
    return frame_table(pd.DataFrame(record["rows"]))


def combinations() -> str:
    """Return what pairs, triples and blocks of layers are worth next to their controls."""
    parts = ["## Do several layers do more than one?\n\n" + SETS]
    for file in sorted(COMBINATIONS.glob("*/summary.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        n_runs = sum(len(seeds) for seeds in record["runs"].values())
        used = stored_settings(record["settings"])
        parts.append(
            f"### {record['task']}: pair, triple and block\n\n"
            f"From {n_runs} results in `{_name(file.parent)}/`; {made(record['provenance'])}. "
            f"{used['slm']}, {used['llm']}, wiring *{used['wiring']}*, {used['train']} training, "
            f"{used['validation']} validation and {used['test']} test texts of at most {used['max_tokens']} tokens. "
            f"{REUSED if used['truth'] else ''}\n\n"
            f"{pictures.shown('combinations-' + record['task'])}\n\n"
            f"{with_folded(sets.table(record).strip(), answer_first=True)}"
        )
    return "\n\n".join(parts)


def density() -> str:
    """Return what one, two and four layers add to the encoder's vectors."""
    file = RECORDS / "density.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    differences = "\n".join(f"- {_between(row)}" for row in record["targets"])
    return "\n\n".join(
        [
            "## Does a layer hold less in a deeper model?",
            f"{DENSITY}\n\nFrom `{_name(file)}`; {made(record)}.",
            pictures.shown("density"),
            folded("Every set of layers", rows_table(record)),
            "The difference between the two models (smollm2-135m - gemma3-270m) in *real - shuffled*, in thousandths "
            f"of a nat, with its interval:\n\n{differences}",
            f"**What this can and cannot tell.** {LIMITS}",
        ]
    )


def _between(row: dict[str, Any]) -> str:
    """Return one difference between two models, its interval behind it."""
    layers, interval = re.fullmatch(r"(.*), smollm2-135m - gemma3-270m, mnat (\[.*\])", row["what"]).groups()
    return f"{layers}: {row['measured']:+z.1f} {interval}"


def demo() -> str:
    """Return the recorded demo."""
    record = json.loads(tables.DEMO.read_text(encoding="utf-8"))
    table = tables.demo_table(record).strip()
    source = f"From `{_name(tables.DEMO)}`; {made(record['provenance'])}."
    return f"## What does the demo show?\n\n{pictures.shown('demo')}\n\n{source}\n\n{with_folded(table)}"


def truth() -> str:
    """Return every table of layers, each trained in full, compared with its controls."""
    parts = [
        f"## Does any layer help, each trained in full?\n\n{TRAINED}",
        pictures.shown("layers"),
        pictures.shown("layers-rating"),
    ]
    for folder in sorted(TRUTH.iterdir(), key=lambda folder: (folder.name != SELECTED, folder.name)):
        if folder.name in TABLES and folder.name != CHECKED and (runs := complete_seeds(folder)):
            parts.append(truth_table(folder, runs))
    return "\n\n".join([*parts, frozen_tables()])


def frozen_tables() -> str:
    """Return what the tables whose encoder was frozen say, a sentence or two for each."""
    file = RECORDS / "layerbench.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    said = [
        f"- **{one['table']}.** {one['answer']}" for one in record["measurements"]["told"] if one["encoder"] == "frozen"
    ]
    return "\n\n".join([FROZEN, f"From `{_name(file)}`; {made(record)}.", "\n".join(said)])


def complete_seeds(folder: Path) -> list[pp.RunResult]:
    """Return the runs of the seeds that are complete."""
    table = TABLES[folder.name]
    stems = [f"{control or 'layer'}-{index:02d}" for control, index in arms(table)]
    seeds = [[folder / f"{stem}-seed{seed}.json" for stem in stems] for seed in range(table.seeds)]
    whole = [files for files in seeds if all(file.is_file() for file in files)]
    return [pp.RunResult.from_json(file) for files in whole for file in sorted(files)]


def truth_table(folder: Path, runs: list[pp.RunResult]) -> str:
    """Return one table: whether layers differ at all, and every arm next to the encoder alone."""
    table = TABLES[folder.name]
    compared, beside_linear = pp.compare(runs), pp.compare(runs, "linear").frame
    own = compared.frame[compared.frame["test"] == table.task]
    linear = beside_linear[beside_linear["test"] == table.task].set_index("arm")
    points = compared.metric == "accuracy"
    sizes, seeds = runs[0].task["sizes"], ", ".join(map(str, own.iloc[0]["seeds"]))
    score = "accuracy %" if points else compared.metric.replace("_", " ")
    lines = [
        f"### {table.task}, wiring *{table.wiring}*",
        "",
        f"**{told(folder.name, table.task)}**",
        "",
        f"From {len(runs)} runs in `{_name(folder)}/`; {made(runs[0].provenance)}. {sizes['train']} training, "
        f"{sizes['validation']} validation and {sizes['test']} test texts, seeds {seeds}.",
        "",
        f"Do layers differ? On validation {'NLL' if points else 'error'}: {layer_effect(validation(runs)).verdict}.",
        "",
    ]
    rows = [
        f"| arm | {score} | to vanilla | to linear only | verdict, to vanilla |",
        "|---|---|---|---|---|",
    ]
    for row in own.itertuples():
        other = difference(linear.loc[row.arm], points)
        mean = f"{100 * row.mean:.1f}" if points else f"{row.mean:.3f}"
        rows.append(f"| {row.arm} | {mean} | {difference(row, points)} | {other} | {row.verdict} |")
    return "\n".join([*lines, folded("Every layer and control", "\n".join(rows))])


def told(name: str, test: str) -> str:
    """Return what all runs of a table together say of one test set."""
    decided = json.loads((BOOK / "_studies" / "decided.json").read_text(encoding="utf-8"))
    return str(next(own["answer"] for own in decided["tables"][name] if own["test"] == test))


def validation(runs: list[pp.RunResult]) -> np.ndarray:
    """Return the loss of the chosen epoch by layer and seed; controls left out."""
    losses: dict[str, list[float]] = {}
    for run in runs:
        if run.label.split(": ")[1].startswith("smollm2"):
            found = run.metrics["validation"]
            losses.setdefault(run.label, []).append(found["nll"] if "nll" in found else found["squared_error"])
    return np.array(list(losses.values()))


def difference(row: Any, points: bool) -> str:
    """Return a difference with its interval, in points or as it is."""
    if pd.isna(row.difference):
        return ""
    bounds = (row.difference, row.difference_low, row.difference_high)
    middle, low, high = (f"{100 * bound:+z.1f}" if points else f"{bound:+z.3f}" for bound in bounds)
    return f"{middle} [{low}, {high}]"


def probes() -> str:
    """Return the recorded probes: which layers are in the set of the best, and the curves."""
    parts = ["## What do the layers know, by depth?"]
    for file in sorted(PROBES.glob("*.csv")):
        task, family = next(
            (file.stem.removesuffix(f"-{family}"), family) for family in WHAT if file.stem.endswith(family)
        )
        record = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
        parts.append(
            f"### {task}: {family}\n\nScores of {WHAT[family]}. From `{_name(file)}`; {made(record['provenance'])}.\n\n"
            f"![Curves of every score over the depth of the layer, {task}, {family}]"
            f"(_studies/probes/{file.stem}-curves.svg)\n\n"
            f"{folded('Layers tied with the best, by score', best_sets(pd.read_csv(file)))}"
        )
    return "\n\n".join(parts)


def best_sets(frame: pd.DataFrame) -> str:
    """Return for every score the layers that cannot be told from the best one."""
    lines = ["| score | layers tied with the best |", "|---|---|"]
    real = frame[(frame["arm"] == "real") & frame["layer"].notna()]
    for score, rows in real.groupby("estimator", sort=True):
        best = sorted({int(layer) for layer in rows[rows["in_best_set"]]["layer"]})
        if best:
            lines.append(f"| {score} | {ranges(best)} of {real['layer'].nunique()} |")
    return "\n".join(lines) if len(lines) > 2 else "No score can tell any layer from another one."


def ranges(numbers: list[int]) -> str:
    """Return ascending numbers in short, as in ``3, 8 to 11``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def speed() -> str:
    """Return what each benchmark was to reach and whether it did."""
    parts = [
        "## What does it cost in time and memory?\n\nWhat each benchmark was to reach, and whether it did. All rows, "
        "with quartiles, are in `benchmarks/README.md`."
    ]
    for name in SPEED:
        record = json.loads((RECORDS / f"{name}.json").read_text(encoding="utf-8"))
        lines = [f"### {name}", "", f"From `benchmarks/results/{name}.json`; {made(record)}.", ""]
        parts.append("\n".join([*lines, targets(record)]))
    return "\n\n".join(parts)


def targets(record: dict[str, Any]) -> str:
    """Return how many targets of a benchmark were reached, and the targets, folded."""
    judged = [row["holds"] for row in record["targets"] if row["holds"] is not None]
    missed = [row["what"] for row in record["targets"] if row["holds"] is False]
    said = f"Reached: {sum(judged)} of {len(judged)}." + (f" Not reached: {'; '.join(missed)}." if missed else "")
    table = tables.targets_table(record)
    return f"{said}\n\n:::{{dropdown}} Targets, {len(record['targets'])} rows\n\n{table}\n\n:::"


def drawn() -> dict[str, str]:
    """Return the pictures of the page by name."""
    records = tables.experiments()
    decided = json.loads((BOOK / "_studies" / "decided.json").read_text(encoding="utf-8"))["tables"]
    heads = {name: record["findings"][0] for name, record in records.items()}
    first = [head | {"says": f"{name}: {head['says']}"} for name, head in heads.items()]
    found = {"claims": pictures.claims(first, "The first claim of every experiment: measured differences in points.")}
    for name, record in records.items():
        alt = f"The claims of {name}: measured differences in points, with intervals."
        found[f"claims-{name}"] = pictures.claims(record["findings"], alt)
    demo_record = json.loads(tables.DEMO.read_text(encoding="utf-8"))
    found["demo"] = pictures.demo(demo_record["comparisons"]["vanilla"]["rows"])
    found["layers"] = pictures.tables(decided, points=True)
    found["layers-rating"] = pictures.tables(decided, points=False)
    for file in sorted(COMBINATIONS.glob("*/summary.json")):
        record = json.loads(file.read_text(encoding="utf-8"))
        found[f"combinations-{record['task']}"] = pictures.combinations(
            record, {row["arm"]: sets.title(row["arm"]) for row in record["rows"]}
        )
    measured = json.loads((RECORDS / "selection.json").read_text(encoding="utf-8"))["measurements"]
    found |= {name: draw(measured) for name, draw in pictures.SELECTION.items()}
    if (RECORDS / "density.json").is_file():
        found["density"] = pictures.density(json.loads((RECORDS / "density.json").read_text(encoding="utf-8"))["rows"])
    return found


def made(provenance: dict[str, Any]) -> str:
    """Return in words how and where something was measured."""
    machine, git = provenance["machine"], provenance["git"]
    commit = f"commit {git['commit'][:7]}{' with local changes' if git['dirty'] else ''}"
    command = re.sub(r"--data \S+", "--data FOLDER", provenance["command"])  # wherever those texts lay
    return f"`{command}`, {provenance['date'][:10]}, {commit}, {machine['cpu']}, {machine['cores']} cores"


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    pictures.write(drawn())
