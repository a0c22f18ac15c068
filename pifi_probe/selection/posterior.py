"""What the trials say: the candidate to choose, whether layers differ at all, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from pifi_probe.selection.budget import Spent
from pifi_probe.selection.choice import default_layer, layer_seed_table, selected, top_rung
from pifi_probe.selection.depths import layer_posterior
from pifi_probe.selection.layer_effect_test import layer_effect
from pifi_probe.selection.result import (
    LayerPosterior,
    SearchResult,
    confirmation_cost,
    effects_found,
    failures,
    gains_of,
)
from pifi_probe.selection.space import Candidate, Space
from pifi_probe.selection.store import Record
from pifi_probe.selection.trials import RUNGS, Strategy, Trial

__all__ = ["conclude", "pick"]


def pick(strategy: Strategy, trials: Sequence[Trial], space: Space) -> tuple[Candidate | None, bool, str]:
    """Return the choice, whether it is the default layer for want of an effect, and the effect in words.

    Parameters
    ----------
    strategy : Strategy
        That has observed the trials.
    trials : sequence of Trial
        Finished, of selection.
    space : Space
    """
    chosen = strategy.choose()
    if chosen is None:
        return None, False, ""
    for rung in reversed(RUNGS):
        layers, _, table = layer_seed_table(trials, rung, space)
        if layers:
            effect = layer_effect(table)
            words = f"{effect.verdict} ({rung} runs, {table.shape[0]} layers, {table.shape[1]} seeds)"
            if effect.something_to_select or space.max_layers > 1:
                return chosen, False, words
            default = default_layer(space)
            broken = any(trial.candidate == default and trial.state == "failed" for trial in trials)
            return (chosen, False, words) if broken else (default, True, words)
    return chosen, False, ""


def conclude(strategy: Strategy, records: Sequence[Record], space: Space, spent: Spent) -> SearchResult | None:
    """Return what a search found so far; None before a trial of selection is complete."""
    trials = selected(records)
    rung = top_rung(trials)
    chosen, default, effect = pick(strategy, trials, space)
    if chosen is None or rung is None:
        return None
    posterior, regret = _posterior(trials, rung, chosen, space)
    confirm_rung, cost, seconds, n_runs = confirmation_cost(records)
    effects, lacking = effects_found(records, chosen, space)
    return SearchResult(
        chosen=chosen,
        default=default,
        rung=rung,
        effect=effect,
        posterior=posterior,
        expected_regret=regret,
        gains=gains_of(records, chosen, space),
        confirm_rung=confirm_rung,
        confirm_cost=cost,
        confirm_seconds=seconds,
        spent=spent,
        failed=failures(records),
        effects=effects,
        missing=lacking,
        confirm_runs=n_runs,
    )


def _posterior(
    trials: Sequence[Trial], rung: str, chosen: Candidate, space: Space
) -> tuple[tuple[LayerPosterior, ...], float | None]:
    """Return what is believed of every single layer, and the expected regret of the choice."""
    if space.max_layers > 1 or space.modes != ((),):
        return (), None
    layers = space.singles()
    values: dict[Candidate, dict[int, float]] = {}
    for trial in trials:
        if trial.rung == rung and trial.state == "complete" and trial.outcome is not None:
            values.setdefault(trial.candidate, {})[trial.seed] = trial.outcome.value
    found = layer_posterior(layers, values, space)
    if found is None:
        return (), None
    shares = found.p_best
    posteriors = tuple(
        LayerPosterior(
            label=one.label,
            depth=space.depth(one),
            mean=float(found.mean[i]),
            sd=float(found.sd[i]),
            p_best=float(shares[i]),
        )
        for i, one in enumerate(layers)
    )
    return posteriors, found.regret(layers.index(chosen)) if chosen in layers else None
