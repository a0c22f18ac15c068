"""What each score costs against the number of examples N and features D, and the logistic probe of all layers at once.

Random features whose variances fall as 1/rank, two classes. Every estimator is given the shared eigendecomposition,
which has a row of its own. Growth is the slope of log seconds over log size, a least-squares line for every round, with
the 95 % interval of its mean over rounds (Student's t). The sweep is that of SmolLM2-135M: 31 depths, 5 folds, nested
choice among 5 penalties, 55 fits a depth. Scikit-learn solves the same 55 problems one after the other, with its own
default solver and tolerance, on the first depths only.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _common import Usage, in_child, interleave, parser, ratio, record, spread, target

from pifi_probe.scoring import estimators
from pifi_probe.scoring.folds import fold_pairs, stratified_folds
from pifi_probe.scoring.linear import L2_GRID, cross_validated
from pifi_probe.scoring.spectrum import Spectrum

N, D, D_OTHER = 1000, 576, 384
SIZES = {"N": [250, 500, 1000, 2000], "D": [144, 288, 576, 1152, 2304]}
DEPTHS, COMPARED, FOLDS = 31, 3, 5
QUICK = {"N": [20, 40], "D": [10, 20]}
SHARED = "eigendecomposition"
OURS, LOOP = "logistic probe, all depths together", "scikit-learn, the same fits in a loop"
LONG_ENOUGH = 0.005  # seconds; a shorter call is repeated within one measurement
Case = tuple[str, str, int]  # estimator, what grows, its size


def main() -> None:
    """Measure growth and sweep, record."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=7)
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(sweep(**json.loads(chosen.child))))
        return
    quick = chosen.quick
    settings = {
        "sizes": QUICK if quick else SIZES,
        "at": {"N": 30, "D": 10} if quick else {"N": N, "D": D},
        "rounds": 2 if quick else chosen.rounds,
        "depths": 2 if quick else DEPTHS,
        "compared": 1 if quick else COMPARED,
        "folds": FOLDS,
    }
    task = {"n": settings["at"]["N"], "dim": settings["at"]["D"], "depths": settings["depths"], "seed": chosen.seed}
    measurements = {
        "seconds": growth_of(settings, chosen.seed),
        "loop": against_the_loop(settings, chosen.seed),
        "sweep": in_child(__file__, task),
    }
    record("estimators", chosen, settings, measurements, tables(measurements, settings))


def features(n: int, dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, dim) and labels: a class is a direction in the features, seen through noise."""
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, dim)) * np.arange(1, dim + 1) ** -0.5
    signal = scores @ rng.standard_normal(dim)
    y = signal + signal.std() / 2 * rng.standard_normal(n) > np.median(signal)
    return scores @ np.linalg.qr(rng.standard_normal((dim, dim)))[0], y.astype(np.int64)


def growth_of(settings: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return the seconds of every estimator at every size: {estimator: {"N": {size: [...]}, "D": ...}}."""
    arms: dict[Case, Callable[[], object]] = {}
    for grows, sizes in settings["sizes"].items():
        for size in sizes:
            n, dim = (size if grows == axis else settings["at"][axis] for axis in ("N", "D"))
            x, y = features(n, dim, seed)
            arms |= {(name, grows, size): call for name, call in calls(x, y, seed).items()}
    repeats = {case: repeats_of(call) for case, call in arms.items()}
    repeated = {case: times(call, repeats[case]) for case, call in arms.items()}
    timed = interleave(repeated, settings["rounds"], seed=seed, warmup=0)
    found: dict[str, Any] = {}
    for (name, grows, size), seconds in timed.items():
        each = [t / repeats[name, grows, size] for t in seconds]
        found.setdefault(name, {}).setdefault(grows, {})[str(size)] = each
    return found


def calls(x: np.ndarray, y: np.ndarray, seed: int) -> dict[str, Callable[[], object]]:
    """Return one call of every estimator, and of what they share."""
    spectrum = Spectrum.of(x)
    other = features(len(x), min(D_OTHER, x.shape[1]), seed + 1)[0]
    made: dict[str, Callable[[], object]] = {SHARED: lambda: Spectrum.of(x)}
    for name in estimators.names():
        one = estimators.get(name)
        arguments = {"other": other} if one.family == "pair" else {}
        made[name] = lambda one=one, arguments=arguments: one(x, y, spectrum=fresh(spectrum), **arguments)  # type: ignore[misc]
    return made


def fresh(spectrum: Spectrum) -> Spectrum:
    """Return the same decomposition without what an earlier call has kept in it."""
    return Spectrum(spectrum.values, spectrum.vectors, spectrum.n, spectrum.dim)


