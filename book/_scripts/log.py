"""Fill book/log.md: what was tried and what came of it, each number out of the record that the row names.

python book/_scripts/log.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "book" / "_scripts"), str(ROOT / "benchmarks")]

from aligned import FOLDED, FOLDED_SHIFT, PAIRED, SHIFT  # noqa: E402
from aligned_page import (  # noqa: E402
    FEWEST,
    MANY_DRAWS,
    REFERENCE_FILES,
    REFERENCES,
    Cells,
    difference,
    few_cells,
    joined_folds,
    rows_of,
    through_cells,
)

from pifi_probe.stats import paired_difference  # noqa: E402
from pifi_probe.vocabulary import in_words_of_today  # noqa: E402

PAGE = ROOT / "book" / "log.md"
_BLOCK = re.compile(r"(<!-- log:begin -->\n).*?(<!-- log:end -->)", re.DOTALL)
Record = dict[str, Any]


@dataclass(frozen=True)
class Tried:
    """One row: an idea, the record that judged it, and how its outcome is read out of the record."""

    idea: str
    record: str
    outcome: Callable[[Record], str]


def finding(place: int) -> Callable[[Record], str]:
    """Return how to say a finding of a recorded experiment."""

    def said(record: Record) -> str:
        found, n = record["findings"][place], record["settings"]["seeds"]
        numbers = f"{found['measured']:+z.1f} [{found['low']:+z.1f}, {found['high']:+z.1f}] {found['unit']}"
        return f"{numbers}, {n} seed{'s' * (n > 1)}: {in_words_of_today(found)['verdict'].split(';')[0]}"

    return said


def density(record: Record) -> str:
    """Say what single layers and fours add over their shuffled twins."""
    rows = [row for row in record["rows"] if row["task"] == "movie-reviews" and row["LLM"].startswith("smollm2")]
    found = {row["layers together"]: row["real - shuffled"] for row in rows}
    return f"real minus shuffled, mnat: one layer {found['single 1']}, four neighbours {found['neighbours 4']}"


def strategies(record: Record) -> str:
    """Say what each cheap way to choose a layer loses against trying all."""
    rows = {row["strategy"]: row["minus exhaustive (mnats)"] for row in record["rows"]}
    return ", ".join(f"{name} {rows[name]}" for name in ("fast", "last", "middle", "greedy")) + " mnat after exhaustive"


def points(mean: float, low: float, high: float) -> str:
    """Return a difference of shares, with its interval, in points."""
    return f"{100 * mean:+z.1f} [{100 * low:+z.1f}, {100 * high:+z.1f}]"


def between(record: Record, a: str, b: str, n_labels: int) -> str:
    """Return by how many points of accuracy one arm is above another on the chain's own task."""
    row = difference(record, a, b, record["info"]["task"], n_labels)
    return points(row["difference"], row["low"], row["high"])


def aligned(record: Record) -> str:
    """Say what the real chain adds to the encoder on the task that it was fitted to, and its shuffled twin."""
    real, shuffled = (between(record, arm, "encoder", record["info"]["n_train"]) for arm in ("real", "shuffled"))
    return f"{real} points over the encoder alone; its shuffled twin {shuffled}"


def control(layer: int, llm: str = "smollm2-135m") -> Callable[[Record], str]:
    """Return how to say the accuracy around a layer in the positive control, in percent."""

    def said(record: Record) -> str:
        from pifi_probe.layers.control import PositiveControl

        found = PositiveControl.from_dict(record["measurements"][llm]["own states"]["control"])[layer]
        share = {arm: f"{100 * found.accuracy(arm).mean:.1f}" for arm in found.correct}
        return (
            f"next words read: {share['real']} % after it, {share['none']} % without it, {share['shuffled']} and "
            f"{share['random']} % after its twins, {share['one token']} % one token at a time"
        )

    return said


def foreign(record: Record) -> str:
    """Say the accuracy of the foreign code."""
    from pifi_probe.layers.control import PositiveControl

    found = PositiveControl.from_dict(record["measurements"]["smollm2-135m"]["foreign code"]["control"])
    return found.answer.partition(": ")[2].rstrip(".")


def condition(layers: str, arm: str) -> Callable[[Record], str]:
    """Return how to say the points of a chain over the encoder alone."""

    def said(record: Record) -> str:
        rows = record["chains"][layers]["differences"]
        (row,) = rows_of(rows, metric="accuracy", a=arm, b="encoder", n_labels=record["n_train"])
        return f"{points(row['difference'], row['low'], row['high'])} points over the encoder alone"

    return said


def with_labels(n_labels: int) -> Callable[[Record], str]:
    """Return how to say what the real chain adds with so many labels."""

    def said(record: Record) -> str:
        encoder, shuffled = (between(record, "real", other, n_labels) for other in ("encoder", "shuffled"))
        return f"{encoder} points over the encoder with as many, {shuffled} over the shuffled twin, {MANY_DRAWS} draws"

    return said


