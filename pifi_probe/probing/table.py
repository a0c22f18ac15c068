"""`ProbeTable`: what was measured at every layer, and what it is worth."""

from __future__ import annotations

import base64
import itertools
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pifi_probe.bounds import MAX_LAYERS
from pifi_probe.errors import PifiProbeError
from pifi_probe.escaping import csv_text, one_line
from pifi_probe.files import write_text
from pifi_probe.reading import Refused, inflate, typed
from pifi_probe.reporting.result import Result, plain
from pifi_probe.reporting.tables import Table
from pifi_probe.scoring.points import Kind
from pifi_probe.vocabulary import stored_settings

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from pifi_probe.probing.probe_model import ProbeForSequenceClassification
    from pifi_probe.tasks import Task

__all__ = ["ProbeTable", "series_name"]

HEADLINE = "real - shuffled"
DTYPES = {
    "family": "str",
    "estimator": "str",
    "projection": "str",
    "arm": "str",
    "depth": "Int64",
    "layer": "Int64",
    "position": "str",
    "value": "float64",
    "low": "float64",
    "high": "float64",
    "interval": "str",
    "null_mean": "float64",
    "null_high": "float64",
    "p_value": "float64",
    "p_adjusted": "float64",
    "selectivity": "float64",
    "in_best_set": "bool",
    "n": "int64",
    "unit": "str",
    "note": "str",
}
CHANCE = (
    "Curves that are smooth over depth agree by chance: over 30 layers, |Kendall| between two unrelated smooth curves "
    "exceeds 0.44, 0.64 or 0.83 in one case of 20, where neighbours within 2, 4 or 8 layers are alike. Two estimators "
    "that read the same features are not independent witnesses either."
)


def series_name(estimator: str, projection: str, arm: str) -> str:
    """Return the name of a series: ``"ridge_accuracy"``, or ``"ridge_accuracy, random, shuffled"``."""
    return ", ".join(part for part in (estimator, projection, "" if arm == "real" else arm) if part)


@dataclass(frozen=True)
class _Packed:
    shape: list[int]
    float32: str


@dataclass(frozen=True)
class _Stored:
    """A table as JSON holds it."""

    family: str
    frame: dict[str, list[str | int | float | bool | None]]
    kinds: dict[str, Kind]
    per_example: dict[str, _Packed]
    info: dict[str, Any]
    provenance: dict[str, Any]


