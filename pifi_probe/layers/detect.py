"""What a layer needs besides the states that enter it, found by watching its whole model run.

Each number in memory is marked with where it came from: the tokens, or a module of one layer. When a layer is called,
the states that enter it are handed over without marks, so that a marked number which it reads is one that it cannot
compute from them. Small models run with random weights, and each of their layers is then compared with itself in its
shell; large ones run on ``meta``, where the marks travel without numbers.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from pifi_probe.compat import base_model, quiet_transformers
from pifi_probe.errors import PifiProbeError, UnsupportedFamilyError
from pifi_probe.layers.cut import donor_config
from pifi_probe.layers.families import BUILT_IN, family_of, missing_state
from pifi_probe.layers.shell import around_layer, layers_of, layers_path, make_shell, silence

__all__ = ["missing_states", "refuse_missing_state", "refuse_missing_states"]

_SMALL = 1 << 25  # weights of a whole model that is run with numbers
_TOKENS, _PADDED = 17, 5
_TOLERANCE = 1e-4  # relative; both are computed in float32
_NO_DATA = re.compile(r"aten\.(\w*_like|new_\w+|empty\w*|sym_\w+|is_same_size)\b")  # they read no more than a shape
_STREAMS = "several streams of states"
_FAILS = "its model, which cannot be called around it alone"
_ENCODER = "it reads in both directions; a layer is taken from a decoder, which reads from left to right"


@dataclass(frozen=True)
class _Origin:
    """Where a number came from: module `path` of layer `layer`, or the tokens (``layer`` is None)."""

    layer: int | None
    path: str = ""

    def name(self, argument: str) -> str:
        """Name the state, with the argument through which it comes, where there is one."""
        if self.layer is None:
            if "ids" in argument:
                return "the tokens themselves"
            return "the embeddings of the tokens" if _FIRST.search(argument) else "per-layer embeddings of the tokens"
        names = (name for words in (argument, self.path) for pattern, name in _NAMES if pattern.search(words))
        return f"{next(names, 'states')} of layer {self.layer}"

    def way(self, argument: str) -> str:
        """Say how it comes."""
        return f"argument {argument!r}" if argument else f"made by {self.path or 'it'}"


_FIRST = re.compile(r"hidden|embeds|original|states")
_NAMES = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"indexer|topk|top_k", "the tokens chosen by the indexer"),
        (r"router|gate\b|routing", "the state of the router"),
        (r"mamba|ssm|conv|recurr|linear_attn|delta|rnn", "the recurrent state"),
        (r"bias", "the position bias"),
        (r"attn|attention|kv\b|_kv|kv_|key|value|[kv]_proj|\b[kv]\b", "keys and values"),
    )
)


class _Watch(TorchDispatchMode):
    """Marks what is computed, and notes what layers read that is not a function of their own input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.layer: int | None = None  # the one that runs
        self.path: list[str] = []
        self.arguments: dict[int, str] = {}
        self.missing: dict[int, dict[str, str]] = {}  # layer, name of the state, how it comes
        self.calls: dict[int, int] = {}
        self.inputs: dict[int, torch.Tensor] = {}
        self.outputs: dict[int, torch.Tensor] = {}
        self.answers: dict[int, int] = {}  # how many things a layer returns in a tuple
        self._marks: dict[int, frozenset[_Origin]] = {}
        self._kept: list[Any] = []  # as long as a storage lives, no other one has its address

    def mark(self, tensor: torch.Tensor, marks: frozenset[_Origin]) -> None:
        """Say where the numbers of a tensor come from."""
        storage = tensor.untyped_storage()
        self._kept.append(storage)
        self._marks[storage._cdata] = marks

    def marks(self, tensor: torch.Tensor) -> frozenset[_Origin]:
        """Return where the numbers of a tensor come from."""
        return self._marks.get(tensor.untyped_storage()._cdata, frozenset())

    def miss(self, index: int, what: str, way: str = "") -> None:
        """Note what layer `index` needs besides its input."""
        self.missing.setdefault(index, {}).setdefault(what, f" ({way})" if way else "")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
        result = _answer(func, args, kwargs)
        out = [value for value in tree_flatten(result)[0] if isinstance(value, torch.Tensor)]
        if _NO_DATA.search(str(func)):
            marks: frozenset[_Origin] = frozenset()
        else:
            marks = frozenset().union(*map(self.marks, given))
            if self.layer is not None and not func.is_view:
                self._read(given)
        if self.layer is not None:
            marks = frozenset((_Origin(self.layer, ".".join(self.path)),))
        before = {value.untyped_storage()._cdata for value in given}
        for value in out:
            if value.untyped_storage()._cdata not in before:
                self.mark(value, marks)
            elif not func.is_view and func._schema.is_mutable:
                self.mark(value, marks | self.marks(value))
        return result

    def _read(self, given: list[torch.Tensor]) -> None:
        assert self.layer is not None
        for tensor in given:
            for origin in self.marks(tensor):
                if origin.layer != self.layer:
                    argument = self.arguments.get(tensor.untyped_storage()._cdata, "")
                    self.miss(self.layer, origin.name(argument), origin.way(argument))


