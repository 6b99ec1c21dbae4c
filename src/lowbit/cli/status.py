"""`lowbit status`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowbit.cli.options import ProfileOption, SetOption, StudyArgument, guarded

if TYPE_CHECKING:
    from lowbit.core.spec import RunSpec
    from lowbit.runs.store import ResultsFolder

MISSING = "missing"


@guarded
def status(study: StudyArgument, settings: SetOption = None, profile: ProfileOption = None) -> None:
    """Show which runs of a study are done, under way, diverged, missing or out of date.

    Example: lowbit status studies/demo
    """
    from collections import Counter

    from rich.table import Table

    from lowbit.cli.console import out, say
    from lowbit.report.wording import runs_by_seed
    from lowbit.runs.store import ResultsFolder
    from lowbit.study.study import read_study

    declared = read_study(study, settings or (), profile)
    table = Table(box=None, padding=(0, 1))
    for name in ("run", "state", "result"):
        table.add_column(name, overflow="fold")
    folder = ResultsFolder(declared.results)
    states = {run.name: _state(folder, run) for run in declared.runs}
    for name, (state, result) in states.items():
        if state != MISSING:
            table.add_row(name, state, result)
    for name in runs_by_seed([name for name, (state, _) in states.items() if state == MISSING]):
        table.add_row(name, MISSING, "")
    out().print(table)
    counts = Counter(state for state, _ in states.values())
    say("; ".join(f"{count} {state}" for state, count in counts.items()) + f"; {len(states)} runs")


def _state(results: ResultsFolder, run: RunSpec) -> tuple[str, str]:
    from lowbit.runs.record import CHECKPOINT, RECORD

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
