"""LayerBench: runs of every layer, recorded, so that ways to choose one can be compared without training.

A *table* is a task, an encoder, a donor and a wiring. For each layer (and each control) and seed it holds the score of
every test example and the loss on the validation split. A strategy is replayed on it: it asks for runs, the table
answers, and what it chose is scored on a seed that it has not seen.

Everything lies in one JSON file, `layerbench.json`, which the package brings; ``python benchmarks/layerbench.py`` makes
it from the runs below ``book/_studies/truth/`` (the encoder trained, too) and ``truth-frozen/``.
"""

from __future__ import annotations

import base64
import functools
import importlib.resources
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.checked import is_number, whole_number
from pifi_probe.differences import Runs
from pifi_probe.errors import CorruptFileError, SearchError
from pifi_probe.ladder import Arm, Effect, baselines_of, effects_of
from pifi_probe.reading import read_json
from pifi_probe.vocabulary import BARE, in_words_of_today

if TYPE_CHECKING:
    import pandas as pd

    from pifi_probe.selection.trials import Strategy, Trial

__all__ = ["Ask", "Replay", "Table", "effects", "encode_bits", "leaderboard", "load", "replay", "tables"]

VERSION = "1.1"
Floats = NDArray[np.float64]
LAYER = "layer"  # in place of a control
DRAWS = 5  # of a strategy with random numbers of its own
CITE = f"PiFi probe, LayerBench {VERSION} (tables of runs of MiniLM with layers of SmolLM2-135M)"


@dataclass(frozen=True)
class Table:
    """One recorded table.

    Parameters
    ----------
    name, task, slm, llm, wiring : str
    encoder : {"trained", "frozen"}
        Frozen: only projections and head were trained, on its vectors.
    n_layers : int
        Of the donor.
    layers, seeds : tuple of int
        What was run.
    controls : tuple of (str, int)
        Kind and index of the layer that it is a twin of.
    complete : bool
        Whether every layer of the donor was run with every seed.
    sizes : dict of str to int
        Texts of each split.
    metric : str
        Of the per-example scores: "accuracy" (0 or 1), or "squared_error", smaller being better.
    validation : array of float, shape (layers, seeds)
        The loss of the chosen epoch, by which strategies choose: NLL in nats, or the squared error.
    scores : dict of (str, int, int) to array of float, shape (N,)
        By kind ("layer" or a control), index and seed.
    cheap : dict of str to dict of int to array of float, shape (layers,)
        Validation losses at the cheaper fidelities, by fidelity and seed; empty where they were not recorded.
    costs : dict of str to float
        Of a run at each fidelity, in full runs.
    """

    name: str
    task: str
    slm: str
    llm: str
    wiring: str
    encoder: str
    n_layers: int
    layers: tuple[int, ...]
    seeds: tuple[int, ...]
    controls: tuple[tuple[str, int], ...]
    complete: bool
    sizes: Mapping[str, int]
    metric: str
    validation: Floats
    scores: Mapping[tuple[str, int, int], Floats]
    cheap: Mapping[str, Mapping[int, Floats]]
    costs: Mapping[str, float]

    @property
    def test(self) -> Floats:
        """Mean test score of every layer and seed, shape (layers, seeds); larger is better."""
        sign = 1.0 if self.metric == "accuracy" else -1.0
        return np.array([[sign * self.scores[LAYER, i, s].mean() for s in self.seeds] for i in self.layers])

    @property
    def noise(self) -> float:
        """Standard deviation of one run's validation loss, layers and seeds taken out."""
        rest = self.validation - self.validation.mean(1, keepdims=True) - self.validation.mean(0)
        rest = rest + self.validation.mean()
        return float(np.sqrt((rest**2).sum() / ((len(self.layers) - 1) * (len(self.seeds) - 1))))

    def __repr__(self) -> str:
        state = "complete" if self.complete else f"{len(self.layers)} of {self.n_layers} layers"
        return f"Table({self.name}: {state}, {len(self.seeds)} seeds, {len(self.controls)} controls)"


