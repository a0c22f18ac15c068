"""Checks of notebook 00b: matching and copying, what only the weights do, and what a wiring lacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pifi_probe.checks.judge import Report, ask, attempt, require

__all__ = ["check_effect", "check_lacking", "check_next_word"]

CONDITIONS = {"sequence", "middle", "alignment", "length"}


def check_next_word(answer: Callable[..., Any]) -> Report:
    """Check exercise 00b.1: the word that followed the last word when it occurred before."""

    def judge() -> None:
        first = ask(answer, ["a", "b", "c", "a"])
        require(first != "a", "That is the word itself: what *followed* it the last time?")
        require(first == "b", "After a, b, c, a the next word is b: it followed a before.")
        require(ask(answer, ["d", "e", "f", "g", "d", "e", "f"]) == "g", "Match the last word, not the first one.")
        try:
            unseen = answer(["a", "b", "c"])
        except (IndexError, ValueError, KeyError) as error:
            require(False, f"With a word that has not occurred before, it raised {type(error).__name__}: return None.")
        require(unseen is None, "c has not occurred before: nothing can be copied, so return None.")

    return attempt("00b.1", answer, judge)


def check_effect(answer: Callable[..., Any]) -> Report:
    """Check exercise 00b.2: real minus the best of no layer, shuffled and random twin."""

    def judge() -> None:
        def close(values: tuple[float, ...], expected: float) -> bool:
            return abs(float(ask(answer, *values)) - expected) < 1e-9

        require(not close((0.2, 0.8, 0.1, 0.3), -0.5), "Real first: the effect is positive where the layer is better.")
        mean = 0.8 - (0.2 + 0.1 + 0.3) / 3
        require(not close((0.2, 0.8, 0.1, 0.3), mean), "Not their mean: the best of the three has to be beaten.")
        require(close((0.2, 0.8, 0.1, 0.3), 0.5), "A twin can be the best of the three.")
        require(close((0.7, 0.8, 0.1, 0.3), 0.1), "No layer can be the best of the three: what was there already.")
        require(close((0.2, 0.8, 0.6, 0.3), 0.2), "The shuffled twin counts, too.")

    return attempt("00b.2", answer, judge)


def check_lacking(answer: Any) -> Report:
    """Check exercise 00b.3: the conditions that the paper's wiring lacks at its start."""

    def judge() -> None:
        given = {answer} if isinstance(answer, str) else set(answer)
        unknown = sorted(map(str, given - CONDITIONS))
        require(not unknown, f"There is no condition {unknown}: choose from {sorted(CONDITIONS)}.")
        hints = {
            "sequence": "How many tokens does the layer see when it is given one pooled vector?",
            "middle": "Where in the donor does the last layer lie?",
            "alignment": "A random W_in knows nothing of the layer's input before it is trained.",
            "length": "How many layers does the paper plug in?",
        }
        missing = next((name for name in hints if name not in given), "")
        require(not missing, hints.get(missing, ""))

    return attempt("00b.3", answer, judge)
