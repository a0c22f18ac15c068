"""The exact single-token form of a layer: its value path (`pifi_probe.layers.value_path`), tested against the whole."""

from __future__ import annotations

import copy
import logging

import torch

from pifi_probe.escaping import one_line
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.value_path import reduce_structure

__all__ = ["reduce", "reduction_error"]

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5


def reduce(layer: FrozenLayer) -> FrozenLayer:
    """Keep only what one token needs: value path, output projection, norms and MLP.

    Parameters
    ----------
    layer : FrozenLayer
        Left as it is.

    Returns
    -------
    FrozenLayer
        With ``card.reduced`` True; or `layer` itself, with a warning in the log that says why, when its
        attention does not reduce (learned sinks, output gates, linear attention) or when the self-test on
        random inputs finds a relative error above 1e-5.

    Notes
    -----
    Source: book/methods.md, One token; the group sum of ``W_o`` over the heads that share a key-value head is exact.
    """
    if layer.card.reduced:
        return layer
    if layer.family.value is None:
        return _fall_back(layer, f"{layer.card.family} weighs even a single token")
    reduced = FrozenLayer(copy.deepcopy(layer.shell), layer.card, layer.named_by)
    try:
        reduce_structure(reduced)
        error = reduction_error(layer, reduced)
    except (AttributeError, TypeError, ValueError, RuntimeError, ZeroDivisionError):
        return _fall_back(layer, f"its {_kind(layer)} has no value path of the family's usual form")
    if not error <= TOLERANCE:
        return _fall_back(layer, f"the self-test found a relative error of {error:.1e}")
    return reduced.with_card(reduced=True, sha256=reduced.digest())


def _kind(layer: FrozenLayer) -> str:
    """Return what mixes tokens in a layer, as its family names it."""
    names = [type(module).__name__ for name, module in layer.block.named_children() if "norm" not in name]
    return names[0] if names else "layer"


def _fall_back(layer: FrozenLayer, reason: str) -> FrozenLayer:
    logger.warning("%s keeps its full form: %s", one_line(layer.card.spec), reason)
    return layer


def reduction_error(layer: FrozenLayer, reduced: FrozenLayer, n: int = 8) -> float:
    """Return the largest relative error of `reduced` over random inputs of three scales."""
    generator = torch.Generator().manual_seed(0)
    device = next(layer.parameters()).device
    worst = 0.0
    for scale in (0.1, 1.0, 10.0):
        states = (scale * torch.randn(n, 1, layer.hidden_size, generator=generator)).to(device)  # (n, 1, d_llm)
        with torch.no_grad():
            expected, got = layer(states), reduced(states)
        error = float((got - expected).norm() / expected.norm())
        worst = error if error != error else max(worst, error)
    return worst
