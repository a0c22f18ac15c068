"""What a model does before its first layer, for the tokens of a sample only."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from transformers import MODEL_MAPPING

from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import CheckpointError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.families import family_of, stem_config
from pifi_probe.layers.shell import CHECK_CONFIG, strip_stem

__all__ = ["Stem"]


class Stem:
    """The family's own base model without layers: embeddings, positions, and what else acts before layer 0.

    Its vocabulary holds only the tokens of the sample, so that the embeddings of a large model, which outweigh a
    layer several times, never lie in memory as a whole.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its embeddings are read now, once and in pieces.
    input_ids : iterable of Tensor, int64
        All token ids that the stem will be called with, padding included.

    Raises
    ------
    CheckpointError
        If the checkpoint lacks embeddings, or a token has none.
    """

    def __init__(self, checkpoint: Checkpoint, input_ids: Iterable[torch.Tensor]) -> None:
        family = family_of(checkpoint.config)
        self._tokens = torch.cat([ids.flatten().unique() for ids in input_ids]).unique()  # ascending
        config = stem_config(checkpoint.config, len(self._tokens))
        tensors = checkpoint.read_stem(self._tokens)
        with quiet_transformers():
            stem, info = MODEL_MAPPING[type(config)].from_pretrained(
                None,
                config=config,
                state_dict=tensors,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        wrong = [*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])]
        wrong = sorted(name for name in wrong if not any(part in family.outside for part in name.split(".")))
        if wrong:
            raise CheckpointError(
                f"tensors before the first layer are missing or of wrong shape: {', '.join(wrong[:4])}",
                where=checkpoint.identity,
                next=CHECK_CONFIG,
            )
        self._model = strip_stem(stem).eval()

    @torch.no_grad()
    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return what the model's first layer is given.

        Parameters
        ----------
        input_ids, attention_mask : Tensor, (batch, seq)

        Returns
        -------
        Tensor of float32, (batch, seq, d_llm)
        """
        rows = torch.searchsorted(self._tokens, input_ids)
        output = self._model(input_ids=rows, attention_mask=attention_mask, use_cache=False)
        states: torch.Tensor = output.last_hidden_state
        return states
