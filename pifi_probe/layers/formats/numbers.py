"""The few kinds of numbers that quantised files are made of, in torch.

All functions keep leading dimensions and work on the rows that they are given, so that a weight can be computed in
pieces. Sources: the OCP Microscaling specification (E2M1, E8M0) and the packers of the libraries that write the files.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch

__all__ = [
    "FP4",
    "affine",
    "as_bytes",
    "by_column",
    "decode",
    "expand",
    "floats",
    "fp4",
    "look_up",
    "nibbles",
    "spread",
    "unpack",
    "unpack_floats",
]

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of E2M1, by its last three bits; the first is the sign
_FP4 = torch.tensor([*FP4, *(-value for value in FP4)])
_FP4_PAIRS = torch.stack([_FP4.repeat(16), _FP4.repeat_interleave(16)], dim=1)  # by byte, the low nibble first
_CODES = torch.arange(256)
# by byte: the numbers of 4 and of 2 bits in it, the lowest bits first
_IN_A_BYTE = {bits: (_CODES[:, None] >> torch.arange(0, 8, bits) & (1 << bits) - 1).float() for bits in (4, 2)}
# by byte: 2 to the power of (byte - 127); 255 means "not a number"
_E8M0 = torch.tensor([2.0 ** (byte - 127) for byte in range(255)] + [float("nan")])


def unpack(words: torch.Tensor, bits: int, n: int) -> torch.Tensor:
    """Read whole numbers out of 32-bit words, each row one stream of bits, the lowest bit first.

    Parameters
    ----------
    words : Tensor, (..., w), int32 or uint32
    bits : int
        Of each number, from 1 to 8; a number may straddle two words.
    n : int
        How many numbers a row holds; ``n * bits <= 32 * w``.

    Returns
    -------
    Tensor, (..., n), uint8
    """
    mask = (1 << bits) - 1
    if bits in (4, 8):  # several times as fast as shifts
        stored = as_bytes(words)
        return (stored if bits == 8 else nibbles(stored))[..., :n]
    if 32 % bits == 0:
        shifts = torch.arange(0, 32, bits, dtype=torch.int32)
        found = (words.view(torch.int32).unsqueeze(-1) >> shifts) & mask  # the sign that a shift draws in is masked
        return found.to(torch.uint8).flatten(-2)[..., :n]
    stream = words.view(torch.int32).long() & 0xFFFFFFFF
    missing = -stream.shape[-1] % bits  # words, for 32 numbers fill as many words as each has bits
    stream = torch.nn.functional.pad(stream, (0, missing + 1))
    first = torch.arange(0, 32 * bits, bits)
    groups = (stream.shape[-1] - 1) // bits
    at = (torch.arange(groups)[:, None] * bits + first // 32).flatten()
    shift = (first % 32).repeat(groups)
    pair = stream[..., at] | stream[..., at + 1] << 32 if bits < 32 else stream[..., at]
    return (pair >> shift & mask).to(torch.uint8)[..., :n]


def unpack_floats(words: torch.Tensor, bits: int, n: int, minus: float = 0.0) -> torch.Tensor:
    """Return `unpack` as float32, less `minus`; of 4 and 2 bits the numbers of a byte come out of a table at once."""
    if bits in _IN_A_BYTE:
        return look_up(as_bytes(words), _IN_A_BYTE[bits] - minus)[..., :n]
    values = unpack(words, bits, n).float()
    return values.sub_(minus) if minus else values


def floats(codes: torch.Tensor) -> torch.Tensor:
    """Return numbers of one byte as float32; float8 by a table for two of them, ten times as fast as torch itself."""
    if codes.dtype.itemsize > 1 or not codes.is_floating_point():
        return codes.float()
    flat = codes.contiguous().view(torch.uint8).flatten()
    if flat.numel() % 2:
        return _float8(codes.dtype).index_select(0, flat.int()).view(codes.shape)
    return look_up(flat.view(torch.uint16), _float8_pairs(codes.dtype)).view(codes.shape)


def _float8(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(256, dtype=torch.uint8).view(dtype).float()


@functools.cache
def _float8_pairs(dtype: torch.dtype) -> torch.Tensor:  # (65536, 2), by two bytes, the low one first
    return torch.stack([_float8(dtype).repeat(256), _float8(dtype).repeat_interleave(256)], dim=1)


def as_bytes(words: torch.Tensor) -> torch.Tensor:
    """Return the bytes of 32-bit words, the lowest first: ``(..., w)`` to ``(..., 4 w)`` uint8."""
    flat = words.flatten()
    if flat.stride(0) != 1:  # of a single number
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).reshape(*words.shape[:-1], 4 * words.shape[-1])


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Return the two halves of each byte, 0 to 15, the low one first: ``(..., k)`` uint8 to ``(..., 2 k)`` uint8."""
    return torch.stack([packed & 15, packed >> 4], dim=-1).flatten(-2)


