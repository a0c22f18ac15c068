"""Weights that some GGUF files keep whole and others in parts, brought to what the model's names ask for.

Source: ``conversion/base.py`` (``--fuse-gate-up-exps``) and ``conversion/deepseek.py`` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

__all__ = ["in_asked_parts"]

_GATE, _UP, _GATE_UP = (f"blk.0.ffn_{part}_exps.weight" for part in ("gate", "up", "gate_up"))
_KEYS, _VALUES, _KEYS_VALUES = (f"blk.0.attn_{part}_b.weight" for part in ("k", "v", "kv"))


def in_asked_parts(stored: dict[str, torch.Tensor], asked: Collection[str]) -> dict[str, torch.Tensor]:
    """Return a layer's tensors, joined or split where the model has them so.

    Parameters
    ----------
    stored : dict
        GGUF name (``"blk.0..."``) to float32 tensor.
    asked : Collection
        GGUF names that have a place in the model, some of them without ``.weight``.

    Raises
    ------
    LookupError, RuntimeError
        If one of two parts is missing, or shapes do not match.
    """
    found = dict(stored)
    joined = _GATE_UP.removesuffix(".weight") in asked
    if _GATE_UP in found and not joined:
        found[_GATE], found[_UP] = found.pop(_GATE_UP).chunk(2, dim=1)
    elif joined and found.keys() & {_GATE, _UP}:
        found[_GATE_UP] = torch.cat(_taken(found, _GATE, _UP), dim=1)
    if _KEYS_VALUES in asked and found.keys() & {_KEYS, _VALUES}:
        keys, values = _taken(found, _KEYS, _VALUES)  # (heads, rank, part of a head), (heads, head, rank)
        if _KEYS_VALUES not in found:  # in some files all three are there
            whole = torch.cat([keys.transpose(1, 2), values], dim=1)
            found[_KEYS_VALUES] = whole.reshape(-1, values.shape[-1])  # (heads x both, rank)
    return found


def _taken(found: dict[str, torch.Tensor], *names: str) -> list[torch.Tensor]:
    """Take tensors out, all of which must be there."""
    for name in names:
        if name not in found:
            raise LookupError(f"{name.removesuffix('.weight')} is missing")
    return [found.pop(name) for name in names]
