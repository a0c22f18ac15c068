"""Layers of families that nobody has listed: taken where they are whole, refused by the name of what they lack."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaModel
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

import pifi_probe as pp
from pifi_probe.errors import UnsupportedFamilyError
from pifi_probe.layers import detect, families
from pifi_probe.layers.detect import missing_states
from pifi_probe.layers.families import FAMILIES, Family
from tests import causal
from tests.test_conformity import TOLERANCE, worst_error

_SIZES: dict[str, Any] = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48,
                          "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip


def made_up(name: str, layer: type[nn.Module], before: Any = None) -> LlamaForCausalLM:
    """Register a family whose layers are `layer`; `before` gives what its model hands to each of them."""

    class Config(LlamaConfig):
        model_type = name

    class Model(LlamaModel):
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.extra = nn.Embedding(config.vocab_size, config.hidden_size)
            self.layers = nn.ModuleList([layer(config, index) for index in range(config.num_hidden_layers)])
            self.post_init()

        def forward(self, input_ids: Any = None, **kwargs: Any) -> Any:
            return super().forward(input_ids, **kwargs | (before(self, input_ids) if before else {}))

    class Causal(LlamaForCausalLM):
        config_class = Config

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model = Model(config)

    AutoConfig.register(name, Config, exist_ok=True)
    AutoModel.register(Config, Model, exist_ok=True)
    AutoModelForCausalLM.register(Config, Causal, exist_ok=True)
    torch.manual_seed(0)
    return Causal(Config(**_SIZES)).eval()


class Shared(LlamaDecoderLayer):
    """The last layer reads what layer 0 has made of a part of it."""

    part = "self_attn.k_proj"

    def __init__(self, config: Any, index: int) -> None:
        super().__init__(config, index)
        self.index = index

    def forward(self, hidden_states: torch.Tensor, handed_on: Any = None, **kwargs: Any) -> Any:
        if self.index == 0:
            handed_on["first"] = self.get_submodule(self.part)(hidden_states)
        if self.index == 2:
            hidden_states = hidden_states + handed_on["first"].mean(-1, keepdim=True)
        return super().forward(hidden_states, **kwargs)


class Routed(Shared):
    part = "router"

    def __init__(self, config: Any, index: int) -> None:
        super().__init__(config, index)
        self.router = nn.Linear(32, 4)


class Recurrent(Routed):
    part = "mamba"

    def __init__(self, config: Any, index: int) -> None:
        super().__init__(config, index)
        self.mamba = nn.Linear(32, 4)


class PerLayer(LlamaDecoderLayer):
    """Adds what its model makes of the tokens."""

    def forward(self, hidden_states: torch.Tensor, per_layer_input: Any = None, **kwargs: Any) -> Any:
        return super().forward(hidden_states + per_layer_input, **kwargs)


class Hashed(LlamaDecoderLayer):
    """Scales by the token, as routers do that choose experts by it."""

    def forward(self, hidden_states: torch.Tensor, token_ids: Any = None, **kwargs: Any) -> Any:
        return super().forward(hidden_states * (1.0 + token_ids[..., None] % 2), **kwargs)


class Streams(LlamaDecoderLayer):
    """Hands on two streams."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        if hidden_states.dim() == 3:
            hidden_states = torch.stack([hidden_states, hidden_states], 2)
        mixed = super().forward(hidden_states.mean(2), **kwargs)
        return torch.stack([mixed, hidden_states[:, :, 0]], 2)


class StreamsUpTo(Streams):
    """And joins them in the last layer."""

    def __init__(self, config: Any, index: int) -> None:
        super().__init__(config, index)
        self.last = index == config.num_hidden_layers - 1

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        found = super().forward(hidden_states, **kwargs)
        return found.mean(2) if self.last else found


class Bidirectional(LlamaDecoderLayer):
    """Sees the whole row."""

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> Any:
        return super().forward(hidden_states + hidden_states.mean(1, keepdim=True), **kwargs)


def _handed_on(model: Any, ids: Any) -> dict[str, Any]:
    return {"handed_on": {}}


def _embedded(model: Any, ids: Any) -> dict[str, Any]:
    return {"per_layer_input": model.extra(ids)}


def _ids(model: Any, ids: Any) -> dict[str, Any]:
    return {"token_ids": ids}


