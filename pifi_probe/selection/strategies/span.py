"""The strategy for aligned chains: rank all by what they promise, read the best ones out, train the last few."""

from __future__ import annotations

from collections.abc import Iterable

from pifi_probe.selection.space import Candidate
from pifi_probe.selection.strategies.base import Base, register_strategy
from pifi_probe.selection.trials import Proposal

__all__ = ["Span"]

READ, TRAINED = 6, 2


@register_strategy
class Span(Base):
    """All chains by their headroom, the best six behind the frozen encoder, the best two in full with all seeds."""

    name = "span"

    def plan(self) -> Iterable[Proposal]:
        """Yield the three rounds one after another."""
        chains = [one for one in self.space.all() if one.design in ("single", "serial")]
        runs = [Proposal(one, "estimator", 0, "what the chain promises by its headroom") for one in chains]
        yield from runs
        if self.waits(runs):
            return
        read = self._best("estimator", READ)
        runs = [p for one in read for p in self.all_seeds(one, "frozen", "among the most promising chains")]
        yield from runs
        if self.waits(runs):
            return
        for one in self._best("frozen", TRAINED):
            yield from self.all_seeds(one, "full", "among the best chains behind the frozen encoder")

    def _best(self, fidelity: str, n: int) -> list[Candidate]:
        means = self.means(fidelity)
        return sorted(means, key=lambda one: (means[one], len(one.layers)))[:n]
