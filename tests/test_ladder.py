"""The answer to "what did it?": projections, block, or the language model, with intervals that all runs make."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pifi_probe.differences import Runs
from pifi_probe.errors import PifiProbeError
from pifi_probe.ladder import Arm, Effect, answer, baselines_of, effects_of, missing, needed
from pifi_probe.training import Comparison, RunResult, compare
from tests.runs import TASK, made_up


def scores(rng: np.random.Generator, effects: dict[str, float], n_seeds: int = 3, n: int = 1000) -> Any:
    """Scores of arms that share seeds and texts, with these true means."""
    text = 0.2 * rng.standard_normal(n)
    return {
        arm: {s: mean + text + 0.003 * rng.standard_normal() + 0.02 * rng.standard_normal(n) for s in range(n_seeds)}
        for arm, mean in effects.items()
    }


TRUE = {
    "vanilla": 0.0,
    "linear": 0.10,
    "random 1": 0.07,
    "shuffled 1": 0.09,
    **{f"layer {i}": 0.15 + 0.01 * i for i in range(6)},
}
ARMS = {
    "vanilla": Arm("matched", "vanilla", None),
    "linear": Arm("matched", "linear", None),
    "random 1": Arm("matched", "random", 1),
    "shuffled 1": Arm("matched", "shuffled", 1),
    **{f"layer {i}": Arm("matched", None, i) for i in range(6)},
}


def ladder(true: dict[str, float], seed: int = 0, margin: float | None = 0.01) -> dict[str, Effect]:
    found = told(scores(np.random.default_rng(seed), true), margin)
    return {effect.name: effect for effect in found}


def told(own: Any, margin: float | None = None) -> list[Effect]:
    arms = {arm: ARMS[arm] for arm in own}
    return effects_of(Runs(own, baselines_of(arms)), arms, "t", "accuracy", level=0.95, margin=margin)


def test_that_layers_differ_is_told_from_the_one_farthest_from_their_mean() -> None:
    found = ladder(TRUE)["layers"]
    assert found.of in {("layer 0",), ("layer 5",)} and abs(found.mean) == pytest.approx(0.025, abs=0.005)
    assert found.verdict in {"better", "worse"} and found.p_value < 0.01
    same = TRUE | dict.fromkeys([arm for arm in TRUE if arm.startswith("layer")], 0.15)
    assert ladder(same, margin=0.03)["layers"].verdict == "equivalent"  # none is three points from the mean
    assert ladder(same, margin=None)["layers"].verdict == "undecided"


def test_equal_layers_are_seldom_said_to_differ() -> None:
    rng = np.random.default_rng(0)
    arms = {arm: mean for arm, mean in TRUE.items() if not arm.startswith("layer")}
    equal = arms | {f"layer {i}": 0.15 for i in range(6)}
    false = sum(
        effect.verdict != "undecided"
        for _ in range(60)
        for effect in told(scores(rng, equal, n=100))
        if effect.name == "layers"
    )
    assert false <= 7  # of 60 at 5 %: more is one chance in a hundred


def test_every_rung_is_the_difference_of_its_groups() -> None:
    found = ladder(TRUE)
    expected = {"plugging in": 0.175, "projections": 0.10, "twins": 0.08, "block": -0.02, "knowledge": 0.095}
    for name, mean in expected.items():
        assert found[name].mean == pytest.approx(mean, abs=0.01), name
        assert found[name].low <= mean <= found[name].high
    assert [found[name].verdict for name in ("projections", "block", "knowledge")] == ["better", "worse", "better"]
    assert found["depth"].mean == pytest.approx(0.05, abs=0.01)
    assert found["depth"].of == ("layer 3", "layer 4", "layer 5")


def test_the_choice_is_shrunk_and_its_interval_allows_for_having_picked() -> None:
    """Layers that are alike give a best one that is only lucky."""
    alike = TRUE | {f"layer {i}": 0.15 for i in range(6)}
    assert all(ladder(alike, seed)["choice"].mean < 0.004 for seed in range(5))
    apart = ladder(TRUE)["choice"]
    assert apart.of == ("layer 5",) and apart.verdict == "better" and apart.mean == pytest.approx(0.025, abs=0.005)


@pytest.mark.slow
def test_a_choice_among_layers_that_are_alike_is_seldom_called_better() -> None:
    alike = TRUE | {f"layer {i}": 0.15 for i in range(6)}
    assert sum(ladder(alike, seed)["choice"].verdict == "better" for seed in range(40)) <= 5


def test_no_difference_larger_than_the_margin_is_an_answer() -> None:
    same = dict.fromkeys(TRUE, 0.5)
    found = ladder(same)
    assert found["knowledge"].verdict == "equivalent"
    assert ladder(same, margin=None)["knowledge"].verdict == "undecided"
    assert "make no difference larger than 1 point" in answer(list(found.values()))


def test_the_answer_is_one_to_three_plain_sentences() -> None:
    said = answer(list(ladder(TRUE).values()))
    assert said.count(".") - said.count("0.") >= 3 and said.startswith("Plugging in gains 17.")
    assert "Two projections without any layer gain 9." in said or "Two projections without any layer gain 10." in said
    assert "The language model's own weights gain 9." in said
    only = answer(list(ladder({"vanilla": 0.0, "layer 1": 0.3}).values()))
    assert only.startswith("Plugging in gains 30.") and "weights" not in only


def test_missing_arms_are_named() -> None:
    assert missing(ARMS) == {}
    assert missing({"layer 1": ARMS["layer 1"]}) == {"matched": ["twins", "linear", "vanilla"]}


def runs(accuracies: dict[str | None, float], n_seeds: int = 3, **options: Any) -> list[RunResult]:
    made = []
    for control, accuracy in accuracies.items():
        for seed in range(n_seeds):
            made.append(made_up("matched", control=control, seed=seed, accuracy=accuracy, n=600, **options))
    return made


FULL: dict[str | None, float] = {"vanilla": 0.6, "linear": 0.7, "random": 0.7, "shuffled": 0.7, None: 0.8}


def test_a_comparison_answers_first() -> None:
    found = compare(runs(FULL))
    assert found.answer.startswith("Plugging in gains 20.0 points")
    assert "own weights gain 10.0 points" in found.answer
    assert {effect.metric for effect in found.effects} == {"accuracy", "nll"}
    assert found._repr_html_().startswith("<p>Plugging in gains")
    assert list(found.ladder()["group"]) == ["vanilla", "real", "linear", "twins"] or set(found.ladder()["group"]) == {
        *("vanilla", "linear", "twins", "real")
    }


@pytest.mark.parametrize("lacking", [(), ("vanilla",), ("linear", "shuffled", "random")])
def test_the_panel_fits_a_terminal(lacking: tuple[str, ...]) -> None:
    both = [run for wiring in ("pifi", "matched") for run in _of(wiring, lacking)]
    lines = compare(both, "linear" if "vanilla" in lacking else "vanilla").panel().splitlines()
    assert 1 <= len(lines) <= 8 and all(len(line) <= 80 for line in lines)
    if lacking:
        assert any(f"without {'twins, linear' if 'linear' in lacking else 'vanilla'}" in line for line in lines)


def _of(wiring: str, lacking: tuple[str, ...]) -> list[RunResult]:
    arms = {control: value for control, value in FULL.items() if control not in lacking}
    return [
        made_up(wiring, control=control, seed=seed, accuracy=value)
        for control, value in arms.items()
        for seed in range(2)
    ]


def test_an_answer_from_too_few_seeds_says_that_they_say_nothing_of_seeds() -> None:
    arms = {"vanilla": 0.6, "linear": 0.7, None: 0.9}
    one = compare(runs(arms, n_seeds=1)).answer
    assert one.endswith("; intervals are over test examples only: 1 seed says nothing about seed noise.")
    assert one.count(". ") == 1, "still a sentence for each step"
    assert "seed noise" not in compare(runs(arms, n_seeds=3)).answer


def test_what_would_decide_is_told_in_seeds_and_minutes() -> None:
    effect = ladder(TRUE)["knowledge"]
    open_one = replace(effect, mean=0.01, seed_error=0.01, example_error=0.002, n_seeds=3, verdict="undecided")
    more = needed(open_one, seconds_a_run=60)
    assert more is not None
    seeds, arms, seconds = more
    assert (arms, seconds) == (8, seeds * 8 * 60) and 9 <= seeds <= 20
    assert needed(replace(open_one, example_error=0.02), seconds_a_run=60) is None
    text = compare(runs({"vanilla": 0.6, "linear": 0.605, None: 0.61}, n_seeds=1)).needed()
    assert any("2 more seeds of 2 arms" in line for line in text)


def test_whether_layers_differ_takes_more_seeds_than_one_difference_of_that_size() -> None:
    layers = replace(ladder(TRUE, margin=None)["layers"], mean=0.01, seed_error=0.01, example_error=0.002, n_seeds=3)
    others = tuple(label for label in layers.against if label not in layers.of)
    alone = replace(layers, against=others)
    more, fewer = (needed(one, seconds_a_run=60) for one in (layers, alone))
    assert more is not None and fewer is not None and more[1] == fewer[1] == 6
    assert more[0] > 1.5 * fewer[0], "its interval holds for all six at once"
    assert needed(replace(layers, example_error=0.0045), seconds_a_run=60) is None
    assert needed(replace(alone, example_error=0.0045), seconds_a_run=60) is not None


def test_a_trend_over_depth_is_decided_by_more_runs_of_all_its_layers() -> None:
    more = needed(replace(ladder(TRUE)["depth"], over_seeds=False, verdict="undecided", n_seeds=1), seconds_a_run=1)
    assert more == (2, 6, 12)


def test_one_arm_is_not_said_to_be_missing() -> None:
    assert compare(runs({"vanilla": 0.6})).answer.endswith("real, twins and linear are missing.")
    assert compare(runs({"vanilla": 0.6}) + runs({"linear": 0.7}, 1), "linear").answer.startswith("Two projections")


def test_a_step_whose_arms_share_no_seed_is_left_out_and_the_others_are_told() -> None:
    some = {"vanilla": (0, 1), "linear": (0,), "random": (1,), None: (0,)}
    made = [
        made_up("matched", control=arm, seed=seed, accuracy=FULL[arm]) for arm, seeds in some.items() for seed in seeds
    ]
    found = compare(made)
    assert {effect.name for effect in found.effects} == {"plugging in", "projections", "twins"}
    assert len([row for row in found.rows if row.baseline]) == 3


def test_layers_without_a_common_seed_are_not_ranked() -> None:
    own = {label: runs for label, runs in scores(np.random.default_rng(0), dict.fromkeys(ARMS, 0.5), 2).items()}
    for arm, seed in (("linear", 0), *((f"layer {i}", i % 2) for i in range(6))):
        own[arm] = {seed: own[arm][seed]}
    kept = {arm: own[arm] for arm in ("vanilla", "layer 0", "layer 1")}
    assert not told(kept)


def test_arms_that_are_the_same_to_the_last_bit_differ_by_nothing() -> None:
    one = {seed: np.random.default_rng(seed).random(30) for seed in range(3)}
    for found in told(dict.fromkeys(("vanilla", "linear", "random 1", "layer 1"), one)):
        assert (found.mean, found.p_value) == (0, 1) and max(-found.low, found.high) < 1e-12


def test_an_effect_in_nats_is_not_shown_in_points() -> None:
    shown = {effect.metric: effect.interval() for effect in compare(runs(FULL)).effects if effect.name == "knowledge"}
    assert shown["accuracy"].startswith("+10.0 [") and shown["nll"].startswith("+0.100 [")


def test_a_report_names_the_arms_that_are_missing_and_what_trains_them() -> None:
    (section,) = compare(runs({"vanilla": 0.6, None: 0.8})).sections()
    assert "matched without twins, linear (train --arms all trains them)" in section["text"]


def test_a_plot_needs_the_encoder_alone() -> None:
    figure = compare(runs(FULL)).plot()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()][0] == "encoder alone"
    with pytest.raises(PifiProbeError, match="nothing to plot"):
        Comparison((), "accuracy", 0.95, {}).plot()


@pytest.mark.parametrize("margin", [0, -0.1, float("nan"), "1", 1.0])
def test_a_margin_that_is_no_margin_is_refused(margin: Any) -> None:
    with pytest.raises(PifiProbeError, match="margin="):
        compare(runs(FULL), margin=margin)


def test_the_own_test_set_is_the_one_that_is_answered() -> None:
    assert compare(runs(FULL)).rows[0].test == TASK.name
