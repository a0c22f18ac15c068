"""Arms that share seeds are judged together, and the intervals hold the truth as often as they say."""

from __future__ import annotations

import json
import shutil
import subprocess

import numpy as np
import pytest
from scipy.stats import t

from pifi_probe.differences import Runs, between
from pifi_probe.errors import PifiProbeError, RecipeError
from pifi_probe.two_way import Layout, dunnett, moderate


def layout(rng: np.random.Generator, n_arms: int, n_seeds: int, spreads: float | np.ndarray = 1.0) -> np.ndarray:
    noise = np.broadcast_to(spreads, n_arms)[:, None] * rng.standard_normal((n_arms, n_seeds))
    return 3 * rng.standard_normal(n_seeds) + noise


def against_first(n_arms: int) -> np.ndarray:
    return np.hstack([-np.ones((n_arms - 1, 1)), np.eye(n_arms - 1)])


def test_what_a_seed_does_to_all_arms_changes_no_difference_and_no_width() -> None:
    y = layout(np.random.default_rng(0), 6, 3)
    one, other = (Layout(scores).contrasts(against_first(6)) for scores in (y, y + [100, -50, 7]))
    np.testing.assert_allclose(one.means, other.means)
    np.testing.assert_allclose(one.half_widths(), other.half_widths())
    np.testing.assert_allclose(one.means, (y[1:] - y[0]).mean(axis=1))


def test_a_missing_run_is_filled_by_what_its_seed_did_to_the_others() -> None:
    """Arm 2 lacks the good seed; its difference is the mean over the seeds it has, paired."""
    y = np.array([[0.0, 10.0, 20.0], [1.0, 11.0, 21.0], [2.0, 12.0, np.nan], [3.0, 13.0, 23.0]])
    found = Layout(y).contrasts([[-1, 0, 1, 0]])
    assert found.means[0] == pytest.approx(2.0)
    assert found.cells[0][2, 2] == 0 and found.cells.sum() == pytest.approx(0)


def test_the_unbiased_variance_is_grubbs_estimate() -> None:
    """A baseline five times as noisy is not averaged away by its quiet neighbours."""
    rng = np.random.default_rng(1)
    seen = [Layout(layout(rng, 3, 40, np.array([5.0, 1.0, 1.0]))).variances for _ in range(50)]
    assert np.mean(seen, axis=0)[0] == pytest.approx(25, rel=0.15)


@pytest.mark.parametrize(
    ("n_arms", "n_seeds", "spread", "baseline"),
    [(3, 2, 0, 1), (9, 2, 0, 1), (9, 3, 0.5, 1), (20, 2, 0.5, 1), (5, 3, 0, 2), (20, 3, 0, 2)],
)
def test_a_95_percent_interval_holds_the_truth_about_that_often(
    n_arms: int, n_seeds: int, spread: float, baseline: float
) -> None:
    """Within what 400 layouts can tell: the recorded table of `benchmarks/intervals.py` has 2,000 a cell."""
    rng, held, noisiest = np.random.default_rng(n_arms), [], []
    for _ in range(400):
        spreads = np.exp(spread * rng.standard_normal(n_arms))
        spreads[0] *= baseline
        found = Layout(layout(rng, n_arms, n_seeds, spreads), baselines=[0]).contrasts(against_first(n_arms))
        ok = np.abs(found.means) <= found.half_widths()
        held.append(ok.mean())
        noisiest.append(ok[spreads[1:].argmax()])
    error = np.std(held) / 20
    assert 0.94 - 2.5 * error <= np.mean(held) <= 0.99 + 2.5 * error
    assert np.mean(noisiest) >= 0.92 - 2.5 * (0.92 * 0.08 / 400) ** 0.5


def test_it_is_narrower_than_each_arm_alone() -> None:
    rng = np.random.default_rng(2)
    for n_seeds, most in ((2, 0.40), (3, 0.75)):
        together, alone = [], []
        for _ in range(300):
            y = layout(rng, 9, n_seeds)
            together.append(Layout(y, baselines=[0]).contrasts(against_first(9)).half_widths())
            spread = (y[1:] - y[0]).std(axis=1, ddof=1)
            alone.append(t.isf(0.025, n_seeds - 1) * spread / n_seeds**0.5)
        assert np.median(together) <= most * np.median(alone)


