"""`PiFiConfig`: everything that a plugged model is, as one JSON-able configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from transformers import PretrainedConfig

from pifi_probe.bounds import refuse_absurd_entries
from pifi_probe.errors import PlugInError
from pifi_probe.pretrained import harmless_entries
from pifi_probe.registry import Registry, caller
from pifi_probe.vocabulary import COMBINATIONS, CONTROLS, in_words_of_today

__all__ = [
    "COMBINATIONS",
    "CONTROLS",
    "WIRINGS",
    "PiFiConfig",
    "is_aligned",
    "modes_of",
    "pooled_wirings",
    "register_wiring",
]

_CHOICES: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        "feed": ("pooled", "sequence"),
        "mask": ("causal", "bidirectional", "none"),
        "scale": ("none", "matched"),
        "pooling": ("cls", "mean", "last"),
        "control": (None, *CONTROLS),
        "combine": (None, *COMBINATIONS),
    }
)
_HOW = "book/extending/wiring.md shows how"
WIRINGS: Registry[Mapping[str, Any]] = Registry(
    "wiring",
    PlugInError,
    reserved={
        "custom": "that is what models are called whose modes are not those of a wiring",
        "paper": 'it was the name of "pifi", and is read as that',
    },
)


def register_wiring(
    name: str,
    *,
    feed: str,
    scale: str,
    bypass: bool,
    pooling: str,
    lr_projection_factor: float = 1.0,
    interface: str = "drawn",
) -> None:
    """Add a preset of the modes of `plug_in`.

    Parameters
    ----------
    name : str
        What users write: ``plug_in(..., wiring=...)``.
    feed, scale, bypass, pooling, lr_projection_factor
        As in `PiFiConfig`; `pooling` may be "auto", too.
    interface : {"drawn", "fitted"}
        L_in and L_out start at random, or are fitted to the states that the layers know, as those of "aligned" are:
        every token is fed at the matched scale, with the bypass.

    Raises
    ------
    PlugInError
        If a mode has a value that it cannot have, or the name is reserved or taken. The module that has registered a
        wiring may register it again, with other values, too.
    """
    modes = {"feed": feed, "scale": scale, "bypass": bypass, "pooling": pooling, "interface": interface}
    fitted = interface == "fitted"
    choices: dict[str, tuple[Any, ...]] = {
        "feed": ("sequence",) if fitted else _CHOICES["feed"],
        "scale": ("matched",) if fitted else _CHOICES["scale"],
        "bypass": (True,) if fitted else (True, False),
        "pooling": (*_CHOICES["pooling"], "auto"),
        "interface": ("drawn", "fitted"),
    }
    for mode, value in modes.items():
        possible = choices[mode]
        if value not in possible or (mode == "bypass" and not isinstance(value, bool)):
            raise PlugInError(
                f"the wiring {name!r} has {mode}={value!r}",
                where=mode,
                next=f"use one of {', '.join(map(repr, possible))}; {_HOW}",
            )
    number = isinstance(lr_projection_factor, int | float) and not isinstance(lr_projection_factor, bool)
    if not number or not 0 < lr_projection_factor < math.inf:
        raise PlugInError(
            f"the wiring {name!r} has lr_projection_factor={lr_projection_factor!r}",
            where="lr_projection_factor",
            next=f"give a positive number: 10 trains L_in and L_out at ten times the encoder's learning rate; {_HOW}",
        )
    preset = MappingProxyType(modes | {"lr_projection_factor": float(lr_projection_factor)})
    WIRINGS.add(name, preset, home=caller())


register_wiring("pifi", feed="pooled", scale="none", bypass=False, pooling="cls")
register_wiring("matched", feed="pooled", scale="matched", bypass=True, pooling="auto", lr_projection_factor=10.0)
register_wiring(
    "aligned",
    feed="sequence",
    scale="matched",
    bypass=True,
    pooling="auto",
    lr_projection_factor=10.0,
    interface="fitted",
)


def modes_of(wiring: str) -> dict[str, Any]:
    """Return the modes of `PiFiConfig` that a wiring presets.

    Raises
    ------
    PlugInError
        If there is no such wiring.
    """
    return {name: value for name, value in WIRINGS.named(wiring, "wiring").items() if name != "interface"}


def is_aligned(wiring: object) -> bool:
    """Whether the interface of a wiring is fitted; of what is no wiring it is not."""
    return isinstance(wiring, str) and wiring in WIRINGS and WIRINGS[wiring]["interface"] == "fitted"


def pooled_wirings() -> tuple[str, ...]:
    """Return the wirings that feed a layer the pooled vector."""
    return tuple(name for name, modes in WIRINGS.items() if modes["feed"] == "pooled")


class PiFiConfig(PretrainedConfig):
    """Configuration of a plugged model.

    Parameters
    ----------
    encoder : dict
        Configuration of the small language model, as its ``to_dict()``; for generation of the encoder-decoder.
    layers : list of dict
        For each frozen layer, branch after branch, its ``card`` and its one-layer ``config``.
    slm : str
        Name or path the encoder was loaded from.
    wiring : str
        ``"pifi"``, ``"matched"``, ``"aligned"``, or ``"custom"`` when a setting was overridden.
    feed : {"pooled", "sequence"}
        The pooled vector as a sequence of one (the paper), or all tokens.
    mask : {"causal", "bidirectional", "none"}
        For ``feed="sequence"``: what a token sees. ``"none"``: everything, padding included, as the paper's
        code for whole sequences did.
    scale : {"none", "matched"}
        As initialised, or matched by fixed scalar factors to the layer's own input and the encoder's output.
    bypass : bool
        ``h + L_out(...)`` with L_out starting at zero, so that step 0 is plain fine-tuning.
    pooling : {"cls", "mean", "last"}
    pooling_from : str
        Why it is this one, where it was not simply asked for: what ``"auto"`` was read from.
    control : str or None
        The matched control this model is, if any.
    combine : {None, "serial", "gated-serial", "mix", "unshared", "gated"}
        How several layers are combined, see `pifi_probe.plugin.combine`; None for one layer or none.
    branches : list of int
        The number of layers in each branch; empty for one layer or none.
    lr_projection_factor : float
        Learning rate of L_in and L_out as a multiple of the encoder's, unless the recipe says otherwise.
    head_dropout : float
    plugin_width : int
        Width of the layers' residual stream.
    save_layer : bool
        Save the frozen layer's weights, or only a reference (name and sha256) to them. The weights of the
        control ``"unfrozen"`` are always saved.
    generation : dict or None
        How an encoder-decoder writes: its ``generation_config``.
    aligned : dict or None
        For ``wiring="aligned"``: ``read`` ("beside" or "back"), ``train_projections``, ``special_ids`` of the
        encoder's tokenizer, and ``interface``, what the alignment gave and what it saw.
    folded : dict or None
        Shapes of the folded plug-in, when this model is the result of `fold`.
    thresholds : list of float or None
        Of a multi-label classifier: the probabilities from which on its labels apply, in the order of ``id2label``.
    """

    model_type = "pifi"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        layers: list[dict[str, Any]] | None = None,
        slm: str = "",
        wiring: str = "pifi",
        feed: str = "pooled",
        mask: str = "causal",
        scale: str = "none",
        bypass: bool = False,
        pooling: str = "cls",
        pooling_from: str = "",
        control: str | None = None,
        combine: str | None = None,
        branches: list[int] | None = None,
        lr_projection_factor: float = 1.0,
        head_dropout: float = 0.2,
        plugin_width: int = 0,
        save_layer: bool = True,
        generation: dict[str, Any] | None = None,
        aligned: dict[str, Any] | None = None,
        folded: dict[str, Any] | None = None,
        thresholds: list[float] | None = None,
        **kwargs: Any,
    ) -> None:
        parts = {"encoder": encoder or {}, "layers": layers or [], "plugin_width": plugin_width}
        refuse_absurd_entries(kwargs | parts, "configuration of a plugged model")
        super().__init__(**harmless_entries(kwargs))
        self.encoder = encoder or {}
        self.layers = layers or []
        self.slm = slm
        modes = {"feed": feed, "mask": mask, "scale": scale, "bypass": bypass}
        for name, value in in_words_of_today({"wiring": wiring, **modes}).items():
            setattr(self, name, value)
        self.pooling, self.pooling_from = pooling, pooling_from
        self.control = control
        self.combine, self.branches = combine, branches or []
        self.lr_projection_factor = lr_projection_factor
        self.head_dropout = head_dropout
        self.plugin_width = plugin_width
        self.save_layer = save_layer
        self.generation = generation
        self.aligned = aligned
        self.folded = folded
        fits = not isinstance(thresholds, list) or len(thresholds) == self.num_labels
        self.thresholds = thresholds if fits else None  # of another head, whose number of labels was changed
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                allowed = ", ".join(str(choice) for choice in choices if choice is not None)
                raise PlugInError(f"unknown {name} {getattr(self, name)!r}", where=name, next=f"use one of {allowed}")
        _check_numbers(self)
        inner = self.encoder.get("encoder", self.encoder)  # an EncoderDecoderModel has two configurations
        widths = (inner.get(name) for name in ("hidden_size", "d_model", "dim", "n_embd"))
        self.hidden_size = next((width for width in widths if width), 0)
        self.vocab_size = vocabularies(self.encoder)[0]
        for token in ("pad_token_id", "bos_token_id", "eos_token_id"):  # where trainers and pipelines look for them
            if getattr(self, token, None) is None:
                setattr(self, token, self.encoder.get(token))

    @property
    def stores_layers(self) -> bool:
        """Whether the layers' weights are saved with the model; those that were trained have no donor to read."""
        return bool(self.layers) and (self.save_layer or self.control == "unfrozen")

    @property
    def layer_specs(self) -> str:
        """The plugged layers in the grammar of layer specifications; empty for controls without a layer."""
        names = [f"{item['card']['model']}[{item['card']['index']}]" for item in self.layers]
        return join_specs(names, self.combine, self.branches)


