"""The truth table of chains: every entry of the donor, one, two, four and eight layers long, behind a frozen encoder.

One JSON a task in ``book/_studies/chains/``, written after each entry, so that the script can be stopped and started
again at any moment. Then the cheap scores that can be had before are judged by it: those of `pp.headroom`, and every
registered estimator that reads labels, `span` among them, of the donor's own states before and after the chain.

    python benchmarks/chains.py                   # both tasks, then the judgement: an hour on two cores
    python benchmarks/chains.py movie-reviews     # one task
    python benchmarks/chains.py --judge           # only the judgement of what is recorded
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import parser, record, target
from numpy.typing import NDArray

import pifi_probe as pp
from pifi_probe.alignment.chain import read_out
from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.readout import Block, fit_block, fit_stack
from pifi_probe.devices import autocast, has_bf16
from pifi_probe.features.chain_parts import Encoder, Texts, cached_interfaces
from pifi_probe.features.donor import llm_features
from pifi_probe.features.headroom_table import Headroom
from pifi_probe.files import write_json
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.provenance import collect
from pifi_probe.ranking import rank_agreement
from pifi_probe.scoring import estimators
from pifi_probe.scoring.estimators.span import promised
from pifi_probe.scoring.projections import left_out_r2
from pifi_probe.scoring.spectrum import Spectrum
from pifi_probe.stats import paired_difference
from pifi_probe.tasks.tokens import buckets

STUDY = Path(__file__).parent.parent / "book" / "_studies" / "chains"
SLM, LLM = "minilm-l6", "smollm2-135m"
TASKS = ("movie-reviews", "tweets")
LENGTHS = (1, 2, 4, 8)
PRECISION = "bf16" if has_bf16(torch.device("cpu")) else "float32"  # as the machine has it; recorded
SIZES = {"n_train": 800, "n_test": 800, "n_align": 600, "max_tokens": 64, "precision": PRECISION}
QUICK = SIZES | {"n_train": 60, "n_test": 60, "n_align": 60}
ADDED = "usable_information"
SCORES = ("rise", "r2", "layers", "score")  # the last one is the span score: rise times R2
FIXED = {"last layer": (29, 29), "last eight layers": (22, 29), "middle layer": (14, 14), "middle eight": (11, 18)}
Floats = NDArray[np.float32]


def measure(name: str, sizes: Mapping[str, Any], seed: int, file: Path, entries: Sequence[int] | None = None) -> None:
    """Fill the record of one task: what each chain is worth with the encoder, on the test split."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {"cells": {}, "interface": {}}
    task = pp.load_task(name)
    few = task.subset(train=sizes["n_train"], test=min(sizes["n_test"], len(task.splits["test"])), seed=seed)
    encoder = Encoder(SLM, sizes["max_tokens"], "cpu", True, sizes["precision"])
    train, test = (Texts(encoder, few.splits[part]) for part in ("train", "test"))
    y, truth = (np.asarray(each.rows.labels, dtype=np.int64) for each in (train, test))
    base = fit_block(train.pooled(), y, task.n_labels, seed=seed)
    own = base(test.pooled())
    if "headroom" not in found:
        headroom = pp.headroom(
            SLM, LLM, few, n=sizes["n_train"], max_tokens=sizes["max_tokens"], seed=seed, progress=False
        )
        found |= {"headroom": json.loads(headroom.to_json()), "encoder": scored(own, truth)}
    checkpoint = open_checkpoint(LLM)
    n_layers = int(checkpoint.config.num_hidden_layers)
    on = train.among(few.subset(train=min(sizes["n_align"], len(train.rows)), seed=seed).splits["train"])
    saw = {"task": name, "split": "train", "texts of tests": "none"}
    chosen = spread(n_layers) if entries is None else entries
    interfaces = cached_interfaces(on, LLM, sorted(chosen), saw=saw, seed=seed)
    layers: dict[int, FrozenLayer] = {}

    def both(features: Sequence[Floats]) -> dict[str, Any]:
        block = fit_block(features[0], y, task.n_labels, seed=seed)
        return scored(joint(base, block, y, task.n_labels, own, block(features[1])), truth)

    for entry in chosen:
        if str(entry) in found["interface"]:
            continue
        lengths = [n for n in LENGTHS if entry + n <= n_layers]
        for index in range(entry, entry + lengths[-1]):
            if index not in layers:
                layers[index] = extract_from(checkpoint, index, model=LLM, dtype="float32")
        chain = [layers[index] for index in range(entry, entry + lengths[-1])]
        read = [features_of(each, interfaces[entry], chain, lengths, sizes["precision"]) for each in (train, test)]
        for n in lengths:
            found["cells"][f"{entry}-{entry + n - 1}"] = both([each[n] for each in read])
        found["interface"][str(entry)] = both([each[0] for each in read])
        write_json(file, found | {"sizes": dict(sizes), "seed": seed, "provenance": collect(task=task.fingerprint)})
        print(name, entry, {n: round(found["cells"][f"{entry}-{entry + n - 1}"]["accuracy"], 3) for n in lengths})


