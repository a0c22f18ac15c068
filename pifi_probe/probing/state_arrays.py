"""Hidden states in a folder: one array a layer, mapped from disk, and what they were made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pifi_probe.errors import CheckpointError, FeatureError, LayerIndexError
from pifi_probe.escaping import one_line
from pifi_probe.reading import read_object

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["DESCRIPTION", "OFFSETS", "TOKEN_IDS", "States", "array_file", "read_description", "whole"]

DESCRIPTION, OFFSETS, TOKEN_IDS = "states.json", "offsets.npy", "token_ids.npy"
_AGAIN = "call pp.states with the same inputs and out=, which continues where it stopped"


class States:
    """Hidden states of texts at some layers of a model, as `pifi_probe.states` has written them.

    Parameters
    ----------
    folder : str or Path
        A finished one; nothing but its description is read now.

    Attributes
    ----------
    folder : Path
    info : dict
        What was done: ``model``, ``key`` (contents of model, tokenizer and texts, layers, pooling, dtype, ...),
        ``n_texts``, ``n_tokens``, ``n_cut``, ``width``, ``n_layers``, and versions under ``made``.

    Raises
    ------
    FeatureError
        If the folder holds no hidden states, or is not finished.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.info: dict[str, Any] = read_description(self.folder)
        try:
            self._layers = tuple(int(layer) for layer in self.info["key"]["layers"])
            self._pooling, self._dtype = str(self.info["key"]["pooling"]), np.dtype(self.info["key"]["dtype"])
            self._n_layers, self._n_texts = int(self.info["n_layers"]), int(self.info["n_texts"])
            rows = int(self.info["n_tokens"]) if self.ragged else self._n_texts
            self._shape = (rows, int(self.info["width"]))
        except (KeyError, TypeError, ValueError) as error:
            raise _damaged(self.folder, repr(error)) from error
        missing = [layer for layer in self._layers if not whole(self._file(layer), self._shape, self._dtype)]
        if missing:
            raise FeatureError(
                f"{len(missing)} of {len(self._layers)} layers are missing or damaged, the first is {missing[0]}",
                where=str(self.folder),
                next=_AGAIN,
            )

    @property
    def layers(self) -> tuple[int, ...]:
        """Layers that are here, ascending; layer i from 0 to L is the input of the model's layer i."""
        return self._layers

    @property
    def ragged(self) -> bool:
        """Whether every token has its state (``pooling="none"``), rather than every text."""
        return self._pooling == "none"

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Where each text begins among the tokens, (N + 1,): text i has the rows ``offsets[i]:offsets[i + 1]``."""
        return self._of_tokens(OFFSETS, self._n_texts + 1)

    @cached_property
    def token_ids(self) -> NDArray[np.int64]:
        """The id of each token, (T,)."""
        return self._of_tokens(TOKEN_IDS, self._shape[0])

    def __len__(self) -> int:
        return self._n_texts

    def array(self, layer: int) -> NDArray[Any]:
        """Return the states of a layer, mapped from disk and read-only.

        Parameters
        ----------
        layer : int
            One of `layers`; negative ones count from the end of the model: -1 is its output, before the final norm.

        Returns
        -------
        array of float32 or float16, (N, d), or (T, d) with ``pooling="none"``

        Raises
        ------
        LayerIndexError
            If the layer is not here.
        """
        at = layer + self._n_layers + 1 if layer < 0 else layer
        if at not in self._layers:
            raise LayerIndexError(
                f"there are no states of layer {layer}",
                where=str(self.folder),
                next=f"use one of {', '.join(map(str, self._layers))}, or write others to another folder",
            )
        return _mapped(self._file(at))

    def text(self, i: int, layer: int) -> NDArray[Any]:
        """Return the states of one text: (d,), or (tokens, d) with ``pooling="none"``; raises as `array`."""
        if not -self._n_texts <= i < self._n_texts:
            raise LayerIndexError(f"there is no text {i}: there are {self._n_texts}", where=str(self.folder))
        states = self.array(layer)
        if not self.ragged:
            return states[i]
        start, stop = self.offsets[i % self._n_texts : i % self._n_texts + 2]
        return states[start:stop]

    def to_dataset(self, texts: Sequence[str] | None = None) -> Dataset:
        """Return a view for the library `datasets`: a row a text, a column a layer, nothing copied into memory.

        Parameters
        ----------
        texts : sequence of str, optional
            A column ``"text"``: the folder holds states, and no texts.

        Returns
        -------
        datasets.Dataset
            Columns ``layer_0``, ...: a vector (d,) a row; with ``pooling="none"`` a list of vectors, and a column
            ``token_ids``.

        Raises
        ------
        FeatureError
            If there are more or fewer texts than rows.
        """
        import pyarrow as pa
        from datasets import Dataset

        columns: dict[str, Any] = {}
        if texts is not None:
            if len(texts) != self._n_texts:
                raise FeatureError(
                    f"there are {len(texts)} texts, and states of {self._n_texts}",
                    where=str(self.folder),
                    next="give the texts that the states were made of",
                )
            columns["text"] = pa.array(list(texts), pa.string())
        if self.ragged:
            offsets = pa.array(self.offsets)
            columns["token_ids"] = pa.LargeListArray.from_arrays(offsets, _flat(self.token_ids))
        for layer in self._layers:
            rows = pa.FixedSizeListArray.from_arrays(_flat(self.array(layer)), self._shape[1])
            columns[f"layer_{layer}"] = pa.LargeListArray.from_arrays(offsets, rows) if self.ragged else rows
        return Dataset(pa.table(columns))

    def __repr__(self) -> str:
        rows = f"{self._n_texts} texts" + (f", {self._shape[0]} tokens" if self.ragged else "")
        layers = ", ".join(map(str, self._layers)) if len(self._layers) < 9 else f"{len(self._layers)} layers"
        return (
            f"States({one_line(str(self.info.get('model')))!r}, layers={layers}, {rows}, width {self._shape[1]}, "
            f"pooling={self._pooling!r}, {self._dtype}, {str(self.folder)!r})"
        )

    def _file(self, layer: int) -> Path:
        return array_file(self.folder, layer)

    def _of_tokens(self, name: str, n: int) -> NDArray[np.int64]:
        if not self.ragged:
            raise FeatureError(
                "these states are pooled: one vector a text, and no tokens",
                where=str(self.folder),
                next='write the states of all tokens with pooling="none" to another folder',
            )
        if not whole(self.folder / name, (n,), np.dtype(np.int64)):
            raise _damaged(self.folder, f"{name} is missing or of another shape")
        return _mapped(self.folder / name)


def array_file(folder: Path, layer: int) -> Path:
    """Return where the states of a layer lie."""
    return folder / f"layer-{layer:03d}.npy"


def read_description(folder: Path) -> dict[str, Any]:
    """Return what ``states.json`` says.

    Raises
    ------
    FeatureError
        If there is none, or it is damaged.
    """
    file = folder / DESCRIPTION
    if not file.exists():
        raise FeatureError(
            "the folder holds no hidden states", where=str(folder), next="write them with pp.states(..., out=folder)"
        )
    try:
        found: dict[str, Any] = read_object(file)
    except CheckpointError as error:
        raise _damaged(folder, str(error)) from error
    if not isinstance(found.get("key"), Mapping):
        raise _damaged(folder, "it has no key")
    return found


def whole(file: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Return whether an array is there with all its rows."""
    try:
        stored = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # missing, truncated
        return False
    return stored.shape == shape and stored.dtype == dtype


def _mapped(file: Path) -> NDArray[Any]:
    try:
        found: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise FeatureError(f"hidden states cannot be read: {error}", where=str(file), next=_AGAIN) from error
    return found


def _flat(array: NDArray[Any]) -> Any:
    """Return the numbers of an array for arrow, which reads them where they lie."""
    import pyarrow as pa

    numbers = array.reshape(-1)
    return pa.Array.from_buffers(pa.from_numpy_dtype(array.dtype), len(numbers), [None, pa.py_buffer(numbers)])


def _damaged(folder: Path, why: str) -> FeatureError:
    return FeatureError(
        f"the description of the hidden states is damaged: {why}",
        where=str(folder / DESCRIPTION),
        next="delete the folder, and call pp.states again",
    )
