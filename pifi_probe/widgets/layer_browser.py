"""`LayerBrowser`: the layers of a checkpoint as a strip; one click shows a layer, another one extracts it."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets

from pifi_probe.background import in_background
from pifi_probe.errors import PifiProbeError
from pifi_probe.escaping import one_line
from pifi_probe.layers.open import open_named
from pifi_probe.layers.outlook import addition, width_of
from pifi_probe.layers.spec import layer_numbers
from pifi_probe.units import amount
from pifi_probe.widgets.toolbar import flow

if TYPE_CHECKING:
    import pandas as pd

    from pifi_probe.layers.frozen import FrozenLayer

__all__ = ["LayerBrowser"]


class LayerBrowser(ipywidgets.VBox):
    """Shows what each layer of a model holds; only headers are read until a layer is extracted.

    Parameters
    ----------
    model : str
        What `pifi_probe.extract` takes before the brackets.
    slm : str or int
        The small model, or its width, for what PiFi would add.

    Attributes
    ----------
    selected : int
        Index of the shown layer; may be set, from the end too, and observed.
    layer : FrozenLayer or None
        What was extracted last.
    frame : pandas.DataFrame
        One row a layer: ``type``, ``tensors``, ``bytes``.

    Raises
    ------
    PifiProbeError
        If the model cannot be opened, or its family is not supported.
    LayerIndexError
        If `selected` is set to a layer that the model does not have.

    Examples
    --------
    >>> pp.widgets.LayerBrowser("smollm2-135m")  # doctest: +SKIP
    """

    selected = traitlets.Int(0)

    def __init__(self, model: str, slm: str | int = "minilm-l6") -> None:
        self.model = model
        self.layer: FrozenLayer | None = None
        self._checkpoint = open_named(model)
        config = self._checkpoint.config
        self._added = addition(config, width_of(str(slm)))
        self.frame = self._frame(int(config.num_hidden_layers), getattr(config, "layer_types", None))
        self.strip = ipywidgets.ToggleButtons(
            options=[(str(index), index) for index in self.frame.index],
            description="Layer",
            tooltips=[f"layer {index}: {row.type}, {row.bytes / 2**20:.1f} MB" for index, row in self.frame.iterrows()],
            style={"button_width": "3em"},
        )
        self.detail = ipywidgets.HTML(tooltip="")
        self.button = ipywidgets.Button(
            description="Extract", tooltip="Read this layer alone into .layer", button_style="primary"
        )
        self.message = ipywidgets.HTML(tooltip="")
        super().__init__([self.strip, self.detail, flow(self.button, self.message)])
        traitlets.link((self, "selected"), (self.strip, "value"))
        self.observe(lambda change: self._show(), "selected")
        self.button.on_click(lambda _: self._extract_aside())
        self._show()

    @traitlets.validate("selected")
    def _one_there_is(self, proposal: Any) -> int:
        return layer_numbers(proposal["value"], len(self.frame), self.model)[0]

    def _frame(self, n_layers: int, types: list[str] | None) -> pd.DataFrame:
        import pandas as pd

        rows = []
        for index in range(n_layers):
            infos = [self._checkpoint.tensors[name] for name in self._checkpoint.layer_names(index)]
            kind = types[index] if types else "full_attention"
            rows.append({"type": kind, "tensors": len(infos), "bytes": sum(info.nbytes for info in infos)})
        return pd.DataFrame(rows, index=pd.RangeIndex(n_layers, name="layer"))

    def _show(self) -> None:
        row = self.frame.loc[self.selected]
        facts = {
            "type": str(row.type),
            "stored": f"{row.tensors} tensors, {row.bytes / 2**20:.1f} MB",
            "PiFi trains": f"{amount(self._added.trained_weights)} weights",
            "keeps frozen": f"{amount(self._added.frozen_weights)} weights",
            "for one text": f"{amount(self._added.macs_per_text)} multiply-accumulates",
        }
        self.detail.value = _table(f"{self.model}[{self.selected}]", facts)

    def extract(self) -> FrozenLayer:
        """Read the selected layer, show the norms of its tensors, and return it.

        Raises
        ------
        PifiProbeError
            As `pifi_probe.extract`.
        """
        from pifi_probe.layers.extract import extract_from

        index = self.selected
        layer = extract_from(self._checkpoint, index, model=self.model)
        norms = {
            name.partition("layers.0.")[2] or name: f"{float(weight.detach().float().norm()):.3g}"
            for name, weight in layer.named_parameters()
        }
        self.detail.value = _table(f"{self.model}[{index}]: norms of its tensors", norms)
        self.layer = layer
        return layer

    def _extract_aside(self) -> None:
        self.button.disabled = True
        self.message.value = "reading ..."
        in_background(self._try_extract, "layer-browser")

    def _try_extract(self) -> None:
        try:
            self.extract()
            self.message.value = "it is in <code>.layer</code>"
        except PifiProbeError as error:
            self.message.value = html.escape(str(error))
        finally:
            self.button.disabled = False

    def __repr__(self) -> str:
        return f"LayerBrowser({one_line(self.model)}, {len(self.frame)} layers)"

    def _repr_keys(self) -> Any:
        return iter(())

    def _repr_mimebundle_(self, **options: Any) -> Any:
        return super()._repr_mimebundle_(**options) | {"text/plain": repr(self), "text/html": self._page()}

    def _page(self) -> str:
        from pifi_probe.reporting.tables import to_html

        return to_html(self.frame.reset_index(), caption=self.model)


def _table(title: str, facts: dict[str, str]) -> str:
    rows = "".join(
        f'<tr><th scope="row" style="text-align: left; padding-right: 1em">{html.escape(name)}</th>'
        f'<td style="overflow-wrap: anywhere">{html.escape(value)}</td></tr>'
        for name, value in facts.items()
    )
    fits = "max-width: 100%; white-space: normal; line-height: 1.4"
    return f'<table style="{fits}"><caption><b>{html.escape(title)}</b></caption>{rows}</table>'
