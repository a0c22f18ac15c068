"""Reading a layer of which some weights are packed: what to fetch, and the weights that it gives."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch

from pifi_probe.errors import CheckpointError, CorruptFileError, UnsupportedFormatError
from pifi_probe.layers.formats.base import Numbers, Packed
from pifi_probe.layers.formats.refused import refuse_by_name, refuse_stated
from pifi_probe.layers.formats.registry import find_packed, formats
from pifi_probe.layers.sources import TensorInfo, dropping_what_cannot_be
from pifi_probe.reading import Refused

__all__ = ["ANOTHER", "Contents", "Plan", "make_plan"]

ANOTHER = "use the model's bfloat16 or float16 checkpoint, or a GGUF file of it"
_AGAIN = "download the file again"
_AT_ONCE = 1 << 17  # weights that are computed at once, in float32: they stay in the cache of a core
_MOST_A_BYTE = 16  # weights; the most that any packing holds in a stored byte, before anything is allocated
# What concerns activations, or the caches of attention: nothing of it belongs to a weight.
_ACTIVATIONS = re.compile(
    r"\.(\w*(input|output|activation)_(global_)?(scale|zero_point)|qscale_act|(q|k|v|kv|qkv)_(global_)?(scale|zero_point)|"
    r"input_scale_ub|input_max|input_min)$"
)
_SCALE = re.compile(r"scale|zero|bias|absmax|SCB")  # what companions are called
_SHORT = ("I8", "U8", "I16", "U16", "I32", "U32", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0")


@dataclass(frozen=True)
class Contents:
    """How large some weights are.

    Parameters
    ----------
    weights : int
        Numbers, those that are packed counted one by one.
    nbytes : int
        As stored, scales and the like included.
    memory : int
        Bytes in memory, when they are read as ``dtype="auto"`` has it.
    stored_as : str or None
        How quantised weights are stored; None when none are quantised.
    """

    weights: int
    nbytes: int
    memory: int
    stored_as: str | None = None

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each weight."""
        return 8 * self.nbytes / max(self.weights, 1)


