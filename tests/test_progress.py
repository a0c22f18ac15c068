"""A progress bar is hidden where nobody watches, and wherever ``TQDM_DISABLE`` is set."""

from __future__ import annotations

import pytest

from pifi_probe import progress


@pytest.mark.parametrize(("setting", "hidden"), [("1", True), ("0", False), ("", False)])
def test_the_environment_hides_bars_in_notebooks_too(
    setting: str, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setenv("TQDM_DISABLE", setting)
    assert progress.bar_options().get("disable", False) is hidden
    assert progress.bar_options(wanted=False) == {"disable": True}
