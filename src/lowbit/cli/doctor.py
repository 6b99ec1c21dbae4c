"""`lowbit doctor`."""

from __future__ import annotations

from typing import Any

from lowbit.cli.options import guarded

TOOLS = {
    "bitsandbytes": "oracle of the nf4 parity tests, peer in the benchmark",
    "peft": "loads our adapters elsewhere; oracle of parity tests",
    "datasets": "data from the hub (pip install 'lowbit[hub]')",
}


@guarded
def doctor() -> None:
    """Show what this machine has: devices, the real speed of bf16, memory, optional tools.

    Example: lowbit doctor
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import psutil

    from lowbit.cli.console import say
    from lowbit.runs.workers.process import call

    machine = call(speeds)
    say(f"python {platform.python_version()}, torch {machine['torch']}, {platform.platform()}")
    say(f"{machine['cpu']}, {psutil.cpu_count()} cores, {machine['threads']} threads")
    memory = psutil.virtual_memory()
    say(f"memory {memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB free")
    for name, speed in machine["speeds"].items():
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
    """What torch sees and how fast it multiplies; runs in a process of its own."""
    import torch

    from lowbit.runs import device

    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": device.cpu_name(),
        "speeds": {name: device.matmul_speeds(torch.device(name)) for name in device.available()},
    }
