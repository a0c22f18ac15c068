"""Strategies: what a search runs next, from what it has seen; listed in the order of the imports below."""

from __future__ import annotations

from typing import Any

from pifi_probe.errors import SearchError
from pifi_probe.registry import home_of
from pifi_probe.selection.space import Space
from pifi_probe.selection.strategies.base import STRATEGIES, Base, register_strategy

# isort: off
from pifi_probe.selection.strategies import plain as plain
from pifi_probe.selection.strategies import depth as depth
from pifi_probe.selection.strategies import sets as sets
from pifi_probe.selection.strategies import one_shot as one_shot
from pifi_probe.selection.strategies import optuna_samplers as optuna_samplers
from pifi_probe.selection.strategies import span as span

# isort: on

__all__ = ["STRATEGIES", "Base", "make_strategy", "register_strategy"]


def make_strategy(name: str, space: Space, *, seeds: int = 3, **options: Any) -> Base:
    """Return a strategy that has seen nothing yet.

    Parameters
    ----------
    name : str
        A key of `STRATEGIES`.
    space : Space
    seeds : int
        Runs of a candidate at the fidelity that decides.
    **options
        ``seed`` of the strategy's own random numbers.

    Raises
    ------
    SearchError
        If there is no such strategy or option, or it is made without what `Base` sets.
    """
    made = STRATEGIES.named(name, "strategy")
    unknown = sorted(options.keys() - {"seed"})
    if unknown:
        raise SearchError(f"unknown options: {', '.join(unknown)}", where=f"strategy {name}", next="give seed= or none")
    found = made(space, seeds, **options)
    if absent := sorted(vars(Base(space, seeds)).keys() - vars(found).keys()):
        raise SearchError(
            f"the strategy {name!r} has no {absent[0]} once it is made: its __init__() does not call that of Base",
            where=home_of(made),
            next="call super().__init__(space, seeds, seed) in it",
        )
    return found
