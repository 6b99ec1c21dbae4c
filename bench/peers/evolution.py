"""An evolutionary search over whole plans, each scored by running the stored model.

    python bench/peers/evolution.py MODEL BUDGET [--format FORMAT ...] [--rank R] [--rounding NAME]
        [--generations N] [--seed S] --to PLAN.toml

It is the control that sees how matrices work together: every candidate is stored as a whole and run
on text of WikiText-2's calibration part (`LOWBIT_ASSETS`), which is also what `lowbit plan` sees.
The procedure is EvoPress' (Sieberling et al. 2024, 2410.14649): children differ from the best plan
by moving a few matrices one format up and as many down; all are scored on a little text, the better
ones on more, and the best of them and the parent on all of it. BUDGET: bytes, or 75MB. Results of
single plans are cached, so a search that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from lowbit.core.byte_sizes import parse_bytes
from lowbit.core.spec import Plan, Rounding, Site
from lowbit.plan.file import to_toml
from lowbit.planner.knapsack import Option, Solution
from lowbit.planner.options import to_plan
from lowbit.quant.byte_counts import adapter_numbers, matrix_bytes
from lowbit.quant.formats import parse
from lowbit.runs.build import plan_sites
from lowbit.runs.device import open_machine
from lowbit.runs.prepare import prepare_run
from lowbit.runs.request import single_run
from lowbit.sensitivity.measure import OutputChanges
from lowbit.sensitivity.table import Calibration

EVERY = (8, 1)
"""By stage: only every so many sequences are run."""
Ladders = Mapping[str, Sequence[Option]]
"""The formats of each site, smallest first."""
Genome = dict[str, int]
"""For each site, the place of its format on the ladder."""
Score = Callable[[Genome, int], float]
"""The damage of a plan; the second argument is the stage, which sets how much text."""


@dataclass(frozen=True)
class Settings:
    """`survivors`: how many plans each stage passes on; the last one passes on a single plan."""

    generations: int = 50
    children: int = 16
    survivors: tuple[int, ...] = (4, 1)
    most_moves: int = 3


def evolve(
    ladders: Ladders,
    start: Genome,
    limit: int,
    score: Score,
    settings: Settings,
    seed: int,
    on_generation: Callable[[int, float], None] = lambda generation, best: None,
) -> Genome:
    """The best plan found within `limit` bytes."""
    source = random.Random(seed)
    best, last = start, len(settings.survivors) - 1
    if size_of(ladders, best) > limit:
        raise ValueError("the search has to start within the budget")
    for generation in range(settings.generations):
        children = [
            _child(ladders, best, limit, settings.most_moves, source)
            for _ in range(settings.children)
        ]
        pool = [child for child in children if child != best]
        for stage, survivors in enumerate(settings.survivors):
            candidates = [*pool, best] if stage == last else pool
            pool = sorted(candidates, key=lambda genome: score(genome, stage))[:survivors]
        best = pool[0]
        on_generation(generation + 1, score(best, last))
    return best


def size_of(ladders: Ladders, genome: Genome) -> int:
    return sum(ladders[site][place].stored for site, place in genome.items())


def _child(
    ladders: Ladders, parent: Genome, limit: int, most: int, source: random.Random
) -> Genome:
    """Some matrices one format up, then random ones down until the plan fits again."""
    child = dict(parent)
    moves = min(source.randint(1, most) for _ in range(2))
    up = [site for site in child if child[site] + 1 < len(ladders[site])]
    raised = source.sample(up, min(moves, len(up)))
    for site in raised:
        child[site] += 1
    while size_of(ladders, child) > limit:
        down = [site for site in child if child[site] > 0 and site not in raised]
        if not down:
            return dict(parent)
        child[source.choice(down)] -= 1
    return child


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("budget", type=parse_bytes)
    parser.add_argument("--format", nargs="+", default=["int2@64", "nf3@64", "nf4@64", "int8@64"])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--rounding", choices=get_args(Rounding), default="nearest")
    parser.add_argument("--generations", type=int, default=Settings.generations)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args()
    spec, execution = single_run(args.model, "wikitext2", "bf16", 0, {"execution.threads": 2})
    open_machine(execution, "fp32")
    prepared = prepare_run(spec)
    planned = plan_sites(
        Plan("bytes", rank=args.rank, alpha="2r"), prepared.checkpoint, prepared.kind, 0
    )
    ladders = ladders_of(planned.sites, args.format, args.rank)
    limit = args.budget - planned.count.other
    began = time.perf_counter()

    def show(generation: int, best: float) -> None:
        seconds = time.perf_counter() - began
        print(f"generation {generation}: KL {best:.4f}, {seconds:.0f} s", flush=True)

    with OutputChanges(prepared, Calibration(args.tokens, None)) as changes:

        def score(genome: Genome, stage: int) -> float:
            chosen = {site: ladders[site][place].format for site, place in genome.items()}
            return changes.of(chosen, EVERY[stage], args.rounding).kl

        settings = Settings(args.generations)
        best = evolve(ladders, uniform(ladders, limit), limit, score, settings, args.seed, show)
    options = tuple(ladders[site][place] for site, place in best.items())
    stored = size_of(ladders, best) + planned.count.other
    about = f"evolved: {stored:,} of {args.budget:,} bytes; {' '.join(sys.argv[1:])}"
    args.to.write_text(to_toml(to_plan(Solution(options, 0.0), "evolved", args.rounding), about))
    print(f"{args.to}: {stored:,} bytes")


def ladders_of(sites: Sequence[Site], formats: Sequence[str], rank: int) -> Ladders:
    """Every format of every site with its bytes and those of its adapter, smallest first."""

    def option(site: Site, text: str) -> Option:
        own = rank if site.depth is not None else 0
        size = matrix_bytes(parse(text), site.shape).total + 4 * adapter_numbers(site, own)
        return Option(site.name, text, own, 0.0, size)

    return {
        site.name: sorted((option(site, text) for text in formats), key=lambda o: o.stored)
        for site in sites
    }


def uniform(ladders: Ladders, limit: int) -> Genome:
    """The largest format that fits everywhere."""
    most = min(len(steps) for steps in ladders.values())
    for place in reversed(range(most)):
        genome = dict.fromkeys(ladders, place)
        if size_of(ladders, genome) <= limit:
            return genome
    raise SystemExit("no uniform plan fits the budget: add a smaller format")


if __name__ == "__main__":
    main()
