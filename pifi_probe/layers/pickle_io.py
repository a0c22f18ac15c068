"""Legacy ``.bin`` checkpoints, read without running what they may contain."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from transformers import PretrainedConfig

from pifi_probe.errors import CorruptFileError
from pifi_probe.layers.formats import Numbers
from pifi_probe.layers.formats.registry import STORED
from pifi_probe.layers.sharded import ShardedCheckpoint
from pifi_probe.layers.sources import FileSource, TensorInfo, check_rows

__all__ = ["PickleCheckpoint", "load_state"]


class PickleCheckpoint(ShardedCheckpoint):
    """A checkpoint in one or several files written by ``torch.save``.

    The tensors are memory-mapped; those asked for are copied out. `bytes_read` counts the copied bytes, and
    the offsets in `tensors` are 0: the format has no header to read them from.

    Parameters
    ----------
    config : PretrainedConfig
        Of the text decoder.
    paths : Mapping
        File name to path.
    identity, revision, licence, gated, numbers
        As in `SafetensorsCheckpoint`.

    Raises
    ------
    CorruptFileError
        If a file is malformed, or holds anything but tensors by name.
    """

    format = "pickle"

    def __init__(
        self,
        config: PretrainedConfig,
        paths: Mapping[str, Path],
        identity: str,
        revision: str | None = None,
        licence: str | None = None,
        gated: bool = False,
        *,
        numbers: Numbers | None = None,
    ) -> None:
        self._bytes_read = 0
        self._infos: dict[str, TensorInfo] = {}
        self._stored: dict[str, torch.Tensor] = {}
        for path in paths.values():
            source = FileSource(path)
            for name, tensor in load_state(path).items():
                self._stored[name] = tensor
                dtype = STORED.get(tensor.dtype, str(tensor.dtype))
                self._infos[name] = TensorInfo(name, dtype, tuple(tensor.shape), source, 0, tensor.nbytes)
        super().__init__(
            config, self._infos, identity=identity, revision=revision, licence=licence, gated=gated, numbers=numbers
        )

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Name as stored to dtype, shape and file."""
        return self._infos

    @property
    def bytes_read(self) -> int:
        """Bytes copied out until now."""
        return self._bytes_read

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """Copy tensors out of the mapped files, by their stored names."""
        found = {name: self._stored[name].clone() for name in names}
        self._bytes_read += sum(tensor.nbytes for tensor in found.values())
        return found

    def read_rows(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Copy some rows of a matrix out of the mapped file."""
        check_rows(self._infos[name], rows)
        found = self._stored[name][rows]
        self._bytes_read += found.nbytes
        return found


def load_state(path: Path) -> dict[str, torch.Tensor]:
    """Map the tensors of a ``torch.save`` file into memory, with ``weights_only=True``.

    Raises
    ------
    CorruptFileError
        If the file is malformed, contains anything that would run code, or is not a dictionary of tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        # UnpicklingError also stands for code in the file: weights_only refuses to run it.
        raise CorruptFileError(
            f"the file cannot be read as plain tensors: {str(error).partition('. ')[0] or repr(error)}",
            where=str(path),
            next="use the model's safetensors checkpoint, or save it again with a current torch",
        ) from error
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise CorruptFileError(
            "the file holds no dictionary of tensors",
            where=str(path),
            next="use the model's safetensors checkpoint",
        )
    return state
