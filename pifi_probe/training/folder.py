"""The folder of a run: what it was, its checkpoints while it runs, its result when it has ended."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from transformers import PreTrainedTokenizerBase
from transformers.utils import CONFIG_NAME

from pifi_probe.errors import RecipeError, RunInterrupted, SaveError
from pifi_probe.files import advice, write_json
from pifi_probe.folders import finish_replacing, remove_folder, replaced_together
from pifi_probe.plugin.base import PiFiPreTrainedModel
from pifi_probe.reading import read_json
from pifi_probe.tags import with_tags
from pifi_probe.training.history import load_trained_state
from pifi_probe.training.key import RunKey
from pifi_probe.training.result import RunResult

__all__ = ["RunFolder", "temporary_run_folder"]


_CHECKPOINT_FILES = ("model.safetensors", "best.safetensors", "history.json", "optimizer.pt", "scheduler.pt")
_AGAIN = "run the same command with resume=True"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run.

    Parameters
    ----------
    path : Path
        Made when the run starts.
    """

    path: Path

    @property
    def result_file(self) -> Path:
        """Written when the run has ended."""
        return self.path / "result.json"

    @property
    def model_folder(self) -> Path:
        """Holds the trained model, if it was asked for."""
        return self.path / "model"

    @property
    def checkpoints(self) -> Path:
        """Holds Trainer's checkpoints while it runs."""
        return self.path / "checkpoints"

    @property
    def _run_file(self) -> Path:
        return self.path / "run.json"

    def last_checkpoint(self) -> Path | None:
        """Return the newest whole checkpoint: Trainer writes its state last, and whoever deletes one goes any way."""
        found = {
            int(match[1]): path
            for path in self.checkpoints.glob("checkpoint-*")
            if (match := re.fullmatch(r"checkpoint-(\d{1,18})", path.name))
            and _read(path / "trainer_state.json")
            and all((path / name).is_file() for name in _CHECKPOINT_FILES)
        }
        return found[max(found)] if found else None

    def begin(self, identity: dict[str, Any], *, resume: bool) -> str | None:
        """Return the checkpoint to continue from, or make the folder ready for a new run.

        Raises
        ------
        RecipeError
            If the checkpoint is of another run.
        """
        checkpoint = self.last_checkpoint() if resume else None
        if checkpoint is not None:
            stored = _read(self._run_file)
            self._check(stored, identity)
            write_json(self._run_file, {**stored, "tags": with_tags(stored.get("tags"), identity.get("tags", ()))})
            return str(checkpoint)
        self._remove_checkpoints()
        write_json(self._run_file, identity)
        return None

    @property
    def tags(self) -> tuple[str, ...]:
        """Of the run that was begun here; one that continues keeps those of its first call."""
        return with_tags(_read(self._run_file).get("tags"), ())

    def stored_result(self, identity: dict[str, Any], tests: dict[str, str]) -> RunResult | None:
        """Return the result of the same run with the same tests (name to fingerprint), if it has ended.

        A checkpoint is of a run that was begun after the result. Where that is the run asked for, or neither is,
        return None: `begin` continues it, or refuses.

        Raises
        ------
        RecipeError
            If the result is of another run and there is no checkpoint.
        """
        unfinished = self.last_checkpoint() is not None
        if not self.result_file.is_file() or (unfinished and not _unlike(_read(self._run_file), identity)):
            return None
        result = RunResult.from_json(self.result_file)
        if unfinished and _unlike(result.identity, identity):
            return None
        self._check(result.identity, identity)
        return result if tests == {name: test.fingerprint for name, test in result.tests.items()} else None

    def end(
        self, result: RunResult, model: PiFiPreTrainedModel | None, tokenizer: PreTrainedTokenizerBase | None
    ) -> None:
        """Write the result and the model, if one is given, in place of an earlier run's; then remove the checkpoints.

        Raises
        ------
        SaveError
            If the disk is full; the run's checkpoints are still there.
        """
        replaces = self.result_file.is_file()
        try:
            result.to_json(self.result_file)
        except SaveError as error:
            raise SaveError(error.what, where=error.where, next=advice(error, _AGAIN)) from error
        if model is not None and tokenizer is not None:
            self._save_model(model, tokenizer)
        elif replaces:
            remove_folder(self.model_folder)  # the earlier run's, which is not what the result says
        self._remove_checkpoints()

    def _save_model(self, model: PiFiPreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
        """Save the trained model and its tokenizer.

        Raises
        ------
        SaveError
            If the disk is full; the run's checkpoints are still there.
        """
        try:
            with replaced_together(self.model_folder, CONFIG_NAME) as folder:
                model.save_pretrained(folder)
                tokenizer.save_pretrained(folder)
        except Exception as error:  # safetensors raises a type of its own for a full disk
            raise SaveError(
                f"could not write the model: {error}",
                where=str(self.model_folder),
                next=advice(error, _AGAIN),
            ) from error

    def restore_model(self, model: PiFiPreTrainedModel) -> bool:
        """Put the saved weights into `model`; return False when none were saved."""
        finish_replacing(self.model_folder, CONFIG_NAME)
        file = self.model_folder / "model.safetensors"
        if not file.is_file():
            return False
        own = model.state_dict()
        load_trained_state(model, {name: tensor for name, tensor in load_file(file).items() if name in own})
        return True

    def interrupted(self) -> RunInterrupted:
        """Return the error that says how to continue."""
        checkpoint = self.last_checkpoint()
        if checkpoint is None:
            return RunInterrupted("interrupted; no checkpoint had been written", next="start the run again")
        return RunInterrupted(
            f"interrupted; the run is kept up to step {checkpoint.name.rsplit('-', 1)[1]}",
            where=str(self.path),
            next=f"call fine_tune with the same model, task and recipe, out={str(self.path)!r} and resume=True",
        )

    def _remove_checkpoints(self) -> None:
        remove_folder(self.checkpoints)  # under no name that `last_checkpoint` could take for one
        with contextlib.suppress(OSError):
            self._run_file.unlink()

    def _check(self, stored: dict[str, Any], identity: dict[str, Any]) -> None:
        differences = _unlike(stored, identity)
        if differences:
            part = _part(differences[0])
            own = [one.removeprefix(f"{part}.") for one in differences if _part(one) == part]
            shown = f" ({'; '.join(own[:3])})" if part in ("recipe", "model") else ""
            raise RecipeError(
                f"the folder holds another run: its {part} differs{shown}",
                where=str(self.path),
                next="give the same model, task and recipe, or another folder; resume=False starts over in place of "
                "that run",
            )


def _unlike(stored: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Return in words what differs from a stored run; empty where it is the same run."""
    own, found = RunKey.of_identity(identity), RunKey.of_identity(stored)
    if own is None or found is None:
        return ["record: it cannot be read"]
    return found.differences(own)


def _part(difference: str) -> str:
    """Return the part of a run that a difference is about: recipe, task, start, record or model."""
    name = re.split(r"[.:]", difference, maxsplit=1)[0]
    return name if name in ("recipe", "task", "start", "record") else "model"


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object, or an empty one where the file is missing or broken off."""
    try:
        values = read_json(path)
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


@contextlib.contextmanager
def temporary_run_folder() -> Iterator[RunFolder]:
    """Make a folder that stays only when an interrupt has left a checkpoint in it."""
    folder = RunFolder(Path(tempfile.mkdtemp(prefix="pifi_probe_run_")))
    try:
        yield folder
    finally:
        if folder.last_checkpoint() is None:
            shutil.rmtree(folder.path, ignore_errors=True)
