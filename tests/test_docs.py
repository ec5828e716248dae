"""Every code block of README and docs: run here, or marked with the reason why not.

A block that is not run is followed by `<!-- above, not run: reason -->` (or its page is listed as
run elsewhere); `<!-- file: name -->` before one writes it to that file. The blocks of a page run
in order in one empty folder, each in a process of its own.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from scaledq.cli import Verb
from scaledq.core.protocol import QUICK
from scaledq.play.envs import make

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
RUN = ("own-data.md",)
FENCE = re.compile(
    r"(?:<!-- file: (?P<file>\S+) -->\n)?"
    r"^```(?P<kind>\w*)[^\n]*\n(?P<code>.*?)^```$"
    r"(?:\n<!-- above, not run: (?P<reason>[^>]+) -->)?",
    re.MULTILINE | re.DOTALL,
)
SHELL, PYTHON = ("sh", "bash", "console"), ("python", "py")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    kind: str
    code: str
    file: str
    reason: str


def blocks(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text())
    return [
        Block(page.name, m["kind"], m["code"], m["file"] or "", m["reason"] or "") for m in found
    ]


def execute(block: Block, folder: Path) -> None:
    if block.file:
        (folder / block.file).write_text(block.code)
        return
    command = ["bash", "-euc", block.code] if block.kind in SHELL else [sys.executable, "-"]
    source = str(ROOT / "src")
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": f"{source}:{os.environ.get('PYTHONPATH', '')}".rstrip(":"),
        "OMP_NUM_THREADS": "1",
    }
    given = None if block.kind in SHELL else block.code
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, check=False, cwd=folder, env=env
    )
    assert done.returncode == 0, f"{block.page}:\n{block.code}\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("name", RUN)
def test_a_page_runs_as_it_is_written(name: str, tmp_path: Path) -> None:
    page = next(page for page in PAGES if page.name == name)
    for block in blocks(page):
        if not block.reason:
            execute(block, tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_and_program_runs_or_says_why_not(page: Path) -> None:
    for block in blocks(page):
        if block.kind in (*SHELL, *PYTHON) and page.name not in RUN:
            assert block.reason, f"{page.name}: a block without a reason:\n{block.code}"


def test_the_guides_examples_of_tasks_can_be_played() -> None:
    text = (ROOT / "docs" / "own-data.md").read_text()
    names = [name for name in re.findall(r"^\| `(gym:\S+)` ", text, re.M) if "my_" not in name]
    assert len(names) == 5
    for name in names:
        make(name, 1, QUICK).close()


def test_the_site_has_every_page() -> None:
    named = re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text())
    pages = (ROOT / "docs").rglob("*.md")
    assert sorted(named) == sorted(page.relative_to(ROOT / "docs").as_posix() for page in pages)


def test_the_readme_names_every_verb() -> None:
    readme = (ROOT / "README.md").read_text()
    verbs = [kebab(verb.__name__) for verb in get_args(get_args(Verb)[0])]
    assert "export-minari" in verbs
    assert [verb for verb in verbs if f"`{verb}`" not in readme] == []


def kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", name).lower()
