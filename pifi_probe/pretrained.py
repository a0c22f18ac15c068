"""The one door to transformers' Auto classes: what others have written is read, and never run.

A configuration may name code in five ways: Python files of its own (``auto_map``, ``custom_pipelines``), a compiled
kernel on the hub (``attn_implementation``), a quantiser's package (``quantization_config``), another model
(``adapter_config.json``, ``backbone``), or pickled weights. Here all of them are left out or refused.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel
from transformers.utils import find_adapter_config_file

from pifi_probe.bounds import refuse_absurd_entries
from pifi_probe.compat import quiet_transformers
from pifi_probe.errors import (
    CheckpointError,
    CorruptFileError,
    MismatchError,
    PifiProbeError,
    UnsupportedFamilyError,
    UnsupportedFormatError,
)
from pifi_probe.permissions import ALLOW_PICKLE, Switch, pickle_allowed
from pifi_probe.reading import read_object, refuse_odd_files

__all__ = [
    "config_from_dict",
    "harmless",
    "harmless_entries",
    "measure_config",
    "new_model",
    "open_config",
    "open_model",
    "open_tokenizer",
    "reading_weights",
    "refuse_adapter",
]

# Entries of a configuration that name code, or what is fetched and run. They decide nothing about a model's numbers.
_CODE = frozenset(
    {
        "auto_map",
        "custom_generate",
        "custom_pipelines",
        "distributed_config",
        "fusion_config",
        "kernel_config",
        "transformers_weights",
        "use_kernels",
    }
)
# Which code computes attention or experts: of these only what transformers itself brings, never a kernel of the hub.
_IMPLEMENTATIONS = frozenset(
    f"{internal}{part}_implementation{suffix}"
    for part in ("attn", "experts")
    for internal, suffix in (("", ""), ("_", ""), ("_", "_internal"))
)
_OWN = frozenset({"eager", "sdpa", "grouped_mm", "batched_mm"})
MAX_CONFIG = 1 << 24  # bytes of config.json
_WEIGHTS = frozenset({".safetensors", ".bin"})
_ANOTHER_MODEL = ("backbone", "use_timm_backbone", "use_pretrained_backbone")


def open_config(source: str | Path, **where: Any) -> PretrainedConfig:
    """Return the configuration of a folder, hub id or GGUF file, without what in it names code.

    Parameters
    ----------
    source : str or Path
    **where
        ``revision``, ``gguf_file``, ``local_files_only`` and ``token``, as transformers has them.

    Raises
    ------
    UnsupportedFamilyError
        If the family is known only to code that the model brings with it.
    CheckpointError
        If a size in it is beyond any model, or a pipe or device stands where a file should.
    OSError, ValueError
        Of transformers, for what is missing, unknown or malformed.
    """
    if "gguf_file" not in where:
        measure_config(source, where)
    with quiet_transformers(), _without_its_code(source):
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=False, **where)
    return harmless(config)


def measure_config(source: str | Path, where: Mapping[str, Any]) -> None:
    """Look at the numbers of a configuration before transformers makes lists of their length.

    Raises
    ------
    CheckpointError
        As `open_config`.
    """
    folder, path = Path(source), Path(source) / "config.json"
    if folder.is_dir():
        refuse_odd_files(folder)
        entries = read_object(path, most_bytes=MAX_CONFIG) if path.exists() else {}
    elif folder.exists():
        return  # a file, which is not a configuration: transformers says so
    else:
        with quiet_transformers():
            entries, _ = PretrainedConfig.get_config_dict(source, **where)
    refuse_absurd_entries(entries, str(path))


def config_from_dict(entries: Mapping[str, Any]) -> PretrainedConfig:
    """Return the configuration of class ``entries["model_type"]`` with these entries, but for those that name code.

    Raises
    ------
    CorruptFileError
        If a size in it is beyond any model.
    """
    refuse_absurd_entries(entries, "configuration")
    with quiet_transformers():
        config: PretrainedConfig = AutoConfig.for_model(**harmless_entries(entries))
    return config


def open_model(
    auto: Any,
    source: str | Path,
    *,
    config: PretrainedConfig,
    dtype: torch.dtype | str,
    allow_pickle: bool = False,
    **where: Any,
) -> PreTrainedModel:
    """Load a model's weights into transformers' own class for its configuration.

    Parameters
    ----------
    auto : type
        An Auto class of models.
    source : str or Path
        Folder or hub id.
    config : PretrainedConfig
        From `open_config`.
    dtype : torch.dtype or str
    allow_pickle : bool
        Read legacy ``.bin`` weights, too; with ``weights_only=True``.
    **where
        As for `open_config`, and further options of ``from_pretrained``; with `quantization_config`, by which
        transformers is told to dequantise, quantised weights are read, too.

    Raises
    ------
    UnsupportedFormatError
        If the weights are pickle files, quantised, or an adapter to another model.
    OSError, ValueError
        Of transformers, for what is missing or malformed.
    """
    options: dict[str, Any] = dict(where)
    if "gguf_file" not in where:
        _refuse_other_models(config, str(source))
        refuse_adapter(source, revision=where.get("revision"), token=where.get("token"))
        if "quantization_config" not in where:
            _refuse_quantised(config, str(source))
            _refuse_larger_than_stored(auto, config, Path(source))
        options["use_safetensors"] = None if allow_pickle or pickle_allowed() else True
    with quiet_transformers(), reading_weights(source), _without_its_code(source):
        model: PreTrainedModel = auto.from_pretrained(
            source, config=harmless(config), dtype=dtype, trust_remote_code=False, weights_only=True, **options
        )
    return model


@contextlib.contextmanager
def reading_weights(source: str | Path | None) -> Iterator[None]:
    """Say why weights cannot be read: damaged files, or pickle files that nobody has asked for.

    Raises
    ------
    UnsupportedFormatError
        If there is no safetensors file, which transformers was told to take.
    CorruptFileError
        If a file is damaged, holds code where only weights are read, or the configuration makes no model.
    MismatchError
        If weights do not fit the configuration.
    CheckpointError
        If a file is missing.
    """
    if source and os.path.isdir(source):
        _check_indices(Path(source))
    try:
        with _no_conversion():
            yield
    except FileNotFoundError as error:
        if not (source and os.path.isdir(source)):
            raise
        raise CheckpointError(
            f"a file of the model's weights is missing: {error}",
            where=str(source),
            next="copy or download the whole model again",
        ) from error
    except OSError as error:
        if not _lacks_safetensors(error):
            raise
        raise UnsupportedFormatError(
            "the model has no safetensors; legacy pickle files (.bin) are read only on request",
            where=str(source),
            next=f"pass allow_pickle=True (--allow-pickle), or set {ALLOW_PICKLE}=1, to read them as data alone, "
            "or use a safetensors checkpoint",
        ) from error
    except pickle.UnpicklingError as error:
        raise CorruptFileError(
            "a pickle file holds more than weights, or is damaged; none of its code was run",
            where=str(source),
            next="use a safetensors checkpoint of the model, from a source that you trust",
        ) from error
    except SafetensorError as error:
        raise CorruptFileError(
            f"a safetensors file is damaged: {error}", where=str(source), next="download the file again"
        ) from error
    except (PifiProbeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each family fails in its own way on values that cannot be
        kind = MismatchError if isinstance(error, RuntimeError) else CorruptFileError
        raise kind(
            f"transformers cannot build the model: {type(error).__name__}: {error}",
            where=str(source),
            next="check the options that were given, and that config.json belongs to these weights",
        ) from error


def _check_indices(folder: Path) -> None:
    """Refuse a folder whose list of shards names files elsewhere; transformers would open them."""
    for index in folder.glob("*.index.json"):
        shards = read_object(index).get("weight_map")
        for name in set(map(str, shards.values())) if isinstance(shards, dict) else ["no weight_map"]:
            if Path(name).name != name or name == ".." or "\\" in name or "\0" in name or not isinstance(shards, dict):
                raise CorruptFileError(
                    f"the list of shards names {name!r}, which is not a file of its folder",
                    where=str(index),
                    next="copy or download the whole model again",
                )


def new_model(auto: Any, config: PretrainedConfig, **options: Any) -> PreTrainedModel:
    """Return the untrained model of a configuration, of transformers' own class."""
    model: PreTrainedModel = auto.from_config(harmless(config), trust_remote_code=False, **options)
    return model


