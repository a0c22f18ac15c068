"""How much does a layer hold? Usable information that one, two and four layers add to an encoder's vectors.

The paper supposes that a deeper language model spreads what it knows over more layers, so that each one holds less.
Measured here: NLL(h) - NLL([h; z]), where h is the encoder's vector, z = layer(x) - x is what the layer makes of it, x
is h brought to the layer's own input by a ridge regression fitted on texts that are not scored, and the NLL is that of
cross-fitted logistic regressions (`pifi_probe.scoring.estimators`, "usable_information"). For k layers their z lie side
by side. Every set of layers has a twin of shuffled weights: only the difference speaks of what training put there.

    python benchmarks/density.py
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from _common import parser, record, target
from numpy.typing import NDArray

from pifi_probe.features.donor import llm_features
from pifi_probe.features.rows import scoring_rows
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.variants import make_variant
from pifi_probe.probing.encoder_vectors import slm_features
from pifi_probe.probing.layer_scores import branch, layers_of
from pifi_probe.probing.warm import other_rows
from pifi_probe.scoring import estimators
from pifi_probe.scoring.projections import Pairs, matched, project
from pifi_probe.scoring.spectrum import centred
from pifi_probe.stats import mean_interval
from pifi_probe.tasks import load_task

SLM, LLMS = "minilm-l6", ("smollm2-135m", "gemma3-270m")
TASKS = {"movie-reviews": 1000, "tweets": 900}  # scored texts
SIZES = (1, 2, 4)
ARMS = ("real", "shuffled")
N_ALIGNED, N_TWINS = 1000, 2
Floats = NDArray[np.float64]


def main() -> None:
    """Measure every set of layers, record."""
    options = parser(__doc__)
    chosen = options.parse_args()
    settings: dict[str, Any] = {
        "slm": SLM,
        "llms": [LLMS[0]] if chosen.quick else list(LLMS),
        "tasks": {"movie-reviews": 60} if chosen.quick else TASKS,
        "sizes": list(SIZES),
        "twins": N_TWINS,
        "n_aligned": 60 if chosen.quick else N_ALIGNED,
        "layers": 4 if chosen.quick else None,
        "projection": "ridge",
        "seed": chosen.seed,
    }
    measurements: dict[str, Any] = {}
    for task in settings["tasks"]:  # what is there is recorded after each
        measurements[task] = {llm: measure(llm, task, settings) for llm in settings["llms"]}
        record("density", chosen, settings, measurements, tables(measurements, settings))


def measure(llm: str, name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the gain of every set of layers, real and shuffled, and for each scored text its mean over the sets.

    The sets of one size and one kind share no layer, and together hold (nearly) all of them.
    """
    task, seed = load_task(name), settings["seed"]
    rows = scoring_rows(task, settings["tasks"][name], "train", seed)
    aligned = other_rows(task, rows, settings["n_aligned"], seed)
    h, other = (np.array(slm_features(settings["slm"], of)[0]) for of in (rows, aligned))
    states = llm_features(llm, aligned, kind=task.kind, progress=False)
    checkpoint = open_checkpoint(llm)
    n_layers = int(settings["layers"] or checkpoint.config.num_hidden_layers)
    added: dict[str, list[list[NDArray[np.float32]]]] = {arm: [] for arm in ARMS}  # arm, layer, draw
    r2 = []
    for one in layers_of(checkpoint, llm, range(n_layers), torch.device("cpu")):
        pairs = Pairs(other, np.asarray(states[one.index]))
        found = project(settings["projection"], h, one.layer.hidden_size, pairs=pairs, seed=seed)
        x = matched(found(h), one.target_rms)
        r2.append(found.r2)
        for arm in ARMS:
            added[arm].append([])
            for draw in range(settings["twins"] if arm == "shuffled" else 1):
                variant = make_variant(one.layer, arm, single_token=True, seed=1000 * draw + one.index)
                added[arm][-1].append(centred(branch(variant, x)).astype(np.float32))
    gains = {}
    for k in settings["sizes"]:
        for kind in ("neighbours", "spread") if k > 1 else ("single",):
            chosen = list(sets(n_layers, k, kind))
            found_of = {
                arm: np.stack([_gain(h, [added[arm][i] for i in one], rows.labels, seed) for one in chosen])
                for arm in ARMS
            }
            gains[f"{kind} {k}"] = {
                "layers": [list(one) for one in chosen],
                **{arm: values.mean(axis=1).tolist() for arm, values in found_of.items()},
                "texts": {arm: _written(values.mean(axis=0)) for arm, values in found_of.items()},
            }
            print(name, llm, kind, k, flush=True)
    config = checkpoint.config
    alone = estimators.get("logistic_nll").score(h, np.asarray(rows.labels), seed=seed)
    return {
        "layers": n_layers,
        "width": int(config.hidden_size),
        "alignment_r2": r2,
        "encoder_nll": float(alone.value),
        "gains": gains,
    }


