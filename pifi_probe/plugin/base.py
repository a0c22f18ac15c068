"""What all plugged models share: how they are built, what transformers asks of them, and the encoder at their start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel

from pifi_probe.compat import forget_output_hooks
from pifi_probe.encoders import encoder_of, no_pooler, pool
from pifi_probe.errors import CheckpointError
from pifi_probe.layers.frozen import FrozenLayer, LayerCard
from pifi_probe.plugin.adapters import check_adapters, settle_adapters
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.combine import make_plugin
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.encoding import Tokens, run_encoder
from pifi_probe.plugin.fold import FoldedPlugIn
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.plugin.storage import StoredModel
from pifi_probe.pretrained import config_from_dict, new_model

__all__ = ["Head", "PiFiEncoderModel", "PiFiPreTrainedModel", "describe"]


class Head(nn.Sequential):
    """The paper's head: Linear(d, d), Dropout, GELU, Linear(d, K) (as in its reference code)."""

    def __init__(self, d_slm: int, n_labels: int, dropout: float) -> None:
        super().__init__(nn.Linear(d_slm, d_slm), nn.Dropout(dropout), nn.GELU(), nn.Linear(d_slm, n_labels))


class PiFiPreTrainedModel(StoredModel):
    """What every plugged model shares: how it is built, saved, loaded and uploaded."""

    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_flash_attn = True
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = (
        *("FrozenLayer", "PlugIn", "GatedSerial", "Mix", "Gated", "Unshared"),
        *("AlignedPlugIn", "FoldedPlugIn", "Head"),
    )

    def _init_weights(self, module: nn.Module) -> None:
        """Draw a linear map as its constructor does: PyTorch's defaults, as in the paper's code."""
        if isinstance(module, nn.Linear):
            module.reset_parameters()

    def initialize_weights(self) -> None:
        """Give every weight that a checkpoint has not the start that `plug_in` gives it; keep those that were loaded.

        Raises
        ------
        CheckpointError
            If weights that were folded or fitted are missing or have other shapes: they have no start.
        """
        super().initialize_weights()
        if self.plugin is None:
            return
        if not all(getattr(tensor, "_is_hf_initialized", False) for tensor in self.plugin.fitted()):
            raise CheckpointError(
                "weights of the plug-in that were folded or fitted are missing or have other shapes",
                where=self.config.slm,
                next="load the model as it was saved, or make it again from the parts it was made of",
            )
        self.plugin.set_start()

    def init_weights(self) -> None:
        """Tie weights only: encoder and layer come with theirs, and drawing them again would lose them."""
        self.tie_weights(recompute_mapping=False)

    def encode(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoder's token vectors (batch, seq, d_slm) and the mask (batch, seq) they were made with."""
        found = run_encoder(self.encoder, input_ids, attention_mask, token_type_ids, inputs_embeds)
        return found.states, found.mask

    def encode_deeply(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> Tokens:
        """Return the encoder's token vectors after its last layer and before its first one."""
        return run_encoder(self.encoder, input_ids, attention_mask, token_type_ids, inputs_embeds, deeply=True)

    def token_vectors(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return all token vectors (batch, seq, d_slm) as they leave the plug-in, and their mask."""
        if isinstance(self.plugin, AlignedPlugIn):
            tokens = self.encode_deeply(input_ids, attention_mask, token_type_ids, inputs_embeds)
            return self.plugin.back(tokens) if self.plugin.read == "back" else tokens.states, tokens.mask
        states, mask = self.encode(input_ids, attention_mask, token_type_ids, inputs_embeds)
        return states if self.plugin is None else self.plugin(states, mask), mask

    def extra_repr(self) -> str:
        """Return what the modules below do not show."""
        config = self.config
        pooling = f", pooling={config.pooling!r}" if self.pools else ""
        why = f" ({config.pooling_from})" if self.pools and config.pooling_from else ""
        return f"slm={config.slm!r}, wiring={config.wiring!r}, feed={config.feed!r}{pooling}{why}"

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's input embeddings."""
        embeddings: nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Set the small language model's input embeddings."""
        self.small_model.set_input_embeddings(value)

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Module:
        """Resize the vocabulary of the small language model; parameters as in transformers.

        Returns
        -------
        Module
            The new input embeddings.
        """
        self.resize_small_model(new_num_tokens, pad_to_multiple_of, mean_resizing)
        self._note_vocabulary()
        return self.get_input_embeddings()

    def resize_small_model(self, *size: Any) -> None:
        """Resize the small language model; see `resize_token_embeddings`."""
        self.small_model.resize_token_embeddings(*size)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled and copied."""
        forget_output_hooks(self)
        return self.__dict__

    def train(self, mode: bool = True) -> Any:
        """Set training or evaluation; frozen layers stay in evaluation.

        Raises
        ------
        PlugInError
            For training, if an adapter of ``peft`` would leave head and projections as they were drawn.
        """
        if mode:
            check_adapters(self, self.__dict__.get("_peft_config", {}))
        return super().train(mode)

    @property
    def peft_config(self) -> Any:
        """Configurations of the adapters of ``peft`` in this model, by name."""
        try:
            return self.__dict__["_peft_config"]
        except KeyError:
            raise AttributeError("this model has no adapter") from None

    @peft_config.setter
    def peft_config(self, configs: dict[str, Any]) -> None:
        self.__dict__["_peft_config"] = configs
        settle_adapters(self, configs)

    @peft_config.deleter
    def peft_config(self) -> None:
        self.__dict__.pop("_peft_config", None)

    def new_plugin(self, layers: list[FrozenLayer] | None, d_slm: int) -> PlugIn | FoldedPlugIn | None:
        """Return the plug-in that the configuration says, with skeletons where no layers are given."""
        if self.config.folded:
            return FoldedPlugIn(**self.config.folded)
        if self.config.control == "vanilla":
            return None
        layers = layers if layers is not None else [_skeleton(item) for item in self.config.layers]
        if self.config.aligned is not None:
            return AlignedPlugIn(
                layers, d_slm, int(self.config.plugin_width), self.config, getattr(self, "n_outputs", 0)
            )
        return make_plugin(layers, d_slm, self.config)


class PiFiEncoderModel(PiFiPreTrainedModel):
    """Encoder, plug-in and head; the heads differ in `n_outputs` and ``forward``.

    Parameters
    ----------
    config : PiFiConfig
    encoder : PreTrainedModel, optional
        Made from the configuration, untrained, when not given.
    layers : list of FrozenLayer, optional
        Likewise.
    """

    def __init__(
        self,
        config: PiFiConfig,
        encoder: PreTrainedModel | None = None,
        layers: list[FrozenLayer] | None = None,
    ) -> None:
        super().__init__(config)
        self.encoder = encoder_of(encoder if encoder is not None else _untrained(config_from_dict(config.encoder)))
        d_slm = int(self.encoder.config.hidden_size)
        self.plugin = self.new_plugin(layers, d_slm)
        self.head = Head(d_slm, self.n_outputs, config.head_dropout)
        self.post_init()
        self.freeze_layers()

    @property
    def n_outputs(self) -> int:
        """Numbers that the head gives for each vector."""
        return int(self.config.num_labels)

    def pooled_output(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what the head sees: (batch, d_slm)."""
        if self.plugin is None or self.config.feed == "sequence":
            states, mask = self.token_vectors(input_ids, attention_mask, token_type_ids, inputs_embeds)
            return pool(states, mask, self.config.pooling)
        states, mask = self.encode(input_ids, attention_mask, token_type_ids, inputs_embeds)
        return self.plugin(pool(states, mask, self.config.pooling))

    def head_of(self, tokens: Tokens) -> torch.Tensor:
        """Return what the head gives for the encoder alone."""
        out: torch.Tensor = self.head(pool(tokens.states, tokens.mask, self.config.pooling))
        return out

    def head_output(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what the head gives, with what an aligned chain is read out to next to it: (batch, n_outputs)."""
        plugin = self.plugin
        if isinstance(plugin, AlignedPlugIn) and plugin.read == "beside":
            tokens = self.encode_deeply(input_ids, attention_mask, token_type_ids, inputs_embeds)
            own = self.head_of(tokens)
            return plugin.head_scale.to(own.dtype) * own + plugin.beside(tokens).to(own.dtype)
        out: torch.Tensor = self.head(self.pooled_output(input_ids, attention_mask, token_type_ids, inputs_embeds))
        return out


def describe(layer: FrozenLayer) -> dict[str, Any]:
    """Return what a configuration stores of a layer: its card and its donor's configuration."""
    return {"card": asdict(layer.card), "config": layer.donor_config.to_dict()}


def _skeleton(item: Mapping[str, Any]) -> FrozenLayer:
    return FrozenLayer.skeleton(config_from_dict(item["config"]), LayerCard.from_dict(item["card"]))


def _untrained(config: PretrainedConfig) -> PreTrainedModel:
    """Build the encoder of a configuration in the type that is being loaded, not in the one it was once stored in."""
    return new_model(AutoModel, config, dtype=torch.get_default_dtype(), **no_pooler(type(config)))