def fp4(packed: torch.Tensor) -> torch.Tensor:
    """Return the two E2M1 numbers of each byte, the low half first: ``(..., k)`` to ``(..., 2 k)`` float32."""
    return look_up(packed.view(torch.uint8), _FP4_PAIRS)


_AS_ONE = {2: torch.int64, 4: torch.complex128}


def look_up(codes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return the m numbers that stand for each code: ``(..., k)`` and ``(codes, m)`` to ``(..., m k)`` float32.

    Two or four numbers are moved as one of 64 or 128 bits, which is five times as fast as an index for each.
    """
    m = table.shape[1]
    together = table.contiguous().view(_AS_ONE[m]).flatten()
    found = together.index_select(0, codes.flatten().int()).view(torch.float32)
    return found.reshape(*codes.shape[:-1], m * codes.shape[-1])


def by_column(values: torch.Tensor, groups: torch.Tensor | int, n: int) -> torch.Tensor:
    """Return for each of `n` columns the value of its group, ``(rows, groups)`` to ``(rows, n)``.

    `groups` is the group of each column, or the length of all groups but the last, which is several times as fast.
    """
    if isinstance(groups, torch.Tensor):
        return values.index_select(1, groups)
    return values.unsqueeze(-1).expand(-1, -1, groups).flatten(1)[:, :n]


def affine(
    values: torch.Tensor, of: torch.Tensor | int, scale: torch.Tensor, zero: torch.Tensor | None = None
) -> torch.Tensor:
    """Return (q - z) s in the place of the codes q ``(rows, n)``; s, z ``(rows, groups)``, `of` as in `by_column`."""
    n = values.shape[-1]
    if isinstance(of, int) and n == of * scale.shape[-1] and values.is_contiguous():
        parts = values.view(values.shape[0], -1, of)
        if zero is not None:
            parts.sub_(zero.unsqueeze(-1))
        parts.mul_(scale.unsqueeze(-1))
        return values
    if zero is not None:
        values -= by_column(zero, of, n)
    return values.mul_(by_column(scale, of, n))


def decode(values: torch.Tensor) -> torch.Tensor:
    """Return scales as float32: of a float type as they are, of E8M0 (also as plain bytes) as powers of two."""
    if values.dtype in (torch.uint8, torch.float8_e8m0fnu):
        return _E8M0.index_select(0, values.view(torch.uint8).flatten().int()).view(values.shape)
    return values.float()


def expand(values: torch.Tensor, blocks: tuple[int, ...], shape: tuple[int, ...], start: int) -> torch.Tensor:
    """Repeat each entry of a grid over its block, for the rows from `start` on.

    Parameters
    ----------
    values : Tensor
        One entry a block, as many dimensions as `shape`.
    blocks : tuple of int
        Length of a block along each dimension; the last block of a row may be shorter.
    shape : tuple of int
        Of the rows that are wanted: the first entry is their number, the others those of the whole weight.
    start : int
        Index of the first of these rows in the whole weight.
    """
    rows = torch.arange(start, start + shape[0]) // blocks[0]
    values = values.index_select(0, rows)
    for dim in range(1, len(shape)):
        if blocks[dim] > 1 and values.shape[dim] > 1:
            repeated = values.unsqueeze(dim + 1)
            size = [*values.shape[: dim + 1], blocks[dim], *values.shape[dim + 1 :]]
            values = repeated.expand(size).flatten(dim, dim + 1)
        if values.shape[dim] > 1:
            values = values.narrow(dim, 0, shape[dim])
    return values


def spread(
    values: torch.Tensor, grid: torch.Tensor, blocks: tuple[int, ...], start: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield parts of rows from `start` on, and what of the grid stands over them, in shapes that broadcast.

    Of a matrix with blocks of several rows these are rows of one block each, so that nothing of the matrix's size is
    made; else all rows with `expand`.
    """
    if values.dim() != 2 or blocks[0] == 1 or grid.shape[0] == 1:
        yield values, expand(grid, blocks, tuple(values.shape), start)
        return
    first, stop = start // blocks[0], start + values.shape[0]
    for block in range(first, -(-stop // blocks[0])):
        rows = slice(max(block * blocks[0] - start, 0), min((block + 1) * blocks[0], stop) - start)
        row = grid[block : block + 1]
        yield values[rows], row if row.shape[1] == 1 else by_column(row, blocks[1], values.shape[1])
