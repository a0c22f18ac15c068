"""Checks of notebook 13: tokens per character, bits per byte, and a difference of differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_bits_per_byte", "check_difference_of_differences", "check_fertility"]


def _number(value: Any) -> torch.Tensor:
    require(isinstance(value, int | float | torch.Tensor), f"Return a number, not {type(value).__name__}.")
    return torch.as_tensor(float(value))


def check_fertility(function: Callable[..., Any]) -> Report:
    """Check exercise 13.1: ``fertility(n_tokens, texts)``, tokens per 100 characters of all texts together."""

    def judge() -> None:
        counts, texts = [2, 9, 30], ["abcd", "한국어 문장", "a long sentence of many words, all told once"]
        characters, n_bytes = sum(map(len, texts)), sum(len(text.encode()) for text in texts)
        apart = sum(100 * n / len(text) for n, text in zip(counts, texts, strict=True)) / len(texts)
        likely = {
            "You averaged the texts' own rates: add up tokens and characters first.": _number(apart),
            "You divided by bytes; a Korean letter has three.": _number(100 * sum(counts) / n_bytes),
            "Per 100 characters: times 100.": _number(sum(counts) / characters),
            "Upside down: tokens over characters.": _number(100 * characters / sum(counts)),
        }
        got = _number(ask(function, counts, texts))
        require_close(got, _number(100 * sum(counts) / characters), "100 times all tokens over all characters.", likely)

    return attempt("13.1", function, judge)


def check_bits_per_byte(function: Callable[..., Any]) -> Report:
    """Check exercise 13.2: ``bits_per_byte(loss, n_tokens, text)`` of a mean loss in nats per token."""

    def judge() -> None:
        loss, n_tokens, text = 3.0, 7, "Eine Prüfung für Bücher"
        n_bytes = len(text.encode())
        right = loss * n_tokens / math.log(2) / n_bytes
        likely = {
            "That is nats: divide by ln 2.": _number(loss * n_tokens / n_bytes),
            "You multiplied by ln 2; a nat is 1 / ln 2 bits.": _number(loss * n_tokens * math.log(2) / n_bytes),
            "You divided by characters; umlauts have two bytes in UTF-8.": _number(right * n_bytes / len(text)),
            "The loss is a mean per token: multiply it by the tokens first.": _number(loss / math.log(2) / n_bytes),
        }
        message = "The loss times the tokens, in bits, over the bytes."
        require_close(_number(ask(function, loss, n_tokens, text)), _number(right), message, likely)

    return attempt("13.2", function, judge)


def check_difference_of_differences(function: Callable[..., Any]) -> Report:
    """Check exercise 13.3: ``difference_of_differences(here, there)`` of (mean, low, high) each."""

    def judge() -> None:
        here, there = (2.0, -1.0, 5.0), (0.5, -3.5, 4.5)  # half-widths 3 and 4
        got = ask(function, here, there)
        require(len(got) == 3, "Return three numbers: mean, low, high.")
        likely = {
            "You subtracted end from end: an interval does not get narrower by a subtraction.": torch.tensor(
                [1.5, here[1] - there[1], here[2] - there[2]]
            ),
            "You added the half-widths: independent errors add in quadrature.": torch.tensor([1.5, -5.5, 8.5]),
            "You added the differences; subtract the second one.": torch.tensor([2.5, -2.5, 7.5]),
        }
        message = "The half-width is the root of the sum of the squared half-widths."
        require_close(torch.tensor([float(part) for part in got]), torch.tensor([1.5, -3.5, 6.5]), message, likely)

    return attempt("13.3", function, judge)
