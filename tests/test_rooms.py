"""Data flows one way: no room of the house imports a higher one."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pifi_probe

PACKAGE = Path(pifi_probe.__file__).parent
# bottom to top, each line one floor; book/architecture.md says what is in them
FLOORS = """
escaping
errors
bounds reading registry tags units vocabulary
files permissions background
folders provenance importing progress compat
pretrained
encoders
assets
models_table
stats
ranking two_way
differences
ladder
reporting
telling
layers
kinds
tasks
alignment
plugin
training
probing
selection
efficiency experiments layerbench
widgets
checks
cli
__main__
"""
FLOOR = {name: floor for floor, line in enumerate(FLOORS.strip().splitlines()) for name in line.split()}
# the looks upwards that there are: the file, the room, and why it may
ALLOWED = {
    ("selection/study.py", "widgets"): "study.widget() shows a study",
    ("plugin/build.py", "probing"): "the default chain of an aligned plug-in is what headroom suggests",
}


def imports(file: Path) -> Iterator[str]:
    """Yield the room of everything that a file imports from the package, wherever it does so."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file}: name the module in full"
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "pifi_probe" and rest.partition(".")[0] in FLOOR:
                yield rest.partition(".")[0]


def test_every_room_has_its_floor() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert rooms - {"__init__"} == set(FLOOR)


def test_no_room_imports_a_higher_one() -> None:
    upwards, seen = {}, 0
    for file in sorted(PACKAGE.rglob("*.py")):
        place = file.relative_to(PACKAGE).as_posix()
        room = place.partition("/")[0].removesuffix(".py")
        if room == "__init__":
            continue  # the public names, made from everything
        for other in imports(file):
            seen += 1
            if other != room and FLOOR[other] >= FLOOR[room]:
                upwards[place, other] = True
    assert seen > 500, "the walk has found the imports"
    assert set(upwards) == set(ALLOWED)


# asked of an encoder in `encoders.py` alone; `layers/` reads donors, and the other two write or bound a configuration
OF_ENCODERS = {
    *("max_position_embeddings", "n_positions", "max_seq_len", "padding_idx", "type_vocab_size", "add_pooling_layer"),
    *("MODEL_FOR_MASKED_LM_MAPPING", "MODEL_FOR_CAUSAL_LM_MAPPING", "get_encoder"),
}
NOT_ENCODERS = {"layers", "assets", "bounds"}


def asked(file: Path) -> Iterator[str]:
    """Yield attributes, keywords, strings and imported names of a file that `OF_ENCODERS` holds."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            names = [] if (node.module or "").startswith("pifi_probe") else [alias.name for alias in node.names]
        else:
            names = [getattr(node, field, None) for field in ("attr", "arg", "value")]
        yield from (name for name in names if isinstance(name, str) and name in OF_ENCODERS)


def test_what_an_encoder_is_asked_has_one_home() -> None:
    files = {file: file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in PACKAGE.rglob("*.py")}
    asking = {room for file, room in files.items() if not room.startswith(tuple(NOT_ENCODERS)) and set(asked(file))}
    assert asking == {"encoders"}
    assert set(asked(PACKAGE / "encoders.py")) == OF_ENCODERS


def test_the_files_that_a_new_reader_is_sent_to_are_there() -> None:
    page = (PACKAGE.parent / "book" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+\? \| `([^`]+)`", page, re.MULTILINE)
    assert len(rows) == 10
    assert all((PACKAGE / row).exists() for row in rows)
