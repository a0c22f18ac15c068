"""The whole language model next to its layer: its loss on plain text, its own answers."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from pifi_probe.errors import PlugInError
from pifi_probe.layers.checkpoint import hub_place, local_path
from pifi_probe.layers.extract import pick_device
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.shell import layers_of
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.pretrained import open_config, open_model

__all__ = ["WholeModel", "load_whole"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
MAX_ASKED = 1024  # tokens of a question with its choices


@dataclass(frozen=True)
class WholeModel:
    """A causal language model with its tokenizer.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @torch.no_grad()
    def text_losses(self, texts: Sequence[str], max_tokens: int = 128) -> NDArray[np.float64]:
        """Return the mean loss of each text's tokens given those before, in nats per token, shape (n,).

        Texts of fewer than two tokens are left out.
        """
        losses = []
        for text in texts:
            ids = self._ids(text)[:, :max_tokens]  # (1, seq)
            if ids.shape[1] > 1:
                logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()  # (seq - 1, vocabulary)
                losses.append(float(nn.functional.cross_entropy(logits, ids[0, 1:])))
        return np.array(losses)

    @torch.no_grad()
    def choose(self, question: str, choices: Sequence[str]) -> int:
        """Return the choice whose letter the model finds most likely, asked without an example.

        A prompt that is too long loses its start, which is the passage of the question.
        """
        lines = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
        if len(lines) != len(choices):
            raise PlugInError(f"{len(choices)} choices have no letters", where="choices", next="give at most 26")
        ids = self._ids("\n".join([question, *lines, "Answer:"]))[:, -MAX_ASKED:]
        logits = self.model(input_ids=ids, use_cache=False).logits[0, -1]  # (vocabulary,)
        letters = [self._ids(f" {letter}")[0, -1] for letter in LETTERS[: len(choices)]]
        return int(torch.stack([logits[letter] for letter in letters]).argmax())

    @contextlib.contextmanager
    def with_layer(self, layer: FrozenLayer) -> Iterator[None]:
        """Put a layer's weights into its place for a while."""
        own = layers_of(self.model.base_model)[layer.card.index]
        kept = copy.deepcopy(own.state_dict())
        try:
            own.load_state_dict(layer.block.state_dict())
            yield
        finally:
            own.load_state_dict(kept)

    def _ids(self, text: str) -> torch.Tensor:
        return self.tokenizer(text, return_tensors="pt")["input_ids"].to(self.model.device)


def load_whole(name: str) -> WholeModel:
    """Load a whole language model: in its stored type on a GPU, in float32 on the CPU.

    Parameters
    ----------
    name : str
        As in a layer's specification.

    Raises
    ------
    ModelNotFoundError, CheckpointError, HubError, AssetError
        As `pifi_probe.extract`.
    """
    checkpoint, device = open_checkpoint(name), pick_device("auto")
    path = local_path(checkpoint)
    options: dict[str, Any] = {}
    if path is None:
        source, file = hub_place(checkpoint)
        options["revision"] = str(checkpoint.revision)
    elif checkpoint.format == "gguf":
        source, file = path.parent.as_posix(), path.name
    else:
        source, file = path.as_posix(), ""
    if checkpoint.format == "gguf":  # with a configuration, transformers reads the file's header once less
        options |= {"gguf_file": file, "config": checkpoint.config}
    dtype = torch.float32 if device.type == "cpu" or checkpoint.format == "gguf" else "auto"
    config = options.pop("config", None) or open_config(source, **options)
    model = open_model(AutoModelForCausalLM, source, config=config, dtype=dtype, **options)
    return WholeModel(model.to(device).eval(), donor_tokenizer(checkpoint))
