"""The tokenizer of a checkpoint."""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import shutil
from pathlib import Path

import transformers
from transformers import PreTrainedTokenizerBase

from pifi_probe.compat import quiet_transformers
from pifi_probe.files import cache_root
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.pretrained import open_tokenizer

__all__ = ["donor_tokenizer"]


def donor_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint, local or on the hub, with a padding token.

    Raises
    ------
    OSError, ValueError
        If the checkpoint has none that transformers can load.
    """
    path = Path(checkpoint.identity)
    with quiet_transformers():
        if not path.exists():
            repository = checkpoint.identity.partition("@")[0]
            tokenizer = open_tokenizer(repository, revision=checkpoint.revision)
        elif checkpoint.format == "gguf":
            tokenizer = _from_gguf(path)
        else:
            tokenizer = open_tokenizer(path if path.is_dir() else path.parent)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _from_gguf(path: Path) -> PreTrainedTokenizerBase:
    """Convert the tokenizer of a GGUF file, which takes seconds, and keep the result in the cache."""
    state = [str(path), path.stat().st_size, path.stat().st_mtime_ns, transformers.__version__]
    kept = cache_root() / "tokenizers" / hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]
    if kept.is_dir():
        return open_tokenizer(kept)
    tokenizer = open_tokenizer(path.parent, gguf_file=path.name)
    partial = kept.with_name(f".{kept.name}.{secrets.token_hex(4)}")
    try:
        with contextlib.suppress(OSError):  # no cache, or another process was faster
            tokenizer.save_pretrained(partial)
            partial.replace(kept)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return tokenizer