def _answer(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation; of those whose result depends on numbers that ``meta`` has not, answer with a possible one."""
    tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, torch.Tensor)]
    if not any(tensor.is_meta for tensor in tensors):
        return func(*args, **kwargs)
    name = func.overloadpacket.__name__
    if name == "_local_scalar_dense":
        return tensors[0].dtype == torch.bool or 0
    if name == "nonzero":
        return tensors[0].new_empty((1, tensors[0].dim()), dtype=torch.long)
    if name == "equal":
        return True
    if name in ("index", "index_put", "index_put_", "_unsafe_index_put"):
        values, places, *rest = args
        found: list[Any] = []
        for place in places:
            masks = isinstance(place, torch.Tensor) and place.dtype in (torch.bool, torch.uint8)
            found += [place.new_empty(1, dtype=torch.long)] * place.dim() if masks else [place]
        if rest and found != list(places):  # as many values as places: the one that is asked for will do
            rest[0] = rest[0].flatten()[:1].reshape(())
        return func(values, found, *rest, **kwargs)
    if name == "_grouped_mm":  # its rule of shapes wants bfloat16
        return tensors[0].new_empty((*tensors[0].shape[:-1], tensors[1].shape[-1]))
    if name == "_to_copy" and kwargs.get("device") is not None:
        kwargs = {**kwargs, "device": torch.device("meta")}
    return func(*args, **kwargs)


@contextmanager
def _watched(base: PreTrainedModel, watch: _Watch) -> Iterator[None]:
    """Tell `watch` which layer and which module of it runs."""
    with ExitStack() as stack:

        def hook(module: nn.Module, before: Any, after: Any) -> None:
            stack.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(after, always_call=True).remove)

        for index, layer in enumerate(layers_of(base)):
            hook(layer, *_of_layer(watch, index, layer))
            for name, module in layer.named_modules():
                if name and name.count(".") < 2:
                    hook(module, *_of_module(watch, name))
        stack.enter_context(watch)
        yield


def _of_layer(watch: _Watch, index: int, layer: nn.Module) -> tuple[Any, Any]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        named = inspect.signature(layer.forward).bind_partial(*args, **kwargs).arguments
        stream = next((v for v in named.values() if isinstance(v, torch.Tensor) and v.is_floating_point()), None)
        watch.calls[index] = watch.calls.get(index, 0) + 1
        if stream is None:
            watch.miss(index, "its input is not one tensor of states")
            return None
        if stream.dim() != 3 or stream.shape[-1] != watch.width:
            watch.miss(index, _STREAMS, f"what enters it has the shape {list(stream.shape)}")
        own = stream.clone()
        watch.mark(own, frozenset())
        watch.inputs[index] = own.detach()
        watch.arguments = {
            value.untyped_storage()._cdata: name
            for name, values in named.items()
            for value in tree_flatten(values)[0]
            if isinstance(value, torch.Tensor)
        }
        watch.layer, watch.path = index, []
        swapped = [own if value is stream else value for value in args]
        return tuple(swapped), {name: own if value is stream else value for name, value in kwargs.items()}

    def after(module: nn.Module, args: Any, output: Any) -> None:
        watch.layer, watch.path = None, []
        found = output[0] if isinstance(output, (tuple, list)) else output
        watch.answers[index] = len(output) if isinstance(output, (tuple, list)) else 0
        if isinstance(found, torch.Tensor):
            watch.outputs[index] = found.detach()
            if found.dim() != 3 or found.shape[-1] != watch.width:
                watch.miss(index, _STREAMS, f"what leaves it has the shape {list(found.shape)}")

    return before, after


def _of_module(watch: _Watch, name: str) -> tuple[Any, Any]:
    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        watch.path.append(name.rpartition(".")[2])

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if watch.path:
            watch.path.pop()

    return before, after


def missing_states(config: PretrainedConfig) -> Mapping[int, str]:
    """Return for each layer that is not a function of its input states what it needs besides them.

    Parameters
    ----------
    config : PretrainedConfig
        Of the text decoder, at its true size. The model is run once for each configuration.

    Returns
    -------
    Mapping of int to str
        Layer to the names of what is missing; layers that need nothing are not in it.

    Raises
    ------
    UnsupportedFamilyError, CheckpointError
        If the model cannot be built or run, or is not a decoder.
    """
    text = f"{type(config).__module__} {type(config).__qualname__} {config.to_json_string(use_diff=False)}"
    key = hashlib.sha256(text.encode()).hexdigest()
    with _LOCK:
        if key not in _FOUND:
            _FOUND[key] = _examine(config)
        return _FOUND[key]


_LOCK = threading.Lock()
_FOUND: dict[str, Mapping[int, str]] = {}


def refuse_missing_state(config: PretrainedConfig, index: int, where: str) -> None:
    """Refuse a layer whose output depends on more than the states that enter it.

    Types of the table are compared with themselves by the tests, and say in their configuration what they need; of
    all others the model is run.

    Raises
    ------
    UnsupportedFamilyError
        Naming the state.
    """
    missing = missing_state(config, index)
    if missing is None and config.model_type not in BUILT_IN:
        missing = missing_states(config).get(index)
    if missing is not None:
        raise UnsupportedFamilyError(
            f"layer {index} needs more than the states that enter it: {missing}",
            where=where,
            next="take another layer, or a model of the family without that state",
        )


def refuse_missing_states(config: PretrainedConfig, n_layers: int, model: str) -> None:
    """Refuse a model that cannot be passed layer by layer through its first `n_layers`, before any of them is read.

    Raises
    ------
    UnsupportedFamilyError
        If the family is not known, or one of them needs more than the states that enter it.
    """
    family_of(config)
    for index in range(n_layers):
        refuse_missing_state(config, index, f"{model}[{index}]")


def _examine(config: PretrainedConfig) -> Mapping[int, str]:
    """Run the whole model, and each layer by itself where that is small enough."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), quiet_transformers():
        torch.manual_seed(0)
        try:
            with torch.device("meta"):
                base = base_model(donor_config(config, silenced=False), torch.float32).eval()
            layers_path(base)
            small = sum(parameter.numel() for parameter in base.parameters()) <= _SMALL
            if small:
                base = _with_numbers(config)
            watch = _run(base)
            if small:
                _compare(config, base, watch)
            else:
                _refuse_encoder(config)
                _compare_outside(config, watch)
        except (PifiProbeError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # each family fails in its own way
            raise UnsupportedFamilyError(
                f"the layers of {config.model_type!r} cannot be compared with themselves inside their model: "
                f"{type(error).__name__}: {error}",
                where="the model, run on random tokens",
                next="take a model of a type listed on the compatibility page",
            ) from error
    return {index: "; ".join(map("".join, names.items())) for index, names in watch.missing.items()}


def _with_numbers(config: PretrainedConfig) -> PreTrainedModel:
    """Build the whole model with random weights, norms and biases too."""
    base = base_model(donor_config(config, silenced=False), torch.float32).eval()
    for parameter in base.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return base


def _run(base: PreTrainedModel) -> _Watch:
    """Run the model on a few tokens, the first ones of a row padded, and return what was seen."""
    watch = _Watch(int(base.config.hidden_size))
    real = base.device.type != "meta"
    ids = (torch.arange(2 * _TOKENS, device=base.device) % 4).view(2, _TOKENS)
    watch.mark(ids, frozenset((_Origin(None),)))
    with _watched(base, watch):
        base(input_ids=ids, attention_mask=_mask() if real else None, use_cache=False)
    for index in range(len(layers_of(base))):
        if (calls := watch.calls.get(index, 0)) != 1:
            watch.miss(index, f"the model calls it {calls} times, not once")
    return watch


def _mask() -> torch.Tensor:
    mask = torch.ones(2, _TOKENS, dtype=torch.long)
    mask[0, :_PADDED] = 0
    return mask


def _compare(config: PretrainedConfig, base: PreTrainedModel, watch: _Watch) -> None:
    """Compare each layer in its shell with itself inside the model, and see that it reads from left to right."""
    mask = _mask().bool()
    for index in sorted(watch.outputs.keys() - watch.missing.keys()):
        states, inside = watch.inputs[index], watch.outputs[index]
        try:
            shell = make_shell(donor_config(config), index).eval()
            layers_of(shell)[0].load_state_dict(layers_of(base)[index].state_dict())
            alone = _call(shell, states)
        except Exception as error:  # each family fails in its own way
            watch.miss(index, _FAILS, f"{type(error).__name__}: {error}")
            continue
        size = _TOLERANCE * float(inside[mask].norm())
        if alone.shape != inside.shape or not float((alone - inside)[mask].norm()) <= size:
            watch.miss(index, "something of its model, without which it gives other numbers")
            continue
        other = states.clone()
        other[:, -1] += 1.0  # which no earlier token may see
        if float((_call(shell, other) - alone)[:, :-1][mask[:, :-1]].norm()) > size:
            raise _encoder(config)


def _call(shell: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    found: torch.Tensor = shell(inputs_embeds=states, attention_mask=_mask(), use_cache=False).last_hidden_state
    return found


class _Stub(nn.Module):
    """Stands where a layer is that is too large to run."""

    def __init__(self, returns: torch.Tensor, count: int) -> None:
        super().__init__()
        self.seen: torch.Tensor | None = None
        self._answer: Any = (returns, *[None] * (count - 1)) if count else returns

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        self.seen = hidden_states
        return self._answer


def _compare_outside(config: PretrainedConfig, watch: _Watch) -> None:
    """See that what the shell is given reaches the layer unchanged, and that its output leaves unchanged."""
    for index in sorted({0, len(watch.answers) - 1} - watch.missing.keys()):
        states, returns = torch.randn(2, 2, _TOKENS, int(config.hidden_size))
        shell = silence(around_layer(donor_config(config), index))
        stub = _Stub(returns, watch.answers[index])
        plain = {name: value for name, value in vars(layers_of(shell)[0]).items() if isinstance(value, (str, int))}
        stub.__dict__.update({name: value for name, value in plain.items() if not name.startswith("_")})
        layers_of(shell)[0] = stub
        try:
            shell.to_empty(device="cpu").initialize_weights()
            left = _call(shell.eval(), states)
        except Exception as error:  # each family fails in its own way
            watch.miss(index, _FAILS, f"{type(error).__name__}: {error}")
            continue
        if stub.seen is None or not torch.equal(stub.seen, states) or not torch.equal(left, returns):
            watch.miss(index, "what its model does between its layers, which cannot be silenced")


def _refuse_encoder(config: PretrainedConfig) -> None:
    """Refuse a type without a causal model, where no numbers show in which direction it reads."""
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise _encoder(config, "transformers has no causal model of it, so that its direction of reading is not known")


def _encoder(config: PretrainedConfig, reason: str = _ENCODER) -> UnsupportedFamilyError:
    return UnsupportedFamilyError(
        f"the model family {config.model_type!r} is not supported: {reason}",
        where="model_type of the configuration",
        next="take a model of a type listed on the compatibility page",
    )
