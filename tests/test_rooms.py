"""Data flows one way: no room of the house imports a higher one."""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from types import FrameType

import pytest

import pifi_probe
import pifi_probe as pp
from pifi_probe.kinds import KINDS
from pifi_probe.tasks import Task
from pifi_probe.vocabulary import BARE, BASIC_CONTROLS, CONTROLS, FIDELITIES, TWINS, WITHOUT_LAYER
from tests import slm

PACKAGE = Path(pifi_probe.__file__).parent
# bottom to top, each line one floor; book/architecture.md says what is in them
FLOORS = """
escaping
errors
bounds checked reading registry tags units vocabulary
files permissions background devices
folders provenance importing progress compat
pretrained
encoders
assets
models_table
stats
ranking two_way
differences scoring
reporting
layers
slm
kinds
ladder
telling tasks
alignment
features
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


def names_types_only(node: ast.AST) -> bool:
    """Whether this is what only a type checker reads."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def imported(node: ast.AST, modules: set[str]) -> Iterator[str]:
    """Yield those of some modules that are imported below a node when the code runs, wherever it does so."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ImportFrom) and child.module:
            names = [f"{child.module}.{alias.name}" for alias in child.names]
            yield from {name if name in modules else child.module for name in names} & modules
        if not names_types_only(child):
            yield from imported(child, modules)


def floors_of(room: str) -> dict[str, int]:
    """Return the floor of every module of a room: one above the highest that it imports."""
    files = {file.relative_to(PACKAGE.parent).with_suffix(""): file for file in (PACKAGE / room).rglob("*.py")}
    modules = {".".join(path.parts).removesuffix(".__init__"): file for path, file in files.items()}
    below = {
        name: set(imported(ast.parse(file.read_text(encoding="utf-8")), set(modules))) - {name}
        for name, file in modules.items()
    }
    floors: dict[str, int] = {}
    while len(floors) < len(modules):
        found = {
            name: 1 + max((floors[one] for one in below[name]), default=0)
            for name in modules.keys() - floors.keys()
            if below[name] <= floors.keys()
        }
        assert found, f"{sorted(modules.keys() - floors.keys())} import one another"
        floors |= found
    return floors


# modules that import one another, inside functions: `study.widget()` shows a study
CIRCLES = [
    {f"selection.{name}" for name in ("search", "study")}
    | {f"widgets.{name}" for name in ("controls", "layer_search", "request")},
]


def reached(start: str, below: dict[str, set[str]]) -> set[str]:
    """Return every module that one imports, directly or through others."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        new = below[ahead.pop()] - found
        found |= new
        ahead += new
    return found


def test_modules_import_one_another_only_where_methods_do() -> None:
    files = {file.relative_to(PACKAGE.parent).with_suffix(""): file for file in PACKAGE.rglob("*.py")}
    modules = {".".join(path.parts).removesuffix(".__init__"): file for path, file in files.items()}
    below = {
        name: set(imported(ast.parse(file.read_text(encoding="utf-8")), set(modules))) - {name, PACKAGE.name}
        for name, file in modules.items()
    }
    above = {name: reached(name, below) for name in below}
    circles = {
        frozenset(other.removeprefix("pifi_probe.") for other in above[name] if name in above[other])
        for name in below
        if name in above[name]
    }
    assert len(below) > 300
    assert circles == set(map(frozenset, CIRCLES))


@pytest.mark.parametrize("room", ["scoring", "probing"])
def test_what_scores_layers_is_a_house_of_seven_floors(room: str) -> None:
    floors = floors_of(room)
    assert len(floors) > 20
    assert {name: floor for name, floor in floors.items() if floor > 7} == {}


def test_scores_know_no_language_model() -> None:
    rooms = {other for file in (PACKAGE / "scoring").rglob("*.py") for other in imports(file)}
    assert rooms == {"errors", "progress", "registry", "scoring", "stats"}


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


# what has a value that a kind of task is called, too, and what it says there
NOT_KINDS = {
    "design": "of a candidate of a search: one layer alone is single",
    "family": "of an estimator: one that takes a second set of features is of a pair",
    "role": "of a column: the second text of a row is its pair",
    "problem_type": "transformers' word for the loss of a head",
    "_modules": "of the model that writes: its part",
}


def literals(node: ast.expr) -> set[object]:
    """Return what one side of a comparison is, or lists, where that is written out."""
    parts = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    return {one.value for one in parts if isinstance(one, ast.Constant)}


