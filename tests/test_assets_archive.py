"""Safe unpacking: what an archive may not hold, whatever made it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pifi_probe.assets import fetch
from pifi_probe.assets.table import Asset
from pifi_probe.errors import AssetError
from tests.fake_packages import TEXTS, tar_of, write_sdist, write_wheel


def unpack(archive: Path, row: Asset, folder: Path) -> None:
    fetch.unpack(archive, row.members, folder, where="here", next="there")


@pytest.mark.parametrize("name", ["/evil.txt", "C:\\evil.txt", "C:evil.txt", "a/..\\..\\evil.txt", "a/../../evil.txt"])
def test_names_that_leave_the_folder_are_refused_on_every_system(tmp_path, name):
    row = write_wheel(tmp_path, extra={name: b"evil"})
    with pytest.raises(AssetError, match=r"unsafe entry.*where: here.*next: there"):
        unpack(tmp_path / "fake_model-1.0-py3-none-any.whl", row, tmp_path / "out")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (tar_of({"texts/good.txt": TEXTS}, link="texts/link"), "unsafe entry 'texts/link'"),
        (tar_of({"texts/../../evil.txt": b"", "texts/good.txt": TEXTS}), "unsafe entry"),
        (tar_of({"texts/good.txt": TEXTS[::-1]}), "good.txt that is not the pinned file"),
        (tar_of({"texts/good.txt": TEXTS * 9}), "good.txt that is not the pinned file"),
        (tar_of({"texts/bad.txt": TEXTS}), r"lacks .*texts/good.txt"),
        (tar_of({"texts/good.txt": TEXTS})[:-20], "cannot be read"),
        (b"no archive at all", "cannot be read"),
    ],
    ids=["link", "traversal", "other content", "other size", "missing", "truncated", "no archive"],
)
def test_a_bad_archive_in_the_archive_is_refused(tmp_path, inner, message):
    row = write_sdist(tmp_path, inner=inner)
    with pytest.raises(AssetError, match=message):
        unpack(tmp_path / "fake_texts-2.0.zip", row, tmp_path / "out")


def test_a_link_in_a_zip_is_refused(tmp_path):
    row = write_wheel(tmp_path)
    archive = tmp_path / "fake_model-1.0-py3-none-any.whl"
    link = zipfile.ZipInfo("fake_model/link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(archive, "a") as wheel:
        wheel.writestr(link, "/etc/passwd")
    with pytest.raises(AssetError, match="unsafe entry 'fake_model/link'"):
        unpack(archive, row, tmp_path / "out")


@pytest.mark.parametrize(("limit", "value"), [("MAX_NBYTES", 10_000), ("MAX_ENTRIES", 3)])
def test_an_archive_over_the_limits_is_refused(tmp_path, monkeypatch, limit, value):
    row = write_wheel(tmp_path)
    monkeypatch.setattr(fetch, limit, value)
    with pytest.raises(AssetError, match="larger than"):
        unpack(tmp_path / "fake_model-1.0-py3-none-any.whl", row, tmp_path / "out")
