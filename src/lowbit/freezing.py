"""The plan that a run ended with: its ranks kept as they were found, nothing scheduled any more.

What a rank schedule found is worth asking twice: retrained from the start with that pattern, is it
as good as the run that found it? `to_toml` writes any plan as a file for `--plan` and studies.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import BLOCK_ROLES, Plan, Rule
from lowbit.record import Record


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


def to_toml(plan: Plan, about: str = "") -> str:
    """A plan's file, without its name (the file's own) and without what is default.

    `about`: where it comes from, in a comment.
    """
    usual = Plan(plan.name)
    lines = [f"# {' '.join(about.split())}"] if about else []
    lines += [
        f"{key} = {_value(value)}"
        for key in ("format", "embedding", "rank", "alpha", "dropout", "init", "adapter")
        if (value := getattr(plan, key)) != getattr(usual, key) or key in ("format", "rank")
    ]
    if plan.schedule != usual.schedule:
        inside = ", ".join(f"{key} = {_value(v)}" for key, v in vars(plan.schedule).items())
        lines.append(f"schedule = {{{inside}}}")
    for rule in plan.rule:
        lines += ["", "[[rule]]"]
        lines += [f"{key} = {_value(v)}" for key, v in vars(rule).items() if v not in (None, ())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else str(value)