@dataclass(frozen=True)
class Replay:
    """What a strategy is worth on one table.

    Parameters
    ----------
    strategy, table : str
    choices : tuple of int
        The chosen layer for each held-out seed and draw.
    regret : float
        Validation loss of the choice above the best layer's, on seeds that the strategy has not seen.
    low, high : float
        95 % interval of the regret over held-out seeds.
    in_noise : float
        The regret in standard deviations of one run.
    points : float
        Test score of the choice below the best layer's, in hundredths.
    cost : float
        In full runs.
    """

    strategy: str
    table: str
    choices: tuple[int, ...]
    regret: float
    low: float
    high: float
    in_noise: float
    points: float
    cost: float


class Ask:
    """What a plain strategy may ask of a table: losses of layers on the seeds that it may see.

    Attributes
    ----------
    layers : tuple of int
    seeds : int
        Seeds 0 to this one, exclusive.
    spent : float
        In full runs, so far.
    """

    def __init__(self, table: Table, seen: Sequence[int], rng: np.random.Generator) -> None:
        self._table, self._seen = table, list(seen)
        self.layers, self.seeds, self.n_layers = table.layers, len(seen), table.n_layers
        self.fidelities = tuple(table.cheap)
        self.rng = rng
        self.spent = 0.0
        self._known: set[tuple[str, int, int]] = set()

    def __call__(self, layer: int, seed: int = 0, fidelity: str = "full") -> float:
        """Return the validation loss of a layer, lower being better; the first time it costs a run.

        Raises
        ------
        SearchError
            If this run was not recorded.
        """
        if layer not in self.layers or not 0 <= seed < self.seeds or fidelity not in ("full", *self._table.cheap):
            known = f"layers {_shown(self.layers)}, seeds below {self.seeds}, {', '.join(('full', *self.fidelities))}"
            raise SearchError(
                f"no run of layer {layer}, seed {seed}, at the fidelity {fidelity!r} is recorded",
                where=self._table.name,
                next=f"ask for {known}",
            )
        if (fidelity, layer, seed) not in self._known:
            self._known.add((fidelity, layer, seed))
            self.spent += self._table.costs.get(fidelity, 1.0)
        place = self.layers.index(layer)
        if fidelity == "full":
            return float(self._table.validation[place, self._table.seeds.index(self._seen[seed])])
        losses = self._table.cheap[fidelity]
        return float(losses[self._seen[seed] if self._seen[seed] in losses else min(losses)][place])


Plain = Callable[[Ask], int]  # returns the chosen layer


def tables(path: str | Path | None = None) -> list[Table]:
    """Return all recorded tables.

    Parameters
    ----------
    path : str or Path, optional
        A file of one's own in the same form; None: the package's.

    Raises
    ------
    CorruptFileError
        If the file is not a LayerBench.
    """
    return list(_recorded() if path is None else _read(Path(path)))


def effects(table: Table, *, level: float = 0.95, margin: float | None = 0.01) -> list[Effect]:
    """Return what the projections, the block, the donor's weights and the choice of layer do on a table.

    All its runs are judged together, see `pifi_probe.ladder`.

    Parameters
    ----------
    table : Table
    level : float
        Nominal coverage of the intervals.
    margin : float or None
        What counts as no difference, in the unit of the metric; one point of accuracy. Not used for other metrics.
    """
    sign = 1.0 if table.metric == "accuracy" else -1.0
    arms = {
        _name_of(kind, index): Arm(table.wiring, None if kind == LAYER else kind, index)
        for kind, index, _ in table.scores
    }
    scores: dict[str, dict[int, Floats]] = {name: {} for name in arms}
    for (kind, index, seed), values in table.scores.items():
        scores[_name_of(kind, index)][seed] = sign * values
    near = margin if table.metric == "accuracy" else None
    return effects_of(Runs(scores, baselines_of(arms)), arms, table.task, table.metric, level=level, margin=near)


