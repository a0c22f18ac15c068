"""One run: what it trains, what it reads when, and what it says afterwards."""

from __future__ import annotations

import fcntl
import io
import os
import re
import select
import struct
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import nn
from tqdm.notebook import tqdm_notebook
from transformers import TrainerCallback, TrainerState

import pifi_probe as pp
from pifi_probe import devices, progress
from pifi_probe.encoders import n_positions
from pifi_probe.errors import CorruptFileError, PlugInError, RecipeError, TaskError, TrainingDiverged
from pifi_probe.kinds import base
from pifi_probe.kinds.parts.encoding import encode
from pifi_probe.kinds.parts.evaluating import predict_logits
from pifi_probe.kinds.parts.metrics import by_correct_answers, classification_metrics
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.tasks import Split, Task
from pifi_probe.training import Recipe, RunResult, callbacks, fine_tune
from pifi_probe.training.data import LengthGroupedOrder
from pifi_probe.training.history import History
from pifi_probe.training.trainer import PiFiTrainer
from tests import slm
from tests.runs import RECIPE, TASK, Parts, other_domain


class Spy(TrainerCallback):
    """Calls a function at one of Trainer's events."""

    def __init__(self, event: str, call: Callable[..., Any]) -> None:
        setattr(self, event, lambda args, state, control, **kwargs: call(args, state, control, **kwargs))


def test_the_same_seed_gives_bit_equal_numbers_and_another_seed_does_not(parts: Parts) -> None:
    first, again = (fine_tune(parts.model(), TASK, RECIPE, also=[other_domain()]) for _ in range(2))
    assert first.tests == again.tests and first.epochs == again.epochs and first.curves == again.curves
    assert fine_tune(parts.model(), TASK, RECIPE.replace(seed=1)).curves != first.curves


@pytest.mark.parametrize("wiring", ["pifi", "matched"])
def test_the_layer_is_frozen_and_everything_else_is_trained(parts: Parts, wiring: str) -> None:
    model = parts.model(wiring=wiring)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = fine_tune(model, TASK, RECIPE)
    digests = result.layer_digests
    assert digests["before"] == digests["after"] == [model.frozen_layers[0].card.sha256]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {"plugin.L_in.weight", "plugin.L_out.weight", "head.0.weight"} <= changed
    assert any(name.startswith("encoder.") for name in changed)
    assert not any(name.startswith("plugin.layers.") for name in changed)


@pytest.mark.parametrize(("wiring", "factor"), [("pifi", 1), ("matched", 10)])
def test_the_optimiser_is_plain_adam_with_the_projections_at_their_own_rate(
    parts: Parts, wiring: str, factor: float
) -> None:
    seen: list[torch.optim.Optimizer] = []
    model = parts.model(wiring=wiring)
    spy = Spy("on_train_end", lambda args, state, control, optimizer, **kwargs: seen.append(optimizer))
    result = fine_tune(model, TASK, RECIPE, callbacks=[spy])
    inner = getattr(seen[0], "optimizer", seen[0])
    assert type(inner) is torch.optim.Adam
    rates = {id(p): group["lr"] for group in inner.param_groups for p in group["params"]}
    trained = {name: id(p) for name, p in model.named_parameters() if p.requires_grad}
    assert rates.keys() == set(trained.values()), "frozen weights are not in the optimiser"
    for name, key in trained.items():
        expected = RECIPE.learning_rate * (factor if name.startswith("plugin.") else 1)
        assert rates[key] == pytest.approx(expected), "constant, so unchanged at the end"
    assert {group["weight_decay"] for group in inner.param_groups} == {0}
    assert result.lr_projection == pytest.approx(factor * RECIPE.learning_rate)


def test_the_recipe_overrules_the_wirings_rate_of_the_projections(parts: Parts) -> None:
    assert fine_tune(parts.model(wiring="matched"), TASK, RECIPE.replace(lr_projection=1e-4)).lr_projection == 1e-4


