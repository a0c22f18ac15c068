"""A `ByteSource` over bytes, which remembers its largest request."""

from __future__ import annotations

from pifi_probe.errors import CorruptFileError
from pifi_probe.layers.sources import ByteSource


class MemorySource(ByteSource):
    def __init__(self, data: bytes, name: str = "memory") -> None:
        self.data, self.name, self.size, self.bytes_read = data, name, len(data), 0
        self.requests: list[tuple[int, int]] = []

    def read(self, offset: int, length: int) -> bytes:
        buffer = bytearray(length)
        self.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + buffer.nbytes > self.size:
            raise CorruptFileError("the bytes end before", where=self.name)
        self.requests.append((offset, buffer.nbytes))
        self.bytes_read += buffer.nbytes
        if buffer.nbytes:
            buffer.cast("B")[:] = self.data[offset : offset + buffer.nbytes]
