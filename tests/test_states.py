"""Hidden states in a folder are those of the whole model, are kept, and are gone on with after a kill."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import FeatureError, LayerIndexError, SaveError, TaskError
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.probing import state_arrays
from pifi_probe.probing import states as module
from tests import slm, tiny

L = tiny.N_LAYERS
TEXTS = [f"the {slm.WORDS[n % 8]} was {slm.WORDS[8 + n % 4]}" + " and good" * (n % 5) for n in range(24)]


@pytest.fixture(scope="module")
def reference(llm: str) -> list[list[NDArray[np.float32]]]:
    """``output_hidden_states`` of transformers, text by text: (tokens, d) for each of L + 1 layers."""
    model = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).eval()
    tokenizer = donor_tokenizer(open_checkpoint(llm))
    found = []
    for text in TEXTS:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states
        found.append([each[0].numpy() for each in states])
    return found


@pytest.fixture(scope="module")
def pooled(llm: str, tmp_path_factory: pytest.TempPathFactory) -> pp.States:
    return pp.states(llm, TEXTS, out=tmp_path_factory.mktemp("pooled"), batch_tokens=40)


@pytest.fixture(scope="module")
def ragged(llm: str, tmp_path_factory: pytest.TempPathFactory) -> pp.States:
    return pp.states(llm, TEXTS, out=tmp_path_factory.mktemp("ragged"), layers="0-1,-1", pooling=None, batch_tokens=40)


@pytest.mark.parametrize("layer", range(L))
def test_layer_i_is_hidden_states_i(pooled: pp.States, reference: Any, layer: int) -> None:
    expected = np.stack([states[layer].mean(0) for states in reference])
    assert np.allclose(pooled.array(layer), expected, rtol=1e-4, atol=1e-5)


def test_the_last_layer_has_not_passed_the_final_norm(llm: str, ragged: pp.States, reference: Any) -> None:
    norm = AutoModelForCausalLM.from_pretrained(llm, dtype=torch.float32).model.norm
    with torch.no_grad():
        ours = norm(torch.from_numpy(np.array(ragged.array(-1)))).numpy()
    expected = np.concatenate([states[-1] for states in reference])
    assert np.allclose(ours, expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(ragged.array(-1), expected, rtol=1e-2)


def test_every_token_has_its_state(ragged: pp.States, reference: Any, llm: str) -> None:
    tokenizer = donor_tokenizer(open_checkpoint(llm))
    for i, text in enumerate(TEXTS):
        assert np.allclose(ragged.text(i, 1), reference[i][1], rtol=1e-4, atol=1e-5)
        start, stop = ragged.offsets[i : i + 2]
        assert ragged.token_ids[start:stop].tolist() == tokenizer(text)["input_ids"]
    assert ragged.layers == (0, 1, L) and ragged.array(0).shape == (ragged.offsets[-1], tiny.WIDTH)


def test_the_last_token_is_the_last_one_that_is_no_padding(llm: str, reference: Any, tmp_path: Path) -> None:
    found = pp.states(llm, TEXTS, out=tmp_path, layers=2, pooling="last", batch_tokens=40)
    assert np.allclose(found.array(2), np.stack([s[2][-1] for s in reference]), rtol=1e-4, atol=1e-5)


def test_probe_numbers_depths_alike(llm: str, pooled: pp.States) -> None:
    from pifi_probe.features.donor import llm_features
    from pifi_probe.tasks import Split

    rows = Split(TEXTS, [0] * len(TEXTS), [str(i) for i in range(len(TEXTS))])
    features = llm_features(llm, rows, normalise=False, drop_first=False, cache=False)
    assert features.n_points == len(pooled.layers)
    for layer in pooled.layers:
        assert np.allclose(features[layer], pooled.array(layer), rtol=1e-4, atol=1e-5)


def test_arrays_are_mapped_from_disk_and_read_only(pooled: pp.States) -> None:
    array = pooled.array(1)
    assert isinstance(array, np.memmap) and not array.flags.writeable
    assert array is not pooled.array(1) and array.shape == (len(TEXTS), tiny.WIDTH) == (len(pooled), tiny.WIDTH)


def test_the_dataset_is_a_view(pooled: pp.States, ragged: pp.States) -> None:
    rows = pooled.to_dataset(TEXTS)
    assert rows.column_names == ["text", *(f"layer_{i}" for i in range(L + 1))] and rows[3]["text"] == TEXTS[3]
    assert np.array_equal(rows.with_format("numpy")["layer_2"][:], pooled.array(2))
    tokens = ragged.to_dataset()
    assert np.array_equal(np.asarray(tokens[5][f"layer_{L}"], dtype=np.float32), ragged.text(5, L))
    assert tokens[5]["token_ids"] == ragged.token_ids[ragged.offsets[5] : ragged.offsets[6]].tolist()
    with pytest.raises(FeatureError, match="there are 2 texts, and states of 24"):
        pooled.to_dataset(["a", "b"])


def test_the_folder_says_what_it_holds(pooled: pp.States) -> None:
    again = pp.States(pooled.folder)
    stored = json.loads((pooled.folder / "states.json").read_text(encoding="utf-8"))
    assert stored["key"]["model"].startswith("sha256:") and stored["made"]["versions"]["pifi_probe"]
    assert stored["key"]["layers"] == list(range(L + 1)) and stored["n_texts"] == len(TEXTS) and stored["n_cut"] == 0
    assert (
        again.layers == pooled.layers and repr(again) == repr(pooled) and f"24 texts, width {tiny.WIDTH}" in repr(again)
    )
    assert sorted(path.suffix for path in pooled.folder.iterdir()) == [".json"] + [".npy"] * (L + 1)


def test_the_same_call_reads_and_another_is_refused_by_what_differs(
    llm: str, pooled: pp.States, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "stream", lambda *args, **options: pytest.fail("a second pass"))
    assert np.array_equal(pp.states(llm, TEXTS, out=pooled.folder).array(3), pooled.array(3))
    for other, what in (
        ({"pooling": "last"}, "differ in pooling: mean there, last asked for"),
        ({"layers": [1]}, "differ in layers"),
        ({"dtype": "float16"}, "differ in dtype"),
        ({"max_tokens": 3}, "the tokens after which texts are cut"),
    ):
        with pytest.raises(FeatureError, match=what):
            pp.states(llm, TEXTS, out=pooled.folder, **other)
    with pytest.raises(FeatureError, match=r"differ in the texts: .*give another folder"):
        pp.states(llm, TEXTS[:-1], out=pooled.folder)


def test_another_model_is_refused(llm: str, pooled: pp.States, tmp_path: Path) -> None:
    other = _changed(llm, tmp_path / "other")
    with pytest.raises(FeatureError, match="the contents of the model"):
        pp.states(str(other), TEXTS, out=pooled.folder)


def _changed(llm: str, folder: Path) -> Path:
    shutil.copytree(llm, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}), encoding="utf-8")
    return folder


def test_a_folder_with_other_files_is_left_alone(llm: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x", encoding="utf-8")
    with pytest.raises(FeatureError, match=r"other files, such as thesis\.tex"):
        pp.states(llm, TEXTS, out=tmp_path)
    with pytest.raises(FeatureError, match="holds no hidden states"):
        pp.States(tmp_path)


CHILD = """
import os, sys
import pifi_probe as pp
from pifi_probe.probing import states as module
write = module._Writer.write
def dies(self, point, rows, states, mask, last):
    if point == int(sys.argv[3]) and last:
        os._exit(77)
    write(self, point, rows, states, mask, last)
