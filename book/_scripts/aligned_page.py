"""Write `book/aligned.md` from the recorded study of aligned chains."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
STUDY = ROOT / "book" / "_studies" / "aligned"
PLACES = ROOT / "benchmarks" / "results" / "chains.json"
CHAIN_FILES = sorted((STUDY.parent / "chains").glob("*.json"))
PAGE = ROOT / "book" / "aligned.md"
SMALL = STUDY / "small.json"
REFERENCE_FILES = sorted(STUDY.parent.glob("references*.json"), key=lambda file: len(file.stem))
sys.path.insert(0, str(ROOT / "benchmarks"))

sys.path.insert(0, str(Path(__file__).resolve().parent))

from aligned import (  # noqa: E402
    ADDED,
    APART,
    CONFIRMING,
    EXPLORING,
    FEWEST,
    FOLDS,
    LLM,
    MANY_DRAWS,
    N_THROUGH,
    THROUGH,
    through_name,
)
from aligned_forest import LOOKS, Row, draw_forest  # noqa: E402
from aligned_headroom import depths, draw, gains, missed, section, shown, table_of  # noqa: E402
from aligned_variants import BITS, DECODERS, DONORS, ENCODERS, TASKS, TWINS, VARIANTS  # noqa: E402

from pifi_probe.checks.folds import join_folds  # noqa: E402
from pifi_probe.stats import Interval, holm, paired_difference, settled, smallest_detectable  # noqa: E402

EMBEDDED = ("movie-reviews", "product-reviews", "tweets", "critic-reviews", "reuters-r8", "newsgroups")
NATURAL = (*EMBEDDED, "umsab-english", "germeval", "nsmc", "umsab-arabic", "question-sentence")
MADE = ("word-order", "evidence", "translation-match")  # made from texts that people wrote
OTHERS = ("encoder", "interface", "shuffled", "random")
NONE = 0.01  # differences up to here are called none
SIZES = (100, 300, 1000)  # numbers of labels of the first runs
NAMES = {"encoder": "encoder", "interface": "interface alone", "shuffled": "shuffled", "random": "random"}

HEAD = """# Aligned chains: where a language model's weights matter

{answer}

```{{raw}} html
:file: _pictures/aligned-forest.html
```

