"""From single measurements to a table: the one place where intervals, nulls and best sets are made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.probing.table import DTYPES, ProbeTable, series_name
from pifi_probe.scoring.intervals import (
    N_FIFTHS,
    adjusted_p_values,
    best_by_fifths,
    difference_p_values,
    example_half_widths,
    fifth_half_width,
)
from pifi_probe.scoring.points import Kind, Measured
from pifi_probe.stats import MIN_SEEDS, holm

__all__ = ["build_table"]

Floats = NDArray[np.float64]
Group = tuple[str, str, str]  # estimator, projection, arm
BY_FIFTHS = "95 % from five disjoint fifths (t, 4 degrees of freedom; assumes spread falls as 1/sqrt(n))"


def build_table(
    family: str,
    measured: Sequence[Measured],
    info: Mapping[str, Any],
    *,
    kinds: Mapping[str, Kind] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> ProbeTable:
    """Return the table of single measurements, with intervals, nulls and best sets.

    Rows of one estimator, projection and arm are a series: its layers are compared with one another.

    Parameters
    ----------
    family : {"own-state", "plug-in"}
    measured : sequence of Measured
    info : mapping
        What was measured, as values that JSON can hold: ``llm``, ``task``, ``n`` (number of examples) and ``split``
        for the caption; every other entry is shown as a line ``key: value``, underscores as spaces; ``notes`` (a
        list of sentences) are shown below.
    kinds : mapping of str to Kind, optional
        Estimators that are not in the registry, or that have another title, unit or direction here.
    provenance : mapping, optional
        By default what `pifi_probe.provenance.collect` returns.

    Returns
    -------
    ProbeTable

    Raises
    ------
    PifiProbeError
        If there is nothing to show, or measurements contradict each other.
    EstimatorError
        If an estimator is unknown.
    """
    import pandas as pd

    from pifi_probe.provenance import collect

    if not measured:
        raise PifiProbeError("nothing was measured", where=family, next="give at least one layer and one estimator")
    groups: dict[Group, list[Measured]] = {}
    for one in measured:
        groups.setdefault((one.estimator, one.projection, one.arm), []).append(one)
    known = {name: (kinds or {}).get(name) or _registered(name) for name, _, _ in groups}
    rows = [row for group, own in groups.items() for row in _rows(family, own, known[group[0]], int(info["n"]))]
    return ProbeTable(
        family=family,
        frame=pd.DataFrame(rows, columns=list(DTYPES)).astype(DTYPES),
        kinds=known,
        per_example={
            series_name(*group): np.stack(parts).astype(np.float32)
            for group, own in groups.items()
            if len(parts := [one.per_example for one in own if one.per_example is not None]) == len(own)
        },
        info=json.loads(json.dumps(info)),
        provenance=json.loads(json.dumps(collect() if provenance is None else provenance)),
    )


def _registered(name: str) -> Kind:
    from pifi_probe.scoring.estimators import registry

    found = registry.get(name)
    return Kind(found.title, found.unit, found.larger_is_better)


def _rows(family: str, own: list[Measured], kind: Kind, n: int) -> list[dict[str, Any]]:
    """Return the rows of one series."""
    _check(own)
    sign = 1.0 if kind.larger_is_better else -1.0
    below, above, words = _interval(own)
    best = _best_set(own, sign)
    p_values, adjusted = _p_values(own, sign, below, above, words)
    return [
        {
            "family": family,
            "estimator": one.estimator,
            "projection": one.projection,
            "arm": one.arm,
            "depth": one.depth,
            "layer": one.layer,
            "position": one.position if one.layer is not None else "",
            "value": one.value,
            "low": one.value - below[i],
            "high": one.value + above[i],
            "interval": words,
            **_null_columns(one, sign),
            "p_value": p_values[i],
            "p_adjusted": adjusted[i],
            "in_best_set": bool(best[i]),
            "n": n if one.per_example is None else one.per_example.shape[-1],
            "unit": kind.unit,
            "note": one.note,
        }
        for i, one in enumerate(own)
    ]


def _check(own: list[Measured]) -> None:
    """Refuse a series that no table can show."""
    for one in own:
        name = f"{series_name(one.estimator, one.projection, one.arm)} at depth {one.depth}"
        if np.isinf(one.value):
            raise PifiProbeError("a score is infinite", where=name, next="give NaN and a note where there is none")
        if one.fifths is not None and np.shape(one.fifths) != (N_FIFTHS,):
            raise PifiProbeError(
                f"{np.shape(one.fifths)} are not five scores", where=name, next="score each fifth once"
            )
        if one.per_example is not None:
            mean = float(np.mean(one.per_example))
            if not np.isclose(mean, one.value, rtol=1e-4, atol=1e-6, equal_nan=True):
                raise PifiProbeError(
                    f"the scores of the examples average to {mean:.6g}, the score is {one.value:.6g}",
                    where=name,
                    next="give per-example scores in the unit of the score, or none",
                )
    depths = [one.depth for one in own]
    if len(set(depths)) != len(depths):
        twice = next(depth for depth in depths if depths.count(depth) > 1)
        raise PifiProbeError(
            f"depth {twice} was measured twice", where=series_name(own[0].estimator, own[0].projection, own[0].arm)
        )
    if len({np.shape(one.per_example) for one in own if one.per_example is not None}) > 1:
        raise PifiProbeError(
            "layers were scored on different examples or seeds", where=own[0].estimator, next="use the same for all"
        )


def _interval(own: list[Measured]) -> tuple[Floats, Floats, str]:
    """Return how far below and above its value each row's interval reaches, and how it was made."""
    nowhere = np.full(len(own), np.nan)
    if (scores := _by_example(own)) is not None:
        below, above = example_half_widths(scores)
        seeds = f" and {scores.shape[1]} seeds" if scores.shape[1] >= MIN_SEEDS else ""
        return below, above, f"95 % over {scores.shape[2]} examples{seeds} (bootstrap{', t' if seeds else ''})"
    if (fifths := _fifths(own)) is not None:
        half = np.array([fifth_half_width(row) for row in fifths])
        return half, half, BY_FIFTHS
    return nowhere, nowhere, "none"


