"""The plan that a run ended with: its final ranks, fixed, and no schedule.

Retraining with these ranks from the start shows whether the pattern alone is as good as the run
that found it.
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


def frozen(plan: Plan, record: Record) -> Plan:
    """`plan` with the ranks left in `record`: the commonest one, and rules for the rest."""
    ranks = {s.name: s.final_rank for s in record.sites if s.role in BLOCK_ROLES}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    kept = tuple(replace(rule, rank=None) for rule in plan.rule)
    names_by_rank: dict[int, list[str]] = {}
    for name, rank in ranks.items():
        if rank != usual:
            names_by_rank.setdefault(rank, []).append(name)
    rules = (Rule(name=tuple(names), rank=rank) for rank, names in sorted(names_by_rank.items()))
    return replace(
        plan,
        name=f"{plan.name} frozen",
        rank=usual,
        schedule=RankSchedule(),
        rule=(*(rule for rule in kept if rule.format or rule.base), *rules),
    )


def freeze_run(folder: Path, to: Path) -> Plan:
    """Write the final ranks of a finished run as a plan's TOML file."""
    record = finished_record(folder)
    if to.suffix != ".toml":
        raise UserError(f"{to}: a plan's file ends in .toml")
    if to.exists():
        raise UserError(f"{to} is there already")
    plan = frozen(check(Plan, record.spec["plan"], None, ("plan",)), record)
    about = f"# The ranks of {folder.name}, which its schedule found; nothing is scheduled here.\n"
    write_atomic(to, (about + to_toml(plan)).encode())
    return plan
