"""The plan that a run ended with: its final ranks, fixed, and no schedule.

Retraining with these ranks from the start shows whether the pattern alone is as good as the run
that found it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import BLOCK_ROLES, Plan, Rule
from lowbit.runs.record import Record


def frozen(plan: Plan, record: Record) -> Plan:
    """`plan` with the ranks left in `record`: the commonest one, and rules for the rest."""
    ranks = {s.name: s.final_rank for s in record.sites if s.role in BLOCK_ROLES}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    kept = tuple(replace(rule, rank=None) for rule in plan.rule)
    found: dict[int, list[str]] = {}
    for name, rank in ranks.items():
        if rank != usual:
            found.setdefault(rank, []).append(name)
    rules = (Rule(name=tuple(names), rank=rank) for rank, names in sorted(found.items()))
    return replace(
        plan,
        name=f"{plan.name} frozen",
        rank=usual,
        schedule=RankSchedule(),
        rule=(*(rule for rule in kept if rule.format or rule.base), *rules),
    )




