"""Every shim over transformers, and the internals of it that reading a checkpoint needs: a new version is met here."""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from huggingface_hub.utils import are_progress_bars_disabled, enable_progress_bars
from torch import nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.utils import logging as transformers_logging

__all__ = [
    "base_model",
    "forget_output_hooks",
    "gguf_config_table",
    "gguf_names",
    "name_gguf_tensors",
    "name_with_conversions",
    "quiet_transformers",
]


_QUIET = threading.Lock()
_WITHIN: list[Callable[[], None]] = []  # for each `quiet_transformers` that is open: what the first one has to undo
_DEFAULT_TYPE = threading.Lock()


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' progress bars, load reports and warnings; what was set before comes back.

    The settings belong to the process: the first of all threads silences, and the last one that leaves brings back.
    """
    with _QUIET:
        _WITHIN.append(_WITHIN[0] if _WITHIN else _silence())
    try:
        yield
    finally:
        with _QUIET:
            undo = _WITHIN.pop()
            if not _WITHIN:
                undo()


def _silence() -> Callable[[], None]:
    """Silence, and return what brings back the settings that were found."""
    verbosity = transformers_logging.get_verbosity()
    bars, hub_bars = transformers_logging.is_progress_bar_enabled(), not are_progress_bars_disabled()
    own_bar = modeling_gguf_pytorch_utils.tqdm  # its bar for GGUF files does not ask whether bars are wanted
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    modeling_gguf_pytorch_utils.tqdm = functools.partial(own_bar, disable=True)

    def undo() -> None:
        modeling_gguf_pytorch_utils.tqdm = own_bar
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
        if hub_bars:
            enable_progress_bars()

    return undo


def base_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Return the untrained base model of a configuration, its weights of the types that loading in `dtype` gives.

    A few families keep some weights in float32 whatever is asked for.
    """
    with _DEFAULT_TYPE:  # of the process, not of the thread
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # not .to(dtype), which would round frequencies and other buffers, too
        try:
            model = MODEL_MAPPING[type(config)](config)
        finally:
            torch.set_default_dtype(before)
    kept = [re.compile(pattern) for pattern in model._get_dtype_plan(dtype)]
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if any(pattern.search(name) for pattern in kept):
            tensor.data = tensor.data.float()
    return model


def name_with_conversions(kind: type[PreTrainedModel], model_type: str) -> str:
    """Return the class name under which transformers finds the renames and fusions of a text decoder's weights.

    Some belong to the model around the decoder only (minimax_m3_vl, qwen3_vl_moe, glm4v_moe): those of its conversions
    that may act within a layer are registered under a name of their own.
    """
    return _name_with_conversions(kind.__name__, model_type)


@functools.cache
def _name_with_conversions(kind: str, model_type: str) -> str:
    if get_checkpoint_conversion_mapping(kind) or get_checkpoint_conversion_mapping(model_type):
        return kind
    stem = model_type.removesuffix("_text")
    for around in (name for name in CONFIG_MAPPING if name.startswith(stem) and name != model_type):
        text = (getattr(CONFIG_MAPPING[around], "sub_configs", None) or {}).get("text_config")
        found = get_checkpoint_conversion_mapping(around)
        if found and getattr(text, "model_type", None) == model_type:
            name = f"{kind}Within{around}"
            register_checkpoint_conversion_mapping(name, [one for one in found if _within(one)], overwrite=True)
            return name
    return kind


def _within(conversion: Any) -> bool:
    """Return whether a conversion of names may act anywhere in a name, and not at its beginning only."""
    patterns = conversion.source_patterns
    return not any(one.startswith("^") for one in ([patterns] if isinstance(patterns, str) else patterns))


