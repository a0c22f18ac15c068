"""A frozen layer: its card, its life on disk, and what it refuses."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import pifi_probe as pp
from pifi_probe.errors import (
    CheckpointError,
    FrozenLayerError,
    PlugInError,
    SaveError,
    SpecError,
    UnsupportedFamilyError,
)
from pifi_probe.layers.frozen import FrozenChain, FrozenLayer
from tests import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("llm"))


@pytest.fixture
def layer(folder: Path) -> FrozenLayer:
    made = pp.extract(f"{folder}[1]")
    assert isinstance(made, FrozenLayer)
    return made


def test_parameters_are_the_layers_own_and_nothing_else(layer: FrozenLayer, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    full = AutoModelForCausalLM.from_pretrained(folder)
    own = sum(p.numel() for p in full.model.layers[1].parameters())
    assert layer.n_params == own == sum(p.numel() for p in layer.parameters())
    assert layer.nbytes == 4 * own and layer.hidden_size == tiny.WIDTH


def test_a_layer_stays_frozen_through_train_to_and_an_optimiser(layer: FrozenLayer) -> None:
    before = layer.digest()
    layer.train()
    layer.to("cpu", torch.float32)
    assert layer.frozen and not layer.training and not layer.block.training
    x = torch.randn(2, 3, tiny.WIDTH, requires_grad=True)
    outside = torch.nn.Parameter(torch.ones(()))
    optimiser = torch.optim.Adam([*layer.parameters(), outside], lr=1.0)
    (layer(x).square().sum() * outside).backward()
    optimiser.step()
    assert x.grad is not None and x.grad.abs().sum() > 0, "gradients pass through the layer"
    assert layer.digest() == before


def test_a_saved_layer_comes_back_equal(layer: FrozenLayer, tmp_path: Path) -> None:
    x = torch.randn(2, 5, tiny.WIDTH)
    for one in (layer, pp.reduce(layer)):
        again = FrozenLayer.load(one.save(tmp_path / str(one.card.reduced)))
        assert again.card == one.card and again.frozen
        data = x[:, :1] if one.card.reduced else x
        assert torch.equal(again(data), one(data))


@pytest.mark.parametrize("family", ["gemma3_text", "qwen3_moe", "gpt2_scaled", "bloom", "smollm3", "deepseek_v3"])
def test_layers_of_other_families_come_back_equal(family: str, tmp_path: Path) -> None:
    layer = pp.extract(f"{tiny.tiny_checkpoint(family, tmp_path / 'llm')}[1]")
    assert isinstance(layer, FrozenLayer)
    x = torch.randn(2, 9, layer.hidden_size)
    assert torch.equal(FrozenLayer.load(layer.save(tmp_path / "saved"))(x), layer(x))


def test_a_saved_layer_whose_weights_changed_is_refused(layer: FrozenLayer, tmp_path: Path) -> None:
    layer.save(tmp_path)
    card = json.loads((tmp_path / "layer.json").read_text(encoding="utf-8"))
    card["card"]["sha256"] = "0" * 64
    (tmp_path / "layer.json").write_text(json.dumps(card), encoding="utf-8")
    with pytest.raises(CheckpointError, match="sha256"):
        FrozenLayer.load(tmp_path)
    with pytest.raises(CheckpointError, match="no saved layer"):
        FrozenLayer.load(tmp_path / "elsewhere")


def test_a_layer_saved_with_a_configuration_of_one_layer_still_loads(layer: FrozenLayer, tmp_path: Path) -> None:
    """As version 0.1 wrote it at first; a configuration of any other depth than the card's is refused."""
    card = json.loads((layer.save(tmp_path) / "layer.json").read_text(encoding="utf-8"))
    for n_layers in (1, 7):
        card["config"]["num_hidden_layers"] = n_layers
        if card["config"].get("layer_types"):
            card["config"]["layer_types"] = card["config"]["layer_types"][:1] * n_layers
        (tmp_path / "layer.json").write_text(json.dumps(card), encoding="utf-8")
        if n_layers == 1:
            again = FrozenLayer.load(tmp_path)
            states = torch.randn(2, 3, layer.hidden_size)
            assert torch.equal(again(states), layer(states)) and again.card == layer.card
        else:
            with pytest.raises(CheckpointError, match="num_hidden_layers = 7"):
                FrozenLayer.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("layer.safetensors", b""),
        ("layer.safetensors", b"\x10" * 100),
        ("layer.json", b"{"),
        ("layer.json", b"[]"),
        ("layer.json", b"{}"),
        ("layer.json", b"\xff\xfe"),
        ("layer.json", b'{"card": {"model": "m"}, "config": {}}'),
    ],
)
def test_a_damaged_saved_layer_is_one_line(file: str, content: bytes, layer: FrozenLayer, tmp_path: Path) -> None:
    (layer.save(tmp_path) / file).write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        FrozenLayer.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "next:" in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"model_type": "none-such"}, {"num_attention_heads": 0}, {"intermediate_size": 10**12}]
)
def test_a_saved_layer_with_an_absurd_configuration_is_one_line(
    change: dict[str, Any], layer: FrozenLayer, tmp_path: Path
) -> None:
    layer.save(tmp_path)
    stored = json.loads((tmp_path / "layer.json").read_text(encoding="utf-8"))
    (tmp_path / "layer.json").write_text(json.dumps(stored | {"config": stored["config"] | change}), encoding="utf-8")
    with pytest.raises(CheckpointError, match="next:"):
        FrozenLayer.load(tmp_path)


