"""Numbers are given in units that people read."""

from __future__ import annotations

import pytest

from pifi_probe.units import amount


@pytest.mark.parametrize(
    ("number", "unit", "words"),
    [
        (0, "B", "0 B"),
        (812, "B", "812 B"),
        (999, "", "999"),
        (1000, "", "1 k"),
        (3_540_000, "", "3.54 M"),
        (2_200_000, "B", "2.2 MB"),
        (999_600, "B", "1 MB"),
        (11_274_289_152, "", "11.3 G"),
        (22_548_578_304, "B", "22.5 GB"),
    ],
)
def test_amounts(number: int, unit: str, words: str) -> None:
    assert amount(number, unit) == words
