"""What every selector of a layer is worth, by replay of a recorded truth table.

Reads ``book/_studies/truth/<table>/`` (full runs of every layer), ``<table>-cheap.json`` (cheaper fidelities) and the
recorded probe tables; trains nothing. Strategies are replayed through the search's own code: they ask for runs, and the
table answers. They select on some seeds and are scored on another one.

    python benchmarks/selection.py [movie-reviews-matched]
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from _common import HERE, parser, record, target
from numpy.typing import NDArray
from scipy.stats import t as student

from pifi_probe.probing.table import ProbeTable
from pifi_probe.ranking import chance_regret, layer_effect, noise_ceiling, rank_agreement, regret_at, smooth_null
from pifi_probe.selection.conclude import pick
from pifi_probe.selection.space import Candidate, Space, place_of
from pifi_probe.selection.strategies import make_strategy
from pifi_probe.selection.trials import Outcome, Trial

STUDIES = HERE.parent / "book" / "_studies"
LLM, N_LAYERS = "smollm2-135m", 30
SPACE = Space(((LLM, N_LAYERS),))
STRATEGIES = ("auto", "grid", "random", "halving", "greedy", "exhaustive", "fast", "last", "two-thirds", "middle")
QUICK = ("auto", "exhaustive", "last")
DRAWN = ("auto", "grid", "random")  # strategies with random numbers of their own
DRAWS = 20
GRID = (0.1, 0.3, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 30, 45, 60)  # full runs
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """A recorded table: arrays (layers, seeds) of full runs, and the cheaper fidelities.

    Parameters
    ----------
    nll : array
        On the validation split, nats.
    accuracy : array
        On the test split, points.
    cheap : dict
        Fidelity -> seed -> (layers,) NLL.
    costs : dict
        Fidelity -> full runs.
    """

    name: str
    nll: Array
    accuracy: Array
    cheap: dict[str, dict[int, Array]]
    costs: dict[str, float]

    @property
    def n_seeds(self) -> int:
        """Seeds of full runs."""
        return self.nll.shape[1]

    @cached_property
    def noise(self) -> float:
        """Standard deviation of one run's NLL, layers and seeds taken out, nats."""
        rest = self.nll - self.nll.mean(1, keepdims=True) - self.nll.mean(0) + self.nll.mean()
        return float(np.sqrt((rest**2).sum() / ((self.nll.shape[0] - 1) * (self.n_seeds - 1))))

    @cached_property
    def layer_sd(self) -> float:
        """Standard deviation of the layers' NLL without the noise of seeds, nats; 0 where nothing is left."""
        return math.sqrt(max(float(self.nll.mean(1).var(ddof=1)) - self.noise**2 / self.n_seeds, 0.0))


def load(name: str) -> Truth:
    """Read a table."""
    folder = STUDIES / "truth" / name
    n_seeds = len(list(folder.glob("layer-00-seed*.json")))
    runs = [
        [json.loads((folder / f"layer-{i:02d}-seed{s}.json").read_text(encoding="utf-8")) for s in range(n_seeds)]
        for i in range(N_LAYERS)
    ]
    nll = np.array([[run["epochs"][run["best_epoch"]]["nll"] for run in own] for own in runs])
    accuracy = np.array(
        [[100 * next(iter(run["tests"].values()))["metrics"]["accuracy"] for run in own] for own in runs]
    )
    cheap = json.loads((STUDIES / "truth" / f"{name}-cheap.json").read_text(encoding="utf-8"))
    values = {
        fidelity: {int(seed): np.array([own[str(i)] for i in range(N_LAYERS)]) for seed, own in seeds.items()}
        for fidelity, seeds in cheap["values"].items()
    }
    return Truth(name, nll, accuracy, values, cheap["costs"])


# Proxies


def proxies(truth: Truth) -> Iterator[tuple[str, Array]]:
    """Yield every cheap score of the layers, larger being better."""
    depth = np.arange(N_LAYERS, dtype=np.float64)
    yield "rule: the deeper the better", depth
    yield "rule: the nearer to two thirds the better", -np.abs(depth / (N_LAYERS - 1) - 2 / 3)
    yield "rule: the nearer to the middle the better", -np.abs(depth / (N_LAYERS - 1) - 1 / 2)
    for fidelity, seeds in truth.cheap.items():
        yield (
            f"rung: {fidelity} ({len(seeds)} seed{'s' * (len(seeds) > 1)})",
            -np.mean(list(seeds.values()), axis=0),
        )
    task = truth.name.rpartition("-")[0]
    for family in ("plug-in", "own-state"):
        file = STUDIES / "probes" / f"{task}-{family}.json"
        if file.is_file():
            yield from _probe_scores(ProbeTable.from_json(file))


