"""Tests of what a search runs next, on planted tables."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from pifi_probe.errors import SearchError
from pifi_probe.ranking import layer_effect
from pifi_probe.selection.gp import fit_depths, places, seed_adjusted
from pifi_probe.selection.space import ONE_SHOT, Candidate, Space
from pifi_probe.selection.strategies import STRATEGIES, make_strategy
from pifi_probe.selection.strategies.sets import may_prune
from pifi_probe.selection.trials import Outcome, Proposal, Trial

SPACE = Space((("llm", 30),))
COSTS = {"estimator": 0.001, "frozen": 0.003, "last-block": 0.25, "short": 1 / 3, "full": 1.0}  # in full runs
BEST = 12
Value = Callable[[Candidate, str, int], float]


def planted(candidate: Candidate, fidelity: str, seed: int, noise: float = 0.01) -> float:
    """A valley around layer 12, the same for every fidelity, with a seed effect and noise."""
    index = int(candidate.layers[0].rpartition("[")[2].rstrip("]"))
    rng = np.random.default_rng([index, len(fidelity), seed])
    return 0.5 + 0.0005 * (index - BEST) ** 2 + 0.02 * seed - 0.1 * (len(candidate.layers) > 1) + noise * rng.normal()


def answer(proposal: Proposal, number: int, value: Value = planted) -> Trial:
    result = None
    if proposal.candidate.design == ONE_SHOT:
        layers = proposal.candidate.layers
        result = {"weights": {layer: 0.9 if layer == f"llm[{BEST}]" else 0.1 / len(layers) for layer in layers}}
    outcome = Outcome(
        value(proposal.candidate, proposal.fidelity, proposal.seed), cost=COSTS[proposal.fidelity], result=result
    )
    return Trial(proposal.candidate, proposal.fidelity, proposal.seed, "complete", outcome, number, proposal.why)


def search(name: str, budget: float, space: Space = SPACE, value: Value = planted, seeds: int = 3) -> list[Trial]:
    """Run a strategy until its budget is spent; the trials."""
    strategy, trials, left = make_strategy(name, space, seeds=seeds), list[Trial](), budget
    while left > 0 and (proposal := strategy.propose((), left)) is not None:
        trials.append(answer(proposal, len(trials), value))
        strategy.observe(trials[-1])
        left -= COSTS[proposal.fidelity]
    return trials


def chosen(name: str, trials: list[Trial], space: Space = SPACE) -> Candidate | None:
    strategy = make_strategy(name, space)
    for trial in trials:
        strategy.observe(trial)
    return strategy.choose()


@pytest.mark.parametrize("name", ["auto", "thompson", "grid", "fast", "halving", "greedy", "one-shot", "exhaustive"])
def test_a_strategy_finds_a_planted_valley(name: str) -> None:
    best = chosen(name, search(name, 90.0 if name == "exhaustive" else 26.0))
    assert best is not None
    assert abs(int(best.layers[0][4:-1]) - BEST) <= 3


def test_the_default_takes_about_twelve_full_runs_until_its_race_is_over() -> None:
    trials = search("auto", 12.1)
    full = [trial for trial in trials if trial.fidelity == "full"]
    assert len({trial.candidate for trial in full}) == 6
    assert sum(trial.seed > 0 for trial in full) == 6
    assert {trial.fidelity for trial in trials} == {"frozen", "full"}


@pytest.mark.parametrize("name", STRATEGIES)
def test_nothing_is_proposed_twice_nor_a_control_nor_what_runs(name: str) -> None:
    strategy, running, number = make_strategy(name, SPACE), list[Proposal](), 0
    seen = set()
    for _ in range(120):
        proposal = strategy.propose(running, 100.0)
        if proposal is not None:
            assert proposal.identity not in seen
            assert proposal.candidate.control is None
            seen.add(proposal.identity)
            running.append(proposal)
        elif not running:
            break
        if len(running) == 3 or proposal is None:  # three workers; the oldest run ends
            strategy.observe(answer(running.pop(0), number))
            number += 1
    assert seen


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_that_saw_the_same_trials_goes_on_the_same(name: str) -> None:
    trials = search(name, 5.0)
    for n in (0, len(trials) // 2, len(trials) - 1):
        again = make_strategy(name, SPACE)
        for trial in trials[:n]:
            again.observe(trial)
        proposal = again.propose((), 5.0)
        assert proposal is not None
        assert proposal.identity == trials[n].identity


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_layer_that_fails_is_not_tried_again_at_that_fidelity(name: str) -> None:
    strategy = make_strategy(name, SPACE)
    failed = set()
    for number in range(60):
        proposal = strategy.propose((), 60.0)
        if proposal is None:
            break
        assert (proposal.candidate, proposal.fidelity) not in failed
        trial = answer(proposal, number)
        if number % 5 == 0 and proposal.candidate.design == "single":
            failed.add((proposal.candidate, proposal.fidelity))
            trial = Trial(
                proposal.candidate, proposal.fidelity, proposal.seed, "failed", Outcome(0.1, message="no"), number
            )
        strategy.observe(trial)
    if failed:
        assert all(strategy.choose() != candidate or fidelity != "full" for candidate, fidelity in failed)


@pytest.mark.parametrize("name", ["auto", "greedy"])
def test_sets_are_extended_as_long_as_they_get_better(name: str) -> None:
    space = Space((("llm", 6),), max_layers=2, designs=("mix",))
    best = chosen(name, search(name, 60.0, space), space)
    assert best is not None
    assert best.design == "mix"


def test_two_models_share_one_process() -> None:
    space = Space((("a", 12), ("b", 8)))
    trials = search("auto", 14.0, space, lambda c, fidelity, seed: 0.5 + 0.1 * c.layers[0].startswith("a"))
    best = chosen("auto", trials, space)
    assert best is not None
    assert best.layers[0].startswith("b")


@pytest.mark.parametrize(
    ("name", "options"), [("clever", {}), ("auto", {"depth": 3})], ids=["unknown strategy", "unknown option"]
)
def test_an_unknown_strategy_or_option_is_named(name: str, options: dict[str, int]) -> None:
    with pytest.raises(SearchError, match="unknown"):
        make_strategy(name, SPACE, **options)


# What they stand on


def test_the_gate_finds_a_planted_effect_and_says_so() -> None:
    rng = np.random.default_rng(0)
    table = np.linspace(0, 1, 10)[:, None] + rng.normal(0, 0.1, (10, 3)) + np.array([0.0, 5.0, -5.0])
    found = layer_effect(table)
    assert found.something_to_select
    assert found.p_value < 1e-6
    assert found.friedman_p < 0.01
    assert found.icc > 0.9
    assert found.verdict.startswith("layers differ")


def test_the_gate_errs_on_noise_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [layer_effect(rng.normal(0, 1, (10, 3)) + rng.normal(0, 3, 3)).something_to_select for _ in range(400)]
    assert 0.02 < np.mean(found) < 0.09


def test_the_f_test_is_that_of_statsmodels_book() -> None:
    """Two-way table without replication, worked by hand: MS(layers) 7, MS(rest) 1, F = 7 on (2, 2)."""
    table = np.array([[1.0, 2.0], [3.0, 6.0], [4.0, 6.0]])
    rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    f = 2 * table.mean(1).var(ddof=1) / ((rest**2).sum() / 2)
    assert layer_effect(table).p_value == pytest.approx(1 / (1 + f))  # the survival function of F(2, 2)


def test_one_seed_cannot_tell() -> None:
    found = layer_effect(np.arange(5.0)[:, None])
    assert found.something_to_select
    assert "cannot be tested" in found.verdict


def test_layers_that_no_seed_links_are_compared_as_measured() -> None:
    rows, means, _ = seed_adjusted({(0, 0): 10.0, (1, 0): 11.0, (5, 1): 12.0, (6, 1): 13.0})
    np.testing.assert_allclose(rows, [0, 1, 5, 6])
    np.testing.assert_allclose(means, [10, 11, 12, 13])
    linked = {(0, 0): 10.0, (0, 1): 14.0, (5, 1): 12.0}  # seed 1 adds 4: layer 5 is better than layer 0
    _, means, _ = seed_adjusted(linked)
    assert means[0] - means[1] == pytest.approx(2.0)


def test_seed_effects_are_taken_out_of_layers_measured_with_different_seeds() -> None:
    layers, seeds = np.array([0.0, 1.0, 3.0]), np.array([10.0, 20.0, 60.0])
    pairs = [(0, 0), (0, 1), (1, 1), (1, 2), (2, 0), (2, 2)]
    rows, means, variances = seed_adjusted({(i, s): layers[i] + seeds[s] for i, s in pairs})
    assert rows.tolist() == [0, 1, 2]
    assert means - means[0] == pytest.approx(layers)
    assert variances == pytest.approx(0, abs=1e-20)


def test_the_process_finds_a_valley_between_the_measured_depths() -> None:
    grid = places([(0, i / 29) for i in range(30)])
    measured = np.arange(0, 30, 4)
    y = (grid[measured, 0] - 0.45) ** 2
    found = fit_depths(grid[measured], y, np.full(len(y), 1e-8), grid)
    assert abs(int(found.mean.argmin()) - 13) <= 1
    assert found.p_best.sum() == pytest.approx(1)
    assert found.regret(13) < found.regret(0)
    assert (found.sd > 0).all()


def test_a_prior_that_ranks_backwards_is_ignored() -> None:
    grid = places([(0, i / 9) for i in range(10)])
    y = np.linspace(0, 1, 10)
    measured = np.array([0, 3, 6, 9])
    plain = fit_depths(grid[measured], y[measured], np.zeros(4), grid)
    wrong = fit_depths(grid[measured], y[measured], np.zeros(4), grid, (-y[measured], -y))
    assert wrong.mean == pytest.approx(plain.mean)


def test_a_fidelity_prunes_only_when_it_agrees_over_five_candidates() -> None:
    values = {candidate: float(i) for i, candidate in enumerate(SPACE.singles())}
    five = dict(list(values.items())[:5])
    assert may_prune(values, five)
    assert not may_prune(values, dict(list(values.items())[:4]))
    assert not may_prune({c: -v for c, v in values.items()}, five)


def test_the_process_is_scikit_learn_s_and_says_nothing_where_a_value_meets_its_bound() -> None:
    """Not by a filter: those belong to the process, and another thread may set them back."""
    x = np.linspace(0, 1, 9)[:, None]
    y = np.sin(6 * x[:, 0])
    own = GaussianProcessRegressor(
        ConstantKernel(1.0, (0.05, 20.0)) * Matern([0.2], [(0.03, 2.0)], nu=2.5) + WhiteKernel(0.1, (1e-4, 2.0)),
        alpha=1e-8,
    )
    rest = y - y.mean()
    with pytest.warns(ConvergenceWarning, match="close to the specified"):
        own.fit(x, rest / rest.std())
    expected = y.mean() + rest.std() * own.predict(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_depths(x, y, np.full(9, np.nan), x)
    np.testing.assert_allclose(found.mean, expected, rtol=1e-6)
