"""What each choice of calibrated rounding is worth, changed one at a time.

    python bench/system/rounding_choices.py MODEL FORMAT [CHOICE ...]

Prints nats above 16 bits of the untrained model on WikiText-2, block matrices only. It replaces
internals: the choices are not options of lowbit, because each one turned out to be the better
(but for `two-sided`, which is one).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace

import torch

from lowbit.core.spec import Plan
from lowbit.quant import calibrated, input_metric
from lowbit.runs.cached_scores import compare_with_16_bits
from lowbit.runs.device import open_machine
from lowbit.runs.prepare import prepare_run
from lowbit.runs.request import single_run
from lowbit.runs.rounding import round_model, rounded_sites
from lowbit.runs.rounding.gradients import Gradients
from lowbit.runs.workers.process import call

SETTINGS = ["task.window=256", "task.scored_limit=64"]


def original_scales() -> None:
    """The scales that nearest rounding stores."""
    rounding = calibrated._with_feedback

    def with_feedback(weight, spec, moment, plain):  # type: ignore[no-untyped-def]
        groups = iter(range(weight.shape[1]))
        calibrated._search = lambda *_: calibrated._scales_at(plain, next(groups))
        return rounding(weight, spec, moment, plain)

    calibrated._with_feedback = with_feedback


def refitted_scales() -> None:
    """The format's own rule when a group's turn comes, without a search."""
    calibrated.FACTORS = (1.0,)


def natural_order() -> None:
    """Columns in their own order."""
    input_metric._order = lambda importance, _: torch.arange(len(importance))


def not_in_sequence() -> None:
    """Every block sees the inputs that the 16-bit model gives."""
    round_model._put_weight = lambda *_: None


def tokens_alike() -> None:
    """Every token counts alike, whatever its gradient."""
    round_model.cached_gradients = lambda *_: Gradients()


def no_choice_by_row() -> None:
    """Calibrated codes also in rows where nearest rounding is better."""
    calibrated._better_rows = lambda weight, moment, plain, rounded: rounded


CHOICES: dict[str, Callable[[], None]] = {
    "as-it-is": lambda: None,
    "two-sided": lambda: None,
    "tokens-alike": tokens_alike,
    "no-choice-by-row": no_choice_by_row,
    "natural-order": natural_order,
    "not-in-sequence": not_in_sequence,
    "original-scales": original_scales,
    "refitted-scales": refitted_scales,
    "nearest": lambda: None,
}


def gap(model: str, text: str, choice: str) -> float:
    """Runs in its own process, because it replaces functions of lowbit."""
    CHOICES[choice]()
    # Its results must not be read as those of another choice.
    rounded_sites.VERSION = -1 - list(CHOICES).index(choice)
    plan = Plan(choice, text, embedding="bf16", rounding="calibrated")
    if choice in ("nearest", "two-sided"):
        plan = replace(plan, rounding=choice)
    spec, execution = single_run(model, "wikitext2", plan, 0, SETTINGS)
    machine = open_machine(execution, spec.train.compute)
    return compare_with_16_bits(prepare_run(spec), machine).gap.estimate


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    model, text, *names = sys.argv[1:]
    for name in names or CHOICES:
        print(f"{name:<18} {text}  {call(gap, model, text, name):+.4f}", flush=True)
