"""Seconds to solve a plan exactly, for SITES sites of twenty choices under a byte budget.

    python bench/system/planner.py [SITES]

224 sites are a 7 B model's. Five random instances; the aim is 3 s for each. The solver alone is
timed, on made-up costs, which `lowbit.plan_for_budget` does not take.
"""

from __future__ import annotations

import random
import sys
import time
from statistics import median

from lowbit.planner.knapsack import Option
from lowbit.planner.search import solve

ROUNDS = 5
AIM = 3.0


def instance(sites: int, source: random.Random) -> dict[str, list[Option]]:
    """Every site in five formats and four ranks; some matter a hundred times more than others."""
    options = {}
    for i in range(sites):
        weight = 10 ** source.uniform(-1, 1)
        options[f"site {i}"] = [
            Option(f"site {i}", f"int{b}@64", r, cost(weight, b, r), 1000 * b + 60 * r, 400 * r)
            for b in (2, 3, 4, 6, 8)
            for r in (2, 4, 8, 16)
        ]
    return options


def cost(weight: float, bits: int, rank: int) -> float:
    return weight * 4.0**-bits / (1 + 0.1 * rank)


def main() -> None:
    sites = int(sys.argv[1]) if len(sys.argv) > 1 else 224
    seconds = []
    for seed in range(ROUNDS):
        choices = instance(sites, random.Random(seed))
        began = time.perf_counter()
        solution = solve(choices, 4_300 * sites)
        seconds.append(time.perf_counter() - began)
        print(f"{seconds[-1]:6.2f} s   gap {solution.gap:.1e}")
    print(f"{median(seconds):6.2f} s   median of {ROUNDS}, at most {max(seconds):.2f}; aim {AIM:g}")


if __name__ == "__main__":
    main()
