"""`plug_in`: an encoder, a frozen layer and a task become one model."""

from __future__ import annotations

import copy
import hashlib
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.alignment.tokens import special_ids
from pifi_probe.encoders import is_decoder, pool, within_positions
from pifi_probe.errors import PlugInError
from pifi_probe.escaping import one_line
from pifi_probe.features.headroom import headroom
from pifi_probe.kinds import KINDS
from pifi_probe.layers.extract import extract
from pifi_probe.layers.frozen import FrozenChain, FrozenLayer, FrozenLayers, FrozenParallel, list_of
from pifi_probe.layers.residual import residual_rms
from pifi_probe.layers.tokenizer import GivenTokenizer, load_tokenizer
from pifi_probe.layers.variants import make_variant, twin_of
from pifi_probe.permissions import pickle_on_request
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.aligning import Twin, align, alignment_texts, fit_interface, texts_read
from pifi_probe.plugin.base import PiFiPreTrainedModel, describe
from pifi_probe.plugin.combine import arrange
from pifi_probe.plugin.config import CONTROLS, PiFiConfig, is_aligned, modes_of
from pifi_probe.plugin.loading import load_encoder_decoder, stream
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.plugin.pooling import resolved_pooling
from pifi_probe.plugin.registry import HEADS
from pifi_probe.plugin.tokenizer import tokenizer_for
from pifi_probe.slm import embedding_rows, encoder_tokenizer, load_encoder
from pifi_probe.vocabulary import MAX_TOKENS, TWINS, WITHOUT_LAYER, mode_of_today

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task

__all__ = ["load_encoder", "model_class_of", "named_chain", "plug_in", "tokenizer_for"]

L = TypeVar("L")
logger = logging.getLogger(__name__)

_MODES = ("feed", "mask", "scale", "bypass", "pooling")
N_CALIBRATION = 64  # texts


