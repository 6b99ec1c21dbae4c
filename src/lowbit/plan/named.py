"""The built-in plans: the six of the joint study, and the same six with adapters on query and value
only (`B-FP.qv`).

A format is also a plan: `--plan nf4@64` stores the block matrices in that format. Embeddings and
heads get at least eight bits (`rules.careful`). `keep` stores every matrix as the checkpoint does.
"""

from __future__ import annotations

from dataclasses import replace

from lowbit.core.errors import UserError
from lowbit.core.schedules import RankSchedule
from lowbit.core.spec import Plan, Rule
from lowbit.quant.formats import KEEP, is_format, nearest_format, parse

_Q4, _Q8 = "nf4@64+dq", "int8@row"
_ADA = RankSchedule("adalora", target=4)

_SIX = (
    Plan("B-FP", "bf16", rank=8, alpha="2r"),
    Plan("B-Q4", _Q4, embedding=_Q4, rank=8, alpha="2r"),
    Plan("B-Ada", "bf16", rank=12, alpha="2r", schedule=_ADA),
    Plan("Joint-1", _Q4, embedding=_Q4, rank=12, alpha="2r", schedule=_ADA),
    Plan(
        "Joint-2",
        _Q4,
        embedding=_Q8,
        rank=12,
        alpha="2r",
        schedule=_ADA,
        rule=(Rule(depth=(0, -1), format=_Q8),),
    ),
    Plan(
        "Joint-3",
        _Q4,
        embedding=_Q4,
        alpha="2r",
        rule=(
            Rule(role="attention", format=_Q8, rank=6),
            Rule(role="ffn", format=_Q4, rank=10),
        ),
    ),
)
_QUERY_AND_VALUE = ("*.query", "*.value", "*.q_proj", "*.v_proj", "*.c_attn")
"""The matrices that the LoRA paper adapts; GPT-2 stores query, key and value in one matrix."""


def query_and_value(plan: Plan) -> Plan:
    """The same formats, with adapters on query and value only: `NAME.qv`."""
    ranks = [rule.rank for rule in plan.rule if rule.role == "attention" and rule.rank is not None]
    without_ranks = (replace(rule, rank=None) for rule in plan.rule)
    formats = tuple(rule for rule in without_ranks if rule.format is not None)
    adapted = Rule(name=_QUERY_AND_VALUE, rank=ranks[0] if ranks else plan.rank)
    return replace(plan, name=f"{plan.name}.qv", rank=0, rule=(*formats, adapted))


NAMED: dict[str, Plan] = {plan.name: plan for six in _SIX for plan in (six, query_and_value(six))}


def named(text: str, others: dict[str, Plan] | None = None) -> Plan:
    """A plan by name: one of `others` (a study's plans), a built-in plan, or a format."""
    plans = {**NAMED, **(others or {})}
    if text in plans:
        return plans[text]
    if text == KEEP:
        return Plan(KEEP, KEEP)
    if is_format(text):
        parse(text)
        return Plan(text, text)
    raise UserError(f"unknown plan '{text}'.{nearest_format(text, [*plans, KEEP])}")
