"""Checks of notebook 16: what training holds, what the block computes, and how times are compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from pifi_probe.checks.judge import Report, ask, attempt, require, require_close

__all__ = ["check_plugin_macs", "check_slower", "check_training_bytes"]


def _asked(function: Callable[..., Any], *args: Any) -> float:
    got = ask(function, *args)
    require(isinstance(got, int | float), "Return a number.")
    return float(got)


def check_training_bytes(function: Callable[..., Any]) -> Report:
    """Check exercise 16.1: ``training_bytes(trained, frozen)`` in float32 with Adam, without activations."""

    def judge() -> None:
        got = _asked(function, 100, 1000)
        named = {
            4 * 1100 * 4: "Frozen weights have neither gradient nor moments.",
            4 * 1100: "Trained weights also have a gradient and Adam's two moments.",
            4 * (3 * 100 + 1000): "Adam keeps two moments for each trained weight, next to its gradient.",
            4 * 100 + 1000: "Each number takes 4 bytes, the frozen ones too.",
            4 * 400: "The frozen weights are held too.",
        }
        require(got == 5600, named.get(int(got), "4 bytes x (4 x trained + frozen)."))

    return attempt("16.1", function, judge)


def check_plugin_macs(function: Callable[..., Any]) -> Report:
    """Check exercise 16.2: ``plugin_macs(d_slm, d_llm, d_mlp, d_value)`` of the reduced layer on one token."""

    def judge() -> None:
        d_slm, d_llm, d_mlp, d_value = 3, 5, 7, 2
        got = _asked(function, d_slm, d_llm, d_mlp, d_value)
        projections, attention, mlp = 2 * d_slm * d_llm, 2 * d_value * d_llm, 3 * d_llm * d_mlp
        named = {
            projections + mlp: "The values are left out: W_v and W_o.",
            attention + mlp: "L_in and L_out are left out.",
            projections + attention + 2 * d_llm * d_mlp: "A gated MLP has three matrices: gate, up and down.",
            projections // 2 + attention + mlp: "L_in and L_out both count.",
            projections + 4 * d_llm * d_llm + mlp: "One token needs no queries and keys; the values are d_value wide.",
        }
        right = projections + attention + mlp
        require(got == right, named.get(int(got), "One for each entry of each matrix: L_in, W_v, W_o, MLP, L_out."))

    return attempt("16.2", function, judge)


def check_slower(function: Callable[..., Any]) -> Report:
    """Check exercise 16.3: ``slower(own, base)``, the median of the ratios of rounds."""

    def judge() -> None:
        own, base = [2.0, 30.0, 3.3], [1.0, 10.0, 3.0]
        likely = {
            "The ratio of the means: one slow round decides it.": torch.tensor(35.3 / 14.0),
            "The ratio of the medians: both arms of one round met the same machine, so compare within rounds.": (
                torch.tensor(3.3 / 3.0)
            ),
            "The mean of the ratios: take their median.": torch.tensor((2.0 + 3.0 + 1.1) / 3),
            "Upside down: own over base.": torch.tensor(0.5),
        }
        got = torch.tensor(_asked(function, own, base))
        require_close(got, torch.tensor(2.0), "The median over rounds of own / base.", likely)

    return attempt("16.3", function, judge)