@pickle_on_request
def plug_in(
    slm: str | PreTrainedModel,
    layer: str | FrozenLayers | None = None,
    *,
    task: Task,
    wiring: str = "pifi",
    combine: str | None = None,
    control: str | None = None,
    seed: int = 0,
    feed: str | None = None,
    mask: str | None = None,
    scale: str | None = None,
    bypass: bool | None = None,
    pooling: str | None = None,
    target_rms: float | Sequence[float] | None = None,
    read: str | None = None,
    train_projections: bool = False,
    own_interface: bool = False,
    tokenizer: GivenTokenizer | None = None,
    save_layer: bool = True,
    allow_pickle: bool = False,
) -> Any:
    """Put a frozen layer between an encoder and a task's head, or between encoder and decoder.

    Parameters
    ----------
    slm : str or PreTrainedModel
        The small language model: hub id, folder, embedded name, or a loaded base model (copied). For a task whose
        target is a text an encoder-decoder; an encoder gets a new decoder of two layers.
    layer : str, FrozenLayer, FrozenChain or FrozenParallel, optional
        The layer or layers, or their specification. The controls "linear" and "mlp" take their width only;
        "vanilla" needs none.
    task : Task
        Gives the head, the labels, and the texts that calibrate ``scale="matched"``. Where the head reads every
        token, or the model writes, the layer sees the whole sequence, in both wirings.
    wiring : {"pifi", "matched", "aligned"}
        Preset of the modes below. ``"pifi"``: the pooled vector as a sequence of one, [CLS], default
        initialisation, no bypass. ``"matched"``: pooling "auto", matched scale, zero-start bypass, projections
        at ten times the learning rate. ``"aligned"``: all tokens enter a chain of layers at the donor's own states,
        through a linear interface fitted to at most 2,000 unlabelled training texts (never a label, never a test
        text), see `pifi_probe.plugin.aligned`; `layer` is one chain, or the donor's name alone for the chain that
        `pifi_probe.headroom` suggests, which reads training labels to choose it.
    combine : {None, "serial", "gated-serial", "mix", "unshared", "gated"}
        How several layers are combined; see `pifi_probe.plugin.combine`. All but ``"serial"`` start exactly at
        the first layer alone. None: ``"serial"`` for layers in series; for layers side by side ``"mix"`` when
        their hidden sizes agree, else ``"unshared"``.
    control : {None, "vanilla", "linear", "random", "shuffled", "unfrozen", "mlp"}
        The matched control to build instead: no plug-in at all; L_out L_in with nothing between; the layer
        with weights drawn anew, of each matrix's mean and spread; with its weights permuted; trainable; a trainable
        MLP with as many weights as all projections. Of several layers, each becomes its control, from draws of its own.
    seed : int
        Of every new weight: head, L_in, L_out and the control's. Each part draws from a stream of its own, so
        that arms with the same seed share what they have in common.
    feed, mask, scale, bypass, pooling : optional
        Override single modes of the wiring; see `PiFiConfig`. ``pooling="auto"`` is resolved here: to what the
        encoder's checkpoint states in the files of sentence-transformers (folder or hub), else to the first token
        of an encoder and the last of a decoder. The model's card and repr say which, and why.
    target_rms : float or sequence of float, optional
        For ``scale="matched"``: root mean square of the layer's input inside its own model, when the donor is
        not at hand to measure it. For several branches one number each, or one for all.
    read : {"beside", "back"}, optional
        For ``wiring="aligned"``: read the chain out next to the encoder's vector, or back into the encoder's tokens.
        None: beside, and back for heads that read every token.
    train_projections : bool
        For ``wiring="aligned"``: train the fitted maps too; otherwise they stay as they were fitted.
    own_interface : bool
        For ``wiring="aligned"`` and the controls "random" and "shuffled": fit the interface to the states of a donor
        whose lower layers are such twins, too, instead of to the donor's. It sees the same texts. The layer itself has
        its own anyway; for other controls there is none, and it is refused.
    tokenizer : str, Path or PreTrainedTokenizerBase, optional
        Another tokenizer than the encoder's own: a hub id, a folder, or the tokenizer. It is kept, and saved, with
        the model. Needed for a model in memory that names no checkpoint.
    save_layer : bool
        Save the layer's weights with the model, or only a reference to them.
    allow_pickle : bool
        Read legacy ``.bin`` weights of the small model and of the donor, too, with ``weights_only=True``. The variable
        ``PIFI_PROBE_ALLOW_PICKLE=1`` allows it everywhere.

    Returns
    -------
    PiFiPreTrainedModel
        `PiFiForSequenceClassification`, `PiFiForMultipleChoice`, `PiFiForQuestionAnswering`,
        `PiFiForTokenClassification` or `PiFiForConditionalGeneration`: what the kind's ``head`` names in
        `pifi_probe.plugin.HEADS`.

    Raises
    ------
    PlugInError
        If a mode is unknown, the parts do not fit, or ``pooling="auto"`` cannot be read.
    TokenizerError
        If a tokenizer is needed (given, for the matched scale, or for a new decoder) and is missing or does not fit.
    ModelNotFoundError, CheckpointError, UnsupportedFormatError
        If a model cannot be loaded, or only as pickle. Code that a model brings with it is never run.

    Notes
    -----
    Source: the paper, section 3; preset values from its reference code, see book/methods.md, Scale.
    """
    wiring, mask, scale = mode_of_today("wiring", wiring), mode_of_today("mask", mask), mode_of_today("scale", scale)
    preset = modes_of(wiring)
    if control is not None and control not in CONTROLS:
        raise PlugInError(f"unknown control {control!r}", where="control", next=f"use one of {', '.join(CONTROLS)}")
    overrides = dict(zip(_MODES, (feed, mask, scale, bypass, pooling), strict=True))
    modes = {**preset, **{name: value for name, value in overrides.items() if value is not None}}
    model_class = model_class_of(task)
    if not model_class.pools:
        if feed == "pooled":
            raise PlugInError(
                f'feed="pooled" leaves nothing for a head of kind {task.kind!r}, which reads every token',
                where="feed",
                next='leave feed out: for this kind it is "sequence"',
            )
        modes["feed"] = "sequence"
    aligned = is_aligned(wiring)
    if aligned:
        read = _read(read, task, preset, modes)
        if control != "vanilla":
            layer = named_chain(slm, layer, task, wiring=wiring, tokenizer=tokenizer)
    elif read is not None or train_projections or own_interface:
        raise PlugInError(
            "read=, train_projections= and own_interface= are for aligned chains",
            where=f"wiring {wiring!r}",
            next='use wiring="aligned", or leave them out',
        )
    if own_interface and control not in (None, *TWINS):
        raise PlugInError(
            f"own_interface=True is for twins: the control {control!r} has no lower layers of its own to be aligned to",
            where="own_interface",
            next=f"leave it out, or use control= one of {', '.join(TWINS)}",
        )
    given = _given(layer, control)
    layers = [] if given is None else list_of(given)
    design, branches = (None, []) if given is None else arrange(given, combine)
    if aligned and (design not in (None, "serial") or len(branches) > 1 or not _neighbours(layers)):
        raise PlugInError(
            "an aligned plug-in is one chain: layers of one model in series, each the next one's neighbour",
            where=" >> ".join(one.card.spec for one in layers) if design in (None, "serial") else str(design),
            next='name neighbours, such as "smollm2-135m[8:15]"',
        )
    if model_class.writes:
        encoder, name, source = load_encoder_decoder(slm, seed, tokenizer)
    else:
        encoder, name, source = load_encoder(slm)
    if pooling == "cls" and model_class.pools and is_decoder(encoder.config):
        raise PlugInError(
            'pooling="cls" reads the first token, which has seen nothing else in a decoder',
            where=name or type(encoder).__name__,
            next='leave pooling out or give pooling="last"; "mean" is also possible',
        )
    how = str(modes["pooling"])
    if not model_class.pools and how == "auto":
        how = "cls"  # the head reads every token: nothing is pooled, and nothing need be read
    resolved = resolved_pooling(how, encoder.config, source)
    modes |= {"pooling": resolved.how, "pooling_from": resolved.why}
    if is_decoder(encoder.config):
        logger.warning("%s is a decoder: the paper tested encoders only; its last token is pooled", one_line(name))
    pooled = modes["feed"] == "pooled"
    bare = control in WITHOUT_LAYER
    kept = [] if bare else [_variant(one, control, pooled, seed, position) for position, one in enumerate(layers)]
    firsts = [layers[sum(branches[:j])] for j in range(len(branches))]
    unshared = design == "unshared" and control != "vanilla"
    changed = any(value is not None for value in overrides.values())
    own = None if tokenizer is None else load_tokenizer(tokenizer, n_rows=embedding_rows(encoder))
    facts = None
    if aligned and control != "vanilla":
        facts = _aligned_facts(own or encoder_tokenizer(encoder, source), read, train_projections)
    config = PiFiConfig(
        encoder=encoder.config.to_dict(),
        layers=[describe(one) for one in kept],
        slm=name,
        wiring="custom" if changed else wiring,
        control=control,
        combine=design if kept or unshared else None,
        branches=branches if design and kept else None,
        plugin_width=sum(one.hidden_size for one in firsts[: None if unshared else 1]),
        save_layer=save_layer,
        aligned=facts,
        generation=encoder.generation_config.to_diff_dict() if model_class.writes else None,
        **KINDS[task.kind].model_settings(task),
        **modes,
    )
    model = model_class(config, encoder=encoder, layers=kept)
    model.tokenizer = own
    initialise(model, seed)
    if isinstance(model.plugin, AlignedPlugIn):
        twin = _below(control, seed) if own_interface and control in TWINS else None
        _align(model, layers[0], task, twin)
    elif model.plugin is not None and config.scale == "matched":
        texts = _calibration_texts(task)
        _calibrate(model, texts, [1.0] if bare else _targets(firsts, target_rms))
    return model.eval()


