"""More text or more seeds where theory and data differ and the data cannot say so yet. No torch.

A cell that is off by more than 10 % while its own error is above 5 % decides nothing. Where more
scored text alone could make it sharp, its adapters are scored on more, which trains nothing (ADR
21); where it takes seeds, the part it is in gets one more, so that what is finished stays balanced.
What was added stands beside the records, and every command reads it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lowbit.cli import predict_study
from lowbit.cli.console import say, wrapped
from lowbit.core.spec import RunSpec
from lowbit.study import additions, schema
from lowbit.study.additions import Additions, MoreText
from lowbit.study.forecasts import partner, points, predicted_runs
from lowbit.study.predicted_vs_observed import PredictedGap, predicted_gaps
from lowbit.study.results import read_results
from lowbit.study.scorecard import short_of_text, unresolved, vaguely_predicted
from lowbit.study.study import Study

MOST_TEXT, SPARE = 8.0, 1.2
"""So many times the text at most; a fifth more than is expected to be enough."""


def until_resolved(
    reread: Callable[[], Study], carry_out: Callable[[Study], None], most: int
) -> None:
    """Run, predict, and add text and seeds to what is unresolved, up to `most` seeds a part."""
    while True:
        study = reread()
        # What is predicted from first; the predictions are written before what they are of is run.
        first = {point.at for point in points(study) if point.at is not None}
        if first:
            carry_out(replace(study, runs=tuple(run for run in study.runs if run in first)))
        predict_study.predict(study)
        carry_out(study)
        added, gaps = additions.read(study.results), predicted_gaps(read_results(study))
        short = short_of_text(gaps, MOST_TEXT)
        text = _texts(study, short, added)
        given = [c for c in short if (c.part, c.task) in {(one.part, one.task) for one in text}]
        vague = [c for c in unresolved(gaps) if c not in given]
        if not vague and not text:
            say("no cell is off by more than 10 % that more text or seeds could decide")
            if rest := vaguely_predicted(gaps):
                wrapped(
                    f"observed sharply, but predicted only to more than 5 %: {_gap_names(rest)}; "
                    "calibration text would tell, by more `tokens` of their forecasts"
                )
            return
        wrapped(f"unresolved: {_gap_names([*given, *vague])}")
        more = _seeds(study, vague, most)
        if not more and not text:
            say(f"and their parts have {most} seeds already: nothing is added")
            return
        for one in text:
            wrapped(f"part '{one.part}': {', '.join(one.plans)} on {one.scored_limit:,} examples")
        for name, seed in more.items():
            say(f"part '{name}' gets seed {seed}")
        seeds = {name: (*added.seeds.get(name, ()), seed) for name, seed in more.items()}
        additions.write(study.results, Additions({**added.seeds, **seeds}, (*added.text, *text)))


def _gap_names(gaps: Iterable[PredictedGap]) -> str:
    return ", ".join(f"{cell.plan} ({cell.kind})" for cell in gaps)


def _texts(study: Study, gaps: Iterable[PredictedGap], added: Additions) -> list[MoreText]:
    """More text for these cells, one a part and task, where there is any that is not scored yet.

    What was given more once has all that was thought to be enough, or all there is.
    """
    groups: dict[tuple[str, str], list[PredictedGap]] = {}
    for cell in gaps:
        if additions.origin(cell.part) == cell.part:
            groups.setdefault((cell.part, cell.task), []).append(cell)
    additional: list[MoreText] = []
    for (part, task), mine in groups.items():
        runs = [run for run in _predicted_runs(study, part, mine) if run.task.called == task]
        limits = {run.task.scored_limit for run in runs}
        if not runs or 0 in limits or (part, task) in {(t.part, t.task) for t in added.text}:
            continue
        times = SPARE * max(cell.by_text for cell in mine)
        names = {run.plan.name: None for run in runs}
        additional.append(MoreText(part, task, tuple(names), math.ceil(max(limits) * times)))
    most = {
        one.task: max(o.scored_limit for o in additional if o.task == one.task)
        for one in additional
    }
    return [replace(one, scored_limit=most[one.task]) for one in additional]


def _predicted_runs(study: Study, part: str, gaps: Sequence[PredictedGap]) -> list[RunSpec]:
    """The runs of these cells, and the 16-bit runs that they are compared with."""
    mine = {(cell.model, cell.task, cell.plan) for cell in gaps}
    runs = []
    for forecast in (f for f in study.forecasts if f.part == part):
        for run in predicted_runs(study, forecast):
            if (run.model, run.task.called, run.plan.name) in mine:
                other = partner(study, forecast, run)
                runs += [run] if other is None else [other, run]
    return runs


def _seeds(study: Study, vague: Sequence[PredictedGap], most: int) -> dict[str, int]:
    """A seed more for the parts of these cells, while they have fewer than so many."""
    mine = [replace(cell, part=additions.origin(cell.part)) for cell in vague]
    return {
        part.name: seed for part in _parts(study, mine) if (seed := _next(study, part, mine)) < most
    }


def _parts(study: Study, vague: Sequence[PredictedGap]) -> list[schema.Part]:
    """The parts of these cells, and those that run what they borrow from."""
    names = {cell.part for cell in vague}
    lenders = {
        run.plan.adapter
        for p in study.parts
        if p.name in names
        for run in study.part(p)
        if run.lender
    }
    for adapter in lenders:
        if not any(adapter in p.plans for p in study.parts if p.name in names):
            names.add(next(p.name for p in study.parts if adapter in p.plans))
    return [part for part in study.parts if part.name in names]


def _next(study: Study, part: schema.Part, vague: Sequence[PredictedGap]) -> int:
    """The first seed that one of the part's unresolved plans has nowhere; a lender's own next."""
    each = [
        max(
            s for p in study.parts if cell.plan in p.plans and cell.task in p.tasks for s in p.seeds
        )
        for cell in vague
        if cell.part == part.name
    ]
    return 1 + min(each, default=max(part.seeds))
