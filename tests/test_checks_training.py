"""The checks of notebooks 05 to 08 name the likely mistake, accept the right answer, and never raise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from pifi_probe import checks


def _seed_interval(d: Any, t: float) -> tuple[float, float]:
    half = t * d.std(ddof=1) / len(d) ** 0.5
    return d.mean() - half, d.mean() + half


def _parts(a: dict[str, float]) -> dict[str, float]:
    steps = (("projections", "linear", "vanilla"), ("block", "random", "linear"), ("knowledge", "real", "random"))
    return {name: a[late] - a[early] for name, late, early in steps}


def _change(before: Any, after: Any) -> float:
    moved = sum((after[k] - before[k]).square().sum() for k in before)
    return float((moved / sum(v.square().sum() for v in before.values())).sqrt())


def _pool(states: Any, mask: Any) -> Any:
    scaled = states / states.square().mean(-1, keepdim=True).sqrt()
    return scaled[mask.bool()][1:].mean(0)


def _residuals(X: Any, y: Any, penalty: float) -> Any:
    hat = X @ torch.linalg.solve(X.T @ X + penalty * torch.eye(X.shape[1], dtype=X.dtype), X.T)
    return (y - hat @ y) / (1 - hat.diagonal())


def _training_residuals(X: Any, y: Any, penalty: float) -> Any:
    return y - X @ torch.linalg.solve(X.T @ X + penalty * torch.eye(X.shape[1], dtype=X.dtype), X.T) @ y


def _added(h: Any, P: Any, layer: Any, size: float) -> Any:
    x = h @ P.T
    x = size * x / x.square().mean().sqrt()
    return layer(x[:, None])[:, 0] - x


def _output(h: Any, P: Any, layer: Any, size: float) -> Any:
    x = h @ P.T
    return layer((size * x / x.square().mean().sqrt())[:, None])[:, 0]


def _gain(real: Any, shuffled: Any) -> tuple[float, float]:
    own = (real - shuffled).mean(0)
    return own.mean(), own.std(ddof=1) / len(own) ** 0.5


def _volume(alpha: float, beta: float, s: Any, n_features: int) -> float:
    return 0.5 * len(s) * np.log(alpha) - 0.5 * np.log(alpha + beta * s).sum()


RIGHT = [
    (checks.check_seed_interval, _seed_interval),
    (checks.check_gain_parts, _parts),
    (checks.check_relative_change, _change),
    (checks.check_forgetting, lambda b, a: (a - b).mean()),
    (checks.check_pool_tokens, _pool),
    (checks.check_p_value, lambda s, null: (1 + (null >= s).sum()) / (1 + len(null))),
    (checks.check_left_out_residuals, _residuals),
    (checks.check_added, _added),
    (checks.check_gain_with_error, _gain),
    (checks.check_log_volume, _volume),
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
    assert check(lambda *_: "half").status == "wrong"
    assert "without a return" in check(lambda *_: None).message


MISTAKES = [
    (checks.check_seed_interval, lambda d, t: (d.mean() - t * d.std(ddof=1), d.mean() + t * d.std(ddof=1)), "single"),
    (checks.check_seed_interval, lambda d, t: _seed_interval(d, 1.96), "many seeds"),
    (checks.check_gain_parts, lambda a: _parts(a) | {"knowledge": a["real"] - a["vanilla"]}, "beyond the random"),
    (checks.check_gain_parts, lambda a: _parts(a) | {"block": a["random"] - a["vanilla"]}, "not against vanilla"),
    (checks.check_gain_parts, lambda a: {k: -v for k, v in _parts(a).items()}, "flipped"),
    (checks.check_gain_parts, lambda a: {"knowledge": 0.1}, "keys"),
    (
        checks.check_relative_change,
        lambda b, a: float(np.mean([(a[k] - b[k]).norm() / b[k].norm() for k in b])),
        "mean",
    ),
    (checks.check_forgetting, lambda b, a: (b - a).mean(), "sign"),
    (checks.check_forgetting, lambda b, a: (np.exp(a) - np.exp(b)).mean(), "perplexity"),
    (checks.check_pool_tokens, lambda s, m: s[m.bool()][1:].mean(0), "not divided"),
    (checks.check_pool_tokens, lambda s, m: _pool(s, torch.ones_like(m)), "Padding"),
    (checks.check_p_value, lambda s, null: float((null >= s).mean()), "No p-value is zero"),
    (checks.check_left_out_residuals, _training_residuals, "training examples"),
    (checks.check_added, _output, "subtract its input"),
    (checks.check_added, lambda h, P, layer, r: layer((h @ P.T)[:, None])[:, 0] - h @ P.T, "asked size"),
    (checks.check_gain_with_error, lambda a, b: ((a - b).mean(), (a - b).std(ddof=1) / a.size**0.5), "not examples"),
    (checks.check_log_volume, lambda a, b, s, D: 0.5 * D * np.log(a) - 0.5 * np.log(a + b * s).sum(), "released"),
]


@pytest.mark.parametrize(("check", "answer", "named"), MISTAKES)
def test_a_likely_mistake_is_named(check: Any, answer: Any, named: str) -> None:
    report = check(answer)
    assert report.status == "wrong" and named in report.message, report


def test_mistakes_about_the_matrices_that_train_are_named() -> None:
    right = {"v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert checks.check_trainable_on_one_token(right).passed
    assert "softmax" in checks.check_trainable_on_one_token(right | {"q_proj"}).message
    assert "v_proj" in checks.check_trainable_on_one_token(right - {"v_proj"}).message
    assert "no such matrix" in checks.check_trainable_on_one_token({"head"}).message
    assert checks.check_trainable_on_one_token(...).status == "not attempted"


def test_mistakes_about_controls_are_named() -> None:
    right = {
        "two linear maps": "linear",
        "a random block of this shape": "random",
        "the sizes of the weights, not their order": "shuffled",
        "more trained weights": "mlp",
    }
    assert checks.check_control_for(right).passed
    assert "nothing between" in checks.check_control_for(right | {"more trained weights": "linear"}).message
    assert "not a control" in checks.check_control_for(right | {"two linear maps": "lstm"}).message
    assert "missing" in checks.check_control_for({"two linear maps": "linear"}).message
    assert checks.check_control_for(...).status == "not attempted"
