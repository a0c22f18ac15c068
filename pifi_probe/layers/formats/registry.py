"""The registry of formats: adding one, and finding out which of them a layer's tensors are of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeVar

import torch

from pifi_probe.layers.formats.base import Format, Numbers, Packed
from pifi_probe.layers.sources import ByteSource, TensorInfo
from pifi_probe.reading import Refused

__all__ = ["STORED", "find_packed", "formats", "register_format"]

_FORMATS: list[Format] = []
# torch types and their names in a header; a format sees the latter
STORED: Mapping[torch.dtype, str] = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ", torch.float8_e8m0fnu: "F8_E8M0",
}  # fmt: skip
_ENDING = re.compile(r"[\w.]*")
F = TypeVar("F", bound=type[Format])


def formats() -> tuple[Format, ...]:
    """Return the registered formats, in the order in which they are tried."""
    return tuple(_FORMATS)


def register_format(cls: F) -> F:
    """Add a format; a class decorator. Formats are tried in the order of their registration.

    The format is tried on its own `Format.example`: its tensors must be recognised as its own, and give the stated
    weight, as a whole and row by row.

    Raises
    ------
    TypeError, ValueError
        If the class is no `Format`, lacks a name or an ending, or fails on its example.
    """
    if not (isinstance(cls, type) and issubclass(cls, Format)):
        raise TypeError(f"{cls!r} is not a class derived from Format")
    found = cls()
    endings = (found.packed, found.becomes, *found.companions.values(), *found.optional.values())
    if not found.name or not found.companions or not all(_ENDING.fullmatch(ending) for ending in endings):
        raise ValueError(f"{cls.__name__} needs a name, companions, and endings that names of tensors can have")
    roles = {"packed", *found.companions, *found.optional}
    if len(roles) != 1 + len(found.companions) + len(found.optional) or not roles >= set(found.scales):
        raise ValueError(f"{cls.__name__} names a role twice, or a scale that is not one of its roles")
    _try(found)
    _FORMATS.append(found)
    return cls


def _try(made: Format) -> None:
    """Run a format on its own example."""
    example, name = made.example(), type(made).__name__
    infos = {
        key: TensorInfo(key, STORED[tensor.dtype], tuple(tensor.shape), _NOWHERE, 0, tensor.nbytes)
        for key, tensor in example.tensors.items()
    }
    try:
        found = list(find_packed(infos, Numbers(example.settings), (made,)))
        if len(found) != 1:
            raise ValueError(f"{name} finds {len(found)} weights in its example, not one")
        (weight,) = found
        tensors = {role: example.tensors[info.name] for role, info in weight.parts.items()}
        shape = made.shape(weight, tensors)
        if shape != tuple(example.weight.shape) or weight.count != example.weight.numel():
            raise ValueError(f"{name} gives shape {shape} and {weight.count} weights, not those of its example")
        ready = made.prepare(weight, tensors)
        whole = made.rows(weight, ready, 0, shape[0])
        pieces = torch.cat([made.rows(weight, ready, i, i + 1) for i in range(shape[0])])
    except Refused as error:
        raise ValueError(f"{name} refuses its own example: {error}") from error
    for got in (whole, pieces):
        if got.dtype != torch.float32 or not torch.equal(got, example.weight):
            raise ValueError(f"{name} does not give the weight of its example")


def find_packed(
    infos: Mapping[str, TensorInfo], numbers: Numbers, among: tuple[Format, ...] | None = None
) -> Iterator[Packed]:
    """Yield the packed weights among tensors, each with its companions; a tensor belongs to one weight at most."""
    taken: set[str] = set()
    for each in _FORMATS if among is None else among:
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
