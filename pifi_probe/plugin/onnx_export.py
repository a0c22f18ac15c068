"""A plugged model as an ONNX file, compared with the model it comes from; in int8, too."""

from __future__ import annotations

import contextlib
import copy
import importlib
import json
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from pifi_probe.compat import quiet_transformers
from pifi_probe.encoders import has_token_types
from pifi_probe.errors import PifiProbeError, PlugInError
from pifi_probe.folders import replaced_together
from pifi_probe.plugin.card import write_model_card
from pifi_probe.plugin.tokenizer import tokenizer_for

if TYPE_CHECKING:
    from pifi_probe.plugin.base import PiFiPreTrainedModel

__all__ = ["TOLERANCE", "OnnxExport", "export_onnx"]

TOLERANCE = 1e-4  # largest difference to the model, of logits of size 1; of larger ones in proportion
_INSTALL = 'pip install "pifi-probe[onnx]"'
_AXES = {2: ("texts", "tokens"), 3: ("questions", "choices", "tokens")}
_TARGET = ("texts", "target_tokens")


@dataclass(frozen=True)
class OnnxExport:
    """What `export_onnx` wrote.

    Parameters
    ----------
    file : Path
        The graph with its weights; of more than 2 GiB the weights lie next to it.
    inputs, outputs : tuple of str
        Names, in the graph's order. Inputs are int64.
    difference : float
        Largest difference of onnxruntime's numbers to the model's in float32, relative to numbers above 1.
    n_bytes : int
        On disk.
    """

    file: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    difference: float
    n_bytes: int


def export_onnx(model: PiFiPreTrainedModel, path: str | Path, *, int8: bool = False) -> OnnxExport:
    """Write a plugged model as an ONNX graph; see `StoredModel.export_onnx`.

    Parameters
    ----------
    model : PiFiPreTrainedModel
        Left as it is.
    path : str or Path
        A file that ends in ``.onnx``, or a folder for ``model.onnx``; tokenizer and model card lie next to it.
    int8 : bool
        Store matrices as int8; the difference to the model is reported and not bounded.

    Returns
    -------
    OnnxExport
        The file, its inputs and outputs, and its largest difference to the model.

    Raises
    ------
    PlugInError
        If a library is missing, the model cannot be traced, or the graph's numbers differ from the model's.
    SaveError
        If the folder cannot be written.
    """
    onnxruntime = _library("onnxruntime")
    for name in ("onnx", "onnxscript"):
        _library(name)
    path = Path(path)
    folder, name = (path.parent, path.name) if path.suffix == ".onnx" else (path, "model.onnx")
    plain = _in_float32(model)
    # What is written is measured before it takes the place of an older file.
    with replaced_together(folder, name) as work:
        _write(plain, work / name)
        if int8:
            _quantise(work / name)
        session = onnxruntime.InferenceSession(str(work / name), providers=["CPUExecutionProvider"])
        difference = _compare(plain, session)
        if not int8 and not difference <= TOLERANCE:
            raise PlugInError(
                f"onnxruntime's numbers differ from the model's by {difference:.1e}, more than {TOLERANCE:g}",
                where=f"export_onnx, {model.config.layer_specs or 'no layer'}",
                next="check that the weights are finite; torch.export of the same model is exact",
            )
        inputs, outputs = (tuple(one.name for one in found) for found in (session.get_inputs(), session.get_outputs()))
        del session  # Windows does not move a file that is open
        _describe(model, work)
        sizes = [file.stat().st_size for file in work.glob(f"{name}*")]
    return OnnxExport(folder / name, inputs, outputs, difference, sum(sizes))


