"""What a fresh machine meets: ranges and pins, make, wheel and sdist."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import pifi_probe
from pifi_probe import layerbench
from pifi_probe.layers.extract import extract
from tests.tiny import tiny_checkpoint

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
LIBRARIES = ("ray", "onnx", "embeddings", "tensorboard")  # extras that the package itself imports
RAY_INSTALL = ["-m pip install -q -c .venv/constraints.txt -e .[ray]"]
OPTIONAL_TEXTS = ("orange-texts", "critic-texts", "chinese-texts", "ui-strings", "e5-small-multilingual")
needs_make = pytest.mark.skipif(os.name == "nt" or shutil.which("make") is None, reason="needs make")


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def test_the_conda_environment_holds_python_and_the_package_itself():
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    assert "python" + PROJECT["requires-python"] in listed
    assert {"pip": ["-e ."]} in listed


def test_every_range_of_the_project_holds_its_pin():
    ranges = [Requirement(line) for line in [*PROJECT["dependencies"], *sum(EXTRAS.values(), [])]]
    for requirement in ranges:
        if requirement.name != PROJECT["name"]:
            assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), requirement


def test_pins_are_public_versions_so_that_cpu_and_cuda_builds_both_fit():
    assert {"torch", "transformers"} <= pins().keys()
    assert [version for version in pins().values() if "+" in version] == []


def test_the_extra_all_names_every_other_extra():
    (everything,) = EXTRAS["all"]
    assert Requirement(everything).extras == EXTRAS.keys() - {"all"}


def test_every_package_that_is_imported_is_a_declared_dependency():
    declared = {
        canonicalize_name(Requirement(line).name)
        for line in PROJECT["dependencies"] + sum(map(EXTRAS.get, LIBRARIES), [])
    }
    homes = importlib.metadata.packages_distributions()
    for file in (ROOT / "pifi_probe").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module or ""]
            else:
                continue
            for top in {name.split(".")[0] for name in modules} - sys.stdlib_module_names - {"pifi_probe"}:
                owners = {canonicalize_name(name) for name in homes.get(top, [top])}
                assert owners & declared, f"{file.name} imports {top}"


REMOVED = (
    "aifc asynchat asyncore audioop cgi cgitb chunk crypt distutils imghdr imp lib2to3 mailcap msilib nis nntplib "
)
REMOVED += "ossaudiodev pipes smtpd sndhdr spwd sunau telnetlib uu xdrlib"  # of the standard library, up to 3.13
REMOVED += " pkg_resources"  # of setuptools, which newer Pythons no longer bring along
LATER = ("3.12.0", "3.13.0")
IMPORTED = re.compile(r"^ *(?:import|from) +(\w+)", re.MULTILINE)


@pytest.mark.filterwarnings("error")  # an escape that is none is an error of later Pythons
def test_no_syntax_and_no_module_of_one_python_only():
    folders = ("pifi_probe", "scripts", "benchmarks", "book/_scripts", "book/_extension")
    for file in (file for folder in folders for file in (ROOT / folder).rglob("*.py")):
        text = file.read_text(encoding="utf-8")
        ast.parse(text, str(file), feature_version=(3, 11))
        assert not set(IMPORTED.findall(text)) & set(REMOVED.split()), file
    with pytest.raises(SyntaxError):
        ast.parse("type Words = list[str]", feature_version=(3, 11))


def test_no_pinned_dependency_forbids_a_later_python():
    asked = {}
    for name in pins():
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            asked[name] = SpecifierSet(importlib.metadata.metadata(name).get("Requires-Python") or "")
    assert {"torch", "transformers", "numpy"} <= asked.keys()
    assert [name for name, pythons in asked.items() if not all(map(pythons.contains, LATER))] == []


def test_classifiers_and_pages_name_the_pythons_that_have_run():
    ran = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    install, limits = ((ROOT / "book" / name).read_text(encoding="utf-8") for name in ("install.md", "limits.md"))
    assert f"Tested: Python {' and '.join(ran)} on Linux" in install
    assert f"Python 3.{int(ran[-1].removeprefix('3.')) + 1} and newer" in limits
    assert PROJECT["requires-python"] == f">={ran[0]}"


def test_the_version_is_stated_once_and_everywhere_the_same():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert pifi_probe.__version__ == PROJECT["version"] == citation["version"]
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    (tables,) = (one for one in citation["references"] if one["type"] == "data")
    assert tables["version"] == layerbench.VERSION and "LayerBench" in tables["title"]


def test_the_workflow_runs_three_pythons_on_three_systems():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    matrix = workflow["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13"]
    assert [name.split("-")[0] for name in matrix["os"]] == ["ubuntu", "macos", "windows"]


# --- make, with a Python that only writes down what it was asked to do

STUB = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in
*sys.version_info*) exit "${OLD:-0}" ;;
*find_spec*) echo "$SYSTEM" ;;
*"import torch") [ -n "$TORCH" ] || exit 1 ;;
"-m venv"*)
    for last; do :; done
    mkdir -p "$last/bin"
    cp "$0" "$last/bin/python"
    cp "$0" "$last/bin/pifi-probe" ;;
*pytest*) exit "${FAILS:-0}" ;;
esac
"""


