"""Around a study: a run's model as an ordinary folder, scores before training, this machine.

No torch here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from lowbit.cli.console import out, say
from lowbit.core.errors import UserError
from lowbit.core.execution import Execution
from lowbit.core.files import write_atomic
from lowbit.core.spec import Plan, RunSpec
from lowbit.core.toml import check
from lowbit.plan.file import to_toml
from lowbit.runs.comparison import Comparison
from lowbit.runs.freeze import frozen
from lowbit.runs.record import Record
from lowbit.runs.store import find_run
from lowbit.runs.workers.process import call


def export(folder: Path, to: Path, merge: bool) -> None:
    finished = find_run(folder)
    record = None if finished is None else finished.record
    if record is None or record.status != "done":
        raise UserError(f"{folder} holds no finished run")
    if to.exists() and not to.is_dir():
        raise UserError(f"{to} is no folder")
    if to.exists() and any(to.iterdir()):
        raise UserError(f"{to} is not empty")
    losses = call(export_run, folder, to, merge, record)
    what = "base and adapter merged, on the decoded base" if merge else "the decoded base"
    say(f"wrote {to}: {what}")
    if losses:
        say(f"loss on calibration text: {losses['merged']:.4f} as written,")
        say(f"{losses['stored again']:.4f} were it stored in the plan's formats again")


def export_run(folder: Path, to: Path, merge: bool, record: Record) -> dict[str, float]:
    from lowbit.runs.finished_run import export_plain

    return export_plain(folder, to, merge, record)


def freeze(folder: Path, to: Path) -> None:
    """The ranks that a run found, as a plan."""
    finished = find_run(folder)
    record = None if finished is None else finished.record
    if record is None or record.status != "done":
        raise UserError(f"{folder} holds no finished run")
    if to.suffix != ".toml":
        raise UserError(f"{to}: a plan's file ends in .toml")
    if to.exists():
        raise UserError(f"{to} is there already")
    plan = frozen(check(Plan, record.spec["plan"], None, ("plan",)), record)
    about = f"# The ranks of {folder.name}, which its schedule found; nothing is scheduled here.\n"
    write_atomic(to, (about + to_toml(plan)).encode())
    say(f"wrote {to}: {plan.rank} directions a matrix, and {len(plan.rule)} rules for the rest")


def evaluate(spec: RunSpec, execution: Execution, part: str) -> None:
    """What a plan's storage costs the model as it was found."""
    comparison = call(compare_run, spec, execution, part)
    table = Table(box=None, padding=(0, 1))
    language = comparison.plan.metric == "loss"
    for name in ("stored as", "bytes", *(("loss", "perplexity") if language else ("accuracy",))):
        table.add_column(name, justify="left" if name == "stored as" else "right")
    plans = {spec.plan.name: comparison.plan, "16 bit": comparison.full_precision}
    for name, one in plans.items():
        value = (
            [f"{one.value:.4f}", f"{math.exp(one.value):.2f}"]
            if language
            else [f"{100 * one.value:.2f} %"]
        )
        table.add_row(Text(name), f"{one.stored:,}", *value)
    out().print(table)
    gap, scale, unit = comparison.gap, 1 if language else 100, "nats" if language else "points"
    if gap.low is None:
        say(f"gap {scale * gap.estimate:+.4f} {unit}; a single document has no interval")
        return
    say(
        f"gap {scale * gap.estimate:+.4f} {unit}, 95 % between {scale * gap.low:+.4f} and "
        f"{scale * gap.high:+.4f}, paired over {gap.documents} documents"
    )


def compare_run(spec: RunSpec, execution: Execution, part: str) -> Comparison:
    from lowbit.runs.cached_scores import compare_with_16_bits
    from lowbit.runs.device import open_machine
    from lowbit.runs.prepare import prepare_run

    machine = open_machine(execution, spec.train.compute)
    return compare_with_16_bits(prepare_run(spec), machine, part)


TOOLS = {
    "bitsandbytes": "oracle of the nf4 parity tests, peer in the benchmark",
    "peft": "loads our adapters elsewhere; oracle of parity tests",
    "datasets": "data from the hub (pip install 'lowbit[hub]')",
}


def doctor() -> None:
    """Devices, speeds, memory, tools."""
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil

    found = call(speeds)
    say(f"python {platform.python_version()}, torch {found['torch']}, {platform.platform()}")
    say(f"{found['cpu']}, {psutil.cpu_count()} cores, {found['threads']} threads")
    memory = psutil.virtual_memory()
    say(f"memory {memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free")
    for name, speed in found["speeds"].items():
        figures = ", ".join(f"{of} {value:,.0f} GFLOP/s" for of, value in speed.items())
        better = max(speed, key=lambda of: speed[of])
        say(f'{name}: {figures}: compute = "auto" means {better}')
    for tool, purpose in TOOLS.items():
        try:
            state = version(tool)
        except PackageNotFoundError:
            state = "not installed"
        say(f"{tool:12} {state:13} {purpose}")


def speeds() -> dict[str, Any]:
    """In a process: what torch sees and how fast it multiplies."""
    import torch

    from lowbit.runs import device

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": device.cpu_name(),
        "speeds": {name: device.speed(torch.device(name)) for name in device.available()},
    }