def open_tokenizer(source: str | Path, **where: Any) -> Any:
    """Return the tokenizer of a folder, hub id or GGUF file; parameters and errors as of `open_config`."""
    if Path(source).is_dir():
        refuse_odd_files(Path(source))
    try:
        with quiet_transformers(), _without_its_code(source):
            tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **where)
            tokenizer("a")  # settings that cannot be show here
            return tokenizer
    except (PifiProbeError, OSError, MemoryError):
        raise
    except BaseException as error:  # the library of tokenizers panics, too, which is not an Exception
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CorruptFileError(
            f"the tokenizer cannot be read: {type(error).__name__}: {error}",
            where=str(source),
            next="download its files again, or install what its kind needs (sentencepiece, tiktoken, protobuf)",
        ) from error


@contextlib.contextmanager
def _without_its_code(source: str | Path) -> Iterator[None]:
    """Say what transformers means when it asks for ``trust_remote_code=True``, which nobody can give here."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code" not in str(error) or isinstance(error, PifiProbeError):
            raise
        raise UnsupportedFamilyError(
            "the model is of a kind that transformers does not know; the code that it brings with it is never run",
            where=str(source),
            next="update transformers, which may know it by now, or take a model of a known family",
        ) from error


def harmless(config: PretrainedConfig) -> PretrainedConfig:
    """Take out of a configuration, in place, what names code; its parts included."""
    for name, value in list(vars(config).items()):
        if name in _CODE:
            delattr(config, name)
        elif isinstance(value, PretrainedConfig):
            harmless(value)
    for part in ("_attn_implementation", "_experts_implementation"):
        if getattr(config, part, None) not in (None, *_OWN):
            setattr(config, part, None)
    return config


def harmless_entries(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return the entries of a configuration without those that name code; of nested ones likewise."""
    kept: dict[str, Any] = {}
    for name, value in entries.items():
        if name in _CODE or (name in _IMPLEMENTATIONS and not (isinstance(value, str) and value in _OWN)):
            continue
        kept[name] = harmless_entries(value) if isinstance(value, Mapping) else value
    return kept


