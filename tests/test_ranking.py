"""The best set holds the true best as often as it says and leaves out what is clearly worse; ranks agree or not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from pifi_probe.errors import PifiProbeError
from pifi_probe.ranking import best_set, rank_agreement

Floats = NDArray[np.float64]
REPEATS = 200
# The true best is in the set in 95 %; less three binomial standard errors of 200 repeats is 181. More is allowed.
ENOUGH = 181


def draw(
    rng: np.random.Generator, means: Floats, n: int, *, rest: Floats | float = 0.3, n_seeds: int = 1, seed: float = 0.0
) -> Floats:
    """Scores (A, S, N): arms share the difficulty of examples; `rest` and `seed` are standard deviations."""
    n_arms = len(means)
    shared = 0.3 * rng.standard_normal((1, 1, n))
    seeds = np.reshape(seed, (-1, 1, 1)) * rng.standard_normal((n_arms, n_seeds, 1))
    return (
        means[:, None, None] + shared + seeds + np.reshape(rest, (-1, 1, 1)) * rng.standard_normal((n_arms, n_seeds, n))
    )


def held(means: Floats, n: int, best: int = 0, **options: object) -> tuple[int, float]:
    """Return in how many of the repeats the true best is in the set, and the mean share of arms in it."""
    rng = np.random.default_rng(0)
    sets = []
    for repeat in range(REPEATS):
        scores = draw(rng, means, n, **options)  # type: ignore[arg-type]
        sets.append(best_set(scores if scores.shape[1] > 1 else scores[:, 0], n_boot=300, seed=repeat))
    return int(np.sum([kept[best] for kept in sets])), float(np.mean(sets))


TIED = np.zeros(12)
FALLING = -0.02 * np.arange(12)
WIDE = np.where(np.arange(12) == 0, 0.9, 0.3)
MIXED = np.where(np.arange(12) % 2 == 0, 0.9, 0.3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("means", "n", "rest", "best"),
    [
        (TIED, 200, 0.3, 0),
        (TIED, 30, 0.3, 0),
        (TIED, 200, WIDE, 0),
        (TIED, 200, MIXED, 0),
        (TIED, 200, MIXED, 1),
        (FALLING, 200, 0.3, 0),
        (FALLING, 200, MIXED, 0),
        (np.zeros(2), 50, np.array([0.9, 0.1]), 0),
    ],
)
def test_coverage_over_examples_with_ties_and_unequal_variances(
    means: Floats, n: int, rest: Floats | float, best: int
) -> None:
    assert held(means, n, best, rest=rest)[0] >= ENOUGH


@pytest.mark.parametrize(
    ("means", "n_seeds", "seed", "best"),
    [
        (TIED, 3, 0.05, 0),
        (FALLING, 3, 0.05, 0),
        (TIED, 3, np.where(np.arange(12) == 0, 0.15, 0.05), 0),
        (TIED, 5, np.where(np.arange(12) % 2 == 0, 0.15, 0.05), 0),
        (TIED, 3, np.where(np.arange(12) % 2 == 0, 0.15, 0.05), 1),
        (np.zeros(3), 3, 0.05, 0),
    ],
)
def test_coverage_over_seeds_and_examples(means: Floats, n_seeds: int, seed: Floats | float, best: int) -> None:
    assert held(means, 60, best, n_seeds=n_seeds, seed=seed)[0] >= ENOUGH


def test_coverage_holds_for_zeros_and_ones() -> None:
    rng = np.random.default_rng(0)
    kept = 0
    for repeat in range(REPEATS):
        difficulty = rng.normal(1.0, 1.5, 300)
        correct = rng.random((10, 300)) < 1 / (1 + np.exp(-difficulty))
        kept += best_set(correct, n_boot=300, seed=repeat)[0]
    assert kept >= ENOUGH


def test_without_seeds_in_the_data_seed_noise_is_not_covered() -> None:
    assert held(TIED, 60, n_seeds=2, seed=0.2)[0] < 150


def test_arms_that_are_clearly_worse_are_left_out() -> None:
    clear = -0.05 * np.arange(12)  # a difference has a standard error of 0.03
    assert held(clear, 200)[1] < 0.25
    assert held(clear, 200, n_seeds=3, seed=0.02)[1] < 0.3


def test_testing_against_one_rival_is_easier_than_against_thirty() -> None:
    """A rival 2.3 standard errors above beats one arm alone, but not as the luckiest of thirty."""
    rng = np.random.default_rng(1)
    scores = rng.standard_normal((31, 400))
    scores -= scores.mean(axis=1, keepdims=True)
    scores[1] += 2.3 * (scores[1] - scores[0]).std() / 20
    assert best_set(scores[:2]).tolist() == [False, True]
    assert best_set(scores)[0]


def test_pairing_by_example_tells_arms_apart() -> None:
    rng = np.random.default_rng(0)
    difficulty, noise = rng.standard_normal(300), 0.1 * rng.standard_normal((2, 300))
    paired = np.stack([difficulty + 0.1, difficulty]) + noise
    assert best_set(paired).tolist() == [True, False]
    assert best_set(np.stack([paired[0], rng.permutation(paired[1])])).all()


def test_thirty_one_arms_of_a_thousand_examples() -> None:
    rng = np.random.default_rng(0)
    kept = best_set(draw(rng, -0.02 * np.arange(31), 1000)[:, 0])
    assert kept[0] and not kept[5:].any()


def test_equal_scores_are_in_the_set_together_and_one_constant_step_below_is_not() -> None:
    scores = np.random.default_rng(0).random((3, 50))
    scores[1] = scores[0] = scores[2] + 0.001
    assert best_set(scores).tolist() == [True, True, False]
    assert best_set(np.full((4, 9), 0.1)).all()
    assert best_set(scores[:1]).tolist() == [True]


def test_the_highest_mean_is_always_in_and_the_same_call_gives_the_same_set() -> None:
    rng = np.random.default_rng(0)
    for n_seeds in (1, 3):
        scores = draw(rng, 0.1 * rng.standard_normal(31), 100, n_seeds=n_seeds, seed=0.02)
        kept = best_set(scores)
        assert kept[scores.mean(axis=(1, 2)).argmax()]
        assert np.array_equal(kept, best_set(scores))
        assert np.array_equal(kept, best_set(scores * 7 - 3))
        assert best_set(scores, 0.5).sum() < kept.sum() < best_set(scores, 0.9999).sum()


@pytest.mark.parametrize(
    ("scores", "level"),
    [
        (np.zeros(5), 0.95),
        (np.zeros((0, 5)), 0.95),
        (np.zeros((3, 1)), 0.95),
        (np.zeros((2, 2, 2, 2)), 0.95),
        (np.full((2, 5), np.nan), 0.95),
        (np.full((2, 5), np.inf), 0.95),
        (np.zeros((2, 5)), 1.0),
        (np.zeros((2, 5)), 0.0),
    ],
)
def test_scores_that_have_no_best_set_are_refused(scores: Floats, level: float) -> None:
    with pytest.raises(PifiProbeError, match="next:"):
        _say(best_set, scores, level)


def _say(function: object, *arguments: object) -> None:
    """Call, with what an error says to a reader as its message."""
    try:
        function(*arguments)  # type: ignore[operator]
    except PifiProbeError as error:
        raise PifiProbeError(str(error)) from error


def kendall_by_counting(a: Floats, b: Floats) -> float:
    """Tau-b from its definition."""
    pairs = [(np.sign(a[i] - a[j]), np.sign(b[i] - b[j])) for i in range(len(a)) for j in range(i)]
    signs = np.array(pairs)
    return float((signs[:, 0] * signs[:, 1]).sum() / np.sqrt(np.abs(signs).sum(axis=0).prod()))


@pytest.mark.parametrize("ties", [False, True])
def test_rank_agreement_is_that_of_the_definition_and_of_scipy(ties: bool) -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(0)
    a = rng.integers(5, size=31).astype(float) if ties else rng.random(31)
    b = a + rng.random(31)
    found = rank_agreement(a, b)
    assert found["kendall"] == pytest.approx(kendall_by_counting(a, b))
    assert found["spearman"] == pytest.approx(spearmanr(a, b).statistic)
    assert found["n"] == 31


def test_only_ranks_count() -> None:
    a = np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_agreement(a, np.exp(a)) == {"kendall": pytest.approx(1), "spearman": pytest.approx(1), "n": 4}
    assert rank_agreement(a, -a) == {"kendall": pytest.approx(-1), "spearman": pytest.approx(-1), "n": 4}
    assert rank_agreement([1, np.nan, 2, 3], [1, 5, np.nan, 0])["n"] == 2


@pytest.mark.parametrize(("a", "b"), [([1, 1, 1], [1, 2, 3]), ([1], [2]), ([np.nan, 1], [1, 2]), ([], [])])
def test_where_there_is_no_ranking_there_is_no_agreement(a: list[float], b: list[float]) -> None:
    found = rank_agreement(a, b)
    assert np.isnan(found["kendall"]) and np.isnan(found["spearman"])


def test_lists_of_unlike_length_are_refused() -> None:
    with pytest.raises(PifiProbeError, match="rank different items"):
        rank_agreement([1, 2], [1, 2, 3])
