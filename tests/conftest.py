"""Fixtures that several test files use."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from filelock import FileLock

from pifi_probe import assets
from pifi_probe.errors import AssetError


@functools.cache
def _missing_assets() -> str:
    """Return why the embedded assets cannot be had, and how to pull them; empty when they are here."""
    try:
        assets.pull()
    except AssetError as error:
        return str(error)
    return ""


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