@dataclass(frozen=True, repr=False, eq=False)
class ProbeTable(Result):
    """What `pifi_probe.probe` and `pifi_probe.probe_plugin` return.

    Parameters
    ----------
    family : {"own-state", "plug-in"}
        States of the language model itself, or a layer as a function of the encoder's vectors. The scores of the
        two families answer different questions and are never put into one table.
    frame : DataFrame
        One row per layer and estimator (and projection and arm, for plug-ins):

        - ``family``, ``estimator``, ``projection``, ``arm``; ``depth`` (0 to L; missing for a control without a
          layer), ``layer`` and ``position`` ("input" or "output" of that layer);
        - ``value`` with ``low``, ``high`` (95 %) and ``interval`` (how it was made);
        - under permuted labels: ``null_mean``, ``null_high`` (the better 5 % begin there), ``selectivity`` (value
          minus null mean, larger is better); ``p_value`` of this layer alone and ``p_adjusted`` for having looked at
          all layers, for a difference between arms that of no difference;
        - ``in_best_set``: whether the layer cannot be told from the best of its series (95 %, corrected for the
          number of layers);
        - ``n`` (examples), ``unit``, ``note``.
    kinds : dict of str to Kind
        Title, unit and direction of every estimator.
    per_example : dict of str to array, float32, shape (rows, N) or (rows, S, N)
        By series (``"knn"``, or ``"ridge_accuracy, random, real - shuffled"``), in the frame's order.
    info : dict
        What was measured: pooling, position convention, token handling, number of examples, split, notes.
    provenance : dict
        Versions, commit, machine, command, date, wall time.
    """

    family: str
    frame: pd.DataFrame
    kinds: dict[str, Kind]
    per_example: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    noun: ClassVar[str] = "a table of probes"
    most_values: ClassVar[int] = 2_000_000

    @property
    def estimators(self) -> list[str]:
        """Names of the estimators, in the order of the frame."""
        return list(self.kinds)

    @property
    def notes(self) -> list[str]:
        """What a reader must know: notes of the table, then those of its rows, each once."""
        return list(dict.fromkeys([*self.info.get("notes", []), *(note for note in self.frame["note"] if note)]))

    def kind(self, estimator: str) -> Kind:
        """Return title, unit and direction of an estimator; raises `PifiProbeError` where the table lacks it."""
        if estimator not in self.kinds:
            raise PifiProbeError(
                f"the table has no estimator {estimator!r}", next=f"choose one of {', '.join(self.kinds)}"
            )
        return self.kinds[estimator]

    def rank(self, estimator: str, *, projection: str | None = None, arm: str | None = None) -> pd.DataFrame:
        """Return the layers by their score, the best first.

        Parameters
        ----------
        estimator : str
        projection : str, optional
            Needed where a plug-in table has several.
        arm : str, optional
            By default the layer itself, or "real - shuffled" where that was measured.

        Returns
        -------
        DataFrame
            Rows of `frame` with a depth and a value.

        Raises
        ------
        PifiProbeError
            If there is no such series, or several.
        """
        own = self.series(estimator, projection=projection, arm=arm).dropna(subset=["depth", "value"])
        larger = self.kinds[estimator].larger_is_better
        return own.sort_values("value", ascending=not larger, kind="stable").reset_index(drop=True)

    def best_set(self, estimator: str, *, projection: str | None = None, arm: str | None = None) -> list[int]:
        """Return the depths that cannot be told from the best, shallowest first; arguments as in `rank`."""
        own = self.series(estimator, projection=projection, arm=arm)
        return sorted(int(depth) for depth in own.loc[own["in_best_set"], "depth"])

    def series(self, estimator: str, *, projection: str | None = None, arm: str | None = None) -> pd.DataFrame:
        """Return the rows of one series in the frame's order; arguments and errors as in `rank`."""
        self.kind(estimator)
        own = self.frame[self.frame["estimator"] == estimator]
        own = own[own["projection"] == self._one_of(own, "projection", projection)]
        arms = list(dict.fromkeys(own["arm"]))
        own = own[own["arm"] == self._one_of(own, "arm", arm or _headline(arms))]
        return own.reset_index(drop=True)

    def _one_of(self, rows: pd.DataFrame, column: str, wanted: str | None) -> str:
        found = list(dict.fromkeys(rows[column]))
        if wanted is None and len(found) == 1:
            return str(found[0])
        if wanted not in found:
            raise PifiProbeError(
                f"the table has no {column} {wanted!r} here" if wanted else f"the table has several: {column}",
                where=str(rows["estimator"].iloc[0]),
                next=f"pass {column}= one of {', '.join(map(str, found))}",
            )
        return str(wanted)

    def headlines(self) -> pd.DataFrame:
        """Return the rows of `frame` that answer the table's question: one arm for each estimator and projection."""
        chosen = self.frame.groupby(["estimator", "projection"], sort=False)["arm"].transform(
            lambda arms: _headline(list(dict.fromkeys(arms)))
        )
        return self.frame[(self.frame["arm"] == chosen) & self.frame["depth"].notna()]

    def agreement(self) -> pd.DataFrame:
        """Return how alike the estimators rank the layers.

        Returns
        -------
        DataFrame
            A row for each pair of series (columns ``a``, ``b``): ``kendall``, ``spearman`` (1: the same order from
            best to worst) and ``n``, the layers counted. ``attrs["warning"]`` says what such a number is worth.
        """
        import pandas as pd

        from pifi_probe.ranking import rank_agreement

        curves = self._curves()
        pairs = itertools.combinations(curves.columns, 2)
        rows = [{"a": a, "b": b, **rank_agreement(curves[a].to_numpy(), curves[b].to_numpy())} for a, b in pairs]
        found = pd.DataFrame(rows, columns=["a", "b", "kendall", "spearman", "n"])
        found.attrs["warning"] = CHANCE
        return found

    def _curves(self) -> pd.DataFrame:
        """Return a column for each headline series, larger being better, with the depth as index."""
        rows = self.headlines()
        sign = rows["estimator"].map(lambda name: 1.0 if self.kinds[name].larger_is_better else -1.0)
        name = [series_name(*parts) for parts in zip(rows["estimator"], rows["projection"], _quiet(rows), strict=True)]
        signed = rows.assign(series=name, signed=rows["value"] * sign.astype(float))
        return signed.pivot(index="depth", columns="series", values="signed")[list(dict.fromkeys(name))]

    def summary(self) -> pd.DataFrame:
        """Return a row per estimator for people: best layers, what cannot be told from them, and the null."""
        from pifi_probe.probing.summary import summary

        return summary(self)

    def plot(self, estimators: list[str] | None = None) -> Figure:
        """Plot scores against depth, one panel per estimator, with intervals, the null and the best set."""
        from pifi_probe.probing.summary import curves

        return curves(self, estimators)

    def heatmap(self) -> Figure:
        """Plot layers against estimators: how far each score lies from the best, in half-widths of its interval."""
        from pifi_probe.probing.summary import heatmap

        return heatmap(self)

    def report(self, path: str | Path) -> None:
        """Write tables and plots as one HTML file; raises `SaveError` if it cannot be written."""
        from pifi_probe.probing.summary import write_report

        write_report(self, path)

    def to_model(
        self, point: int | None = None, *, task: Task | None = None, llm: str | None = None
    ) -> ProbeForSequenceClassification:
        """Return the logistic probe at one point as a transformers model: the donor's layers below it, and a head.

        The head is fitted to all rows of the table with the penalty that its folds choose; their held-out scores stand
        in ``config.scores``. ``model.classifier()`` classifies texts; ``save_pretrained`` writes the head and the
        donor's name; ``export_directions`` its directions. ``model.hold = False`` keeps one layer at a time in memory.

        Parameters
        ----------
        point : int, optional
            By default the best one by the logistic probe, or by the table's first estimator. Chosen so, its score is a
            little too good: measure it on a test split.
        task : Task, optional
            That was probed; needed unless it is embedded.
        llm : str, optional
            The donor; needed unless it is embedded, since a table may come from anybody.

        Raises
        ------
        FeatureError
            For tables of plug-ins, of pairs or with a template, and for points that the table has not.
        TaskError
            If the task is missing or another one.
        """
        from pifi_probe.probing.probe_model import probe_as_model

        return probe_as_model(self, point, task, llm)

    def tables(self) -> list[Table]:
        """Return `summary`."""
        from pifi_probe.probing.summary import caption

        return [Table(self.summary(), caption(self))]

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return `frame` as CSV, and write it to `path`, atomically, when one is given."""
        text = csv_text(self.frame)
        if path is not None:
            write_text(path, text)
        return text

    def to_json(self, path: str | Path | None = None, *, per_example: bool = True) -> str:
        """Return everything as JSON, and write it to `path`, atomically, when one is given.

        The scores of single examples are most of a large table; ``per_example=False`` leaves them out.
        """
        return Result.to_json(self if per_example else replace(self, per_example={}), path)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold; arrays are packed."""
        return self._header() | {
            "family": self.family,
            "info": plain(self.info),
            "kinds": {name: asdict(kind) for name, kind in self.kinds.items()},
            "frame": {name: _plain(self.frame[name]) for name in DTYPES},
            "per_example": {name: _packed(array) for name, array in self.per_example.items()},
            "provenance": plain(self.provenance),
        }

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> ProbeTable:
        import pandas as pd

        stored = typed(_Stored, values)
        found = cls(
            family=stored.family,
            frame=pd.DataFrame({name: stored.frame[name] for name in DTYPES}).astype(DTYPES),
            kinds=stored.kinds,
            per_example={name: _unpacked(packed) for name, packed in stored.per_example.items()},
            info=stored_settings(stored.info),
            provenance=stored.provenance,
        )
        _refuse_impossible(found)
        return found

    def __repr__(self) -> str:
        from pifi_probe.probing.summary import caption

        return f"ProbeTable({one_line(caption(self))}; {len(self.frame)} rows)"

    def remarks(self) -> list[str]:
        """Return what was measured, then `notes`."""
        from pifi_probe.probing.summary import measured

        return ["; ".join(f"{name}: {words}" for name, words in measured(self)), *self.notes]


