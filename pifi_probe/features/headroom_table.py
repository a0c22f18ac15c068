"""`Headroom`: what the donor's states add at every depth, where they come to know it, and the span of layers for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table
from pifi_probe.scoring.estimators.span import promised
from pifi_probe.stats import mean_interval, paired_difference
from pifi_probe.vocabulary import stored_settings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["Headroom", "build_headroom", "choose_span", "span_scores"]

logger = logging.getLogger(__name__)

N_PARTS = 5  # of the texts, for a choice of the depth that a text has no part in
RISEN = 0.9  # share of the rise at which the donor counts as knowing it
BEGUN = 0.25
LONGEST = 8  # layers of a chain that is suggested
Floats = NDArray[np.float64]


@dataclass(frozen=True, repr=False)
class Headroom(Result):
    """What `pifi_probe.headroom` returns.

    Parameters
    ----------
    gain, low, high : float
        Points of accuracy that the donor adds to the encoder at its best depth, and the 95 % interval over texts.
        The depth of each text was chosen without it.
    depth : int
        The depth at which donor and encoder together are best: the input of layer `depth`, as in
        `pifi_probe.probe`.
    span : (int, int)
        First and last layer of the chain that this suggests; see `choose_span`.
    learned : (int, int)
        First and last layer of the stretch over which what the donor adds rises.
    encoder : float
        Accuracy of the encoder's readout.
    donor, both, added : tuple of float, one value a depth
        Accuracy of the donor's readout and of both together, and their difference to the encoder's, in points.
    added_low, added_high : tuple of float
        Limits of `added` (95 %, for each depth on its own).
    r2 : tuple of float, one value a layer
        How well a linear interface from the encoder predicts the donor's states before that layer.
    info, provenance : dict
    """

    gain: float
    low: float
    high: float
    depth: int
    span: tuple[int, int]
    learned: tuple[int, int]
    encoder: float
    donor: tuple[float, ...]
    both: tuple[float, ...]
    added: tuple[float, ...]
    added_low: tuple[float, ...]
    added_high: tuple[float, ...]
    r2: tuple[float, ...]
    info: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    noun: ClassVar[str] = "a headroom result"

    @property
    def something(self) -> bool:
        """Whether the donor adds something: the interval of `gain` lies above zero."""
        return self.low > 0

    def suggested(self) -> tuple[int, int]:
        """Return `span`, after a warning where the donor adds nothing that could be seen."""
        if not self.something:
            logger.warning("%s Layers %d to %d are taken all the same.", self.answer, *self.span)
        return self.span

    @property
    def chain(self) -> str:
        """`span` as a specification of layers, such as ``"smollm2-135m[8:15]"``."""
        return f"{self.info['llm']}[{self.span[0]}:{self.span[1] + 1}]"

    @property
    def answer(self) -> str:
        """The answer in one sentence."""
        where = f"{self.info.get('llm', 'the donor')} to {self.info.get('slm', 'the encoder')}"
        on = f" on {self.info['task']}" if "task" in self.info else ""
        shown = f"[{self.low:.1f}, {self.high:.1f}]"
        if not self.something:
            return f"Nothing to gain can be seen from {where}{on}: {self.gain:+.1f} points {shown}."
        first, last = self.learned
        layers = f"layer {first}" if first == last else f"layers {first} to {last}"
        at = "at its end" if self.depth == len(self.r2) else f"at layer {self.depth}"
        return f"{where}{on}: the donor adds {self.gain:.1f} points {shown} ({at}); it learns them in {layers}."

    @property
    def frame(self) -> pd.DataFrame:
        """One row a depth: ``depth``, ``donor``, ``both``, ``added``, ``low``, ``high`` and ``r2``."""
        import pandas as pd

        return pd.DataFrame(
            {
                "depth": range(len(self.donor)),
                "donor": self.donor,
                "both": self.both,
                "added": self.added,
                "low": self.added_low,
                "high": self.added_high,
                "r2": [*self.r2, float("nan")],
            }
        )

    def spans(self, max_layers: int = 16) -> pd.DataFrame:
        """Rank all chains of neighbouring layers by the rise over them times the fit of the interface at their entry.

        Returns
        -------
        DataFrame
            ``first``, ``last``, ``layers``, ``rise`` (points), ``r2`` and ``score``, the best first.
        """
        return span_scores(self.added, self.r2, max_layers)

    def plot(self) -> Figure:
        """Plot encoder, donor and both against depth."""
        import pandas as pd

        from pifi_probe.reporting.plots import depth_curve

        own = [{"depth": float("nan"), "series": "encoder", "mean": 100 * self.encoder}]
        rows = [{"depth": d, "series": "donor", "mean": 100 * value} for d, value in enumerate(self.donor)]
        rows += [{"depth": d, "series": "both together", "mean": 100 * value} for d, value in enumerate(self.both)]
        return depth_curve(
            pd.DataFrame([*own, *rows]), value_label="accuracy, held out (%)", depth_label="input of layer"
        )

    def tables(self) -> list[Table]:
        """Return one table: encoder, donor and both at every depth."""
        import pandas as pd

        rows = self.frame
        limits = zip(rows["added"], rows["low"], rows["high"], strict=True)
        shown = pd.DataFrame(
            {
                "input of layer": rows["depth"],
                "donor, %": [f"{100 * value:.1f}" for value in rows["donor"]],
                "both, %": [f"{100 * value:.1f}" for value in rows["both"]],
                "added, points": [f"{a:+.1f} [{low:.1f}, {high:.1f}]" for a, low, high in limits],
                "interface R²": ["" if np.isnan(value) else f"{value:.2f}" for value in rows["r2"]],
            }
        )
        return [Table(shown, f"encoder alone: {100 * self.encoder:.1f} %")]

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> Headroom:
        return super()._read({**values, "info": stored_settings(values.get("info", {}))})

    def __str__(self) -> str:
        return self.answer

    def __repr__(self) -> str:
        return f"Headroom({self.answer})"

    def said(self) -> list[str]:
        """Return the answer."""
        return [self.answer]

    def picture(self) -> str:
        """Return the plot as SVG."""
        from pifi_probe.reporting.svg import to_svg

        return to_svg(self.plot(), "accuracy of encoder, donor and both against depth")


def build_headroom(
    own: Floats,
    donor: Floats,
    both: Floats,
    y: NDArray[np.int64],
    r2: Sequence[float],
    info: dict[str, Any],
    provenance: dict[str, Any],
) -> Headroom:
    """Compare out-of-fold log-probabilities of the encoder (N, K), the donor and both (depths, N, K)."""
    every = np.arange(len(y))
    right = {
        name: (scores.argmax(-1) == y).astype(np.float64)
        for name, scores in (("own", own), ("donor", donor), ("both", both))
    }
    nll = -both[:, every, y]  # (depths, N)
    part = np.random.default_rng(int(info.get("seed", 0))).permutation(len(y)) % N_PARTS
    chosen = np.array([nll[:, part != k].mean(1).argmin() for k in range(N_PARTS)])[part]  # (N,)
    found = paired_difference(right["both"][chosen, every][None], right["own"][None])
    each = [mean_interval((one - right["own"])[None], n_boot=2000) for one in right["both"]]
    added = [100 * one.mean for one in each]
    learned = _rise(added)
    return Headroom(
        gain=100 * found.mean,
        low=100 * found.low,
        high=100 * found.high,
        depth=int(nll.mean(1).argmin()),
        span=choose_span(added, r2),
        learned=learned,
        encoder=float(right["own"].mean()),
        donor=tuple(float(value) for value in right["donor"].mean(1)),
        both=tuple(float(value) for value in right["both"].mean(1)),
        added=tuple(added),
        added_low=tuple(100 * one.low for one in each),
        added_high=tuple(100 * one.high for one in each),
        r2=tuple(float(value) for value in r2),
        info=info,
        provenance=provenance,
    )


def _smooth(values: Sequence[float]) -> Floats:
    """Return means over three neighbours; the ends count twice."""
    padded = np.concatenate([values[:1], values, values[-1:]])
    smooth: Floats = np.convolve(padded, np.full(3, 1 / 3), mode="valid")
    return smooth


def _rise(added: Sequence[float]) -> tuple[int, int]:
    """Return first and last layer between which what the donor adds rises from a quarter to nine tenths of its peak."""
    curve = np.asarray(added, dtype=np.float64)
    base = float(np.minimum.accumulate(_smooth(added))[-1])
    peak = float(_smooth(added).max())
    share = (curve - base) / (peak - base) if peak > base else np.zeros(len(curve))
    top = int(np.argmax(share >= RISEN)) if (share >= RISEN).any() else len(curve) - 1
    below = np.flatnonzero(share[: top + 1] <= BEGUN)
    start = int(below[-1]) if len(below) else 0
    last = max(top - 1, 0)
    return min(start, last), last


def span_scores(added: Sequence[float], r2: Sequence[float], max_layers: int = 16) -> pd.DataFrame:
    """Score chains ``first..last``: what the donor adds after `last`, minus before `first`, times R² at `first`.

    Parameters
    ----------
    added : sequence of float, one value a depth
        Points that the donor adds; smoothed over neighbours here.
    r2 : sequence of float, one value a layer
    max_layers : int
        Layers in a chain.
    """
    import pandas as pd

    curve = _smooth(added)
    rows = [
        {
            "first": first,
            "last": last,
            "layers": last - first + 1,
            "rise": float(curve[last + 1] - curve[first]),
            "r2": float(r2[first]),
            "score": promised(float(curve[last + 1] - curve[first]), r2[first]),
        }
        for first in range(len(r2))
        for last in range(first, min(len(r2), first + max_layers))
    ]
    return pd.DataFrame(rows).sort_values("score", ascending=False, kind="stable").reset_index(drop=True)


def choose_span(added: Sequence[float], r2: Sequence[float]) -> tuple[int, int]:
    """Return first and last layer of the chain with the best score; of nearly equal ones the shortest.

    At most eight layers: a longer chain enters where the donor still works on single words, those that the alignment
    has not seen among them, and costs more; that it does more has not been measured.
    """
    found = span_scores(added, r2, LONGEST)
    top = float(found["score"].iloc[0])
    near = found[found["score"] >= top - 0.05 * abs(top)]
    best = near.sort_values(["layers", "score"], ascending=[True, False], kind="stable").iloc[0]
    return int(best["first"]), int(best["last"])
