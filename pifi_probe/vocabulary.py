"""Words that Python, the command line, results and studies share, each once; and those of versions before.

Saved models, records and studies with the former words are read under the names of today, here alone.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

__all__ = [
    "BARE",
    "BASIC_CONTROLS",
    "COMBINATIONS",
    "CONTROLS",
    "FIDELITIES",
    "MAX_TOKENS",
    "STORED_FIDELITY",
    "TWINS",
    "WITHOUT_LAYER",
    "in_words_of_today",
    "mode_of_today",
    "stored_settings",
]

TWINS = ("random", "shuffled")  # layers of the same shape with other weights, which are drawn from the seed
BARE = ("vanilla", "linear")  # the encoder alone, and with two projections only
BASIC_CONTROLS = (*BARE, *TWINS)  # those that every layer is compared with
WITHOUT_LAYER = (*BARE, "mlp")  # controls whose model holds no layer
CONTROLS = (*BASIC_CONTROLS, "unfrozen", "mlp")
COMBINATIONS = ("serial", "gated-serial", "mix", "unshared", "gated")  # of several layers: combine=
MAX_TOKENS = 100  # after which a text is cut, unless told: max_tokens=
FIDELITIES = ("estimator", "frozen", "last-block", "short", "full")  # of a search's trials, the cheapest first
STORED_FIDELITY = "rung"  # what every study on disk, and Optuna's dashboard, calls the fidelity of a trial
_FORMER = {
    ("wiring", "paper"): "pifi",
    ("scale", "paper"): "none",
    ("mask", "paper"): "none",
    ("plot", "rungs"): "fidelities",
}
_SETTINGS = {"max_length": "max_tokens", "draws": "n_draws"}
_IN_LABEL = ((r"^paper: ", "pifi: "), (r"\(paper(?=[,)])", "(pifi"), (r"\b(scale|mask)=paper\b", r"\1=none"))


def in_words_of_today(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return wiring, modes, label and verdict of a saved model or a record, where versions before said otherwise."""
    found = {name: _FORMER.get((name, each), each) if isinstance(each, str) else each for name, each in values.items()}
    if isinstance(label := found.get("label"), str):
        for former, now in _IN_LABEL:
            label = re.sub(former, now, label)
        found["label"] = label
    if isinstance(verdict := found.get("verdict"), str):
        found["verdict"] = verdict.replace("interval holds zero", "interval includes zero")
    return found


def mode_of_today(name: str, value: Any) -> Any:
    """Return an argument's value of today; warns where the word of the versions before was given."""
    now = in_words_of_today({name: value})[name]
    if now != value:
        warnings.warn(f'{name}="{value}" is called "{now}" now', DeprecationWarning, stacklevel=4)
    return now


def stored_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a stored recipe, or of what a stored probe was measured with."""
    return {_SETTINGS.get(name, name): value for name, value in values.items()}
