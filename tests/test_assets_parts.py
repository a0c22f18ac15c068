"""Assets that come in parts, are converted, or come under terms."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from pifi_probe import assets
from pifi_probe.assets.convert import e5
from pifi_probe.assets.table import Asset, Member, Package
from pifi_probe.errors import AssetError, CorruptFileError
from tests.fake_packages import sha256
from tests.test_assets import index, use  # noqa: F401  (a fixture)

CONTENT = b"0123456789" * 300


def part_wheel(folder: Path, number: int, data: bytes) -> Package:
    """Write a wheel with one part and return its row."""
    name = f"fake_part{number}"
    info = f"{name}-1.0.dist-info/"
    files = {
        f"{name}/data.part{number}": data,
        f"{name}/TERMS.html": b"be kind",
        info + "METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n".encode(),
        info + "WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        info + "RECORD": b"",
    }
    archive = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        for path, content in files.items():
            wheel.writestr(zipfile.ZipInfo(path), content)
    return Package(name.replace("_", "-"), "1.0", sha256(archive.read_bytes()), archive.stat().st_size)


def parted(folder: Path, content: bytes, members: tuple[Member, ...], **more: object) -> Asset:
    first, *others = [
        part_wheel(folder, n, content[start : start + 1000])
        for n, start in enumerate(range(0, len(content), 1000), start=1)
    ]
    parts = tuple(f"fake_part{n}/data.part{n}" for n in range(1, len(others) + 2))
    fields = {"name": "fake", "title": "a fake", "kind": "wheel", "licence": "MIT", **vars(first), **more}
    return Asset(members=members, further=tuple(others), parts=parts, **fields)  # type: ignore[arg-type]


def whole(content: bytes = CONTENT) -> Member:
    return Member("@", "whole.bin", len(content), sha256(content))


def test_parts_of_several_packages_are_joined(index, monkeypatch):  # noqa: F811
    terms = Member("fake_part1/TERMS.html", "TERMS.html", 7, sha256(b"be kind"))
    use(monkeypatch, parted(index, CONTENT, (whole(), terms), main="whole.bin"))
    assert assets.path("fake").read_bytes() == CONTENT
    assert {file.name for file in assets.path("fake").parent.iterdir()} == {"whole.bin", "TERMS.html"}
    assets.path("fake").write_bytes(b"broken")
    assert assets.verify("fake") == ["whole.bin"]
    assert assets.path("fake").read_bytes() == CONTENT


def test_members_are_read_out_of_a_joined_archive(index, monkeypatch):  # noqa: F811
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr(zipfile.ZipInfo("model/config.json"), b"{}")
        packed.writestr(zipfile.ZipInfo("model/weights.bin"), np.random.default_rng(0).bytes(2500))
    member = Member("@!model/config.json", "config.json", 2, sha256(b"{}"))
    use(monkeypatch, parted(index, buffer.getvalue(), (member,)))
    assert [file.name for file in assets.path("fake").iterdir()] == ["config.json"]


def test_a_joined_file_that_is_not_the_pinned_one_is_not_used(index, monkeypatch):  # noqa: F811
    use(monkeypatch, parted(index, CONTENT, (whole(CONTENT[:-1] + b"X"),)))
    with pytest.raises(AssetError, match="whole.bin is not the pinned file"):
        assets.path("fake")
    assert not assets.list_assets()[0].cached


def test_terms_are_shown_and_nothing_is_downloaded_before_they_are_accepted(index, monkeypatch):  # noqa: F811
    use(monkeypatch, parted(index, CONTENT, (whole(),), main="whole.bin", terms="https://example.org/terms"))
    with pytest.raises(AssetError, match=r"https://example.org/terms.*--accept-terms"):
        assets.path("fake")
    assert not list((assets.cache_root() / "assets").glob("fake/*"))
    assert assets.pull("fake", accept_terms=True)[0].read_bytes() == CONTENT
    assert assets.path("fake").read_bytes() == CONTENT, "once accepted, it is there"


WIDTH, INNER, N_WORDS = 32, 64, 8
PIECES = ["<s>", "<pad>", "</s>", "<unk>", "\u2581good", "\u2581film", "\u2581", "<mask>"]


def q4_0(values: np.ndarray) -> bytes:
    from gguf import GGMLQuantizationType
    from gguf.quants import quantize

    return quantize(values.reshape(-1, 32).astype(np.float32), GGMLQuantizationType.Q4_0).tobytes()


def container(seed: int = 0) -> bytes:
    """Return a container with one small layer, as the reader expects it."""
    rng = np.random.default_rng(seed)
    shapes = {"emb.word": (N_WORDS, WIDTH), "emb.pos": (16, WIDTH), "emb.type": (2, WIDTH)}
    shapes |= {"emb.ln.w": (WIDTH,), "emb.ln.b": (WIDTH,)}
    for name, out in {"q": WIDTH, "k": WIDTH, "v": WIDTH, "ao": WIDTH, "fi": INNER, "fo": WIDTH}.items():
        shapes |= {f"l0.{name}.w": (out, INNER if name == "fo" else WIDTH), f"l0.{name}.b": (out,)}
    for name in ("aln", "oln"):
        shapes |= {f"l0.{name}.w": (WIDTH,), f"l0.{name}.b": (WIDTH,)}
    head = b"E5S1" + struct.pack("<I7ifi", 1, WIDTH, 1, 4, INNER, N_WORDS, 16, 2, 1e-12, 32)
    texts = [piece.encode() for piece in PIECES]
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, texts)))
    head += np.cumsum([0, *map(len, texts)]).astype("<u4").tobytes()
    head += np.array([0, 0, 0, 0, -1, -2, -9, 0], dtype="<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", 1, 5) + struct.pack("<IB", 1, 0)
    data, entries = b"", []
    for name, shape in shapes.items():
        values = rng.normal(size=shape).astype("<f4")
        packed = name == "emb.word" or (name.endswith(".w") and "ln" not in name)
        raw = q4_0(values) if packed else values.tobytes()
        entries.append((name.encode(), int(packed), values.size, len(data), len(raw)))
        data += raw
    size = len(head) + 4 + sum(2 + len(entry[0]) + 21 for entry in entries)
    head += struct.pack("<i", len(entries))
    for name, packed, count, start, n_bytes in entries:
        head += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", packed, count, size + start, n_bytes)
    return head + data


def test_a_container_becomes_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    (tmp_path / "e5-small-q4.bin").write_bytes(container())
    e5(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("good  film", "film")["input_ids"] == [0, 4, 5, 2, 2, 5, 2]
    assert (tokenizer.pad_token_id, tokenizer.mask_token_id) == (1, 7)
    model = AutoModel.from_pretrained(tmp_path, add_pooling_layer=False)
    expected = np.random.default_rng(0).normal(size=(N_WORDS, WIDTH))
    assert np.abs(model.embeddings.word_embeddings.weight.detach().numpy() - expected).max() < 0.3, "4 bits"
    with torch.no_grad():
        states = model(**tokenizer("good film", return_tensors="pt")).last_hidden_state
    assert states.shape == (1, 4, WIDTH) and torch.isfinite(states).all()
    assert json.loads((tmp_path / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]


@pytest.mark.parametrize("size", [3, 40, 100, 400, 3000])
def test_a_truncated_container_is_one_line(size: int, tmp_path: Path) -> None:
    (tmp_path / "e5-small-q4.bin").write_bytes(container()[:size])
    with pytest.raises(CorruptFileError, match="e5-small-q4.bin"):
        e5(tmp_path)


def test_two_conversions_write_the_same_bytes(tmp_path: Path) -> None:
    digests = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "e5-small-q4.bin").write_bytes(container())
        e5(folder)
        digests.append({file.name: sha256(file.read_bytes()) for file in folder.rglob("*") if file.is_file()})
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_converted_member_that_is_not_the_pinned_one_is_not_used(index, monkeypatch):  # noqa: F811
    content = container()
    members = (Member("@", "e5-small-q4.bin", len(content), sha256(content)), Member("", "config.json", 1, "0" * 64))
    use(monkeypatch, replace(parted(index, content, members), convert="e5"))
    with pytest.raises(AssetError, match="config.json is not the pinned file"):
        assets.path("fake")


@pytest.mark.slow
def test_translations_are_as_alike_as_known() -> None:
    status = next(one for one in assets.list_assets() if one.asset.name == "e5-small-multilingual")
    if not status.cached:
        pytest.skip("run `pifi-probe assets pull e5-small-multilingual` to test it")
    texts = [
        "The weather is nice today.",
        "Das Wetter ist heute schön.",
        "오늘은 날씨가 좋네요.",
        "今天天气很好。",
        "The central bank raised its interest rates.",
    ]
    tokenizer = AutoTokenizer.from_pretrained(status.path)
    model = AutoModel.from_pretrained(status.path, add_pooling_layer=False).eval()
    batch = tokenizer([f"query: {text}" for text in texts], padding=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    vectors = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    alike = (vectors @ vectors.T)[:4, :4][~torch.eye(4, dtype=torch.bool)]
    assert alike.min() > 0.89 and alike.max() < 0.96, "en, de, ko, zh"
    assert (vectors[4] @ vectors[:4].T).max() < 0.8, "another meaning"
