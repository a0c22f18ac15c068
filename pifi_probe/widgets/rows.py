"""What the chart is told: trials and results as values that JSON can hold."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pifi_probe.selection.conclude import LayerPosterior, SearchResult
from pifi_probe.selection.separate import Separation
from pifi_probe.selection.space import Candidate, Space, place_of
from pifi_probe.selection.store import SELECT, Record
from pifi_probe.selection.trials import FIDELITIES, Outcome, Trial

__all__ = ["Row", "agreement", "best_set", "headrooms", "phase_of", "row_of", "summary_of"]

Row = dict[str, Any]
SURE = 0.95  # probability that the shaded set holds the best layer


def row_of(trial: Trial, phase: str) -> Row:
    """Return a trial of a phase, "select" or "confirm", as one row; what is not known is None."""
    outcome = trial.outcome or Outcome(math.nan)
    candidate = trial.candidate
    return {
        "n": trial.number,
        "label": candidate.label,
        "kind": candidate.control or candidate.design,
        "control": candidate.control is not None,
        "x": _place(candidate),
        "entry": _entry(candidate),
        "length": len(candidate.layers),
        "model": place_of(candidate.layers[0])[0] if candidate.layers else "",
        "fidelity": trial.fidelity,
        "seed": trial.seed,
        "phase": phase,
        "state": trial.state,
        "value": _known(outcome.value),
        "accuracy": _known(outcome.accuracy),
        "cost": outcome.cost,
        "seconds": _known(outcome.seconds),
        "latency": _known(outcome.latency),
        "bytes": outcome.bytes,
        "why": trial.why,
        "message": outcome.message,
        "facts": _facts(outcome.result or {}),
    }


def _place(candidate: Candidate) -> float | None:
    """Return where a candidate stands on the axis: the mean index of its layers."""
    indices = [place_of(layer)[1] for layer in candidate.layers]
    if not indices or candidate.surveys:
        return None
    return sum(indices) / len(indices)


def _entry(candidate: Candidate) -> int | None:
    """Return the first layer of a chain of neighbouring layers; None for other combinations."""
    chain = candidate.design in ("single", "serial") and candidate.layers
    return place_of(candidate.layers[0])[1] if chain else None


def headrooms(records: Iterable[Record]) -> dict[str, list[float]]:
    """Return by model the points that its states add to the encoder at each depth, where chains were ranked by it."""
    found = {}
    for record in records:
        curve = ((record.trial.outcome.result if record.trial.outcome else None) or {}).get("headroom")
        if curve and record.trial.candidate.layers:
            found[place_of(record.trial.candidate.layers[0])[0]] = list(curve)
    return found


def _facts(result: Mapping[str, Any]) -> Row:
    """Return what the detail card shows of a run: recipe, curve and memory, as far as they were recorded."""
    found: Row = {}
    if result.get("recipe"):
        found["recipe"] = {name: str(value) for name, value in dict(result["recipe"]).items()}
    if result.get("epochs"):
        found["curve"] = [_known(epoch.get("nll")) for epoch in result["epochs"]]
    memory = (result.get("peak_memory") or {}).get("rss_bytes")
    return found | ({"memory": memory} if memory else {})


def _known(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def summary_of(
    result: SearchResult | None,
    space: Space,
    rows: Sequence[Row] = (),
    apart: Separation | None = None,
    headroom: Mapping[str, Sequence[float]] | None = None,
) -> Row:
    """Return what is believed and chosen so far.

    Parameters
    ----------
    result : SearchResult or None
        None before the first trial is complete.
    space : Space
    rows : sequence of Row
        The trials, for how alike neighbouring fidelities rank.
    apart : Separation, optional
        What would tell the two best candidates apart.
    headroom : mapping of str to sequence of float, optional
        See `headrooms`.
    """
    found: Row = {
        "models": [list(model) for model in space.models],
        "headroom": {name: [round(value, 3) for value in curve] for name, curve in (headroom or {}).items()},
        "answer": "",
        "verdict": "",
        "ladder": [],
        "posterior": [],
        "chosen": "",
    }
    if result is None:
        return found
    held = best_set(result.posterior, chosen=result.chosen.label)
    posterior = [
        {
            "label": posterior.label,
            "model": posterior.label.rpartition("[")[0],
            "x": int(posterior.label.rpartition("[")[2][:-1]),
            "mean": _known(posterior.mean),
            "sd": _known(posterior.sd),
            "p": _known(posterior.p_best),
            "best": posterior.label in held,
        }
        for posterior in result.posterior
    ]
    gains = [{"control": gain.control, "words": gain.words} for gain in result.gains]
    return found | {
        "answer": result.answer,
        "verdict": "\n".join(result.details),
        "ladder": _ladder(result),
        "chosen": result.chosen.label,
        "fidelity": result.fidelity,
        "posterior": posterior,
        "regret": result.expected_regret,
        "gains": gains,
        "agreement": agreement(rows),
        "change": {} if apart is None else {"words": str(apart), "offer": apart.offer},
    }


def _ladder(result: SearchResult) -> list[Row]:
    """Return the ladder of the confirmation on the task's own test set; empty before it."""
    frame = result.ladder()
    own = frame[frame["panel"] == frame["panel"].iloc[0]] if len(frame) else frame
    rows = own.drop(columns="panel").round(4).to_dict("records")
    return [{str(name): value for name, value in row.items()} | {"unit": result.unit} for row in rows]


def best_set(posterior: Iterable[LayerPosterior], sure: float = SURE, chosen: str = "") -> set[str]:
    """Return the fewest layers that hold the best one with probability `sure`; the chosen one is always among them."""
    found: set[str] = set()
    total = 0.0
    for one in sorted(posterior, key=lambda each: (each.label != chosen, -each.p_best)):
        if total >= sure:
            break
        found.add(one.label)
        total += one.p_best
    return found


def agreement(rows: Iterable[Row]) -> list[Row]:
    """Return for each used fidelity and the next one how alike they rank: Kendall's tau, and of how many candidates."""
    from pifi_probe.ranking import rank_agreement

    values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["phase"] == SELECT and row["state"] == "complete" and not row["control"] and row["kind"] != "one-shot":
            values[row["fidelity"]][row["label"]].append(row["value"])
    used = [fidelity for fidelity in FIDELITIES if fidelity in values]
    found = []
    for lower, upper in zip(used, used[1:], strict=False):
        both = [label for label in values[lower] if label in values[upper]]
        below, above = ([sum(own[one]) / len(own[one]) for one in both] for own in (values[lower], values[upper]))
        tau = rank_agreement(below, above)["kendall"] if len(both) > 1 else None
        found.append({"lower": lower, "upper": upper, "kendall": _known(tau), "n": len(both)})
    return found


def phase_of(name: str) -> str:
    """Return the phase in words."""
    return "selecting" if name == SELECT else "confirming the choice on fresh seeds"
