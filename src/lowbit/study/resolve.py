"""Adds text or seeds to a study until every gap between theory and data is resolved.

A gap that is off by more than 10 % while its own error is above 5 % decides nothing. If more
scored text alone is enough, the saved adapters are scored on more, which trains nothing (ADR
21). If seeds are needed, the whole part gets one more, so that finished runs stay balanced.
What was added is written to `added.json` next to the records, and every command reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lowbit.core.spec import RunSpec
from lowbit.study import additions, schema
from lowbit.study.additions import Additions, MoreText
from lowbit.study.forecasts import points, predicted_runs, reference_run
from lowbit.study.predict_study import OnNote, predict_study
from lowbit.study.predicted_vs_observed import PredictedGap, predicted_gaps
from lowbit.study.results import read_results
from lowbit.study.scorecard import gaps_needing_calibration, gaps_needing_seeds, gaps_needing_text
from lowbit.study.study import Study

MOST_TEXT = 8.0
"""A gap is given at most this many times its first text."""
SPARE = 1.2
"""Factor on the text that is expected to be enough."""


def run_until_resolved(
    read_now: Callable[[], Study],
    carry_out: Callable[[Study], None],
    most_seeds: int,
    show: bool,
    on_note: OnNote,
) -> None:
    """Predict, run, and add text and seeds, until nothing is unresolved or can be added.

    `read_now` reads the study with its additions; `carry_out` runs its missing runs. A part gets at
    most `most_seeds` seeds.
    """
    while True:
        study = read_now()
        _predict_then_run(study, carry_out, show, on_note)
        if not _add(study, most_seeds, on_note):
            return


def _predict_then_run(
    study: Study, carry_out: Callable[[Study], None], show: bool, on_note: OnNote
) -> None:
    """Run the runs that forecasts start from, write the forecasts, then run the other runs."""
    first = {point.at for point in points(study) if point.at is not None}
    if first:
        carry_out(replace(study, runs=tuple(run for run in study.runs if run in first)))
    predict_study(study, 1, show, on_note)
    carry_out(study)


def _add(study: Study, most_seeds: int, on_note: OnNote) -> bool:
    """Add text and seeds for unresolved gaps; return false if nothing can be added."""
    added, gaps = additions.read(study.results), predicted_gaps(read_results(study))
    short = gaps_needing_text(gaps, MOST_TEXT)
    text = _more_text(study, short, added)
    parts_with_text = {(each.part, each.task) for each in text}
    by_text = [gap for gap in short if (gap.part, gap.task) in parts_with_text]
    by_seeds = [gap for gap in gaps_needing_seeds(gaps) if gap not in by_text]
    if not by_seeds and not text:
        on_note("no cell is off by more than 10 % that more text or seeds could decide")
        if vague := gaps_needing_calibration(gaps):
            on_note(
                "these gaps are observed to 5 %, but their predictions are not that sharp: "
                f"{_gap_names(vague)}; give their forecasts more calibration text (`tokens`)"
            )
        return False
    on_note(f"unresolved: {_gap_names([*by_text, *by_seeds])}")
    more = _more_seeds(study, by_seeds, most_seeds)
    if not more and not text:
        on_note(f"their parts have {most_seeds} seeds already: nothing is added")
        return False
    for each in text:
        on_note(f"part '{each.part}': {', '.join(each.plans)} on {each.scored_limit:,} examples")
    for name, seed in more.items():
        on_note(f"part '{name}' gets seed {seed}")
    seeds = {name: (*added.seeds.get(name, ()), seed) for name, seed in more.items()}
    additions.write(study.results, Additions({**added.seeds, **seeds}, (*added.text, *text)))
    return True


def _gap_names(gaps: Iterable[PredictedGap]) -> str:
    return ", ".join(f"{gap.plan} ({gap.kind})" for gap in gaps)


def _more_text(study: Study, gaps: Iterable[PredictedGap], added: Additions) -> list[MoreText]:
    """More text for these gaps, once for each part and task.

    A part that was given more text before is left out: it got what was expected to be enough, or
    all there is.
    """
    groups: dict[tuple[str, str], list[PredictedGap]] = {}
    for gap in gaps:
        if additions.original_part(gap.part) == gap.part:
            groups.setdefault((gap.part, gap.task), []).append(gap)
    additional: list[MoreText] = []
    for (part, task), group in groups.items():
        runs = [run for run in _runs_of_gaps(study, part, group) if run.task.display_name == task]
        limits = {run.task.scored_limit for run in runs}
        if not runs or 0 in limits or (part, task) in {(t.part, t.task) for t in added.text}:
            continue
        times = SPARE * max(gap.text_factor for gap in group)
        names = {run.plan.name: None for run in runs}
        additional.append(MoreText(part, task, tuple(names), math.ceil(max(limits) * times)))
    # Parts of one task are compared with each other, so they are scored on the same text.
    most = {
        each.task: max(other.scored_limit for other in additional if other.task == each.task)
        for each in additional
    }
    return [replace(each, scored_limit=most[each.task]) for each in additional]


def _runs_of_gaps(study: Study, part: str, gaps: Sequence[PredictedGap]) -> list[RunSpec]:
    """The runs of these gaps, and the 16-bit runs that they are compared with."""
    keys = {(gap.model, gap.task, gap.plan) for gap in gaps}
    runs = []
    for forecast in (f for f in study.forecasts if f.part == part):
        for run in predicted_runs(study, forecast):
            if (run.model, run.task.display_name, run.plan.name) in keys:
                other = reference_run(study, forecast, run)
                runs += [run] if other is None else [other, run]
    return runs


def _more_seeds(study: Study, gaps: Sequence[PredictedGap], most: int) -> dict[str, int]:
    """The next seed of each part of these gaps that has fewer than `most`."""
    gaps = [replace(gap, part=additions.original_part(gap.part)) for gap in gaps]
    return {
        part.name: seed
        for part in _parts(study, gaps)
        if (seed := _next_seed(study, part, gaps)) < most
    }


def _parts(study: Study, gaps: Sequence[PredictedGap]) -> list[schema.StudyPart]:
    """The parts of these gaps, and the parts that train the adapters they borrow."""
    names = {gap.part for gap in gaps}
    borrowed = {
        run.plan.adapter
        for part in study.parts
        if part.name in names
        for run in study.runs_of(part)
        if run.adapter_run
    }
    for adapter in borrowed:
        if not any(adapter in part.plans for part in study.parts if part.name in names):
            names.add(next(part.name for part in study.parts if adapter in part.plans))
    return [part for part in study.parts if part.name in names]


def _next_seed(study: Study, part: schema.StudyPart, gaps: Sequence[PredictedGap]) -> int:
    """The first seed that no part has for one of this part's unresolved plans.

    A part without such a plan, which only trains adapters for others, gets its own next seed.
    """
    highest = [
        max(
            seed
            for other in study.parts
            if gap.plan in other.plans and gap.task in other.tasks
            for seed in other.seeds
        )
        for gap in gaps
        if gap.part == part.name
    ]
    return 1 + min(highest, default=max(part.seeds))
