"""A comparison pairs what can be paired, refuses the rest, and says in words what was found."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pifi_probe as pp
from pifi_probe.errors import PifiProbeError, PlugInError, RecipeError, TaskError
from pifi_probe.stats import paired_difference
from pifi_probe.training import RunResult, compare, controls, fine_tune, vanilla_best_lr
from pifi_probe.training.describe import describe_model
from pifi_probe.training.run import Run
from tests.runs import RECIPE, TASK, Parts, made_up

SEEDS = range(3)


def arm(accuracy: float, seeds: Any = SEEDS, wiring: str = "pifi", **options: Any) -> list[RunResult]:
    return [made_up(wiring, seed=seed, accuracy=accuracy, **options) for seed in seeds]


def test_runs_of_one_arm_are_one_row_and_the_baseline_is_its_own() -> None:
    table = compare([*arm(0.7, control="vanilla"), *arm(0.8)]).frame
    assert list(table["arm"]) == ["pifi: vanilla", "pifi: llm[1]"]
    assert list(table["baseline"]) == ["", "pifi: vanilla"]
    assert list(table["mean"]) == pytest.approx([0.7, 0.8])
    assert table["difference"][1] == pytest.approx(0.1) and table["seeds"][1] == (0, 1, 2)


def test_differences_are_paired_over_seeds_and_examples() -> None:
    ours, theirs = arm(0.8, seeds=(3, 1, 2)), arm(0.7, seeds=(0, 2, 1), control="vanilla")
    row = compare([*ours, *theirs]).rows[0]
    by_seed = [{run.seed: run.tests[TASK.name].per_example("accuracy") for run in runs} for runs in (ours, theirs)]
    expected = paired_difference(*(np.stack([scores[1], scores[2]]) for scores in by_seed))
    assert (row.difference, row.difference_low, row.difference_high) == (expected.mean, expected.low, expected.high)


def test_a_large_difference_is_found_and_a_small_one_is_not() -> None:
    words = compare([*arm(0.6, control="vanilla"), *arm(0.9), *arm(0.605, control="random")]).verdict()
    better, none = words.splitlines()
    assert "pifi: llm[1]: better by 30.0 points" in better and "(against pifi: vanilla)" in better
    assert "no difference detectable with 3 seeds" in none
    worse = compare([*arm(0.9, control="vanilla"), *arm(0.6)]).rows[1]
    assert worse.verdict.startswith("worse by 30.0 points")


def test_a_difference_has_one_interval_in_its_row_and_in_the_ladder() -> None:
    arms = {"vanilla": 0.6, "linear": 0.72, "random": 0.7, None: 0.75}
    compared = compare([made_up(control=c, seed=s, accuracy=a) for c, a in arms.items() for s in range(3)])
    rows = {row.arm: row for row in compared.rows}
    effects = {e.name: e for e in compared.effects if e.metric == "accuracy"}
    for name in ("projections", "plugging in", "twins"):
        row, effect = rows[effects[name].of[0]], effects[name]
        own = (row.difference, row.difference_low, row.difference_high)
        assert own == pytest.approx((effect.mean, effect.low, effect.high))


def test_an_arm_shown_to_be_within_the_margin_says_so() -> None:
    arms = {"vanilla": 0.7, "linear": 0.7, None: 0.9}
    runs = [made_up(control=c, seed=s, accuracy=a, n=5_000) for c, a in arms.items() for s in range(5)]
    wide, narrow = (
        compare(runs, margin=margin).frame.set_index("arm")["verdict"]["pifi: linear"] for margin in (0.02, 1e-4)
    )
    assert wide.startswith("no difference larger than 2 points [") and narrow.startswith("no difference detectable")


def test_with_fewer_than_three_seeds_the_verdict_says_what_it_does_not_know() -> None:
    row = compare([*arm(0.6, [0, 1], control="vanilla"), *arm(0.9, [0, 1])]).rows[1]
    assert "over examples only: 2 seeds say nothing about seed noise" in row.verdict


def test_a_chance_find_among_many_arms_is_not_called_a_find() -> None:
    """The same difference is a find alone and none among twenty other arms (Dunnett)."""
    base, one = arm(0.6, [0], control="vanilla"), arm(0.72, [0])
    alone = compare([*base, *one]).rows[1]
    assert (alone.difference_low or 0) > 0 and alone.verdict.startswith("better by 12.0 points")
    others = [
        replace(run, model={**run.model, "label": f"arm {i}"})
        for i in range(20)
        for run in arm(0.6, [0], control=f"x{i}")
    ]
    among = compare([*base, *one, *others]).rows[1]
    assert among.difference_low == alone.difference_low and (among.p_value or 0) > 0.05
    assert "taken alone; not detectable among 21 arms" in among.verdict


def test_each_wiring_has_its_own_baseline() -> None:
    runs = [*arm(0.7, control="vanilla"), *arm(0.8), *arm(0.6, wiring="matched", control="vanilla")]
    rows = {row.arm: row.baseline for row in compare([*runs, *arm(0.8, wiring="matched")]).rows}
    assert rows["pifi: llm[1]"] == "pifi: vanilla" and rows["matched: llm[1]"] == "matched: vanilla"
    assert rows["pifi: vanilla"] == rows["matched: vanilla"] == ""


def test_a_tuned_vanilla_is_accepted_beside_runs_at_the_recipes_rate() -> None:
    tuned = [
        replace(run, recipe=run.recipe.replace(learning_rate=1e-4), tuned={"learning_rate": 1e-4})
        for run in arm(0.75, control="vanilla")
    ]
    runs = [*arm(0.7, control="vanilla"), *tuned, *arm(0.8)]
    table = {row.arm: row for row in compare(runs).rows}
    assert table["pifi: vanilla (best learning_rate)"].baseline == "pifi: vanilla"
    against = {row.arm: row for row in compare(runs, "pifi: vanilla (best learning_rate)").rows}
    assert against["pifi: llm[1]"].difference == pytest.approx(0.05)


def test_a_lower_nll_is_better() -> None:
    base, good = arm(0.6, control="vanilla"), arm(0.9)
    row = compare([*base, *good], metric="nll").rows[1]
    assert row.mean == pytest.approx(good[0].tests[TASK.name].metrics["nll"], rel=1e-4)
    assert (row.difference or 0) > 0 and "better by" in row.verdict and "nats" in row.verdict


Change = Callable[[RunResult], RunResult]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda run: replace(run, recipe=run.recipe.replace(epochs=2)), RecipeError, "epochs 3 and 2"),
        (lambda run: replace(run, task=run.task | {"fingerprint": "g"}), TaskError, "fingerprint f and g"),
        (lambda run: replace(run, task=run.task | {"sizes": {"train": 9}}), TaskError, "'train': 9"),
        (lambda run: replace(run, model=run.model | {"slm": "bert"}), PlugInError, "slm and bert"),
        (lambda run: replace(run, tests={}), TaskError, "different rows"),
        (lambda run: made_up(control="vanilla", n=100), TaskError, "200.*100"),
    ],
)
def test_what_differs_in_more_than_the_seed_is_refused_and_the_difference_shown(
    change: Change, error: type[PifiProbeError], says: str
) -> None:
    with pytest.raises(error, match=says):
        compare([*arm(0.7), change(made_up(control="vanilla"))])


def test_what_one_run_tuned_is_not_free_in_the_others() -> None:
    tuned = replace(made_up(control="vanilla"), tuned={"learning_rate": RECIPE.learning_rate})
    other = made_up(seed=1, recipe=RECIPE.replace(learning_rate=1e-4))
    with pytest.raises(RecipeError, match=r"learning_rate 0\.003 and 0\.0001"):
        compare([tuned, made_up(), other])


def test_modes_against_the_wiring_make_an_arm_of_their_own(parts: Parts) -> None:
    models = (
        parts.model(0, pooling="mean"),
        parts.model(1, feed="sequence"),
        parts.model(wiring="matched", bypass=False),
    )
    assert [describe_model(model)["label"] for model in models] == [
        f"custom: {parts.llm}[1] (pifi, pooling=mean)",
        f"custom: {parts.llm}[1] (pifi, feed=sequence)",
        f"custom: {parts.llm}[1] (matched, bypass=False, pooling=cls)",
    ]
    assert describe_model(parts.model(wiring="matched"))["label"] == f"matched: {parts.llm}[1]"


def test_different_models_are_not_taken_for_seeds_of_one_arm(parts: Parts) -> None:
    short = pp.extract(f"{parts.llm}[1]", dtype="bfloat16")
    recipe = RECIPE.replace(epochs=1)
    for control in (None, "shuffled"):
        models = [pp.plug_in(str(parts.slm), layer, task=TASK, control=control) for layer in (parts.layer, short)]
        runs = [fine_tune(model, TASK, recipe.replace(seed=seed)) for seed, model in enumerate(models)]
        assert runs[0].label == runs[1].label
        with pytest.raises(PlugInError, match=r"dtype 'float32' and 'bfloat16'.*seed 0 and seed 1.*name it apart"):
            compare(runs, runs[0].label)
    assert len(compare([runs[0], replace(runs[1], model=runs[1].model | {"label": "b"}, recipe=recipe)], "b").rows) == 2


def test_what_the_seed_draws_may_differ_within_an_arm(parts: Parts) -> None:
    for control in ("random", "shuffled"):
        runs = [
            fine_tune(parts.model(seed, control=control), TASK, RECIPE.replace(epochs=1, seed=seed)) for seed in (0, 1)
        ]
        assert runs[0].model != runs[1].model
        assert compare(runs, control).rows[0].seeds == (0, 1)


def test_results_that_say_less_of_their_model_are_seeds_of_one_arm() -> None:
    more = [replace(run, model=run.model | {"mask": "causal"}) for run in arm(0.7, seeds=[2], control="vanilla")]
    assert compare([*arm(0.7, seeds=[0, 1], control="vanilla"), *more]).rows[0].seeds == (0, 1, 2)


def test_arguments_of_another_type_are_refused_in_one_line() -> None:
    one: Any = made_up(control="vanilla")
    for given, found in ((one, "RunResult"), (5, "int"), ("runs", "str"), ([one, None], "NoneType")):
        with pytest.raises(PifiProbeError, match=f"a {found} was given, not a list of results.*compare.*fine_tune"):
            compare(given)
    for level in (0, 1, 2, -0.5, float("nan"), "0.95", None):
        with pytest.raises(PifiProbeError, match="is not between 0 and 1"):
            compare([one], level=level)


def test_runs_that_make_no_comparison_are_refused() -> None:
    with pytest.raises(PifiProbeError, match="no runs"):
        compare([])
    with pytest.raises(RecipeError, match="same seed twice"):
        compare([made_up(), made_up(), made_up(control="vanilla")])
    with pytest.raises(RecipeError, match="share no seed"):
        compare([made_up(seed=1), made_up(control="vanilla")])
    with pytest.raises(PlugInError, match="no arm is the baseline 'vanilla'"):
        compare([made_up()])
    with pytest.raises(PifiProbeError, match="unknown metric"):
        compare([made_up(control="vanilla")], metric="f1")


def test_a_comparison_can_be_shown_and_kept(tmp_path: Path) -> None:
    runs = [replace(run, model=run.model | {"label": "<b>[red]"}) for run in arm(0.8)]
    found = compare([*runs, *arm(0.7, control="vanilla")])
    found.to_json(tmp_path / "comparison.json")
    stored = json.loads((tmp_path / "comparison.json").read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(found.to_dict()))
    assert [row["arm"] for row in stored["rows"]] == list(found.frame["arm"])
    assert "&lt;b&gt;" in found._repr_html_() and "<b>" not in found._repr_html_()
    assert "24 train, 12 validation, 200 test texts; seeds: 3" in found.size
    from rich.console import Console

    console = Console(width=200, record=True, file=(tmp_path / "table.txt").open("w", encoding="utf-8"))
    console.print(found.to_rich("arms"))
    assert "<b>[red]" in console.export_text()


def test_controls_are_models_that_share_what_they_have_in_common(parts: Parts) -> None:
    made = {name: make(1) for name, make in controls(str(parts.slm), parts.layer, TASK).items()}
    assert list(made) == ["vanilla", "linear", "random", "shuffled", "unfrozen", "mlp"]
    assert all(model.config.control == name for name, model in made.items())
    heads = [model.get_parameter("head.0.weight") for model in made.values()]
    assert all((head == heads[0]).all() for head in heads)
    entries = [made[name].get_parameter("plugin.L_in.weight") for name in ("linear", "random", "shuffled")]
    assert all((entry == entries[0]).all() for entry in entries)


@pytest.mark.slow
def test_the_best_of_three_learning_rates_is_chosen_on_validation_and_alone_tested(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tested: list[float] = []

    class Watched(Run):
        def test(self, tuned: dict[str, Any] | None = None) -> RunResult:
            tested.append(self.recipe.learning_rate)
            return super().test(tuned)

    monkeypatch.setattr(importlib.import_module("pifi_probe.training.controls"), "Run", Watched)
    factors = (1e-4, 1.0, 3.0)
    best = vanilla_best_lr(str(parts.slm), TASK, RECIPE, factors=factors, out=tmp_path / "best.json")
    own = {
        factor: fine_tune(
            parts.model(control="vanilla"), TASK, RECIPE.replace(learning_rate=factor * RECIPE.learning_rate)
        )
        for factor in factors
    }
    scores = {f: (run.metrics["validation"]["accuracy"], -run.metrics["validation"]["nll"]) for f, run in own.items()}
    chosen = own[max(scores, key=lambda factor: scores[factor])]
    assert tested == [chosen.recipe.learning_rate] == [best.tuned["learning_rate"]]
    assert best.tests == chosen.tests and best.label == "pifi: vanilla (best learning_rate)"
    assert RunResult.from_json(tmp_path / "best.json") == best
