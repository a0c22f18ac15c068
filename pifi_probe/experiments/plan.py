"""An experiment as data: what is claimed, which runs decide it, and how large they are at each scale."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pifi_probe.errors import RecipeError
from pifi_probe.ladder import control_seeds
from pifi_probe.reading import read_bytes
from pifi_probe.vocabulary import BASIC_CONTROLS, in_words_of_today

__all__ = ["Arm", "Block", "Claim", "Experiment", "Scale", "experiments", "load_experiment"]

MAX_BYTES = 1 << 20  # of an experiment's file
_FOLDER = Path(__file__).resolve().parent
_EXPECTED = ("higher", "similar")


@dataclass(frozen=True)
class Arm:
    """One kind of run.

    Parameters
    ----------
    layer : str or None
        A key of the scale's layers; None for an arm without one.
    wiring, control, combine : str
        As for `pifi_probe.plug_in`.
    tuned : bool
        Vanilla at the best of three learning rates.
    """

    layer: str | None = None
    wiring: str = "pifi"
    control: str | None = None
    combine: str | None = None
    tuned: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "wiring", in_words_of_today({"wiring": self.wiring})["wiring"])


@dataclass(frozen=True)
class Block:
    """Runs that can be compared: one small model, one task, further test sets.

    Parameters
    ----------
    slm : str
    task : str or dict
        A name for `load_task`; or its options, with ``file`` in the folder of own data, ``only``, the groups that
        are kept, and ``held_out``, those that become the test split.
    also : tuple
        Further test sets, named likewise.
    arms : tuple of str
        Keys of the experiment's arms; empty for all.
    """

    slm: str
    task: str | Mapping[str, Any]
    also: tuple[str | Mapping[str, Any], ...] = ()
    arms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scale:
    """How large the runs are.

    Parameters
    ----------
    stands_for : str
        What a result at this scale says, and what it does not.
    layers : dict of str to str
        Name to specification. Arms with a layer that is not named here have no part in this scale.
    blocks : dict of str to Block
    seeds : int
        Of an arm with a layer; see `Experiment.seeds_of` for the others.
    recipe : dict
        Settings of `Recipe` that are not the default.
    sizes : dict of str to int
        At most so many rows of each split; a split that is not named stays whole.
    minutes : float or None
        Measured or estimated on two processor cores; None where nobody has run it.
    """

    stands_for: str
    layers: Mapping[str, str]
    blocks: Mapping[str, Block]
    seeds: int
    recipe: Mapping[str, Any]
    sizes: Mapping[str, int]
    minutes: float | None = None


@dataclass(frozen=True)
class Claim:
    """A difference and what the paper says of it.

    Parameters
    ----------
    says : str
        The claim as a sentence.
    arm, against : str
        Keys of two arms.
    source : str
        Where the paper says so.
    value : float or None
        What the paper reports, in points; None where it gives no number.
    expects : {"higher", "similar"}
        `arm` above `against`, or within `margin` points of it.
    margin : float
    test : str or None
        Name of a further test set; None for the task's own.
    metric : str or None
        None for the main one of the task.
    minus : tuple of str
        Blocks whose difference is taken off: a difference of differences.
    blocks : tuple of str
        Whose differences are averaged; empty for all that `minus` does not name.
    """

    says: str
    arm: str
    against: str
    source: str = ""
    value: float | None = None
    expects: str = "higher"
    margin: float = 1.0
    test: str | None = None
    metric: str | None = None
    minus: tuple[str, ...] = ()
    blocks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """One file of this folder.

    Parameters
    ----------
    name, title : str
    arms : dict of str to Arm
    claims : tuple of Claim
    scales : dict of str to Scale
    extras : tuple of str
        Measurements besides the runs; see `pifi_probe.experiments.extras`.
    """

    name: str
    title: str
    arms: Mapping[str, Arm]
    claims: tuple[Claim, ...]
    scales: Mapping[str, Scale]
    extras: tuple[str, ...] = ()

    def scale(self, name: str) -> Scale:
        """Return a scale.

        Raises
        ------
        RecipeError
            If the experiment has none of this name.
        """
        if name not in self.scales:
            raise RecipeError(
                f"the experiment {self.name!r} has no scale {name!r}",
                where="scale",
                next=f"use {' or '.join(self.scales)}",
            )
        return self.scales[name]

    def arms_in(self, scale: Scale, block: str) -> dict[str, Arm]:
        """Return the arms that run in a block."""
        named = scale.blocks[block].arms
        fits = {key: arm for key, arm in self.arms.items() if arm.layer is None or arm.layer in scale.layers}
        return {key: arm for key, arm in fits.items() if not named or key in named}

    def seeds_of(self, scale: Scale, block: str) -> dict[str, int]:
        """Return the seeds of each arm of a block: those in every comparison get more, see `control_seeds`."""
        arms = self.arms_in(scale, block)
        layers = Counter(arm.wiring for arm in arms.values() if arm.control is None and arm.layer is not None)
        more = {key for key, arm in arms.items() if arm.control in BASIC_CONTROLS and not arm.tuned}
        return {
            key: control_seeds(scale.seeds, layers[arm.wiring]) if key in more else scale.seeds
            for key, arm in arms.items()
        }

    def claims_at(self, scale: Scale) -> tuple[Claim, ...]:
        """Return the claims that this scale is about: those whose arms, blocks and test sets it has."""
        return tuple(claim for claim in self.claims if self._has(scale, claim))

    def _has(self, scale: Scale, claim: Claim) -> bool:
        for name in {*claim.blocks, *claim.minus} or scale.blocks:
            if name in scale.blocks and {claim.arm, claim.against} <= self.arms_in(scale, name).keys():
                tests = [_name_of(source) for source in (scale.blocks[name].task, *scale.blocks[name].also)]
                if claim.test is None or claim.test in tests:
                    return True
        return False


def _name_of(source: str | Mapping[str, Any]) -> str:
    return source if isinstance(source, str) else str(source["file"]).split(".")[0]


def experiments() -> list[str]:
    """Return the names of all experiments."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


