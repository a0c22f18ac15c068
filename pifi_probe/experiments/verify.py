"""Our layers next to those of transformers, on real weights and the states that the model itself gives them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

import psutil
import torch
from torch import nn
from transformers import AutoModelForCausalLM, FineGrainedFP8Config, Mxfp4Config, PreTrainedModel

from pifi_probe.errors import CheckpointError, UnsupportedFormatError
from pifi_probe.escaping import one_line
from pifi_probe.experiments.whole import load_whole
from pifi_probe.layers.checkpoint import Checkpoint, local_path
from pifi_probe.layers.content import content_of
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.open import open_named
from pifi_probe.layers.residual import TEXTS
from pifi_probe.layers.shell import layers_of
from pifi_probe.layers.spec import layer_numbers
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.permissions import pickle_on_request
from pifi_probe.pretrained import open_config, open_model
from pifi_probe.provenance import collect
from pifi_probe.reporting.result import Result
from pifi_probe.reporting.tables import Table
from pifi_probe.units import amount

__all__ = ["HEADING", "Verified", "verify"]

HEADING = "| model | revision | format | layers | largest relative error | reference | date | versions |"
_BY_TRANSFORMERS = {"fp8": FineGrainedFP8Config, "mxfp4": Mxfp4Config}  # which it dequantises on a CPU, when told to
_VERSIONS = ("pifi_probe", "torch", "transformers")


@dataclass(frozen=True, repr=False)
class Verified(Result):
    """What `verify` found.

    Parameters
    ----------
    model, revision : str
        As named; the commit of the hub, or a digest of the files.
    family, format : str
        The type of the model, and how its layers are stored.
    layers : tuple of int
        Layers that were compared.
    errors : tuple of float
        For each of them the largest relative error of a token: the length of the difference between the two outputs,
        over the length of the reference's output.
    reference : str
        What our layers were compared with.
    n_tokens : int
        Tokens that passed through.
    made : dict
        Versions, machine, date.
    """

    model: str
    revision: str
    family: str
    format: str
    layers: tuple[int, ...]
    errors: tuple[float, ...]
    reference: str
    n_tokens: int
    made: dict[str, Any]
    noun: ClassVar[str] = "a verification"

    @property
    def error(self) -> float:
        """The largest error of all layers."""
        return max(self.errors)

    def row(self) -> str:
        """Return the line for the public table, whose heading is `HEADING`."""
        versions = ", ".join(f"{name} {self.made['versions'].get(name)}" for name in _VERSIONS)
        cells = (
            f"{self.model} ({self.family})", self.revision[:19], self.format, _in_short(self.layers),
            f"{self.error:.1e}" if self.error else "0", self.reference, self.made["date"], versions,
        )  # fmt: skip
        return f"| {' | '.join(one_line(cell).replace('|', '/') for cell in cells)} |"

    def __repr__(self) -> str:
        return one_line(f"Verified({self.model}, {self.format}: {len(self.layers)} layers, error {self.error:.1e})")

    def to_dict(self) -> dict[str, Any]:
        """Return everything as values that JSON can hold."""
        return super().to_dict() | {"error": self.error}

    def tables(self) -> list[Table]:
        """Return one table: a row for each layer."""
        import pandas as pd

        pairs = zip(self.layers, self.errors, strict=True)
        rows = [{"layer": layer, "relative error": f"{error:.1e}"} for layer, error in pairs]
        title = f"{self.model} ({self.family}, {self.format}) next to {self.reference}"
        return [Table(pd.DataFrame(rows), title, f"{self.n_tokens} tokens")]


@pickle_on_request
@torch.no_grad()
def verify(
    model: str,
    layers: str | int | Iterable[int] | None = None,
    *,
    reference: str | None = None,
    allow_pickle: bool = False,
) -> Verified:
    """Compare layers as `extract` reads them with transformers' own, inside the whole model.

    Transformers loads the model from the same checkpoint and runs a dozen sentences through it. Each of our layers is
    given what transformers' layer was given, and the outputs are compared token by token, in float32. So an error of
    one layer does not add to that of the next, and only the layers that are named are read by us.

    Parameters
    ----------
    model : str
        As for `extract`, without an index.
    layers : str, int or iterable of int, optional
        ``"17"``, ``"16-19"``, ``"0,15,-1"``, or numbers. None: all.
    reference : str, optional
        Another checkpoint for transformers to load, in place of the same one: for formats that it cannot dequantise
        on a CPU (GPTQ, AWQ, nf4, MLX, packed integers). With the model before it was quantised, the error is that of
        the quantisation.
    allow_pickle : bool
        Read legacy ``.bin`` weights, too.

    Returns
    -------
    Verified

    Raises
    ------
    CheckpointError
        If the whole model does not fit into memory in float32 (with the number), or the reference has another shape.
    UnsupportedFormatError
        If transformers cannot read the format, and no `reference` is given.
    PifiProbeError
        As `extract`.

    Examples
    --------
    >>> verify("smollm2-135m", "0,-1").error < 1e-5  # doctest: +SKIP
    True
    """
    checkpoint = open_named(model)
    config = checkpoint.config
    chosen = layer_numbers(layers, int(config.num_hidden_layers), model)
    tokenizer = donor_tokenizer(checkpoint)
    _refuse_small_memory(checkpoint, model)
    whole = _reference(checkpoint, model, reference)
    _refuse_other_shape(whole, checkpoint, reference or model)
    ids, mask = _batch(tokenizer, TEXTS)
    given = _states_at(whole, chosen, ids, mask)
    errors, formats = [], set()
    for index in chosen:
        layer = extract_from(checkpoint, index, model=model, dtype="float32", digest=False)
        before, after = given.pop(index)
        ours = layer(before, mask)
        at = mask.bool()
        errors.append(float(((ours - after)[at].norm(dim=-1) / after[at].norm(dim=-1)).max()))
        formats.add(layer.card.quantised or f"{checkpoint.format} {layer.card.stored_dtype}")
    what = "transformers" if reference is None else f"transformers, {reference}"
    return Verified(
        model=model,
        revision=checkpoint.revision or content_of(checkpoint),
        family=str(config.model_type),
        format=_together(formats),
        layers=chosen,
        errors=tuple(errors),
        reference=what,
        n_tokens=int(mask.sum()),
        made=collect() | {"date": datetime.now(UTC).date().isoformat()},
    )


def _reference(checkpoint: Checkpoint, model: str, reference: str | None) -> PreTrainedModel:
    """Load the whole model with transformers, in float32 on the CPU; of two quantised formats it is the owner."""
    path = local_path(checkpoint)
    if reference is None and checkpoint.format == "safetensors" and path is not None and path.is_dir():
        config = open_config(str(path))
        settings = getattr(config, "quantization_config", None)
        method = settings.get("quant_method") if isinstance(settings, dict) else None
        if method in _BY_TRANSFORMERS:
            how = _BY_TRANSFORMERS[method](dequantize=True)
            found = open_model(
                AutoModelForCausalLM,
                str(path),
                config=config,
                dtype=torch.float32,
                quantization_config=how,
            )
            return nn.Module.float(found).eval()
    try:
        return nn.Module.float(load_whole(reference or model).model.cpu())  # transformers' own refuses GGUF models
    except UnsupportedFormatError as error:
        if reference is not None:
            raise
        raise UnsupportedFormatError(
            "transformers is the reference, and does not dequantise this model on a CPU: "
            f"{checkpoint.contents(0).stored_as or error.what}",
            where=model,
            next="give reference=, such as the model that it was made from: the error is then that of quantisation",
        ) from error


def _together(labels: Iterable[str]) -> str:
    """Name the formats of all layers, each once: layers of a GGUF file share some types and not others."""
    return ", ".join(dict.fromkeys(part for label in sorted(labels) for part in label.split(", ")))


def _batch(tokenizer: Any, texts: Iterable[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids and mask (batch, seq), padded on the right."""
    rows = [tokenizer(text)["input_ids"] for text in texts]
    padded = nn.utils.rnn.pad_sequence
    ids = padded([torch.tensor(row) for row in rows], batch_first=True)
    return ids, padded([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)


def _states_at(
    whole: PreTrainedModel, layers: Iterable[int], ids: torch.Tensor, mask: torch.Tensor
) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Return what each layer of the whole model is given, and what it gives: (batch, seq, d) each."""
    blocks, found, hooks = layers_of(whole.base_model), {}, []

    def note(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            found[index] = (before.float().clone(), after.float().clone())

        return hook

    for index in layers:
        hooks.append(blocks[index].register_forward_hook(note(index), with_kwargs=True))
    try:
        whole.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _refuse_small_memory(checkpoint: Checkpoint, model: str) -> None:
    weights = sum(checkpoint.contents(index).weights for index in range(int(checkpoint.config.num_hidden_layers)))
    weights += 2 * int(checkpoint.config.vocab_size) * int(checkpoint.config.hidden_size)
    free = int(psutil.virtual_memory().available)
    if 4 * weights > free:
        raise CheckpointError(
            f"the reference is the whole model in float32, {amount(4 * weights, 'B')}, "
            f"and {amount(free, 'B')} are free",
            where=model,
            next="use a machine with more memory, or a smaller model of the family",
        )


def _refuse_other_shape(whole: PreTrainedModel, checkpoint: Checkpoint, where: str) -> None:
    for name in ("model_type", "num_hidden_layers", "hidden_size"):
        theirs, ours = getattr(whole.config, name, None), getattr(checkpoint.config, name, None)
        if theirs != ours:
            raise CheckpointError(
                f"the reference is another model: its {name} is {theirs}, and that of the model {ours}",
                where=where,
                next="give the checkpoint that the model was made from",
            )


def _in_short(layers: tuple[int, ...]) -> str:
    """Return ``"0-29"`` or ``"0, 15, 29"``."""
    whole = len(layers) > 2 and layers == tuple(range(layers[0], layers[-1] + 1))
    return f"{layers[0]}-{layers[-1]}" if whole else ", ".join(map(str, layers))
