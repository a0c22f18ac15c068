"""LoRA adapters merged into one layer, with peft's own arithmetic, out of a folder or a repository on the hub.

W + s B A with s = alpha / r, or alpha / sqrt(r) for rank-stabilised ones; DoRA scales the rows of the sum to its stored
magnitudes. Sources: arXiv 2106.09685 (LoRA), 2312.03732 (rsLoRA), 2402.09353 (DoRA, eq. 5), ``peft.tuners.lora.layer``.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pifi_probe.errors import CheckpointError, UnsupportedFormatError
from pifi_probe.files import existing, file_sha256
from pifi_probe.layers import safetensors_io
from pifi_probe.layers.sharded import check_finite, decoder_prefix, is_text
from pifi_probe.layers.sources import ByteSource, FileSource, TensorInfo
from pifi_probe.reading import read_object

__all__ = ["Adapter", "adapter_content", "open_adapter"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = re.compile(r"^(?:base_model\.model\.)?(?P<prefix>.*?\b(?:layers|h|blocks))\.(?P<index>\d{1,6})\.(?P<rest>.+)$")
_MANY = 1 << 20  # layers: how many the model has is not known here
_PART = re.compile(r"^(?P<target>.+?)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?$")
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")  # beginnings that alter the base's weights too
_VARIANTS: Mapping[str, str] = {  # settings of peft, and what they make of the adapter
    "alora_invocation_tokens": "acts from certain tokens on alone (aLoRA)",
    "arrow_config": "chooses among adapters by the token (Arrow)",
    "kasa_config": "takes a part of the base's weights away (KaSA)",
    "layer_replication": "makes further layers out of those of the base (layer_replication)",
    "monteclora_config": "samples its weights (MonteCLoRA)",
    "use_bdlora": "stores matrices of blocks (BD-LoRA)",
    "use_qalora": "pools its inputs in groups (QA-LoRA)",
}
_NEXT = "merge the adapter with peft (merge_and_unload), save the model, and give that folder"


class Adapter:
    """A LoRA adapter of which the parts of single layers are read.

    Parameters
    ----------
    identity : str
        Absolute path, or ``"repo@commit"``.
    settings : Mapping
        Of ``adapter_config.json``.
    source : ByteSource
        The file of weights.

    Raises
    ------
    UnsupportedFormatError
        If it is not a LoRA adapter, or one that changes more than it stores.
    CheckpointError, CorruptFileError
        If its numbers are missing, or its file is malformed.
    """

    def __init__(self, identity: str, settings: Mapping[str, Any], source: ByteSource) -> None:
        self.identity = identity
        kind, start = settings.get("peft_type"), str(settings.get("init_lora_weights", "")).lower()
        if kind != "LORA":
            raise self._unsupported(f"the adapter is {kind!r:.40}, and only LoRA can be merged")
        if start.startswith(_CHANGES_BASE):
            raise self._unsupported(f"the adapter began with {start!r:.40}, which changes the base's weights too")
        for key, what in _VARIANTS.items():
            if settings.get(key):
                raise self._unsupported(f"the adapter {what}")
        self._alpha, self._rank = settings.get("lora_alpha"), settings.get("r")
        patterns = settings.get("alpha_pattern") or {}
        if type(self._rank) is not int or self._rank < 1 or not _is_number(self._alpha) or type(patterns) is not dict:
            raise CheckpointError(
                f"the adapter states r = {self._rank!r:.20} and lora_alpha = {self._alpha!r:.20}",
                where=identity,
                next="give a folder that peft has saved",
            )
        self._patterns = {str(key).removeprefix("^").removesuffix("$"): value for key, value in patterns.items()}
        odd = [
            key for key, value in self._patterns.items() if not re.fullmatch(r"[\w.]+", key) or not _is_number(value)
        ]
        if odd:
            raise self._unsupported(f"alpha_pattern names modules by the pattern {odd[0]!r:.60}")
        self._stable = settings.get("use_rslora") is True
        self._turned = settings.get("fan_in_fan_out") is True
        self._infos = _of_decoder(source)
        if not self._infos:
            raise CheckpointError("the adapter changes no layer of a decoder", where=identity, next=_NEXT)

    def merge(self, weights: dict[str, torch.Tensor], index: int) -> bool:
        """Add the adapter's part to the weights of layer `index`, in place; tell whether there was any.

        Parameters
        ----------
        weights : dict
            As `Checkpoint.read_layer` returns them.
        index : int

        Raises
        ------
        CheckpointError
            If the adapter changes what the layer does not have, or its matrices do not fit.
        UnsupportedFormatError
            If it holds more than low-rank matrices of linear maps.
        """
        infos = self._infos.get(index, {})
        targets: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
        stored = safetensors_io.read_tensors(infos.values())
        for rest, info in infos.items():
            match = _PART.match(rest)
            if match is None:
                raise self._unsupported(f"the adapter holds {info.name!r}, which is not part of a low-rank matrix")
            check_finite(info.name, stored[info.name], info.source.name)
            targets[match["target"]][match["part"]] = stored[info.name]
        for target, parts in targets.items():
            found = [name for name in weights if name.endswith(f".0.{target}.weight")]
            if len(found) != 1:
                raise self._misfit(f"it changes {target!r}, which the layer does not have")
            weights[found[0]] = self._merged(weights[found[0]], target, index, parts)
        return bool(targets)

    def _merged(self, weight: torch.Tensor, target: str, index: int, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        low, high = parts.get("lora_A"), parts.get("lora_B")
        if low is None or high is None:
            raise self._misfit(f"of {target!r} it holds {', '.join(parts)} alone")
        out, width = tuple(weight.shape) if not self._turned else tuple(weight.shape)[::-1]
        if weight.dim() != 2 or low.dim() != 2 or low.shape[1] != width or tuple(high.shape) != (out, len(low)):
            shapes = f"{list(high.shape)} and {list(low.shape)}"
            raise self._misfit(f"of {target!r} it holds matrices of shape {shapes}, and the weight is {[out, width]}")
        delta = (high.float() @ low.float()) * self._scaling(f"{index}.{target}", len(low))
        delta = delta.to(high.dtype)
        delta = delta.T if self._turned else delta
        magnitude = parts.get("lora_magnitude_vector")
        if magnitude is None:
            return weight + delta.to(weight.dtype) if weight.dtype == delta.dtype else (weight + delta).to(weight.dtype)
        total = weight.float() + delta.float()
        norm = total.norm(dim=0 if self._turned else 1)
        if magnitude.numel() != norm.numel():
            raise self._misfit(
                f"of {target!r} it holds {magnitude.numel()} magnitudes, and there are {norm.numel()} rows"
            )
        factor = magnitude.float().flatten() / norm
        return (total * (factor if self._turned else factor[:, None])).to(weight.dtype)

    def _scaling(self, module: str, rank: int) -> float:
        """Return alpha over r; the rank is that of the matrices, which ``rank_pattern`` may have changed."""
        module = f".{module}"
        own = [value for key, value in self._patterns.items() if module.endswith(f".{key}") or key.endswith(module)]
        alpha = float(own[0] if own else self._alpha or 0)
        return alpha / math.sqrt(rank) if self._stable else alpha / rank

    def _misfit(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"the adapter does not fit the layer: {what}",
            where=self.identity,
            next="give the adapter that was trained on this model, or merge it with peft",
        )

    def _unsupported(self, what: str) -> UnsupportedFormatError:
        return UnsupportedFormatError(what, where=self.identity, next=_NEXT)


def _of_decoder(source: ByteSource) -> dict[int, dict[str, TensorInfo]]:
    """Return the tensors of each layer of the text decoder; what sees or hears besides it has layers of its own."""
    found: dict[str, dict[int, dict[str, TensorInfo]]] = defaultdict(lambda: defaultdict(dict))
    for name, info in safetensors_io.read_header(source).items():
        match = _NAME.match(name)
        if match and is_text(match["prefix"]):
            found[match["prefix"]][int(match["index"])][match["rest"]] = info
    prefix = decoder_prefix({key: set(layers) for key, layers in found.items()}, _MANY)
    return {} if prefix is None else found[prefix]


def open_adapter(name: str | Path, *, token: bool | None = None) -> Adapter:
    """Open a LoRA adapter; of its weights, only the table is read now.

    Parameters
    ----------
    name : str or Path
        A folder that peft has saved, or a hub id (``org/name`` or ``org/name@revision``).
    token : bool, optional
        False: the hub is asked without the user's token.

    Raises
    ------
    CheckpointError
        If the folder lacks ``adapter_config.json`` or ``adapter_model.safetensors``.
    UnsupportedFormatError, HubError
    """
    folder = existing(str(name))
    if folder is not None:
        missing = [file for file in (CONFIG, WEIGHTS) if not (folder / file).is_file()]
        if missing:
            raise CheckpointError(
                f"the folder has no {' and no '.join(missing)}",
                where=str(folder),
                next="give a folder that peft has saved (save_pretrained, as safetensors)",
            )
        return Adapter(str(folder.absolute()), read_object(folder / CONFIG), FileSource(folder / WEIGHTS))
    from pifi_probe.layers.hub import HubRepo
    from pifi_probe.layers.hub_client import HubClient

    repo, _, revision = str(name).partition("@")
    opened = HubRepo.open(HubClient(repo, token), revision or None)
    return Adapter(opened.provenance()["identity"], read_object(opened.path(CONFIG)), opened.source(WEIGHTS))


def adapter_content(adapter: Adapter) -> str:
    """Return ``"repo@commit"``, or a digest over the two files of a local adapter."""
    folder = existing(adapter.identity)
    if folder is None:
        return adapter.identity
    return "sha256:" + " ".join(file_sha256(folder / name) for name in (CONFIG, WEIGHTS))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
