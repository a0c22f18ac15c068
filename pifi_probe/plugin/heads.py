"""Heads next to the classifier: multiple choice, extractive question answering and token classification."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoModelForMultipleChoice,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
)
from transformers.modeling_outputs import (
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    TokenClassifierOutput,
)

from pifi_probe.plugin.base import PiFiEncoderModel
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.losses import cross_entropy, span_loss
from pifi_probe.plugin.registry import register_head

__all__ = ["PiFiForMultipleChoice", "PiFiForQuestionAnswering", "PiFiForTokenClassification"]


@register_head("multiple-choice", hub_tag="multiple-choice")
class PiFiForMultipleChoice(PiFiEncoderModel):
    """One score for each choice, read together with its question; the plug-in sees the pooled vector.

    Notes
    -----
    Rows may have different numbers of choices: a choice whose attention mask is 0 everywhere is none and gets the
    lowest number there is as its logit. It is not computed, but in compiled and exported graphs, whose shapes cannot
    depend on the mask.
    """

    chooses = True

    @property
    def n_outputs(self) -> int:
        """One score for each choice."""
        return 1

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> MultipleChoiceModelOutput | tuple[torch.Tensor, ...]:
        """Score the choices of a batch of questions.

        Parameters
        ----------
        input_ids : Tensor, (batch, n_choices, seq), int64
        attention_mask, token_type_ids : Tensor, (batch, n_choices, seq), optional
        labels : Tensor, (batch,), int64, optional
            Index of the right choice. With labels, ``loss`` is the mean cross-entropy in nats.

        Returns
        -------
        MultipleChoiceModelOutput
            With ``logits`` (batch, n_choices).
        """
        mask = attention_mask if attention_mask is not None else torch.ones_like(input_ids)
        there = mask.any(-1)  # (batch, n_choices)
        if torch.compiler.is_compiling():  # every choice is computed; those that are none see their padding
            seen = mask.masked_fill(~there[..., None], 1)
            parts = [None if part is None else part.flatten(0, 1) for part in (input_ids, seen, token_type_ids)]
            scores = self.head_output(*parts).view(there.shape)
            logits = scores.masked_fill(~there, torch.finfo(scores.dtype).min)
        else:
            parts = [None if part is None else part[there] for part in (input_ids, mask, token_type_ids)]
            scores = self.head_output(*parts)[:, 0]  # (choices that are there,)
            logits = scores.new_full(there.shape, torch.finfo(scores.dtype).min).masked_scatter(there, scores)
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return MultipleChoiceModelOutput(loss=loss, logits=logits)


class PiFiTokenModel(PiFiEncoderModel):
    """A head on every token; the plug-in sees the whole sequence."""

    pools = False

    def token_output(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        token_type_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return what the head gives for every token: (batch, seq, n_outputs)."""
        states, _ = self.token_vectors(input_ids, attention_mask, token_type_ids, inputs_embeds)
        out: torch.Tensor = self.head(states)
        return out


@register_head("token-classification", hub_tag="token-classification")
class PiFiForTokenClassification(PiFiTokenModel):
    """A class for each token, as in named-entity recognition."""

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
    ) -> TokenClassifierOutput | tuple[torch.Tensor, ...]:
        """Classify the tokens of a batch of texts.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids : Tensor, (batch, seq)
        labels : Tensor, (batch, seq), int64, optional
            -100 where there is no label. With labels, ``loss`` is the mean cross-entropy in nats over the others.

        Returns
        -------
        TokenClassifierOutput
            With ``logits`` (batch, seq, n_labels).
        """
        logits = self.token_output(input_ids, attention_mask, token_type_ids, inputs_embeds)
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return TokenClassifierOutput(loss=loss, logits=logits)


@register_head("question-answering", hub_tag="question-answering")
class PiFiForQuestionAnswering(PiFiTokenModel):
    """Scores of every token to be the first, and to be the last, of the answer."""

    gives = ("start_logits", "end_logits")

    @property
    def n_outputs(self) -> int:
        """Two: start and end."""
        return 2

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        start_positions: torch.Tensor | None = None,
        end_positions: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput | tuple[torch.Tensor, ...]:
        """Score the spans of a batch of questions with their contexts.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids : Tensor, (batch, seq)
        start_positions, end_positions : Tensor, (batch,), int64, optional
            Tokens of the answer; -100, or one that was cut off, for none. With both, ``loss`` is the mean of the two
            cross-entropies in nats.

        Returns
        -------
        QuestionAnsweringModelOutput
            With ``start_logits`` and ``end_logits`` (batch, seq), the lowest number there is at padding.
        """
        out = self.token_output(input_ids, attention_mask, token_type_ids, inputs_embeds)  # (batch, seq, 2)
        if attention_mask is not None:
            out = out.masked_fill(attention_mask[..., None] == 0, torch.finfo(out.dtype).min)
        start, end = out.unbind(-1)
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = span_loss(start, end, start_positions, end_positions, num_items_in_batch)
        if return_dict is False:
            return (start, end) if loss is None else (loss, start, end)
        return QuestionAnsweringModelOutput(loss=loss, start_logits=start, end_logits=end)


AutoModelForMultipleChoice.register(PiFiConfig, PiFiForMultipleChoice)
AutoModelForTokenClassification.register(PiFiConfig, PiFiForTokenClassification)
AutoModelForQuestionAnswering.register(PiFiConfig, PiFiForQuestionAnswering)
