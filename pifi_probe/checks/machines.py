"""Checks of notebook 18: the bytes of one layer, the texts that fit, and the time that workers save."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pifi_probe.checks.judge import Report, ask, attempt, require

__all__ = ["check_layer_bytes", "check_texts_that_fit", "check_wall_minutes"]


def check_layer_bytes(function: Callable[..., Any]) -> Report:
    """Check exercise 18.1: ``layer_bytes(width, inner, kv_width, each)`` of a Llama layer."""

    def judge() -> None:
        got = ask(function, 8, 20, 2, 2)
        require(isinstance(got, int | float), "Return a number.")
        queries, values, mlp, norms = 2 * 8 * 8, 2 * 8 * 2, 3 * 8 * 20, 2 * 8
        right = 2 * (queries + values + mlp + norms)
        named = {
            2 * (4 * 8 * 8 + mlp + norms): "Keys and values are kv_width wide, not width: heads share them.",
            2 * (queries + values + 2 * 8 * 20 + norms): "A gated MLP has three matrices: gate, up and down.",
            2 * (queries + values + mlp): "The two norms have a gain of `width` numbers each.",
            queries + values + mlp + norms: "Those are weights: times the bytes of each.",
        }
        require(got == right, named.get(int(got), "W_q, W_o; W_k, W_v; gate, up, down; two norms; times `each`."))

    return attempt("18.1", function, judge)


def check_texts_that_fit(function: Callable[..., Any]) -> Report:
    """Check exercise 18.2: ``texts_that_fit(budget, tokens, width)``, float32 states of one point of the stream."""

    def judge() -> None:
        got = ask(function, 1000, 5, 7)
        require(isinstance(got, int), "Return a whole number: // divides and rounds down.")
        named = {
            28: "A float32 takes 4 bytes.",
            50: "Each token has `width` numbers.",
            35: "Each text has `tokens` vectors.",
            8: "Round down: the eighth text would not fit.",
        }
        require(got == 7, named.get(got, "budget // (4 * tokens * width)"))

    return attempt("18.2", function, judge)


def check_wall_minutes(function: Callable[..., Any]) -> Report:
    """Check exercise 18.3: ``wall_minutes(runs, minutes, workers)``."""

    def judge() -> None:
        got = ask(function, 10, 6, 4)
        require(isinstance(got, int | float), "Return a number.")
        named = {
            15: "A run cannot be cut: the last two runs still take a whole round. Round the rounds up.",
            12: "Two rounds make eight runs only: round up.",
            60: "The workers work at the same time.",
        }
        require(got == 18, named.get(int(got), "ceil(runs / workers) rounds of `minutes` each."))
        require(ask(function, 3, 6, 8) == 6, "More workers than runs: it still takes one run's time.")

    return attempt("18.3", function, judge)
