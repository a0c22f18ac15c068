"""Why layers of some model types are not offered: each type of transformers' list of causal models that has no row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["REFUSED"]

_ENCODER = "it is an encoder; a layer is taken from a decoder, which reads from left to right"
_PAIR = "it is the decoder of an encoder-decoder; its layers read the encoder's states too"
_CARRIER = "its language model is a part of it (text_config), and that part's type decides"
_STREAMS = "its layers hand on several streams of states (hyper-connections), not one"
_SHARED = "its attention block is shared by several layers, each with adapters of its own"
_NOT_SMALL = "no small configuration of it can be built, so it was never tested"
_OTHER_CODE = "it is no chain of decoder layers that transformers calls one after the other"

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(
            (
                "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie",
                "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm",
                "xlm-roberta", "xlm-roberta-xl", "xmod",
            ),
            _ENCODER,
        ),
        **dict.fromkeys(
            (
                "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "marian", "mbart", "mvp", "pegasus",
                "plbart", "prophetnet", "trocr", "whisper", "musicgen", "musicgen_melody",
            ),
            _PAIR,
        ),
        **dict.fromkeys(
            (
                "dots3_note", "emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "git", "got_ocr2",
                "llama4", "mllama", "moss_transcribe_diarize", "qwen3_5", "qwen3_5_moe", "qwen4_exp",
            ),
            _CARRIER,
        ),
        **dict.fromkeys(("deepseek_v4", "hy_v4"), _STREAMS),
        "gemma3n_text": "its layers need four streams (AltUp), per-layer embeddings and keys of earlier layers",
        "gemma4_assistant": "its layers read the keys and values of another model",
        "gemma4_unified_assistant": "its layers read the keys and values of another model",
        "inkling2_text": "its layers attend to the states of earlier layers",
        "qwen4_exp_text": "its layers hand on several streams of states, and need per-layer embeddings",
        "zaya": "its router needs the state of the router before",
        **dict.fromkeys(("zamba", "zamba2"), _SHARED),
        "longcat_flash": "one of its layers is two, with one expert layer across both",
        "recurrent_gemma": "it multiplies the embeddings inside of its loop, where nothing can silence it",
        "inkling_text": "a weight of it is named like the scale of a quantised one",
        **dict.fromkeys(
            ("axk2", "blt", "cohere_compass_text", "dbrx", "dots3_note_text", "gemma4_unified_text", "phi4_multimodal"),
            _NOT_SMALL,
        ),
        **dict.fromkeys(("cpmant", "ctrl", "hrm_text", "moshi", "reformer", "rwkv", "xlnet", "xlstm"), _OTHER_CODE),
    }
)  # fmt: skip