def chains(record: Record) -> str:
    """Say which of all chains is the best on the test texts, and what the last eight layers give."""
    found = {name: 100 * cell["accuracy"] for name, cell in record["cells"].items()}
    best = max(found, key=lambda name: found[name])
    return (
        f"accuracy in per cent: best of {len(found)} is {best} with {found[best]:.1f}, chosen where it is tested; "
        f"the last eight {found['22-29']:.1f}, encoder alone {100 * record['encoder']['accuracy']:.1f}"
    )


def under_shift(test: str) -> Callable[[Record], str]:
    """Return how to say what the real chain adds on texts of another task than the one that it was fitted to."""

    def said(record: Record) -> str:
        rows = [difference(record, "real", b, test, record["info"]["n_train"]) for b in ("encoder", "interface")]
        encoder, interface = (points(row["difference"], row["low"], row["high"]) for row in rows)
        return f"{encoder} points over the encoder alone, {interface} over the interface alone"

    return said


def in_place(arm: str) -> Callable[[Record], str]:
    """Return how to say what stands in the chain's place adds, and how far the real chain is ahead of it."""

    def said(record: Record) -> str:
        (table,) = record["chains"].values()
        n = table["info"]["n_train"]
        adds, ahead = between(table, arm, "encoder", n), between(table, "real", arm, n)
        return f"{adds} points over the encoder alone; the chain minus it {ahead}"

    return said


def beside_late(record: Record) -> str:
    """Say what pairs gain by matching without parameters, and what the layers add to that."""
    late, n = "late interaction", record["info"]["n_train"]
    alone, left = between(record, late, "encoder", n), between(record, f"real and {late}", late, n)
    twin = between(record, f"real and {late}", f"shuffled and {late}", n)
    return (
        f"late interaction adds {alone} points to the encoder; the chain {left} to both, {twin} over its shuffled twin"
    )


def own_interface(record: Record) -> str:
    """Say what a twin gains by an interface of its own, and what the real chain is ahead of it then."""
    own, n = "shuffled, own interface", record["info"]["n_train"]
    gain, ahead = between(record, own, "encoder", n), between(record, "real", own, n)
    return f"{gain} points over the encoder alone; the real chain minus it {ahead}"


def behind_frozen(table: str) -> Callable[[Record], str]:
    """Return how to say what a layer's weights do behind a frozen encoder, on one table of LayerBench."""

    def said(record: Record) -> str:
        (told,) = (one for one in record["measurements"]["told"] if one["table"] == table)
        (own,) = (step for step in told["steps"] if step["name"] == "knowledge")
        return f"the real layers minus their twins {own['difference']}: {own['verdict']}"

    return said


def frozen_tables() -> list[str]:
    """Return the names of the tables whose encoder was frozen."""
    record = json.loads((ROOT / LAYERBENCH).read_text(encoding="utf-8"))
    return [one["table"] for one in record["measurements"]["told"] if one["encoder"] == "frozen"]


@cache
def cells(kind: str) -> Cells:
    """Return the answers of all runs in folds of one kind."""
    made = {"few": few_cells, "through": through_cells}
    return made[kind]() if kind in made else joined_folds({"trained": "trained-", "frozen": ""}[kind])


def in_folds(
    task: str, kind: str, encoder: str, others: tuple[str, ...] = ("shuffled",), test: str = ""
) -> Callable[[Record], str]:
    """Return how to say what the real chain adds to an encoder, and over other arms, over all folds."""

    def said(_: Record) -> str:
        arms = cells(kind)[task, test or task]
        found = {other: paired_difference(arms["real"], arms[other]) for other in ("encoder", *others)}
        over = {other: points(one.mean, one.low, one.high) for other, one in found.items()}
        more = [f"{over[other]} over {WITHOUT[other]}" for other in others]
        return ", ".join((f"{over['encoder']} points over {encoder}", *more, f"{len(arms['real'][0]):,} texts"))

    return said


def task_of(references: Path) -> str:
    """Return the task of a record of what could stand in the chain's place."""
    return references.stem.removeprefix("references").removeprefix("-") or "movie-reviews"


