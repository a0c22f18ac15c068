"""What a search is, as its study keeps it: `Settings`, compared when a search is resumed, and where its texts are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from pifi_probe.errors import CorruptFileError, SearchError
from pifi_probe.layers.spec import Layers, layer_numbers, layer_ranges, model_names
from pifi_probe.reading import Refused, typed
from pifi_probe.selection.space import Modes, Space
from pifi_probe.vocabulary import in_words_of_today, stored_settings

if TYPE_CHECKING:
    from pifi_probe.selection.store import Store
    from pifi_probe.tasks.task import Task
    from pifi_probe.training.key import RunKey
    from pifi_probe.training.recipe import Recipe

__all__ = [
    "MAX_SEEDS",
    "Settings",
    "check_wiring",
    "make_space",
    "note_source",
    "read_n_train",
    "read_settings",
    "read_source",
    "settle",
]

MAX_SEEDS = 10_000


@dataclass(frozen=True)
class _StoredSettings:
    recipe: dict[str, Any]


@dataclass(frozen=True)
class _StoredTask:
    name: str
    fingerprint: str
    sizes: dict[str, int]


@dataclass(frozen=True)
class _StoredStrategy:
    name: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """What a search is, except for its budget and where it runs.

    Parameters
    ----------
    task : dict
        ``name``, ``fingerprint`` and ``sizes`` of the splits.
    slm : str
    llms : list of str
    wiring : str
    recipe : dict
        `Recipe.to_dict` without ``seed`` and ``device``, which belong to a trial and to a machine.
    space : dict
        `Space.to_dict`.
    strategy : dict
        ``name`` and ``options``.
    seeds : int
        For each candidate of a sweep, and of the confirmation.
    tokenizer : str
        Name or path of another tokenizer than the encoder's own; "" for its own.
    """

    task: dict[str, Any]
    slm: str
    llms: list[str]
    wiring: str
    recipe: dict[str, Any]
    space: dict[str, Any]
    strategy: dict[str, Any]
    seeds: int
    tokenizer: str = ""

    @classmethod
    def of(
        cls,
        task: Task,
        slm: str,
        space: Space,
        *,
        wiring: str,
        recipe: Recipe,
        strategy: str,
        options: Mapping[str, Any],
        seeds: int,
        tokenizer: str = "",
    ) -> Settings:
        """Describe a search."""
        check_wiring(wiring)
        if seeds < 1:
            raise SearchError(f"n_seeds={seeds}", where="n_seeds", next="give at least 1; 3 show the noise of seeds")
        sizes = {name: len(split) for name, split in task.splits.items()}
        kept = {name: value for name, value in recipe.to_dict().items() if name not in ("seed", "device")}
        return cls(
            {"name": task.name, "fingerprint": task.fingerprint, "sizes": sizes},
            slm,
            [name for name, _ in space.models],
            wiring,
            kept,
            space.to_dict(),
            {"name": strategy, "options": dict(options)},
            seeds,
            tokenizer,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Settings:
        """Rebuild settings from `to_dict`; what an older version did not know yet gets its default.

        Raises
        ------
        SearchError
            If a newer version has written something that this one does not know.
        CorruptFileError
            If it is not a description of a search.
        """
        from pifi_probe.training.recipe import Recipe

        known = {field.name for field in fields(cls)}
        kept = {name: value for name, value in Recipe().to_dict().items() if name not in ("seed", "device")}
        try:
            recipe = stored_settings(typed(_StoredSettings, values).recipe)
            named = {field.name for field in fields(Recipe)} - {"seed", "device"}
            unknown = sorted({*values} - known) + [f"recipe.{name}" for name in sorted({*recipe} - named)]
            if not unknown:
                return cls._checked({**in_words_of_today(values), "recipe": {**kept, **recipe}})
        except Refused as error:
            raise CorruptFileError(
                f"the settings of the study are damaged: {error}", next="restore the file from a copy, or name another"
            ) from error
        raise SearchError(
            f"the study was made by a newer version, with settings unknown here: {', '.join(unknown)}",
            next="upgrade pifi-probe, or name another study file",
        )

    @classmethod
    def _checked(cls, values: Mapping[str, Any]) -> Settings:
        """Return settings whose values have their types; raise `Refused` otherwise."""
        found = typed(cls, values)
        typed(_StoredTask, found.task)
        typed(_StoredStrategy, found.strategy)
        if not 1 <= found.seeds <= MAX_SEEDS:
            raise Refused(f"{found.seeds:,} seeds")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return values that JSON can hold."""
        return asdict(self)

    @property
    def key(self) -> RunKey:
        """What makes two searches the same search."""
        from pifi_probe.training.key import RunKey

        return RunKey.of_search(self.to_dict())


