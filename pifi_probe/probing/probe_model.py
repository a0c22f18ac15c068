"""A probe as a model: the donor's layers below a point, and the logistic probe there as their head."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
    TextClassificationPipeline,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from pifi_probe.alignment.tokens import marked_first
from pifi_probe.errors import CheckpointError, FeatureError, ModelNotFoundError, PifiProbeError, TaskError
from pifi_probe.features.donor import llm_features, pool_tokens, tokens_in_words
from pifi_probe.features.rows import scoring_rows
from pifi_probe.files import atomic_write, existing, save_tensors
from pifi_probe.layers.checkpoint import Checkpoint
from pifi_probe.layers.content import content_of
from pifi_probe.layers.extract import extract_from
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.references import NamedBy, open_reference
from pifi_probe.layers.spec import ModelRef
from pifi_probe.layers.stem import Stem
from pifi_probe.layers.tokenizer import donor_tokenizer
from pifi_probe.plugin.losses import sequence_loss
from pifi_probe.pretrained import measure_config, reading_weights
from pifi_probe.scoring.folds import stratified_folds
from pifi_probe.scoring.linear import cross_validate, fit_logistic
from pifi_probe.scoring.spectrum import Spectrum
from pifi_probe.tasks import EMBEDDED, Task, load_task
from pifi_probe.vocabulary import MAX_TOKENS

if TYPE_CHECKING:
    from pifi_probe.probing.table import ProbeTable

__all__ = ["ProbeConfig", "ProbeForSequenceClassification", "probe_as_model"]


class ProbeConfig(PretrainedConfig):
    """Whose states a probe reads, and how.

    Parameters
    ----------
    donor, revision : str
        The language model; only named, never stored.
    content : str
        Digest of its files, or ``"repo@commit"``: another one is refused.
    point : int
        Depth of the residual stream: the input of layer `point`, so that as many layers are run.
    width : int
        Of the residual stream.
    pooling, normalise, drop_first
        As in `pifi_probe.probe`.
    max_tokens : int
        Its `max_tokens`, which in transformers is the name of another thing.
    scores : dict, optional
        Held-out scores of the probe at this point.
    """

    model_type = "pifi-probe"

    def __init__(
        self,
        donor: str = "",
        revision: str | None = None,
        content: str = "",
        point: int = 0,
        width: int = 1,
        pooling: str = "mean",
        normalise: bool = True,
        drop_first: bool = True,
        max_tokens: int = MAX_TOKENS,
        scores: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.donor, self.revision, self.content = donor, revision, content
        self.point, self.width, self.pooling = point, width, pooling
        self.normalise, self.drop_first, self.max_tokens = normalise, drop_first, max_tokens
        self.scores = scores or {}


class ProbeForSequenceClassification(PreTrainedModel):
    """A language model cut at a point of its residual stream, with a linear head on its pooled states.

    Made by `ProbeTable.to_model` or ``from_pretrained``. Saved are the head and the donor's name; the layers below the
    point are read from the donor when the model is first called.

    Parameters
    ----------
    config : ProbeConfig
    """

    config_class = ProbeConfig
    config: ProbeConfig
    main_input_name = "input_ids"
    base_model_prefix = "head"

    def __init__(self, config: ProbeConfig) -> None:
        super().__init__(config)
        self.head = nn.Linear(int(config.width), int(config.num_labels))
        self.hold = True
        self.named_by: NamedBy | None = None
        self._below: tuple[Stem, list[FrozenLayer]] | None = None
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, allow_external: bool = False, **kwargs: Any
    ) -> Any:
        """Load a head; its donor is opened when the model is first called.

        Parameters
        ----------
        pretrained_model_name_or_path : str or Path
            A folder or hub id. No code from it is run.
        *args, **kwargs
            As transformers has them.
        allow_external : bool
            Open whatever donor it names: paths outside the folder, too, and hub ids with your token.

        Raises
        ------
        CheckpointError
            If files are missing, damaged or do not fit each other.
        """
        source = pretrained_model_name_or_path
        kwargs.pop("trust_remote_code", None)
        kwargs.setdefault("use_safetensors", True)
        with_info = kwargs.pop("output_loading_info", False)
        if source is not None and os.path.isdir(source):
            measure_config(source, {})
        try:
            with reading_weights(source):
                model, info = super().from_pretrained(
                    source, *args, output_loading_info=True, trust_remote_code=False, **kwargs
                )
        except PifiProbeError:
            raise
        except OSError as error:
            raise ModelNotFoundError(
                f"the probe cannot be loaded: {error}",
                where=str(source),
                next="give the folder that save_pretrained wrote",
            ) from error
        if info["missing_keys"]:
            raise CheckpointError(
                "the weights of the head are missing", where=str(source), next="copy the whole folder again"
            )
        model.named_by = NamedBy(existing(source) if source is not None else None, allow_external)
        return (model, info) if with_info else model

    def checkpoint(self) -> Checkpoint:
        """Open the donor, and check that it is the one the head was fitted to.

        Raises
        ------
        PlugInError
            If a file names the donor that may not.
        CheckpointError
            If the donor's files are others, or it has no such point or width.
        """
        config = self.config
        found = open_reference(ModelRef(config.donor, config.revision), self.named_by)
        n_layers, width = int(found.config.num_hidden_layers), int(found.config.hidden_size)
        if content_of(found) != config.content or not 0 <= config.point <= n_layers or width != config.width:
            raise CheckpointError(
                f"the donor is not the one that this probe was fitted to ({config.content})",
                where=config.donor,
                next="name the revision that was used, or make the model again from its table",
            )
        return found

    def layers(self, checkpoint: Checkpoint) -> Iterator[FrozenLayer]:
        """Yield the donor's layers below the point, one at a time, in float32."""
        for index in range(self.config.point):
            yield extract_from(
                checkpoint, index, model=self.config.donor, dtype="float32", device=self.device, digest=False
            )

    def states(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the donor's states at the point, (batch, seq, d_llm), for rows that are padded on the right."""
        if self.hold:
            self._load()
        if self._below is None:
            opened = self.checkpoint()
            stem, below = Stem(opened, [input_ids.cpu()]), self.layers(opened)
        else:
            stem, below = self._below[0], iter(self._below[1])
        states = stem(input_ids.cpu(), attention_mask.cpu()).to(self.device)
        with torch.no_grad():
            for layer in below:
                states = layer.to(self.device)(states, attention_mask)
        return states

    def _load(self) -> tuple[Stem, list[FrozenLayer]]:
        if self._below is None:
            opened = self.checkpoint()
            vocabulary = torch.arange(int(opened.config.vocab_size))
            self._below = Stem(opened, [vocabulary]), list(self.layers(opened))
        return self._below

    def parts(self) -> nn.ModuleList:
        """Return every module that a call runs, loaded: what acts before the first layer, the layers, the head."""
        stem, layers = self._load()
        return nn.ModuleList([stem.module, *layers, self.head])

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """Classify a batch of texts.

        Parameters
        ----------
        input_ids, attention_mask : Tensor, (batch, seq), int64
            Of the donor's tokenizer, padded on either side.
        labels : Tensor, (batch,), optional
            With labels, ``loss`` is the mean cross-entropy in nats; only the head can be trained.

        Returns
        -------
        SequenceClassifierOutput
            With ``logits`` (batch, n_labels).
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        order = marked_first(mask != 0)
        ids, mask = input_ids.gather(1, order), mask.gather(1, order)
        config = self.config
        pooled = pool_tokens(self.states(ids, mask).float(), mask, config.pooling, config.normalise, config.drop_first)
        logits = self.head(pooled.to(self.head.weight.dtype))
        loss = None
        if labels is not None:
            loss = sequence_loss(logits, labels, config.problem_type, num_items_in_batch)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def classifier(self, **kwargs: Any) -> TextClassificationPipeline:
        """Return the pipeline "text-classification" of transformers with the donor's tokenizer, cut as the probe's."""
        tokenizer = donor_tokenizer(self.checkpoint())
        limits = {"truncation": True, "max_length": self.config.max_tokens}
        return TextClassificationPipeline(model=self, tokenizer=tokenizer, **limits, **kwargs)

    def direction(self, label: str | None = None) -> torch.Tensor:
        """Return the unit vector (d_llm,) along which the log-odds of a class grow; of the last class by default.

        Raises
        ------
        FeatureError
            If there is no such class.
        """
        names = [self.config.id2label[index] for index in range(self.head.out_features)]
        if label is not None and label not in names:
            raise FeatureError(f"the probe has no class {label!r}", where="label", next=f"use {', '.join(names)}")
        one = len(names) - 1 if label is None else names.index(label)
        weight = self.head.weight.detach().float()
        vector = weight[one] - (weight.sum(0) - weight[one]) / (len(names) - 1)
        return vector / vector.norm().clamp_min(torch.finfo(vector.dtype).tiny)

    def export_directions(self, path: str | Path, *, label: str | None = None) -> Path:
        """Write directions for other tools.

        Parameters
        ----------
        path : str or Path
            ``.safetensors``: ``directions`` (n_labels, d_llm), unit vectors, with donor, point and labels in the
            metadata. ``.gguf``: a control vector of llama.cpp, with the direction of `label` at the layer whose
            output the point is.
        label : str, optional
            For ``.gguf``; by default the last class.

        Raises
        ------
        FeatureError
            If the ending is another one, or llama.cpp cannot add anything at this point: it begins at point 2.
        """
        path, config = Path(path), self.config
        names = [config.id2label[index] for index in range(self.head.out_features)]
        if path.suffix == ".safetensors":
            directions = torch.stack([self.direction(name) for name in names])
            about = {"donor": config.donor, "point": str(config.point), "labels": json.dumps(names)}
            save_tensors(path, {"directions": directions}, **about)
            return path
        if path.suffix != ".gguf":
            raise FeatureError(
                f"directions are not written as {path.suffix or 'a file without an ending'}",
                where=str(path),
                next="name a file that ends in .safetensors or .gguf",
            )
        if config.point < 2:
            raise FeatureError(
                f"llama.cpp adds control vectors to the outputs of layers 1 and later, and point {config.point} is not "
                "one of them",
                where=str(path),
                next="take a point of 2 or more, or write .safetensors",
            )
        from gguf import GGUFWriter

        donor = self.checkpoint().config
        vector = self.direction(label).cpu().numpy().astype(np.float32)
        with atomic_write(path, "wb") as file:
            writer = GGUFWriter(file.name, "controlvector")
            writer.add_string("controlvector.model_hint", str(donor.model_type))
            writer.add_uint32("controlvector.layer_count", int(donor.num_hidden_layers))
            writer.add_tensor(f"direction.{config.point - 1}", vector)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        return path


def probe_as_model(
    table: ProbeTable, point: int | None, task: Task | None, llm: str | None
) -> ProbeForSequenceClassification:
    """Fit the probe of a table at one point to all its rows; see `ProbeTable.to_model`.

    Raises
    ------
    FeatureError
        For tables of plug-ins, of pairs or with a template, and for points that the table has not.
    TaskError
        If the task is missing or another one.
    """
    info = table.info
    donor = _donor(table, llm)
    task = _task(table, task)
    one_text = task.has_row_classes and next(iter(task.splits.values())).pairs is None
    if table.family != "own-state" or not one_text or info.get("template") not in (None, "{text}"):
        raise FeatureError(
            "only a probe of the model's own states, on single texts without a template, becomes a model",
            where=f"{info['llm']} on {info['task']}",
            next="probe with pp.probe, a task of single texts with one class each, and no template",
        )
    depths = sorted({int(depth) for depth in table.frame["depth"].dropna()})
    if point is None:
        point = _best(table)
    if isinstance(point, bool) or point not in depths:
        raise FeatureError(f"the table has no point {point!r}", where="point", next=f"use {depths[0]} to {depths[-1]}")
    rows = scoring_rows(task, int(info["n"]), info["split"], int(info["seed"]))
    handling = {"pooling": info["pooling"], **_token_handling(str(info["tokens"]))}
    limit = int(info["max_tokens"])
    features = llm_features(donor, rows, kind=task.kind, until=point, max_tokens=limit, progress=False, **handling)
    labels = np.asarray(rows.labels, dtype=np.int64)
    head = _fitted(features[point], labels, int(info["seed"]))
    ref = ModelRef.parse(donor)
    config = ProbeConfig(
        donor=ref.model,
        revision=ref.revision,
        content=content_of(open_checkpoint(*ref)),
        point=point,
        width=features[point].shape[1],
        scores=head[2],
        max_tokens=limit,
        id2label=dict(enumerate(task.label_names)),
        label2id={name: index for index, name in enumerate(task.label_names)},
        problem_type="single_label_classification",
        **handling,
    )
    model = ProbeForSequenceClassification(config)
    with torch.no_grad():
        model.head.weight.copy_(head[0])
        model.head.bias.copy_(head[1])
    return model.eval()


def _fitted(
    states: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], seed: int
) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    """Return weight (K, D), bias (K,) and held-out scores of the logistic probe, fitted to all rows.

    The penalty is the median of those that the folds have chosen. As in cross-validation, features are centred and
    divided by one number, which are multiplied out here.
    """
    spectrum = Spectrum.of(states)
    folds = stratified_folds(labels, 5, seed, keys=spectrum.squared_norms)
    held = cross_validate(spectrum, labels, folds)
    mean = states.mean(0, dtype=np.float64)
    centred = states - mean  # (N, D)
    size = float(np.sqrt((centred**2).mean())) or 1.0
    left, singular, basis = np.linalg.svd(centred / size, full_matrices=False)  # rotated, the fit is the same
    l2 = float(np.median(held.l2)) * states.shape[1]
    fit = fit_logistic(left * singular, labels, [l2], np.ones((1, len(labels))))
    weight = fit.coef[0] @ torch.from_numpy(basis) / size  # (C, D)
    bias = fit.intercept[0] - weight @ torch.from_numpy(mean)
    if len(weight) == 1:  # log-odds of the second of two classes
        weight, bias = torch.cat([-weight / 2, weight / 2]), torch.cat([-bias / 2, bias / 2])
    scores = {"accuracy": float(held.correct.mean()), "nll": float(held.nll.mean()), "n": float(len(labels))}
    return weight.float(), bias.float(), scores


def _best(table: ProbeTable) -> int:
    """Return the best point by the logistic probe, or by the table's first estimator."""
    known = [name for name in ("logistic_nll", "logistic_accuracy") if name in table.estimators]
    return int(table.rank((known or table.estimators)[0])["depth"].iloc[0])


def _donor(table: ProbeTable, llm: str | None) -> str:
    """Return the donor's name: the user's own word, or that of the table where it names an embedded model."""
    from pifi_probe import assets

    named = str(table.info["llm"])
    if llm is None and not assets.is_asset(named):
        raise FeatureError(
            "a table's word is not enough to open a model that is not embedded",
            where=named,
            next=f"say which one yourself: to_model(llm={named!r})",
        )
    return named if llm is None else llm


def _task(table: ProbeTable, task: Task | None) -> Task:
    """Return the task that was probed."""
    name = str(table.info["task"])
    found = load_task(name) if task is None and name in EMBEDDED else task
    if found is None:
        raise TaskError("the task of this table is not embedded", where=name, next="give it: to_model(task=...)")
    if found.fingerprint != table.provenance.get("task"):
        raise TaskError(
            "this is not the task that was probed: its texts or labels differ", where=name, next="give that task"
        )
    return found


def _token_handling(words: str) -> dict[str, bool]:
    """Return what was done to the tokens, from the words that a table has for it."""
    for normalise, drop_first in itertools.product((True, False), repeat=2):
        if tokens_in_words(normalise, drop_first) == words:
            return {"normalise": normalise, "drop_first": drop_first}
    raise FeatureError(
        "the table does not say how tokens were pooled", where="info, tokens", next="probe again with pp.probe"
    )


AutoConfig.register("pifi-probe", ProbeConfig)
AutoModelForSequenceClassification.register(ProbeConfig, ProbeForSequenceClassification)
