"""A layer is unpacked within the memory of the layer and one of its tensors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.quantised import SCHEMES, USUAL, save_quantised

SIZES = USUAL | {"hidden_size": 1024, "intermediate_size": 8192, "head_dim": 128}
MEASURED = ("fp8", "bitsandbytes int8", "bitsandbytes nf4", "gptq 4-bit", "awq", "compressed-tensors order")
ROOM = 40_000_000  # bytes: pieces in float32, and what an allocator keeps
SCRIPT = """
import json, sys, torch
from pifi_probe.layers.checkpoint import open_checkpoint
def status(key):
    lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return 1024 * int(lines[key].split()[0])
open_checkpoint(sys.argv[1]).read_layer(1, torch.bfloat16)  # a small one, for what is imported late
checkpoint = open_checkpoint(sys.argv[2])
open("/proc/self/clear_refs", "w").write("5")  # forget the peak until now
before = status("VmRSS")
tensors = checkpoint.read_layer(1, torch.bfloat16)
sizes = [tensor.nbytes for tensor in tensors.values()]
print(json.dumps({"peak": status("VmHWM") - before, "layer": sum(sizes), "largest": max(sizes)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("scheme", MEASURED)
def test_the_peak_is_the_layer_and_one_tensor(scheme: str, tmp_path: Path) -> None:
    save_quantised(tmp_path / "small", SCHEMES[scheme])
    save_quantised(tmp_path / "large", SCHEMES[scheme], sizes=SIZES, chosen=_second)
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found["layer"] > 50_000_000
    assert found["peak"] < found["layer"] + found["largest"] + ROOM, found


def _second(name: str, tensor: object) -> bool:
    """Pack the layer that is read and no other, which saves time."""
    return ".layers.1." in name and name.endswith("proj.weight")
