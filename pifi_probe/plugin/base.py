"""What all plugged models share: how they are built, saved, loaded and uploaded, and the encoder at their start."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from pifi_probe.errors import CheckpointError
from pifi_probe.files import existing
from pifi_probe.folders import finish_replacing, replaced_together
from pifi_probe.layers.frozen import FrozenLayer, LayerCard
from pifi_probe.layers.small_files import small_files
from pifi_probe.layers.spec import LayerSpec
from pifi_probe.layers.tokenizer import has_tokenizer, load_tokenizer
from pifi_probe.permissions import pickle_allowed
from pifi_probe.plugin.adapters import settle_adapters
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.combine import make_plugin
from pifi_probe.plugin.config import PiFiConfig, vocabularies
from pifi_probe.plugin.encoding import Tokens, encoder_of, no_pooler, run_encoder
from pifi_probe.plugin.fold import FoldedPlugIn, FoldReport
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.plugin.pooling import pool
from pifi_probe.pretrained import config_from_dict, measure_config, new_model, reading_weights, refuse_adapter

__all__ = ["Head", "PiFiEncoderModel", "PiFiPreTrainedModel", "describe", "own_tokenizer_source"]

_LAYER_PREFIX = "plugin.layers."
_COPY_AGAIN = "copy or download the whole model again: files of it are missing, damaged or of another model"
_UPLOAD = frozenset({"repo_id", "licence", "private", "commit_message", "token"})  # parameters of push_to_hub


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
    supports_gradient_checkpointing = True
    _no_split_modules = ("FrozenLayer", "PlugIn", "GatedSerial", "Mix", "Gated", "Unshared", "FoldedPlugIn", "Head")

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
        """Tie weights only: encoder and layer come with theirs, and drawing them anew would lose them."""
        self.tie_weights(recompute_mapping=False)

    def save_pretrained(self, save_directory: Any, *, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write the model and its card; without the frozen layer's weights when ``config.save_layer`` is False.

        With ``push_to_hub=True`` it is uploaded, too, to `repo_id` or a repository of the folder's name; see
        `push_to_hub`, whose other parameters may be given here, and whose errors are raised before anything is
        written.
        """
        from pifi_probe.plugin.card import check_licence, write_model_card

        upload = {name: kwargs.pop(name) for name in _UPLOAD & kwargs.keys()}
        if push_to_hub:
            check_licence(self, upload.get("licence"))
        self._note_vocabulary()
        if self.config.stores_layers:
            self._describe_layers_as_they_are()
        elif self.config.layers:
            self._name_donors_from_anywhere()
            state = kwargs.pop("state_dict", None) or self.state_dict()
            kwargs["state_dict"] = {key: value for key, value in state.items() if not key.startswith(_LAYER_PREFIX)}
        if not kwargs.get("is_main_process", True):
            super().save_pretrained(save_directory, **kwargs)
            return
        tokenizer = self._tokenizer_to_save(Path(save_directory))
        with replaced_together(save_directory, CONFIG_NAME, _weight_files(kwargs.get("variant"))) as folder:
            super().save_pretrained(folder, **kwargs)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            write_model_card(self, folder)
        if push_to_hub:
            self.push_to_hub(upload.pop("repo_id", None) or Path(save_directory).absolute().name, **upload)

    def _describe_layers_as_they_are(self) -> None:
        """Bring the stored cards up to date with a change of type, and refuse layers that were changed otherwise."""
        for item, layer in zip(self.config.layers, self.frozen_layers, strict=False):  # a folded model has none
            if layer.card.variant != "unfrozen":
                layer.card = layer.card_as_it_is()
                item["card"] = asdict(layer.card)

    def _tokenizer_to_save(self, folder: Path) -> PreTrainedTokenizerBase | None:
        """Return the tokenizer that goes beside the model: where it is not simply its encoder's, nor there already."""
        own = own_tokenizer_source(self) if self.tokenizer is None else ""
        found: PreTrainedTokenizerBase | None = self.tokenizer
        return load_tokenizer(own) if own and existing(own) != folder else found

    def _name_donors_from_anywhere(self) -> None:
        """Make the paths of donors on this machine absolute: whoever loads the model may be in another folder."""
        for item in self.config.layers:
            if found := existing(item["card"]["model"]):
                item["card"]["model"] = str(found.absolute())

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *args: Any,
        allow_external: bool = False,
        allow_pickle: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model; a frozen layer that was saved as a reference is read from its donor again.

        Parameters
        ----------
        pretrained_model_name_or_path : str or Path
            A folder or hub id. No code from it is run.
        *args, **kwargs
            As transformers has them. A `dtype` is that of encoder, projections and head; frozen layers keep the type
            they were extracted in.
        allow_external : bool
            Open whatever donor the model names: paths outside of its folder, too, and hub ids with your token.
            Otherwise embedded names, paths inside of the model's folder, and hub ids without a token.
        allow_pickle : bool
            Read legacy ``.bin`` weights, too, with ``weights_only=True``.

        Raises
        ------
        UnsupportedFormatError
            If the folder is an adapter to another model.
        PlugInError
            If the model names a donor that may not be opened.
        CheckpointError
            If weights are missing, or a frozen layer is not the one that the configuration names: the sha256 of its
            weights is compared always, for layers that are stored with the model and for referenced ones.
        """
        source = pretrained_model_name_or_path
        if source is not None:  # as the model itself is asked for: by whom the hub knows already
            refuse_adapter(source, revision=kwargs.get("revision"), token=kwargs.get("token"))
            if found := existing(os.path.join(source, kwargs.get("subfolder") or "")):
                finish_replacing(found, CONFIG_NAME)
        if not (allow_pickle or pickle_allowed()):
            kwargs.setdefault("use_safetensors", True)
        with_info = kwargs.pop("output_loading_info", False)
        if source is not None and Path(source).is_dir():
            measure_config(source, {})
        with reading_weights(source):
            model, info = super().from_pretrained(source, *args, output_loading_info=True, **kwargs)
        model.refuse_missing(info["missing_keys"], str(source))
        if model.config.layers and not model.config.stores_layers:
            folder = Path(source) if source is not None and Path(source).is_dir() else None
            model.restore_layers(folder, allow_external=allow_external)
        else:
            model.check_layers(str(source))
        model.freeze_layers()
        return (model, info) if with_info else model

    def refuse_missing(self, missing: Iterable[str], where: str) -> None:
        """Raise `CheckpointError` when weights that a model cannot do without were not stored; a new head may be."""
        referenced = bool(self.config.layers) and not self.config.stores_layers
        names = [
            name
            for name in sorted(missing)
            if name.startswith(("encoder.", "plugin.")) and not (referenced and name.startswith(_LAYER_PREFIX))
        ]
        if names:
            raise CheckpointError(
                f"{len(names)} of the model's weights are missing, such as {', '.join(names[:3])}",
                where=where,
                next=_COPY_AGAIN,
            )

    def check_layers(self, where: str) -> None:
        """Raise `CheckpointError` unless the frozen layers are those that the configuration names."""
        for layer in self.frozen_layers:
            if layer.card.variant != "unfrozen":  # which is trained, and has no donor to be compared with
                layer.check_digest(where, _COPY_AGAIN)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        licence: str | None = None,
        private: bool | None = None,
        commit_message: str = "Upload model",
        token: str | bool | None = None,
    ) -> str:
        """Upload the model with its card; ``save_pretrained(push_to_hub=True)`` does the same.

        ``Trainer.push_to_hub`` asks neither this method nor for a licence, and writes a card of its own: give the
        Trainer a `LicenceCheck` among its callbacks. The donor's notice goes up with it in the file ``NOTICE``.

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

    pools: ClassVar[bool] = True  # whether the head reads one pooled vector
    encoder: Any
    plugin: PlugIn | FoldedPlugIn | None
    tokenizer: PreTrainedTokenizerBase | None = None  # where it is not its encoder's
    fold_report: FoldReport | None = None
    licence_statement: str | None = None

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

    @property
    def small_model(self) -> PreTrainedModel:
        """The whole small language model: here the encoder."""
        return self.encoder

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

    def _note_vocabulary(self) -> None:
        """Let the configuration say what size the vocabulary has now, whoever changed it."""
        if vocabularies(now := self.small_model.config.to_dict()) != vocabularies(self.config.encoder):
            self.config.encoder, self.config.vocab_size = now, vocabularies(now)[0]

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

    @property
    def frozen_layers(self) -> list[FrozenLayer]:
        """The plugged layers, branch after branch; empty for folded models and for controls without a layer."""
        if not isinstance(self.plugin, PlugIn):
            return []
        return [layer for layer in self.plugin.layers if isinstance(layer, FrozenLayer)]

    def freeze_layers(self) -> None:
        """Freeze what is not trained: folded plug-ins, and layers but those of the control ``"unfrozen"``."""
        if isinstance(self.plugin, FoldedPlugIn):
            self.plugin.requires_grad_(False)
        for layer in self.frozen_layers:
            if layer.card.variant == "unfrozen":
                layer.unfreeze()
            else:
                layer.freeze()
        if isinstance(self.plugin, AlignedPlugIn):
            self.plugin.hold()

    def restore_layers(self, folder: Path | None = None, *, allow_external: bool = False) -> None:
        """Read the referenced layers from their donors and check that they are the same.

        Parameters
        ----------
        folder : Path, optional
            Of the model.
        allow_external : bool
            As in `from_pretrained`.

        Raises
        ------
        CheckpointError
            If the donor's layer no longer has the stored sha256.
        """
        from pifi_probe.layers.extract import extract_from
        from pifi_probe.plugin.references import open_reference
        from pifi_probe.plugin.variants import make_variant

        for layer in self.frozen_layers:
            card = layer.card
            checkpoint = open_reference(card.model, card.revision, folder, allow_external=allow_external)
            (index,) = LayerSpec(card.model, card.index).indices(int(checkpoint.config.num_hidden_layers))
            donor = extract_from(checkpoint, index, model=card.model, dtype=card.dtype, device=layer.shell.device)
            again = make_variant(donor, card.variant, single_token=card.reduced, seed=card.variant_seed)
            again.with_card(sha256=card.sha256).check_digest(
                f"donor {card.spec}, which the model refers to",
                "name the revision that was used, or ask for the model saved with save_layer=True",
            )
            layer.assign(dict(again.tensors()))


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
        """Return what the head gives, with what an aligned chain is read out to beside it: (batch, n_outputs)."""
        plugin = self.plugin
        if isinstance(plugin, AlignedPlugIn) and plugin.read == "beside":
            tokens = self.encode_deeply(input_ids, attention_mask, token_type_ids, inputs_embeds)
            own = self.head_of(tokens)
            return plugin.head_scale.to(own.dtype) * own + plugin.beside(tokens).to(own.dtype)
        out: torch.Tensor = self.head(self.pooled_output(input_ids, attention_mask, token_type_ids, inputs_embeds))
        return out


