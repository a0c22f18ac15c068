"""Tests of what a score of the layers is worth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from pifi_probe.ranking import chance_regret, noise_ceiling, rank_agreement, regret_at, smooth_null


@pytest.mark.parametrize("icc", [0.0, 0.3, 0.75, 1.0])
def test_the_ceiling_is_what_a_perfect_score_reaches(icc: float) -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(400, 30))
    noisy = math.sqrt(icc) * truth + math.sqrt(1 - icc) * rng.normal(size=truth.shape)
    reached = np.mean([rank_agreement(a, b)["kendall"] for a, b in zip(truth, noisy, strict=True)])
    assert noise_ceiling(icc) == pytest.approx(reached, abs=0.02)


@pytest.mark.slow
def test_smooth_curves_agree_by_chance_more_often_than_permuted_ones() -> None:
    depth = np.arange(30) / 29
    smooth, rough = np.sin(3 * depth), np.random.default_rng(1).normal(size=30)
    other = depth**2
    limit, _ = smooth_null(smooth, other)
    rough_limit, _ = smooth_null(rough, other)
    assert limit > 1.3 * rough_limit
    assert rough_limit == pytest.approx(0.26, abs=0.05)  # of 30 permuted values


@pytest.mark.slow
def test_the_null_s_p_value_is_even_for_unrelated_curves_of_the_same_smoothness() -> None:
    rng = np.random.default_rng(0)
    kernel = np.exp(-0.5 * ((np.arange(30)[:, None] - np.arange(30)) / 4) ** 2) + 1e-6 * np.eye(30)
    curves = rng.multivariate_normal(np.zeros(30), kernel, size=160)
    p_values = [smooth_null(curves[i], curves[i + 1], n_draws=99)[1] for i in range(0, 160, 2)]
    assert np.mean(np.array(p_values) < 0.05) < 0.16
    assert 0.35 < np.mean(p_values) < 0.65


def test_a_constant_score_has_no_null() -> None:
    assert all(math.isnan(value) for value in smooth_null(np.ones(5), np.arange(5.0)))


def test_regret_of_a_score_and_of_chance() -> None:
    quality = np.array([0.0, 3.0, 1.0, 2.0])
    assert regret_at(quality, quality) == 0
    assert regret_at(-quality, quality) == 3
    assert regret_at(np.array([1.0, 0, 1, 0]), quality) == 2.5  # the tie between layers 0 and 2
    assert regret_at(np.array([3.0, 0, 2, 1]), quality, k=3) == 1
    for k in (1, 2, 3, 4):
        mean = np.mean([quality[list(chosen)].max() for chosen in itertools.combinations(range(4), k)])
        assert chance_regret(quality, k) == pytest.approx(3 - mean)
