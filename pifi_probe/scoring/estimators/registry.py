"""The registry of estimators, and the decorator that adds one."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.estimators.base import Estimator, Permuted, Scored
from pifi_probe.scoring.estimators.memory import Memory, linear

__all__ = ["Estimator", "Scored", "estimator", "get", "names", "resolve"]

_REGISTRY: dict[str, Estimator] = {}


def estimator(
    *,
    title: str,
    unit: str,
    range: str,
    cost: str,
    source: str,
    name: str | None = None,
    larger_is_better: bool = True,
    in_default: bool = False,
    null: bool = False,
    permuted: Permuted | None = None,
    min_per_class: int = 1,
    memory: Memory = linear,
) -> Callable[[Callable[..., float | Scored]], Estimator]:
    """Register a function as an estimator.

    Parameters
    ----------
    title, unit, range, cost, source, larger_is_better, in_default, null, permuted, min_per_class, memory
        As in `Estimator`. A given `permuted` implies `null`.
    name : str, optional
        The function's name by default.

    Returns
    -------
    callable
        A decorator that gives the `Estimator`.

    Raises
    ------
    EstimatorError
        The name is taken, the function has no docstring or another signature.

    Examples
    --------
    >>> @estimator(title="Spread", unit="", range="[0, inf)", cost="N D", source="this example")
    ... def spread(features):
    ...     '''Standard deviation of all features.'''
    ...     return features.std()
    """

    def register(function: Callable[..., float | Scored]) -> Estimator:
        made = Estimator(
            name=name or function.__name__,
            title=title,
            unit=unit,
            larger_is_better=larger_is_better,
            range=range,
            cost=cost,
            source=source,
            function=function,
            in_default=in_default,
            null=null or permuted is not None,
            permuted=permuted,
            min_per_class=min_per_class,
            memory=memory,
        )
        _check_function(made)
        _REGISTRY[made.name] = made
        return made

    return register


def get(name: str) -> Estimator:
    """Return the estimator of that name, or raise `EstimatorError` with the names that are near."""
    if name not in _REGISTRY:
        near = difflib.get_close_matches(str(name), _REGISTRY, n=3)
        known = f"did you mean {' or '.join(near)}?" if near else f"choose from {', '.join(_REGISTRY)}"
        raise EstimatorError(f"there is no estimator {name!r}", next=known)
    return _REGISTRY[name]


def names(default_only: bool = False) -> list[str]:
    """Return the names of all estimators, those that are on by default first, or only of these."""
    default = [name for name, known in _REGISTRY.items() if known.in_default]
    return default if default_only else default + [name for name in _REGISTRY if name not in default]


def resolve(wanted: str | Sequence[str]) -> list[Estimator]:
    """Return estimators by name.

    Parameters
    ----------
    wanted : str or sequence of str
        "default", "all", one name, several with commas between, or a list of names.

    Returns
    -------
    list of Estimator
        In the given order, each once.

    Raises
    ------
    EstimatorError
        A name is unknown, or none is given.
    """
    if isinstance(wanted, str):
        if wanted in ("default", "all"):
            return [get(name) for name in names(default_only=wanted == "default")]
        wanted = [name.strip() for name in wanted.split(",") if name.strip()]
    if not wanted:
        raise EstimatorError("no estimator was named", next='pass "default", "all" or a list of names')
    return [get(name) for name in dict.fromkeys(wanted)]


def _check_function(made: Estimator) -> None:
    """Refuse at registration what would only fail in the middle of a long pass."""
    where = f"{made.function.__module__}.{made.function.__qualname__}"
    known = _REGISTRY.get(made.name)
    if known is not None and _home(known) != _home(made):  # a notebook cell may be run again
        raise EstimatorError(f"there is an estimator {made.name!r} already", where=where, next="choose another name=")
    if made.name in ("default", "all") or not made.name.isidentifier():
        raise EstimatorError(f"{made.name!r} cannot name an estimator", where=where, next="choose an identifier")
    if not made.function.__doc__:
        raise EstimatorError(f"the estimator {made.name!r} has no docstring", where=where, next="say what it measures")
    parameters = list(inspect.signature(made.function).parameters.values())
    if not parameters or parameters[0].name != "features":
        raise EstimatorError(
            f"the estimator {made.name!r} does not take features", where=where, next="name the first argument features"
        )
    for parameter in parameters[1:]:
        given = parameter.name in ("labels", "other", "spectrum")
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY)
        if variadic or (not given and parameter.default is parameter.empty):
            raise EstimatorError(
                f"nobody would pass the argument {parameter.name!r} of the estimator {made.name!r}",
                where=where,
                next="take labels, other and spectrum by these names, and give options a default",
            )


def _home(made: Estimator) -> tuple[str, str]:
    return made.function.__module__, made.function.__qualname__
