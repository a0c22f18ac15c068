"""Frozen layers side by side, of one model or of several."""

from __future__ import annotations

from torch import nn

from pifi_probe.errors import FrozenLayerError
from pifi_probe.layers.frozen import FrozenChain, FrozenLayer

__all__ = ["FrozenLayers", "FrozenParallel"]


class FrozenParallel(nn.Module):
    """Frozen branches side by side; made by ``a | b`` or ``pp.extract("M[3] | M[20]")``.

    It has no output of its own: `pifi_probe.plug_in` combines the branches with weights that are trained.

    Parameters
    ----------
    branches : list of FrozenLayer or FrozenChain
        Their hidden sizes may differ.
    """

    def __init__(self, branches: list[FrozenLayer | FrozenChain]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, *args: object, **kwargs: object) -> None:
        """Refuse: there is nothing yet that could add the branches up."""
        raise FrozenLayerError(
            "layers side by side have no output of their own",
            where=" | ".join(repr(branch) for branch in self.branches),
            next='combine them with pp.plug_in(..., combine="mix"), or call each branch by itself',
        )

    def __or__(self, other: FrozenLayer | FrozenChain | FrozenParallel) -> FrozenParallel:
        return FrozenParallel(branches_of(self) + branches_of(other))

    def __rshift__(self, other: object) -> None:
        raise FrozenLayerError(
            "layers side by side cannot stand in a series",
            where=">>",
            next="write A >> B | C >> D: each branch is a series of its own",
        )

    __rrshift__ = __rshift__

    def __repr__(self) -> str:
        return " | ".join(repr(branch) for branch in self.branches)


FrozenLayers = FrozenLayer | FrozenChain | FrozenParallel


def branches_of(layers: FrozenLayers) -> list[FrozenLayer | FrozenChain]:
    """Return what stands side by side; a layer or chain is one branch."""
    if not isinstance(layers, FrozenParallel):
        return [layers]
    return [branch for branch in layers.branches if isinstance(branch, (FrozenLayer, FrozenChain))]