def test_an_arm_that_stands_out_is_named_and_keeps_its_own_variance() -> None:
    rng = np.random.default_rng(3)
    spreads = np.ones(9)
    spreads[4] = 30.0
    found = Layout(layout(rng, 9, 5, spreads))
    assert list(np.flatnonzero(found.stands_out)) == [4]
    assert found.dfs[4] == 4 and found.spread[4] > 10
    named = sum(Layout(layout(rng, 9, 3)).stands_out.any() for _ in range(200))
    assert named <= 20  # 5 % of 200, and chance


def test_family_wise_error_is_held_and_less_is_lost_than_with_bonferroni() -> None:
    rng, wrong, sharper = np.random.default_rng(4), 0, []
    for _ in range(300):
        found = Layout(layout(rng, 9, 3), baselines=[0]).contrasts(against_first(9))
        p = 2 * t.sf(np.abs(found.means) / found.errors, found.dfs)
        adjusted, factor = dunnett(p, found.covariance, n_draws=2_000)
        wrong += min(adjusted) < 0.05
        sharper.append(min(adjusted) / min(1.0, 9 * p.min()))
        assert all(q >= own - 1e-12 for q, own in zip(adjusted, p, strict=True))
        assert 1 < factor < 1.6
    assert wrong <= 300 * 0.055 + 2.5 * (300 * 0.05 * 0.95) ** 0.5
    assert np.median(sharper) < 0.95


def test_differences_that_move_as_one_are_not_counted_twice() -> None:
    same, apart = (dunnett([0.03, 0.03], v)[0] for v in (np.ones((2, 2)), np.eye(2)))
    assert same == pytest.approx([0.03, 0.03], abs=0.003) and apart[0] == pytest.approx(1 - 0.97**2, abs=0.005)


def test_rounding_does_not_decide_what_is_simulated() -> None:
    """Layers against the mean of all: equal eigenvalues, whose eigenvectors any rounding turns."""
    alike, p = np.eye(8) - 1 / 8, np.linspace(0.004, 0.9, 8)
    noise = 1e-14 * np.random.default_rng(0).standard_normal((8, 8))
    (exact, wide), (rounded, as_wide) = (dunnett(p, v) for v in (alike, alike + noise + noise.T))
    assert rounded == pytest.approx(exact, abs=1e-9) and as_wide == pytest.approx(wide, rel=1e-9)


def test_moderation_is_limmas() -> None:
    """`squeezeVar` of Debian's r-bioc-limma, on the same variances."""
    if shutil.which("Rscript") is None:
        pytest.skip("no R here: apt-get install r-bioc-limma")
    rng = np.random.default_rng(5)
    s2 = np.exp(0.8 * rng.standard_normal(25)) * rng.chisquare(2, 25) / 2
    code = f"library(limma); f <- fitFDist(c({','.join(map(str, s2))}), df1=2); cat(f$scale, f$df2)"
    done = subprocess.run(["Rscript", "-e", code], capture_output=True, text=True)
    if done.returncode:
        pytest.skip("R has no limma: apt-get install r-bioc-limma")
    scale, weight = map(float, done.stdout.split())
    assert moderate(s2, np.full(25, 2)) == pytest.approx((scale, weight), rel=1e-4)


def test_moderation_of_equal_variances_trusts_the_prior_alone() -> None:
    scale, weight = moderate([2.0, 2.0, 2.0, 2.0], [3, 3, 3, 3])
    assert weight == np.inf and scale > 0
    assert moderate([0.0, 0.0], [2, 2]) == (0.0, np.inf)


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        (np.zeros((2, 3)), "not laid out"),
        (np.zeros(3), "not laid out"),
        (np.full((3, 2), np.inf), "not laid out"),
        ([[1, np.nan], [np.nan, 1], [1, np.nan]], "no arm can be compared"),
    ],
)
def test_what_is_no_layout_is_refused(scores: np.ndarray, says: str) -> None:
    with pytest.raises(PifiProbeError, match=says):
        Layout(scores)


