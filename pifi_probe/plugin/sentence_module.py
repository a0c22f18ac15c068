"""The module of sentence-transformers that holds a plugged encoder; imported only where that library is used."""

from __future__ import annotations

from typing import Any

import torch
from sentence_transformers.sentence_transformer.modules import InputModule

from pifi_probe.encoders import pool, within_positions
from pifi_probe.plugin.base import PiFiEncoderModel
from pifi_probe.plugin.loading import open_plugged
from pifi_probe.plugin.tokenizer import tokenizer_for
from pifi_probe.reading import read_object
from pifi_probe.vocabulary import MAX_TOKENS

__all__ = ["MODULE", "PluggedEncoder"]

_SETTINGS = "sentence_pifi_config.json"


class PluggedEncoder(InputModule):
    """Tokeniser, encoder, plug-in and pooling: from texts to ``sentence_embedding``.

    Parameters
    ----------
    model : PiFiEncoderModel
    max_seq_length : int
        Tokens per text; fewer where the encoder has positions for fewer.
    """

    config_file_name = _SETTINGS
    config_keys = ["max_seq_length"]

    def __init__(self, model: PiFiEncoderModel, max_seq_length: int = MAX_TOKENS) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer_for(model)
        self.max_seq_length = within_positions(model.encoder, max_seq_length)

    def preprocess(self, inputs: Any, prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Tokenise texts, or pairs, with the prompt before each text."""
        pairs = bool(inputs) and not isinstance(inputs[0], str)
        columns = [[one[side] for one in inputs] for side in (0, 1)] if pairs else [list(inputs)]
        columns[0] = [(prompt or "") + text for text in columns[0]]
        found = self.tokenizer(
            *columns, padding=True, truncation=True, max_length=self.max_seq_length, return_tensors="pt"
        )
        return dict(found)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``sentence_embedding`` (batch, d_slm): what the head of the model would read."""
        names = ("input_ids", "attention_mask", "token_type_ids")
        parts = [features.get(name) for name in names]
        if self.model.pools:
            vector = self.model.pooled_output(*parts)
        else:  # a head on tokens
            states, mask = self.model.token_vectors(*parts)
            vector = pool(states, mask, "mean")
        features["sentence_embedding"] = vector
        return features

    def get_embedding_dimension(self) -> int:
        """Return the width of an embedding."""
        return int(self.model.encoder.config.hidden_size)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the plugged model, with or without its layer as the model says, its tokenizer and its card."""
        self.model.save_pretrained(output_path)
        self.save_tokenizer(output_path)
        self.save_config(output_path)

    @classmethod
    def load(cls, model_name_or_path: str, *args: Any, **kwargs: Any) -> PluggedEncoder:
        """Load what `save` wrote; no code from the folder or repository is run."""
        where = {name: kwargs.get(name) for name in ("subfolder", "token", "revision", "cache_folder")}
        where = {name: value for name, value in where.items() if value}
        options = where | ({"local_files_only": True} if kwargs.get("local_files_only") else {})
        path = cls.load_file_path(model_name_or_path, _SETTINGS, **options)
        settings = read_object(path) if path else {}
        hub = {name: value for name, value in options.items() if name != "cache_folder"}
        model = open_plugged(model_name_or_path, **hub)
        length = settings.get("max_seq_length", MAX_TOKENS)
        return cls(model, length if isinstance(length, int) and length > 2 else MAX_TOKENS)

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return self.model.device


MODULE = f"{PluggedEncoder.__module__}.{PluggedEncoder.__name__}"
