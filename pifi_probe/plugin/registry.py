"""`HEADS`: the model classes, by the name that a kind of task calls them; adding one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TypeVar

from pifi_probe.errors import PlugInError
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.registry import Registry, home_of, told_how

__all__ = ["HEADS", "register_head"]

M = TypeVar("M", bound=type[PiFiPreTrainedModel])
HEADS: Registry[type[PiFiPreTrainedModel]] = Registry("head", PlugInError)
_HOW = "book/extending/head.md shows how"


@told_how(PlugInError, '@register_head("NAME", hub_tag="...")')
def register_head(name: str, *, hub_tag: str) -> Callable[[M], M]:
    """Add a model with a head of its own; a class decorator.

    Parameters
    ----------
    name : str
        What `pifi_probe.kinds.Kind.head` calls it.
    hub_tag : str
        The hub's name for what it does, such as "text-classification"; for the model card.

    Raises
    ------
    PlugInError
        If the class is not a PiFi model, cannot be called with ``input_ids``, ``attention_mask`` and ``labels``, or the
        name is taken, or the class is a head already.
    """

    def register(cls: M) -> M:
        where = home_of(cls) or repr(cls)
        if not (isinstance(cls, type) and issubclass(cls, PiFiPreTrainedModel)):
            raise PlugInError(
                f"the head {name!r} is not a PiFi model",
                where=where,
                next=f"derive it from PiFiEncoderModel (one vector a text) or PiFiTokenModel (one a token): {_HOW}",
            )
        missing = _not_taken(cls)
        if cls.forward is PiFiPreTrainedModel.forward or missing:
            raise PlugInError(
                f"the head {name!r} has no forward() that takes {missing or 'a batch'}",
                where=where,
                next=f"give it one: forward(self, input_ids=None, attention_mask=None, ..., labels=None); {_HOW}",
            )
        if not isinstance(hub_tag, str) or not hub_tag:
            raise PlugInError(
                f"the head {name!r} has no hub_tag", where=where, next=f'name one: "text-classification"; {_HOW}'
            )
        known = next((one for one, there in HEADS.items() if there is cls), name)
        if cls in HEADS.values() and (known, cls.hub_tag) != (name, hub_tag):
            raise PlugInError(
                f"the class {cls.__name__} is the head {known!r} with the hub_tag {cls.hub_tag!r} already",
                where=where,
                next=f"derive a class of your own from it: {_HOW}",
            )
        HEADS.add(name, cls)
        cls.hub_tag = hub_tag
        return cls

    return register


def _not_taken(cls: type[PiFiPreTrainedModel]) -> str:
    """Say what a head's forward() cannot be called with, or ""."""
    try:
        taken = inspect.signature(cls.forward)
    except (TypeError, ValueError):  # it is no function, or not one of Python's
        return "a batch"
    asked = {"input_ids": None, "attention_mask": None, "labels": None}
    rest = any(one.kind is one.VAR_KEYWORD for one in taken.parameters.values())
    missing = [one for one in asked if one not in taken.parameters and not (rest and one == "labels")]
    if missing:
        return " and ".join(missing)
    try:
        taken.bind(None, **asked)
    except TypeError as error:
        return f"these alone ({error})"
    return ""
