"""`AlignedPlugIn`: a chain entered at the donor's own states, read out next to the encoder or back into it.

``wiring="aligned"``. All content tokens of a text go through L_in, which is not drawn but fitted (see
`pifi_probe.alignment`): a ridge regression from the encoder's tokens, after its last layer and before its first one,
each with the token before, to the donor's states at the chain's entry. Then

* ``read="beside"``: logits = head(encoder) + R z, where z pools the tokens that leave the chain and what the chain has
  changed in them (`read_out`), standardised. R starts at zero, so that step 0 is plain fine-tuning, bit for bit.
* ``read="back"``: each token becomes h + g L_out(y), with L_out fitted by ridge back to the encoder's states, and a
  gate g that starts at zero. Special tokens get what the last token says, which has seen the whole text.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers.initialization import ones_, zeros_

from pifi_probe.alignment.chain import read_out
from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.tokens import compact, content_mask, with_previous
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.encoding import Tokens
from pifi_probe.plugin.plugin import PlugIn

__all__ = ["AlignedPlugIn"]


class AlignedPlugIn(PlugIn):
    """A chain behind a fitted interface; see the module.

    Parameters
    ----------
    layers : list of FrozenLayer
        In series; none for the control "linear", the interface alone, and for "mlp", whose interface is trained and
        followed by GELU.
    d_slm, d_llm : int
    config : PiFiConfig
        With ``config.aligned``.
    n_outputs : int
        Numbers that the head gives.
    """

    center: torch.Tensor
    spread: torch.Tensor
    head_scale: torch.Tensor

    def __init__(self, layers: list[FrozenLayer], d_slm: int, d_llm: int, config: PiFiConfig, n_outputs: int) -> None:
        super().__init__([], d_slm, d_llm, config)
        facts = config.aligned or {}
        self.layers.extend(layers)
        self.matched = False  # the interface has the donor's own scale
        self.read = str(facts.get("read", "beside"))
        self.trained = bool(facts.get("train_projections", False)) or config.control == "mlp"
        self.L_in = nn.Linear(4 * d_slm, d_llm)
        self.first = nn.Parameter(torch.zeros(d_llm))
        width = d_llm * (4 if layers else 2)
        if self.read == "beside":
            self.L_out = nn.Linear(width, n_outputs)
            self.register_buffer("center", torch.zeros(width))
            self.register_buffer("spread", torch.ones(width))
            self.register_buffer("head_scale", torch.ones(()))
        else:
            self.L_out = nn.Linear(d_llm, d_slm)
            self.gates = nn.Parameter(torch.zeros(1))
        self.special = tuple(facts.get("special_ids", ()))

    def hold(self) -> None:
        """Freeze what was fitted, unless the projections are to be trained."""
        for part in self._fitted_maps():
            part.requires_grad_(self.trained)
        self.first.requires_grad_(self.trained)

    def projections(self) -> dict[str, nn.Linear]:
        """Return nothing: no map is drawn."""
        return {}

    def trained_maps(self) -> list[nn.Module]:
        """Return the readout, which starts at zero, and the interface where it is trained."""
        return [self.L_in, self.L_out] if self.trained else [self.L_out] if self.read == "beside" else []

    def fixed_maps(self) -> list[nn.Module]:
        """Return what was fitted and stays."""
        return [] if self.trained else self._fitted_maps()

    def _fitted_maps(self) -> list[nn.Module]:
        return [self.L_in, self.L_out] if self.read == "back" else [self.L_in]

    def fitted(self) -> list[torch.Tensor]:
        """Return what has no start: the interface, and the way back."""
        way_back = list(self.L_out.parameters()) if self.read == "back" else []
        return [*self.L_in.parameters(), self.first, self.scale_in, *way_back]

    def set_start(self) -> None:
        """Let the readout and the gate start at zero."""
        if self.read == "beside":
            zeros_(self.L_out.weight)
            zeros_(self.L_out.bias)
            ones_(self.head_scale)
        else:
            zeros_(self.gates)

    @torch.no_grad()
    def take(self, interface: Interface) -> None:
        """Put a fitted interface in the place of L_in."""
        self.L_in.weight.copy_(interface.weight)
        self.L_in.bias.copy_(interface.bias)
        self.first.copy_(interface.first)
        self.scale_in.fill_(interface.scale)

    def content(self, tokens: Tokens) -> torch.Tensor:
        """Mark the tokens (batch, seq) that enter the chain."""
        if tokens.input_ids is None:
            return tokens.mask.bool()
        return content_mask(tokens.input_ids, tokens.mask, self.special)

    def enter(self, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return states at the entry (batch, 1 + seq, d_llm), their mask, and which tokens entered (batch, seq)."""
        content = self.content(tokens)
        moved, mask = compact(torch.cat([tokens.states, tokens.embeddings], dim=-1), content)
        x = self.scale_in * self.L_in(with_previous(moved))
        x = torch.cat([self.first.to(x.dtype).expand(x.shape[0], 1, -1), x], dim=1)
        return x, torch.cat([mask.new_ones(x.shape[0], 1), mask], dim=1).long(), content

    def features(self, tokens: Tokens) -> torch.Tensor:
        """Return what is read next to the encoder, not standardised: (batch, 4 d_llm), or 2 d_llm without a layer."""
        x, mask, _ = self.enter(tokens)
        return read_out(x, self.core(x, mask), mask, change=bool(len(self.layers)))

    def beside(self, tokens: Tokens) -> torch.Tensor:
        """Return what is added to the head's output, (batch, n_outputs)."""
        z = (self.features(tokens) - self.center) * self.spread
        out: torch.Tensor = self.L_out(z.to(self.L_out.weight.dtype))
        return out

    def back(self, tokens: Tokens) -> torch.Tensor:
        """Return the tokens (batch, seq, d_slm) with what the chain says of them added."""
        return tokens.states + (self.gates * self.L_out(self.left(tokens))).to(tokens.states.dtype)

    def left(self, tokens: Tokens) -> torch.Tensor:
        """Return the chain's output for every token of the batch, divided by its root mean square: (batch, seq, d)."""
        x, mask, content = self.enter(tokens)
        y = self.core(x, mask)[:, 1:]  # (batch, seq, d_llm), content tokens first
        y = y / y.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(y.dtype).tiny)
        rows = torch.arange(y.shape[0], device=y.device)
        last = y[rows, (mask.sum(1) - 2).clamp_min(0)][:, None]  # (batch, 1, d_llm); a row may be all padding
        place = content.long().cumsum(1).clamp_min(1) - 1  # of each token among those that entered
        own = y.gather(1, place[..., None].expand(-1, -1, y.shape[-1]))
        return torch.where(content[..., None], own, last)
