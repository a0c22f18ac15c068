"""Layers side by side: one thread for each core, and matrix products that stay inside their thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

__all__ = ["side_by_side"]

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Apply a function to items, as many at once as torch may use threads; results come in the order of the items.

    Matrices of one layer are too small to keep several cores busy: two layers on a core each are done sooner than one
    after the other on both, and the numbers do not depend on how many cores there are.

    Parameters
    ----------
    function : callable
        Must be safe to run in threads. What it raises is raised here, at the item's place.
    items : iterable

    Yields
    ------
    object
        Results.
    """
    n = torch.get_num_threads()
    if n == 1:
        yield from map(function, items)
        return
    try:
        with threadpool_limits(1), ThreadPoolExecutor(n, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(function, items)
    finally:
        torch.set_num_threads(n)
