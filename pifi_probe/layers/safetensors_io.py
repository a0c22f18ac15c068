"""Reading safetensors: a header parser that trusts nothing, and the bytes of chosen tensors only.

The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from reprlib import repr as short
from typing import Any, NoReturn

import torch

from pifi_probe.errors import CorruptFileError, UnsupportedFormatError
from pifi_probe.layers.sources import ByteSource, TensorInfo, read_raw, read_raw_rows
from pifi_probe.reading import Refused, parse_json

__all__ = ["BITS", "MAX_HEADER", "read_header", "read_rows", "read_tensors"]

MAX_HEADER = 1 << 25  # bytes; the largest published have 10 MB, the reference implementation allows 100
MAX_TENSORS = 1 << 17  # in one file: about 1 kB of memory each
_VALUES_EACH = 12  # commas and brackets in the entry of one tensor: 7, and one for each further dimension
_MAX_RANK = 64  # of a torch tensor
_NEXT = "download the file again"

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8,
    "BOOL": 8, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
}  # fmt: skip
_TORCH = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "BOOL": torch.bool, "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu,
}  # fmt: skip


def read_header(source: ByteSource) -> dict[str, TensorInfo]:
    """Read and check the header of a safetensors file.

    Parameters
    ----------
    source : ByteSource
        The file; only its header is read.

    Returns
    -------
    dict
        Name to `TensorInfo`, in the order of the header.

    Raises
    ------
    CorruptFileError
        If the header is longer than the file or than 32 MiB, holds more than 131,072 tensors, is not a JSON object,
        names a tensor twice or an unknown dtype, or if offsets lie outside the file, overlap, or contradict
        dtype and shape.
    """
    if source.size < 8:
        _corrupt(source, f"the file has {source.size} bytes, too few for a safetensors header")
    length = int.from_bytes(source.read(0, 8), "little")
    if length > MAX_HEADER:
        _corrupt(source, f"the header claims {length} bytes, more than the {MAX_HEADER} that are read")
    if length > source.size - 8:
        _corrupt(
            source,
            f"the header claims {length} bytes, the file has {source.size}: truncated, or not safetensors",
        )
    entries = _parse_json(source, source.read(8, length))
    _check_metadata(source, entries.pop("__metadata__", {}))
    infos = {name: _tensor_info(source, name, entry, 8 + length) for name, entry in entries.items()}
    _check_overlap(source, infos)
    return infos


def read_tensors(infos: Iterable[TensorInfo]) -> dict[str, torch.Tensor]:
    """Read the tensors, in file order, adjacent ones with one request; peak memory is the tensors themselves.

    Raises
    ------
    UnsupportedFormatError
        If a tensor is stored in a type that torch does not have (F6, F4).
    CorruptFileError
        If the file ends before.
    """
    infos = list(infos)
    for info in infos:
        _refuse_short_types(info)
    raw = read_raw(infos)
    return {info.name: raw[info.name].view(_TORCH[info.dtype]).reshape(info.shape) for info in infos}


def read_rows(info: TensorInfo, rows: torch.Tensor) -> torch.Tensor:
    """Read some rows of a matrix, piece by piece; parameters as in `read_raw_rows`, errors as in `read_tensors`."""
    _refuse_short_types(info)
    found, raw = read_raw_rows(info, rows)
    return raw.view(_TORCH[found.dtype]).reshape(found.shape)


def _refuse_short_types(info: TensorInfo) -> None:
    if info.dtype not in _TORCH:
        raise UnsupportedFormatError(
            f"tensor {info.name!r} is stored as {info.dtype}, which is not read",
            where=info.source.name,
            next="use the model's bfloat16 or float16 checkpoint, or a GGUF file of it",
        )


def _corrupt(source: ByteSource, what: str) -> NoReturn:
    raise CorruptFileError(what, where=source.name, next=_NEXT)


def _parse_json(source: ByteSource, raw: bytes) -> dict[str, Any]:
    if raw[:1] != b"{":
        _corrupt(source, "the header is not a JSON object: this is not a safetensors file")
    try:
        entries = parse_json(raw, most_values=_VALUES_EACH * MAX_TENSORS, unique=True)
    except Refused as error:
        _corrupt(source, f"the header cannot be read: {error}")
    if len(entries) > MAX_TENSORS + 1:
        _corrupt(source, f"the header names {len(entries):,} tensors, more than the {MAX_TENSORS:,} that are read")
    return dict(entries)


def _check_metadata(source: ByteSource, metadata: Any) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _corrupt(source, "__metadata__ of the header is not a map of strings")


def _tensor_info(source: ByteSource, name: str, entry: Any, data_start: int) -> TensorInfo:
    """Check one entry against the format and the size of the file."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _corrupt(source, f"the entry of tensor {name!r} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        _corrupt(source, f"tensor {name!r} has the unknown dtype {short(dtype)}")
    if not _all_sizes(shape) or len(shape) > _MAX_RANK:
        _corrupt(source, f"tensor {name!r} has the bad shape {short(shape)}")
    if not _all_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _corrupt(source, f"tensor {name!r} has the bad data_offsets {short(offsets)}")
    begin, end = offsets
    if data_start + end > source.size:
        _corrupt(source, f"the file is truncated: tensor {name!r} ends at byte {data_start + end} of {source.size}")
    bits = BITS[dtype]
    for size in shape:
        bits *= size
    if bits != 8 * (end - begin):
        _corrupt(source, f"tensor {name!r}: {dtype} of shape {short(shape)} does not take {end - begin} bytes")
    if math.prod(max(size, 1) for size in shape) >= 1 << 63:  # empty, and its strides overflow all the same
        _corrupt(source, f"tensor {name!r} has the bad shape {short(shape)}")
    return TensorInfo(name, dtype, tuple(shape), source, data_start + begin, end - begin)


def _all_sizes(values: Any) -> bool:
    """Tell whether `values` is a list of integers from 0 to 2**63."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_overlap(source: ByteSource, infos: dict[str, TensorInfo]) -> None:
    end, before = 0, ""
    for info in sorted(infos.values(), key=lambda info: (info.offset, info.nbytes)):
        if info.offset < end:
            _corrupt(source, f"the tensors {before!r} and {info.name!r} overlap")
        end, before = info.offset + info.nbytes, info.name
