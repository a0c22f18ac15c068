"""Matrices that the libraries which own the formats have packed are read as those libraries read them.

The cases were made by `tests.make_format_cases`, which also says with which versions.
"""

from __future__ import annotations

import json
from collections import defaultdict

import pytest
import torch
from safetensors import safe_open

from pifi_probe.layers.formats import Numbers, make_plan
from pifi_probe.layers.formats.registry import STORED
from pifi_probe.layers.sources import TensorInfo
from tests.make_format_cases import PATH
from tests.memory_source import MemorySource

SOURCE = MemorySource(b"")


def load() -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Numbers]]:
    cases: dict[str, dict[str, torch.Tensor]] = defaultdict(dict)
    with safe_open(PATH, "pt") as file:
        settings = json.loads(file.metadata()["settings"])
        for key in file.keys():  # noqa: SIM118  (it is no mapping)
            case, _, name = key.partition("|")
            cases[case][name] = file.get_tensor(key)
    return dict(cases), {name: Numbers(settings[name]) for name in cases}


CASES, NUMBERS = load()
# Half the distance of two bfloat16 numbers: a library that computes in that type cannot be nearer to the exact number.
ROUNDED = 2.0**-8


def infos_of(tensors: dict[str, torch.Tensor]) -> dict[str, TensorInfo]:
    return {
        name: TensorInfo(name, STORED[tensor.dtype], tuple(tensor.shape), SOURCE, 0, tensor.nbytes)
        for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_matrix_is_read_as_its_library_reads_it(name: str) -> None:
    stored = {key: tensor for key, tensor in CASES[name].items() if key != "="}
    expected = CASES[name]["="]
    plan = make_plan(infos_of(stored), NUMBERS[name], "case")
    assert plan.count == expected.numel()
    assert not plan.plain
    (found,) = plan.weights(stored, torch.float32).values()
    assert found.shape == expected.shape
    exact = torch.equal(found, expected)
    rounded = torch.equal(expected, expected.bfloat16().float()) or torch.equal(expected, expected.half().float())
    assert exact or torch.allclose(found, expected, rtol=ROUNDED if rounded else 1e-6, atol=0)


def test_the_cases_are_of_every_library() -> None:
    assert {name.split()[0] for name in CASES} == {"compressed-tensors", "bitsandbytes", "mlx", "torchao"}
    assert len(CASES) >= 35
