"""`ChainTable`: what a chain and its twins are worth, example by example, and the intervals of their differences."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.reading import inflate
from pifi_probe.reporting.result import Result, plain
from pifi_probe.reporting.tables import Table
from pifi_probe.stats import paired_difference
from pifi_probe.vocabulary import stored_settings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ChainTable", "Reading", "build_chain_table"]

LATE = "late interaction"  # the arm, which others are read together with
N_BOOT = 1000
Codes = NDArray[np.int64]
Floats = NDArray[np.float64]
Key = tuple[str, str, int, str]  # arm, reading, labels, test


@dataclass(frozen=True)
class Reading:
    """What one readout says of one test.

    Parameters
    ----------
    arm : str
    reading : {"alone", "with encoder"}
    n_labels : int
        Labelled texts that it was fitted to.
    draw, twin : int
        Which draw of them, and of the twin.
    test : str
    log_p : array, shape (N, K)
        Log-probabilities of the test's examples.
    out_of_fold : array, shape (n_labels, K)
        Of the training texts, each by a fit without it.
    labels : array of int, shape (n_labels,)
        Their classes.
    """

    arm: str
    reading: str
    n_labels: int
    draw: int
    twin: int
    test: str
    log_p: Floats
    out_of_fold: Floats
    labels: Codes

    def predicted(self) -> Codes:
        """Return the most probable class of each example, (N,)."""
        return self.log_p.argmax(axis=1)

    def predicted_for_mcc(self) -> Codes:
        """Return the classes for Matthews' coefficient: of two, at the threshold best on the training texts."""
        if self.log_p.shape[1] != 2:
            return self.predicted()
        own, odds = _odds(self.out_of_fold), _odds(self.log_p)
        cuts = np.quantile(own, np.linspace(0.05, 0.95, 91))
        scores = _mcc(_counts(self.labels, (own > cuts[:, None]).astype(np.int64), 2, None))
        return (odds > cuts[int(scores.argmax())]).astype(np.int64)


def _odds(log_p: Floats) -> Floats:
    odds: Floats = log_p[:, 1] - log_p[:, 0]
    return odds


