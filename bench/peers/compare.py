"""Compare lowbit with PEFT + bitsandbytes and PEFT + torchao.

    make bench   or   python bench/peers/compare.py [--only lm] [--quick]

Five workloads. Every side runs in its own process and sides alternate; medians and spreads are over
the rounds. The limit (`bench/peers/matmul_floor.py`) is measured again in every round, because a
shared machine does not always run at the same speed. Steps are timed, which the public API does
not expose (`one_side.py`).

    lm        one step of the assets' language model, 4 x 256 tokens of WikiText-2
    smollm    one step of SmolLM2-135M (LOWBIT_SMOLLM2), likewise
    lm-wide   the same of ten random Llama layers of width 576, vocabulary 49,152
    sst2      MiniLM over the first 8,000 sentences, batch 8: half an epoch, twice
    matrix    six runs (two plans x three seeds) over 1,000 sentences, start to end

All of it takes the better part of an hour on two cores. --quick does a few steps of each, to see
that everything runs; --only takes names of workloads. The machine must be idle.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from request import EXTRAS, SIDES

HERE = Path(__file__).parent
RUNS = 6
"""Of the matrix: two plans x three seeds."""
Found = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Work:
    """A workload: what is measured of it, and how often."""

    name: str
    work: str
    model: str
    steps: int
    rounds: int
    sides: tuple[str, ...]
    sentences: int = 8000
    matrix: bool = False


def smollm2() -> str:
    """The real model's folder; tests/real says how to fetch it."""
    return str(Path(os.environ.get("LOWBIT_SMOLLM2", "")) / "smollm2-135m")


ALL = ("ours", "ours-decoded", "ours-checkpointing", "ours-least", "a", "b", "c")
REAL = ("ours", "ours-decoded", "ours-int8", "ours-checkpointing", "a", "b")
WORKS = (
    Work("lm", "lm", "assets:lm-14m", 12, 3, ALL),
    Work("smollm", "lm", smollm2(), 8, 3, REAL),
    Work("lm-wide", "lm", "random:10x576", 7, 2, ALL),
    Work("sst2", "sst2", "assets:minilm", 500, 2, ("ours-decoded", "ours", "a", "b", "c")),
    Work("matrix", "sst2", "assets:minilm", 125, 1, ("ours-decoded", "ours", "a", "b", "c"),
         1000, matrix=True),
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=[w.name for w in WORKS])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, help="instead of each workload's own number")
    parser.add_argument("--json", type=Path, help="where to keep every figure")
    parser.add_argument("--steps", type=int, help="likewise")
    parser.add_argument("--sentences", type=int, help="likewise")
    options = parser.parse_args()
    print(machine())
    kept: dict[str, Any] = {"machine": machine()}
    for work in WORKS:
        if options.only and work.name not in options.only:
            continue
        rounds = options.rounds or (1 if options.quick else work.rounds)
        steps = options.steps or (6 if options.quick else work.steps)
        sentences = options.sentences or (48 if options.quick else work.sentences)
        work = replace(work, steps=steps, sentences=sentences)
        found, limits = measured(work, rounds)
        print("\n" + "\n".join(table(work, found, limits)), flush=True)
        kept[work.name] = {"sides": found, "limits": limits}
        if options.json:
            options.json.write_text(json.dumps(kept, indent=1) + "\n")


def machine() -> str:
    import torch

    from lowbit.runs.device import cpu_name

    return (
        f"{cpu_name()}, {os.cpu_count()} cores, {platform.system()}, "
        f"{torch.get_num_threads()} threads, torch {torch.__version__}"
    )


