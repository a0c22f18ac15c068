"""The model card of a saved or uploaded model, and the check of the donor's licence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pifi_probe.errors import LicenceError
from pifi_probe.escaping import markdown, markdown_cell, one_line
from pifi_probe.files import write_text

if TYPE_CHECKING:
    from pifi_probe.plugin.config import PiFiConfig
    from pifi_probe.plugin.modeling import PiFiPreTrainedModel

__all__ = ["LicenceCheck", "check_licence", "write_model_card"]

_UNKNOWN = ("", "unknown", "other")


def _holds_donor_weights(model: PiFiPreTrainedModel) -> bool:
    return model.config.stores_layers or bool(model.config.folded)


def check_licence(model: PiFiPreTrainedModel, statement: str | None) -> None:
    """Refuse to pass on a donor's weights without a known licence; see `push_to_hub`."""
    if statement or not _holds_donor_weights(model):
        return
    for item in model.config.layers:
        card = item["card"]
        licence = (card.get("licence") or "").lower()
        if card.get("gated") or licence in _UNKNOWN:
            state = "gated" if card.get("gated") else "unknown"
            raise LicenceError(
                f"the licence of the donor layer is {state}: its weights may not be passed on without a statement",
                where=f"{card['model']}[{card['index']}]",
                next=f'give licence="..." if the terms allow it, or {_without_weights(model)}',
            )


def _without_weights(model: PiFiPreTrainedModel) -> str:
    """Return how a model could be passed on without its donor's weights."""
    if model.config.folded:
        return "upload the model that was folded, as a reference only (its config.save_layer=False)"
    if model.config.control == "unfrozen":
        return "ask the donor's owner: a layer that was trained cannot be a reference"
    return "upload a reference only (model.config.save_layer=False)"


class LicenceCheck(TrainerCallback):
    """Refuses what `push_to_hub` of a model refuses where a ``Trainer`` uploads it.

    Parameters
    ----------
    licence : str, optional
        Your statement of the licence under which the donor's weights may be passed on.

    Examples
    --------
    >>> Trainer(model=model, args=args, callbacks=[pp.LicenceCheck()])  # doctest: +SKIP
    """

    def __init__(self, licence: str | None = None) -> None:
        self.licence = licence

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Raise `LicenceError` before anything is sent."""
        check_licence(model, self.licence)
        model.licence_statement = self.licence


def write_model_card(model: PiFiPreTrainedModel, folder: Path) -> None:
    """Write ``README.md``: what the model is, its modes, its donor's licence and how to load it.

    What it says of donors stands in a file ``NOTICE``, too, which stays when other tools replace the card.
    """
    config = model.config
    licences = sorted({item["card"].get("licence") or "not stated" for item in config.layers})
    licence = model.licence_statement or (licences[0] if len(licences) == 1 else "other")
    front: dict[str, Any] = {"library_name": "pifi_probe", "tags": ["pifi", model.hub_tag]}
    if licence != "not stated":
        front["license"] = one_line(licence, 200)
    head = yaml.safe_dump(front, allow_unicode=True, sort_keys=False, width=10_000)
    lines = ["---", *head.splitlines(), "---", ""]
    lines += [f"# {markdown(config.slm or 'encoder')} + {markdown(_layers(config))}", ""]
    lines += [
        f"A small encoder with {_number(config)} plugged in before its head (PiFi, arXiv 2506.07424).",
        "",
        "| setting | value |",
        "|---|---|",
    ]
    for name in ("slm", "wiring", "feed", "mask", "scale", "bypass", "pooling", "control", "combine", "save_layer"):
        why = f" ({config.pooling_from})" if name == "pooling" and config.pooling_from else ""
        lines.append(f"| {name} | {markdown_cell(f'{getattr(config, name)}{why}')} |")
    lines += ["", "## Donor of the frozen layer", ""]
    donors = _donor_lines(model)
    lines += donors or ["None: this model has no frozen layer."]
    lines += [
        "",
        "## Use",
        "",
        "```python",
        f"from pifi_probe import {type(model).__name__}",
        f'model = {type(model).__name__}.from_pretrained("this folder or repository")',
        "```",
        "",
    ]
    write_text(folder / "README.md", "\n".join(lines))
    if donors:
        write_text(folder / "NOTICE", "\n".join(["Donor of the frozen layer", "", *donors, ""]))


def _layers(config: PiFiConfig) -> str:
    """Name the layers, and how they are combined where the name does not say it."""
    shown = config.layer_specs or "no layer"
    return shown if config.combine in (None, "serial") else f"{shown} ({config.combine})"


def _number(config: PiFiConfig) -> str:
    n = len(config.layers)
    return f"{n} frozen layers of language models" if n > 1 else "one frozen layer of a language model"


def _donor_lines(model: PiFiPreTrainedModel) -> list[str]:
    lines: list[str] = []
    for item in model.config.layers:
        card = item["card"]
        held = "its weights are in this repository" if _holds_donor_weights(model) else "referenced, not included"
        if model.config.folded:
            held = "folded into this model's weights"
        shown = {name: markdown(value) for name, value in card.items()}
        whose = f"layer {shown['index']} of {shown['n_layers']} of {shown['model']} ({shown['family']})"
        lines += [
            f"- {whose}, {held}",
            f"  - licence of the donor: {markdown(card.get('licence') or 'not stated')}"
            + (" (access to the donor is gated)" if card.get("gated") else ""),
            f"  - revision {markdown(card.get('revision') or 'not stated')}, sha256 {markdown(card.get('sha256'))}",
            f"  - kind: {markdown(card.get('variant'))}",
            "  - notice: the donor's licence and terms apply to these weights; pass them on only under it.",
        ]
    if model.licence_statement:
        lines.append(f"- licence stated by the uploader: {markdown(model.licence_statement)}")
    return lines
