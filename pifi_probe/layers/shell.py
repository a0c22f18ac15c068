"""The family's own base model around one layer, with all that lies outside the layer silenced.

The layer is built by the family's own constructor, with its true index and the whole configuration: index and depth
decide which modules a layer has, and enter the arithmetic of some. The model around it believes that it has one layer.
"""

from __future__ import annotations

import copy
import hashlib
import math
import threading
from collections import OrderedDict
from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from pifi_probe.compat import base_model, name_with_conversions, quiet_transformers
from pifi_probe.errors import CheckpointError, PifiProbeError, UnsupportedFamilyError
from pifi_probe.layers.cut import cut_config, donor_config
from pifi_probe.layers.families import family_of

__all__ = [
    "CHECK_CONFIG",
    "around_layer",
    "layers_of",
    "layers_path",
    "load_around",
    "make_shell",
    "refuse_absurd_config",
    "silence",
    "weight_names",
]

CHECK_CONFIG = "check that config.json belongs to these weights, or download the model again"  # what to do next

_MOST_OUTSIDE = 1 << 28  # entries of position tables and masks besides one layer; OPT-175B has 25 million
_KEPT = 4  # whole models without weights; one of 61 layers takes 5 s to build and some 10 MB


class Silent(nn.Module):
    """Stands where a norm, an embedding or a table of positions outside the layer was.

    States pass unchanged; to positions and masks, which are whole numbers, nothing is what it answers.
    """

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        for given in (*args, *kwargs.values()):
            if isinstance(given, torch.Tensor):
                return given if given.is_floating_point() else torch.zeros(())
        return torch.zeros(())


class _Nothing(nn.Module):
    """Stands where positions are added that are computed from a mask, which may hold fractions."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return torch.zeros(())


def layers_path(base: PreTrainedModel) -> str:
    """Return where a base model keeps its layers: ``"layers"``, ``"decoder.layers"``, ``"h"``, ...

    It is the outermost list with as many entries as there are layers.

    Raises
    ------
    UnsupportedFamilyError
        If there is none.
    """
    n_layers = int(base.config.num_hidden_layers)
    lists = [
        (name.count("."), not isinstance(module[0], GradientCheckpointingLayer), name)
        for name, module in base.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    if not lists:
        raise UnsupportedFamilyError(
            f"the family {base.config.model_type!r} keeps its {n_layers} layers in no list that can be found",
            where=type(base).__name__,
            next="take a model of a family listed on the compatibility page",
        )
    return min(lists)[2]


def own_prefixes(config: PretrainedConfig) -> tuple[str, str]:
    """Return how names of layers begin in the text decoder by itself, and below a language-model head."""
    whole = wholes.get(donor_config(config), stated_dtype(config))
    path = layers_path(whole)
    return path, f"{whole.base_model_prefix}.{path}"


def weight_names(config: PretrainedConfig, index: int) -> frozenset[str]:
    """Return what the weights of a layer are called within it."""
    whole = wholes.get(donor_config(config), stated_dtype(config))
    return frozenset(layers_of(whole)[index].state_dict())


def stated_dtype(config: PretrainedConfig) -> torch.dtype:
    """Return the type that a configuration states, float32 when it states none."""
    return config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32


def layers_of(base: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of a family's base model; of a shell, its only one."""
    layers: nn.ModuleList = base.get_submodule(layers_path(base))
    return layers


class _Wholes:
    """Whole base models without weights, of the configurations that were asked for last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: OrderedDict[str, PreTrainedModel] = OrderedDict()
        self.built = 0  # ever, for tests

    def get(self, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
        text = f"{type(config).__qualname__} {dtype} {config.to_json_string(use_diff=False)}"
        key = hashlib.sha256(text.encode()).hexdigest()
        with self._lock:
            if key not in self._models:
                self._models[key] = _without_weights(config, dtype)
                self.built += 1
            self._models.move_to_end(key)
            while len(self._models) > _KEPT:
                self._models.popitem(last=False)
            return self._models[key]


wholes = _Wholes()


def _without_weights(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """Build the whole base model on ``meta``, or say that no model has such a configuration."""
    try:
        with torch.device("meta"), quiet_transformers():
            return base_model(copy.deepcopy(config), dtype)
    except (PifiProbeError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each family fails in its own way on values that cannot be
        raise CheckpointError(
            f"transformers cannot build a layer of this configuration: {type(error).__name__}: {error}",
            where=f"configuration of type {config.model_type!r}",
            next=CHECK_CONFIG,
        ) from error


def around_layer(config: PretrainedConfig, index: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Return the family's base model without weights (on ``meta``), of whose layers only `index` is there.

    Parameters
    ----------
    config : PretrainedConfig
        From `donor_config`: of the whole model.
    index : int
        Of the layer.
    dtype : torch.dtype
        Of the weights.
    """
    whole = wholes.get(config, dtype)
    path = layers_path(whole)
    layers: Any = whole.get_submodule(path)
    own = copy.deepcopy(whole.config)  # of the layer
    layer = copy.deepcopy(layers[index], {id(whole.config): own})
    memo: dict[int, Any] = {id(layers): nn.ModuleList([layer]), id(whole.config): own}
    shell = copy.deepcopy(whole, memo)
    cut = cut_config(own, index)
    for owner in _owners(shell, path):
        if getattr(owner, "config", None) is own:
            owner.config = cut
    shell.donor_config = own
    return shell


