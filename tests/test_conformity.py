"""A frozen layer computes what it computed inside its model, for every family, padding and length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

import pifi_probe as pp
from pifi_probe.layers.families import FAMILIES
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.reduce import reduction_error
from pifi_probe.layers.shell import layers_of
from tests import causal, tiny

TOLERANCE = 1e-5
KEEPS_FULL_FORM = {"gpt_oss", "qwen3_next"}


@contextmanager
def captured(block: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Catch what goes into and comes out of a layer inside its model."""
    seen: dict[str, torch.Tensor] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen["x"] = args[0] if args else kwargs["hidden_states"]

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen["y"] = output[0] if isinstance(output, (tuple, list)) else output

    handles = [block.register_forward_pre_hook(before, with_kwargs=True), block.register_forward_hook(after)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def padded_batch(seq: int, padding: str, vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input ids and mask (2, seq); the first row has five padded positions."""
    ids = torch.randint(3, vocab, (2, seq), generator=torch.Generator().manual_seed(seq))
    mask = torch.ones_like(ids)
    if padding == "left":
        mask[0, :5] = 0
    elif padding == "right":
        mask[0, -5:] = 0
    return ids, mask


def worst_error(full: PreTrainedModel, layer: FrozenLayer, index: int) -> float:
    """Return the largest relative error over lengths and paddings, on unpadded positions."""
    block = layers_of(full.base_model)[index]
    worst = 0.0
    for seq, padding in [(1, "none"), (17, "none"), (17, "left"), (17, "right")]:
        ids, mask = padded_batch(seq, padding, full.config.vocab_size)
        with torch.no_grad(), captured(block) as seen:
            full(input_ids=ids, attention_mask=mask, use_cache=False)
            got = layer(seen["x"], mask)
        kept = mask.bool()
        worst = max(worst, float((got - seen["y"])[kept].norm() / seen["y"][kept].norm()))
    return worst


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Make each tiny checkpoint once, on demand: name -> (folder, the full model read back from it)."""
    made: dict[str, tuple[Path, PreTrainedModel]] = {}

    def get(name: str) -> tuple[Path, PreTrainedModel]:
        if name not in made:
            folder = tiny.tiny_checkpoint(name, tmp_path_factory.mktemp(name))
            made[name] = folder, AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return made[name]

    return get


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_conformity_every_layer_equals_itself_inside_the_full_model(name: str, checkpoints: Any) -> None:
    folder, full = checkpoints(name)
    for index in range(full.config.num_hidden_layers):
        layer = pp.extract(f"{folder}[{index}]")
        assert isinstance(layer, FrozenLayer)
        assert worst_error(full, layer, index) <= TOLERANCE, f"layer {index}"


@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_conformity_the_single_token_form_equals_the_layer_or_is_refused(name: str, checkpoints: Any) -> None:
    folder, full = checkpoints(name)
    layer = pp.extract(f"{folder}[-1]")
    reduced = pp.reduce(layer)
    if full.config.model_type in KEEPS_FULL_FORM:
        assert reduced is layer
        return
    assert reduced.card.reduced and reduced.n_params < layer.n_params
    assert reduction_error(layer, reduced) <= TOLERANCE


def test_conformity_covers_every_family_in_the_table() -> None:
    covered = {tiny.tiny_config(name).model_type for name in tiny.FAMILIES}
    assert covered | set(causal.causal_types()) >= set(FAMILIES)  # the others: tests/test_causal_types.py


@pytest.mark.slow
@pytest.mark.assets
def test_conformity_all_layers_of_smollm2_from_gguf_and_from_shards(smollm2: Path, tmp_path: Path) -> None:
    full = AutoModelForCausalLM.from_pretrained(smollm2.parent, gguf_file=smollm2.name, dtype=torch.float32).eval()
    del full.config.quantization_config  # it says "gguf", and such a model cannot be saved
    plain = type(full)(full.config)
    plain.load_state_dict(full.state_dict())
    plain.save_pretrained(tmp_path, max_shard_size="100MB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    for index in range(30):
        from_gguf = pp.extract(f"{smollm2}[{index}]")
        from_shards = pp.extract(f"{tmp_path}[{index}]")
        assert isinstance(from_gguf, FrozenLayer) and isinstance(from_shards, FrozenLayer)
        assert worst_error(full, from_gguf, index) <= TOLERANCE, f"layer {index}"
        assert from_shards.digest() == from_gguf.digest()