module._Writer.write = dies
pp.states(sys.argv[1], eval(sys.argv[4]), out=sys.argv[2], batch_tokens=40, progress=False)
"""


@pytest.mark.slow
def test_a_killed_pass_goes_on_after_its_last_finished_layer(
    llm: str, pooled: pp.States, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = subprocess.run([sys.executable, "-c", CHILD, llm, str(tmp_path), "3", repr(TEXTS)], check=False)
    assert child.returncode == 77 and sorted(tmp_path.glob("*.npy")) == [
        tmp_path / f"layer-00{i}.npy" for i in range(3)
    ]
    with pytest.raises(FeatureError, match=f"{L - 2} of {L + 1} layers are missing or damaged, the first is 3"):
        pp.States(tmp_path)
    visited: set[int] = set()
    write = module._Writer.write
    monkeypatch.setattr(
        module._Writer,
        "write",
        lambda self, point, *rest, **last: (visited.add(point), write(self, point, *rest, **last)),
    )
    found = pp.states(llm, TEXTS, out=tmp_path, batch_tokens=40)
    assert visited == set(range(3, L + 1))
    assert all(np.array_equal(found.array(i), pooled.array(i)) for i in found.layers)
    assert not (tmp_path / "pass").exists() and not (tmp_path / "layer.partial").exists()


def test_a_damaged_array_is_made_again(llm: str, tmp_path: Path) -> None:
    found = pp.states(llm, TEXTS, out=tmp_path, layers=[0, 2])
    before = np.array(found.array(0))
    os.truncate(tmp_path / "layer-000.npy", 200)
    assert np.array_equal(pp.states(llm, TEXTS, out=tmp_path, layers=[0, 2]).array(0), before)


def test_layers_above_the_largest_one_are_not_read(llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pifi_probe.layers import stream

    read: list[int] = []
    load = stream.extract_from
    monkeypatch.setattr(stream, "extract_from", lambda c, i, **options: (read.append(i), load(c, i, **options))[1])
    pp.states(llm, TEXTS, out=tmp_path, layers=2)
    assert read == [0, 1]


def test_a_full_disk_and_a_small_memory_are_refused_with_numbers(
    llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
        with pytest.raises(SaveError, match=rf"the states take .* kB, and 100 B are free: {L + 1} layers of 24 x"):
            pp.states(llm, TEXTS, out=tmp_path / "a")
    monkeypatch.setattr(module.psutil, "virtual_memory", lambda: SimpleNamespace(available=1000))
    with pytest.raises(FeatureError, match=r"a layer takes .* a batch of [\d,]+ tokens .* 1 kB are free"):
        pp.states(llm, TEXTS, out=tmp_path / "b")


def test_float16_halves_the_arrays_and_refuses_what_it_cannot_hold(
    llm: str, pooled: pp.States, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = pp.states(llm, TEXTS, out=tmp_path / "a", layers=1, dtype="float16")
    assert found.array(1).dtype == np.float16 and np.allclose(found.array(1), pooled.array(1), rtol=1e-2, atol=1e-2)
    pool = module.pool_tokens
    monkeypatch.setattr(module, "pool_tokens", lambda *args, **options: pool(*args, **options) * 1e9)
    with pytest.raises(FeatureError, match=r"states of layer 1 reach .*, beyond float16"):
        pp.states(llm, TEXTS, out=tmp_path / "b", layers=1, dtype="float16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"texts": "one text"}, "one text stands where several belong"),
        ({"texts": []}, "there are no texts"),
        ({"texts": ["a", None]}, "text 1 is None"),
        ({"pooling": "cls"}, "unknown pooling 'cls'"),
        ({"dtype": "int8"}, "unknown dtype"),
        ({"max_tokens": 0}, "at least 1"),
        ({"layers": L + 1}, "there is no layer"),
        ({"layers": "0-99"}, "there is no layer"),
        ({"layers": "first"}, "cannot read layers"),
        ({"layers": []}, "there is no layer"),
    ],
)
def test_bad_input_is_one_line(llm: str, tmp_path: Path, options: dict[str, Any], message: str) -> None:
    given = {"texts": TEXTS} | options
    with pytest.raises((FeatureError, LayerIndexError), match=message):
        pp.states(llm, given.pop("texts"), out=tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_what_is_not_there_is_named(pooled: pp.States, ragged: pp.States) -> None:
    with pytest.raises(LayerIndexError, match=f"no states of layer 2.*use one of 0, 1, {L}"):
        ragged.array(2)
    with pytest.raises(LayerIndexError, match="there is no text 24"):
        pooled.text(24, 0)
    with pytest.raises(FeatureError, match="these states are pooled"):
        _ = pooled.offsets


@pytest.mark.parametrize("damage", ["{", "[]", '{"key": {}}', '{"key": {"layers": ["x"]}}', '{"key": 1}'])
def test_a_damaged_description_is_one_line(tmp_path: Path, damage: str) -> None:
    (tmp_path / state_arrays.DESCRIPTION).write_text(damage, encoding="utf-8")
    with pytest.raises(FeatureError, match="the description of the hidden states is damaged"):
        pp.States(tmp_path)


def test_the_command_reads_lines_and_columns(
    llm: str, pooled: pp.States, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, rows = tmp_path / "texts.txt", tmp_path / "texts.jsonl"
    lines.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    rows.write_text("".join(json.dumps({"review": text}) + "\n" for text in TEXTS), encoding="utf-8")
    for file, more in ((lines, []), (rows, ["--text", "review"])):
        out = tmp_path / file.suffix
        command = ["states", llm, "--texts", str(file), "--layers", "1,-1", "--out", str(out), "--json", *more]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["layers"] == [1, L]
        assert np.allclose(pp.States(out).array(1), pooled.array(1), atol=1e-5)
    assert main(["states", llm, "--texts", str(rows), "--out", str(tmp_path / "c")]) == 2
    assert "text" in capsys.readouterr().err


def test_a_value_that_is_no_text_is_named_by_its_line(tmp_path: Path) -> None:
    from pifi_probe.tasks.from_file import read_texts

    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": 7}\n', encoding="utf-8")
    with pytest.raises(TaskError, match="text is 7, which is not text.*line 2"):
        read_texts(tmp_path / "a.jsonl")


@pytest.mark.slow
def test_the_guide_runs_on_a_real_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).parents[1] / "book" / "howto" / "states.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec("\n".join(blocks), names)
    assert len(blocks) == 3 and names["states"].array(8).shape == (2, 576) and names["states"].layers == (8, 16, 30)
    assert names["tokens"].text(1, 8).shape == (names["stop"] - names["start"], 576)
