"""The estimator `span`: what a chain of layers adds from its entry to its exit, times how well it can be entered."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict

from pifi_probe.errors import EstimatorError
from pifi_probe.features.headroom_table import span_scores
from pifi_probe.scoring.estimators import get, span, usable_information
from pifi_probe.scoring.projections import PENALTIES, left_out_r2


@dataclass(frozen=True)
class Chain:
    """An encoder's vectors h, and a model's states before layers that learn the labels and after them."""

    h: np.ndarray
    entry: np.ndarray
    exit: np.ndarray
    y: np.ndarray

    def __call__(self) -> float:
        return span(self.exit, self.y, other=self.h, entry=self.entry)


def chain(seed: int = 0, *, n: int = 160, learned: float = 1.0, enters: float = 1.0) -> Chain:
    """Return states whose exit knows the labels `learned` apart, and whose entry is `enters` parts made of h."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    h = rng.normal(size=(n, 12))
    h[:, 0] += 0.5 * (2 * y - 1)
    entry = enters * h @ rng.normal(size=(12, 20)) / 4 + rng.normal(size=(n, 20)) / 2
    known = rng.normal(size=(n, 4)) + learned * (2 * y - 1)[:, None]
    return Chain(h, entry, np.hstack([entry, known]), y)


def test_it_is_the_rise_of_what_the_states_add_times_the_fit_of_the_entry() -> None:
    one = chain()
    added = [usable_information(states, one.y, other=one.h) for states in (one.exit, one.entry)]
    assert added[0] - added[1] > 0.2
    r2 = left_out_r2(one.h, one.entry)
    assert 0.3 < r2 < 0.9
    assert one() == pytest.approx((added[0] - added[1]) * r2, rel=1e-9)


@pytest.mark.parametrize(("n", "dims"), [(40, (6, 9)), (30, (50, 4))])
def test_the_fit_is_that_of_ridge_regressions_that_leave_each_row_out(n: int, dims: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    h = rng.normal(size=(n, dims[0])) * 7 + 3
    states = h @ rng.normal(size=dims) + 9 * rng.normal(size=(n, dims[1]))
    scaled = (h - h.mean(axis=0)) / np.sqrt(((h - h.mean(axis=0)) ** 2).mean())
    sizes = np.linalg.svd(scaled, compute_uv=False)
    around = np.stack([np.delete(states, row, axis=0).mean(axis=0) for row in range(n)])
    errors = []
    for penalty in PENALTIES * np.square(sizes[sizes > 1e-10 * sizes[0]]).mean():
        held = cross_val_predict(Ridge(penalty), scaled, states, cv=LeaveOneOut())
        errors.append(np.square(states - held).mean())
    assert left_out_r2(h, states) == pytest.approx(1 - min(errors) / np.square(states - around).mean(), rel=1e-6)


def test_layers_that_learn_nothing_and_an_entry_that_cannot_be_reached_promise_nothing() -> None:
    assert chain()() > 0.1
    assert abs(chain(learned=0.0)()) < 0.02
    assert chain(enters=0.0)() < 0.02
    one = chain()
    assert span(one.entry, one.y, other=one.h, entry=one.entry) == 0


def test_more_learnt_and_a_better_entry_never_promise_less() -> None:
    for name in ("learned", "enters"):
        values = [np.mean([chain(seed, **{name: size})() for seed in range(4)]) for size in (0.0, 0.5, 1.0, 2.0)]
        assert np.all(np.diff(values) > -0.01) and values[-1] > values[0] + 0.1


def test_order_scale_and_rotation_of_the_three_feature_sets_do_not_matter() -> None:
    one = chain()
    order = np.random.default_rng(1).permutation(len(one.y))
    turned = np.linalg.qr(np.random.default_rng(2).normal(size=(20, 20)))[0]
    others = [
        Chain(one.h[order], one.entry[order], one.exit[order], one.y[order]),
        replace(one, entry=1e3 * one.entry + 5, h=one.h / 1e3 - 2, exit=7 * one.exit),
        replace(one, entry=one.entry @ turned),
        replace(one, y=1 - one.y),
    ]
    for other in others:
        assert other() == pytest.approx(one(), rel=1e-6)


def test_it_has_a_part_for_every_example() -> None:
    one = chain()
    scored = get("span").score(one.exit, one.y, other=one.h, entry=one.entry)
    assert scored.per_example is not None and scored.per_example.shape == one.y.shape
    assert scored.per_example.mean() == pytest.approx(scored.value) and scored.per_example.std() > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry[:-1], "159 entry features for 160 examples"),
        (lambda entry: entry * np.nan, "entry features hold"),
        (lambda entry: entry[:, 0], "entry features have shape"),
    ],
)
def test_an_entry_that_cannot_be_is_refused(change: object, message: str) -> None:
    one = chain()
    assert callable(change)
    with pytest.raises(EstimatorError, match=message):
        span(one.exit, one.y, other=one.h, entry=change(one.entry))


def test_an_entry_that_is_constant_promises_nothing() -> None:
    one = chain()
    assert span(one.exit, one.y, other=one.h, entry=np.ones((160, 3))) == 0
    assert left_out_r2(np.ones((9, 2)), np.random.default_rng(0).normal(size=(9, 3))) == 0


def test_headroom_scores_spans_by_the_same_rule() -> None:
    table = span_scores([0.0, 0.0, 0.0, 6.0, 6.0, 6.0], [0.9, 0.5, -0.5, 0.1, 0.1])
    assert len(table) == 15
    for row in table.itertuples():
        assert row.score == pytest.approx(row.rise * max(row.r2, 0))
    assert (table["first"][0], table["last"][0]) == (0, 3)
