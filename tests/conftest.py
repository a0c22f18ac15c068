"""Fixtures that several test files use."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from filelock import FileLock

from pifi_probe import assets
from pifi_probe.errors import AssetError

if TYPE_CHECKING:
    from pifi_probe.layers.frozen import FrozenLayer
    from tests.contract import Shelf
    from tests.hub_server import HubServer
    from tests.runs import Parts


@functools.cache
def _missing_assets() -> str:
    """Return why the embedded assets cannot be had, and how to pull them; empty when they are here."""
    try:
        assets.pull()
    except AssetError as error:
        return str(error)
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what needs a browser: long files at the end would leave the other process idle."""
    items.sort(key=lambda item: item.get_closest_marker("browser") is None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what is marked ``assets`` where the embedded models and texts cannot be had."""
    if item.get_closest_marker("assets") and (reason := _missing_assets()):
        pytest.skip(reason)


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """Take back what a test, or code it calls such as `checks.start`, set in the environment: all share a process."""
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real MiniLM encoder; for tests marked ``assets``."""
    return assets.path("minilm-l6")


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The GGUF file of the real SmolLM2 decoder; for tests marked ``assets``."""
    return assets.path("smollm2-135m")


# Tiny models on disk, of each module its own. The helpers are imported where they are used: they bring torch.


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny encoder with its tokenizer."""
    from tests import slm

    return slm.tiny_slm_folder(tmp_path_factory.mktemp("slm"))


@pytest.fixture(scope="module")
def donor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny decoder without a tokenizer."""
    from tests import tiny

    return tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("llm"))


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny decoder that reads texts."""
    from tests import slm, tiny

    folder = tiny.tiny_checkpoint("llama", tmp_path_factory.mktemp("llm"))
    slm.tiny_tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> FrozenLayer:
    """A layer of a tiny decoder."""
    import pifi_probe as pp
    from pifi_probe.layers.frozen import FrozenLayer
    from tests import tiny

    made = pp.extract(f"{tiny.tiny_checkpoint('llama', tmp_path_factory.mktemp('llm'))}[1]")
    assert isinstance(made, FrozenLayer)
    return made


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A tiny encoder and a tiny donor, made into models on demand."""
    from tests.runs import Parts

    return Parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    """Tiny donors and encoders on disk, and models of all cases on demand."""
    from tests.contract import Shelf

    return Shelf(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """The folder of a tiny decoder that a test may spoil."""
    from tests import tiny

    return tiny.tiny_checkpoint("llama", tmp_path / "llama")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The same in several files."""
    from tests import tiny

    return tiny.tiny_checkpoint("llama", tmp_path / "shards", max_shard_size="40KB")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[HubServer]:
    """A hub of our own, with an empty cache."""
    from tests.hub_server import running_hub

    with running_hub(monkeypatch, tmp_path / "cache") as server:
        yield server


@pytest.fixture(scope="session")
def built_book(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the book's pages, built once a test run, whatever process asks first; warnings are errors."""
    book = Path(__file__).parent.parent / "book"
    run = tmp_path_factory.getbasetemp()
    run = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run  # a worker's own folder lies in that of the run
    with FileLock(run / "book.lock"):
        if not (run / "book.built").exists():
            done = subprocess.run([sys.executable, book / "_scripts" / "build.py"], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
            (run / "book.built").touch()
    return book / "_build" / "html"