def _headline(arms: list[str]) -> str | None:
    """Return the arm that answers the question, or None where none of them does more than another."""
    if HEADLINE in arms:
        return HEADLINE
    return "real" if "real" in arms else arms[0] if len(arms) == 1 else None


def _quiet(rows: pd.DataFrame) -> list[str]:
    """Return arms without the word that every headline has."""
    return ["" if arm in (HEADLINE, "real") else arm for arm in rows["arm"]]


def _plain(column: pd.Series[Any]) -> list[Any]:
    """Return a column as values that JSON can hold, missing ones as None."""
    return [None if missing else value for value, missing in zip(column.tolist(), column.isna(), strict=True)]


def _packed(array: NDArray[np.float32]) -> dict[str, Any]:
    """Return an array as text: shape, and its little-endian bytes, compressed."""
    raw = np.ascontiguousarray(array, dtype="<f4").tobytes()
    return {"shape": list(array.shape), "float32": base64.b64encode(zlib.compress(raw, 9)).decode("ascii")}


def _unpacked(packed: _Packed) -> NDArray[np.float32]:
    raw = inflate(packed.float32, packed.shape, 4)
    return np.frombuffer(raw, dtype="<f4").astype(np.float32).reshape(packed.shape)


def _refuse_impossible(table: ProbeTable) -> None:
    """Refuse a table that no probe can have made; types are checked before."""
    frame = table.frame
    unknown = sorted(set(frame["estimator"]) - table.kinds.keys())
    if unknown or frame.empty:
        raise Refused(f"rows of {unknown}, which are not among its kinds" if unknown else "it has no rows")
    for name in ("llm", "task", "split"):
        if not isinstance(table.info.get(name), str):
            raise Refused(f"info.{name} is not text")
    if not isinstance(table.info.get("notes", []), list):
        raise Refused("info.notes is not a list")
    shares = frame[["value", "null_mean", "null_high"]][frame["unit"] == "accuracy"].to_numpy(dtype=np.float64)
    if (np.abs(shares) > 1 + 1e-9).any():
        raise Refused(f"an accuracy, or a gain in it, of {np.nanmax(np.abs(shares)):.6g}")
    chances = frame[["p_value", "p_adjusted"]].to_numpy(dtype=np.float64)
    if (chances < 0).any() or (chances > 1).any():
        raise Refused("a p-value that is not between 0 and 1")
    depths = frame["depth"].dropna()
    if (frame["n"] < 0).any() or (depths < 0).any() or (depths > MAX_LAYERS).any():
        raise Refused("a negative number of examples, or a depth that no model has")
    if np.isinf(frame["value"]).any():
        raise Refused("an infinite score")
    for name, scores in table.per_example.items():
        if scores.ndim not in (2, 3):
            raise Refused(f"scores of {name!r} of shape {scores.shape}")
