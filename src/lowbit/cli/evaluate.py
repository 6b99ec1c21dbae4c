"""`lowbit evaluate`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from lowbit.cli.options import (
    DeviceOption,
    ModelArgument,
    PlanOption,
    SetOption,
    TaskOption,
    guarded,
)

if TYPE_CHECKING:
    from lowbit.runs.comparison import Comparison


@guarded
def evaluate(
    model: ModelArgument,
    task: TaskOption,
    plan: PlanOption,
    part: Annotated[
        Literal["scored", "calibration", "selection"],
        typer.Option(help="The part of the task to score; do not choose plans by `scored`."),
    ] = "scored",
    settings: SetOption = None,
    device: DeviceOption = None,
) -> None:
    """Score a model as a plan stores it, untrained, beside the same model in 16 bits.

    Scores are cached: a second call is immediate.

    Example: lowbit evaluate demo:tiny --task demo --plan int4@64
    """
    from lowbit.runs.request import single_run
    from lowbit.runs.workers.process import call

    spec, _ = single_run(model, task, plan, 0, settings or ())
    arguments = (model, task, plan, part, settings or (), device)
    _show(spec.plan.name, call(evaluate_in_process, *arguments))


def evaluate_in_process(model: str, task: str, plan: str, part: Any, *rest: Any) -> Comparison:
    """Score; runs in a process of its own."""
    from lowbit.runs.evaluate import evaluate as score

    settings, device = rest
    return score(model, task, plan, part=part, settings=settings, device=device)


def _show(plan: str, comparison: Comparison) -> None:
    from rich.table import Table
    from rich.text import Text

    from lowbit.cli.console import out, say

    table = Table(box=None, padding=(0, 1))
    language = comparison.plan.metric == "loss"
    for name in ("stored as", "bytes", *(("loss", "perplexity") if language else ("accuracy",))):
        table.add_column(name, justify="left" if name == "stored as" else "right")
    for name, scores in {plan: comparison.plan, "16 bit": comparison.full_precision}.items():
        value = (
            [f"{scores.value:.4f}", f"{math.exp(scores.value):.2f}"]
            if language
            else [f"{100 * scores.value:.2f} %"]
        )
        table.add_row(Text(name), f"{scores.stored:,}", *value)
    out().print(table)
    gap, scale, unit = comparison.gap, 1 if language else 100, "nats" if language else "points"
    if gap.low is None or gap.high is None:
        say(f"gap {scale * gap.estimate:+.4f} {unit}; a single document has no interval")
        return
    say(
        f"gap {scale * gap.estimate:+.4f} {unit}, 95 % between {scale * gap.low:+.4f} and "
        f"{scale * gap.high:+.4f}, paired over {gap.documents} documents"
    )
