"""The page is one file, needs no network, runs no text of a record, and is deterministic."""

from __future__ import annotations

import csv
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.records import PLANS, demo_runs, elsewhere, make_run

from lowbit.cli.console import wrapped
from lowbit.core.files import read_jsonl
from lowbit.report import page as report
from lowbit.runs.store import FinishedRun
from lowbit.study.cells import settings
from lowbit.study.claims import Claim
from lowbit.study.schema import MAIN, StudyPart
from lowbit.study.verdicts import Finding, Verdicts

EVIL = "</script><script>alert(1)</script>\u2028<!--"


class Elements(HTMLParser):
    """What a browser would see: elements with attributes, and the text of scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "wbr"):
            self.open.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts[-1] += data


def parsed(page: str) -> Elements:
    elements = Elements()
    elements.feed(page)
    assert elements.open == []
    return elements


def contents(runs: list[FinishedRun], title: str = "Demo", **more: Any) -> report.Contents:
    part = StudyPart(MAIN, title, tuple(PLANS))
    parts = ((part, tuple(runs)),)
    return report.Contents(title, "Four bits are enough.", "lowbit 0.1.0", parts, **more)


def write(folder: Path, runs: list[FinishedRun], title: str = "Demo") -> Path:
    return report.write(folder / "report", contents(runs, title))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[FinishedRun]]:
    folder = tmp_path_factory.mktemp("study")
    runs = demo_runs(folder / "results")
    return write(folder, runs), runs


def test_the_page_is_written_with_its_table_and_figures(
    demo: tuple[Path, list[FinishedRun]],
) -> None:
    page = demo[0]
    assert page.parts[-2:] == ("report", "index.html")
    names = {path.relative_to(page.parent).as_posix() for path in page.parent.rglob("*.*")}
    drawn = ("pareto", "curves", "bytes", "memory", "ranks")
    figures = {f"figures/{n}.{e}" for n in drawn for e in ("pdf", "png")}
    named = ("table", "table1", "appendix-a-ranks", "appendix-b-bits", "settings", "costs")
    tables = {f"{n}.{e}" for n in named for e in ("md", "csv")}
    assert names == {"index.html", "logs.csv", *tables, *figures}


def test_the_appendices_hold_what_the_records_say(demo: tuple[Path, list[FinishedRun]]) -> None:
    folder, runs = demo[0].parent, demo[1]
    sheets = {
        name: list(csv.DictReader((folder / f"{name}.csv").read_text().splitlines()))
        for name in ("appendix-a-ranks", "appendix-b-bits", "settings", "costs", "logs")
    }
    record = next(run.record for run in runs if run.plan == "mixed-8-4-3")
    for site in record.sites:
        found = {
            name: row["value"]
            for name in ("appendix-a-ranks", "appendix-b-bits")
            for row in sheets[name]
            if (row["what"], row["plan"]) == (site.name, record.plan)
        }
        assert found["appendix-b-bits"] == site.format
        assert found.get("appendix-a-ranks", "0") == str(site.final_rank)
    plans = {"plan": record.plan, "model": record.model}
    rate = next(
        r for r in sheets["settings"] if r["what"] == "train.lr" and plans.items() <= r.items()
    )
    assert float(rate["value"]) == record.spec["train"]["lr"]
    walls = [r.record.cost.wall_s for r in runs if r.plan == record.plan]
    wall = next(
        r for r in sheets["costs"] if r["what"] == "wall clock, s" and plans.items() <= r.items()
    )
    assert float(wall["value"].lstrip("~")) == pytest.approx(sum(walls) / len(walls), abs=0.5)
    folder_of = {(r.plan, r.seed): r.folder for r in runs}
    first = sheets["logs"][0]
    logged = next(read_jsonl(folder_of[first["plan"], int(first["seed"])] / "log.jsonl"))
    assert float(first["loss"]) == logged["loss"]


def test_the_page_has_ranks_costs_and_settings(demo: tuple[Path, list[FinishedRun]]) -> None:
    text = demo[0].read_text(encoding="utf-8")
    for heading in ("Ranks after training", "Costs of a run", "Settings"):
        assert f"<summary>{heading}</summary>" in text
    assert "wall clock, s" in text


def test_the_same_records_give_the_same_bytes(
    demo: tuple[Path, list[FinishedRun]], tmp_path: Path
) -> None:
    page, runs = demo
    again = write(tmp_path, runs)
    for path in page.parent.rglob("*.*"):
        twin = again.parent / path.relative_to(page.parent)
        assert twin.read_bytes() == path.read_bytes(), path.name


def test_the_page_refers_to_nothing_outside_itself(demo: tuple[Path, list[FinishedRun]]) -> None:
    elements = parsed(demo[0].read_text(encoding="utf-8"))
    attributes = [(tag, key) for tag, attrs in elements.found for key in attrs]
    assert not [a for a in attributes if a[1] in ("src", "href", "srcset", "action", "data")]
    assert not [tag for tag, _ in elements.found if tag in ("link", "iframe", "img", "object")]
    policy = next(a["content"] for _, a in elements.found if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert "connect-src" not in policy
    style = demo[0].read_text(encoding="utf-8").split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_the_chart_runtime_is_inside_once(demo: tuple[Path, list[FinishedRun]]) -> None:
    text = demo[0].read_text(encoding="utf-8")
    assert text.count("window.vegaEmbed") == 1
    assert len(text) < 1_500_000


def test_every_chart_has_its_spec_and_its_place(demo: tuple[Path, list[FinishedRun]]) -> None:
    elements = parsed(demo[0].read_text(encoding="utf-8"))
    wanted = [a["data-for"] for tag, a in elements.found if tag == "script" and "data-for" in a]
    assert len(wanted) == 5
    assert set(wanted) <= {a.get("id") for tag, a in elements.found if tag == "div"}
    for text in elements.scripts[:5]:
        spec = json.loads(text)
        assert spec.get("width") == "container" or "facet" in spec
        assert spec["description"]
        assert "url" not in spec.get("data", {})


def test_tables_say_what_their_heads_are(demo: tuple[Path, list[FinishedRun]]) -> None:
    elements = parsed(demo[0].read_text(encoding="utf-8"))
    assert all(a.get("scope") in ("col", "row") for tag, a in elements.found if tag == "th")
    regions = [a for _, a in elements.found if a.get("role") == "region"]
    assert regions
    assert all(a.get("aria-label") and a.get("tabindex") == "0" for a in regions)


def test_no_text_of_a_record_can_act(demo: tuple[Path, list[FinishedRun]], tmp_path: Path) -> None:
    facts = elsewhere(notes=(EVIL,), cpu=EVIL)
    runs = [
        make_run(tmp_path / "a", "bf16", model=EVIL, task=EVIL, facts=facts),
        make_run(tmp_path / "b", EVIL, formats=PLANS["int2@64"], model=EVIL, task=EVIL),
        make_run(tmp_path / "c", "lost", formats=PLANS["int2@64"], status="diverged", message=EVIL),
    ]
    part = StudyPart("evil", EVIL, tuple(PLANS))
    claim = Finding(Claim(EVIL, EVIL, "bf16", EVIL), "refused", reason=EVIL)
    judged = Verdicts((claim,), (claim,), (EVIL,), 0.05)
    page = report.page(report.Contents(EVIL, EVIL, EVIL, ((part, tuple(runs)),), judged))
    assert "<script>alert(1)" not in page
    scripts = parsed(page).scripts
    # Two settings, so twice five charts, less what the setting without a score cannot show.
    assert len(scripts) == 5 + 2 + 2
    assert scripts[-2:] == parsed(demo[0].read_text(encoding="utf-8")).scripts[-2:]
    assert any(EVIL in json.dumps(json.loads(s), ensure_ascii=False) for s in scripts[:-2])


def test_embedded_json_can_be_read_back_and_never_ends_its_element() -> None:
    value = {"a": ["</script>", "<!--", "&amp;", "\u2028\u2029", 'quote"']}
    text = report.embed(value)
    assert not re.search("[<>&\u2028\u2029]", text)
    assert json.loads(text) == value


def test_a_diverged_run_is_shown_with_its_message(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, "bf16"),
        make_run(tmp_path, "int2@64", status="diverged", message="loss is nan at step 60"),
    ]
    text = report.page(contents(runs))
    assert "loss is nan at step 60" in text
    assert "none: the run diverged" in text


def test_several_settings_have_a_section_and_figures_each(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path, "bf16"),
        make_run(tmp_path, "bf16", task="sst2", kind="classification"),
    ]
    page = write(tmp_path, runs)
    names = {path.name for path in (page.parent / "figures").glob("pareto*.pdf")}
    assert names == {"pareto-wikitext2.pdf", "pareto-sst2.pdf"}
    assert page.read_text(encoding="utf-8").count('<section aria-labelledby="setting-') == 2


def test_a_study_without_runs_has_a_page_that_says_so(tmp_path: Path) -> None:
    text = write(tmp_path, []).read_text(encoding="utf-8")
    assert "No run has finished yet." in text
    assert "vegaEmbed" not in text


def test_the_bit_map_has_every_site_of_every_plan(demo: tuple[Path, list[FinishedRun]]) -> None:
    setting = settings(demo[1])[0]
    found = report.bitmap(setting)
    assert found.plans == tuple(PLANS)
    assert len(found.cells) == len(found.sites) == len(demo[1][0].record.sites)
    assert found.sites[:2] == ("embed_tokens", "layers.0.self_attn.q_proj")
    three = [s for s in (line[3] for line in found.cells) if s and report.bits(s) == 3]
    assert {site.depth for site in three} == {2, 3}


def test_names_stay_whole_where_lines_are_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    wrapped("; ".join(f"lm_14m-wikitext2-plan_{i}-seed0" for i in range(9)), first="")
    printed = capsys.readouterr().out.splitlines()
    assert max(map(len, printed)) <= 60
    assert not printed[0].startswith(" ")
    assert all(line.startswith("  ") for line in printed[1:])
    assert not [line for line in printed if line.endswith("-")]
