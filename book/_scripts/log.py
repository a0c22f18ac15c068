"""Fill book/log.md: what was tried and what came of it, each number out of the record that the row names.

python book/_scripts/log.py
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from aligned_page import FEWEST, MANY_DRAWS, difference, few_cells, joined_folds, rows_of, through_cells  # noqa: E402

from pifi_probe.stats import paired_difference  # noqa: E402
from pifi_probe.vocabulary import in_words_of_today  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent.parent
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


def in_folds(task: str, kind: str, encoder: str) -> Callable[[Record], str]:
    """Return how to say what the real chain adds to an encoder, and to its shuffled twin, over all folds."""

    def said(_: Record) -> str:
        cells = {"few": few_cells, "through": through_cells}.get(kind, lambda: joined_folds("trained-"))()
        [arms] = [arms for (name, _), arms in cells.items() if name == task]
        over = []
        for other in ("encoder", "shuffled"):
            found = paired_difference(arms["real"], arms[other])
            over.append(points(found.mean, found.low, found.high))
        texts = f"{len(arms['real'][0]):,} texts"
        return f"{over[0]} points over {encoder}, {over[1]} over the shuffled twin, {texts}"

    return said


EXPERIMENTS = "book/_studies/experiments/{}/summary.json"
ALIGNED = "book/_studies/aligned/{}.json"
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
            f"The encoder trained through the chain from the start, {texts}, three folds",
            ALIGNED.format(f"through-fold2-{task}-real"),
            in_folds(task, "through", "an encoder trained in the same way"),
        )
        for task, texts in (("movie-reviews", "film reviews"), ("product-reviews", "product reviews"))
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
        )
    ),
    *(
        Tried(
            f"The chain with 100 labels, {texts}, three folds",
            ALIGNED.format(f"few-fold2-{task}"),
            in_folds(task, "few", "the encoder with as many"),
        )
        for task, texts in (("product-reviews", "product reviews"), ("tweets", "tweets"))
    ),
    *(
        Tried(f"The chain with {n} labels, {texts}", ALIGNED.format(f"few-{task}"), with_labels(n))
        for n in FEWEST
        for task, texts in (
            ("movie-reviews", "film reviews"),
            ("product-reviews", "product reviews"),
            ("tweets", "tweets"),
            ("critic-reviews", "critics' sentences"),
        )
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
