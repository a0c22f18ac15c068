"""Fitting what an aligned plug-in begins with: its interface, its way back, and, after training, its readout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from pifi_probe.alignment.interface import Interface
from pifi_probe.alignment.kept import kept_interfaces
from pifi_probe.alignment.readout import UNIT_WIDTH, fit_block
from pifi_probe.alignment.tokens import encode, token_states
from pifi_probe.encoders import is_decoder, within_positions
from pifi_probe.errors import PlugInError, TaskError
from pifi_probe.kinds import KINDS, Split
from pifi_probe.layers.adapter import open_adapter
from pifi_probe.layers.content import weights_digest
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.references import open_reference, resolve_reference
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.base import PiFiEncoderModel, PiFiPreTrainedModel
from pifi_probe.plugin.encoding import Tokens
from pifi_probe.plugin.tokenizer import tokenizer_for
from pifi_probe.tasks.tokens import buckets, tokenizer_digest
from pifi_probe.vocabulary import MAX_TOKENS

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task

__all__ = ["N_ALIGN", "align", "alignment_texts", "fit_interface", "fit_readout", "texts_read"]

N_ALIGN = 2000  # texts that the interface is fitted to
N_STANDARD = 500  # of them, those on which the readout's features are standardised and the way back is fitted
_BATCH_TOKENS = 2048
_PENALTY = 1e-3  # of the way back, times the mean eigenvalue
Twin = tuple[str, Callable[[FrozenLayer], FrozenLayer]]
Floats = NDArray[np.float64]


def alignment_texts(task: Task) -> tuple[list[str], list[str] | None]:
    """Return some training texts, drawn blind to labels, and what is read together with each."""
    split = task.splits["train"]
    rows = sorted(np.random.default_rng(0).permutation(len(split))[:N_ALIGN])
    return texts_read(task, [int(row) for row in rows])


def texts_read(task: Task, rows: Sequence[int]) -> tuple[list[str], list[str] | None]:
    """Return what a model reads of training rows: texts, and what is read together with each."""
    kind, split = KINDS[task.kind], task.splits["train"]
    texts, seconds = zip(*(kind.read(split, row) for row in rows), strict=True)
    return list(texts), None if None in seconds else list(seconds)


def fit_interface(
    model: PiFiPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    first: FrozenLayer,
    texts: tuple[list[str], list[str] | None],
    *,
    task: str,
    twin: Twin | None = None,
) -> Interface:
    """Return the interface from a model's encoder to the input of a donor's layer.

    Sees the given texts, no labels. The donor runs once, up to the layer, one layer in memory; what was fitted before
    to the same texts and weights comes from the cache folder.
    """
    encoder = model.encoder
    longest = within_positions(encoder, MAX_TOKENS)
    digest = [weights_digest(encoder), tokenizer_digest(tokenizer), longest]
    card = first.card
    donor = open_reference(card.ref, first.named_by)
    adapter = None
    if card.adapter is not None:  # the layers below have their parts of it, too
        name, token = resolve_reference(card.adapter, first.named_by, "adapter")
        adapter = open_adapter(name, token=token)
    return kept_interfaces(
        lambda: token_states(
            encoder,
            tokenizer,
            *texts,
            max_tokens=longest,
            last_pools=is_decoder(encoder.config),
            device=model.device,
        ),
        texts,
        donor,
        [card.index],
        llm=card.donor,
        encoder=hashlib.sha256(json.dumps(digest).encode()).hexdigest()[:32],
        slm=model.config.slm,
        max_tokens=2 * longest,
        twin=twin,
        adapter=adapter,
        saw={"task": task, "split": "train", "texts of tests": "none"},
        device=str(model.device),
    )[card.index]


@torch.no_grad()
def align(
    model: PiFiPreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    interface: Interface,
    texts: tuple[list[str], list[str] | None],
) -> None:
    """Put an interface into a model, and fit or standardise what lies behind its chain, on the same texts."""
    plugin = model.plugin
    assert isinstance(plugin, AlignedPlugIn)
    plugin.take(interface)
    n = len(texts[0])  # in the order of the split, which may be sorted by class: some of all its parts
    rows = np.linspace(0, n - 1, min(n, N_STANDARD)).round().astype(int)
    some = ([texts[0][row] for row in rows], None if texts[1] is None else [texts[1][row] for row in rows])
    if plugin.read == "beside":
        batches = _batches(model, tokenizer, some)
        z = np.concatenate([plugin.features(tokens).float().cpu().numpy() for _, tokens in batches])
        spread = z.std(0, dtype=np.float64)
        plugin.center.copy_(torch.from_numpy(z.mean(0)))
        scale = np.where(spread > 1e-8, 1 / np.maximum(spread, 1e-8), 0.0) / np.sqrt(z.shape[1] / UNIT_WIDTH)
        plugin.spread.copy_(torch.from_numpy(scale))
        return
    _fit_way_back(plugin, (tokens for _, tokens in _batches(model, tokenizer, some)))


def _fit_way_back(plugin: AlignedPlugIn, batches: Iterable[Tokens]) -> None:
    """Fit L_out by ridge from what leaves the chain, each token at its own scale, to the encoder's own states."""
    d_llm, d_slm = plugin.L_out.in_features, plugin.L_out.out_features
    gram = torch.zeros(d_llm + 1, d_llm + 1, dtype=torch.float64)
    cross = torch.zeros(d_llm + 1, d_slm, dtype=torch.float64)
    for tokens in batches:
        content = plugin.content(tokens)
        y = plugin.left(tokens)[content].double().cpu()
        y = torch.cat([y, y.new_ones(len(y), 1)], dim=1)
        gram += y.T @ y
        cross += y.T @ tokens.states[content].double().cpu()
    penalty = _PENALTY * float(gram.diagonal()[:-1].mean())
    damped = gram + penalty * torch.diag(torch.tensor([1.0] * d_llm + [1e-6], dtype=gram.dtype))
    weight = torch.linalg.solve(damped, cross)
    plugin.L_out.weight.copy_(weight[:-1].T)
    plugin.L_out.bias.copy_(weight[-1])


