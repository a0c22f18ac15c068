"""The profile of the residual stream is the one the whole model has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

import pifi_probe as pp
from pifi_probe.layers import residual
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.tokenizer import donor_tokenizer
from tests import slm, tiny
from tests.states import whole_states


@pytest.mark.parametrize("family", ["llama", "granite", "opt"])
def test_the_profile_is_the_median_over_the_tokens_of_the_whole_model_without_the_first(
    family: str, tmp_path: Path
) -> None:
    folder = tiny.tiny_checkpoint(family, tmp_path)
    slm.tiny_tokenizer().save_pretrained(folder)
    checkpoint = open_checkpoint(str(folder))
    full = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    encoded = donor_tokenizer(checkpoint)(list(residual.TEXTS), padding=True, return_tensors="pt")
    inner = encoded["attention_mask"].bool()
    inner[:, 0] = False
    states = whole_states(full, encoded["input_ids"], encoded["attention_mask"])
    expected = [float(state[inner].square().mean(-1).sqrt().median()) for state in states[:-1]]
    assert residual.measure_profile(checkpoint, str(folder)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
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
    profile = residual.measure_profile(open_checkpoint(str(home)), str(home))
    assert len(profile) == 30
    # measured before: 0.115 before layer 0, 2.9 before 2, 9.4 before 20, 29 before 29, on other texts
    for index, expected in {0: 0.115, 2: 2.9, 20: 9.4, 29: 29.0}.items():
        assert profile[index] == pytest.approx(expected, rel=0.35)
    assert residual.residual_rms(layer.card) == pytest.approx(profile[29])
    kept = list((tmp_path / "cache" / "residual_rms").glob("*.json"))
    assert len(kept) == 1
