"""`extract`: from ``"MODEL[i]"`` to a `FrozenLayer`, reading that layer's tensors and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from transformers import PretrainedConfig, PreTrainedModel

from pifi_probe.errors import CheckpointError, PifiProbeError, PlugInError, UnsupportedFormatError
from pifi_probe.escaping import one_line
from pifi_probe.layers.adapter import Adapter, open_adapter
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.cut import donor_config
from pifi_probe.layers.detect import refuse_missing_state
from pifi_probe.layers.families import family_of
from pifi_probe.layers.formats import Contents
from pifi_probe.layers.frozen import FrozenChain, FrozenLayer, FrozenLayers, FrozenParallel, LayerCard
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.shell import CHECK_CONFIG, around_layer, layers_path, load_around, refuse_absurd_config, silence
from pifi_probe.layers.spec import LayerSpec, Parallel, Serial, parse
from pifi_probe.units import amount

__all__ = ["extract", "pick_device"]

_log = logging.getLogger(__name__)
_LARGE = 2 << 30  # bytes in memory from which on a layer is announced; one of Llama 3.1 8B takes 0.4 GB
_DEVICES = 'use "auto", "cpu", or "cuda" with a CUDA build of torch and a GPU'
_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


def extract(
    spec: str | LayerSpec | Serial | Parallel,
    *,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    revision: str | None = None,
    allow_pickle: bool = False,
    allow_full_download: bool = False,
    adapter: str | Path | None = None,
) -> FrozenLayers:
    """Read one layer of a language model, alone.

    Parameters
    ----------
    spec : str
        ``"MODEL[i]"``, with MODEL a hub id, local folder, ``.gguf`` or ``.safetensors`` file, or embedded
        name; ``"MODEL[i:j]"`` and ``"A[i] >> B[j]"`` give layers in series, ``"A[i] | B[j]"`` layers side by
        side. Of a model that takes images too, the layers are those of its text decoder.
    dtype : str or torch.dtype
        ``"auto"``: the type of the checkpoint, float32 for GGUF. Weights that are stored quantised become numbers of
        this type; with "float32" they are exactly what the format says.
    device : str or torch.device
        ``"auto"`` picks CUDA, then MPS, then the CPU.
    revision : str, optional
        Branch, tag or commit of a hub id; the same as ``MODEL@revision[i]``.
    allow_pickle : bool
        Read legacy ``.bin`` files too (with ``weights_only=True``).
    allow_full_download : bool
        Download whole files when a server does not serve byte ranges.
    adapter : str or Path, optional
        A LoRA adapter of the model (a folder that peft has saved, or a hub id): its part of the layer is merged into
        it. Of an adapter on the hub only that part travels.

    Returns
    -------
    FrozenLayer, FrozenChain or FrozenParallel
        A chain for several layers in series, a parallel set for layers side by side.

    Raises
    ------
    SpecError, LayerIndexError, ModelNotFoundError, CheckpointError, UnsupportedFamilyError, HubError
        Each says what was wrong, where, and what to do next.
    """
    parsed = spec if isinstance(spec, LayerSpec | Serial | Parallel) else parse(spec)
    opened: dict[tuple[str, str | None], Checkpoint] = {}
    merged = None if adapter is None else open_adapter(adapter)

    def open_once(part: LayerSpec) -> Checkpoint:
        key = (part.model, part.revision or revision)
        if key not in opened:
            opened[key] = open_checkpoint(
                key[0], key[1], allow_pickle=allow_pickle, allow_full_download=allow_full_download
            )
        return opened[key]

    def series(branch: LayerSpec | Serial) -> FrozenLayer | FrozenChain:
        layers: list[FrozenLayer] = []
        for part in branch.parts if isinstance(branch, Serial) else (branch,):
            checkpoint = open_once(part)
            for index in part.indices(int(checkpoint.config.num_hidden_layers)):
                layers.append(
                    extract_from(checkpoint, index, model=part.model, dtype=dtype, device=device, adapter=merged)
                )
        return layers[0] if len(layers) == 1 else FrozenChain(layers)

    if merged is not None and len({(part.model, part.revision) for part in _parts(parsed)}) > 1:
        raise PlugInError(
            "an adapter belongs to one model, and the specification names several",
            where="adapter",
            next="extract the layers of each model by itself",
        )
    if isinstance(parsed, Parallel):
        return FrozenParallel([series(branch) for branch in parsed.parts])
    return series(parsed)


def _parts(spec: LayerSpec | Serial | Parallel) -> list[LayerSpec]:
    """Return all specifications of layers in one."""
    return [spec] if isinstance(spec, LayerSpec) else [one for part in spec.parts for one in _parts(part)]


def extract_from(
    checkpoint: Checkpoint,
    index: int,
    *,
    model: str,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    digest: bool = True,
    adapter: Adapter | None = None,
) -> FrozenLayer:
    """Read layer `index` (not negative) of an open checkpoint; without `digest` its card names no sha256."""
    family_of(checkpoint.config)
    where = f"{model}[{index}]"
    refuse_missing_state(checkpoint.config, index, where)
    placed = pick_device(device)
    contents = checkpoint.contents(index)
    _announce(contents, dtype, where)
    tensors = checkpoint.read_layer(index, None if dtype == "auto" else _stated_dtype(dtype))
    _refuse_integers(tensors, where)
    if adapter is not None and not adapter.merge(tensors, index):
        _log.warning("the adapter %s changes nothing in %s", one_line(adapter.identity), one_line(where))
    config = donor_config(checkpoint.config)
    stored = _stored_dtype(checkpoint, index)
    target = _resolve_dtype(dtype, tensors)
    _widen(tensors, target)
    shell = _fill(config, index, tensors, target, where)
    card = LayerCard(
        model=model,
        revision=checkpoint.revision,
        index=index,
        n_layers=int(checkpoint.config.num_hidden_layers),
        family=config.model_type,
        dtype=str(shell.dtype).removeprefix("torch."),
        stored_dtype=stored,
        quantised=contents.stored_as,
        adapter=None if adapter is None else adapter.identity,
        bits_per_weight=round(contents.bits_per_weight, 3),
        licence=checkpoint.licence,
        gated=checkpoint.gated,
    )
    layer = FrozenLayer(shell, card).to(placed)
    return layer.with_card(sha256=layer.digest()) if digest else layer


def _fill(
    config: PretrainedConfig, index: int, tensors: dict[str, torch.Tensor], dtype: torch.dtype, where: str
) -> PreTrainedModel:
    """Load the layer's tensors, and refuse those that do not make up the layer."""
    try:
        refuse_absurd_config(config, index, sum(tensor.numel() for tensor in tensors.values()), where, dtype)
        shell, info = load_around(silence(around_layer(config, index, dtype)), tensors, dtype)
    except (PifiProbeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each family fails in its own way on values that cannot be
        raise CheckpointError(
            f"transformers cannot build a layer of this configuration: {type(error).__name__}: {error}",
            where=where,
            next=CHECK_CONFIG,
        ) from error
    ours = f"{layers_path(shell)}.0."
    wrong = [str(item[0]) if isinstance(item, tuple) else str(item) for item in info["mismatched_keys"]]
    problems = {
        "missing": [key for key in info["missing_keys"] if ours in key],
        "of wrong shape": wrong,
        "without a place in it": [key for key in info["unexpected_keys"] if ours in key],
    }
    for problem, names in problems.items():
        if names:
            raise CheckpointError(
                f"the checkpoint's tensors do not make up the layer: tensors {problem}: {', '.join(sorted(names)[:4])}",
                where=where,
                next=CHECK_CONFIG,
            )
    return shell


def _announce(contents: Contents, dtype: str | torch.dtype, where: str) -> None:
    """Say what a large layer takes before it is read, and refuse one that the memory does not hold."""
    memory = contents.memory if dtype == "auto" else contents.weights * _stated_dtype(dtype).itemsize
    size = f"{amount(contents.weights)} weights, {amount(contents.nbytes, 'B')} stored, {amount(memory, 'B')} in memory"
    available = int(psutil.virtual_memory().available)
    if memory > max(available, _LARGE):
        raise CheckpointError(
            f"the layer does not fit into memory: {size}, and {amount(available, 'B')} are free",
            where=where,
            next='ask for dtype="bfloat16" if that is less, choose a smaller layer (the first layers of models with '
            "many experts often are), or use a machine with more memory",
        )
    if memory > _LARGE:
        _log.warning("%s is large: %s", one_line(where), size)


def _refuse_integers(tensors: dict[str, torch.Tensor], where: str) -> None:
    """Refuse weights that are whole numbers: their scales lie elsewhere, in a way that is not known here."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise UnsupportedFormatError(
                f"tensor {name!r} is stored as {str(tensor.dtype).removeprefix('torch.')}: the checkpoint is "
                "quantised in a way that is not read yet",
                where=where,
                next="use the model's bfloat16 or float16 checkpoint, or a GGUF file of it",
            )


def _resolve_dtype(dtype: str | torch.dtype, tensors: dict[str, torch.Tensor]) -> torch.dtype:
    if dtype == "auto":
        # The widest matrix decides: norms are often stored in float32 next to bfloat16 matrices.
        return max(tensors.values(), key=torch.numel).dtype
    return _stated_dtype(dtype)


def _stated_dtype(dtype: str | torch.dtype) -> torch.dtype:
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if dtype not in _DTYPES:
        raise PlugInError(f"unknown dtype {dtype!r}", where="dtype", next=f"use auto or one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _widen(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Convert one tensor after the other, so that the stored and the wider form of a layer never coexist.

    Only to float32 and float64: of shorter types transformers keeps some tensors in float32.
    """
    if dtype not in (torch.float32, torch.float64):
        return
    for name in tensors:
        tensors[name] = tensors[name].to(dtype)


def _stored_dtype(checkpoint: Checkpoint, index: int) -> str:
    infos = [checkpoint.tensors[name] for name in checkpoint.layer_names(index)]
    return max(infos, key=lambda info: info.nbytes).dtype


def pick_device(device: str | torch.device) -> torch.device:
    """Return the device; ``"auto"`` picks CUDA, then MPS, then the CPU.

    Raises
    ------
    PlugInError
        If there is no such device.
    """
    is_here: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if str(device) == "auto":
        return torch.device(next((name for name, found in is_here.items() if found()), "cpu"))
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise PlugInError(f"torch has no device {device!r}", where="device", next=_DEVICES) from error
    if chosen.type in is_here and not is_here[chosen.type]():
        raise PlugInError(f"torch finds no device {str(device)!r} here", where="device", next=_DEVICES)
    return chosen