def compared_with_kinds(file: Path) -> Iterator[str]:
    """Yield the last name of what a file compares with the name of a kind of task, by an operator or `match`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        sides = [node.left, *node.comparators] if isinstance(node, ast.Compare) else []
        if isinstance(node, ast.Match):
            patterns = [one for case in node.cases for one in ast.walk(case.pattern)]
            sides = [node.subject, *(one.value for one in patterns if isinstance(one, ast.MatchValue))]
        if any(literals(side) & set(KINDS) for side in sides):
            yield from (ast.unparse(side).rpartition(".")[2] for side in sides if not literals(side))


def test_only_kinds_know_kinds_by_name() -> None:
    files = [file for file in PACKAGE.rglob("*.py") if file.relative_to(PACKAGE).parts[0] != "kinds"]
    assert {name for file in files for name in compared_with_kinds(file)} == set(NOT_KINDS)


def test_references_to_the_methods_name_a_section() -> None:
    root = PACKAGE.parent
    headings = re.findall(r"^## (.+)$", (root / "book" / "methods.md").read_text(encoding="utf-8"), re.MULTILINE)
    said = re.compile(r"book/methods\.md(?:,\s+([^).:;\n]+))?")
    files = [file for home in (PACKAGE, root / "tests") for file in home.rglob("*.py")]
    named = [(file.name, found[1]) for file in files for found in said.finditer(file.read_text(encoding="utf-8"))]
    assert len(named) > 20
    assert [one for one in named if one[1] not in headings] == []


def test_the_chart_has_the_fidelities_and_twins_of_the_package() -> None:
    script = "".join(file.read_text(encoding="utf-8") for file in (PACKAGE / "widgets").glob("*.js"))
    for name, values in {"FIDELITIES": FIDELITIES, "NULLS": TWINS}.items():
        (written,) = re.findall(rf"const {name} = (\[[^\]]*\]);", script)
        assert tuple(json.loads(written)) == values, name


def test_the_files_that_a_new_reader_is_sent_to_are_there() -> None:
    page = (PACKAGE.parent / "book" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+\? \| `([^`]+)`", page, re.MULTILINE)
    assert len(rows) > 20
    assert all((PACKAGE / row).exists() for row in rows)
    _, _, additions = page.partition("| addition | files it touches |")
    touched = re.findall(r"`([a-z_/.]+)`", additions.partition("\n\n")[0])
    assert len(touched) == 12
    assert all((PACKAGE / one).exists() or (PACKAGE.parent / one).exists() for one in touched)


def test_the_page_on_architecture_lists_every_room_and_names_only_files_that_are_there() -> None:
    root = PACKAGE.parent
    page = (root / "book" / "architecture.md").read_text(encoding="utf-8")
    _, _, after = page.partition("| room | what it holds |")
    rooms = re.findall(r"^\| `(\w+)/?` \|", after.partition("\n\n")[0], re.MULTILINE)
    assert set(rooms) == set(FLOOR) and len(rooms) == len(FLOOR)
    floors = [FLOOR[room] for room in rooms]
    assert floors == sorted(floors), "a room imports only from rooms earlier in the list"
    homes = ("pifi_probe", "tests", "scripts", "notebooks", "book/_scripts")
    files = [f"/{file.relative_to(root).as_posix()}" for home in homes for file in (root / home).rglob("*.py")]
    named = set(re.findall(r"`([\w./]+\.py)`", page))
    assert len(named) > 200
    assert [name for name in sorted(named) if not any(file.endswith(f"/{name}") for file in files)] == []


def test_no_file_takes_a_private_name_of_another() -> None:
    taken = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pifi_probe"):
                taken |= {(file.name, one.name) for one in node.names if re.match("_[^_]", one.name)}
    assert taken == set()


def unused(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the functions of a module, and their parameters that they do not use; decorators and callers may."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    passed = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in called}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and node.name not in passed:
            used = {one.id for part in node.body for one in ast.walk(part) if isinstance(one, ast.Name)}
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            yield from ((node.name, one.arg) for one in arguments if one.arg not in used)


def test_functions_use_what_they_are_given() -> None:
    assert {file.name: found for file in PACKAGE.rglob("*.py") if (found := [*unused(file)])} == {}


def test_the_controls_of_every_layer_are_listed_once() -> None:
    said = {BARE, BASIC_CONTROLS, WITHOUT_LAYER, CONTROLS, TWINS, TWINS[::-1]}
    lists = {
        file.name
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Tuple | ast.List | ast.Set)
        for names in [tuple(getattr(one, "value", None) for one in node.elts if not isinstance(one, ast.Starred))]
        if names in said or (len(names) > 2 and names[:2] == BARE)
    }
    assert lists == {"vocabulary.py"}


def rooms_of_the_task(call: Callable[[], object], task: Task) -> set[tuple[str, ...]]:
    """Return the rooms, from the outermost call inwards, that a task or its splits were handed through."""
    handed, home = (task, *task.splits.values()), f"{PACKAGE}/"
    ways: set[tuple[str, ...]] = set()

    def room(frame: FrameType) -> str | None:
        """Return the room of a call that was handed the task; None for any other."""
        code = frame.f_code
        if not code.co_filename.startswith(home):
            return None
        given = [frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]]
        if not any(one is each for one in given for each in handed):
            return None
        return Path(code.co_filename).relative_to(PACKAGE).parts[0].removesuffix(".py")

    def look(frame: FrameType | None, event: str, _: object) -> None:
        if frame is not None and room(frame):
            rooms = []
            while frame is not None:
                rooms.append(room(frame))
                frame = frame.f_back
            ways.add(tuple(one for one, _ in groupby(one for one in reversed(rooms) if one)))

    before = sys.gettrace()
    sys.settrace(look)
    try:
        call()
    finally:
        sys.settrace(before)
    return ways


@pytest.mark.parametrize("entry", ["probe", "probe_plugin"])
def test_a_task_on_its_way_through_a_probe_enters_no_room_twice(
    entry: str, llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIFI_PROBE_FEATURES", str(tmp_path / "features"))
    task = slm.tiny_task(120)
    if entry == "probe":
        settings = pp.ProbeSettings(n_permutations=0)
        ways = rooms_of_the_task(lambda: pp.probe(llm, task, settings, n=40, progress=False), task)
    else:
        encoder = str(slm.tiny_slm_folder(tmp_path / "slm"))
        quick = pp.PluginProbeSettings(n_permutations=0, trained=False, ntk=False)
        ways = rooms_of_the_task(lambda: pp.probe_plugin(encoder, llm, task, quick, n=40, progress=False), task)
    assert {way[0] for way in ways} == {"probing"} and any("kinds" in way for way in ways), ways
    assert [way for way in ways if len(set(way)) < len(way)] == []
    assert max(map(len, ways)) <= 7
