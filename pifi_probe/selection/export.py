"""The choice of a search as a folder that stands alone, and as a script that trains it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import PifiProbeError, SearchError
from pifi_probe.escaping import csv_text, keywords, literal, markdown, markdown_cell
from pifi_probe.files import write_record, write_text
from pifi_probe.plugin.build import plug_in
from pifi_probe.provenance import collect
from pifi_probe.reporting.html import Section, report
from pifi_probe.selection.settings import Settings
from pifi_probe.selection.space import Candidate
from pifi_probe.tasks.task import Task
from pifi_probe.training.recipe import Recipe
from pifi_probe.training.run import fine_tune

if TYPE_CHECKING:
    from pifi_probe.selection.conclude import SearchResult
    from pifi_probe.selection.study import Study

__all__ = ["export", "to_code"]

logger = logging.getLogger(__name__)

_ANSWER = "> "  # only the answer is quoted in a card
PLOTS = {
    "depth": "validation NLL over the depth of the layer, with what the search believes about the layers in between",
    "regret": "how far the choice was from the final one, against what had been spent by then",
}


def export(study: Study, chosen: Candidate, task: Task, folder: Path) -> Path:
    """Train the choice with the recipe's seed 0, and write everything; see `Study.export`."""
    settings = study.settings
    options: dict[str, Any] = dict(chosen.modes)
    if len(chosen.layers) > 1:
        options["combine"] = chosen.design
    model = plug_in(settings.slm, chosen.spec, task=task, wiring=settings.wiring, seed=0, **options)
    fine_tune(model, task, Recipe.from_dict(settings.recipe), out=folder, resume=True, save_model=True, tags=study.tags)
    _describe(study, folder)
    return folder


def _describe(study: Study, folder: Path) -> None:
    result = study.result
    assert result is not None
    board = study.leaderboard()
    record = {"settings": settings_of(study), "result": result.to_dict(), "trials": board.to_dict("records")}
    write_record(folder / "search.json", record)
    write_text(folder / "trials.csv", csv_text(board))
    try:
        write_text(folder / "train.py", study.to_code())
    except SearchError as error:
        logger.warning("%s", error)
    sections: list[Section] = [
        *result.sections(),
        {"title": "How sure the choice is", "text": "\n".join(result.details)},
    ]
    sections += [{"title": kind.capitalize(), "figure": study.plot(kind), "alt": alt} for kind, alt in PLOTS.items()]
    sections.append({"title": "Trials", "table": board})
    report(f"Search on {study.settings.task['name']}", sections, folder / "report.html", collect(**record))
    card = folder / "model" / "README.md"
    write_text(card, _with_report(card.read_text(encoding="utf-8"), study, result))


def settings_of(study: Study) -> dict[str, object]:
    """Return settings, budget and what was spent."""
    spent = study.spent
    amounts = {"cost": spent.cost, "trials": spent.trials, "seconds": spent.seconds}
    return {**study.settings.to_dict(), "budget": str(study.budget), "spent": amounts, "tags": study.tags}


def _with_report(card: str, study: Study, result: SearchResult) -> str:
    """Return a card with the answer below its title and the search's report at its end, in place of older ones."""
    title = "## How this layer was found"
    settings = study.settings
    how = (
        f"Searched with pifi_probe on {settings.task['name']} ({_sizes(settings.task['sizes'])}), strategy "
        f"{settings.strategy['name']}, budget {study.budget}, wiring {settings.wiring}."
    )
    own = _with_answer(card.partition(f"\n{title}\n")[0].rstrip(), result.answer)
    lines = [own, "", title, "", markdown(how), "", *(f"- {markdown(line)}" for line in result.details)]
    board = study.leaderboard()
    lines += ["", "| candidate | fidelity | phase | seeds | validation NLL |", "|---|---|---|---|---|"]
    for row in board.itertuples():
        cells = (row.candidate, row.fidelity, row.phase, row.seeds, f"{row.nll:.4f}")
        lines.append(f"| {' | '.join(map(markdown_cell, cells))} |")
    return "\n".join([*lines, ""])


def _with_answer(card: str, answer: str) -> str:
    """Return a card with the answer as the first words below its title, in place of an older one."""
    lines = [line for line in card.split("\n") if not line.startswith(_ANSWER)]
    title = next((n for n, line in enumerate(lines) if line.startswith("# ")), 0)
    rest = lines[title + 1 :]
    while rest and not rest[0]:
        rest = rest[1:]
    return "\n".join([*lines[: title + 1], "", f"{_ANSWER}{markdown(answer)}", "", *rest])


def _sizes(sizes: dict[str, int]) -> str:
    return ", ".join(f"{n} {split}" for split, n in sizes.items())


# The script


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
            f"no script can be written: the study holds something that is not a setting: {error}",
            where=settings.task["name"],
            next="use a study from someone you trust, or search again",
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
