"""The scripts' command-line options."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lowbit import LowbitError
from original_plan.fine_tune import ALL_BITS, TASK, FineTuneRequest, fine_tune


def parser(doc: str | None) -> argparse.ArgumentParser:
    """A parser with the option that every script has."""
    options = argparse.ArgumentParser(
        description=(doc or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--results", type=Path, default=Path("results"), help="folder of results")
    return options


def parse_request(doc: str | None, with_rank: bool) -> tuple[FineTuneRequest, Path]:
    """The fine-tune that the command line requests, and the folder of results."""
    options = parser(doc)
    options.add_argument("--bits", type=int, choices=ALL_BITS, required=True)
    options.add_argument("--seed", type=int, default=0)
    if with_rank:
        options.add_argument("--rank", type=int, default=16)
    options.add_argument("--model", default="", help="a folder, a hub id or assets:NAME")
    options.add_argument("--task", default=TASK)
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    chosen = options.parse_args()
    rank = chosen.rank if with_rank else 16
    request = FineTuneRequest(
        chosen.bits, rank, chosen.seed, chosen.model, chosen.task, tuple(chosen.set)
    )
    return request, chosen.results


def fine_tune_or_exit(request: FineTuneRequest, results: Path, stem: str) -> None:
    """Train and print the metrics file's path; print an error in one line, without traceback."""
    try:
        print(f"metrics  {fine_tune(request, results, stem)}")
    except LowbitError as error:
        sys.exit(f"error: {error}")
