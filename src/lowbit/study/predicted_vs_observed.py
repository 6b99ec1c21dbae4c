"""What was foreseen beside what came out: a cell a predicted plan that was run. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lowbit.core.spec import RunSpec
from lowbit.sensitivity.predictors import NAMES, predictions, trusted_at
from lowbit.study.cells import Setting, records, settings
from lowbit.study.claims import RESAMPLES
from lowbit.study.forecasts import Said, partner, points, predicted_runs
from lowbit.study.forecasts import made as made_at
from lowbit.study.pairing import gain_over, lost, pairs_of
from lowbit.study.schema import Forecast
from lowbit.study.study import Study

RESOLVED = 0.05
"""Of a gap: the most that its error, and the spread of its prediction, are where it is sharp."""
BASELINES = ("weight error", "4^-b")
TRUSTED = "trusted closed form"
PREDICTORS = (TRUSTED, *NAMES, *BASELINES)


@dataclass(frozen=True)
class Foreseen:
    """One predictor's gap and its spread."""

    gap: float
    spread: float


@dataclass(frozen=True)
class Cell:
    """One plan's gap: observed with its error, and foreseen by every predictor."""

    kind: str
    part: str
    model: str
    task: str
    plan: str
    bits: float
    observed: float
    se: float
    seed_se: float
    seeds: int
    declared: int
    """Seeds that the study declares for it; fewer have run where it is unfinished."""
    documents: int
    foreseen: dict[str, Foreseen]
    expected: bool
    """Whether it was declared beforehand that the tokens can resolve it."""

    @property
    def unfinished(self) -> bool:
        return self.seeds < self.declared

    @property
    def alone(self) -> bool:
        """Whether it rests on one training run, whose error holds nothing of other seeds."""
        return self.seeds == 1 and self.kind != "untrained"

    def resolvable(self, predictor: str) -> bool:
        return self.seen and self.foreseen[predictor].spread <= RESOLVED * abs(self.observed)

    @property
    def by_seeds(self) -> bool:
        """Whether more seeds could make it sharp: documents' error does not shrink with them."""
        documents = math.sqrt(max(0.0, self.se**2 - self.seed_se**2))
        return not self.seen and documents <= RESOLVED * abs(self.observed)

    @property
    def by_text(self) -> float:
        """How many times as much scored text would make it sharp: seeds' error does not shrink with
        it."""
        asked = (RESOLVED * self.observed) ** 2 - self.seed_se**2
        documents = max(0.0, self.se**2 - self.seed_se**2)
        return documents / asked if asked > 0 and not self.alone else math.inf

    @property
    def seen(self) -> bool:
        """Whether the observed gap alone is sharp enough: one run says nothing of other seeds."""
        return not self.alone and self.se <= RESOLVED * abs(self.observed)

    def off(self, predictor: str) -> float:
        """Relative error of a prediction."""
        gap = self.foreseen[predictor].gap
        return gap / self.observed - 1 if self.observed else math.inf

    def within(self, predictor: str) -> bool:
        one = self.foreseen[predictor]
        return abs(one.gap - self.observed) <= 1.96 * math.hypot(self.se, one.spread)


@dataclass(frozen=True)
class _Asked:
    """A plan that something was foretold of, with a run of it and one of its 16 bits."""

    forecast: Forecast
    run: RunSpec
    other: RunSpec
    said: tuple[tuple[Said, Said], ...]
    """Of the plan and of the anchor, at every point."""


def cells(study: Study) -> list[Cell]:
    """Every predicted plan that was also run; what was scored again on more text, there alone."""
    groups = _settings(study)
    made = {
        (one.forecast.kind, *where, one.run.plan.name): (cell, one.run.plan.on)
        for where, one in _asked(study)
        if where in groups and (cell := _cell(study, groups[where], one)) is not None
    }
    again = {
        (kind, model, on, plan)
        for (kind, model, _, plan), (cell, on) in made.items()
        if on and not cell.unfinished
    }
    return [cell for key, (cell, _) in made.items() if key not in again]


def absent(study: Study, found: Sequence[Cell]) -> list[str]:
    """The kinds of the cells that were foretold and have no finished pair of runs yet."""
    known = {(cell.kind, cell.model, cell.task, cell.plan) for cell in found}
    groups, asked = _settings(study), list(_asked(study))
    # What was scored again on more text stands in the place of what it was scored on first.
    known |= {
        (one.forecast.kind, where[0], one.run.plan.on, one.run.plan.name)
        for where, one in asked
        if (one.forecast.kind, *where, one.run.plan.name) in known
    }
    return [
        one.forecast.kind
        for where, one in asked
        if (one.forecast.kind, *where, one.run.plan.name) not in known
        and (where not in groups or groups[where].metric == "loss")
    ]


