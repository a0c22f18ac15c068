"""The buttons of a search."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import ipywidgets

from pifi_probe.widgets.state import BUSY

__all__ = ["Toolbar", "flow"]

_TIPS = {
    "Start": "Start the search, or go on with the study file",
    "Pause": "Stop within one step; Resume continues",
    "Resume": "Continue where the study was left",
    "Stop": "End the search; finished trials are kept",
    "Headroom": "What the large model's states add to the small one on this task, before any training",
    "Estimate": "Time a few steps, and say what the search will take",
    "Copy as code": "Show and copy a script that trains the choice",
    "Export model": "Train the choice once more into the folder winner",
}
_BEFORE = ("Headroom", "Estimate")


def flow(*children: ipywidgets.Widget) -> ipywidgets.Box:
    """Return widgets next to each other, in as many lines as a narrow page needs."""
    return ipywidgets.Box(children, layout=ipywidgets.Layout(flex_flow="row wrap", width="100%"))


class Toolbar(ipywidgets.Box):
    """One button for each action that is given, those possible in a state enabled.

    What is asked before a search is not shown while it runs; `after` holds what is done with its choice.

    Parameters
    ----------
    actions : mapping of str to callable
        By the name of the button, one of `names`.
    """

    names = tuple(_TIPS)
    _last = ("Copy as code", "Export model")

    def __init__(self, actions: Mapping[str, Callable[[], object]]) -> None:
        self.buttons = {name: _button(name, action) for name, action in actions.items()}
        super().__init__(
            [button for name, button in self.buttons.items() if name not in self._last],
            layout=ipywidgets.Layout(flex_flow="row wrap", width="100%"),
        )
        self.after = flow(*(button for name, button in self.buttons.items() if name in self._last))

    def enable(self, word: str, some: bool) -> None:
        """Enable what is possible in a state; `some`: there is a study."""
        busy = word in BUSY
        possible = {
            "Start": not busy,
            "Pause": word in ("preparing", "running"),
            "Resume": some and word in ("paused", "failed"),
            "Stop": word in ("preparing", "running", "pausing", "paused"),
            "Headroom": not busy,
            "Estimate": not busy,
            "Copy as code": some,
            "Export model": some and not busy,
        }
        for name, button in self.buttons.items():
            button.disabled = not possible[name]
            if name in _BEFORE:
                button.layout.display = "none" if busy else ""


def _button(name: str, action: Callable[[], object]) -> ipywidgets.Button:
    button = ipywidgets.Button(description=name, tooltip=_TIPS[name], layout=ipywidgets.Layout(width="auto"))
    button.on_click(lambda _: action())
    if name == "Start":
        button.button_style = "primary"
    return button
