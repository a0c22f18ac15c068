"""Strategies without a model: a fixed layer, random layers, and all of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pifi_probe.selection.space import Candidate
from pifi_probe.selection.strategies.base import Base, register_strategy
from pifi_probe.selection.trials import Proposal

__all__ = ["Exhaustive", "Fast", "Last", "Middle", "Random", "TwoThirds"]


class _Fixed(Base):
    depth = 1.0

    def plan(self) -> Iterable[Proposal]:
        layer = min(self.space.singles(), key=lambda one: abs(self.space.depth(one) - self.depth))
        return self.all_seeds(layer, self.fidelity, f"the layer at depth {self.depth:.2f}, by rule")


@register_strategy
class Last(_Fixed):
    """The last layer."""

    name = "last"


@register_strategy
class TwoThirds(_Fixed):
    """The layer at two thirds of the depth."""

    name, depth = "two-thirds", 2 / 3


@register_strategy
class Middle(_Fixed):
    """The layer in the middle."""

    name, depth = "middle", 0.5


@register_strategy
class Random(Base):
    """Candidates in random order, each with all seeds."""

    name = "random"

    def plan(self) -> Iterable[Proposal]:
        """Yield the candidates in an order drawn once."""
        candidates = list(self.space.all())
        for place in np.random.default_rng(self.seed).permutation(len(candidates)):
            yield from self.all_seeds(candidates[place], self.fidelity, "drawn at random")


@register_strategy
class Exhaustive(Base):
    """All candidates with seed 0, then with seed 1, and so on."""

    name = "exhaustive"

    def plan(self) -> Iterable[Proposal]:
        """Yield every candidate with every seed, seed by seed."""
        candidates = list(self.space.all())
        for seed in range(self.seeds):
            for candidate in candidates:
                yield Proposal(candidate, self.fidelity, seed, f"all candidates, seed {seed}")


@register_strategy
class Fast(Exhaustive):
    """All single layers with a frozen encoder, and nothing else."""

    name, fidelity = "fast", "frozen"

    def plan(self) -> Iterable[Proposal]:
        """Yield the sweep."""
        candidates: list[Candidate] = self.space.singles()
        for seed in range(self.seeds):
            for candidate in candidates:
                yield Proposal(candidate, self.fidelity, seed, f"frozen-encoder sweep, seed {seed}")
