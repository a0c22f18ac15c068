"""`RunKey`: what makes two runs the same run; run folders, experiments, studies and comparisons ask nothing else."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pifi_probe.layers.frozen import FrozenLayer, FrozenLayers, branches_of, list_of
from pifi_probe.layers.reduce import reduce
from pifi_probe.plugin.config import modes_of
from pifi_probe.tasks.shift import shift_view
from pifi_probe.vocabulary import TWINS, WITHOUT_LAYER, in_words_of_today, stored_settings

if TYPE_CHECKING:
    from pifi_probe.tasks.task import Task
    from pifi_probe.training.recipe import Recipe

__all__ = ["RunKey"]

_DERIVED = ("feed", "pooling")  # modes of a wiring that task and encoder may change
_UNLESS_SAID = {"recipe.class_weights": "none"}  # which recipes name only where it was chosen


@dataclass(frozen=True, eq=False)
class RunKey:
    """Everything that a run's numbers follow from, as flat entries; what an older record does not say is left out.

    Keys are equal where their hashes are. Whether a stored run is the one that is wanted is asked with `differences`,
    which forgives what an older record does not say and names what differs.

    Parameters
    ----------
    entries : mapping
        Name to JSON value: ``"task"`` (fingerprint), ``"slm"``, ``"tokenizer"`` (sha256), ``"wiring"``, ``"control"``,
        ``"combine"``, ``"branches"``, every mode, ``"width"``, for each layer ``"layer 1 model"``, ``index``,
        ``revision``, ``variant``, ``dtype``, ``sha256``; ``"test NAME"`` (fingerprint), ``"recipe.NAME"``, ``"start"``
        (sha256 of the weights that it started from). Of a search, what all its trials share: see `of_search`.
    """

    entries: Mapping[str, Any] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunKey) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the entries."""
        return hashlib.sha256(json.dumps(self.entries, sort_keys=True).encode()).hexdigest()

    @classmethod
    def of(
        cls,
        model: Mapping[str, Any],
        task: str,
        recipe: Mapping[str, Any],
        tests: Mapping[str, str] | None = None,
        start: str = "",
    ) -> RunKey:
        """Return the key of a model that was described, or of a stored result.

        Parameters
        ----------
        model : mapping
            As `describe_model` gives it, or a record of an older version.
        task : str
            Fingerprint.
        recipe : mapping
            ``Recipe.to_dict()``.
        tests : mapping, optional
            Name to fingerprint of every test set; None where they do not matter.
        start : str
        """
        model = in_words_of_today(model)
        flat = {name: value for name, value in model.items() if name not in ("layers", "members", "shapes", "label")}
        flat.setdefault("combine", "serial" if len(model.get("layers", ())) > 1 else None)
        if isinstance(shapes := model.get("shapes"), Mapping):
            flat["width"] = shapes["L_in"][0] if "L_in" in shapes else 0
        flat["layers"] = len(model.get("layers", ()))
        for number, layer in enumerate(model.get("layers", ()), start=1):
            kept = {name: value for name, value in layer.items() if name != "spec"}
            flat |= {f"layer {number} {name}": value for name, value in kept.items()}
        return cls._joined(flat, task, recipe, tests, start)

    @classmethod
    def planned(
        cls,
        slm: str,
        layers: FrozenLayers | None,
        task: Task,
        recipe: Recipe,
        *,
        wiring: str,
        control: str | None = None,
        combine: str | None = None,
        also: Iterable[Task] = (),
    ) -> RunKey:
        """Return what is known of a run before its model is built; arguments as for `plug_in` and `fine_tune`."""
        own = [] if layers is None or control in WITHOUT_LAYER else list_of(layers)
        modes = {name: value for name, value in modes_of(wiring).items() if name not in _DERIVED}
        flat: dict[str, Any] = {"slm": slm, "wiring": wiring, "control": control, "layers": len(own), **modes}
        if len(own) > 1 and layers is not None:
            flat["combine"] = combine or _combination(layers)
        elif layers is not None and control not in ("vanilla", "mlp"):
            flat["width"] = list_of(layers)[0].hidden_size
        for number, layer in enumerate(own, start=1):
            card = layer.card
            flat |= {f"layer {number} {name}": getattr(card, name) for name in ("model", "index", "revision", "dtype")}
            flat[f"layer {number} variant"] = control or "real"
            if control is None:
                flat[f"layer {number} sha256"] = _digests(layer)
        tests = {task.name: task.fingerprint} | {one.name: shift_view(one, task)[0].fingerprint for one in also}
        return cls._joined(flat, task.fingerprint, recipe.to_dict(), tests, "")

    @classmethod
    def of_identity(cls, values: Mapping[str, Any]) -> RunKey | None:
        """Return the key of what a run folder holds (`Run.identity`); None where that is not a run."""
        try:
            return cls.of(values["model"], values["task"]["fingerprint"], values["recipe"], start=values["start"])
        except (KeyError, TypeError, AttributeError, ValueError, IndexError):
            return None

    @classmethod
    def of_search(cls, settings: Mapping[str, Any]) -> RunKey:
        """Return the key of a search: what all its trials share, and how it chooses among them.

        Parameters
        ----------
        settings : mapping
            As `pifi_probe.selection.settings.Settings.to_dict` gives them: ``"slm"``, ``"wiring"``, ``"tokenizer"`` (a
            name), ``"llms"``, ``"seeds"``; ``"task.NAME"``, ``"recipe.NAME"``, ``"space.NAME"``, ``"strategy.NAME"``.
        """
        return cls(json.loads(json.dumps(_UNLESS_SAID | _flat(settings))))

    @classmethod
    def _joined(
        cls,
        flat: dict[str, Any],
        task: str,
        recipe: Mapping[str, Any],
        tests: Mapping[str, str] | None,
        start: str,
    ) -> RunKey:
        own = {f"recipe.{name}": value for name, value in stored_settings(recipe).items()}
        flat = _UNLESS_SAID | own | {"task": task} | flat
        if tests is not None:
            flat["tests"] = sorted(tests)
            flat |= {f"test {name}": value for name, value in tests.items()}
        return cls(json.loads(json.dumps(flat | ({"start": start} if start else {}))))

    def replacing(self, **entries: Any) -> RunKey:
        """Return the key with other values; a list stands for any of its values."""
        return RunKey({**self.entries, **entries})

    def without(self, *names: str) -> RunKey:
        """Return the key without some entries; ``"recipe"`` stands for all of the recipe's."""
        kept = (key for key in self.entries if key not in names and key.partition(".")[0] not in names)
        return RunKey({key: self.entries[key] for key in kept})

    def without_draws(self) -> RunKey:
        """Return the key without what depends on the seed only."""
        drawn = {
            f"layer {n} sha256"
            for n in range(1, self.entries.get("layers", 0) + 1)
            if self.entries.get(f"layer {n} variant") in TWINS
        }
        return self.without("recipe.seed", "start", *drawn)

    def changed(self, own: RunKey) -> list[tuple[str, Any, Any]]:
        """Return name, stored and wanted value of what differs from a stored key (this one) to the one that is wanted.

        Entries that only one of them knows are not a difference: older records say less.
        """
        if self.digest == own.digest:
            return []
        both = [name for name in own.entries if name in self.entries]
        pairs = [(name, self.entries[name], own.entries[name]) for name in both]
        return [(name, stored, wanted) for name, stored, wanted in pairs if not _alike(stored, wanted)]

    def differences(self, own: RunKey) -> list[str]:
        """Return in words what `changed` finds; empty: the same run."""
        return [f"{name}: {_shown(stored)} there, {_shown(wanted)} here" for name, stored, wanted in self.changed(own)]


