"""Tests of every fidelity, on tiny models."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pifi_probe as pp
from pifi_probe.errors import ModelNotFoundError, PlugInError, RecipeError, RunInterrupted, SearchError, TaskError
from pifi_probe.kinds.parts.evaluating import predict_logits
from pifi_probe.plugin.build import load_encoder
from pifi_probe.selection.cached import LowerStates, blocks_of, truncate_encoder
from pifi_probe.selection.evaluate import Parts, PiFiEvaluator
from pifi_probe.selection.space import ONE_SHOT, Candidate
from pifi_probe.selection.trials import FIDELITIES, Outcome
from pifi_probe.training import RunResult
from tests import runs, slm, tiny

CONTROLS = ("vanilla", "linear", "random", "shuffled")
TASK = slm.tiny_task(32)
RECIPE = runs.RECIPE.replace(epochs=2)


def go_on() -> bool:
    return False


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PiFiEvaluator]:
    folder = tmp_path_factory.mktemp("evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIFI_PROBE_CACHE", str(folder / "cache"))
        models = runs.Parts(folder)
        yield PiFiEvaluator(Parts(TASK, str(models.slm), (str(models.llm),), "matched", RECIPE))


def layer(made: PiFiEvaluator, index: int = 1, **changes: object) -> Candidate:
    return replace(Candidate((f"{made.parts.llms[0]}[{index}]",)), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("fidelity", FIDELITIES)
def test_every_fidelity_gives_the_same_value_again_and_another_one_for_another_layer(
    made: PiFiEvaluator, fidelity: str
) -> None:
    first, again, other = (made.evaluate(layer(made, index), fidelity, 0, go_on) for index in (1, 1, 0))
    assert first.value == again.value
    assert first.value != other.value
    assert math.isfinite(first.value) and first.cost > 0 and first.seconds > 0
    assert (first.accuracy is None) == (fidelity == "estimator")


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_texts_that_no_full_run_would_take_are_refused_before_the_first_trial(made: PiFiEvaluator, name: str) -> None:
    split = TASK.splits[name]
    texts = tuple(f"{' very' * 99} {row}" for row in range(len(split)))
    long = replace(TASK, splits={**TASK.splits, name: replace(split, texts=texts)})
    parts = replace(made.parts, task=long, recipe=RECIPE.replace(max_tokens=64))
    parts.load()  # cut to as many tokens as the encoder has positions for
    with pytest.raises(RecipeError, match=r"102 tokens through, and the encoder has 64 positions .*max_tokens=64\)"):
        replace(parts, recipe=RECIPE.replace(max_tokens=150)).load()


@pytest.mark.parametrize("fidelity", ["estimator", "frozen", "full"])
@pytest.mark.parametrize("control", CONTROLS)
def test_every_control_runs_beside_the_candidates(made: PiFiEvaluator, fidelity: str, control: str) -> None:
    bare = Candidate((), control=control) if control in ("vanilla", "linear") else layer(made, control=control)
    assert math.isfinite(made.evaluate(bare, fidelity, 0, go_on).value)


def test_a_full_trial_is_exactly_the_run_that_fine_tune_makes(made: PiFiEvaluator) -> None:
    outcome = made.evaluate(layer(made), "full", 3, go_on)
    assert outcome.result is not None
    found = RunResult.from_dict(outcome.result)
    model = pp.plug_in(made.parts.slm, layer(made).spec, task=TASK, wiring="matched", seed=3)
    expected = pp.fine_tune(model, TASK, RECIPE.replace(seed=3))
    assert found.tests[TASK.name] == expected.tests[TASK.name]
    assert found.model == expected.model
    assert outcome.value == expected.metrics["validation"]["nll"]
    assert outcome.cost == pytest.approx(1.0)


def test_arms_of_one_seed_share_what_they_have_in_common(made: PiFiEvaluator) -> None:
    first, second = (made.parts.model(layer(made, index), 5) for index in (0, 2))
    for name in ("L_in", "L_out"):
        assert torch.equal(getattr(first.plugin, name).weight, getattr(second.plugin, name).weight)
    assert all(torch.equal(a, b) for a, b in zip(first.head.parameters(), second.head.parameters(), strict=True))


def test_the_encoder_is_loaded_once(made: PiFiEvaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    made.check()
    monkeypatch.setattr("pifi_probe.selection.evaluate.load_encoder", lambda slm: pytest.fail("loaded again"))
    made.evaluate(layer(made), "short", 0, go_on)


def test_the_frozen_fidelity_trains_no_encoder_and_records_the_test_split(made: PiFiEvaluator) -> None:
    outcome = made.evaluate(layer(made), "frozen", 0, go_on)
    assert outcome.result is not None
    test = outcome.result["tests"][TASK.name]
    assert len(test["correct"]) == len(test["nll"].split()) == len(TASK.splits["test"])


def test_modes_and_their_wiring_are_compared_by_one_procedure(made: PiFiEvaluator) -> None:
    whole = replace(made, plain=False)
    outcomes = [whole.evaluate(layer(made, modes=modes), "frozen", 0, go_on) for modes in ((), (("bypass", False),))]
    assert outcomes[0].value != outcomes[1].value
    assert all(outcome.result and len(outcome.result["tests"][TASK.name]["correct"]) == 32 for outcome in outcomes)


@pytest.mark.parametrize("n_blocks", [0, 1, 2])
@pytest.mark.parametrize(
    "family", ["bert", "mpnet", "electra", "deberta-v2", "modernbert", "distilbert", "llama", "gpt2"]
)
def test_an_encoder_cut_in_two_gives_what_it_gave(family: str, n_blocks: int, tmp_path: Path) -> None:
    folder = slm.tiny_slm_folder(tmp_path, family)
    model = pp.plug_in(str(folder), task=TASK, control="vanilla", pooling="mean")
    parts = Parts(TASK, str(folder), (), "matched", RECIPE)
    split = parts.encoded(TASK.splits["test"])
    before = predict_logits(model, split, parts.tokenizer)
    lower = LowerStates(model.encoder, n_blocks, [split], parts.tokenizer)
    truncate_encoder(model, lower, parts.batch(TASK.splits["test"]))
    assert sum(p.numel() for p in blocks_of(model.encoder)[2 - n_blocks :].parameters()) == sum(
        p.numel() for p in model.encoder.parameters() if p.requires_grad
    )
    np.testing.assert_allclose(predict_logits(model, split, parts.tokenizer), before, rtol=1e-4, atol=1e-5)


def test_an_encoder_that_cannot_be_cut_says_so(tmp_path: Path) -> None:
    folder = slm.tiny_slm_folder(tmp_path, "albert")  # one block, used twice
    model = pp.plug_in(str(folder), task=TASK, control="vanilla")
    parts = Parts(TASK, str(folder), (), "matched", RECIPE)
    lower = LowerStates(load_encoder(str(folder))[0], 0, [parts.encoded(TASK.splits["test"])], parts.tokenizer)
    with pytest.raises(PlugInError, match="cannot be cut"):
        truncate_encoder(model, lower, parts.batch(TASK.splits["test"]))


def stop_after(n: int) -> tuple[Callable[[], bool], list[int]]:
    calls: list[int] = []

    def stop() -> bool:
        calls.append(1)
        return len(calls) > n

    return stop, calls


@pytest.mark.parametrize("fidelity", FIDELITIES[1:])
def test_a_trial_leaves_off_within_one_step(made: PiFiEvaluator, fidelity: str) -> None:
    stop, calls = stop_after(2)
    with pytest.raises(RunInterrupted):
        made.evaluate(layer(made), fidelity, 0, stop)
    assert len(calls) == 3


def test_a_one_shot_run_weighs_every_layer_and_leaves_off_when_told(made: PiFiEvaluator) -> None:
    llm = made.parts.llms[0]
    candidate = Candidate(tuple(f"{llm}[{i}]" for i in range(3)), ONE_SHOT)
    outcome = made.evaluate(candidate, "frozen", 0, go_on)
    assert outcome.result is not None
    shares = outcome.result["weights"]
    assert list(shares) == list(candidate.layers)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert len(set(shares.values())) == 3
    assert made.evaluate(candidate, "frozen", 0, go_on).value == outcome.value
    with pytest.raises(RunInterrupted):
        made.evaluate(candidate, "frozen", 0, stop_after(3)[0])


def test_an_evaluator_travels_without_its_models_and_gives_the_same_value(made: PiFiEvaluator) -> None:
    value = made.evaluate(layer(made), "frozen", 0, go_on).value
    packed = pickle.dumps(made)
    assert len(packed) < 100_000
    copy: PiFiEvaluator = pickle.loads(packed)
    assert copy.evaluate(layer(made), "frozen", 0, go_on).value == value


def test_fidelities_cost_what_their_work_is_worth(made: PiFiEvaluator) -> None:
    cost = {fidelity: made.cost(layer(made), fidelity) for fidelity in FIDELITIES}
    assert cost["full"] == pytest.approx(1.0)
    assert cost["frozen"] < cost["last-block"] + cost["short"]
    assert cost["short"] == pytest.approx(1 / 2, abs=0.2)
    assert made.cost(Candidate(("m[0]", "m[1]"), "mix"), "full") > 1.0


def test_time_and_memory_are_estimated_before_the_start(made: PiFiEvaluator) -> None:
    measure = made.measure()
    took = made.evaluate(layer(made), "full", 0, go_on).seconds
    assert took / 50 < measure.full_seconds < 50 * took  # a tiny run is all overhead, and the machine may be busy
    assert measure.memory_bytes > 50 << 20


def test_bytes_and_latency_are_recorded_for_the_pareto_front(made: PiFiEvaluator) -> None:
    outcomes: list[Outcome] = [
        made.evaluate(layer(made), fidelity, 0, go_on) for fidelity in ("frozen", "short", "full")
    ]
    assert all(outcome.bytes and outcome.latency for outcome in outcomes)
    assert outcomes[1].bytes == outcomes[2].bytes


def test_a_missing_model_is_known_before_any_trial(made: PiFiEvaluator) -> None:
    for changed in ({"slm": "no/such/folder"}, {"llms": ("no/such/folder",)}):
        with pytest.raises(ModelNotFoundError):
            PiFiEvaluator(replace(made.parts, **changed)).check()


def test_a_task_without_a_test_split_is_refused(made: PiFiEvaluator) -> None:
    splits = {name: split for name, split in TASK.splits.items() if name != "test"}
    with pytest.raises(TaskError, match="no test split"):
        replace(made.parts, task=replace(TASK, splits=splits))


def test_an_unknown_fidelity_and_a_set_at_the_training_free_fidelity_are_refused(made: PiFiEvaluator) -> None:
    with pytest.raises(SearchError, match="unknown fidelity"):
        made.evaluate(layer(made), "fulll", 0, go_on)
    pair = Candidate(tuple(f"{made.parts.llms[0]}[{i}]" for i in (0, 1)), "mix")
    with pytest.raises(SearchError, match="single layers only"):
        made.evaluate(pair, "estimator", 0, go_on)


@pytest.mark.parametrize("control", [None, "vanilla", "linear", "shuffled"])
@pytest.mark.parametrize("family", ["llama", "gpt_oss"])  # the second one's layer has no single-token form
def test_a_frozen_trial_that_was_left_off_leaves_nothing_behind(tmp_path: Path, family: str, control: str) -> None:
    folder = tiny.tiny_checkpoint(family, tmp_path / "llm", vocab_size=len(slm.WORDS) + len(slm.SPECIAL))
    made = PiFiEvaluator(Parts(TASK, str(slm.tiny_slm_folder(tmp_path / "bert")), (str(folder),), "pifi", RECIPE))
    bare = control in ("vanilla", "linear")
    candidate = Candidate((), control=control) if bare else Candidate((f"{folder}[0]",), control=control)
    asked: list[bool] = []

    def third_step() -> bool:
        asked.append(True)
        return len(asked) > 3

    with pytest.raises(RunInterrupted):
        made.evaluate(candidate, "frozen", 0, third_step)
    assert len(asked) == 4, "it went on after it was told to stop"
    again = made.evaluate(candidate, "frozen", 0, go_on)
    assert math.isfinite(again.value) and len(asked) == 4, "the paused trial is still asked"


# --- aligned chains -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PiFiEvaluator]:
    folder = tmp_path_factory.mktemp("aligned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIFI_PROBE_CACHE", str(folder / "cache"))
        patch.setenv("PIFI_PROBE_FEATURES", str(folder / "features"))
        bert, llm = str(slm.tiny_slm_folder(folder / "slm")), tiny.tiny_checkpoint("llama", folder / "llm")
        slm.tiny_tokenizer().save_pretrained(llm)
        yield PiFiEvaluator(Parts(TASK, bert, (str(llm),), "aligned", RECIPE))


def chain(made: PiFiEvaluator, control: str | None = None) -> Candidate:
    return Candidate(tuple(f"{made.parts.llms[0]}[{i}]" for i in (1, 2)), design="serial", control=control)


@pytest.mark.parametrize("control", [None, "linear", "random", "shuffled"])
def test_a_chain_and_its_twins_run_at_the_cheap_fidelities(aligned: PiFiEvaluator, control: str | None) -> None:
    first, again = (aligned.evaluate(chain(aligned, control), "frozen", 0, go_on) for _ in range(2))
    assert math.isfinite(first.value) and first.value == again.value and first.accuracy is not None
    assert (aligned.evaluate(chain(aligned, control), "estimator", 0, go_on).value == 0) == (control is not None)


def test_the_frozen_fidelity_of_a_chain_beats_chance_where_the_words_decide(aligned: PiFiEvaluator) -> None:
    vanilla = aligned.evaluate(Candidate((), control="vanilla"), "frozen", 0, go_on)
    assert vanilla.accuracy is not None and vanilla.accuracy > 0.6


def test_a_chain_is_trained_in_full_as_plug_in_makes_it(aligned: PiFiEvaluator) -> None:
    outcome = aligned.evaluate(chain(aligned), "full", 0, go_on)
    assert outcome.result is not None and outcome.result["label"].startswith("aligned: ")


def test_fidelities_that_know_no_chains_say_so(aligned: PiFiEvaluator) -> None:
    for candidate, fidelity in ((chain(aligned), "last-block"), (replace(chain(aligned), design=ONE_SHOT), "frozen")):
        with pytest.raises(SearchError, match="does not know aligned chains"):
            aligned.evaluate(candidate, fidelity, 0, go_on)


@pytest.mark.slow
def test_a_search_for_a_chain_ranks_all_by_their_headroom_and_trains_the_best(
    aligned: PiFiEvaluator, tmp_path: Path
) -> None:
    study = pp.search(
        aligned.parts.slm,
        aligned.parts.llms[0],
        TASK,
        wiring="aligned",
        strategy="span",
        max_layers=2,
        budget="20",
        n_seeds=1,
        recipe=RECIPE.replace(epochs=1),
        study=None,
        confirm=False,
    )
    fidelities = [trial.fidelity for trial in study.trials]
    assert fidelities.count("estimator") == 5 and "frozen" in fidelities and fidelities.count("full") == 2


def test_aligned_layers_are_one_chain_and_a_refused_search_leaves_no_study(tmp_path: Path) -> None:
    with pytest.raises(SearchError, match="one chain"):
        pp.search("x", "y", TASK, wiring="aligned", max_layers=2, combine=("mix",), study=tmp_path / "s.db")
    assert not list(tmp_path.iterdir())
