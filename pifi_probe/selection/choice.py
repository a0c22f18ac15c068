"""From the records of a search to what runs again on fresh seeds, and to its table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from pifi_probe.ladder import control_seeds
from pifi_probe.selection.space import ONE_SHOT, Candidate, Space
from pifi_probe.selection.store import SELECT, Record
from pifi_probe.selection.trials import RUNGS, Proposal, Trial

__all__ = [
    "CONFIRM_SEED",
    "arms_of",
    "confirm_rung",
    "confirmations",
    "default_layer",
    "last_layer",
    "layer_seed_table",
    "selected",
    "top_rung",
]

CONFIRM_SEED = 1000  # seeds from here on are never used for selection


def selected(records: Iterable[Record]) -> list[Trial]:
    """Return the finished trials of selection, by number."""
    return [record.trial for record in records if record.phase == SELECT and record.trial.outcome is not None]


def top_rung(trials: Iterable[Trial]) -> str | None:
    """Return the highest rung with a complete trial; None before there is one."""
    reached = {trial.rung for trial in trials if trial.state == "complete"}
    return next((rung for rung in reversed(RUNGS) if rung in reached), None)


def default_layer(space: Space) -> Candidate:
    """Return the last layer of the first model that the search may choose: without `layers`, the paper's choice."""
    model, _ = space.models[0]
    return Candidate((f"{model}[{space.layers[0][-1]}]",), modes=space.modes[0])


def last_layer(space: Space) -> Candidate:
    """Return the paper's choice, which every choice is compared with: the last layer of the first model."""
    model, n_layers = space.models[0]
    return Candidate((f"{model}[{n_layers - 1}]",))


def arms_of(chosen: Candidate, space: Space) -> dict[str, Candidate]:
    """Return the chosen candidate, and the controls that its gain is measured against."""

    def control(name: str) -> Candidate:
        return Candidate(chosen.layers, chosen.design, chosen.modes, name)

    arms = {
        "chosen": chosen,
        "vanilla": Candidate((), modes=chosen.modes, control="vanilla"),
        "linear": control("linear"),
        "random": control("random"),
        "shuffled": control("shuffled"),
        "last layer": Candidate(last_layer(space).layers, modes=chosen.modes),
    }
    if arms["last layer"] == chosen:
        del arms["last layer"]
    return arms


def confirm_rung(top: str) -> str:
    """Return the rung on which a choice made on the rung `top` is confirmed."""
    return "frozen" if top in ("estimator", "frozen") else "full"


def confirmations(trials: Sequence[Trial], chosen: Candidate | None, space: Space, n_seeds: int) -> list[Proposal]:
    """Return the runs of the choice and its controls on fresh seeds, seed by seed.

    The encoder alone, the projections and the twins are in every comparison, so they get further seeds; see
    `control_seeds`.
    """
    top = top_rung(trials)
    if chosen is None or top is None:
        return []
    arms = arms_of(chosen, space)
    n_layers = sum(candidate.control is None for candidate in arms.values())
    return [
        Proposal(candidate, confirm_rung(top), CONFIRM_SEED + seed, f"confirms the choice: {name}, fresh seed")
        for seed in range(control_seeds(n_seeds, n_layers))
        for name, candidate in arms.items()
        if seed < n_seeds or candidate.control is not None
    ]


def layer_seed_table(
    trials: Iterable[Trial], rung: str, space: Space
) -> tuple[list[Candidate], list[int], NDArray[np.float64]]:
    """Return single layers, seeds, and the value of each layer with each seed, (layers, seeds).

    The seeds are those that give the largest table without a gap; empty below 3 layers, 2 seeds, or half of the
    space.
    """
    values: dict[Candidate, dict[int, float]] = defaultdict(dict)
    for trial in trials:
        candidate = trial.candidate
        single = candidate.design == "single" and candidate.control is None and candidate.design != ONE_SHOT
        if single and trial.rung == rung and trial.state == "complete" and trial.outcome is not None:
            values[candidate][trial.seed] = trial.outcome.value
    seeds = sorted({seed for own in values.values() for seed in own})
    best: tuple[list[Candidate], list[int]] = ([], [])
    by_use = sorted(seeds, key=lambda seed: (-sum(seed in own for own in values.values()), seed))
    for n in range(2, len(seeds) + 1):
        rows = [candidate for candidate, own in values.items() if all(seed in own for seed in by_use[:n])]
        if len(rows) >= max(3, len(space.singles()) / 2) and len(rows) * n > len(best[0]) * len(best[1]):
            best = rows, sorted(by_use[:n])
    table = np.array([[values[candidate][seed] for seed in best[1]] for candidate in best[0]])
    return best[0], best[1], table