def repeats_of(call: Callable[[], object]) -> int:
    """Return how often to call within one measurement; the first call, which also warms up, does not count."""
    call()
    start = time.perf_counter()
    call()
    return max(1, min(1000, int(LONG_ENOUGH / (time.perf_counter() - start))))


def times(call: Callable[[], object], n: int) -> Callable[[], None]:
    def run() -> None:
        for _ in range(n):
            call()

    return run


def against_the_loop(settings: dict[str, Any], seed: int) -> dict[str, list[float]]:
    """Return the seconds a depth of both ways to solve the same problems."""
    n, dim, depths = settings["at"]["N"], settings["at"]["D"], settings["compared"]
    y = features(n, dim, seed)[1]
    layers = [features(n, dim, seed + depth)[0] for depth in range(depths)]
    arms = {OURS: lambda: cross_validated(layers, y), LOOP: lambda: loop(layers, y)}
    timed = interleave(arms, max(2, settings["rounds"] // 2), seed=seed, warmup=0)
    return {arm: [t / depths for t in seconds] for arm, seconds in timed.items()}


def loop(layers: Sequence[np.ndarray], y: np.ndarray) -> None:
    """Solve every problem of `cross_validated` by scikit-learn; the last fits of a fold take the middle penalty."""
    from sklearn.linear_model import LogisticRegression

    folds = stratified_folds(y, FOLDS)
    inner = [((folds != f) & (folds != g), l2) for f, g in fold_pairs(FOLDS) for l2 in L2_GRID]
    outer = [(folds != f, L2_GRID[len(L2_GRID) // 2]) for f in range(FOLDS)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where its iterations run out, it is stopped and not told off
        for x in layers:
            for rows, l2 in inner + outer:
                mean = x[rows].mean(axis=0)
                scaled = (x - mean) / np.sqrt(((x[rows] - mean) ** 2).mean())
                fit = LogisticRegression(C=1 / (l2 * x.shape[1]), max_iter=1000).fit(scaled[rows], y[rows])
                fit.predict_log_proba(scaled[~rows])


def sweep(n: int, dim: int, depths: int, seed: int) -> dict[str, Any]:
    """Return time and memory of the logistic probe of all depths, made one at a time; their making is not timed."""
    y = features(n, dim, seed)[1]
    cross_validated([features(n, dim, seed)[0]], y)  # loads what is loaded once
    seconds, usage = 0.0, Usage()
    converged = True
    for depth in range(depths):
        x = features(n, dim, seed + depth)[0].astype(np.float32)
        start = time.perf_counter()
        result = cross_validated([x], y)[0]
        seconds += time.perf_counter() - start
        converged &= result.converged
    return {"seconds": seconds, "peak_bytes": usage.until_now()["peak_bytes"], "converged": converged}


def tables(measurements: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows."""
    pair = measurements["loop"]
    faster = ratio(pair[LOOP], pair[OURS])
    return {
        "targets": [target("logistic probe: scikit-learn's loop over the same fits / ours", faster["median"], least=3)],
        "rows": [row(name, seconds, settings) for name, seconds in measurements["seconds"].items()]
        + [
            {**blank(OURS), "ms": 1e3 * measurements["sweep"]["seconds"], "of": f"{settings['depths']} depths"}
            | {"peak MB": measurements["sweep"]["peak_bytes"] / 1e6},
            *({**blank(arm), "ms": spread(1e3 * t for t in pair[arm]), "of": "1 depth"} for arm in (OURS, LOOP)),
        ],
    }


def blank(name: str) -> dict[str, Any]:
    return dict.fromkeys(("estimator", "ms", "of", "growth in N", "growth in D", "peak MB")) | {"estimator": name}


def row(name: str, seconds: dict[str, dict[str, list[float]]], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the line of one estimator; its time is that at the size which both ranges share."""
    return {
        **blank(name),
        "ms": spread(1e3 * t for t in seconds["D"][str(settings["at"]["D"])]),
        "of": "1 depth",
        "growth in N": growth(seconds["N"]),
        "growth in D": growth(seconds["D"]),
    }


def growth(seconds: dict[str, list[float]]) -> str:
    """Return the exponent of growth and its 95 % interval over rounds, such as ``"1.98 [1.95, 2.01]"``."""
    from scipy.stats import t

    slopes = np.polyfit(np.log([float(size) for size in seconds]), np.log(list(seconds.values())), 1)[0]  # (rounds,)
    half = float(t.ppf(0.975, len(slopes) - 1)) * slopes.std(ddof=1) / np.sqrt(len(slopes))
    return f"{slopes.mean():.2f} [{slopes.mean() - half:.2f}, {slopes.mean() + half:.2f}]"


if __name__ == "__main__":
    main()