def gguf_config_table(model_type: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Return transformers' map from GGUF keys (without architecture) to configuration entries, and defaults.

    Source: ``GGUF_CONFIG_MAPPING``, ``GGUF_CONFIG_DEFAULTS_MAPPING`` of ``transformers.integrations.ggml``.
    """
    from transformers.integrations.ggml import GGUF_CONFIG_DEFAULTS_MAPPING, GGUF_CONFIG_MAPPING

    table = {key: entry for key, entry in GGUF_CONFIG_MAPPING[model_type].items() if entry is not None}
    return table, dict(GGUF_CONFIG_DEFAULTS_MAPPING.get(model_type, {}))


def gguf_names(architecture: str, entries: dict[str, Any], base: PreTrainedModel) -> Mapping[str, str]:
    """Return transformers' names by the GGUF names of a model's tensors.

    Parameters
    ----------
    architecture, entries
        As in `name_gguf_tensors`.
    base : PreTrainedModel
        The base model around one layer, as it is without a language-model head.
    """
    whole: Any = nn.Module()
    whole.config = base.config
    whole.add_module(base.base_model_prefix, base)
    names: Mapping[str, str] = modeling_gguf_pytorch_utils.get_gguf_hf_weights_map(
        whole, _tensor_processor(architecture, entries), model_type=architecture, num_layers=1
    )
    return names


class _Glm4Moe(modeling_gguf_pytorch_utils.MiniMaxM2TensorProcessor):
    """GLM 4.5 and DeepSeek: experts stored as those of MiniMax, the bias of the router by its own name."""

    HF_BIAS_PATTERN = re.compile(r"(?:model\.)?layers\.(?P<bid>\d+)\.mlp\.gate\.e_score_correction_bias")


class _GptOss(modeling_gguf_pytorch_utils.TensorProcessor):
    """gpt-oss: experts as (output, input), gate and up apart; transformers' own processor looks for other names.

    Source: ``GptOssModel`` of llama.cpp's converter, which takes every second row of ``gate_up_proj`` for the gate.
    """

    _FUSED = re.compile(
        r"(?P<layer>(?:model\.)?layers\.(?P<bid>\d+)\.mlp\.experts\.)(gate_up|down)_proj(?P<bias>_bias)?"
    )
    _STORED = re.compile(r"(?P<stem>blk\.\d+\.ffn_(?P<part>gate|up|down)_exps)\.(?P<kind>weight|bias)")

    def perform_fallback_tensor_mapping(
        self, gguf_to_hf_name_map: dict[str, str], suffix: str, qual_name: str, hf_name: str
    ) -> None:
        if match := self._FUSED.fullmatch(hf_name):
            for part in ("down",) if "down_proj" in hf_name else ("gate", "up"):
                bias = ".bias" if match["bias"] else ""
                gguf_to_hf_name_map[f"blk.{match['bid']}.ffn_{part}_exps{bias}"] = qual_name + hf_name

    def process(self, weights: Any, name: str, **kwargs: Any) -> modeling_gguf_pytorch_utils.GGUFTensor:
        match = self._STORED.fullmatch(name)
        if match is None:
            return modeling_gguf_pytorch_utils.GGUFTensor(weights, name, {})
        place = match["stem"] if match["kind"] == "weight" else name
        tensor = torch.from_numpy(weights)
        tensor = tensor.transpose(-1, -2) if match["kind"] == "weight" else tensor
        if match["part"] == "down":
            return modeling_gguf_pytorch_utils.GGUFTensor(tensor.numpy(), place, {})
        found, target = kwargs["parsed_parameters"]["tensors"], kwargs["tensor_key_mapping"][place]
        whole = found.setdefault(target, tensor.new_zeros(*tensor.shape[:-1], 2 * tensor.shape[-1]))
        whole[..., match["part"] == "up" :: 2] = tensor
        return modeling_gguf_pytorch_utils.GGUFTensor(weights, None, {})


class _QwenHybrid(modeling_gguf_pytorch_utils.TensorProcessor):
    """Qwen3-Next and Qwen3.5: tensors are in transformers' layout already, two names are not in gguf's tables."""

    _PLACES: ClassVar[Mapping[str, str]] = {
        "linear_attn.dt_bias": "ssm_dt.bias",
        "mlp.experts.gate_up_proj": "ffn_gate_up_exps",
    }

    def perform_fallback_tensor_mapping(
        self, gguf_to_hf_name_map: dict[str, str], suffix: str, qual_name: str, hf_name: str
    ) -> None:
        match = re.fullmatch(r"(?:model\.)?layers\.(\d+)\.(.+)", hf_name)
        if match and match[2] in self._PLACES:
            gguf_to_hf_name_map[f"blk.{match[1]}.{self._PLACES[match[2]]}"] = qual_name + hf_name


class _Gemma4(_QwenHybrid):
    """Gemma 4: two scales of the router, which the converter names after what they scale."""

    _PLACES: ClassVar[Mapping[str, str]] = {
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
    }


_PROCESSORS = {  # of architectures that transformers does not convert, or not as they are stored
    "deepseek2": _Glm4Moe,
    "gemma4": _Gemma4,
    "glm4moe": _Glm4Moe,
    "gpt-oss": _GptOss,
    "granite": modeling_gguf_pytorch_utils.LlamaTensorProcessor,
    **dict.fromkeys(("qwen35", "qwen35moe", "qwen3next"), _QwenHybrid),
}


def _tensor_processor(architecture: str, entries: dict[str, Any]) -> modeling_gguf_pytorch_utils.TensorProcessor:
    kinds = modeling_gguf_pytorch_utils.TENSOR_PROCESSORS | _PROCESSORS
    return kinds.get(architecture, modeling_gguf_pytorch_utils.TensorProcessor)(config=entries)


def name_gguf_tensors(
    architecture: str, entries: dict[str, Any], names: Mapping[str, str], tensors: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Give the GGUF tensors of one layer the names, layout and values that the transformers model has.

    Parameters
    ----------
    architecture : str
        ``general.architecture`` of the file.
    entries : dict
        Configuration entries of the whole model; transformers' tensor processors read head counts from it.
    names : Mapping
        From `gguf_names`, of a model whose only layer is this one.
    tensors : Mapping
        ``"blk.0..."`` to float32 tensor.

    Returns
    -------
    dict, list of str
        transformers name (``"model.layers.0..."``) to tensor, and the GGUF names that have no place in it.
    """
    processor = _tensor_processor(architecture, entries)
    found: dict[str, torch.Tensor] = {}
    unplaced: list[str] = []
    for name, tensor in tensors.items():
        if name not in names and name.removesuffix(".weight") not in names:
            unplaced.append(name)
            continue
        weights, target, _ = processor.process(
            weights=tensor.numpy(), name=name, tensor_key_mapping=names, parsed_parameters={"tensors": found}
        )
        if target is not None:  # None: the processor has put it into `found` itself
            place = names.get(target) or names[target.removesuffix(".weight")]
            found[place] = torch.from_numpy(weights).contiguous()
    _require_all_parts(names, tensors)
    return found, unplaced


def _require_all_parts(names: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise `LookupError` where a weight is made of several tensors of which some are missing: they would be zeros."""
    parts: dict[str, list[str]] = {}
    for name, target in names.items():
        parts.setdefault(target, []).append(name)
    for several in parts.values():
        missing = [name for name in several if name not in tensors and f"{name}.weight" not in tensors]
        if 0 < len(missing) < len(several):
            raise LookupError(f"{missing[0]} is missing")


def forget_output_hooks(model: PreTrainedModel) -> None:
    """Take off what transformers has put on a model to collect hidden states, and puts on again when asked for them.

    It leaves local functions there, with which no model can be pickled.
    """
    for module in model.modules():
        for key, hook in [*module._forward_hooks.items()]:
            if getattr(hook, "__module__", "") == "transformers.utils.output_capturing":
                del module._forward_hooks[key]
        if "_output_capturing_hooks_installed" in vars(module):
            module._output_capturing_hooks_installed = False
