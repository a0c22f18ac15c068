"""What the block costs is what was measured: weights, MACs, memory and time, side by side."""

from __future__ import annotations

import importlib
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.efficiency import Benchmark, Spread, serving
from pifi_probe.efficiency.arms import ARMS, build_arms
from pifi_probe.efficiency.benchmark import _training_batch
from pifi_probe.efficiency.counts import counted_macs, held_bytes, measured_macs
from pifi_probe.efficiency.measure import interleaved, peak_bytes, step_of
from pifi_probe.errors import PlugInError, RecipeError
from pifi_probe.kinds import kind_of
from tests import slm, tiny

RECIPE = pp.Recipe(batch_size=4, max_tokens=16, device="cpu")
QUICK: dict[str, Any] = {"rounds": 3, "allow_busy": True}  # another test may be running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models")
    for family in ("bert", "roberta", "distilbert", "electra", "albert", "modernbert", "mpnet", "llama"):
        slm.tiny_slm_folder(made / family, family)
    tiny.tiny_checkpoint("llama", made / "llm", hidden_size=64, head_dim=16)
    return made


def plugged(folder: Path, family: str = "bert", **options: Any) -> Any:
    return pp.plug_in(str(folder / family), f"{folder / 'llm'}[1]", task=slm.tiny_task(), **options)


def built(model: Any) -> tuple[dict[str, Any], dict[str, str]]:
    arms, left_out = build_arms(model, torch.device("cpu"))
    return dict(arms), left_out


@pytest.fixture(scope="module")
def found(folder: Path) -> Benchmark:
    return pp.benchmark(plugged(folder), slm.tiny_task(), RECIPE, batches=(1, 2), lengths=(8, 512), **QUICK)


def test_every_arm_is_measured_in_one_run(found: Benchmark) -> None:
    assert [own.arm for own in found.arms] == list(ARMS)
    for own in found.arms:
        assert own.latency.keys() == {"1 x 8", "2 x 8"} and all(spread.n >= 3 for spread in own.latency.values())
        trained = own.arm != "PiFi, folded"
        assert (own.step is not None) == (own.epoch is not None) == (own.training_bytes is not None) == trained
        if own.step and own.epoch:
            assert own.epoch.median == pytest.approx(12 * own.step.median)  # 48 texts, 4 at once
    assert set(found.left_out) == {"1 x 512", "2 x 512"} and "64 tokens" in found.left_out["1 x 512"]


def test_the_arms_train_what_their_names_say(folder: Path) -> None:
    model = plugged(folder)
    arms, left_out = built(model)
    assert not left_out
    parts = {
        name: {key.split(".")[0] for key, p in arm.named_parameters() if p.requires_grad} for name, arm in arms.items()
    }
    assert parts["vanilla"] == {"encoder", "head"} and parts["PiFi"] == {"encoder", "head", "plugin"}
    assert all(not p.requires_grad for p in arms["PiFi"].plugin.layers.parameters())
    assert all(p.requires_grad for p in arms["layer trained too"].plugin.layers.parameters())
    for name in ("LoRA", "IA3"):
        keys = [key for key, p in arms[name].encoder.named_parameters() if p.requires_grad]
        assert keys and all(("lora_" if name == "LoRA" else "ia3_") in key for key in keys)
        assert arms[name].plugin is None and all(p.requires_grad for p in arms[name].head.parameters())
    projections = sum(p.numel() for p in model.plugin.projections()["L_in"].parameters()) * 2
    assert sum(p.numel() for p in arms["MLP of equal size"].plugin.parameters()) == projections


def test_the_user_s_model_is_left_as_it_is(folder: Path) -> None:
    model = plugged(folder)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    pp.benchmark(model, slm.tiny_task(), RECIPE, batches=(1,), lengths=(8,), **QUICK)
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not model.training and all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    "family", ["bert", "roberta", "distilbert", "electra", "albert", "modernbert", "mpnet", "llama"]
)
def test_measured_and_counted_macs_agree_within_two_percent(family: str, folder: Path) -> None:
    arms, _ = built(plugged(folder, family))
    for name, arm in arms.items():
        assert counted_macs(arm, 24) == pytest.approx(measured_macs(arm, 24), rel=0.02), name


def test_macs_of_a_layer_that_sees_all_tokens_agree_too(folder: Path) -> None:
    model = plugged(folder, feed="sequence")
    assert counted_macs(model, 24) == pytest.approx(measured_macs(model, 24), rel=0.02)
    assert counted_macs(model, 24) > counted_macs(plugged(folder), 24)


def test_bytes_are_those_of_the_weights(folder: Path) -> None:
    model = plugged(folder)
    tensors = [*model.parameters(), *model.buffers()]
    assert held_bytes(model) == sum(
        tensor.nbytes for tensor in {tensor.data_ptr(): tensor for tensor in tensors}.values()
    )


def test_training_memory_holds_weights_gradients_moments_and_activations() -> None:
    model = nn.Linear(500, 500, bias=False)
    weights, batch = 4 * 500 * 500, torch.randn(64, 500)

    def make_step() -> Any:
        adam = torch.optim.Adam(model.parameters(), fused=True)

        def step() -> None:
            model(batch).sum().backward()
            adam.step()
            adam.zero_grad()

        return step

    peak = peak_bytes(model, make_step)
    assert 4 * weights <= peak <= 4 * weights + 3 * batch.nbytes + 10_000