def measured(work: Work, rounds: int) -> tuple[Found, list[dict[str, float]]]:
    """(figures of every side, limits), round after round."""
    found: Found = {side: [] for side in work.sides}
    limits: list[dict[str, float]] = []
    for turn in range(rounds):
        for side in work.sides:
            print(f"{work.name} {turn + 1}/{rounds}: {SIDES[side]}", file=sys.stderr, flush=True)
            words = [str(HERE / "one_side.py"), side, work.work, "--model", work.model]
            words += ["--steps", str(work.steps), "--sentences", str(work.sentences)]
            words += ["--seed", str(turn), *(["--matrix"] if work.matrix else [])]
            figures = process(words, side)
            if figures is not None:
                found[side].append(figures)
        tokens = "1024" if work.work == "lm" else "107"
        figures = process([str(HERE / "matmul_floor.py"), work.model, tokens, work.work], "limit")
        limits += [] if figures is None else [figures]
    return found, limits


def process(words: list[str], side: str) -> dict[str, float] | None:
    """Its line of JSON; None, with the reason said, where it did not run."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    if done.returncode == 0:
        result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return result
    said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
    if "No module named" in done.stderr and side in EXTRAS:
        said = f"{EXTRAS[side]} is not installed: pip install 'lowbit[bench]'"
    print(f"  did not run: {said}", file=sys.stderr, flush=True)
    return None


def table(work: Work, found: Found, limits: list[dict[str, float]]) -> list[str]:
    """The workload's table as text."""
    lines = [
        f"{work.name}: {work.model}, medians of {max(map(len, found.values()))} rounds "
        f"of {work.steps} steps" + (f", {work.sentences} sentences" if work.work == "sst2" else "")
    ]
    if work.matrix:
        lines.append(f"{'':50} {'seconds':>8} {'x (a)':>6} {'limit':>6} {'accuracy':>9}")
    else:
        lines.append(f"{'':50} {'tokens/s':>9} {'spread':>13} {'x (a)':>6} {'x (b)':>6} "
                     f"{'limit':>6} {'peak MB':>8} {'after':>7}")  # fmt: skip
    for side, rounds in found.items():
        if not rounds:
            lines.append(f"{SIDES[side]:50} did not run")
        elif work.matrix:
            seconds = _median(rounds, "seconds")
            times = _ratio(_median(found["a"], "seconds"), seconds)
            # Of six runs' training steps; starting, encoding and scoring are not in it.
            floor = RUNS * work.steps * _best(limits) if limits else 0.0
            share = f"{100 * floor / seconds:.0f} %" if floor else ""
            quality = rounds[0]["quality"]
            lines.append(f"{SIDES[side]:50} {seconds:8.0f} {times:>6} {share:>6} {quality:9.4f}")
        else:
            lines.append(_line(side, found, limits))
    if limits:
        said = ", ".join(f"{t} {1e3 * median(x[t] for x in limits):,.0f} ms" for t in limits[0])
        lines.append(f"the step's own matrix products alone: {said}")
    return lines


def _line(side: str, found: Found, limits: list[dict[str, float]]) -> str:
    rounds = found[side]
    speeds = sorted(r["tokens_per_s"] for r in rounds)
    speed = median(speeds)
    best = _best(limits) if limits else None
    # The limit is of a step with the mean number of tokens, so it is held against the mean step.
    share = "" if best is None else f"{100 * best / _median(rounds, 'mean_step_s'):.0f} %"
    a, b = _median(found["a"], "tokens_per_s"), _median(found["b"], "tokens_per_s")
    return (
        f"{SIDES[side]:50} {speed:9,.0f} {speeds[0]:6,.0f}-{speeds[-1]:6,.0f} "
        f"{_ratio(speed, a):>6} {_ratio(speed, b):>6} {share:>6} "
        f"{_median(rounds, 'peak') / 1e6:8,.0f} {_median(rounds, 'quality'):7.3f}"
    )


def _best(limits: list[dict[str, float]]) -> float:
    """Seconds of a step's products in the fastest type."""
    return median(min(x.values()) for x in limits)


def _median(rounds: list[dict[str, float]], key: str) -> float:
    return median(r[key] for r in rounds) if rounds else 0.0


def _ratio(value: float, other: float) -> str:
    return f"{value / other:.2f}" if value and other else "-"


if __name__ == "__main__":
    main()
