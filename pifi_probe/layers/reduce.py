"""The exact single-token form of a layer: its value path (`pifi_probe.layers.value_path`), tested against the whole."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterable, Iterator

import torch

from pifi_probe.escaping import one_line
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.value_path import reduce_structure

__all__ = ["largest_relative_error", "probes", "reduce", "reduction_error"]

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
    except torch.OutOfMemoryError:
        raise
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
    """Return the largest relative error of `reduced` over random inputs of three scales; NaN where one is NaN."""
    device = next(layer.parameters()).device
    inputs = (states.to(device) for states in probes(n, 1, layer.hidden_size))  # (n, 1, d_llm)
    return largest_relative_error(layer, reduced, inputs)


def probes(*shape: int) -> Iterator[torch.Tensor]:
    """Yield the random inputs of three scales, float32, on which an exact form is compared with what it stands for."""
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        yield scale * torch.randn(*shape, generator=generator)


@torch.no_grad()
def largest_relative_error(
    before: Callable[[torch.Tensor], torch.Tensor],
    after: Callable[[torch.Tensor], torch.Tensor],
    inputs: Iterable[torch.Tensor],
) -> float:
    """Return the largest ``|after(x) - before(x)| / |before(x)|`` (Euclidean norms of a whole output).

    NaN where one of them is NaN: outputs that are no numbers are never alike. Outputs that are all zero are alike where
    both are.
    """
    worst = 0.0
    for states in inputs:
        expected = before(states)
        size, gap = float(expected.norm()), float((after(states) - expected).norm())
        error = gap / size if size else (0.0 if gap == 0 else math.inf)
        if math.isnan(error):
            return error
        worst = max(worst, error)
    return worst
