"""`probe_chain`: what a chain of a language model's layers adds to a frozen encoder, next to each of its twins."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.readout import fit_block, fit_stack, refuse_few
from pifi_probe.checked import whole_number, whole_numbers
from pifi_probe.devices import device_of
from pifi_probe.errors import LayerIndexError, PlugInError, TaskError
from pifi_probe.features.chain_parts import Encoder, Texts, cached_interfaces
from pifi_probe.features.headroom import headroom
from pifi_probe.layers.detect import refuse_missing_states
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.open import open_named
from pifi_probe.layers.spec import LayerSpec, layer_numbers, parse
from pifi_probe.layers.tokenizer import GivenTokenizer
from pifi_probe.layers.variants import twin_of
from pifi_probe.permissions import pickle_on_request
from pifi_probe.probing.chain_references import TRAINED, Trained, donor_states, encoder_twice, train_in_place
from pifi_probe.probing.chain_table import LATE, ChainTable, Reading, build_chain_table
from pifi_probe.provenance import collect
from pifi_probe.tasks.shift import shift_view
from pifi_probe.tasks.splitting import label_counts
from pifi_probe.tasks.task import Split, Task
from pifi_probe.vocabulary import MAX_TOKENS, TWINS

__all__ = ["ARMS", "probe_chain", "span_of"]

ARMS = ("encoder", "interface", "real", "shuffled", "random")
REMOVED = ("one token", "unaligned")  # the real layers without one of the conditions that they need
REFERENCES = ("donor", *TRAINED, "encoder twice")
INTERACTIONS = ("encoder", "layer")
Floats = NDArray[np.float32]


@pickle_on_request
def probe_chain(
    slm: str | PreTrainedModel,
    llm: str,
    task: Task,
    layers: str | int | Sequence[int] | None = None,
    *,
    arms: Sequence[str] = ARMS,
    twins: int = 1,
    own_interfaces: bool = False,
    references: Sequence[str] = (),
    interaction: str = "encoder",
    fractions: Sequence[float] = (),
    n_draws: int = 3,
    also: Sequence[Task] = (),
    split: str = "test",
    n_train: int = 4000,
    n_test: int = 3000,
    n_align: int = 2000,
    max_tokens: int = MAX_TOKENS,
    device: str = "auto",
    precision: str = "float32",
    tokenizer: GivenTokenizer | None = None,
    cache: bool = True,
    seed: int = 0,
    progress: bool = True,
    allow_pickle: bool = False,
) -> ChainTable:
    """Evaluate a chain of frozen layers behind a frozen encoder: linear interface in front, linear readout behind.

    Nothing is trained by gradient: (1) the encoder's states of every token, after its last layer and before its
    first, go through one ridge regression, fitted on unlabelled training texts, to the donor's states at the
    chain's entry (`pifi_probe.alignment`); (2) they pass through the layers in series, causally, behind the donor's
    mean first state; (3) the tokens that leave, and what the chain has changed in them, are pooled; (4) a logistic
    regression reads them, joined with that of the encoder's own features by stacking out-of-fold scores.

    Parameters
    ----------
    slm : str or PreTrainedModel
        The encoder, as in `pifi_probe.plug_in`; left as it is.
    llm : str
        The donor: hub id, folder, file or embedded name. Its layers below the chain are needed once, for the
        alignment, one in memory at a time.
    task : Task
        One class a row, of one text or of two; see `interaction`.
    layers : str, int or sequence of int, optional
        The chain, first and last layer included: ``"8-14"``, one layer, or all its layers, ``range(8, 15)``. None: the
        chain that `pifi_probe.headroom` suggests, which reads labels of training texts to choose it.
    arms : sequence of str
        "encoder": its own features alone (mean and first token of all its layers). "interface": the interface
        without a layer. "real": the donor's layers. "shuffled", "random": the same layers with their entries
        permuted, or drawn afresh with the same mean and spread. Further arms take one condition away from the real
        layers: "one token", each token a sequence of its own; "unaligned", behind an interface of random weights of
        the fitted one's size.
    twins : int
        Draws of each twin; their scores are averaged, example by example.
    own_interfaces : bool
        Also evaluate every twin with an interface aligned to its own input: to the states at the entry of the donor
        whose lower layers are such twins, too. Arms "shuffled, own interface" and so on.
    references : sequence of str
        "donor": the donor's own states at the chain's exit (mean and last token), which need all layers below, its
        embedding table and its tokenizer. "mlp", "trained layers": as many weights as the chain has in its place,
        behind the same interface, trained on the labelled texts; only with all labels. "encoder twice": the encoder's
        last states through the whole encoder once more.
    interaction : {"encoder", "layer"}
        Where the two texts of a pair meet. "encoder": it reads them together. "layer": it reads each alone, so that
        they meet in the layers only; the encoder's features are then ``u, v, |u - v|, u v`` of their vectors. An arm
        "late interaction" is added, the best match of every token in the other text, which has no parameters, and
        each arm is read next to it, too ("real and late interaction"): what a layer does for pairs is mostly matching.
    fractions : sequence of int or float
        Also with fewer labels: numbers of labelled texts, or shares below 1. The interface still sees all training
        texts that it is aligned on, without their labels.
    n_draws : int
        Draws of labelled texts for each of them.
    also : sequence of Task
        Domain shift: other tasks with the same label names; all their rows but those that are training texts.
    split : {"test", "validation"}
        Of `task`, the one that is scored. While you choose layers, take "validation".
    n_train, n_test, n_align : int
        At most so many rows, drawn by class: labelled, scored (of each test), and seen by the alignment, which are
        among the labelled ones.
    max_tokens : int
        Tokens of the encoder after which a text is cut.
    device : str
        "auto", "cpu", "cuda", ...
    precision : {"float32", "bf16"}
        "bf16": the chain and the donor's own probe under automatic mixed precision, which is about three times as
        fast where the processor has instructions for it; the alignment stays in float32.
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        Another one than the encoder's own: a hub id, a folder, or the tokenizer.
    cache : bool
        Keep the encoder's features, the interfaces and each arm's readout on disk, by content: another fraction or
        arm then takes seconds.
    seed : int
        Of all draws: rows, folds, twins.
    progress : bool
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.

    Returns
    -------
    ChainTable
        ``.scores`` (accuracy, Matthews, macro F1 of each arm alone and with the encoder), ``.differences`` (paired,
        with intervals), the predictions of every example, and ``.answer``, one sentence.

    Raises
    ------
    TaskError
        If the task has no class a row or lacks a split, or a fraction has too few labels.
    PlugInError
        If the layers are not the donor's, an arm is unknown, a number is not whole or below 1 (the seed: below 0),
        or `own_interfaces` is asked for without a twin.
    FeatureError
        If the tokenizers cannot be aligned or a state is not finite.

    Examples
    --------
    >>> table = probe_chain("minilm-l6", "smollm2-135m", load_task("movie-reviews"), "8-14")  # doctest: +SKIP
    >>> print(table.answer)  # doctest: +SKIP
    """
    start = time.perf_counter()
    _check(arms, references, split)
    twins, n_draws, max_tokens = whole_numbers(
        PlugInError, "probe_chain", twins=twins, n_draws=n_draws, max_tokens=max_tokens
    )
    n_train, n_test, n_align = whole_numbers(
        PlugInError, "probe_chain", n_train=n_train, n_test=n_test, n_align=n_align
    )
    seed = whole_number("seed", seed, 0, PlugInError, "probe_chain")
    _check_own(own_interfaces, arms)
    _check_interaction(interaction, task, references)
    device = device_of(device, precision).type
    checkpoint = open_named(llm)
    train, scored = _rows(task, also, split, n_train, n_test, seed)
    label_counts(fractions, len(train), 2 * task.n_labels, task.name)
    refuse_few(np.asarray(train.labels), task.name)
    if layers is None:
        how: dict[str, Any] = {"device": device, "tokenizer": tokenizer, "cache": cache, "progress": progress}
        layers = "{}-{}".format(*headroom(slm, llm, task, max_tokens=max_tokens, seed=seed, **how).suggested())
    first, last = span_of(layers, int(checkpoint.config.num_hidden_layers), llm)
    refuse_missing_states(checkpoint.config, last + 1, llm)
    encoder = Encoder(slm, max_tokens, device, cache, precision, tokenizer, texts_apart=interaction == "layer")
    texts = {name: Texts(encoder, rows) for name, rows in {"": train, **scored}.items()}
    on = texts[""].among(_aligned_on(task, train, n_align, seed))
    saw = {"task": task.name, "split": "train", "texts of tests": "none"}

    def interface_of(variant: str = "real", variant_seed: int = 0) -> Interface:
        options: dict[str, Any] = {"variant": variant, "variant_seed": variant_seed, "progress": progress}
        return cached_interfaces(on, llm, [first], saw=saw, seed=seed, **options)[first]

    interface = interface_of()
    real = [extract_from(checkpoint, i, model=llm, dtype="float32", device=device) for i in range(first, last + 1)]
    blocks: dict[str, list[dict[str, Floats]]] = {}
    seconds: dict[str, float] = {"alignment": round(time.perf_counter() - start, 1)}
    for arm, own, variant in _plan(arms, own_interfaces):
        began = time.perf_counter()
        if arm == "encoder":
            blocks[arm] = [{name: each.pooled() for name, each in texts.items()}]
        for twin in range(twins if variant in TWINS else 1):
            if arm == "encoder":
                continue
            twin_seed = seed + twin
            chain = [twin_of(layer, variant, twin_seed) for layer in real] if variant in TWINS else real
            entry = interface_of(variant, twin_seed) if own else interface
            entry = entry.redrawn(seed) if arm == "unaligned" else entry
            chain = [] if arm == "interface" else chain
            alone = arm == "one token"
            found = {name: each.chain(entry, chain, progress, one_token=alone) for name, each in texts.items()}
            blocks.setdefault(arm, []).append(found)
        seconds[arm] = round(time.perf_counter() - began, 1)
    if interaction == "layer":
        blocks[LATE] = [{name: each.late() for name, each in texts.items()}]
    if "donor" in references:
        began = time.perf_counter()
        blocks["donor"] = [
            donor_states(llm, texts, task.kind, last + 1, max_tokens, device, cache, progress, precision)
        ]
        seconds["donor"] = round(time.perf_counter() - began, 1)
    if "encoder twice" in references:
        blocks["encoder twice"] = [{name: encoder_twice(each) for name, each in texts.items()}]
    labels = {name: np.asarray(each.rows.labels, dtype=np.int64) for name, each in texts.items()}
    trained: dict[str, Trained] = {}
    for kind in [one for one in TRAINED if one in references]:
        began = time.perf_counter()
        trained[kind] = train_in_place(kind, interface, real, texts, labels[""], task.n_labels, seed=seed)
        seconds[kind] = round(time.perf_counter() - began, 1)
    began = time.perf_counter()
    readings = _read(blocks, labels, train, task, fractions, n_draws, seed, trained)
    seconds["readout"] = round(time.perf_counter() - began, 1)
    info = {
        "slm": encoder.name,
        "llm": llm,
        "layers": [first, last],
        "task": task.name,
        "label_names": list(task.label_names),
        "scored": split,
        "tests": {name: len(rows) for name, rows in scored.items()},
        "n_train": len(train),
        "interface": interface.facts() | {"digest": interface.digest()},
        "interaction": interaction,
        "twins": twins,
        "n_draws": n_draws,
        "max_tokens": max_tokens,
        "precision": precision,
        "seed": seed,
        "layer_sha256": [layer.card.sha256 for layer in real],
    }
    made = collect(task=task.fingerprint, seconds=seconds | {"all": round(time.perf_counter() - start, 1)})
    return build_chain_table(readings, {name: labels[name] for name in scored}, info, made)


def span_of(layers: str | int | Sequence[int], n_layers: int, llm: str) -> tuple[int, int]:
    """Return first and last layer of a chain, both included.

    Raises
    ------
    PlugInError
        If this does not name a chain of the model.
    """
    found: Sequence[int] = ()
    if isinstance(layers, str) and "[" in layers:
        spec = parse(layers)
        found = spec.indices(n_layers) if isinstance(spec, LayerSpec) and spec.donor == llm else ()
    elif not isinstance(layers, str) or layers not in ("", "all"):
        with contextlib.suppress(LayerIndexError):
            found = layer_numbers(layers, n_layers, llm)
    if not found or list(found) != list(range(found[0], found[0] + len(found))):
        raise PlugInError(
            f"{layers!r} does not name a chain of layers: {llm} has layers 0 to {n_layers - 1}",
            where="layers",
            next='give first and last layer as text, such as "8-14"',
        )
    return found[0], found[-1]


def _check(arms: Sequence[str], references: Sequence[str], split: str) -> None:
    for given, known, what in ((arms, (*ARMS, *REMOVED), "arms"), (references, REFERENCES, "references")):
        unknown = [name for name in given if name not in known]
        if unknown or isinstance(given, str):
            raise PlugInError(
                f"unknown {what}: {given if isinstance(given, str) else ', '.join(unknown)}",
                where=what,
                next=f"give a list of some of {', '.join(known)}",
            )
    if split not in ("test", "validation"):
        raise TaskError(f"the split {split!r} cannot be scored", where="split", next="use test or validation")


def _check_own(own_interfaces: bool, arms: Sequence[str]) -> None:
    if own_interfaces and not set(arms) & set(TWINS):
        raise PlugInError(
            f"own_interfaces=True is for twins, and none of {', '.join(TWINS)} is among the arms",
            where="probe_chain",
            next='add "shuffled" or "random" to arms=, or leave own_interfaces out',
        )


def _check_interaction(interaction: str, task: Task, references: Sequence[str]) -> None:
    if interaction not in INTERACTIONS:
        raise PlugInError(
            f"unknown interaction {interaction!r}", where="interaction", next=f"use one of {', '.join(INTERACTIONS)}"
        )
    if interaction == "layer" and next(iter(task.splits.values())).pairs is None:
        raise TaskError(
            "only the two texts of a pair can meet in the layers",
            where=task.name,
            next='leave interaction out, or give a task with text="first,second" columns',
        )
    if interaction == "layer" and set(references) - {"donor"}:
        raise PlugInError(
            "trained references and the encoder twice read one text per row",
            where="references",
            next='with interaction="layer" ask for "donor" only',
        )


def _rows(
    task: Task, also: Sequence[Task], split: str, n_train: int, n_test: int, seed: int
) -> tuple[Split, dict[str, Split]]:
    """Return training rows, and the rows of every test by its name."""
    if not task.has_row_classes:
        raise TaskError(
            f"a chain is read out by one class a row, and this task is of kind {task.kind!r}",
            where=task.name,
            next='train on it with pp.plug_in(wiring="aligned")',
        )
    for name in ("train", split):
        if name not in task.splits:
            raise TaskError(f"the task has no {name} split", where=task.name, next="load it with one")
    size = min(n_train, len(task.splits["train"]))
    train = task.subset(train=size, seed=seed).splits["train"]
    found = {task.name: _at_most(task, split, n_test, seed)}
    for other in also:
        whole = replace(other, splits={"test": _joined(other)})
        found[other.name] = _at_most(shift_view(whole, task)[0], "test", n_test, seed)
    if len(found) != 1 + len(also):
        raise TaskError("two tests have the same name", where="also", next="give each test its own name")
    return train, found


def _at_most(task: Task, split: str, n: int, seed: int) -> Split:
    rows = task.splits[split]
    return rows if len(rows) <= n else task.subset(**{split: n}, seed=seed).splits[split]


def _joined(task: Task) -> Split:
    """Return all rows of a task that nothing is trained on, as one split, texts that occur twice once."""
    columns: dict[str, list[Any]] = {"texts": [], "labels": [], "ids": [], "pairs": []}
    seen: set[str] = set()
    for name, split in task.splits.items():
        for row, key in enumerate(split.keys):
            if key in seen:
                continue
            seen.add(key)
            columns["texts"].append(split.texts[row])
            columns["labels"].append(split.labels[row])
            columns["ids"].append(f"{name}:{split.ids[row]}")
            columns["pairs"].append(None if split.pairs is None else split.pairs[row])
    pairs = tuple(columns.pop("pairs"))
    paired = None not in pairs
    return Split(**{name: tuple(values) for name, values in columns.items()}, pairs=pairs if paired else None)


def _aligned_on(task: Task, train: Split, n_align: int, seed: int) -> Split:
    """Return the training rows that the alignment sees; drawn as the training rows are, so among them."""
    if n_align >= len(train):
        return train
    return replace(task, splits={"train": train}).subset(train=n_align, seed=seed).splits["train"]


def _plan(arms: Sequence[str], own_interfaces: bool) -> list[tuple[str, bool, str]]:
    """Return name, whether its interface is its own, and variant of every arm; the encoder is always among them."""
    plan = [(arm, False, arm) for arm in dict.fromkeys(("encoder", *arms))]
    if own_interfaces:
        plan += [(f"{arm}, own interface", True, arm) for arm in arms if arm in TWINS]
    return plan


def _read(
    blocks: Mapping[str, list[dict[str, Floats]]],
    labels: Mapping[str, NDArray[np.int64]],
    train: Split,
    task: Task,
    fractions: Sequence[float],
    n_draws: int,
    seed: int,
    trained: Mapping[str, Trained],
) -> list[Reading]:
    """Fit every readout, alone and with the encoder, at every number of labels, and return its predictions."""
    readings: list[Reading] = []
    for size, draw, rows in _labelled(train, task, fractions, n_draws, seed):
        y, n_labels = labels[""][rows], task.n_labels
        # What every arm is read next to: fitted once, and said of every test.
        beside = {
            arm: fit_block(blocks[arm][0][""][rows], y, n_labels, seed=seed)
            for arm in ("encoder", LATE)
            if arm in blocks
        }
        base = beside["encoder"]
        heard = {arm: {name: block(blocks[arm][0][name]) for name in labels if name} for arm, block in beside.items()}
        said = heard["encoder"]
        for arm, versions in blocks.items():
            for twin, features in enumerate(versions):
                block = beside[arm] if arm in beside else fit_block(features[""][rows], y, n_labels, seed=seed)
                alone = {name: block(features[name]) for name in said}
                found = [(arm, "alone", alone, block.out_of_fold)]
                stacked = {} if arm == "encoder" else {arm: ["encoder"]}
                if LATE in beside and arm not in beside:
                    stacked = {f"{arm} and {LATE}": ["encoder", LATE]} | stacked
                for title, others in stacked.items():
                    stack = fit_stack([*(beside[one] for one in others), block], y, n_labels)
                    joint = {name: stack([*(heard[one][name] for one in others), part]) for name, part in alone.items()}
                    found.append((title, "with encoder", joint, stack.out_of_fold))
                readings += [
                    Reading(title, reading, size, draw, twin, name, log_p, held, y)
                    for title, reading, each, held in found
                    for name, log_p in each.items()
                ]
    for arm, each in trained.items():  # `base` is that of all labels, which comes last
        y, size = labels[""][each.held], len(train)
        stack = fit_stack([replace(base, out_of_fold=base.out_of_fold[each.held]), each], y, task.n_labels)
        for name, part in each.said.items():
            both = stack([said[name], part])
            readings.append(Reading(arm, "alone", size, 0, 0, name, part, each.out_of_fold, y))
            readings.append(Reading(arm, "with encoder", size, 0, 0, name, both, stack.out_of_fold, y))
    return readings


def _labelled(
    train: Split, task: Task, fractions: Sequence[float], n_draws: int, seed: int
) -> list[tuple[int, int, NDArray[np.int64]]]:
    """Return number of labels, draw and rows of every labelled set; all rows once, fewer of them `n_draws` times."""
    sets = []
    place = {id_: row for row, id_ in enumerate(train.ids)}
    view = replace(task, splits={"train": train})
    for size in label_counts(fractions, len(train), 2 * task.n_labels, task.name):  # two a class
        for draw in range(n_draws):
            ids = view.subset(train=size, seed=1000 * (seed + 1) + draw).splits["train"].ids
            sets.append((size, draw, np.array([place[id_] for id_ in ids])))
    return [*sets, (len(train), 0, np.arange(len(train)))]