def test_the_first_step_is_adams_step_on_the_clipped_smoothed_loss(parts: Parts) -> None:
    """One step by hand, without dropout, equals one step of the run."""
    recipe = RECIPE.replace(batch_size=24, epochs=1, max_grad_norm=0.5)

    def model_without_dropout() -> PiFiForSequenceClassification:
        model = parts.model()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return model

    trained, by_hand = model_without_dropout(), model_without_dropout()
    result = fine_tune(trained, TASK, recipe)
    batch = slm.tiny_tokenizer()(list(TASK.splits["train"].texts), padding=True, return_tensors="pt")
    logits = by_hand(**batch).logits
    labels = torch.tensor(TASK.splits["train"].labels)
    target = nn.functional.one_hot(labels, 2) * 0.95 + 0.05 / 2
    loss = -(target * logits.log_softmax(-1)).sum(-1).mean()
    loss.backward()
    weights = [p for p in by_hand.parameters() if p.requires_grad]
    norm = nn.utils.clip_grad_norm_(weights, 0.5)
    torch.optim.Adam(weights, lr=recipe.learning_rate).step()
    assert result.curves["loss"] == [pytest.approx(loss.item(), rel=1e-4)]
    assert result.curves["grad_norm"] == [pytest.approx(float(norm), rel=1e-3)] and norm > 0.5
    step = 0.5 * recipe.learning_rate  # far below the first step of Adam, which is the rate itself
    ours, theirs, start = (model.get_parameter("head.0.weight") for model in (trained, by_hand, parts.model()))
    assert torch.allclose(ours, theirs, atol=step) and not torch.allclose(ours, start, atol=step)


def test_gradients_are_clipped_before_the_step_and_recorded_as_they_were(parts: Parts) -> None:
    norms: list[float] = []

    def measure(args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        norms.append(float(nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])))

    recipe = RECIPE.replace(max_grad_norm=0.1)
    result = fine_tune(parts.model(), TASK, recipe, callbacks=[Spy("on_pre_optimizer_step", measure)])
    assert max(norms) <= 0.1 * (1 + 1e-4) and min(result.curves["grad_norm"]) > 0.1
    curves = result.curves
    squares = sum(np.square(curves[f"grad_{part}"]) for part in ("encoder", "projections", "head"))
    assert np.sqrt(squares) == pytest.approx(curves["grad_norm"])
    unbounded = fine_tune(parts.model(), TASK, recipe.replace(max_grad_norm=0))
    assert len(unbounded.curves["grad_norm"]) == len(unbounded.curves["loss"]) == 9


