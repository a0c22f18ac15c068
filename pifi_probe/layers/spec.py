"""``"MODEL@revision[i]"``: the one way to name a layer, in Python, the command line and the widget."""

from __future__ import annotations

import operator
import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

from pifi_probe.errors import LayerIndexError, SpecError
from pifi_probe.files import existing

__all__ = [
    "LayerSpec",
    "Layers",
    "ModelRef",
    "Parallel",
    "Serial",
    "layer_numbers",
    "layer_ranges",
    "model_names",
    "parse",
]

GRAMMAR = "MODEL[i], MODEL@revision[i], MODEL[i:j], A[i] >> B[j] (series), A[i] | B[j] (parallel)"
_DASH = re.compile(r"\s*(-?\d{1,9})\s*(?:-\s*(-?\d{1,9}))?\s*", re.ASCII)
_ITEM = re.compile(r"^(?P<model>.+?)\[(?P<start>-?\d{1,9})?(?P<colon>:)?(?P<stop>-?\d{1,9})?\]$", re.DOTALL | re.ASCII)

Layers = str | int | Iterable[int] | None  # what names layers of one model


class ModelRef(NamedTuple):
    """The name of a whole model, ``"MODEL"`` or ``"MODEL@revision"``.

    What a model is known by wherever something of it is kept is its content, once it is open:
    `pifi_probe.layers.content.content_of`.

    Parameters
    ----------
    model : str
        Hub id, local folder, ``.gguf`` or ``.safetensors`` file, or embedded name.
    revision : str or None
        Branch, tag or commit of a hub id.
    """

    model: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.model}@{self.revision}" if self.revision else self.model

    @classmethod
    def parse(cls, text: str) -> ModelRef:
        """Read a name.

        Raises
        ------
        SpecError
            If `text` names layers, or no model that a layer of could be named.
        """
        spec = parse(f"{text}[0]") if isinstance(text, str) and text.strip() else None
        if not isinstance(spec, LayerSpec) or (
            spec.model.endswith("]") and _ITEM.match(spec.model) and not existing(text)
        ):
            raise SpecError(
                f"a model is needed, not {'layers' if text else 'an empty name'}",
                where=str(text),
                next="give the model's name alone, such as smollm2-135m",
            )
        return spec.ref


@dataclass(frozen=True)
class LayerSpec:
    """One layer, or consecutive layers in series, of one model.

    Parameters
    ----------
    model : str
        Hub id, local folder, ``.gguf`` or ``.safetensors`` file, or embedded name.
    index : int or None
        Layer index; negative counts from the end. None when `start`/`stop` name a range.
    revision : str or None
        Branch, tag or commit of a hub id.
    start, stop : int or None
        Range ``[start:stop]``; `stop` is left out, as in Python.
    """

    model: str
    index: int | None = None
    revision: str | None = None
    start: int | None = None
    stop: int | None = None

    def __str__(self) -> str:
        if self.index is not None:
            return f"{self.donor}[{self.index}]"
        return f"{self.donor}[{'' if self.start is None else self.start}:{'' if self.stop is None else self.stop}]"

    @property
    def ref(self) -> ModelRef:
        """The model that it is a layer of."""
        return ModelRef(self.model, self.revision)

    @property
    def donor(self) -> str:
        """The name of that model."""
        return str(self.ref)

    def indices(self, n_layers: int) -> list[int]:
        """Return the layer indices this names in a model of `n_layers` layers.

        Raises
        ------
        LayerIndexError
            If the index is outside the model, or the range is empty.
        """
        valid = f"use an index from 0 to {n_layers - 1}, or from -{n_layers} to -1"
        if self.index is not None:
            if not -n_layers <= self.index < n_layers:
                raise LayerIndexError(
                    f"layer index {self.index} is out of range: the model has {n_layers} layers",
                    where=str(self),
                    next=valid,
                )
            return [self.index % n_layers]
        found = list(range(n_layers))[self.start : self.stop]
        if not found:
            raise LayerIndexError(
                f"the range names no layer of a model with {n_layers} layers", where=str(self), next=valid
            )
        return found


@dataclass(frozen=True)
class Serial:
    """Layers one after the other: ``A[i] >> B[j]``."""

    parts: tuple[LayerSpec, ...]

    def __str__(self) -> str:
        return " >> ".join(str(part) for part in self.parts)


@dataclass(frozen=True)
class Parallel:
    """Layers side by side: ``A[i] | B[j]``; ``>>`` binds tighter than ``|``."""

    parts: tuple[LayerSpec | Serial, ...]

    def __str__(self) -> str:
        return " | ".join(str(part) for part in self.parts)


def parse(text: str) -> LayerSpec | Serial | Parallel:
    """Parse a layer specification.

    Parameters
    ----------
    text : str
        For instance ``"smollm2-135m[-1]"`` or ``"M[8] >> M[20]"``.

    Raises
    ------
    SpecError
        If `text` does not follow the grammar.
    """
    if not isinstance(text, str):
        raise SpecError(f"{reprlib.repr(text)} is not text", where="layer specification", next=f"write {GRAMMAR}")
    branches = tuple(_parse_series(branch) for branch in text.split("|"))
    return branches[0] if len(branches) == 1 else Parallel(branches)


