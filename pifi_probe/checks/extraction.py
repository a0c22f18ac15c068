"""Checks of notebook 02: which layer an index means, and what part of a file it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pifi_probe.checks.judge import Report, ask, attempt, require

__all__ = ["check_index_from_end", "check_layer_share"]


def check_index_from_end(function: Callable[..., Any]) -> Report:
    """Check exercise 02.1: ``resolve(index, n_layers)`` for indices from either end."""

    def judge() -> None:
        require(ask(function, 0, 30) == 0, "Index 0 is the first layer.")
        require(ask(function, 29, 30) == 29, "A non-negative index stays as it is.")
        last = ask(function, -1, 30)
        require(last != 30, "-1 must give 29, not 30: layers count from 0. Add n_layers, nothing more.")
        require(last == 29, f"-1 of 30 layers is layer 29, you gave {last}.")
        require(ask(function, -30, 30) == 0, "-30 of 30 layers is the first one.")
        for outside in (30, -31):
            try:
                got = ask(function, outside, 30)
            except IndexError:
                continue
            require(False, f"{outside} is outside 30 layers: raise IndexError; you gave {got}.")

    return attempt("02.1", function, judge)


def check_layer_share(function: Callable[..., Any]) -> Report:
    """Check exercise 02.2: ``layer_share(nbytes, prefix)``, the part of a file that one layer's tensors take."""

    def judge() -> None:
        nbytes = {"blk.1.attn": 30, "blk.1.ffn": 50, "blk.10.attn": 40, "blk.10.ffn": 60, "token_embd": 45}
        got = ask(function, nbytes, "blk.1.")
        require(got != 80, "This is a number of bytes; divide by the bytes of all tensors.")
        require(abs(got - 180 / 225) > 1e-9, "blk.10 is not layer 1: keep the dot in the prefix.")
        require(abs(got - 2 / 5) > 1e-9, "You counted tensors; add up their bytes.")
        require(abs(got - 80 / 225) < 1e-9, f"80 of 225 bytes are {80 / 225:.3f}, you gave {got}.")

    return attempt("02.2", function, judge)
