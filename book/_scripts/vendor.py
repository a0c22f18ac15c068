"""Fetch the JavaScript that the book's pages need, so that they ask no other site for it.

Pinned npm packages, checked by sha512 and kept in the cache; written to book/_vendor, which git ignores.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pifi_probe.files import cache_root

BOOK = Path(__file__).resolve().parent.parent
VENDOR = BOOK / "_vendor"  # given to Sphinx as static files
EXTRA = BOOK / "_extra"  # copied next to the pages
FONTS = "_extra/notebooks/@jupyter-widgets/html-manager/dist"  # where a chapter's widgets look for them
ICONS = ("1551f4f60c37af51121f", "7a3337626410ca2f4071", "d878b0a6a1144760244f")  # of the buttons
# Widgets ask MathJax 2 to typeset their texts, if there is any MathJax; the pages have MathJax 3, which has no Hub.
_ASKS, _ASKS_IF_THERE = b"void 0!==window.MathJax&&MathJax.Hub.Queue", b"window.MathJax&&MathJax.Hub&&MathJax.Hub.Queue"


@dataclass(frozen=True)
class Package:
    """One pinned npm package and the files of it that are used.

    Parameters
    ----------
    name, version : str
    sha512 : str
        Of the tarball, in base64 as npm states it.
    files : dict
        Member of the tarball to where it is written, relative to the book.
    """

    name: str
    version: str
    sha512: str
    files: dict[str, str]

    @property
    def tarball(self) -> str:
        """The name that npm gives the file."""
        return f"{self.name.replace('@', '').replace('/', '-')}-{self.version}.tgz"


PACKAGES = (
    Package(
        "requirejs",
        "2.3.8",
        "7/cTSLOdYkNBNJcDMWf+luFvMriVm7eYxp4BcFCsAX0wF421Vyce5SXP17c+Jd5otXKGNehIonFlyQXSowL6Mw==",
        {"package/require.js": "_vendor/vendor/require.js"},
    ),
    Package(
        "@jupyter-widgets/html-manager",
        "1.0.15",
        "5thBIV6ymNgmPVOHvzx+gGy8ZSKmSazhtGw4/c4xJDVzRhG9PTeQsRjF3FUTopvFi//SABeNz1yp47bCrJ3CQA==",
        {"package/dist/embed-amd.js": "_vendor/vendor/embed-amd.js"}
        | {f"package/dist/{font}.woff2": f"{FONTS}/{font}.woff2" for font in ICONS},
    ),
    Package(
        "mathjax",
        "3.2.2",
        "Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==",
        {"package/es5/tex-svg.js": "_vendor/vendor/tex-svg.js"},
    ),
    Package(
        "anywidget",
        "0.11.0",
        "LHZgW2j5UjyerZSZcO+BtZPXGMSORQV2bUT480hOR5x/BXS8sOradi/71amJfMueSEnKX0dqPwTfsOGHTsyZpQ==",
        {"package/dist/index.js": "_extra/notebooks/anywidget.js"},
    ),
)
AXE = Package(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
    {"package/axe.min.js": "_build/axe.min.js"},  # for the browser test only, never in a page
)


def fetch(packages: tuple[Package, ...] = PACKAGES) -> bool:
    """Write the files of all packages; return False, with a warning, when npm is not here or cannot fetch them."""
    try:
        tarballs = [(package, _cached(package)) for package in packages]
    except (OSError, subprocess.SubprocessError) as error:
        print(f"warning: no vendored JavaScript ({error}); the pages will load it from a CDN", file=sys.stderr)
        return False
    for package, tarball in tarballs:
        _unpack(package, tarball)
    return True


def _cached(package: Package) -> Path:
    """Return the verified tarball, from the cache or from npm."""
    file = cache_root() / "npm" / package.tarball
    if not (file.is_file() and _is_right(package, file)):
        file.parent.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm")
        if npm is None:
            raise FileNotFoundError("npm is not installed")
        with tempfile.TemporaryDirectory(dir=file.parent) as folder:
            wanted = f"{package.name}@{package.version}"
            subprocess.run([npm, "pack", wanted, "--silent"], cwd=folder, check=True, timeout=300, capture_output=True)
            fetched = next(Path(folder).glob("*.tgz"))
            if not _is_right(package, fetched):
                raise SystemExit(f"{wanted}: the sha512 of what npm fetched is not the pinned one")
            fetched.replace(file)
    return file


def _is_right(package: Package, file: Path) -> bool:
    return base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode() == package.sha512


def _unpack(package: Package, tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        for member, place in package.files.items():
            content = archive.extractfile(member)
            assert content is not None
            (BOOK / place).parent.mkdir(parents=True, exist_ok=True)
            (BOOK / place).write_bytes(content.read().replace(_ASKS, _ASKS_IF_THERE))


if __name__ == "__main__":
    sys.exit(0 if fetch() else 1)
