"""The first cell of every notebook: seeds, one thread, quiet libraries, and the embedded models at hand."""

from __future__ import annotations

import logging
import os
import random
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pifi_probe import assets
from pifi_probe.errors import AssetError, PifiProbeError
from pifi_probe.reading import read_json, read_object

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Session", "guessed", "quiz", "record", "recorded", "recorded_table", "start"]

ASSETS = ("minilm-l6", "smollm2-135m", "movie-reviews")
QUIZZES = Path(__file__).parent / "quizzes"
SCRIPT = "application/javascript"
QUIZ_COLOURS = {  # each has a contrast of at least 4.5 to what lies under or over it
    "--jq-multiple-choice-bg": "#004a75",
    "--jq-mc-button-bg": "#fafafa",
    "--jq-mc-button-border": "#767676",
    "--jq-mc-button-inset-shadow": "#555555",
    "--jq-incorrect-color": "#b00020",
    "--jq-correct-color": "#006b3c",
    "--jq-text-color": "#fafafa",
}


@dataclass(frozen=True)
class Session:
    """How a notebook runs.

    Parameters
    ----------
    notebook : str
        Its number.
    seed : int
        Of Python, numpy and torch.
    fast : bool
        True unless ``PIFI_PROBE_FAST=0``: sizes that finish in seconds; False: the sizes of the recorded studies.
    device : str
        Where tensors live: ``"cpu"`` when fast, so that everybody sees the same numbers.
    """

    notebook: str
    seed: int
    fast: bool
    device: str

    def __repr__(self) -> str:
        size = "fast sizes" if self.fast else "full sizes"
        return f"Notebook {self.notebook}: seed {self.seed}, device {self.device}, {size}, embedded models found"


def guessed(guess: object) -> object:
    """Return a reader's guess as it is printed next to what was measured."""
    return "none yet" if guess is None else guess


def start(notebook: str, *, seed: int = 0, needs: tuple[str, ...] = ASSETS) -> Session:
    """Make a notebook reproducible and see that its models and texts are here.

    Parameters
    ----------
    notebook : str
        Its number, such as ``"03"``.
    seed : int
        Of Python, numpy and torch.
    needs : tuple of str
        Embedded assets the notebook reads. Missing ones are fetched once, unless ``PIFI_PROBE_OFFLINE=1``.

    Returns
    -------
    Session

    Raises
    ------
    AssetError
        If an asset is not here and cannot be fetched; the message says how to pull it.
    """
    _quiet()
    fast = os.environ.get("PIFI_PROBE_FAST", "1") != "0"
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if fast:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
    for name in needs:
        _at_hand(name)
    device = "cpu" if fast or not torch.cuda.is_available() else "cuda"
    return Session(notebook, seed, fast, device)


def _quiet() -> None:
    """Show no bars and no warnings of other libraries, and figures in the notebook."""
    from IPython import get_ipython
    from transformers.utils.logging import disable_progress_bar

    os.environ["TQDM_DISABLE"] = "1"
    disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    if shell := get_ipython():
        from pifi_probe.reporting.figure import show_figures

        show_figures(shell)


def _at_hand(name: str) -> None:
    """Find or fetch an asset, or say how to pull it."""
    if os.environ.get("PIFI_PROBE_OFFLINE") == "1" and not _is_here(name):
        raise AssetError(
            f"{name!r} is not on this machine, and PIFI_PROBE_OFFLINE=1 forbids fetching it",
            where="the first cell",
            next=f"run `pifi-probe assets pull {name}` once, then run this cell again",
        )
    assets.path(name)


def _is_here(name: str) -> bool:
    return any(status.cached and name in (status.asset.name, *status.asset.aliases) for status in assets.list_assets())


def quiz(number: str) -> None:
    """Show the quiz of a notebook: a few questions, each wrong answer with what is wrong about it.

    Parameters
    ----------
    number : str
        Of the notebook; the questions are ``pifi_probe/checks/quizzes/NUMBER.json``.

    Raises
    ------
    PifiProbeError
        If there is no such quiz.
    """
    file = QUIZZES / f"{number}.json"
    if not file.is_file():
        raise PifiProbeError(
            f"there is no quiz {number!r}", where=str(QUIZZES.name), next="name a notebook, as in '03'"
        )
    from IPython.display import display
    from IPython.utils.capture import capture_output
    from jupyterquiz import display_quiz

    with capture_output() as shown:
        display_quiz(str(file), shuffle_answers=False, border_radius=6, colors=QUIZ_COLOURS)
    words = f"A quiz of {len(read_json(file))} questions. Run this cell, or trust the notebook, to answer them."
    for output in shown.outputs:
        data = {**output.data, "text/plain": words}
        if SCRIPT in data:
            data[SCRIPT] = _patient(data[SCRIPT])
        display(data, raw=True)


def _patient(script: str) -> str:
    """Return the script of a quiz so that it asks for MathJax's version only where there is one.

    Until MathJax is loaded `window.MathJax` is its configuration, which has no version; once loaded it sets the whole
    page, quizzes too.
    """
    return script.replace("version[0] ==", "version?.[0] ==")


def recorded(name: str) -> Path:
    """Return the path of a recorded result, for example ``"book/_studies/probes/tweets-plug-in.csv"``.

    Parameters
    ----------
    name : str
        Path inside the repository, which is looked for upwards from the current folder.

    Raises
    ------
    PifiProbeError
        If the repository or the file is not here.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "pyproject.toml").is_file() and (file := folder / name).exists():
            return file
    raise PifiProbeError(
        f"the recorded result {name!r} is not here",
        where=str(here),
        next="run the notebook inside a clone of the repository",
    )


def record(name: str) -> dict[str, Any]:
    """Return a recorded result.

    Parameters
    ----------
    name : str
        A JSON file, as `recorded` takes it, for example ``"benchmarks/results/control.json"``.

    Returns
    -------
    dict

    Raises
    ------
    PifiProbeError
        If the file is not here, or holds no JSON object.
    """
    return read_object(recorded(name))


def recorded_table(name: str, *keys: str) -> pd.DataFrame:
    """Return the rows of a recorded result.

    Parameters
    ----------
    name : str
        A JSON file, as `recorded` takes it.
    *keys : str
        Where in it the rows stand, such as ``"comparisons", "vanilla", "rows"``.

    Returns
    -------
    pandas.DataFrame
        One row each; of rows by name, the names are the index. ``attrs`` has the record's ``command`` and ``date``.

    Raises
    ------
    PifiProbeError
        If the file is not here, or holds no rows there; the message says which keys it has.
    """
    import pandas as pd

    whole = record(name)
    found: Any = whole
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            raise PifiProbeError(f"there is no {key!r} in this record", where=name, next=f"take one of: {_keys(found)}")
        found = found[key]
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        table = pd.DataFrame(found)
    elif isinstance(found, dict) and found and all(isinstance(row, dict) for row in found.values()):
        table = pd.DataFrame.from_dict(found, orient="index")
    else:
        raise PifiProbeError(
            "this part of the record is not a table", where=name, next=f"name the rows in it: {_keys(found)}"
        )
    date = str(whole.get("provenance", {}).get("date", ""))[:10]
    table.attrs.update({"command": str(whole.get("command", "")), "date": date})
    return table


def _keys(part: object) -> str:
    return ", ".join(part) if isinstance(part, dict) and part else "nothing, it has no keys"