def test_arms_that_nothing_links_cannot_be_compared() -> None:
    y = [[1, 2, np.nan, np.nan], [1, 3, np.nan, np.nan], [np.nan, np.nan, 4, 5], [np.nan, np.nan, 4, 6]]
    with pytest.raises(PifiProbeError, match="share no seed"):
        Layout(y).contrasts([[1, 0, -1, 0]])
    assert Layout(y).contrasts([[1, -1, 0, 0]]).means[0] == pytest.approx(-0.5)


def runs(rng: np.random.Generator, effects: dict[str, float], n_seeds: int = 2, n: int = 400) -> Runs:
    text, seed = 0.3 * rng.standard_normal(n), 0.02 * rng.standard_normal(n_seeds)
    scores = {
        arm: {
            s: effect + seed[s] + 0.01 * rng.standard_normal() + text + 0.1 * rng.standard_normal(n)
            for s in range(n_seeds)
        }
        for arm, effect in effects.items()
    }
    return Runs(scores, ["vanilla"])


def test_two_seeds_are_enough_when_there_are_arms_enough() -> None:
    rng = np.random.default_rng(6)
    found = runs(rng, {"vanilla": 0.0, "good": 0.2, **{f"none {i}": 0.0 for i in range(8)}})
    differences = found.differences({arm: between([arm], ["vanilla"]) for arm in ("good", "none 1")})
    good, none = differences["good"], differences["none 1"]
    assert good.interval.over_seeds and good.interval.n_seeds == 2 and good.p_value < 0.05
    assert good.interval.low > 0.1 and not none.interval.excludes_zero
    assert "judged together" in good.interval.method


def test_a_group_of_arms_is_judged_more_sharply_than_one_of_them() -> None:
    rng = np.random.default_rng(7)
    found = runs(rng, {"vanilla": 0.0, **{f"a{i}": 0.02 for i in range(6)}, **{f"b{i}": 0.0 for i in range(6)}})
    groups = [[f"{name}{i}" for i in range(6)] for name in "ab"]
    together = found.differences({"a - b": between(*groups)})["a - b"].interval
    one = found.differences({"a0 - b0": between(["a0"], ["b0"])})["a0 - b0"].interval
    assert together.high - together.low < 0.6 * (one.high - one.low) and together.excludes_zero


def test_arms_without_a_common_seed_are_an_error_that_names_them() -> None:
    scores = {"a": {0: np.zeros(5)}, "b": {1: np.ones(5)}}
    with pytest.raises(RecipeError, match="the arms share no seed"):
        Runs(scores).differences({"a and b": between(["a"], ["b"])})


def test_the_recorded_table_reaches_its_targets() -> None:
    from pathlib import Path

    asked = {"intervals": ((3, 5, 9, 20, 38), (2, 3, 5, 10)), "intervals_uneven": ((9, 20, 38), (2, 3))}
    for name, (arms, seeds) in asked.items():
        file = Path(__file__).parent.parent / "benchmarks" / "results" / f"{name}.json"
        record = json.loads(file.read_text(encoding="utf-8"))
        missed = {row["what"]: row["measured"] for row in record["targets"] if row["holds"] is False}
        if name == "intervals_uneven":  # the page on methods says how far these are from their targets
            page = (Path(__file__).parent.parent / "book" / "methods.md").read_text(encoding="utf-8")
            assert all(f"{measured:.1f} %" in page for measured in missed.values())
            missed = {
                what: measured for what, measured in missed.items() if "noisiest" not in what and "error" not in what
            }
        assert missed == {}
        cells = [(row["arms"], row["seeds"], row["noise"]) for row in record["rows"]]
        assert len(cells) == 8 * len(arms) * len(seeds) == len(set(cells)), "every kind of noise in every layout"
        assert {cell[:2] for cell in cells} == {(a, s) for a in arms for s in seeds}