def test_splits_are_read_in_their_turn_and_the_test_split_once_at_the_end(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []

    def recorded(split: Split, *args: Any) -> Any:
        log.append(next(name for name, own in TASK.splits.items() if own is split))
        return encode(split, *args)

    monkeypatch.setattr(base, "encode", recorded)
    recipe = RECIPE.replace(max_tokens=64)  # the encoder's positions, so that no text can be too long for it
    fine_tune(parts.model(), TASK, recipe, callbacks=[Spy("on_train_end", lambda *args, **kwargs: log.append("end"))])
    assert log == ["train", "validation", "end", "test"]


def test_a_run_does_not_depend_on_the_test_split(parts: Parts) -> None:
    test = TASK.splits["test"]
    other = replace(TASK, splits={**TASK.splits, "test": replace(test, labels=tuple(1 - x for x in test.labels))})
    first, second = fine_tune(parts.model(), TASK, RECIPE), fine_tune(parts.model(), other, RECIPE)
    assert first.curves == second.curves and first.epochs == second.epochs
    accuracies = [result.tests[TASK.name].metrics["accuracy"] for result in (first, second)]
    assert sum(accuracies) == pytest.approx(1)


def test_the_best_epoch_has_the_highest_accuracy_and_then_the_lowest_nll(parts: Parts) -> None:
    model = parts.model()
    history = History(epochs=[{"epoch": 0}])
    scores = [(0.5, 0.2), (0.75, 0.9), (0.75, 0.6), (0.75, 0.7), (0.7, 0.1)]
    for epoch, (accuracy, nll) in enumerate(scores, start=1):
        with torch.no_grad():
            model.get_parameter("head.0.bias").fill_(epoch)
        record = {"epoch": epoch, "accuracy": accuracy, "nll": nll, "n": 20}
        history.end_epoch(model, record, by_correct_answers(record))
    assert history.best_epoch == 3
    assert (history.best_state["head.0.bias"] == 3).all(), "the weights are those of that epoch"


def test_the_model_is_left_with_the_weights_of_its_best_epoch(parts: Parts) -> None:
    model = parts.model()
    result = fine_tune(model, TASK, RECIPE.replace(epochs=5, learning_rate=1e-2))
    assert 0 < result.best_epoch < 5, "otherwise this test shows nothing"
    assert not model.training
    tokenizer = slm.tiny_tokenizer()
    for split, found in (("validation", result.metrics["validation"]), ("test", result.metrics[TASK.name])):
        rows = encode(TASK.splits[split], tokenizer, 100)
        again = classification_metrics(rows.labels, predict_logits(model, rows, tokenizer))
        assert again.items() <= found.items()


def test_the_end_of_a_table_of_positions_is_known(tmp_path: Path) -> None:
    for family in (*slm.ENCODERS, *slm.DECODERS):
        encoder = slm.tiny_slm(family)
        limit = n_positions(encoder)
        assert (limit is None) == (family in ("deberta", "deberta-v2", "modernbert", "llama"))
        encoder(input_ids=torch.full((1, limit or 100), 5))
        if limit is not None:
            with pytest.raises((RuntimeError, IndexError)):
                encoder(input_ids=torch.full((1, limit + 1), 5))


def test_texts_beyond_the_encoders_positions_are_refused_before_training(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, task = RECIPE.replace(max_tokens=150, epochs=1), with_long_texts("train")
    fine_tune(parts.model(), TASK, recipe)  # no text is that long
    fine_tune(parts.model(), task, recipe.replace(max_tokens=64))
    modern = slm.tiny_slm_folder(tmp_path / "modernbert", "modernbert")
    fine_tune(pp.plug_in(str(modern), parts.layer, task=TASK), task, recipe)
    monkeypatch.setattr(PiFiTrainer, "train", lambda *args, **kwargs: pytest.fail("trained"))
    says = r"max_tokens=150 lets a text of 102 tokens through, and the encoder has 64 positions .*max_tokens=64\)"
    for wrong in ("train", "validation", "test"):
        with pytest.raises(RecipeError, match=says):
            fine_tune(parts.model(), with_long_texts(wrong), recipe, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def with_long_texts(name: str) -> Task:
    """Return the task with texts of 100 words in one of its splits."""
    split = TASK.splits[name]
    texts = tuple(f"{' very' * 99} {row}" for row in range(len(split)))
    return replace(TASK, splits={**TASK.splits, name: replace(split, texts=texts)})


def test_predictions_come_in_the_order_of_the_rows(parts: Parts) -> None:
    model, tokenizer = parts.model(), slm.tiny_tokenizer()
    rows = encode(TASK.splits["test"], tokenizer, 100)
    assert rows.lengths != sorted(rows.lengths)
    together = predict_logits(model, rows, tokenizer, batch_size=5)
    for row in (0, 3, 11, 23):
        alone = tokenizer(TASK.splits["test"].texts[row], return_tensors="pt")
        with torch.no_grad():
            assert together[row] == pytest.approx(model(**alone).logits[0].numpy(), abs=1e-5)


def test_batches_hold_texts_of_like_length_in_an_order_of_seed_and_epoch() -> None:
    lengths = np.random.default_rng(0).integers(4, 100, size=320).tolist()

    def order(seed: int, epoch: int) -> list[int]:
        sampler = LengthGroupedOrder(lengths, 8, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    def padded(rows: list[int]) -> int:
        return sum(8 * max(lengths[row] for row in rows[start : start + 8]) for start in range(0, 320, 8))

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert all(sorted(rows) == list(range(320)) for rows in orders)
    assert order(0, 1) == orders[1] and len({tuple(rows) for rows in orders}) == 3
    assert padded(orders[0]) < 0.75 * padded(list(range(320)))


def test_texts_are_cut_at_the_recipes_length_and_pairs_are_read_together() -> None:
    split = Split(texts=("good " * 50, "bad"), labels=(1, 0), ids=("a", "b"), pairs=("film", "plot"))
    rows = encode(split, slm.tiny_tokenizer(), 10)
    assert rows.lengths == [10, 5]


def test_nothing_is_printed_where_nobody_watches(parts: Parts, capfd: pytest.CaptureFixture[str]) -> None:
    fine_tune(parts.model(), TASK, RECIPE, also=[other_domain()])
    assert capfd.readouterr() == ("", "")


def test_the_progress_bar_stays_on_one_line_and_leaves_nothing_behind(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    fine_tune(parts.model(), TASK, RECIPE.replace(epochs=10))
    shown = terminal.getvalue()
    assert "seed 0" in shown and "left" in shown and "\n" not in shown
    assert shown.rsplit("\r", 2)[1].strip() == "" and shown.endswith("\r"), "the last thing it does is to clear"


def test_a_terminal_of_80_columns_shows_the_whole_number_behind_the_longest_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with open(theirs, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar, nothing = callbacks.ProgressBar("matched: shuffled smollm2-135m[29], seed 0"), cast(Any, None)
        bar.on_train_begin(nothing, TrainerState(max_steps=152), nothing)
        bar.on_step_end(nothing, nothing, nothing)
        bar.on_evaluate(nothing, nothing, nothing, {"eval_accuracy": 0.7814})
        bar.close()
        terminal.flush()
        shown = b""
        while select.select([ours], [], [], 0.5)[0]:
            shown += os.read(ours, 100_000)
    os.close(ours)
    lines = shown.decode().split("\r")
    assert any(re.search(r"\[29\], seed 0: .*left, accuracy 0\.781$", line) for line in lines), lines
    assert 40 < max(map(len, lines)) <= 80


def test_in_a_notebook_the_bar_is_a_widget_that_is_closed_at_the_end(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    bars: list[Any] = []

    def notebook_bar(**options: Any) -> Any:
        bars.append(tqdm_notebook(**options))
        return bars[-1]

    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr(callbacks, "tqdm", notebook_bar)  # tqdm.auto chooses it where there is a kernel
    fine_tune(parts.model(), TASK, RECIPE)
    (bar,) = bars
    assert bar.n == bar.total == 9 and "accuracy 0." in str(bar.container)
    assert bar.container.comm is None, "closed"
    assert capfd.readouterr().err == ""


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(parts: Parts) -> None:
    def spoil(args: Any, state: Any, control: Any, model: PiFiForSequenceClassification, **kwargs: Any) -> None:
        if state.global_step == 4:
            with torch.no_grad():
                model.get_parameter("head.0.weight").fill_(float("nan"))

    with pytest.raises(TrainingDiverged, match=r"at step 5 .*lr_projection=0\.0003"):
        fine_tune(parts.model(), TASK, RECIPE, callbacks=[Spy("on_step_end", spoil)])


def test_a_run_without_a_folder_leaves_no_file(parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "temporary").mkdir()
    fine_tune(parts.model(), TASK, RECIPE)
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_a_finished_run_leaves_its_result_alone(parts: Parts, tmp_path: Path) -> None:
    result = fine_tune(parts.model(), TASK, RECIPE, out=tmp_path / "run", also=[other_domain()])
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["result.json"]
    assert RunResult.from_json(tmp_path / "run" / "result.json") == result


def test_a_saved_model_predicts_what_was_tested(parts: Parts, tmp_path: Path) -> None:
    model = parts.model()
    fine_tune(model, TASK, RECIPE, out=tmp_path, save_model=True)
    again = PiFiForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    batch = slm.tiny_tokenizer()(["the film was good", "bad"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, again(**batch).logits)


def test_a_result_says_what_was_run(parts: Parts) -> None:
    model = parts.model()
    result = fine_tune(model, TASK, RECIPE, also=[other_domain()])
    assert result.label == f"pifi: {parts.llm}[1]"
    assert list(result.tests) == [TASK.name, "other"] and list(result.metrics) == ["validation", TASK.name, "other"]
    wanted = {"accuracy", "balanced_accuracy", "macro_f1", "mcc", "auroc", "nll", "ece", "label_prior"}
    assert all(wanted <= metrics.keys() for metrics in result.metrics.values())
    assert result.tests["other"].train_prior == [0.5, 0.5]
    frozen = sum(p.numel() for p in model.frozen_layers[0].parameters())
    everything = sum(p.numel() for p in model.parameters())
    assert result.parameters == {"trainable": everything - frozen, "frozen": frozen}
    assert result.task["sizes"] == {"train": 24, "validation": 12, "test": 24}
    assert result.model["layers"][0]["sha256"] == model.frozen_layers[0].card.sha256
    assert [epoch["epoch"] for epoch in result.epochs] == [0, 1, 2, 3]
    assert all(epoch["branch_ratio"] > 0 and epoch["output_ratio"] > 0 for epoch in result.epochs)
    assert result.seconds["train"] > 0 and (result.peak_memory["rss_bytes"] or 0) > 1 << 20
    assert result.provenance["versions"]["torch"]


def test_every_example_is_kept_for_pairing(parts: Parts) -> None:
    test = fine_tune(parts.model(), TASK, RECIPE).tests[TASK.name]
    assert test.per_example("accuracy").mean() == pytest.approx(test.metrics["accuracy"])
    assert test.per_example("nll").mean() == pytest.approx(test.metrics["nll"], rel=1e-4)
    assert len(test.per_example("nll")) == 24


@pytest.mark.slow
@pytest.mark.parametrize("control", ["vanilla", "linear", "random", "shuffled", "unfrozen", "mlp"])
def test_every_control_can_be_run_and_named(parts: Parts, control: str) -> None:
    result = fine_tune(parts.model(control=control), TASK, RECIPE.replace(epochs=1))
    assert result.label.startswith(f"pifi: {control}")
    assert (result.parameters["frozen"] > 0) == (control in ("random", "shuffled"))
    assert ("grad_layer" in result.curves) == (control == "unfrozen")


def test_texts_of_training_are_left_out_of_a_shift_test(parts: Parts) -> None:
    other = other_domain()
    test = other.splits["test"]
    leaky = replace(other, splits={"test": replace(test, texts=(TASK.splits["train"].texts[0], *test.texts[1:]))})
    result = fine_tune(parts.model(), TASK, RECIPE, also=[leaky])
    assert result.tests["other"].metrics["n"] == len(test) - 1
    assert "1 of 16" in result.tests["other"].note


def test_html_of_a_result_is_escaped(parts: Parts) -> None:
    result = fine_tune(parts.model(), replace(TASK, name="<script>"), RECIPE.replace(epochs=1))
    assert "<script>" not in result._repr_html_() and "&lt;script&gt;" in result._repr_html_()


@pytest.mark.parametrize("content", ["", "[1]", '{"format": 1}', None])
def test_a_file_that_is_no_result_is_refused_with_its_name(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "result.json"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    with pytest.raises(CorruptFileError, match=r"result\.json"):
        RunResult.from_json(file)


def test_a_task_that_does_not_fit_is_refused_before_training(parts: Parts) -> None:
    no_test = replace(TASK, splits={name: TASK.splits[name] for name in ("train", "validation")})
    with pytest.raises(TaskError, match="no test split"):
        fine_tune(parts.model(), no_test, RECIPE)
    with pytest.raises(PlugInError, match="classes"):
        fine_tune(parts.model(), replace(TASK, label_names=("good", "bad")), RECIPE)
    with pytest.raises(TaskError, match="same name"):
        fine_tune(parts.model(), TASK, RECIPE, also=[other_domain(), other_domain()])
    with pytest.raises(PlugInError, match="cannot be trained"):
        fine_tune(parts.model().fold("z"), TASK, RECIPE)
    with pytest.raises(RecipeError, match="folder"):
        fine_tune(parts.model(), TASK, RECIPE, resume=True)
    with pytest.raises(RecipeError, match="folder"):
        fine_tune(parts.model(), TASK, RECIPE, save_model=True)


@pytest.mark.skipif(not devices.has_bf16(torch.device("cpu")), reason="this processor has no bf16 instructions")
def test_bf16_runs_where_the_processor_has_it_and_leaves_float32_weights(parts: Parts) -> None:
    model = parts.model()
    forward = model.forward
    half, full = (
        fine_tune(m, TASK, RECIPE.replace(precision=p)) for m, p in ((model, "bf16"), (parts.model(), "float32"))
    )
    assert half.curves["loss"][0] == pytest.approx(full.curves["loss"][0], rel=0.05)
    assert half.curves["loss"] != full.curves["loss"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.forward == forward, "the model is not left wrapped"


def test_bf16_is_refused_where_the_processor_has_none(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "has_bf16", lambda device: False)
    with pytest.raises(RecipeError, match="no bf16 instructions"):
        fine_tune(parts.model(), TASK, RECIPE.replace(precision="bf16"))


def test_a_device_that_is_not_there_is_refused(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RecipeError, match="no cuda device"):
        fine_tune(parts.model(), TASK, RECIPE.replace(device="cuda"))


def test_a_callback_sees_validation_metrics_and_may_stop_the_run(parts: Parts) -> None:
    seen: list[dict[str, float]] = []

    def stop(args: Any, state: Any, control: Any, metrics: dict[str, float], **kwargs: Any) -> None:
        seen.append(metrics)
        control.should_training_stop = len(seen) == 2

    result = fine_tune(parts.model(), TASK, RECIPE, callbacks=[Spy("on_evaluate", stop)])
    assert [epoch["epoch"] for epoch in result.epochs] == [0, 1, 2]
    assert seen[0]["eval_accuracy"] == result.epochs[1]["accuracy"]


def test_trainers_own_settings_are_the_recipes(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[PiFiTrainer] = []
    original = PiFiTrainer.train

    def train(self: PiFiTrainer, **kwargs: Any) -> Any:
        kept.append(self)
        return original(self, **kwargs)

    monkeypatch.setattr(PiFiTrainer, "train", train)
    recipe = Recipe(learning_rate=1e-3, batch_size=4, epochs=1, label_smoothing=0.1, seed=5, device="cpu")
    fine_tune(parts.model(), TASK, recipe)
    args = kept[0].args
    assert (args.learning_rate, args.train_batch_size, args.num_train_epochs) == (1e-3, 4, 1)
    assert (args.label_smoothing_factor, args.max_grad_norm, args.weight_decay) == (0.1, 5.0, 0.0)
    assert (str(args.lr_scheduler_type.value), args.seed, args.n_gpu) == ("constant", 5, 0)
    assert kept[0].state.max_steps == 6


@pytest.mark.assets
def test_a_short_run_with_real_weights_learns_something() -> None:
    task: Task = pp.load_task("movie-reviews").subset(train=64, validation=32, test=100)
    model = pp.plug_in("minilm-l6", "smollm2-135m[-1]", task=task, wiring="matched")
    result = fine_tune(model, task, Recipe(epochs=2, learning_rate=2e-4, device="cpu"))
    assert result.label == "matched: smollm2-135m[29]"
    assert result.metrics["movie-reviews"]["auroc"] > 0.6
    assert result.layer_digests["before"] == result.layer_digests["after"]