def _probe_scores(table: ProbeTable) -> Iterator[tuple[str, Array]]:
    """Yield the scores of a table; a language model's own state counts for the layer that made it."""
    first = 0 if table.family == "plug-in" else 1
    arms = ("real", "real - shuffled")
    rows = table.frame[table.frame["arm"].isin(arms) & table.frame["depth"].notna()]
    for (estimator, projection, arm), own in rows.groupby(["estimator", "projection", "arm"], sort=False):
        by_depth = own.set_index("depth")["value"]
        values = np.array([by_depth.get(i + first, np.nan) for i in range(N_LAYERS)], dtype=np.float64)
        if np.isfinite(values).all():
            sign = 1.0 if table.kinds[str(estimator)].larger_is_better else -1.0
            parts = [str(estimator), *([f"{projection} L_in"] if projection else [])]
            parts += ["minus shuffled"] if arm != "real" else []
            yield f"{table.family}: {', '.join(parts)}", sign * values


def proxy_row(name: str, score: Array, truth: Truth) -> dict[str, Any]:
    """Return what a cheap score is worth against the means of all seeds, which it has not seen."""
    quality, points = -truth.nll.mean(1), truth.accuracy.mean(1)
    agreement = rank_agreement(score, quality)
    limit, p_value = smooth_null(score, quality)
    ceiling = noise_ceiling(layer_effect(truth.nll).icc)
    return {
        "score": name,
        "Kendall": agreement["kendall"],
        "of ceiling": agreement["kendall"] / ceiling if ceiling > 0 else None,
        "null 95 %": limit,
        "p": p_value,
        "regret@1 (points)": regret_at(score, points),
        "@3": regret_at(score, points, 3),
        "@5": regret_at(score, points, 5),
        "regret@1 (layer sd)": regret_at(score, quality) / truth.layer_sd if truth.layer_sd > 0 else None,
    }


# Strategies


@dataclass
class Played:
    """A replay: what had been spent, and which layer would have been chosen, after each run."""

    costs: list[float]
    picks: list[int]
    gated: int

    def pick_at(self, budget: float) -> int | None:
        """Return the pick when so much was spent; None before the first."""
        known = [pick for cost, pick in zip(self.costs, self.picks, strict=True) if cost <= budget + 1e-9]
        return known[-1] if known else None


def replay(truth: Truth, name: str, seeds: Sequence[int], budget: float, draw: int) -> Played | None:
    """Let a strategy select on some seeds of the table; None where it asks for a run that was not recorded."""
    strategy, trials, spent = make_strategy(name, SPACE, seeds=len(seeds), seed=draw), list[Trial](), 0.0
    costs, picks = list[float](), list[int]()
    while budget - spent > 0 and (proposal := strategy.propose((), budget - spent)) is not None:
        if proposal.candidate.design != "single":
            return None
        layer = _index(proposal.candidate)
        if proposal.fidelity == "full":
            value = float(truth.nll[layer, seeds[proposal.seed]])
        elif proposal.fidelity in truth.cheap:
            known = truth.cheap[proposal.fidelity]
            value = float(known[seeds[proposal.seed] if seeds[proposal.seed] in known else 0][layer])
        else:
            return None
        cost = truth.costs[proposal.fidelity]
        if spent + cost > budget + 1e-9:
            break
        spent += cost
        trial = Trial(
            proposal.candidate, proposal.fidelity, proposal.seed, "complete", Outcome(value, cost=cost), len(trials)
        )
        trials.append(trial)
        strategy.observe(trial)
        chosen = strategy.choose()
        if chosen is not None:
            costs.append(spent)
            picks.append(_index(chosen))
    if not picks:
        return None
    gated, _, _ = pick(strategy, trials, SPACE)
    return Played(costs, picks, _index(gated) if gated is not None else picks[-1])


def _index(candidate: Candidate) -> int:
    return place_of(candidate.layers[0])[1]


def splits(n_seeds: int) -> list[tuple[list[int], int]]:
    """Return every choice of one held-out seed, with the others to select on."""
    return [([s for s in range(n_seeds) if s != held], held) for held in range(n_seeds)]


def play(truth: Truth, name: str, budget: float, draws: int) -> list[list[Played]]:
    """Replay a strategy with every split and several draws; [split][draw]."""
    found = []
    for seeds, _ in splits(truth.n_seeds):
        own = [replay(truth, name, seeds, budget, draw) for draw in range(draws if name in DRAWN else 1)]
        found.append([one for one in own if one is not None])
    return found if all(found) else []


def mean_interval(values: Sequence[float]) -> dict[str, float]:
    """Return mean and 95 % interval over splits, by Student's t."""
    own = np.array(values, dtype=np.float64)
    half = float(student.isf(0.025, len(own) - 1) * own.std(ddof=1) / math.sqrt(len(own)))
    return {"mean": float(own.mean()), "low": float(own.mean() - half), "high": float(own.mean() + half)}


def held_out(truth: Truth, layer: int | None, held: int, values: Array) -> float:
    """Return the value of a pick on the held-out seed; of a layer drawn at random before there is a pick."""
    return float(values[:, held].mean() if layer is None else values[layer, held])