def _name_of(kind: str, index: int) -> str:
    """Return the name of an arm: "layer 7", "random 29", "vanilla"."""
    return kind if kind in BARE else f"{kind} {index}"


def load(path: str | Path | None = None) -> pd.DataFrame:
    """Return every recorded run as one tidy frame.

    Parameters
    ----------
    path : str or Path, optional
        As for `tables`.

    Returns
    -------
    DataFrame
        One row per run: ``table``, ``task``, ``slm``, ``llm``, ``wiring``, ``encoder`` ("trained" or "frozen"),
        ``kind`` ("layer" or a control), ``layer`` (index), ``seed``, ``metric``, ``score`` (mean over test examples),
        ``scores`` (array of float, shape (N,)), ``validation`` (loss; NaN for controls), ``complete``.
    """
    import pandas as pd

    rows = []
    for table in tables(path):
        for (kind, index, seed), scores in table.scores.items():
            inside = kind == LAYER
            place = table.layers.index(index), table.seeds.index(seed)
            rows.append(
                {
                    "table": table.name,
                    "task": table.task,
                    "slm": table.slm,
                    "llm": table.llm,
                    "wiring": table.wiring,
                    "encoder": table.encoder,
                    "kind": kind,
                    "layer": index,
                    "seed": seed,
                    "metric": table.metric,
                    "score": float(scores.mean()),
                    "scores": scores,
                    "validation": float(table.validation[place]) if inside else math.nan,
                    "complete": table.complete,
                }
            )
    return pd.DataFrame(rows)


def replay(strategy: str | Plain, table: str | Table | None = None, *, n_draws: int = DRAWS) -> list[Replay]:
    """Let a strategy choose on the tables, and say what its choices are worth.

    Each seed is held out once: the strategy sees the others. Strategies that draw random numbers are replayed several
    times.

    Parameters
    ----------
    strategy : str or callable
        A name of `pifi_probe.selection.strategies`, on tables with all layers; or a function that takes an `Ask` and
        returns the index of the layer that it chooses.
    table : str or Table, optional
        None: all that the strategy can be replayed on.
    n_draws : int
        Replays of each held-out seed.

    Returns
    -------
    list of Replay
        One a table.

    Raises
    ------
    SearchError
        If there is no such table or strategy, or the strategy asks for runs that were not recorded.

    Examples
    --------
    >>> def deepest(ask):
    ...     return max(ask.layers)
    >>> [found.table for found in replay(deepest)]  # doctest: +SKIP
    """
    if not isinstance(strategy, str) and not callable(strategy):
        raise SearchError(
            f"a {type(strategy).__name__} is not a strategy",
            where="layerbench",
            next='give a name such as "auto", or a function that takes an Ask and returns a layer',
        )
    whole_number("n_draws", n_draws, 1, SearchError, "layerbench")
    name = strategy if isinstance(strategy, str) else getattr(strategy, "__name__", "strategy")
    chosen = [table] if isinstance(table, Table) else _named(table)
    if isinstance(strategy, str):
        chosen = [one for one in chosen if one.complete and one.cheap] if table is None else chosen
        play: Callable[[Table, Sequence[int], int], tuple[int, float]] = functools.partial(_play_named, strategy)
    else:
        play = functools.partial(_play_plain, strategy)
    return [_worth(name, one, play, n_draws) for one in chosen]


def leaderboard(strategies: Iterable[str | Plain] = (), *, n_draws: int = DRAWS) -> pd.DataFrame:
    """Return what strategies are worth, one row per strategy and table; the least regret first.

    Parameters
    ----------
    strategies : iterable of str or callable
        Beside those of the package.
    n_draws : int
    """
    import pandas as pd

    rows = [vars(found) for one in (*OURS, *strategies) for found in replay(one, n_draws=n_draws)]
    frame = pd.DataFrame(rows).drop(columns="choices")
    return frame.sort_values(["table", "regret"], kind="stable").reset_index(drop=True)


def _last(ask: Ask) -> int:
    return max(ask.layers)


