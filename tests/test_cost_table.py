"""Quality next to cost: every arm is trained and served in one call, raw values are kept, and failures are rows."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import pifi_probe as pp
from pifi_probe.efficiency import cost_table as module
from pifi_probe.efficiency import energy, reference, serving
from pifi_probe.efficiency.cost_table import COST_ARMS, DONOR, FOLDED, CostRow, CostTable, cost_table
from pifi_probe.errors import PlugInError, RecipeError, RunInterrupted, SearchError
from tests import slm, tiny

RECIPE = pp.Recipe(batch_size=8, epochs=1, max_tokens=16, device="cpu", learning_rate=1e-3)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("parts")
    return str(slm.tiny_slm_folder(folder / "slm")), f"{tiny.tiny_checkpoint('llama', folder / 'llm')}[1]"


@pytest.fixture(scope="module")
def other() -> Any:
    from dataclasses import replace

    task = slm.tiny_task(24)
    test = replace(task.splits["test"], texts=tuple(f"{text} and more" for text in task.splits["test"].texts))
    return replace(task, name="elsewhere", splits={"test": test})


OPTIONS: dict[str, Any] = {"n_stream": 6, "batch_size": 4, "allow_busy": True}


@pytest.fixture(scope="module")
def found(parts: tuple[str, str], other: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[CostTable, Path]:
    out = tmp_path_factory.mktemp("out")
    arms = ("encoder alone", "PiFi", "PiFi, matched", FOLDED)
    return cost_table(*parts, slm.tiny_task(24), RECIPE, out=out, n_seeds=2, also=[other], arms=arms, **OPTIONS), out


def check(row: CostRow, n_seeds: int) -> None:
    """Refuse a row that lacks what its arm has."""
    assert row.metric == "accuracy" and len(row.by_seed) == n_seeds
    assert row.quality == pytest.approx(np.mean(row.by_seed)) and row.low <= row.quality <= row.high  # type: ignore[operator]
    assert len(row.stream["forward_s"]) == len(row.stream["whole_s"]) == 6 and row.stream["first_s"] > 0
    assert all(a < b for a, b in zip(row.stream["forward_s"], row.stream["whole_s"], strict=True))
    assert row.offline["texts_per_s"] > 0 and row.offline["batch_size"] == 4
    assert min(row.file.values()) > 0 and row.total
    folded = row.arm == FOLDED
    assert len(row.train_s) == len(row.train_bytes) == (0 if folded else n_seeds)
    assert (row.trained is None) == (row.train_s_per_1000 is None) == (row.peak_bytes is None) == folded


def test_every_arm_is_a_row_and_a_failure_says_why(found: tuple[CostTable, Path]) -> None:
    rows = {row.arm: row for row in found[0].rows}
    failed = rows.pop("PiFi, matched")  # the tiny donor has no tokenizer, which its scale is measured with
    assert "tokenizer" in failed.failed and failed.quality is None and not failed.stream
    for row in rows.values():
        assert not row.failed
        check(row, 2)
    plugged, alone = rows["PiFi"], rows["encoder alone"]
    assert 0 < plugged.p99_bytes <= plugged.peak_bytes  # type: ignore[operator]
    assert alone.forgetting == 0 and plugged.forgetting not in (None, 0)
    assert plugged.file["bytes"] > alone.file["bytes"]
    assert rows[FOLDED].by_seed == plugged.by_seed, "folding is exact"
    assert alone.train_s_per_1000 == pytest.approx(1000 * np.median(alone.train_s) / 24)
    assert alone.peak_bytes == max(alone.train_bytes)


def test_arms_are_trained_in_turns(found: tuple[CostTable, Path]) -> None:
    ended = sorted(found[1].glob("runs/*/*/result.json"), key=lambda file: file.stat().st_mtime_ns)
    order = [(file.parts[-3], file.parts[-2]) for file in ended]
    assert order == [(arm, seed) for seed in ("seed-0", "seed-1") for arm in ("encoder alone", "PiFi")]


@pytest.mark.slow
def test_the_arms_are_what_their_names_say(parts: tuple[str, str], donor: str, tmp_path: Path) -> None:
    rows = {
        row.arm: row
        for row in cost_table(
            parts[0], f"{donor}[1]", slm.tiny_task(24), RECIPE, out=tmp_path, n_seeds=1, **OPTIONS
        ).rows
    }
    assert tuple(rows) == tuple(COST_ARMS) and {name: row.failed for name, row in rows.items() if row.failed} == {}
    for row in rows.values():
        check(row, 1)
    trained = [rows[name].trained for name in ("LoRA", "encoder alone", "PiFi", "layer trained too")]
    assert trained == sorted(trained) and len(set(trained)) == 4  # type: ignore[type-var]
    assert rows["random twin"].trained == rows["PiFi"].trained


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> str:
    llm = tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("donor"))
    slm.tiny_tokenizer().save_pretrained(llm)
    return str(llm)


def test_the_donor_by_probe_counts_what_it_runs_and_is_not_probed_twice(
    donor: str, other: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    task, options = slm.tiny_task(60), {"out": tmp_path, "n_seeds": 2, "also": [other], "arms": [DONOR], **OPTIONS}
    (row,) = cost_table("no-encoder", f"{donor}[1]", task, RECIPE, **options).rows
    assert not row.failed and row.point is not None
    check(row, 1)
    model = pp.probing.probe_model.ProbeForSequenceClassification.from_pretrained(
        tmp_path / "donor" / "model", allow_external=True
    )
    split = task.splits["test"]
    said = [model.config.label2id[one["label"]] for one in model.classifier()(list(split.texts))]
    assert row.quality == np.mean(np.array(said) == split.labels), "on the test split"
    assert row.trained == sum(p.numel() for p in model.head.parameters())
    assert row.total == sum(p.numel() for p in model.parts().parameters()) > row.trained
    assert row.file["bytes"] > 4 * row.total, "what runs, not the head alone"

    monkeypatch.setattr(reference, "probe", lambda *args, **kwargs: pytest.fail("probed again"))
    (again,) = cost_table("no-encoder", f"{donor}[1]", task, RECIPE, **options).rows
    assert (again.quality, again.by_seed, again.train_s_per_1000) == (row.quality, row.by_seed, row.train_s_per_1000)
    with pytest.raises(pytest.fail.Exception, match="probed again"):  # another seed is another probe
        cost_table("no-encoder", f"{donor}[1]", task, RECIPE.replace(seed=7), **options)


@pytest.mark.slow
def test_what_the_search_took_stands_beside_the_arms_that_plug_its_layer_in(
    parts: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = slm.tiny_task(24)
    spent = {False: SimpleNamespace(trials=9, cost=4.5, seconds=60.0), True: SimpleNamespace(seconds=90.0)}
    study = SimpleNamespace(
        best=SimpleNamespace(layers=(parts[1],)),
        settings=SimpleNamespace(slm=parts[0], task={"name": task.name}, strategy={"name": "auto"}),
        store=SimpleNamespace(spent=lambda confirmed=False: spent[confirmed], address="s.db"),
    )
    monkeypatch.setattr(module, "Study", SimpleNamespace(open=lambda name: study))
    arms = ["encoder alone", "PiFi", "random twin", FOLDED]
    options = {"out": tmp_path, "n_seeds": 1, "study": "s.db", **OPTIONS}
    table = cost_table(*parts, task, RECIPE, arms=arms, **options)
    assert table.frame.set_index("arm")["search s"].fillna(0).to_list() == [0, 60, 0, 60]
    told = {"study": "s.db", "strategy": "auto", "trials": 9, "full_runs": 4.5, "select_s": 60.0, "whole_s": 90.0}
    assert table.search == told
    study.best.layers = (parts[1].replace("[1]", "[0]"),)
    with pytest.raises(SearchError, match=r"another layer: .*\[0\] there, .*\[1\] here"):
        cost_table(*parts, task, RECIPE, **options)


def test_the_table_is_a_frame_a_picture_and_json_with_raw_values(found: tuple[CostTable, Path]) -> None:
    table, out = found
    stored = json.loads((out / "costs.json").read_text(encoding="utf-8"))
    assert stored == json.loads(table.to_json())
    assert len(stored["rows"][0]["stream"]["forward_s"]) == 6 and stored["device"] == "cpu"
    settings = stored["provenance"]["settings"]
    assert settings["busy"] is True and settings["others_busy"] == []
    assert settings["sizes"] == {name: len(split) for name, split in slm.tiny_task(24).splits.items()}
    assert settings["also"] == {"elsewhere": len(slm.tiny_task(24).splits["test"])} and settings["n_stream"] == 6
    frame = table.frame.set_index("arm")
    seconds = table.rows[0].stream["forward_s"]
    assert frame.loc["encoder alone", "P90 ms"] == pytest.approx(1e3 * np.percentile(seconds, 90))
    axes = table.figure().axes[0]
    names = [text.get_text() for text in table.figure().legends[0].get_texts()]
    assert set(names) == set(frame.index) - {"PiFi, matched"} and "P90" in axes.get_xlabel()


@pytest.mark.slow
def test_a_busy_machine_is_refused_after_training_and_the_call_goes_on(
    parts: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, options = slm.tiny_task(24), {"n_seeds": 1, "n_stream": 3, "arms": ["encoder alone"]}
    busy = [1.6, 0.1, 1.7]  # before training; before and after it
    monkeypatch.setattr(serving, "others_busy", lambda: busy.pop(0))
    with pytest.raises(RecipeError, match="keep 1.6 cores busy.*next: end them"):
        cost_table(*parts, task, RECIPE, out=tmp_path, **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir()), "training is timed, too"
    with pytest.raises(RecipeError, match="keep 1.7 cores busy.*next: end them"):
        cost_table(*parts, task, RECIPE, out=tmp_path, **options)  # type: ignore[arg-type]
    monkeypatch.setattr(serving, "others_busy", lambda: 0.1)
    stored = sorted(tmp_path.glob("runs/*/*/result.json"))
    times = [file.stat().st_mtime_ns for file in stored]
    table = cost_table(*parts, task, RECIPE, out=tmp_path, **options)  # type: ignore[arg-type]
    assert len(stored) == 1 and [file.stat().st_mtime_ns for file in stored] == times, "nothing is trained again"
    assert not any(row.failed for row in table.rows)
    assert table.provenance["settings"]["others_busy"] == [0.1, 0.1]


def test_what_other_processes_take_is_not_what_this_one_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(psutil, "cpu_count", lambda: 4)
    monkeypatch.setattr(psutil, "cpu_percent", lambda interval: time.sleep(0.05) or 50.0)
    assert 1.5 < serving.others_busy() <= 2.0  # two cores, of which this process hardly takes any


def test_one_text_after_the_other_in_turns_with_the_first_call_apart() -> None:
    model = slm.tiny_slm("bert")
    calls: list[str] = []
    models = {name: type("Noted", (torch.nn.Module,), {})() for name in ("a", "b")}
    for name, one in models.items():
        one.inner = model
        one.forward = lambda name=name, **batch: calls.append(name)  # type: ignore[method-assign]
    texts = [("the film was good", None)] * 20
    tokenizers = dict.fromkeys(models, slm.tiny_tokenizer())
    stream = serving.single_stream(models, tokenizers, texts, max_tokens=8)
    assert all(len(one["forward_s"]) == 20 for one in stream.values())
    assert len(calls) == 2 * (20 + serving.WARM_UP)
    assert all({calls[at], calls[at + 1]} == {"a", "b"} for at in range(0, len(calls), 2)), "one each, in turns"
    assert len({tuple(calls[at : at + 2]) for at in range(0, len(calls), 2)}) == 2, "in an order that is drawn anew"


def millijoules(handle: str) -> int:
    assert handle == "GPU-1a2b"
    return 7500


def test_energy_is_blank_where_it_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "RAPL", tmp_path)
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert energy.counters(cpu) == {}
    for number, name in enumerate(("package-0", "package-1", "psys")):
        domain = tmp_path / f"intel-rapl:{number}"
        domain.mkdir()
        (domain / "name").write_text(f"{name}\n")
        (domain / "energy_uj").write_text(f"{number + 1}500000\n")
    assert energy.counters(cpu) == {"processor": 4.0}, "both packages; what the whole platform takes is another thing"
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert energy.counters(cuda) == {"processor": 4.0}
    nvml = {
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": str,
        "nvmlDeviceGetTotalEnergyConsumption": millijoules,
    }
    monkeypatch.setitem(sys.modules, "pynvml", SimpleNamespace(**nvml))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1a2b"))
    assert energy.counters(cuda) == {"processor": 4.0, "card": 7.5} and energy.counters(cpu) == {"processor": 4.0}
    assert energy.used({"card": 7.5, "processor": 4.0}, {"card": 9.0, "processor": 1.0}) == {"card": 1.5}, "began again"
    assert energy.used({"card": 7.5}, {}) == {}


def test_a_model_that_fails_in_use_takes_no_further_turn_and_the_others_go_on() -> None:
    class Full(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.calls = torch.nn.Parameter(torch.zeros(1)), 0

        def forward(self, **batch: Any) -> None:
            self.calls += 1
            raise torch.OutOfMemoryError("the card is full")

    models: dict[str, Any] = {"full": Full(), "good": slm.tiny_slm("bert")}
    tokenizers, texts = dict.fromkeys(models, slm.tiny_tokenizer()), [("the film was good", None)] * 5
    stream = serving.single_stream(models, tokenizers, texts, max_tokens=8)
    assert stream["full"] == {"failed": "the card is full"} and models["full"].calls == 1
    together = serving.offline(models, tokenizers, texts, batch_size=2, max_tokens=8)
    assert together["full"] == {"failed": "the card is full"} and models["full"].calls == 2
    good = together["good"]
    assert len(stream["good"]["forward_s"]) == 5 and len(good["batch_s"]) == 3, "the warm-up is none of them"
    assert good["texts_per_s"] == pytest.approx(5 / sum(good["batch_s"]))


def test_an_interrupt_is_no_failed_arm(parts: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **kwargs: Any) -> None:
        raise RunInterrupted("interrupted", next="start again")

    monkeypatch.setattr(module, "fine_tune", stop)
    with pytest.raises(RunInterrupted):
        cost_table(*parts, slm.tiny_task(24), RECIPE, out=tmp_path, n_seeds=1, arms=["encoder alone"], **OPTIONS)


def test_unknown_arms_and_tasks_are_refused(parts: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(PlugInError, match="unknown arm 'Lora'.*LoRA"):
        cost_table(*parts, slm.tiny_task(), RECIPE, out=tmp_path, arms=["Lora"])
    assert module.N_STREAM == {"cpu": 256, "cuda": 1024, "mps": 1024}
