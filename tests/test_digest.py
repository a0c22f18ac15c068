"""A frozen layer is the one that its card names, or loading and saving say that it is not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

import pifi_probe as pp
from pifi_probe.errors import CheckpointError, PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.references import NamedBy, resolve_reference
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from tests import slm, tiny
from tests.slm import logits

Tensors = dict[str, torch.Tensor]
SPECS = {"one": "{0}[1]", "series": "{0}[0] >> {0}[1]", "side by side": "{0}[1] | {0}[0] >> {0}[1]"}
LOADERS: dict[str, Callable[[Path], Any]] = {
    "from_pretrained": PiFiForSequenceClassification.from_pretrained,
    "AutoModel": AutoModelForSequenceClassification.from_pretrained,
    "dtype": lambda folder: PiFiForSequenceClassification.from_pretrained(folder, dtype=torch.bfloat16),
}


def saved(bert: Path, donor: Path, folder: Path, shape: str = "one", **options: Any) -> Path:
    pp.plug_in(str(bert), SPECS[shape].format(donor), task=slm.tiny_task(), **options).save_pretrained(folder)
    return folder


def of_layer(name: str) -> bool:
    return name.startswith("plugin.layers.")


def change_weights(folder: Path, change: Callable[[Tensors], Tensors], file: str = "model.safetensors") -> None:
    save_file(change(load_file(folder / file)), folder / file, metadata={"format": "pt"})


def without_a_layer(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if not of_layer(name)}


def without_one_tensor(tensors: Tensors) -> Tensors:
    del tensors[max(name for name in tensors if of_layer(name))]
    return tensors


def with_one_bit_changed(tensors: Tensors) -> Tensors:
    last = tensors[max(name for name in tensors if of_layer(name))]
    last.view(torch.uint8).flatten()[0] ^= 1
    return tensors


def with_other_names(tensors: Tensors) -> Tensors:
    return {name.replace("plugin.layers.", "plugin.layer."): tensor for name, tensor in tensors.items()}


def with_the_weights_of_another_donor(tensors: Tensors) -> Tensors:
    return {name: torch.randn_like(tensor) if of_layer(name) else tensor for name, tensor in tensors.items()}


CHANGES = [
    without_a_layer,
    without_one_tensor,
    with_one_bit_changed,
    with_other_names,
    with_the_weights_of_another_donor,
]


@pytest.mark.parametrize("how", LOADERS)
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_whose_layer_is_not_its_donors_is_refused(
    change: Callable[[Tensors], Tensors], how: str, bert: Path, donor: Path, tmp_path: Path
) -> None:
    folder = saved(bert, donor, tmp_path)
    stated = json.loads((folder / "config.json").read_text(encoding="utf-8"))["layers"][0]["card"]["sha256"]
    change_weights(folder, change)
    with pytest.raises(CheckpointError, match=r"missing|expected sha256") as caught:
        LOADERS[how](folder)
    assert "again" in caught.value.next
    if "expected" in caught.value.what:
        assert stated in caught.value.what and "found" in caught.value.what


@pytest.mark.parametrize("shape", SPECS)
def test_every_layer_of_several_is_compared(shape: str, bert: Path, donor: Path, tmp_path: Path) -> None:
    folder = saved(bert, donor, tmp_path, shape)
    AutoModelForSequenceClassification.from_pretrained(folder)
    names = {name.split(".")[2] for name in load_file(folder / "model.safetensors") if of_layer(name)}
    assert len(names) == {"one": 1, "series": 2, "side by side": 3}[shape]
    for number in names:

        def changed(tensors: Tensors, prefix: str = f"plugin.layers.{number}.") -> Tensors:
            name = next(name for name in tensors if name.startswith(prefix))
            return tensors | {name: tensors[name] + 1}

        again = saved(bert, donor, tmp_path, shape)
        change_weights(again, changed)
        with pytest.raises(CheckpointError, match="expected sha256"):
            AutoModelForSequenceClassification.from_pretrained(again)


@pytest.mark.parametrize("stated", ["", "0" * 64])
def test_a_card_without_the_right_digest_is_refused(stated: str, bert: Path, donor: Path, tmp_path: Path) -> None:
    config = saved(bert, donor, tmp_path / "model") / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    values["layers"][0]["card"]["sha256"] = stated
    config.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=stated or "none is stated"):
        PiFiForSequenceClassification.from_pretrained(tmp_path / "model")
    layer = pp.extract(f"{donor}[1]").save(tmp_path / "layer") / "layer.json"
    values = json.loads(layer.read_text(encoding="utf-8"))
    values["card"]["sha256"] = stated
    layer.write_text(json.dumps(values), encoding="utf-8")
    with pytest.raises(CheckpointError, match=stated or "none is stated"):
        FrozenLayer.load(tmp_path / "layer")


@pytest.mark.parametrize("control", ["random", "shuffled", "linear", "vanilla", "unfrozen", "mlp"])
def test_controls_come_back_and_their_missing_weights_are_named(
    control: str, bert: Path, donor: Path, tmp_path: Path
) -> None:
    folder = saved(bert, donor, tmp_path, control=control)
    PiFiForSequenceClassification.from_pretrained(folder)
    gone = "encoder." if control == "vanilla" else "plugin.L_out" if control in ("linear", "mlp") else "plugin.layers."
    change_weights(folder, lambda tensors: {name: t for name, t in tensors.items() if not name.startswith(gone)})
    with pytest.raises(CheckpointError, match=f"missing, such as {gone}|expected sha256"):
        PiFiForSequenceClassification.from_pretrained(folder)


def test_a_missing_head_may_be_trained_anew(bert: Path, donor: Path, tmp_path: Path) -> None:
    folder = saved(bert, donor, tmp_path)
    change_weights(folder, lambda tensors: {n: t for n, t in tensors.items() if not n.startswith("head.")})
    model, info = PiFiForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert info["missing_keys"] and all(name.startswith("head.") for name in info["missing_keys"])
    assert isinstance(model, PiFiForSequenceClassification)


@pytest.mark.parametrize("save_layer", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_a_model_cast_to_another_type_is_saved_and_compared_in_it(
    dtype: torch.dtype, save_layer: bool, bert: Path, donor: Path, tmp_path: Path
) -> None:
    model = pp.plug_in(str(bert), f"{donor}[1]", task=slm.tiny_task(), save_layer=save_layer).to(dtype)
    model.save_pretrained(tmp_path)
    again = PiFiForSequenceClassification.from_pretrained(tmp_path, dtype=dtype, allow_external=True)
    (layer,) = again.frozen_layers
    assert layer.digest() == layer.card.sha256
    assert layer.dtype == (dtype if save_layer else torch.float32), "a reference is to the donor's layer as extracted"
    if save_layer:
        assert torch.equal(logits(again), logits(model))
        change_weights(tmp_path, with_one_bit_changed)
        with pytest.raises(CheckpointError, match="expected sha256"):
            PiFiForSequenceClassification.from_pretrained(tmp_path)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_layer_cast_to_another_type_is_saved_and_compared_in_it(
    dtype: torch.dtype, donor: Path, tmp_path: Path
) -> None:
    layer = pp.extract(f"{donor}[1]")
    original = layer.card.sha256
    again = FrozenLayer.load(layer.to(dtype).save(tmp_path))
    assert again.dtype == dtype and again.digest() == again.card.sha256 == layer.digest() != original
    change_weights(
        tmp_path, lambda tensors: {name: tensor + 1 for name, tensor in tensors.items()}, "layer.safetensors"
    )
    with pytest.raises(CheckpointError, match="expected sha256"):
        FrozenLayer.load(tmp_path)


def test_a_layer_that_was_changed_in_memory_is_not_saved_under_its_donors_name(
    bert: Path, donor: Path, tmp_path: Path
) -> None:
    model = pp.plug_in(str(bert), f"{donor}[1]", task=slm.tiny_task())
    model.save_pretrained(tmp_path / "model")
    (layer,) = model.frozen_layers
    layer.save(tmp_path / "layer")
    with torch.no_grad():
        next(layer.parameters()).add_(1)
    for save in (model.save_pretrained, layer.save):
        with pytest.raises(CheckpointError, match="expected sha256"):
            save(tmp_path / ("model" if save == model.save_pretrained else "layer"))
    PiFiForSequenceClassification.from_pretrained(tmp_path / "model")
    FrozenLayer.load(tmp_path / "layer")
    model.set_named_by(NamedBy(allow_external=True))
    model.restore_layers()
    model.save_pretrained(tmp_path / "model")


@pytest.mark.parametrize("shape", SPECS)
def test_a_reference_to_a_donor_that_has_changed_is_refused(shape: str, bert: Path, tmp_path: Path) -> None:
    donor = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    folder = saved(bert, donor, tmp_path / "model", shape, save_layer=False)
    PiFiForSequenceClassification.from_pretrained(folder, allow_external=True)
    change_weights(donor, lambda tensors: {name: tensor + 1 for name, tensor in tensors.items()})
    with pytest.raises(CheckpointError, match=r"expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}") as caught:
        PiFiForSequenceClassification.from_pretrained(folder, allow_external=True)
    assert str(donor) in caught.value.where and "save_layer=True" in caught.value.next


@pytest.fixture
def sharded(bert: Path, tmp_path: Path) -> Path:
    llm = tiny.tiny_checkpoint("llama", tmp_path / "llm")
    pp.plug_in(str(bert), f"{llm}[0]", task=slm.tiny_task()).save_pretrained(tmp_path / "s", max_shard_size="12KB")
    return tmp_path / "s"


def layer_file(folder: Path) -> tuple[Path, str]:
    """Return the shard that holds a weight of the frozen layer, and the weight's name."""
    listed = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    name = next(name for name in listed if name.startswith("plugin.layers"))
    return folder / listed[name], name


