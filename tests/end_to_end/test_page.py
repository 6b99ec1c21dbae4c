"""The report as a person meets it: in a real browser, with every chart drawn and answering."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.browser import Browser, binary
from helpers.campaigns import begin, machine, repository
from helpers.records import PLANS, demo_runs

from lowbit.report import page as report
from lowbit.research.campaign.edits import change
from lowbit.research.final_evaluation import end
from lowbit.research.proposers.base import Proposal
from lowbit.research.report import page as campaign_page
from lowbit.study.schema import MAIN, StudyPart

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(binary() is None, reason="no Chromium here: install Debian's `chromium`"),
]
DRAWN = "[...document.querySelectorAll('.chart')].every((c) => c.querySelector('svg'))"
CELL = """(() => {
  const figures = [...document.querySelectorAll('figure')];
  const titled = (f) => f.querySelector('h3').textContent.startsWith('Ranks after training');
  const heat = figures.find(titled);
  const cells = heat.querySelectorAll('.mark-rect path');
  const cell = cells[cells.length - 1];
  cell.scrollIntoView({block: 'center'});
  const box = cell.getBoundingClientRect();
  return [box.x + box.width / 2, box.y + box.height / 2];
})()"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    part = StudyPart(MAIN, "Demo", tuple(PLANS), control="bf16")
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


@pytest.mark.parametrize("width", [1000, 400])
def test_a_campaigns_page_is_whole_without_a_complaint(tmp_path: Path, width: int) -> None:
    folder = repository(tmp_path / "home")
    places = begin(folder)
    made = machine(places)
    for name, value in (("LR", 1e-3), ("GROUP", 256)):
        text = change(made.runs.text(made.state.incumbent), name, value)
        made.open_trial(Proposal(text, f"<b>{name}</b>", (name, value)), "agent")
        made.baseline()
        made.judge_all(made.state.open_trials, 1)
    end(made)
    path = campaign_page.write(places, made.state, [], "lowbit")[0]
    program = binary()
    assert program is not None
    with Browser(program, tmp_path / "profile", width) as browser:
        browser.open(path)
        shown = "document.querySelector('.picture img').naturalWidth"
        assert browser.until(shown) > 800
        assert browser.evaluate("document.querySelectorAll('b').length") == 0
        titles = browser.evaluate("[...document.querySelectorAll('h3')].map((h) => h.innerText)")
        assert [title[:2] for title in titles] == ["1.", "2.", "3.", "4.", "5."]
        assert "opened once" in browser.evaluate("document.body.innerText")
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.evaluate(wide) <= 1
        assert browser.complaints == []
