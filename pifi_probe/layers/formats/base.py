"""What a format of quantised weights is: which tensors belong together, and the weight that they stand for."""

from __future__ import annotations

import contextlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, NoReturn

import torch

from pifi_probe.layers.sources import TensorInfo
from pifi_probe.reading import Refused

__all__ = ["Example", "Format", "Numbers", "Packed", "refuse"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def refuse(what: str) -> NoReturn:
    """Refuse a weight; whoever catches it adds its name and its file."""
    raise Refused(what)


@dataclass(frozen=True)
class Numbers:
    """What the configuration says of the quantisation. Only numbers are taken from it, never which weights it meant.

    Parameters
    ----------
    settings : Mapping
        ``quantization_config`` and the like, as parsed.
    """

    settings: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    @property
    def method(self) -> str:
        """Name of the method, such as ``"gptq"``; empty when none is stated."""
        return self.text("quant_method").lower()

    def text(self, key: str) -> str:
        """Return a stated word; empty when there is none."""
        value = self.settings.get(key)
        return value if isinstance(value, str) else ""

    def whole(self, key: str) -> int | None:
        """Return a stated positive number; None when there is none (a group size of -1 is none)."""
        return _whole(self.settings.get(key))

    def of_module(self, module: str, key: str) -> int | None:
        """Return the number stated for one module by its name, or else the one for all."""
        own = self.settings.get(module)
        found = _whole(own.get(key)) if isinstance(own, Mapping) else None
        return found if found is not None else self.whole(key)

    @property
    def vary(self) -> bool:
        """Whether some modules have numbers of their own (``dynamic`` of GPTQModel, ``extra_config`` of AutoRound)."""
        return bool(self.settings.get("dynamic") or self.settings.get("extra_config"))

    def block(self) -> tuple[int, int] | None:
        """Return the stated rows and columns of a block of weights with one scale."""
        found = self.settings.get("weight_block_size")
        if isinstance(found, list) and len(found) == 2 and all(_whole(size) for size in found):
            return found[0], found[1]
        return None

    def groups(self, module: str = "") -> list[Mapping[str, Any]]:
        """Return the settings for weights of each group of modules (``config_groups`` of compressed-tensors).

        Groups that name `module` come first.
        """
        groups = self.settings.get("config_groups")
        found = list(groups.values())[:_MOST_GROUPS] if isinstance(groups, Mapping) else []
        found = [each for each in found if isinstance(each, Mapping) and isinstance(each.get("weights"), Mapping)]
        return [each["weights"] for each in sorted(found, key=lambda each: not _names(each.get("targets"), module))]


_MOST_GROUPS, _LONG = 64, 300
_SIMPLE = re.compile(r"\^?([\w.\\()|-]|\.\*){1,200}\$?")  # patterns that no name keeps busy


def _names(targets: Any, module: str) -> bool:
    """Tell whether a group's targets, names or simple patterns (``re:.*down_proj``), name a module."""
    for target in targets if isinstance(targets, list) and 0 < len(module) < _LONG else []:
        pattern = target.removeprefix("re:") if isinstance(target, str) else ""
        if pattern == target and (module == target or module.endswith(f".{target}")):
            return True
        if pattern != target and _SIMPLE.fullmatch(pattern) and pattern.count("*") < 4:
            with contextlib.suppress(re.error):
                if re.match(pattern, module):
                    return True
    return False


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 < value < 1 << 31 else None


@dataclass(frozen=True)
class Packed:
    """One weight as it lies in the files: packed, with its companions.

    Parameters
    ----------
    name : str
        Under which the model has the weight.
    module : str
        Name of the module that holds it, as stored.
    format : Format
    parts : Mapping
        Role (``"packed"``, ``"scale"``, ...) to where the tensor lies.
    numbers : Numbers
    """

    name: str
    module: str
    format: Format
    parts: Mapping[str, TensorInfo]
    numbers: Numbers

    @property
    def nbytes(self) -> int:
        """Stored bytes, companions included."""
        return sum(info.nbytes for info in self.parts.values())

    @property
    def count(self) -> int:
        """How many weights are packed."""
        return self.format.count(self)

    def size(self, role: str) -> tuple[int, ...]:
        """Return the shape of one part."""
        return self.parts[role].shape

    def dtype(self, role: str) -> str:
        """Return the stored type of one part; empty when there is no such part."""
        return self.parts[role].dtype if role in self.parts else ""


@dataclass(frozen=True)
class Example:
    """A worked example, on which a format is tried when it is registered.

    Parameters
    ----------
    tensors : Mapping
        Stored names, of a module ``m``, to tensors.
    weight : Tensor
        What they stand for, exactly.
    settings : Mapping
        What the configuration says.
    """

    tensors: Mapping[str, torch.Tensor]
    weight: torch.Tensor
    settings: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)


class Format(ABC):
    """One way to store quantised weights.

    A weight is recognised by the tensors that lie next to it, so that modules which were left as they are, files that
    mix formats and settings that name modules by patterns need no care.

    Attributes
    ----------
    name : str
        As cards and messages have it.
    variant : str
        Tells formats of one name apart that store it differently; empty for the first of them.
    packed : str
        Ending of the stored name of the packed weight: ``"qweight"`` in ``"m.qweight"``.
    becomes : str
        What stands in its place in the name of the model's weight: ``"weight"``.
    companions, optional : Mapping
        Role to the ending that stands in place of `packed` in the names of the tensors next to it.
    kinds : tuple of str
        Types that the packed weight can have, by their names in a header (``"I32"``); empty: any. A message that a
        companion is missing goes by it.
    scales : tuple of str
        Roles that hold factors: they are refused when they hold NaN, infinities, or zeros over weights that are not.
    small_scales : tuple of str
        Of these, the ones that may have been rounded to zero because their block holds next to nothing.
    linear : bool
        True when packing sees a linear map ``(out, in)``, also where a model keeps its transpose (GPT-2).
    """

    name: ClassVar[str]
    variant: ClassVar[str] = ""
    packed: ClassVar[str]
    becomes: ClassVar[str]
    companions: ClassVar[Mapping[str, str]]
    optional: ClassVar[Mapping[str, str]] = MappingProxyType({})
    kinds: ClassVar[tuple[str, ...]] = ()
    scales: ClassVar[tuple[str, ...]] = ("scale",)
    small_scales: ClassVar[tuple[str, ...]] = ()
    linear: ClassVar[bool] = False

    @abstractmethod
    def fits(self, weight: Packed) -> bool:
        """Tell by types and ranks whether the tensors are of this format rather than of another with such names."""

    @abstractmethod
    def shape(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> tuple[int, ...]:
        """Return the shape of the weight.

        `tensors` are the read parts by role, and empty before anything is read.

        Raises
        ------
        Refused
            If shapes, types or numbers contradict each other: nothing of the weight's size is allocated before.
        """

    def prepare(self, weight: Packed, tensors: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Return what `rows` is given as `tensors`: the parts, with what all rows share computed once.

        `shape` has been asked before. It may be small next to the weight: scales as float32, tables, zero points.
        """
        return tensors

    @abstractmethod
    def rows(self, weight: Packed, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        """Compute the rows from `start` to `stop` (along the first dimension) of the weight, in float32.

        `tensors` is what `prepare` gave.
        """

    @abstractmethod
    def example(self) -> Example:
        """Return a worked example."""

    def count(self, weight: Packed) -> int:
        """Return how many weights are packed, before anything is read."""
        return math.prod(self.shape(weight, {}))

    def label(self, weight: Packed) -> str:
        """Return the name of the format with the width that this weight has, for cards."""
        return self.name
