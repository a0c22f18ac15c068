"""The profile of the residual stream is the one the whole model has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import pifi_probe as pp
from pifi_probe.layers.checkpoint import open_checkpoint
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.residual import embed, measure_profile, residual_rms
from tests import tiny


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "granite", "gpt2", "opt", "bloom", "qwen3_moe"])
def test_embedding_and_layers_one_by_one_give_the_states_of_the_whole_model(family: str, tmp_path: Path) -> None:
    folder = tiny.tiny_checkpoint(family, tmp_path)
    full = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(3, 99, (2, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, -4:] = 0
    with torch.no_grad():
        states = full(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    checkpoint = open_checkpoint(str(folder))
    found = embed(checkpoint, ids, mask)
    for index, expected in enumerate(states[:-1]):
        kept = mask.bool()
        assert torch.allclose(found[kept], expected[kept], rtol=1e-4, atol=1e-4), f"input of layer {index}"
        with torch.no_grad():
            found = extract_from(checkpoint, index, model=str(folder))(found, mask)


@pytest.mark.assets
def test_the_profile_of_smollm2_grows_with_depth_and_is_kept(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    home = tmp_path / "model.gguf"
    shutil.copy(smollm2, home)
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "cache"))
    layer = pp.extract(f"{home}[29]")
    assert isinstance(layer, FrozenLayer)
    profile = measure_profile(open_checkpoint(str(home)), str(home))
    assert len(profile) == 30
    # SELECTION, fact 2: 0.115 before layer 0, 2.9 before 2, 9.4 before 20, 29 before 29, on other texts
    for index, expected in {0: 0.115, 2: 2.9, 20: 9.4, 29: 29.0}.items():
        assert profile[index] == pytest.approx(expected, rel=0.35)
    assert residual_rms(layer.card) == pytest.approx(profile[29])
    kept = list((tmp_path / "cache" / "residual_rms").glob("*.json"))
    assert len(kept) == 1
