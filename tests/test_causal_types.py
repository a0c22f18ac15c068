"""Every causal model type of transformers conforms, layer by layer, or one table says why it is not offered."""

from __future__ import annotations

import pickle
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import pifi_probe as pp
from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import UnsupportedFamilyError
from pifi_probe.layers.cut import cut_config, donor_config
from pifi_probe.layers.families import FAMILIES, family_of, missing_state
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.reduce import reduction_error
from pifi_probe.layers.refused import REFUSED
from pifi_probe.layers.shell import around_layer, wholes
from pifi_probe.layers.stream import Batch, stream
from tests import causal
from tests.states import whole_states
from tests.test_conformity import TOLERANCE, padded_batch, worst_error

QUICK = ("afmoe", "lfm2_moe", "llama4_text", "nemotron_h", "qwen3_5_text", "minicpm3", "bamba")


def model_type_of(name: str) -> str:
    """Return the type that a configuration of a name says it is: gpt-sw3 is a gpt2."""
    kind: str = causal.CONFIG_MAPPING[name].model_type
    return kind


OFFERED = tuple(name for name in causal.causal_types() if model_type_of(name) in FAMILIES)


def test_every_causal_type_of_transformers_has_a_row_or_a_reason() -> None:
    said = {name for name in causal.causal_types() if model_type_of(name) in FAMILIES.keys() | REFUSED.keys()}
    assert said == set(causal.causal_types())
    assert not FAMILIES.keys() & REFUSED.keys()
    assert len(FAMILIES) >= 100


def check_type(name: str, folder: Path) -> None:
    """Compare every layer with itself inside of its model, and its single-token form with itself."""
    model = causal.model_of(name)
    with quiet_transformers():
        model.save_pretrained(folder)
    for index in range(int(model.config.num_hidden_layers)):
        layer = pp.extract(f"{folder}[{index}]")
        assert isinstance(layer, FrozenLayer)
        assert worst_error(model, layer, index) <= TOLERANCE, f"layer {index}"
        reduced = pp.reduce(layer)
        assert reduced is layer or reduction_error(layer, reduced) <= TOLERANCE
    layer.save(folder / "saved")
    assert FrozenLayer.load(folder / "saved").digest() == layer.digest()


@pytest.mark.parametrize("name", QUICK)
def test_types_whose_layers_depend_on_their_index_conform(name: str, tmp_path: Path) -> None:
    check_type(name, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in OFFERED if name not in QUICK])
def test_every_offered_type_conforms(name: str, tmp_path: Path) -> None:
    check_type(name, tmp_path)


@pytest.mark.parametrize("name", ["afmoe", "nemotron_h"])
def test_states_from_the_embeddings_on_equal_those_of_the_whole_model(name: str, tmp_path: Path) -> None:
    model = causal.model_of(name)
    with quiet_transformers():
        model.save_pretrained(tmp_path)
    ids, mask = padded_batch(17, "left", 99)
    expected = whole_states(model, ids, mask)

    def compare(point: int, batch: int, states: torch.Tensor) -> None:
        kept = mask.bool()
        torch.testing.assert_close(states[kept], expected[point][kept], rtol=1e-4, atol=1e-5)

    stream(open_checkpoint(str(tmp_path)), [Batch(ids, mask)], compare, model=name, progress=False)


def test_a_refused_type_says_why() -> None:
    config: Any = type("Config", (), {"model_type": "zaya"})
    with pytest.raises(UnsupportedFamilyError, match="the state of the router before"):
        family_of(config)
    config.model_type = "a_new_one"
    with pytest.raises(UnsupportedFamilyError, match="transformers has no base model for it"):
        family_of(config)


def test_layers_that_need_another_state_are_refused_by_its_name(tmp_path: Path) -> None:
    config = causal.config_of("gemma4_text")
    assert missing_state(config, 3) is None
    config.num_kv_shared_layers = 1
    assert missing_state(config, 2) is None
    assert "keys and values" in str(missing_state(config, 3))
    config.hidden_size_per_layer_input = 8
    assert "per-layer embeddings" in str(missing_state(config, 0))


def test_the_whole_model_is_built_once_for_all_layers() -> None:
    config = donor_config(causal.config_of("deepseek_v2"))
    around_layer(config, 0)
    built = wholes.built
    dense, routed = around_layer(config, 1), around_layer(config, 2)
    assert wholes.built == built
    assert dense.layers[0].state_dict().keys() != routed.layers[0].state_dict().keys()


def test_a_layer_of_61_is_built_in_less_than_a_second_after_the_first() -> None:
    config = causal.config_of("deepseek_v3")
    config.num_hidden_layers, config.n_routed_experts = 61, 256
    config = donor_config(config)
    around_layer(config, 60)
    before = time.process_time()  # of this process: others may keep the machine busy
    for index in (0, 5, 33):
        around_layer(config, index)
    assert time.process_time() - before < 1.0


def test_computed_lists_of_a_configuration_are_cut_and_can_be_pickled() -> None:
    config = causal.config_of("bamba")
    kinds = list(config.layers_block_type)
    for index, kind in enumerate(kinds):
        one = pickle.loads(pickle.dumps(cut_config(config, index)))
        assert list(one.layers_block_type) == [kind] and one.num_hidden_layers == 1
