"""The registry of estimators, and the decorator that adds one."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence

from pifi_probe.errors import EstimatorError
from pifi_probe.registry import Registry, home_of, mistyped, told_how
from pifi_probe.scoring.estimators.base import Estimator, Permuted, Scored
from pifi_probe.scoring.estimators.memory import Memory, linear

__all__ = ["ESTIMATORS", "Estimator", "Scored", "estimator", "get", "names", "register_estimator", "resolve"]

ESTIMATORS: Registry[Estimator] = Registry(
    "estimator",
    EstimatorError,
    names=re.compile(r"[^\W\d]\w*"),
    such_as='a name for a function, such as "my_own"',
    reserved={"default": "it stands for several", "all": "it stands for several"},
)
_FACTS: Mapping[str, str] = {
    **dict.fromkeys(("title", "unit", "range", "cost", "source"), "a text"),
    **dict.fromkeys(("larger_is_better", "in_default", "null"), "True or False"),
    "memory": "callable",
}


@told_how(EstimatorError, '@register_estimator(title="...", unit="...", range="...", cost="...", source="...")')
def register_estimator(
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
    """Add an estimator; a decorator of a function.

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
        If the name is none or taken, a fact is of the wrong type, or what is decorated is no function, has no docstring
        or another signature.

    Examples
    --------
    >>> @register_estimator(title="Spread", unit="", range="[0, inf)", cost="N D", source="this example")
    ... def spread(features):
    ...     '''Standard deviation of all features.'''
    ...     return features.std()
    """

    def register(function: Callable[..., float | Scored]) -> Estimator:
        _check_kind(function)
        made = Estimator(
            name=function.__name__ if name is None else name,
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
        ESTIMATORS.check(made.name, made, home=home_of(function), otherwise="choose another name=")
        _check_facts(made)
        _check_function(made)
        ESTIMATORS.add(made.name, made, home=home_of(function))
        return made

    return register


estimator = register_estimator  # as it was called before


def get(name: str) -> Estimator:
    """Return the estimator of that name, or raise `EstimatorError` with the names there are."""
    return ESTIMATORS.named(name, "estimators")


def names(default_only: bool = False) -> list[str]:
    """Return the names of all estimators, those that are on by default first, or only of these."""
    default = [name for name, known in ESTIMATORS.items() if known.in_default]
    return default if default_only else default + [name for name in ESTIMATORS if name not in default]


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


def _check_kind(function: object) -> None:
    """Refuse what is no function with a name of its own."""
    try:
        named = callable(function) and inspect.signature(function) and getattr(function, "__name__", None)
    except (TypeError, ValueError):  # not one of Python's
        named = None
    if isinstance(function, type) or not named:
        raise EstimatorError(
            f"an estimator is a function, and this is {function!r}",
            where=home_of(function),
            next="write one: def my_own(features, labels), with a docstring, that returns a number",
        )


def _check_function(made: Estimator) -> None:
    """Refuse at registration what would only fail in the middle of a long pass."""
    where, name, function = home_of(made.function), made.name, made.function
    if not function.__doc__:
        raise EstimatorError(f"the estimator {name!r} has no docstring", where=where, next="say what it measures")
    parameters = list(inspect.signature(function).parameters.values())
    if not parameters or parameters[0].name != "features":
        raise EstimatorError(
            f"the estimator {name!r} does not take features", where=where, next="name the first argument features"
        )
    for parameter in parameters[1:]:
        given = parameter.name in ("labels", "other", "spectrum")
        variadic = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY)
        if variadic or (not given and parameter.default is parameter.empty):
            raise EstimatorError(
                f"nobody would pass the argument {parameter.name!r} of the estimator {name!r}",
                where=where,
                next="take labels, other and spectrum by these names, and give options a default",
            )


def _check_facts(made: Estimator) -> None:
    """Refuse facts of the wrong type, which would turn an order round or break a table."""
    wrong = mistyped(made, _FACTS)
    if not wrong and made.permuted is not None and not callable(made.permuted):
        wrong = f"has permuted={made.permuted!r}, which is not callable"
    least = made.min_per_class
    if not wrong and (not isinstance(least, int) or isinstance(least, bool) or least < 1):
        wrong = f"has min_per_class={least!r}, which is not a whole number from 1 on"
    if wrong:
        raise EstimatorError(
            f"the estimator {made.name!r} {wrong}",
            where=home_of(made.function),
            next="correct it: book/extending/estimator.md shows how",
        )
