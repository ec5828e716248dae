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
