"""A LoRA adapter is merged into one layer as peft merges it into the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
from transformers import AutoModelForCausalLM

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import CheckpointError, PifiProbeError, PlugInError, UnsupportedFormatError
from pifi_probe.layers.frozen import FrozenLayer
from tests.hub_server import running_hub
from tests.quantised import SCHEMES, save_quantised
from tests.tiny import tiny_checkpoint

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint("llama", tmp_path_factory.mktemp("base"), num_hidden_layers=2)


def layer(spec: str, **options: Any) -> FrozenLayer:
    found = pp.extract(spec, **options)
    assert isinstance(found, FrozenLayer)
    return found


def train(base: Path, folder: Path, targets: list[str] | None = None, **settings: Any) -> Path:
    """Save an adapter with random numbers, and next to it in ``merged`` the model that peft makes of both."""
    torch.manual_seed(0)
    with quiet_transformers():
        model = AutoModelForCausalLM.from_pretrained(base)
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=targets or ["q_proj", "down_proj"], **settings)
    made = peft.get_peft_model(model, config)
    with torch.no_grad():
        for name, tensor in made.named_parameters():
            if "lora_" in name:
                tensor.add_(torch.rand_like(tensor), alpha=0.3)
    made.save_pretrained(str(folder))
    merged: Any = made.merge_and_unload  # typed as a tensor
    merged().save_pretrained(folder / "merged")
    return folder


KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rank-stabilised": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "DoRA, rank-stabilised, ranks of their own": {
        "use_dora": True,
        "use_rslora": True,
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.down_proj": 7},
        "alpha_pattern": {"^model.layers.1.self_attn.q_proj$": 3},
    },
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.down_proj": 9}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_layer_is_that_of_the_model_which_peft_merges(kind: str, base: Path, tmp_path: Path) -> None:
    adapter = train(base, tmp_path, **KINDS[kind])
    found, expected, before = layer(f"{base}[1]", adapter=adapter), layer(f"{adapter}/merged[1]"), layer(f"{base}[1]")
    weights, old = expected.state_dict(), before.state_dict()
    for name, tensor in found.state_dict().items():
        assert torch.allclose(tensor, weights[name], atol=1e-6), name
        assert torch.equal(tensor, old[name]) != name.endswith(("q_proj.weight", "down_proj.weight")), name
    assert found.card.adapter == str(adapter)
    assert found.card.sha256 != before.card.sha256


def test_maps_that_gpt2_keeps_transposed(tmp_path: Path) -> None:
    base = tiny_checkpoint("gpt2", tmp_path / "base")
    adapter = train(base, tmp_path / "adapter", ["c_attn", "c_proj"], fan_in_fan_out=True)
    found, expected = layer(f"{base}[1]", adapter=adapter), layer(f"{adapter}/merged[1]")
    for name, tensor in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name], tensor, atol=1e-6), name


def test_layers_of_what_sees_beside_the_text_are_not_taken_for_those_of_the_text(base: Path, tmp_path: Path) -> None:
    """An adapter of all linear maps of a model with vision has a layer 1 in both, and the same names in it."""
    adapter = train(base, tmp_path)
    expected = layer(f"{base}[1]", adapter=adapter).card.sha256
    tensors = safetensors.torch.load_file(adapter / WEIGHTS)
    text = {key.replace(".model.layers.", ".model.language_model.layers."): each for key, each in tensors.items()}
    stem = "base_model.model.model.vision_tower.encoder.layers.1.self_attn.q_proj"
    seen = {f"{stem}.lora_A.weight": torch.ones(4, 32), f"{stem}.lora_B.weight": torch.ones(32, 4)}
    safetensors.torch.save_file(text | seen, adapter / WEIGHTS)
    assert layer(f"{base}[1]", adapter=adapter).card.sha256 == expected
    safetensors.torch.save_file(seen, adapter / WEIGHTS)
    with pytest.raises(CheckpointError, match="changes no layer of a decoder"):
        layer(f"{base}[1]", adapter=adapter)


def test_heads_and_embeddings_that_were_trained_too_are_outside_the_layer(base: Path, tmp_path: Path) -> None:
    adapter = train(base, tmp_path, modules_to_save=["lm_head"])
    found, expected = layer(f"{base}[1]", adapter=adapter), layer(f"{adapter}/merged[1]")
    for name, tensor in expected.state_dict().items():
        assert torch.allclose(found.state_dict()[name], tensor, atol=1e-6), name


def test_a_quantised_base_is_unpacked_before(tmp_path: Path) -> None:
    plain = save_quantised(tmp_path / "base", SCHEMES["bitsandbytes nf4"])
    folder = tmp_path / "adapter"
    folder.mkdir()
    low, high = torch.randn(4, 64), torch.randn(64, 4)
    stem = "base_model.model.model.layers.1.self_attn.q_proj"
    tensors = {f"{stem}.lora_A.weight": low, f"{stem}.lora_B.weight": high}
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    found = layer(f"{tmp_path / 'base'}[1]", adapter=folder).state_dict()
    merged = next(tensor for name, tensor in found.items() if name.endswith("q_proj.weight"))
    assert torch.allclose(merged, plain["model.layers.1.self_attn.q_proj.weight"] + 2 * high @ low, atol=1e-5)


def test_of_an_adapter_on_the_hub_only_the_layers_part_travels(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = train(base, tmp_path / "adapter")
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        files = {name: (adapter / name).read_bytes() for name in ("adapter_config.json", WEIGHTS)}
        server.add_repo("org/adapter", files)
        found = layer(f"{base}[1]", adapter="org/adapter")
        assert found.card.sha256 == layer(f"{base}[1]", adapter=adapter).card.sha256
        assert str(found.card.adapter).startswith("org/adapter@")
        assert server.bytes_sent("/objects/") < 0.75 * len(files[WEIGHTS])


def test_the_command_line_merges_too(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter = train(base, tmp_path / "adapter")
    arguments = ["extract", f"{base}[1]", "--adapter", str(adapter), "--out", str(tmp_path / "layer"), "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["sha256"] == layer(f"{base}[1]", adapter=adapter).card.sha256


def test_a_layer_that_the_adapter_leaves_as_it_is_is_said(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = train(base, tmp_path, layers_to_transform=[0])
    assert layer(f"{base}[1]", adapter=adapter).card.sha256 == layer(f"{base}[1]").card.sha256
    assert "changes nothing" in caplog.text


BAD: dict[str, tuple[dict[str, Any], type[PifiProbeError], str]] = {
    "another method": ({"peft_type": "IA3"}, UnsupportedFormatError, "'IA3'"),
    "no rank": ({"r": None}, CheckpointError, "states r = None"),
    "alpha is not a number": ({"lora_alpha": float("nan")}, CheckpointError, "lora_alpha"),
    "a pattern": ({"alpha_pattern": {"(a+)+$": 3}}, UnsupportedFormatError, "by the pattern"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_4"}, UnsupportedFormatError, "pissa"),
    "aLoRA": ({"alora_invocation_tokens": [3, 4]}, UnsupportedFormatError, "from certain tokens on"),
    "more layers": ({"layer_replication": [[0, 2], [1, 2]]}, UnsupportedFormatError, "further layers"),
    "KaSA": ({"kasa_config": {"beta": 1e-4}}, UnsupportedFormatError, "KaSA"),
    "QA-LoRA": ({"use_qalora": True}, UnsupportedFormatError, "QA-LoRA"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_adapter_that_is_not_merged_is_one_line(case: str, base: Path, tmp_path: Path) -> None:
    changes, kind, message = BAD[case]
    adapter = train(base, tmp_path)
    settings = json.loads((adapter / "adapter_config.json").read_text()) | changes
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(kind, match=message.replace("(", r"\(")) as caught:
        layer(f"{base}[1]", adapter=adapter)
    assert "next: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, key: tensors.update({key: torch.ones(4, 31)}), "matrices of shape"),
        (lambda tensors, key: tensors.update({key: torch.full_like(tensors[key], torch.nan)}), "NaN"),
        (lambda tensors, key: tensors.pop(key), "alone"),
        (lambda tensors, key: tensors.update({key.replace("q_proj", "no_proj"): tensors.pop(key)}), "does not"),
        (lambda tensors, key: tensors.update({key.replace("lora_A", "other"): torch.ones(1)}), "not part of a low"),
    ],
)
def test_matrices_that_do_not_fit_are_one_line(change: Any, message: str, base: Path, tmp_path: Path) -> None:
    adapter = train(base, tmp_path)
    tensors = safetensors.torch.load_file(adapter / WEIGHTS)
    change(tensors, next(key for key in tensors if "layers.1." in key and "q_proj.lora_A" in key))
    safetensors.torch.save_file(tensors, adapter / WEIGHTS)
    with pytest.raises(CheckpointError, match=message):
        layer(f"{base}[1]", adapter=adapter)


def test_an_adapter_of_several_models_and_a_folder_without_one_are_refused(base: Path, tmp_path: Path) -> None:
    adapter = train(base, tmp_path / "adapter")
    other = tiny_checkpoint("llama", tmp_path / "other")
    with pytest.raises(PlugInError, match="belongs to one model"):
        pp.extract(f"{base}[0] | {other}[0]", adapter=adapter)
    with pytest.raises(CheckpointError, match="no adapter_config.json"):
        pp.extract(f"{base}[0]", adapter=other)
