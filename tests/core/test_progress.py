"""Progress where there is no terminal: nothing for short work, plain lines for long."""

import pytest

from scaledq.core import progress


def test_short_work_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.Progress("train", 10) as shown:
        shown.show(10)
    assert capsys.readouterr().err == ""


def test_long_work_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with progress.Progress("train", 2000) as shown:
        shown.show(1000, "loss 1.2")
    assert capsys.readouterr().err == "train: 1,000 of 2,000 (50%)  loss 1.2\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_work_of_many_parts_shows_how_each_of_them_fares(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.0)
    monkeypatch.setattr(progress, "EVERY", 0.0)
    monkeypatch.setenv("COLUMNS", "80")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    fares = {f"Game{number} [m]": 0 for number in range(40)}
    parts = lambda: [f"{name} {done}/16" for name, done in fares.items()]  # noqa: E731
    with progress.Progress("play", 640, parts=parts) as shown:
        for done, name in enumerate(fares, 1):
            fares[name] = done
            shown.show(done)
    last = capsys.readouterr().err[-4000:]
    assert "play" in last
    assert all(f"{name} {done}/16" in last for name, done in fares.items())
    longest = max(len(line) for line in last.splitlines())
    assert terminal or longest <= 80