def estimate(name: str, sizes: Mapping[str, Any], seed: int, file: Path, depths: Sequence[int] | None = None) -> None:
    """Add to a task's record what each estimator says of the donor's own states at every depth, on the labelled texts.

    Larger is better in all of them. ``usable_information`` is what the states add to the encoder's vectors, and ``r2``
    how well these predict the states: `span` is made of the two.
    """
    found = json.loads(file.read_text(encoding="utf-8"))
    if "estimators" in found:
        return
    task = pp.load_task(name).subset(train=sizes["n_train"], seed=seed)
    rows = task.splits["train"]
    h = Texts(Encoder(SLM, sizes["max_tokens"], "cpu", True), rows).pooled()
    states = llm_features(
        LLM, rows, kind=task.kind, pooling="mean+last", max_tokens=2 * sizes["max_tokens"], progress=False
    )
    values: dict[str, list[float]] = {}
    for depth in range(states.n_points) if depths is None else depths:
        at = np.asarray(states[depth])
        spectrum = Spectrum.of(at)
        for one in map(estimators.get, estimators.names()):
            if one.family == "supervised" and (one.in_default or depths is None):
                sign = 1 if one.larger_is_better else -1
                values.setdefault(one.name, []).append(sign * one(at, rows.labels, spectrum=spectrum))
        values.setdefault(ADDED, []).append(estimators.usable_information(at, rows.labels, other=h))
        values.setdefault("r2", []).append(left_out_r2(h, at))
        print(name, "depth", depth, {key: round(own[-1], 3) for key, own in values.items()}, flush=True)
    found["estimators"] = {"values": values, "provenance": collect(task=task.fingerprint)}
    write_json(file, found)


def guesses(values: Mapping[str, Sequence[float]], first: int, last: int) -> dict[str, float]:
    """Return what each estimator promises of a chain: how much better the states are at its exit than at its entry."""
    made = {name: own[last + 1] - own[first] for name, own in values.items() if name != "r2"}
    return {"span": promised(made[ADDED], values["r2"][first]), **made}


def spread(n: int) -> list[int]:
    """Return the layers in an order in which each beginning spreads over the depth."""
    return [*range(0, n, 8), *range(4, n, 8), *range(2, n, 4), *range(1, n, 2)]


def joint(base: Block, block: Block, y: NDArray[np.int64], n_labels: int, own: Any, said: Any) -> Any:
    """Return log-probabilities of encoder and chain together."""
    return fit_stack([base, block], y, n_labels)([own, said])


def scored(log_p: Any, truth: NDArray[np.int64]) -> dict[str, Any]:
    """Return accuracy, NLL, and which examples are right."""
    right = log_p.argmax(1) == truth
    return {
        "accuracy": float(right.mean()),
        "nll": float(-log_p[np.arange(len(truth)), truth].mean()),
        "correct": "".join("01"[int(one)] for one in right),
    }


@torch.no_grad()
def features_of(
    texts: Texts, interface: Interface, chain: Sequence[FrozenLayer], lengths: Sequence[int], precision: str
) -> dict[int, Floats]:
    """Return the readout behind 0 layers and behind each of some numbers of layers, in one pass through all."""
    states = texts.states
    found: dict[int, Floats] = {}
    for rows in buckets([int(n) + 1 for n in states.lengths], 2048):
        tokens, mask = states.padded(rows)
        entered = interface(tokens)
        mask = torch.cat([mask.new_ones(len(rows), 1), mask], dim=1).long()
        left = entered
        for passed in range(len(chain) + 1):
            if passed:
                with autocast(precision, torch.device("cpu")):
                    left = chain[passed - 1](left, mask)
            if passed in (0, *lengths):
                made = read_out(entered, left.float(), mask, change=passed > 0).numpy()
                found.setdefault(passed, np.empty((len(states), made.shape[1]), dtype=np.float32))[rows] = made
    return found


