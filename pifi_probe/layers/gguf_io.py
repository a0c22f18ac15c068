"""Reading GGUF: a lean walk over the header that skips the vocabulary, and chosen tensors, dequantised.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

import numpy as np
import torch
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from pifi_probe.errors import CorruptFileError, UnsupportedFormatError
from pifi_probe.layers.sources import ByteSource, TensorInfo, read_raw, read_raw_rows

__all__ = ["GGUF_TYPES", "ArrayInfo", "GGUFHeader", "read_header", "read_rows", "read_tensors"]

# type id -> (name, values in a block, bytes of a block)
GGUF_TYPES = MappingProxyType({int(kind): (kind.name, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()})

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SHORT = 4096  # arrays up to this length are kept
_MAX_HEADER = 1 << 28  # bytes; the largest vocabularies take about 20 MB
_MAX_STRING = 1 << 24  # bytes
_MAX_KEYS, _MAX_TENSORS, _MAX_DIMS, _MAX_NESTING = 1 << 14, 1 << 16, 8, 4
_MAX_WALKED = 4 << 20  # values and strings of all metadata, skipped ones too; the largest vocabularies have 600,000
_MAX_KEPT = 1 << 20  # values and strings of all short arrays, which take memory
_MAX_TEXT = 1 << 26  # bytes of all strings that are kept
_CHUNK = 1 << 20  # bytes read at once while walking the header


@dataclass(frozen=True)
class ArrayInfo:
    """An array of the metadata that was skipped: its GGUF type id and its length."""

    type: int
    length: int


@dataclass(frozen=True)
class GGUFHeader:
    """The header of a GGUF file.

    Parameters
    ----------
    metadata : dict
        Key to number, bool, string, list (up to 4096 numbers or strings), or `ArrayInfo` for longer arrays.
    tensors : dict
        Name to `TensorInfo`, with shapes in torch order.
    version, alignment : int
        As in the file.
    """

    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]
    version: int
    alignment: int


def read_header(source: ByteSource) -> GGUFHeader:
    """Read and check the header of a GGUF file, skipping long arrays.

    Raises
    ------
    CorruptFileError
        If the magic is wrong, a count or length is absurd, a name occurs twice, the alignment is not a power of
        two, or a tensor lies outside the file.
    UnsupportedFormatError
        If the version is neither 2 nor 3, the file is big-endian, or a tensor has an unknown type.
    """
    walk = _Walk(source)
    if source.size < 24 or walk.take(4) != b"GGUF":
        walk.corrupt("this is not a GGUF file: it does not start with GGUF")
    version = _check_version(source, walk.take(4))
    n_tensors, n_keys = walk.number("Q"), walk.number("Q")
    if n_keys > min(_MAX_KEYS, source.size // 13) or n_tensors > min(_MAX_TENSORS, source.size // 24):
        walk.corrupt(f"the header claims {n_keys} keys and {n_tensors} tensors in {source.size} bytes")
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        key = walk.string()
        if key in metadata:
            walk.corrupt(f"the metadata key {key!r} occurs twice")
        metadata[key] = walk.value(walk.number("I"))
    entries = [_read_entry(walk) for _ in range(n_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1) or alignment > 1 << 20:
        walk.corrupt(f"general.alignment is {alignment!r}, which is not a power of two")
    data_start = -(-walk.position // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, kind, offset in entries:
        if name in tensors:
            walk.corrupt(f"the tensor {name!r} occurs twice")
        tensors[name] = _tensor_info(walk, name, shape, kind, data_start + offset)
    return GGUFHeader(metadata, tensors, version, alignment)


def read_tensors(infos: Iterable[TensorInfo]) -> dict[str, torch.Tensor]:
    """Read and dequantise the tensors to float32, in torch order.

    Raises
    ------
    UnsupportedFormatError
        If the `gguf` package cannot dequantise a tensor's type.
    """
    infos = list(infos)
    raw = read_raw(infos)
    return {info.name: _dequantize(info, raw.pop(info.name)) for info in infos}


def read_rows(info: TensorInfo, rows: torch.Tensor) -> torch.Tensor:
    """Read and dequantise some rows of a matrix, piece by piece; parameters as in `read_raw_rows`."""
    return _dequantize(*read_raw_rows(info, rows))


def _dequantize(info: TensorInfo, raw: torch.Tensor) -> torch.Tensor:
    """Turn the stored bytes into float32 of the tensor's shape."""
    plain = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}.get(info.dtype)
    if plain is not None:
        return raw.view(plain).reshape(info.shape).float()
    if info.dtype in _QUICK:
        return _QUICK[info.dtype](raw).reshape(info.shape)
    kind = GGMLQuantizationType[info.dtype]
    block, size = GGML_QUANT_SIZES[kind]
    columns = info.shape[-1]
    rows = raw.numpy().reshape(-1, columns // block * size) if raw.numel() else raw.numpy().reshape(0, size)
    try:
        with np.errstate(all="ignore"):  # a broken scale becomes NaN here and is reported by name later
            values = dequantize(rows, kind) if raw.numel() else np.zeros(0, np.float32)
    except NotImplementedError as error:
        raise UnsupportedFormatError(
            f"tensor {info.name!r} is stored as {info.dtype}, which cannot be dequantised",
            where=info.source.name,
            next="use a file quantised as Q8_0, Q6_K, Q5_K, Q4_K or similar, or the safetensors checkpoint",
        ) from error
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).reshape(info.shape)


