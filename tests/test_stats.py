"""Intervals hold the truth as often as they say, and verdicts say no more than the seeds allow."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.stats import Interval, holm, mean_interval, paired_difference, smallest_detectable, verdict

Floats = NDArray[np.float64]


def draw(
    rng: np.random.Generator, n_seeds: int, n_examples: int, seed_sd: float, example_sd: float, rest_sd: float
) -> Floats:
    """Scores (n_seeds, n_examples) whose true mean is zero."""
    seeds = seed_sd * rng.standard_normal((n_seeds, 1))
    examples = example_sd * rng.standard_normal((1, n_examples))
    return seeds + examples + rest_sd * rng.standard_normal((n_seeds, n_examples))


def arms(mean: float, n_seeds: int = 3, n_examples: int = 400) -> tuple[Floats, Floats]:
    """Return the correctness of an arm that is better by `mean`, and of the other."""
    rng = np.random.default_rng(0)
    other = (rng.random((n_seeds, n_examples)) < 0.7).astype(float)
    change = rng.random((n_seeds, n_examples)) < mean / 0.3
    return np.where(change, 1.0, other), other


@pytest.mark.slow
@pytest.mark.parametrize("n_seeds", [3, 5])
@pytest.mark.parametrize("deviations", [(0.0, 0.0, 0.4), (0.0, 0.3, 0.3), (0.02, 0.2, 0.35), (0.05, 0.2, 0.3)])
def test_coverage_is_at_least_nominal_whatever_the_seeds_do(
    n_seeds: int, deviations: tuple[float, float, float]
) -> None:
    rng = np.random.default_rng(n_seeds)
    held = 0
    for _ in range(200):
        interval = mean_interval(draw(rng, n_seeds, 200, *deviations), n_boot=300, seed=int(rng.integers(1 << 30)))
        held += interval.low <= 0 <= interval.high
    # of 200 data sets, 95 % +- three binomial standard errors is 181 to 199; wider than nominal is allowed
    assert held >= 181


def test_coverage_holds_for_correctness_of_two_equal_arms() -> None:
    rng = np.random.default_rng(7)
    held = 0
    for _ in range(200):
        difficulty = rng.normal(1.2, 1.5, (1, 200))
        both = []
        for _arm in range(2):
            ability = rng.normal(0, 0.15, (4, 1))
            both.append((rng.random((4, 200)) < 1 / (1 + np.exp(-difficulty - ability))).astype(float))
        interval = paired_difference(*both, n_boot=300, seed=int(rng.integers(1 << 30)))
        held += interval.low <= 0 <= interval.high
    assert held >= 181


def test_an_interval_over_examples_only_misses_seed_noise() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        interval = mean_interval(draw(rng, 2, 200, 0.05, 0.2, 0.3), n_boot=300)
        held += interval.low <= 0 <= interval.high
    assert held < 80


def test_one_seed_gives_the_bootstrap_of_scipy() -> None:
    from scipy.stats import bootstrap

    scores = np.random.default_rng(0).exponential(size=(1, 150))
    ours = mean_interval(scores, n_boot=20_000)
    theirs = bootstrap((scores[0],), np.mean, n_resamples=20_000, method="percentile", rng=1).confidence_interval
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.02 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.02 * width)


def test_with_seed_noise_alone_it_is_students_interval_over_seed_means() -> None:
    from scipy.stats import t

    means = np.array([0.1, 0.2, 0.6])
    interval = mean_interval(np.repeat(means[:, None], 50, axis=1))
    low, high = t.interval(0.95, 2, loc=means.mean(), scale=means.std(ddof=1) / np.sqrt(3))
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_it_is_never_narrower_than_over_examples_only() -> None:
    rng = np.random.default_rng(3)
    for _ in range(20):
        scores = draw(rng, 3, 100, 0.02, 0.2, 0.3)
        joined, examples = mean_interval(scores), mean_interval(scores.mean(axis=0, keepdims=True))
        assert joined.low <= examples.low < examples.high <= joined.high


def test_the_same_call_gives_the_same_interval_and_pairing_is_by_row_and_column() -> None:
    a, b = arms(0.05)
    assert paired_difference(a, b) == paired_difference(a, b)
    assert paired_difference(a, b, n_boot=99) != paired_difference(a, b, n_boot=99, seed=1)
    forward, backward = paired_difference(a, b), paired_difference(b, a)
    assert forward.mean == pytest.approx(-backward.mean)
    unpaired = paired_difference(a, b[:, ::-1])
    assert forward.mean == pytest.approx(unpaired.mean)
    assert unpaired.high - unpaired.low > 1.2 * (forward.high - forward.low)


def test_equal_arms_have_no_difference_and_no_width() -> None:
    a, _ = arms(0.05)
    interval = paired_difference(a, a)
    assert (interval.mean, interval.low, interval.high, interval.p_value) == (0, 0, 0, 1)


@settings(max_examples=30, deadline=None)
@given(shift=st.floats(-0.3, 0.3), n_seeds=st.integers(1, 5), seed=st.integers(0, 99))
def test_p_value_and_interval_agree(shift: float, n_seeds: int, seed: int) -> None:
    scores = draw(np.random.default_rng(seed), n_seeds, 60, 0.02, 0.2, 0.3) + shift
    for level in (0.5, 0.9, 0.95):
        interval = mean_interval(scores, n_boot=500, level=level)
        assert interval.excludes_zero == (interval.p_value <= 1 - level)


def test_the_last_bits_of_a_sum_change_no_digit_that_is_shown() -> None:
    sums = [0.0525 - 1e-15, 0.0525 + 1e-15]
    assert len({f"{100 * each:.1f}" for each in sums}) == 2
    made = [Interval(each, each, each, 1.0, n_seeds=2, n_examples=2, method="") for each in sums]
    assert len({f"{100 * getattr(one, name):.1f}" for one in made for name in ("mean", "low", "high")}) == 1


def test_verdicts_in_words() -> None:
    a, b = arms(0.05, n_seeds=5)
    better = paired_difference(a, b)
    points = f"{100 * better.mean:.1f} points [{100 * better.low:.1f}, {100 * better.high:.1f}]"
    assert verdict(better) == f"better by {points}"
    assert verdict(paired_difference(b, a)).startswith("worse by ")
    small = paired_difference(*arms(0.002))
    assert verdict(small).startswith("no difference detectable with 3 seeds [")
    two = verdict(paired_difference(a[:2], b[:2]))
    assert two.startswith("better by ")
    assert two.endswith("over examples only: 2 seeds say nothing about seed noise")
    one = paired_difference(a[:1], b[:1])
    assert verdict(one).endswith("1 seed says nothing about seed noise")
    assert one.method.endswith("only: 1 seed says nothing about seed noise")
    assert "nats" in verdict(better, unit="nats")


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_a_difference_of_the_smallest_detectable_size_is_found_about_as_often_as_said() -> None:
    rng = np.random.default_rng(0)
    size = smallest_detectable(mean_interval(draw(rng, 1, 400, 0.0, 0.0, 0.3)))
    assert size == pytest.approx((1.96 + 0.84) * 0.3 / 20, rel=0.1)
    found = sum(mean_interval(draw(rng, 1, 400, 0.0, 0.0, 0.3) + size, n_boot=300).excludes_zero for _ in range(200))
    assert 140 <= found <= 185


@pytest.mark.parametrize(
    "scores",
    [np.zeros(5), np.zeros((0, 5)), np.zeros((3, 1)), np.full((3, 5), np.nan), np.full((1, 3), np.inf)],
)
def test_scores_that_give_no_interval_are_refused(scores: Floats) -> None:
    with pytest.raises(PifiProbeError):
        mean_interval(scores)


def test_arms_of_unlike_size_are_refused() -> None:
    with pytest.raises(PifiProbeError, match="cannot be paired"):
        paired_difference(np.zeros((2, 5)), np.zeros((3, 5)))


def test_an_interval_knows_whether_it_covers_seeds() -> None:
    values = {"mean": 0.1, "low": 0.0, "high": 0.2, "p_value": 0.05, "n_examples": 9, "method": ""}
    assert [Interval(n_seeds=n, **values).over_seeds for n in (1, 2, 3)] == [False, False, True]  # type: ignore[arg-type]
