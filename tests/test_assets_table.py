"""The table of assets is data: read whole, or refused in one line that names the row."""

from __future__ import annotations

import pytest

from pifi_probe.assets.table import ASSETS, read_table
from pifi_probe.errors import AssetError

SHA = "ab" * 32
ROW = f"""[[asset]]
name = "a"
title = "t"
package = "p"
version = "1"
kind = "wheel"
sha256 = "{SHA}"
nbytes = 7
licence = "MIT"
members = [{{ source = "in/x", target = "x", nbytes = 1, sha256 = "{SHA}" }}]
"""


def test_a_row_has_the_types_of_an_asset_and_what_it_leaves_out_is_empty():
    (asset,) = read_table(ROW)
    assert (asset.name, asset.nbytes, asset.members[0].source, asset.aliases, asset.demo) == ("a", 7, "in/x", (), False)


def test_the_package_s_own_table_holds_what_the_demo_needs():
    assert [asset.name for asset in ASSETS if asset.demo] == ["minilm-l6", "smollm2-135m", "vader-texts"]
    assert not any(asset.demo and asset.terms for asset in ASSETS)


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ('version = "1"', "version = 1", r"Expected `str`, got `int` - at `\$.version`"),
        ('version = "1"\n', "", "missing required field `version`"),
        ('"wheel"', '"egg"', "Invalid enum value 'egg'"),
        ("nbytes = 7", "nbytes = -7", "nbytes = -7"),
        ('title = "t"', 'titel = "t"', "'titel' is not a name that an asset has"),
        ('title = "t"', 'title = "t"\nmain = "y"', "main = 'y' is not a target"),
        ('target = "x"', 'target = "../x"', "'../x' is not a place of its own"),
        ('target = "x"', 'target = "/x"', "'/x' is not a place of its own"),
        ('title = "t"', 'title = "t"\naliases = ["a"]', "the name 'a' stands for two assets"),
        (SHA, SHA[:-1], "are not those of a file"),
        ("[[asset]]", "[[assets]]", r"no \[\[asset\]\] in it"),
        ("[[asset]]", "[[asset]", "cannot be read: "),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_line(was: str, now: str, message: str):
    with pytest.raises(AssetError, match=message) as caught:
        read_table(ROW.replace(was, now, 1), "own.toml")
    assert "own.toml" in caught.value.where and "\n" not in str(caught.value)