@dataclass(frozen=True, repr=False, eq=False)
class ChainTable(Result):
    """What `pifi_probe.probe_chain` returns.

    Parameters
    ----------
    scores : DataFrame
        One row per test, number of labels, arm and reading ("alone" or "with encoder"): ``accuracy`` (even odds),
        ``mcc`` (Matthews; of two classes at the threshold that is best on the training texts' out-of-fold scores),
        ``macro_f1`` and ``nll``, each the mean over draws of labels and of twins; ``accuracy_sd`` over them.
    differences : DataFrame
        One row per test, number of labels, metric and pair of arms, both read with the encoder: ``difference`` of
        `a` minus `b` with ``low`` and ``high`` (95 %), ``p_value`` and ``n_draws``. Paired: the same examples, the
        same labelled texts. The intervals cover the examples, and, with three or more draws, the labelled texts;
        not another alignment. They are not corrected for their number.
    labels : dict of str to array of int
        True classes of every test.
    predicted : dict of str to array of int, shape (draws, twins, N)
        Most probable class of every example, by "arm | reading | labels | test".
    info : dict
        What was measured: models, layers, interface (R², what it saw), sizes, seeds.
    provenance : dict
        Versions, commit, machine, command, date, seconds of every arm.
    """

    scores: pd.DataFrame
    differences: pd.DataFrame
    labels: dict[str, Codes]
    predicted: dict[str, Codes]
    info: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    noun: ClassVar[str] = "a table of chains"

    def difference(
        self,
        a: str,
        b: str,
        *,
        test: str | None = None,
        n_labels: int | None = None,
        metric: str = "accuracy",
    ) -> dict[str, Any]:
        """Return one row of `differences`; by default on the task's own test, with all labels.

        Raises
        ------
        PifiProbeError
            If the table has no such row.
        """
        rows = self.differences
        test = self.info["task"] if test is None else test
        n_labels = self.info["n_train"] if n_labels is None else n_labels
        wanted = {"a": a, "b": b, "test": test, "n_labels": n_labels, "metric": metric}
        for column, value in wanted.items():
            found = rows[rows[column] == value]
            if found.empty:
                raise PifiProbeError(
                    f"the table has no difference with {column} {value!r} here",
                    where=f"{a} - {b}",
                    next=f"use one of {', '.join(map(str, dict.fromkeys(rows[column])))}",
                )
            rows = found
        return {str(name): value for name, value in rows.iloc[0].to_dict().items()}

    @property
    def answer(self) -> str:
        """What the chain adds to the encoder, and how much of that its twins add, in one or two sentences."""
        arms = set(self.scores["arm"])
        first, last = self.info["layers"]
        chain = f"layer {first}" if first == last else f"layers {first} to {last}"
        if "real" not in arms:
            return f"The {chain} of {self.info['llm']} were not evaluated: there is no arm 'real'."
        gain = self.difference("real", "encoder")
        size = f"{100 * gain['difference']:+.1f} points [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]"
        where = f"{chain} of {self.info['llm']} behind {self.info['slm']} on {self.info['task']}: {size} of accuracy"
        others = [arm for arm in ("interface", "shuffled", "random") if arm in arms]
        over = [self.difference("real", arm) for arm in others]
        if gain["low"] <= 0:
            return f"No gain can be seen from {where}.{self._beside_late}"
        beaten = [row["b"] for row in over if row["low"] > 0]
        if others and len(beaten) == len(others):
            return (
                f"The weights matter: {where} over the encoder, and more than {_and(others)} by intervals above zero."
                f"{self._beside_late}"
            )
        if not others:
            return f"A gain, with no twin to compare: {where} over the encoder."
        left = [arm for arm in others if arm not in beaten]
        said = f"A gain, but not shown to come from the weights: {where} over the encoder, {_and(left)} not beaten."
        return said + self._beside_late

    @property
    def _beside_late(self) -> str:
        """What matching without parameters gives to pairs, and what the layers add to it; nothing for other tasks."""
        if LATE not in set(self.scores["arm"]):
            return ""
        free, rest = self.difference(LATE, "encoder"), self.difference(f"real and {LATE}", LATE)
        shown = [
            f"{100 * row['difference']:+.1f} points [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
            for row in (free, rest)
        ]
        return f" Late interaction, without parameters, adds {shown[0]}; on top of it the layers add {shown[1]}."

    def to_json(self, path: str | Path | None = None, *, per_example: bool = True) -> str:
        """Return everything as JSON, and write it to `path`, atomically, when one is given.

        ``per_example=False`` leaves labels and predictions out.
        """
        return Result.to_json(self if per_example else replace(self, labels={}, predicted={}), path)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold; arrays are packed."""
        return self._header() | {
            "info": plain(self.info),
            "scores": _columns(self.scores),
            "differences": _columns(self.differences),
            "labels": {name: _packed(array) for name, array in self.labels.items()},
            "predicted": {name: _packed(array) for name, array in self.predicted.items()},
            "provenance": plain(self.provenance),
        }

    @classmethod
    def _read(cls, values: Mapping[str, Any]) -> ChainTable:
        import pandas as pd

        return cls(
            scores=pd.DataFrame(values["scores"]),
            differences=pd.DataFrame(values["differences"]),
            labels={name: _unpacked(packed) for name, packed in values["labels"].items()},
            predicted={name: _unpacked(packed) for name, packed in values["predicted"].items()},
            info=stored_settings(values["info"]),
            provenance=values["provenance"],
        )

    def summary(self) -> pd.DataFrame:
        """Return a row per test, number of labels and arm for people: scores and differences in points."""
        from pifi_probe.probing.chain_view import summary

        return summary(self)

    def said(self) -> list[str]:
        """Return the answer."""
        return [self.answer]

    def tables(self) -> list[Table]:
        """Return `summary`."""
        title = f"{self.info['llm']} behind {self.info['slm']}: accuracy in percent, differences in points"
        return [Table(self.summary(), title, fixed=3)]

    def __repr__(self) -> str:
        return f"ChainTable({self.answer})"


def build_chain_table(
    readings: Sequence[Reading],
    labels: Mapping[str, Codes],
    info: dict[str, Any],
    provenance: dict[str, Any],
) -> ChainTable:
    """Score readings and compare them, pair by pair."""
    import pandas as pd

    groups: dict[Key, list[Reading]] = {}
    for one in readings:
        groups.setdefault((one.arm, one.reading, one.n_labels, one.test), []).append(one)
    plain = {key: _gather(group, False) for key, group in groups.items()}  # (draws, twins, N)
    tuned = {key: _gather(group, True) for key, group in groups.items()}
    n_classes = len(info["label_names"])
    rows = []
    for key, group in groups.items():
        arm, reading, size, test = key
        truth = labels[test]
        right = (plain[key] == truth).mean(axis=-1)
        rows.append(
            {
                "test": test,
                "n_labels": size,
                "arm": arm,
                "reading": reading,
                "accuracy": float(right.mean()),
                "mcc": float(_mcc(_counts(truth, tuned[key].reshape(-1, len(truth)), n_classes, None)).mean()),
                "macro_f1": float(_f1(_counts(truth, plain[key].reshape(-1, len(truth)), n_classes, None)).mean()),
                "nll": float(np.mean([-one.log_p[np.arange(len(truth)), truth].mean() for one in group])),
                "accuracy_sd": float(right.std(ddof=1)) if right.size > 1 else 0.0,
                "n_draws": right.size,
            }
        )
    compared = _differences(plain, tuned, labels, n_classes, int(info["seed"]))
    small = np.uint8 if n_classes < 256 else np.uint16
    return ChainTable(
        scores=pd.DataFrame(rows),
        differences=pd.DataFrame(compared),
        labels={name: np.asarray(truth) for name, truth in labels.items()},
        predicted={" | ".join(map(str, key)): found.astype(small) for key, found in plain.items()},
        info=info,
        provenance=provenance,
    )


def _gather(group: Sequence[Reading], tuned: bool) -> Codes:
    draws, twins = 1 + max(one.draw for one in group), 1 + max(one.twin for one in group)
    found = np.empty((draws, twins, len(group[0].log_p)), dtype=np.int64)
    for one in group:
        found[one.draw, one.twin] = one.predicted_for_mcc() if tuned else one.predicted()
    return found


def _differences(
    plain: Mapping[Key, Codes], tuned: Mapping[Key, Codes], labels: Mapping[str, Codes], n_classes: int, seed: int
) -> list[dict[str, Any]]:
    """Compare every arm with the encoder, and the real chain with every other arm."""
    rows = []
    places = dict.fromkeys((size, test) for _, _, size, test in plain)
    for size, test in places:
        own = {arm: key for key in plain for arm in [key[0]] if key[1:] == (_reading(key[0]), size, test)}
        pairs = [(arm, "encoder") for arm in own if arm != "encoder"]
        pairs += [("real", arm) for arm in own if arm not in ("real", "encoder") and "real" in own]
        real = f"real and {LATE}"
        pairs += [(real, arm) for arm in own if arm != real and LATE in arm and real in own]
        truth = labels[test]
        draws = _resamples(len(truth), seed)
        for a, b in pairs:
            place = {"test": test, "n_labels": size, "a": a, "b": b}
            right = [(plain[own[arm]] == truth).mean(axis=1) for arm in (a, b)]  # (draws, N), over twins
            found = paired_difference(right[0], right[1], seed=seed)
            shown = {"difference": found.mean, "low": found.low, "high": found.high, "p_value": found.p_value}
            rows.append({"metric": "accuracy", **place, **shown, "n_draws": found.n_seeds})
            for metric, made, score in (("mcc", tuned, _mcc), ("macro_f1", plain, _f1)):
                rows.append(
                    {
                        "metric": metric,
                        **place,
                        **_bootstrapped(made[own[a]], made[own[b]], truth, n_classes, draws, score),
                        "n_draws": found.n_seeds,
                    }
                )
    return rows


def _reading(arm: str) -> str:
    return "alone" if arm == "encoder" else "with encoder"


def _resamples(n: int, seed: int) -> Floats:
    """Return how often each example is drawn in each bootstrap sample, (B, N)."""
    drawn: Floats = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=N_BOOT).astype(np.float64)
    return drawn


def _bootstrapped(a: Codes, b: Codes, truth: Codes, n_classes: int, draws: Floats, score: Any) -> dict[str, float]:
    """Return the difference of a metric that is not a mean over examples, with the interval of `paired_difference`."""
    from scipy.stats import t

    sides = []
    for found in (a, b):
        flat = found.reshape(-1, len(truth))
        whole = score(_counts(truth, flat, n_classes, None)).reshape(found.shape[:2]).mean(axis=1)  # (draws,)
        spread = np.mean([score(_counts(truth, one[None], n_classes, draws)) for one in flat], axis=0)  # (B,)
        sides.append((whole, spread))
    each, resampled = sides[0][0] - sides[1][0], sides[0][1] - sides[1][1]
    mean = float(each.mean())
    below, above = np.quantile(resampled - resampled.mean(), [0.025, 0.975])
    seeds = 0.0
    if len(each) >= 3:
        seeds = float(t.isf(0.025, len(each) - 1) * each.std(ddof=1) / np.sqrt(len(each)))
    low, high = mean - np.hypot(below, seeds), mean + np.hypot(above, seeds)
    width = (high - low) / 2 / 1.96
    from scipy.stats import norm

    p_value = float(2 * norm.sf(abs(mean) / width)) if width > 0 else 1.0
    return {"difference": mean, "low": float(low), "high": float(high), "p_value": p_value}


def _counts(truth: Codes, predicted: Codes, n_classes: int, draws: Floats | None) -> Floats:
    """Return confusion matrices (M, K, K), true class first.

    For M rows of predictions (M, N), or, with `draws` (B, N), for B bootstrap samples of one row.
    """
    cell = truth * n_classes + predicted  # (M, N)
    if draws is None:
        flat = np.stack([np.bincount(one, minlength=n_classes**2) for one in cell]).astype(np.float64)
    else:
        order = np.argsort(cell[0], kind="stable")
        bounds = np.searchsorted(cell[0][order], np.arange(n_classes**2))
        sums = np.concatenate([np.zeros((len(draws), 1)), np.cumsum(draws[:, order], axis=1)], axis=1)
        flat = np.diff(np.concatenate([sums[:, bounds], sums[:, -1:]], axis=1), axis=1)
    return flat.reshape(-1, n_classes, n_classes)


def _mcc(counts: Floats) -> Floats:
    """Return Matthews' coefficient of confusion matrices (M, K, K): (M,), 0 where it is undefined."""
    n, right = counts.sum((1, 2)), np.trace(counts, axis1=1, axis2=2)
    true, said = counts.sum(2), counts.sum(1)
    above = right * n - (true * said).sum(1)
    below = np.sqrt((n**2 - (said**2).sum(1)) * (n**2 - (true**2).sum(1)))
    found: Floats = np.where(below > 0, above / np.where(below > 0, below, 1), 0.0)
    return found


def _f1(counts: Floats) -> Floats:
    """Return the mean F1 of the classes that occur or are predicted, (M,)."""
    true, said = counts.sum(2), counts.sum(1)
    right = np.diagonal(counts, axis1=1, axis2=2)
    there = (true + said) > 0
    each = np.where(there, 2 * right / np.where(there, true + said, 1), 0.0)
    found: Floats = each.sum(1) / np.maximum(there.sum(1), 1)
    return found


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _columns(frame: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): frame[name].tolist() for name in frame}


def _packed(array: Codes) -> dict[str, Any]:
    """Return small whole numbers as text: shape, and their little-endian bytes, compressed."""
    raw = np.ascontiguousarray(array, dtype="<u2").tobytes()
    return {"shape": list(array.shape), "uint16": base64.b64encode(zlib.compress(raw, 9)).decode("ascii")}


def _unpacked(packed: Mapping[str, Any]) -> Codes:
    raw = inflate(packed["uint16"], packed["shape"], 2)
    return np.frombuffer(raw, dtype="<u2").astype(np.int64).reshape(packed["shape"])
