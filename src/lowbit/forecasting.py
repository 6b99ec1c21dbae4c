"""Forecasts of a study made: a table of sensitivities at every point, all its plans at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lowbit.execution import Execution
from lowbit.forecasts import Foretold, Point, Said
from lowbit.lab import Told
from lowbit.measuring import table_of
from lowbit.predicting import choices_of
from lowbit.quant.formats import bits_of, parse
from lowbit.sensitivity import Asked, SensitivityTable, left
from lowbit.spec import Plan

ANCHOR = "the anchor"


def foretold(point: Point, at: Path | None, execution: Execution, told: Told) -> Foretold:
    """What every plan of a point will cost, from calibration text alone."""
    first, forecast = point.runs[0], point.forecast
    choices = [choices_of(run) for run in point.runs]
    even = replace(first, plan=Plan(ANCHOR, forecast.anchor, embedding="bf16"))
    choices.append(choices_of(even))
    formats = tuple(dict.fromkeys(text for _, chosen, _ in choices for text in chosen.values()))
    joint = tuple((name, tuple(chosen.items())) for name, chosen, _ in choices)
    asked = Asked(formats, joint=joint, uniform=False, seed=first.seed)
    table = table_of(first, execution, asked, forecast.tokens, told, at)
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


def _said(
    table: SensitivityTable, name: str, formats: dict[str, str], ranks: dict[str, int]
) -> Said:
    bits = min((bits_of(parse(text)) for text in formats.values()), default=16.0)
    return Said(name, table.whole[name], left(table, formats, ranks), bits)
