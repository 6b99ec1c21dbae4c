"""Seconds that a campaign's runs spent on training, evaluation and overhead.

    python bench/system/campaign.py LEDGER

Median, least and most over the completed runs of each role. A ledger is no part of the public API.
"""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import median

from lowbit.research.campaign.ledger import Ledger
from lowbit.research.campaign.run_result import RunResult


def main(path: Path) -> None:
    by_role: dict[str, list[RunResult]] = {}
    for event in Ledger(path).events:
        if event.kind == "ran":
            ran = RunResult.from_json(event.body["ran"])
            if not ran.reason:
                by_role.setdefault(event.body["role"], []).append(ran)
    for role, runs in by_role.items():
        for what, values in (
            ("training", [ran.trained for ran in runs]),
            ("beside it", [ran.overhead for ran in runs]),
            ("evaluating", [ran.evaluated for ran in runs]),
        ):
            spread = f"{min(values):.1f} to {max(values):.1f}"
            print(f"{role:<8} {what:<11} {median(values):6.1f} s  ({spread}, {len(runs)} runs)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
