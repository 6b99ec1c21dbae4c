"""`lowbit plan`: the chosen plan, its competitors and the files written. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.table import Table

from lowbit.cli.console import out, say, wrapped
from lowbit.cli.text.measured import nats, shown, worked
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.files import to_json, write_atomic
from lowbit.core.progress import phases
from lowbit.core.spec import RunSpec
from lowbit.plan.file import to_toml
from lowbit.planner.budget_plan import BudgetPlan, Candidate
from lowbit.planner.knapsack import Solution
from lowbit.planner.other_quantizers import quantizer_configs
from lowbit.planner.request import PlanRequest
from lowbit.quant.formats import bits_of, parse
from lowbit.report import figures
from lowbit.report.figures.frontier import Frontier
from lowbit.runs.workers.process import call, orphaned
from lowbit.sensitivity.predictors import NAMES, Prediction, best_formula_at

NAMED = 9
"""Uniform plans that have a name in the figure."""


def plan(
    spec: RunSpec,
    execution: Execution,
    request: PlanRequest,
    to: Path,
    maps_to: Path | None,
    controls_to: Path | None,
) -> None:
    """Solve for a budget, show what came out, and write it as a plan's file."""
    if to.suffix != ".toml":
        raise UserError(f"{to}: a plan's file ends in .toml")
    planned: BudgetPlan = call(solved, spec, execution, request, shown())
    best, budget = planned.candidates[0], request.stored
    out().print(_candidates(planned))
    left = (
        "the KL, since nothing is trained"
        if request.untrained
        else "what training should leave, above 16 bits at the largest rank, of the KL seen there "
        "and of what its ranks win"
    )
    wrapped(
        "In nats. KL and gap: to 16 bits, untrained, on the selection part, which nothing was "
        f"costed on (± twice the gap's error). Left: {left}; predicted: the same from calibration "
        "text alone. The first line is written: the least is left."
    )
    out().print(_layers(best.solution))
    for line in [*_sentences(planned, best, request), worked(planned.basis, request.tokens) + "."]:
        wrapped(line)
    size = best.solution.stored + planned.other
    about = f"of {budget:,} bytes; {spec.model} on {spec.task.name}"
    write_atomic(to, to_toml(best.plan, f"{best.plan.name}: {size:,} {about}").encode())
    say(f"written  {to}: lowbit adapt {spec.model} --task {spec.task.name} --plan {to}")
    frontier = Frontier(
        planned.frontier, _best_uniform(planned.uniform),
        (best.solution.stored + planned.other, best.solution.cost), budget,
    )  # fmt: skip
    for path in figures.save("frontier", frontier, to.parent, f"{to.stem}-frontier"):
        say(f"figure   {path}")
    if request.training:
        wrapped("its frontier and uniform plans are of stored bytes, whatever training takes")
    if maps_to is not None:
        _write_maps(best.solution, maps_to)
    if controls_to is not None:
        _write_controls(planned, controls_to, about)


def _sentences(planned: BudgetPlan, best: Candidate, request: PlanRequest) -> list[str]:
    """What is known of the plan, a sentence or two each."""
    budget, training, untrained = request.stored, request.training, request.untrained
    size = best.solution.stored + planned.other
    peak = best.solution.training + planned.overhead
    limit = f" of {training:,}" if training else ""
    step = f"A training step takes {peak:,}{limit}, as the byte count says."
    lines = [f"{size:,} of {budget:,} bytes. {step}"]
    if planned.fits_in_full:
        return [*lines, "The budget holds the whole model in 16 bits at the largest rank."]
    lines += _how_good(planned.candidates, best, untrained)
    if best.plan.name.startswith("uniform"):
        lines.append(
            "NO PLANNED CHOICE CAME OUT BETTER THERE THAN A UNIFORM ONE: that is what is written."
        )
    lines += _predicted_gap(planned.predictions, best.solution)
    if planned.converse > 0 and planned.kfac_damage > 0:
        lines.append(
            "By K-FAC, damped by a thousandth, no code of these bytes could do with less than "
            f"{nats(planned.converse)} nats, of the block matrices that are not in 16 bits, before "
            f"training; rounding pays {nats(planned.kfac_damage)}, "
            f"{planned.kfac_damage / planned.converse:,.0f} times as much."
        )
    return lines


