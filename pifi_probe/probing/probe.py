"""Own-state probing: what a language model knows of a task at every depth, from its own states on its own tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pifi_probe.errors import EstimatorError
from pifi_probe.features.donor import llm_features, tokens_in_words
from pifi_probe.features.rows import scoring_rows
from pifi_probe.layers.tokenizer import GivenTokenizer
from pifi_probe.permissions import pickle_on_request
from pifi_probe.probing.building import build_table
from pifi_probe.probing.few_labels import kinds_with_few_labels, score_with_few_labels, sizes_of
from pifi_probe.probing.settings import PROBE, ProbeSettings, check_settings
from pifi_probe.provenance import PeakMemory, collect
from pifi_probe.scoring.estimators import Estimator, as_labels, resolve
from pifi_probe.scoring.points import LOGISTIC, place_of_point, refuse_too_many, score_points
from pifi_probe.tasks import Task

if TYPE_CHECKING:
    from pifi_probe.probing.table import ProbeTable

__all__ = ["probe"]

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
        "default", "all", or names from `pifi_probe.scoring.estimators`. Those that compare two feature sets do not
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
    check_settings(settings, ProbeSettings, "probe")
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
        places = [place_of_point(features, point) for point in range(features.n_points)]
        measured += score_with_few_labels(
            features, labels, places, sizes, n_draws=settings.n_draws, seed=seed, progress=progress
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
        "max_tokens": features.info["max_tokens"],
        "precision": settings.precision,
        "held out": f"leave one out, or {settings.n_folds} folds (logistic)",
        "null": f"{settings.n_permutations} label permutations, the same for all depths"
        if settings.n_permutations
        else "none",
        "seed": seed,
        **({"few labels": f"{settings.n_draws} draws, scored on half of the texts"} if sizes else {}),
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


def _notes(chosen: Sequence[Estimator], n_permutations: int) -> list[str]:
    without = [each.name for each in chosen if each.name in LOGISTIC or (each.needs_labels and not each.null)]
    if not n_permutations or not without:
        return []
    return [f"No null for {', '.join(without)}: fitting again for each permutation would cost more than all the rest."]
