"""What the experiments' command lines have in common."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lowbit.core.errors import LowbitError
from original_plan.fine_tune import ALL_BITS, TASK, Asked, fine_tune


def parser(doc: str | None) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=(doc or "").strip())
    found.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    return found


def arguments(doc: str | None, rank: bool) -> tuple[Asked, Path]:
    """What is to be trained, and where results lie."""
    words = parser(doc)
    words.add_argument("--bits", type=int, choices=ALL_BITS, required=True)
    words.add_argument("--seed", type=int, default=0)
    if rank:
        words.add_argument("--rank", type=int, default=16)
    words.add_argument("--model", default="", help="a folder, a hub id or assets:NAME")
    words.add_argument("--task", default=TASK)
    words.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    said = words.parse_args()
    size = said.rank if rank else 16
    asked = Asked(said.bits, size, said.seed, said.model, said.task, tuple(said.set))
    return asked, said.results


def carry_out(asked: Asked, results: Path, stem: str) -> None:
    """Train and say where the metrics lie; an error is a line, not a traceback."""
    try:
        print(f"metrics  {fine_tune(asked, results, stem)}")
    except LowbitError as error:
        sys.exit(f"error: {error}")
