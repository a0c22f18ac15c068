"""`PiFiForConditionalGeneration`: the layer between the encoder and the decoder of a model that writes text."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BertConfig,
    BertLMHeadModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from pifi_probe.encoders import encoder_of
from pifi_probe.errors import PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.losses import cross_entropy
from pifi_probe.plugin.registry import register_head
from pifi_probe.pretrained import config_from_dict, new_model

__all__ = ["DECODER_LAYERS", "PiFiForConditionalGeneration", "with_decoder"]

DECODER_LAYERS = 2


@register_head("conditional-generation", hub_tag="text2text-generation")
class PiFiForConditionalGeneration(PiFiPreTrainedModel, GenerationMixin):
    """``Enc -> H -> L_in -> frozen LLM layer -> L_out -> Dec``, on all tokens of the input (paper, generation).

    Parameters
    ----------
    config : PiFiConfig
        With the configuration of the whole encoder-decoder as ``encoder``.
    encoder : PreTrainedModel, optional
        The whole encoder-decoder: T5, mT5, BART, mBART, Marian, Pegasus or `EncoderDecoderModel`. Made from the
        configuration, untrained, when not given.
    layers : list of FrozenLayer, optional
        Likewise.

    Notes
    -----
    The decoder sees the encoder's padding as the encoder did. The encoder and the layer run once for each input,
    whatever the number of beams and of steps.
    """

    pools = False
    writes = True
    gives = ("logits", "encoder_last_hidden_state")

    def __init__(
        self,
        config: PiFiConfig,
        encoder: PreTrainedModel | None = None,
        layers: list[FrozenLayer] | None = None,
    ) -> None:
        config.is_encoder_decoder = True  # Trainer counts the labels of other models that write as shifted by one
        super().__init__(config)
        made = encoder if encoder is not None else _made(config_from_dict(config.encoder))
        self.seq2seq = made
        if config.generation:
            self.seq2seq.generation_config = GenerationConfig.from_dict(config.generation)
        self.plugin = self.new_plugin(layers, int(self.encoder.config.hidden_size))
        self.post_init()
        self.freeze_layers()

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder alone."""
        return encoder_of(self.seq2seq)

    def get_encoder(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Return the encoder alone, without the plug-in."""
        return self.encoder

    def source(
        self, input_ids: torch.Tensor | None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> tuple[BaseModelOutput, torch.Tensor]:
        """Return what the decoder attends to, (batch, seq, d_slm), and the mask (batch, seq)."""
        types, embeds = kwargs.get("token_type_ids"), kwargs.get("inputs_embeds")
        states, mask = self.token_vectors(input_ids, attention_mask, types, embeds)
        return BaseModelOutput(last_hidden_state=states), mask

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        return_dict: bool | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> Seq2SeqLMOutput | tuple[torch.Tensor, ...]:
        """Score targets given their inputs, with the target's earlier tokens at hand.

        Parameters
        ----------
        input_ids, attention_mask, token_type_ids : Tensor, (batch, seq)
        labels : Tensor, (batch, target_seq), int64, optional
            -100 where there is no token. With labels, ``loss`` is the mean cross-entropy in nats per token.
        num_items_in_batch : int or Tensor, optional
            Number of tokens that the sum of the losses is divided by, see `pifi_probe.plugin.losses`.
        decoder_input_ids : Tensor, (batch, target_seq), int64, optional
            What the decoder reads; by default `labels`, shifted by one.
        **kwargs
            For the decoder.

        Returns
        -------
        Seq2SeqLMOutput
            With ``logits`` (batch, target_seq, vocabulary).
        """
        outputs, mask = self.source(
            input_ids, attention_mask, token_type_ids=token_type_ids, inputs_embeds=inputs_embeds
        )
        if labels is not None and decoder_input_ids is None:
            decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
        if decoder_input_ids is None and kwargs.get("decoder_inputs_embeds") is None:
            raise PlugInError(
                "the decoder has nothing to read: neither labels nor decoder_input_ids were given",
                where="forward",
                next="give one of them (DataCollatorForSeq2Seq(tokenizer, model=model) makes both), or call generate",
            )
        logits = self.seq2seq(
            encoder_outputs=outputs,
            attention_mask=mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
            return_dict=True,
            **kwargs,
        ).logits  # (batch, target_seq, vocabulary)
        loss = None if labels is None else cross_entropy(logits, labels, num_items_in_batch)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return Seq2SeqLMOutput(loss=loss, logits=logits, encoder_last_hidden_state=outputs.last_hidden_state)

    @property
    def generation_config(self) -> Any:
        """How text is written unless `generate` is told otherwise: that of the encoder-decoder."""
        return self.seq2seq.generation_config

    @generation_config.setter
    def generation_config(self, value: Any) -> None:
        if "seq2seq" in self._modules:  # transformers' constructor sets one before there is anything that writes
            self.seq2seq.generation_config = value

    @property
    def small_model(self) -> PreTrainedModel:
        """The encoder-decoder."""
        return self.seq2seq

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write the model, its card, and how it writes; see `PiFiPreTrainedModel.save_pretrained`."""
        self.config.generation = self.generation_config.to_diff_dict()
        super().save_pretrained(save_directory, **kwargs)

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the decoder's output weights."""
        found: nn.Module | None = self.seq2seq.get_output_embeddings()
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Set the encoder's input embeddings, and the decoder's where they are the same."""
        part = self.encoder if isinstance(self.seq2seq, EncoderDecoderModel) else self.seq2seq
        part.set_input_embeddings(value)

    def resize_small_model(self, *size: Any) -> None:
        """Resize encoder and decoder; of an `EncoderDecoderModel` the decoder only if it has the same vocabulary."""
        if not isinstance(self.seq2seq, EncoderDecoderModel):
            super().resize_small_model(*size)
            return
        parts = [self.seq2seq.encoder, self.seq2seq.decoder]
        if parts[0].config.vocab_size != parts[1].config.vocab_size:
            parts.pop()
        for part in parts:
            part.resize_token_embeddings(*size)

    def generate(
        self, input_ids: torch.Tensor | None = None, attention_mask: torch.Tensor | None = None, **kwargs: Any
    ) -> Any:
        """Write text; as ``generate`` of transformers, with its beams, sampling and cache.

        Parameters
        ----------
        input_ids, attention_mask : Tensor, (batch, seq)
            The ids may be named ``inputs``, too.
        **kwargs
            Of transformers' ``generate``, such as ``num_beams`` and ``max_new_tokens``.

        Returns
        -------
        Tensor, (batch, target_seq), int64
        """
        kwargs.pop("labels", None)
        input_ids = kwargs.pop("inputs", input_ids)
        types, embeds = kwargs.pop("token_type_ids", None), kwargs.pop("inputs_embeds", None)
        with torch.no_grad():
            outputs, mask = self.source(input_ids, attention_mask, token_type_ids=types, inputs_embeds=embeds)
        return self.seq2seq.generate(encoder_outputs=outputs, attention_mask=mask, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Return the decoder's inputs for labels (batch, target_seq): shifted by one."""
        shifted: torch.Tensor = self.seq2seq.prepare_decoder_input_ids_from_labels(labels)
        return shifted


def _made(config: Any) -> PreTrainedModel:
    if isinstance(config, EncoderDecoderConfig):
        for part in (config.encoder, config.decoder):
            part.dtype = torch.get_default_dtype()  # the one that is being loaded, not the one they were stored in
        return EncoderDecoderModel(config=config)
    return new_model(AutoModelForSeq2SeqLM, config, dtype=torch.get_default_dtype())


def with_decoder(encoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> EncoderDecoderModel:
    """Return an encoder with a small new decoder, untrained but for its token embeddings.

    The decoder has 2 BERT layers with cross-attention, of the encoder's width and vocabulary; its token embeddings,
    which also are its output weights, start as the encoder's.

    Parameters
    ----------
    encoder : PreTrainedModel
        Its own weights are used, not copied.
    tokenizer : PreTrainedTokenizerBase
        Gives the tokens a target starts and ends with.

    Raises
    ------
    PlugInError
        If the tokenizer has no such tokens.
    """
    first = tokenizer.cls_token_id if tokenizer.cls_token_id is not None else tokenizer.bos_token_id
    last = tokenizer.sep_token_id if tokenizer.sep_token_id is not None else tokenizer.eos_token_id
    if first is None or last is None or tokenizer.pad_token_id is None:
        raise PlugInError(
            "the tokenizer has no tokens for start, end and padding, which a decoder needs",
            where=type(tokenizer).__name__,
            next="take another encoder, or an encoder-decoder such as T5 or BART",
        )
    width, vocabulary = int(encoder.config.hidden_size), encoder.get_input_embeddings().weight
    decoder = BertLMHeadModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=width,
            num_hidden_layers=DECODER_LAYERS,
            num_attention_heads=max(n for n in (1, 2, 4, 6, 8, 12) if width % n == 0),
            intermediate_size=4 * width,
            is_decoder=True,
            add_cross_attention=True,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    if vocabulary.shape[1] == width:
        with torch.no_grad():
            decoder.get_input_embeddings().weight.copy_(vocabulary)
    model = EncoderDecoderModel(encoder=encoder, decoder=decoder)
    tokens = {"decoder_start_token_id": first, "eos_token_id": last, "pad_token_id": tokenizer.pad_token_id}
    for name, value in tokens.items():
        setattr(model.config, name, value)
    model.generation_config = GenerationConfig(**tokens)
    return model


AutoModelForSeq2SeqLM.register(PiFiConfig, PiFiForConditionalGeneration)
