"""What a model does before its first layer, for the tokens of a sample only."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from pifi_probe.errors import CheckpointError
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.shell import CHECK_CONFIG, Caught, before_layers, load_around

__all__ = ["Stem"]


class Stem:
    """The family's own base model up to its first layer: embeddings, positions, and what else acts before layer 0.

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
        self._tokens = torch.cat([ids.flatten().unique() for ids in input_ids]).unique()  # ascending
        tensors = checkpoint.read_stem(self._tokens)
        stem, info = load_around(before_layers(checkpoint.config, len(self._tokens)), tensors, torch.float32)
        self._model = stem.eval()
        wrong = {*info["missing_keys"], *(item[0] for item in info["mismatched_keys"])}
        needed = sorted(name for name in wrong if name.rpartition(".")[0] in self._called())
        if needed:
            raise CheckpointError(
                f"tensors before the first layer are missing or of wrong shape: {', '.join(needed[:4])}",
                where=checkpoint.identity,
                next=CHECK_CONFIG,
            )

    @property
    def module(self) -> nn.Module:
        """What acts before the first layer."""
        return self._model

    def _called(self) -> set[str]:
        """Return the names of the modules that act before the first layer; a final norm is none of them."""
        called: set[str] = set()

        def note(name: str) -> Callable[[nn.Module, object], None]:
            return lambda module, args: called.add(name)

        hooks = [module.register_forward_pre_hook(note(name)) for name, module in self._model.named_modules()]
        token = self._tokens[:1, None]
        self(token, torch.ones_like(token))
        for hook in hooks:
            hook.remove()
        return called

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
        try:
            self._model(input_ids=rows, attention_mask=attention_mask, use_cache=False)
        except Caught as caught:
            return caught.states
        raise AssertionError("the model did not reach its first layer")
