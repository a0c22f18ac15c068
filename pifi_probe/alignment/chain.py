"""A chain of frozen layers behind an interface, and what is read out of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.tokens import TokenStates
from pifi_probe.errors import FeatureError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.progress import bar_options
from pifi_probe.tasks.tokens import buckets

__all__ = ["chain_features", "read_out", "run_alone", "run_chain"]

BATCH_TOKENS = 2048


def run_chain(layers: Sequence[FrozenLayer], states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Pass states (batch, seq, d_llm) through layers in series; `mask` (batch, seq) has 1 for tokens."""
    for layer in layers:
        states = layer(states, mask)
    return states


def run_alone(layers: Sequence[FrozenLayer], states: torch.Tensor) -> torch.Tensor:
    """Pass states (batch, seq, d_llm) through layers in series, each token a sequence of its own."""
    alone = states.reshape(-1, 1, states.shape[-1])  # (batch seq, 1, d_llm)
    return run_chain(layers, alone, alone.new_ones(alone.shape[:2], dtype=torch.long)).reshape(states.shape)


def read_out(entered: torch.Tensor, left: torch.Tensor, mask: torch.Tensor, *, change: bool = True) -> torch.Tensor:
    """Pool what a chain makes of its texts.

    Parameters
    ----------
    entered, left : Tensor, (batch, seq, d_llm)
        States before the first layer and after the last one; position 0 is the first state that stands in front.
    mask : Tensor, (batch, seq)
        1 for the tokens that are pooled.
    change : bool
        With the change; without a layer there is none.

    Returns
    -------
    Tensor, (batch, 4 d_llm), or (batch, 2 d_llm) without the change
        Each token divided by its root mean square: mean, last token; of what the chain has added, divided likewise:
        mean, largest absolute value. Position 0 is left out.
    """
    there = mask[:, 1:].long()  # whole numbers: bfloat16 cannot tell place 257 from 256
    mask = there.to(left.dtype)
    share = (there / there.sum(1, keepdim=True).clamp_min(1)).to(left.dtype)  # (batch, seq - 1)
    places = torch.arange(there.shape[1], device=left.device)
    rows, last = torch.arange(left.shape[0], device=left.device), (there * places).argmax(1)
    normed = _normed(left[:, 1:])
    parts = [torch.bmm(share[:, None], normed)[:, 0], normed[rows, last]]
    if change:
        moved = _normed(left[:, 1:] - entered[:, 1:])
        parts += [torch.bmm(share[:, None], moved)[:, 0], (moved.abs() * mask[..., None]).amax(1)]
    return torch.cat(parts, dim=-1)


def _normed(states: torch.Tensor) -> torch.Tensor:
    size = states.square().mean(-1, keepdim=True).sqrt()
    return states / size.clamp_min(torch.finfo(states.dtype).tiny)


@torch.no_grad()
def chain_features(
    states: TokenStates,
    interface: Interface,
    layers: Sequence[FrozenLayer] = (),
    *,
    one_token: bool = False,
    batch_tokens: int = BATCH_TOKENS,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> NDArray[np.float32]:
    """Return the readout of every text: (N, 4 d_llm), or (N, 2 d_llm) of the interface without a layer.

    Pairs whose texts were read apart are pooled text by text, the first one's readout in front: twice as wide.

    Parameters
    ----------
    states : TokenStates
    interface : Interface
    layers : sequence of FrozenLayer
        In series; none for the interface alone.
    one_token : bool
        Give the layers each token alone, so that no token sees another.
    batch_tokens : int
        Tokens of one batch, padding included; batches hold texts of like length.
    device : str or torch.device
        Where the layers are.
    progress : bool

    Raises
    ------
    FeatureError
        If a feature is NaN or infinite.
    """
    interface = interface.to(device)
    width = (4 if layers else 2) * interface.hidden_size * (1 if states.second is None else 2)
    found = np.empty((len(states), width), dtype=np.float32)
    name = f"{layers[0].card.variant} chain" if layers else "interface"
    for rows in tqdm(
        buckets([int(n) + 1 for n in states.lengths], batch_tokens), desc=name, leave=False, **bar_options(progress)
    ):
        tokens, mask = states.padded(rows)
        entered = interface(tokens.to(device))
        mask = torch.cat([mask.new_ones(len(rows), 1), mask], dim=1).long().to(device)
        left = run_alone(layers, entered) if one_token else run_chain(layers, entered, mask)
        read = [read_out(entered, left, each, change=bool(layers)) for each in _pooled(mask, states, rows)]
        found[rows] = torch.cat(read, dim=-1).float().cpu().numpy()
    if not np.isfinite(found).all():
        raise FeatureError(
            "the chain's output holds NaN or infinite values",
            where=layers[-1].card.spec if layers else repr(interface),
            next="extract the layers in float32, or check the checkpoint",
        )
    return found


def _pooled(mask: torch.Tensor, states: TokenStates, rows: Sequence[int]) -> list[torch.Tensor]:
    """Return masks (batch, 1 + seq) of what is pooled together: all tokens, or each text of a pair read apart."""
    if states.second is None:
        return [mask]
    begins = torch.from_numpy(states.second[np.asarray(rows)]).to(mask.device)[:, None]  # the line end is before it
    place = torch.arange(-1, mask.shape[1] - 1, device=mask.device)[None]  # the donor's first state has -1
    return [mask * (place < begins - 1), mask * (place >= begins)]
