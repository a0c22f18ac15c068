"""What cannot be a quantised weight is one line that names the tensor, its file and what to do."""

from __future__ import annotations

import math
import resource
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pifi_probe.errors import CheckpointError, PifiProbeError, UnsupportedFormatError
from pifi_probe.layers.formats import Example, Format, Numbers, formats, make_plan, register_format
from pifi_probe.layers.formats.plan import Plan
from pifi_probe.layers.formats.registry import FORMATS
from tests.quantised import SCHEMES, Tensors
from tests.test_format_cases import infos_of

NAME = "m.layers.1.up_proj.weight"
EXAMPLES = settings(
    max_examples=300,
    derandomize=True,
    database=None,
    deadline=timedelta(seconds=10),
    suppress_health_check=list(HealthCheck),
)


def packed(scheme: str) -> tuple[Tensors, Numbers]:
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    return SCHEMES[scheme].pack(NAME, weight)[0], Numbers(SCHEMES[scheme].settings)


def read(tensors: Mapping[str, torch.Tensor], numbers: Numbers) -> Tensors:
    plan: Plan = make_plan(infos_of(dict(tensors)), numbers, "checkpoint")
    return plan.weights(dict(tensors), torch.float32)


def refused(tensors: Mapping[str, torch.Tensor], numbers: Numbers) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(tensors, numbers)
    line = str(caught.value)
    assert "\n" not in line
    assert "where: memory" in line
    assert "next: " in line
    return line


def companions(tensors: Tensors) -> list[str]:
    optional = ("input_scale", "input_global_scale", "weight_format", "nested_absmax", "nested_quant_map")
    return [name for name in tensors if not name.endswith(optional)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_missing_companion_is_named(scheme: str) -> None:
    tensors, numbers = packed(scheme)
    names = companions(tensors)
    optional = ("g_idx", "zero_point")
    for gone in names:
        if not gone.endswith(optional):
            line = refused({name: tensor for name, tensor in tensors.items() if name != gone}, numbers)
            assert any(name in line for name in names)


MISSING = {  # scheme, ending of the part that is taken away: what the message says
    ("fp8", "_scale_inv"): "weight_scale_inv' is missing next to it (as fp8 would have it)",
    ("bitsandbytes nf4 nested", ".nested_quant_map"): "its maxima are nested, and nested_quant_map is missing",
    ("bitsandbytes nf4 nested", ".nested_absmax"): "its maxima are nested, and nested_absmax is missing",
    ("bitsandbytes fp4", ".absmax"): "weight.absmax' is missing next to it (as bitsandbytes fp4 would have it)",
    ("bitsandbytes int8", "SCB"): "SCB' is missing next to it (as bitsandbytes would have it)",
    ("mlx 4-bit", "biases"): "biases' is missing next to it (as mlx would have it)",
    ("modelopt nvfp4", "_scale_2"): "weight_scale_2' is missing next to it (as nvfp4 would have it)",
    ("awq", "qzeros"): "qzeros' is missing next to it (as awq would have it)",
    ("gptq 3-bit", "scales"): "scales' is missing next to it (as gptq would have it)",
}


@pytest.mark.parametrize(("scheme", "ending"), MISSING)
def test_what_is_missing_is_said_as_the_format_of_the_file_has_it(scheme: str, ending: str) -> None:
    tensors, numbers = packed(scheme)
    gone = next(name for name in tensors if name.endswith(ending))
    assert MISSING[scheme, ending] in refused({n: t for n, t in tensors.items() if n != gone}, numbers)


@pytest.mark.parametrize("scheme", ["gptq 4-bit", "awq", "compressed-tensors int4", "torchao int8"])
def test_a_weight_that_is_there_quantised_and_as_it_was_is_refused(scheme: str) -> None:
    tensors, numbers = packed(scheme)
    assert "is stored twice" in refused(tensors | {NAME: torch.ones(64, 128)}, numbers)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scales_that_are_nan_infinite_or_zero_are_refused(scheme: str) -> None:
    tensors, numbers = packed(scheme)
    scales = [
        name
        for name, tensor in tensors.items()
        if name.endswith(("scale", "scale_inv", "scales", "scale_2", "absmax", "SCB", "qscale_weight"))
        and not name.endswith(("input_scale", "input_global_scale"))
        and tensor.dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)
    ]
    for name in scales:
        for value in (math.nan, math.inf, 0.0):
            bad = tensors[name].float().clone()
            if "gemv" in scheme or value == 0.0:
                bad[...] = value
            else:
                bad.view(-1)[-1] = value
            if tensors[name].dtype == torch.float8_e4m3fn and math.isinf(value):
                continue  # the type has none
            refused(tensors | {name: bad.to(tensors[name].dtype)}, numbers)