def _is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm, which olmo and nanochat have without weights."""
    return "norm" in type(module).__name__.lower()


def before_layers(config: PretrainedConfig, n_tokens: int) -> PreTrainedModel:
    """Return the family's base model (on ``meta``) with `n_tokens` embeddings, whose first layer raises `Caught`."""
    whole = wholes.get(donor_config(config, silenced=False), torch.float32)
    path = layers_path(whole)
    layers: Any = whole.get_submodule(path)
    own = copy.deepcopy(whole.config)
    memo: dict[int, Any] = {id(layers): nn.ModuleList([_Catch(layers[0])]), id(whole.config): own}
    stem = copy.deepcopy(whole, memo)
    cut = cut_config(own, 0)
    for owner in _owners(stem, path):
        if getattr(owner, "config", None) is own:
            owner.config = cut
    table: Any = stem.get_input_embeddings()
    table.num_embeddings = n_tokens
    table.weight = nn.Parameter(table.weight.new_empty(n_tokens, table.weight.shape[1]), requires_grad=False)
    return stem


class Caught(Exception):
    """What the first layer is given; ends a call of the model before it."""

    def __init__(self, states: torch.Tensor) -> None:
        super().__init__()
        self.states = states


class _Catch(nn.Module):
    """Stands where the first layer is, and says of itself what that layer says (its kind of attention)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        plain = {name: value for name, value in vars(layer).items() if isinstance(value, (str, int, float))}
        self.__dict__.update({name: value for name, value in plain.items() if not name.startswith("_")})

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        raise Caught(hidden_states)


def _owners(base: PreTrainedModel, path: str) -> list[Any]:
    """Return the modules on the way from the base model to its list of layers."""
    names = path.split(".")[:-1]
    return [base.get_submodule(".".join(names[:depth])) for depth in range(len(names) + 1)]


def load_around(
    model: PreTrainedModel, tensors: dict[str, torch.Tensor], dtype: torch.dtype
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Load tensors into a model that is built already, with transformers' own loader, its renames and fusions.

    Parameters
    ----------
    model : PreTrainedModel
        On ``meta``; used up.
    tensors : dict
        transformers name to tensor.
    dtype : torch.dtype

    Returns
    -------
    PreTrainedModel, dict
        The model, and what transformers says of loading: ``missing_keys``, ``unexpected_keys``, ``mismatched_keys``.
    """
    kind = type(model)

    def take(self: Any, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(vars(model))

    # The names are the family's: without its module transformers takes the class for foreign code and converts nothing.
    names: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    name = name_with_conversions(kind, model.config.model_type)
    ready: Any = type(name, (kind,), {"__init__": take, **names})
    with quiet_transformers():
        loaded, info = ready.from_pretrained(
            None,
            config=model.config,
            state_dict=tensors,
            dtype=dtype,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )
    loaded.__class__ = kind  # which can be pickled
    return loaded, info


def make_shell(config: PretrainedConfig, index: int, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Build the family's base model around layer `index`, its weights not loaded, on the default device.

    Parameters
    ----------
    config : PretrainedConfig
        From `donor_config`.
    """
    shell = silence(around_layer(config, index, dtype))
    device = torch.get_default_device()
    if device.type != "meta":
        shell.to_empty(device=device)
        shell.initialize_weights()  # above all what is computed: frequencies, slopes
    return shell


def refuse_absurd_config(
    config: PretrainedConfig, index: int, stored: int, where: str, dtype: torch.dtype = torch.float32
) -> None:
    """Refuse a configuration far larger than the stored weights, before anything of its size is allocated.

    Parameters
    ----------
    config : PretrainedConfig
        From `donor_config`.
    index : int
        Of the layer.
    stored : int
        How many weights of the layer are stored.
    where : str
        The layer, for the message.
    dtype : torch.dtype
        In which it will be built.

    Raises
    ------
    CheckpointError
        If the layer, or the position tables next to it, would be absurdly large, or an entry is NaN or infinite.
    """
    for key, value in vars(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise CheckpointError(f"the configuration says {key} = {value}", where=where, next=CHECK_CONFIG)
    shell = around_layer(config, index, dtype)
    expected = sum(p.numel() for p in layers_of(shell).parameters())
    outside = sum(t.numel() for t in (*shell.parameters(), *shell.buffers())) - expected
    if expected > 2 * stored:
        raise CheckpointError(
            f"the checkpoint's tensors do not make up the layer: {stored:,} weights are stored, and the "
            f"configuration asks for {expected:,}",
            where=where,
            next=CHECK_CONFIG,
        )
    if outside > _MOST_OUTSIDE:
        raise CheckpointError(
            f"the configuration asks for tables of {outside:,} entries next to the layer, such as those of positions",
            where=where,
            next=CHECK_CONFIG,
        )


def silence(shell: PreTrainedModel) -> PreTrainedModel:
    """Replace what has weights outside the layer, so that only the layer's tensors remain and its output leaves."""
    path = layers_path(shell)
    way = {id(module) for module in (*_owners(shell, path), layers_of(shell))}
    tables = family_of(shell.config).zeros
    for owner in _owners(shell, path):
        for name, module in list(owner.named_children()):
            if id(module) in way:
                continue
            if name in tables:
                setattr(owner, name, _Nothing())
            elif next(module.parameters(), None) is not None or _is_norm(module):
                setattr(owner, name, Silent())
    return shell
