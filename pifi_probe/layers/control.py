"""What a positive control has found of a donor's layers, and how later results look it up."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pifi_probe.assets import is_asset
from pifi_probe.errors import CheckpointError, PifiProbeError
from pifi_probe.files import cache_root, existing
from pifi_probe.layers.content import content_of
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.spec import ModelRef
from pifi_probe.models_table import repo_of
from pifi_probe.reading import Refused
from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table
from pifi_probe.stats import Interval, holm, mean_interval, paired_difference

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["ARMS", "ControlRow", "PositiveControl", "control_path", "known_control"]

ARMS = ("none", "real", "shuffled", "random", "one token")
OTHERS = ("none", "shuffled", "random")  # what an effect of the weights must beat
LEVEL = 0.95
VERSION = 1  # of the measurement: older results in the cache are not read


@dataclass(frozen=True)
class ControlRow:
    """What can be read before and after one layer, or one chain of them.

    Parameters
    ----------
    layers : tuple of int
        One, or the layers of a chain in series.
    correct : dict of str to tuple of int
        For each of `ARMS`, the words that were read rightly in every test sequence.
    of : int
        Words of a sequence that could be read.
    """

    layers: tuple[int, ...]
    correct: dict[str, tuple[int, ...]]
    of: int

    @property
    def name(self) -> str:
        """The layer's number, or ``"17 >> 18"``."""
        return " >> ".join(map(str, self.layers))

    def shares(self, arm: str) -> NDArray[np.float64]:
        """Return the share of words read rightly in each test sequence, (sequences,)."""
        return np.asarray(self.correct[arm], dtype=np.float64) / self.of

    def accuracy(self, arm: str) -> Interval:
        """Return the accuracy of an arm with its interval over sequences."""
        return self._accuracies[arm]

    def gain(self, over: str) -> Interval:
        """Return the accuracy of the real layer minus that of another arm, paired over sequences."""
        return paired_difference(self.shares("real")[None], self.shares(over)[None], level=LEVEL)

    @cached_property
    def _accuracies(self) -> dict[str, Interval]:
        return {arm: mean_interval(self.shares(arm)[None], level=LEVEL) for arm in ARMS}

    @cached_property
    def effect(self) -> Interval:
        """Real minus the best of no layer, shuffled and random twin: what only these weights can do."""
        gains = [self.gain(arm) for arm in OTHERS]
        least = min(gains, key=lambda gain: gain.mean)
        return replace(least, p_value=max(gain.p_value for gain in gains))  # all three must be beaten


