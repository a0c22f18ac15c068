"""Plug-in probing: what a layer, as a function of an encoder's vectors, adds to them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from pifi_probe.errors import TaskError
from pifi_probe.features.donor import llm_features
from pifi_probe.features.feature_set import Features
from pifi_probe.features.rows import scoring_rows
from pifi_probe.layers.extract import pick_device
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.spec import Layers, ModelRef, layer_numbers
from pifi_probe.layers.tokenizer import GivenTokenizer
from pifi_probe.permissions import pickle_on_request
from pifi_probe.plugin.config import WIRINGS
from pifi_probe.probing.building import build_table
from pifi_probe.probing.encoder_vectors import slm_features
from pifi_probe.probing.frozen_slm import LEARNING_RATE, Vectors
from pifi_probe.probing.gains import Scorer, applicable, gain_kinds
from pifi_probe.probing.layer_scores import Alignment, LayerScores, PluginScores, layers_of
from pifi_probe.probing.plugin_scores import KINDS, MOST_NTK, NTK, RIDGES, NTKScores, TrainedScores
from pifi_probe.probing.settings import PLUGIN_PROBE, PluginProbeSettings, check_settings
from pifi_probe.probing.warm import other_rows, warm_encoder
from pifi_probe.progress import bar_options
from pifi_probe.provenance import PeakMemory, collect
from pifi_probe.scoring.estimators import as_labels
from pifi_probe.scoring.points import Measured
from pifi_probe.scoring.projections import MIN_PAIRS
from pifi_probe.tasks.task import Split, Task

if TYPE_CHECKING:
    from pifi_probe.probing.table import ProbeTable

__all__ = ["probe_plugin"]

QUESTION = "what the layer adds to an encoder's vectors, not what the language model knows at this depth"
POSITION = "depth i is layer i as a function of its input, point i of the residual stream; before the final norm"
TOKENS = "each vector is a sequence of one token; x is scaled to the layer's own input, z = layer(x) - x"
NULL = "of a gain: the same gain of the layer with its weights shuffled"


@pickle_on_request
def probe_plugin(
    slm: str | PreTrainedModel,
    llm: str,
    task: Task,
    settings: PluginProbeSettings = PLUGIN_PROBE,
    *,
    n: int = 1000,
    layers: Layers = None,
    estimators: str | Sequence[str] = "default",
    tokenizer: GivenTokenizer | None = None,
    llm_tokenizer: GivenTokenizer | None = None,
    seed: int = 0,
    progress: bool = True,
    allow_pickle: bool = False,
) -> ProbeTable:
    """Score every layer of a language model as a plug-in for an encoder, next to its controls.

    Without training: the encoder's vectors h are projected to the layer's width and size, ``z = layer(x) - x`` is
    what the layer makes of them, and a score is the gain of h and z together over h alone. A layer whose weights are
    shuffled gets a gain too, from being nonlinear and wide; the row to read is ``real - shuffled``. With training:
    `frozen_slm`, for the layer and the controls "vanilla" (head only), "linear", "random" and "shuffled".

    Parameters
    ----------
    slm : str or PreTrainedModel
        The encoder, as in `plug_in`.
    llm : str
        Hub id, local folder or file, or embedded name; one layer is in memory at a time (and its twins).
    task : Task
        With a validation split if `trained`.
    settings : PluginProbeSettings
        Everything else, with a default each.
    n : int
        Scored rows, drawn by class; the trained proxy is fitted to as many rows of the training split.
    layers : str, int or sequence of int, optional
        Negative ones count from the end.
    estimators : str or sequence of str
        "default", "all", or names: any that uses labels (its gain is measured), "usable_information" (by definition
        the gain in the logistic probe's negative log-likelihood), "cka" and "mutual_knn" (of the encoder's vectors
        and the language model's states at the layer's input), "span" (what the layer adds to its own input; by
        name only, since it reads the labels of the alignment texts, too).
    tokenizer, llm_tokenizer : str, Path or PreTrainedTokenizerBase, optional
        Others than the encoder's and the language model's own: a hub id, a folder, or the tokenizer.
    seed : int
        Of the draws of rows, projections, twins, folds and permutations.
    progress : bool
        Show progress bars.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.

    Returns
    -------
    ProbeTable
        Arms "encoder" (h alone), "real", "shuffled" and "real - shuffled" for each estimator and projection; for the
        trained proxy "vanilla", "linear", "real", "random", "shuffled", "real - shuffled" and "real - vanilla".

    Raises
    ------
    TaskError, EstimatorError, PlugInError, LayerIndexError
        If rows, estimators, options or layers cannot be used; before any pass.
    PifiProbeError
        As `extract` and `fine_tune`.

    Notes
    -----
    Sources: book/methods.md, Probes. Random projections carry little signal of the layer: trust no row that is not
    compared with its shuffled twin.

    Examples
    --------
    >>> probe_plugin("minilm-l6", "smollm2-135m", load_task("movie-reviews"), layers="0,15,-1")  # doctest: +SKIP
    """
    check_settings(settings, PluginProbeSettings, "probe_plugin")
    chosen, likeness = applicable(estimators)
    ref = ModelRef.parse(llm)
    checkpoint = open_checkpoint(*ref)
    indices = sorted(layer_numbers(layers, int(checkpoint.config.num_hidden_layers), llm))
    paired = bool(likeness or set(settings.projections) - {"random"})
    rows = _draw_rows(
        task,
        n,
        settings.split,
        seed,
        trained=settings.trained,
        n_alignment=(settings.n_alignment or n) if paired else 0,
    )
    labels = as_labels(rows["scored"].labels, min_per_class=max((each.min_per_class for each in chosen), default=1))
    for each in (one for one in likeness if one.needs_labels):
        as_labels(rows["aligned"].labels, min_per_class=each.min_per_class)
    place = pick_device(settings.device)
    passes: dict[str, Any] = {
        "max_tokens": settings.max_tokens,
        "precision": settings.precision,
        "device": place.type,
        "batch_tokens": settings.batch_tokens,
        "cache": settings.cache,
    }
    times = [time.perf_counter()]
    with PeakMemory() as peak:
        encoder, regime = slm, "raw: the encoder as it comes"
        if settings.warm_up:
            encoder, regime = warm_encoder(
                slm,
                task,
                rows["fitted"],
                settings.warm_up,
                wiring=settings.wiring,
                max_tokens=settings.max_tokens,
                tokenizer=tokenizer,
                seed=seed,
            )
        pooling = str(WIRINGS[settings.wiring]["pooling"])
        vectors = {
            name: slm_features(encoder, of, pooling=pooling, tokenizer=tokenizer, **passes) for name, of in rows.items()
        }
        alignment = None
        if paired:
            of = rows["aligned"]
            states = llm_features(
                llm, of, kind=task.kind, memory=settings.memory, tokenizer=llm_tokenizer, progress=progress, **passes
            )
            alignment = Alignment(np.array(vectors["aligned"][0]), states, likeness, of.labels, settings.n_folds, seed)
        times.append(time.perf_counter())
        h = np.array(vectors["scored"][0])
        scorer = Scorer(rows["scored"], labels, chosen, settings.n_folds, seed)
        parts: list[LayerScores] = [] if alignment is None else [alignment]
        if chosen:
            parts.append(
                PluginScores(
                    h, scorer, tuple(settings.projections), settings.n_draws, alignment, settings.n_permutations, seed
                )
            )
        if settings.ntk:
            few = _few(task, rows["scored"], settings.split, seed)
            some = Scorer(rows["scored"].take(few), labels[few], RIDGES, settings.n_folds, seed)
            parts.append(NTKScores(h[few], some, task.n_labels, settings.wiring, settings.seeds[0]))
        if settings.trained:
            train, score = (Vectors(vectors[name][0], rows[name].labels) for name in ("fitted", "validation"))
            width = int(checkpoint.config.hidden_size)
            parts.append(
                TrainedScores(
                    train,
                    score,
                    task.n_labels,
                    width,
                    settings.wiring,
                    tuple(settings.seeds),
                    settings.epochs,
                    place.type,
                )
            )
        measured = [row for part in parts for row in part.controls()]
        read = layers_of(checkpoint, ref.model, indices, place)
        for one in tqdm(read, total=len(indices), desc="layers", leave=False, **bar_options(progress)):
            measured += [row for part in parts for row in part.measure(one)]
        times.append(time.perf_counter())
    info = {
        "llm": llm,
        "slm": slm if isinstance(slm, str) else vectors["scored"].info["model"],
        "task": task.name,
        "split": settings.split,
        "n": len(rows["scored"]),
        "classes": {name: rows["scored"].labels.count(label) for label, name in enumerate(task.label_names)},
        "question": QUESTION,
        "position": POSITION,
        "tokens": TOKENS,
        "pooling": f"{vectors['scored'].info['pooling']} (encoder)",
        "regime": regime,
        "projections": list(settings.projections),
        "n_draws": settings.n_draws if "random" in settings.projections else 0,
        "held out": f"leave one out, or {settings.n_folds} folds (logistic); trained: the task's validation split",
        "null": NULL
        + (f"; of the encoder alone: {settings.n_permutations} label permutations" if settings.n_permutations else ""),
        "seed": seed,
        **_about_alignment(alignment, measured),
        **_about_training(settings.trained, rows, settings.wiring, settings.seeds, settings.epochs),
        **({"tangent kernel": {"n": min(MOST_NTK, len(rows["scored"]))}} if settings.ntk else {}),
        "notes": _notes(vectors, alignment, settings.projections, settings.trained, settings.ntk),
    }
    seconds = {name: round(times[i + 1] - times[i], 3) for i, name in enumerate(("features", "scores"))}
    made = collect(task=task.fingerprint, seconds=seconds, peak_memory=peak.rss_bytes)
    kinds = KINDS | gain_kinds(chosen) | gain_kinds(RIDGES, NTK, "tangent kernel: ")
    return build_table("plug-in", measured, info, kinds=kinds, provenance=made)


def _draw_rows(task: Task, n: int, split: str, seed: int, *, trained: bool, n_alignment: int) -> dict[str, Split]:
    """Draw the rows that are scored, fitted to, validated on and aligned on; no row is in two of the last three."""
    rows = {"scored": scoring_rows(task, n, split, seed)}
    rows["fitted"] = rows["scored"] if split == "train" else scoring_rows(task, n, "train", seed)
    if trained:
        rows["validation"] = scoring_rows(task, None, "validation", seed)
    if n_alignment:
        rows["aligned"] = other_rows(task, rows["fitted"], n_alignment, seed)
        if len(rows["aligned"]) < MIN_PAIRS:
            raise TaskError(
                f"{len(rows['aligned'])} training rows are left to align the two models on, {MIN_PAIRS} are needed",
                where=task.name,
                next='score fewer rows, or use projections=["random"] and no estimator that compares the models',
            )
    return rows


def _few(task: Task, scored: Split, split: str, seed: int) -> list[int]:
    """Return which scored rows take part in the tangent kernel: all, or as many as it takes, drawn by class."""
    if len(scored) <= MOST_NTK:
        return list(range(len(scored)))
    places = {one: place for place, one in enumerate(scored.ids)}
    return sorted(places[one] for one in scoring_rows(task, MOST_NTK, split, seed).ids)  # draws are nested


def _about_alignment(alignment: Alignment | None, measured: Sequence[Measured]) -> dict[str, Any]:
    if alignment is None:
        return {}
    states = alignment.states.info
    told = {key: states[key] for key in ("pooling", "normalise", "drop_first", "template") if key in states}
    found: dict[str, dict[str, float]] = {}
    for one in measured:
        if one.estimator == "alignment_r2":
            found.setdefault(one.projection, {})[str(one.layer)] = round(one.value, 4)
    return {"alignment": {"n": len(alignment.h), "texts": "training rows that are not scored", **told, "r2": found}}


def _about_training(
    trained: bool, rows: Mapping[str, Split], wiring: str, seeds: Sequence[int], epochs: int
) -> dict[str, Any]:
    if not trained:
        return {"wiring": wiring}
    sizes = {"fitted": len(rows["fitted"]), "held out of them": "a fifth", "scored": len(rows["validation"])}
    return {
        "wiring": wiring,
        "trained": {**sizes, "seeds": list(seeds), "epochs": epochs, "learning_rate": LEARNING_RATE},
    }


def _notes(
    vectors: Mapping[str, Features],
    alignment: Alignment | None,
    projections: Sequence[str],
    trained: bool,
    ntk: bool,
) -> list[str]:
    """Return what a reader must know, one sentence each."""
    notes = ["Rows real and shuffled are gains over the encoder alone; only real - shuffled is about its knowledge."]
    if "random" in projections:
        notes.append("Random projections carry little signal of a layer: their directions mean nothing to it.")
    if trained:
        notes.append("Frozen-SLM rows are scores, except for the differences real - shuffled and real - vanilla.")
    if ntk:
        notes.append("The tangent kernel is that of projections and head at their start, the encoder frozen.")
        if len(vectors["scored"][0]) > MOST_NTK:
            notes.append(f"It is taken of {MOST_NTK:,} of the scored rows: it has an entry for every pair of them.")
    notes.append(
        "Permuted labels are not a null for a gain: under them the encoder knows nothing either, and all gains vanish."
    )
    notes += [f"Encoder, {name} rows: {note}" for name, of in vectors.items() for note in of.info.get("notes", [])]
    if alignment is not None:
        notes += [f"Language model, aligned rows: {note}" for note in alignment.states.info.get("notes", [])]
    return notes
