"""More seeds where theory and data differ and the data cannot say so yet. No torch.

A cell that is off by more than 10 % while its own error is above 5 % decides nothing; the whole
part it is in gets one more seed, so that what is finished stays balanced. The seeds that were added
stand beside the records, and every command reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowbit import studyfile
from lowbit.files import to_json, write_atomic
from lowbit.foretelling import predict_study
from lowbit.looking import say, wrapped
from lowbit.scorecard import Cell, cells, unresolved
from lowbit.study import ADDED, Study, added


def until_resolved(
    reread: Callable[[], Study], carry_out: Callable[[Study], None], most: int
) -> None:
    """Run, predict, and add seeds to what is unresolved, up to `most` seeds a part."""
    while True:
        study = reread()
        carry_out(study)
        predict_study(study)
        vague = unresolved(cells(study))
        if not vague:
            say("every cell that is off by more than 10 % is sharp enough to say so")
            return
        found = dict(added(study.results))
        more = {part.name: _next(part, found) for part in _parts(study, vague)}
        more = {name: seed for name, seed in more.items() if seed < most}
        wrapped(f"unresolved: {', '.join(f'{one.plan} ({one.kind})' for one in vague)}")
        if not more:
            say(f"and their parts have {most} seeds already: nothing is added")
            return
        for name, seed in more.items():
            found[name] = (*found.get(name, ()), seed)
            say(f"part '{name}' gets seed {seed}")
        write_atomic(study.results / ADDED, (to_json(found) + "\n").encode())


def _parts(study: Study, vague: Sequence[Cell]) -> list[studyfile.Part]:
    kinds = {(one.kind, one.task) for one in vague}
    names = {f.part for f in study.forecasts if any(kind == f.kind for kind, _ in kinds)}
    # A bare base has no seed: more of them would say the same again.
    bare = {f.part for f in study.forecasts if f.kind == "untrained"}
    return [part for part in study.parts if part.name in names - bare]


def _next(part: studyfile.Part, found: dict[str, tuple[int, ...]]) -> int:
    return max((*part.seeds, *found.get(part.name, ()))) + 1
