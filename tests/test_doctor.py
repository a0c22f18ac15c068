"""`pp.doctor`: each line says what is there, and what to do where it is not well."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import pifi_probe as pp
from pifi_probe.experiments import doctor as module


def by_name() -> dict[str, module.Finding]:
    return {one.name: one for one in pp.doctor().findings}


def test_it_looks_at_everything_and_reads_as_one_line_each() -> None:
    found = pp.doctor()
    names = ["Python", "packages", "pip", "threads", "memory", "cache", "embedded assets", "device", "network"]
    assert list(found.frame["name"]) == names == [one["name"] for one in found.to_dict()["findings"]]
    assert repr(found).count("\n") == len(names) - 1
    assert all(one.next for one in found.findings if not one.well)
    assert "->" not in str(module.Finding("x", True, "here", "do this"))
    assert str(module.Finding("x", False, "gone", "do this")) == "FAIL x: gone  -> do this"


def test_packages_are_named_with_what_is_wrong_and_extras_are_not_asked_for() -> None:
    said = list(module._lacking(["numpy>=1", "numpy>=99", "nothing-of-this-name", 'other-nothing; extra == "x"']))
    assert len(said) == 2 and said[0].endswith("is not >=99") and said[1] == "nothing-of-this-name is missing"


def test_more_threads_than_cores_are_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert by_name()["threads"].well
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4096)
    threads = by_name()["threads"]
    assert not threads.well and threads.next.startswith("set OMP_NUM_THREADS=")


def test_a_cache_that_cannot_be_written_is_a_finding_and_one_that_is_not_there_yet_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "new" / "folder"))
    assert by_name()["cache"].found.startswith(f"{tmp_path / 'new' / 'folder'}, ")
    (tmp_path / "file").touch()
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path / "file" / "below"))
    cache = by_name()["cache"]
    assert not cache.well and cache.next == "set PIFI_PROBE_CACHE to a folder of yours"


def test_offline_is_said_and_enters_the_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIFI_PROBE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIFI_PROBE_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    found = by_name()
    assert found["network"].found == "PIFI_PROBE_OFFLINE set: nothing is fetched"
    assert found["embedded assets"].next == "unset PIFI_PROBE_OFFLINE, then pifi-probe assets pull"
    monkeypatch.setenv("PIFI_PROBE_OFFLINE", "0")
    assert by_name()["embedded assets"].next == "pifi-probe assets pull" and "may be used" in by_name()["network"].found
