"""Floors: a module imports only from floors below. Rooms: no module that belongs nowhere."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "src" / "scaledq"
FLOORS = {
    "core": 0,
    "data": 1,
    "nets": 1,
    "learn": 1,
    "play": 1,
    "report": 1,
    "run": 2,
    "study": 3,
    "cli": 4,
}
MODULES = sorted(p for p in ROOT.rglob("*.py") if p.parent != ROOT)
HOMELESS = {"utils", "util", "common", "base", "helpers", "factory", "registry", "misc"}
ATARI = {"core/atari.py", "play/envs.py", "study/paper.py"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    tree = list(ast.walk(ast.parse(path.read_text())))
    found = {n.module for n in tree if isinstance(n, ast.ImportFrom) and n.module}
    found |= {alias.name for n in tree if isinstance(n, ast.Import) for alias in n.names}
    return {module.split(".")[1] for module in found if module.startswith("scaledq.")}


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_down(path: Path) -> None:
    here = path.relative_to(ROOT).parts[0]
    for there in imports(path) - {here}:
        assert FLOORS[there] < FLOORS[here], f"{here} must not import {there}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_modules_say_what_they_answer_and_have_a_room(path: Path) -> None:
    assert path.stem not in HOMELESS
    assert ast.get_docstring(ast.parse(path.read_text())), "a module begins with its question"
    assert path.read_text().count("\n") <= 400, "split it along the nouns it has"


@pytest.mark.parametrize("heavy", ["torch", "tensorstore", "ale_py", "matplotlib", "av"])
def test_asking_for_help_loads_nothing_heavy(heavy: str) -> None:
    code = f"import scaledq, scaledq.cli, sys; sys.exit({heavy!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_only_the_command_line_parses_arguments() -> None:
    for path in MODULES:
        if path.parent.name != "cli":
            tree = ast.walk(ast.parse(path.read_text()))
            names = {a.name for n in tree if isinstance(n, ast.Import) for a in n.names}
            assert not names & {"tyro", "argparse", "click"}, name(path)
