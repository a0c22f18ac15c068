"""The one door to checkpoints: a name becomes a folder, a file, an embedded model or one of the hub."""

from __future__ import annotations

import re

from pifi_probe import assets
from pifi_probe.errors import CheckpointError, ModelNotFoundError
from pifi_probe.files import existing
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.hub import open_hub_checkpoint
from pifi_probe.layers.local import open_local_checkpoint
from pifi_probe.layers.spec import ModelRef
from pifi_probe.models_table import repo_of
from pifi_probe.permissions import pickle_allowed

__all__ = ["is_gguf", "is_hub_name", "open_checkpoint", "open_named"]

_HUB_NAME = re.compile(r"^[\w.-]+(/[\w.-]+)?$|^[\w.-]+/[\w.-]+/[\w./-]+\.gguf$")


def is_gguf(name: str) -> bool:
    """Return whether a name is that of a GGUF file."""
    return name.lower().endswith(".gguf")


def is_hub_name(name: str) -> bool:
    """Return whether a name can be a hub id, or one of a GGUF file there."""
    is_file_name = name.count("/") < 2 and name.endswith((".gguf", ".safetensors", ".bin"))
    return not is_file_name and not name.startswith((".", "~")) and _HUB_NAME.fullmatch(name) is not None


def open_named(llm: str) -> Checkpoint:
    """Open the checkpoint of a whole model that a user named, ``"MODEL"`` or ``"MODEL@revision"``.

    Raises
    ------
    SpecError
        If `llm` names layers, or no model.
    PifiProbeError
        As `open_checkpoint`.
    """
    return open_checkpoint(*ModelRef.parse(llm))


def open_checkpoint(
    model: str,
    revision: str | None = None,
    *,
    allow_pickle: bool = False,
    allow_full_download: bool = False,
    token: str | bool | None = None,
) -> Checkpoint:
    """Open a checkpoint; no tensor is read yet.

    Parameters
    ----------
    model : str
        A local folder, a ``.safetensors`` file with ``config.json`` next to it, a ``.gguf`` file, an embedded
        name, a name of `pifi_probe.models_table`, or a hub id (``org/name``, or ``org/name/file.gguf``); tried in
        this order.
    revision : str, optional
        Branch, tag or commit of a hub id.
    allow_pickle : bool
        Read legacy ``.bin`` files too (with ``weights_only=True``); ``PIFI_PROBE_ALLOW_PICKLE=1`` allows it everywhere.
    allow_full_download : bool
        Download whole files when the hub's server does not serve byte ranges.
    token : str or bool, optional
        As the hub's client has it: None uses the saved one, False none.

    Raises
    ------
    ModelNotFoundError
        If `model` is none of these.
    CheckpointError, CorruptFileError, UnsupportedFormatError, UnsupportedFamilyError
        If files are missing, malformed, or of a kind that is not read.
    HubError
        If the hub refuses or fails.
    """
    allow_pickle = allow_pickle or pickle_allowed()
    path = existing(model)
    if path is None and assets.is_asset(model):
        path = assets.path(model)
    if path is not None:
        if revision is not None:
            raise CheckpointError(
                f"a local checkpoint has no revision {revision!r}", where=model, next="leave the revision out"
            )
        return open_local_checkpoint(path.absolute(), allow_pickle=allow_pickle)
    model = repo_of(model)
    if not is_hub_name(model):
        raise ModelNotFoundError(
            f"there is no model {model!r}",
            where="model name",
            next="give a hub id (org/name), a folder, a .gguf or .safetensors file, or an embedded name "
            "(pifi-probe assets list)",
        )
    return open_hub_checkpoint(
        model, revision, allow_pickle=allow_pickle, allow_full_download=allow_full_download, token=token
    )