def _how_good(
    candidates: Sequence[Candidate], best: Candidate, untrained: bool = False
) -> list[str]:
    """How far from the best it is; where it is to be trained, what that should leave, and what
    speaks against it."""
    lines = []
    solved_for = next((c for c in candidates if c.plan.name == "planned"), None)
    if solved_for is not None:
        line = f"The plan solved for is at most {solved_for.solution.gap:.2g} nats from the best, "
        line += "as predicted."
        if best is not solved_for:
            more = max(0.0, best.solution.cost - solved_for.solution.cost)
            line += f" What is written was predicted {more:.2g} nats above it."
        lines.append(line)
    if untrained:
        return lines
    lines.append(
        f"After training about {nats(best.remaining)} nats above 16 bits at the largest rank, "
        f"anything from {nats(best.remaining / 2)} to {nats(2 * best.remaining)}: what ranks take "
        "back and what they win are known to a factor of two."
    )
    nearer = [c for c in candidates if c.plan.name.startswith("uniform")]
    nearest = min(nearer, key=lambda c: c.change.kl, default=best)
    if nearest.change.kl < best.change.kl:
        lines.append(
            f"Before training, {nearest.plan.name} is nearer to 16 bits there (KL "
            f"{nats(nearest.change.kl)} for {nats(best.change.kl)}): what is written is worth more "
            "by its ranks. --untrained plans for what is not trained."
        )
    return lines


def _predicted_gap(predictions: Mapping[str, Prediction], solution: Solution) -> list[str]:
    """The gap before training: what running the stored model says, then the closed forms."""
    if not predictions:
        return []
    shown = {
        name: f"{nats(one.gap)} nats ({nats(one.low)} to {nats(one.high)})"
        for name, one in predictions.items()
    }
    few = min(bits_of(parse(option.format)) for option in solution.options)
    trust = f"Of the closed forms {NAMES[best_formula_at(few)]} is the one to trust at these bits"
    trust += ", though below 3 none was near: " if few < 3 else ": "
    return [
        f"Predicted gap before training: {shown['kl']}, by running the stored model on "
        "calibration text, which is the best there is. "
        + trust
        + f"{NAMES['taylor']} {shown['taylor']}, {NAMES['kfac']} {shown['kfac']}."
    ]


def _best_uniform(
    uniform: tuple[tuple[str, int, float], ...],
) -> tuple[tuple[str, int, float], ...]:
    """Those that no smaller one is predicted to beat; of many, some have their blocks' name."""
    best: list[tuple[str, int, float]] = []
    for name, size, cost in sorted(uniform, key=lambda each: each[1:]):
        if not best or cost < best[-1][2]:
            best.append((name, size, cost))
    every = -(-len(best) // NAMED)
    return tuple(
        (_blocks(name) if i % every == 0 else "", size, cost)
        for i, (name, size, cost) in enumerate(best)
    )


def _blocks(name: str) -> str:
    """`int3@64 r8` of `uniform int3@64 and int6@64 r8`."""
    words = name.removeprefix("uniform ").split()
    return f"{words[0]} {words[-1]}"


def _write_controls(planned: BudgetPlan, folder: Path, about: str) -> None:
    """A file a plan, for studies that compare them with the exact one."""
    if not planned.controls:
        wrapped("no controls: everything fits in 16 bits")
    for plan, solution in planned.controls:
        path = folder / f"{plan.name.replace(' ', '-')}.toml"
        size = solution.stored + planned.other
        write_atomic(path, to_toml(plan, f"{plan.name}: {size:,} {about}").encode())
        say(f"control  {path}  {size:,} bytes, predicted {nats(solution.cost)}")


def _write_maps(solution: Solution, folder: Path) -> None:
    outside = [option.site for option in solution.options if not option.rank]
    configs = quantizer_configs(
        {option.site: option.format for option in solution.options}, outside
    )
    for name, body in configs.configs.items():
        write_atomic(folder / f"{name}.json", (to_json(body) + "\n").encode())
        say(f"map      {folder / f'{name}.json'}")
        for line in configs.skipped[name]:
            wrapped(f"not expressed: {line}")


def solved(spec: RunSpec, execution: Execution, request: PlanRequest, tell: bool) -> BudgetPlan:
    """In a process of its own."""
    from lowbit.planner.planner import make_plan
    from lowbit.runs import device, prepare

    machine = device.open_machine(execution, spec.train.compute)
    return make_plan(prepare.prepare_run(spec), machine, request, phases(tell, stop=orphaned))


def _candidates(planned: BudgetPlan) -> Table:
    page = Table(box=None, padding=(0, 1))
    for name in ("plan", "bytes", "predicted", "left", "KL", "gap", "±"):
        words = name == "plan"
        page.add_column(name, justify="left" if words else "right", no_wrap=not words)
    for one in planned.candidates:
        size, there = f"{one.solution.stored + planned.other:,}", one.change
        page.add_row(
            one.plan.name, size, nats(one.solution.cost), nats(one.remaining), nats(there.kl),
            f"{there.loss:+.4f}", nats(2 * there.loss_spread),
        )  # fmt: skip
    return page


def _layers(solution: Solution) -> Table:
    """A row a site."""
    page = Table(box=None, padding=(0, 1))
    for name in ("site", "format", "rank", "bytes", "predicted"):
        page.add_column(name, justify="left" if name in ("site", "format") else "right",
                        overflow="fold", no_wrap=name != "site")  # fmt: skip
    for o in solution.options:
        page.add_row(o.site, o.format, str(o.rank), f"{o.stored:,}", nats(o.cost))
    return page