def measure(
    truth: Truth, draws: int = DRAWS, strategies: Sequence[str] = STRATEGIES, n_proxies: int | None = None
) -> dict[str, Any]:
    """Return all single numbers; of the cheap scores only the first `n_proxies`, each of which takes seconds."""
    effect = layer_effect(truth.nll)
    runs = {name: play(truth, name, 13.5 if name == "auto" else GRID[-1], draws) for name in strategies}
    runs = {name: own for name, own in runs.items() if own}
    curves = {}
    for name, own in runs.items():
        curves[name] = {
            str(budget): [
                float(
                    np.mean([held_out(truth, one.pick_at(budget), held, truth.nll) for one in played])
                    - truth.nll[:, held].min()
                )
                for played, (_, held) in zip(own, splits(truth.n_seeds), strict=True)
            ]
            for budget in GRID
        }
    final = {
        name: {
            "cost": float(np.mean([one.costs[-1] for played in own for one in played])),
            "nll": [
                float(np.mean([truth.nll[one.picks[-1], held] for one in played]))
                for played, (_, held) in zip(own, splits(truth.n_seeds), strict=True)
            ],
            "accuracy": [
                float(np.mean([truth.accuracy[one.picks[-1], held] for one in played]))
                for played, (_, held) in zip(own, splits(truth.n_seeds), strict=True)
            ],
            "picks": [[one.picks[-1] for one in played] for played in own],
        }
        for name, own in runs.items()
    }
    gated = [[one.gated for one in played] for played in runs.get("auto", [])]
    best = {"nll": truth.nll.min(0).tolist(), "accuracy": truth.accuracy.max(0).tolist()}
    return {
        "table": truth.name,
        "nll": truth.nll.tolist(),
        "accuracy": truth.accuracy.tolist(),
        "noise": truth.noise,
        "effect": {"p": effect.p_value, "friedman p": effect.friedman_p, "icc": effect.icc, "verdict": effect.verdict},
        "accuracy effect": layer_effect(truth.accuracy).verdict,
        "costs": truth.costs,
        "proxies": [proxy_row(name, score, truth) for name, score in islice(proxies(truth), n_proxies)],
        "curves": curves,
        "final": final,
        "picks of auto with its gate": gated,
        "best of the held-out seed": best,
        "chance": {
            "nll regret, a layer at random": chance_regret(-truth.nll.mean(1)),
            "points regret@1": chance_regret(truth.accuracy.mean(1)),
            "points regret@3": chance_regret(truth.accuracy.mean(1), 3),
            "points regret@5": chance_regret(truth.accuracy.mean(1), 5),
        },
    }


def tables(measurements: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return targets and rows that follow from the single numbers."""
    final, noise = measurements["final"], measurements["noise"]
    rows = []
    for name, own in final.items():
        regret = np.array(own["nll"]) - np.array(measurements["best of the held-out seed"]["nll"])
        against = np.array(own["nll"]) - np.array(final["exhaustive"]["nll"])
        points = np.array(own["accuracy"]) - np.array(final["exhaustive"]["accuracy"])
        rows.append(
            {
                "strategy": name,
                "cost (full runs)": round(own["cost"], 2),
                "regret (mnats)": _shown(1000 * regret),
                "minus exhaustive (mnats)": _shown(1000 * against),
                "in seed sd": _shown(against / noise),
                "accuracy minus exhaustive (points)": _shown(points),
            }
        )
    against = (np.array(final["auto"]["nll"]) - np.array(final["exhaustive"]["nll"])) / noise
    found = mean_interval(against.tolist())
    full = settings["seeds"] * settings["layers"]
    compared = "auto minus exhaustive search, held-out NLL, in standard deviations of a seed"
    return {
        "targets": [
            target("auto: cost / exhaustive search with all seeds", final["auto"]["cost"] / full, most=0.15),
            target(f"{compared}: mean", found["mean"], most=0.5),
            target(f"{compared}: upper end of the 95 % interval over splits", found["high"], most=0.5),
            target(
                f"{compared}: what these splits resolve in four of five studies",
                (found["high"] - found["low"]) / 2 * (1.96 + 0.84) / 1.96,
            ),
        ],
        "rows": rows,
    }


def _shown(values: Array) -> str:
    found = mean_interval(values.tolist())
    return f"{found['mean']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]"


def main() -> None:
    """Replay, and write result and tables."""
    options = parser(__doc__)
    options.add_argument("table", nargs="?", default="movie-reviews-matched")
    chosen = options.parse_args()
    truth = load(chosen.table)
    measurements = measure(truth, 1, QUICK, 4) if chosen.quick else measure(truth)
    settings = {"table": chosen.table, "layers": N_LAYERS, "seeds": truth.n_seeds, "draws": DRAWS}
    record("selection", chosen, settings, measurements, tables(measurements, settings))


if __name__ == "__main__":
    main()
