"""The pooling that an encoder was made for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

from transformers import PretrainedConfig

from pifi_probe.encoders import is_decoder
from pifi_probe.errors import HubError, PlugInError
from pifi_probe.layers.small_files import small_files
from pifi_probe.plugin.stated_pooling import stated_pooling

__all__ = ["Pooling", "Resolved", "resolved_pooling"]

Pooling = Literal["cls", "mean", "last"]


class Resolved(NamedTuple):
    """A pooling, and why it is this one."""

    how: str
    why: str


def resolved_pooling(how: str, config: PretrainedConfig, source: str | Path | None) -> Resolved:
    """Turn ``"auto"`` into the pooling an encoder was made for.

    What its checkpoint states in the files of sentence-transformers, see `stated_pooling`. Where it has none: the
    last token for decoders, and the first ([CLS]) for encoders. A decoder never pools its first token, which has seen
    nothing else.

    Parameters
    ----------
    how : {"cls", "mean", "last", "auto"}
    config : PretrainedConfig
        Of the encoder.
    source : str or Path, optional
        Folder or hub id of its checkpoint; None or "" where it has none.

    Raises
    ------
    PlugInError
        If the checkpoint states a pooling that is not built here, or its files cannot be read or are not known.
    """
    decoder = is_decoder(config)
    if how != "auto":
        last = decoder and how == "cls"
        return Resolved("last", "a decoder's first token has seen nothing else") if last else Resolved(how, "")
    if stated := _stated(str(source or ""), getattr(config, "_commit_hash", None)):
        return stated
    if decoder:
        return Resolved("last", "auto: the checkpoint states none, and a decoder's last token has seen all others")
    return Resolved("cls", "auto: the checkpoint states none, and it is an encoder")


def _stated(source: str, commit: str | None) -> Resolved | None:
    advice = 'pass pooling="cls", "mean" or "last"'
    try:
        files = small_files(source, commit)
    except HubError as error:
        raise PlugInError(
            f'pooling="auto" could not be read from the hub: {error.what}',
            where=source,
            next=f"{advice}, or: {error.next}",
        ) from error
    found = None if files is None else stated_pooling(files)
    if found is None and files is not None and not files.complete:
        raise PlugInError(
            'pooling="auto" cannot be read: without a connection it is not known which files the checkpoint has',
            where=files.where,
            next=f"{advice}, or run this once with a connection",
        )
    return None if found is None else Resolved(found[0], f"auto: as sentence-transformers saved it in {found[1]}")
