"""What differs between model families, as data.

A layer is called through the family's own base model with one layer in it (a *shell*), so masks, rotary
embeddings, sliding windows, multipliers and expert routing are the family's own code. A row below says only
what lies outside the layer and must be silenced, and where the value path of its attention lies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, get_args

from transformers import MODEL_MAPPING, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from pifi_probe.errors import UnsupportedFamilyError
from pifi_probe.layers.refused import REFUSED
from pifi_probe.registry import TEXTS, Registry, caller, mistyped

__all__ = ["BUILT_IN", "FAMILIES", "Family", "family_of", "missing_state", "register_family"]

ValuePath = Literal["v_proj", "qkv_concat", "qkv_per_head", "falcon", "mla"]
_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Parameters
    ----------
    zeros : tuple of str
        Modules next to the layers whose output is added to the input embeddings and may be computed from a mask.
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

    zeros: tuple[str, ...] = ()
    neutral: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    attention: str = "self_attn"
    output: str = "o_proj"
    value: ValuePath | None = "v_proj"
    gated_mlp: bool = False
    alibi: bool = False


_LLAMA = Family(gated_mlp=True)
_MOE = Family()
_GRANITE = Family(neutral={"embedding_multiplier": 1.0})

# Types that need no row of their own: what lies outside of their layers is found.
_DEFAULT = (
    "apertus", "arcee", "aria_text", "axk2", "bailing_hybrid", "bamba", "beam", "biogpt", "bitnet", "codegen",
    "cohere2_moe", "cohere_compass_text", "cwm", "dbrx", "diffllama", "doge", "dots1", "dots3_note_text", "ernie4_5",
    "ernie4_5_moe", "exaone4", "exaone_moe", "falcon_mamba", "flex_olmo", "flint", "gemma4_text",
    "gemma4_unified_text", "glm", "glm4_moe", "gpt_bigcode", "gpt_neo", "gpt_neox_japanese", "helium",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "hy_v3", "inkling_text", "internlm3", "iquestcoder", "jais2", "jamba",
    "jetmoe", "kimi_linear", "kolibri1", "laguna", "lfm2", "lfm2_moe", "lfm3", "llama4_text", "mamba", "mamba2",
    "mellum", "mimo_v2_flash", "minimax", "minimax_m2", "minimax_m3_vl_text", "ministral", "ministral3",
    "modernbert-decoder", "moshi", "nemotron_h", "olmo3", "olmo_hybrid", "olmoe", "openai-gpt", "persimmon", "phimoe",
    "qwen3_5_moe_text", "qwen3_5_text", "seed_oss", "solar_open", "vaultgemma", "xlstm",
)  # fmt: skip
# Multi-head latent attention: one token takes the path down, norm, up.
_LATENT = (
    "axk1", "deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "minicpm3", "mistral4",
    "youtu",
)  # fmt: skip

FAMILIES: Registry[Family] = Registry(
    "family", UnsupportedFamilyError, names=re.compile(r".+"), such_as="its model type"
)
FAMILIES |= {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "smollm3": _LLAMA,
    "granite": _GRANITE,
    "granite_swa": _GRANITE,
    "granitemoe": _GRANITE,
    "granitemoe_swa": _GRANITE,
    "granitemoeshared": _GRANITE,
    "granitemoehybrid": _GRANITE,
    "hyperclovax": _GRANITE,
    "falcon_h1": _GRANITE,
    "afmoe": Family(neutral={"mup_enabled": False}),
    "mixtral": _MOE,
    "qwen2_moe": _MOE,
    "qwen3_moe": _MOE,
    "qwen3_next": Family(value=None),
    "gpt_oss": Family(value=None),
    "gemma2": Family(),
    "gemma3_text": Family(),
    "olmo": Family(),
    "olmo2": Family(),
    "cohere": Family(),
    "cohere2": Family(),
    "glm4": Family(),
    "nemotron": Family(),
    "nanochat": Family(),
    "xglm": Family(zeros=("embed_positions",)),
    **dict.fromkeys(_LATENT, Family(value="mla")),
    **dict.fromkeys(_DEFAULT, Family()),
    "stablelm": Family(),
    "starcoder2": Family(),
    "phi": Family(output="dense"),
    "phi3": Family(value="qkv_concat"),
    "phi4_multimodal": Family(value="qkv_concat"),
    "gpt_neox": Family(attention="attention", output="dense", value="qkv_per_head"),
    "gptj": Family(attention="attn", output="out_proj"),
    "gpt2": Family(
        attention="attn",
        output="c_proj",
        value="qkv_concat",
    ),
    "opt": Family(
        zeros=("embed_positions",),
        output="out_proj",
    ),
    "bloom": Family(
        attention="self_attention",
        output="dense",
        value="qkv_per_head",
        alibi=True,
    ),
    "falcon": Family(attention="self_attention", output="dense", value="falcon"),
    "mpt": Family(
        attention="attn",
        output="out_proj",
        value="qkv_concat",
        alibi=True,
    ),
}

BUILT_IN = frozenset(FAMILIES)  # which the tests compare with themselves


_ATTRIBUTES: Mapping[str, str] = {
    "zeros": TEXTS, "neutral": "a mapping of names to values", "attention": "a text", "output": "a text",
    "gated_mlp": "True or False", "alibi": "True or False",
}  # fmt: skip


def register_family(model_type: str, family: Family) -> None:
    """Add a model family.

    Parameters
    ----------
    model_type : str
        Of its configurations, which transformers knows: ``AutoConfig.register`` adds one.
    family : Family
        What lies outside its layers; ``Family()`` where all of it is found.

    Raises
    ------
    UnsupportedFamilyError
        If transformers has no such type, a row has a value that it cannot have, or the type has a row already. The
        module that has registered a row may register it again, with other values, too.
    """
    where = f"register_family({model_type!r})"
    if not isinstance(family, Family):
        raise UnsupportedFamilyError("a family is a Family", where=where, next="give Family(...), or Family()")
    if wrong := mistyped(family, _ATTRIBUTES):
        raise UnsupportedFamilyError(f"the row {wrong}", where=where, next="book/extending/family.md shows how")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise UnsupportedFamilyError(
            f"transformers has no configuration of type {model_type!r}",
            where=where,
            next="register it first: transformers.AutoConfig.register, and its model with AutoModel.register",
        )
    if family.value not in (None, *get_args(ValuePath)):
        raise UnsupportedFamilyError(
            f"value={family.value!r} is not a way to store a value projection",
            where=where,
            next=f"use None or one of {', '.join(get_args(ValuePath))}",
        )
    if reason := REFUSED.get(model_type):
        raise UnsupportedFamilyError(
            f"the family {model_type!r} is refused: {reason}", where=where, next="take another"
        )
    FAMILIES.add(model_type, family, home=caller(), otherwise="use its row as it is")


def family_of(config: PretrainedConfig) -> Family:
    """Return the row of a configuration's family.

    Raises
    ------
    UnsupportedFamilyError
        If the type is refused, with the reason, or transformers has no model of it.
    """
    family = FAMILIES.get(config.model_type)
    reason = REFUSED.get(config.model_type)
    if family is None and reason is None and type(config) in MODEL_MAPPING:
        return Family()  # of a type that nobody has listed, the whole model is run before a layer is taken
    if family is None:
        raise UnsupportedFamilyError(
            f"the model family {config.model_type!r} is not supported: "
            f"{reason or 'transformers has no base model for it'}",
            where="model_type of the configuration",
            next=f"take a model of one of these: {', '.join(sorted(FAMILIES))}",
        )
    return family


def missing_state(config: PretrainedConfig, index: int) -> str | None:
    """Return the name of the state besides its input that layer `index` needs; None when there is none."""
    n_layers = int(config.num_hidden_layers)
    if getattr(config, "hidden_size_per_layer_input", None):
        return "per-layer embeddings of the tokens (hidden_size_per_layer_input)"
    shared = int(getattr(config, "num_kv_shared_layers", None) or 0)
    if shared and index >= n_layers - shared:
        return f"keys and values of a layer before {n_layers - shared} (num_kv_shared_layers)"
    kinds = getattr(config, "indexer_types", None) or ()
    if index < len(kinds) and kinds[index] == "shared":
        return "the tokens that the indexer of an earlier layer has chosen (indexer_types)"
    return None
