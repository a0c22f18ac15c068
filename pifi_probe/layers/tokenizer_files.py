"""Where the files of a checkpoint's tokenizer are: in its folder, fetched from the hub, or in a GGUF file's header."""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pifi_probe.errors import CheckpointError
from pifi_probe.files import file_sha256
from pifi_probe.layers.checkpoint import Checkpoint, hub_place, local_path
from pifi_probe.layers.gguf_checkpoint import GGUFCheckpoint

__all__ = ["gguf_header_digest", "gguf_header_file", "tokenizer_folder", "vocabulary_digest"]

_VOCABULARY = re.compile(r"[^/]*(tokenizer\.json|tekken\.json|vocab\.(json|txt|bpe)|\.(model|spm|tiktoken))")
_BESIDE = re.compile(
    r"(config|tokenizer_config|special_tokens_map|added_tokens)\.json|merges\.txt|chat_template\.(jinja|json)"
)
_MOST = 1 << 28  # bytes of a file of a tokenizer


def tokenizer_folder(checkpoint: Checkpoint) -> Path:
    """Return the folder that holds the tokenizer of a checkpoint that is not a GGUF file; from the hub it is fetched.

    Raises
    ------
    CheckpointError
        If the repository has none.
    HubError
        As `pifi_probe.layers.hub.open_hub_checkpoint`.
    """
    if path := local_path(checkpoint):
        return path if path.is_dir() else path.parent
    from pifi_probe.layers.hub import HubRepo
    from pifi_probe.layers.hub_client import HubClient

    repo = HubRepo.open(HubClient(hub_place(checkpoint)[0], checkpoint.token), checkpoint.revision)
    small = [name for name, size in repo.files.items() if size is None or size <= _MOST]
    vocabularies = [name for name in small if _VOCABULARY.fullmatch(name)]
    if not vocabularies:
        raise CheckpointError(
            "the repository has no tokenizer (tokenizer.json, vocab.txt, tokenizer.model, ...)",
            where=checkpoint.identity,
            next="choose a repository that has one, or put it next to a local copy of the model",
        )
    return repo.folder([*vocabularies, *(name for name in small if _BESIDE.fullmatch(name))])


def vocabulary_digest(checkpoint: Checkpoint) -> str:
    """Return a digest over the files of the tokenizer next to a local checkpoint.

    It is "" where `pifi_probe.layers.content.content_of` knows the tokenizer: of the hub, and of a GGUF file.
    """
    if isinstance(checkpoint, GGUFCheckpoint) or local_path(checkpoint) is None:
        return ""
    files = (file for file in tokenizer_folder(checkpoint).iterdir() if file.is_file())
    parts = [file for file in files if _VOCABULARY.fullmatch(file.name) or _BESIDE.fullmatch(file.name)]
    lines = "\n".join(f"{file.name} {file_sha256(file)}" for file in sorted(parts))
    return hashlib.sha256(lines.encode()).hexdigest()


def gguf_header_digest(checkpoint: GGUFCheckpoint) -> str:
    """Return the sha256 of the header, in which the tokenizer is stored."""
    return hashlib.sha256(checkpoint.header_bytes()).hexdigest()


@contextlib.contextmanager
def gguf_header_file(checkpoint: GGUFCheckpoint) -> Iterator[Path]:
    """Give a GGUF file on this machine that has the checkpoint's header: the file itself, or one without weights."""
    if path := local_path(checkpoint):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="pifi_probe_gguf_") as folder:
        path = Path(folder) / "header.gguf"
        with path.open("wb") as file:
            file.write(checkpoint.header_bytes())
            file.truncate(checkpoint.size)  # a hole in place of the weights: it takes no room on the disk
        yield path
