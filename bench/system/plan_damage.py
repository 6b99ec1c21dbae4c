"""What whole plans do to an untrained language model, by each rounding.

    python bench/system/plan_damage.py MODEL PLAN ... [--rounding NAME ...] [--lookup-share SHARE]

PLAN: a plan's file, its name or a format; `head=FORMAT` stores only the embedding or head.
For each plan and rounding: KL and change of the loss in nats, on 4,096 tokens of the selection part
of WikiText-2 (`LOWBIT_ASSETS`), twice their standard errors, seconds, and the peak memory above an
interpreter that has opened the model. Ranks do not matter. `--lookup-share` replaces
`LOOKUP_SHARE` of `runs/rounding/head.py`. Results are cached, each share by itself.
"""

from __future__ import annotations

import argparse
import time
from typing import get_args

import torch

from lowbit.core.spec import Plan, Rounding
from lowbit.models.family import find_sites
from lowbit.models.skeleton import skeleton
from lowbit.plan.file import load_plan
from lowbit.plan.rules import choose
from lowbit.quant.formats import is_cast, spell
from lowbit.runs.device import PeakMemory, open_machine
from lowbit.runs.prepare import prepare_run
from lowbit.runs.request import single_run
from lowbit.runs.rounding import head, rounded_sites
from lowbit.sensitivity import measure
from lowbit.sensitivity.table import Calibration

TOKENS = 4096


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("plans", nargs="+")
    parser.add_argument("--rounding", nargs="+", default=get_args(Rounding))
    parser.add_argument("--lookup-share", type=float)
    args = parser.parse_args()
    if args.lookup_share is not None:
        _replace_share(args.lookup_share)
    spec, execution = single_run(args.model, "wikitext2", "bf16", 0, {"execution.threads": 2})
    open_machine(execution, "fp32")
    prepared = prepare_run(spec)
    sites = find_sites(skeleton(prepared.checkpoint, "language", 0), prepared.checkpoint.matrices)
    memory = PeakMemory(torch.device("cpu"))
    memory.start()
    with measure.OutputChanges(prepared, Calibration(TOKENS, None, ("selection",))) as changes:
        for text in args.plans:
            choices = choose(_plan(text), sites, prepared.checkpoint.stored)
            quants = {site.name: choices[site.name].quant for site in sites}
            formats = {name: spell(quant) for name, quant in quants.items() if not is_cast(quant)}
            for rounding in args.rounding:
                began = time.perf_counter()
                change = changes.of(formats, 1, rounding)
                print(
                    f"{text}  {rounding:<12} KL {change.kl:.4f} ± {2 * change.kl_spread:.4f}  "
                    f"loss {change.loss:+.4f} ± {2 * change.loss_spread:.4f}  "
                    f"{time.perf_counter() - began:.0f} s  "
                    f"{(memory.peak() - memory.idle) / 1e6:.0f} MB",
                    flush=True,
                )


def _plan(text: str) -> Plan:
    if text.startswith("head="):
        return Plan(text, "bf16", embedding=text.removeprefix("head="))
    return load_plan(text)


def _replace_share(share: float) -> None:
    head.LOOKUP_SHARE = share
    # Neither its matrices nor its results may be read as those of the default.
    rounded_sites.VERSION = measure.ROUNDING_VERSION = -1 - round(share * 1000)


if __name__ == "__main__":
    main()
