"""What the commands say, and the commands that only look: table, status, validation. No torch."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from lowbit.cli.console import out, say, wrapped
from lowbit.core.errors import RunError
from lowbit.core.files import to_json, write_atomic
from lowbit.core.spec import RunSpec
from lowbit.runs.check import check_runs
from lowbit.runs.record import CHECKPOINT, RECORD, check_current
from lowbit.runs.store import ResultsFolder
from lowbit.runs.workers.process import call
from lowbit.study.results import read_results
from lowbit.study.study import Study
from lowbit.study.verdicts import Verdicts

MISSING = "missing"


def report(study: Study) -> None:
    """Table on the terminal; figures and page in the study's folder."""
    from lowbit.report import page
    from lowbit.report.table import render, rows

    results = read_results(study)
    if not results.runs:
        what = "no run with these settings" if results.outdated else "no finished run"
        raise RunError(f"{study.results} holds {what}: lowbit run {study.folder}")
    console = out()
    contents = page.contents(results, f"lowbit report {study.folder.name}")
    several = sum(bool(mine) for _, mine in contents.parts) > 1
    for part, mine in contents.parts:
        if several and mine:
            say(f"\n{part.title}", style="bold")
        if mine:
            console.print(render(rows(mine), min(console.width, 120)))
    written = page.write(_reports(study), contents)
    say(f"figures  {written.parent / 'figures'}")
    say(f"report   {written}")


def compare(study: Study) -> None:
    """Claims and questions, decided from the records; the same in compare.md and compare.json."""
    from lowbit.report import scorecard_table, wording
    from lowbit.study import predicted_vs_observed
    from lowbit.study.verdicts import judge

    results = read_results(study)
    found = judge(results)
    if len(found.missing) == len(study.runs):
        raise RunError(f"{study.results} holds no finished run: lowbit run {study.folder}")
    for heading, findings in (
        (f"Claims, at {found.alpha:g} shared by Holm's rule", found.claims),
        ("Questions: exploratory, not corrected", found.questions),
    ):
        if findings:
            say(f"\n{heading}", style="bold")
        for finding in findings:
            say("")
            wrapped(f"{finding.claim.text}: {finding.state.upper()}", first="")
            for line in (
                wording.comparison(finding),
                wording.effect(finding),
                wording.other_tests(finding),
            ):
                wrapped(line)
    if not (found.claims or found.questions):
        say("This study states no claims and asks no questions; `lowbit report` shows its table.")
    if found.missing:
        say(f"\n{len(found.missing)} of {len(study.runs)} runs are missing:")
        wrapped("; ".join(wording.runs_by_seed(found.missing)))
    predicted = predicted_vs_observed.predicted_gaps(results)
    absent = predicted_vs_observed.without_runs(results, predicted)
    if predicted:
        for page in scorecard_table.tables(predicted, absent, out().width):
            out().print(page, crop=False)
        wrapped(scorecard_table.CRITERION)
    if apart := predicted_vs_observed.refused(results):
        say(f"\n{len(apart)} pairs may not be compared, and are in no cell:")
        wrapped("; ".join(apart))
    if study.forecasts and (silent := predicted_vs_observed.unpredicted(results)):
        say(f"\nnothing was predicted at {len(silent)} points (lowbit predict {study.folder}):")
        wrapped(", ".join(silent))
    if after := predicted_vs_observed.late(results):
        say(f"\npredicted at {len(after)} points when runs of theirs had ended already:")
        wrapped(", ".join(after))
    folder = _reports(study)
    text = wording.to_markdown(found) + scorecard_table.to_markdown(predicted, absent)
    write_atomic(folder / "compare.md", text.encode())
    body = _plain(found) | {"predicted": [_known(asdict(cell)) for cell in predicted]}
    write_atomic(folder / "compare.json", (to_json(body) + "\n").encode())
    say(f"\nwritten  {folder / 'compare.md'}, compare.json")


def _plain(found: Verdicts) -> dict[str, Any]:
    """Findings as JSON has them, intervals included."""
    body = asdict(found)
    pairs = zip(
        (*body["claims"], *body["questions"]), (*found.claims, *found.questions), strict=True
    )
    for finding, one in pairs:
        if one.gain is not None:
            finding["gain"] |= {"low": one.gain.low, "high": one.gain.high}
            finding["gain"]["df"] = one.gain.df if math.isfinite(one.gain.df) else None
    return body


def _known(value: Any) -> Any:
    """With nothing in the place of errors that one document cannot tell: JSON knows no infinity."""
    if isinstance(value, dict):
        return {key: _known(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(study: Study, only: Sequence[str]) -> None:
    """Every figure of every part, as PDF and PNG."""
    from lowbit.report import draw as drawing
    from lowbit.study import predicted_vs_observed

    where = _reports(study) / "figures"
    results = read_results(study)
    gaps = predicted_vs_observed.predicted_gaps(results)
    written = drawing.draw(drawing.part_settings(results), where, only, gaps)
    if not written:
        raise RunError(f"{study.results} holds no finished run: lowbit run {study.folder}")
    for path in written:
        if path.suffix == ".png":
            say(f"figure   {path}")


def _reports(study: Study) -> Path:
    """Where a study's report lies; a profile's beside it."""
    name = study.results.name.removeprefix("results").lstrip("-")
    return (study.folder / f"profile-{name}" if name else study.folder) / "report"


def status(study: Study) -> None:
    """Every run that there is something of; what is missing, a line a plan; how many of each."""
    from lowbit.report.wording import runs_by_seed

    table = Table(box=None, padding=(0, 1))
    for name in ("run", "state", "result"):
        table.add_column(name, overflow="fold")
    folder = ResultsFolder(study.results)
    states = {run.name: _state(folder, run) for run in study.runs}
    for name, (state, result) in states.items():
        if state != MISSING:
            table.add_row(name, state, result)
    for name in runs_by_seed([name for name, (state, _) in states.items() if state == MISSING]):
        table.add_row(name, MISSING, "")
    out().print(table)
    counted = Counter(state for state, _ in states.values())
    say("; ".join(f"{count} {state}" for state, count in counted.items()) + f"; {len(states)} runs")


def _state(results: ResultsFolder, run: RunSpec) -> tuple[str, str]:
    folder, finished = results.path / run.name, results.find(run.name)
    if finished is None:
        if (folder / RECORD).exists():
            return "torn", "will be done again"
        return (
            ("under way", "goes on from its checkpoint")
            if (folder / CHECKPOINT).exists()
            else (("begun", "no checkpoint yet") if folder.exists() else (MISSING, ""))
        )
    record = finished.record
    if record.fingerprint != run.fingerprint:
        return "out of date", "recorded with other settings; --rerun replaces it"
    if record.status == "diverged":
        return "diverged", record.message
    return "done", f"{record.metric} {record.metrics[record.metric]:.4f}"


def validate(study: Study) -> None:
    call(check_runs, study.runs, study.execution)
    results = ResultsFolder(study.results)
    for run in study.runs:
        finished = results.find(run.name)
        if finished is not None:
            check_current(study.place(run), finished.record, run)
    say(f"{study.title}: {len(study.runs)} runs, {len(study.claims)} claims; all is well")
