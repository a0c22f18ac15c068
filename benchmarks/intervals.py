"""How often the intervals of `pifi_probe.two_way` hold the truth, and how wide they are: by simulation.

Layouts of arms and seeds are drawn as ``y[arm, seed] = seed effect + spread[arm] * noise``, with no true difference
between arms, and every arm is compared with the first. Arms spread alike, or with log-normal spreads (the standard
deviation of the log standard deviation is told), or with the heavy tails of Student's t with 4 degrees of freedom, or
the baseline spreads twice as much as the rest. In uneven layouts the first four arms (the encoder alone, the
projections and two twins) have more seeds than the layers, as `control_seeds` gives them. Widths are next to those of
the paired t interval of the two arms alone, over the seeds that all arms have.

    python benchmarks/intervals.py            # about ten minutes on one core
    python benchmarks/intervals.py --uneven   # written to intervals_uneven.json
    python benchmarks/intervals.py --quick    # few layouts, a few cells
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from _common import parser, record, target
from numpy.typing import NDArray
from scipy.stats import t

from pifi_probe.ladder import control_seeds
from pifi_probe.two_way import Layout, dunnett

Floats = NDArray[np.float64]

ARMS, SEEDS = (3, 5, 9, 20, 38), (2, 3, 5, 10)
UNEVEN = {"arms": (9, 20, 38), "seeds": (2, 3)}
N_CONTROLS = 4  # of an uneven layout
NOISES: dict[str, dict[str, Any]] = {
    "equal": {},
    "spread 0.3": {"spread": 0.3},
    "spread 0.5": {"spread": 0.5},
    "spread 1.0": {"spread": 1.0},
    "t4": {"tails": 4},
    "baseline x 2": {"baseline": 2.0},
    "baseline x 2, spread 0.5": {"baseline": 2.0, "spread": 0.5},
    "equal, no seed effects": {"shared": 0.0},
}


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--uneven", action="store_true", help="layouts whose controls have more seeds")
    chosen = options.parse_args()
    shapes = UNEVEN if chosen.uneven else {"arms": ARMS, "seeds": SEEDS}
    settings = {
        "layouts": 60 if chosen.quick else 2000,
        "arms": shapes["arms"][:2] if chosen.quick else shapes["arms"],
        "seeds": shapes["seeds"][:2] if chosen.quick else shapes["seeds"],
        "noises": list(NOISES)[:2] if chosen.quick else list(NOISES),
    }
    cells = []
    for n_arms in settings["arms"]:
        for n_seeds in settings["seeds"]:
            of_controls = control_seeds(n_seeds, n_arms - N_CONTROLS) if chosen.uneven else n_seeds
            for noise in settings["noises"]:
                seed = [chosen.seed, n_arms, n_seeds, list(NOISES).index(noise)]
                n = int(settings["layouts"] / (2 if n_arms > 9 else 1))
                found = simulate(np.random.default_rng(seed), n, (n_arms, n_seeds, of_controls), **NOISES[noise])
                more = {"of controls": of_controls} if chosen.uneven else {}
                cells.append({"arms": n_arms, "seeds": n_seeds, **more, "noise": noise, **found})
                print(cells[-1], flush=True)
    measurements = {"cells": cells}
    name = "intervals_uneven" if chosen.uneven else "intervals"
    record(name, chosen, settings, measurements, tables(measurements, settings))


def draw(
    rng: np.random.Generator,
    n: int,
    shape: tuple[int, int, int],
    *,
    spread: float = 0.0,
    tails: int = 0,
    baseline: float = 1.0,
    shared: float = 1.0,
) -> Iterator[tuple[Floats, Floats]]:
    """Yield layouts, shape (A, S), NaN where an arm did not run, and the true spreads of their arms, shape (A,)."""
    n_arms, own_seeds, n_seeds = shape
    for _ in range(n):
        spreads = np.exp(spread * rng.standard_normal(n_arms))
        spreads[0] *= baseline
        size = (n_arms, n_seeds)
        noise = rng.standard_t(tails, size) / np.sqrt(tails / (tails - 2)) if tails else rng.standard_normal(size)
        y = shared * rng.standard_normal(n_seeds) + spreads[:, None] * noise
        y[N_CONTROLS:, own_seeds:] = np.nan
        yield y, spreads


def simulate(rng: np.random.Generator, n: int, shape: tuple[int, int, int], **noise: Any) -> dict[str, float]:
    """Return coverage, family-wise error and widths of `n` layouts, in percent and as ratios.

    Their shape: arms, seeds of each, and seeds of the first four.
    """
    n_arms, n_seeds, _ = shape
    against = np.hstack([-np.ones((n_arms - 1, 1)), np.eye(n_arms - 1)])
    half = n_arms // 2  # groups: the first half against the second, the baseline left out
    groups = np.array([0.0, *np.where(np.arange(n_arms - 1) < half, 1 / half, -1 / (n_arms - 1 - half))])
    held, noisiest, wrong, grouped, widths, own = [], [], [], [], [], []
    for y, spreads in draw(rng, n, shape, **noise):
        layout = Layout(y, baselines=[0])
        found = layout.contrasts(against)
        ok = np.abs(found.means) <= found.half_widths()
        held.append(ok.mean())
        noisiest.append(ok[spreads[1:].argmax()])
        p_values = 2 * t.sf(np.abs(found.means) / found.errors, found.dfs)
        wrong.append(min(dunnett(p_values, found.covariance, n_draws=2_000)[0]) < 0.05)
        group = layout.contrasts(groups)
        grouped.append(abs(group.means[0]) <= group.half_widths()[0])
        widths.append(found.half_widths())
        differences = (y[1:] - y[0])[:, :n_seeds]
        own.append(t.isf(0.025, n_seeds - 1) * differences.std(axis=1, ddof=1) / n_seeds**0.5)
    return {
        "coverage": 100 * float(np.mean(held)),
        "noisiest arm": 100 * float(np.mean(noisiest)),
        "groups": 100 * float(np.mean(grouped)),
        "family-wise error": 100 * float(np.mean(wrong)),
        "width": float(np.median(widths) / np.median(own)),
    }


def tables(measurements: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return the targets, and a row for each number of arms, seeds and kind of noise."""
    cells = measurements["cells"]

    def worst(name: str, pick: Any, noises: Any) -> float:
        return float(pick((cell[name] for cell in cells if noises(cell["noise"])), default=np.nan))

    def width(n_seeds: int) -> float:
        wanted = (9, n_seeds, "equal")
        found = (c["width"] for c in cells if "of controls" not in c and (c["arms"], c["seeds"], c["noise"]) == wanted)
        return next(found, np.nan)

    def moderate(noise: str) -> bool:
        return "1.0" not in noise

    widths = [(f"half-width / paired t, 9 arms, {n} seeds", width(n), most) for n, most in ((3, 0.72), (2, 0.37))]
    return {
        "targets": [
            target("coverage, lowest cell", worst("coverage", min, lambda _: True), least=94, unit=" %"),
            target("coverage, highest cell", worst("coverage", max, lambda _: True), most=99, unit=" %"),
            target(
                "coverage of the noisiest arm, spreads up to 0.5: lowest cell",
                worst("noisiest arm", min, moderate),
                least=92,
                unit=" %",
            ),
            target("the same at spreads of 1.0", worst("noisiest arm", min, lambda noise: not moderate(noise))),
            target(
                "coverage of groups of arms, lowest cell", worst("groups", min, lambda _: True), least=94, unit=" %"
            ),
            target(
                "family-wise error, highest cell", worst("family-wise error", max, lambda _: True), most=5.5, unit=" %"
            ),
            *(target(what, found, most=most) for what, found, most in widths if found == found),
        ],
        "rows": [{name: round(v, 2) if isinstance(v, float) else v for name, v in cell.items()} for cell in cells],
    }


if __name__ == "__main__":
    main()
