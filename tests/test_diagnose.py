"""Each failure signature of the paper is found where it was planted, and not where it was not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pifi_probe as pp
from pifi_probe.errors import PifiProbeError
from pifi_probe.layers.control import ControlRow, PositiveControl
from pifi_probe.layers.spec import ModelRef
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.tasks import Task
from pifi_probe.training import Check, RunResult, compare, diagnose, fine_tune
from pifi_probe.training.sight import Plugged, check_sight
from tests import tiny
from tests.runs import RECIPE, TASK, Parts, made_up

FROZEN, CONTROLS, DIMENSIONS = "the layer is frozen", "better than its controls", "dimensions"
LANGUAGE, GRADIENTS, SCALE = "language of the donor", "gradients", "branch and skip"
SIGHT = "sight of the weights"


def seeds(accuracy: float, control: str | None = None) -> list[RunResult]:
    return [made_up(control=control, seed=seed, accuracy=accuracy) for seed in range(3)]


def in_words(texts: list[str]) -> Task:
    """Return the task with these texts to test on."""
    test = replace(TASK.splits["test"].take(range(len(texts))), texts=tuple(texts))
    return replace(TASK, splits={"test": test})


def test_a_healthy_run_has_nothing_to_complain_of() -> None:
    found = diagnose(made_up(), runs=[*seeds(0.7)[1:], *seeds(0.5, "vanilla"), *seeds(0.5, "random")])
    assert {check.name: check.status for check in found.checks} == {
        FROZEN: "ok",
        CONTROLS: "ok",
        DIMENSIONS: "ok",
        LANGUAGE: "skipped",
        GRADIENTS: "ok",
        SCALE: "ok",
        SIGHT: "skipped",
    }
    assert found.status == "ok" and "pifi-probe control llm" in found[SIGHT].advice


def test_a_layer_that_is_as_it_was_extracted_is_frozen(parts: Parts) -> None:
    model = parts.model()
    assert diagnose(model)[FROZEN].status == "ok"
    assert diagnose(fine_tune(model, TASK, RECIPE.replace(epochs=1)))[FROZEN].status == "ok"
    assert diagnose(model)[FROZEN].status == "ok"


def test_a_layer_that_was_written_into_is_found(parts: Parts) -> None:
    model = parts.model()
    with torch.no_grad():
        next(model.frozen_layers[0].parameters()).add_(1e-6)
    check = diagnose(model)[FROZEN]
    assert check.status == "fail" and "sha256 differs" in check.finding and "extract it again" in check.advice
    check = diagnose(fine_tune(model, TASK, RECIPE.replace(epochs=1)))[FROZEN]
    assert check.status == "fail" and f"{parts.llm}[1]" in check.finding


def test_a_layer_that_changed_during_a_run_is_found() -> None:
    changed = made_up(layer_digests={"before": ["a" * 64], "after": ["b" * 64]})
    check = diagnose(changed)[FROZEN]
    assert check.status == "fail" and check.evidence["llm[1]"]["found"] == ["a" * 64, "b" * 64]


def test_a_layer_that_can_be_trained_is_found_unless_it_is_meant_to_be(parts: Parts) -> None:
    model = parts.model()
    next(model.frozen_layers[0].parameters()).requires_grad_(True)
    check = diagnose(model)[FROZEN]
    assert check.status == "fail" and "trainable" in check.finding and "freeze()" in check.advice
    assert diagnose(parts.model(control="unfrozen"))[FROZEN].status == "skipped"
    assert diagnose(parts.model(control="vanilla"))[FROZEN].status == "skipped"


def test_a_gain_over_every_control_is_a_gain() -> None:
    runs = [*seeds(0.9), *seeds(0.6, "vanilla"), *seeds(0.6, "linear"), *seeds(0.6, "random")]
    check = diagnose(runs[0], runs=runs)[CONTROLS]
    assert check.status == "ok" and len(check.evidence) == 3


@pytest.mark.parametrize("control", ["vanilla", "linear", "random", "shuffled"])
def test_a_gain_that_a_control_has_too_is_not_the_layers(control: str) -> None:
    runs = [*seeds(0.9), *(run for name in ("vanilla", "linear", "random", "shuffled") for run in seeds(0.6, name))]
    runs = [run for run in runs if run.model["control"] != control] + seeds(0.9, control)
    check = diagnose(runs[0], runs=runs)[CONTROLS]
    assert check.status == "warn" and "no difference detectable" in check.finding
    assert "do not claim" in check.advice and "frozen" in check.advice


@pytest.mark.parametrize("control", ["random", "shuffled"])
def test_a_control_may_be_among_the_runs_and_is_compared_with_the_others(control: str) -> None:
    runs = [*seeds(0.9, control), *seeds(0.6, "vanilla"), *seeds(0.6)]
    check = diagnose(runs[0], runs=runs)[CONTROLS]
    assert check.status == "ok" and list(check.evidence) == ["pifi: vanilla"]


def test_what_is_no_run_and_no_model_is_refused_in_one_line() -> None:
    anything: Any = "x"
    with pytest.raises(PifiProbeError, match=r"a str cannot be diagnosed.*next: give what pp\.fine_tune returned"):
        diagnose(anything)
    for given in (made_up(control="vanilla"), ["x"]):
        with pytest.raises(PifiProbeError, match=r"not a list of results.*diagnose\(runs=\.\.\.\)"):
            diagnose(made_up(), runs=given)


def test_a_layer_that_does_harm_is_found() -> None:
    runs = [*seeds(0.6), *seeds(0.9, "vanilla")]
    check = diagnose(runs[0], runs=runs)[CONTROLS]
    assert check.status == "fail" and "worse by 30.0 points" in check.finding and check.advice


def test_controls_that_are_not_there_or_not_comparable_are_not_judged() -> None:
    assert "no runs of controls" in diagnose(made_up())[CONTROLS].finding
    other = [made_up(control="vanilla", recipe=RECIPE.replace(epochs=9))]
    assert "epochs" in diagnose(made_up(), runs=other)[CONTROLS].finding
    assert diagnose(made_up(control="vanilla"), runs=seeds(0.5, "linear"))[CONTROLS].status == "skipped"


@pytest.mark.parametrize(("name", "shape"), [("L_in", (32, 20)), ("L_in", (30, 24)), ("L_out", (20, 32))])
def test_a_projection_of_the_wrong_shape_is_found(parts: Parts, name: str, shape: tuple[int, int]) -> None:
    model = parts.model()
    setattr(model.plugin, name, nn.Linear(shape[1], shape[0], bias=False))
    found = diagnose(model, task=TASK)
    assert found[DIMENSIONS].status == "fail" and name in found[DIMENSIONS].finding
    assert "24 to 32" in found[DIMENSIONS].advice
    run = made_up()
    run.model["shapes"][name] = list(shape)
    assert diagnose(run)[DIMENSIONS].status == "fail"


@pytest.mark.parametrize("control", [None, "linear", "mlp", "random", "vanilla"])
def test_projections_that_fit_are_not_complained_of(parts: Parts, control: str | None) -> None:
    assert diagnose(parts.model(control=control))[DIMENSIONS].status == ("skipped" if control == "vanilla" else "ok")


def test_a_donor_that_knows_the_words_of_the_task_is_fit_for_it(parts: Parts) -> None:
    check = diagnose(parts.model(), task=in_words(["the film was very good", "the music was not great"]))[LANGUAGE]
    assert check.status == "ok" and check.evidence["unknown_share"] == 0


def test_a_donor_that_does_not_know_the_words_is_found(parts: Parts) -> None:
    task = in_words(["이 영화 는 정말 좋다", "음악 이 나쁘다"])
    check = diagnose(parts.model(), task=task)[LANGUAGE]
    assert check.status == "fail" and "100% unknown" in check.finding and "language of these texts" in check.advice


def test_a_donor_that_spells_the_words_is_found(parts: Parts) -> None:
    """A word is one token here, so words of one or two letters are what a spelt text is to a real tokenizer."""
    check = diagnose(parts.model(), task=in_words(["a a a a a", "a it a"]))[LANGUAGE]
    assert check.status == "fail" and check.evidence["unknown_share"] == 0


def test_without_a_tokenizer_the_language_is_not_judged(tmp_path: Path) -> None:
    run = made_up()
    run.model["layers"][0]["model"] = str(tiny.tiny_checkpoint("llama", tmp_path))
    check = diagnose(run, task=TASK)[LANGUAGE]
    assert check.status == "skipped" and "tokenizer" in check.finding


def curves(norms: list[float], **changes: Any) -> RunResult:
    return made_up(curves={"loss": [0.6] * len(norms), "grad_norm": norms}, **changes)


def test_even_gradients_are_not_complained_of() -> None:
    assert diagnose(curves([2.0, 5.0, 3.0, 9.0, 1.0]))[GRADIENTS].status == "ok"


@pytest.mark.parametrize(
    ("norms", "status", "says"),
    [
        ([2.0] * 9 + [90.0], "warn", "45 times its median at step 10"),
        ([2.0, float("nan")], "fail", "grad_norm"),
        ([22.0, 30.0, 19.0], "warn", "clipping bound 5 acts most of the time"),
    ],
)
def test_gradients_that_jump_or_are_no_numbers_are_found(norms: list[float], status: str, says: str) -> None:
    check = diagnose(curves(norms))[GRADIENTS]
    assert check.status == status and says in check.finding and "lower lr_projection" in check.advice


def test_a_branch_that_drowns_its_input_is_found_and_a_matched_one_is_not(parts: Parts) -> None:
    model = parts.model()
    assert isinstance(model.plugin, PlugIn)
    assert diagnose(model)[SCALE].status == "skipped"
    with torch.no_grad():
        model.plugin.L_in.weight.mul_(1e-3)  # the layer normalises its input, so its branch stays
    check = diagnose(model, task=TASK)[SCALE]
    assert check.status == "warn" and 'scale="matched"' in check.advice and "lr_projection" in check.advice
    run = made_up(epochs=[{"epoch": 0, "branch_ratio": 56.0}, {"epoch": 1, "branch_ratio": 2.0}])
    assert diagnose(run)[SCALE].status == "warn"
    assert diagnose(parts.model(wiring="matched"), task=TASK)[SCALE].status == "ok"


def test_texts_beyond_the_encoders_positions_are_cut_off(parts: Parts) -> None:
    assert diagnose(parts.model(), task=in_words(["very " * 100, "good"]))[SCALE].status != "skipped"


def test_a_diagnosis_can_be_read_shown_and_kept() -> None:
    run = made_up(layer_digests={"before": ["<b>"], "after": ["b"]})
    run.model["label"] = "<script>"
    found = diagnose(run)
    assert found.status == "fail" and json.loads(json.dumps(found.to_dict()))["status"] == "fail"
    assert "fail" in str(found) and "->" in str(found)
    assert "<script>" not in found._repr_html_() and "&lt;script&gt;" in found._repr_html_()
    assert isinstance(found.checks[0], Check)


@pytest.mark.assets
def test_an_english_donor_fits_english_reviews_and_not_korean_ones() -> None:
    task = pp.load_task("movie-reviews").subset(train=64, validation=32, test=100)
    model = pp.plug_in("minilm-l6", "smollm2-135m[-1]", task=task)
    found = diagnose(model, task=task)
    assert found[LANGUAGE].status == "ok" and found[FROZEN].status == "ok"
    assert found[SCALE].status == "warn", "the paper's wiring runs this layer far outside of its usual input"
    korean = ["영화는 천천히 시작하지만 마지막 삼십 분은 올해 본 어떤 것 못지않게 좋다."] * 3
    assert diagnose(model, task=in_words(korean))[LANGUAGE].status == "fail"


def control(*works: int, layers: int = 30, one_token: float = 0.1) -> PositiveControl:
    """A positive control in which some layers double what can be read and the others do nothing."""

    def row(layer: int) -> ControlRow:
        shares = {"none": 0.4, "real": 0.8 if layer in works else 0.4, "shuffled": 0.3, "random": 0.3}
        counts = {arm: np.arange(42) % 3 - 1 + round(20 * share) for arm, share in shares.items()}
        counts["one token"] = np.full(42, round(20 * one_token))
        return ControlRow((layer,), {arm: tuple(int(n) for n in found) for arm, found in counts.items()}, 20)

    settings = {"n_words": 200, "length": 21, "n_fit": 9, "n_test": 42, "n_align": 0, "seed": 0, "words": "some"}
    return PositiveControl("donor", False, 30, tuple(row(layer) for layer in range(layers)), settings)


@pytest.mark.parametrize(
    ("known", "layer", "feed", "status", "says"),
    [
        (None, 18, "sequence", "skipped", "pifi-probe control donor"),
        (control(), 18, "sequence", "warn", "conclude nothing"),
        (control(17, 18), 18, "pooled", "warn", "one token at a time, even layer 17 of donor leaves 10.0 %"),
        (control(17, 18), 29, "sequence", "warn", "layers 17, 18 show one"),
        (control(17, 18), 18, "sequence", "ok", "80.0 % read after it, 40.0 % without it"),
        (control(17, layers=18), 29, "sequence", "skipped", "has not been measured"),
    ],
)
def test_whether_an_effect_of_the_weights_could_be_seen(
    known: PositiveControl | None, layer: int, feed: str, status: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pifi_probe.training.sight.known_control", lambda *_: known)
    check = check_sight(Plugged(ModelRef("donor"), (layer,), feed))
    assert check.status == status and says in f"{check.finding} {check.advice}"


def test_a_comparison_without_an_effect_says_whether_one_could_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pifi_probe.training.sight.known_control", lambda *_: None)
    same = compare([*seeds(0.5), *seeds(0.5, "vanilla"), *seeds(0.5, "random")])
    assert len(same.sight()) == 1 and "pifi-probe control llm" in same.sight()[0]
    better = compare([*seeds(0.9), *seeds(0.5, "vanilla"), *seeds(0.5, "random")])
    assert better.sight() == [], "an effect was seen"
    assert compare(seeds(0.5, "vanilla")).sight() == []
