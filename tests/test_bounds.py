"""What a file says of sizes is compared with a bound before anything of that size is made."""

from __future__ import annotations

import base64
import gzip
import json
import os
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pifi_probe.alignment.interface import Interface
from pifi_probe.errors import CheckpointError, CorruptFileError, PifiProbeError, SearchError, TaskError
from pifi_probe.experiments.plan import load_experiment
from pifi_probe.layers.configs import read_config, read_licence
from pifi_probe.layers.control import PositiveControl
from pifi_probe.layers.frozen import FrozenLayer
from pifi_probe.layers.safetensors_io import read_header
from pifi_probe.plugin.modeling import PiFiForSequenceClassification
from pifi_probe.pretrained import config_from_dict, open_config
from pifi_probe.reading import Refused, inflate, open_file, parse_json, read_bytes, read_object, refuse_odd_files
from pifi_probe.selection.space import Space
from pifi_probe.selection.store import Store
from pifi_probe.tasks import from_file, load_task
from tests.memory_source import MemorySource

MIB = 1 << 20


def peak_growth(code: str) -> int:
    """Run code in a process of its own; return by how many bytes its last statement raised the peak."""
    lines = textwrap.dedent(code).strip().splitlines()
    script = "\n".join(
        [*lines[:-1], "import resource", "b = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss", lines[-1]]
        + ["print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - b))"]
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr[-2000:]
    return int(out.stdout.split()[-1])


HEADERS = {
    "empty lists": '{"a": [' + "[],[]," * 3_300_000 + "1]}",
    "objects": '{"a": [' + '{"":1},' * 2_800_000 + "1]}",
    "numbers": '{"a": [' + "1.5," * 5_000_000 + "1]}",
    "tensors": "{" + ",".join(f'"{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(370_000)) + "}",
}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_of_20_mb_takes_a_few_times_its_size(kind: str, tmp_path: Path) -> None:
    header = HEADERS[kind].encode()
    assert 15 * MIB < len(header) < 24 * MIB
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    grown = peak_growth(f"""
        from contextlib import suppress
        from pifi_probe.errors import CheckpointError, CorruptFileError, PifiProbeError, SearchError
        from pifi_probe.layers.safetensors_io import read_header
        from pifi_probe.layers.sources import FileSource
        def read():
            with suppress(CorruptFileError): raise SystemExit(len(read_header(FileSource({str(file)!r}))))
        read()
    """)
    assert grown < 4 * len(header)


def test_a_header_of_many_tensors_is_refused_with_their_number() -> None:
    entry = '"dtype":"U8","shape":[0],"data_offsets":[0,0]'
    header = ("{" + ",".join(f'"{i}":{{{entry}}}' for i in range((1 << 17) + 2)) + "}").encode()
    with pytest.raises(CorruptFileError, match="131,074 tensors"):
        read_header(MemorySource(len(header).to_bytes(8, "little") + header, "many.safetensors"))


def test_json_beyond_a_bound_is_refused_with_the_number() -> None:
    assert parse_json(b"[1, 2]", most_values=2) == [1, 2]
    with pytest.raises(Refused, match="about 3 values"):
        parse_json(b"[1, 2, 3]", most_values=2)


@pytest.mark.parametrize("raw", [b"\xff", b"{", b"[" * 100_000, b"1" * 5000, b'{"a": 1}{'])
def test_what_is_no_json_is_refused(raw: bytes) -> None:
    with pytest.raises(Refused, match="not valid JSON"):
        parse_json(raw)


def test_half_a_character_is_refused_and_a_pair_of_halves_is_one() -> None:
    assert parse_json(rb'"\ud83d\ude00"') == "\U0001f600"
    assert parse_json(rb'"\\ud83d"') == r"\ud83d", "not an escape"
    for half in (rb'{"a": "\ud83d"}', rb'["\ude00"]', rb'{"\uD83D": 1}'):
        with pytest.raises(Refused, match="half a character"):
            parse_json(half)


def odd(path: Path, kind: str) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    return path


ODD = ("pipe", "folder", "device", "loop")


@pytest.mark.parametrize("kind", ODD)
def test_only_ordinary_files_are_opened(kind: str, tmp_path: Path) -> None:
    path = odd(tmp_path / "file", kind)
    with pytest.raises((Refused, OSError)):
        open_file(path)
    with pytest.raises(CheckpointError):
        read_object(path)


def test_a_file_is_read_up_to_its_bound(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(Refused, match="5 bytes, and 4"):
        read_bytes(tmp_path / "a", 4)


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("name", ["README.md", "config.json", "tokenizer.json"])
def test_a_pipe_or_device_in_a_models_folder_never_waits(kind: str, name: str, tmp_path: Path) -> None:
    if name != "config.json":
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}), encoding="utf-8")
    odd(tmp_path / name, kind)
    assert read_licence(tmp_path) is None
    if kind in ("pipe", "device"):
        with pytest.raises(CheckpointError, match="pipe|device"):
            refuse_odd_files(tmp_path)
    if kind in ("pipe", "device") or name == "config.json":
        with pytest.raises(PifiProbeError):
            read_config(tmp_path)


