"""One layer out of a quantised repository travels alone, with its scales; what it takes is said before."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import pifi_probe as pp
from pifi_probe.cli import main
from pifi_probe.errors import CheckpointError
from pifi_probe.layers.formats import Contents
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.open import open_checkpoint
from pifi_probe.layers.outlook import outlook
from pifi_probe.layers.safetensors_io import read_header
from pifi_probe.layers.sources import FileSource
from pifi_probe.units import amount
from tests.hub_server import HubServer
from tests.quantised import SCHEMES, USUAL, save_quantised

NAME = "org/quantised"
QUICK = ("fp8", "gptq 4-bit v2 order", "awq", "bitsandbytes nf4 nested", "modelopt nvfp4", "mlx 4-bit", "torchao int8")
EVERY = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in SCHEMES]
LARGE = USUAL | {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64, "num_hidden_layers": 3}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a folder with a model in a format, which is packed once."""

    @functools.cache
    def save(name: str) -> Path:
        folder = tmp_path_factory.mktemp("quantised")
        save_quantised(folder, SCHEMES[name], sizes=LARGE)
        return folder

    return save


def headers_of(folder: Path) -> int:
    """Return the bytes of the headers of all files."""
    sources = [FileSource(file) for file in folder.glob("*.safetensors")]
    return sum(min(info.offset for info in read_header(source).values()) for source in sources)


@pytest.mark.parametrize("name", EVERY)
def test_only_the_layer_and_its_companions_travel(name: str, server: HubServer, saved: Callable[[str], Path]) -> None:
    folder = saved(name)
    server.add_repo(NAME, folder)
    found, local = pp.extract(f"{NAME}[1]"), pp.extract(f"{folder}[1]")
    assert isinstance(found, FrozenLayer) and isinstance(local, FrozenLayer)
    assert found.card.sha256 == local.card.sha256
    sent = server.bytes_sent("/objects/")
    assert sent <= headers_of(folder) + 1.02 * open_checkpoint(str(folder)).contents(1).nbytes
    assert len(server.requests("/objects/", method="GET")) <= 12


@pytest.mark.parametrize("name", EVERY)
def test_parts_of_a_weight_may_lie_in_several_files(
    name: str, server: HubServer, saved: Callable[[str], Path], tmp_path: Path
) -> None:
    """Each tensor in another of three shards than the one before, so that a weight and its scales are apart."""
    folder, shards = saved(name), tmp_path / "shards"
    shards.mkdir()
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    where = {key: f"model-{i % 3 + 1:05d}-of-00003.safetensors" for i, key in enumerate(sorted(tensors))}
    for file in set(where.values()):
        safetensors.torch.save_file({key: tensors[key] for key in tensors if where[key] == file}, shards / file)
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    (shards / "config.json").write_bytes((folder / "config.json").read_bytes())
    server.add_repo(NAME, shards)
    found, local = pp.extract(f"{NAME}[1]"), pp.extract(f"{folder}[1]")
    assert isinstance(found, FrozenLayer) and isinstance(local, FrozenLayer)
    assert found.card.sha256 == local.card.sha256
    sent = server.bytes_sent("/objects/")
    assert sent <= headers_of(shards) + 1.02 * open_checkpoint(str(folder)).contents(1).nbytes


