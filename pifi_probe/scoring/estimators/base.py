"""What an estimator is, and the one way in which all of them are called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.estimators.memory import Memory, linear, refuse_too_large
from pifi_probe.scoring.labels import as_labels
from pifi_probe.scoring.spectrum import Spectrum, as_features

__all__ = ["Estimator", "Permuted", "Scored"]

Permuted = Callable[[Spectrum, NDArray[np.int64]], NDArray[np.float64]]


@dataclass(frozen=True)
class Scored:
    """A score and, where it is a mean over examples, its parts.

    Parameters
    ----------
    value : float
        In the estimator's unit and direction.
    per_example : ndarray, shape (N,), float64, optional
        In the order of the examples; their mean is `value`.
    """

    value: float
    per_example: NDArray[np.float64] | None = None

    @classmethod
    def mean(cls, per_example: NDArray[Any]) -> Scored:
        """Score the mean of parts, shape (N,)."""
        parts = np.asarray(per_example, dtype=np.float64)
        return cls(float(parts.mean()), parts)


@dataclass(frozen=True)
class Estimator:
    """One registered estimator; call it with features and labels.

    Parameters
    ----------
    name : str
        In the registry and as an attribute of ``pifi_probe.scoring.estimators``.
    title : str
        For plots and tables.
    unit : str
        "accuracy", "nats", ...
    larger_is_better : bool
        Direction.
    range : str
        Smallest and largest value, and what chance is.
    cost : str
        Operations for N examples of D features and K classes, beyond the shared eigendecomposition.
    source : str
        Who proposed it, and where this version differs.
    function : callable
        Takes `features` (N, D) first, then those of `labels` (N,) int64 codes, `other` (N, D2) and `spectrum`
        that it names, then options with defaults. Returns a float or `Scored`.
    in_default : bool
        Part of ``estimators="default"``.
    null : bool
        Cheap enough to be repeated with permuted labels.
    permuted : callable, optional
        ``(spectrum, labels (P, N)) -> (P,)``: the scores of P labellings at once.
    min_per_class : int
        Examples that each class must have; 2 where one is held out.
    memory : callable
        ``(N, D, K) -> bytes`` that it holds at most besides the features, the eigendecomposition included.
    """

    name: str
    title: str
    unit: str
    larger_is_better: bool
    range: str
    cost: str
    source: str
    function: Callable[..., float | Scored]
    in_default: bool = False
    null: bool = False
    permuted: Permuted | None = None
    min_per_class: int = 1
    memory: Memory = linear

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", _docstring(self))

    @property
    def parameters(self) -> tuple[str, ...]:
        """What the function takes, in its own order."""
        return tuple(inspect.signature(self.function).parameters)

    @property
    def family(self) -> str:
        """What is needed beyond features: "pair" (a second feature set), "supervised" (labels) or "label-free"."""
        if "other" in self.parameters:
            return "pair"
        return "supervised" if self.needs_labels else "label-free"

    @property
    def needs_labels(self) -> bool:
        """Whether labels are used; where they are not, they may be passed all the same."""
        return "labels" in self.parameters

    def __call__(
        self,
        features: ArrayLike,
        labels: Iterable[Any] | None = None,
        *,
        other: ArrayLike | None = None,
        spectrum: Spectrum | None = None,
        **options: Any,
    ) -> float:
        """Return the score as a float; arguments as in `score`."""
        return self.score(features, labels, other=other, spectrum=spectrum, **options).value

    def score(
        self,
        features: ArrayLike,
        labels: Iterable[Any] | None = None,
        *,
        other: ArrayLike | None = None,
        spectrum: Spectrum | None = None,
        **options: Any,
    ) -> Scored:
        """Score features.

        Parameters
        ----------
        features : array_like, shape (N, D)
            One vector for each example.
        labels : iterable, length N, optional
            Strings, whole numbers or booleans.
        other : array_like, shape (N, D2), optional
            A second feature set of the same examples, for estimators of pairs.
        spectrum : Spectrum, optional
            ``Spectrum.of(features)``, if it is known already; features are not checked again then.
        **options
            The estimator's own.

        Returns
        -------
        Scored

        Raises
        ------
        EstimatorError
            Features, labels or options are unusable, more memory is needed than is free, or the score is not finite.
        """
        self._check_options(options)
        array = np.asarray(features) if spectrum is not None else as_features(features)
        arguments: dict[str, Any] = dict(options)
        if self.needs_labels:
            arguments["labels"] = self._codes(labels, len(array))
        if self.family == "pair":
            arguments["other"] = self._other(other, len(array))
        n_classes = int(arguments["labels"].max()) + 1 if self.needs_labels else 1
        refuse_too_large(self.name, self.memory, len(array), array.shape[1], n_classes)
        if "spectrum" in self.parameters:
            arguments["spectrum"] = spectrum = spectrum or Spectrum.of(array)
        if spectrum is not None and (spectrum.n, spectrum.dim) != array.shape:
            raise EstimatorError(
                f"the spectrum is of features ({spectrum.n}, {spectrum.dim}), not {array.shape}",
                next="pass Spectrum.of(features)",
            )
        result = self.function(array, **arguments)
        scored = result if isinstance(result, Scored) else Scored(float(result))
        if not np.isfinite(scored.value):
            raise EstimatorError(f"{self.name} gave {scored.value}", next="look for duplicate or constant features")
        return scored

    def _codes(self, labels: Iterable[Any] | None, n: int) -> NDArray[np.int64]:
        if labels is None:
            raise EstimatorError(f"{self.name} needs labels", next="pass one label for each example")
        return as_labels(labels, n=n, min_per_class=self.min_per_class)

    def _other(self, other: ArrayLike | None, n: int) -> NDArray[np.floating]:
        if other is None:
            raise EstimatorError(f"{self.name} compares two feature sets", next="pass other=, shape (N, D2)")
        array = as_features(other, name="other features")
        if len(array) != n:
            raise EstimatorError(
                f"{len(array)} other features for {n} examples", next="pass both for the same examples"
            )
        return array

    def _check_options(self, options: dict[str, Any]) -> None:
        own = [name for name in self.parameters[1:] if name not in ("labels", "other", "spectrum")]
        for name in options:
            if name not in own:
                raise EstimatorError(
                    f"{self.name} has no option {name!r}", next=f"its options are {', '.join(own) or 'none'}"
                )


def _docstring(made: Estimator) -> str:
    about = inspect.cleandoc(made.function.__doc__ or "")
    needs = ["features : array_like, shape (N, D)"]
    needs += ["labels : iterable, length N"] if made.needs_labels else []
    needs += ["other : array_like, shape (N, D2)"] if made.family == "pair" else []
    needs += ["spectrum : Spectrum, optional"] if "spectrum" in made.parameters else []
    direction = "larger" if made.larger_is_better else "smaller"
    facts = f"Range: {made.range}. Direction: {direction} is better. Cost: {made.cost}. Source: {made.source}."
    return "\n".join([about, "", "Parameters", "----------", *needs, "", "Returns", "-------", "float", "", facts])
