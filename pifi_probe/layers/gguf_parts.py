"""GGUF files that were split into parts: all metadata in the first, a table of tensors in each.

Source: llama.cpp ``tools/gguf-split/gguf-split.cpp``. Names are ``PREFIX-00001-of-00003.gguf``, numbered from one, and
``split.no`` from zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import PurePath
from typing import NoReturn

from pifi_probe.errors import CheckpointError, CorruptFileError
from pifi_probe.layers.gguf_io import GGUFHeader, read_header
from pifi_probe.layers.sources import ByteSource, TensorInfo, dropping_what_cannot_be

__all__ = ["all_parts"]

_PART = re.compile(r"^(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.gguf)$", re.IGNORECASE)
_MOST = 1_000  # parts; the largest published models have about fifty


def all_parts(
    source: ByteSource, header: GGUFHeader, sibling: Callable[[str], ByteSource] | None
) -> tuple[GGUFHeader, list[ByteSource]]:
    """Return the header of a whole model, with the tensors of all parts, and the files.

    Parameters
    ----------
    source : ByteSource
        The file that was named.
    header : GGUFHeader
        Of that file.
    sibling : callable, optional
        Opens a file of the same folder by its name.

    Raises
    ------
    CheckpointError
        If a part other than the first was named, or a part is missing.
    CorruptFileError
        If parts contradict each other.
    """
    count = header.metadata.get("split.count", 0)
    if count in (0, 1):
        return header, [source]
    match = _PART.match(PurePath(source.name).name)
    if type(count) is not int or not 1 < count <= _MOST:
        _corrupt(source, f"the file is said to be one of {count!r:.20} parts")
    if match is None or sibling is None or int(match["count"]) != count:
        raise CheckpointError(
            f"the GGUF file is one part of {count}, and its name does not say where the others are",
            where=source.name,
            next=f"give the parts their names back (PREFIX-00001-of-{count:05}.gguf), or merge them with "
            "llama-gguf-split --merge",
        )
    first = f"{match['prefix']}-00001-of-{match['count']}{match['suffix']}"
    if header.metadata.get("split.no") != 0:
        raise CheckpointError(
            f"the GGUF file is part {match['number']} of {count}; the first one holds what all need",
            where=source.name,
            next=f"give the first part: {first}",
        )
    tensors: dict[str, TensorInfo] = dict(header.tensors)
    sources = [source]
    for number in range(1, count):
        part = sibling(f"{match['prefix']}-{number + 1:05}-of-{match['count']}{match['suffix']}")
        sources.append(part)
        with dropping_what_cannot_be(part):
            found = read_header(part)
            if found.metadata.get("split.no") != number or found.metadata.get("split.count") != count:
                _corrupt(part, f"the file does not say that it is part {number + 1} of {count}")
            twice = tensors.keys() & found.tensors.keys()
            if twice:
                _corrupt(part, f"the tensor {min(twice)!r} is in another part, too")
        tensors |= found.tensors
    total = header.metadata.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        _corrupt(source, f"all parts together are said to hold {total!r:.20} tensors, and hold {len(tensors):,}")
    return replace(header, tensors=tensors), sources


def _corrupt(source: ByteSource, what: str) -> NoReturn:
    raise CorruptFileError(what, where=source.name, next="download the parts of one model again")
