"""`to_code`: the choice of a search as a script that trains it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.escaping import keywords, literal
from pifi_probe.selection.settings import Settings
from pifi_probe.selection.space import Candidate

__all__ = ["to_code"]

_ABSENT = object()


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
        If the task cannot be loaded by its name, or a setting of the study is not a plain value.
    """
    from pifi_probe.training.recipe import Recipe

    options: dict[str, Any] = {"wiring": settings.wiring}
    if len(chosen.layers) > 1:
        options["combine"] = chosen.design
    options |= dict(chosen.modes)
    if settings.tokenizer:
        options["tokenizer"] = settings.tokenizer
    defaults = Recipe().to_dict()
    changed = {name: value for name, value in settings.recipe.items() if defaults.get(name, _ABSENT) != value}
    try:
        lines = [
            '"""Train the layer that a search chose, as the search did."""',
            "",
            "import pifi_probe as pp",
            "",
            f"slm, layer = {literal(settings.slm)}, {literal(chosen.spec)}",
            f"task = {_task(source, settings.task)}",
            f"assert task.fingerprint == {literal(settings.task['fingerprint'])}, 'the texts have changed'",
            f"model = pp.plug_in(slm, layer, task=task, {keywords(options)})",
            f'result = pp.fine_tune(model, task, pp.Recipe({keywords(changed)}), out="winner", save_model=True)',
            "print(result)",
            "",
        ]
    except ValueError as error:
        if isinstance(error, PifiProbeError):
            raise
        raise SearchError(
            f"no script can be written: the study holds a setting that is none: {error}",
            where=settings.task["name"],
            next="take the study from whom you trust, or search again",
        ) from error
    return "\n".join(lines)


def _task(source: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Return the call that loads the task, which is tried."""
    from pifi_probe.tasks import load_task

    rest = {name: value for name, value in source.items() if name != "name_or_path"}
    arguments = ", ".join(part for part in (literal(source.get("name_or_path")), keywords(rest)) if part)
    fingerprint, sizes = described["fingerprint"], described["sizes"]
    with suppress(PifiProbeError):
        task = load_task(**source)
        if task.fingerprint == fingerprint:
            return f"pp.load_task({arguments})"
        if task.subset(**sizes).fingerprint == fingerprint:
            return f"pp.load_task({arguments}).subset({keywords(sizes)})"
    raise SearchError(
        "no script can be written: load_task does not give the texts that were searched on",
        where=described["name"],
        next="write the task's texts into a file, and search with load_task(file)",
    )