def model_class_of(task: Task) -> type[PiFiPreTrainedModel]:
    """Return the class of the models that are trained on a task."""
    return HEADS.named(KINDS[task.kind].head, f"head of the kind {task.kind!r}")


def _read(read: str | None, task: Task, preset: Mapping[str, Any], modes: Mapping[str, Any]) -> str:
    """Return how an aligned chain is read for a kind of task."""
    changed = [name for name in ("feed", "scale", "bypass") if modes[name] != preset[name]]
    if changed:
        raise PlugInError(
            f"{changed[0]}={modes[changed[0]]!r} does not go with an aligned chain",
            where=changed[0],
            next=f"leave {changed[0]} out: with this wiring it is {preset[changed[0]]!r}",
        )
    default = "beside" if model_class_of(task).pools else "back"
    if read not in (None, "beside", "back") or (read == "beside" and default == "back"):
        raise PlugInError(
            f"read={read!r} is not possible for a task of kind {task.kind!r}",
            where="read",
            next='use read="back"' if default == "back" else 'use "beside" or "back"',
        )
    return read or default


def _aligned_facts(tokenizer: PreTrainedTokenizerBase, read: str | None, train_projections: bool) -> dict[str, Any]:
    """Return what an aligned model's configuration says before its interface is fitted."""
    special = sorted(special_ids(tokenizer))
    return {"read": read, "train_projections": train_projections, "special_ids": special}


def _neighbours(layers: Sequence[FrozenLayer]) -> bool:
    """Whether each layer follows the one before it in the same model."""
    places = [(one.card.model, one.card.revision, one.card.adapter, one.card.index) for one in layers]
    return all(b == (*a[:3], a[3] + 1) for a, b in itertools.pairwise(places))


