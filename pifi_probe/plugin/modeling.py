"""`PiFiForSequenceClassification`: encoder, pooling, plug-in and head as one transformers model."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from pifi_probe.compat import config_from_dict
from pifi_probe.errors import CheckpointError
from pifi_probe.layers.frozen import FrozenLayer, LayerCard
from pifi_probe.plugin.config import PiFiConfig
from pifi_probe.plugin.fold import FoldedPlugIn, FoldReport, fold_plugin
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.plugin.pooling import left_padding_positions, pool

__all__ = ["Head", "PiFiForSequenceClassification", "PiFiPreTrainedModel"]

_LAYER_PREFIX = "plugin.layers."


class Head(nn.Sequential):
    """The paper's head: Linear(d, d), Dropout, GELU, Linear(d, K) (as in its reference code)."""

    def __init__(self, d_slm: int, n_labels: int, dropout: float) -> None:
        super().__init__(nn.Linear(d_slm, d_slm), nn.Dropout(dropout), nn.GELU(), nn.Linear(d_slm, n_labels))


class PiFiPreTrainedModel(PreTrainedModel):
    """What every plugged model shares: how it is built, saved, loaded and uploaded."""

    config_class = PiFiConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True
    _supports_flash_attn = True
    main_input_name = "input_ids"

    def _init_weights(self, module: nn.Module) -> None:
        """Leave each part as its constructor made it: PyTorch's defaults, as in the paper's code."""

    def init_weights(self) -> None:
        """Tie weights only: encoder and layer come with theirs, and drawing them anew would lose them."""
        self.tie_weights(recompute_mapping=False)

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write the model; without the frozen layer's weights when ``config.save_layer`` is False."""
        if not self.config.save_layer and self.config.layers:
            state = kwargs.pop("state_dict", None) or self.state_dict()
            kwargs["state_dict"] = {key: value for key, value in state.items() if not key.startswith(_LAYER_PREFIX)}
        super().save_pretrained(save_directory, **kwargs)
        from pifi_probe.plugin.card import write_model_card

        write_model_card(self, Path(save_directory))

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model; a frozen layer that was saved as a reference is read from its donor again."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if not model.config.save_layer and model.config.layers:
            model.restore_layers()
        model.freeze_layers()
        return loaded

    def push_to_hub(
        self,
        repo_id: str,
        *,
        licence: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload model",
        token: str | bool | None = None,
    ) -> str:
        """Upload the model with its card.

        Parameters
        ----------
        repo_id : str
            ``"name/repository"``; made when missing.
        licence : str, optional
            Your statement of the licence under which the donor's weights may be passed on; needed when the
            donor's is unknown or gated.
        private : bool, optional
            For a new repository.
        commit_message : str
        token : str or bool, optional
            As in `huggingface_hub`; by default the one you are logged in with.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        LicenceError
            If the upload holds a donor's weights whose licence is unknown or gated, and `licence` is not given.
        """
        from huggingface_hub import HfApi

        from pifi_probe.plugin.card import check_licence

        check_licence(self, licence)
        self.licence_statement = licence
        api = HfApi(token=token)
        # transformers' own method would replace our card, and with it the donor's licence, by an empty template.
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message).commit_url)