def test_an_altered_or_missing_shard_is_refused(sharded: Path) -> None:
    PiFiForSequenceClassification.from_pretrained(sharded)
    file, name = layer_file(sharded)
    tensors = load_file(file)
    save_file(tensors | {name: tensors[name] + 1e-3}, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="expected sha256"):
        PiFiForSequenceClassification.from_pretrained(sharded)
    file.unlink()
    with pytest.raises(CheckpointError, match=r"a file of the model's weights is missing.*safetensors"):
        PiFiForSequenceClassification.from_pretrained(sharded)


@pytest.mark.parametrize(
    "name", ["../other/model.safetensors", "/tmp/model.safetensors", "..\\model.safetensors", ".."]
)
def test_a_list_of_shards_names_files_of_its_folder_only(name: str, sharded: Path) -> None:
    index = sharded / "model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"][layer_file(sharded)[1]] = name
    index.write_text(json.dumps(listed))
    with pytest.raises(CheckpointError, match="not a file of its folder"):
        PiFiForSequenceClassification.from_pretrained(sharded)


@pytest.mark.parametrize("variant", ["unfrozen", "random", "shuffled"])
def test_a_card_cannot_say_that_a_layer_need_not_be_compared(variant: str, sharded: Path) -> None:
    config = json.loads((sharded / "config.json").read_text())
    config["layers"][0]["card"]["variant"] = variant
    (sharded / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"'{variant}', in a model whose layers are 'real'"):
        PiFiForSequenceClassification.from_pretrained(sharded)


@pytest.mark.parametrize(
    "entry",
    [
        {"lr_projection_factor": float("nan")},
        {"lr_projection_factor": -1},
        {"lr_projection_factor": "1"},
        {"plugin_width": -3},
        {"plugin_width": 2.5},
        {"branches": [0]},
        {"branches": [10**9]},
        {"branches": "1"},
    ],
)
def test_numbers_that_no_plugged_model_has_are_refused(entry: dict[str, Any], sharded: Path) -> None:
    config = json.loads((sharded / "config.json").read_text())
    (sharded / "config.json").write_text(json.dumps(config | entry))
    with pytest.raises(PlugInError, match=f"{next(iter(entry))}=.* is not possible"):
        PiFiForSequenceClassification.from_pretrained(sharded)


def test_an_embedded_model_is_opened_without_a_word_and_any_other_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "donor").mkdir()
    assert resolve_reference("smollm2-135m", NamedBy(tmp_path), "donor") == ("smollm2-135m", None)
    assert caplog.messages == []
    resolve_reference("donor", NamedBy(tmp_path), "donor")
    assert [line.startswith("opening the donor that a file names") for line in caplog.messages] == [True]
