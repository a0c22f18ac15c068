"""How large the residual stream is before each layer, which ``scale="matched"`` matches (SELECTION A.2)."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import MODEL_MAPPING, AutoTokenizer, PreTrainedTokenizerBase

from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import PlugInError
from pifi_probe.files import cache_root, write_json
from pifi_probe.layers.checkpoint import Checkpoint, open_checkpoint
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.families import family_of
from pifi_probe.layers.frozen import LayerCard
from pifi_probe.layers.shell import decoder_of

__all__ = ["donor_tokenizer", "residual_rms"]

# Plain sentences of several registers: the profile is a property of the model, not of the user's task.
_TEXTS = (
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


def residual_rms(card: LayerCard) -> float:
    """Return the median root mean square of the tokens at the input of a layer, inside its own model.

    Parameters
    ----------
    card : LayerCard
        Of a layer whose donor lies on this machine.

    Returns
    -------
    float
        The median over tokens of fixed English sentences; each first token is left out, whose norm is not
        representative (massive activations).

    Raises
    ------
    PlugInError
        If the donor is on the hub: all layers before this one would have to be fetched.

    Notes
    -----
    Runs the whole model once, one layer in memory; the profile of all layers is kept in the cache folder.
    """
    checkpoint = open_checkpoint(card.model, card.revision)
    if not Path(checkpoint.identity).exists():
        raise PlugInError(
            "the scale cannot be matched without the donor's other layers, and the donor is on the hub",
            where=card.spec,
            next='use scale="paper", give target_rms=, or download the whole model and name its folder',
        )
    file = cache_root() / "residual_rms" / f"{_key(checkpoint)}.json"
    if file.is_file():
        profile = json.loads(file.read_text(encoding="utf-8"))["rms"]
    else:
        profile = measure_profile(checkpoint, card.model)
        write_json(file, {"model": card.model, "rms": profile})
    return float(profile[card.index])


def _key(checkpoint: Checkpoint) -> str:
    path = Path(checkpoint.identity)
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    state = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.sha256(json.dumps([state, _TEXTS]).encode()).hexdigest()[:32]


@torch.no_grad()
def measure_profile(checkpoint: Checkpoint, model: str) -> list[float]:
    """Return the median token root mean square at the input of every layer."""
    tokenizer = donor_tokenizer(checkpoint)
    batch = tokenizer(list(_TEXTS), padding=True, return_tensors="pt")
    mask = batch["attention_mask"]  # (batch, seq), right-padded
    inner = mask.clone()
    inner[:, 0] = 0
    states = embed(checkpoint, batch["input_ids"], mask)  # (batch, seq, d_llm)
    profile: list[float] = []
    for index in range(int(checkpoint.config.num_hidden_layers)):
        tokens = states[inner.bool()].float()  # (tokens, d_llm)
        profile.append(float(tokens.square().mean(-1).sqrt().median()))
        states = extract_from(checkpoint, index, model=model, dtype="float32")(states, mask)
    return profile


def embed(checkpoint: Checkpoint, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return what the model's first layer is given: (batch, seq, d_llm), by the family's own code."""
    config = copy.deepcopy(checkpoint.config)
    family = family_of(config)
    config.num_hidden_layers = 1
    for name in ("layer_types", "no_rope_layers", "mlp_layer_types"):
        if getattr(config, name, None) is not None:
            setattr(config, name, list(getattr(config, name))[:1])
    tensors = {**checkpoint.read_stem(), **checkpoint.read_layer(0)}
    with quiet_transformers():
        stem = MODEL_MAPPING[type(config)].from_pretrained(
            None, config=config, state_dict=tensors, dtype=torch.float32, ignore_mismatched_sizes=True
        )
    first = getattr(decoder_of(stem, family), family.layers)[0]
    caught: list[torch.Tensor] = []

    def catch(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        caught.append(args[0] if args else kwargs["hidden_states"])

    handle = first.register_forward_pre_hook(catch, with_kwargs=True)
    with torch.no_grad():
        stem.eval()(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
    handle.remove()
    return caught[0]


def donor_tokenizer(checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a checkpoint, local or on the hub, with a padding token.

    Raises
    ------
    OSError, ValueError
        If the checkpoint has none that transformers can load.
    """
    path = Path(checkpoint.identity)
    with quiet_transformers():
        if not path.exists():
            repository = checkpoint.identity.partition("@")[0]
            tokenizer = AutoTokenizer.from_pretrained(repository, revision=checkpoint.revision)
        elif checkpoint.format == "gguf":
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        else:
            tokenizer = AutoTokenizer.from_pretrained(path if path.is_dir() else path.parent)
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
