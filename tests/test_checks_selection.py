"""The checks of notebooks 09 to 12 and 17 name the likely mistake, accept the right answer, and never raise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from pifi_probe import checks
from pifi_probe.checks.widgeting import BUTTONS


def _f(table: Any) -> float:
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    layers, seeds = table.shape
    return seeds * table.mean(1).var(ddof=1) / ((rest**2).sum() / ((layers - 1) * (seeds - 1)))


def _loss(table: Any) -> float:
    others = [np.delete(table, held, axis=1).mean(1) for held in range(table.shape[1])]
    return float(np.mean([one.max() - table[one.argmax(), held] for held, one in enumerate(others)]))


def _regret(score: Any, quality: Any, k: int) -> float:
    return quality.max() - quality[np.argsort(-score)[:k]].max()


def _best(draws: Any) -> Any:
    return np.bincount(draws.argmin(1), minlength=draws.shape[1]) / len(draws)


def _paired(a: Any, b: Any) -> tuple[float, float]:
    return (a - b).mean(), (a - b).std(ddof=1) / len(a) ** 0.5


def _mix(x: Any, layers: Any, weights: Any) -> Any:
    return layers[0](x) + sum(w * (f(x) - x) for w, f in zip(weights, layers[1:], strict=True))


def _more(points: dict[str, float]) -> float:
    return points["combination"] - max(points[name] for name in ("repeated", "shuffled", "ensemble", "mlp"))


def _balanced(labels: Any, predicted: Any) -> float:
    return float(np.mean([(predicted[labels == c] == c).mean() for c in np.unique(labels)]))


def _auroc(scores: Any, labels: Any) -> float:
    a, b = scores[labels == 1][:, None], scores[labels == 0]
    return ((a > b) + (a == b) / 2).mean()


def _steady(results: Any) -> str:
    own = results[(results["fidelity"] == "full") & (results["phase"] == "select") & (results["state"] == "complete")]
    return str(own.groupby("label")["value"].mean().idxmin())


RIGHT = [
    (checks.check_f_statistic, _f),
    (checks.check_winners_loss, _loss),
    (checks.check_regret, _regret),
    (checks.check_chance_to_be_best, _best),
    (checks.check_next_layer, lambda mean, sd, rng: rng.normal(mean, sd).argmin()),
    (checks.check_paired_error, _paired),
    (checks.check_mix, _mix),
    (checks.check_majority_vote, lambda c: (c.mean(0) > 0.5).mean()),
    (checks.check_more_than_ensemble, _more),
    (checks.check_balanced_accuracy, _balanced),
    (checks.check_accuracy_under, lambda r, prior: r @ prior),
    (checks.check_auroc, _auroc),
    (checks.check_spent_on, lambda results, fidelity: results.loc[results["fidelity"] == fidelity, "cost"].sum()),
    (checks.check_steady_best, _steady),
]
each_check = pytest.mark.parametrize("check", [check for check, _ in RIGHT], ids=lambda check: check.__name__)


@pytest.mark.parametrize(("check", "answer"), RIGHT, ids=lambda one: one.__name__)
def test_the_right_answer_passes(check: Any, answer: Any) -> None:
    assert check(answer).passed, check(answer)


@each_check
def test_an_untouched_stub_says_so(check: Any) -> None:
    assert check(lambda *_: ...).status == "not attempted"


@each_check
def test_an_answer_of_another_kind_is_reported_not_raised(check: Any) -> None:
    assert check(lambda *_: [1]).status == "wrong"
    assert "without a return" in check(lambda *_: None).message


def _within(table: Any) -> float:
    own = (table - table.mean(1, keepdims=True)).var(axis=1, ddof=1).mean()
    return table.shape[1] * table.mean(1).var(ddof=1) / own


def _series(x: Any, layers: Any, weights: Any) -> Any:
    y = layers[0](x)
    for w, f in zip(weights, layers[1:], strict=True):
        y = y + w * (f(y) - y)
    return y


def _apart(a: Any, b: Any) -> tuple[float, float]:
    return (a - b).mean(), (a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)) ** 0.5


MISTAKES = [
    (checks.check_f_statistic, _within, "alike"),
    (checks.check_f_statistic, lambda t: 1 / _f(t), "inverted"),
    (checks.check_winners_loss, lambda t: -_loss(t), "sign"),
    (checks.check_winners_loss, lambda t: 3 * _loss(t), "not the sum"),
    (checks.check_regret, lambda s, q, k: q.max() - q[np.argsort(-s)[:k]].mean(), "not their mean"),
    (checks.check_regret, lambda s, q, k: q.max() - q[s.argmax()], "first one only"),
    (checks.check_chance_to_be_best, lambda d: _best(-d), "lowest"),
    (checks.check_chance_to_be_best, lambda d: _best(d) * len(d), "Divide"),
    (checks.check_next_layer, lambda mean, sd, rng: mean.argmin(), "draw one value"),
    (checks.check_next_layer, lambda mean, sd, rng: rng.integers(3), "own mean and sd"),
    (checks.check_paired_error, _apart, "seed by seed"),
    (checks.check_paired_error, lambda a, b: (_paired(a, b)[0], (a - b).std(ddof=1)), "one difference"),
    (checks.check_mix, _series, "series"),
    (checks.check_mix, lambda x, f, w: f[0](x) + w[0] * f[1](x) + w[1] * f[2](x), "branches"),
    (checks.check_majority_vote, lambda c: c.mean(), "members"),
    (checks.check_more_than_ensemble, lambda p: p["combination"] - p["single"], "equal size"),
    (checks.check_balanced_accuracy, lambda y, p: (y == p).mean(), "That is accuracy"),
    (checks.check_accuracy_under, lambda r, prior: r.mean(), "balanced accuracy"),
    (checks.check_auroc, lambda s, y: (s[y == 1][:, None] > s[y == 0]).mean(), "tie"),
    (checks.check_spent_on, lambda r, fidelity: r["cost"].sum(), "all fidelities"),
    (checks.check_steady_best, lambda r: r.loc[r["value"].idxmin(), "label"], "not a candidate"),
    (checks.check_steady_best, lambda r: "A[0]", "lucky"),
]


@pytest.mark.parametrize(("check", "answer", "named"), MISTAKES)
def test_a_likely_mistake_is_named(check: Any, answer: Any, named: str) -> None:
    report = check(answer)
    assert report.status == "wrong" and named in report.message, report


def test_mistakes_about_the_buttons_are_named() -> None:
    assert checks.check_button_for(dict(BUTTONS)).passed
    assert checks.check_button_for(dict.fromkeys(BUTTONS, ...)).status == "not attempted"
    assert "for good" in checks.check_button_for(dict.fromkeys(BUTTONS, "stop")).message
    assert "no button" in checks.check_button_for(BUTTONS | {"how long will it take?": "guess"}).message
    assert "Not answered" in checks.check_button_for({"how long will it take?": "estimate"}).message
