"""Layouts that are known and not read: made for the kernels of one kind of GPU, or vector codes with code books."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from pifi_probe.errors import UnsupportedFormatError
from pifi_probe.layers.formats.base import Numbers
from pifi_probe.layers.sources import TensorInfo

__all__ = ["refuse_by_name"]

_KERNEL = "its weights are arranged for a GPU kernel"
_CODES = "it stores entries of code books"
_NEXT = (
    "use the checkpoint that this one was made from, or one in GPTQ, AWQ, compressed-tensors (pack-quantized), "
    "bitsandbytes, float8, MXFP4, MLX or GGUF"
)


class _Layout(NamedTuple):
    """A layout by name, how its tensors end, and why it is not read."""

    name: str
    tensors: str
    why: str


_LAYOUTS = (
    _Layout(
        "weights whose inputs are scaled", r"\.(act\.scales|pre_quant_scale)$", "those scales belong to them (AWQ)"
    ),
    _Layout("marlin-24 (compressed-tensors)", r"\.(meta|scale_packed)$", f"{_KERNEL} with 2:4 sparsity"),
    _Layout("sparse-24 (compressed-tensors)", r"\.(compressed|bitmask|row_offsets)$", "it leaves out half the weights"),
    _Layout("Marlin", r"\.(B|workspace|marlin_\w+)$", _KERNEL),
    _Layout("torchao tile-packed int4", r"\._weight_scale_and_zero$", _KERNEL),
    _Layout("HQQ", r"\.W_q$", "its own packing"),
    _Layout("AQLM", r"\.(codes|codebooks)$", _CODES),
    _Layout("QuIP#", r"\.(Qidxs|SV|SU)$", _CODES),
    _Layout("VPTQ", r"\.(centroids|indices)(\.weight)?$", _CODES),
    _Layout("EXL2 or EXL3", r"\.(q_weight|trellis|q_scale_max)$", _KERNEL),
    _Layout("SpQR", r"\.(dense_weights|row_offsets|in_perm)$", "its own packing"),
)
# (key of the settings, its value): the same names of tensors as a format that is read, in another order
_STATED = {
    ("checkpoint_format", "marlin"): ("Marlin", _KERNEL),
    ("checkpoint_format", "gptq_p"): ("GPTQ of planes (gptq_p)", "its numbers are split into planes of bits"),
    ("format", "gptq_p"): ("GPTQ of planes (gptq_p)", "its numbers are split into planes of bits"),
    ("checkpoint_format", "bitblas"): ("BitBLAS", _KERNEL),
    ("format", "bitblas"): ("BitBLAS", _KERNEL),
    ("format", "marlin"): ("Marlin", _KERNEL),
    ("is_marlin_format", True): ("Marlin", _KERNEL),
    ("version", "gemv_fast"): ("AWQ GEMV_FAST", _KERNEL),
    ("version", "llm-awq"): ("AWQ GEMV_FAST", _KERNEL),
    ("version", "marlin"): ("AWQ for Marlin", _KERNEL),
    ("version", "exllama"): ("AWQ for exllama", _KERNEL),
    ("version", "ipex"): ("AWQ for IPEX", _KERNEL),
    ("format", "marlin-24"): ("marlin-24 (compressed-tensors)", f"{_KERNEL} with 2:4 sparsity"),
    ("format", "sparse-24-bitmask"): ("sparse-24 (compressed-tensors)", "it leaves out half the weights"),
    ("format", "sparse-bitmask"): ("sparse-bitmask (compressed-tensors)", "it leaves out the weights of zero"),
    ("quant_method", "gemma"): ("Gemma's quantisation-aware checkpoints", "their widths are stated by patterns"),
    ("quant_method", "bitnet"): ("BitNet", "its weights are packed along rows, and activations belong to it"),
}


def refuse_by_name(left: Iterable[TensorInfo], numbers: Numbers) -> None:
    """Refuse tensors that no format took, when they or the settings betray a layout that is known.

    Raises
    ------
    UnsupportedFormatError
        Naming the layout.
    """
    for info in left:
        found = next((layout for layout in _LAYOUTS if re.search(layout.tensors, info.name)), None)
        if found is not None:
            _refuse(found.name, found.why, info)
        if not info.dtype.startswith(("F64", "F32", "F16", "BF16")) and len(info.shape) > 1:
            refuse_stated(numbers, info)


def refuse_stated(numbers: Numbers, info: TensorInfo) -> None:
    """Refuse a packed tensor when the settings state a layout that is not read."""
    for (key, value), (name, why) in _STATED.items():
        stated = numbers.settings.get(key)
        if stated == value or (isinstance(stated, str) and stated.lower() == value):
            _refuse(name, why, info)


def _refuse(name: str, why: str, info: TensorInfo) -> None:
    raise UnsupportedFormatError(
        f"the checkpoint is stored as {name}, which is not read: {why} ({info.name!r})",
        where=info.source.name,
        next=_NEXT,
    )
