"""One document of several studies: nothing overwrites anything, and it is there whole or not."""

import re
import shutil
from pathlib import Path

import pytest

from scaledq.cli import main
from scaledq.run.folder import SCORES
from scaledq.study.execute import Place, execute
from scaledq.study.pages import Asked, write_asked, write_results
from scaledq.study.paper import B4
from scaledq.study.plan import plan
from scaledq.study.scales import SMOKE

RESULTS = Path(__file__).parents[2] / "results"
CLAIM = B4.claims[0].text


def made(place: Place, folder: Path) -> Path:
    """B.4 at smoke scale, trained and played; its own runs are copied beside its folder."""
    wanted = plan(B4, SMOKE, seeds=(0,))
    execute(wanted, place)
    for key in wanted.jobs:
        shutil.copytree(place.runs / key, folder.parent / "runs" / key, dirs_exist_ok=True)
    asked = Asked(study="B.4", scale="smoke", seeds=(0,), runs=str(folder.parent / "runs"))
    write_asked(asked, folder)
    return folder


def kept(folder: Path, *, seeds: tuple[int, ...]) -> Path:
    """B.4 at mini scale, of which scores were kept."""
    asked = Asked(study="B.4", scale="mini", seeds=seeds, runs=str(RESULTS / "runs"))
    write_asked(asked, folder)
    return folder


def pictures(document: Path) -> list[str]:
    """Names of the figures that it shows; each is there, and nothing else is."""
    shown = re.findall(r"!\[.*?\]\((.*?)\)", document.read_text())
    assert sorted(shown) == sorted(path.name for path in document.parent.glob("*.svg"))
    return shown


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that the command says, and with which it fails."""
    with pytest.raises(SystemExit) as left:
        main(words)
    said = capsys.readouterr()
    assert (left.value.code, said.out) == (1, "")
    assert said.err.startswith("scaledq: error: ")
    assert said.err.count("\n") == 1
    return said.err


def test_a_study_at_two_scales_is_told_of_at_both(place: Place, tmp_path: Path) -> None:
    out = tmp_path / "out" / "results.md"
    write_results([made(place, tmp_path / "smoke"), kept(tmp_path / "mini", seeds=(0, 1, 2))], out)
    assert pictures(out) == [
        f"results-B.4-{scale}-{kind}.svg" for scale in ("smoke", "mini") for kind in B4.figures
    ]
    told = out.read_text()
    assert "| study | scale | seeds | claim |" in told
    assert f"| B.4 | smoke | 0 | {CLAIM} |" in told
    assert f"| B.4 | mini | 0, 1, 2 | {CLAIM} |" in told


def test_a_study_with_other_seeds_is_told_of_with_both(tmp_path: Path) -> None:
    out = tmp_path / "out" / "results.md"
    two, three = (kept(tmp_path / str(n), seeds=tuple(range(n))) for n in (2, 3))
    write_results([two, three], out)
    assert pictures(out) == [
        f"results-B.4-mini-{number}-{kind}.svg" for number in (1, 2) for kind in B4.figures
    ]
    told = out.read_text()
    assert f"## {B4.title} (scale `mini`), seeds 0, 1\n" in told
    assert f"## {B4.title} (scale `mini`), seeds 0, 1, 2\n" in told
    assert "| study | seeds | claim |" in told
    assert f"| B.4 | 0, 1 | {CLAIM} |" in told
    assert f"| B.4 | 0, 1, 2 | {CLAIM} |" in told


def test_a_study_that_is_there_once_says_no_scale_in_the_names_of_its_figures(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out" / "results.md"
    write_results([kept(tmp_path / "mini", seeds=(0, 1, 2))], out)
    assert pictures(out) == [f"results-B.4-{kind}.svg" for kind in B4.figures]
    assert f"## {B4.title} (scale `mini`)\n" in out.read_text()
    assert f"| B.4 | {CLAIM} |" in out.read_text()


def test_only_a_study_that_has_no_scores_is_told_of_as_not_run(tmp_path: Path) -> None:
    asked = Asked(study="B.4", scale="mini", seeds=(0,), runs=str(tmp_path / "nowhere"))
    write_asked(asked, tmp_path / "study")
    write_results([tmp_path / "study"], tmp_path / "results.md")
    assert "Not run: study B.4: no arm is complete yet in" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize("score", ["NaN", "Infinity"])
def test_a_damaged_score_is_one_line_and_leaves_nothing(
    score: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken = kept(tmp_path / "mini", seeds=(0, 1)), made(place, tmp_path / "smoke")
    path = next((tmp_path / "runs").glob(f"*/{SCORES}"))
    first, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([re.sub(r'"score":[^,]*', f'"score":{score}', first), *rest]))
    assert score in path.read_text()
    capsys.readouterr()
    out = tmp_path / "out" / "results.md"
    said = refused(["report", str(whole), str(broken), "--out", str(out)], capsys)
    assert "finite" in said
    assert not out.parent.exists()
    assert refused(["report", str(broken)], capsys) == said
    assert [file.name for file in broken.iterdir()] == ["study.json"]


@pytest.mark.parametrize("first", ["study", "run"])
def test_a_run_among_studies_is_refused_before_anything_is_drawn(
    first: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = made(place, tmp_path / "smoke")
    run = next((tmp_path / "runs").iterdir())
    capsys.readouterr()
    folders = [study, run] if first == "study" else [run, study]
    said = refused(["report", *map(str, folders)], capsys)
    assert f"{run} is not a study's folder" in said
    assert [file.name for file in study.iterdir()] == ["study.json"]
