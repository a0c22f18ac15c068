"""The argument of chapters 07 to 11: what a donor's states know by depth, and what plugged layers and chains give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pifi_probe.checks.session import record, recorded
from pifi_probe.errors import PifiProbeError
from pifi_probe.features.headroom_table import Headroom
from pifi_probe.probing.table import ProbeTable
from pifi_probe.reading import read_object
from pifi_probe.reporting.looks import ARMS, INK, styled
from pifi_probe.reporting.plots import framed, whole_ticks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["chain_gains", "depth_figure", "gains_by_depth"]

STEPS = {  # part of the argument: (what the legend says, colour, marker)
    "states": ("07: the donor's own states, read by a probe", "#009E73", "o"),
    "probe": ("08: one layer plugged in, untrained", "#A67C00", "v"),
    "trained": ("09: one layer plugged in, trained", "#B8629A", "D"),
    "chain": ("00b and 10: seven layers, aligned, on all tokens", *ARMS["real"]),
}
PROBES = "book/_studies/probes/movie-reviews-"
MATCHED = "book/_studies/truth/movie-reviews-matched"
CHAINS = "book/_studies/chains"


def gains_by_depth() -> dict[str, pd.DataFrame]:
    """Return what each way of using a layer gives over the encoder alone, on recorded film reviews.

    Returns
    -------
    dict
        ``"states"``, ``"probe"``, ``"trained"`` and ``"chain"``: a frame with the columns ``first`` and ``last``
        (layers) and ``gain``, in points of accuracy over the encoder alone of the same record: same texts and readout.

    Raises
    ------
    PifiProbeError
        If a record is not here.
    """
    own, plugged = (ProbeTable.from_json(recorded(f"{PROBES}{kind}.json")) for kind in ("own-state", "plug-in"))
    encoder = plugged.series("ridge_accuracy", projection="random", arm="encoder")["value"].iloc[0]
    states = own.series("ridge_accuracy").query("depth > 0")  # depth d is behind layer d - 1
    probe = plugged.series("ridge_accuracy", projection="random", arm="real")
    table = record("benchmarks/results/selection.json")["measurements"]
    runs = [read_object(file) for file in sorted(recorded(MATCHED).glob("vanilla-*.json"))]
    vanilla = np.mean([run["tests"]["movie-reviews"]["metrics"]["accuracy"] for run in runs])
    chains = record("book/_studies/conditions.json")["chains"]
    real = {
        (first, last): pd.DataFrame(chains[f"{first}-{last}"]["differences"])
        .query("metric == 'accuracy' and a == 'real' and b == 'encoder'")["difference"]
        .iloc[0]
        for first, last in ((0, 6), (8, 14), (23, 29))
    }
    return {
        "states": _frame(states["depth"] - 1, states["depth"] - 1, 100 * (states["value"] - encoder)),
        "probe": _frame(probe["depth"], probe["depth"], 100 * probe["value"]),
        "trained": _frame(range(30), range(30), np.mean(table["accuracy"], axis=1) - 100 * vanilla),
        "chain": _frame(
            [first for first, _ in real], [last for _, last in real], [100 * gain for gain in real.values()]
        ),
    }


def chain_gains(task: str) -> tuple[pd.DataFrame, Headroom]:
    """Return what recorded aligned chains give next to a frozen encoder, and the headroom that was measured before.

    Parameters
    ----------
    task : {"movie-reviews", "tweets"}

    Returns
    -------
    DataFrame, Headroom
        One row a chain, the best first: ``first`` and ``last`` layer, ``layers``, ``gain`` in points of accuracy and
        ``nats`` of negative log-likelihood, both over the encoder alone on the same test texts.

    Raises
    ------
    PifiProbeError
        If the record is not here.
    """
    found = record(f"{CHAINS}/{task}.json")
    alone = found["encoder"]
    rows = []
    for span, cell in found["cells"].items():
        first, last = map(int, span.split("-"))
        points = 100 * (cell["accuracy"] - alone["accuracy"])
        rows.append((first, last, last - first + 1, points, alone["nll"] - cell["nll"]))
    table = pd.DataFrame(rows, columns=["first", "last", "layers", "gain", "nats"])
    return table.sort_values("nats", ascending=False, ignore_index=True), Headroom.from_dict(found["headroom"])


def _frame(first: object, last: object, gain: object) -> pd.DataFrame:
    columns = {"first": first, "last": last, "gain": gain}
    return pd.DataFrame({name: np.asarray(values) for name, values in columns.items()})


def depth_figure(*lit: str) -> Figure:
    """Draw the gains of `gains_by_depth` on one axis, with the part under discussion lit.

    Parameters
    ----------
    *lit : {"states", "probe", "trained", "chain"}
        Drawn in full colour; what comes before the last of them is drawn pale, what comes later is left out.

    Raises
    ------
    PifiProbeError
        If a part is unknown, or none is named.
    """
    if not lit or set(lit) - set(STEPS):
        raise PifiProbeError(
            f"unknown part of the argument: {', '.join(lit) or 'none named'}", next=f"use {', '.join(STEPS)}"
        )
    shown = list(STEPS)[: 1 + max(map(list(STEPS).index, lit))]
    found = gains_by_depth()
    with styled():
        figure, (axes,) = framed(7.0, 3.6, 1)
        for part in shown:
            label, colour, marker = STEPS[part]
            look: dict[str, Any] = {
                "color": colour,
                "alpha": 1.0 if part in lit else 0.35,
                "linewidth": 1.6 if part in lit else 1.0,
            }
            rows = found[part]
            if part == "chain":
                axes.hlines(rows["gain"], rows["first"], rows["last"], label=label, **{**look, "linewidth": 4})
            else:
                axes.plot(rows["first"], rows["gain"], marker=marker, markersize=3.5, label=label, **look)
        axes.axhline(0, color=INK, linewidth=0.8)
        whole_ticks(axes, found["trained"]["first"])
        axes.set_xlabel("layer")
        axes.set_ylabel("points over the encoder alone")
        axes.legend(
            frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=min(2, len(shown))
        )
    return figure
