"""The study of aligned chains: what real middle layers add to an encoder, next to every twin, on fourteen tasks.

The protocol is `book/_studies/aligned/protocol.md`. Every task is one JSON in that folder; what is there is kept, so
that the same command continues after an interruption.

    python benchmarks/aligned.py                      # all tasks that can be had: hours on two cores
    python benchmarks/aligned.py movie-reviews        # one task
    python benchmarks/aligned.py movie-reviews critic-reviews product-reviews --small   # minutes, other numbers
    python benchmarks/aligned.py --trained movie-reviews   # with a fine-tuned encoder
    python benchmarks/aligned.py --through movie-reviews   # with an encoder that is trained through the chain
    python benchmarks/aligned.py --folds product-reviews   # every text of the task is a test text once
    python benchmarks/aligned.py --trained --folds movie-reviews   # both
    python benchmarks/aligned.py --few --folds product-reviews     # with 100 labels
    python benchmarks/aligned.py --few movie-reviews               # with 10 and with 30 labels, many draws

Tasks that are not part of the package are read from the folder ``--data`` and left out without it: JSON lines with a
column ``split``, and XQuAD's questions, of which pairs are made.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import random
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import claimed
from sklearn.model_selection import StratifiedKFold

import pifi_probe as pp
from pifi_probe.alignment.readout import fit_block, fit_stack
from pifi_probe.devices import has_bf16
from pifi_probe.features.chain_parts import Encoder, Texts, cached_interfaces, twin_of
from pifi_probe.files import write_json
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.probing.chain import _rows
from pifi_probe.provenance import collect
from pifi_probe.tasks import Split, Task

STUDY = Path(__file__).parent.parent / "book" / "_studies" / "aligned"
SLM, LLM, CHAIN = "minilm-l6", "smollm2-135m", (8, 14)
SPAN = f"{CHAIN[0]}-{CHAIN[1]}"
EXPLORING = ("movie-reviews", "product-reviews", "tweets", "word-order", "translation-match")
PAIRED = "question-sentence"  # folds of its own: of paragraphs
APART = ("translation-match-apart", "question-sentence-apart")  # each text read alone: they meet in the layers only
CONFIRMING = ("critic-reviews", "umsab-english", "reuters-r8", "newsgroups", "germeval", "nsmc")
ADDED = ("umsab-arabic", "evidence", PAIRED)  # after both halves had run
SHIFT = {
    "movie-reviews": ("product-reviews", "tweets"),
    "critic-reviews": ("product-reviews",),
    "product-reviews": ("movie-reviews", "tweets"),
    "tweets": ("product-reviews",),
}
FILES = {
    "umsab-english": ("umsab_english.jsonl.gz", {}),
    "germeval": ("germeval2018_de.jsonl.gz", {"language": "de"}),
    "nsmc": ("nsmc_ko.jsonl.gz", {"language": "ko"}),
    "umsab-arabic": ("umsab_arabic.jsonl.gz", {"language": "ar"}),
}
XQUAD, N_QUESTIONS = "xquad_en.jsonl.gz", 750  # N_QUESTIONS: paragraphs of the first so many are for training
PRECISION = "bf16" if has_bf16(torch.device("cpu")) else "float32"  # as the machine has it; recorded
FRACTIONS, DRAWS = (100, 300, 1000), 6
FEWEST, MANY_DRAWS = (10, 30), 20
FOLDS, MOST = 3, 4500  # MOST: texts of a task of which folds are made
FOLDED = ("movie-reviews", "product-reviews", "tweets", "critic-reviews", "umsab-english")
FOLDED_SHIFT = {"movie-reviews": "product-reviews", "product-reviews": "movie-reviews", "tweets": "product-reviews"}
ARMS = ("encoder", "interface", "real", "shuffled", "random")
THROUGH = {  # arms that are trained as a whole: their control, and how the chain is read
    "encoder": ("vanilla", None),
    "interface": ("linear", "beside"),
    "real": (None, "beside"),
    "shuffled": ("shuffled", "beside"),
    "random": ("random", "beside"),
    "real, back": (None, "back"),
}
N_THROUGH = 600


def load(name: str, data: Path | None) -> Task | None:
    """Return a task of the study; None where its file is missing."""
    if name == "word-order":
        return word_order(pp.load_task("movie-reviews"))
    if name == "evidence":
        return evidence(pp.load_task("movie-reviews"), pp.load_task("ui-strings-en-de"))
    if name in APART:
        whole = load(name.removesuffix("-apart"), data)
        return None if whole is None else replace(whole, name=name)
    if name == PAIRED:
        return None if data is None or not (data / XQUAD).is_file() else question_sentence(data / XQUAD)
    if name not in FILES:
        return pp.load_task(name)
    file, options = FILES[name]
    if data is None or not (data / file).is_file():
        return None
    return pp.load_task(data / file, text="text", label="label", split="split", drop_overlap=True, **options)


def word_order(task: Task) -> Task:
    """Return a task made of another's texts: were two neighbouring words swapped? Half of the texts, by their order."""
    made = {}
    for name, split in task.splits.items():
        draw, texts, labels, ids = random.Random(0), [], [], []
        for id_, text in zip(split.ids, split.texts, strict=True):
            words, label = text.split(), len(texts) % 2
            if not 8 <= len(words) <= 25:
                continue
            if label:
                at = draw.randrange(1, len(words) - 3)
                if words[at].lower() == words[at + 1].lower():
                    continue
                words[at], words[at + 1] = words[at + 1], words[at]
            texts.append(" ".join(words))
            labels.append(label)
            ids.append(id_)
        made[name] = Split(texts=tuple(texts), labels=tuple(labels), ids=tuple(ids))
    return replace(task, name="word-order", splits=made, label_names=("as written", "swapped"))


