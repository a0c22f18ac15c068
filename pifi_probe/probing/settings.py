"""`ProbeSettings` and `PluginProbeSettings`: how layers are scored, as small frozen objects like `Recipe`."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

from pifi_probe.errors import EstimatorError
from pifi_probe.scoring.projections import PROJECTIONS
from pifi_probe.vocabulary import mode_of_today

__all__ = ["PLUGIN_PROBE", "PROBE", "PluginProbeSettings", "ProbeSettings"]


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What both probes share."""

    split: str = "train"
    max_tokens: int = 100
    n_permutations: int = 100
    n_folds: int = 5
    precision: str = "float32"
    device: str = "auto"
    batch_tokens: int | None = None
    memory: int | None = None
    cache: bool = True

    def replace(self, **changes: Any) -> Self:
        """Return the settings with some changed.

        Raises
        ------
        EstimatorError
            If a setting is unknown; the nearest name is proposed.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
                raise EstimatorError(f"unknown setting {name!r}", where=type(self).__name__, next=hint)
        return dataclasses.replace(self, **changes)

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
        Keep pooled features on disk (``PIFI_PROBE_FEATURES``, or the cache folder), so that a killed pass goes on
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
    draws : int
        Draws of the labelled texts; the interval covers them and the texts.
    """

    pooling: str = "mean"
    normalise: bool = True
    drop_first: bool = True
    template: str | None = None
    fractions: Sequence[float] = ()
    draws: int = 6


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


PROBE, PLUGIN_PROBE = ProbeSettings(), PluginProbeSettings()  # the defaults