In the paper's wiring no layer was found to be more accurate than a random one ([results](results.md)). This page is
about another wiring. One linear regression, fitted on unlabelled texts, maps the encoder's tokens to the states that a
language model has in its middle; seven frozen layers work on them in series; a linear readout is added to the encoder's
own. Twins with shuffled or random weights, and the interface without a layer, get the same readout. The question,
the set-up and what counts were [written down before](https://github.com/pifi-probe/pifi_probe/blob/main/book/_studies/aligned/protocol.md)
the tasks of the confirming half were touched. The layers, 8 to 14, were chosen on movie-reviews, with which
critic-reviews shares four of five texts. Each twin is one draw and reads through the interface that was fitted to the
real layers; [more draws, and interfaces of their own](#twins-drawn-three-times-and-with-interfaces-of-their-own) were
tried on two tasks. A difference of one point or less is called none: a task counts where the chain is more than one
point ahead of all four, found after Holm's correction.
"""

ADDED_WORDS = {
    "umsab-arabic": "umsab-arabic: tweets in Arabic, a language for which neither model was made: a further negative "
    "control. The donor's own probe finds something there, the chain does not.",
    "evidence": "evidence: one sentence of a film review among two strings of a program's interface, in any order. The "
    "reviews are those on which the layers were chosen, so that it is no independent task.",
    "question-sentence": "question-sentence: a question and a sentence of the paragraph that it was asked about "
    "(XQuAD, English); does the sentence answer it? Natural pairs, made as QNLI is. Two pairs share a question, and "
    "count as two independent texts: intervals are a little too narrow.",
}
REFERENCES = {
    "encoder": "nothing: the encoder alone",
    "real": "**the real chain**",
    "interface": "the interface alone",
    "shuffled": "its shuffled twin",
    "random": "its random twin",
    "encoder twice": "the encoder twice",
    "mlp": "a trained MLP",
    "trained layers": "trained layers, drawn afresh",
    "donor": "the donor's own probe at the exit",
}


def records(names: tuple[str, ...], prefix: str = "") -> dict[str, dict[str, Any]]:
    """Return what is recorded of these tasks, by name."""
    files = {name: STUDY / f"{prefix}{name}.json" for name in names}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}


def rows_of(columns: dict[str, list[Any]], **wanted: Any) -> list[dict[str, Any]]:
    """Return the rows of a stored frame that have these values."""
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def difference(record: dict[str, Any], a: str, b: str, test: str, n_labels: int) -> dict[str, Any]:
    """Return one difference in accuracy."""
    (row,) = rows_of(record["differences"], metric="accuracy", a=a, b=b, test=test, n_labels=n_labels)
    return row


def as_row(found: Interval) -> dict[str, float]:
    """Return an interval as the rows of the records have it."""
    return {"difference": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value}


def judged(
    found: dict[str, dict[str, Any]], cells: list[tuple[str, str, int]]
) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Return the four differences of every (task, test, labels), and whether all are found after Holm's correction."""
    rows = {(cell, b): difference(found[cell[0]], "real", b, cell[1], cell[2]) for cell in cells for b in OTHERS}
    adjusted = dict(zip(rows, holm([row["p_value"] for row in rows.values()]), strict=True))
    made = {}
    for cell in cells:
        own = {b: rows[cell, b] | {"adjusted": adjusted[cell, b]} for b in OTHERS}
        made[cell] = own | {"all": all(row["difference"] > NONE and row["adjusted"] < 0.05 for row in own.values())}
    return made


def verdicts(own: dict[str, Any]) -> list[str]:
    """Return the cells of the four differences, bold where found after the correction, and whether all are."""
    marks = [shown(own[b], own[b]["difference"] > 0 and own[b]["adjusted"] < 0.05) for b in OTHERS]
    return [*marks, "yes" if own["all"] else "no"]


def accuracy(record: dict[str, Any], arm: str, test: str, n_labels: int) -> float:
    """Return the accuracy of an arm, with the encoder, in percent."""
    reading = "alone" if arm in ("encoder", "donor") else "with encoder"
    (row,) = rows_of(record["scores"], test=test, n_labels=n_labels, arm=arm, reading=reading)
    return 100 * float(row["accuracy"])


def own_tests(found: dict[str, dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Return every task on its own test set with all labels."""
    return [(name, record["info"]["task"], record["info"]["n_train"]) for name, record in found.items()]


def not_beaten(results: dict[Any, dict[str, Any]], sizes: dict[Any, int], named: Callable[[Any], str]) -> str:
    """Return what could have been found where the chain does not beat all four; empty where it does everywhere."""
    left = {cell: {b: own[b] for b in OTHERS} for cell, own in results.items() if not own["all"]}
    return missed({named(cell): own for cell, own in left.items()}, {named(cell): sizes[cell] for cell in left})


def n_tests(found: dict[str, dict[str, Any]], cells: Iterable[tuple[str, str, int]]) -> dict[tuple[str, str, int], int]:
    """Return the number of test texts of every (task, test, labels)."""
    return {(name, test, n): found[name]["info"]["tests"][test] for name, test, n in cells}


def main_table(found: dict[str, dict[str, Any]]) -> tuple[str, list[str]]:
    """Return the table of a half with what it was too small to see, and the tasks where the real chain beats all."""
    cells = own_tests(found)
    results = judged(found, cells)
    head = ["task", "encoder", "real chain", "donor's own probe", *(f"real - {NAMES[b]}" for b in OTHERS), "beats all"]
    lines = [head]
    for cell in cells:
        name, test, n = cell
        own = results[cell]
        lines.append(
            [
                name,
                f"{accuracy(found[name], 'encoder', test, n):.1f}",
                f"{accuracy(found[name], 'real', test, n):.1f}",
                f"{accuracy(found[name], 'donor', test, n):.1f}",
                *verdicts(own),
            ]
        )
    small = not_beaten(results, n_tests(found, cells), lambda cell: cell[0])
    return table_of(lines) + small, [cell[0] for cell in cells if results[cell]["all"]]


def shift_table(found: dict[str, dict[str, Any]]) -> tuple[str, list[str]]:
    """Return the table under domain shift, and the pairs on which the real chain beats everything."""
    cells = [
        (name, test, record["info"]["n_train"])
        for name, record in found.items()
        for test in record["info"]["tests"]
        if test != record["info"]["task"]
    ]
    if not cells:
        return "", []
    results = judged(found, cells)
    lines = [["trained on", "tested on", "encoder", "real chain", *(f"real - {NAMES[b]}" for b in OTHERS), "beats all"]]
    for cell in cells:
        name, test, n = cell
        own = results[cell]
        lines.append(
            [
                name,
                test,
                f"{accuracy(found[name], 'encoder', test, n):.1f}",
                f"{accuracy(found[name], 'real', test, n):.1f}",
                *(shown(own[b], own[b]["difference"] > 0 and own[b]["adjusted"] < 0.05) for b in OTHERS),
                "yes" if own["all"] else "no",
            ]
        )
    small = not_beaten(results, n_tests(found, cells), lambda cell: f"{cell[0]} to {cell[1]}")
    return table_of(lines) + small, [f"{cell[0]} to {cell[1]}" for cell in cells if results[cell]["all"]]


def lost_under_shift(found: dict[str, dict[str, Any]]) -> str:
    """Return where the chain costs points under shift, and which pair of the first runs the folds take back."""
    said = []
    for name, record in found.items():
        for test in record["info"]["tests"]:
            own = difference(record, "real", "encoder", test, record["info"]["n_train"])
            if own["high"] < 0:
                said.append(f"From {name} to {test} the chain costs points: {shown(own)}.")
    _, first = shift_table(found)
    *_, kept, _ = folds_tables()
    joined = {f"{name} to {test}" for name, test in joined_folds("") if name != test}
    said += [f"In folds {pair} no longer beats all four: see above." for pair in first if pair in joined - set(kept)]
    return "\n\n" + " ".join(said) if said else ""


def label_table(found: dict[str, dict[str, Any]]) -> tuple[str, list[str]]:
    """Return accuracies by number of labels, and the tasks where the real chain beats everything with 100."""
    cells = [(name, record["info"]["task"], 100) for name, record in found.items()]
    results = judged(found, cells)
    needed = "labels the encoder needs for as much"
    lines = [["task", "arm", *(f"{size:,} labels" for size in SIZES), "real - encoder with 100", needed]]
    for cell in cells:
        name, test, _ = cell
        for arm in ("encoder", "real", "shuffled", "random"):
            gain = shown(results[cell]["encoder"], results[cell]["all"]) if arm == "real" else ""
            each = [f"{accuracy(found[name], arm, test, size):.1f}" for size in SIZES]
            curve = {n: accuracy(found[name], "encoder", test, n) for n in (*SIZES, found[name]["info"]["n_train"])}
            labels = labels_needed(curve, accuracy(found[name], "real", test, SIZES[0])) if arm == "real" else ""
            lines.append([name if arm == "encoder" else "", arm, *each, gain, labels])
    small = not_beaten(results, n_tests(found, cells), lambda cell: f"{cell[0]}, {cell[2]} labels")
    return table_of(lines) + small + _unused(results), [cell[0] for cell in cells if results[cell]["all"]]


def _unused(results: dict[tuple[str, str, int], dict[str, Any]]) -> str:
    """Return where the readout leaves the chain out, so that nothing is said of it; empty if nowhere."""
    parts = ("difference", "low", "high")
    left = [cell for cell, own in results.items() if not any(own["encoder"][part] for part in parts)]
    if not left:
        return ""
    names, size = _joined([cell[0] for cell in left]), left[0][2]
    return f"\n\nOn {names}, with {size} labels, the readout leaves the chain out: all answers are the encoder's."


def labels_needed(curve: dict[int, float], aim: float) -> str:
    """Return with how many labels the encoder alone, whose curve it is, reaches `aim`, on a line over log(labels)."""
    sizes, reached = list(curve), list(curve.values())
    if aim <= reached[0]:
        return f"{sizes[0]} or fewer"
    for (few, low), (many, high) in pairwise(curve.items()):
        if low < aim <= high:
            return f"{few * (many / few) ** ((aim - low) / (high - low)):,.0f}"
    return f"more than {sizes[-1]:,}"


def fewest_table() -> tuple[str, str]:
    """Return the table with 10 and 30 labels, and its answer in one sentence; empty if none is recorded."""
    found = records(tuple(few_names()), "few-")
    if not found:
        return "", ""
    cells = [(name, record["info"]["task"], size) for name, record in found.items() for size in FEWEST]
    results = judged(found, cells)
    head = ["task", "labels", "encoder", "real chain", *(f"real - {NAMES[b]}" for b in OTHERS), "beats all"]
    lines = [[*head, "labels the encoder needs for as much"]]
    whole = records(tuple(found))
    for cell in cells:
        name, test, size = cell
        own = results[cell]
        aim, alone = (accuracy(found[name], arm, test, size) for arm in ("real", "encoder"))
        curve = {n: accuracy(found[name], "encoder", test, n) for n in FEWEST}
        curve |= {n: accuracy(whole[name], "encoder", test, n) for n in SIZES}
        needed = labels_needed({n: points for n, points in curve.items() if n >= size}, aim) if own["all"] else ""
        lines.append([name, str(size), f"{alone:.1f}", f"{aim:.1f}", *verdicts(own), needed])
    held = {size: [cell for cell in cells if cell[2] == size and results[cell]["all"]] for size in reversed(FEWEST)}
    said = "; ".join(f"with {size} on {_named([cell[0] for cell in own])}" for size, own in held.items())
    size, own = next(iter(held.items()))
    gains = [f"{100 * results[cell]['encoder']['difference']:.1f} points on {cell[0]}" for cell in own]
    return (
        f"### With 10 and with 30 labels\n\nTasks, of {len(found)}, where the real chain beats all four: {said}. Means "
        f"over {MANY_DRAWS} draws of labelled texts. Bold: found after Holm's correction over this table, by intervals "
        "over texts and draws. Last column: as above.\n\n"
        + table_of(lines)
        + not_beaten(results, n_tests(found, cells), lambda cell: f"{cell[0]}, {cell[2]} labels")
    ), f" With {size} labels they add {_joined(gains)}, more than any twin." * bool(gains)


def _joined(parts: list[str]) -> str:
    return " and ".join(part for part in (", ".join(parts[:-1]), parts[-1]) if part)


def few_names() -> list[str]:
    """Return the tasks that were read with 10 and 30 labels."""
    names = (file.stem.removeprefix("few-") for file in STUDY.glob("few-*.json"))
    return sorted(name for name in names if not name.startswith("fold"))


def few_cells() -> Cells:
    """Return the answers with 100 labels, every text a test text once: one list a draw."""
    files: dict[str, list[Path]] = {}
    for file in sorted(STUDY.glob("few-fold[0-9]-*.json")):
        files.setdefault(file.stem.removeprefix("few-").partition("-")[2], []).append(file)
    cells: Cells = {}
    for name, own in files.items():
        if len(own) < FOLDS:
            continue
        arms: dict[str, list[list[float]]] = {}  # one list a draw: its answers in all folds
        for file in own:
            record = json.loads(file.read_text(encoding="utf-8"))
            for arm, draws in record["correct"][record["info"]["task"]].items():
                known = arms.setdefault(arm, [[] for _ in draws])
                for joined, answers in zip(known, draws, strict=True):
                    joined += [float(one) for one in answers]
        cells[name, name] = arms
    return cells


def variant(name: str) -> dict[str, dict[str, Any]]:
    """Return the recorded tables of one variant, by task."""
    files = {task: STUDY / f"variant-{name.replace(' ', '-')}-{task}.json" for task in TASKS}
    return {task: json.loads(file.read_text(encoding="utf-8")) for task, file in files.items() if file.is_file()}


def twins_table() -> str:
    """Return what several draws of the twins, and interfaces of their own, are worth; empty if not recorded."""
    found = variant(TWINS)
    if not found:
        return ""
    others = [*OTHERS, *(f"{arm}, own interface" for arm in ("shuffled", "random"))]
    cells = {task: (record["info"]["task"], record["info"]["n_train"]) for task, record in found.items()}
    rows = {(task, b): difference(found[task], "real", b, *cells[task]) for task in found for b in others}
    adjusted = dict(zip(rows, holm([row["p_value"] for row in rows.values()]), strict=True))
    lead = {cell: row["difference"] > NONE and adjusted[cell] < 0.05 for cell, row in rows.items()}
    lines = [["arm", *(f"{task}: {what}" for task in found for what in ("with the encoder", "real chain - it"))]]
    for b in others:
        line = [f"{b.partition(',')[0]}, interface of its own" if "own" in b else NAMES[b]]
        for task in found:
            line += [f"{accuracy(found[task], b, *cells[task]):.1f}", shown(rows[task, b], lead[task, b])]
        lines.append(line)
    held = [task for task in found if all(lead[task, b] for b in others)]
    (draws,) = {record["info"]["twins"] for record in found.values()}
    least = min(row["difference"] for (_, b), row in rows.items() if b not in ("encoder", "interface"))
    return (
        "## Twins, drawn three times, and with interfaces of their own\n\n"
        f"The real chain beats the encoder, the interface and all four kinds of twins on {len(held)} of {len(found)} "
        f"tasks; no kind of twin comes nearer than {100 * least:.1f} points. Each twin is drawn {draws} times, and the "
        "answers are averaged text by text. An interface of its own is aligned to a donor whose lower layers are such "
        "twins, too: to the input that the twin is used to. Encoder, interface and real chain are the runs of the "
        f"first table, judged among {len(rows)} comparisons here. Bold: found after Holm's correction over the table."
        "\n\n" + table_of(lines)
    )


def variant_table() -> str:
    """Return the chain with other encoders and donors; empty if none is recorded."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for name in VARIANTS:
        if name != TWINS and (own := variant(name)):
            found[name] = own
    if not found:
        return ""
    head = ["changed", "task", "layers", "encoder", "real chain", *(f"real - {NAMES[b]}" for b in OTHERS), "beats all"]
    lines, known = [head], records(TASKS)
    left: dict[str, dict[str, Any]] = {}
    sizes: dict[str, int] = {}
    for name, own in {"nothing": known, **found}.items():
        results = judged(own, own_tests(own))
        for cell, each in results.items():
            task, test, n = cell
            said = "nothing" if own is known else _changed(name)
            first, last = own[task]["info"]["layers"]
            means = [f"{accuracy(own[task], arm, test, n):.1f}" for arm in ("encoder", "real")]
            lines.append([said, task, f"{first}-{last}", *means, *verdicts(each)])
            left[f"{said}, {task}"], sizes[f"{said}, {task}"] = each, own[task]["info"]["tests"][test]
    return (
        "## Other encoders, another donor, fewer bits\n\nOne thing is changed at a time; SmolLM2 as the encoder needs "
        "another donor, too. The donor of all other runs has 4 bits a weight; here its layers are rounded once "
        "more. The chain of Gemma 3 is the span that `pp.headroom` names on training texts. No package index "
        "has an encoder of the usual kind that was trained on no pairs of sentences; "
        "in its place a decoder is read as one, by all its layers: each token has seen those before it, the first one "
        "itself alone. Bold: found after Holm's correction over the two tasks.\n\n"
        + table_of(lines)
        + not_beaten(left, sizes, str)
        + _ahead(known, found)
        + _rounded(found)
    )


def _rounded(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return on how many tasks the chain of a donor of fewer bits holds; empty if none is recorded."""
    holds = {
        name: sum(each["all"] for each in judged(found[name], own_tests(found[name])).values())
        for name in BITS
        if name in found
    }
    if not holds:
        return ""
    said = "; ".join(f"rounded to {name}, on {n or 'none'} of {len(TASKS)} tasks" for name, n in holds.items())
    return (
        f"\n\nThe chain of the same donor beats all four: {said}. Whatever helps is in the weights, and rounding "
        "takes it away."
    )


def _ahead(known: dict[str, dict[str, Any]], found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Return which encoders know more of the tasks than the donor does; empty if none."""
    (n,) = {known[task]["info"]["n_train"] for task in TASKS}
    donor = {task: accuracy(known[task], "donor", task, n) for task in TASKS}
    ahead = []
    with_donor = (*ENCODERS, *(name for name, (_, llm) in DECODERS.items() if llm == LLM))
    for name in (name for name in with_donor if name in found):
        alone = {task: accuracy(found[name][task], "encoder", task, n) for task in TASKS}
        if all(alone[task] > donor[task] for task in TASKS):
            ahead.append(f"{name} ({' and '.join(f'{points:.1f}' for points in alone.values())})")
    if not ahead:
        return ""
    knows_more = "knows" if len(ahead) == 1 else "know"
    knows = " and ".join(f"{points:.1f} on {task}" for task, points in donor.items())
    return (
        f"\n\nThe donor's own probe reaches {knows}. {' and '.join(ahead)}, alone, {knows_more} more of both tasks, so "
        "that such a donor has little to add."
    )


def _changed(name: str) -> str:
    if name in DECODERS:
        slm, llm = DECODERS[name]
        return f"encoder: {slm}, a decoder; donor: {llm}"
    kind = "encoder" if name in ENCODERS else "donor" if name in DONORS else "bits of the donor"
    return f"{kind}: {name.removesuffix(' bits')}"


def trained_table() -> tuple[str, list[str]]:
    """Return what the chain adds to a fine-tuned encoder, and the tasks where it beats everything with every seed."""
    lines = [["task", "seed", "fine-tuned encoder", *(f"real - {NAMES[b]}" for b in OTHERS)]]
    beaten: dict[str, list[bool]] = {}
    seen: dict[str, float] = {}
    for file in sorted(STUDY.glob("trained-*-seed*.json")):
        name, seed = file.stem.removeprefix("trained-").rsplit("-seed", 1)
        right = {
            arm: [float(one) for one in text]
            for arm, text in json.loads(file.read_text(encoding="utf-8"))["correct"].items()
        }
        own = {b: paired_difference([right["real"]], [right[b]]) for b in OTHERS}
        cells = [shown(as_row(i), i.low > 0) for i in own.values()]
        lines.append([name, seed, f"{100 * sum(right['encoder']) / len(right['encoder']):.1f}", *cells])
        beaten.setdefault(name, []).append(all(i.low > 0 for i in own.values()))
        seen[name] = max(seen.get(name, 0), *(100 * smallest_detectable(i) for i in own.values()))
    sizes = ", ".join(f"{points:.1f} on {name}" for name, points in seen.items())
    small = f"With one seed, four of five studies would have found a difference of this many points: {sizes}."
    return (f"{table_of(lines)}\n\n{small}" if len(lines) > 1 else ""), [
        name for name, found in beaten.items() if all(found)
    ]


Cells = dict[tuple[str, str], dict[str, list[list[float]]]]  # by task and test: of every arm, the answers of each run


def joined_folds(prefix: str) -> Cells:
    """Return the answers of runs in which every text is a test text once; a text of several folds has their mean."""
    folds: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(STUDY.glob(f"{prefix}fold[0-9]-*.json")):
        name = file.stem.removeprefix(prefix).partition("-")[2]
        folds.setdefault(name, []).append(json.loads(file.read_text(encoding="utf-8")))
    return {
        (name, test): {arm: [shares] for arm, shares in arms.items()}
        for name, own in folds.items()
        if len(own) == FOLDS
        for test, arms in join_folds(name, own).items()
    }


def through_cells() -> Cells:
    """Return the answers of arms that were trained as a whole, of every task whose folds and arms are all there."""
    cells: Cells = {}
    for name in TASKS:
        files = {arm: [STUDY / f"{through_name(name, k, arm)}.json" for k in range(FOLDS)] for arm in THROUGH}
        if all(file.is_file() for own in files.values() for file in own):
            cells[name, name] = {
                arm: [[float(one) for file in own for one in _answers(file, arm)]] for arm, own in files.items()
            }
    return cells


def _answers(file: Path, arm: str) -> str:
    return str(json.loads(file.read_text(encoding="utf-8"))["correct"][arm])


def through_table(cells: Cells) -> str:
    """Return what the chain adds to an encoder that is trained through it; empty if nothing is recorded."""
    if not cells:
        return ""
    table, held = folded_table(cells, "task", {cell: cell[0] for cell in cells})
    back = []
    for (name, _), arms in cells.items():
        own = as_row(paired_difference(arms["real, back"], arms["encoder"]))
        back.append(f"{shown(own)} on {name}")
    said = (
        f"The real chain beats all four on {_named(held)}."
        if held
        else "On no task does it beat all four: fine-tune first and add the chain afterwards, as above."
    )
    return (
        f"### Trained through the chain\n\n{said} Here nothing is fine-tuned first: encoder, head and readout are "
        f"trained together on {N_THROUGH} texts, with the gradient through the frozen layers, in three folds. Bold: "
        f"found after Holm's correction over this table.\n\n{table}\n\nRead back into the encoder's tokens in place of "
        f"next to its vector, the chain adds to the encoder: {'; '.join(back)}."
    )


def folded_table(cells: Cells, first: str, named: dict[tuple[str, str], str]) -> tuple[str, list[str]]:
    """Return the table of joined folds with what it missed, and where the chain beats all four after correction."""
    found = {(cell, b): paired_difference(arms["real"], arms[b]) for cell, arms in cells.items() for b in OTHERS}
    adjusted = dict(zip(found, holm([each.p_value for each in found.values()]), strict=True))
    sure = {key: each.mean > 0 and adjusted[key] < 0.05 for key, each in found.items()}
    beats = {cell: all(sure[cell, b] and found[cell, b].mean > NONE for b in OTHERS) for cell in cells}
    lines = [[first, "test texts", "encoder", "real chain", *(f"real - {NAMES[b]}" for b in OTHERS), "beats all"]]
    for cell, arms in cells.items():
        each = {b: found[cell, b] for b in OTHERS}
        marks = [shown(as_row(i), sure[cell, b]) for b, i in each.items()]
        means = [f"{100 * float(np.mean(arms[arm])):.1f}" for arm in ("encoder", "real")]
        lines.append([named[cell], f"{len(arms['real'][0]):,}", *means, *marks, "yes" if beats[cell] else "no"])
    results = {cell: {b: as_row(found[cell, b]) for b in OTHERS} | {"all": beats[cell]} for cell in cells}
    small = not_beaten(results, {cell: len(arms["real"][0]) for cell, arms in cells.items()}, named.__getitem__)
    return table_of(lines) + small, [named[cell] for cell in cells if beats[cell]]


def first_rows(everything: dict[str, dict[str, Any]]) -> dict[str, Row]:
    """Return what each arm adds to the encoder on every task, with all its texts where they were tested in folds."""
    rows: dict[str, Row] = {}
    for (name, test), arms in joined_folds("").items():
        if name == test and name in everything:
            rows[name] = {arm: as_row(paired_difference(arms[arm], arms["encoder"])) for arm in LOOKS}
    for name, test, n in own_tests(everything):
        if name not in rows and name not in APART:
            rows[name] = {arm: difference(everything[name], arm, "encoder", test, n) for arm in LOOKS}
    return dict(sorted(rows.items(), key=lambda item: -item[1]["real"]["difference"]))


def added_points(arms: dict[str, list[list[float]]]) -> float:
    """Return what the real chain adds to the encoder alone, without an interval, in points."""
    return 100 * settled(float(np.mean(np.subtract(arms["real"], arms["encoder"]))))


@cache
def folds_tables() -> tuple[str, list[str], list[str], dict[str, float]]:
    """Return tables of the runs in which every text is a test text once, where the chain beats all, and its gains."""
    cells = joined_folds("")
    texts, beaten = [], list[list[str]]()
    for shift in (False, True):
        own = {cell: arms for cell, arms in cells.items() if (cell[0] != cell[1]) == shift}
        named = {cell: f"{cell[0]} to {cell[1]}" if shift else cell[0] for cell in own}
        table, names = folded_table(own, "trained on, tested on" if shift else "task", named)
        beaten.append(names)
        texts += [table] if own else []
    gained = {name: added_points(arms) for (name, test), arms in cells.items() if name == test}
    return "\n\n".join(texts), beaten[0], beaten[1], gained


def reference_table() -> str:
    """Return what could stand in the chain's place, and what it adds; empty where that is not recorded."""
    found = [one_reference_table(json.loads(file.read_text(encoding="utf-8"))) for file in REFERENCE_FILES]
    if not found:
        return ""
    return (
        "## What else could stand there\n\nThe donor's own probe needs its layers below, its embedding table and its "
        "tokenizer. MLP and trained layers have as many weights as the chain, behind the same interface, and are "
        "trained on the labelled texts; the best of four epochs is taken. The encoder twice: its last states through "
        "all of it again, frozen.\n\n" + "\n\n".join(found)
    )


def one_reference_table(record: dict[str, Any]) -> str:
    """Return the table of one task."""
    table = record["chains"]["8-14"]
    test, n = table["info"]["task"], table["info"]["n_train"]
    lines = [["in the chain's place", "alone", "with the encoder", "- encoder", "real chain - it"]]
    for arm, name in REFERENCES.items():
        scores = {
            row["reading"]: f"{100 * row['accuracy']:.1f}"
            for row in rows_of(table["scores"], test=test, n_labels=n, arm=arm)
        }
        over = "" if arm == "encoder" else shown(difference(table, arm, "encoder", test, n))
        left = "" if arm == "real" else shown(difference(table, "real", arm, test, n))
        lines.append([name, scores["alone"], scores.get("with encoder", ""), over, left])
    made = f"`{record['command']}`, {record['date'][:10]}, {record['precision']}"
    return f"{test}, {n:,} labels, {made}.\n\n{table_of(lines)}"


def places_table() -> str:
    """Return what the chain that each rule names is worth, out of all chains that were tried."""
    if not PLACES.is_file():
        return ""
    record = json.loads(PLACES.read_text(encoding="utf-8"))
    head = ["task", "chosen by", "layers", "points over the encoder", "behind the best, thousandths of a nat", "rho"]
    lines, others = [head], [head]
    for row in record["rows"]:
        rule, rho = row["chosen by"], row["Spearman"]
        own = [row["task"], rule, row["layers"], row["gain, points"], f"{row['behind the best, mnat']:.0f}"]
        own.append("" if rho is None else f"{rho:.2f}")
        (others if rule.startswith("estimator ") and rule != "estimator span" else lines).append(own)
    span = {row["task"]: row for row in record["rows"] if row["chosen by"] == "estimator span"}
    said = " and ".join(
        f"{row['Spearman']:.2f} on {task} (its choice is {row['behind the best, mnat']:.0f} thousandths of a nat "
        "behind the best)"
        for task, row in span.items()
    )
    ranks = {task: _rank_of_span(record["rows"], task) for task in span}
    where = " and ".join(f"{place} of {of} on {task}" for task, (place, of) in ranks.items())
    folded = (
        f"The estimator `span` reads pooled states of the same training texts: over all chains it agrees with the gain "
        f"by a rho of {said}. {_without_r2(record['rows'])}"
        "Among all registered estimators that read labels, each taken as the rise of the score of "
        f"the donor's own states over the chain, it is number {where}.\n\n:::{{dropdown}} Every estimator\n\n"
        f"{table_of(others)}\n\n:::"
    )
    behind = {
        (row["task"], row["chosen by"].partition(" (")[0]): row["behind the best, mnat"] for row in record["rows"]
    }
    tasks = list(dict.fromkeys(task for task, _ in behind))

    def far(rule: str) -> str:
        return " and ".join(f"{behind[task, rule]:.0f} on {task}" for task in tasks)

    return (
        "## Which layers, and how many?\n\nThe chain that `pp.headroom` names, or the nearest that was tried, is "
        f"this many thousandths of a nat behind the best of 109: {far('Headroom.span')}. "
        f"The last layer, which the paper takes: {far('last layer')}.\n\n"
        "Every entry, and one, two, four and eight layers: 109 chains a task, 800 "
        "labels. The best of all is chosen on the texts that it is tested on. No other rule saw a test text: "
        "`pp.headroom` looks at training texts (*rise* of the donor's probe over the span, *r2* of the interface at "
        "its entry, number of *layers*, *score*: rise times r2, which decides between chains of one length, too), and "
        "where its span is none of the 109, the nearest of them stands for it. Last column: Spearman's rank agreement "
        "of the rule's score with the gain, over all "
        f"chains.\n\n{table_of(lines)}" + f"\n\n{folded}" * bool(span)
    )


def _without_r2(rows: list[dict[str, Any]]) -> str:
    """Return what the estimator span is worth without its factor R², which leaves usable information."""
    alone = [row for row in rows if row["chosen by"] == "estimator usable_information"]
    if not alone:
        return ""
    rho = " and ".join(f"{row['Spearman']:.2f}" for row in alone)
    behind = " and ".join(f"{row['behind the best, mnat']:.0f}" for row in alone)
    return f"Without its factor, the R² of pooled states (usable information alone): rho {rho}, {behind} behind. "


def _rank_of_span(rows: list[dict[str, Any]], task: str) -> tuple[int, int]:
    """Return the place of the estimator span among all by agreement with the gain, and how many there are."""
    found = {
        row["chosen by"]: row["Spearman"]
        for row in rows
        if row["task"] == task and row["chosen by"].startswith("estimator ")
    }
    return 1 + sum(one > found["estimator span"] for one in found.values()), len(found)


def pair_table() -> str:
    """Return what layers add to pairs whose texts meet in them only next to late interaction; empty if not recorded."""
    found = records(APART)
    if not found:
        return ""
    return (
        "## Pairs that meet in the layers\n\nEach text is encoded alone, and the two meet in the layers only. Late "
        "interaction is the best match of every token in the other text, without parameters: a control that every task "
        "of pairs needs.\n\n" + "\n\n".join(one_pair_table(table) for table in found.values()) + "\n\nSNLI is not "
        "recorded. In a trial outside the records, with layers 17 and 18 and one alignment, late interaction took most "
        "of what the layers gave on it: next to it they were hardly ahead of their twins. That is a lead, not a result."
    )


def one_pair_table(table: dict[str, Any]) -> str:
    """Return the table of one task of pairs."""
    late, test, n = "late interaction", table["info"]["task"], table["info"]["n_train"]

    def minus(a: str, b: str) -> str:
        return shown(difference(table, a, b, test, n))

    def score(arm: str) -> str:
        reading = "alone" if arm == "encoder" else "with encoder"
        (row,) = rows_of(table["scores"], test=test, n_labels=n, arm=arm, reading=reading)
        return f"{100 * row['accuracy']:.1f}"

    head = ["arm", "with the encoder", "- encoder", "late interaction, too", "- encoder"]
    lines = [[*head, "real chain - it, both with late interaction"]]
    names = NAMES | {"real": "real chain", "donor": "donor's own probe"}
    for arm in ("encoder", "interface", "real", "shuffled", "random", "donor"):
        both = late if arm == "encoder" else f"{arm} and {late}"
        alone = "" if arm == "encoder" else minus(arm, "encoder")
        left = "" if arm == "real" else minus(f"real and {late}", both)
        lines.append([names[arm], score(arm), alone, score(both), minus(both, "encoder"), left])
    rest = difference(table, f"real and {late}", late, test, n)
    if rest["high"] > rest["low"]:
        limits = [rest[key] for key in ("difference", "low", "high", "p_value")]
        seen = smallest_detectable(Interval(*limits, 1, table["info"]["tests"][test], ""))
        said = f"adds {shown(rest)} points; four of five studies would have found {100 * seen:.1f}"
    else:
        said = "is left out by the readout: all answers are those of late interaction"
    return (
        f"**{test.removesuffix('-apart')}**, {n:,} labels, {table['info']['tests'][test]:,} test pairs: next to late "
        f"interaction the real chain {said}.\n\n" + table_of(lines)
    )


def limits(added: dict[str, dict[str, Any]]) -> str:
    """Return what the twins on this page leave open, and what was not tried."""
    left = [
        "a donor of more than 270M weights",
        "an encoder of the usual kind that was trained on no pairs of sentences (no package index has one)",
        "what else could stand in the chain's place, on other tasks than movie-reviews" * (len(REFERENCE_FILES) < 2),
        "evidence that lies inside long texts" * ("evidence" not in added),
        "tweets in Arabic" * ("umsab-arabic" not in added),
        "natural pairs of sentences" * ("question-sentence" not in added),
        "SNLI",
        "CoLA, TREC and irony, which a user has to bring as files",
    ]
    return (
        "## Limits\n\n**Twins.** But for the table of more twins, a shuffled and a random twin are one draw each: "
        "another draw may do a little better or worse, and no interval on this page covers that. Next to a "
        "fine-tuned encoder, and where everything is trained, each fold draws them anew; elsewhere they are the same "
        "draw on every task and in every fold. They read through the interface that was aligned to the real layers' "
        "input; one of their own, aligned to a donor whose lower layers are such twins, too (`own_interfaces=True` of "
        "`pp.probe_chain`), was tried on movie-reviews and product-reviews alone.\n\n"
        f"**Not tried.** Open, since there is no run of it: {'; '.join(filter(None, left))}. sentiment-rating has a "
        "number a text, and the readout behind a chain tells classes apart."
    )


def page() -> str:
    """Return the page."""
    halves = {"exploring": records(EXPLORING), "confirming": records(CONFIRMING)}
    everything = {name: record for half in halves.values() for name, record in half.items()}
    parts, held, added = [], {}, records(ADDED)
    for half, found in halves.items():
        if found:
            text, tasks = main_table(found)
            held[half] = tasks
            parts.append(f"### The {half} half\n\n{text}")
    if added:
        text, held["added"] = main_table(added)
        beaten = ", ".join(held["added"]) or "none"
        parts.append(
            f"### Added afterwards\n\n{' '.join(ADDED_WORDS[name] for name in added)}{_apart_answer(added)} "
            f"Bold: found after Holm's correction over this table. The real chain beats all four on {beaten}.\n\n{text}"
        )
    shift, shifted = shift_table(everything)
    labels, few = label_table(everything)
    tuned, with_tuned = trained_table()
    few_joined, tuned_cells = few_cells(), joined_folds("trained-")
    few_folds, on_few_folds = folded_table(few_joined, "task", {cell: cell[0] for cell in few_joined})
    tuned_folds, on_tuned_folds = folded_table(tuned_cells, "task", {cell: cell[0] for cell in tuned_cells})
    fewest, said_of_fewest = fewest_table()
    larger, on_folds, shifted_folds, gained = folds_tables()
    natural = [name for tasks in held.values() for name in tasks if name in NATURAL]
    goals = [
        ["natural tasks on which the real chain beats all four (frozen encoder)", "5", _named(natural)],
        [
            "of these, tasks whose texts come with the package",
            "2",
            _named([name for name in natural if name in EMBEDDED]),
        ],
        ["pairs of domains (train, test)", "2", _named(shifted)],
        ["tasks with 100 labels", "3", _named(few)],
        *(
            [
                ["natural tasks, in folds: every text tested once", "5", _named(on_folds)],
                ["pairs of domains, in folds", "2", _named(shifted_folds)],
            ]
            if larger
            else []
        ),
        *([["tasks with 100 labels, in folds", "1 more", _named(on_few_folds)]] if few_joined else []),
        ["tasks with a fine-tuned encoder, with both seeds", "2", _named(with_tuned) if tuned else "not recorded"],
        *([["tasks with a fine-tuned encoder, in folds", "2", _named(on_tuned_folds)]] if tuned_cells else []),
    ]
    provenance = next(iter(everything.values()))["provenance"]
    machine = provenance["machine"]
    waiting = [name for name in (*EXPLORING, *CONFIRMING) if name not in everything]
    left = f"Not run yet, so that the lines below count fewer tasks than they ask for: {', '.join(waiting)}."
    text = [
        HEAD.format(
            answer=_answer(everything | added, [name for tasks in held.values() for name in tasks], on_folds, gained)
            + _added("With 100 labels", few_joined, on_few_folds)
            + said_of_fewest
            + _added("Next to an encoder that is fine-tuned on the same labels", tuned_cells, on_tuned_folds)
        ).strip(),
        "## Targets, and what was reached\n\n" + table_of([["what", "to reach", "reached"], *goals]),
        f"Of the confirming half, which was touched once, the chain beats all four on {len(held['confirming'])} of "
        f"{len(halves['confirming'])} tasks, with at most 1,500 test texts; the folds below are larger samples of "
        "tasks that had been seen."
        if halves["confirming"]
        else "",
        left if waiting else "",
        "## Every task, frozen encoder\n\nAccuracy in per cent; differences in points with 95 % intervals over test "
        "texts; bold: found after Holm's correction over that half. The donor's own probe needs all layers below and "
        "the donor's tokenizer: it is the ceiling, not a rival.\n\n" + "\n\n".join(parts),
        "## In folds: every text tested once\n\nThree folds of at most 4,500 texts a task, 1,500 labelled in each: the "
        "same tasks with more test texts, which is not an independent confirmation of the tables above. Bold: found "
        "after Holm's correction over each table, of all its tasks, those that were added later, too. "
        "The intervals are over texts.\n\n" + larger
        if larger
        else "",
        section(gains(everything, difference)),
        depths({file.stem: json.loads(file.read_text(encoding="utf-8"))["headroom"] for file in CHAIN_FILES}),
        "## Under domain shift\n\n" + shift + lost_under_shift(everything) if shift else "",
        "## With few labels\n\nMeans over six draws of labelled texts; bold: the real chain beats all four arms with "
        "100 labels, after Holm's correction, by intervals over texts and draws. Last column: how many labels "
        "the encoder alone needs to reach what the chain reaches with 100, interpolated over their logarithm.\n\n"
        + labels,
        "The two tasks that 600 test texts left open, in folds: every text tested once, 100 labels in each fold. "
        "Bold: found after Holm's correction over this table.\n\n" + few_folds
        if few_joined
        else "",
        fewest,
        "## With a fine-tuned encoder\n\nThe encoder is fine-tuned first; the stacking weights come from texts that "
        "neither saw. Bold: the interval leaves out zero.\n\n" + tuned
        if tuned
        else "",
        "In three folds, every text tested once, each fold with a fine-tuning of its own.  Bold: found after Holm's "
        "correction over this table.\n\n" + tuned_folds
        if tuned_cells
        else "",
        through_table(through_cells()),
        places_table(),
        twins_table(),
        variant_table(),
        pair_table(),
        reference_table(),
        limits(added),
        f"## How it was made\n\n`python benchmarks/aligned.py`, {provenance['date'][:10]}, {machine['cpu']}, "
        f"{machine['cores']} cores; one JSON a task in `book/_studies/aligned/`. In minutes, at a smaller size, "
        "without touching the records: `python benchmarks/aligned.py movie-reviews critic-reviews product-reviews "
        "--small --out runs/aligned`" + small_time() + ".",
    ]
    return "\n\n".join(part for part in text if part) + "\n"


def small_time() -> str:
    """Return how long the small form of the embedded tasks took; empty where that is not recorded."""
    if not SMALL.is_file():
        return ""
    record = json.loads(SMALL.read_text(encoding="utf-8"))
    machine = record["provenance"]["machine"]
    took = f"{record['seconds'] / 60:.0f} minutes with {machine['threads']} thread on {machine['cores']} cores"
    return f" ({', '.join(record['tasks'])}: {took}, {machine['cpu']})"


def _apart_answer(added: dict[str, dict[str, Any]]) -> str:
    """Return what an encoder does that reads the texts of a pair one at a time; empty where it was not recorded."""
    said = ""
    for name, record in added.items():
        for own in records((f"{name}-apart",)).values():
            cell, alone = (
                (own["info"]["task"], own["info"]["n_train"]),
                (record["info"]["task"], record["info"]["n_train"]),
            )
            better, plain = accuracy(own, "encoder", *cell), accuracy(record, "encoder", *alone)
            said += (
                f" The encoder reads the two as one text here ({plain:.1f}); where it reads each alone it has "
                f"{better:.1f}, to which the chain adds {shown(difference(own, 'real', 'encoder', *cell))} (below, "
                "Pairs that meet in the layers)."
            )
    return said


def _answer(everything: dict[str, Any], held: list[str], on_folds: list[str], gained: dict[str, float]) -> str:
    """Return the page's first sentences; from the runs with all texts where they are recorded."""
    natural = [name for name in held if name in NATURAL]
    tried = [name for name in everything if name in NATURAL]
    if on_folds:
        found, points = on_folds, sorted(gained[name] for name in on_folds)
    else:
        rows = {name: (everything[name]["info"]["task"], everything[name]["info"]["n_train"]) for name in natural}
        found = natural
        points = sorted(
            100 * difference(everything[name], "real", "encoder", *rows[name])["difference"] for name in natural
        )
    if not found:
        return "On no task does the real chain beat the encoder, the interface and both twins at once."
    span = f"{points[0]:.1f} to {points[-1]:.1f}" if len(points) > 1 else f"{points[0]:.1f}"
    made = [
        (name, 100 * difference(everything[name], "real", "encoder", test, n)["difference"])
        for name, test, n in own_tests({name: everything[name] for name in MADE if name in held})
    ]
    more = _joined([f"{points:.1f} points on {name}" for name, points in made])
    if "translation-match" in held and (apart := records(APART[:1])):
        own = apart[APART[0]]
        cell = (own["info"]["task"], own["info"]["n_train"])
        alone, left = accuracy(own, "encoder", *cell), shown(difference(own, "real", "encoder", *cell))
        more += f" (there an encoder that reads each text alone has {alone:.1f}, to which they add nothing: {left})"
    return (
        f"On {len(found)} of {len(tried)} natural tasks tried ({', '.join(found)}), seven frozen middle layers of a "
        f"135M language model add {span} points to a frozen encoder, where the interface alone and every twin add less "
        "by an interval above zero." + (f" On tasks made from such texts they add {more}." if made else "")
    )


def _added(beginning: str, cells: Cells, held: list[str]) -> str:
    """Return what the chain adds to an encoder where it beats everything; empty where it does not."""
    arms = {task: found for (task, _), found in cells.items()}
    points = [added_points(arms[name]) for name in held]
    said = _joined([f"{one:.1f} points on {name}" for one, name in zip(points, held, strict=True)]) if held else ""
    return f" {beginning} they add {said}, again more than any twin." * bool(held)


def _named(names: list[str]) -> str:
    return f"{len(names)}: {', '.join(names)}" if names else "0"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    draw(gains(records((*EXPLORING, *CONFIRMING)), difference))
    draw_forest(first_rows(records((*EXPLORING, *CONFIRMING))))