def _q8_0(raw: torch.Tensor) -> torch.Tensor:
    """Dequantise blocks of a float16 scale and 32 signed bytes."""
    blocks = raw.view(-1, 34)
    return blocks[:, 2:].view(torch.int8).float() * _scales(blocks)


def _q4_0(raw: torch.Tensor) -> torch.Tensor:
    """Dequantise blocks of a float16 scale and 32 numbers from -8 to 7, plus 8: the first 16 are the low nibbles."""
    blocks = raw.view(-1, 18)
    packed = blocks[:, 2:]
    return (torch.cat([packed & 15, packed >> 4], dim=1).float() - 8) * _scales(blocks)


def _scales(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[:, :2].contiguous().view(torch.float16).float()


_QUICK = {"Q8_0": _q8_0, "Q4_0": _q4_0}  # the package takes two to four times as long for these


def _check_version(source: ByteSource, raw: bytes) -> int:
    version = int.from_bytes(raw, "little")
    if version in (2, 3):
        return version
    big_endian = int.from_bytes(raw, "big") in (1, 2, 3)
    raise UnsupportedFormatError(
        "the GGUF file is big-endian" if big_endian else f"GGUF version {version} is not read (2 and 3 are)",
        where=source.name,
        next="convert it with llama.cpp, or download a current little-endian file",
    )


def _read_entry(walk: _Walk) -> tuple[str, tuple[int, ...], int, int]:
    """Return name, shape (torch order), type id and offset in the data of the next tensor."""
    name = walk.string()
    n_dims = walk.number("I")
    if n_dims > _MAX_DIMS:
        walk.corrupt(f"the tensor {name!r} claims {n_dims} dimensions")
    shape = tuple(walk.number("Q") for _ in range(n_dims))
    return name, shape[::-1], walk.number("I"), walk.number("Q")


def _tensor_info(walk: _Walk, name: str, shape: tuple[int, ...], kind: int, offset: int) -> TensorInfo:
    if kind not in GGUF_TYPES:
        raise UnsupportedFormatError(
            f"tensor {name!r} has the unknown quantisation type {kind}",
            where=walk.source.name,
            next="update the gguf package, or use a file quantised as Q8_0, Q6_K, Q5_K, Q4_K or similar",
        )
    dtype, block, size = GGUF_TYPES[kind]
    columns = shape[-1] if shape else 1
    if columns % block:
        walk.corrupt(f"tensor {name!r}: rows of {columns} values do not fill {dtype} blocks of {block}")
    nbytes = math.prod(shape) // block * size
    if offset + nbytes > walk.source.size:
        walk.corrupt(f"the file is truncated: tensor {name!r} ends at byte {offset + nbytes} of {walk.source.size}")
    if math.prod(max(each, 1) for each in shape) >= 1 << 63:  # empty, and its strides overflow all the same
        walk.corrupt(f"tensor {name!r} has the bad shape {shape}")
    return TensorInfo(name, dtype, shape, walk.source, offset, nbytes)


class _Walk:
    """A position in the header, over a window of the source that moves forward."""

    def __init__(self, source: ByteSource) -> None:
        self.source = source
        self._window = b""
        self._start = 0  # of the window, in the source
        self._at = 0  # position in the window
        self._walked = self._kept = self._text = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    def corrupt(self, what: str) -> NoReturn:
        raise CorruptFileError(what, where=self.source.name, next="download the file again")

    def take(self, n: int) -> bytes:
        """Return the next `n` bytes."""
        self._need(n)
        self._at += n
        return self._window[self._at - n : self._at]

    def number(self, code: str) -> Any:
        """Return the next number, by its `struct` code."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        length = self.number("Q")
        self._text += length
        if length > _MAX_STRING or self._text > _MAX_TEXT:
            self.corrupt(f"the header holds a string of {length:,} bytes, and {self._text:,} bytes of strings in all")
        return self.take(length).decode("utf-8", errors="replace")

    def value(self, kind: int, nesting: int = 0) -> Any:
        """Return the next metadata value of type id `kind`; of a long or nested array only what it was."""
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            self.corrupt(f"the metadata hold a value of the unknown type {kind}")
        item, length = self.number("I"), self.number("Q")
        if item not in _SCALARS and item not in (_STRING, _ARRAY):
            self.corrupt(f"the metadata hold an array of the unknown type {item}")
        if nesting >= _MAX_NESTING:
            self.corrupt(f"the metadata hold arrays nested more than {_MAX_NESTING} deep")
        smallest = struct.calcsize("<" + _SCALARS[item]) if item in _SCALARS else 8
        if length * smallest > self.source.size - self.position:
            self.corrupt(f"the metadata hold an array of {length} values, more than the file has bytes for")
        self._count(length, kept=item != _ARRAY and length <= _SHORT, skipped_numbers=item in _SCALARS)
        return self._array(item, length, nesting)

    def _count(self, length: int, *, kept: bool, skipped_numbers: bool) -> None:
        """Bound what all arrays together take: of memory when they are kept, of time when they are walked over."""
        self._kept += length if kept else 0
        self._walked += 0 if skipped_numbers and not kept else length + 1
        if self._kept > _MAX_KEPT or self._walked > _MAX_WALKED:
            self.corrupt(f"the metadata hold more than {_MAX_KEPT:,} values in short arrays, or {_MAX_WALKED:,} in all")

    def _array(self, item: int, length: int, nesting: int) -> Any:
        if item in _SCALARS:
            width = struct.calcsize("<" + _SCALARS[item])
            if length <= _SHORT:
                return list(struct.unpack(f"<{length}{_SCALARS[item]}", self.take(length * width)))
            self._jump(length * width)
        elif item == _STRING and length <= _SHORT:
            return [self.string() for _ in range(length)]
        elif item == _STRING:
            self._skip_strings(length)
        else:
            for _ in range(length):
                self.value(item, nesting + 1)
        return ArrayInfo(item, length)

    def _skip_strings(self, count: int) -> None:
        """Step over strings by their lengths, without decoding them."""
        length_at = struct.Struct("<Q").unpack_from
        while count:
            self._need(8)
            window, at, last = self._window, self._at, len(self._window) - 8
            while count and at <= last:
                at += 8 + length_at(window, at)[0]
                count -= 1
            self._jump(at - self._at)

    def _jump(self, n: int) -> None:
        """Move forward by `n` bytes, without reading them."""
        if self.position + n > min(self.source.size, _MAX_HEADER):
            self.corrupt("the header ends beyond the end of the file: truncated, or not GGUF")
        self._at += n

    def _need(self, n: int) -> None:
        """Have the next `n` bytes in the window."""
        if self._at + n <= len(self._window):
            return
        position = self.position
        if position + n > min(self.source.size, _MAX_HEADER):
            self.corrupt("the header ends beyond the end of the file: truncated, or not GGUF")
        self._window = self.source.read(position, min(max(n, _CHUNK), self.source.size - position))
        self._start, self._at = position, 0