def model_names(llm: object) -> list[str]:
    """Return the names of one or several whole models, given as a text or a list or tuple of texts.

    Raises
    ------
    SpecError
        If it is anything else, such as a path object or a number.
    """
    names = [llm] if isinstance(llm, str) else list(llm) if isinstance(llm, list | tuple) else []
    if not names or not all(isinstance(name, str) for name in names):
        raise SpecError(
            f"{reprlib.repr(llm)} names no model",
            where="llm",
            next="give a name such as 'smollm2-135m', or a list of names; of a path, str(path)",
        )
    return names


def layer_numbers(layers: Layers, n_layers: int, where: str) -> tuple[int, ...]:
    """Return layer numbers as given, none twice.

    Parameters
    ----------
    layers : str, int, iterable of int or None
        ``"0-9,15,-1"``: a dash counts both ends, ``"0:30:3"`` leaves the end out as in Python, negative numbers count
        from the end. None, "" and "all" are all.
    n_layers : int
    where : str
        For the message.

    Raises
    ------
    LayerIndexError
        If they cannot be read, or the model has no such layer.
    """
    found: list[int] = []
    for first, last, step in layer_ranges(layers, where) or [(0, n_layers - 1, 1)]:
        ends = [end + n_layers if end < 0 else end for end in (first, last)]
        inside = 0 <= ends[0] < n_layers and ends[0] <= ends[1]
        found += range(ends[0], min(ends[1], n_layers) + 1, step) if inside else [-1]  # refused below, as n_layers is
    if not all(0 <= index < n_layers for index in found):
        raise LayerIndexError(
            f"there is no layer {layers!r:.60}", where=where, next=f"layers are numbered from 0 to {n_layers - 1}"
        )
    return tuple(dict.fromkeys(found))


def layer_ranges(layers: Layers, where: str) -> list[tuple[int, int, int]]:
    """Return (first, last, step) of what `layer_numbers` takes, without a model; empty for all layers.

    Raises
    ------
    LayerIndexError
        If they cannot be read.
    """
    text = layers.strip().lower() if isinstance(layers, str) else ""
    try:
        if layers is None or (isinstance(layers, str) and text in ("", "all")):
            return []
        if isinstance(layers, str):
            return [_range(part) for part in text.split(",")]
        given: Any = layers
        several = [given] if isinstance(given, Integral) else list(given)
        indices = [operator.index(index) for index in several]
        if any(isinstance(index, bool) for index in several):
            raise TypeError
        if not indices:
            raise LayerIndexError(f"there is no layer {layers!r}", where=where, next="name one, or leave layers out")
        return [(index, index, 1) for index in indices]
    except (TypeError, ValueError) as error:
        raise LayerIndexError(
            f"cannot read layers {layers!r:.60}",
            where=where,
            next='write "all", "17", "16-19", "0-9,15,-1", "0:30:3" or a list of numbers',
        ) from error


def _range(part: str) -> tuple[int, int, int]:
    """Read ``"3"``, ``"8-12"``, ``"-3--1"`` or ``"0:30:3"``."""
    if span := _DASH.fullmatch(part):
        first, last = int(span[1]), int(span[2] or span[1])
        if (first < 0) == (last < 0) and last < first:
            raise ValueError
        return first, last, 1
    first, stop, step = (int(one) for one in (*part.split(":"), "1")[:3])
    if part.count(":") not in (1, 2) or not 0 <= first < stop or step < 1:
        raise ValueError
    return first, stop - 1, step


def _parse_series(text: str) -> LayerSpec | Serial:
    parts = tuple(_parse_item(part.strip()) for part in text.split(">>"))
    return parts[0] if len(parts) == 1 else Serial(parts)


def _parse_item(text: str) -> LayerSpec:
    match = _ITEM.match(text)
    if match is None or (match["colon"] is None and match["start"] is None):
        raise SpecError(
            f"{text!r} names no layer" if text else "a layer specification is empty",
            where="layer specification",
            next=f"write {GRAMMAR}; for example smollm2-135m[-1]",
        )
    model, revision = _split_revision(match["model"].strip())
    start = int(match["start"]) if match["start"] else None
    if match["colon"] is None:
        return LayerSpec(model, index=start, revision=revision)
    return LayerSpec(model, revision=revision, start=start, stop=int(match["stop"]) if match["stop"] else None)


def _split_revision(name: str) -> tuple[str, str | None]:
    """Split ``model@revision``; a local path may itself contain an ``@``."""
    if "@" not in name or existing(name):
        return name, None
    model, _, revision = name.rpartition("@")
    if not model or not revision:
        raise SpecError(
            f"{name!r} has an empty model or revision", where="layer specification", next=f"write {GRAMMAR}"
        )
    return model, revision