class PiFiForSequenceClassification(PiFiPreTrainedModel):
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

    def __init__(
        self,
        config: PiFiConfig,
        encoder: PreTrainedModel | None = None,
        layers: list[FrozenLayer] | None = None,
    ) -> None:
        super().__init__(config)
        self.encoder = encoder if encoder is not None else AutoModel.from_config(config_from_dict(config.encoder))
        d_slm = int(self.encoder.config.hidden_size)
        self.plugin: PlugIn | FoldedPlugIn | None = None
        if config.folded:
            self.plugin = FoldedPlugIn(**config.folded)
        elif config.control != "vanilla":
            layers = layers if layers is not None else [_skeleton(item) for item in config.layers]
            self.plugin = PlugIn(layers, d_slm, self._plugin_width(layers), config)
        self.head = Head(d_slm, config.num_labels, config.head_dropout)
        self.post_init()
        self.freeze_layers()

    def _plugin_width(self, layers: list[FrozenLayer]) -> int:
        return layers[0].hidden_size if layers else self.config.plugin_width

    @property
    def frozen_layers(self) -> list[FrozenLayer]:
        """The plugged layers, in series; empty for folded models and for controls without a layer."""
        if not isinstance(self.plugin, PlugIn):
            return []
        return [layer for layer in self.plugin.layers if isinstance(layer, FrozenLayer)]

    def freeze_layers(self) -> None:
        """Freeze the plugged layers; they stay trainable only in the control ``"unfrozen"``."""
        for layer in self.frozen_layers:
            if layer.card.variant == "unfrozen":
                layer.unfreeze()
            else:
                layer.freeze()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutput | tuple[torch.Tensor, ...]:
        """Classify a batch of texts.

        Parameters
        ----------
        input_ids : Tensor, (batch, seq), int64
        attention_mask : Tensor, (batch, seq)
            1 for tokens, 0 for padding on either side.
        token_type_ids : Tensor, (batch, seq), optional
        labels : Tensor, (batch,), int64, optional
            With labels, ``loss`` is the mean cross-entropy in nats.

        Returns
        -------
        SequenceClassifierOutput
            With ``logits`` (batch, n_labels).
        """
        pooled = self.pooled_output(input_ids, attention_mask, token_type_ids, inputs_embeds)
        logits = self.head(pooled)  # (batch, n_labels)
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def pooled_output(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return what the head sees: (batch, d_slm)."""
        states, mask = self.encode(input_ids, attention_mask, token_type_ids, inputs_embeds)
        if self.plugin is None:
            return pool(states, mask, self.config.pooling)
        if self.config.feed == "sequence":
            return pool(self.plugin(states, mask), mask, self.config.pooling)
        return self.plugin(pool(states, mask, self.config.pooling))

    def encode(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the encoder's token vectors (batch, seq, d_slm) and the mask (batch, seq) they were made with."""
        tokens = input_ids if input_ids is not None else inputs_embeds
        assert tokens is not None, "input_ids or inputs_embeds"
        mask = attention_mask if attention_mask is not None else tokens.new_ones(tokens.shape[:2], dtype=torch.long)
        extra: dict[str, torch.Tensor | None] = {"inputs_embeds": inputs_embeds}
        if token_type_ids is not None and self._takes_token_types:
            extra["token_type_ids"] = token_type_ids
        positions = left_padding_positions(self.encoder, mask)
        if positions is not None:
            extra["position_ids"] = positions
        if getattr(self.encoder.config, "use_cache", None):
            extra["use_cache"] = False  # type: ignore[assignment]
        output = self.encoder(input_ids=input_ids, attention_mask=mask, **extra)
        return output.last_hidden_state, mask

    @property
    def _takes_token_types(self) -> bool:
        return bool(getattr(self.encoder.config, "type_vocab_size", 0))

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's input embeddings."""
        return self.encoder.get_input_embeddings()

    def fold(self, form: str = "auto") -> PiFiForSequenceClassification:
        """Return the exact inference form of this model, which stands alone.

        Parameters
        ----------
        form : {"auto", "z", "grouped"}
            ``"z"``: both projections folded into the layer (SELECTION B.2); ``"grouped"``: the single-token
            path with folded scales; ``"auto"``: the smaller of those that are exact.

        Returns
        -------
        PiFiForSequenceClassification
            ``.fold_report`` says parameters, bytes and multiply-accumulates before and after.

        Raises
        ------
        PlugInError
            For ``feed="sequence"`` and for models without a frozen layer.
        """
        plugin, report = fold_plugin(self, form)
        config = PiFiConfig.from_dict(self.config.to_dict())
        config.save_layer = True  # a folded model stands alone
        if isinstance(plugin, FoldedPlugIn):
            config.folded = plugin.shapes
        else:
            config.layers = [describe(layer) for layer in plugin.layers if isinstance(layer, FrozenLayer)]
        model = PiFiForSequenceClassification(config, encoder=self.encoder, layers=[])
        model.plugin, model.head = plugin, self.head
        model.fold_report = report
        return model.eval()

    fold_report: FoldReport | None = None
    licence_statement: str | None = None

    def restore_layers(self) -> None:
        """Read the referenced layers from their donors and check that they are the same.

        Raises
        ------
        CheckpointError
            If the donor's layer no longer has the stored sha256.
        """
        from pifi_probe.layers.extract import extract
        from pifi_probe.plugin.variants import make_variant

        for layer in self.frozen_layers:
            card = layer.card
            donor = extract(card.spec, dtype=card.dtype, device=layer.shell.device)
            assert isinstance(donor, FrozenLayer)
            again = make_variant(donor, card.variant, single_token=card.reduced, seed=card.variant_seed)
            if again.digest() != card.sha256 and card.variant != "unfrozen":
                raise CheckpointError(
                    "the donor's layer is not the one this model was trained with (sha256 differs)",
                    where=card.spec,
                    next="name the revision that was used, or ask for the model saved with save_layer=True",
                )
            layer.assign(dict(again.tensors()))


def describe(layer: FrozenLayer) -> dict[str, Any]:
    """Return what a configuration stores of a layer: its card and its one-layer configuration."""
    return {"card": asdict(layer.card), "config": layer.config.to_dict()}


def _skeleton(item: Mapping[str, Any]) -> FrozenLayer:
    return FrozenLayer.skeleton(config_from_dict(item["config"]), LayerCard.from_dict(item["card"]))


AutoConfig.register("pifi", PiFiConfig)
AutoModelForSequenceClassification.register(PiFiConfig, PiFiForSequenceClassification)
