"""One layer out of every format of quantised weights is the layer of the model that the file stands for."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pifi_probe as pp
from pifi_probe.layers.frozen import FrozenLayer
from tests.quantised import SCHEMES, Tensors, save_quantised


def layer(spec: str | Path, dtype: str = "auto") -> FrozenLayer:
    found = pp.extract(f"{spec}[1]", dtype=dtype)
    assert isinstance(found, FrozenLayer)
    return found


def assert_holds(found: FrozenLayer, weights: Tensors, tolerance: float = 1e-6) -> None:
    """Assert that a layer holds the weights of layer 1 of a model, by their names there."""
    expected = {name.partition(".layers.1.")[2]: tensor for name, tensor in weights.items() if ".layers.1." in name}
    held = {name.partition(".layers.0.")[2]: tensor for name, tensor in found.state_dict().items()}
    assert held.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(held[name], tensor, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("name", SCHEMES)
def test_a_layer_is_the_one_that_the_file_stands_for(name: str, tmp_path: Path) -> None:
    weights = save_quantised(tmp_path, SCHEMES[name])
    found = layer(tmp_path)
    assert_holds(found, weights)
    assert SCHEMES[name].label in str(found.card.quantised)
    assert found.card.bits_per_weight is not None
    assert found.card.bits_per_weight < 17