MADE_UP: dict[str, tuple[type[nn.Module], Any, int, str]] = {
    "made_up_kv": (Shared, _handed_on, 2, "keys and values of layer 0"),
    "made_up_router": (Routed, _handed_on, 2, "the state of the router of layer 0"),
    "made_up_recurrent": (Recurrent, _handed_on, 2, "the recurrent state of layer 0"),
    "made_up_per_layer": (PerLayer, _embedded, 1, r"per-layer embeddings of the tokens \(argument 'per_layer_input'\)"),
    "made_up_hashed": (Hashed, _ids, 0, r"the tokens themselves \(argument 'token_ids'\)"),
    "made_up_streams": (
        StreamsUpTo,
        None,
        1,
        r"several streams of states \(what enters it has the shape \[2, 17, 2, 32\]\)",
    ),
}


def saved(name: str, folder: Path) -> LlamaForCausalLM:
    layer, before, *_ = MADE_UP[name]
    model = made_up(name, layer, before)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("at", ["its true size", "meta"])
@pytest.mark.parametrize("name", MADE_UP)
def test_a_family_that_nobody_has_listed_is_refused_by_the_name_of_the_missing_state(
    name: str, at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detect, "_FOUND", {})
    if at == "meta":
        monkeypatch.setattr(detect, "_SMALL", 0)
    saved(name, tmp_path)
    *_, index, said = MADE_UP[name]
    with pytest.raises(UnsupportedFamilyError, match=f"layer {index} needs more than.*{said}"):
        pp.extract(f"{tmp_path}[{index}]")


def test_only_layers_that_need_or_hand_on_another_state_are_refused(tmp_path: Path) -> None:
    model = saved("made_up_router", tmp_path)
    found = missing_states(model.config)
    assert set(found) == {2}
    streams = missing_states(saved("made_up_streams", tmp_path).config)
    assert set(streams) == {0, 1, 2} and "what leaves it" in streams[0]


def test_a_plain_family_that_nobody_has_listed_passes_and_conforms(tmp_path: Path) -> None:
    model = made_up("made_up_plain", LlamaDecoderLayer)
    model.save_pretrained(tmp_path)
    for index in range(3):
        layer: Any = pp.extract(f"{tmp_path}[{index}]")
        assert worst_error(model, layer, index) <= TOLERANCE
    assert "made_up_plain" not in FAMILIES
    assert pp.reduce(layer).card.reduced


def test_a_family_that_was_registered_is_examined_too(tmp_path: Path) -> None:
    saved("made_up_per_layer", tmp_path)
    pp.register_family("made_up_per_layer", Family())
    try:
        with pytest.raises(UnsupportedFamilyError, match="per-layer embeddings"):
            pp.extract(f"{tmp_path}[0]")
    finally:
        FAMILIES.pop("made_up_per_layer")


def test_a_model_that_reads_in_both_directions_is_no_decoder(tmp_path: Path) -> None:
    made_up("made_up_encoder", Bidirectional).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedFamilyError, match="reads in both directions"):
        pp.extract(f"{tmp_path}[0]")


def test_a_configuration_is_examined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = made_up("made_up_plain", LlamaDecoderLayer)
    missing_states(model.config)
    monkeypatch.setattr(detect, "_examine", None)
    assert missing_states(model.config) == {}


# Refused types, and what of the reason in the table their models show when they are run.
SHOWN = {
    "deepseek_v4": r"several streams.*the tokens themselves",
    "gemma3n_text": r"several streams.*keys and values of layer 1.*per-layer embeddings",
    "hy_v4": r"several streams.*the tokens chosen by the indexer of layer 1",
    "inkling2_text": r"states of layer 1 \(argument 'block_states'\)",
    "qwen4_exp_text": r"several streams.*the tokens themselves \(argument 'ple_input_ids'\)",
    "recurrent_gemma": r"something of its model|what its model does between its layers",
    "zaya": r"the state of the router of layer 2",
}


@pytest.mark.parametrize("at", ["its true size", "meta"])
@pytest.mark.parametrize("name", SHOWN)
def test_the_reason_for_which_a_type_is_refused_is_what_its_model_shows(
    name: str, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name in families.REFUSED
    monkeypatch.setattr(families, "REFUSED", {})
    monkeypatch.setattr(detect, "_FOUND", {})
    if at == "meta":
        monkeypatch.setattr(detect, "_SMALL", 0)
    found = missing_states(causal.config_of(name))
    assert any(re.search(SHOWN[name], said) for said in found.values()), found


@pytest.mark.parametrize("name", ["llama", "afmoe", "nemotron_h", "deepseek_v32"])
def test_families_of_the_table_lack_nothing(name: str) -> None:
    assert missing_states(causal.config_of(name)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in causal.causal_types() if causal.CONFIG_MAPPING[n].model_type in FAMILIES])
def test_every_family_of_the_table_lacks_nothing(name: str) -> None:
    assert missing_states(causal.config_of(name)) == {}
