"""Can a pipeline see an effect of its donor's weights at all? What the positive control says, where it was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pifi_probe.layers.control import PositiveControl, known_control
from pifi_probe.layers.spec import ModelRef
from pifi_probe.training.check import Check

__all__ = ["NAME", "Plugged", "check_sight", "plugged_in"]

NAME = "sight of the weights"


@dataclass(frozen=True)
class Plugged:
    """Layers of a donor as an arm plugs them in.

    Parameters
    ----------
    donor : ModelRef
    layers : tuple of int
    feed : str
        "pooled" (one vector a text) or "sequence".
    """

    donor: ModelRef
    layers: tuple[int, ...]
    feed: str


def plugged_in(descriptions: Iterable[Mapping[str, Any]]) -> tuple[Plugged, ...]:
    """Return the donors of arms with real layers, each once; descriptions as `describe_model` makes them."""
    found: dict[Plugged, None] = {}
    for about in descriptions:
        donors: dict[ModelRef, list[int]] = {}
        for layer in about["layers"]:
            if layer.get("variant", "real") == "real":
                donors.setdefault(ModelRef(layer["model"], layer.get("revision")), []).append(int(layer["index"]))
        feed = str(about.get("feed") or "sequence")
        found |= dict.fromkeys(Plugged(donor, tuple(layers), feed) for donor, layers in donors.items())
    return tuple(found)


def check_sight(plugged: Plugged) -> Check:
    """Say whether an effect of the weights could be seen with these layers, fed in this way.

    Reads what `pifi_probe.positive_control` has kept on this machine and measures nothing.
    """
    donor = plugged.donor
    control = known_control(*donor)
    if control is None:
        finding = f"the positive control of {donor} has not been measured here: what 'no effect' means is open"
        return Check(NAME, "skipped", finding, advice=f"run `pifi-probe control {donor}`")
    evidence = {"peak": control.peak.name, "working": [row.name for row in control.working]}
    if not control.passed:
        finding = f"no layer of {donor} does what its twins do not, even on its own states ({_measured(control)})"
        advice = "conclude nothing from 'no effect' with this donor; take another one"
        return Check(NAME, "warn", finding, evidence, advice)
    use = f"layers {', '.join(evidence['working'])} show one"
    if plugged.feed != "sequence":
        row = control.peak
        finding = (
            f"the layer gets one vector a text; one token at a time, even layer {row.name} of {donor} leaves "
            f"{_percent(row, 'one token')} to read ({_percent(row, 'real')} with the sequence, "
            f"{_percent(row, 'none')} without the layer)"
        )
        advice = f'feed="sequence" is what an effect of the weights needs; {use}'
        return Check(NAME, "warn", finding, evidence, advice)
    own = [row for row in control.rows if set(row.layers) <= set(plugged.layers)]
    working = [row for row in own if control.works(row.layers)]
    if not own:
        finding = f"layer {', '.join(map(str, plugged.layers))} of {donor} has not been measured ({_measured(control)})"
        return Check(NAME, "skipped", finding, evidence, f"run `pifi-probe control {donor}`")
    if not working:
        row = max(own, key=lambda row: row.effect.mean)
        finding = (
            f"layer {row.name} of {donor} does nothing that its twins do not, even on its own states: "
            f"{_percent(row, 'real')} read after it, {_percent(row, 'none')} without it"
        )
        advice = f"a 'no effect' of this layer says nothing about the donor; {use}"
        return Check(NAME, "warn", finding, evidence, advice)
    best = max(working, key=lambda row: row.effect.mean)
    finding = (
        f"on repeated random words layer {best.name} of {donor} does what its twins do not: {_percent(best, 'real')} "
        f"read after it, {_percent(best, 'none')} without it, {_percent(best, 'shuffled')} after its shuffled twin"
    )
    return Check(NAME, "ok", finding, evidence)


def _percent(row: Any, arm: str) -> str:
    return f"{100 * row.accuracy(arm).mean:.1f} %"


def _measured(control: PositiveControl) -> str:
    return f"{len(control.rows)} of {control.n_layers} layers measured"
