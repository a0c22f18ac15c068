"""`ProbeSettings` and `PluginProbeSettings`: how layers are scored, as small frozen objects like `Recipe`."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pifi_probe.checked import Checked, is_number
from pifi_probe.devices import DEVICES, PRECISIONS
from pifi_probe.errors import EstimatorError, PlugInError, TaskError
from pifi_probe.features.rows import refuse_test_split
from pifi_probe.plugin.config import WIRINGS, pooled_wirings
from pifi_probe.scoring.folds import MIN_FOLDS
from pifi_probe.scoring.projections import PROJECTIONS
from pifi_probe.vocabulary import MAX_TOKENS, mode_of_today

__all__ = ["PLUGIN_PROBE", "PROBE", "PluginProbeSettings", "ProbeSettings", "check_settings"]

_SPLITS = ("train", "validation")
_POOLINGS = ("mean", "last")


@dataclass(frozen=True, kw_only=True)
class _Settings(Checked):
    """What both probes share."""

    split: str = "train"
    max_tokens: int = MAX_TOKENS
    n_permutations: int = 100
    n_folds: int = 5
    precision: str = "float32"
    device: str = "auto"
    batch_tokens: int | None = None
    memory: int | None = None
    cache: bool = True

    def __post_init__(self) -> None:
        refuse_test_split(self.split, f"{type(self).__name__}, split")
        self._require_choice("split", _SPLITS)
        self._set_count("max_tokens", 1)
        self._set_count("n_permutations", 0)
        self._set_count("n_folds", MIN_FOLDS)
        self._set_count("batch_tokens", 1, optional=True)
        self._set_count("memory", 0, optional=True)
        self._set_flag("cache")
        self._require_choice("precision", PRECISIONS)
        object.__setattr__(self, "device", str(self.device))  # a torch.device, too

    def _require_list(self, name: str) -> None:
        """Store a tuple, which can be compared and hashed; text is not a list of its letters."""
        value = getattr(self, name)
        good = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
        self._require(name, good, "is not a list")
        object.__setattr__(self, name, tuple(value))

    @classmethod
    def _refusal(cls, what: str, name: str, hint: str) -> EstimatorError:
        return EstimatorError(what, where=f"{cls.__name__}, {name}" if name else cls.__name__, next=hint)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as values that JSON can hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(_Settings):
    """How `probe` scores a language model's own states; n, estimators and seed are arguments of the call.

    Parameters
    ----------
    split : {"train", "validation"}
        The test split is refused: a layer that was chosen on it could not be tested any more.
    max_tokens : int
        Longer texts are cut to so many tokens, counted in a note.
    n_permutations : int
        Label permutations of the null, the same for all depths; 0 leaves it out.
    n_folds : int
        Folds of the logistic probe.
    precision : {"float32", "bf16"}
        Of the pass through the model; scores are computed in float64.
    device : str
        "auto", "cpu", "cuda", ...
    batch_tokens : int, optional
        Tokens in one batch, padding included; by default 2,048 on a CPU and 8,192 on a GPU.
    memory : int, optional
        Bytes of hidden states to hold in memory; beyond it they go to disk. By default a quarter of what is free.
    cache : bool
        Keep pooled features on disk (``PIFI_PROBE_FEATURES``, or the cache folder), so that a killed pass continues
        and other estimators need no second one.
    pooling : {"mean", "last"}
        Over the tokens of a text.
    normalise : bool
        Divide every token by its own root mean square before averaging. Without it a few tokens with massive
        activations (norms hundreds of times larger) are the average.
    drop_first : bool
        Leave out the first token, unless it is the only one: it is an attention sink, the same for every text.
    template : str, optional
        With ``{text}`` (and ``{pair}``); by default the text alone.
    fractions : sequence of int or float
        Also the logistic probe with so few labelled texts, or shares of half the texts below 1, scored on the other
        half: ``"logistic_accuracy, 100 labels"`` among the estimators.
    n_draws : int
        Draws of the labelled texts; the interval covers them and the texts.

    Raises
    ------
    EstimatorError
        If a value is unknown or out of range.
    TaskError
        If the split is the test split, or a fraction is no number of texts.
    """

    pooling: str = "mean"
    normalise: bool = True
    drop_first: bool = True
    template: str | None = None
    fractions: Sequence[float] = ()
    n_draws: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require_choice("device", DEVICES)
        self._require_choice("pooling", _POOLINGS)
        self._set_flag("normalise")
        self._set_flag("drop_first")
        good = self.template is None or (isinstance(self.template, str) and "{text}" in self.template)
        self._require("template", good, "is not a text with {text}", 'write one, such as template="Review: {text}"')
        self._set_fractions()
        self._set_count("n_draws", 1)

    def _set_fractions(self) -> None:
        """Store plain numbers; how many texts there are to ask for, only the task says."""
        self._require_list("fractions")
        for one in self.fractions:
            if not is_number(one) or one <= 0 or (one > 1 and one != int(one)):
                raise TaskError(
                    f"{one!r} labelled texts were asked for",
                    where=f"{type(self).__name__}, fractions",
                    next="ask for numbers of texts, or for shares below 1, such as fractions=[100, 0.5]",
                )
        whole = [isinstance(one, numbers.Integral) for one in self.fractions]
        plain = tuple(int(one) if as_it_is else float(one) for one, as_it_is in zip(self.fractions, whole, strict=True))
        object.__setattr__(self, "fractions", plain)


@dataclass(frozen=True, kw_only=True)
class PluginProbeSettings(_Settings):
    """How `probe_plugin` scores layers as plug-ins; n, layers, estimators and seed are arguments of the call.

    Parameters
    ----------
    split, max_tokens, n_folds, precision, device, batch_tokens, memory, cache
        As in `ProbeSettings`.
    projections : sequence of {"random", "moment", "ridge", "procrustes"}
        How vectors come to the layer's width; see `pifi_probe.scoring.projections`. All but "random" need the
        language model's states of `n_alignment` other training texts, without their labels.
    n_draws : int
        Random projections (each with another shuffled twin) that are averaged.
    trained, ntk : bool
        Measure the trained proxy, and kernel regression with the tangent kernel of the model at its start, which is
        taken of at most 2,000 of the scored rows: it has an entry for every pair.
    seeds : sequence of int
        Of the trained proxy: at least three, so that its intervals cover them. The first is the tangent kernel's.
    epochs : int
        Of the trained proxy; the best one by held-out negative log-likelihood counts.
    wiring : {"matched", "pifi"}
        Of the trained proxy and the tangent kernel, and the encoder's pooling.
    warm_up : float
        Epochs of vanilla fine-tuning before everything else, on rows that are not scored; 0 for the raw encoder.
    n_alignment : int, optional
        At most so many texts for alignment; by default `n`.
    n_permutations : int
        Of the labels, for the scores of the encoder alone; the null of a gain is the shuffled layer.

    Raises
    ------
    EstimatorError
        If a value is unknown or out of range.
    TaskError
        If the split is the test split.
    PlugInError
        If the wiring is unknown, or feeds no pooled vector.
    """

    projections: Sequence[str] = PROJECTIONS
    n_draws: int = 4
    trained: bool = True
    ntk: bool = True
    seeds: Sequence[int] = (0, 1, 2)
    epochs: int = 3
    wiring: str = "matched"
    warm_up: float = 0.0
    n_alignment: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "wiring", mode_of_today("wiring", self.wiring))
        super().__post_init__()
        kind = self.device.partition(":")[0]
        self._require("device", kind in DEVICES, "is unknown", f'use one of {", ".join(DEVICES)}, or such as "cuda:1"')
        self._set_projections()
        self._set_count("n_draws", 1)
        self._set_flag("trained")
        self._set_flag("ntk")
        self._set_seeds()
        self._set_count("epochs", 1)
        self._check_wiring()
        self._set_number("warm_up", float)
        self._require("warm_up", self.warm_up >= 0, "must be 0 or above", "give a number of epochs, 0 for none")
        self._set_count("n_alignment", 1, optional=True)

    def _set_projections(self) -> None:
        hint = f"give a list of some of {', '.join(PROJECTIONS)}"
        given = self.projections
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise self._refusal(f"unknown projections {given!r}", "projections", hint)
        if unknown := [name for name in given if name not in PROJECTIONS]:
            raise self._refusal(f"unknown projections {unknown}", "projections", hint)
        self._require("projections", len(set(given)) == len(given), "names one twice", hint)
        object.__setattr__(self, "projections", tuple(given))

    def _set_seeds(self) -> None:
        self._require_list("seeds")
        good = all(is_number(one, int) and 0 <= one < 2**32 for one in self.seeds)
        self._require("seeds", good, "must hold whole numbers in [0, 2**32)")
        object.__setattr__(self, "seeds", tuple(int(one) for one in self.seeds))
        good = 0 < len(self.seeds) == len(set(self.seeds))
        self._require("seeds", good, "is not a list of different seeds", "give one seed or more, each once")

    def _check_wiring(self) -> None:
        known = isinstance(self.wiring, str) and self.wiring in WIRINGS
        if not known or self.wiring not in pooled_wirings():
            raise PlugInError(
                f"the wiring {self.wiring!r} feeds no pooled vector" if known else f"unknown wiring {self.wiring!r}",
                where=f"{type(self).__name__}, wiring",
                next=f"use one of {', '.join(pooled_wirings())}; for aligned chains pp.probe_chain",
            )


PROBE, PLUGIN_PROBE = ProbeSettings(), PluginProbeSettings()  # the defaults


def check_settings(given: object, kind: type[_Settings], where: str) -> None:
    """Refuse what is not the settings of a function, before anything is computed.

    Raises
    ------
    EstimatorError
    """
    if isinstance(given, kind):
        return
    other = next((name for name, one in _TAKEN.items() if isinstance(given, one)), "")
    raise EstimatorError(
        f"the settings are {f'a {type(given).__name__}' if other else repr(given)}, and {where} takes {kind.__name__}",
        where=f"{where}, settings",
        next=f"give pp.{kind.__name__}(...)"
        + (f", or call pp.{other}" if other else "; other arguments by name, such as n=200"),
    )


_TAKEN: dict[str, type[_Settings]] = {"probe": ProbeSettings, "probe_plugin": PluginProbeSettings}
