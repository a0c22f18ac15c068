"""Checks of notebook 00: which parts are trained, and how a layer is named."""

from __future__ import annotations

from typing import Any

from pifi_probe.checks.judge import Report, attempt, require
from pifi_probe.errors import PifiProbeError
from pifi_probe.layers.spec import LayerSpec, parse
from pifi_probe.reporting.block import PARTS

__all__ = ["check_spec", "check_trained_parts"]

TRAINED = {part for part, (_, fate) in PARTS.items() if fate == "trained"}


def check_trained_parts(answer: Any) -> Report:
    """Check exercise 00.1: the set of parts whose weights PiFi trains."""

    def judge() -> None:
        given = set(answer)
        require(given <= set(PARTS), f"There is no part {sorted(given - set(PARTS))}: use the names in the picture.")
        require("layer" not in given, "The LLM layer is frozen: its box is dashed. What is left of your set?")
        require(not given & {"text", "label"}, "Text and label have no weights.")
        missing = sorted(TRAINED - given)
        require(not missing, f"{len(missing)} trained part(s) missing: look at the words below the boxes.")

    return attempt("00.1", answer, judge)


def check_spec(answer: Any) -> Report:
    """Check exercise 00.2: the name of the second layer from the end of SmolLM2-135M."""

    def judge() -> None:
        require(isinstance(answer, str), "A layer is named by a string.")
        try:
            spec = parse(answer)
        except PifiProbeError as error:
            require(False, f"This is not a layer's name: {error.what}.")
        require(isinstance(spec, LayerSpec), "This names several layers; one is asked for.")
        require(answer.startswith("smollm2-135m["), "The model comes first: smollm2-135m.")
        require(not answer.endswith("[-1]"), "[-1] is the last layer; the second from the end is one further down.")
        require(not answer.endswith("[30]"), "Layers count from 0, so 30 layers end with 29.")
        require(answer.endswith(("[-2]", "[28]")), "Count from the end: [-1] is the last layer.")

    return attempt("00.2", answer, judge)
