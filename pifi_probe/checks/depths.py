"""Checks of notebook 09: is there a layer effect, what a winner loses, and the regret of a pick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pifi_probe.checks.answers import as_number
from pifi_probe.checks.judge import Report, ask, attempt, require_close

__all__ = ["check_f_statistic", "check_regret", "check_winners_loss"]


def _table() -> np.ndarray:
    """Return qualities (layers, seeds) with an effect of both."""
    rng = np.random.default_rng(0)
    return np.round(80 + rng.normal(0, 0.3, (5, 1)) + rng.normal(0, 2, (1, 3)) + rng.normal(0, 1, (5, 3)), 1)


def check_f_statistic(function: Callable[..., Any]) -> Report:
    """Check exercise 09.1: ``f_statistic(table)``, layers against what layers and seeds leave, (layers, seeds)."""

    def judge() -> None:
        table = _table()
        n_layers, n_seeds = table.shape
        between = n_seeds * table.mean(1).var(ddof=1)
        rest = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
        noise = (rest**2).sum() / ((n_layers - 1) * (n_seeds - 1))
        within = (table - table.mean(1, keepdims=True)).var(axis=1, ddof=1).mean()
        likely = {
            "Take out what a seed does to all layers alike: subtract the seeds' means too.": between / within,
            "The variance of means is smaller by the number of seeds: multiply it.": between / n_seeds / noise,
            "Noise has (layers - 1)(seeds - 1) free values, not all of them.": between / (rest**2).mean(),
            "You inverted the ratio: it is layers over noise.": noise / between,
        }
        got = as_number(ask(function, table))
        wrong = {words: as_number(value) for words, value in likely.items()}
        message = "Variance of the layers' means times seeds, over the mean square that is left."
        require_close(got, as_number(between / noise), message, wrong, tolerance=1e-6)

    return attempt("09.1", function, judge)


def check_winners_loss(function: Callable[..., Any]) -> Report:
    """Check exercise 09.2: ``winners_loss(table)``: the winner of all seeds but one, there and on that one."""

    def judge() -> None:
        table = _table()
        falls, chosen_again = [], []
        for held in range(table.shape[1]):
            others = np.delete(table, held, axis=1).mean(1)
            winner = others.argmax()
            falls.append(others[winner] - table[winner, held])
            chosen_again.append(others.max() - table[:, held].max())
        all_seeds = table.mean(1)
        likely = {
            "Look the winner up on the held-out seed; do not choose again there.": np.mean(chosen_again),
            "Choose on the other seeds only: the held-out one must not help to choose.": np.mean(
                [np.delete(table, held, axis=1).mean(1)[all_seeds.argmax()] for held in range(table.shape[1])]
            )
            - table[all_seeds.argmax()].mean(),
            "The sign is flipped: what it seemed to be minus what it was.": -np.mean(falls),
            "Take the mean over held-out seeds, not the sum.": np.sum(falls),
        }
        got = as_number(ask(function, table))
        wrong = {words: as_number(value) for words, value in likely.items()}
        message = "For each held-out seed: the winner's mean on the others minus its value there; then the mean."
        require_close(got, as_number(np.mean(falls)), message, wrong, tolerance=1e-6)

    return attempt("09.2", function, judge)


def check_regret(function: Callable[..., Any]) -> Report:
    """Check exercise 09.3: ``regret(score, quality, k)``: best of all minus best of the k layers a score puts first."""

    def judge() -> None:
        score, quality, k = np.array([0.1, 0.9, 0.4, 0.8, 0.3]), np.array([78.0, 79.0, 81.5, 80.5, 82.0]), 3
        first = np.argsort(-score)[:k]
        likely = {
            "Take the best of the k, not their mean: you may train all k.": quality.max() - quality[first].mean(),
            "You looked at the first one only.": quality.max() - quality[score.argmax()],
            "Those are the k lowest scores.": quality.max() - quality[np.argsort(score)[:k]].max(),
            "Regret is what was lost: best of all minus best of the k.": quality[first].max() - quality.max(),
        }
        got = as_number(ask(function, score, quality, k))
        wrong = {words: as_number(value) for words, value in likely.items()}
        require_close(got, as_number(quality.max() - quality[first].max()), "max(quality) - max of the k.", wrong, 1e-6)

    return attempt("09.3", function, judge)