def _check_numbers(config: PiFiConfig) -> None:
    """Refuse numbers that no plugged model has."""
    factor, width, branches = config.lr_projection_factor, config.plugin_width, config.branches
    shares = config.thresholds
    found = {
        "thresholds": shares is None
        or (isinstance(shares, list) and all(isinstance(each, int | float) and 0 <= each <= 1 for each in shares)),
        "lr_projection_factor": isinstance(factor, int | float) and 0 <= factor < math.inf,
        "plugin_width": isinstance(width, int) and width >= 0,
        "branches": isinstance(branches, list)
        and all(isinstance(each, int) and each > 0 for each in branches)
        and (not branches or not config.layers or sum(branches) == len(config.layers)),
    }
    for name, fits in found.items():
        if not fits:
            raise PlugInError(
                f"{name}={getattr(config, name)!r} is not possible",
                where="configuration of a plugged model",
                next="download the model again, or leave the entry out",
            )


def vocabularies(small_model: Mapping[str, Any]) -> list[int]:
    """Return the number of tokens of a small language model; of two models in one, of the encoder and the decoder."""
    parts = [small_model.get("encoder"), small_model.get("decoder")]
    found = [part for part in parts if isinstance(part, Mapping)] or [small_model]
    sizes = [part.get("vocab_size") for part in found]
    return [size if isinstance(size, int) else 0 for size in sizes]


def join_specs(specs: Sequence[str], combine: str | None, branches: Sequence[int]) -> str:
    """Join the names of layers in the grammar of layer specifications.

    Parameters
    ----------
    specs : sequence of str
        One for each layer, branch after branch.
    combine, branches
        As in `PiFiConfig`.

    Examples
    --------
    >>> join_specs(["A[3]", "A[4]", "B[7]"], "mix", [2, 1])
    'A[3] >> A[4] | B[7]'
    """
    if combine in (None, "serial", "gated-serial"):
        return " >> ".join(specs)
    rest = iter(specs)
    return " | ".join(" >> ".join(islice(rest, n)) for n in branches)