def own_tokenizer_source(model: PiFiPreTrainedModel) -> str:
    """Return the folder or repository a model was loaded from, if a tokenizer was saved there with it; else ""."""
    source = str(getattr(model.config, "_name_or_path", "") or "")
    if not source or source == model.config.slm:
        return ""
    files = small_files(source, getattr(model.config, "_commit_hash", None))
    return source if files is not None and has_tokenizer(files.names) else ""


def describe(layer: FrozenLayer) -> dict[str, Any]:
    """Return what a configuration stores of a layer: its card and its one-layer configuration."""
    return {"card": asdict(layer.card), "config": layer.config.to_dict()}


def _weight_files(variant: str | None) -> str:
    """Return a regular expression of the names under which transformers stores weights of a variant."""
    dot = f"[.]{re.escape(variant)}" if variant else ""
    return rf"model{dot}(-\d{{5}}-of-\d{{5}})?[.]safetensors|model[.]safetensors[.]index{dot}[.]json"


def _skeleton(item: Mapping[str, Any]) -> FrozenLayer:
    return FrozenLayer.skeleton(config_from_dict(item["config"]), LayerCard.from_dict(item["card"]))


def _untrained(config: PretrainedConfig) -> PreTrainedModel:
    """Build the encoder of a configuration in the type that is being loaded, not in the one it was once stored in."""
    return new_model(AutoModel, config, dtype=torch.get_default_dtype(), **no_pooler(type(config)))