class Checkout:
    """The files that make reads, in a folder with a space, and a stubbed ``python3``."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a check out"
        self.log = folder / "calls.txt"
        self.root.mkdir()
        for name in ("Makefile", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root)
        self.stub = folder / "the bin" / "python3"
        self.stub.parent.mkdir()
        self.stub.write_text(STUB)
        self.stub.chmod(self.stub.stat().st_mode | stat.S_IXUSR)

    def make(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run make from another folder; the log then holds the calls of this run only."""
        self.log.write_text("")
        path = f"{self.stub.parent}{os.pathsep}{os.defpath}"
        return subprocess.run(
            ["make", "-C", str(self.root), *arguments],
            env={"PATH": path, "LOG": str(self.log), **variables},
            cwd=self.root.parent,
            capture_output=True,
            text=True,
        )

    def installs(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if line.startswith("-m pip install")]


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@needs_make
@pytest.mark.parametrize(
    "target", ["demo", "test", "test-slow", "lint", "bench", "notebooks", "results", "book", "lab"]
)
def test_every_target_makes_the_environment_when_it_is_missing(checkout, target):
    checkout.make(target)
    assert (checkout.root / ".venv" / ".ready").is_file()
    assert checkout.installs()[2:] == (RAY_INSTALL if target == "test-slow" else [])


@needs_make
def test_make_installs_the_pinned_torch_then_the_project_with_the_other_pins(checkout):
    run = checkout.make("demo")
    assert run.returncode == 0, run.stderr
    torch, project = checkout.installs()
    assert torch == f"-m pip install -c constraints.txt torch=={pins()['torch']}"
    assert project == "-m pip install -c .venv/constraints.txt -e .[dev,book]"
    kept = (checkout.root / ".venv" / "constraints.txt").read_text().splitlines()
    assert f"transformers=={pins()['transformers']}" in kept
    assert not [line for line in kept if line.startswith("torch==")]
    assert checkout.log.read_text().splitlines()[-1] == "demo"


@needs_make
def test_a_second_make_installs_nothing_until_a_pin_changes(checkout):
    checkout.make("demo")
    assert checkout.make("demo").returncode == 0
    assert checkout.log.read_text() == "demo\n"
    later = (checkout.root / ".venv" / ".ready").stat().st_mtime + 5
    os.utime(checkout.root / "constraints.txt", (later, later))
    checkout.make("demo")
    assert len(checkout.installs()) == 2
    assert "-m venv" not in checkout.log.read_text(), "the environment itself is kept"


@needs_make
def test_an_installed_torch_is_kept(checkout):
    checkout.make("demo", TORCH="1", SYSTEM="--system-site-packages")
    assert checkout.installs() == ["-m pip install -c .venv/constraints.txt -e .[dev,book]"]
    assert "-m venv --clear --system-site-packages .venv" in checkout.log.read_text()


@needs_make
def test_the_torch_build_comes_from_the_index_that_was_named(checkout):
    checkout.make("demo", "TORCH_INDEX=file:///some/index")
    assert checkout.installs()[0] == f"-m pip install --index-url file:///some/index torch=={pins()['torch']}"


@needs_make
def test_a_python_in_a_path_with_a_space_can_be_named(checkout):
    elsewhere = checkout.root / "my python"
    shutil.move(checkout.stub, elsewhere)
    assert checkout.make("demo", f"PYTHON={elsewhere}").returncode == 0
    assert checkout.log.read_text().splitlines()[-1] == "demo"


@needs_make
def test_another_python_than_that_of_the_environment_is_refused(checkout):
    assert checkout.make("demo").returncode == 0
    assert checkout.make("demo", f"PYTHON={checkout.stub}").returncode == 0
    other = checkout.root / "other"
    other.write_text("#!/bin/sh\necho Python 3.13.1\n")
    other.chmod(0o755)
    run = checkout.make("demo", f"PYTHON={other}")
    assert run.returncode != 0 and "remove .venv, then run make again" in run.stderr
    assert checkout.installs() == []