ABSURD: list[dict[str, Any]] = [
    {"model_type": "bert", "num_labels": 1_000_000_000},
    {"model_type": "bert", "num_hidden_layers": 20_000},
    {"model_type": "llama", "num_hidden_layers": 100_000_000},
    {"model_type": "t5", "num_decoder_layers": 100_000_000},
    {"model_type": "distilbert", "n_layers": 1e300},
    {"model_type": "gpt2", "n_layer": 10**30},
    {"model_type": "bert", "hidden_size": 10**12},
    {"model_type": "bert", "vocab_size": 10**12},
    {"model_type": "encoder-decoder", "encoder": {"model_type": "bert", "num_labels": 10**9}, "decoder": {}},
    {"model_type": "pifi", "num_labels": 10**9},
    {"model_type": "pifi", "encoder": {"model_type": "bert", "num_hidden_layers": 10**8}},
    {"model_type": "pifi", "layers": [{"card": {}, "config": {"model_type": "llama", "num_hidden_layers": 10**8}}]},
]


@pytest.mark.parametrize("entries", ABSURD, ids=lambda entries: "-".join(map(str, entries))[:40])
def test_an_absurd_size_is_named_with_its_bound(entries: dict[str, Any], tmp_path: Path) -> None:
    import pifi_probe.plugin.modeling  # noqa: F401 - registers the model type "pifi"

    with pytest.raises(CorruptFileError, match=r"the configuration says .* is the most that is read"):
        config_from_dict(entries)
    (tmp_path / "config.json").write_text(json.dumps(entries), encoding="utf-8")
    with pytest.raises(CorruptFileError, match=r"the configuration says .* is the most that is read"):
        open_config(tmp_path)


SPACES = [
    Space((("a", 5),), max_layers=3, designs=("mix", "serial")),
    Space((("a", 4), ("b", 3)), max_layers=4, designs=("unshared", "gated", "gated-serial")),
    Space((("a", 9),), layers=((0, 1, 2, 5, 6, 8),), max_layers=3, designs=("serial",)),
    Space((("a", 3), ("b", 6)), max_layers=2, modes=((), (("scale", "none"),))),
    Space((("a", 2),), max_layers=9, designs=("mix",)),
]


@pytest.mark.parametrize("space", SPACES)
def test_candidates_are_counted_as_they_are_listed(space: Space) -> None:
    assert space.count() == len(list(space.all()))
    assert space.count(1) == len(space.singles())


def test_a_space_of_a_hundred_million_is_refused_with_its_number_before_anything_is_listed() -> None:
    space = Space((("a", 80), ("b", 80)), max_layers=5, designs=("unshared",))
    assert space.count() > 8 * 10**8
    with pytest.raises(SearchError, match="the space has 847,361,192 candidates"):
        next(space.all())
    assert len(space.extensions(space.singles()[0])) == 159  # what builds sets up layer by layer still works


@pytest.mark.parametrize("n", [0, -1, 10**8])
def test_a_model_of_absurdly_many_layers_makes_no_space(n: int) -> None:
    with pytest.raises(SearchError, match="a model of"):
        Space((("a", n),))


def test_a_compressed_file_of_line_ends_is_refused_by_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_file, "MAX_LINES", 10_000)
    file = tmp_path / "task.jsonl.gz"
    file.write_bytes(gzip.compress(b"\n" * 20_000))
    with pytest.raises(TaskError, match="more than 10,000 lines"):
        load_task(file)


@pytest.mark.parametrize("kind", ODD)
def test_a_task_file_that_is_none_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(PifiProbeError):
        load_task(odd(tmp_path / "task.csv", kind))


def test_an_array_is_unpacked_up_to_its_shape() -> None:
    packed = base64.b64encode(zlib.compress(bytes(12))).decode()
    assert inflate(packed, [3], 4) == bytes(12)
    bomb = base64.b64encode(zlib.compress(bytes(1 << 24))).decode()
    for text, shape in ((bomb, [3]), (packed, [4]), (packed, [-3]), (packed, [1 << 40]), ("%", [3]), ("AAAA", [3])):
        with pytest.raises(Refused, match="an array"):
            inflate(text, shape, 4)


DOORS: dict[str, Callable[[str], object]] = {
    "layer": FrozenLayer.load,
    "model": PiFiForSequenceClassification.from_pretrained,
    "task": lambda name: load_task(f"{name}.csv"),
    "study": Store.open,
    "experiment": lambda name: load_experiment(f"{name}.yaml"),
    "interface": Interface.load,
    "control": PositiveControl.from_json,
}


@pytest.mark.parametrize("name", ["x" * 5000, "x" * 300 + "/y", "a\0b", "\ud800", "a\x1b[2Jb"], ids=ascii)
@pytest.mark.parametrize("door", DOORS)
def test_what_cannot_be_a_name_is_told_in_one_line_at_every_door(door: str, name: str, tmp_path: Path) -> None:
    if door == "study" and "\x1b" in name:
        return  # an odd name of a file that can be made
    with pytest.raises(PifiProbeError) as caught:
        DOORS[door](str(tmp_path / name) if "\0" not in name and "\ud800" not in name else name)
    assert str(caught.value).isprintable() and caught.value.next


@pytest.mark.parametrize("door", DOORS)
def test_a_pipe_is_told_at_every_door(door: str, tmp_path: Path) -> None:
    for suffix in ("", ".csv", ".yaml"):
        os.mkfifo(tmp_path / f"pipe{suffix}")
    with pytest.raises(PifiProbeError) as caught:
        DOORS[door](str(tmp_path / "pipe"))
    assert str(caught.value).isprintable() and caught.value.next
