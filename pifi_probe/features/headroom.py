"""`headroom`: what a language model's states add to an encoder on a task, before anything is plugged in."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from pifi_probe.alignment.fit import interface_fits
from pifi_probe.alignment.readout import cross_fitted, out_of_fold, refuse_few
from pifi_probe.alignment.tokens import aligned_tokenizer
from pifi_probe.checked import whole_number
from pifi_probe.devices import device_of
from pifi_probe.errors import CorruptFileError, FeatureError, TaskError
from pifi_probe.features.chain_parts import Encoder, Texts
from pifi_probe.features.donor import llm_features
from pifi_probe.features.feature_set import Features
from pifi_probe.features.headroom_table import Headroom, build_headroom
from pifi_probe.features.rows import scoring_rows
from pifi_probe.files import cache_root
from pifi_probe.layers.content import content_of
from pifi_probe.layers.detect import refuse_missing_states
from pifi_probe.layers.open import open_named
from pifi_probe.layers.tokenizer import GivenTokenizer
from pifi_probe.layers.tokenizer_files import vocabulary_digest
from pifi_probe.permissions import pickle_on_request
from pifi_probe.progress import bar_options
from pifi_probe.provenance import collect
from pifi_probe.scoring.threads import side_by_side
from pifi_probe.tasks.task import Task
from pifi_probe.vocabulary import MAX_TOKENS

__all__ = ["headroom"]

N_ALIGN = 200  # texts on which the fit of an interface is measured at every depth
_VERSION = 3
Floats = NDArray[np.float64]


@pickle_on_request
def headroom(
    slm: str | PreTrainedModel,
    llm: str,
    task: Task,
    *,
    n: int = 1000,
    split: str = "train",
    max_tokens: int = MAX_TOKENS,
    device: str = "auto",
    tokenizer: GivenTokenizer | None = None,
    cache: bool = True,
    seed: int = 0,
    progress: bool = True,
    allow_pickle: bool = False,
) -> Headroom:
    """Ask whether a language model knows anything about a task that the encoder does not, and at which depth.

    This is the first question to ask: no plug-in can give what the donor's states do not hold. Three readouts of the
    same texts, each cross-validated: of the encoder (mean and first token of all its layers), of the donor at every
    depth (mean and last token), and of both together, stacked. Their difference is what the donor *adds*; the
    difference of the two probes alone misleads, since the donor may know less overall and still know something
    different.

    Parameters
    ----------
    slm : str or PreTrainedModel
        The encoder, as in `pifi_probe.plug_in`.
    llm : str
        The donor; one of its layers is in memory at a time.
    task : Task
        One class a row, or two texts a row.
    n : int
        Texts, drawn by class; the split's size where it is smaller.
    split : {"train", "validation"}
        Never the test split.
    max_tokens : int
        Tokens of the encoder after which a text is cut; of the donor's twice as many.
    device : str
        "auto", "cpu", "cuda", ...
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        Another one than the encoder's own: a hub id, a folder, or the tokenizer.
    cache : bool
        Keep features and result on disk, by content.
    seed : int
        Of rows and folds.
    progress : bool
    allow_pickle : bool
        Read legacy ``.bin`` weights, too, with ``weights_only=True``; see `plug_in`.

    Returns
    -------
    Headroom
        ``.answer`` in one sentence; ``.gain`` in points with ``.low`` and ``.high``; ``.depth``, ``.span``, and the
        curves ``.encoder``, ``.donor``, ``.both``.

    Raises
    ------
    TaskError
        If the split is the test split, the task has no class a row, or `n` leaves fewer than two texts of each of two.
    FeatureError
        If the tokenizers cannot be aligned, a state is not finite, or `max_tokens` or the seed is no whole number, or
        too small.

    Notes
    -----
    The depth is chosen, fold by fold, by the NLL of both together on the *other* folds, so that `gain` does not
    profit from having looked at all depths. The fit of an interface (`Headroom.r2`) is measured on held-out texts of
    the first 200, without labels.
    """
    start = time.perf_counter()
    n = whole_number("n", n, 1, TaskError, "headroom")
    max_tokens = whole_number("max_tokens", max_tokens, 1, FeatureError, "headroom")
    seed = whole_number("seed", seed, 0, FeatureError, "headroom")
    rows = scoring_rows(task, min(n, len(task.splits.get(split, ()))) or n, split, seed)
    refuse_few(np.asarray(rows.labels), task.name)
    device = device_of(device).type
    encoder = Encoder(slm, max_tokens, device, cache, tokenizer=tokenizer)
    checkpoint = open_named(llm)
    models = [encoder.digest, content_of(checkpoint), vocabulary_digest(checkpoint), max_tokens]
    made_from = [*models, rows.ids, rows.texts, rows.pairs, rows.labels, task.n_labels, seed, _VERSION]
    file = cache_root() / "headroom" / f"{hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]}.json"
    names = {"slm": encoder.name, "llm": llm, "task": task.name, "split": split}
    if cache and file.is_file():
        with contextlib.suppress(CorruptFileError):
            known = Headroom.from_json(file)
            return replace(known, info=known.info | names)  # of the same contents, which may have other names today
    refuse_missing_states(checkpoint.config, int(checkpoint.config.num_hidden_layers), llm)
    aligned_tokenizer(checkpoint)
    texts = Texts(encoder, rows)
    pooled = texts.pooled()
    features = llm_features(
        llm,
        rows,
        kind=task.kind,
        pooling="mean+last",
        max_tokens=2 * max_tokens,
        device=device,
        cache=cache,
        progress=progress,
    )
    passed = time.perf_counter()
    some = texts.among(rows.take(range(min(N_ALIGN, len(rows)))))
    entries = list(range(features.n_points - 1))
    fits = interface_fits(
        some.states,
        some.joined,
        checkpoint,
        entries,
        model=llm,
        max_tokens=2 * encoder.max_tokens,
        seed=seed,
        device=device,
        progress=progress,
    )
    aligned = time.perf_counter()
    y = np.asarray(rows.labels, dtype=np.int64)
    own, donor, both = _scores(pooled, features, y, task.n_labels, seed, progress)
    seconds = {
        "features": round(passed - start, 1),
        "alignment": round(aligned - passed, 1),
        "readout": round(time.perf_counter() - aligned, 1),
        "all": round(time.perf_counter() - start, 1),
    }
    info = names | {
        "n": len(rows),
        "max_tokens": max_tokens,
        "seed": seed,
        "n_align": len(some.rows),
        "notes": features.info["notes"],
    }
    found = build_headroom(
        own,
        donor,
        both,
        y,
        [fits[entry] for entry in entries],
        info,
        collect(task=task.fingerprint, seconds=seconds),
    )
    if cache:
        found.to_json(file)
    return found


def _scores(
    pooled: NDArray[np.float32],
    features: Features,
    y: NDArray[np.int64],
    n_labels: int,
    seed: int,
    progress: bool,
) -> tuple[Floats, Floats, Floats]:
    """Return out-of-fold log-probabilities of the encoder (N, K), the donor and both (depths, N, K)."""

    def score(point: int) -> Floats:
        x = pooled if point < 0 else np.array(features[point])
        return out_of_fold(x, y, n_labels, seed=seed)

    points: Any = range(-1, features.n_points)  # the encoder takes longest, so it comes first
    found = list(
        tqdm(side_by_side(score, points), total=len(points), desc="readouts", leave=False, **bar_options(progress))
    )
    own, donor = found[0], np.stack(found[1:])
    both = np.stack([cross_fitted([own, one], y, n_labels, seed=seed) for one in donor])
    return own, donor, both