def named_chain(
    slm: str | PreTrainedModel, layer: L, task: Task, *, wiring: str, tokenizer: GivenTokenizer | None = None
) -> L | str:
    """Return the layers as they were given; of an aligned donor's name alone the chain that its headroom suggests.

    Raises
    ------
    PlugInError
        If a chain is to be suggested, and the task has no class a row.
    """
    if not is_aligned(wiring) or not isinstance(layer, str) or "[" in layer:
        return layer
    if not task.has_row_classes:
        raise PlugInError(
            f"a chain is suggested by what the donor adds to one class a row, and this task is of kind {task.kind!r}",
            where=task.name,
            next=f'name the chain, such as "{layer}[8:15]"',
        )
    found = headroom(slm, layer, task, tokenizer=tokenizer, progress=False)
    found.suggested()
    return found.chain


def _below(control: str, seed: int) -> Twin:
    """Return the change that makes every lower layer of a donor the twin that the control is."""
    return f"{control} {seed}", lambda layer: twin_of(layer, control, seed)


def _align(model: PiFiPreTrainedModel, first: FrozenLayer, task: Task, twin: Twin | None) -> None:
    """Fit the interface of a model to the input of a chain's first layer, on training texts."""
    if "train" not in task.splits:
        raise PlugInError(
            "an interface is aligned on training texts, and the task has no train split",
            where=f"task {task.name!r}",
            next="give the task that the model is trained on",
        )
    tokenizer = tokenizer_for(model)
    texts = alignment_texts(task)
    interface = fit_interface(model, tokenizer, first, texts, task=task.name, twin=twin)
    align(model, tokenizer, interface, texts)
    model.config.aligned |= {"interface": interface.facts(), "digest": interface.digest()}


def _given(layer: str | FrozenLayers | None, control: str | None) -> FrozenLayers | None:
    if layer is None and control != "vanilla":
        raise PlugInError(
            "no layer was given", where="plug_in(layer=...)", next='name one, for example "smollm2-135m[-1]"'
        )
    if layer is None or isinstance(layer, FrozenLayer | FrozenChain | FrozenParallel):
        return layer
    return extract(layer)  # which says what no specification is


def _variant(layer: FrozenLayer, control: str | None, pooled: bool, seed: int, position: int) -> FrozenLayer:
    if position:  # equal draws would make the controls of several layers copies of one another
        seed = int.from_bytes(hashlib.sha256(f"{seed}:layer {position}".encode()).digest()[:6], "big")
    return make_variant(copy.deepcopy(layer), control or "real", single_token=pooled, seed=seed)


def _targets(firsts: list[FrozenLayer], given: float | Sequence[float] | None) -> list[float]:
    """Return the root mean square that the input of each branch is to have."""
    if given is None:
        return [residual_rms(layer.card, layer.named_by) for layer in firsts]
    targets = [float(value) for value in given] if isinstance(given, Sequence) else [float(given)] * len(firsts)
    if len(targets) != len(firsts):
        raise PlugInError(
            f"{len(targets)} numbers for {len(firsts)} branches", where="target_rms", next="give one for each branch"
        )
    return targets


def initialise(model: PiFiPreTrainedModel, seed: int) -> None:
    """Draw head and projections again, with PyTorch's default initialisation, from the seed."""
    with stream(seed, "head"):
        for module in getattr(model, "head", ()):
            if isinstance(module, nn.Linear):
                module.reset_parameters()
    if not isinstance(model.plugin, PlugIn):
        return
    for name, projection in model.plugin.projections().items():
        with stream(seed, name):
            projection.reset_parameters()
    model.plugin.set_start()


def _calibration_texts(task: Task) -> tuple[list[str], list[str] | None]:
    """Return the first training texts and what is read together with each: its pair, or its first choice."""
    if "train" not in task.splits:
        raise PlugInError(
            "the matched scale is measured on training texts, and the task has no train split",
            where=f"task {task.name!r}",
            next='give the task that the model is trained on, or use scale="none"',
        )
    return texts_read(task, range(min(N_CALIBRATION, len(task.splits["train"]))))


def _calibrate(model: PiFiPreTrainedModel, texts: tuple[list[str], list[str] | None], targets: Sequence[float]) -> None:
    """Match scales on texts, or on pairs of them; uses no label."""
    longest = within_positions(model.encoder, MAX_TOKENS)
    batch = tokenizer_for(model)(*texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    plugin = model.plugin
    assert isinstance(plugin, PlugIn)
    model.eval()
    with torch.no_grad():
        states, mask = model.encode(batch["input_ids"], batch["attention_mask"], batch.get("token_type_ids"))
        if model.config.feed == "sequence":
            plugin.calibrate(states, mask, *targets)
        else:
            plugin.calibrate(pool(states, mask, model.config.pooling), None, *targets)