def evidence(task: Task, filler: Task) -> Task:
    """Return a task whose texts hold one sentence of another task, and two of a third that say nothing of the label.

    The sentence that decides has at most 20 words, the others 5 to 8, so that 64 tokens hold all three; it stands
    first, second or last, drawn anew for each text.
    """
    made = {}
    for name, split in task.splits.items():
        draw, texts, labels, ids = random.Random(0), [], [], []
        others = [text for text in filler.splits[name].texts if 5 <= len(text.split()) <= 8]
        for id_, text, label in zip(split.ids, split.texts, split.labels, strict=True):
            if len(text.split()) > 20:
                continue
            parts = draw.sample(others, 2)
            parts.insert(draw.randrange(3), text)
            texts.append(" ".join(parts))
            labels.append(label)
            ids.append(id_)
        made[name] = Split(texts=tuple(texts), labels=tuple(labels), ids=tuple(ids))
    return replace(task, name="evidence", splits=made)


def question_sentence(file: Path, fold: int | None = None) -> Task:
    """Return a task of pairs: does this sentence hold the answer to the question? As QNLI is made from SQuAD.

    Each question stands twice, with the sentence that holds its answer and with another one of the same paragraph that
    does not. A paragraph is in one split only. With a fold the test split is that part of all paragraphs.
    """
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    seen = {row["context"] for row in rows[:N_QUESTIONS]}
    if fold is not None:
        whole = list(dict.fromkeys(row["context"] for row in rows))
        order = np.random.default_rng(0).permutation(len(whole))
        seen = {whole[at] for part in range(FOLDS) if part != fold for at in order[part::FOLDS]}
    made: dict[str, dict[str, list[Any]]] = {part: {"texts": [], "pairs": [], "ids": []} for part in ("train", "test")}
    draw = random.Random(0)
    for row in rows:
        start, right, others = row["answer_start"], "", []
        for found in re.finditer(r"\S.*?(?:[.!?](?=\s+[A-Z\"'(\[])|$)", row["context"], re.DOTALL):
            if found.start() <= start < found.end():
                right = found.group()
            elif row["answer"].lower() not in found.group().lower():
                others.append(found.group())
        if right and others:
            own = made["train" if row["context"] in seen else "test"]
            own["texts"] += 2 * [row["question"]]
            own["pairs"] += [draw.choice(others), right]
            own["ids"] += [f"{row['id']}/{label}" for label in (0, 1)]
    return Task(
        name=PAIRED,
        kind=pp.load_task("translation-match").kind,
        label_names=("another sentence", "the answer's"),
        language="en",
        splits={
            part: Split(**{key: tuple(column) for key, column in own.items()}, labels=(0, 1) * (len(own["ids"]) // 2))
            for part, own in made.items()
        },
        source="XQuAD, English",
    )


def probe(name: str, task: Task, data: Path | None, *, small: bool = False, few: bool = False) -> dict[str, Any]:
    """Return the table of one task as JSON; with few labels, on its own test texts alone."""
    others = [other for other in (load(one, data) for one in SHIFT.get(name, ())) if other is not None]
    n = 600 if small else 1500
    table = pp.probe_chain(
        SLM,
        LLM,
        task,
        SPAN,
        references=() if small or few else ("donor",),
        interaction="layer" if name in APART else "encoder",
        fractions=FEWEST if few else (100,) if small else FRACTIONS,
        n_draws=MANY_DRAWS if few else 3 if small else DRAWS,
        also=[] if small or few else others,
        n_train=n,
        n_test=n,
        n_align=600 if small else 1000,
        max_tokens=64,
        precision="float32" if small else PRECISION,
        progress=False,
    )
    print(table.answer, flush=True)
    return dict(json.loads(table.to_json()))


def fold_of(task: Task, fold: int) -> Task:
    """Return a task whose test split is one of `FOLDS` parts of all its texts, each once; the others are for training.

    At most `MOST` texts are used, drawn once for all folds. A text that stands twice in the task is used once.

    Raises
    ------
    ValueError
        For pairs of texts: two of them may share a text, and would have to stay in one fold.
    """
    if any(split.pairs is not None for split in task.splits.values()):
        raise ValueError(
            f"{task.name}: folds are made of single texts; {PAIRED} has folds of its own, with --folds alone"
        )
    whole = {name: task.splits[name] for name in ("train", "validation", "test") if name in task.splits}
    rows = [(name, row) for name, split in whole.items() for row in range(len(split))]
    once = list({" ".join(whole[name].texts[row].split()).lower(): (name, row) for name, row in rows}.values())
    drawn = [once[i] for i in np.random.default_rng(0).permutation(len(once))[:MOST]]
    labels = [whole[name].labels[row] for name, row in drawn]
    parts = list(StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(np.zeros(len(drawn)), labels))[fold]

    def split_of(chosen: Any) -> Split:
        own = [drawn[i] for i in sorted(chosen.tolist())]
        return Split(
            texts=tuple(whole[name].texts[row] for name, row in own),
            labels=tuple(whole[name].labels[row] for name, row in own),
            ids=tuple(f"{name}/{whole[name].ids[row]}" for name, row in own),
        )

    return replace(task, splits={"train": split_of(parts[0]), "test": split_of(parts[1])})


def folded(name: str, task: Task, fold: int, data: Path | None, *, few: bool = False) -> dict[str, Any]:
    """Return the correct answers of every arm with the encoder, on a fold and on texts of another task.

    With few labels: one string of answers a draw of labelled texts, on the fold alone.
    """
    other = load(FOLDED_SHIFT[name], data) if name in FOLDED_SHIFT and not few else None
    paired = name == PAIRED and data is not None
    own = question_sentence(data / XQUAD, fold) if paired else fold_of(task, fold)
    table = pp.probe_chain(
        SLM,
        LLM,
        own,
        SPAN,
        also=[] if other is None else [fold_of(other, fold)],
        fractions=(FRACTIONS[0],) if few else (),
        n_draws=DRAWS,
        n_train=1500,
        n_test=MOST // FOLDS,
        n_align=1000,
        max_tokens=64,
        precision=PRECISION,
        progress=False,
    )
    print(name, fold, table.answer, flush=True)
    correct: dict[str, dict[str, Any]] = {}
    for test, labels in table.labels.items():
        for arm in ARMS:
            reading = "alone" if arm == "encoder" else "with encoder"
            said = table.predicted[f"{arm} | {reading} | {FRACTIONS[0] if few else table.info['n_train']} | {test}"]
            right = ["".join("01"[int(one)] for one in each[0] == labels) for each in said]
            correct.setdefault(test, {})[arm] = right if few else right[0]
    return {"info": table.info, "correct": correct, "texts": texts_of(own, other and fold_of(other, fold))}


def texts_of(task: Task, other: Task | None) -> dict[str, str]:
    """Return short names of the texts of every test, in the order of their scores: folds share texts of the other."""
    _, scored = _rows(task, [] if other is None else [other], "test", 1500, MOST // FOLDS, 0)
    return {
        test: " ".join(hashlib.sha256(key.encode()).hexdigest()[:10] for key in split.keys)
        for test, split in scored.items()
    }


def trained(name: str, task: Task, seed: int) -> dict[str, Any]:
    """Fine-tune the encoder, then read the chain next to it: accuracies, and correct answers of every example.

    The encoder is fine-tuned, and the chain's readout fitted, on three quarters of the training texts; the other
    quarter, which neither saw, gives the stacking weights. The chain is fed by the encoder as it was before.
    """
    few = task.subset(train=1500, validation=250, test=min(1500, len(task.splits["test"])), seed=0)
    whole = few.splits["train"]
    order = np.random.default_rng(seed).permutation(len(whole))
    fit, held = (whole.take(sorted(rows.tolist())) for rows in (order[375:], order[:375]))
    on = replace(few, splits=few.splits | {"train": fit})
    model = pp.plug_in(SLM, f"{LLM}[{CHAIN[0]}]", task=on, control="vanilla", wiring="matched", seed=seed)
    pp.fine_tune(model, on, pp.Recipe(seed=seed, epochs=3, precision=PRECISION))
    logits = {part: _log_p(model, rows) for part, rows in (("held", held), ("test", few.splits["test"]))}
    y = {part: np.asarray(rows.labels) for part, rows in (("fit", fit), ("held", held), ("test", few.splits["test"]))}
    encoder = Encoder(SLM, 64, "cpu", True, PRECISION)
    texts = {part: Texts(encoder, rows) for part, rows in (("fit", fit), ("held", held), ("test", few.splits["test"]))}
    saw = {"task": name, "split": "train", "texts of tests": "none"}
    interface = cached_interfaces(texts["fit"], LLM, [CHAIN[0]], saw=saw, seed=0)[CHAIN[0]]
    checkpoint = open_checkpoint(LLM)
    real = [extract_from(checkpoint, i, model=LLM, dtype="float32") for i in range(CHAIN[0], CHAIN[1] + 1)]
    chains = {"interface": [], "real": real} | {
        v: [twin_of(one, v, seed) for one in real] for v in ("shuffled", "random")
    }
    right = {"encoder": logits["test"].argmax(1) == y["test"]}
    for arm, layers in chains.items():
        found = {part: each.chain(interface, layers, False) for part, each in texts.items()}
        block = fit_block(found["fit"], y["fit"], task.n_labels, seed=seed)
        stack = fit_stack([Held(logits["held"]), Held(block(found["held"]))], y["held"], task.n_labels)
        right[arm] = stack([logits["test"], block(found["test"])]).argmax(1) == y["test"]
        print(name, seed, arm, f"{right[arm].mean():.3f}", flush=True)
    correct = {arm: "".join("01"[int(one)] for one in found) for arm, found in right.items()}
    return {"correct": correct, "precision": PRECISION}


def through(name: str, task: Task, seed: int, arm: str) -> dict[str, Any]:
    """Train encoder, head and readout together through the chain; correct answers of every example of the fold."""
    control, read = THROUGH[arm]
    on = validated(task).subset(train=N_THROUGH, seed=seed)
    modes = {"read": read} if read else {}
    model = pp.plug_in(SLM, f"{LLM}[{SPAN}]", task=on, control=control, wiring="aligned", seed=seed, **modes)
    result = pp.fine_tune(model, on, pp.Recipe(seed=seed, epochs=3, max_tokens=64))
    test = result.tests[on.name]
    print(name, seed, arm, f"{test.metrics['accuracy']:.3f}", flush=True)
    scales = {key: result.epochs[-1].get(key) for key in ("branch_ratio", "output_ratio")}
    return {
        "correct": {arm: test.correct},
        "precision": result.recipe.precision,
        "recipe": result.recipe.to_dict(),
        "best_epoch": result.best_epoch,
        "scales": scales,
        "seconds": result.seconds,
    }


def through_name(name: str, fold: int, arm: str) -> str:
    """Return the name of the record of one arm."""
    return f"through-fold{fold}-{name}-{arm.replace(', ', '-')}"


def validated(task: Task) -> Task:
    """Return a fold with a validation split, of 250 of its training texts."""
    few = task.subset(train=1750, seed=0)
    order = np.random.default_rng(0).permutation(1750)
    train, validation = (few.splits["train"].take(sorted(rows.tolist())) for rows in (order[250:], order[:250]))
    return replace(few, splits=few.splits | {"train": train, "validation": validation})


class Held:
    """Log-probabilities of texts that a readout did not see, in the place of its out-of-fold ones."""

    def __init__(self, log_p: Any) -> None:
        self.out_of_fold = log_p


def _log_p(model: Any, rows: Split) -> Any:
    from pifi_probe.plugin.tokenizer import tokenizer_for

    tokenizer, found = tokenizer_for(model), []
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), 64):
            batch = tokenizer(
                list(rows.texts[start : start + 64]), padding=True, truncation=True, max_length=64, return_tensors="pt"
            )
            found.append(model(**batch).logits.float().log_softmax(-1))
    return torch.cat(found).numpy().astype(np.float64)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("tasks", nargs="*", help="names; all when none is given")
    options.add_argument("--data", type=Path, help="folder of the tasks that are no part of the package")
    options.add_argument("--small", action="store_true", help="fewer texts; into --out")
    options.add_argument("--trained", action="store_true", help="with a fine-tuned encoder, two seeds")
    options.add_argument(
        "--few", action="store_true", help="10 and 30 labels, 20 draws; with --folds: 100 labels, six draws"
    )
    options.add_argument("--through", action="store_true", help="every arm trained as a whole, in folds of 600 texts")
    options.add_argument("--folds", action="store_true", help="every text of a task is a test text once")
    options.add_argument("--out", type=Path, default=STUDY, help="folder of the results")
    given, start, fresh = options.parse_args(), time.perf_counter(), True
    in_folds = FOLDED if given.few or given.trained or given.through else (*FOLDED, PAIRED)
    for name in given.tasks or (in_folds if given.folds else (*EXPLORING, *CONFIRMING, *ADDED, *APART)):
        task = load(name, given.data)
        if task is None:
            print(f"{name}: no file; name its folder with --data")
            continue
        made: list[tuple[str, Callable[[], dict[str, Any]]]] = [
            (
                f"{'few-' * given.few}{name}",
                lambda name=name, task=task: probe(name, task, given.data, small=given.small, few=given.few),
            )
        ]
        if given.trained:
            made = [
                (f"trained-{name}-seed{s}", lambda name=name, task=task, s=s: trained(name, task, s)) for s in (0, 1)
            ]
        if given.trained and given.folds:
            made = [
                (
                    f"trained-fold{k}-{name}",
                    lambda name=name, task=task, k=k: trained(name, validated(fold_of(task, k)), k),
                )
                for k in range(FOLDS)
            ]
        elif given.through:
            made = [
                (
                    through_name(name, k, arm),
                    lambda name=name, task=task, k=k, arm=arm: through(name, fold_of(task, k), k, arm),
                )
                for k in range(FOLDS)
                for arm in THROUGH
            ]
        elif given.folds:
            made = [
                (
                    f"{'few-' * given.few}fold{k}-{name}",
                    lambda name=name, task=task, k=k: folded(name, task, k, given.data, few=given.few),
                )
                for k in range(FOLDS)
            ]
        for key, make in made:
            file = given.out / f"{key}.json"
            with claimed(file) as free:
                fresh &= free
                if free:
                    found = make()
                    found.setdefault("provenance", collect(task=task.fingerprint))
                    write_json(file, found)
    if given.small and fresh:  # else what is there already was made in another time
        spent = {"tasks": given.tasks, "seconds": time.perf_counter() - start, "provenance": collect()}
        write_json(given.out / "small.json", spent)


if __name__ == "__main__":
    main()
