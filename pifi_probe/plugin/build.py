"""`plug_in`: an encoder, a frozen layer and a task become one model."""

from __future__ import annotations

import copy
import hashlib
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from pifi_probe import assets
from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import ModelNotFoundError, PlugInError
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenChain, FrozenLayer, list_of
from pifi_probe.layers.residual import residual_rms
from pifi_probe.plugin.config import CONTROLS, WIRINGS, PiFiConfig
from pifi_probe.plugin.modeling import PiFiForSequenceClassification, describe
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.plugin.pooling import is_decoder, pool, resolve_pooling
from pifi_probe.plugin.variants import make_variant

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task

__all__ = ["plug_in", "tokenizer_for"]

logger = logging.getLogger(__name__)

_NO_LAYER = ("vanilla", "linear", "mlp")
_MODES = ("feed", "mask", "scale", "bypass", "pooling")
N_CALIBRATION = 64


def plug_in(
    slm: str | PreTrainedModel,
    layer: str | FrozenLayer | FrozenChain | None = None,
    *,
    task: Task,
    wiring: str = "paper",
    control: str | None = None,
    seed: int = 0,
    feed: str | None = None,
    mask: str | None = None,
    scale: str | None = None,
    bypass: bool | None = None,
    pooling: str | None = None,
    target_rms: float | None = None,
    save_layer: bool = True,
) -> PiFiForSequenceClassification:
    """Put a frozen layer between an encoder and a task's head.

    Parameters
    ----------
    slm : str or PreTrainedModel
        The small language model: hub id, folder, embedded name, or a loaded base model (copied).
    layer : str, FrozenLayer or FrozenChain, optional
        The layer, or its specification. The controls "linear" and "mlp" take its width only; "vanilla" needs
        none.
    task : Task
        Gives the labels, and the texts that calibrate ``scale="matched"``.
    wiring : {"paper", "matched"}
        Preset of the modes below. ``"paper"``: the pooled vector as a sequence of one, [CLS], default
        initialisation, no bypass. ``"matched"``: pooling "auto", matched scale, zero-start bypass, projections
        at ten times the learning rate.
    control : {None, "vanilla", "linear", "random", "shuffled", "unfrozen", "mlp"}
        The matched control to build instead: no plug-in at all; L_out L_in with nothing between; a
        random-init layer; the layer with its weights permuted; the layer trainable; a trainable MLP with as
        many weights as both projections.
    seed : int
        Of every new weight: head, L_in, L_out and the control's. Each part draws from a stream of its own, so
        that arms with the same seed share what they have in common.
    feed, mask, scale, bypass, pooling : optional
        Override single modes of the wiring; see `PiFiConfig`. ``pooling="auto"`` is resolved here.
    target_rms : float, optional
        For ``scale="matched"``: root mean square of the layer's input inside its own model, when the donor is
        not at hand to measure it.
    save_layer : bool
        Save the layer's weights with the model, or only a reference to them.

    Returns
    -------
    PiFiForSequenceClassification

    Raises
    ------
    PlugInError
        If a mode is unknown or the parts do not fit.

    Notes
    -----
    Source: the paper, section 3; preset values from its reference code, see SELECTION E2.
    """
    if wiring not in WIRINGS:
        raise PlugInError(f"unknown wiring {wiring!r}", where="wiring", next=f"use one of {', '.join(WIRINGS)}")
    if control is not None and control not in CONTROLS:
        raise PlugInError(f"unknown control {control!r}", where="control", next=f"use one of {', '.join(CONTROLS)}")
    overrides = dict(zip(_MODES, (feed, mask, scale, bypass, pooling), strict=True))
    modes = {**WIRINGS[wiring], **{name: value for name, value in overrides.items() if value is not None}}
    layers = _layers(layer, control)
    encoder, name, folder = load_encoder(slm)
    modes["pooling"] = resolve_pooling(str(modes["pooling"]), encoder.config, folder)
    if is_decoder(encoder.config):
        logger.warning("%s is a decoder: the paper tested encoders only; its last token is pooled", name)
    pooled = modes["feed"] == "pooled"
    kept = [] if control in _NO_LAYER else [_variant(one, control, pooled, seed) for one in layers]
    changed = any(value is not None for value in overrides.values())
    config = PiFiConfig(
        encoder=encoder.config.to_dict(),
        layers=[describe(one) for one in kept],
        slm=name,
        wiring="custom" if changed else wiring,
        control=control,
        plugin_width=layers[0].hidden_size if layers else 0,
        save_layer=save_layer,
        num_labels=len(task.label_names),
        id2label=dict(enumerate(task.label_names)),
        label2id={label: i for i, label in enumerate(task.label_names)},
        **modes,
    )
    model = PiFiForSequenceClassification(config, encoder=encoder, layers=kept)
    _initialise(model, seed)
    if model.plugin is not None and config.scale == "matched":
        target = 1.0 if not kept else target_rms or residual_rms(layers[0].card)
        _calibrate(model, task, target)
    return model.eval()


