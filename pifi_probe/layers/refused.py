"""Why layers of some model types are not offered: each type of transformers' list of causal models that has no row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["REFUSED"]

_ENCODER = "it is an encoder; a layer is taken from a decoder, which reads from left to right"
_PAIR = "it is the decoder of an encoder-decoder; its layers read the encoder's states too"
_CARRIER = "its language model is a part of it (text_config), and that part's type decides"
_STREAMS = "its layers hand on several streams of states (hyper-connections), not one"
_SHARED = "its attention layers share one block, and read the embeddings of the tokens as well as their input"
_OTHER_CODE = "it is not a chain of decoder layers that transformers calls one after the other"

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
                "dots3_note", "emu3", "fuyu", "gemma3", "gemma3n", "gemma4", "gemma4_unified", "got_ocr2",
                "llama4", "mllama", "moss_transcribe_diarize", "qwen3_5", "qwen3_5_moe", "qwen4_exp",
            ),
            _CARRIER,
        ),
        "deepseek_v4": f"{_STREAMS}, and some choose their experts by the tokens themselves",
        "hy_v4": f"{_STREAMS}, and some read what the indexer of an earlier layer has chosen",
        "gemma3n_text": "its layers need four streams (AltUp), per-layer embeddings and keys of earlier layers",
        "gemma4_assistant": "its layers read the keys and values of another model",
        "gemma4_unified_assistant": "its layers read the keys and values of another model",
        "inkling2_text": "its layers attend to the states of earlier layers",
        "qwen4_exp_text": "its layers hand on several streams of states, and need per-layer embeddings",
        "zaya": "its router needs the state of the router before",
        **dict.fromkeys(("zamba", "zamba2"), _SHARED),
        "longcat_flash": "one of its layers is two, with one expert layer across both",
        "recurrent_gemma": "it multiplies the embeddings inside of its loop, where nothing can silence it",
        "git": "it stores its layers under the names of an encoder, and reads an image before the text",
        "cpmant": "its layers are given a mask and a position bias that are computed from the tokens",
        **dict.fromkeys(("blt", "ctrl", "hrm_text", "reformer", "rwkv", "xlnet"), _OTHER_CODE),
    }
)  # fmt: skip
