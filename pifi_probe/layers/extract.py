"""`extract`: from ``"MODEL[i]"`` to a `FrozenLayer`, reading that layer's tensors and nothing else."""

from __future__ import annotations

import torch
from transformers import MODEL_MAPPING, PretrainedConfig, PreTrainedModel

from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import CheckpointError, PlugInError
from pifi_probe.layers.checkpoint import Checkpoint, open_checkpoint
from pifi_probe.layers.families import family_of, layer_config
from pifi_probe.layers.frozen import FrozenChain, FrozenLayer, LayerCard
from pifi_probe.layers.parallel import FrozenLayers, FrozenParallel
from pifi_probe.layers.shell import decoder_of, strip_shell
from pifi_probe.layers.spec import LayerSpec, Parallel, Serial, parse

__all__ = ["extract", "pick_device"]

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
) -> FrozenLayers:
    """Read one layer of a language model, alone.

    Parameters
    ----------
    spec : str
        ``"MODEL[i]"``, with MODEL a hub id, local folder, ``.gguf`` or ``.safetensors`` file, or embedded
        name; ``"MODEL[i:j]"`` and ``"A[i] >> B[j]"`` give layers in series, ``"A[i] | B[j]"`` layers side by
        side.
    dtype : str or torch.dtype
        ``"auto"``: the type of the checkpoint, float32 for GGUF.
    device : str or torch.device
        ``"auto"`` picks CUDA, then MPS, then the CPU.
    revision : str, optional
        Branch, tag or commit of a hub id; the same as ``MODEL@revision[i]``.
    allow_pickle : bool
        Read legacy ``.bin`` files too (with ``weights_only=True``).
    allow_full_download : bool
        Download whole files when a server does not serve byte ranges.

    Returns
    -------
    FrozenLayer, FrozenChain or FrozenParallel
        A chain for several layers in series, a parallel set for layers side by side.

    Raises
    ------
    SpecError, LayerIndexError, ModelNotFoundError, CheckpointError, UnsupportedFamilyError, HubError
        Each says what was wrong, where, and what to do next.
    """
    parsed = parse(spec) if isinstance(spec, str) else spec
    opened: dict[tuple[str, str | None], Checkpoint] = {}

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
                layers.append(extract_from(checkpoint, index, model=part.model, dtype=dtype, device=device))
        return layers[0] if len(layers) == 1 else FrozenChain(layers)

    if isinstance(parsed, Parallel):
        return FrozenParallel([series(branch) for branch in parsed.parts])
    return series(parsed)


def extract_from(
    checkpoint: Checkpoint,
    index: int,
    *,
    model: str,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device = "cpu",
    digest: bool = True,
) -> FrozenLayer:
    """Read layer `index` (not negative) of an open checkpoint; without `digest` its card names no sha256."""
    family_of(checkpoint.config)
    where = f"{model}[{index}]"
    tensors = checkpoint.read_layer(index)
    config = layer_config(checkpoint.config, index)
    stored = _stored_dtype(checkpoint, index)
    target = _resolve_dtype(dtype, tensors)
    _widen(tensors, target)
    shell = _fill(config, tensors, target, where)
    card = LayerCard(
        model=model,
        revision=checkpoint.revision,
        index=index,
        n_layers=int(checkpoint.config.num_hidden_layers),
        family=config.model_type,
        dtype=str(shell.dtype).removeprefix("torch."),
        stored_dtype=stored,
        licence=checkpoint.licence,
        gated=checkpoint.gated,
    )
    layer = FrozenLayer(strip_shell(shell), card).to(pick_device(device))
    return layer.with_card(sha256=layer.digest()) if digest else layer


def _fill(
    config: PretrainedConfig, tensors: dict[str, torch.Tensor], dtype: torch.dtype, where: str
) -> PreTrainedModel:
    """Load the tensors with transformers' own loader, so that its renames and fusions of weights apply."""
    _refuse_absurd_width(config, tensors, where)
    with quiet_transformers():
        shell, info = MODEL_MAPPING[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    family = family_of(config)
    ours = f"{family.decoder + '.' if family.decoder else ''}{family.layers}.0."
    missing = sorted(key for key in info["missing_keys"] if ours in key)
    wrong = sorted(str(item[0]) if isinstance(item, tuple) else str(item) for item in info["mismatched_keys"])
    if missing or wrong:
        problem = f"tensors missing: {', '.join(missing[:4])}" if missing else f"tensors of wrong shape: {wrong[:4]}"
        raise CheckpointError(
            f"the checkpoint's tensors do not make up the layer: {problem}",
            where=where,
            next="check that config.json belongs to these weights, or download the model again",
        )
    return shell


def _refuse_absurd_width(config: PretrainedConfig, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Refuse a configuration far larger than the stored tensors before anything of its size is allocated."""
    family = family_of(config)
    with torch.device("meta"):
        shell = MODEL_MAPPING[type(config)](config)
    layer = getattr(decoder_of(shell, family), family.layers)[0]
    expected, stored = sum(p.numel() for p in layer.parameters()), sum(t.numel() for t in tensors.values())
    if expected > 2 * stored:
        raise CheckpointError(
            f"the checkpoint's tensors do not make up the layer: {stored:,} weights are stored, and the "
            f"configuration asks for {expected:,}",
            where=where,
            next="check that config.json belongs to these weights, or download the model again",
        )


def _resolve_dtype(dtype: str | torch.dtype, tensors: dict[str, torch.Tensor]) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype == "auto":
        # The widest matrix decides: norms are often stored in float32 beside bfloat16 matrices.
        return max((t for t in tensors.values() if t.is_floating_point()), key=torch.numel).dtype
    if dtype not in _DTYPES:
        raise PlugInError(f"unknown dtype {dtype!r}", where="dtype", next=f"use auto or one of {', '.join(_DTYPES)}")
    return _DTYPES[dtype]


def _widen(tensors: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    """Convert one tensor after the other, so that the stored and the wider form of a layer never coexist.

    Only to float32 and float64: of shorter types transformers keeps some tensors in float32.
    """
    if dtype not in (torch.float32, torch.float64):
        return
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            tensors[name] = tensor.to(dtype)
            del tensor


def _stored_dtype(checkpoint: Checkpoint, index: int) -> str:
    infos = [checkpoint.tensors[name] for name in checkpoint.layer_names(index)]
    return max(infos, key=lambda info: info.nbytes).dtype


def pick_device(device: str | torch.device) -> torch.device:
    """Return the device; ``"auto"`` picks CUDA, then MPS, then the CPU."""
    if str(device) != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