def _by_example(own: list[Measured]) -> Floats | None:
    """Return the scores of a series as (A, S, N), or None where a row has none."""
    if any(one.per_example is None for one in own):
        return None
    stacked = np.stack([np.atleast_2d(np.asarray(one.per_example, dtype=np.float64)) for one in own])
    return stacked if np.isfinite(stacked).all() else None


def _fifths(own: list[Measured]) -> Floats | None:
    """Return the scores of a series on the fifths as (A, 5), or None where a row has none."""
    if any(one.fifths is None for one in own):
        return None
    return np.stack([np.asarray(one.fifths, dtype=np.float64) for one in own])


def _best_set(own: list[Measured], sign: float) -> NDArray[np.bool_]:
    """Return which layers of a series cannot be told from its best; a control without a layer is in no set."""
    from pifi_probe.ranking import best_set

    chosen = np.zeros(len(own), dtype=bool)
    usable = [i for i, one in enumerate(own) if one.depth is not None and np.isfinite(one.value)]
    layers = [own[i] for i in usable]
    if not layers:
        return chosen
    if (scores := _by_example(layers)) is not None:
        chosen[usable] = best_set(sign * scores)
    elif (fifths := _fifths(layers)) is not None and np.isfinite(fifths).all():
        chosen[usable] = best_by_fifths(sign * np.array([one.value for one in layers]), sign * fifths)
    else:
        chosen[usable] = True  # without an interval, nothing can be told apart
    return chosen


def _null_columns(one: Measured, sign: float) -> dict[str, float]:
    if one.null is None:
        return dict.fromkeys(("null_mean", "null_high", "selectivity"), np.nan)
    null = np.asarray(one.null, dtype=np.float64)
    return {
        "null_mean": float(null.mean()),
        "null_high": float(sign * np.quantile(sign * null, 0.95)),
        "selectivity": float(sign * (one.value - null.mean())),
    }


def _p_values(own: list[Measured], sign: float, below: Floats, above: Floats, words: str) -> tuple[Floats, Floats]:
    """Return the p-value of each row alone, and corrected for the number of layers; NaN where there is no null."""
    values, nowhere = np.array([one.value for one in own]), np.full(len(own), np.nan)
    nulls = [one.null for one in own if one.null is not None]
    if not np.isfinite(values).all():
        return nowhere, nowhere
    if len(nulls) == len(own):
        drawn = sign * np.stack(nulls)
        reached = (drawn >= sign * values[:, None]).sum(axis=1)
        return (1 + reached) / (1 + drawn.shape[1]), adjusted_p_values(sign * values, drawn)
    if " - " in own[0].arm and np.isfinite(below).all():
        alone = difference_p_values(values, below, above, by_fifths=words == BY_FIFTHS)
        return alone, np.array(holm(alone.tolist()))
    return nowhere, nowhere
