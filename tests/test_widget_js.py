"""The pure functions of the widgets' JavaScript, run by Node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

NODE = shutil.which("node")
HERE = Path(__file__).parent


@pytest.mark.skipif(NODE is None, reason="Node is not installed: apt-get install nodejs")
@pytest.mark.parametrize("file", sorted(path.name for path in (HERE / "js").glob("*.test.mjs")))
def test_the_functions_of_the_chart_are_right(file: str) -> None:
    assert NODE is not None
    done = subprocess.run([NODE, "--test", str(HERE / "js" / file)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
