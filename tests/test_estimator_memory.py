"""What scoring takes of memory: linear in the examples, said before it is taken, and the same numbers in blocks."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from pifi_probe.errors import EstimatorError
from pifi_probe.probing.probe import applicable
from pifi_probe.scoring import estimators, intervals, null
from pifi_probe.scoring.estimators import as_labels, geometry, memory, names, neighbours, resolve
from pifi_probe.scoring.spectrum import Spectrum

DIM, CLASSES = 64, 4


def drawn(n: int, dim: int = DIM, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % CLASSES
    return (rng.standard_normal((n, dim)) + np.eye(CLASSES, dim)[labels]).astype(np.float32), labels


SCRIPT = """
import sys, numpy as np
from pifi_probe.scoring.points import score_points
from pifi_probe.probing.probe import applicable
from pifi_probe.probing.building import build_table
from pifi_probe.features.feature_set import Features
from pifi_probe.scoring.estimators import resolve, get, as_labels
from pifi_probe.tasks.task import Split
import torch
torch.set_num_threads(1)
def high_water():  # bytes; ru_maxrss would begin at the size of the process that started this one
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
n, dim, classes, chosen = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
rng = np.random.default_rng(0)
labels = np.arange(n) % classes
x = (rng.standard_normal((n, dim), dtype=np.float32) + np.eye(classes, dim, dtype=np.float32)[labels])
own = applicable(chosen if chosen == "default" else chosen.split(","))
before = high_water()
features = Features([x], Split(["t"] * n, labels.tolist(), [str(i) for i in range(n)]), {})
measured = score_points(features, as_labels(labels), own, n_permutations=2, n_folds=3, seed=0)
table = build_table("own-state", measured, {"n": n, "llm": "", "task": "", "split": "train"})
assert len(table.frame) == len(own)
print(high_water() - before)
"""


def peak(n: int, chosen: str) -> int:
    """Return by how many bytes scoring raises the peak of a fresh process."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(n), str(DIM), str(CLASSES), chosen],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    return int(run.stdout.split()[-1])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_matrix_of_all_pairs_is_never_made_by_default() -> None:
    n = 12_000
    fast = ",".join(each.name for each in applicable("default") if not each.name.startswith("logistic"))
    assert peak(n, fast) < 8 * n * n / 2  # one (N, N) matrix would be 1.1 GB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("most", [50_000, 25_000], ids=["all but knn", "knn"])
def test_the_default_scores_take_memory_linear_in_the_examples(most: int) -> None:
    """The time of neighbours is quadratic, so that they are asked for with fewer examples."""
    chosen = [each for each in applicable("default") if (each.name == "knn") == (most == 25_000)]
    least, large = (peak(n, ",".join(each.name for each in chosen)) for n in (most // 5, most))
    assert least > 8 * most // 5 * DIM
    assert large < 5 * least * 1.2
    # several estimators share one decomposition and keep what they share
    assert large < 3 * max(each.memory(most, DIM, CLASSES) for each in chosen)


@pytest.mark.parametrize("name", names())
def test_every_estimator_states_its_memory_and_it_grows_with_the_examples(name: str) -> None:
    each = estimators.get(name)
    sizes = [each.memory(n, 768, 2) for n in (1000, 10_000, 100_000)]
    assert 8 * 1000 * 768 < sizes[0] < sizes[1] < sizes[2]


def test_the_defaults_are_linear_and_the_one_of_all_pairs_says_so() -> None:
    for each in resolve("default"):
        assert each.memory(1_000_000, 64, 2) < 11 * each.memory(100_000, 64, 2), each.name
    assert estimators.get("parc").memory(100_000, 64, 2) > 8 * 100_000**2


def test_what_would_not_fit_is_refused_with_the_number_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free = type("Free", (), {"available": 100 << 20})
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: free)
    x, labels = drawn(4000)
    with pytest.raises(EstimatorError, match=r"parc of 4,000 examples needs 0\.\d GiB .* 0\.1 GiB are free"):
        estimators.get("parc")(x, labels)


@pytest.mark.parametrize("name", [each.name for each in resolve("default")])
def test_blocks_give_the_numbers_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    each = estimators.get(name)
    (x, labels), (y, _) = drawn(150, 20), drawn(150, 30, seed=1)
    pair = {"other": y} if each.family == "pair" else {}
    whole = each.score(x, labels, **pair)
    drawn_null = null.permutation_null(each, x, labels, n=7, **pair) if each.null else None
    monkeypatch.setattr(neighbours, "block_rows", lambda n: 7)
    monkeypatch.setattr(null, "BLOCK", 8 * 150 * CLASSES * 2)
    parts = each.score(x, labels, **pair)
    assert parts.value == pytest.approx(whole.value, rel=1e-12)
    if drawn_null is not None:
        np.testing.assert_allclose(null.permutation_null(each, x, labels, n=7, **pair), drawn_null, rtol=1e-10)


def test_a_bootstrap_in_blocks_draws_the_same_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.random.default_rng(0).random((3, 2, 77))
    whole = intervals.example_half_widths(scores)
    monkeypatch.setattr(intervals, "MAX_DRAWN", 77 * 13)
    np.testing.assert_allclose(intervals.example_half_widths(scores), whole, rtol=1e-10)


@pytest.mark.parametrize(("n", "dims"), [(60, (10, 20)), (200, (64, 8)), (31, (30, 30))])
def test_cka_of_features_is_that_of_gram_matrices(n: int, dims: tuple[int, int]) -> None:
    x, y = drawn(n, dims[0])[0], drawn(n, dims[1], seed=1)[0]
    mine, theirs = (Spectrum.of(z).components() for z in (x, y))
    first, second = (geometry._u_centred(z @ z.T) for z in (mine, theirs))
    expected = np.vdot(first, second) / np.linalg.norm(first) / np.linalg.norm(second)
    assert geometry._cka_of_features(mine, theirs) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_examples_that_are_all_alike_are_refused_before_their_ties_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = np.repeat(np.eye(4, 8, dtype=np.float32), 200, axis=0)
    labels = as_labels(np.arange(800) % 2)
    assert np.isfinite(estimators.get("knn")(x, labels))
    monkeypatch.setattr(neighbours, "MAX_TIES", 10_000)
    with pytest.raises(EstimatorError, match="equally near"):
        estimators.get("knn")(x, labels)
