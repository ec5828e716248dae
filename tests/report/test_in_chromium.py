"""The page in a real browser: it renders without a word of complaint, sorts, and fits a phone.

Runs where Debian's chromium and the package playwright are installed:
    apt install chromium; pip install playwright
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scaledq.report.content import ReportData
from scaledq.report.page import page
from scaledq.report.scores import group

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
SORTED = """table => {
  const button = table.querySelector("th.number button"), column = button.closest("th").cellIndex;
  const values = () => [...table.tBodies[0].rows]
    .map(row => parseFloat(row.cells[column].dataset.sort)).filter(x => !isNaN(x));
  button.click(); const down = values(); button.click(); return [down, values()];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_renders_sorts_and_fits(
    browser: Any, two_games: list[dict[str, Any]], tmp_path: Path, width: int
) -> None:
    from scaledq.core.protocol import QUICK

    data = ReportData(title="Two games", scores=group(two_games), subject="scaled_ql",
                      protocol=QUICK, facts={"hardware": "2 cores"}, resamples=50)  # fmt: skip
    file = tmp_path / "page.html"
    file.write_text(page(data))
    context = browser.new_context(viewport={"width": width, "height": 800}, offline=True)
    opened, said, asked = context.new_page(), [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(file.as_uri())
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert opened.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    down, up = opened.query_selector("#table-scores").evaluate(SORTED)
    assert down == sorted(down, reverse=True)
    assert up == sorted(up)
    assert len(opened.query_selector_all("svg")) >= 5
    context.close()