def _refuse_larger_than_stored(auto: Any, config: PretrainedConfig, folder: Path) -> None:
    """Refuse a configuration that asks for far more weights than the folder has bytes; missing ones would be made up.

    Raises
    ------
    CheckpointError
        With both numbers.
    """
    if not folder.is_dir():
        return
    stored = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in _WEIGHTS and path.is_file())
    with torch.device("meta"):
        expected = sum(tensor.numel() for tensor in new_model(auto, config).parameters())
    if stored and expected > 2 * stored:
        raise CheckpointError(
            f"the configuration asks for {expected:,} weights, and the files have {stored:,} bytes",
            where=str(folder),
            next="check that config.json belongs to these weights, or download the model again",
        )


def _refuse_quantised(config: PretrainedConfig, where: str) -> None:
    """Refuse weights whose reading needs a quantiser's package, and which cannot be trained."""
    settings = getattr(config, "quantization_config", None)
    if settings:
        method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else "unknown"
        raise UnsupportedFormatError(
            f"the model is quantised ({method}), so it cannot be trained",
            where=where,
            next="use the model's float32, bfloat16 or float16 checkpoint",
        )


def _refuse_other_models(config: PretrainedConfig, where: str) -> None:
    named = [name for name in _ANOTHER_MODEL if getattr(config, name, None)]
    if named:
        raise UnsupportedFormatError(
            f"the configuration names another model to be fetched ({named[0]})",
            where=where,
            next="give a model of text that holds its own weights",
        )


def refuse_adapter(source: str | Path, *, revision: str | None = None, token: str | bool | None = None) -> None:
    """Refuse a folder or repository whose adapter would make transformers open the model that it names.

    Raises
    ------
    UnsupportedFormatError
        If there is an ``adapter_config.json``.
    """
    path = Path(source)
    try:
        if path.exists():
            found = (path if path.is_dir() else path.parent) / "adapter_config.json"
            adapter = str(found) if found.exists() else None
        else:
            adapter = find_adapter_config_file(str(source), revision=revision, token=token)
    except (OSError, ValueError):  # no such model, which loading it says better
        return
    if adapter is not None:
        raise UnsupportedFormatError(
            "this is an adapter (adapter_config.json), and the model that it names is not opened",
            where=str(source),
            next="load it with peft, call merge_and_unload() and save_pretrained(folder), and give that folder",
        )


# Without it transformers asks a service on the hub to convert pickle files, which tells it what is loaded here.
_no_conversion = Switch("DISABLE_SAFETENSORS_CONVERSION")


def _lacks_safetensors(error: OSError) -> bool:
    text = str(error)
    return "no file named model.safetensors" in text or "cannot be loaded with `safetensors`" in text
