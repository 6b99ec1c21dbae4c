"""What a plan stores in which format, counted on a model's skeleton."""

from __future__ import annotations

import math

from lowbit.core.spec import RunSpec
from lowbit.quant.formats import is_cast, spell
from lowbit.ready import plan_sites, prepare_run

Choices = tuple[str, dict[str, str], dict[str, int]]
"""A plan's name, the formats of its sites that are not in 16 bits, and the ranks of all."""


def choices_of(spec: RunSpec) -> Choices:
    start = prepare_run(spec)
    planned = plan_sites(spec.plan, start.checkpoint, start.task.kind, len(start.data.labels))
    stored = {s.name: planned.choices[s.name] for s in planned.sites if not s.fresh}
    formats = {n: spell(choice.quant) for n, choice in stored.items() if not is_cast(choice.quant)}
    # A schedule cuts to so many directions a site, on average; which, training decides.
    schedule = spec.plan.schedule
    most = math.inf if schedule.kind == "fixed" else schedule.target
    return spec.plan.name, formats, {n: int(min(c.rank, most)) for n, c in stored.items()}
