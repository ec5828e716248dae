"""Every code block of README and docs: run here, or marked with the reason why not.

A block that is not run is followed by `<!-- above, not run: reason -->`; `<!-- file: name -->`
before one writes it to that file. The blocks of a page run in order in one folder. Most pages are
written for minutes and run at smoke size: the same words with fewer steps (`smaller`), in this
process. Those of AS_WRITTEN are run to the letter, each block in a process of its own.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any, get_args

import matplotlib
import pytest
from matplotlib import pyplot

from scaledq.cli import Verb, main
from scaledq.core.protocol import QUICK
from scaledq.play.envs import make
from scaledq.study.scales import QUICK_TASKS, SMOKE

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
AS_WRITTEN = ("own-data.md",)
GOING_ON = ("finetuning.md", "training.md", "studies.md")
"""They go on where the tutorial's first commands have led."""
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


SMALL = replace(SMOKE, run=replace(SMOKE.run, tasks=QUICK_TASKS))


SET = {
    "collect": {"--protocol.step-cap": "40"},
    "train": {"--scale": "smoke"},
    "finetune": {"--steps": "4"},
    "study": {"--scale": "smoke"},
    "evaluate": {"--episodes": "1"},
    "watch": {"--steps": "5"},
}
CUT = {"collect": {"--steps": "400"}, "train": {"--steps": "4"}, "finetune": {"--forgetting": "1"}}
"""By verb, the options that every command gets, and those that it gets if it has them."""


def smaller(words: list[str]) -> list[str]:
    """The same command at smoke size."""
    verb = words[0]
    if "--list" in words:
        return words
    cut = {name: value for name, value in CUT.get(verb, {}).items() if name in words}
    for option, value in (SET.get(verb, {}) | cut).items():
        if option in words:
            words[words.index(option) + 1] = value
        else:
            words += [option, value]
    if verb == "train" and "--tasks" not in words:
        words += ["--tasks", *QUICK_TASKS]
    return words


def perform(block: Block) -> None:
    """Runs the block here, at smoke size; its folder is the current one."""
    if block.kind in PYTHON:
        exec(block.code.replace('SCALES["quick"]', "SMALL"), {"SMALL": SMALL})
        return
    for line in block.code.splitlines():
        words = [w for word in shlex.split(line, comments=True) for w in (glob(word) or [word])]
        if words:
            assert words[0] == "scaledq", f"{block.page}: what is this? {line}"
            main(smaller(words[1:]))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of three games and a run on them: what the tutorial begins with."""
    folder = tmp_path_factory.mktemp("begun")
    page = next(page for page in PAGES if page.name == "tutorial.md")
    with contextlib.chdir(folder):
        for block in [b for b in blocks(page) if b.kind in SHELL and not b.reason][:2]:
            perform(block)
    return folder


@pytest.mark.parametrize("name", AS_WRITTEN)
def test_a_page_runs_as_it_is_written(name: str, tmp_path: Path) -> None:
    page = next(page for page in PAGES if page.name == name)
    for block in blocks(page):
        if not block.reason:
            execute(block, tmp_path)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in AS_WRITTEN], ids=lambda page: page.name
)
def test_a_page_runs_at_smoke_size(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    todo = [b for b in blocks(page) if b.kind in (*SHELL, *PYTHON) and not b.reason]
    folder = tmp_path / "folder"
    if todo and page.name in GOING_ON:
        shutil.copytree(request.getfixturevalue("begun"), folder)
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        for block in todo:
            perform(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides_in_a_block_without_a_language(page: Path) -> None:
    for block in blocks(page):
        found = re.findall(
            r"^(?:\w+=\S+ )?(?:scaledq|python|pip|make|torchrun)\b ", block.code, re.M
        )
        assert not found or block.kind in (*SHELL, *PYTHON), f"{page.name}:\n{block.code}"


def test_the_notebook_runs_and_shows_what_it_said(tmp_path: Path) -> None:
    file = ROOT / "docs" / "notebook.ipynb"
    cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
    names: dict[str, Any] = {"__name__": "__main__"}
    matplotlib.use("Agg")
    with contextlib.chdir(tmp_path):
        for cell in cells:
            exec("".join(cell["source"]), names)
    pyplot.close("all")
    scores = names["scores"]
    for task in names["TASKS"]:
        assert scores["Scaled QL"][task] > scores["cloning"][task] + 0.3
    assert sum(bool(cell["outputs"]) for cell in cells) >= 5
    assert file.stat().st_size < 100_000


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
