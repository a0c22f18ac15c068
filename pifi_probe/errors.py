"""Every error a user can meet: what was wrong, where, and what to do next."""

from __future__ import annotations

from pifi_probe.escaping import one_line

__all__ = [
    "AssetError",
    "CheckpointError",
    "CorruptFileError",
    "EstimatorError",
    "FeatureError",
    "FrozenLayerError",
    "HubError",
    "LayerIndexError",
    "LicenceError",
    "MismatchError",
    "ModelNotFoundError",
    "PifiProbeError",
    "PlugInError",
    "RecipeError",
    "RunInterrupted",
    "SaveError",
    "SearchError",
    "SpecError",
    "TaskError",
    "TokenizerError",
    "TrainingDiverged",
    "UnsupportedFamilyError",
    "UnsupportedFormatError",
]


class PifiProbeError(Exception):
    """Base of all errors of this package.

    Parameters
    ----------
    what : str
        What was wrong, as one sentence without the final full stop.
    where : str
        The file, tensor, column, option or layer in which it was found.
    next : str
        What the user can do about it, as an imperative.

    Notes
    -----
    ``str(error)`` is one line; the command line prints it and exits with code 2.
    """

    def __init__(self, what: str, *, where: str = "", next: str = "") -> None:
        self.what = what
        self.where = where
        self.next = next
        super().__init__(what)

    def __str__(self) -> str:
        parts = [one_line(self.what)]
        if self.where:
            parts.append(f"where: {one_line(self.where)}")
        if self.next:
            parts.append(f"next: {one_line(self.next)}")
        return " | ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.next)


def _rebuild(cls: type[PifiProbeError], what: str, where: str, next: str) -> PifiProbeError:
    return cls(what, where=where, next=next)


class SpecError(PifiProbeError, ValueError):
    """A layer specification does not follow the grammar ``MODEL@revision[i]``."""


class LayerIndexError(PifiProbeError, IndexError):
    """A layer index is outside the model."""


class ModelNotFoundError(PifiProbeError, FileNotFoundError):
    """A model name is not a hub id, folder, file or embedded asset."""

    def __str__(self) -> str:  # OSError has a __str__ of its own
        return PifiProbeError.__str__(self)


class CheckpointError(PifiProbeError, ValueError):
    """A checkpoint lacks something or contradicts itself."""


class CorruptFileError(CheckpointError):
    """A file is truncated, malformed or not what its name says."""


class MismatchError(CheckpointError, RuntimeError):
    """A configuration and the weights next to it do not fit each other; transformers has a RuntimeError for it."""


class UnsupportedFormatError(CheckpointError):
    """A checkpoint format or quantisation that this package does not read."""


class UnsupportedFamilyError(PifiProbeError, NotImplementedError):
    """A model whose layers cannot be taken by themselves."""


class FrozenLayerError(PifiProbeError, RuntimeError):
    """A frozen layer was about to be trained, or has changed."""


class HubError(PifiProbeError, ConnectionError):
    """The hub refused, failed or lacks what was asked for."""

    def __str__(self) -> str:
        return PifiProbeError.__str__(self)


class AssetError(PifiProbeError, RuntimeError):
    """An embedded asset cannot be fetched, verified or unpacked."""


class TaskError(PifiProbeError, ValueError):
    """A task's data are unusable: columns, labels, splits or texts."""


class TokenizerError(PifiProbeError, ValueError):
    """A tokenizer is missing, cannot be loaded, or does not belong to its model."""


class EstimatorError(PifiProbeError, ValueError):
    """An estimator is unknown or badly registered, or its features or labels are unusable."""


class FeatureError(PifiProbeError, ValueError):
    """Features cannot be computed: a bad option, NaN or infinite activations, or too little memory."""


class RecipeError(PifiProbeError, ValueError):
    """A training setting is unknown or out of range."""


class TrainingDiverged(PifiProbeError, ArithmeticError):
    """The loss or a gradient of a run became NaN or infinite."""


class PlugInError(PifiProbeError, ValueError):
    """Encoder, layer and task do not fit together."""


class SearchError(PifiProbeError, ValueError):
    """A search's space, strategy or budget is unusable."""


class LicenceError(PifiProbeError, PermissionError):
    """The donor's licence is unknown or gated, and no permission was stated."""

    def __str__(self) -> str:
        return PifiProbeError.__str__(self)


class SaveError(PifiProbeError, OSError):
    """A result could not be written; what was written before is intact."""

    def __str__(self) -> str:
        return PifiProbeError.__str__(self)


class RunInterrupted(PifiProbeError, KeyboardInterrupt):
    """A run was interrupted; its last checkpoint is on disk."""
