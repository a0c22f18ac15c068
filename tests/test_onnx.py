"""Plugged models as ONNX graphs: equal numbers, any shape, int8, the command and the how-to."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.kinds import KINDS
from pifi_probe.plugin import HEADS
from pifi_probe.plugin.loading import open_plugged
from tests import kinds, slm
from tests.contract import CASES, Shelf, batch_of
from tests.runs import RECIPE

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
HOWTO = Path(__file__).parents[1] / "book" / "howto" / "deploy.md"


def run(file: Path, batch: dict[str, torch.Tensor]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = {one.name for one in session.get_inputs()}
    rows = {name: value.numpy() for name, value in batch.items() if name in names}
    for name in names - rows.keys():  # a tokenizer that gives no types means zeros
        rows[name] = np.zeros_like(rows["input_ids"])
    return list(session.run(None, rows))


def run_howto(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the example of the how-to next to a folder that is called deployed."""
    (code,) = re.findall(r"```python\n(import json.*?)```", HOWTO.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.splitlines()) <= 20
    assert not re.search("torch|transformers|pifi_probe", code)
    monkeypatch.chdir(folder)
    exec(compile(code, str(HOWTO), "exec"), {})
    return capsys.readouterr().out


@pytest.mark.slow
def test_a_folded_model_is_the_same_in_onnxruntime_and_runs_with_the_how_to(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shelf.model("folded").save_pretrained(tmp_path / "saved")
    assert main(["export", str(tmp_path / "saved"), "--out", str(tmp_path / "deployed"), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["difference"] < 1e-4
    model, batch = open_plugged(tmp_path / "saved").eval(), batch_of("folded", labels=False)
    for rows in (batch, {name: value[:1, :4] for name, value in batch.items()}):
        (logits,) = run(tmp_path / "deployed" / "model.onnx", rows)
        with torch.no_grad():
            assert np.allclose(logits, model(**rows).logits.numpy(), atol=1e-4)
    meta = onnxruntime.InferenceSession(made["file"]).get_modelmeta().custom_metadata_map
    assert json.loads(meta["labels"]) == [model.config.id2label[i] for i in range(2)]
    assert json.loads(meta["donors"])[0]["sha256"] == model.config.layers[0]["card"]["sha256"]
    assert {"tokenizer.json", "README.md", "NOTICE"} <= {file.name for file in (tmp_path / "deployed").iterdir()}
    out = run_howto(tmp_path, monkeypatch, capsys)
    assert len(out.splitlines()) == 2 and any(name in out for name in json.loads(meta["labels"]))


EXPORTED = (
    *("classes, sequence", "pairs, mean", "regression", "labels", "choices", "answers", "tags", "writing, T5"),
    *("mix", "aligned", "folded, grouped"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_every_head_is_the_same_in_onnxruntime(name: str, shelf: Shelf, tmp_path: Path) -> None:
    model = shelf.model(name).eval()
    made = model.export_onnx(tmp_path / "graph.onnx")
    assert made.file == tmp_path / "graph.onnx" and made.difference < 1e-4
    batch = batch_of(name, labels=False)
    if CASES[name].kind == "seq2seq":
        batch["decoder_input_ids"] = torch.full((8, 5), 2)
    few = {key: value[:3] for key, value in batch.items()}
    extra = torch.nn.functional.pad
    wide = {key: value if key.startswith("decoder") else extra(value, (4, 2)) for key, value in few.items()}
    for rows in (batch, few, wide):  # other numbers of rows and tokens than were traced, padded on both sides
        with torch.no_grad():
            expected = model(**rows)
        for key, got in zip(made.outputs, run(made.file, rows), strict=True):
            want = expected[key].numpy()
            there = rows["attention_mask"].numpy().astype(bool)
            there = there if want.shape[:2] == there.shape else there.any(-1)
            assert got.shape == want.shape and np.allclose(got[there], want[there], atol=1e-4)
    meta = onnxruntime.InferenceSession(str(made.file)).get_modelmeta().custom_metadata_map
    assert meta.get("problem_type", "") == (model.config.problem_type or "")


def test_every_kind_and_every_head_is_exported() -> None:
    exported = {CASES[name].kind for name in EXPORTED}
    ours = {name for name, head in HEADS.items() if head.__module__.startswith("pifi_probe.")}
    assert exported == set(kinds.KINDS) and {KINDS[kind].head for kind in exported} == ours


@pytest.mark.slow
def test_int8_is_smaller_and_says_what_it_costs(shelf: Shelf, tmp_path: Path) -> None:
    model, task = shelf.model("classes"), kinds.task_of("single")
    trained = pp.fine_tune(model, task, RECIPE.replace(epochs=30))
    exact, short = model.export_onnx(tmp_path / "a"), model.export_onnx(tmp_path / "b", int8=True)
    assert short.n_bytes < exact.n_bytes and exact.difference < 1e-4 < short.difference
    test = task.splits["test"]
    rows = dict(slm.tiny_tokenizer()(list(test.texts), padding=True, return_tensors="pt"))
    right = {
        file: float(np.mean(run(file, rows)[0].argmax(-1) == np.array(test.labels)))
        for file in (exact.file, short.file)
    }
    assert right[exact.file] == pytest.approx(trained.tests[task.name].metrics["accuracy"]) and right[exact.file] > 0.7
    assert abs(right[short.file] - right[exact.file]) <= 0.15


def test_a_missing_library_says_how_to_get_it(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(pp.errors.PlugInError, match=r'onnxruntime is not installed.*pip install "pifi-probe\[onnx\]"'):
        shelf.model("control vanilla").export_onnx(tmp_path)


def test_numbers_that_differ_are_not_written(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pifi_probe.plugin import onnx_export

    def other(model: Any, file: Path) -> None:
        file.write_bytes(b"")

    monkeypatch.setattr(onnx_export, "_write", other)
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: None)
    monkeypatch.setattr(onnx_export, "_compare", lambda *_: float("nan"))
    (tmp_path / "model.onnx").write_text("older")
    with pytest.raises(pp.errors.PlugInError, match="differ from the model's by nan"):
        shelf.model("control vanilla").export_onnx(tmp_path)
    assert (tmp_path / "model.onnx").read_text() == "older"


@pytest.mark.slow
def test_what_is_no_plugged_model_is_refused(shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for source, message in ((shelf.slm("bert"), "not a plugged model"), (tmp_path, "no model here")):
        assert main(["export", str(source), "--out", str(tmp_path / "x")]) == 2
        assert message in capsys.readouterr().err
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "x"), "--format", "gguf"]) == 2
