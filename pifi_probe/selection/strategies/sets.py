"""Strategies for combinations and ladders: greedy forward selection, successive halving, and the default."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from pifi_probe.ranking import rank_agreement
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.strategies.base import Base, register_strategy
from pifi_probe.selection.strategies.depth import Thompson
from pifi_probe.selection.trials import Proposal

__all__ = ["Auto", "Greedy", "Halving"]

KEPT = 3  # extensions of a set that get full runs
AGREEMENT, MIN_SHARED = 0.7, 5  # what two fidelities must show before one prunes for the other


def may_prune(lower: Mapping[Candidate, float], upper: Mapping[Candidate, float]) -> bool:
    """Return whether Kendall's tau between two fidelities, over at least five shared candidates, reaches 0.7.

    Parameters
    ----------
    lower, upper : mapping of Candidate to float
        Mean value of each candidate at either fidelity.
    """
    shared = [candidate for candidate in lower if candidate in upper]
    if len(shared) < MIN_SHARED:
        return False
    found = rank_agreement([lower[c] for c in shared], [upper[c] for c in shared])
    return bool(found["kendall"] >= AGREEMENT)


@register_strategy
class Halving(Base):
    """All layers at the frozen fidelity, the better half at the short one, the better half of those at the full one.

    A fidelity drops candidates only as far as the budget demands: until its ranking is known to agree with that of
    the next one (`may_prune`), what it put last is run last instead of never.
    """

    name = "halving"
    ladder = ("frozen", "short", "full")

    def plan(self) -> Iterable[Proposal]:
        """Yield one fidelity after another; then, where one may not prune, what it had put last."""
        field = self.space.singles()
        late: list[Candidate] = []
        for height, fidelity in enumerate(self.ladder):
            seeds = self.seeds if fidelity in ("frozen", "full") else 1
            runs = [
                Proposal(one, fidelity, s, f"halving: {len(field)} on {fidelity}")
                for s in range(seeds)
                for one in field
            ]
            yield from runs
            if self.waits(runs):
                return
            if height + 1 < len(self.ladder):
                means = self.means(fidelity)
                order = sorted((one for one in field if one in means), key=lambda one: means[one])
                keep = max(1, math.ceil(len(order) / (2 if height else 4)))
                late, field = order[keep:] + late, order[:keep]
        if not may_prune(self.means("short"), self.means("full")):
            for one in late:
                yield from self.all_seeds(one, "full", "put last by a fidelity that is not known to rank well")


@register_strategy
class Greedy(Base):
    """Forward selection: the best single layer, then the best layer to add to it, as long as the NLL falls."""

    name = "greedy"

    def plan(self) -> Iterable[Proposal]:
        """Yield level after level: all at the frozen fidelity, the best few in full."""
        yield from self.levels(self.space.singles())

    def levels(self, field: list[Candidate]) -> Iterable[Proposal]:
        """Yield the runs of a level and of the levels that follow."""
        leader = math.inf
        while field:
            cheap = [
                p for one in field for p in self.all_seeds(one, "frozen", f"sets of {len(one.layers)}: cheap order")
            ]
            yield from cheap
            if self.waits(cheap):
                return
            means = self.means("frozen")
            best = sorted((one for one in field if one in means), key=lambda one: means[one])[:KEPT]
            runs = [p for one in best for p in self.all_seeds(one, "full", "the best of its length")]
            yield from runs
            if self.waits(runs):
                return
            full = self.means("full")
            known = [one for one in best if one in full]
            if not known or min(full[one] for one in known) >= leader:
                return
            winner = min(known, key=lambda one: full[one])
            leader, field = full[winner], self.space.extensions(winner)


@register_strategy
class Auto(Thompson):
    """The default: frozen-encoder sweep, Thompson sampling over depth, race of the leaders; then sets, if asked for.

    With 30 layers and 3 seeds it takes about 12 full runs and the sweep.
    """

    name = "auto"

    def after(self) -> Iterable[Proposal]:
        """Yield extensions of the best layer where sets may be chosen, then what more budget buys."""
        if self.space.max_layers > 1:
            means = self.means(self.fidelity)
            leaders = [one for one in self.ranked()[:3] if one in means]
            greedy = Greedy(self.space, self.seeds, self.seed)
            for trial in self.trials:
                greedy.observe(trial)
            if leaders:
                more = self.space.extensions(min(leaders, key=lambda one: means[one]))
                runs = list(greedy.levels(more))
                yield from runs
                if self.waits(runs):
                    return
        yield from super().after()
