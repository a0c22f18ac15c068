"""A run that was stopped goes on to the numbers that it would have had."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from transformers import TrainerCallback

from pifi_probe.errors import RecipeError, RunInterrupted, SaveError
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.training import Recipe, RunResult, fine_tune
from pifi_probe.training.trainer import PiFiTrainer
from tests.runs import RECIPE, TASK, Parts, other_domain
from tests.slm import tiny_tokenizer

ALSO = [other_domain()]


@pytest.fixture(scope="module")
def whole(parts: Parts) -> tuple[RunResult, PiFiForSequenceClassification]:
    model = parts.model()
    return fine_tune(model, TASK, RECIPE, also=ALSO), model


class At(TrainerCallback):
    """Does something at one of Trainer's events, when it has taken so many steps."""

    def __init__(self, event: str, step: int, act: Callable[[], Any]) -> None:
        def call(args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                act()

        setattr(self, event, call)


def ctrl_c() -> None:
    signal.raise_signal(signal.SIGINT)


def stop_hard() -> None:
    raise KeyboardInterrupt


def assert_same(result: RunResult, whole: RunResult) -> None:
    assert result.tests == whole.tests
    assert result.epochs == whole.epochs
    assert result.curves == whole.curves
    assert result.best_epoch == whole.best_epoch


@pytest.mark.parametrize(
    ("event", "step", "kept"),
    [
        ("on_step_end", 1, 1),
        ("on_step_end", 5, 5),
        ("on_step_end", 6, 6),  # the last step of an epoch: its validation still comes
        ("on_evaluate", 3, 4),
        ("on_step_begin", 4, 5),
        ("on_step_end", 9, 9),
    ],
)
def test_after_ctrl_c_a_run_goes_on_to_the_same_numbers(
    parts: Parts,
    whole: tuple[RunResult, PiFiForSequenceClassification],
    tmp_path: Path,
    event: str,
    step: int,
    kept: int,
) -> None:
    with pytest.raises(RunInterrupted, match=f"up to step {kept} .*resume=True"):
        fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path, callbacks=[At(event, step, ctrl_c)])
    assert not (tmp_path / "result.json").exists()
    model = parts.model()
    result = fine_tune(model, TASK, RECIPE, also=ALSO, out=tmp_path, resume=True)
    assert_same(result, whole[0])
    for name, tensor in whole[1].state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_run_may_be_interrupted_more_than_once(
    parts: Parts, whole: tuple[RunResult, PiFiForSequenceClassification], tmp_path: Path
) -> None:
    for step in (2, 4, 8):
        with pytest.raises(RunInterrupted):
            stop = At("on_step_end", step, ctrl_c)
            fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path, resume=True, callbacks=[stop])
    assert_same(fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path, resume=True), whole[0])


def test_a_second_ctrl_c_stops_at_once_and_the_last_epoch_is_kept(
    parts: Parts, whole: tuple[RunResult, PiFiForSequenceClassification], tmp_path: Path
) -> None:
    def twice() -> None:
        ctrl_c()
        ctrl_c()

    stop = At("on_step_begin", 4, twice)
    with pytest.raises(RunInterrupted, match="up to step 3 "):
        fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path, callbacks=[stop])
    assert_same(fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path, resume=True), whole[0])


def test_without_a_folder_an_interrupted_run_is_kept_in_one_that_the_message_names(
    parts: Parts,
    whole: tuple[RunResult, PiFiForSequenceClassification],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RunInterrupted) as caught:
        fine_tune(parts.model(), TASK, RECIPE, also=ALSO, callbacks=[At("on_step_end", 4, ctrl_c)])
    folder = Path(caught.value.where)
    assert folder.parent == tmp_path and str(folder) in caught.value.next
    assert_same(fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=folder, resume=True), whole[0])


def test_an_interrupt_before_the_first_checkpoint_says_that_nothing_is_kept(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(RunInterrupted, match="no checkpoint"):
        fine_tune(parts.model(), TASK, RECIPE, callbacks=[At("on_step_begin", 1, stop_hard)])
    assert list(tmp_path.iterdir()) == []


def test_the_handler_of_ctrl_c_is_put_back(parts: Parts, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RunInterrupted):
        fine_tune(parts.model(), TASK, RECIPE, out=tmp_path, callbacks=[At("on_step_end", 1, ctrl_c)])
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_works_in_another_thread(parts: Parts, whole: tuple[RunResult, PiFiForSequenceClassification]) -> None:
    found: list[RunResult] = []
    thread = threading.Thread(target=lambda: found.append(fine_tune(parts.model(), TASK, RECIPE, also=ALSO)))
    thread.start()
    thread.join()
    assert_same(found[0], whole[0])


def test_an_interrupt_while_testing_keeps_the_whole_training(
    parts: Parts,
    whole: tuple[RunResult, PiFiForSequenceClassification],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pifi_probe.training import run

    monkeypatch.setattr(run.Run, "_tested", lambda self, view, note: stop_hard())
    with pytest.raises(RunInterrupted, match="up to step 9 "):
        fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path)
    monkeypatch.undo()
    steps: list[int] = []
    count = At("on_step_end", 9, lambda: steps.append(9))
    result = fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path, resume=True, callbacks=[count])
    assert_same(result, whole[0])
    assert not steps, "nothing is trained again"


