"""Tests of imports and global settings that several threads share."""

from __future__ import annotations

import random
import subprocess
import sys
import threading

import pytest
import torch
from transformers.utils import logging as transformers_logging

import pifi_probe as pp
from pifi_probe.compat import quiet_transformers
from tests.search_stub import ROOT

RACE = """
import sys, threading
import pifi_probe as pp
{first}
errors, gate = [], threading.Barrier({n})
def get(what):
    gate.wait()
    try:
        exec(what, {{"pp": pp}})
    except BaseException as error:
        errors.append(f"{{what}}: {{type(error).__name__}}: {{error}}")
threads = [threading.Thread(target=get, args=(what,)) for what in {wanted!r}]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
[thread.join(60) for thread in threading.enumerate() if thread.name == "layer-search-aside"]
print(errors)
sys.exit(bool(errors))
"""


def race(wanted: list[str], first: str = "") -> None:
    code = RACE.format(n=len(wanted), wanted=wanted, first=first)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stdout + done.stderr)


NAMES = [f"pp.{name}" for name in pp.__all__ if name != "__version__"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_threads_that_ask_for_different_names_at_once_all_get_them(seed: int) -> None:
    race(random.Random(seed).sample(NAMES, 8))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_threads_that_import_transformers_beside_a_widget_get_their_classes(seed: int) -> None:
    auto = ["AutoModel", "AutoTokenizer", "Trainer", "BertModel", "AutoModelForCausalLM", "LlamaConfig"]
    own = random.Random(seed)
    wanted = [*own.sample(NAMES, 6), *(f"from transformers import {name}" for name in own.sample(auto, 4))]
    own.shuffle(wanted)
    race(wanted, "w = pp.widgets.LayerSearch('movie-reviews', study=None)")


def test_the_cell_after_a_widget_imports_nothing_beside_its_threads() -> None:
    code = (
        "import sys, pifi_probe as pp\n"
        "w = pp.widgets.LayerSearch('movie-reviews', study=None)\n"
        "before = set(sys.modules)\n"
        "pp.load_task, pp.plug_in, pp.search, pp.extract, pp.probe\n"
        "new = [name for name in set(sys.modules) - before if name.startswith(('torch.', 'transformers.trainer'))]\n"
        "assert 'transformers.modeling_utils' in before and 'optuna' in before, 'left to the threads'\n"
        "assert not new, new\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_silenced_comes_back_after_the_last_thread_and_not_before() -> None:
    before = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    first_in, first_may_leave, second_in, second_may_leave = (threading.Event() for _ in range(4))

    def stay(inside: threading.Event, may_leave: threading.Event) -> None:
        with quiet_transformers():
            inside.set()
            may_leave.wait(30)

    first = threading.Thread(target=stay, args=(first_in, first_may_leave))
    second = threading.Thread(target=stay, args=(second_in, second_may_leave))
    first.start()
    first_in.wait(30)
    second.start()
    second_in.wait(30)
    first_may_leave.set()
    first.join(30)
    assert transformers_logging.get_verbosity() == transformers_logging.CRITICAL, "the second is still inside"
    second_may_leave.set()
    second.join(30)
    assert (transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()) == before


def test_what_is_silenced_comes_back_after_nested_uses_and_errors() -> None:
    before = transformers_logging.get_verbosity()
    with pytest.raises(KeyError), quiet_transformers():
        with quiet_transformers():
            pass
        assert transformers_logging.get_verbosity() == transformers_logging.CRITICAL
        raise KeyError
    assert transformers_logging.get_verbosity() == before
    assert torch.get_default_dtype() == torch.float32
