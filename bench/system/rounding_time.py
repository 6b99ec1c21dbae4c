"""Time and peak memory of rounding a whole model with calibration text, from an empty cache.

    python bench/system/rounding_time.py MODEL FORMAT [--rounding NAME ...]

All block matrices and the embedding are rounded, on WikiText-2 (`LOWBIT_ASSETS`) with 2 threads.
Memory is above an interpreter that has opened the model's header. Nothing is scored.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

NAMES = ("calibrated", "two-sided")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("format")
    parser.add_argument("--rounding", nargs="+", choices=NAMES, default=NAMES)
    args = parser.parse_args()
    for rounding in args.rounding:
        with (
            tempfile.TemporaryDirectory() as cache,
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool,
        ):
            os.environ["LOWBIT_CACHE"] = cache
            pool.submit(rounded, args.model, args.format, rounding).result()


def rounded(model: str, quant: str, rounding: str) -> None:
    """Round the model, and print what it took."""
    import torch

    from lowbit.core.spec import Plan
    from lowbit.models.family import find_sites
    from lowbit.models.skeleton import skeleton
    from lowbit.plan.rules import choose
    from lowbit.runs.device import PeakMemory, open_machine
    from lowbit.runs.prepare import prepare_run
    from lowbit.runs.request import single_run
    from lowbit.runs.rounding.round_model import round_sites

    plan = Plan(quant, quant, embedding=quant, rounding=rounding)  # type: ignore[arg-type]
    spec, execution = single_run(model, "wikitext2", "bf16", 0, {"execution.threads": 2})
    open_machine(execution, "fp32")
    prepared = prepare_run(replace(spec, plan=plan))
    sites = find_sites(skeleton(prepared.checkpoint, "language", 0), prepared.checkpoint.matrices)
    choices = choose(plan, sites, prepared.checkpoint.stored)
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    steps: dict[tuple[str, int], float] = {}
    began = time.perf_counter()
    round_sites(
        prepared, sites, choices,
        lambda phase, done, _: steps.setdefault((phase, done), time.perf_counter() - began),
    )  # fmt: skip
    seconds, gradients = time.perf_counter() - began, steps["rounding", 0]
    head = steps["rounding", 1] - gradients
    print(
        f"{rounding:<11} {seconds:.0f} s (gradients {gradients:.0f}, head and first block "
        f"{head:.0f}), {(memory.peak() - memory.idle) / 1e6:.0f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