def _middle(ask: Ask) -> int:
    return min(ask.layers, key=lambda layer: abs(layer - ask.n_layers / 2))


def _at_random(ask: Ask) -> int:
    return int(ask.rng.choice(ask.layers))


def _exhaustive(ask: Ask) -> int:
    return min(ask.layers, key=lambda layer: float(np.mean([ask(layer, seed) for seed in range(ask.seeds)])))


def _once(ask: Ask) -> int:
    return min(ask.layers, key=ask)


for _own, _name in ((_last, "last layer"), (_middle, "middle layer"), (_at_random, "a layer at random")):
    _own.__name__ = _name
_exhaustive.__name__, _once.__name__ = "every layer, all seeds", "every layer, one seed"
OURS: tuple[str | Plain, ...] = ("auto", "fast", "halving", _exhaustive, _once, _last, _middle, _at_random)


def _worth(
    name: str, table: Table, play: Callable[[Table, Sequence[int], int], tuple[int, float]], n_draws: int
) -> Replay:
    from scipy.stats import t

    if len(table.seeds) < 2:
        raise SearchError("one seed cannot be held out", where=table.name, next="give a table with two seeds or more")
    choices, costs, regrets, points = [], [], [], []
    for place, _ in enumerate(table.seeds):
        seen = [seed for other, seed in enumerate(table.seeds) if other != place]
        own = [play(table, seen, draw) for draw in range(n_draws)]
        picks = [table.layers.index(layer) for layer, _ in own]
        choices += [layer for layer, _ in own]
        costs += [cost for _, cost in own]
        regrets.append(float(np.mean(table.validation[picks, place])) - float(table.validation[:, place].min()))
        points.append(100 * float(table.test[:, place].max() - np.mean(table.test[picks, place])))
    mean = float(np.mean(regrets))
    half = float(t.isf(0.025, len(regrets) - 1)) * float(np.std(regrets, ddof=1)) / math.sqrt(len(regrets))
    return Replay(
        strategy=name,
        table=table.name,
        choices=tuple(choices),
        regret=mean,
        low=max(mean - half, 0.0),  # below nothing there is no regret
        high=mean + half,
        in_noise=mean / table.noise if table.noise else math.nan,
        points=float(np.mean(points)),
        cost=float(np.mean(costs)),
    )


def _play_plain(strategy: Plain, table: Table, seen: Sequence[int], draw: int) -> tuple[int, float]:
    ask = Ask(table, seen, np.random.default_rng([draw, *seen]))
    layer = strategy(ask)
    if not is_number(layer, int) or layer not in table.layers:
        raise SearchError(
            f"the strategy chose layer {layer!r:.60}", where=table.name, next=f"return one of {_shown(table.layers)}"
        )
    return int(layer), ask.spent


def _play_named(name: str, table: Table, seen: Sequence[int], draw: int) -> tuple[int, float]:
    """Let a strategy of the search ask, as the search would, until it has nothing more to ask or 15 runs are spent."""
    from pifi_probe.selection.space import Space, place_of
    from pifi_probe.selection.strategies import make_strategy
    from pifi_probe.selection.trials import Outcome, Trial

    space = Space(((table.llm, table.n_layers),), (table.layers,))
    strategy: Strategy = make_strategy(name, space, seeds=len(seen), seed=draw)
    ask = Ask(table, seen, np.random.default_rng(draw))
    trials: list[Trial] = []
    most = max(0.15 * len(table.layers) * len(table.seeds), 1.0)
    while (proposal := strategy.propose((), most - ask.spent)) is not None:
        before = ask.spent
        if before + table.costs.get(proposal.fidelity, 1.0) > most + 1e-9:
            break
        index = place_of(proposal.candidate.layers[0])[1]
        outcome = Outcome(ask(index, proposal.seed, proposal.fidelity), cost=ask.spent - before)
        trials.append(Trial(proposal.candidate, proposal.fidelity, proposal.seed, "complete", outcome, len(trials)))
        strategy.observe(trials[-1])
    best = strategy.choose()
    if best is None:
        raise SearchError(f"the strategy {name!r} chose nothing", where=table.name, next="use another one")
    return place_of(best.layers[0])[1], ask.spent


