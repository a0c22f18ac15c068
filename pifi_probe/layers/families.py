"""What differs between model families, as data.

A layer is called through the family's own base model with one layer in it (a *shell*), so masks, rotary
embeddings, sliding windows, multipliers and expert routing are the family's own code. A row below says only
what lies outside of the layer and must be silenced, and where the value path of its attention lies.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from transformers import PretrainedConfig

from pifi_probe.errors import UnsupportedFamilyError

__all__ = ["FAMILIES", "Family", "family_of", "layer_config", "stem_config"]

ValuePath = Literal["v_proj", "qkv_concat", "qkv_per_head", "falcon", "mla"]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Parameters
    ----------
    decoder : str
        Attribute of the base model that holds the layers; empty when it is the base model itself.
    layers : str
        Attribute of the decoder with the list of layers.
    outside : tuple of str
        Modules of the decoder after the layers that become the identity.
    before : tuple of str
        Modules of the decoder between the embeddings and the layers; in a shell they become the identity too.
    zeros : tuple of str
        Modules of the decoder whose output is added to the input embeddings; they become zero.
    neutral : Mapping
        Configuration values that act before the first layer, with their neutral value.
    attention, output : str
        Name of the attention module in the layer, and of its output projection.
    value : str or None
        How its value projection is stored; None when one token does not reduce attention to it.
    gated_mlp : bool
        True for ``down(act(gate(x)) * up(x))`` after a root-mean-square norm and a sequential residual: the
        form that `fold` can fold exactly.
    alibi : bool
        True when positions enter as a bias that the family derives from the two-dimensional mask.
    """

    decoder: str = ""
    layers: str = "layers"
    outside: tuple[str, ...] = ("norm",)
    before: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    neutral: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    attention: str = "self_attn"
    output: str = "o_proj"
    value: ValuePath | None = "v_proj"
    gated_mlp: bool = False
    alibi: bool = False

    @property
    def path(self) -> str:
        """Where the base model keeps the layers: ``"layers"``, ``"decoder.layers"``, ..."""
        return f"{self.decoder}.{self.layers}".lstrip(".")


_LLAMA = Family(gated_mlp=True)
_MOE = Family()

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "llama": _LLAMA,
        "mistral": _LLAMA,
        "qwen2": _LLAMA,
        "qwen3": _LLAMA,
        "gemma": _LLAMA,
        "smollm3": _LLAMA,
        "granite": Family(neutral={"embedding_multiplier": 1.0}),
        "mixtral": _MOE,
        "qwen2_moe": _MOE,
        "qwen3_moe": _MOE,
        "qwen3_next": Family(value=None),
        "gpt_oss": Family(value=None),
        "deepseek_v3": Family(value="mla"),
        "gemma2": Family(),
        "gemma3_text": Family(),
        "olmo": Family(),
        "olmo2": Family(),
        "cohere": Family(),
        "cohere2": Family(),
        "glm4": Family(),
        "nemotron": Family(),
        "stablelm": Family(),
        "starcoder2": Family(),
        "phi": Family(outside=("final_layernorm",), output="dense"),
        "phi3": Family(value="qkv_concat"),
        "gpt_neox": Family(outside=("final_layer_norm",), attention="attention", output="dense", value="qkv_per_head"),
        "gptj": Family(layers="h", outside=("ln_f",), attention="attn", output="out_proj"),
        "gpt2": Family(
            layers="h",
            outside=("ln_f",),
            zeros=("wpe",),
            attention="attn",
            output="c_proj",
            value="qkv_concat",
        ),
        "opt": Family(
            decoder="decoder",
            outside=("final_layer_norm", "project_out"),
            before=("project_in",),
            zeros=("embed_positions",),
            output="out_proj",
        ),
        "bloom": Family(
            layers="h",
            outside=("ln_f",),
            before=("word_embeddings_layernorm",),
            attention="self_attention",
            output="dense",
            value="qkv_per_head",
            alibi=True,
        ),
        "falcon": Family(layers="h", outside=("ln_f",), attention="self_attention", output="dense", value="falcon"),
        "mpt": Family(
            layers="blocks",
            outside=("norm_f",),
            attention="attn",
            output="out_proj",
            value="qkv_concat",
            alibi=True,
        ),
    }
)

# Lists of the configuration with one entry a layer; the chosen layer's own entry is kept.
_PER_LAYER = ("layer_types", "no_rope_layers", "mlp_layer_types")


def family_of(config: PretrainedConfig) -> Family:
    """Return the row of a configuration's family.

    Raises
    ------
    UnsupportedFamilyError
        If the table has no row for ``config.model_type``.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise UnsupportedFamilyError(
            f"the model family {config.model_type!r} is not supported",
            where=f"model_type of the configuration; supported: {', '.join(sorted(FAMILIES))}",
            next="add a row to FAMILIES in pifi_probe/layers/families.py and its name to tests/test_conformity.py",
        )
    return family


def layer_config(config: PretrainedConfig, index: int) -> PretrainedConfig:
    """Return the configuration of a model whose only layer is layer `index` of `config`.

    The vocabulary shrinks to four entries because the embeddings are never used.
    """
    one = copy.deepcopy(config)
    for name in _PER_LAYER:
        values = getattr(config, name, None)
        if isinstance(values, (list, tuple)) and len(values) > index:
            setattr(one, name, [values[index]])
    _keep_expert_layer(config, one, index)
    one.num_hidden_layers = 1
    one.vocab_size = 4
    one.pad_token_id = None
    for name, value in family_of(config).neutral.items():
        setattr(one, name, value)
    return one


def stem_config(config: PretrainedConfig, vocab_size: int) -> PretrainedConfig:
    """Return the configuration of the model without any layer, with embeddings of `vocab_size` tokens."""
    stem = copy.deepcopy(config)
    for name in _PER_LAYER:
        if getattr(config, name, None) is not None:
            setattr(stem, name, [])
    stem.num_hidden_layers = 0
    stem.vocab_size = vocab_size
    stem.pad_token_id = None
    return stem


def _keep_expert_layer(config: PretrainedConfig, one: PretrainedConfig, index: int) -> None:
    """Say for the only layer whether it is dense or routed, as it was at `index`."""
    dense_first = getattr(config, "first_k_dense_replace", None)
    if dense_first is not None:
        one.first_k_dense_replace = int(index < dense_first)
    step = getattr(config, "decoder_sparse_step", None)
    if step is not None:
        sparse = index not in (config.mlp_only_layers or []) and (index + 1) % step == 0
        one.decoder_sparse_step, one.mlp_only_layers = 1, [] if sparse else [0]
