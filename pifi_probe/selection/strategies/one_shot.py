"""One softmax over all layers, trained once, and full runs of those with the largest weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from pifi_probe.selection.space import ONE_SHOT, Candidate
from pifi_probe.selection.strategies.base import Base, register_strategy
from pifi_probe.selection.trials import Proposal

__all__ = ["OneShot"]

KEPT = 2


@register_strategy
class OneShot(Base):
    """The architecture search that the paper suggests: all layers of a model at once, mixed by learnt weights."""

    name = "one-shot"

    def plan(self) -> Iterable[Proposal]:
        """Yield one mixed run for each model and seed, then full runs of the layers with the largest weights."""
        mixes = [
            self._mix(name, indices) for (name, _), indices in zip(self.space.models, self.space.layers, strict=True)
        ]
        runs = [p for mix in mixes for p in self.all_seeds(mix, "frozen", "one softmax over all layers")]
        yield from runs
        if self.waits(runs):
            return
        shares = self.shares()
        for layer in sorted(shares, key=lambda layer: -shares[layer])[:KEPT]:
            yield from self.all_seeds(Candidate((layer,)), self.fidelity, f"softmax weight {shares[layer]:.3f}")

    def shares(self) -> dict[str, float]:
        """Return the summed weight of each layer."""
        found: dict[str, float] = defaultdict(float)
        for trial in self.trials:
            if trial.candidate.surveys and trial.outcome is not None and trial.outcome.result:
                for layer, share in trial.outcome.result.get("weights", {}).items():
                    found[layer] += share
        return dict(found)

    def choose(self) -> Candidate | None:
        """Return the best full run; before the first, the layer with the largest weight."""
        chosen = super().choose()
        shares = self.shares()
        return Candidate((max(shares, key=lambda layer: shares[layer]),)) if chosen is None and shares else chosen

    def _mix(self, name: str, indices: tuple[int, ...]) -> Candidate:
        layers = tuple(f"{name}[{i}]" for i in indices)
        return Candidate(layers, design=ONE_SHOT if len(layers) > 1 else "single")