@cache
def load_experiment(name: str) -> Experiment:
    """Read an experiment.

    Parameters
    ----------
    name : str
        One of `experiments`, or a path of a ``.yaml`` file.

    Raises
    ------
    RecipeError
        If there is none of this name, or the file is not an experiment.
    """
    import yaml

    path = Path(name) if name.endswith((".yaml", ".yml")) else _FOLDER / f"{name}.yaml"
    if not os.path.isfile(path):
        near = difflib.get_close_matches(name, experiments(), n=1)
        raise RecipeError(
            f"there is no experiment {name!r}",
            where="name",
            next=f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(experiments())}",
        )
    try:
        raw = yaml.safe_load(read_bytes(path, MAX_BYTES))
        return _experiment(path.stem, raw)
    except RecipeError:
        raise
    except (yaml.YAMLError, OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RecipeError(
            f"this is not an experiment: {' '.join(str(error).split())}",
            where=str(path),
            next="compare it with the others",
        ) from error


def _experiment(name: str, raw: Mapping[str, Any]) -> Experiment:
    arms = {key: Arm(**(values or {})) for key, values in raw["arms"].items()}
    claims = tuple(_made(Claim, values) for values in raw["claims"])
    scales = {}
    for key, values in raw["scales"].items():
        blocks = {block: _made(Block, entries) for block, entries in values["blocks"].items()}
        scales[key] = _made(Scale, {"recipe": {}, "sizes": {}, **values, "blocks": MappingProxyType(blocks)})
    _check(name, arms, claims, tuple(scales.values()))
    return Experiment(name, raw["title"], arms, claims, scales, tuple(raw.get("extras", ())))


def _made(cls: type[Any], values: Mapping[str, Any]) -> Any:
    """Make a dataclass, lists as tuples."""
    known = {field.name for field in fields(cls)}
    if unknown := sorted(set(values) - known):
        raise KeyError(f"unknown entries of a {cls.__name__.lower()}: {', '.join(unknown)}")
    return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def _check(name: str, arms: Mapping[str, Arm], claims: tuple[Claim, ...], scales: tuple[Scale, ...]) -> None:
    """Raise `KeyError` where one part names another that does not exist."""
    blocks = {block: entry for scale in scales for block, entry in scale.blocks.items()}
    named = {
        "arm": ({arm for claim in claims for arm in (claim.arm, claim.against)}, arms),
        "arm of a block": ({arm for scale in scales for block in scale.blocks.values() for arm in block.arms}, arms),
        "layer": ({arm.layer for arm in arms.values() if arm.layer}, {key for scale in scales for key in scale.layers}),
        "block": ({block for claim in claims for block in (*claim.blocks, *claim.minus)}, blocks),
    }
    for what, (used, known) in named.items():
        if missing := sorted(used - set(known)):
            raise KeyError(f"{name} names the {what} {', '.join(missing)}, which it does not define")
    if any(claim.expects not in _EXPECTED for claim in claims):
        raise KeyError(f"a claim expects one of {', '.join(_EXPECTED)}")
