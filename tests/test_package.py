"""What is given away: the wheel, the source distribution, their version, and the container."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BESIDE = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff",
          "constraints.txt")  # fmt: skip
BUILD = """
import sys
from setuptools import build_meta
out = sys.argv[1]  # setuptools takes sys.argv for its own
build_meta.build_wheel(out)
build_meta.build_sdist(out)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with both, made from a copy of the repository that has its tests too."""
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    junk = shutil.ignore_patterns("__pycache__", "*.egg-info", "golden")
    for folder in ("src", "tests"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=junk)
    for name in BESIDE:
        shutil.copy(ROOT / name, tree)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=tree, check=True, capture_output=True
    )
    yield out
    shutil.rmtree(tree)


def sources() -> set[str]:
    """Every file of the package."""
    found = (path for path in (ROOT / "src").rglob("*") if path.is_file())
    names = {path.relative_to(ROOT / "src").as_posix() for path in found}
    return {name for name in names if "__pycache__" not in name and ".egg-info" not in name}


def test_the_wheel_is_the_package_and_nothing_else(built: Path) -> None:
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as wheel:
        names = set(wheel.namelist())
        told = wheel.read(f"scaledq-{PROJECT['version']}.dist-info/METADATA").decode()
    about = {name for name in names if ".dist-info/" in name}
    assert names - about == sources()
    assert {"scaledq/py.typed", "scaledq/play/player.html", "scaledq/report/page.html"} <= names
    assert f"scaledq-{PROJECT['version']}.dist-info/licenses/LICENSE" in about
    assert set(re.findall(r"^Provides-Extra: (.+)$", told, re.MULTILINE)) == set(
        PROJECT["optional-dependencies"]
    )
    assert file.stat().st_size < 1_000_000


def test_the_source_distribution_has_what_builds_it_and_no_tests(built: Path) -> None:
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    made = {name for name in names if ".egg-info/" in name} | {"PKG-INFO", "setup.cfg"}
    assert names - made == {f"src/{name}" for name in sources()} | set(BESIDE)


def test_one_version_is_told_everywhere() -> None:
    version = PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased" or headings[0] == version
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", heading) for heading in headings[1:])
    released = [tuple(map(int, heading.split("."))) for heading in headings[1:]]
    assert released == sorted(released, reverse=True)
    assert headings[0] == "Unreleased" or version in headings


def test_the_container_is_made_of_what_the_project_says() -> None:
    said = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (python,) = re.findall(r"^FROM python:([\d.]+)-slim$", said, re.MULTILINE)
    assert f"Programming Language :: Python :: {python}" in PROJECT["classifiers"]
    installs = re.findall(r"pip install [^&]+", said)
    # Without it the second would replace the first one's torch by another build.
    assert all("--constraint constraints.txt" in line for line in installs)
    assert len(installs) == 2
    (extras,) = re.findall(r'"\.\[([^]]+)\]"', said)
    assert set(extras.split(",")) <= set(PROJECT["optional-dependencies"])
    copied = [
        word
        for line in re.findall(r"^COPY (.+)$", said, re.MULTILINE)
        for word in line.split()[:-1]
    ]
    assert all((ROOT / name).exists() for name in copied)
    assert {"pyproject.toml", "constraints.txt", PROJECT["readme"], "src"} <= set(copied)
    assert f"[{extras}]" in (ROOT / ".ci" / "dist").read_text()


def test_what_dependencies_may_be_is_what_they_are() -> None:
    """Every package that the project names is pinned for CI, and its Python is one it is for."""
    pinned = {
        name(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    }
    asked = [
        *PROJECT["dependencies"],
        *(r for extra in PROJECT["optional-dependencies"].values() for r in extra),
    ]
    lacking = {name(requirement) for requirement in asked} - pinned - {"scaledq"}
    assert lacking <= NOT_PINNED


NOT_PINNED = {"gcsfs", "setuptools"}
"""No test needs Google's storage, and what builds is not what runs."""


def name(requirement: str) -> str:
    """Of a package, as indexes compare them."""
    (found,) = re.findall(r"^[\w.-]+", requirement)
    return re.sub(r"[-_.]+", "-", found).lower()