def test_numbers_that_concern_activations_do_not_split_the_request(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_quantised(folder, SCHEMES["modelopt nvfp4"], sizes=LARGE)  # an input_scale between any two scales
    server.add_repo(NAME, folder)
    checkpoint = open_checkpoint(NAME)
    checkpoint.contents(1)
    before = len(server.requests("/objects/"))
    checkpoint.read_layer(1)
    kinds = 3  # a file holds float32 first, then bytes and float8, each by name
    assert len(server.requests("/objects/")) - before <= kinds


def test_settings_in_a_file_beside_the_configuration_are_fetched(server: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_quantised(folder, SCHEMES["gptq 4-bit v2 order"])
    config = json.loads((folder / "config.json").read_text())
    (folder / "quantize_config.json").write_text(json.dumps(config.pop("quantization_config")))
    (folder / "config.json").write_text(json.dumps(config))
    server.add_repo(NAME, folder)
    expected = pp.extract(f"{folder}[1]")
    found = pp.extract(f"{NAME}[1]")
    assert isinstance(found, FrozenLayer) and isinstance(expected, FrozenLayer)
    assert found.card.sha256 == expected.card.sha256


def test_info_says_format_bits_and_size_in_words(
    server: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    save_quantised(folder, SCHEMES["gptq 4-bit"], sizes=LARGE)
    server.add_repo(NAME, folder)
    assert main(["info", NAME]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "gptq 4-bit" in shown
    assert "the layer is the quantised one" in shown
    contents = open_checkpoint(NAME).contents(0)
    assert contents.weights == 590_336  # not the number of words
    assert "590 k" in shown
    assert "2.36 MB" in shown  # in memory, float32 as its configuration has it
    assert 4 < contents.bits_per_weight < 6
    weights = max(info.nbytes for info in open_checkpoint(NAME).tensors.values())
    assert server.bytes_sent("/objects/") < weights + 40_000  # headers alone


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_info_of_every_format_is_what_the_layer_turns_out_to_be(
    name: str, server: HubServer, saved: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = saved(name)
    server.add_repo(NAME, folder)
    assert main(["info", NAME, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    stored = read_header(FileSource(folder / "model.safetensors"))
    assert server.bytes_sent("/objects/") < headers_of(folder) + (1 << 16)  # no weight
    assert main(["info", NAME]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    layer = pp.extract(f"{folder}[{said['layer looked at']}]")
    assert isinstance(layer, FrozenLayer)
    held = list(layer.state_dict().values())
    weights, memory = sum(each.numel() for each in held), sum(each.nbytes for each in held)
    parts = [info for key, info in stored.items() if f".layers.{said['layer looked at']}." in key]
    nbytes = sum(info.nbytes for info in parts if not info.name.endswith(("input_scale", "input_global_scale")))
    assert SCHEMES[name].label in said["quantised"]
    assert (said["layer weights"], said["layer bytes"], said["layer memory"]) == (weights, nbytes, memory)
    assert said["bits per weight"] == round(8 * nbytes / weights, 3) == layer.card.bits_per_weight
    for line in (
        f"quantised {said['quantised']} bits per weight {said['bits per weight']}",
        f"layer weights {amount(weights)} layer bytes {amount(nbytes, 'B')} layer memory {amount(memory, 'B')}",
    ):
        assert line in shown


def test_of_a_model_with_experts_the_larger_layers_are_announced(tmp_path: Path) -> None:
    from tests.test_formats_families import DEEPSEEK, in_experts, split_experts

    scheme = SCHEMES["compressed-tensors int4"]
    save_quantised(tmp_path, scheme, "deepseek_v3", chosen=in_experts, change=split_experts, sizes=DEEPSEEK)
    found = outlook(str(tmp_path))
    assert found.layer_looked_at == 1  # the first is dense
    assert found.layer_weights == open_checkpoint(str(tmp_path)).contents(1).weights
    assert found.adds is not None
    assert 0.9 < found.adds.frozen_bytes / (found.layer_memory or 0) < 1  # attention is smaller for one token


def test_a_layer_that_memory_does_not_hold_is_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_quantised(tmp_path, SCHEMES["fp8"])
    checkpoint = open_checkpoint(str(tmp_path))
    huge = Contents(11_300_000_000, 11_300_000_000, 22_600_000_000, "fp8")
    monkeypatch.setattr(type(checkpoint), "contents", lambda self, index: huge)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 1 << 40}))
    assert pp.extract(f"{tmp_path}[1]")
    assert "11.3 G weights, 11.3 GB stored, 22.6 GB in memory" in caplog.text
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 16_000_000_000}))
    with pytest.raises(CheckpointError, match="22.6 GB in memory, and 16 GB are free"):
        pp.extract(f"{tmp_path}[1]")


def test_the_type_is_the_configured_one_or_the_one_asked_for(tmp_path: Path) -> None:
    weights = save_quantised(tmp_path, SCHEMES["awq"])
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    short, exact = pp.extract(f"{tmp_path}[1]"), pp.extract(f"{tmp_path}[1]", dtype="float32")
    name = "layers.0.mlp.up_proj.weight"
    stored = weights["model.layers.1.mlp.up_proj.weight"]
    for layer, dtype in ((short, torch.bfloat16), (exact, torch.float32)):
        held = next(tensor for key, tensor in layer.state_dict().items() if key.endswith(name))
        assert held.dtype == dtype
        assert torch.equal(held, stored.to(dtype))


def test_embeddings_of_mlx_are_read_row_by_row(tmp_path: Path) -> None:
    def chosen(name: str, tensor: torch.Tensor) -> bool:
        return tensor.dim() == 2 and "norm" not in name and "lm_head" not in name

    weights = save_quantised(tmp_path, SCHEMES["mlx 4-bit"], chosen=chosen)
    tokens = torch.tensor([3, 17, 98])
    stem = open_checkpoint(str(tmp_path)).read_stem(tokens)
    found = next(tensor for name, tensor in stem.items() if name.endswith("embed_tokens.weight"))
    assert torch.allclose(found, weights["model.embed_tokens.weight"][tokens], atol=1e-6)