WITHOUT = {"interface": "the interface alone", "shuffled": "the shuffled twin"}
TEXTS = {
    "movie-reviews": "film reviews",
    "product-reviews": "product reviews",
    "tweets": "tweets",
    "critic-reviews": "critics' sentences",
    "umsab-english": "tweets of three moods",
    "question-sentence": "pairs of a question and a sentence",
}
EXPERIMENTS = "book/_studies/experiments/{}/summary.json"
ALIGNED = "book/_studies/aligned/{}.json"
LAYERBENCH = "benchmarks/results/layerbench.json"
ADDED = {
    "umsab-arabic": "The chain on Arabic tweets of three moods",
    "evidence": "The chain on a sentence of a film review among strings of a program",
    "question-sentence": "The chain on pairs: does this sentence answer the question?",
}
CONTROL, CONDITIONS = "benchmarks/results/control.json", "book/_studies/conditions.json"
TRIED = (
    Tried(
        "Every layer has its say: which one is best by cheap scores?", "benchmarks/results/selection.json", strategies
    ),
    Tried("The last layer instead of an early one", EXPERIMENTS.format("layer-position"), finding(0)),
    Tried("The last layer instead of a random one of its shape", EXPERIMENTS.format("layer-position"), finding(3)),
    Tried("PiFi's wiring against the encoder alone, film reviews", EXPERIMENTS.format("frozen-vs-tuned"), finding(1)),
    Tried("The frozen layer instead of a tuned one", EXPERIMENTS.format("frozen-vs-tuned"), finding(0)),
    Tried("Domain shift, tweets, against an encoder with a tuned rate", EXPERIMENTS.format("domain-shift"), finding(2)),
    Tried("Domain shift, tweets, against a random layer", EXPERIMENTS.format("domain-shift"), finding(3)),
    Tried("Exams: knowledge of the layer against a random one", EXPERIMENTS.format("hard-benchmarks"), finding(1)),
    Tried("A multilingual donor for Korean reviews", EXPERIMENTS.format("language-alignment"), finding(0)),
    Tried("A layer between encoder and decoder, written text", EXPERIMENTS.format("nlg"), finding(0)),
    Tried("A decoder as the small model", EXPERIMENTS.format("decoder-as-slm"), finding(1)),
    Tried("What a layer's function adds to the encoder's vectors", "benchmarks/results/density.json", density),
    Tried("Repeated random words, layer 18 on its own states", CONTROL, control(18)),
    Tried("Repeated random words, layer 29, the paper's choice", CONTROL, control(29)),
    Tried("A foreign code through one ridge regression", CONTROL, foreign),
    Tried(
        "Repeated random words, layer 11 of Gemma 3 270M",
        "benchmarks/results/control_gemma3-270m.json",
        control(11, "gemma3-270m"),
    ),
    Tried("Film reviews: layers 8 to 14 behind an aligned interface", CONDITIONS, condition("8-14", "real")),
    Tried("The same, shuffled twin", CONDITIONS, condition("8-14", "shuffled")),
    Tried("The same, random twin", CONDITIONS, condition("8-14", "random")),
    Tried("The same, interface without a layer", CONDITIONS, condition("8-14", "interface")),
    Tried("The same, one token at a time", CONDITIONS, condition("8-14", "one token")),
    Tried("The same, interface not aligned", CONDITIONS, condition("8-14", "unaligned")),
    Tried("Shorter: layers 12 to 14", CONDITIONS, condition("12-14", "real")),
    Tried("Shorter: layer 14", CONDITIONS, condition("14", "real")),
    Tried("Too early: layers 0 to 6", CONDITIONS, condition("0-6", "real")),
    Tried("Too late: layers 23 to 29", CONDITIONS, condition("23-29", "real")),
    Tried("The chain on product reviews", ALIGNED.format("product-reviews"), aligned),
    Tried(
        "The chain on critics' sentences, most of them film reviews again", ALIGNED.format("critic-reviews"), aligned
    ),
    Tried("The chain on tweets of two moods", ALIGNED.format("tweets"), aligned),
    Tried("The chain on news agency texts of eight topics", ALIGNED.format("reuters-r8"), aligned),
    Tried("The chain on tweets of three moods", ALIGNED.format("umsab-english"), aligned),
    Tried("The chain on twenty newsgroups", ALIGNED.format("newsgroups"), aligned),
    Tried("The chain on reviews with two words swapped, or not", ALIGNED.format("word-order"), aligned),
    Tried("The chain on pairs: is it the translation?", ALIGNED.format("translation-match"), aligned),
    Tried(
        "Chains of every place, one to eight layers long, film reviews",
        "book/_studies/chains/movie-reviews.json",
        chains,
    ),
    Tried("The same on tweets", "book/_studies/chains/tweets.json", chains),
    Tried("The chain on German tweets, offence", ALIGNED.format("germeval"), aligned),
    Tried("The chain on Korean film reviews", ALIGNED.format("nsmc"), aligned),
    *(
        Tried(idea, ALIGNED.format(task), aligned)
        for task, idea in ADDED.items()
        if (ROOT / ALIGNED.format(task)).is_file()
    ),
    *(
        Tried(
            f"One layer and one vector behind a frozen encoder, all 30 layers, {name.removesuffix('-frozen')}",
            LAYERBENCH,
            behind_frozen(name),
        )
        for name in frozen_tables()
    ),
    Tried(
        "The chain next to a fine-tuned encoder, film reviews, three folds",
        ALIGNED.format("trained-fold2-movie-reviews"),
        in_folds("movie-reviews", "trained", "the fine-tuned encoder"),
    ),
    Tried(
        "The chain next to a fine-tuned encoder, product reviews, three folds",
        ALIGNED.format("trained-fold2-product-reviews"),
        in_folds("product-reviews", "trained", "the fine-tuned encoder"),
    ),
    *(
        Tried(
            f"The encoder trained through the chain from the start, {TEXTS[task]}, three folds",
            ALIGNED.format(f"through-fold2-{task}-real"),
            in_folds(task, "through", "an encoder trained in the same way"),
        )
        for task in ("movie-reviews", "product-reviews")
    ),
    *(
        Tried(f"The chain {what}, film reviews", ALIGNED.format(f"variant-{name}-movie-reviews"), aligned)
        for name, what in (
            ("gemma3-270m", "of Gemma 3 270M"),
            ("mpnet-base", "behind mpnet-base, a larger encoder"),
            ("e5-small-multilingual", "behind a multilingual encoder"),
            ("8-bits", "with weights rounded to 8 bits"),
            ("3-bits", "with weights rounded to 3 bits"),
            ("2-bits", "with weights rounded to 2 bits"),
            ("gemma3-270m-as-encoder", "behind a decoder that reads as an encoder, Gemma 3 270M"),
            ("smollm2-135m-as-encoder", "of Gemma 3 270M behind a decoder that reads as an encoder, SmolLM2"),
            ("three-twins", "with three draws of its twins"),
        )
    ),
    *(
        Tried(
            f"An interface of its own for the shuffled twin, {TEXTS[task]}",
            ALIGNED.format(f"variant-three-twins-{task}"),
            own_interface,
        )
        for task in ("movie-reviews", "product-reviews")
    ),
    *(
        Tried(
            f"The chain with 100 labels, {TEXTS[task]}, three folds",
            ALIGNED.format(f"few-fold2-{task}"),
            in_folds(task, "few", "the encoder with as many"),
        )
        for task in ("product-reviews", "tweets")
    ),
    *(
        Tried(f"The chain with {n} labels, {TEXTS[task]}", ALIGNED.format(f"few-{task}"), with_labels(n))
        for n in FEWEST
        for task in ("movie-reviews", "product-reviews", "tweets", "critic-reviews")
    ),
    *(
        Tried(f"The chain fitted on {TEXTS[task]}, tested on {TEXTS[test]}", ALIGNED.format(task), under_shift(test))
        for task, tests in SHIFT.items()
        for test in tests
    ),
    *(
        Tried(
            f"The chain on {TEXTS[task]}, three folds",
            ALIGNED.format(f"fold2-{task}"),
            in_folds(task, "frozen", "the encoder alone", ("interface", "shuffled")),
        )
        for task in (*FOLDED, PAIRED)
    ),
    *(
        Tried(
            f"The chain fitted on {TEXTS[task]}, tested on {TEXTS[test]}, three folds",
            ALIGNED.format(f"fold2-{task}"),
            in_folds(task, "frozen", "the encoder alone", ("interface", "shuffled"), test),
        )
        for task, test in FOLDED_SHIFT.items()
    ),
    *(
        Tried(
            f"In the chain's place, {TEXTS[task_of(file)]}: {REFERENCES[arm]}",
            file.relative_to(ROOT).as_posix(),
            in_place(arm),
        )
        for file in REFERENCE_FILES
        for arm in ("mlp", "trained layers", "encoder twice", "donor")
    ),
    Tried(
        "Pairs that meet in the layers only: is it more than late interaction?",
        ALIGNED.format("translation-match-apart"),
        beside_late,
    ),
    Tried(
        "Questions and sentences that meet in the layers only: more than late interaction?",
        ALIGNED.format("question-sentence-apart"),
        beside_late,
    ),
)


def table() -> str:
    """Return the table, oldest record first."""
    rows = []
    for tried in TRIED:
        record = json.loads((ROOT / tried.record).read_text(encoding="utf-8"))
        made = record.get("provenance", record)
        commit = (made.get("git") or {}).get("commit", "")[:7]
        cells = (made["date"][:10], tried.idea, tried.outcome(record), f"`{tried.record}`, {commit}")
        rows.append("| " + " | ".join(cells) + " |")
    head = "| recorded | idea | what came of it | record, commit |\n|---|---|---|---|\n"
    return head + "\n".join(sorted(rows, key=lambda row: row[2:12]))


def updated(text: str) -> str:
    """Return the page with the table between its markers."""
    return _BLOCK.sub(lambda match: f"{match[1]}{table()}\n{match[2]}", text)


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