def check_wiring(wiring: object) -> None:
    """Raise SearchError if it is no wiring."""
    from pifi_probe.plugin.config import WIRINGS

    if not isinstance(wiring, str) or wiring not in WIRINGS:
        raise SearchError(f"unknown wiring {wiring!r}", where="wiring", next=f"use one of {', '.join(WIRINGS)}")


def read_settings(values: Any, where: str) -> tuple[Settings, Space]:
    """Return the settings that a study holds, and its space.

    Raises
    ------
    CorruptFileError
        If a search did not write them.
    SearchError
        If a newer version did.
    """
    settings = Settings.from_dict(values)
    try:
        return settings, Space.from_dict(settings.space)
    except ValueError as error:
        raise CorruptFileError(
            f"the space of the study cannot be read: {error}",
            where=where,
            next="restore the file from a copy, or name another one",
        ) from error


def settle(store: Store, settings: Settings) -> None:
    """Note in a study what its search is, or check that it is this one.

    Raises
    ------
    SearchError
        If it is another one (the difference is shown), or of a newer version.
    CorruptFileError
        If what the study holds is no description of a search.
    """
    if store.noted("settings") is None:
        store.note("settings", settings.to_dict())
    stored, _ = read_settings(store.noted("settings"), str(store.address))  # of several processes the last one's
    differences = [
        f"{name}: {_shown(there)} there, {_shown(here)} here" for name, there, here in stored.key.changed(settings.key)
    ]
    if differences:
        raise SearchError(
            f"the study was made with other settings: {'; '.join(differences[:4])}",
            where=str(store.address),
            next="give the same settings, or name another study file",
        )


def _shown(value: Any) -> str:
    text = str(value) or repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def make_space(
    llm: str | Sequence[str],
    layers: Layers | Mapping[str, Layers],
    max_layers: int,
    designs: Sequence[str],
    modes: Sequence[Mapping[str, object]],
) -> Space:
    """Return the space of a search; opens each model to count its layers.

    Raises
    ------
    SearchError, LayerIndexError
        If the space is empty or a layer is outside its model.
    SpecError, ModelNotFoundError, CheckpointError, HubError
        If a model cannot be opened.
    """
    from pifi_probe.layers.open import open_named

    given = layers.values() if isinstance(layers, Mapping) else (layers,)
    for one in given:
        layer_ranges(one, "layers")  # read before a model is opened
    models = []
    for name in model_names(llm):
        checkpoint = open_named(name)
        models.append((name, int(checkpoint.config.num_hidden_layers)))
    wanted = layers if isinstance(layers, Mapping) else {name: layers for name, _ in models}
    chosen = tuple(layer_numbers(wanted.get(name), n, f"layers of {name}") for name, n in models)
    alternatives: tuple[Modes, ...] = tuple(tuple(sorted(one.items())) for one in modes) or ((),)
    return Space(tuple(models), chosen, max_layers, tuple(designs), alternatives)


# Where the texts of a study come from, as the study says; somebody else may have written it


_MOST = 4096  # characters of a name or path


@dataclass(frozen=True)
class _Source:
    name_or_path: str
    text: str = "text"
    label: str = "label"
    kind: str = ""
    language: str = "en"


def note_source(store: Store, name_or_path: str, n_train: int = 0, **columns: str) -> None:
    """Note in a study where its texts come from: arguments of `load_task`, and how many to train on (0: all)."""
    store.note("source", {"name_or_path": name_or_path, **columns})
    store.note("n_train", n_train)


def read_source(store: Store) -> dict[str, str] | None:
    """Return the arguments of `load_task` that a study names; None where it names none.

    Raises
    ------
    CorruptFileError
        If there are others than the name, `text`, `label`, `kind` and `language`, or one is not text.
    """
    values = store.noted("source")
    if values is None:
        return None
    try:
        source = typed(_Source, values)
        if unknown := sorted(set(values) - set(vars(source))):
            raise Refused(f"unknown entry {unknown[0]!r:.60}")
        if bad := [name for name in values if not _is_name(values[name])]:
            raise Refused(f"{bad[0]} is not a name")
    except Refused as error:
        raise _corrupt(store, f"where its texts come from cannot be read: {error}") from error
    return {name: str(value) for name, value in values.items()}


def read_n_train(store: Store) -> int:
    """Return how many texts a study trains on; 0 for all.

    Raises
    ------
    CorruptFileError
        If it is not a number of texts.
    """
    value = store.noted("n_train") or 0
    if type(value) is not int or value < 0:
        raise _corrupt(store, f"it trains on {value!r:.40} texts")
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MOST and value.isprintable()


def _corrupt(store: Store, what: str) -> CorruptFileError:
    return CorruptFileError(
        f"the study was altered or damaged: {what}",
        where=str(store.address),
        next="open it from Python with its task: Study.open(study, task=...), or restore it from a copy",
    )