@needs_make
def test_a_python_that_is_too_old_is_refused_with_what_to_do(checkout):
    run = checkout.make("demo", f"PYTHON={checkout.stub}", OLD="1")
    assert run.returncode != 0
    assert "needs Python 3.11 or newer" in run.stderr and "make PYTHON=" in run.stderr
    assert checkout.installs() == [] and not (checkout.root / ".venv").exists()


@needs_make
def test_a_failing_test_fails_make(checkout):
    assert checkout.make("test", FAILS="1").returncode != 0


@pytest.mark.skipif(os.name == "nt", reason="a bash script")
def test_ci_runs_every_check_and_stops_at_the_first_that_fails(checkout):
    shutil.copytree(ROOT / ".ci", checkout.root / ".ci")
    for tool in (
        checkout.root / ".venv/bin/pifi-probe",
        checkout.root / ".venv/bin/python",
        checkout.stub.parent / "make",
        checkout.stub.parent / "chromium",
    ):
        tool.parent.mkdir(parents=True, exist_ok=True)
        tool.write_text('#!/bin/sh\necho "$@" >> "$LOG"\n[ "$*" != "$FAILS" ]\n')
        tool.chmod(0o755)

    def ci(fails: str) -> tuple[int, list[str]]:
        checkout.log.write_text("")
        path = f"{checkout.stub.parent}{os.pathsep}{os.environ['PATH']}"
        run = subprocess.run(
            ["bash", str(checkout.root / ".ci" / "run")],
            env=os.environ | {"PATH": path, "LOG": str(checkout.log), "FAILS": fails},
            stdin=subprocess.DEVNULL,
        )
        return run.returncode, checkout.log.read_text().splitlines()

    pulls = [f"assets pull {name}" for name in OPTIONAL_TEXTS]
    calls = [".venv/.ready", "assets pull", *pulls, "test", "test-slow", "lint", "book"]
    assert ci("nothing") == (0, calls)
    for count, call in enumerate(calls, start=1):
        code, made = ci(call)
        if call in pulls:
            assert code == 0 and made == calls, "what is optional stops nothing"
        else:
            assert code != 0 and made == calls[:count]


def test_no_file_of_the_set_up_names_a_registry_host():
    names = [
        "Makefile",
        ".ci/run",
        "pyproject.toml",
        "constraints.txt",
        "environment.yml",
        ".github/workflows/test.yml",
    ]
    for name in names:
        assert not re.search(
            r"https?://(?!github\.com/)|--index-url [^\"]", (ROOT / name).read_text(encoding="utf-8")
        ), name


# --- wheel and sdist


@pytest.mark.slow
def test_the_wheel_alone_extracts_a_layer_outside_of_the_repository(tmp_path):
    """Build sdist and wheel, install the wheel into a fresh environment and use it from another folder.

    The package comes from the wheel; its dependencies are lent by this environment through a ``.pth``
    file, so that torch is not downloaded again.
    """
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"pifi_probe/py.typed", "pifi_probe/assets/assets.toml"} <= {*names}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names} == {
        "pifi_probe",
        f"pifi_probe-{PROJECT['version']}.dist-info",
    }
    with tarfile.open(sdist) as packed:
        inside = {name.partition("/")[2] for name in packed.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "constraints.txt", "tests/test_packaging.py"} <= inside

    fresh = tmp_path / "a fresh environment"
    venv.create(fresh, with_pip=True, symlinks=os.name != "nt")
    scripts = fresh / ("Scripts" if os.name == "nt" else "bin")
    away = tmp_path / "away"
    away.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(*command: str | Path) -> str:
        done = subprocess.run([str(part) for part in command], cwd=away, env=clean, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(scripts / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel)
    site = Path(run(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    home = run(scripts / "python", "-c", "import pifi_probe; print(pifi_probe.__file__)").strip()
    assert Path(home).is_relative_to(fresh)

    model = tiny_checkpoint("llama", tmp_path / "a tiny llama")
    assert PROJECT["version"] in run(scripts / "pifi-probe", "info", "--json")
    run(scripts / "pifi-probe", "extract", f"{model}[-1]", "--out", "layer")
    code = "from pifi_probe import FrozenLayer; x = FrozenLayer.load('layer'); print(x.hidden_size, x.n_params)"
    layer = extract(f"{model}[-1]")
    assert run(scripts / "python", "-c", code).split() == [str(layer.hidden_size), str(layer.n_params)]
