"""Strategies that believe in neighbours: an even grid, and Thompson sampling, with a process over depth."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pifi_probe.selection.gp import Posterior, layer_posterior, model_number
from pifi_probe.selection.space import Candidate
from pifi_probe.selection.strategies.base import Base, register_strategy
from pifi_probe.selection.trials import Proposal

__all__ = ["Depths", "Grid", "Thompson"]


class Depths(Base):
    """Measures layers one after another with seed 0, and then the leaders with the other seeds."""

    proxy: str | None = None  # the fidelity whose values are the mean of the process

    def plan(self) -> Iterable[Proposal]:
        """Yield the sweep of the proxy, the exploration, the race, and then everything else."""
        yield from self.sweep()
        if self.waits(self.sweep()):
            return
        yield from self.explore(self.n_explored)
        if len(self.seen_first()) < min(self.n_explored, len(self.usable())):
            return
        yield from self.race()
        if self.waits(self.race()):
            return
        yield from self.after()

    def after(self) -> Iterable[Proposal]:
        """Yield what a budget beyond the default one buys: the other layers, and their other seeds."""
        yield from self.explore(len(self.usable()))
        for candidate in self.ranked():
            yield from self.all_seeds(candidate, self.fidelity, "the remaining seeds")

    @property
    def n_explored(self) -> int:
        """Layers that are run once."""
        return max(4, round(len(self.space.singles()) / 5))

    def sweep(self) -> list[Proposal]:
        """Return the cheap runs of all layers."""
        if self.proxy is None:
            return []
        why = f"cheap score of every layer ({self.proxy})"
        return [Proposal(one, self.proxy, seed, why) for seed in range(self.seeds) for one in self.space.singles()]

    def race(self) -> list[Proposal]:
        """Return the leaders' runs with the seeds beyond the first: the same seeds for all."""
        why = "race of the leaders, paired seeds"
        return [p for one in self.ranked()[:3] for p in self.all_seeds(one, self.fidelity, why, first=1)]

    def usable(self) -> list[Candidate]:
        """Return the single layers that have not failed."""
        fidelities = [self.fidelity, *([self.proxy] if self.proxy else [])]
        return [one for one in self.space.singles() if all(self.works(one, fidelity) for fidelity in fidelities)]

    def seen_first(self) -> list[Candidate]:
        """Return the layers that were run with seed 0, in the order of their runs."""
        done = [t.candidate for t in self.trials if (t.fidelity, t.seed, t.state) == (self.fidelity, 0, "complete")]
        return [one for one in done if one.design == "single"]

    def ranked(self) -> list[Candidate]:
        """Return the measured layers by their first run: the race's field stays as it was while it runs."""
        values = self.outcomes(self.fidelity)
        return sorted(self.seen_first()[: self.n_explored], key=lambda one: values.get(one, {}).get(0, np.inf))

    def explore(self, n: int) -> Iterable[Proposal]:
        """Yield the layers run so far, and those to run next."""
        done = self.seen_first()
        for one in done:
            yield Proposal(one, self.fidelity, 0)
        if len(done) < n:
            for one, why in self.next_layers(done):
                yield Proposal(one, self.fidelity, 0, why)

    def next_layers(self, done: list[Candidate]) -> Iterable[tuple[Candidate, str]]:
        """Return layers that were not run, the most interesting one first, each with a reason."""
        raise NotImplementedError(self.name)

    def posterior(self) -> Posterior | None:
        """Return what is believed of `usable` layers; None before two were run."""
        layers = self.usable()
        scores = self.proxy_scores(layers)
        return layer_posterior(layers, self.outcomes(self.fidelity), self.space, scores, self.seed + len(self.trials))

    def proxy_scores(self, layers: list[Candidate]) -> NDArray[np.float64] | None:
        """Return the cheap score of each layer, or None without one."""
        cheap = self.means(self.proxy) if self.proxy else {}
        return np.array([cheap[one] for one in layers]) if layers and all(one in cheap for one in layers) else None


@register_strategy
class Grid(Depths):
    """An even grid of layers, then the layer that the process over depth expects most of."""

    name = "grid"

    def next_layers(self, done: list[Candidate]) -> Iterable[tuple[Candidate, str]]:
        """Fill the widest gap of depth first; when a third of the layers is done, follow the process."""
        left = [one for one in self.usable() if one not in done]
        found = self.posterior()
        if found is not None and len(done) >= self.n_explored - 1:
            best = found.draws.min(0)  # optimistic
            layers = self.usable()
            left.sort(key=lambda one: float(best[layers.index(one)]))
            return [(one, "the process over depth expects most of it") for one in left]
        return [(one, "even grid over depth") for one in sorted(left, key=lambda one: -self._gap(one, done))]

    def _gap(self, one: Candidate, done: list[Candidate]) -> float:
        same = [other for other in done if model_number(other, self.space) == model_number(one, self.space)]
        if not same:
            return 2.0 - abs(self.space.depth(one) - 0.5)
        return min(abs(self.space.depth(one) - self.space.depth(other)) for other in same)


@register_strategy
class Thompson(Depths):
    """Thompson sampling from a process over depth, whose mean is the frozen-encoder sweep."""

    name, proxy = "thompson", "frozen"

    def next_layers(self, done: list[Candidate]) -> Iterable[tuple[Candidate, str]]:
        """Return the best layer of a joint draw; the first runs go to the best of the sweep and to far depths."""
        layers = self.usable()
        left = [one for one in layers if one not in done]
        found, scores = self.posterior(), self.proxy_scores(layers)
        if found is None or len(done) < 3:
            if scores is None or len(done) % 2:
                far = sorted(left, key=lambda one: -min((self._apart(one, other) for other in done), default=1.0))
                return [(one, "far from what was run") for one in far]
            by_score = sorted(left, key=lambda one: float(scores[layers.index(one)]))
            return [(one, "best of the cheap sweep") for one in by_score]
        draw = found.draws[np.random.default_rng([self.seed, len(done)]).integers(len(found.draws))]
        left.sort(key=lambda one: float(draw[layers.index(one)]))
        return [(one, "best in a draw from the process over depth") for one in left]

    def _apart(self, one: Candidate, other: Candidate) -> float:
        return abs(self.space.depth(one) - self.space.depth(other)) + (
            model_number(one, self.space) != model_number(other, self.space)
        )