def load_encoder(slm: str | PreTrainedModel) -> tuple[PreTrainedModel, str, Path | None]:
    """Return the encoder in float32, its name, and its folder where it has one."""
    if isinstance(slm, PreTrainedModel):
        name = str(getattr(slm.config, "_name_or_path", "") or slm.config.model_type)
        return copy.deepcopy(slm), name, Path(name) if Path(name).is_dir() else None
    source = _source_of(slm)
    try:
        with quiet_transformers():
            encoder = AutoModel.from_pretrained(source, dtype=torch.float32, **_no_pooler(source))
    except (OSError, ValueError) as error:
        raise ModelNotFoundError(
            f"the small language model could not be loaded: {error}",
            where=slm,
            next="give a hub id, a folder with config.json and safetensors, or an embedded name such as minilm-l6",
        ) from error
    return encoder, slm, Path(source) if Path(source).is_dir() else None


def tokenizer_for(model: PiFiForSequenceClassification) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model's encoder, with a padding token."""
    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(_source_of(model.config.slm))
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _source_of(slm: str) -> str:
    return str(assets.path(slm)) if assets.is_asset(slm) else slm


def _no_pooler(source: str) -> dict[str, Any]:
    """Leave out BERT-like pooling layers, which PiFi never uses and which would count as trained."""
    cls = MODEL_MAPPING[type(AutoConfig.from_pretrained(source))]
    return {"add_pooling_layer": False} if "add_pooling_layer" in inspect.signature(cls.__init__).parameters else {}


def _layers(layer: str | FrozenLayer | FrozenChain | None, control: str | None) -> list[FrozenLayer]:
    if layer is None:
        if control == "vanilla":
            return []
        raise PlugInError(
            "no layer was given", where="plug_in(layer=...)", next='name one, for example "smollm2-135m[-1]"'
        )
    return list_of(extract(layer) if isinstance(layer, str) else layer)


def _variant(layer: FrozenLayer, control: str | None, pooled: bool, seed: int) -> FrozenLayer:
    return make_variant(copy.deepcopy(layer), control or "real", single_token=pooled, seed=seed)


@contextmanager
def _stream(seed: int, part: str) -> Iterator[None]:
    """Draw from a stream that depends on the seed and the part's name alone."""
    digest = hashlib.sha256(f"{seed}:{part}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:7], "big"))
        yield


def _initialise(model: PiFiForSequenceClassification, seed: int) -> None:
    """Draw head and projections anew, with PyTorch's default initialisation, from the seed."""
    with _stream(seed, "head"):
        for module in model.head:
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    if not isinstance(model.plugin, PlugIn):
        return
    for name in ("L_in", "L_out"):
        with _stream(seed, name):
            getattr(model.plugin, name).reset_parameters()
    if model.config.bypass:
        nn.init.zeros_(model.plugin.L_out.weight)


def _calibrate(model: PiFiForSequenceClassification, task: Task, target_rms: float) -> None:
    """Match scales on the first training texts; uses no label."""
    texts = list(task.splits["train"].texts[:N_CALIBRATION])
    batch = tokenizer_for(model)(texts, padding=True, truncation=True, max_length=100, return_tensors="pt")
    plugin = model.plugin
    assert isinstance(plugin, PlugIn)
    model.eval()
    with torch.no_grad():
        states, mask = model.encode(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        if model.config.feed == "sequence":
            plugin.calibrate(states, mask, target_rms)
        else:
            plugin.calibrate(pool(states, mask, model.config.pooling), None, target_rms)