def test_a_layer_that_cannot_be_saved_leaves_the_older_one_whole(
    folder: Path, layer: FrozenLayer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.torch.save_file", full)
        with pytest.raises(SaveError, match="No space left"):
            pp.extract(f"{folder}[0]").save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1, "both are readable for the same people"


def test_a_layer_is_asked_for_with_what_can_be(folder: Path) -> None:
    for device in ("nonsense", "cuda", "mps"):
        if device == "nonsense" or not getattr(torch, device).is_available():
            with pytest.raises(PlugInError, match=f"no device '{device}'"):
                pp.extract(f"{folder}[0]", device=device)
    with pytest.raises(PlugInError, match="unknown dtype"):
        pp.extract(f"{folder}[0]", dtype=torch.int8)
    with pytest.raises(SpecError, match="5 is not text"):
        pp.extract(5)


def test_dtypes_are_those_asked_for(folder: Path) -> None:
    assert pp.extract(f"{folder}[0]").dtype == torch.float32
    half = pp.extract(f"{folder}[0]", dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and half.nbytes == pp.extract(f"{folder}[0]").nbytes // 2
    x = torch.randn(1, 2, tiny.WIDTH)
    assert half(x).dtype == torch.float32
    with pytest.raises(PlugInError, match="unknown dtype"):
        pp.extract(f"{folder}[0]", dtype="float8")


def test_a_short_type_keeps_its_single_token_form_exact(folder: Path) -> None:
    half = pp.extract(f"{folder}[0]", dtype="bfloat16")
    reduced = pp.reduce(half)
    x = torch.randn(4, 1, tiny.WIDTH)
    assert reduced.card.reduced and torch.equal(reduced(x), half(x))


def test_a_wrong_width_and_a_second_token_for_a_reduced_layer_are_named(layer: FrozenLayer) -> None:
    with pytest.raises(FrozenLayerError, match="width 7, the layer expects 32"):
        layer(torch.randn(1, 2, 7))
    with pytest.raises(FrozenLayerError, match="one token, got 2"):
        pp.reduce(layer)(torch.randn(1, 2, tiny.WIDTH))


def test_layers_of_unlike_widths_have_no_series(layer: FrozenLayer, tmp_path: Path) -> None:
    wide = pp.extract(f"{tiny.tiny_checkpoint('llama', tmp_path, hidden_size=64)}[0]")
    with pytest.raises(FrozenLayerError, match=r"in parallel with \|"):
        layer >> wide


def test_a_range_is_a_series_of_layers(folder: Path) -> None:
    chain = pp.extract(f"{folder}[0:3]")
    assert isinstance(chain, FrozenChain) and [x.card.index for x in chain.layers] == [0, 1, 2]
    x = torch.randn(1, 4, tiny.WIDTH)
    one_by_one = x
    for index in range(3):
        one_by_one = pp.extract(f"{folder}[{index}]")(one_by_one)
    assert torch.equal(chain(x), one_by_one)


def test_a_family_that_is_not_offered_says_why(tmp_path: Path) -> None:
    from transformers import RwkvConfig, RwkvForCausalLM

    config = RwkvConfig(vocab_size=20, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16)
    RwkvForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFamilyError, match=r"'rwkv' is not supported: it is not a chain.*llama"):
        pp.extract(f"{tmp_path}[0]")


def test_tensors_of_the_wrong_shape_are_named(tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint("llama", tmp_path)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config["intermediate_size"] = 40
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(CheckpointError, match="wrong shape.*mlp"):
        pp.extract(f"{folder}[0]")


def test_the_notebook_view_escapes_names(layer: FrozenLayer) -> None:
    evil = layer.with_card(model="<script>alert(1)</script>")
    assert "<script>" not in evil._repr_html_() and "&lt;script&gt;" in evil._repr_html_()
    assert "frozen" in repr(layer)
