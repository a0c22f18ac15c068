"""What could stand in a chain's place: as many trained weights as it has, or the encoder once more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from pifi_probe.alignment.chain import BATCH_TOKENS, read_out, run_chain
from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.tokens import TokenStates
from pifi_probe.devices import autocast
from pifi_probe.errors import TrainingDiverged
from pifi_probe.features.chain_parts import Encoder, Texts
from pifi_probe.features.donor import llm_features
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.variants import twin_of
from pifi_probe.tasks.tokens import buckets

__all__ = ["TRAINED", "Trained", "donor_states", "encoder_twice", "train_in_place"]

TRAINED = ("mlp", "trained layers")
EPOCHS, BATCH, HEAD_RATE = 4, 32, 1e-3
RATES = {"mlp": 5e-4, "trained layers": 2e-4}
HELD = 4  # every so-manieth labelled text is held out
Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    """What a trained block says.

    Parameters
    ----------
    held : array of int, shape (M,)
        Positions of the labelled texts that it was not trained on.
    out_of_fold : array, shape (M, K)
        Log-probabilities of these.
    said : dict of str to array, shape (N, K)
        Of every test.
    """

    held: Codes
    out_of_fold: Floats
    said: dict[str, Floats]


def train_in_place(
    kind: str,
    interface: Interface,
    real: Sequence[FrozenLayer],
    texts: Mapping[str, Texts],
    y: Codes,
    n_labels: int,
    *,
    seed: int = 0,
) -> Trained:
    """Train a block behind the interface, in the place of a chain and with as many weights as it has.

    The block and a linear readout of what `read_out` pools are trained on three of four labelled texts (AdamW, four
    epochs); the others choose the epoch and give the weights of the stack. Both choices favour the block.

    Parameters
    ----------
    kind : {"mlp", "trained layers"}
        "mlp": on each token, ``x + W2 gelu(W1 x / rms(x))``, so wide that it has the chain's weights. "trained
        layers": layers of the donor's kind, drawn afresh with the mean and spread of the real ones.
    interface : Interface
        Stays as it was fitted.
    real : sequence of FrozenLayer
        The chain; left as it is.
    texts : mapping of str to Texts
        Labelled ones by "", tests by their names.
    y : array of int, shape (N,)
        Labels of the former.
    n_labels : int
    seed : int
        Of weights, held texts and batches.

    Raises
    ------
    TrainingDiverged
        If the loss is not a number.
    """
    encoder = texts[""].encoder
    device = torch.device(encoder.device)
    order = np.random.default_rng(seed).permutation(len(y))
    held, fit = np.sort(order[::HELD]), np.sort(np.delete(order, np.s_[::HELD]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _Network(kind, interface.to(device), real, n_labels, seed).to(device)
    states = texts[""].states
    network.standardise(states, fit, encoder)
    optimizer = torch.optim.AdamW(
        [
            {"params": list(network.block.parameters()), "lr": RATES[kind]},
            {"params": list(network.head.parameters()), "lr": HEAD_RATE},
        ]
    )
    draw, labels = np.random.default_rng(seed + 1), torch.from_numpy(y)
    best: tuple[float, Floats, dict[str, Floats]] | None = None
    for _ in range(EPOCHS):
        for rows in np.array_split(draw.permutation(fit), max(1, len(fit) // BATCH)):
            with autocast(encoder.precision, device):
                logits = network(*_moved(states.padded(rows.tolist()), device))
            loss = cross_entropy(logits.float(), labels[rows].to(device))
            if not torch.isfinite(loss):
                raise TrainingDiverged(f"the loss of {kind} is {float(loss)}", next='use precision="float32"')
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        seen = network.log_p(states, held, encoder)
        nll = float(-seen[np.arange(len(held)), y[held]].mean())
        if best is None or nll < best[0]:
            said = {
                name: network.log_p(each.states, np.arange(len(each.rows)), encoder)
                for name, each in texts.items()
                if name
            }
            best = nll, seen, said
    assert best is not None
    return Trained(held, best[1], best[2])


def donor_states(
    llm: str,
    texts: Mapping[str, Texts],
    kind: str,
    point: int,
    max_tokens: int,
    device: str,
    cache: bool,
    progress: bool,
    precision: str,
) -> dict[str, NDArray[np.float32]]:
    """Return the donor's own states at the chain's exit, mean and last token, read on its own tokens."""
    return {
        name: np.array(
            llm_features(
                llm,
                each.rows,
                kind=kind,
                pooling="mean+last",
                max_tokens=2 * max_tokens,
                until=point,
                precision=precision,
                device=device,
                cache=cache,
                progress=progress,
            )[point]
        )
        for name, each in texts.items()
    }


@torch.no_grad()
def encoder_twice(texts: Texts) -> NDArray[np.float32]:
    """Return the readout of the encoder's last states when they pass through the whole encoder again: (N, 4 d_slm)."""
    model, states = texts.encoder.model.eval().to(texts.encoder.device), texts.states
    width = states.tokens.shape[1] // 2
    found = np.empty((len(states), 4 * width), dtype=np.float32)
    for rows in buckets([int(n) + 1 for n in states.lengths], BATCH_TOKENS):
        tokens, mask = _moved(states.padded(rows), model.device)
        last = tokens[..., :width]
        left = model(inputs_embeds=last, attention_mask=mask.long()).last_hidden_state.float()
        entered, left = (nn.functional.pad(part, (0, 0, 1, 0)) for part in (last, left))  # read_out skips the first
        found[rows] = read_out(entered, left, nn.functional.pad(mask, (1, 0), value=True)).cpu().numpy()
    return found


