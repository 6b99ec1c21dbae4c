"""The set-up installs torch first, and the CPU build where there is no NVIDIA driver."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("make") is None, reason="needs make"
)

# Stands for python3: makes a .venv whose python only notes what it was asked to install.
STUB = """#!/bin/sh
echo "$@" >> "$NOTES"
case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac
case "$*" in *"$REFUSED"*) exit 1;; esac
"""


def installed(tmp_path: Path, driver: bool, refused: str = "nothing refused") -> list[str]:
    """What the set-up asks pip for, in order."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ["python-stub", *(["nvidia-smi"] if driver else [])]:
        (tools / name).write_text(STUB)
        (tools / name).chmod(0o755)
    for name in ("sh", "mkdir", "cp", "touch", "uname", "echo"):
        (tools / name).symlink_to(str(shutil.which(name)))
    notes = tmp_path / "notes"
    settings = {"PATH": str(tools), "NOTES": str(notes), "REFUSED": refused}
    subprocess.run(
        [str(shutil.which("make")), f"PYTHON={tools}/python-stub", ".venv/ready"],
        cwd=tmp_path,
        env={**settings, "HOME": os.environ.get("HOME", "/")},
        check=True,
        capture_output=True,
    )
    return [line for line in notes.read_text().splitlines() if " install " in f"{line} "]


def test_without_a_driver_the_cpu_build_goes_in_before_anything_else(tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("on macOS plain torch has no CUDA")
    asked = installed(tmp_path, driver=False)
    assert "torch==2.13.0+cpu" in asked[0]
    assert "-e ." in asked[-1]
    assert not any(line.endswith("torch==2.13.0") for line in asked)


def test_where_the_index_has_no_cpu_build_pytorchs_own_is_asked(tmp_path: Path) -> None:
    if sys.platform == "darwin":
        pytest.skip("on macOS plain torch has no CUDA")
    asked = installed(tmp_path, driver=False, refused="+cpu")
    assert "download.pytorch.org/whl/cpu" in asked[1]


def test_with_a_driver_torch_comes_with_cuda(tmp_path: Path) -> None:
    asked = installed(tmp_path, driver=True)
    assert asked[0].endswith("torch==2.13.0")