def _settings(study: Study) -> dict[tuple[str, str], Setting]:
    return {(setting.model, setting.task): setting for setting in settings(records(study))}


def _asked(study: Study) -> list[tuple[tuple[str, str], _Asked]]:
    """By model and task. A plan of two parts is one cell: the first forecast's."""
    told = [(p.forecast, each) for p in points(study) if (each := made_at(study, p)) is not None]
    found: dict[tuple[str, str, str, str], _Asked] = {}
    for forecast in study.forecasts:
        for run in predicted_runs(study, forecast):
            model, task, plan = run.model, run.task.called, run.plan.name
            if (forecast.kind, model, task, plan) in found:
                continue
            # What is scored again was foretold where it was trained.
            said = tuple(
                (one, each.anchor)
                for of, each in told
                if (each.kind, each.model, each.task) == (forecast.kind, model, run.plan.on or task)
                and (of == forecast or run.plan.on)
                for one in each.plans
                if one.plan == plan
            )
            other = partner(study, forecast, run)
            if other is not None and said:
                found[forecast.kind, model, task, plan] = _Asked(forecast, run, other, said)
    return [((model, task), one) for (_, model, task, _), one in found.items()]


def unpredicted(study: Study) -> list[str]:
    """Points whose runs are there, or could be, and that nothing was foretold at."""
    return [point.name for point in points(study) if made_at(study, point) is None]


def late(study: Study) -> list[str]:
    """Points that were foretold when some of their runs had ended already."""
    found = ((point, made_at(study, point)) for point in points(study))
    return [f"{p.name} ({told.after} runs)" for p, told in found if told is not None and told.after]


def refused(study: Study) -> list[str]:
    """Predicted plans that were run, and runs of theirs, or of their 16 bits, that do not count."""
    groups = _settings(study)
    said: dict[str, None] = {}
    for forecast in study.forecasts:
        for run in predicted_runs(study, forecast):
            other = partner(study, forecast, run)
            setting = groups.get((run.model, run.task.called))
            cells = {c.plan: c for c in setting.cells} if setting else {}
            if other is not None and {run.plan.name, other.plan.name} <= set(cells):
                two = (cells[run.plan.name], cells[other.plan.name])
                why = [*pairs_of(*two)[1], *(each for cell in two for each in lost(cell))]
                said |= {f"{run.plan.name} on {run.task.called}: {each}": None for each in why}
    return list(said)


def _cell(study: Study, setting: Setting, asked: _Asked) -> Cell | None:
    forecast, plan, base = asked.forecast, asked.run.plan.name, asked.other.plan.name
    gain = gain_over(setting, plan, base, RESAMPLES) if setting.metric == "loss" else None
    if gain is None:
        return None
    both = (study.seeds_of(each, setting.task) for each in (plan, base))
    return Cell(
        kind=forecast.kind,
        part=forecast.part,
        model=setting.model,
        task=setting.task,
        plan=plan,
        bits=asked.said[0][0].bits,
        observed=-gain.estimate,
        se=gain.se,
        seed_se=gain.seed_se,
        seeds=gain.seeds,
        declared=len(set.intersection(*both)),
        documents=gain.documents,
        foreseen=_foreseen(forecast, asked.said),
        expected=plan in forecast.resolvable,
    )


def _foreseen(forecast: Forecast, said: Sequence[tuple[Said, Said]]) -> dict[str, Foreseen]:
    """Over the points' seeds: their mean; calibration text is the same for all, seeds are not."""
    each = [_at_point(forecast, one, anchor) for one, anchor in said]
    found = {}
    for name in each[0]:
        gaps = [one[name].gap for one in each]
        spread = math.sqrt(float(np.mean([one[name].spread ** 2 for one in each])))
        over = float(np.std(gaps, ddof=1)) / math.sqrt(len(gaps)) if len(gaps) > 1 else 0.0
        found[name] = Foreseen(float(np.mean(gaps)), math.hypot(spread, over))
    return found


def _at_point(forecast: Forecast, said: Said, anchor: Said) -> dict[str, Foreseen]:
    # Training takes back what the rank reaches of the second order; the first stays (18).
    share = said.left if forecast.kind == "adapted" else 1.0
    found = {
        name: Foreseen(one.gap, one.spread) for name, one in predictions(said.whole, share).items()
    }
    found[TRUSTED] = found[trusted_at(said.bits)]
    rest = anchor.left if forecast.kind == "adapted" else 1.0
    known, spread = rest * anchor.whole.kl, rest * anchor.whole.kl_spread
    by_error = said.whole.weight_error / anchor.whole.weight_error
    by_bits = 4.0 ** (anchor.bits - said.bits)
    for name, ratio in zip(BASELINES, (by_error, by_bits), strict=True):
        found[name] = Foreseen(known * ratio, spread * ratio)
    return found