def judge(files: Mapping[str, Path]) -> dict[str, Any]:
    """Return what the cheap scores are worth: rank agreement over all chains, and what their choice loses."""
    rows: list[dict[str, Any]] = []
    targets = []
    for name, file in files.items():
        recorded = json.loads(file.read_text(encoding="utf-8"))
        cells = recorded["cells"]
        spans = Headroom.from_json(json.dumps(recorded["headroom"])).spans(max(LENGTHS))
        spans["key"] = [f"{first}-{last}" for first, last in zip(spans["first"], spans["last"], strict=True)]
        known = spans[spans["key"].isin(list(cells))].reset_index(drop=True)
        values = recorded.get("estimators", {}).get("values", {})
        gain = {key: 1000 * (recorded["encoder"]["nll"] - cell["nll"]) for key, cell in cells.items()}  # mnat
        truth = [gain[key] for key in known["key"]]
        best = max(gain, key=lambda key: gain[key])
        for score in SCORES:
            agreement = rank_agreement(known[score], truth)
            picked = str(known["key"][int(known[score].argmax())])
            rows.append(row(name, f"best {score}", picked, best, recorded, gain) | {"Spearman": agreement["spearman"]})
            if score == "score":
                what = f"{name}: rank agreement (Spearman) of the span score with the gain of {len(truth)} chains"
                targets.append(target(what, agreement["spearman"], unit=""))
        if values and len(values["r2"]) > known["last"].max() + 1:
            ends = zip(known["first"], known["last"], strict=True)
            said = [guesses(values, int(first), int(last)) for first, last in ends]
            for one in said[0]:
                own = [each[one] for each in said]
                agreement = rank_agreement(own, truth)
                picked = str(known["key"][int(np.argmax(own))])
                made = row(name, f"estimator {one}", picked, best, recorded, gain)
                rows.append(made | {"Spearman": agreement["spearman"]})
                if one == "span":
                    what = f"{name}: rank agreement (Spearman) of the estimator span with the gain of the same chains"
                    targets.append(target(what, agreement["spearman"], unit=""))
        chosen = Headroom.from_json(json.dumps(recorded["headroom"])).span
        nearest = min(known.itertuples(), key=lambda one: abs(one.first - chosen[0]) + abs(one.last - chosen[1]))
        rows.append(row(name, f"Headroom.span ({chosen[0]}-{chosen[1]})", str(nearest.key), best, recorded, gain))
        for rule, (first, last) in FIXED.items():
            key = min(gain, key=lambda one, f=first, n=last: distance(one, f, n))
            rows.append(row(name, rule, key, best, recorded, gain))
        rows.append(row(name, "the best of all", best, best, recorded, gain))
    return {"targets": targets, "rows": rows}


def distance(key: str, first: int, last: int) -> int:
    """Return how far a chain is from another, in layers at both ends."""
    own = key.split("-")
    return abs(int(own[0]) - first) + abs(int(own[1]) - last)


def row(
    name: str, rule: str, key: str, best: str, recorded: Mapping[str, Any], gain: Mapping[str, float]
) -> dict[str, Any]:
    """Return what one choice is worth."""
    right, own = ([[float(one) for one in each["correct"]]] for each in (recorded["cells"][key], recorded["encoder"]))
    found = paired_difference(right, own)
    return {
        "task": name,
        "chosen by": rule,
        "layers": key,
        "gain, mnat": gain[key],
        "gain, points": f"{100 * found.mean:+.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]",
        "behind the best, mnat": gain[best] - gain[key],
        "Spearman": None,
    }


def wanted(names: Sequence[str], folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the tasks and their files."""
    for name in names:
        yield name, folder / f"{name}.json"


def main() -> None:
    """Go on with the tables, then judge them."""
    options = parser(__doc__)
    options.add_argument("tasks", nargs="*", help="names; both when none is given")
    options.add_argument("--judge", action="store_true", help="only judge what is recorded")
    options.add_argument("--folder", type=Path, default=STUDY, help="of the tables")
    chosen = options.parse_args()
    sizes = QUICK if chosen.quick else SIZES
    folder = chosen.folder / "quick" if chosen.quick else chosen.folder
    files = dict(wanted(chosen.tasks or TASKS, folder))
    for name, file in files.items():
        if not chosen.judge:
            measure(name, sizes, chosen.seed, file, [0, 29] if chosen.quick else None)
            estimate(name, sizes, chosen.seed, file, [0, 1] if chosen.quick else None)
    settings = {"slm": SLM, "llm": LLM, "lengths": list(LENGTHS), **sizes}
    there = {name: file for name, file in wanted(TASKS, folder) if file.is_file()}
    record("chains", chosen, settings, {}, judge(there))


def tables(measurements: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the judgement of the tables that are recorded."""
    return judge({name: file for name, file in wanted(TASKS, STUDY) if file.is_file()})


if __name__ == "__main__":
    main()
