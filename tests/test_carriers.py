"""The text model inside a model with vision: found under the names that transformers stores, in every place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import pifi_probe as pp
from pifi_probe.compat import quiet_transformers
from pifi_probe.layers.frozen import FrozenLayer
from tests import causal, tiny
from tests.hub_server import running_hub

_VISION: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 4, "depth": 4,
                           "num_attention_heads": 2, "num_heads": 2, "image_size": 32, "patch_size": 16,
                           "out_hidden_size": 32, "head_dim": 16, "projection_dim": 32}  # fmt: skip
_ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}
# type, that of its text part where a small one is known, how the stored names of its layers begin
LAYOUTS = {
    "llava": ("llama", "language_model.model.layers"),
    "idefics3": ("llama", "model.text_model.layers"),
    "qwen2_5_vl": (None, "model.layers"),
    "minimax_m3_vl": ("minimax_m3_vl_text", "language_model.model.layers"),
    "qwen3_vl_moe": (None, "model.language_model.layers"),
    "qwen3_5": ("qwen3_5_text", "model.language_model.layers"),
    "gemma4": ("gemma4_text", "model.language_model.layers"),
    "mistral3": ("mistral", "language_model.model.layers"),
    "fuyu": ("persimmon", "language_model.model.layers"),
    "gpt2": (None, "transformer.h"),
}
QUICK = ("llava", "idefics3", "minimax_m3_vl", "qwen3_vl_moe")


def model_of(name: str) -> Any:
    """Return a small model with vision."""
    if name not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return causal.model_of(name)
    text, _ = LAYOUTS[name]
    sizes = causal._SIZES | causal._EXPERTS | _ROPE | {"decoder_sparse_step": 1}
    inner = causal.config_of(text).to_dict() if text else sizes
    torch.manual_seed(0)
    with quiet_transformers():
        config = CONFIG_MAPPING[name](text_config=inner, vision_config=dict(_VISION))
        model = AutoModelForImageTextToText.from_config(config)
    tiny.shake(model)
    return model


@pytest.mark.parametrize("name", [pytest.param(one, marks=[] if one in QUICK else pytest.mark.slow) for one in LAYOUTS])
def test_its_layers_are_those_of_the_model_from_a_file_from_shards_and_from_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(name)
    with quiet_transformers():
        model.save_pretrained(tmp_path / "one")
        model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    shards = sorted((tmp_path / "shards").glob("*.safetensors"))
    assert len(shards) > 1
    stored = {key for file in shards for key in safe_open(file, "pt").keys()}  # noqa: SIM118
    assert any(key.startswith(f"{LAYOUTS[name][1]}.2.") for key in stored)
    layer = pp.extract(f"{tmp_path / 'one'}[2]")
    assert isinstance(layer, FrozenLayer)
    inside = [module for module in model.modules() if type(module) is type(layer.block)][2].state_dict()
    for key, tensor in layer.block.state_dict().items():
        assert torch.equal(tensor, inside[key]), key
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        server.add_repo("org/model", tmp_path / "shards")
        for place in (str(tmp_path / "shards"), "org/model"):
            found = pp.extract(f"{place}[2]")
            assert isinstance(found, FrozenLayer) and found.digest() == layer.digest()
