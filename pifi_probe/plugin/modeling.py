"""`PiFiForSequenceClassification`: encoder, pooling, plug-in and head as one transformers model."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.base import Head, PiFiEncoderModel, PiFiPreTrainedModel, describe
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.fold import FoldedPlugIn, fold_plugin
from pifi_probe.plugin.losses import sequence_loss
from pifi_probe.plugin.registry import register_head

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task

__all__ = ["Head", "PiFiForSequenceClassification", "PiFiPreTrainedModel", "describe"]


@register_head("sequence-classification", hub_tag="text-classification")
class PiFiForSequenceClassification(PiFiEncoderModel):
    """``Enc -> h -> L_in -> frozen LLM layer -> L_out -> Head`` for classification (paper, section 3).

    Parameters
    ----------
    config : PiFiConfig
    encoder : PreTrainedModel, optional
        Made from the configuration, untrained, when not given.
    layers : list of FrozenLayer, optional
        Likewise.

    Notes
    -----
    Made by `pifi_probe.plug_in` or ``from_pretrained``. A ``transformers.PreTrainedModel``: ``Trainer``,
    ``pipeline``, ``save_pretrained`` and ``push_to_hub`` work.
    """

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """Classify a batch of texts.

        Parameters
        ----------
        input_ids : Tensor, (batch, seq), int64
        attention_mask : Tensor, (batch, seq)
            1 for tokens, 0 for padding on either side.
        token_type_ids : Tensor, (batch, seq), optional
        labels : Tensor, (batch,) or (batch, n_labels), optional
            int64 classes: ``loss`` is the mean cross-entropy in nats. For ``config.problem_type="regression"``, or
            one output, float numbers: ``loss`` is the mean squared error. For ``"multi_label_classification"``
            0.0 or 1.0 for each label: ``loss`` is the mean binary cross-entropy in nats.
        num_items_in_batch : int or Tensor, optional
            Number that the sum of the losses is divided by, see `pifi_probe.plugin.losses`.

        Returns
        -------
        SequenceClassifierOutput
            With ``logits`` (batch, n_labels); for regression (batch, 1), the numbers themselves.
        """
        logits = self.head_output(input_ids, attention_mask, token_type_ids, inputs_embeds)  # (batch, n_labels)
        loss = None
        if labels is not None:
            loss = sequence_loss(logits, labels, self.config.problem_type, num_items_in_batch)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def fit_readout(self, task: Task, *, n_train: int = 4000, seed: int = 0) -> dict[str, float]:
        """Fit the readout of an aligned chain by stacking, after training; see `pifi_probe.plugin.aligning`."""
        from pifi_probe.plugin.aligning import fit_readout

        return fit_readout(self, task, n_train=n_train, seed=seed)

    def fold(self, form: str = "auto") -> PiFiForSequenceClassification:
        """Return the exact inference form of this model, which stands alone.

        Parameters
        ----------
        form : {"auto", "z", "grouped"}
            ``"z"``: both projections folded into the layer (book/methods.md, Folding); ``"grouped"``: the single-token
            path with folded scales; ``"auto"``: the smaller of those that are exact.

        Returns
        -------
        PiFiForSequenceClassification
            With parts of its own, so that training this model on leaves it alone. ``.fold_report`` says
            parameters, bytes and multiply-accumulates before and after.

        Raises
        ------
        PlugInError
            For ``feed="sequence"``, for combinations with trained weights, and for models without a frozen layer.
        """
        plugin, report = fold_plugin(self, form)
        config = PiFiConfig.from_dict(self.config.to_dict())
        config.save_layer = True  # a folded model stands alone
        if isinstance(plugin, FoldedPlugIn):
            config.folded = plugin.shapes
        else:
            config.layers = [describe(layer) for layer in plugin.layers if isinstance(layer, FrozenLayer)]
        model = PiFiForSequenceClassification(config, encoder=copy.deepcopy(self.encoder), layers=[])
        model.plugin, model.head = copy.deepcopy(plugin), copy.deepcopy(self.head)
        model.fold_report = report
        return model.eval()


AutoConfig.register("pifi", PiFiConfig)
AutoModelForSequenceClassification.register(PiFiConfig, PiFiForSequenceClassification)
