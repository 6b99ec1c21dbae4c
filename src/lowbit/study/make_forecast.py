"""Forecasts of a study made: a table of sensitivities at every point, all its plans at once."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from lowbit.core.execution import Execution
from lowbit.core.spec import Plan
from lowbit.quant.formats import bits_of, parse
from lowbit.runs.build import choices_of
from lowbit.sensitivity.cached import table_of
from lowbit.sensitivity.measured_model import Told
from lowbit.sensitivity.predictors import left
from lowbit.sensitivity.table import Asked, SensitivityTable
from lowbit.study.forecasts import Foretold, Point, Said

ANCHOR = "the anchor"


def foretold(point: Point, at: Path | None, execution: Execution, told: Told) -> Foretold:
    """What every plan of a point will cost, from calibration text alone."""
    first, forecast = point.runs[0], point.forecast
    choices = [choices_of(run) for run in point.runs]
    even = replace(first, plan=Plan(ANCHOR, forecast.anchor, "bf16", first.plan.rank))
    choices.append(choices_of(even))
    # Called by what they store, so that a point that is asked twice is measured once.
    joint = {_called(chosen): tuple(chosen.items()) for _, chosen, _ in choices}
    formats = sorted({text for _, chosen, _ in choices for text in chosen.values()})
    asked = Asked(
        tuple(formats),
        joint=tuple(sorted(joint.items())),
        uniform=False,
        seed=first.seed,
        curved=forecast.curved,
        exact=False,
    )
    # Where nothing is trained, training text is text like any other that is not scored.
    more = "train" if forecast.kind == "untrained" else "spare"
    parts = ("calibration", more)
    table = table_of(first, execution, asked, forecast.tokens, told, at, parts)
    said = [_said(table, *choice) for choice in choices]
    return Foretold(
        about=point.about,
        kind=forecast.kind,
        model=first.model,
        task=first.task.called,
        seed=first.seed,
        units=table.units,
        passes=table.passes,
        anchor=said[-1],
        plans=tuple(said[:-1]),
    )


def _called(formats: dict[str, str]) -> str:
    """A choice's name among others: what it stores."""
    return sha256(json.dumps(sorted(formats.items())).encode()).hexdigest()[:12]


def _said(
    table: SensitivityTable, name: str, formats: dict[str, str], ranks: dict[str, int]
) -> Said:
    bits = min((bits_of(parse(text)) for text in formats.values()), default=16.0)
    return Said(name, table.whole[_called(formats)], left(table, formats, ranks), bits)
