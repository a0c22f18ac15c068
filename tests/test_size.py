"""`scripts/size.py`: lines and files of every room, between the markers of a page."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "scripts" / "size.py"
spec = importlib.util.spec_from_file_location("size", FILE)
assert spec is not None and spec.loader is not None
size = importlib.util.module_from_spec(spec)
spec.loader.exec_module(size)


def test_files_are_counted_by_room_and_written_between_the_markers(tmp_path: Path) -> None:
    for name, lines in {"kinds/a.py": 3, "kinds/b.py": 2, "assets_x.py": 1, "stats.py": 4, "kinds/c.json": 9}.items():
        file = tmp_path / "pifi_probe" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x\n" * lines)
    now = size.size_now(tmp_path)
    assert now == {
        "kinds/": {"files": 2, "lines": 5},
        "assets/": {"files": 1, "lines": 1},
        "(root)": {"files": 1, "lines": 4},
    }
    table = size.table({}, now)
    assert "| kinds/ | 0 | 0 | 2 | 5 |" in table and table.endswith("| **all** | 0 | 0 | 4 | 10 |")
    page = f"before\n{size.BEGIN}\nold\n{size.END}\nafter\n"
    assert size.written(page, table) == f"before\n{size.BEGIN}\n{table}\n{size.END}\nafter\n"
    with pytest.raises(SystemExit, match="markers"):
        size.written("no markers", table)
