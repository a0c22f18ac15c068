"""A plugged encoder as a model of sentence-transformers: `pifi_probe.sentence_transformer`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pifi_probe.errors import PlugInError
from pifi_probe.plugin.aligned import AlignedPlugIn
from pifi_probe.plugin.base import PiFiEncoderModel
from pifi_probe.vocabulary import MAX_TOKENS

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["sentence_transformer"]


def sentence_transformer(
    model: PiFiEncoderModel | str | Path, *, normalise: bool = True, max_tokens: int = MAX_TOKENS
) -> SentenceTransformer:
    """Return a plugged encoder as a `sentence_transformers.SentenceTransformer`.

    Its only trained parts are those of the plugged model; the embedding is what the model's head would read, so that
    ``encode``, ``similarity``, the losses, evaluators and trainer of sentence-transformers, and ``save`` work. With
    ``feed="pooled"`` the layer stands behind the pooling, else between transformer and pooling.

    Parameters
    ----------
    model : PiFiEncoderModel, str or Path
        From `plug_in`; it is not copied, so training the one trains the other. Or a folder or hub id that
        ``SentenceTransformer.save`` wrote, which opens without any code from it, or in which a plugged model was saved.
    normalise : bool
        Give embeddings a length of 1. A saved SentenceTransformer keeps what it was saved with.
    max_tokens : int
        Tokens per text, the rest is cut off.

    Returns
    -------
    SentenceTransformer
        Embeddings of shape (N, d_slm).

    Raises
    ------
    PlugInError
        If sentence-transformers is missing, or the model has no vector to give: it writes text, or an aligned chain
        is read out next to the encoder (give ``read="back"``).

    Examples
    --------
    >>> model = pp.plug_in("minilm-l6", "smollm2-135m[-1]", task=task)  # doctest: +SKIP
    >>> pp.sentence_transformer(model).encode(["a text", "another"]).shape  # doctest: +SKIP
    (2, 384)
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Normalize

        from pifi_probe.plugin.sentence_module import MODULE, PluggedEncoder
    except ImportError as error:
        raise PlugInError(
            "sentence-transformers 6 is not installed",
            where="pp.sentence_transformer",
            next='pip install "pifi-probe[embeddings]"',
        ) from error
    if isinstance(model, (str, Path)):
        from pifi_probe.layers.small_files import small_files
        from pifi_probe.plugin.loading import open_plugged

        files = small_files(str(model), None)
        if files is not None and "modules.json" in files.names:
            made: SentenceTransformer = SentenceTransformer._load_with_module_classes(
                str(model), {MODULE: PluggedEncoder}, trust_remote_code=False
            )
            return made
        model = open_plugged(model)
    if not isinstance(model, PiFiEncoderModel):
        raise PlugInError(
            f"a {type(model).__name__} gives no vector for a text",
            where="pp.sentence_transformer",
            next="plug the layer into an encoder, for a task of classes or numbers",
        )
    if isinstance(model.plugin, AlignedPlugIn) and model.plugin.read != "back":
        raise PlugInError(
            "an aligned chain that is read out next to the encoder changes the head's numbers, not its vector",
            where=model.config.layer_specs,
            next='plug in with read="back"',
        )
    parts = [PluggedEncoder(model, max_tokens), *([Normalize()] if normalise else [])]
    return SentenceTransformer(modules=parts, device=str(model.device))