def test_one_scale_of_zero_is_refused_over_weights_and_taken_over_zeros() -> None:
    tensors, numbers = packed("fp8")
    weight, scale = tensors[NAME], tensors[NAME + "_scale_inv"]
    weight, scale = torch.cat([weight.float()] * 4).to(weight.dtype), torch.cat([scale] * 2)
    scale[0] = 0.0
    assert "zero over weights" in refused({NAME: weight, NAME + "_scale_inv": scale}, numbers)
    silent = weight.float()
    silent[:128] = 0
    found = read({NAME: silent.to(weight.dtype), NAME + "_scale_inv": scale}, numbers)[NAME]
    assert not found[:128].any()
    assert found[128:].any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_scale_of_another_shape_is_refused(scheme: str) -> None:
    tensors, numbers = packed(scheme)
    one_for_all = all(tensor.numel() == 1 for name, tensor in tensors.items() if name != NAME)
    for name, tensor in tensors.items():
        if name == NAME and one_for_all:
            continue  # any shape of the weight fits
        if name.endswith(("input_scale", "input_global_scale", "weight_format", "_shape")) or "quant_state" in name:
            continue
        longer = torch.cat([tensor.reshape(-1).view(torch.uint8)] * 3).view(tensor.dtype)
        line = refused(tensors | {name: longer.reshape(3, *tensor.shape).flatten(0, min(1, tensor.dim()))}, numbers)
        assert NAME.removesuffix("weight") in line


changes = st.tuples(
    st.integers(0, 9), st.sampled_from(["cut", "turn", "type", "bytes", "drop", "flat"]), st.integers(0)
)


@EXAMPLES
@given(st.sampled_from(sorted(SCHEMES)), changes)
def test_an_altered_weight_gives_an_error_of_our_own_or_finite_numbers(
    scheme: str, change: tuple[int, str, int]
) -> None:
    tensors, numbers = packed(scheme)
    at, how, n = change
    name = sorted(tensors)[at % len(tensors)]
    tensors[name] = _altered(tensors[name], how, n)
    if how == "drop":
        del tensors[name]
    try:
        found = read(tensors, numbers)
    except PifiProbeError as error:
        assert "\n" not in str(error)
        return
    assert all(bool(torch.isfinite(tensor.float()).all()) for tensor in found.values() if tensor.is_floating_point())


def _altered(tensor: torch.Tensor, how: str, n: int) -> torch.Tensor:
    if how == "cut" and tensor.dim():
        return tensor[: n % len(tensor)].contiguous()
    if how == "turn" and tensor.dim() == 2:
        return (
            tensor.view(torch.uint8 if tensor.dtype.itemsize == 1 else tensor.dtype).T.contiguous().view(tensor.dtype)
        )
    if how == "type":
        return tensor.reshape(-1).view(torch.uint8).reshape(*tensor.shape, -1).flatten(-2) if tensor.dim() else tensor
    if how == "flat":
        return tensor.reshape(-1)
    if how == "bytes" and tensor.numel():
        raw = tensor.clone().reshape(-1).view(torch.uint8)
        raw[n % len(raw)] = n // 7 % 256
        return raw.view(tensor.dtype).reshape(tensor.shape)
    return tensor


