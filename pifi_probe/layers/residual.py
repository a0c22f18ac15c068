"""How large the residual stream is before each layer, which ``scale="matched"`` matches (book/methods.md, Scale)."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import torch

from pifi_probe.errors import PlugInError, TokenizerError
from pifi_probe.files import cache_root, file_state, write_json
from pifi_probe.layers.checkpoint import Checkpoint, local_path
from pifi_probe.layers.frozen import LayerCard
from pifi_probe.layers.references import NamedBy, open_reference
from pifi_probe.layers.stream import Batch, stream
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.reading import read_json

__all__ = ["TEXTS", "residual_rms"]

# Plain sentences of several registers: the profile is a property of the model, not of the user's task.
TEXTS = (
    "The film opens slowly, but the last half hour is as good as anything this year.",
    "Water boils at a lower temperature on a mountain than at the sea.",
    "She closed the door, put down the letters and looked out of the window for a long time.",
    "The committee will meet again on Thursday to decide whether the bridge can be repaired.",
    "I bought this kettle in March and it stopped working before the end of the summer.",
    "A function that calls itself needs a case in which it does not.",
    "Nobody in the village remembered when the mill had last been used.",
    "Prices rose faster than wages for the third year in a row, the report says.",
    "Could you send me the address again? I seem to have lost it.",
    "The second movement is quiet, almost hesitant, and ends without a resolution.",
    "To install the shelf, mark the holes, drill them, and tighten the four screws.",
    "He was tired, and it was late, and still there was no sign of the train.",
)


def _kept(file: Path) -> list[float]:
    """Return the profile that is kept in a file; empty where there is none, or a damaged one."""
    try:
        rms = read_json(file)["rms"]
        return [float(each) for each in rms] if all(_is_size(each) for each in rms) else []
    except (OSError, ValueError, TypeError, LookupError):
        return []


def _is_size(value: object) -> bool:
    """Return whether a value is a finite number above zero."""
    return isinstance(value, float) and 0 < value < math.inf


def residual_rms(card: LayerCard, named_by: NamedBy | None = None) -> float:
    """Return the median root mean square of the tokens at the input of a layer, inside its own model.

    Parameters
    ----------
    card : LayerCard
        Of a layer whose donor lies on this machine.
    named_by : NamedBy, optional
        The layer's own: whose word the card is.

    Returns
    -------
    float
        The median over tokens of fixed English sentences; each first token is left out, whose norm is not
        representative (massive activations).

    Raises
    ------
    PlugInError
        If the donor is on the hub, since all layers before this one would have to be fetched; or if a file names it
        that may not.

    Notes
    -----
    Runs the whole model once, one layer in memory; the profile of all layers is kept in the cache folder.
    """
    checkpoint = open_reference(card.ref, named_by)
    path = local_path(checkpoint)
    if path is None:
        raise PlugInError(
            "the scale cannot be matched without the donor's other layers, and the donor is on the hub",
            where=card.spec,
            next='use scale="none", give target_rms=, or download the whole model and name its folder',
        )
    file = cache_root() / "residual_rms" / f"{_key(path)}.json"
    profile = _kept(file)
    if len(profile) <= card.index:
        profile = measure_profile(checkpoint, card.model)
        write_json(file, {"model": card.model, "rms": profile})
    return float(profile[card.index])


def _key(path: Path) -> str:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    state = [file_state(file) for file in files if file.is_file()]
    return hashlib.sha256(json.dumps([state, TEXTS]).encode()).hexdigest()[:32]


def measure_profile(checkpoint: Checkpoint, model: str) -> list[float]:
    """Return the median token root mean square at the input of every layer."""
    try:
        tokenizer = donor_tokenizer(checkpoint)
    except TokenizerError as error:
        raise TokenizerError(
            f"the scale cannot be matched without the donor's tokenizer: {error.what}",
            where=error.where,
            next='use scale="none", give target_rms=, or put the tokenizer next to the donor',
        ) from error
    encoded = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    batch = Batch(encoded["input_ids"], encoded["attention_mask"])  # right-padded
    inner = batch.attention_mask.bool()
    inner[:, 0] = False
    profile: list[float] = []

    def visit(point: int, index: int, states: torch.Tensor) -> None:
        profile.append(float(states[inner].square().mean(-1).sqrt().median()))

    stream(checkpoint, [batch], visit, model=model, progress=False)
    return profile[:-1]  # the last point is the output of the last layer