@dataclass(frozen=True, repr=False)
class PositiveControl(Result):
    """What `pifi_probe.positive_control` returns.

    Parameters
    ----------
    model : str
        The donor.
    foreign : bool
        Whether a foreign code went through an aligned interface, in place of the model's own states.
    n_layers : int
        Of the donor.
    rows : tuple of ControlRow
        Ascending.
    settings : dict
        Words, sequences, seed, and how the words were chosen.
    info : dict
        What was measured on the way: R² and scale of the interface, where there is one.
    provenance : dict
    """

    model: str
    foreign: bool
    n_layers: int
    rows: tuple[ControlRow, ...]
    settings: dict[str, Any]
    info: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    noun: ClassVar[str] = "a positive control"
    version: ClassVar[int] = VERSION

    def __getitem__(self, layers: int | Sequence[int]) -> ControlRow:
        wanted = (layers,) if isinstance(layers, int) else tuple(layers)
        for row in self.rows:
            if row.layers == wanted:
                return row
        raise PifiProbeError(
            f"layer {' >> '.join(map(str, wanted))} was not measured",
            where=f"positive control of {self.model}",
            next=f"measured are {', '.join(row.name for row in self.rows)}",
        )

    @property
    def chance(self) -> float:
        """Accuracy of a guess."""
        return 1.0 / int(self.settings["n_words"])

    @cached_property
    def _p_values(self) -> tuple[float, ...]:
        return tuple(holm([row.effect.p_value for row in self.rows]))

    def works(self, layers: int | Sequence[int]) -> bool:
        """Whether the layer does what no layer, shuffled and random twin do not; corrected for the layers asked."""
        row = self[layers]
        return row.effect.mean > 0 and self._p_values[self.rows.index(row)] < 1 - LEVEL

    @property
    def working(self) -> tuple[ControlRow, ...]:
        """The rows whose weights do something that their twins do not."""
        return tuple(row for row in self.rows if self.works(row.layers))

    @property
    def passed(self) -> bool:
        """Whether any layer works: with this donor, an effect of weights can be seen."""
        return bool(self.working)

    @cached_property
    def peak(self) -> ControlRow:
        """The row with the largest effect."""
        return max(self.rows, key=lambda row: row.effect.mean)

    @property
    def answer(self) -> str:
        """What was found, in a sentence or two."""
        row, effect = self.peak, self.peak.effect
        if not self.passed:
            return (
                f"{self.model}: on repeated random words no layer does what its twins do not (most: layer {row.name}, "
                f"{_points(effect)} over the best of no layer and its twins); with this donor a "
                f'"no effect" says nothing yet.'
            )
        part = {arm: f"{100 * row.accuracy(arm).mean:.1f} %" for arm in ARMS}
        what = "a foreign code through layers" if self.foreign else "layer"
        return (
            f"{self.model}, {what} {row.name}: on repeated random words {part['real']} of the next words can be read "
            f"after it, {part['none']} without it, {part['shuffled']} and {part['random']} after its shuffled and "
            f"random twins, {part['one token']} when it sees one token at a time."
        )

    @property
    def table(self) -> pd.DataFrame:
        """One row a layer: accuracy of every arm in percent, the effect in points with its interval, whether real."""
        import pandas as pd

        rows = [
            {"layer": row.name}
            | {arm: f"{100 * row.accuracy(arm).mean:.1f}" for arm in ARMS}
            | {"effect (points)": _points(row.effect), "works": self.works(row.layers)}
            for row in self.rows
        ]
        return pd.DataFrame(rows)

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each layer and arm: ``layer``, ``arm``, ``accuracy``, ``low``, ``high`` as shares."""
        import pandas as pd

        found = [(row, arm, row.accuracy(arm)) for row in self.rows for arm in ARMS]
        return pd.DataFrame(
            [
                {
                    "layer": row.name,
                    "last": row.layers[-1],
                    "arm": arm,
                    "accuracy": x.mean,
                    "low": x.low,
                    "high": x.high,
                }
                for row, arm, x in found
            ]
        )

    @property
    def size(self) -> str:
        """What the numbers were made from."""
        how = self.settings
        return (
            f"{how['n_words']} words (chance {100 * self.chance:.1f} %), {how['length']} + {how['length']} a sequence, "
            f"readout fitted on {how['n_fit']} other sequences, {how['n_test']} test sequences, seed {how['seed']}; "
            f"accuracy in percent; effect: real minus the best of no layer and twins"
        )

    def figure(self) -> Figure:
        """Plot the accuracy of every arm over the layers."""
        from pifi_probe.reporting.depths import depth_panels

        frame = self.frame.assign(panel=f"{self.model}: next of the repeated random words", unit="accuracy")
        frame = frame.rename(columns={"last": "depth", "arm": "series", "accuracy": "value"})
        return depth_panels(frame, depth_label="layer")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return super().to_dict() | {"answer": self.answer, "passed": self.passed}

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> PositiveControl:
        found = super()._read(values)
        if any(row.correct.keys() < set(ARMS) for row in found.rows):
            raise Refused(f"a row lacks one of the arms {', '.join(ARMS)}")
        return found

    def tables(self) -> list[Table]:
        """Return one table: accuracy of every arm, a row for each layer."""
        return [Table(self.table, f"positive control of {self.model}", self.size)]

    def __str__(self) -> str:
        return self.answer

    def __repr__(self) -> str:
        return str(self)

    def said(self) -> list[str]:
        """Return the answer."""
        return [self.answer]


def _points(found: Interval) -> str:
    return f"{100 * found.mean:+z.1f} [{100 * found.low:z.1f}, {100 * found.high:z.1f}]"


def control_path(content: str, settings: Mapping[str, Any], foreign: bool) -> Path:
    """Return where the control of a donor is kept.

    Parameters
    ----------
    content : str
        Of `pifi_probe.layers.content.content_of`.
    settings : Mapping
        What the numbers depend on, besides the donor.
    foreign : bool
    """
    key = json.dumps([VERSION, settings], sort_keys=True)
    name = f"{'foreign' if foreign else 'own'}-{hashlib.sha256(key.encode()).hexdigest()[:24]}.json"
    return _folder(content) / name


def known_control(model: str, revision: str | None = None, *, foreign: bool = False) -> PositiveControl | None:
    """Return the latest positive control of a donor that this machine has measured, or None; computes nothing.

    Parameters
    ----------
    model : str
        As in a layer's card.
    revision : str, optional
        The commit of a donor on the hub, as its layers' cards name it; the hub is not asked.
    foreign : bool
        The form with a foreign code.
    """
    with contextlib.suppress(PifiProbeError, OSError, ValueError):
        if existing(model) or is_asset(model):
            content = content_of(open_checkpoint(model, revision))
        else:
            content = str(ModelRef(repo_of(model), revision))
        found = sorted(
            _folder(content).glob(f"{'foreign' if foreign else 'own'}-*.json"), key=lambda path: path.stat().st_mtime
        )
        for path in reversed(found):
            with contextlib.suppress(CheckpointError, OSError):
                control = PositiveControl.from_json(path)
                if control.rows:
                    return control
    return None


def _folder(content: str) -> Path:
    return cache_root() / "controls" / hashlib.sha256(content.encode()).hexdigest()[:32]