def _gain(
    h: NDArray[np.float32], layers: Sequence[Sequence[NDArray[np.float32]]], labels: Sequence[int], seed: int
) -> Floats:
    """Return what the layers' branches add for each text, the mean over their draws."""
    score, codes = estimators.get("usable_information").score, np.asarray(labels)
    found = [score(np.hstack(one), codes, other=h, seed=seed).per_example for one in zip(*layers, strict=True)]
    return cast(Floats, np.mean(cast(list[Floats], found), axis=0))


def sets(n_layers: int, k: int, kind: str) -> Iterator[tuple[int, ...]]:
    """Yield sets of k layers that share none: neighbours in depth, or spread over the whole depth.

    Examples
    --------
    >>> list(sets(6, 2, "neighbours"))
    [(0, 1), (2, 3), (4, 5)]
    >>> list(sets(6, 2, "spread"))
    [(0, 3), (1, 4), (2, 5)]
    """
    n = n_layers // k
    for i in range(n):
        yield tuple(i + j * n for j in range(k)) if kind == "spread" else tuple(range(i * k, i * k + k))


def _written(values: Floats) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def _read(text: str) -> Floats:
    return np.array([float(value) for value in text.split()])


def tables(measurements: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return what k layers add, and what that says of one model next to the other."""
    rows, targets = [], []
    for task, of_task in measurements.items():
        own: dict[tuple[str, str], Floats] = {}
        for llm, found in of_task.items():
            for which, gains in found["gains"].items():
                real, twin = (_read(gains["texts"][arm]) for arm in ARMS)
                own[llm, which] = real - twin
                rows.append(
                    {
                        "task": task,
                        "LLM": f"{llm}, {found['layers']} layers",
                        "layers together": which,
                        "sets": str(len(gains["layers"])),
                        "real, mnat": _words(real),
                        "shuffled, mnat": _words(twin),
                        "real - shuffled": _words(own[llm, which]),
                        "a layer": round(1000 * float(own[llm, which].mean()) / int(which.split()[-1]), 2),
                        "largest difference": _best(gains),
                    }
                )
        for which in next(iter(of_task.values()))["gains"]:
            if len(of_task) > 1:
                deep, shallow = sorted(of_task, key=lambda llm: -of_task[llm]["layers"])[:2]
                targets.append(_target(f"{task}: {which}, {deep} - {shallow}", own[deep, which] - own[shallow, which]))
            else:
                targets.append(_target(f"{task}: {which}, real - shuffled", own[next(iter(of_task)), which]))
    return {"targets": targets, "rows": rows}


def _target(what: str, values: Floats) -> dict[str, Any]:
    found = mean_interval(values[None])
    low, high = 1000 * found.low, 1000 * found.high
    return target(f"{what}, mnat [{low:+.1f}, {high:+.1f}]", 1000 * found.mean)


def _words(values: Floats) -> str:
    found = mean_interval(values[None])
    return f"{1000 * found.mean:+.1f} [{1000 * found.low:+.1f}, {1000 * found.high:+.1f}]"


def _best(gains: dict[str, Any]) -> str:
    """Return the set that adds most beyond its twin: chosen and scored on the same texts, so too good to be true."""
    more = np.subtract(gains["real"], gains["shuffled"])
    return f"{'-'.join(map(str, gains['layers'][int(more.argmax())]))}: {1000 * float(more.max()):+.1f}"


if __name__ == "__main__":
    main()
