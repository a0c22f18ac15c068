"""`to_code`: the choice of a search as a script that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.selection.settings import Settings
from pifi_probe.selection.space import Candidate

__all__ = ["to_code"]


def to_code(settings: Settings, chosen: Candidate, source: Mapping[str, Any]) -> str:
    """Return a script that trains a candidate as the search did, with seed 0.

    Parameters
    ----------
    settings : Settings
    chosen : Candidate
    source : mapping
        Arguments of `load_task` that give the task.

    Raises
    ------
    SearchError
        If the task cannot be loaded by its name.
    """
    from pifi_probe.training.recipe import Recipe

    options: dict[str, Any] = {"wiring": settings.wiring}
    if len(chosen.layers) > 1:
        options["combine"] = chosen.design
    options |= dict(chosen.modes)
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    defaults = Recipe().to_dict()
    changed = {name: value for name, value in settings.recipe.items() if defaults[name] != value}
    recipe = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    lines = [
        f'"""Train {chosen.label} in {settings.slm} on {settings.task["name"]}, as the search chose."""',
        "",
        "import pifi_probe as pp",
        "",
        f"task = {_task(source, settings.task)}",
        f"assert task.fingerprint == {settings.task['fingerprint']!r}, 'the texts have changed'",
        f"model = pp.plug_in({settings.slm!r}, {chosen.spec!r}, task=task, {shown})",
        f'result = pp.fine_tune(model, task, pp.Recipe({recipe}), out="winner", save_model=True)',
        "print(result)",
        "",
    ]
    return "\n".join(lines)


def _task(source: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Return the call that loads the task, which is tried."""
    from pifi_probe.tasks import load_task

    arguments = ", ".join(repr(value) if key == "name_or_path" else f"{key}={value!r}" for key, value in source.items())
    fingerprint, sizes = described["fingerprint"], described["sizes"]
    with suppress(PifiProbeError):
        task = load_task(**source)
        if task.fingerprint == fingerprint:
            return f"pp.load_task({arguments})"
        if task.subset(**sizes).fingerprint == fingerprint:
            rows = ", ".join(f"{split}={n}" for split, n in sizes.items())
            return f"pp.load_task({arguments}).subset({rows})"
    raise SearchError(
        "no script can be written: load_task does not give the texts that were searched on",
        where=described["name"],
        next="write the task's texts into a file, and search with load_task(file)",
    )
