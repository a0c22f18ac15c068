"""Optuna's samplers as strategies: they pick a model and a depth."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pifi_probe.selection.space import Candidate
from pifi_probe.selection.strategies.base import Base, register_strategy
from pifi_probe.selection.trials import Proposal

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

__all__ = ["NSGA2", "TPE"]


class _Sampled(Base):
    """Each layer that the sampler picks is run with one seed; a second pick of it brings its next seed."""

    def plan(self) -> Iterable[Proposal]:
        singles = [one for one in self.space.singles() if self.works(one, self.fidelity)]
        counts = self.counts(self.fidelity)
        open_ = [one for one in singles if counts.get(one, 0) < self.seeds]
        if not open_:
            return
        picked = singles[self._pick(singles)]
        order = sorted(open_, key=lambda one: (one != picked, abs(singles.index(one) - singles.index(picked))))
        for one in order:
            yield from self.all_seeds(one, self.fidelity, f"picked by Optuna's {self.name} sampler")

    def _pick(self, singles: list[Candidate]) -> int:
        """Return the place of the layer that the sampler asks for next."""
        import optuna

        distribution = optuna.distributions.IntDistribution(0, max(len(singles) - 1, 0))
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            study = optuna.create_study(sampler=self._sampler())
            for candidate, runs in self.outcomes(self.fidelity).items():
                for value in runs.values() if candidate in singles else ():
                    study.add_trial(
                        optuna.trial.create_trial(
                            params={"place": singles.index(candidate)},
                            distributions={"place": distribution},
                            value=value,
                        )
                    )
            return int(study.ask({"place": distribution}).params["place"])
        finally:
            optuna.logging.set_verbosity(verbosity)

    def _sampler(self) -> BaseSampler:
        raise NotImplementedError(self.name)


@register_strategy
class TPE(_Sampled):
    """Tree-structured Parzen estimator."""

    name = "tpe"

    def _sampler(self) -> BaseSampler:
        import optuna

        return optuna.samplers.TPESampler(n_startup_trials=5, seed=self.seed + len(self.trials))


@register_strategy
class NSGA2(_Sampled):
    """Non-dominated sorting genetic algorithm II."""

    name = "nsga2"

    def _sampler(self) -> BaseSampler:
        import optuna

        return optuna.samplers.NSGAIISampler(population_size=5, seed=self.seed + len(self.trials))
