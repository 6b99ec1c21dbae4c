"""Run one side of the comparison and print its figures as a line of JSON.

    python bench/peers/one_side.py SIDE WORK [--model M] [--steps N] [--seed S]
        [--matrix | --profile]

Every side trains the same model on the same examples with rank 8 on every block matrix, nf4 in
groups of 64 (torchao: int8), embedding and head in 16 bit or wider, AdamW, clipping at 1; it is
timed step by step, the first ones left out. Peak memory is above the same process after its
imports. The peers are driven by transformers' own Trainer.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from dataclasses import replace
from types import ModuleType

import lowbit_side
import transformers_side
from request import SIDES, WORKS, Job


def main() -> None:
    warnings.filterwarnings("ignore")
    job, matrix = _job()
    if matrix:
        print(json.dumps(run_matrix(job)))
    else:
        print(json.dumps(_side(job).run(job)))


def run_matrix(job: Job) -> dict[str, float]:
    """Two plans (nf4, and with doubly quantised scales) x three seeds, scored, start to end.

    Peers go one after another in one process, which is how their scripts are written and what
    spares them loading the libraries again; torchao has one plan, run six times.
    """
    began = time.perf_counter()
    if job.side.startswith("ours"):
        quality = lowbit_side.run_matrix(job)
    else:
        jobs = [replace(job, dq=dq, seed=seed) for dq in (False, True) for seed in range(3)]
        quality = [transformers_side.run(each)["quality"] for each in jobs]
    return {"seconds": time.perf_counter() - began, "quality": sum(quality) / len(quality)}


def _side(job: Job) -> ModuleType:
    return lowbit_side if job.side.startswith("ours") else transformers_side


def _job() -> tuple[Job, bool]:
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=SIDES)
    parser.add_argument("work", choices=WORKS)
    parser.add_argument("--model", default="assets:lm-14m")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--sentences", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", action="store_true", help="where our own time goes")
    parser.add_argument("--matrix", action="store_true", help="six runs, start to end")
    options = vars(parser.parse_args())
    matrix = options.pop("matrix")
    return Job(**options), matrix


if __name__ == "__main__":
    main()