def test_a_checkpoint_is_small_it_never_holds_the_frozen_layer(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        fine_tune(parts.model(), TASK, RECIPE, out=tmp_path, callbacks=[At("on_step_end", 4, ctrl_c)])
    (checkpoint,) = (tmp_path / "checkpoints").iterdir()
    for name in ("model.safetensors", "best.safetensors"):
        stored = load_file(checkpoint / name)
        assert "head.0.weight" in stored and not any(key.startswith("plugin.layers.") for key in stored)
    assert "best.safetensors" in {path.name for path in checkpoint.iterdir()}


def test_a_half_written_checkpoint_is_passed_over(
    parts: Parts, whole: tuple[RunResult, PiFiForSequenceClassification], tmp_path: Path
) -> None:
    with pytest.raises(RunInterrupted):
        fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path, callbacks=[At("on_step_end", 3, ctrl_c)])
    torn = tmp_path / "checkpoints" / "checkpoint-6"
    torn.mkdir()
    (torn / "model.safetensors").write_bytes(b"\x10\x00")
    (torn / "trainer_state.json").write_text('{"global_step": 6', encoding="utf-8")
    assert_same(fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path, resume=True), whole[0])


def test_another_run_is_not_mixed_into_a_folder(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(RunInterrupted):
        fine_tune(parts.model(), TASK, RECIPE, out=tmp_path, callbacks=[At("on_step_end", 3, ctrl_c)])
    test = TASK.splits["test"]
    other_task = replace(TASK, splits={**TASK.splits, "test": test.take(range(10))})
    with pytest.raises(RecipeError, match=r"its recipe differs \(seed: 0 there, 1 here\)"):
        fine_tune(parts.model(), TASK, RECIPE.replace(seed=1), out=tmp_path, resume=True)
    with pytest.raises(RecipeError, match="its task differs"):
        fine_tune(parts.model(), other_task, RECIPE, out=tmp_path, resume=True)
    with pytest.raises(RecipeError, match=r"its model differs \(wiring: 'pifi' there, 'matched' here"):
        fine_tune(parts.model(wiring="matched"), TASK, RECIPE, out=tmp_path, resume=True)
    with pytest.raises(RecipeError, match="its start differs"):
        fine_tune(parts.model(seed=1), TASK, RECIPE, out=tmp_path, resume=True)
    assert fine_tune(parts.model(seed=1), TASK, RECIPE, out=tmp_path, resume=False).start, "it starts anew"


def begun_again(parts: Parts, folder: Path, recipe: Recipe) -> RunResult:
    """End a run in a folder, interrupt another one in it after the first epoch, and return the first one's result."""
    ended = fine_tune(parts.model(), TASK, RECIPE, out=folder)
    with pytest.raises(RunInterrupted, match="resume=True"):
        stop = At("on_step_end", 4, ctrl_c)
        fine_tune(parts.model(), TASK, recipe, out=folder, resume=False, callbacks=[stop])
    return ended


def test_with_another_tokenizer_it_is_another_run(parts: Parts, tmp_path: Path) -> None:
    first = fine_tune(parts.model(control="vanilla"), TASK, RECIPE, out=tmp_path / "run")
    state = json.loads(tiny_tokenizer().backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    plain = [word for word in words if not word.startswith("[")]
    words.update(zip(plain, [words[word] for word in plain[7:] + plain[:7]], strict=True))
    own = tiny_tokenizer()
    other = type(own)(tokenizer_object=Tokenizer.from_str(json.dumps(state)), **own.special_tokens_map)
    again = fine_tune(parts.model(control="vanilla"), TASK, RECIPE, out=tmp_path / "run", resume=True)
    assert_same(again, first)
    with pytest.raises(RecipeError, match="its model differs .*tokenizer: "):
        fine_tune(parts.model(control="vanilla"), TASK, RECIPE, out=tmp_path / "run", resume=True, tokenizer=other)
    fresh = fine_tune(parts.model(control="vanilla"), TASK, RECIPE, tokenizer=other)
    assert fresh.key != first.key and fresh.tests != first.tests


def test_a_run_that_was_begun_after_one_that_ended_goes_on_and_replaces_it(parts: Parts, tmp_path: Path) -> None:
    recipe = RECIPE.replace(seed=1)
    ended = begun_again(parts, tmp_path, recipe)
    assert RunResult.from_json(tmp_path / "result.json") == ended, "it stays until there is a new one"
    assert fine_tune(parts.model(), TASK, RECIPE, out=tmp_path, resume=True) == ended
    with pytest.raises(RecipeError, match=r"another run: its recipe differs \(seed: 1 there, 2 here\)"):
        fine_tune(parts.model(), TASK, RECIPE.replace(seed=2), out=tmp_path, resume=True)
    steps: list[int] = []
    again = At("on_step_end", 1, lambda: steps.append(1))
    result = fine_tune(parts.model(), TASK, recipe, out=tmp_path, resume=True, callbacks=[again])
    assert_same(result, fine_tune(parts.model(), TASK, recipe))
    assert not steps, "it is not trained anew"
    assert RunResult.from_json(tmp_path / "result.json") == result
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_a_run_that_was_begun_twice_goes_on_where_it_is(parts: Parts, tmp_path: Path) -> None:
    begun_again(parts, tmp_path, RECIPE)
    steps: list[int] = []
    count = At("on_step_end", 9, lambda: steps.append(9))
    fine_tune(parts.model(), TASK, RECIPE, out=tmp_path, resume=True, callbacks=[count])
    assert steps and not (tmp_path / "checkpoints").exists()


def test_the_saved_model_is_never_that_of_an_earlier_run(parts: Parts, tmp_path: Path) -> None:
    fine_tune(parts.model(), TASK, RECIPE, out=tmp_path, save_model=True)
    fine_tune(parts.model(seed=1), TASK, RECIPE, out=tmp_path, resume=False)
    assert not (tmp_path / "model").exists()
    fine_tune(parts.model(seed=1), TASK, RECIPE, out=tmp_path, resume=False, save_model=True)
    assert (tmp_path / "model").is_dir()


def test_a_model_that_is_gone_cannot_be_saved_afterwards(parts: Parts, tmp_path: Path) -> None:
    fine_tune(parts.model(), TASK, RECIPE, out=tmp_path)
    with pytest.raises(RecipeError, match="its model was not saved.*next: train again without resume"):
        fine_tune(parts.model(), TASK, RECIPE, out=tmp_path, resume=True, save_model=True)


def test_resuming_where_nothing_was_starts(parts: Parts, tmp_path: Path) -> None:
    assert fine_tune(parts.model(), TASK, RECIPE, out=tmp_path / "new", resume=True).best_epoch > 0


def test_a_run_that_had_ended_is_read_not_run_again(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = parts.model()
    result = fine_tune(model, TASK, RECIPE, out=tmp_path / "saved", save_model=True)
    fine_tune(parts.model(), TASK, RECIPE, out=tmp_path / "bare")
    monkeypatch.setattr(PiFiTrainer, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    again = parts.model()
    assert fine_tune(again, TASK, RECIPE, out=tmp_path / "saved", resume=True) == result
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    with caplog.at_level(logging.WARNING, logger="pifi_probe"):
        fine_tune(parts.model(), TASK, RECIPE, out=tmp_path / "bare", resume=True)
    assert "untrained" in caplog.text
    with pytest.raises(RecipeError, match="another run"):
        fine_tune(parts.model(), TASK, RECIPE.replace(seed=1), out=tmp_path / "bare", resume=True)


def test_an_unwritable_folder_is_a_save_error(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    with pytest.raises(SaveError, match="file"):
        fine_tune(parts.model(), TASK, RECIPE, out=tmp_path / "file" / "run")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_loses_nothing_that_was_finished(
    parts: Parts, whole: tuple[RunResult, PiFiForSequenceClassification], tmp_path: Path
) -> None:
    """In a child process: files may not grow beyond 20 kB from the second epoch on, then they may again."""
    script = f"""
        import resource, sys
        from pathlib import Path
        from pifi_probe.errors import SaveError
        from pifi_probe.training import fine_tune
        from tests.runs import RECIPE, TASK, Parts, other_domain
        from tests.test_resume import At

        parts = Parts.__new__(Parts)
        import pifi_probe as pp
        parts.llm, parts.slm = Path({str(parts.llm)!r}), Path({str(parts.slm)!r})
        parts.layer = pp.extract(f"{{parts.llm}}[1]")
        out, also = Path({str(tmp_path)!r}), [other_domain()]
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        full, nearly = (
            At(event, step, lambda size=size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard)))
            for event, step, size in (("on_step_end", 4, 20_000), ("on_train_end", 9, 1_000))
        )
        earlier = fine_tune(parts.model(seed=1), TASK, RECIPE, out=out / "earlier")
        before = (out / "earlier" / "result.json").read_bytes()
        for out_name, callback in (("run", full), ("earlier", full), ("late", nearly)):
            try:
                new = dict(out=out / out_name, resume=False, callbacks=[callback])
                fine_tune(parts.model(), TASK, RECIPE, also=also, **new)
            except SaveError as error:
                assert "resume=True" in str(error) and "\\n" not in str(error), error
            else:
                sys.exit("no SaveError")
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert (out / "earlier" / "result.json").read_bytes() == before
        for out_name, name in (("run", "checkpoint-3"), ("late", "checkpoint-9")):
            kept = [path.name for path in (out / out_name / "checkpoints").iterdir()]
            assert kept == [name], kept
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=120)
    assert done.returncode == 0, done.stderr
    for name in ("run", "late"):
        assert_same(fine_tune(parts.model(), TASK, RECIPE, also=ALSO, out=tmp_path / name, resume=True), whole[0])
        assert json.loads((tmp_path / name / "result.json").read_text(encoding="utf-8"))["result"] == "RunResult"
