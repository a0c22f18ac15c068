"""`Candidate` and `Space`: what a search may choose from."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pifi_probe.bounds import MAX_LAYERS
from pifi_probe.errors import LayerIndexError, SearchError
from pifi_probe.escaping import one_line
from pifi_probe.layers.spec import LayerSpec, parse
from pifi_probe.reading import typed
from pifi_probe.vocabulary import BARE, COMBINATIONS, CONTROLS, TWINS, in_words_of_today

__all__ = ["DESIGNS", "ONE_SHOT", "Candidate", "Space", "place_of"]

DESIGNS = ("single", *COMBINATIONS)
ONE_SHOT = "one-shot"  # all layers of a model at once, mixed by a softmax: scores them, is never chosen
_SERIES = ("serial", "gated-serial")
_ONE_WIDTH = (*_SERIES, "mix", "gated")  # designs whose layers share L_in, so that their widths must agree
MAX_CANDIDATES = 100_000  # that are made at once: about 1 kB each
Modes = tuple[tuple[str, object], ...]


@dataclass(frozen=True)
class _StoredCandidate:
    layers: list[str]
    design: str
    modes: dict[str, str | int | float | bool | None]
    control: str | None


@dataclass(frozen=True)
class _StoredSpace:
    models: list[tuple[str, int]]
    layers: list[list[int]]
    max_length: int  # of a combination, `Space.max_layers`; the stored name
    designs: list[str]
    modes: list[dict[str, str | int | float | bool | None]]


@dataclass(frozen=True, repr=False)
class Candidate:
    """What one full run would plug in.

    Parameters
    ----------
    layers : tuple of str
        Single layers, ``"MODEL[i]"`` each, with i counted from the start; the first one is the base that a
        combination starts from. Empty for the controls "vanilla" and "linear".
    design : {"single", "serial", "gated-serial", "mix", "unshared", "gated", "one-shot"}
        How several layers are combined.
    modes : tuple of (str, object)
        Overrides of the wiring, such as ``(("scale", "none"),)``, sorted by name.
    control : str or None
        A matched control: measured next to the candidates, never chosen.
    """

    layers: tuple[str, ...]
    design: str = "single"
    modes: Modes = ()
    control: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "modes", tuple(sorted(self.modes)))
        if self.design not in (*DESIGNS, ONE_SHOT):
            raise SearchError(
                f"unknown design {self.design!r}", where="design", next=f"use one of {', '.join(DESIGNS)}"
            )
        if self.control not in (None, *CONTROLS):
            raise SearchError(
                f"unknown control {self.control!r}", where="control", next=f"use one of {', '.join(CONTROLS)}"
            )
        if not self.layers and self.control not in BARE:
            raise SearchError("a candidate has no layer", next="name at least one, such as smollm2-135m[-1]")
        if (len(self.layers) > 1) == (self.design == "single"):
            raise SearchError(
                f"{len(self.layers)} layer(s) do not make the design {self.design!r}",
                where=" | ".join(self.layers),
                next='use "single" for one layer and another design for several',
            )

    def __str__(self) -> str:
        return self.label

    def __repr__(self) -> str:
        return one_line(self.label)

    @property
    def surveys(self) -> bool:
        """Whether it trains all its layers at once, to score each of them: such a candidate is never chosen itself."""
        return self.design == ONE_SHOT

    @property
    def spec(self) -> str:
        """The layers in the grammar of layer specifications; empty for controls without one."""
        return (" >> " if self.design in _SERIES else " | ").join(self.layers)

    @property
    def label(self) -> str:
        """Name for people, such as ``"smollm2-135m[3] | smollm2-135m[20] (mix)"``."""
        design = "" if self.design in ("single", "serial") else f"({self.design})"
        modes = ", ".join(f"{name}={value}" for name, value in self.modes)
        return " ".join(part for part in (self.control, self.spec, design, modes) if part)

    @property
    def key(self) -> str:
        """Name for files: letters, digits, dots and hyphens, equal for equal candidates in every process."""
        digest = hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True, default=str).encode()).hexdigest()[:10]
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", self.label).strip("-.")[:60].strip("-.").lower()
        return f"{slug}-{digest}" if slug else digest

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return {
            "layers": list(self.layers),
            "design": self.design,
            "modes": dict(self.modes),
            "control": self.control,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Candidate:
        """Rebuild a candidate from `to_dict`.

        Raises
        ------
        Refused
            If a value is missing or of another type; a ValueError.
        SearchError, SpecError
            If its layers do not make up a candidate.
        """
        known = typed(_StoredCandidate, values)
        for layer in known.layers if known.design != ONE_SHOT else ():
            place_of(layer)
        return cls(tuple(known.layers), known.design, tuple(in_words_of_today(known.modes).items()), known.control)


@dataclass(frozen=True)
class Space:
    """The layers, designs and modes of a search.

    Parameters
    ----------
    models : tuple of (str, int)
        Names of the large models and their numbers of layers.
    layers : tuple of tuple of int
        For each model the indices to choose from, negative ones counted from the end; empty: all layers of all models.
    max_layers : int
        The most layers in a combination; 1 searches single layers.
    designs : tuple of str
        Allowed designs of combinations.
    modes : tuple of modes
        Alternatives to choose between, each as in `Candidate`; ``((),)`` is the wiring as it is.

    Raises
    ------
    SearchError
        If nothing is left to choose from, or a name is unknown.
    LayerIndexError
        If an index is outside its model.
    """

    models: tuple[tuple[str, int], ...]
    layers: tuple[tuple[int, ...], ...] = ()
    max_layers: int = 1
    designs: tuple[str, ...] = ("mix",)
    modes: tuple[Modes, ...] = ((),)

    def __post_init__(self) -> None:
        if not self.models or not self.modes or self.max_layers < 1:
            raise SearchError(
                "the space of the search is empty", next="give a model, its layers, and max_layers of at least 1"
            )
        for name, n in self.models:
            if not 1 <= n <= MAX_LAYERS:
                raise SearchError(
                    f"a model of {n:,} layers", where=name, next=f"give a model of 1 to {MAX_LAYERS:,} layers"
                )
        if len({name for name, _ in self.models}) < len(self.models):
            raise SearchError("a model is named twice", where=str([name for name, _ in self.models]))
        unknown = [design for design in self.designs if design not in DESIGNS[1:]]
        if unknown or (self.max_layers > 1 and not self.designs):
            raise SearchError(
                f"unknown designs: {', '.join(unknown) or 'none given'}",
                where="combine",
                next=f"use some of {', '.join(DESIGNS[1:])}",
            )
        object.__setattr__(self, "layers", self._indices())
        object.__setattr__(self, "modes", tuple(dict.fromkeys(tuple(sorted(modes)) for modes in self.modes)))
        self._refuse_too_many(self.count(1))

    def _indices(self) -> tuple[tuple[int, ...], ...]:
        asked: Sequence[Sequence[int]] = self.layers or [range(n) for _, n in self.models]
        if len(asked) != len(self.models):
            raise SearchError(
                f"layers are given for {len(asked)} models, and there are {len(self.models)}",
                where="layers",
                next="give one list of indices for each model",
            )
        found = []
        for (name, n), indices in zip(self.models, asked, strict=True):
            outside = [i for i in indices if not -n <= i < n]
            if outside or not indices:
                raise LayerIndexError(
                    f"layer {outside[0]} is outside a model of {n} layers" if outside else "no layer is named",
                    where=f"layers of {name}",
                    next=f"use indices from 0 to {n - 1}",
                )
            found.append(tuple(sorted({i % n for i in indices})))
        return tuple(found)

    def singles(self) -> list[Candidate]:
        """Return every single layer in every mode, by model and depth."""
        return [
            Candidate((f"{name}[{i}]",), modes=modes)
            for modes in self.modes
            for (name, _), indices in zip(self.models, self.layers, strict=True)
            for i in indices
        ]

    def extensions(self, candidate: Candidate) -> list[Candidate]:
        """Return the candidate with one more layer, in every allowed design.

        Plain series are blocks: only the layer that follows comes next. Designs that share L_in stay within one
        model, since other models may have another width; "unshared" takes layers of any model. A combination keeps
        its design, and no layer comes twice.
        """
        if len(candidate.layers) >= self.max_layers or candidate.control is not None:
            return []
        designs = self.designs if candidate.design == "single" else (candidate.design,)
        return [
            replace(candidate, layers=(*candidate.layers, layer), design=design)
            for design in designs
            for layer in self._all_layers()
            if layer not in candidate.layers and _fits(design, candidate.layers[-1], layer)
        ]

    def _all_layers(self) -> list[str]:
        return [f"{name}[{i}]" for (name, _), indices in zip(self.models, self.layers, strict=True) for i in indices]

    def count(self, max_layers: int | None = None) -> int:
        """Return how many candidates `all` yields, of at most `max_layers` layers, without making any."""
        sizes, longest = (
            [len(indices) for indices in self.layers],
            self.max_layers if max_layers is None else max_layers,
        )
        found = sum(sizes)
        for k in range(2, min(longest, sum(sizes)) + 1):
            for design in self.designs:
                if design == "serial":
                    found += sum(_runs(indices, k) for indices in self.layers)
                elif design in _ONE_WIDTH:
                    found += sum(math.comb(size, k) for size in sizes)
                else:
                    found += math.comb(sum(sizes), k)
        return found * len(self.modes)

    def _refuse_too_many(self, count: int) -> None:
        if count > MAX_CANDIDATES:
            raise SearchError(
                f"the space has {count:,} candidates, and {MAX_CANDIDATES:,} are the most that are listed",
                where=f"{sum(map(len, self.layers))} layers, max_layers={self.max_layers}, {len(self.designs)} designs"
                f", {len(self.modes)} modes",
                next="name fewer layers, designs or modes, lower max_layers, or use a strategy that builds sets "
                "layer by layer (greedy, auto)",
            )

    def all(self) -> Iterator[Candidate]:
        """Yield singles, then pairs, and so on, each set of layers once per design (the shallowest layer first).

        Raises
        ------
        SearchError
            If there are more than 100,000; the message says how many.
        """
        self._refuse_too_many(self.count())
        level = self.singles()
        while level:
            yield from level
            found: dict[tuple[str, Modes, frozenset[str]], Candidate] = {}
            for candidate in level:
                for longer in self.extensions(candidate):
                    found.setdefault((longer.design, longer.modes, frozenset(longer.layers)), longer)
            level = list(found.values())

    def controls(self, n_depths: int = 3) -> list[Candidate]:
        """Return vanilla, linear-only, and random and shuffled layers at `n_depths` depths of each model."""
        found = [Candidate((), control=control) for control in BARE]
        for (name, _), indices in zip(self.models, self.layers, strict=True):
            n = min(n_depths, len(indices))
            spread = sorted({indices[round((2 * k + 1) / (2 * n) * (len(indices) - 1))] for k in range(n)})
            found += [Candidate((f"{name}[{i}]",), control=c) for c in TWINS for i in spread]
        return found

    def depth(self, candidate: Candidate) -> float:
        """Return the mean depth of the layers, 0 for the first and 1 for the last; NaN without a layer."""
        sizes = dict(self.models)
        places = [place_of(layer) for layer in candidate.layers]
        for model, index in places:
            if not 0 <= index < sizes.get(model, 0):
                raise SearchError(
                    f"{model}[{index}] is not a layer of this search's models",
                    where=candidate.label,
                    next="restore the study from a copy; it holds trials of another search",
                )
        depths = [index / max(sizes[model] - 1, 1) for model, index in places]
        return sum(depths) / len(depths) if depths else float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return {
            "models": [list(model) for model in self.models],
            "layers": [list(indices) for indices in self.layers],
            "max_length": self.max_layers,
            "designs": list(self.designs),
            "modes": [dict(modes) for modes in self.modes],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Space:
        """Rebuild a space from `to_dict`.

        Raises
        ------
        Refused
            If a value is missing or of another type; a ValueError.
        SearchError, LayerIndexError
            As the constructor.
        """
        known = typed(_StoredSpace, values)
        return cls(
            tuple(known.models),
            tuple(tuple(indices) for indices in known.layers),
            known.max_length,
            tuple(known.designs),
            tuple(tuple(in_words_of_today(modes).items()) for modes in known.modes),
        )


def _runs(indices: Sequence[int], k: int) -> int:
    """Return how many blocks of k layers that follow one another there are among ascending indices."""
    return sum(indices[i + k - 1] - indices[i] == k - 1 for i in range(len(indices) - k + 1))


def place_of(layer: str) -> tuple[str, int]:
    """Return model (with its revision) and index of ``"MODEL[i]"``.

    Raises
    ------
    SearchError
        If it names something else than one layer.
    SpecError
        If it does not follow the grammar.
    """
    spec = parse(layer)
    if not isinstance(spec, LayerSpec) or spec.index is None:
        raise SearchError(f"{layer!r} is not a single layer", next="write MODEL[i]")
    return spec.donor, spec.index


def _fits(design: str, last: str, layer: str) -> bool:
    """Return whether `layer` may come after `last`."""
    model, index = place_of(last)
    other, following = place_of(layer)
    if design == "serial":
        return model == other and following == index + 1
    return model == other or design not in _ONE_WIDTH