def _moved(batch: tuple[torch.Tensor, torch.Tensor], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    return batch[0].to(device), batch[1].to(device)


class _Token(nn.Module):
    """An MLP on each token, with a skip connection."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size = x.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-6)
        made: torch.Tensor = x + self.down(nn.functional.gelu(self.up(x / size)))
        return made


class _Network(nn.Module):
    center: torch.Tensor
    spread: torch.Tensor

    def __init__(self, kind: str, interface: Interface, real: Sequence[FrozenLayer], n_labels: int, seed: int) -> None:
        super().__init__()
        self.kind, self.interface, width = kind, interface, interface.hidden_size
        if kind == "mlp":
            n_weights = sum(tensor.numel() for layer in real for _, tensor in layer.tensors())
            self.block: nn.Module = _Token(width, max(1, round(n_weights / (2 * width + 1))))
        else:
            self.block = nn.ModuleList([twin_of(layer, "random", seed).unfreeze() for layer in real])
        self.head = nn.Linear(4 * width, n_labels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("center", torch.zeros(4 * width))
        self.register_buffer("spread", torch.ones(4 * width))

    def features(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        entered = self.interface(tokens)
        mask = nn.functional.pad(mask, (1, 0), value=True).long()
        if isinstance(self.block, nn.ModuleList):
            left = run_chain(list(self.block), entered, mask)  # type: ignore[arg-type]
        else:
            left = self.block(entered)
        return read_out(entered, left.float(), mask)

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head((self.features(tokens, mask) - self.center) * self.spread)
        return logits

    @torch.no_grad()
    def standardise(self, states: TokenStates, rows: Codes, encoder: Encoder) -> None:
        """Take mean and spread of the readout's features before any training."""
        parts = []
        for some in _batches(states, rows):
            with autocast(encoder.precision, self.center.device):
                parts.append(self.features(*_moved(states.padded(some), self.center.device)).float())
        x = torch.cat(parts)
        self.center.copy_(x.mean(0))
        self.spread.copy_(1 / x.std(0).clamp_min(1e-6) / x.shape[1] ** 0.5)

    @torch.no_grad()
    def log_p(self, states: TokenStates, rows: Codes, encoder: Encoder) -> Floats:
        """Return log-probabilities (rows, K) of some texts."""
        found = np.empty((len(rows), self.head.out_features))
        place = {int(row): i for i, row in enumerate(rows)}
        for some in _batches(states, rows):
            with autocast(encoder.precision, self.center.device):
                logits = self(*_moved(states.padded(some), self.center.device))
            found[[place[row] for row in some]] = logits.double().log_softmax(-1).cpu().numpy()
        return found


def _batches(states: TokenStates, rows: Codes) -> list[list[int]]:
    """Return some rows in batches of like length."""
    lengths = [int(states.lengths[row]) + 1 for row in rows]
    return [[int(rows[i]) for i in batch] for batch in buckets(lengths, BATCH_TOKENS)]
