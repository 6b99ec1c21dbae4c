"""A tiny study, and the command line as a user types it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from lowbit.cli import main
from lowbit.runs.record import RECORD


@dataclass(frozen=True)
class CommandResult:
    """A finished command: its exit code and its output."""

    code: int
    out: str
    err: str

    @property
    def all(self) -> str:
        return self.out + self.err

    @property
    def error_line(self) -> str:
        """The one line of an error."""
        (line,) = self.err.strip().splitlines()
        assert line.startswith("error: "), line
        return line.removeprefix("error: ")


def lowbit(*arguments: object) -> CommandResult:
    """Run `lowbit ARGUMENTS` in this process; runs still start processes of their own."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["lowbit", *map(str, arguments)]
    with mock.patch.object(sys, "argv", argv), redirect_stdout(out), redirect_stderr(err):
        try:
            main.main()
        except SystemExit as end:
            code = int(end.code or 0)
    result = CommandResult(code, out.getvalue(), err.getvalue())
    assert "Traceback" not in result.all, result.all
    return result


def begin(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """`lowbit ARGUMENTS` in a process (and a process group) of its own."""
    pipe = subprocess.PIPE
    options["env"] = {**os.environ, **options.get("env", {})}
    command = [sys.executable, "-m", "lowbit.cli.main", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=pipe, stderr=pipe, text=True, start_new_session=True, **options
    )


def ended(process: subprocess.Popen[str], seconds: float = 120) -> CommandResult:
    out, err = process.communicate(timeout=seconds)
    assert "Traceback" not in out + err, out + err
    return CommandResult(process.returncode, out, err)


HEAD = """
title = "Tiny"
hypothesis = "Fewer bits cost more."
plans = ["bf16", "int4@32"]
seeds = [0, 1]
"""
BODY = """
[train]
epochs = 1
batch = 8
lr = 1e-3
compute = "fp32"
log_every = 2

[execution]
device = "cpu"
threads = 1
"""


# A Python program that begins with this cannot import torch. A None in sys.modules would not do:
# other libraries look there for imported modules.
WITHOUT_TORCH = """
import sys
class Absent:
    def find_spec(name, path=None, target=None):
        if name in ("torch", "transformers", "safetensors.torch"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent)
"""


def write_study(folder: Path, model: Path, data: Path, head: str = HEAD, more: str = "") -> Path:
    """A study of two plans and two seeds that runs in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    task = f"task = {{ name = {json.dumps(str(data))}, window = 32 }}"
    workload = f"[[workload]]\nmodel = {json.dumps(str(model))}\n{task}\n"
    (folder / "study.toml").write_text(head + BODY + workload + more, encoding="utf-8")
    return folder


def record_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RECORD).read_text(encoding="utf-8"))


def stamps(folder: Path) -> dict[str, int]:
    """When each file below a folder was last written; locks say nothing."""
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and ".locks" not in path.parts
    }