def _flat(values: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """Return nested entries under names with dots; deeper ones with their names, since a missing option is another."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if not isinstance(value, Mapping):
            flat[f"{where}{name}"] = value
            continue
        if where:
            flat[f"{where}{name}"] = sorted(value)
        flat |= _flat(value, f"{where}{name}.")
    return flat


def _alike(stored: Any, own: Any) -> bool:
    """Return whether two values agree; a list next to a single value stands for any of its values."""
    return bool(stored == own or (isinstance(own, list) and not isinstance(stored, list) and stored in own))


def _combination(layers: FrozenLayers) -> str:
    """Return how `plug_in` combines layers that nothing is said of."""
    branches = branches_of(layers)
    if len(branches) == 1:
        return "serial"
    return "mix" if len({branch.hidden_size for branch in branches}) == 1 else "unshared"


def _shown(value: Any) -> str:
    text = " or ".join(str(one)[:12] for one in value) if isinstance(value, list) else repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


_DIGESTS: dict[str, list[str]] = {}


def _digests(layer: FrozenLayer) -> list[str]:
    """Return the sha256 of a layer and of its single-token form, which a pooled feed takes where there is one."""
    own = layer.card.sha256 or layer.digest()
    if own not in _DIGESTS:
        reduced = reduce(layer)
        _DIGESTS[own] = list(dict.fromkeys([own, reduced.card.sha256 or reduced.digest()]))
    return _DIGESTS[own]
