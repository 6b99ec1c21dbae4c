"""The comparison of a study on the terminal and as compare.md and compare.json."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from lowbit.cli.console import out, say, wrapped
from lowbit.core.errors import RunError
from lowbit.core.files import to_json, write_atomic
from lowbit.study.results import Results
from lowbit.study.verdicts import Verdicts


def show_comparison(results: Results) -> None:
    """Claims and questions, decided from the records; the same in compare.md and compare.json."""
    from lowbit.report import scorecard_table, wording
    from lowbit.report.write_report import report_folder
    from lowbit.study import predicted_vs_observed
    from lowbit.study.verdicts import judge

    study = results.study
    verdicts = judge(results)
    if len(verdicts.missing) == len(study.runs):
        raise RunError(f"{study.results} holds no finished run: lowbit run {study.folder}")
    for heading, findings in (
        (f"Claims, at {verdicts.alpha:g} shared by Holm's rule", verdicts.claims),
        ("Questions: exploratory, not corrected", verdicts.questions),
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
    if not (verdicts.claims or verdicts.questions):
        say("This study states no claims and asks no questions; `lowbit report` shows its table.")
    if verdicts.missing:
        say(f"\n{len(verdicts.missing)} of {len(study.runs)} runs are missing:")
        wrapped("; ".join(wording.runs_by_seed(verdicts.missing)))
    predicted = predicted_vs_observed.predicted_gaps(results)
    absent = predicted_vs_observed.kinds_without_runs(results, predicted)
    if predicted:
        for page in scorecard_table.tables(predicted, absent, out().width):
            out().print(page, crop=False)
        wrapped(scorecard_table.CRITERION)
    if apart := predicted_vs_observed.refused_pairs(results):
        say(f"\n{len(apart)} pairs may not be compared, and are in no cell:")
        wrapped("; ".join(apart))
    if study.forecasts and (silent := predicted_vs_observed.points_without_forecast(results)):
        say(f"\nnothing was predicted at {len(silent)} points (lowbit predict {study.folder}):")
        wrapped(", ".join(silent))
    if after := predicted_vs_observed.late_forecasts(results):
        say(f"\npredicted at {len(after)} points when runs of theirs had ended already:")
        wrapped(", ".join(after))
    folder = report_folder(study)
    text = wording.to_markdown(verdicts) + scorecard_table.to_markdown(predicted, absent)
    write_atomic(folder / "compare.md", text.encode())
    body = _plain(verdicts) | {"predicted": [_finite(asdict(cell)) for cell in predicted]}
    write_atomic(folder / "compare.json", (to_json(body) + "\n").encode())
    say(f"\nwritten  {folder / 'compare.md'}, compare.json")


def _plain(verdicts: Verdicts) -> dict[str, Any]:
    """Findings as JSON has them, intervals included."""
    body = asdict(verdicts)
    pairs = zip(
        (*body["claims"], *body["questions"]), (*verdicts.claims, *verdicts.questions), strict=True
    )
    for finding, one in pairs:
        finding["beside"] = finding.pop("other_tests")  # the key that the file has always had
        if one.gain is not None:
            finding["gain"] |= {"low": one.gain.low, "high": one.gain.high}
            finding["gain"]["df"] = one.gain.df if math.isfinite(one.gain.df) else None
    return body


def _finite(value: Any) -> Any:
    """With nothing in the place of errors that one document cannot tell: JSON knows no infinity."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