def _library(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PlugInError(f"{name} is not installed", where="export_onnx", next=_INSTALL) from error


def _in_float32(model: PiFiPreTrainedModel) -> PiFiPreTrainedModel:
    """Return a copy on the processor that computes in float32: onnxruntime's has no kernels for bfloat16."""
    plain: PiFiPreTrainedModel = copy.deepcopy(model).cpu().float().eval()
    return plain


def _write(model: PiFiPreTrainedModel, file: Path) -> None:
    """Trace the model for any number of rows and tokens, and write the graph with what its outputs mean."""
    batch = _rows(model, 2, 9, 0)
    axes = {
        name: dict(enumerate(_TARGET if "decoder" in name else _AXES[value.dim()])) for name, value in batch.items()
    }
    try:
        with _quietly(), torch.no_grad():
            program: Any = torch.onnx.export(
                model,
                (),
                kwargs=batch,
                input_names=list(batch),
                output_names=list(model.gives),
                dynamic_shapes=axes,
                dynamo=True,
                verbose=False,
            )
            program.model.metadata_props.update(_meaning(model))
            program.save(str(file))
    except (OSError, PifiProbeError):
        raise
    except Exception as error:  # the exporter's own errors, which are pages long
        reason = str(error.__cause__ or error).strip().splitlines()
        raise PlugInError(
            f"this model cannot be written as an ONNX graph: {reason[0] if reason else type(error).__name__}",
            where=f"{type(model).__name__}, {model.config.slm}",
            next="deploy it with torch.export, or with transformers, which run every plugged model",
        ) from error


def _quantise(file: Path) -> None:
    """Store weights in int8, one scale for each column, with the quantiser of onnxruntime."""
    quantization = importlib.import_module("onnxruntime.quantization")
    short = file.with_name(f"int8-{file.name}")
    with _quietly():
        # Seven bits of the eight: without VNNI, processors add products of bytes in pairs of 16 bits, which overflow.
        quantization.quantize_dynamic(
            file, short, weight_type=quantization.QuantType.QInt8, per_channel=True, reduce_range=True
        )
    for old in file.parent.glob(f"{file.name}*"):
        old.unlink()
    short.rename(file)


def _compare(model: PiFiPreTrainedModel, session: Any) -> float:
    """Return the largest difference over batches of other sizes than the traced one, padded on either side."""
    worst = 0.0
    for n_rows, n_tokens, padding in ((3, 12, 0), (2, 9, 4), (1, 5, 0), (4, 7, -3)):
        batch = _rows(model, n_rows, n_tokens, padding)
        with torch.no_grad():
            found = model(**batch)
        mask = batch["attention_mask"].bool()
        got = session.run(None, {name: value.numpy() for name, value in batch.items()})
        for name, one in zip(model.gives, got, strict=True):
            want = found[name].float()
            there = mask if want.shape[:2] == mask.shape else mask.any(-1)
            left, right = torch.from_numpy(one).float()[there], want[there]  # what stands at padding is never read
            size = max(1.0, float(right.abs().max()))
            difference = float((left - right).abs().max()) / size
            worst = max(worst, difference) if difference == difference else difference  # NaN stays
    return worst


def _rows(model: PiFiPreTrainedModel, n_rows: int, n_tokens: int, padding: int) -> dict[str, torch.Tensor]:
    """Return a batch of any tokens; the first row has padding on its right, or for negative numbers on its left."""
    generator = torch.Generator().manual_seed(n_tokens)
    shape = (n_rows, 2, n_tokens) if model.chooses else (n_rows, n_tokens)
    embeddings: Any = model.get_input_embeddings()
    vocabulary = int(embeddings.weight.shape[0])
    ids = torch.randint(min(10, vocabulary // 2), vocabulary, shape, generator=generator)
    mask = torch.ones_like(ids)
    if padding:
        mask[0, ..., n_tokens - padding :] = 0 if padding > 0 else 1
        mask[0, ..., : max(0, -padding)] = 0
        ids = torch.where(mask.bool(), ids, getattr(model.encoder.config, "pad_token_id", None) or 0)
    batch = {"input_ids": ids, "attention_mask": mask}
    if has_token_types(model.encoder.config):
        batch["token_type_ids"] = torch.zeros_like(ids)
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids[:, : max(2, n_tokens // 2)].clone()
    return batch


def _meaning(model: PiFiPreTrainedModel) -> dict[str, str]:
    """Return what stands in the file next to the graph, so that no other file is needed to read its numbers."""
    config = model.config
    names = config.id2label or {}
    cards = [item["card"] for item in config.layers]
    return {
        "labels": json.dumps([names[index] for index in sorted(names)]),
        "problem_type": config.problem_type or "",
        "thresholds": json.dumps(config.thresholds) if config.thresholds else "",
        "encoder": config.slm or "",
        "layers": config.layer_specs or "",
        "donors": json.dumps([{key: card.get(key) for key in ("model", "licence", "sha256")} for card in cards]),
    }


def _describe(model: PiFiPreTrainedModel, folder: Path) -> None:
    """Put the tokenizer and the model's card next to the graph."""
    with contextlib.suppress(PifiProbeError):  # a model that was made in memory may have none
        tokenizer_for(model).save_pretrained(folder)
    write_model_card(model, folder)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence the exporter and the quantiser, which report what cannot be changed here."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "")]
    levels = [one.level for one in loggers]
    try:
        with warnings.catch_warnings(), quiet_transformers():
            warnings.simplefilter("ignore")
            for one in loggers:
                one.setLevel(logging.ERROR)
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)
