"""Which files of a folder or repository hold the model's weights: the ones that transformers would read."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass

from pifi_probe.errors import CheckpointError

__all__ = ["INDEX", "ONE_PICKLE", "PICKLES", "WeightFiles", "weight_files"]

INDEX = "model.safetensors.index.json"
_ONE = "model.safetensors"
ONE_PICKLE, _PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
PICKLES = re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin")
_SHARD = re.compile(r"^(?P<stem>.+)-\d{5}-of-(?P<n>\d{5})\.(safetensors|bin)$")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WeightFiles:
    """The files of one checkpoint.

    Parameters
    ----------
    files : list of str
        Empty where an index names them.
    index : str or None
    pickle : bool
        Legacy ``.bin`` files.
    """

    files: list[str]
    index: str | None = None
    pickle: bool = False


def weight_files(names: Collection[str], where: str, stated: object = None) -> WeightFiles | None:
    """Return the files that hold the weights, in the order in which transformers looks for them; None without any.

    Parameters
    ----------
    names : collection of str
        All files; those in subfolders do not count.
    where : str
        For messages.
    stated : object
        ``transformers_weights`` of config.json: the file that comes before all others, or None.

    Raises
    ------
    CheckpointError
        If there are several candidates and transformers would read none of them, or other ones; or shards are missing.

    Notes
    -----
    Source: ``transformers.modeling_utils._get_resolved_checkpoint_files``: the file that the configuration states, one
    file before an index, safetensors before pickle. A model saved as one file over a sharded one leaves the index of
    the older there, and one file with the newer weights.
    """
    here = {name for name in names if "/" not in name}
    if stated is not None:
        return _stated(stated, here, where)
    candidates = {_ONE: WeightFiles([_ONE]), INDEX: WeightFiles([], INDEX)}
    pickles = {
        ONE_PICKLE: WeightFiles([ONE_PICKLE], pickle=True),
        _PICKLE_INDEX: WeightFiles([], _PICKLE_INDEX, pickle=True),
    }
    found = [name for name in candidates if name in here]
    if len(found) > 1:
        _log.warning("%s: there are %s; the first is read, as transformers does", where, " and ".join(found))
    if found:
        return candidates[found[0]]
    legacy = [files for name, files in pickles.items() if name in here]
    others = sorted(name for name in here if name.endswith(".safetensors"))
    if others and legacy:
        raise CheckpointError(
            f"there are {', '.join(others[:3])} and legacy .bin weights: transformers would read the latter",
            where=where,
            next="give the one file that you mean (its path, with config.json next to it)",
        )
    if len(others) == 1 or (others and _is_complete_set(others, where)):
        return WeightFiles(others)
    if others:
        raise CheckpointError(
            f"there are {len(others)} safetensors files and no {INDEX}",
            where=where,
            next=f"add {INDEX}, or give the one file that you mean (its path, with config.json next to it)",
        )
    if legacy:
        return legacy[0]
    shards = sorted(name for name in here if PICKLES.fullmatch(name))
    return WeightFiles(shards, pickle=True) if shards and _is_complete_set(shards, where) else None


def _stated(stated: object, here: Collection[str], where: str) -> WeightFiles:
    """Return what the configuration names."""
    name = str(stated)
    if name not in here or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise CheckpointError(
            f"config.json says that the weights are in {name!r} (transformers_weights): no safetensors file here",
            where=where,
            next="download the missing file, or take transformers_weights out of config.json",
        )
    return WeightFiles([], name) if name.endswith(".json") else WeightFiles([name])


def _is_complete_set(names: list[str], where: str) -> bool:
    """Tell whether the files are the shards of one checkpoint; raise when some of them are missing."""
    shards = [match for name in names if (match := _SHARD.match(name))]
    if len(shards) != len(names) or len({(match["stem"], match["n"]) for match in shards}) != 1:
        return False
    n = int(shards[0]["n"])
    if len(shards) != n:
        raise CheckpointError(
            f"{n - len(shards)} of {n} shards are missing",
            where=where,
            next="download the missing files",
        )
    return True
