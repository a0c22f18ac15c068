"""`Recipe`: how a model is trained, as one small frozen object that a result carries with it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pifi_probe.checked import Checked, is_number
from pifi_probe.devices import DEVICES, PRECISIONS
from pifi_probe.errors import RecipeError
from pifi_probe.reading import Refused, parse_json
from pifi_probe.vocabulary import MAX_TOKENS, stored_settings

__all__ = ["Recipe"]

_WEIGHTS = ("none", "balanced")


@dataclass(frozen=True)
class Recipe(Checked):
    """Training settings. A recipe, a task and a model give the same numbers again on the same machine.

    The optimiser is Adam without weight decay at a constant learning rate, and the epoch with the best
    validation accuracy is kept (ties: the lower negative log-likelihood).

    Parameters
    ----------
    learning_rate : float
        Of encoder and head (paper).
    lr_projection : float, optional
        Of L_in and L_out. None: `learning_rate` times the wiring's own factor, which is 1 for ``"pifi"`` and
        10 for ``"matched"``.
    lr_gate : float
        Of the gates and mixing weights of a combination of layers. High, because a few numbers that start at 0
        have far to go (book/methods.md, Combinations); single layers have none.
    batch_size : int
        Texts per optimiser step (paper).
    epochs : int
        Passes over the training split (paper).
    max_tokens : int
        Tokens per text, the rest is cut off. Stated by the reference code only, not by the paper's summary.
    label_smoothing : float
        In [0, 1). Stated by the reference code only.
    max_grad_norm : float
        Bound on the Euclidean norm of all gradients together; 0 for none. Stated by the reference code only.
    seed : int
        Of the order of the data and of dropout. New weights are drawn by ``plug_in(seed=...)``.
    precision : {"float32", "bf16"}
        ``"bf16"``: automatic mixed precision, where the processor has instructions for it.
    device : {"auto", "cpu", "cuda", "mps"}
        ``"auto"``: CUDA, else MPS, else CPU.
    class_weights : {"none", "balanced"} or tuple of float
        Of each class in the training loss, for tasks with one class a row. ``"balanced"``: N / (K n_c) with n_c of N
        training rows in class c, as in scikit-learn. Or one number above 0 for each class. With weights, the epoch with
        the best validation macro F1 is kept, since accuracy would choose against them.

    Raises
    ------
    RecipeError
        If a value is out of range.

    Notes
    -----
    Best epoch by validation accuracy is also a rule of the reference code; its validation split (20 % of the
    training rows) and its head are settings of the task and of the model.

    Examples
    --------
    >>> Recipe(seed=1).replace(epochs=1).epochs
    1
    """

    learning_rate: float = 5e-5
    lr_projection: float | None = None
    lr_gate: float = 1e-2
    batch_size: int = 32
    epochs: int = 3
    max_tokens: int = MAX_TOKENS
    label_smoothing: float = 0.05
    max_grad_norm: float = 5.0
    seed: int = 0
    precision: str = "float32"
    device: str = "auto"
    class_weights: str | tuple[float, ...] = "none"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "lr_gate", "label_smoothing", "max_grad_norm", "lr_projection"):
            if getattr(self, name) is not None or name != "lr_projection":
                self._set_number(name, float)
        for name in ("batch_size", "epochs", "max_tokens", "seed"):
            self._set_number(name, int)
        self._require("learning_rate", self.learning_rate > 0, "must be above 0")
        self._require("lr_projection", self.lr_projection is None or self.lr_projection > 0, "must be above 0")
        self._require("lr_gate", self.lr_gate > 0, "must be above 0")
        self._require("batch_size", self.batch_size >= 1, "must be at least 1")
        self._require("epochs", self.epochs >= 1, "must be at least 1")
        self._require("max_tokens", self.max_tokens >= 3, "must be at least 3: one token between two special ones")
        self._require("label_smoothing", 0 <= self.label_smoothing < 1, "must be in [0, 1)")
        self._require("max_grad_norm", self.max_grad_norm >= 0, "must be 0 (no clipping) or above")
        self._require("seed", 0 <= self.seed < 2**32, "must be in [0, 2**32)")
        self._require_choice("precision", PRECISIONS)
        self._require_choice("device", DEVICES)
        if isinstance(self.class_weights, str):
            self._require_choice("class_weights", _WEIGHTS)
        else:
            self._set_weights()

    def _set_weights(self) -> None:
        """Store plain numbers, so that equal recipes have equal hashes."""
        values = self.class_weights
        good = isinstance(values, Sequence | np.ndarray) and len(values) > 1
        good = good and all(is_number(one) and one > 0 for one in values)
        hint = 'use "balanced", "none", or one number for each class, such as (1.0, 3.0)'
        self._require("class_weights", good, "must hold a number above 0 for each class", hint)
        object.__setattr__(self, "class_weights", tuple(float(one) for one in values))

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dictionary that JSON can hold.

        ``class_weights`` only where there are some, so that runs of earlier versions stay the same runs.
        """
        values = dataclasses.asdict(self)
        weights = values.pop("class_weights")
        if weights == "none":
            return values
        return values | {"class_weights": weights if isinstance(weights, str) else list(weights)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Rebuild a recipe; settings that are not named keep their defaults, and names of older records are known."""
        values = stored_settings(values)
        cls._check_names(values)
        return cls(**values)

    def to_json(self) -> str:
        """Return the settings as JSON."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Rebuild a recipe from `to_json`.

        Raises
        ------
        RecipeError
            If the text is not a JSON object, or a setting is unknown or out of range.
        """
        try:
            values = parse_json(text)
        except Refused as error:
            raise RecipeError(f"not JSON: {error}", where="recipe", next="write it with Recipe.to_json") from error
        if not isinstance(values, dict):
            raise RecipeError("not a JSON object", where="recipe", next="write it with Recipe.to_json")
        return cls.from_dict(values)

    @classmethod
    def _refusal(cls, what: str, name: str, hint: str) -> RecipeError:
        return RecipeError(what, where=f"recipe, {name}" if name else "recipe", next=hint)
