"""The configurations with names: the six of the joint study, and any format as a plan.

A format used as a plan (`--plan nf4@64`) stores the block matrices in it; embeddings and heads
keep at least eight bits (`rules.careful`).
"""

from __future__ import annotations

from lowbit.errors import UserError, nearest
from lowbit.quant.formats import CASTS, FORMATS, parse
from lowbit.spec import Plan, RankSchedule, Rule

_Q4, _Q8 = "nf4@64+dq", "int8@row"
_ADA = RankSchedule("adalora", target=4)

NAMED: dict[str, Plan] = {
    plan.name: plan
    for plan in (
        Plan("B-FP", "bf16", rank=8),
        Plan("B-Q4", _Q4, embedding=_Q4, rank=8),
        Plan("B-Ada", "bf16", rank=12, schedule=_ADA),
        Plan("Joint-1", _Q4, embedding=_Q4, rank=12, schedule=_ADA),
        Plan(
            "Joint-2",
            _Q4,
            embedding=_Q8,
            rank=12,
            schedule=_ADA,
            rule=(Rule(depth=(0, -1), format=_Q8),),
        ),
        Plan(
            "Joint-3",
            _Q4,
            embedding=_Q4,
            rule=(
                Rule(role="attention", format=_Q8, rank=6),
                Rule(role="ffn", format=_Q4, rank=10),
            ),
        ),
    )
}


def named(text: str, others: dict[str, Plan] | None = None) -> Plan:
    """A plan by name: one of `others` (a study's own), a named configuration, or a format."""
    known = {**NAMED, **(others or {})}
    if text in known:
        return known[text]
    stem = text.split("@")[0].split(":")[0].split("+")[0]
    if stem in FORMATS or stem in CASTS:
        parse(text)
        return Plan(text, text)
    raise UserError(f"unknown plan '{text}'.{nearest(text, [*known, *FORMATS, *CASTS])}")
