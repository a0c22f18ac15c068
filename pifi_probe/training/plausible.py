"""What a stored result cannot say: shares above one, negative counts, scores of another number of examples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pifi_probe.kinds import Metric, metric_named
from pifi_probe.reading import Refused
from pifi_probe.tags import no_tag

if TYPE_CHECKING:
    from pifi_probe.training.result import RunResult, TestResult

__all__ = ["refuse_impossible"]

_EDGE = 1e-9  # sums of shares may end next to one
_COUNT = Metric("n", 0)


def refuse_impossible(result: RunResult) -> None:
    """Refuse a result that no run can have had; types are checked before.

    Raises
    ------
    Refused
        Naming the value.
    """
    for part, names in (("model", ("label",)), ("task", ("name", "fingerprint"))):
        for name in names:
            if not isinstance(getattr(result, part).get(name), str):
                raise Refused(f"{part}.{name} is not text")
    if wrong := [why for tag in result.tags if (why := no_tag(tag))]:
        raise Refused(f"tags holds something that is not a tag: {wrong[0]}")
    if not result.tests:
        raise Refused("it holds no test")
    if not 0 <= result.best_epoch < len(result.epochs):
        raise Refused(f"best_epoch is {result.best_epoch} of {len(result.epochs)} epochs")
    for epoch in result.epochs:
        _refuse_metrics(epoch, "epochs")
    for name in ("trainable", "frozen"):
        if result.parameters.get(name, -1) < 0:
            raise Refused(f"parameters.{name} is {result.parameters.get(name)}")
    for name in ("train", "test"):
        _number(f"seconds.{name}", result.seconds.get(name), 0, math.inf)
    _number("lr_projection", result.lr_projection, 0, math.inf)
    for name, curve in result.curves.items():
        if not all(map(math.isfinite, curve)):
            raise Refused(f"curves.{name} holds NaN, which ends a run")
    for name, count in result.peak_memory.items():
        if count is not None and count < 0:
            raise Refused(f"peak_memory.{name} is {count}")
    if not isinstance(sizes := result.task.get("sizes", {}), Mapping):
        raise Refused("task.sizes is not a table")
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise Refused(f"task.sizes.{name} is {size!r}")
    for name, test in result.tests.items():
        _refuse_impossible_test(name, test)


def _refuse_metrics(metrics: Mapping[str, Any], where: str) -> None:
    """Refuse metrics beyond their range, NaN or infinite."""
    for name, value in metrics.items():
        known = _COUNT if name == "n" else metric_named(name)
        if known.listed and not isinstance(value, list):
            raise Refused(f"{where}.{name} is not a list of numbers")
        if math.isfinite(known.low) or math.isfinite(known.high):
            for one in value if known.listed else [value]:
                _in_range(f"{where}.{name}", one, known)


def _refuse_impossible_test(name: str, test: TestResult) -> None:
    _refuse_metrics(test.metrics, name)
    for share in test.train_prior:
        _number(f"{name}.train_prior", share, 0, 1 + _EDGE)
    n = test.metrics.get("n")
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise Refused(f"{name}.n is {n!r}, not a number of examples")
    columns = dict(test.scores) if test.scores else {"nll": test.nll}
    for column, text in columns.items():
        values = [_parsed(f"{name}.{column}", part) for part in text.split()]
        if len(values) != n:
            raise Refused(f"{name}.{column} has {len(values)} values for {n} examples")
        known = metric_named(column)
        for value in (min(values), max(values)):
            _in_range(f"a value of {name}.{column}", value, known)
    if test.scores:
        return
    if len(test.correct) != n or set(test.correct) - {"0", "1"}:
        raise Refused(f"{name}.correct is not a 0 or 1 for each of {n} examples")
    share = test.correct.count("1") / n
    if abs(test.metrics.get("accuracy", share) - share) > 1e-6:
        raise Refused(f"{name}.accuracy is {test.metrics['accuracy']}, and of the examples {share:.6g} are correct")


def _parsed(where: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise Refused(f"{where} holds {text[:40]!r}") from error
    if not math.isfinite(value):
        raise Refused(f"{where} holds {value}")
    return value


def _in_range(where: str, value: Any, known: Metric) -> None:
    """Refuse a value beyond a metric's range; sums may end next to its ends, but nothing rounds to below zero."""
    _number(where, value, known.low - _EDGE if known.low else 0, known.high + _EDGE)


def _number(where: str, value: Any, least: float, most: float) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or not least <= value <= most:
        raise Refused(f"{where} is {value!r:.60}, which it cannot be")