def _batches(
    model: PiFiPreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: tuple[list[str], list[str] | None]
) -> Iterator[tuple[list[int], Tokens]]:
    """Yield the encoder's tokens of all texts, in batches of like length, with the rows of each."""
    model.eval()
    coded = encode(tokenizer, *texts, within_positions(model.encoder, MAX_TOKENS))
    for rows in buckets(coded.lengths, _BATCH_TOKENS):
        ids, mask, types = (None if part is None else part.to(model.device) for part in coded.padded(rows))
        yield rows, model.encode_deeply(ids, mask, types)


@torch.no_grad()
def fit_readout(model: PiFiEncoderModel, task: Task, *, n_train: int = 4000, seed: int = 0) -> dict[str, float]:
    """Fit the readout of a trained model's chain by stacking, with the encoder and its head as they are.

    Parameters
    ----------
    model : PiFiForSequenceClassification
        With ``wiring="aligned"`` and ``read="beside"``, its encoder and head trained.
    task : Task
        One class a row. The chain's own classifier is fitted to the training split; how much head and chain count is
        fitted to the validation split, whose texts the head was not trained on.
    n_train : int
        At most so many training texts.
    seed : int
        Of draws and folds.

    Returns
    -------
    dict
        ``head`` and ``chain``, the weights of the two, and ``C`` of the chain's classifier.

    Raises
    ------
    PlugInError
        If the model has no chain that is read next to its encoder.
    TaskError
        If the task has no class a row, or no validation split.

    Notes
    -----
    ``logits = a head(h) + b (R z + c) + e``, with R and c by logistic regression on the training texts and a, b, e by
    logistic regression on the validation texts: two numbers and one for each class. Useless chains get b near zero.
    """
    plugin = model.plugin
    if not isinstance(plugin, AlignedPlugIn) or plugin.read != "beside":
        raise PlugInError(
            "this model has no chain that is read out next to its encoder",
            where="fit_readout",
            next='make it with pp.plug_in(..., wiring="aligned")',
        )
    if not task.has_row_classes or "validation" not in task.splits or "train" not in task.splits:
        raise TaskError(
            "a readout by stacking needs one class a row, a train and a validation split",
            where=task.name,
            next="load the task with them, or train the readout with pp.fine_tune",
        )
    tokenizer = tokenizer_for(model)
    whole = task.subset(train=min(n_train, len(task.splits["train"])), seed=seed)
    (x, _, y), (u, head, v) = (_seen(model, tokenizer, whole.splits[name]) for name in ("train", "validation"))
    block = fit_block(x, y, task.n_labels, seed=seed)
    chain = ((u - block.mean) * block.scale) @ block.coef.T + block.intercept  # (N, K)
    weights, offset = _stacked(head, chain, v)
    center, spread = plugin.center.cpu().numpy(), plugin.spread.cpu().numpy()
    turn = block.scale / np.where(spread > 0, spread, 1.0)  # from the block's standardisation to the plug-in's
    coef = np.where(spread > 0, block.coef * turn, 0.0)
    bias = block.intercept + block.coef @ ((center - block.mean) * block.scale)
    plugin.head_scale.fill_(weights[0])
    plugin.L_out.weight.copy_(torch.from_numpy(weights[1] * coef))
    plugin.L_out.bias.copy_(torch.from_numpy(weights[1] * bias + offset))
    return {"head": weights[0], "chain": weights[1], "C": block.C}


def _stacked(head: Floats, chain: Floats, y: NDArray[np.int64]) -> tuple[tuple[float, float], Floats]:
    """Return a, b and e of ``a head + b chain + e`` with the best NLL, both weights kept from below zero."""
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    n, k = head.shape

    def loss(parameters: Floats) -> float:
        logits = parameters[0] * head + parameters[1] * chain + parameters[2:]
        nll = -log_softmax(logits, axis=1)[np.arange(n), y].mean()
        return float(nll + 1e-4 * np.square(parameters[2:]).sum() + 1e-4 * np.square(parameters[:2]).sum())

    start = np.concatenate([[1.0, 0.0], np.zeros(k)])
    found = minimize(loss, start, method="L-BFGS-B", bounds=[(0.0, None), (0.0, None), *[(None, None)] * k])
    return (float(found.x[0]), float(found.x[1])), found.x[2:]


def _seen(
    model: PiFiEncoderModel, tokenizer: PreTrainedTokenizerBase, split: Split
) -> tuple[NDArray[np.float32], Floats, NDArray[np.int64]]:
    """Return the chain's features (N, D), the head's logits (N, K) and the labels of a split."""
    plugin = model.plugin
    assert isinstance(plugin, AlignedPlugIn)
    features: list[Any] = [None] * len(split)
    logits: list[Any] = [None] * len(split)
    pairs = None if split.pairs is None else list(split.pairs)
    for rows, tokens in _batches(model, tokenizer, (list(split.texts), pairs)):
        own = model.head_of(tokens).double().cpu().numpy()
        z = plugin.features(tokens).float().cpu().numpy()
        for place, row in enumerate(rows):
            features[row], logits[row] = z[place], own[place]
    return np.stack(features), np.stack(logits), np.asarray(split.labels, dtype=np.int64)
