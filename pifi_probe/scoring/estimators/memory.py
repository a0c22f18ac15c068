"""What an estimator takes of memory, known before it is taken; and sizes of blocks that keep it down."""

from __future__ import annotations

from collections.abc import Callable

import psutil

from pifi_probe.errors import EstimatorError

__all__ = ["BLOCK", "Memory", "block_rows", "linear", "refuse_too_large", "square"]

Memory = Callable[[int, int, int], int]
BLOCK = 1 << 25  # bytes of one array of a block
_BLOCKS = 8 * BLOCK  # of a block's arrays together


def linear(n: int, d: int, c: int) -> int:
    """Bytes of an estimator that works in blocks, for n examples of d features in c classes.

    It keeps a few numbers for each component and class of an example.
    """
    return 8 * n * (3 * min(n, d) + 6 * c) + _BLOCKS


def square(each: int) -> Memory:
    """Return the memory of an estimator with `each` bytes for every pair of examples."""
    return lambda n, d, c: linear(n, d, c) + each * n * n


def block_rows(n: int) -> int:
    """Return how many rows of an (N, N) matrix make a block of `BLOCK` bytes."""
    return max(1, BLOCK // (8 * n))


def refuse_too_large(name: str, memory: Memory, n: int, d: int, c: int) -> None:
    """Raise EstimatorError, with the number, when more memory is needed than is free."""
    needed, free = memory(n, d, c), int(psutil.virtual_memory().available)
    if needed > free:
        raise EstimatorError(
            f"{name} of {n:,} examples needs {needed / 2**30:.1f} GiB of memory, and {free / 2**30:.1f} GiB are free",
            where=f"N = {n:,}, D = {d:,}, {c} classes",
            next="give fewer examples (n=...), or leave the estimator out",
        )