def _named(name: str | None) -> list[Table]:
    known = tables()
    found = [table for table in known if name in (None, table.name)]
    if not found:
        raise SearchError(
            f"there is no table {name!r:.80}",
            where="layerbench",
            next=f"use one of {', '.join(t.name for t in known)}, or one of layerbench.tables(path)",
        )
    return found


def _shown(layers: Sequence[int]) -> str:
    return ", ".join(str(layer) for layer in layers)


@functools.lru_cache(maxsize=1)
def _recorded() -> tuple[Table, ...]:
    home = importlib.resources.files("pifi_probe").joinpath("layerbench.json")
    record = json.loads(home.read_text(encoding="utf-8"))
    return tuple(_table(values) for values in record["tables"])


def _read(path: Path) -> tuple[Table, ...]:
    try:
        return tuple(_table(values) for values in read_json(path)["tables"])
    except (OSError, ValueError, KeyError, TypeError, zlib.error) as error:
        reason = f"there is no entry {error}" if isinstance(error, KeyError) else error
        raise CorruptFileError(
            f"this is not a LayerBench: {reason}", where=str(path), next="compare it with the package's layerbench.json"
        ) from error


def _table(values: Mapping[str, Any]) -> Table:
    n, metric = int(values["sizes"]["test"]), str(values["metric"])
    scores = {}
    for run in values["runs"]:
        found = decode_bits(run["correct"], n) if metric == "accuracy" else np.array(run["scores"].split(), dtype=float)
        scores[str(run["kind"]), int(run["layer"]), int(run["seed"])] = found
    layers, seeds = tuple(map(int, values["layers"])), tuple(map(int, values["seeds"]))
    validation = np.array(values["validation"], dtype=np.float64)
    if validation.shape != (len(layers), len(seeds)):
        raise ValueError(f"{values['name']}: losses of shape {validation.shape}")
    expected = {(LAYER, layer, seed) for layer in layers for seed in seeds}
    if len(expected) < validation.size or not np.isfinite(validation).all():
        raise ValueError(f"{values['name']}: a layer or seed occurs twice, or a loss is not finite")
    if other := sorted(expected ^ {run for run in scores if run[0] == LAYER}):
        kind = "has no runs" if other[0] in expected else "does not list the runs"
        raise ValueError(f"{values['name']} {kind} of layer {other[0][1]}, seed {other[0][2]}")
    return Table(
        name=str(values["name"]),
        task=str(values["task"]),
        slm=str(values["slm"]),
        llm=str(values["llm"]),
        wiring=in_words_of_today({"wiring": str(values["wiring"])})["wiring"],
        encoder=str(values.get("encoder", "trained")),
        n_layers=int(values["n_layers"]),
        layers=layers,
        seeds=seeds,
        controls=tuple((str(kind), int(index)) for kind, index in values["controls"]),
        complete=len(layers) == int(values["n_layers"]),
        sizes=dict(values["sizes"]),
        metric=metric,
        validation=validation,
        scores=scores,
        cheap={
            fidelity: {int(seed): np.array(losses, dtype=np.float64) for seed, losses in own.items()}
            for fidelity, own in values["cheap"].items()
        },
        costs=dict(values["costs"]),
    )


def encode_bits(correct: str) -> str:
    """Return a string of 0 and 1 as base64 of its packed bits."""
    return base64.b64encode(np.packbits(np.array(list(correct), dtype=np.uint8)).tobytes()).decode("ascii")


def decode_bits(text: str, n: int) -> Floats:
    """Return the first n bits as 0 or 1."""
    packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
    if not 0 <= n <= 8 * len(packed):
        raise ValueError(f"{8 * len(packed)} bits for {n} examples")
    return np.unpackbits(packed)[:n].astype(np.float64)
