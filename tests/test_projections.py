"""Projections keep, carry over and align what they say they do, and see no label."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import ledoit_wolf_shrinkage
from sklearn.linear_model import RidgeCV

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.projections import PENALTIES, PROJECTIONS, Pairs, matched, project

D_SLM, D_LLM = 12, 20


def cloud(n: int, d: int, seed: int, decay: float = 0.8) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) * decay ** np.arange(d) @ rng.normal(size=(d, d)) + rng.normal(size=d)


def planted(n: int, noise: float, seed: int = 0) -> tuple[Pairs, np.ndarray]:
    """Pairs whose states are an affine map of h plus noise, and the map."""
    rng = np.random.default_rng(seed)
    h, matrix = cloud(n, D_SLM, 7), rng.normal(size=(D_SLM, D_LLM))
    return Pairs(h, h @ matrix + 3.0 + noise * rng.normal(size=(n, D_LLM))), matrix


def test_a_random_projection_keeps_all_inner_products() -> None:
    h = cloud(30, D_SLM, 0)
    x = project("random", h, D_LLM, seed=1)(h)
    assert x.shape == (30, D_LLM)
    np.testing.assert_allclose(x @ x.T, h @ h.T, atol=1e-8)
    assert not np.allclose(x, project("random", h, D_LLM, seed=2)(h))
    assert np.array_equal(x, project("random", h, D_LLM, seed=1)(h))


def test_a_random_projection_to_fewer_dimensions_keeps_the_leading_components() -> None:
    h = cloud(40, D_SLM, 0)
    h[:, 5] *= 50
    x = project("random", h, 4, seed=0)(h)
    values = np.linalg.svd(h - h.mean(0), compute_uv=False)[:4]
    np.testing.assert_allclose(np.linalg.svd(x - x.mean(0), compute_uv=False), values, rtol=1e-8)


def test_moment_matching_gives_the_mean_and_the_leading_covariance_of_the_states() -> None:
    pairs = Pairs(cloud(400, D_SLM, 0), cloud(400, D_LLM, 1))
    x = project("moment", pairs.h, D_LLM, pairs=pairs, seed=0)(pairs.h)
    np.testing.assert_allclose(x.mean(0), pairs.states.mean(0), atol=1e-8)
    centred = pairs.states - pairs.states.mean(0)
    shrunk = [ledoit_wolf_shrinkage(one - one.mean(0), assume_centered=True) for one in (pairs.h, pairs.states)]
    assert max(shrunk) < 0.1  # so that shrinkage moves the moments by little
    wanted = np.linalg.svd(centred, compute_uv=False)[:D_SLM]
    got = np.linalg.svd(x - x.mean(0), compute_uv=False)[:D_SLM]
    np.testing.assert_allclose(got[:6], wanted[:6], rtol=0.35)
    axes = np.linalg.svd(centred)[2][:D_SLM]
    outside = (x - x.mean(0)) - (x - x.mean(0)) @ axes.T @ axes
    assert np.abs(outside).max() < 1e-8 * np.abs(x).max()


def test_moment_matching_does_not_need_the_pairs_to_be_in_order() -> None:
    pairs = Pairs(cloud(60, D_SLM, 0), cloud(60, D_LLM, 1))
    other = Pairs(pairs.h[::-1].copy(), pairs.states)
    first, second = (project("moment", pairs.h, D_LLM, pairs=one, seed=3)(pairs.h) for one in (pairs, other))
    np.testing.assert_allclose(first, second, rtol=1e-5, atol=1e-6)


def test_ridge_finds_a_planted_map_and_says_how_well() -> None:
    pairs, matrix = planted(200, noise=0.0)
    found = project("ridge", pairs.h, D_LLM, pairs=pairs)
    np.testing.assert_allclose(found.matrix, matrix, atol=1e-2)
    assert found.r2 > 0.999
    noise = np.std(pairs.states - pairs.states.mean(0))  # as much noise as signal: half can be predicted
    assert project("ridge", pairs.h, D_LLM, pairs=planted(4000, noise)[0]).r2 == pytest.approx(0.5, abs=0.05)


def test_ridge_is_that_of_scikit_learn_with_the_same_penalties() -> None:
    pairs, _ = planted(50, noise=4.0)
    values = np.linalg.svd(pairs.h - pairs.h.mean(0), compute_uv=False) ** 2
    reference = RidgeCV(alphas=PENALTIES * values.mean()).fit(pairs.h, pairs.states)
    found = project("ridge", pairs.h, D_LLM, pairs=pairs)
    np.testing.assert_allclose(found.matrix, reference.coef_.T, atol=1e-7)
    np.testing.assert_allclose(found(pairs.h), reference.predict(pairs.h), atol=1e-7)


def test_procrustes_finds_a_planted_rotation_and_scale() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.normal(size=(D_LLM, D_SLM)))[0].T
    h = cloud(100, D_SLM, 3, decay=0.95)
    found = project("procrustes", h, D_LLM, pairs=Pairs(h, 2.5 * h @ rotation - 1.0))
    np.testing.assert_allclose(found.matrix, 2.5 * rotation, atol=1e-6)
    assert found.r2 > 0.999


@pytest.mark.parametrize("name", ["ridge", "procrustes"])
def test_the_alignment_of_unrelated_clouds_is_not_called_good(name: str) -> None:
    pairs = Pairs(cloud(100, D_SLM, 0), cloud(100, D_LLM, 1))
    assert project(name, pairs.h, D_LLM, pairs=pairs).r2 < 0.05


def test_matched_vectors_have_the_layers_own_size() -> None:
    x = cloud(30, D_LLM, 0)
    assert np.sqrt(np.square(matched(x, 29.0)).mean()) == pytest.approx(29.0)
    np.testing.assert_allclose(matched(x, 2.0) * 3, matched(7 * x, 6.0), rtol=1e-5)
    with pytest.raises(EstimatorError, match="zero"):
        matched(np.zeros((3, 4)), 1.0)


@pytest.mark.parametrize("name", PROJECTIONS)
def test_float32_vectors_of_any_scale_make_finite_projections(name: str) -> None:
    for scale in (1e-12, 1e8):
        pairs = Pairs(
            (scale * cloud(60, D_SLM, 0)).astype(np.float32), (cloud(60, D_LLM, 1) / scale).astype(np.float32)
        )
        assert np.isfinite(matched(project(name, pairs.h, D_LLM, pairs=pairs)(pairs.h), 1.0)).all()


def test_bad_input_is_named() -> None:
    h = cloud(30, D_SLM, 0)
    with pytest.raises(EstimatorError, match="unknown projection 'best'.*procrustes"):
        project("best", h, D_LLM)
    for pairs in (None, Pairs(h[:9], cloud(9, D_LLM, 1))):
        with pytest.raises(EstimatorError, match="at least 10 texts"):
            project("ridge", h, D_LLM, pairs=pairs)
    with pytest.raises(EstimatorError, match="do not make pairs"):
        Pairs(h, cloud(29, D_LLM, 1))
    with pytest.raises(EstimatorError, match="NaN"):
        Pairs(h, np.full((30, D_LLM), np.nan))
