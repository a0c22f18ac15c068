"""The pooling that a checkpoint was trained with, as sentence-transformers writes it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from pifi_probe.errors import PlugInError
from pifi_probe.layers.small_files import SmallFiles

__all__ = ["stated_pooling"]

_MODULES = "modules.json"
_BUILT = {"cls": "cls", "mean": "mean", "lasttoken": "last"}  # theirs -> ours
_NOT_BUILT = ("max", "mean_sqrt_len_tokens", "weightedmean")
_FLAGS = {  # of versions before 5.4: one flag a mode
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def stated_pooling(files: SmallFiles) -> tuple[str, str] | None:
    """Return the pooling ("cls", "mean" or "last") and the file that states it; None where no file does.

    ``modules.json`` names the folder of the module ``Pooling``, whatever stands before and after it (``Dense``,
    ``Normalize``); without it, the only folder ``N_Pooling``. Its ``config.json`` has one mode or a list of modes
    under ``pooling_mode`` (sentence-transformers 5.4 and later) or a flag for each mode (before); none set means the
    mean, as there.

    Parameters
    ----------
    files : SmallFiles
        Of the checkpoint.

    Raises
    ------
    PlugInError
        If the mode is unknown, or not built here (``max``, ``mean_sqrt_len_tokens``, ``weightedmean``, several at
        once), or the modules have no pooling that can be read.
    CheckpointError, HubError
        If a file cannot be read.
    """
    name = _file_of(files)
    if name is None:
        return None
    where = f"{files.where}/{name}"
    setting = files.json(name)
    if not isinstance(setting, dict):
        raise _refused("the file holds no JSON object", where)
    modes = _modes(setting, where)
    if len(modes) > 1:
        raise _refused(f"the checkpoint joins several poolings: {', '.join(modes)}", where)
    if modes[0] not in _BUILT:
        kind = "not built here" if modes[0] in _NOT_BUILT else "unknown"
        raise _refused(f"the checkpoint's pooling {modes[0]!r} is {kind}", where)
    return _BUILT[modes[0]], name


def _modes(setting: dict[str, Any], where: str) -> list[str]:
    if "pooling_mode" in setting:
        given = setting["pooling_mode"]
        modes = [given] if isinstance(given, str) else given
        if not isinstance(modes, list) or not modes or not all(isinstance(mode, str) for mode in modes):
            raise _refused(f"{given!r} is not a pooling mode", where)
        return list(dict.fromkeys(modes))
    flags = {key: value for key, value in setting.items() if key.startswith("pooling_mode_")}
    strange = sorted(key for key, value in flags.items() if not isinstance(value, bool))
    if strange:
        raise _refused(f"{strange[0]}={flags[strange[0]]!r} is neither true nor false", where)
    unknown = [key for key, value in flags.items() if value and key not in _FLAGS]
    return [_FLAGS[key] for key in _FLAGS if flags.get(key)] + unknown or ["mean"]


def _file_of(files: SmallFiles) -> str | None:
    """Return the name of the pooling module's configuration."""
    if _MODULES in files.names:
        return _file_in_modules(files)
    found = sorted(name for name in files.names if name.endswith("_Pooling/config.json") and name.count("/") == 1)
    if len(found) > 1:
        raise _refused(f"several folders state a pooling: {', '.join(found)}", files.where)
    return found[0] if found else None


def _file_in_modules(files: SmallFiles) -> str:
    where, modules = f"{files.where}/{_MODULES}", files.json(_MODULES)
    entries: list[Any] = modules if isinstance(modules, list) else [None]
    if not all(isinstance(entry, dict) and isinstance(entry.get("type"), str) for entry in entries):
        raise _refused("the file does not list modules with their types", where)
    kinds = [entry["type"].rpartition(".")[2] for entry in entries]
    found = [entry for entry, kind in zip(entries, kinds, strict=True) if kind == "Pooling"]
    if len(found) != 1:
        raise _refused(f"the checkpoint has {len(found)} Pooling modules among {', '.join(kinds) or 'none'}", where)
    path = found[0].get("path")
    folder = PurePosixPath(path if isinstance(path, str) else "")
    if not isinstance(path, str) or folder.is_absolute() or ".." in folder.parts or "\\" in path:
        raise _refused(f"the Pooling module's path {path!r} leaves the checkpoint", where)
    name = (folder / "config.json").as_posix()
    if name not in files.names:
        raise _refused(f"the Pooling module's file {name} is missing", where)
    return name


def _refused(what: str, where: str) -> PlugInError:
    return PlugInError(
        what,
        where=where,
        next=f'pass pooling="cls", "mean" or "last"; "auto" reads the modes {", ".join(_BUILT)} '
        f"(and knows, but does not build, {', '.join(_NOT_BUILT)})",
    )
