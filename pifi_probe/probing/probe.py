"""Own-state probing: what a language model knows of a task at every depth, from its own states on its own tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pifi_probe.errors import EstimatorError
from pifi_probe.layers.tokenizer import GivenTokenizer
from pifi_probe.permissions import pickle_on_request
from pifi_probe.probing.building import Measured, build_table
from pifi_probe.probing.estimators import Estimator, as_labels, resolve
from pifi_probe.probing.estimators.memory import refuse_too_large
from pifi_probe.probing.features import Features, llm_features, tokens_in_words
from pifi_probe.probing.few_labels import kinds_with_few_labels, score_with_few_labels, sizes_of
from pifi_probe.probing.folds import stratified_folds
from pifi_probe.probing.intervals import N_FIFTHS, stratified_fifths
from pifi_probe.probing.linear import CVResult, cross_validate
from pifi_probe.probing.null import permutation_null
from pifi_probe.probing.rows import scoring_rows
from pifi_probe.probing.settings import PROBE, ProbeSettings
from pifi_probe.probing.spectrum import Spectrum
from pifi_probe.probing.threads import side_by_side
from pifi_probe.progress import bar_options
from pifi_probe.provenance import PeakMemory, collect
from pifi_probe.tasks import Task

if TYPE_CHECKING:
    from pifi_probe.probing.table import ProbeTable

__all__ = ["probe"]

LOGISTIC = ("logistic_accuracy", "logistic_nll")
MIN_PER_FIFTH = 2  # examples of each class that a fifth needs
POSITION = (
    "depth p is the input of layer p; the last depth is the output of the last layer; all before the model's final norm"
)


@pickle_on_request
def probe(
    llm: str,
    task: Task,
    settings: ProbeSettings = PROBE,
    *,
    n: int = 1000,
    estimators: str | Sequence[str] = "default",
    tokenizer: GivenTokenizer | None = None,
    seed: int = 0,
    progress: bool = True,
    allow_pickle: bool = False,
) -> ProbeTable:
    """Score the pooled states of a language model at every depth, held out, in one pass over its weights.

    Parameters
    ----------
    llm : str
        Hub id, local folder, ``.gguf`` or ``.safetensors`` file, or embedded name; one layer is in memory at a time.
    task : Task
    settings : ProbeSettings
        Everything else, with a default each.
    n : int
        Examples, drawn by class; with one `seed`, smaller draws are among larger ones.
    estimators : str or sequence of str
        "default", "all", or names from `pifi_probe.probing.estimators`. Those that compare two feature sets do not
        apply here.
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        Another one than the model's own: a hub id, a folder, or the tokenizer.
    seed : int
        Of the draws of rows, folds, permutations and fifths.
    progress : bool
        Show progress bars.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.

    Returns
    -------
    ProbeTable
        L + 1 depths for each estimator.

    Raises
    ------
    TaskError, EstimatorError
        If the split is the test split, or the rows or estimators cannot be used; before the pass.
    PifiProbeError
        As `llm_features`.

    Examples
    --------
    >>> table = probe("smollm2-135m", load_task("movie-reviews"), n=200)  # doctest: +SKIP
    >>> table.best_set("ridge_accuracy")  # doctest: +SKIP
    """
    chosen = applicable(estimators)
    rows = scoring_rows(task, n, settings.split, seed)
    labels = as_labels(rows.labels, min_per_class=max(each.min_per_class for each in chosen))
    refuse_too_many(chosen, labels)
    sizes = sizes_of(settings.fractions, labels, task.name)
    with PeakMemory() as peak:
        start = time.perf_counter()
        features = llm_features(
            llm,
            rows,
            kind=task.kind,
            pooling=settings.pooling,
            normalise=settings.normalise,
            drop_first=settings.drop_first,
            max_tokens=settings.max_tokens,
            template=settings.template,
            precision=settings.precision,
            device=settings.device,
            batch_tokens=settings.batch_tokens,
            memory=settings.memory,
            tokenizer=tokenizer,
            cache=settings.cache,
            progress=progress,
        )
        middle = time.perf_counter()
        measured = score_points(
            features,
            labels,
            chosen,
            n_permutations=settings.n_permutations,
            n_folds=settings.n_folds,
            seed=seed,
            progress=progress,
        )
        places = [_place(features, point) for point in range(features.n_points)]
        measured += score_with_few_labels(
            features, labels, places, sizes, draws=settings.draws, seed=seed, progress=progress
        )
        end = time.perf_counter()
    info = {
        "llm": llm,
        "task": task.name,
        "split": settings.split,
        "n": len(rows),
        "classes": {task.label_names[label]: rows.labels.count(label) for label in sorted(set(rows.labels))},
        "question": "what the model itself knows at this depth, not what the layer would do to an encoder's vectors",
        "position": POSITION,
        "pooling": settings.pooling,
        "tokens": tokens_in_words(settings.normalise, settings.drop_first),
        "template": features.info["template"],
        "max_length": features.info["max_length"],
        "precision": settings.precision,
        "held out": f"leave one out, or {settings.n_folds} folds (logistic)",
        "null": f"{settings.n_permutations} label permutations, the same for all depths"
        if settings.n_permutations
        else "none",
        "seed": seed,
        **({"few labels": f"{settings.draws} draws, scored on half of the texts"} if sizes else {}),
        "notes": [*features.info["notes"], *_notes(chosen, settings.n_permutations)],
    }
    made = collect(
        task=task.fingerprint,
        features=features.info,
        seconds={"features": round(middle - start, 3), "scores": round(end - middle, 3)},
        peak_memory=peak.rss_bytes,
    )
    return build_table("own-state", measured, info, kinds=kinds_with_few_labels(sizes), provenance=made)


def applicable(wanted: str | Sequence[str]) -> list[Estimator]:
    """Return the estimators that need one feature set; raise EstimatorError when a named one needs two."""
    chosen = resolve(wanted)
    pairs = [each.name for each in chosen if each.family == "pair"]
    if pairs and wanted not in ("default", "all"):
        raise EstimatorError(
            f"{pairs[0]} compares two feature sets, and own states are one",
            where="probe",
            next="leave it out, or use probe_plugin",
        )
    return [each for each in chosen if each.family != "pair"]


def score_points(
    features: Features,
    labels: NDArray[np.int64],
    chosen: Sequence[Estimator],
    *,
    n_permutations: int,
    n_folds: int,
    seed: int,
    progress: bool = False,
) -> list[Measured]:
    """Score every point of `features` with every estimator; one point for each thread is in memory at a time."""
    refuse_too_many(chosen, labels, features[0].shape[1])
    single = [each for each in chosen if each.name not in LOGISTIC]
    fifths = stratified_fifths(labels, seed)
    folds = None  # of the logistic probe, the same at every point
    if len(single) < len(chosen):
        folds = stratified_folds(labels, n_folds, seed, keys=Spectrum.of(features[0]).squared_norms)

    def score(point: int) -> list[Measured]:
        states, place = features[point], _place(features, point)  # (N, d_llm)
        spectrum = Spectrum.of(states)
        parts = _fifths(states, labels, fifths) if single else []
        found = [_score(each, states, labels, spectrum, parts, place, n_permutations, seed) for each in single]
        if folds is not None:
            found += _logistic(cross_validate(spectrum, labels, folds, name=f"depth {point}"), place)
        return found

    scored = side_by_side(score, range(features.n_points))
    bar = tqdm(scored, total=features.n_points, desc="scores", leave=False, **bar_options(progress))
    measured = [one for found in bar for one in found]
    order = {each.name: i for i, each in enumerate(chosen)}
    return sorted((one for one in measured if one.estimator in order), key=lambda one: order[one.estimator])


def refuse_too_many(chosen: Sequence[Estimator], labels: NDArray[np.int64], dim: int = 1) -> None:
    """Refuse, with the number, an estimator that would need more memory for so many examples than is free."""
    for each in chosen:
        refuse_too_large(each.name, each.memory, len(labels), dim, int(labels.max()) + 1)


def _place(features: Features, point: int) -> dict[str, Any]:
    """Return depth, layer and position of a point: the input of layer `point`, or the output of the last one."""
    last = features.n_points - 1
    return {
        "depth": point,
        "layer": min(point, last - 1),
        "position": "input" if point < last else "output",
    }


Part = tuple[NDArray[np.float32], NDArray[np.int64], Spectrum]


def _fifths(states: NDArray[np.float32], labels: NDArray[np.int64], fifths: NDArray[np.int64]) -> list[Part]:
    """Return features, labels and spectrum of each fifth; none where a class is too small to be in all of them."""
    if np.bincount(labels).min() < N_FIFTHS * MIN_PER_FIFTH:
        return []
    kept = [fifths == number for number in range(N_FIFTHS)]
    return [(states[rows], labels[rows], Spectrum.of(states[rows])) for rows in kept]


def _score(
    each: Estimator,
    states: NDArray[np.float32],
    labels: NDArray[np.int64],
    spectrum: Spectrum,
    parts: list[Part],
    place: dict[str, Any],
    n_permutations: int,
    seed: int,
) -> Measured:
    scored = each.score(states, labels, spectrum=spectrum)
    fifths = null = None
    if scored.per_example is None and parts:
        fifths = np.array([each(x, y, spectrum=part) for x, y, part in parts])
    if n_permutations and each.null and each.needs_labels:
        null = permutation_null(each, states, labels, spectrum, n=n_permutations, seed=seed)
    return Measured(each.name, scored.value, **place, per_example=scored.per_example, fifths=fifths, null=null)


def _logistic(result: CVResult, place: dict[str, Any]) -> list[Measured]:
    """Return both scores of one cross-validated fit."""
    note = "" if result.converged else "a logistic fit did not converge: its score is not reliable"
    scores = zip(LOGISTIC, (result.correct.astype(np.float64), result.nll), strict=True)
    return [Measured(name, float(parts.mean()), **place, per_example=parts, note=note) for name, parts in scores]


def _notes(chosen: Sequence[Estimator], n_permutations: int) -> list[str]:
    without = [each.name for each in chosen if each.name in LOGISTIC or (each.needs_labels and not each.null)]
    if not n_permutations or not without:
        return []
    return [f"No null for {', '.join(without)}: fitting again for each permutation would cost more than all the rest."]
