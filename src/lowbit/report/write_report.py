"""Writes the report of a study: tables, figures and one HTML page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lowbit.core.errors import RunError
from lowbit.study.results import Results, read_results
from lowbit.study.study import Study, read_study


@dataclass(frozen=True)
class Report:
    """The paths of a report."""

    page: Path
    figures: Path


def write_report(study: str | Path | Study) -> Report:
    """Write a study's report from its records: tables, figures and one HTML page.

    Args:
        study: The study's folder, its `study.toml`, or a study as `read_study` gives it.

    Returns:
        The paths of the page and of the folder of figures.

    Raises:
        RunError: The study has no finished run.

    Example:
        >>> from lowbit import run_study, write_report
        >>> declaration = '''
        ... title = "Four bits"
        ... hypothesis = "Four bits cost little."
        ... plans = ["bf16", "nf4@64"]
        ... seeds = [0]
        ... train = { steps = 2 }
        ... task = { limit = 16, scored_limit = 16 }
        ... execution = { threads = 1 }
        ... [[workload]]
        ... model = "demo:tiny"
        ... task = "demo"
        ... '''
        >>> _ = Path("study.toml").write_text(declaration)
        >>> _ = run_study("study.toml")
        >>> write_report("study.toml").page.name
        'index.html'
    """
    declared = study if isinstance(study, Study) else read_study(study)
    return write_results_report(read_results(declared))


def write_results_report(results: Results) -> Report:
    """Write the report of results that are already read."""
    from lowbit.report import page

    check_finished_runs(results)
    study = results.study
    contents = page.contents(results, f"lowbit report {study.folder.name}")
    path = page.write(report_folder(study), contents)
    return Report(path, path.parent / "figures")


def check_finished_runs(results: Results) -> None:
    """Raise if a study has no finished run."""
    if not results.runs:
        what = "no run with these settings" if results.outdated else "no finished run"
        study = results.study
        raise RunError(f"{study.results} holds {what}: lowbit run {study.folder}")


def report_folder(study: Study) -> Path:
    """The folder of a study's report; each profile has its own."""
    name = study.results.name.removeprefix("results").lstrip("-")
    return (study.folder / f"profile-{name}" if name else study.folder) / "report"
