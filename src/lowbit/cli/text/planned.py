"""`lowbit plan`: the chosen plan, its competitors and the files written. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from lowbit.cli.console import out, say, wrapped
from lowbit.cli.text.measured import based_on, nats
from lowbit.cli.text.planned_layers import layers
from lowbit.core.files import to_json, write_atomic
from lowbit.plan.file import to_toml
from lowbit.planner.budget_plan import BudgetPlan, Candidate
from lowbit.planner.frontier_summary import bytes_saved, nearby
from lowbit.planner.knapsack import Solution
from lowbit.planner.other_quantizers import quantizer_configs
from lowbit.planner.remeasure import Round
from lowbit.quant.formats import bits_of, parse
from lowbit.report import figures
from lowbit.report.figures.frontier import Frontier
from lowbit.sensitivity.predictors import NAMES, Prediction

LABELS = 9
"""Uniform plans that are labelled in the figure."""


def show_plan(planned: BudgetPlan) -> None:
    """Print the candidates, the best plan's layers, and what is known about it."""
    out().print(_candidates(planned))
    left = (
        "the KL, because nothing is trained"
        if planned.request.untrained
        else "the gap to 16 bits at the largest rank that should remain after training"
    )
    wrapped(
        "In nats; the plan in the first line is written. KL and gap: measured on the selection "
        "part, untrained, against 16 bits; no cost was estimated on that part (± is twice the "
        f"gap's standard error). Left: {left}, from that KL. Predicted: the same from "
        "calibration text alone."
    )
    best = planned.candidates[0]
    out().print(layers(best.solution))
    for line in [*_sentences(planned, best), based_on(planned.basis, planned.request.tokens) + "."]:
        wrapped(line)


def write_plan(
    planned: BudgetPlan,
    model: str,
    task: str,
    to: Path,
    maps_to: Path | None,
    controls_to: Path | None,
) -> None:
    """Write the best plan and its figure; also other tools' configs and controls on request."""
    best = planned.candidates[0]
    size = best.solution.stored + planned.other
    about = f"of {planned.request.stored:,} bytes; {model} on {task}"
    write_atomic(to, to_toml(best.plan, f"{best.plan.name}: {size:,} {about}").encode())
    say(f"written  {to}: lowbit adapt {model} --task {task} --plan {to}")
    frontier = Frontier(
        planned.frontier,
        _best_uniform(planned.uniform),
        (size, best.solution.cost),
        planned.request.stored,
    )
    for path in figures.save("frontier", frontier, to.parent, f"{to.stem}-frontier"):
        say(f"figure   {path}")
    if planned.request.training:
        wrapped("The figure's frontier and uniform plans ignore the limit on training memory.")
    if maps_to is not None:
        _write_maps(best.solution, maps_to)
    if controls_to is not None:
        _write_controls(planned, controls_to, about)


def _sentences(planned: BudgetPlan, best: Candidate) -> list[str]:
    """What is known about the best plan, a sentence or two each."""
    request = planned.request
    size = best.solution.stored + planned.other
    peak = best.solution.training + planned.overhead
    limit = f" of {request.training:,}" if request.training else ""
    lines = [
        f"{size:,} of {request.stored:,} bytes. A training step takes {peak:,}{limit} bytes, "
        "by the byte count."
    ]
    if planned.grid is not None:
        lines.append(
            f"The checkpoint's weights lie on the grid of {planned.grid} already. That format "
            "keeps them and was among the choices; every other one rounds them a second time."
        )
    if planned.fits_in_full:
        return [*lines, "The budget holds the whole model in 16 bits at the largest rank."]
    lines += _how_good(planned.candidates, best, planned.rounds, request.untrained)
    if best.plan.name.startswith("uniform"):
        lines.append(
            "NO PLANNED CHOICE WAS BETTER THAN A UNIFORM ONE: the uniform plan is written."
        )
    lines += _budget_sentences(planned, size)
    calibrated = best.plan.rounding != "nearest"
    lines += _predicted_gap(planned.predictions, calibrated)
    if calibrated:
        lines.append(
            f"{best.plan.rounding.capitalize()} rounding: the plan's file asks for it, and a run "
            "rounds the weights with the task's training text."
        )
    if not calibrated and planned.converse > 0 and planned.kfac_damage > 0:
        lines.append(
            "Lower bound (K-FAC, damped by a thousandth): no code of these bytes costs less than "
            f"{nats(planned.converse)} nats before training, over the block matrices below 16 "
            f"bits. This plan's rounding costs {nats(planned.kfac_damage)}, "
            f"{planned.kfac_damage / planned.converse:,.0f} times as much."
        )
    return lines


def _budget_sentences(planned: BudgetPlan, size: int) -> list[str]:
    """What a little more or less budget buys, and what the frontier saves, by predicted cost."""
    lines = []
    if changes := nearby(planned.frontier, size):
        words = [
            f"{abs(change.bytes):,} bytes {'more' if change.bytes > 0 else 'less'}: "
            f"{nats(abs(change.nats))} nats {'more' if change.nats > 0 else 'less'}"
            for change in changes
        ]
        lines.append(f"By predicted cost, {'; '.join(words)}.")
    between = [(s, cost) for name, s, cost in planned.uniform if 3 <= _block_bits(name) <= 6]
    saved = bytes_saved(planned.frontier, between)
    if saved is not None:
        lines.append(
            "At the predicted cost of the best uniform plans of 3 to 6 bits, planned ones save "
            f"{100 * saved.median:.0f} % of the bytes ({100 * saved.low:.0f} to "
            f"{100 * saved.high:.0f} %; {saved.compared} compared)."
        )
    return lines


