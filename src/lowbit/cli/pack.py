"""`lowbit pack`, `unpack` and `results`: where a study's records lie, and as a table. No torch."""

from __future__ import annotations

import sys
from pathlib import Path

from lowbit.cli.console import say
from lowbit.core.errors import RunError
from lowbit.core.progress import phases
from lowbit.runs import pack as packing
from lowbit.study.results import read_results
from lowbit.study.results_table import write_results
from lowbit.study.study import Study


def pack(study: Study, replace: bool) -> None:
    """Run folders into a few diffable files."""
    if not study.results.is_dir():
        raise RunError(f"{study.results} holds no finished run: lowbit run {study.folder}")
    packed = packing.pack(study.results, replace, phases(sys.stderr.isatty()))
    if not packed.runs:
        raise RunError(f"{study.results} holds no finished run: lowbit run {study.folder}")
    say(f"{packed.runs} runs in {packed.files} files, {packed.bytes / 1e6:.1f} MB")
    if packed.left:
        say(f"{len(packed.left)} folders have no whole record and stay: {', '.join(packed.left)}")
    say(f"packed   {study.results}; lowbit unpack {study.folder} restores the folders")


def unpack(study: Study) -> None:
    """The run folders again, bit for bit."""
    unpacked = packing.unpack(study.results, phases(sys.stderr.isatty()))
    if not unpacked.runs:
        raise RunError(f"{study.results} holds no packed runs")
    say(f"{unpacked.runs} run folders, {unpacked.files} files, {unpacked.bytes / 1e6:.1f} MB")
    say(f"unpacked {study.results}")


def results(study: Study, to: Path) -> None:
    """Every run as a row of a CSV or Parquet file."""
    say(f"{write_results(read_results(study), to)} runs")
    say(f"written  {to}")
