"""The matched controls that keep the layer's shape and take its knowledge away, or let it learn."""

from __future__ import annotations

import copy
import hashlib

import torch

from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.reduce import reduce
from pifi_probe.vocabulary import TWINS

__all__ = ["make_variant", "twin_of"]


def make_variant(layer: FrozenLayer, variant: str, *, single_token: bool, seed: int = 0) -> FrozenLayer:
    """Return the layer, or the control made from it.

    Parameters
    ----------
    layer : FrozenLayer
        Left as it is.
    variant : {"real", "random", "shuffled", "unfrozen"}
        ``"random"``: each matrix drawn from a normal distribution with that matrix's mean and standard
        deviation, each vector replaced by its mean. ``"shuffled"``: the entries of each tensor permuted, which
        keeps its distribution and destroys its structure. ``"unfrozen"``: the same weights, trainable.
    single_token : bool
        Reduce to the exact single-token path (not for ``"unfrozen"``, whose weights must stay those of the
        donor's layer).
    seed : int
        Of the random draws.

    Notes
    -----
    Source: book/methods.md, Twins and controls.
    """
    if variant == "unfrozen":
        return copy.deepcopy(layer).unfreeze().with_card(variant="unfrozen")
    if variant in TWINS:
        layer = copy.deepcopy(layer)
        generator = torch.Generator().manual_seed(seed)
        change = _redrawn if variant == "random" else _shuffled
        layer.assign({name: change(tensor, generator) for name, tensor in layer.tensors()})
        layer.with_card(variant=variant, variant_seed=seed, sha256=layer.digest())
    return reduce(layer) if single_token else layer


def twin_of(layer: FrozenLayer, variant: str, seed: int) -> FrozenLayer:
    """Return the twin of a layer in its full form, drawn so that no two layers of a donor share a draw.

    Parameters
    ----------
    layer : FrozenLayer
        Left as it is; its index is part of the seed.
    variant : {"random", "shuffled"}
    seed : int

    Returns
    -------
    FrozenLayer
        Whose card names the variant and its seed.
    """
    own = int.from_bytes(hashlib.sha256(f"{seed}:layer {layer.card.index}".encode()).digest()[:6], "big")
    return make_variant(layer, variant, single_token=False, seed=own)


def _redrawn(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    values = tensor.double()  # sums in float32 depend on the number of threads
    if tensor.dim() < 2:
        return torch.full_like(tensor, float(values.mean()))
    drawn = torch.randn(tensor.shape, generator=generator) * float(values.std()) + float(values.mean())
    return drawn.to(device=tensor.device, dtype=tensor.dtype)


def _shuffled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
    return tensor.reshape(-1)[order].view(tensor.shape)