def _block_bits(name: str) -> float:
    """The bits of the block matrices of `uniform int3@64 and int6@64 r8`."""
    return bits_of(parse(name.removeprefix("uniform ").split()[0]))


def _how_good(
    candidates: Sequence[Candidate],
    best: Candidate,
    rounds: Sequence[Round] = (),
    untrained: bool = False,
) -> list[str]:
    """The distance to the optimum, what training should leave, and what speaks against it."""
    lines = []
    optimal = next((c for c in candidates if c.plan.name == "planned"), None)
    if optimal is not None:
        line = (
            f"By predicted cost, 'planned' is at most {optimal.solution.gap:.2g} nats from the "
            "optimum."
        )
        if best is not optimal:
            above = max(0.0, best.solution.cost - optimal.solution.cost)
            line += f" The plan written is predicted {above:.2g} nats above it."
        lines.append(line)
    if rounds:
        first, last = rounds[0], rounds[-1]
        line = (
            f"Run on the calibration text, the first solution cost {nats(first.measured)} nats "
            f"(predicted {nats(first.predicted)})"
        )
        if len(rounds) > 1:
            line += (
                f"; after {len(rounds) - 1} {'correction' if len(rounds) == 2 else 'corrections'} "
                f"of the costs, {nats(last.measured)} (predicted {nats(last.predicted)})"
            )
        lines.append(f"{line}.")
    if untrained:
        return lines
    lines.append(
        f"After training about {nats(best.remaining)} nats above 16 bits at the largest rank "
        f"should remain, between {nats(best.remaining / 2)} and {nats(2 * best.remaining)}: the "
        "effect of ranks is known to a factor of two."
    )
    uniform = [c for c in candidates if c.plan.name.startswith("uniform")]
    nearest = min(uniform, key=lambda c: c.change.kl, default=best)
    if nearest.change.kl < best.change.kl:
        lines.append(
            f"Before training, {nearest.plan.name} is nearer to 16 bits (KL "
            f"{nats(nearest.change.kl)} against {nats(best.change.kl)}): the plan written is "
            "better because of its ranks. For a model that is not trained use --untrained."
        )
    return lines


def _predicted_gap(predictions: Mapping[str, Prediction], calibrated: bool) -> list[str]:
    """The gap before training, measured on calibration text and by the closed forms."""
    if not predictions:
        return []
    intervals = {
        name: f"{nats(prediction.gap)} nats ({nats(prediction.low)} to {nats(prediction.high)})"
        for name, prediction in predictions.items()
    }
    line = (
        f"Predicted gap before training: {intervals['kl']}, by running the stored model on "
        "calibration text."
    )
    if calibrated:
        return [f"{line} Formulas are left out: they are for nearest rounding."]
    return [
        f"{line} Closed forms: {NAMES['fisher']} {intervals['fisher']}, "
        f"{NAMES['kfac']} {intervals['kfac']}; `lowbit predict` with this plan has more of them."
    ]


def _best_uniform(
    uniform: tuple[tuple[str, int, float], ...],
) -> tuple[tuple[str, int, float], ...]:
    """The uniform plans that no smaller one is predicted to beat; some of many are labelled."""
    best: list[tuple[str, int, float]] = []
    for name, size, cost in sorted(uniform, key=lambda each: each[1:]):
        if not best or cost < best[-1][2]:
            best.append((name, size, cost))
    every = -(-len(best) // LABELS)
    return tuple(
        (_short_name(name) if i % every == 0 else "", size, cost)
        for i, (name, size, cost) in enumerate(best)
    )


def _short_name(name: str) -> str:
    """`int3@64 r8` of `uniform int3@64 and int6@64 r8`."""
    words = name.removeprefix("uniform ").split()
    return f"{words[0]} {words[-1]}"


def _write_controls(planned: BudgetPlan, folder: Path, about: str) -> None:
    """One file per plan, for studies that compare them with the best one."""
    if not planned.controls:
        wrapped("no controls: everything fits in 16 bits")
    for plan, solution in planned.controls:
        path = folder / f"{plan.name.replace(' ', '-')}.toml"
        size = solution.stored + planned.other
        write_atomic(path, to_toml(plan, f"{plan.name}: {size:,} {about}").encode())
        say(f"control  {path}  {size:,} bytes, predicted {nats(solution.cost)}")


def _write_maps(solution: Solution, folder: Path) -> None:
    without_adapter = [option.site for option in solution.options if not option.rank]
    configs = quantizer_configs(
        {option.site: option.format for option in solution.options}, without_adapter
    )
    for name, body in configs.configs.items():
        write_atomic(folder / f"{name}.json", (to_json(body) + "\n").encode())
        say(f"map      {folder / f'{name}.json'}")
        for line in configs.skipped[name]:
            wrapped(f"not expressed: {line}")


def _candidates(planned: BudgetPlan) -> Table:
    page = Table(box=None, padding=(0, 1))
    for name in ("plan", "bytes", "predicted", "left", "KL", "gap", "±"):
        page.add_column(name, justify="left" if name == "plan" else "right", no_wrap=name != "plan")
    for candidate in planned.candidates:
        change = candidate.change
        page.add_row(
            candidate.plan.name,
            f"{candidate.solution.stored + planned.other:,}",
            nats(candidate.solution.cost),
            nats(candidate.remaining),
            nats(change.kl),
            f"{change.loss:+.4f}",
            nats(2 * change.loss_spread),
        )
    return page
