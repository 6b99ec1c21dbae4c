"""The report as a person meets it: in a real browser, with every chart drawn and answering."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import Browser, binary
from synthetic import PLANS, demo_runs

from lowbit import report
from lowbit.studyfile import MAIN, Part

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(binary() is None, reason="no Chromium here: install Debian's `chromium`"),
]
DRAWN = "[...document.querySelectorAll('.chart')].every((c) => c.querySelector('svg'))"
CELL = """(() => {
  const figures = [...document.querySelectorAll('figure')];
  const heat = figures.find((f) => f.querySelector('h3').textContent.startsWith('Where ranks'));
  const cells = heat.querySelectorAll('.mark-rect path');
  const cell = cells[cells.length - 1];
  cell.scrollIntoView({block: 'center'});
  const box = cell.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    part = Part(MAIN, "Demo", tuple(PLANS), control="bf16")
    parts = ((part, tuple(demo_runs(folder / "results"))),)
    return report.write(folder / "report", report.Contents("Demo", "H.", "lowbit", parts))


@pytest.mark.parametrize("width", [1200, 400])
def test_every_chart_is_drawn_without_a_complaint(page: Path, tmp_path: Path, width: int) -> None:
    program = binary()
    assert program is not None
    with Browser(program, tmp_path, width) as browser:
        browser.open(page)
        browser.until(DRAWN)
        assert browser.evaluate("document.querySelectorAll('.chart svg').length") == 6
        assert browser.complaints == []
        # Nothing may push the page sideways on a telephone.
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.evaluate(wide) <= 1


def test_a_cell_says_its_format_rank_and_bytes(page: Path, tmp_path: Path) -> None:
    program = binary()
    assert program is not None
    with Browser(program, tmp_path) as browser:
        browser.open(page)
        browser.until(DRAWN)
        browser.point(*browser.until(CELL))
        said = browser.until("document.querySelector('#vg-tooltip-element.visible')?.innerText")
        for word in ("format", "rank", "bytes", "matrix"):
            assert word in said
        assert browser.complaints == []
