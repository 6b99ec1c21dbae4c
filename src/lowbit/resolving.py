"""More seeds where theory and data differ and the data cannot say so yet. No torch.

A cell that is off by more than 10 % while its own error is above 5 % decides nothing. Where it is
the seeds' error that is too large (the documents' does not shrink with seeds), the part it is in
gets one more, so that what is finished stays balanced. The seeds that were added stand beside the
records, and every command reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from lowbit import ahead, studyfile
from lowbit.files import to_json, write_atomic
from lowbit.forecasts import points
from lowbit.gaps import Cell, cells
from lowbit.looking import say, wrapped
from lowbit.scorecard import unresolved
from lowbit.study import ADDED, Study, added


def until_resolved(
    reread: Callable[[], Study], carry_out: Callable[[Study], None], most: int
) -> None:
    """Run, predict, and add seeds to what is unresolved, up to `most` seeds a part."""
    while True:
        study = reread()
        # What is predicted from first; the predictions are written before what they are of is run.
        first = {point.at for point in points(study) if point.at is not None}
        if first:
            carry_out(replace(study, runs=tuple(run for run in study.runs if run in first)))
        ahead.predict(study)
        carry_out(study)
        vague = unresolved(cells(study))
        if not vague:
            say("no cell is off by more than 10 % that more seeds could decide")
            return
        wrapped(f"unresolved: {', '.join(f'{one.plan} ({one.kind})' for one in vague)}")
        more = {
            part.name: seed
            for part in _parts(study, vague)
            if (seed := _next(study, part, vague)) < most
        }
        if not more:
            say(f"and their parts have {most} seeds already: nothing is added")
            return
        found = dict(added(study.results))
        for name, seed in more.items():
            found[name] = (*found.get(name, ()), seed)
            say(f"part '{name}' gets seed {seed}")
        write_atomic(study.results / ADDED, (to_json(found) + "\n").encode())


def _parts(study: Study, vague: Sequence[Cell]) -> list[studyfile.Part]:
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


def _next(study: Study, part: studyfile.Part, vague: Sequence[Cell]) -> int:
    """The first seed that one of the part's unresolved plans has nowhere; a lender's own next."""
    each = [
        max(
            s for p in study.parts if cell.plan in p.plans and cell.task in p.tasks for s in p.seeds
        )
        for cell in vague
        if cell.part == part.name
    ]
    return 1 + min(each, default=max(part.seeds))
