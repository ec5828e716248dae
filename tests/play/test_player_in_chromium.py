"""The page that steps through an episode, in a real browser: it steps, draws, plays and fits.

Runs where Debian's chromium and the package playwright are installed:
    apt install chromium; pip install playwright
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaledq.play.moment import Insight, Moment
from scaledq.play.player import player

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
INKED = "c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x)"
NAME = "gym:SomeEnvironmentWithoutAnySpaceInItsName-v0+AndTwoWrappers+WithLongNames"


def episode(steps: int, *, own_view: bool) -> list[Moment]:
    """Three actions, distributions over 11 returns, the first action never taken."""
    rng = np.random.default_rng(0)
    out = []
    for step in range(steps):
        probs = rng.dirichlet(np.ones(11), size=3).astype(np.float32)
        behind = Insight(np.linspace(-1, 1, 11), probs, rng.random((84, 84)).astype(np.float32))
        values = np.array([-np.inf, 0.1 * step, 0.2])
        screen = rng.integers(256, size=(210, 160, 3), dtype=np.uint8)
        seen = None if own_view else rng.integers(256, size=(56, 56, 3), dtype=np.uint8)
        out.append(Moment(screen, values, 1 + step % 2, float(step), step, behind, seen))
    return out


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_steps_through_an_episode(tmp_path: Path, width: int) -> None:
    plays = {"first <b>": episode(8, own_view=True), NAME: episode(4, own_view=False)}
    file = tmp_path / "episode.html"
    file.write_text(player(plays, ["noop", "left", "right"], title=NAME))
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 800}, offline=True)
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(file.as_uri())
        check(page)
        assert said == []
        browser.close()


def check(page: Any) -> None:
    """All that a person would try."""
    told = lambda: [line.text_content() for line in page.query_selector_all(".play > p:not(.dim)")]  # noqa: E731
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.text_content("#at") == "step 0 of 7"
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.text_content("#at") == "step 5 of 7"
    assert told() == ["score 5, action right", "score 3, action right, over"]
    page.keyboard.press("ArrowLeft")
    assert told()[0] == "score 4, action left"
    for canvas in page.query_selector_all("canvas"):
        assert canvas.evaluate(INKED)
    masks = page.query_selector_all(".screen img:last-child")
    assert not any(mask.is_visible() for mask in masks)
    page.check("#heat")
    page.wait_for_function("[...document.images].every(i => i.complete && i.naturalWidth)")
    for mask, shape in zip(masks, (160 / 210, 1.0), strict=True):
        shown, over = mask.evaluate_handle("m => m.parentElement.firstChild"), mask.bounding_box()
        assert shown.as_element().bounding_box() == over, "it lies on the picture, all of it"
        assert over["width"] / over["height"] == pytest.approx(shape, rel=0.01)
    page.click("#go")
    page.wait_for_function("document.getElementById('time').value === '7'")
    page.wait_for_function("document.getElementById('go').textContent === 'Play'")