def test_the_arms_hold_the_frozen_layer_once_and_adam_s_moments_of_a_shared_weight_once(folder: Path) -> None:
    model, task = plugged(folder), slm.tiny_task()
    arms, _ = built(model)
    assert arms["PiFi"].frozen_layers[0] is model.frozen_layers[0] is not arms["layer trained too"].frozen_layers[0]
    work, moments = kind_of(task), defaultdict(dict)
    batch, _ = _training_batch(model, task, work, RECIPE, torch.device("cpu"))
    for name in ("vanilla", "PiFi"):
        step_of(arms[name], batch, work, RECIPE, moments)()
    assert moments.keys() == {p for p in arms["PiFi"].parameters() if p.requires_grad}
    assert moments[next(arms["vanilla"].head.parameters())]["step"] == 2


def test_arms_that_train_more_hold_more(found: Benchmark) -> None:
    memory = {own.arm: own.training_bytes or 0 for own in found.arms}
    assert memory["IA3"] < memory["vanilla"] < memory["PiFi"] < memory["layer trained too"]


def test_a_shape_that_takes_too_long_is_not_timed_and_a_quick_one_has_its_rounds() -> None:
    calls = {"slow": lambda: time.sleep(0.02), "quick": lambda: None}
    assert interleaved(calls, 5, most_seconds=0.01) == {}
    assert {name: len(times) for name, times in interleaved(calls, 5, most_seconds=9).items()} == {
        "slow": 5,
        "quick": 5,
    }
    assert {len(own) for own in interleaved(calls, 50, most_seconds=0.1).values()} <= {3, 4, 5}


def test_a_spread_is_median_and_quartiles_and_becomes_texts_per_second(found: Benchmark) -> None:
    spread = Spread.of([1.0, 2.0, 3.0, 4.0, 5.0])
    assert (spread.median, spread.q25, spread.q75, spread.n) == (3.0, 2.0, 4.0, 5)
    own = found.arms[0]
    assert own.throughput("2 x 8").median == pytest.approx(2 / own.latency["2 x 8"].median)
    assert own.throughput("2 x 8").q25 <= own.throughput("2 x 8").median <= own.throughput("2 x 8").q75


def test_the_result_is_a_table_a_plot_and_json(found: Benchmark, tmp_path: Path) -> None:
    assert list(found.frame["arm"]) == list(ARMS)
    record = json.loads(found.to_json(tmp_path / "benchmark.json"))
    assert json.loads((tmp_path / "benchmark.json").read_text(encoding="utf-8")) == record
    assert record["arms"][1]["throughput"]["2 x 8"]["n"] >= 3 and record["provenance"]["settings"]["rounds"] == 3
    assert record["provenance"]["settings"]["busy"] is True
    assert "training memory" in [axes.get_title() for axes in found.figure().axes]
    assert "LoRA" in found._repr_html_() and [row[0] for row in found.to_rich().rows] == list(ARMS)


def test_a_model_without_one_frozen_layer_is_refused(folder: Path) -> None:
    for options in ({"control": "vanilla"}, {"control": "random"}):
        with pytest.raises(PlugInError, match="one frozen layer"):
            pp.benchmark(plugged(folder, **options), slm.tiny_task(), RECIPE)


def test_an_arm_that_cannot_be_made_is_left_out_and_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = plugged(folder)
    model.plugin.layers[0].card = model.plugin.layers[0].with_card(model=str(folder / "gone")).card
    arms, left_out = built(model)
    assert set(ARMS) - set(arms) == {"layer trained too"} == set(left_out)
    assert "gone" in left_out["layer trained too"]


def test_an_arm_that_cannot_be_trained_is_a_row_with_the_reason(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("pifi_probe.efficiency.benchmark")
    full = {"IA3"}

    def peak(model: Any, make_step: Any) -> int:
        name = "IA3" if any("ia3_" in key for key, _ in model.named_parameters()) else "another"
        if name in full:
            raise torch.OutOfMemoryError("the card is full")
        return peak_bytes(model, make_step)

    monkeypatch.setattr(module, "peak_bytes", peak)
    found = pp.benchmark(plugged(folder), slm.tiny_task(), RECIPE, batches=(1,), lengths=(8,), **QUICK)
    assert found.left_out == {"IA3": "the card is full"} and "IA3" not in {own.arm for own in found.arms}
    frame = found.frame.set_index("arm")
    assert set(frame.index) == set(ARMS) and frame.loc["IA3", "failed"] == "the card is full"
    assert frame["step ms"].notna().sum() == len(ARMS) - 2, "every other arm that is trained"
    assert "the card is full" in found._repr_html_()
    full.add("another")
    with pytest.raises(RecipeError, match=r"not even the encoder alone can be trained: the card is full.*batch_size"):
        pp.benchmark(plugged(folder), slm.tiny_task(), RECIPE, batches=(1,), lengths=(8,), **QUICK)


def test_a_busy_machine_is_refused_as_it_is_for_the_table_of_costs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "others_busy", lambda: 1.6)
    with pytest.raises(RecipeError, match="keep 1.6 cores busy.*allow_busy=True"):
        pp.benchmark(plugged(folder), slm.tiny_task(), RECIPE)


@pytest.mark.slow
def test_the_command_prints_and_writes_what_was_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pp, "load_task", lambda name: slm.tiny_task(), raising=False)
    call = ["bench", "--slm", str(folder / "bert"), "--layer", f"{folder / 'llm'}[1]", "--batch", "1", "--length", "8"]
    call += ["--rounds", "3", "--device", "cpu", "--allow-busy"]
    assert main([*call, "--json", "-o", str(tmp_path)]) == 0
    assert len(json.loads(capsys.readouterr().out)["arms"]) == len(ARMS)
    assert "Above vanilla" in (tmp_path / "benchmark.html").read_text(encoding="utf-8")
    assert main(call) == 0
    assert "PiFi" in capsys.readouterr().out
