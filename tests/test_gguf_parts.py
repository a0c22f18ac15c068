"""A GGUF file that was split into parts is the model that it was, named by its first part."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from pifi_probe.errors import CheckpointError, CorruptFileError, HubError
from pifi_probe.layers.content import content_of
from pifi_probe.layers.open import open_checkpoint
from tests.hub_server import running_hub
from tests.tiny_gguf import tiny_gguf, write_tensors

SPLIT = 9  # tensors a part: a layer of llama has as many, and the embeddings stand before


def parts(folder: Path, **options: bool) -> list[Path]:
    folder.mkdir(exist_ok=True)
    tiny_gguf("llama", folder / "x.gguf", split=SPLIT, **options)
    return sorted(folder.glob("x-*-of-*.gguf"))


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    return tiny_gguf("llama", tmp_path / "whole.gguf")


@pytest.mark.parametrize("small_first", [False, True])
def test_every_layer_is_that_of_the_file_in_one_piece(small_first: bool, whole: Path, tmp_path: Path) -> None:
    files = parts(tmp_path / "parts", small_first=small_first)
    assert len(files) > 3
    found, expected = open_checkpoint(str(files[0])), open_checkpoint(str(whole))
    assert found.config.to_dict() == expected.config.to_dict()
    for index in range(3):
        layer = found.read_layer(index)
        assert layer.keys() == expected.read_layer(index).keys()
        assert all(torch.equal(tensor, layer[name]) for name, tensor in expected.read_layer(index).items())
    tokens = torch.tensor([1, 5])
    assert all(torch.equal(t, found.read_stem(tokens)[n]) for n, t in expected.read_stem(tokens).items())


def test_of_parts_on_the_hub_the_headers_and_the_layer_travel(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = parts(tmp_path / "parts")
    with running_hub(monkeypatch, tmp_path / "cache") as server:
        server.add_repo("org/model", {f"Q8/{file.name}": file.read_bytes() for file in files})
        found = open_checkpoint(f"org/model/Q8/{files[0].name}")
        expected = open_checkpoint(str(whole))
        layer = found.read_layer(1)
        assert all(torch.equal(tensor, layer[name]) for name, tensor in expected.read_layer(1).items())
        assert found.bytes_read == server.bytes_sent("/objects/")
        server.repos["models", "org/missing"] = server.add_repo(
            "org/missing", {file.name: file.read_bytes() for file in files[:-1]}
        )
        with pytest.raises(HubError, match="has no file"):
            open_checkpoint(f"org/missing/{files[0].name}")


def test_what_is_computed_from_it_depends_on_every_part(tmp_path: Path) -> None:
    files = parts(tmp_path / "parts", small_first=True)
    before = content_of(open_checkpoint(str(files[0])))
    raw = bytearray(files[0].read_bytes())
    at = raw.index(b"token 7")
    raw[at : at + 7] = b"token X"
    files[0].write_bytes(raw)
    assert content_of(open_checkpoint(str(files[0]))) != before


def refused(path: Path, message: str, kind: type[Exception] = CheckpointError) -> None:
    with pytest.raises(kind, match=message) as caught:
        open_checkpoint(str(path))
    assert "next: " in str(caught.value) and "\n" not in str(caught.value)


def test_another_part_than_the_first_says_which_one_to_give(tmp_path: Path) -> None:
    files = parts(tmp_path / "parts")
    refused(files[1], f"part 00002 of {len(files)}")


@pytest.mark.parametrize("stem", ["My model.v2 (Q4_K_M)", "a-00001-of-00002"])
@pytest.mark.parametrize("suffix", ["gguf", "GGUF"])
def test_parts_may_have_another_name_together(stem: str, suffix: str, whole: Path, tmp_path: Path) -> None:
    files = parts(tmp_path / "parts")
    for i, file in enumerate(files, 1):
        file.rename(tmp_path / "parts" / f"{stem}-{i:05}-of-{len(files):05}.{suffix}")
    found = open_checkpoint(str(tmp_path / "parts" / f"{stem}-00001-of-{len(files):05}.{suffix}")).read_layer(2)
    assert all(torch.equal(tensor, found[name]) for name, tensor in open_checkpoint(str(whole)).read_layer(2).items())


def test_a_part_under_a_name_of_its_own_says_what_the_names_are(tmp_path: Path) -> None:
    files = parts(tmp_path / "parts")
    files[0].rename(tmp_path / "parts" / "first.gguf")
    refused(tmp_path / "parts" / "first.gguf", "its name does not say where the others are")


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    files = parts(tmp_path / "parts")
    files[2].unlink()
    refused(files[0], "missing")


def test_parts_of_two_models_are_not_taken_together(tmp_path: Path) -> None:
    files = parts(tmp_path / "parts")
    shutil.copy(files[1], files[2])
    refused(files[0], "does not say that it is part 3", CorruptFileError)


def test_parts_that_hold_fewer_tensors_than_they_say_are_refused(tmp_path: Path) -> None:
    files = parts(tmp_path / "parts")
    last = files[-1]
    size = len(files)
    tensors: dict[str, Any] = {}
    write_tensors(last, tensors, **{"split.no": size - 1, "split.count": size})
    refused(files[0], "said to hold", CorruptFileError)


def test_the_key_of_one_whole_file_is_no_reason_to_look_for_parts(tmp_path: Path) -> None:
    path = tiny_gguf("llama", tmp_path / "x.gguf")
    assert gguf.GGUFReader(path).fields.get("split.count") is None
    assert open_checkpoint(str(path)).read_layer(0)
