"""How plugged models are saved, loaded and uploaded."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from pifi_probe.errors import CheckpointError, ModelNotFoundError, PifiProbeError, TokenizerError
from pifi_probe.files import existing
from pifi_probe.folders import finish_replacing, replaced_together
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.references import NamedBy, open_reference
from pifi_probe.layers.spec import LayerSpec
from pifi_probe.layers.tokenizer import load_tokenizer
from pifi_probe.permissions import pickle_allowed
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.config import PiFiConfig, vocabularies
from pifi_probe.plugin.fold import FoldedPlugIn, FoldReport
from pifi_probe.plugin.plugin import PlugIn
from pifi_probe.plugin.tokenizer import own_tokenizer_source
from pifi_probe.pretrained import measure_config, reading_weights, refuse_adapter
from pifi_probe.vocabulary import TWINS

if TYPE_CHECKING:
    from pifi_probe.plugin.onnx_export import OnnxExport

__all__ = ["StoredModel"]

_LAYER_PREFIX = "plugin.layers."
_COPY_AGAIN = "copy or download the whole model again: files of it are missing, damaged or of another model"
_UPLOAD = frozenset({"repo_id", "licence", "private", "commit_message", "token"})  # parameters of push_to_hub


class StoredModel(PreTrainedModel):
    """A model with frozen layers that keep their names and digests on disk."""

    config_class = PiFiConfig
    pools: ClassVar[bool] = True  # whether the head reads one pooled vector
    writes: ClassVar[bool] = False  # whether its encoder is one with a decoder
    hub_tag: ClassVar[str] = ""  # what the hub calls the kind of model
    chooses: ClassVar[bool] = False  # whether a row is several texts, one a choice
    gives: ClassVar[tuple[str, ...]] = ("logits",)  # what of its output another program is to read
    encoder: Any
    plugin: PlugIn | FoldedPlugIn | None
    tokenizer: PreTrainedTokenizerBase | None = None  # where it is not its encoder's
    fold_report: FoldReport | None = None
    licence_statement: str | None = None
    named_by: NamedBy | None = None  # the file whose word the names of encoder and donors are; None: the user's

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
        """Return the tokenizer that goes next to the model: where it is not simply its encoder's, nor there already."""
        if self.tokenizer is not None:
            return self.tokenizer
        own = own_tokenizer_source(self)
        if not own and self.named_by is None and existing(self.config.slm):
            own = self.config.slm  # a path on this machine, which whoever loads the model may not have
        if not own or existing(own) == folder:
            return None
        try:
            found: PreTrainedTokenizerBase = load_tokenizer(own)
        except TokenizerError:
            return None  # there is none; whoever needs one is told
        return found

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
            Open whatever donor the model names: paths outside its folder, too, and hub ids with your token.
            Otherwise embedded names, paths inside the model's folder, and hub ids without a token.
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
        ModelNotFoundError
            If there is no model of this name, here or on the hub.
        """
        try:
            return cls._loaded(
                pretrained_model_name_or_path, *args, external=allow_external, pickles=allow_pickle, **kwargs
            )
        except PifiProbeError:
            raise
        except OSError as error:
            raise ModelNotFoundError(
                f"the model cannot be loaded: {error}",
                where=str(pretrained_model_name_or_path),
                next="give the folder that save_pretrained wrote, or the hub id of a model, and check the connection",
            ) from error

    @classmethod
    def _loaded(
        cls, pretrained_model_name_or_path: Any, *args: Any, external: bool, pickles: bool, **kwargs: Any
    ) -> Any:
        source = pretrained_model_name_or_path
        if source is not None:  # as the model itself is asked for: by whom the hub knows already
            refuse_adapter(source, revision=kwargs.get("revision"), token=kwargs.get("token"))
            if found := existing(os.path.join(source, kwargs.get("subfolder") or "")):
                finish_replacing(found, CONFIG_NAME)
        if not (pickles or pickle_allowed()):
            kwargs.setdefault("use_safetensors", True)
        with_info = kwargs.pop("output_loading_info", False)
        if source is not None and os.path.isdir(source):
            measure_config(source, {})
        with reading_weights(source):
            kwargs.pop("trust_remote_code", None)
            model, info = super().from_pretrained(
                source, *args, output_loading_info=True, trust_remote_code=False, **kwargs
            )
        model.refuse_missing(info["missing_keys"], str(source))
        folder = existing(os.path.join(source, kwargs.get("subfolder") or "")) if source is not None else None
        model.set_named_by(NamedBy(folder, external))
        if model.config.layers and not model.config.stores_layers:
            model.restore_layers()
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
        control = self.config.control
        for layer in self.frozen_layers:
            expected = control if control in (*TWINS, "unfrozen") else "real"
            if layer.card.variant != expected:
                raise CheckpointError(
                    f"the card of the layer says that it is {layer.card.variant!r}, in a model whose layers are "
                    f"{expected!r}",
                    where=where,
                    next=_COPY_AGAIN,
                )
            if expected != "unfrozen":  # which is trained, and has no donor to be compared with
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

    def export_onnx(self, path: str | Path, *, int8: bool = False) -> OnnxExport:
        """Write the model as an ONNX graph, and compare onnxruntime's numbers with the model's.

        The graph takes any number of texts of any length, padded on either side, and computes in float32. Names of
        labels, encoder and donors stand in its metadata; tokenizer and model card are written next to it. A model that
        writes text becomes the graph of one step: ``input_ids``, ``attention_mask`` and ``decoder_input_ids`` in,
        ``logits`` out.

        Parameters
        ----------
        path : str or Path
            A folder, in which the graph is called ``model.onnx``, or a file that ends in ``.onnx``.
        int8 : bool
            Store weights in int8 with onnxruntime's dynamic quantiser: a quarter of the bytes, and other numbers.

        Returns
        -------
        OnnxExport
            The file, the names of inputs and outputs, and the largest difference.

        Raises
        ------
        PlugInError
            If onnx, onnxscript or onnxruntime is missing, the model has operations that ONNX has not, or, without
            `int8`, the numbers differ by more than 1e-4. An older file stays.
        SaveError
            If the folder cannot be written.
        """
        from pifi_probe.plugin.onnx_export import export_onnx

        model: Any = self
        return export_onnx(model, path, int8=int8)

    @property
    def small_model(self) -> PreTrainedModel:
        """The whole small language model: here the encoder."""
        return self.encoder

    def _note_vocabulary(self) -> None:
        """Let the configuration say what size the vocabulary has now, whoever changed it."""
        if vocabularies(now := self.small_model.config.to_dict()) != vocabularies(self.config.encoder):
            self.config.encoder, self.config.vocab_size = now, vocabularies(now)[0]

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

    def set_named_by(self, by: NamedBy) -> None:
        """Note whose word the names of encoder and donors are."""
        self.named_by = by
        for layer in self.frozen_layers:
            layer.named_by = by

    def restore_layers(self) -> None:
        """Read the referenced layers from their donors and check that they are the same.

        Raises
        ------
        PlugInError
            If a file names the donor that may not.
        CheckpointError
            If the donor's layer no longer has the stored sha256.
        """
        from pifi_probe.layers.extract import extract_from
        from pifi_probe.layers.variants import make_variant

        for layer in self.frozen_layers:
            card = layer.card
            checkpoint = open_reference(card.ref, layer.named_by)
            (index,) = LayerSpec(card.model, card.index).indices(int(checkpoint.config.num_hidden_layers))
            donor = extract_from(checkpoint, index, model=card.model, dtype=card.dtype, device=layer.shell.device)
            again = make_variant(donor, card.variant, single_token=card.reduced, seed=card.variant_seed)
            again.with_card(sha256=card.sha256).check_digest(
                f"donor {card.spec}, which the model refers to",
                "name the revision that was used, or ask for the model saved with save_layer=True",
            )
            layer.assign(dict(again.tensors()))


def _weight_files(variant: str | None) -> str:
    """Return a regular expression of the names under which transformers stores weights of a variant."""
    dot = f"[.]{re.escape(variant)}" if variant else ""
    return rf"model{dot}(-\d{{5}}-of-\d{{5}})?[.]safetensors|model[.]safetensors[.]index{dot}[.]json"
