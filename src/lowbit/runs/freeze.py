"""Turns the final ranks of a run with a rank schedule into a plan with fixed ranks.

Training with these ranks from the start shows whether the rank pattern alone explains the score, or
whether the schedule was needed to reach it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from lowbit.core.errors import UserError
from lowbit.core.files import write_atomic
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import BLOCK_ROLES, Plan, Rule
from lowbit.core.toml import check
from lowbit.plan.file import to_toml
from lowbit.runs.export_model import finished_record
from lowbit.runs.record import Record


def frozen_plan(plan: Plan, record: Record) -> Plan:
    """`plan` with the final ranks of `record`: the most common one is the default."""
    ranks = {s.name: s.final_rank for s in record.sites if s.role in BLOCK_ROLES}
    default = Counter(ranks.values()).most_common(1)[0][0]
    rules_without_rank = tuple(replace(rule, rank=None) for rule in plan.rule)
    names_by_rank: dict[int, list[str]] = {}
    for name, rank in ranks.items():
        if rank != default:
            names_by_rank.setdefault(rank, []).append(name)
    rank_rules = (
        Rule(name=tuple(names), rank=rank) for rank, names in sorted(names_by_rank.items())
    )
    return replace(
        plan,
        name=f"{plan.name} frozen",
        rank=default,
        schedule=RankSchedule(),
        rule=(*(rule for rule in rules_without_rank if rule.format or rule.base), *rank_rules),
    )


def freeze_run(folder: Path, to: Path) -> Plan:
    """Write the final ranks of a finished run as a plan's TOML file."""
    record = finished_record(folder)
    if to.suffix != ".toml":
        raise UserError(f"{to}: a plan's file ends in .toml")
    if to.exists():
        raise UserError(f"{to} exists already")
    plan = frozen_plan(check(Plan, record.spec["plan"], None, ("plan",)), record)
    about = f"# The final ranks of {folder.name}, fixed from the start: no rank schedule.\n"
    write_atomic(to, (about + to_toml(plan)).encode())
    return plan
