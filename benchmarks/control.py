"""The positive control of the embedded donors, and what it costs.

Every donor has a fresh process and an empty cache of results: all layers on the donor's own states, then a foreign code
through the layer with the largest effect and its neighbour below.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _common import Usage, in_child, parser, record, target

from pifi_probe.layers.control import ARMS, ControlRow, PositiveControl

DONORS = ("smollm2-135m",)  # others are pulled or named: --donors gemma3-270m, or a folder
QUICK = {"n_words": 30, "length": 6, "n_fit": 24, "n_test": 8, "n_align": 16}
CORES, LIMIT = 2, 120  # seconds
FORMS = ("own states", "foreign code")


def main() -> None:
    """Control every donor, record."""
    options = parser(__doc__)
    options.add_argument("--donors", nargs="+", default=list(DONORS), metavar="NAME")
    chosen = options.parse_args()
    if chosen.child:
        print(json.dumps(measure(**json.loads(chosen.child))))
        return
    measurements: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pifi-control-") as scratch:
        donors = [_tiny(scratch)] if chosen.quick else chosen.donors
        for donor in donors:
            task = {"donor": donor, "seed": chosen.seed, "sizes": QUICK if chosen.quick else {}}
            measurements["tiny" if chosen.quick else donor] = in_child(__file__, task)
    settings = {"donors": list(measurements)}
    own = chosen.quick or tuple(chosen.donors) == DONORS  # a record of other donors has a file of its own
    name = "control" if own else f"control_{'_'.join(chosen.donors)}"
    record(name, chosen, settings, measurements, tables(measurements, settings))


def measure(donor: str, seed: int, sizes: Mapping[str, int]) -> dict[str, Any]:
    """Control one donor in this fresh process, both forms."""
    import pifi_probe as pp
    from pifi_probe import assets

    if not Path(donor).exists():
        assets.path(donor)  # before the clock starts
    found: dict[str, Any] = {}
    for form in FORMS:
        usage = Usage()
        control = pp.positive_control(
            donor, _chain(found), foreign=form == FORMS[1], seed=seed, cache=False, progress=False, **sizes
        )
        found[form] = {"usage": usage.until_now(), "control": control.to_dict()}
    return found


def _chain(found: Mapping[str, Any]) -> list[int] | None:
    """Return the chain of the foreign form: the peak of the first form behind its neighbour below."""
    if not found:
        return None
    peak = PositiveControl.from_dict(found[FORMS[0]]["control"]).peak.layers[0]
    return [peak - 1, peak] if peak else [peak]


def _tiny(scratch: str) -> str:
    from _checkpoint import llama_tiny, write_checkpoint

    return str(write_checkpoint(Path(scratch) / "tiny", llama_tiny(3), seed=0))


def tables(measurements: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rows that the weights of a donor are seen in, and the target."""
    targets, rows = [], []
    for donor in settings["donors"]:
        for form, found in measurements[donor].items():
            if form == "failed":
                rows.append({"donor": donor, "failed": found})
                continue
            control = PositiveControl.from_dict(found["control"])
            usage = found["usage"]
            if form == FORMS[0]:
                what = f"{donor}, {len(control.rows)} layers: processor seconds of each of {CORES} cores"
                targets.append(target(what, usage["cpu_seconds"] / CORES, most=LIMIT, unit=" s"))
                targets.append(target(f"{donor}: seconds by the clock, machine shared", usage["seconds"]))
            for row in shown(control):
                shares = {arm: f"{100 * row.accuracy(arm).mean:.1f}" for arm in ARMS}
                gap = f"{100 * row.effect.mean:+.1f} [{100 * row.effect.low:.1f}, {100 * row.effect.high:.1f}]"
                place = {"donor": donor, "enters": form, "layers": row.name}
                rows.append({**place, **shares, "effect, points": gap, "works": control.works(row.layers)})
    return {"targets": targets, "rows": rows}


def shown(control: PositiveControl) -> list[ControlRow]:
    """Return the rows of a table that has room for few: those that work, the peak and the last layer."""
    few = [*control.working, control.peak, control.rows[-1]]
    return [row for row in control.rows if row in few]


if __name__ == "__main__":
    main()
