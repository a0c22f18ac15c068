"""What a file only names: which models may be opened on its word, and with whose token."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from pifi_probe import assets
from pifi_probe.errors import HubError, PlugInError
from pifi_probe.escaping import one_line
from pifi_probe.files import existing
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.open import is_hub_name, open_checkpoint
from pifi_probe.layers.spec import ModelRef
from pifi_probe.models_table import repo_of

__all__ = ["NamedBy", "open_reference", "refused_without_token", "resolve_reference"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NamedBy:
    """Whose word a name is: that of a file which somebody may have altered. None in its place stands for the user.

    Parameters
    ----------
    folder : Path or None
        That the file lies in; None for what came from the hub, or from no folder.
    allow_external : bool
        The user trusts the file: open any path, and hub ids with the user's token.
    """

    folder: Path | None = None
    allow_external: bool = False


def resolve_reference(name: str, by: NamedBy | None, what: str) -> tuple[str, bool | None]:
    """Return what a name may be opened as, and the token to ask the hub with: None for the user's, False for none.

    Parameters
    ----------
    name : str
        A relative path is first sought in the folder.
    by : NamedBy or None
        Unless trusted, it may name embedded models, paths inside its folder, and hub ids, asked without a token.
    what : str
        That is opened, for messages: ``"donor"``.

    Raises
    ------
    PlugInError
        If the name is a path outside the folder, and that is not allowed.
    """
    if by is None:
        return name, None
    inside = _inside(name, by.folder)
    found: tuple[str, bool | None] | None = None
    if inside is not None:
        found = str(inside), None
    elif assets.is_asset(name) or by.allow_external:
        found = name, None
    else:
        is_path = existing(name) is not None or (by.folder is not None and os.path.lexists(by.folder / name))
        if is_hub_name(repo_of(name)) and not is_path:
            found = name, False
    if found is None:
        raise PlugInError(
            f"the {what} is only named, as {name!r}, a path outside of the folder that names it",
            where=str(by.folder or "a file of no folder, or of the hub"),
            next="if you trust what names it, pass allow_external=True where you load it",
        )
    if not assets.is_asset(found[0]):  # those come from pinned packages, whoever names them
        logger.warning("opening the %s that a file names: %s", what, one_line(name))
    return found


def open_reference(ref: ModelRef, by: NamedBy | None) -> Checkpoint:
    """Open the donor that a card names.

    Raises
    ------
    PlugInError
        As `resolve_reference`.
    ModelNotFoundError, CheckpointError, HubError
        As `open_checkpoint`.
    """
    source, token = resolve_reference(ref.model, by, "donor")
    try:
        return open_checkpoint(source, ref.revision, token=token)
    except HubError as error:
        if token is False:
            raise refused_without_token(error, "donor") from error
        raise


def refused_without_token(error: HubError, what: str) -> HubError:
    """Return what is said of a model that the hub did not give without the user's token."""
    return HubError(
        f"the {what} was asked for without your token, as only a file names it: {error.what}",
        where=error.where,
        next=f"if you trust what names it, pass allow_external=True where you load it; otherwise: {error.next}",
    )


def _inside(name: str, folder: Path | None) -> Path | None:
    """Return the path in the folder that a name stands for; links that lead out of it count as outside."""
    if folder is None or not name:
        return None
    root = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(root / name))
    return path if path.is_relative_to(root) and path != root and path.exists() else None