def test_a_shape_that_the_bytes_do_not_fill_allocates_nothing() -> None:
    tensors, numbers = packed("compressed-tensors int4")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tensors | {NAME + "_shape": torch.tensor([1 << 20, 1 << 20])}, numbers)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


LAYOUTS: dict[str, Callable[[], tuple[Tensors, dict[str, object]]]] = {
    "Marlin": lambda: ({"m.B": torch.ones(2, 2, dtype=torch.int32), "m.s": torch.ones(2, 2)}, {}),
    "marlin-24": lambda: ({"m.scale_packed": torch.ones(2, 2), "m.meta": torch.ones(2, 2, dtype=torch.int16)}, {}),
    "sparse-24": lambda: ({"m.bitmask": torch.ones(2, 2, dtype=torch.uint8), "m.compressed": torch.ones(4)}, {}),
    "tile-packed": lambda: (
        {"m._weight_qdata": torch.ones(1, 1, 1, 1, dtype=torch.int32), "m._weight_scale_and_zero": torch.ones(1, 1, 2)},
        {},
    ),
    "HQQ": lambda: ({"m.W_q": torch.ones(2, 2, dtype=torch.uint8)}, {}),
    "exllama": lambda: (packed("awq")[0], {"quant_method": "awq", "version": "exllama"}),
    "GEMV_FAST": lambda: (packed("awq")[0], {"quant_method": "awq", "version": "gemv_fast"}),
    "gptq_p": lambda: (packed("gptq 4-bit")[0], {"quant_method": "gptq", "checkpoint_format": "gptq_p"}),
    "inputs are scaled": lambda: (packed("awq")[0] | {"m.mlp.act.scales": torch.ones(4)}, {"quant_method": "awq"}),
    "Gemma": lambda: (
        {NAME: torch.ones(4, 4, dtype=torch.uint8), NAME + "_scale": torch.ones(4, 1)},
        {"quant_method": "gemma"},
    ),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_for_gpu_kernels_is_refused_by_its_name(name: str) -> None:
    tensors, stated = LAYOUTS[name]()
    with pytest.raises(UnsupportedFormatError, match=name):
        read(tensors, Numbers(stated))


class Doubled(Format):
    """A format of a user: half the weight."""

    name, packed, becomes = "halves", "half", "weight"
    companions = {"scale": "factor"}

    def fits(self, weight: object) -> bool:
        return True

    def shape(self, weight: object, tensors: object) -> tuple[int, ...]:
        return weight.size("packed")  # type: ignore[attr-defined]

    def rows(self, weight: object, tensors: Mapping[str, torch.Tensor], start: int, stop: int) -> torch.Tensor:
        return tensors["packed"][start:stop].float() * tensors["scale"].float()

    def example(self) -> Example:
        return Example({"m.half": torch.ones(2, 2), "m.factor": torch.tensor(2.0)}, torch.full((2, 2), self.expected))

    expected = 2.0


@pytest.fixture
def registered() -> Iterator[None]:
    """Forget afterwards what a test has registered."""
    kept = dict(FORMATS)
    yield
    FORMATS.clear()
    FORMATS.update(kept)


@pytest.mark.usefixtures("registered")
def test_a_format_is_one_class_and_tried_when_it_is_registered() -> None:
    register_format(Doubled)
    found = read({"a.half": torch.ones(3, 2), "a.factor": torch.tensor(5.0), "a.bias": torch.ones(3)}, Numbers())
    assert torch.equal(found["a.weight"], torch.full((3, 2), 5.0))


def raising(*args: object) -> None:
    """Fail as code with a typing error does."""
    raise KeyError("factr")


def example_of(**values: object) -> object:
    """Return a method that gives the example with other parts."""
    parts = {"tensors": {"m.half": torch.ones(2, 2), "m.factor": torch.tensor(2.0)}, "weight": torch.full((2, 2), 2.0)}
    return lambda self: Example(**(parts | values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"expected": 3.0}, "does not give the weight of its example"),
        ({"name": ""}, "lacks name"),
        ({"name": 5}, "has name=5, which is not a text"),
        ({"name": "Halves!"}, "cannot name a format"),
        ({"name": "awq"}, "there is a format 'awq' already"),
        ({"name": "fp8", "variant": "mistral"}, "there is a format 'fp8-mistral' already"),
        ({"variant": None}, "has variant=None"),
        ({"packed": None}, "has packed=None, which is not a text"),
        ({"becomes": 1}, "has becomes=1, which is not a text"),
        ({"packed": "ha/lf"}, "has the ending 'ha/lf', which no name of a tensor has"),
        ({"companions": {}}, "lacks companions"),
        ({"companions": ("factor",)}, "companions=.*not a mapping of texts to texts"),
        ({"companions": {"packed": "factor"}}, "names a role twice: packed, packed"),
        ({"optional": {"zero": None}}, "optional=.*not a mapping of texts to texts"),
        ({"scales": ("nothing",)}, "'nothing' is none of packed, scale"),
        ({"scales": "scale"}, "has scales='scale', which is not a tuple of texts"),
        ({"small_scales": ("packed",)}, "'packed' is none of scale"),
        ({"kinds": ("int32",)}, "'int32' is none of F64, .*I32"),
        ({"linear": "no"}, "has linear='no', which is not True or False"),
        ({"companions": {"scale": "other"}}, "finds 0 weights"),
        ({"rows": lambda self, weight, tensors, start, stop: tensors["packed"][:1].float() * 2}, "does not give"),
        ({"rows": lambda self, weight, tensors, start, stop: tensors["packed"].half()}, "torch.float16, not a tensor"),
        ({"rows": lambda self, weight, tensors, start, stop: None}, "rows.. that give None"),
        ({"rows": lambda self, weight, tensors: None}, r"cannot be called as rows\("),
        ({"rows": lambda self, *args: raising()}, "fails on its own example with KeyError: 'factr'"),
        ({"prepare": lambda self, *args: raising()}, "fails on its own example with KeyError"),
        ({"fits": lambda self, *args: raising()}, "fails on its own example with KeyError"),
        ({"fits": True}, r"cannot be called as fits\("),
        ({"shape": lambda self, weight, tensors: [2, 2]}, r"shape\(\) that gives \[2, 2\]"),
        ({"count": lambda self, weight: 3}, "counts 3 weights, and its example has 4"),
        ({"label": lambda self, weight: None}, r"label\(\) that gives None"),
        ({"example": lambda self: None}, r"example\(\) that gives None, not an Example"),
        ({"example": example_of(tensors=None)}, "fails on its own example with AttributeError"),
        ({"example": example_of(weight=None)}, "other things than tensors"),
        (
            {"example": example_of(tensors={"m.half": torch.ones(2, 2, dtype=torch.complex64)})},
            "complex64, which no file",
        ),
        ({"__init__": lambda self, bits: None}, "fails on its own example with TypeError"),
    ],
)
@pytest.mark.usefixtures("registered")
def test_a_format_that_breaks_its_contract_is_refused(change: dict[str, object], message: str) -> None:
    before = formats()
    with pytest.raises(UnsupportedFormatError, match=message) as caught:
        register_format(type("Broken", (Doubled,), change | {"__module__": "elsewhere"}))
    assert caught.value.where == "elsewhere.Broken" and caught.value.next
    assert formats() == before


@pytest.mark.parametrize("lacked", ["fits", "shape", "rows", "example", "name", "packed", "becomes", "companions"])
def test_a_format_that_lacks_something_is_refused(lacked: str) -> None:
    own = {name: value for name, value in vars(Doubled).items() if name not in (lacked, "__dict__", "__weakref__")}
    with pytest.raises(UnsupportedFormatError, match=f"lacks {lacked}"):
        register_format(type("Doubled", (Format,), own))


@pytest.mark.parametrize("what", [dict, Doubled(), None])
def test_what_is_no_format_is_refused(what: object) -> None:
    with pytest.raises(UnsupportedFormatError, match="derived from Format"):
        register_format(what)  # type: ignore[type-var]
