"""PiFi from scratch: the whole method in one plain file.

PiFi (Plug-in and Fine-tuning, arXiv 2506.07424) puts one frozen layer of a large language model between a small
encoder and its task head. Only the encoder, two linear maps and the head are trained:

    text -> encoder -> h -> L_in -> frozen layer -> L_out -> head -> logits

Read it from top to bottom. Run it to train the method next to its controls on real weights and real reviews:

    python notebooks/pifi_from_scratch.py

The library `pifi_probe` does the same with any decoder, reads one layer without loading its model, and says how sure
the numbers are. A test holds that both give the same logits.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

ARMS = ("vanilla", "linear", "shuffled", "pifi")


class OneLayer(nn.Module):
    """Layer i of a Llama-like language model, as a function from vectors to vectors. It is never trained."""

    def __init__(self, language_model: nn.Module, i: int) -> None:
        super().__init__()
        decoder = language_model.model
        self.width = language_model.config.hidden_size
        self.layer = copy.deepcopy(decoder.layers[i])
        self.rotary = copy.deepcopy(decoder.rotary_emb)  # tells the layer where in the text a vector stands
        self.requires_grad_(False)  # the weights stay; the gradient still passes through to L_in

    def forward(self, x: Tensor) -> Tensor:
        """Map vectors (batch, width) to vectors (batch, width): each is a text of its own, of one token."""
        x = x[:, None]  # a decoder layer takes sequences: (batch, 1, width)
        positions = torch.zeros(1, 1, dtype=torch.long, device=x.device)
        y = self.layer(x, position_embeddings=self.rotary(x, positions), position_ids=positions)
        return (y[0] if isinstance(y, tuple) else y)[:, 0]


class PiFi(nn.Module):
    """Encoder, L_in, frozen layer, L_out, head. Without a layer: two maps only; without maps: the plain encoder."""

    def __init__(self, encoder: nn.Module, layer: OneLayer | None, n_labels: int, width: int = 0) -> None:
        super().__init__()
        d_slm, d_llm = encoder.config.hidden_size, layer.width if layer else width
        self.encoder, self.layer = encoder, layer
        self.L_in = nn.Linear(d_slm, d_llm, bias=False) if d_llm else None
        self.L_out = nn.Linear(d_llm, d_slm, bias=False) if d_llm else None
        self.head = nn.Sequential(nn.Linear(d_slm, d_slm), nn.Dropout(0.2), nn.GELU(), nn.Linear(d_slm, n_labels))

    def forward(self, **tokens: Tensor) -> Tensor:
        """Return logits (batch, n_labels)."""
        h = self.encoder(**tokens).last_hidden_state[:, 0]  # (batch, d_slm): the state of the first token, [CLS]
        if self.L_in is None or self.L_out is None:
            return self.head(h)
        x = self.L_in(h)  # (batch, d_llm)
        y = x if self.layer is None else self.layer(x)  # (batch, d_llm)
        return self.head(self.L_out(y))

    def train(self, mode: bool = True) -> PiFi:
        """Train all but the frozen layer, in which no dropout may act."""
        super().train(mode)
        if self.layer is not None:
            self.layer.eval()
        return self


def shuffled(layer: OneLayer, seed: int = 0) -> OneLayer:
    """Return the twin that knows nothing: every weight matrix keeps its values and loses their order.

    What the layer gives and its twin does not can only come from what the language model has learnt.
    """
    generator = torch.Generator().manual_seed(seed)
    twin = copy.deepcopy(layer)
    for weight in twin.parameters():
        order = torch.randperm(weight.numel(), generator=generator)
        weight.data = weight.data.reshape(-1)[order].view(weight.shape)
    return twin


def build(arm: str, encoder: nn.Module, layer: OneLayer, n_labels: int, seed: int = 0) -> PiFi:
    """Return one arm of the comparison; all arms with one seed begin with the same encoder and the same draws."""
    torch.manual_seed(seed)
    encoder = copy.deepcopy(encoder)
    if arm == "vanilla":
        return PiFi(encoder, None, n_labels)
    if arm == "linear":
        return PiFi(encoder, None, n_labels, width=layer.width)
    return PiFi(encoder, shuffled(layer, seed) if arm == "shuffled" else copy.deepcopy(layer), n_labels)


def fit(model: PiFi, tokenizer, texts: list[str], labels: list[int], *, epochs: int = 3, seed: int = 0) -> PiFi:
    """Train with the paper's settings: Adam, 5e-5, batches of 32, label smoothing 0.05, gradients clipped at 5."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([weight for weight in model.parameters() if weight.requires_grad], lr=5e-5)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(texts), generator=generator).split(32):
            tokens = tokenize(tokenizer, [texts[row] for row in rows])
            target = torch.tensor([labels[row] for row in rows])
            loss = nn.functional.cross_entropy(model(**tokens), target, label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
    return model


@torch.no_grad()
def accuracy(model: PiFi, tokenizer, texts: list[str], labels: list[int]) -> float:
    """Return the share of texts whose label has the highest logit."""
    model.eval()
    rows = [slice(start, start + 64) for start in range(0, len(texts), 64)]
    found = torch.cat([model(**tokenize(tokenizer, texts[part])).argmax(1) for part in rows])
    return float((found == torch.tensor(labels)).float().mean())


def tokenize(tokenizer, texts: list[str]) -> dict[str, Tensor]:
    """Return padded ids and mask, at most 100 tokens a text."""
    return dict(tokenizer(texts, padding=True, truncation=True, max_length=100, return_tensors="pt"))


if __name__ == "__main__":
    from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

    import pifi_probe as pp  # only for files to try it on: weights and reviews out of pinned packages

    small, large = pp.assets.path("minilm-l6"), pp.assets.path("smollm2-135m")
    tokenizer, encoder = AutoTokenizer.from_pretrained(small), AutoModel.from_pretrained(small, add_pooling_layer=False)
    language_model = AutoModelForCausalLM.from_pretrained(large.parent, gguf_file=large.name, dtype=torch.float32)
    layer = OneLayer(language_model, -1)  # the paper takes the last
    splits = pp.load_task("movie-reviews").subset(train=400, test=400).splits
    train, test = ((list(splits[name].texts), list(splits[name].labels)) for name in ("train", "test"))
    for arm in ARMS:
        trained = fit(build(arm, encoder, layer, n_labels=2), tokenizer, *train)
        print(f"{arm:9} {accuracy(trained, tokenizer, *test):.1%} of {len(test[0])} test reviews")
