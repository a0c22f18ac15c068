"""The registry of formats: adding one, and finding out which of them a layer's tensors are of."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch

from pifi_probe.errors import UnsupportedFormatError
from pifi_probe.layers.formats.base import Example, Format, Numbers, Packed
from pifi_probe.layers.sources import ByteSource, TensorInfo
from pifi_probe.reading import Refused
from pifi_probe.registry import TEXTS, Registry, home_of, lacking, mistyped, told_how

__all__ = ["FORMATS", "STORED", "find_packed", "formats", "register_format"]

# torch types and their names in a header; a format sees the latter
STORED: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip
_ENDING = re.compile(r"[\w.]*")
_ATTRIBUTES: Mapping[str, str] = {
    "name": "a text", "variant": "a text", "packed": "a text", "becomes": "a text",
    "companions": "a mapping of texts to texts", "optional": "a mapping of texts to texts",
    "kinds": TEXTS, "scales": TEXTS, "small_scales": TEXTS, "linear": "True or False",
}  # fmt: skip
F = TypeVar("F", bound=type[Format])
FORMATS: Registry[type[Format]] = Registry("format", UnsupportedFormatError)


def formats() -> tuple[Format, ...]:
    """Return the registered formats, in the order in which they are tried."""
    return tuple(_made(cls) for cls in FORMATS.values())


@functools.cache
def _made(cls: type[Format]) -> Format:
    return cls()


@told_how(UnsupportedFormatError, "@register_format")
def register_format(cls: F) -> F:
    """Add a format; a class decorator. Formats are tried in the order of their registration.

    The format is tried on its own `Format.example`: its tensors must be recognised as its own, and give the stated
    weight, as a whole and row by row. A class that was defined again in the same place (a notebook's cell) replaces
    itself.

    Raises
    ------
    UnsupportedFormatError
        If the class is no `Format`, lacks something, fails on its example, or its name is taken.
    """
    where = home_of(cls) or repr(cls)
    if not (isinstance(cls, type) and issubclass(cls, Format)):
        raise UnsupportedFormatError("a format is a class derived from Format", where=where, next="derive it")
    wrong = lacking(cls, Format, ("name", "companions")) or mistyped(cls, _ATTRIBUTES) or _odd_parts(cls)
    named = getattr(cls, "name", None) or cls.__name__
    if not wrong:
        try:
            wrong = _odd_example(cls())
        except Refused as error:
            wrong = f"refuses its own example: {error}"
        except Exception as error:  # whatever the code of a user raises
            wrong = f"fails on its own example with {type(error).__name__}: {error}"
    if wrong:
        raise UnsupportedFormatError(
            f"the format {named!r} {wrong}", where=where, next="correct it: book/extending/format.md shows how"
        )
    FORMATS.add(f"{cls.name} {cls.variant}".strip().replace(" ", "-"), cls)
    return cls


def _odd_parts(cls: type[Format]) -> str:
    """Say what is wrong with the tensors that belong together, or ""."""
    for ending in (cls.packed, cls.becomes, *cls.companions.values(), *cls.optional.values()):
        if not _ENDING.fullmatch(ending):
            return f"has the ending {ending!r}, which no name of a tensor has: letters, digits, _ and . make one up"
    roles = ["packed", *cls.companions, *cls.optional]
    if len(set(roles)) != len(roles):
        return f"names a role twice: {', '.join(roles)}"
    for attribute, known in {"scales": roles, "small_scales": cls.scales, "kinds": tuple(STORED.values())}.items():
        if odd := [one for one in getattr(cls, attribute) if one not in known]:
            return f"has {attribute}={getattr(cls, attribute)!r}, and {odd[0]!r} is none of {', '.join(known)}"
    return ""


def _odd_example(made: Format) -> str:
    """Run a format on its own example and say what is wrong, or ""."""
    example = made.example()
    if not isinstance(example, Example):
        return f"has an example() that gives {example!r}, not an Example"
    if not all(isinstance(one, torch.Tensor) for one in (example.weight, *example.tensors.values())):
        return "has an example of other things than tensors"
    if odd := [key for key, tensor in example.tensors.items() if tensor.dtype not in STORED]:
        return f"has an example with {odd[0]!r} of type {example.tensors[odd[0]].dtype}, which no file holds"
    infos = {
        key: TensorInfo(key, STORED[tensor.dtype], tuple(tensor.shape), _NOWHERE, 0, tensor.nbytes)
        for key, tensor in example.tensors.items()
    }
    found = list(find_packed(infos, Numbers(example.settings), (made,)))
    if len(found) != 1:
        return f"finds {len(found)} weights in its example, not one"
    (weight,) = found
    tensors = {role: example.tensors[info.name] for role, info in weight.parts.items()}
    shape, wanted = made.shape(weight, tensors), tuple(example.weight.shape)
    if not isinstance(shape, tuple) or shape != wanted:
        return f"has a shape() that gives {shape!r}, and its example's weight has {wanted}"
    if weight.count != example.weight.numel():
        return f"counts {weight.count!r} weights, and its example has {example.weight.numel()}"
    if not isinstance(label := made.label(weight), str):
        return f"has a label() that gives {label!r}, not a text"
    ready = made.prepare(weight, tensors)
    whole = made.rows(weight, ready, 0, shape[0])
    pieces = [made.rows(weight, ready, i, i + 1) for i in range(shape[0])]
    for got in (whole, *pieces):
        if not isinstance(got, torch.Tensor) or got.dtype != torch.float32:
            return f"has rows() that give {getattr(got, 'dtype', got)!r}, not a tensor of float32"
    if not (torch.equal(whole, example.weight) and torch.equal(torch.cat(pieces), example.weight)):
        return "does not give the weight of its example"
    return ""


def find_packed(
    infos: Mapping[str, TensorInfo], numbers: Numbers, among: tuple[Format, ...] | None = None
) -> Iterator[Packed]:
    """Yield the packed weights among tensors, each with its companions; a tensor belongs to one weight at most."""
    taken: set[str] = set()
    for each in formats() if among is None else among:
        for name in infos:
            if name in taken or not name.endswith(each.packed):
                continue
            stem = name.removesuffix(each.packed)
            if not stem or (each.packed[:1].isalnum() and not stem.endswith(".")):
                continue
            found = {role: stem + ending for role, ending in each.companions.items()}
            if not infos.keys() >= set(found.values()):
                continue
            found |= {role: stem + end for role, end in each.optional.items() if stem + end in infos}
            parts = {role: infos[part] for role, part in {"packed": name, **found}.items()}
            weight = Packed(stem + each.becomes, (stem + each.becomes).rpartition(".")[0], each, parts, numbers)
            if taken.isdisjoint(found.values()) and each.fits(weight):
                taken.update(info.name for info in parts.values())
                yield weight


class _Nowhere(ByteSource):
    """The file of an example."""

    name, size, bytes_read = "example", 0, 0

    def read(self, offset: int, length: int) -> bytes:
        return bytes(length)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer.cast("B")[:] = bytes(buffer.nbytes)


_NOWHERE = _Nowhere()