@dataclass(frozen=True)
class Plan:
    """What is read of a set of tensors, and what comes of it.

    Parameters
    ----------
    packed : tuple of Packed
    plain : tuple of TensorInfo
        Tensors that are weights as they lie.
    where : str
        The checkpoint, for messages.
    """

    packed: tuple[Packed, ...]
    plain: tuple[TensorInfo, ...]
    where: str

    @property
    def infos(self) -> list[TensorInfo]:
        """All tensors to read, companions among them, so that neighbours are fetched with one request."""
        return [*self.plain, *(info for weight in self.packed for info in weight.parts.values())]

    @property
    def count(self) -> int:
        """How many weights there are, each packed one counted as the numbers that it holds."""
        return sum(math.prod(info.shape) for info in self.plain) + sum(weight.count for weight in self.packed)

    @property
    def nbytes(self) -> int:
        """Bytes to read."""
        return sum(info.nbytes for info in self.infos)

    @property
    def stored_as(self) -> str | None:
        """Return how most of the packed weights are stored; None when there are none."""
        counts: dict[str, int] = {}
        for weight in self.packed:
            label = weight.format.label(weight)
            counts[label] = counts.get(label, 0) + weight.count
        return ", ".join(sorted(counts, key=lambda label: -counts[label])) or None

    def weights(self, stored: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Turn what was read into weights, one after the other, so that the packed form is freed on the way.

        Parameters
        ----------
        stored : dict
            Stored names to tensors; it is emptied.
        dtype : torch.dtype
            Of the packed weights; plain ones keep their own.

        Raises
        ------
        CorruptFileError
            If shapes contradict each other, or a scale or a weight is NaN, infinite or zero where it cannot be.
        """
        found = {info.name: stored.pop(info.name) for info in self.plain}
        for weight in self.packed:
            parts = {role: stored.pop(info.name) for role, info in weight.parts.items()}
            found[weight.name] = self.weight(weight, parts, dtype)
        return found

    def dtype(self, stated: object) -> torch.dtype:
        """Return the type for weights that are packed: the stated one, or that of the plain weights next to them."""
        if isinstance(stated, torch.dtype) and stated.is_floating_point:
            return stated
        plain = [info for info in self.plain if info.dtype in ("F32", "BF16", "F16")]
        widest = max(plain, key=lambda info: info.nbytes).dtype if plain else "F32"
        return {"BF16": torch.bfloat16, "F16": torch.float16}.get(widest, torch.float32)

    def contents(self, dtype: torch.dtype) -> Contents:
        """Return how large it all is, packed weights becoming numbers of `dtype`."""
        memory = sum(info.nbytes for info in self.plain) + dtype.itemsize * sum(each.count for each in self.packed)
        return Contents(self.count, self.nbytes, memory, self.stored_as)

    def without(self, names: Collection[str]) -> Plan:
        """Return the plan for the other weights."""
        packed = tuple(weight for weight in self.packed if weight.name not in names)
        return Plan(packed, tuple(info for info in self.plain if info.name not in names), self.where)

    def weight(self, weight: Packed, parts: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
        """Compute one packed weight out of its parts, which are read; raises as `weights`."""
        with dropping_what_cannot_be(weight.parts["packed"].source):
            try:
                return _unpack(weight, parts, dtype)
            except Refused as error:
                raise _corrupt(weight, str(error)) from error

    def rows(
        self, weight: Packed, read: Callable[[str], torch.Tensor], n: int, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """Return `n` rows of a packed weight, out of those rows of its parts; None where that is not a way to it."""
        first = weight.size("packed")[:1]
        if any(info.shape[:1] != first for info in weight.parts.values()):
            return None
        parts = {role: read(info.name) for role, info in weight.parts.items()}
        infos = {role: _with_rows(info, n) for role, info in weight.parts.items()}
        return self.weight(Packed(weight.name, weight.module, weight.format, infos, weight.numbers), parts, dtype)


def _with_rows(info: TensorInfo, n: int) -> TensorInfo:
    size = info.nbytes // info.shape[0] if info.shape[0] else 0
    return TensorInfo(info.name, info.dtype, (n, *info.shape[1:]), info.source, info.offset, n * size)


def make_plan(
    infos: Mapping[str, TensorInfo], numbers: Numbers, where: str, own: Callable[[str], bool] = lambda name: False
) -> Plan:
    """Find out which tensors are weights, and which belong to weights that are packed.

    `own` tells whether the model itself has a weight of that name, which may be called a scale (inkling).

    Raises
    ------
    UnsupportedFormatError
        If a tensor is of a format that is not read, by its name.
    CheckpointError
        If a tensor of a packed weight is missing, or shapes contradict each other.
    """
    packed = tuple(find_packed(infos, numbers))
    taken = {info.name for weight in packed for info in weight.parts.values()}
    for weight in packed:
        if weight.dtype("packed") == "I32":
            refuse_stated(numbers, weight.parts["packed"])
        try:
            if weight.count > _MOST_A_BYTE * weight.parts["packed"].nbytes:
                raise Refused(f"{weight.count:,} weights do not fit {weight.parts['packed'].nbytes:,} bytes")
        except Refused as error:
            raise _corrupt(weight, str(error)) from error
    left = [info for name, info in infos.items() if name not in taken]
    plain = [info for info in left if info.dtype not in _SHORT and _SCALE.search(info.name) and own(info.name)]
    left = [info for info in left if info not in plain]
    refuse_by_name(left, numbers)
    if packed or numbers.settings:
        left = [info for info in left if not _ACTIVATIONS.search(info.name)]
    for info in left:
        _refuse_orphan(info, infos, numbers)
    twice = {weight.name for weight in packed} & {info.name for info in (*left, *plain)}
    if twice:
        info = infos[min(twice)]
        raise CorruptFileError(
            f"the weight {info.name!r} is stored twice, quantised and as {info.dtype}",
            where=info.source.name,
            next=_AGAIN,
        )
    return Plan(packed, (*left, *plain), where)


def _refuse_orphan(info: TensorInfo, infos: Mapping[str, TensorInfo], numbers: Numbers) -> None:
    """Refuse a tensor that can only be part of a packed weight, naming what is missing next to it."""
    short = info.dtype in _SHORT and len(info.shape) > 1
    beside: list[tuple[tuple[int, bool, bool, int], str, str]] = []  # how likely, format, what is missing
    for at, each in enumerate(formats()):
        endings = {"packed": each.packed, **each.companions}
        for role, ending in endings.items():
            if not info.name.endswith(ending) or (ending[:1].isalnum() and "." + ending not in info.name):
                continue
            if not short and ending in ("", "weight"):
                continue
            stem = info.name.removesuffix(ending)
            missing = [stem + other for other in endings.values() if stem + other not in infos]
            if missing and (role != "packed" or (short and (not each.kinds or info.dtype in each.kinds))):
                there = len(endings) - len(missing)
                rank = (there, info.dtype in each.kinds, numbers.method == each.name, -at)
                beside.append((rank, each.name, ", ".join(missing)))
    if beside and not (info.name.endswith(".weight") and not short):
        _, name, lacks = max(beside)
        raise CheckpointError(
            f"{info.name!r} ({info.dtype}, shape {list(info.shape)}) belongs to a quantised weight, and "
            f"{lacks!r} is missing next to it (as {name} would have it)",
            where=info.source.name,
            next="download the model again, or tell its author",
        )
    if short:
        method = f" ({numbers.method})" if numbers.method else ""
        raise UnsupportedFormatError(
            f"tensor {info.name!r} is stored as {info.dtype} of shape {list(info.shape)}: the checkpoint is quantised"
            f"{method} in a way that is not read",
            where=info.source.name,
            next=ANOTHER,
        )


def _corrupt(weight: Packed, what: str) -> CorruptFileError:
    name = weight.parts["packed"].name
    return CorruptFileError(
        f"the quantised tensor {name!r} ({weight.format.name}) cannot be read: {what}",
        where=weight.parts["packed"].source.name,
        next=_AGAIN,
    )


def _unpack(weight: Packed, parts: dict[str, torch.Tensor], dtype: torch.dtype) -> torch.Tensor:
    """Compute a weight piece by piece, in float32, into a tensor of the wanted type; `parts` is emptied."""
    made = weight.format
    shape = made.shape(weight, parts)
    if math.prod(shape) > _MOST_A_BYTE * max(parts["packed"].nbytes, 1):
        raise Refused(f"a weight of shape {list(shape)} does not fit {parts['packed'].nbytes:,} bytes")
    scales = {role: weight.parts[role].name.rpartition(".")[2] for role in made.scales if role in parts}
    zeros = [role for role, name in scales.items() if _has_zeros(name, parts[role]) and role not in made.small_scales]
    ready = dict(made.prepare(weight, parts))
    others = made.prepare(weight, _without_zeros(parts, zeros)) if zeros else {}
    parts.clear()  # where the packed words were put in another order, they would lie in memory twice
    out = torch.empty(shape, dtype=dtype)
    step = max(1, _AT_ONCE // max(math.prod(shape[1:]), 1))
    for start in range(0, shape[0], step):
        stop = min(start + step, shape[0])
        values = made.rows(weight, ready, start, stop)
        part = out[start:stop].copy_(values)
        if not math.isfinite(part.sum().item()):  # a sum that is finite has no other terms, and is the fastest look
            _refuse_infinite(values, dtype)
        # Where scales of one in place of zero would give something else, a weight has been lost.
        if zeros and not torch.equal(made.rows(weight, others, start, stop), values):
            raise Refused(f"{' or '.join(scales[role] for role in zeros)} is zero over weights that are not")
    return out


def _refuse_infinite(values: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse values that are not numbers, or not in the wanted type; a sum of many large ones may be infinite too."""
    low, high = (bound.item() for bound in torch.aminmax(values))
    if not (math.isfinite(low) and math.isfinite(high)):
        raise Refused("it gives NaN or an infinity")
    if max(-low, high) > torch.finfo(dtype).max:
        raise Refused(f'it gives {max(-low, high):.3g}, beyond {dtype}: ask for dtype="float32"')


def _has_zeros(name: str, values: torch.Tensor) -> bool:
    """Refuse scales that cannot be; tell whether some are zero, which only weights of zero have."""
    if values.dtype in (torch.uint8, torch.float8_e8m0fnu) or not values.numel():
        return False  # codes, or powers of two: what is wrong with them shows in the weights
    scales = values.float().flatten()
    if not bool(torch.isfinite(scales).all()):
        raise Refused(f"{name} holds NaN or an infinity")
    if not bool(scales.any()):
        raise Refused(f"{name} is zero everywhere")
    return not bool(scales.all())


def _without_zeros(parts: Mapping[str, torch.Tensor], roles: list[str]) -> dict[str, torch.Tensor]:
    return {role: part.masked_fill(part == 0, 1) if role in roles else part for role, part in parts.items()}
