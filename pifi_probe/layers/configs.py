"""What stands next to the weights: the configuration and the licence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from transformers import PretrainedConfig

from pifi_probe.errors import (
    CheckpointError,
    CorruptFileError,
    UnsupportedFamilyError,
)
from pifi_probe.layers.formats import Numbers
from pifi_probe.pretrained import MAX_CONFIG, config_from_dict, open_config
from pifi_probe.reading import Refused, open_file, read_object

__all__ = ["NUMBER_FILES", "read_config", "read_licence", "read_numbers", "read_weight_map"]

# Where the quantisation is described: keys of config.json (MLX writes the second), and files that older tools write
# next to it, with the key in them (ModelOpt).
_SETTINGS = ("quantization_config", "quantization", "compression_config")
# Published with code of their own, and built as another type is: transformers reads the text model of kimi_k25 so.
_BUILT_AS: Mapping[str, str] = {"kimi_k2": "deepseek_v3"}
NUMBER_FILES: Mapping[str, str] = {
    "quantize_config.json": "",
    "quant_config.json": "",
    "hf_quant_config.json": "quantization",
}


def read_config(folder: Path) -> PretrainedConfig:
    """Return the configuration of the text decoder described by ``config.json`` in `folder`.

    Raises
    ------
    CheckpointError
        If there is no ``config.json``, or transformers rejects it.
    UnsupportedFamilyError
        If this transformers does not know the ``model_type``, or the model is not a decoder.
    """
    path = folder / "config.json"
    if not path.exists():
        raise CheckpointError(
            "the folder has no config.json",
            where=str(folder),
            next="give the folder of a whole checkpoint: config.json next to the weights",
        )
    raw = read_object(path, most_bytes=MAX_CONFIG)
    model_type = raw.get("model_type")
    try:
        built_as = _BUILT_AS.get(model_type) if isinstance(model_type, str) else None
        whole = (
            config_from_dict(raw | {"model_type": built_as}) if built_as else open_config(folder, local_files_only=True)
        )
        config = whole.get_text_config(decoder=True)
    except CheckpointError:
        raise
    except Exception as error:  # transformers validates with many kinds of exceptions
        if not isinstance(model_type, str) or "does not recognize this architecture" in str(error) or "auto_map" in raw:
            raise UnsupportedFamilyError(
                f"transformers does not know the model type {model_type!r}",
                where=str(path),
                next="update transformers; models that bring their own code are not run",
            ) from error
        raise CheckpointError(
            f"transformers rejects the configuration: {error}",
            where=str(path),
            next="download the model again",
        ) from error
    n_layers = getattr(config, "num_hidden_layers", None)
    if type(n_layers) is not int or n_layers < 1:
        raise UnsupportedFamilyError(
            f"the model type {model_type!r} states no number of decoder layers",
            where=str(path),
            next="give a decoder language model",
        )
    for key in _SETTINGS:  # or transformers would quantise the layer that we have read, and need the method's package
        vars(config).pop(key, None)
    return config


def read_numbers(folder: Path) -> Numbers:
    """Return what the files of a checkpoint say of the quantisation of its weights; no settings when they say nothing.

    Raises
    ------
    CheckpointError
        If a file cannot be read, or is not a JSON object.
    """
    raw = read_object(folder / "config.json", most_bytes=MAX_CONFIG)
    for part in (raw, raw.get("text_config")):
        for key in _SETTINGS:
            settings = part.get(key) if isinstance(part, dict) else None
            if isinstance(settings, dict) and settings:
                return Numbers(settings)
    for name, key in NUMBER_FILES.items():
        if (folder / name).is_file():
            settings = read_object(folder / name, most_bytes=MAX_CONFIG)
            settings = settings.get(key) if key else settings
            if isinstance(settings, dict) and settings:
                return Numbers(settings)
    return Numbers()


def read_weight_map(path: Path) -> dict[str, str]:
    """Read an index of shards (``model.safetensors.index.json``): tensor name to file name.

    Raises
    ------
    CorruptFileError
        If the index has no map, or a file name in it leads out of the folder.
    """
    weight_map = read_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CorruptFileError("the index has no weight_map", where=str(path), next="download the file again")
    for file in set(map(str, weight_map.values())):
        if re.fullmatch(r"[^/\\:\0]+", file) is None or file in (".", ".."):
            raise CorruptFileError(
                f"the index names the file {file!r}, which is not in its folder",
                where=str(path),
                next="download the file again",
            )
    return {name: str(file) for name, file in weight_map.items()}


def read_licence(folder: Path) -> str | None:
    """Return the licence that the front matter of ``README.md`` states, or None."""
    try:
        with open_file(folder / "README.md") as file:
            text = file.read(1 << 16).decode("utf-8", errors="replace")
    except (OSError, Refused):
        return None
    front = re.match(r"\s*---\s*\n(.*?)\n---", text, re.DOTALL)
    if front is None:
        return None
    entries = dict(re.findall(r"^(license|license_name):[ \t]*(\S.*?)\s*$", front[1], re.MULTILINE))
    licence = entries.get("license", "").strip("\"'[] ")
    return (entries.get("license_name", "").strip("\"' ") if licence in ("", "other") else licence) or licence or None
