"""What a saved model only names: which donors may be opened on its word, and with whose token."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from pifi_probe import assets
from pifi_probe.errors import HubError, PlugInError
from pifi_probe.escaping import one_line
from pifi_probe.files import existing
from pifi_probe.layers.checkpoint import Checkpoint, is_hub_name, open_checkpoint
from pifi_probe.models_table import repo_of

__all__ = ["open_reference"]

logger = logging.getLogger(__name__)


def open_reference(name: str, revision: str | None, folder: Path | None, *, allow_external: bool) -> Checkpoint:
    """Open the donor that a saved model names.

    Parameters
    ----------
    name : str
        As the model's configuration has it; a relative path is first sought in the model's folder.
    revision : str or None
    folder : Path or None
        Of the model; None for a model from the hub.
    allow_external : bool
        Open any path, and hub ids with the user's token. Otherwise only embedded names, paths inside of `folder`,
        and hub ids without a token.

    Raises
    ------
    PlugInError
        If the name is a path outside of the model's folder and that is not allowed.
    ModelNotFoundError, CheckpointError, HubError
        As `open_checkpoint`.
    """
    inside = _inside(name, folder)
    if inside is not None:
        return _opened(str(inside), revision, None)
    if assets.is_asset(name) or allow_external:
        return _opened(name, revision, None)
    is_path = existing(name) is not None or (folder is not None and os.path.lexists(folder / name))
    if is_hub_name(repo_of(name)) and not is_path:
        try:
            return _opened(name, revision, False)
        except HubError as error:
            raise HubError(
                f"the donor that the model names was asked for without your token: {error.what}",
                where=error.where,
                next=f"if you trust the model to name it, pass allow_external=True; otherwise: {error.next}",
            ) from error
    raise PlugInError(
        f"the model holds no weights of its layer, and names {name!r}, a path outside of its folder",
        where=str(folder or "a model from the hub"),
        next="if you trust the model to open it, pass allow_external=True to from_pretrained",
    )


def _inside(name: str, folder: Path | None) -> Path | None:
    """Return the path in the model's folder that a name stands for; links that lead out of it count as outside."""
    if folder is None or not name:
        return None
    root = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(root / name))
    return path if path.is_relative_to(root) and path != root and path.exists() else None


def _opened(name: str, revision: str | None, token: bool | None) -> Checkpoint:
    logger.warning("the model holds no weights of its layer; opening the donor that it names: %s", one_line(name))
    return open_checkpoint(name, revision, token=token)
