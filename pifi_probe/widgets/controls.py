"""The form of a search: fields that can be filled in, and the request that they make."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from pifi_probe.background import in_background
from pifi_probe.checked import whole_number
from pifi_probe.errors import PifiProbeError, SearchError, SpecError, TaskError
from pifi_probe.layers.spec import Layers, layer_ranges, model_names
from pifi_probe.vocabulary import mode_of_today
from pifi_probe.widgets.request import (
    MOST_BYTES,
    TABLES,
    Request,
    describe_model,
    keep_upload,
    to_download,
)
from pifi_probe.widgets.toolbar import flow
from pifi_probe.widgets.upload import TableUpload

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task

__all__ = ["Form"]

_STYLE = {"description_width": "8em"}


class Form(ipywidgets.VBox):
    """The arguments of `pifi_probe.search` as fields: encoder, language model and task; the rest is folded.

    Parameters
    ----------
    task : Task, str, Path or None
    slm : str
    llm : str or list of str
    study : str, Path or None
    options : mapping
        Further arguments of `pifi_probe.search`; those without a field are kept as they are.

    Raises
    ------
    SpecError, TaskError, SearchError, LayerIndexError
        If a value of a field is one that `pifi_probe.search` refuses.
    """

    def __init__(
        self,
        task: Task | str | Path | None,
        slm: str,
        llm: str | Sequence[str],
        study: str | Path | None,
        options: Mapping[str, Any],
    ) -> None:
        from pifi_probe.models_table import NAMED_MODELS
        from pifi_probe.plugin.config import WIRINGS
        from pifi_probe.selection.budget import DEFAULT
        from pifi_probe.selection.settings import MAX_SEEDS, check_wiring
        from pifi_probe.selection.strategies import STRATEGIES
        from pifi_probe.tasks import EMBEDDED, Task

        self.given = task if isinstance(task, Task) else None
        if not isinstance(slm, str):
            raise SpecError(
                f"{slm!r} names no model", where="slm", next="give a name such as 'minilm-l6'; of a path, str(path)"
            )
        if not isinstance(task, Task | str | Path | None):
            raise TaskError(f"{task!r:.60} is not a task", where="task", next="give a task, or what pp.load_task takes")
        self._options = dict(options)
        self._in_memory = study is None
        roles = {name: row.role for name, row in NAMED_MODELS.items()}
        names = model_names(llm)
        self.task = _choice("Task", task.name if isinstance(task, Task) else str(task or ""), list(EMBEDDED))
        self.task.disabled = isinstance(task, Task)
        self.upload = TableUpload(self._take, accept=",".join(TABLES), most=MOST_BYTES)
        self.upload.disabled = isinstance(task, Task)
        self.slm = _choice("Encoder", slm, [name for name, role in roles.items() if role == "slm"])
        self.llm = _choice("Language model", ", ".join(names), [name for name, role in roles.items() if role == "llm"])
        layers = self._options.pop("layers", None)
        self._layers = layers if isinstance(layers, Mapping) else None
        self.layers = _text("Layers", _shown(layers))
        self.layers.disabled = self._layers is not None
        longest = whole_number("max_layers", self._options.pop("max_layers", 1), 1, SearchError, "max_layers")
        several = sorted({2, 3, 4, 8, longest} - {1})
        self.max_layers = _menu("Sets", [("single layers", 1), *((f"up to {n} layers", n) for n in several)], longest)
        strategy = self._options.pop("strategy", "auto")
        STRATEGIES.named(strategy, "strategy")
        self.strategy = _menu("Strategy", list(STRATEGIES), strategy)
        self.budget = _text("Budget", str(self._options.pop("budget", DEFAULT)))
        n_seeds = whole_number("n_seeds", self._options.pop("n_seeds", 3), 1, SearchError, "n_seeds")
        self.seeds = ipywidgets.BoundedIntText(
            n_seeds, min=1, max=max(n_seeds, MAX_SEEDS), description="Seeds", style=_STYLE, layout=_layout()
        )
        self.metric = _menu("Metric", [("NLL (decides)", "nll"), ("accuracy", "accuracy")], "nll")
        wiring = mode_of_today("wiring", self._options.pop("wiring", "matched"))
        check_wiring(wiring)
        self.wiring = _menu("Wiring", list(WIRINGS), wiring)
        self.study = _text("Study file", "in memory" if study is None else str(study))
        self.study.disabled = study is None
        self.about = ipywidgets.HTML(tooltip="")
        fields = (
            *(self.slm, self.llm, self.task, self.upload, self.budget, self.layers, self.max_layers, self.strategy),
            *(self.seeds, self.metric, self.wiring, self.study),
        )
        self._open = [field for field in fields if field is not self.metric and not field.disabled]
        first = (self.slm, self.llm, self.task)
        self.more = _folded("More settings", flow(*(field for field in fields if field not in first)), False)
        self.fold = _folded("What to search", ipywidgets.VBox([flow(*first), self.more, self.about]), True)
        super().__init__([self.fold])

    def request(self) -> Request:
        """Return what the fields ask for.

        Raises
        ------
        PifiProbeError
            If a field or the upload cannot be used.
        """
        names = [name.strip() for name in self.llm.value.split(",") if name.strip()]
        options = self._options | {
            "strategy": self.strategy.value,
            "budget": self.budget.value,
            "n_seeds": self.seeds.value,
            "wiring": self.wiring.value,
            "layers": self._layers or self.layers.value,
            "max_layers": self.max_layers.value,
        }
        study = None if self._in_memory else self.study.value.strip()
        task = str(self.task.value).strip() if self.given is None else self.given
        found = Request(task, self.slm.value.strip(), names, study, options)
        found.check()
        return found

    def _take(self, name: str, content: bytes) -> None:
        """Make an uploaded table the task, and say next to the field what it holds."""
        try:
            path = keep_upload(name, content)
        except PifiProbeError as error:
            self.upload.note = str(error)
            return
        in_background(lambda: self._look_at(name, path), "layer-search-upload")

    def _look_at(self, name: str, path: Path) -> None:
        try:
            found = Request(str(path), "", "").load()
        except PifiProbeError as error:
            self.upload.note = str(error)
            return
        except Exception as error:  # shown, since a thread has nobody else to tell
            self.upload.note = f"{name}: {type(error).__name__}: {error}"
            return
        self.task.value = str(path)
        sizes = ", ".join(f"{len(split)} {split_name}" for split_name, split in found.splits.items())
        self.upload.note = f"{name}: {sizes}"

    def describe(self) -> None:
        """Say what the large models hold, and what would be downloaded."""
        wanted = self.llm.value, self.slm.value
        lines = []
        for name in (name.strip() for name in wanted[0].split(",")):
            try:
                lines.append(f"{name}: {describe_model(name, wanted[1].strip())}")
            except PifiProbeError as error:
                lines.append(f"⚠ {error}")
        size = to_download([*wanted[0].split(","), wanted[1], self.task.value])
        if size:
            lines.append(f"to download once: {size / 2**20:.0f} MB")
        if wanted == (self.llm.value, self.slm.value):  # else another answer is on its way
            self.about.value = "<br>".join(html.escape(line) for line in lines)

    def lock(self, locked: bool) -> None:
        """Let the fields not be changed while a search runs, and fold them away: the chart comes first then."""
        if locked:
            self.put_away()
        for field in self._open:
            field.disabled = locked

    def put_away(self) -> None:
        """Fold the form, and show it below the chart: there is something to look at now."""
        self.fold.selected_index = None
        self.layout.order = "1"


def _folded(title: str, inside: ipywidgets.Widget, is_open: bool) -> ipywidgets.Accordion:
    return ipywidgets.Accordion([inside], titles=(title,), selected_index=0 if is_open else None)


def _layout() -> ipywidgets.Layout:
    return ipywidgets.Layout(width="17em", max_width="100%")


def _text(name: str, value: str) -> ipywidgets.Text:
    return ipywidgets.Text(value, description=name, continuous_update=False, style=_STYLE, layout=_layout())


def _choice(name: str, value: str, options: list[str]) -> ipywidgets.Combobox:
    return ipywidgets.Combobox(
        value=value, options=options, description=name, continuous_update=False, style=_STYLE, layout=_layout()
    )


def _menu(name: str, options: Sequence[Any], value: Any) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=options, value=value, description=name, style=_STYLE, layout=_layout())


def _shown(layers: Layers | Mapping[str, Layers]) -> str:
    """Return layers as one would write them into the field."""
    if isinstance(layers, Mapping):
        return ", ".join(layers)
    if layers is None or isinstance(layers, str):
        return layers or "all"
    if isinstance(layers, range) and 0 <= layers.start < layers.stop and layers.step > 0:
        return f"{layers.start}:{layers.stop}:{layers.step}"
    return ", ".join(str(index) for index, _, _ in layer_ranges(layers, "layers"))
