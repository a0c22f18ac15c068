"""What adapters of ``peft`` may touch of a plugged model: never what is frozen, and what is new is trained whole.

An adapter freezes all weights but its own. Head, L_in and L_out start from a draw and mean nothing untrained, so they
join its ``modules_to_save``: they are trained, and saved with it. peft hands its configurations to the model, after it
has put its modules in, as the attribute ``peft_config``; this is the place where that is put right.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from pifi_probe.errors import PlugInError
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.plugin.combine import GATES
from pifi_probe.plugin.fold import FoldedPlugIn
from pifi_probe.plugin.plugin import PlugIn

if TYPE_CHECKING:
    from pifi_probe.plugin.base import PiFiPreTrainedModel

__all__ = ["check_adapters", "settle_adapters", "trained_whole"]

logger = logging.getLogger(__name__)


def trained_whole(model: PiFiPreTrainedModel) -> list[str]:
    """Return the names of the modules that start from a draw: the head, L_in and L_out, a gate by the input."""
    wanted = [getattr(model, "head", None), *(model.plugin.trained_maps() if isinstance(model.plugin, PlugIn) else [])]
    return [name for name, module in model.named_modules() if any(module is one for one in wanted)]


def settle_adapters(model: PiFiPreTrainedModel, configs: Mapping[str, Any]) -> None:
    """Take adapters out of what is frozen and of what is trained whole, and let the latter be trained.

    Parameters
    ----------
    model : PiFiPreTrainedModel
        Into which peft has just put the modules of its adapters.
    configs : mapping
        peft's configuration of each adapter, by name; ``modules_to_save`` is changed.

    Raises
    ------
    PlugInError
        If nothing is left of the adapters.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper, set_additional_trainable_modules

    asked = _unwrapped(model, AuxiliaryTrainingWrapper, "original_module", _protected)
    asked |= _unwrapped(model, BaseTunerLayer, "base_layer", _protected)
    protected, whole = _protected(model), trained_whole(model)
    _unwrapped(model, BaseTunerLayer, "base_layer", trained_whole)
    for name in protected:
        model.get_submodule(name).requires_grad_(False)  # bias="all" reaches it, too
    names = [name for name, _ in model.named_modules()]
    for adapter, config in configs.items():
        if hasattr(config, "modules_to_save"):
            kept = _without(config.modules_to_save or (), names, protected)
            config.modules_to_save = [*dict.fromkeys([*kept, *whole])]
            set_additional_trainable_modules(model, config, model.config.to_dict(), adapter)
    if asked:
        kinds = sorted({name.rpartition(".")[2] for name in asked})
        logger.warning("the adapter asked for modules that are frozen, which stay as they are: %s", ", ".join(kinds))
        if not any(isinstance(module, BaseTunerLayer) for module in model.modules()):
            raise PlugInError(
                f"all modules that the adapter asked for are frozen: {', '.join(kinds)}",
                where="peft configuration",
                next="name modules of the encoder: "
                + ", ".join(sorted({name.rpartition(".")[2] for name in _linear_names(model.encoder)})),
            )
    if isinstance(getattr(model.plugin, "gates", None), nn.Parameter):
        logger.warning(
            "an adapter cannot hold %s (combine=%r, wiring=%r), which stay as they are; "
            'combine="gated" or "unshared" is trained whole',
            GATES,
            model.config.combine,
            model.config.wiring,
        )


def check_adapters(model: PiFiPreTrainedModel, configs: Mapping[str, Any]) -> None:
    """Refuse adapters that would leave head and projections as they were drawn; peft does not tell of later ones.

    Raises
    ------
    PlugInError
        If the ``modules_to_save`` of an adapter lack a module that is trained whole.
    """
    whole = trained_whole(model) if configs else []
    for adapter, config in configs.items():
        missing = [name for name in whole if name not in (getattr(config, "modules_to_save", whole) or ())]
        if missing:
            raise PlugInError(
                f"adapter {adapter!r} was added later, and {', '.join(missing)} would stay untrained with it",
                where="peft configuration",
                next=f"name them in it, modules_to_save={missing}, or make it alone with get_peft_model",
            )


def _protected(model: Any) -> list[str]:
    """Return the names of what is never trained: frozen layers, folded plug-ins, and maps that were fitted to stay."""
    fixed = [] if model.plugin is None else model.plugin.fixed_maps()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, FoldedPlugIn)
        or (isinstance(module, FrozenLayer) and module.card.variant != "unfrozen")
        or any(module is one for one in fixed)
    ]


def _overlap(name: str, roots: list[str]) -> bool:
    """Return True for a module that lies in one of the roots, is one, or holds one."""
    return any(f"{one}.".startswith(f"{other}.") for root in roots for one, other in ((name, root), (root, name)))


def _unwrapped(model: Any, kind: type, inner: str, roots_of: Callable[[Any], list[str]]) -> set[str]:
    """Put what was there back in place of the wrappers of a kind that overlap with roots, and return their names."""
    found: set[str] = set()
    while True:  # the outermost first: what lies in it has another name then
        roots = roots_of(model)
        names = (name for name, module in model.named_modules() if isinstance(module, kind) and _overlap(name, roots))
        if (name := next(names, None)) is None:
            return found
        model.set_submodule(name, getattr(model.get_submodule(name), inner))
        found.add(name)


def _without(entries: Any, names: list[str], protected: list[str]) -> Iterator[str]:
    """Yield entries of modules_to_save, with one that reaches what is frozen in the full names of all else it means."""
    for entry in entries:
        meant = [name for name in names if name.endswith(entry)]
        free = [name for name in meant if not _overlap(name, protected)]
        yield from [entry] if len(free) == len(meant) else free


def _linear_names(encoder: nn.Module) -> list[str]:
    return [name for name, module in encoder.named_modules() if isinstance(module, nn.Linear)]
