"""Tests of what makes two runs the same run, on records of every experiment and on keys that differ in one thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pifi_probe as pp
from pifi_probe.errors import PifiProbeError
from pifi_probe.experiments.plan import load_experiment
from pifi_probe.experiments.runner import stored_run, task_of
from pifi_probe.training.key import RunKey
from pifi_probe.training.result import RunResult

RECORDS = sorted(Path("book/_studies").rglob("result.json"))
EXPERIMENTS = sorted({file.parents[2] for file in RECORDS if file.parent.parent.name == "runs"})
MODEL = {
    "slm": "minilm-l6",
    "tokenizer": "ab",
    "wiring": "matched",
    "control": None,
    "feed": "pooled",
    "scale": "matched",
    "pooling": "mean",
    "layers": [{"model": "m", "index": 3, "revision": None, "variant": "real", "sha256": "ab", "reduced": True}],
    "shapes": {"encoder": 4, "layers": [6], "L_in": [6, 4], "L_out": [4, 6]},
    "label": "matched: m[3]",
}
RECIPE = pp.Recipe().to_dict() | {"class_weights": "none"}


def key(tests: dict[str, str] | None = None, start: str = "s", task: str = "t", **changes: Any) -> RunKey:
    recipe = RECIPE | {name: changes.pop(name) for name in list(changes) if name in RECIPE}
    return RunKey.of(MODEL | changes, task, recipe, tests or {"t": "1"}, start)


def layer(**changes: Any) -> list[dict[str, Any]]:
    return [MODEL["layers"][0] | changes]  # type: ignore[index]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"task": "other"}, "task"),
        ({"slm": "mpnet-base"}, "slm"),
        ({"tokenizer": "cd"}, "tokenizer"),
        ({"wiring": "pifi"}, "wiring"),
        ({"control": "random"}, "control"),
        ({"feed": "sequence"}, "feed"),
        ({"scale": "none"}, "scale"),
        ({"pooling": "cls"}, "pooling"),
        ({"combine": "mix"}, "combine"),
        ({"layers": layer(index=4)}, "layer 1 index"),
        ({"layers": layer(model="n")}, "layer 1 model"),
        ({"layers": layer(revision="main")}, "layer 1 revision"),
        ({"layers": layer(sha256="cd")}, "layer 1 sha256"),
        ({"layers": layer(variant="shuffled")}, "layer 1 variant"),
        ({"layers": layer() * 2}, "layers"),
        ({"layers": []}, "layers"),
        ({"tests": {"t": "2"}}, "test t"),
        ({"tests": {"t": "1", "more": "3"}}, "tests"),
        ({"start": "other"}, "start"),
        ({"epochs": 5}, "recipe.epochs"),
        ({"learning_rate": 1e-3}, "recipe.learning_rate"),
        ({"seed": 3}, "recipe.seed"),
        ({"class_weights": "balanced"}, "recipe.class_weights"),
    ],
)
def test_whatever_changes_the_numbers_changes_the_key_and_is_named(changes: dict[str, Any], named: str) -> None:
    own, other = key(), key(**changes)
    assert own != other
    assert named in [one.partition(":")[0] for one in own.differences(other)]


def test_equal_keys_have_one_hash_and_others_another() -> None:
    assert len({key(), key(label="another name"), key(seed=3), key(start="other")}) == 3
    assert RunKey({"b": 1, "a": 2}).digest == RunKey({"a": 2, "b": 1}).digest


def test_a_search_is_recognised_by_the_same_rules_as_a_run() -> None:
    settings = {"slm": "minilm-l6", "wiring": "matched", "recipe": {"epochs": 3}, "space": {"layers": [[0, 1]]}}
    stored = RunKey.of_search(settings)
    assert stored == RunKey.of_search(json.loads(json.dumps(settings)))
    weighted = settings | {"recipe": {"epochs": 3, "class_weights": "balanced"}}
    assert stored.changed(RunKey.of_search(weighted)) == [("recipe.class_weights", "none", "balanced")]
    deep = {"strategy": {"name": "a", "options": {"eta": 3, "grace": 1}}}
    found = RunKey.of_search(deep).changed(RunKey.of_search({"strategy": {"name": "a", "options": {"eta": 2}}}))
    assert found == [("strategy.options", ["eta", "grace"], ["eta"]), ("strategy.options.eta", 3, 2)]
    other = RunKey.of_search(settings | {"wiring": "pifi", "recipe": {"epochs": 5}, "space": {"layers": [[0]]}})
    assert stored.changed(other) == [
        ("wiring", "matched", "pifi"),
        ("recipe.epochs", 3, 5),
        ("space.layers", [[0, 1]], [[0]]),
    ]


def test_equal_runs_have_equal_keys_and_names_for_people_do_not_count() -> None:
    assert key() == key(label="another name")
    assert key().differences(key(label="another name")) == []


def test_what_an_older_record_does_not_say_is_no_difference() -> None:
    old = RunKey.of({name: MODEL[name] for name in ("slm", "wiring", "control", "layers")}, "t", RECIPE)
    assert old.differences(key()) == []
    assert old.differences(key(wiring="pifi")) == ["wiring: 'matched' there, 'pifi' here"]


def test_seeds_of_one_arm_differ_in_nothing_but_what_seeds_draw() -> None:
    drawn = [key(control="random", layers=layer(variant="random", sha256=s), seed=n) for n, s in enumerate("xy")]
    assert drawn[0].without_draws() == drawn[1].without_draws()
    real = [key(layers=layer(sha256=s), seed=n) for n, s in enumerate("xy")]
    assert real[0].without_draws().differences(real[1].without_draws()) == ["layer 1 sha256: 'x' there, 'y' here"]


def test_every_recorded_run_can_be_read_and_is_itself() -> None:
    assert len(RECORDS) > 100
    keys = {}
    for file in RECORDS:
        run = RunResult.from_json(file)
        assert run.key.differences(run.key) == []
        assert RunKey.of_identity(run.identity) is not None
        name = json.dumps(run.key.entries, sort_keys=True)
        assert keys.setdefault((file.parents[2], name), file) == file, "two records of one run"


@pytest.mark.slow
@pytest.mark.assets
@pytest.mark.parametrize("folder", EXPERIMENTS, ids=lambda folder: folder.name)
def test_recorded_experiments_are_taken_for_what_their_plans_ask_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("plug_in", "vanilla_best_lr"):
        monkeypatch.setattr(f"pifi_probe.experiments.runner.{name}", lambda *args, **more: pytest.fail("run again"))
    plan = load_experiment(folder.name)
    scale = plan.scale("small")
    n = 0
    for block in scale.blocks:
        try:
            task, *also = [
                task_of(source, scale, None) for source in (scale.blocks[block].task, *scale.blocks[block].also)
            ]
        except (FileNotFoundError, PifiProbeError):
            continue
        for name, arm in plan.arms_in(scale, block).items():
            file = folder / "runs" / f"{block}-{name}-seed0" / "result.json"
            if file.is_file():
                try:
                    frozen = None if arm.layer is None else pp.extract(scale.layers[arm.layer])
                except PifiProbeError:  # its terms were not accepted here
                    continue
                stored_run(file, arm, scale.blocks[block].slm, frozen, task, also, pp.Recipe(**scale.recipe, seed=0))
                n += 1
    if not n:
        pytest.skip("its texts or models are not at hand here")


def test_a_key_is_plain_json() -> None:
    assert json.loads(json.dumps(dict(key().entries))) == dict(key().entries)


def test_a_result_of_a_version_before_keeps_the_tokens_that_it_was_trained_with() -> None:
    old = next(file for file in RECORDS if '"max_length": 48' in file.read_text(encoding="utf-8"))
    assert RunResult.from_json(old).recipe.max_tokens == 48
