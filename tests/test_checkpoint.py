"""Checkpoints: one layer of any of them, alone, or one line that says what is wrong."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers.utils import logging as transformers_logging

import pifi_probe as pp
from pifi_probe import assets
from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import (
    CheckpointError,
    HubError,
    LayerIndexError,
    ModelNotFoundError,
)
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.configs import read_licence
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.sharded import decoder_prefix
from pifi_probe.layers.stem import Stem
from tests import tiny
from tests.folders import INDEX, WEIGHT, rewrite, stored_tensors

# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_layer_holds_the_stored_tensors_of_that_layer(family: str, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint(family, tmp_path, max_shard_size="40KB")
    stored, checkpoint = stored_tensors(folder), open_checkpoint(str(folder))
    assert checkpoint.config.model_type == tiny.tiny_config(family).model_type
    seen: set[str] = set()
    for index in range(tiny.N_LAYERS):
        names, tensors = checkpoint.layer_names(index), checkpoint.read_layer(index)
        seen |= set(names)
        assert len(names) == len(tensors)
        for name in names:
            renamed = name.replace(f".{index}.", ".0.", 1)
            assert name.count(f".{index}.") >= 1
            assert torch.equal(tensors[renamed], stored[name])
    outside = set(stored) - seen
    assert len(outside) <= 5  # embeddings, final norm, output matrix
    assert not any(f".{index}." in name for name in outside for index in range(tiny.N_LAYERS))


def test_a_layer_costs_its_own_bytes_and_the_headers_of_its_files(shards: Path) -> None:
    checkpoint = open_checkpoint(str(shards))
    assert checkpoint.bytes_read == 0
    tensors = checkpoint.read_layer(1)
    files = {checkpoint.tensors[name].source.name for name in checkpoint.layer_names(1)}
    headers = sum(8 + int.from_bytes(Path(file).read_bytes()[:8], "little") for file in files)
    assert checkpoint.bytes_read == sum(tensor.nbytes for tensor in tensors.values()) + headers
    assert len(files) < len(list(shards.glob("*.safetensors")))


def test_one_file_several_shards_and_a_file_alone_give_the_same_layer(llama: Path, shards: Path) -> None:
    (shards / "extra").mkdir()
    sources = [llama, shards, llama / "model.safetensors"]
    layers = [open_checkpoint(str(source)).read_layer(2) for source in sources]
    os.remove(shards / INDEX)  # a complete set of shards needs no index
    layers.append(open_checkpoint(str(shards)).read_layer(2))
    for layer in layers[1:]:
        assert layer.keys() == layers[0].keys()
        assert all(torch.equal(layer[name], layers[0][name]) for name in layer)


def test_a_checkpoint_says_where_it_comes_from(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (llama / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# Model\n")
    monkeypatch.chdir(llama.parent)
    checkpoint = open_checkpoint("llama")
    assert checkpoint.identity == str(llama)
    assert (checkpoint.format, checkpoint.licence, checkpoint.revision, checkpoint.gated) == (
        "safetensors", "apache-2.0", None, False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("---\nlicense: 'llama3.1' \n---\n", "llama3.1"),
        ("---\nlicense: [apache-2.0]\n---\n", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: qwen-research\n---\n", "qwen-research"),
        ("---\r\nlicense: other\r\n---\r\n", "other"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("# license: mit\n", None),
        ("", None),
    ],
)
def test_the_licence_is_that_of_the_readmes_front_matter(text: str, licence: str | None, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(text.encode())
    assert read_licence(tmp_path) == licence


def test_layers_of_a_vision_tower_are_not_taken_for_the_decoders(tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint("llama", tmp_path)
    text = stored_tensors(folder)
    towers = {
        name.replace("model.layers", prefix): tensor.clone()
        for prefix in ("vision_tower.encoder.layers", "visual.blocks", "audio_model.layers", "mtp.layers")
        for name, tensor in text.items()
        if ".layers." in name
    }
    renamed = {name.replace("model.", "model.language_model."): tensor for name, tensor in text.items()}
    rewrite(folder, {name: None for name in text} | renamed | towers)
    taken, expected = pp.extract(f"{folder}[1]"), pp.extract(f"{tiny.tiny_checkpoint('llama', tmp_path / 'text')}[1]")
    assert taken.card.sha256 == expected.card.sha256


def test_layers_that_are_stored_under_two_prefixes_are_refused_and_not_chosen_between(tmp_path: Path) -> None:
    """transformers takes the shorter names, also for the model whose own are the longer ones."""
    folder = tiny.tiny_checkpoint("llama", tmp_path)
    others = {name.removeprefix("model."): t + 1 for name, t in stored_tensors(folder).items() if ".layers." in name}
    rewrite(folder, others)
    with pytest.raises(CheckpointError, match=r"stored twice, under '(model\.)?layers' and under '(model\.)?layers'"):
        pp.extract(f"{folder}[1]")


@pytest.mark.parametrize(
    ("composite", "family"),
    [("Gemma3ForConditionalGeneration", "gemma3_text"), ("LlavaForConditionalGeneration", "llama"),
     ("Mistral3ForConditionalGeneration", "mistral")],
)  # fmt: skip
def test_a_layer_and_the_embeddings_come_out_of_a_model_that_sees_too(
    composite: str, family: str, tmp_path: Path
) -> None:
    import transformers

    kind = getattr(transformers, composite)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = tiny.tiny_config(family)
    torch.manual_seed(0)
    with quiet_transformers():
        config = kind.config_class(
            text_config=text.to_dict(), vision_config=vision | {"image_size": 28, "patch_size": 14}
        )
        model = kind(config).eval()
        model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(str(tmp_path))
    decoder = model.model.language_model
    for index in range(tiny.N_LAYERS):
        taken = extract_from(checkpoint, index, model=family)
        stored = dict(decoder.layers[index].state_dict())
        assert all(torch.equal(tensor, stored.pop(name)) for name, tensor in taken.tensors()) and not stored
    tokens = torch.tensor([[3, 5, 7]])
    states = Stem(checkpoint, [tokens])(tokens, torch.ones_like(tokens))
    embeddings = decoder(input_ids=tokens, output_hidden_states=True).hidden_states[0]
    torch.testing.assert_close(states, embeddings)


@pytest.mark.parametrize(
    ("indices", "chosen"),
    [
        ({"model.layers": range(4), "model.vision.layers": range(4)}, "model.layers"),
        ({"visual.blocks": range(32), "model.layers": range(4)}, "model.layers"),
        ({"model.layers": range(5), "draft.layers": range(2)}, "model.layers"),  # one more, for several tokens
        ({"model.layers": range(4), "model.language_model.layers": range(4)}, "model.language_model.layers"),
        ({"visual.blocks": range(4), "text.layers": range(5)}, "text.layers"),
        ({"h": range(4)}, "h"),
        ({"encoder.layers": range(24), "decoder.layers": range(4)}, "decoder.layers"),
        ({}, None),
    ],
)
def test_the_decoder_is_the_group_with_as_many_layers_as_the_configuration_says(
    indices: dict[str, range], chosen: str | None
) -> None:
    assert decoder_prefix({prefix: set(found) for prefix, found in indices.items()}, 4) == chosen


def test_masks_and_frequencies_that_old_checkpoints_store_are_left_out(tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint("gpt2", tmp_path)
    mask = {"transformer.h.1.attn.bias": torch.ones(1, 1, 8, 8), "transformer.h.1.attn.masked_bias": torch.tensor(-1e4)}
    before = open_checkpoint(str(folder)).layer_names(1)
    rewrite(folder, mask | {"transformer.h.1.rotary_emb.inv_freq": torch.ones(4)})
    checkpoint = open_checkpoint(str(folder))
    assert sorted(checkpoint.layer_names(1)) == sorted(before)
    assert any(name.endswith("c_attn.bias") for name in checkpoint.read_layer(1))


def test_the_text_part_of_a_composite_configuration_is_the_configuration(llama: Path) -> None:
    text = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": text}))
    checkpoint = open_checkpoint(str(llama))
    assert (checkpoint.config.model_type, checkpoint.config.num_hidden_layers) == ("llama", tiny.N_LAYERS)
    assert len(checkpoint.read_layer(1)) == 9


def test_several_layers_can_be_read_and_read_again(llama: Path) -> None:
    checkpoint = open_checkpoint(str(llama))
    first, again = checkpoint.read_layer(0), checkpoint.read_layer(0)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first[WEIGHT.replace("1", "0")], checkpoint.read_layer(1)[WEIGHT.replace("1", "0")])


# --- finding ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beside", ["vit.encoder.layers", "talker.model.layers", "qformer.encoder.layers"])
@pytest.mark.parametrize(
    "prefix",
    [
        *("model.language_model.", "language_model.model.", "language_model.", "model.text_model.", "text_model."),
        *("thinker.model.", "llm.", "llm.model.", "backbone.", "model.model.", ""),
    ],
)
def test_a_text_model_is_found_under_every_prefix_of_the_hub(
    prefix: str, beside: str, llama: Path, tmp_path: Path
) -> None:
    stored = stored_tensors(llama)
    names = {name: prefix + name.removeprefix("model.") for name in stored if not name.startswith("lm_head")}
    other = {f"{beside}.{i}.mlp.fc1.weight": torch.zeros(4, 4) for i in range(tiny.N_LAYERS)}
    save_file({names[name]: stored[name] for name in names} | other, tmp_path / "model.safetensors")
    inner = json.loads((llama / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": inner}), encoding="utf-8")
    expected = open_checkpoint(str(llama)).read_layer(1)
    got = open_checkpoint(str(tmp_path)).read_layer(1)
    assert {name.split("layers.0.")[1] for name in got} == {name.split("layers.0.")[1] for name in expected}
    for name, tensor in got.items():
        assert torch.equal(tensor, expected[f"model.layers.0.{name.split('layers.0.')[1]}"])


@pytest.mark.parametrize("name", ["~nosuchuser/model", "a" * 5000, "a/" * 3000])
def test_a_name_that_can_be_neither_path_nor_hub_id_is_one_line(name: str) -> None:
    with pytest.raises((ModelNotFoundError, HubError), match="there is no model|not a valid name"):
        open_checkpoint(name)


def test_the_extension_of_a_file_may_be_in_capitals(llama: Path) -> None:
    (llama / "model.safetensors").rename(llama / "MODEL.SAFETENSORS")
    assert open_checkpoint(str(llama / "MODEL.SAFETENSORS")).read_layer(0)


def test_a_name_that_is_no_path_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    asked: list[Any] = []
    monkeypatch.setattr(
        "pifi_probe.layers.open.open_hub_checkpoint", lambda *args, **flags: asked.append((args, flags))
    )
    for name in ("org/name", "gpt2", "org/name/model-Q4_0.gguf"):
        open_checkpoint(name, "main", allow_pickle=True)
        assert asked.pop() == ((name, "main"), {"allow_pickle": True, "allow_full_download": False, "token": None})


def test_an_embedded_name_is_its_file(monkeypatch: pytest.MonkeyPatch, llama: Path) -> None:
    monkeypatch.setattr(assets, "is_asset", lambda name: name == "embedded")
    monkeypatch.setattr(assets, "path", lambda name: llama)
    assert open_checkpoint("embedded").identity == str(llama)


@pytest.mark.parametrize(
    "name", ["", "./absent", "~/absent", "absent.gguf", "folder/absent.safetensors", "/absent/folder", "a b", "a/b/c"]
)
def test_a_name_that_is_nothing_is_one_line_with_the_choices(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="hub id"):
        open_checkpoint(name)


def test_a_local_checkpoint_has_no_revision(llama: Path) -> None:
    with pytest.raises(CheckpointError, match="revision"):
        open_checkpoint(str(llama), "main")


@pytest.mark.parametrize("index", [3, -1, 10**12])
def test_an_index_out_of_range_says_which_indices_there_are(llama: Path, index: int) -> None:
    with pytest.raises(LayerIndexError, match="from 0 to 2"):
        open_checkpoint(str(llama)).read_layer(index)


# --- embedded model, and quiet ------------------------------------------------------------------------------


@pytest.mark.assets
def test_a_layer_of_smollm2_is_read_within_two_seconds(smollm2: Path) -> None:
    start = time.process_time()  # not the clock: others may be at work
    checkpoint: Checkpoint = open_checkpoint("smollm2-135m")
    tensors = checkpoint.read_layer(15)
    assert time.process_time() - start < 2.0
    assert (checkpoint.format, checkpoint.licence) == ("gguf", "apache-2.0")
    assert checkpoint.identity == str(smollm2.absolute())
    assert sum(tensor.numel() for tensor in tensors.values()) == 3_540_096
    assert checkpoint.bytes_read < 5_000_000  # of 98 MB


@pytest.mark.parametrize("bars", [True, False])
def test_transformers_is_quiet_inside_and_as_before_after(bars: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before = transformers_logging.get_verbosity()
    monkeypatch.setattr(transformers_logging, "_tqdm_active", bars)
    transformers_logging.set_verbosity_info()
    try:
        with pytest.raises(KeyError), quiet_transformers():
            assert not transformers_logging.is_progress_bar_enabled()
            assert transformers_logging.get_verbosity() > transformers_logging.ERROR
            raise KeyError
        assert transformers_logging.get_verbosity() == transformers_logging.INFO
        assert transformers_logging.is_progress_bar_enabled() == bars
    finally:
        transformers_logging.set_verbosity(before)
